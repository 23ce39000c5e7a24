"""Load and export wide events with little memory: `python -m tests.walls [rows]` prints a table.

Each cell runs in a process of its own under a memory limit of 2 GB, and shows seconds and the peak
of the process's memory in MB.
"""

import gzip
import json
import resource
import subprocess
import sys
import tempfile
import time
from datetime import date
from pathlib import Path

from mixpanel.data._fetch.plan import Chunk, Filters, Part
from mixpanel.data.store import Database

LIMIT = "2GB"
THREADS = (2, 8, 16)
PROPERTIES = (0, 50, 100, 200)
STEPS = ("load", "csv", "parquet")
ROWS = 100_000
DAY = date(2026, 1, 1)
MIDNIGHT = 1_767_225_600_000


def write(path: Path, rows: int, properties: int) -> None:
    """Write an export of one day, with as many properties per event."""
    wide = {f"property_{n}": n if n % 2 else f"value {n}" for n in range(properties)}
    with gzip.open(path, "wb", 1) as file:
        for n in range(rows):
            known = {"time": MIDNIGHT + n, "distinct_id": f"u{n % 999}", "$insert_id": f"i{n}"}
            line = {"event": f"E{n % 5}", "properties": known | wide}
            file.write(json.dumps(line).encode() + b"\n")


def run(folder: Path, threads: int, rows: int) -> None:
    """Load the part of the folder and export it; print seconds and peak memory of each step."""
    path = folder / "part"
    with Database.open(folder / f"{threads}.db", memory_limit=LIMIT, threads=threads) as db:
        load = db.begin_events("events", filters=Filters(), mode="new", days=[DAY])
        steps = {
            "load": lambda: [
                load.stage([Part(path, Chunk(DAY, DAY), path.stat().st_size, gzip=True)]),
                load.finish(),
            ],
            "csv": lambda: db.export_csv("events", folder / f"{threads}.csv"),
            "parquet": lambda: db.export_parquet("events", folder / f"{threads}"),
        }
        for name in STEPS:
            begun = time.monotonic()
            steps[name]()
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
            print(f"{time.monotonic() - begun:.1f} s, {peak} MB", flush=True)
        if db.sql_scalar("SELECT count(*) FROM events") != rows:
            raise SystemExit("rows are missing")


def main(rows: int) -> int:
    """Print a row for each number of threads and properties; return the number of failures."""
    failures = 0
    print(f"{rows:,} events, limit {LIMIT}")
    print("threads  properties  " + "  ".join(f"{name:16}" for name in STEPS))
    for properties in PROPERTIES:
        for threads in THREADS:
            with tempfile.TemporaryDirectory() as folder:
                write(Path(folder, "part"), rows, properties)
                command = [sys.executable, "-m", "tests.walls", folder, str(threads), str(rows)]
                done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
            cells = done.stdout.splitlines()
            cells += ["FAILED"] * (len(STEPS) - len(cells))
            failures += done.returncode != 0
            row = "  ".join(f"{cell:16}" for cell in cells)
            print(f"{threads:7}  {properties:10}  {row}", flush=True)
    return failures


if __name__ == "__main__":
    if len(sys.argv) > 2:
        run(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
    else:
        sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else ROWS))
