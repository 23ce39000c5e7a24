"""Load gzipped events and query rows, ours and DuckDB's own way, each in a process of its own.

python peer_load.py make FOLDER KIND EVENTS     KIND is narrow, names or wide
python peer_load.py ours|duckdb FOLDER
python peer_load.py rows FILE COUNT
python peer_load.py query|copy FILE
"""

import gzip
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from datetime import date, timedelta
from pathlib import Path
from random import Random

FIRST = date(2026, 1, 1)
MIDNIGHT = 1_767_225_600_000
DAYS = 4
BODIES = 2_000  # different sets of properties, which the events take in turns
WIDTHS = {"narrow": 9, "names": 12, "wide": 200}
NAMES = 10_000
SHAPED = """
    SELECT
        event AS event_name,
        epoch_ms(CAST(properties->>'/time' AS BIGINT)) AS event_time,
        properties->>'/distinct_id' AS distinct_id,
        properties->>'/$insert_id' AS insert_id,
        json_merge_patch(
            properties, '{"time":null,"distinct_id":null,"$insert_id":null}'
        ) AS properties
    FROM read_ndjson(?, columns = {event: 'VARCHAR', properties: 'JSON'})
"""


def make(folder: Path, kind: str, events: int) -> None:
    """Write a gzipped NDJSON file a day."""
    random = Random(1)
    values = (
        lambda: random.randrange(10**9),
        lambda: f"value {random.randrange(10**6)}",
        lambda: round(random.random() * 100, 4),
        lambda: random.random() < 0.5,
    )
    bodies = []
    for _ in range(BODIES):
        names = range(WIDTHS[kind])
        if kind == "names":
            names = random.sample(range(NAMES), WIDTHS[kind])
        bodies.append(json.dumps({f"property_{n}": values[n % 4]() for n in names})[1:])
    for day in range(DAYS):
        start = MIDNIGHT + day * 86_400_000
        with gzip.open(folder / f"{FIRST + timedelta(days=day)}.gz", "wb", 1) as file:
            for n in range(events // DAYS):
                known = f'"time": {start + n * 20}, "distinct_id": "u{n % 9999}"'
                line = (
                    f'{{"event": "E{n % 9}", "properties": {{{known}, "$insert_id": "{day}-{n}", '
                )
                file.write((line + bodies[n % BODIES] + "}\n").encode())


def ours(folder: Path, database: Path) -> int:
    """Load, check and merge the files as a fetch does."""
    from mixpanel.data._fetch.plan import Chunk, Filters, Part
    from mixpanel.data.store import Database

    days = [FIRST + timedelta(days=n) for n in range(DAYS)]
    with Database.open(database) as db:
        load = db.begin_events("events", filters=Filters(), mode="new", days=days)
        paths = {Chunk(day, day): folder / f"{day}.gz" for day in days}
        # In one call, as a fetch loads the parts that are waiting.
        load.stage(
            [Part(path, chunk, path.stat().st_size, gzip=True) for chunk, path in paths.items()]
        )
        return load.finish().rows


def duckdb(folder: Path, database: Path) -> int:
    """Read the files with DuckDB's reader into a table of the same columns, unchecked."""
    import duckdb as library

    with library.connect(str(database)) as connection:
        connection.execute(f"CREATE TABLE events AS {SHAPED}", [str(folder / "*.gz")])
        connection.execute("CHECKPOINT")
        return connection.execute("SELECT count(*) FROM events").fetchall()[0][0]


def rows(path: Path, count: int) -> None:
    """Make a table of rows to query, and a view of their pairs."""
    import duckdb as library

    with library.connect(str(path)) as connection:
        connection.execute(
            "CREATE TABLE t AS SELECT range AS n, 'user-' || range % 99999 AS who, "
            "range / 7 AS amount, TIMESTAMP '2026-01-01' + to_seconds(range % 999999) AS at "
            f"FROM range({count})"
        )
        # More rows than any statement reads before it is interrupted.
        connection.execute("CREATE VIEW pairs AS SELECT a.*, b.who AS other FROM t a, t b")


def query(path: Path, target: Path) -> int:
    """Write all rows as CSV with `mp query sql`, start of the interpreter and all."""
    command = [sys.executable, "-m", "mixpanel.cli", "query", "sql", "FROM t", "--format", "csv"]
    with target.open("wb") as file:
        subprocess.run([*command, "--db", path], stdout=file, check=True)
    return 0


def copy(path: Path, target: Path) -> int:
    """Write all rows as CSV with DuckDB's COPY."""
    import duckdb as library

    with library.connect(str(path), read_only=True) as connection:
        connection.execute(f"COPY t TO '{target}' (FORMAT csv, HEADER)")
    return 0


def main() -> None:
    task, where, *others = sys.argv[1:]
    if task == "make":
        make(Path(where), others[0], int(others[1]))
        return
    if task == "rows":
        rows(Path(where), int(others[0]))
        return
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        found = globals()[task](Path(where), Path(folder) / "target")
        seconds = time.perf_counter() - began
    who = resource.RUSAGE_CHILDREN if task == "query" else resource.RUSAGE_SELF
    peak = resource.getrusage(who).ru_maxrss / 1024
    times = os.times()
    cpu = times.user + times.system + times.children_user + times.children_system
    print(json.dumps({"rows": found, "seconds": seconds, "cpu": cpu, "megabytes": peak}))


if __name__ == "__main__":
    main()
