"""Typed tables of wide events: ours, and DuckDB's own reader with the columns stated.

python peer_typed.py EVENTS
"""

import gzip
import json
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from random import Random

PROPERTIES, TYPED = 200, 10
TYPES = ("BIGINT", "DOUBLE", "VARCHAR", "BOOLEAN")
ROUNDS = 7


def write(path: Path, events: int) -> None:
    """Write events with 200 properties each, of four types, as gzipped NDJSON."""
    random = Random(1)
    values = (
        lambda: random.randrange(10**6),
        lambda: round(random.random() * 100, 4),
        lambda: random.choice(("red", "green", "blue", "a longer text")),
        lambda: random.random() < 0.5,
    )
    with gzip.open(path, "wt", compresslevel=1) as file:
        for _ in range(events):
            properties = {f"p{n}": values[n % 4]() for n in range(PROPERTIES)}
            file.write(json.dumps({"event": "Order", "properties": properties}) + "\n")


def seconds(runs: dict[str, Callable[[], object]]) -> dict[str, float]:
    """Return the best of several rounds, in turns: seconds, and those of the processors."""
    found: dict[str, float] = {}
    for _ in range(ROUNDS):
        for name, run in runs.items():
            began, cpu = time.perf_counter(), time.process_time()
            run()
            for key, value in (
                (name, time.perf_counter() - began),
                (f"{name} cpu", time.process_time() - cpu),
            ):
                found[key] = min(found.get(key, value), value)
    return found


def main() -> None:
    from mixpanel.data.store import Database

    fields = ", ".join(f"p{n} {TYPES[n % 4]}" for n in range(PROPERTIES))
    sums = ", ".join(f"sum(p{4 * n})" for n in range(TYPED))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "events.ndjson.gz"
        write(path, int(sys.argv[1]))
        with Database.open(Path(folder) / "x.db", external_access=True) as database:

            def sql(query: str) -> None:
                with database.connection.cursor() as cursor:
                    cursor.execute(query).fetchall()

            sql(
                "CREATE TABLE raw AS SELECT event AS event_name, properties FROM "
                f"read_ndjson('{path}', columns = {{event: 'VARCHAR', properties: 'JSON'}})"
            )
            plain = (
                "CREATE OR REPLACE TABLE plain AS SELECT event, unnest(properties) FROM "
                f"read_ndjson('{path}', columns = "
                f"{{event: 'VARCHAR', properties: 'STRUCT({fields})'}})"
            )
            found = seconds(
                {
                    "read_ndjson": lambda: sql(plain),
                    "typed": lambda: database.typed_table("raw", infer_again=True),
                }
            )
            found |= seconds(
                {
                    "grouped plain": lambda: sql(f"SELECT p2, {sums} FROM plain GROUP BY ALL"),
                    "grouped typed": lambda: sql(f"SELECT p2, {sums} FROM raw_typed GROUP BY ALL"),
                }
            )
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps(found | {"megabytes": peak}))


if __name__ == "__main__":
    main()
