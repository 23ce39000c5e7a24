"""Load, export and type wide events with little memory: `python -m tests.walls` prints a table.

Each row runs in a process of its own with the limit of memory that it names; cells show seconds and
the peak of the process's memory in MB so far. The last rows are a million wide events, and a small
machine.

python -m tests.walls                  all rows
python -m tests.walls --rows 10000     fewer events in each row but the last
python -m tests.walls --only 200       rows of so many properties
"""

import argparse
import gzip
import json
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path
from random import Random

from mixpanel.data._fetch.plan import Chunk, Filters, Part
from mixpanel.data.store import Database

STEPS = ("load", "csv", "parquet", "typed")
ROWS = 100_000
BODIES = 2_000  # different sets of properties, which the events take in turns
DAY = date(2026, 1, 1)
MIDNIGHT = 1_767_225_600_000
TIMEOUT = 3600


@dataclass(frozen=True)
class Wall:
    """So many events with so many properties each, under a limit of memory."""

    rows: int
    properties: int
    threads: int
    limit: str = "2GB"


def walls(rows: int) -> list[Wall]:
    """Return each combination of properties and threads, and two that are larger."""
    matrix = [Wall(rows, number, threads) for number in (0, 50, 100, 200) for threads in (2, 8, 16)]
    return [*matrix, Wall(ROWS, 200, 1, "500MB"), Wall(10 * ROWS, 200, 2)]


def write(path: Path, rows: int, properties: int) -> None:
    """Write an export of one day, with as many properties per event, of different types."""
    random = Random(1)
    values = (
        lambda: random.randrange(10**9),
        lambda: f"value {random.randrange(10**6)}",
        lambda: round(random.random() * 100, 4),
        lambda: random.random() < 0.5,
    )
    bodies = [
        json.dumps({f"property_{n}": values[n % 4]() for n in range(properties)} | {"last": 1})[1:]
        for _ in range(BODIES)
    ]
    with gzip.open(path, "wb", 1) as file:
        for n in range(rows):
            known = f'"time": {MIDNIGHT + n % 86_400_000}, "distinct_id": "u{n % 999}"'
            line = f'{{"event": "E{n % 5}", "properties": {{{known}, "$insert_id": "i{n}", '
            file.write((line + bodies[n % BODIES] + "}\n").encode())


def run(folder: Path, wall: Wall) -> None:
    """Load the part of the folder, export it and type it; print seconds and peak of each step."""
    path = folder / "part"
    name = folder / "x.db"
    with Database.open(name, memory_limit=wall.limit, threads=wall.threads) as db:
        load = db.begin_events("events", filters=Filters(), mode="new", days=[DAY])
        steps = {
            "load": lambda: [
                load.stage([Part(path, Chunk(DAY, DAY), path.stat().st_size, gzip=True)]),
                load.finish(),
            ],
            "csv": lambda: db.export_csv("events", folder / "events.csv"),
            "parquet": lambda: db.export_parquet("events", folder / "lake"),
            "typed": lambda: db.typed_table("events"),
        }
        for step in STEPS:
            begun = time.monotonic()
            steps[step]()
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
            print(f"{time.monotonic() - begun:.1f} s, {peak} MB", flush=True)
        for table in ("events", "events_typed"):
            if db.sql_scalar(f"SELECT count(*) FROM {table}") != wall.rows:
                raise SystemExit(f"rows are missing in {table}")


def main() -> int:
    """Print a row for each wall; return the number of failures."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.walls",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--rows", type=int, default=ROWS)
    parser.add_argument("--only", type=int, metavar="PROPERTIES")
    parser.add_argument("--run", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.run:
        folder, wall = options.run
        run(Path(folder), Wall(**json.loads(wall)))
        return 0
    failures = 0
    print("   events  properties  threads  limit  " + "  ".join(f"{name:15}" for name in STEPS))
    for wall in walls(options.rows):
        if options.only not in (None, wall.properties):
            continue
        with tempfile.TemporaryDirectory() as folder:
            write(Path(folder, "part"), wall.rows, wall.properties)
            command = [sys.executable, "-m", "tests.walls", "--run", folder]
            command.append(json.dumps(asdict(wall)))
            done = subprocess.run(
                command, stdout=subprocess.PIPE, text=True, check=False, timeout=TIMEOUT
            )
        cells = done.stdout.splitlines()
        cells += ["FAILED"] * (len(STEPS) - len(cells))
        failures += done.returncode != 0
        found = "  ".join(f"{cell:15}" for cell in cells).rstrip()
        print(
            f"{wall.rows:9,}  {wall.properties:10}  {wall.threads:7}  {wall.limit:>5}  {found}",
            flush=True,
        )
    print("all steps succeeded" if not failures else f"{failures} rows failed")
    return failures


if __name__ == "__main__":
    sys.exit(main())
