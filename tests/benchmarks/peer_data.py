"""Ways to get a million events into DuckDB, each in a process of its own: ours, and from disk.

python peer_data.py TASK URL_OR_FILE LAST_DAY
"""

import asyncio
import json
import os
import resource
import sys
import tempfile
import time
from pathlib import Path

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
FEW = 4_000  # it takes its time


def account() -> None:
    os.environ |= {"MP_USERNAME": "u", "MP_SECRET": "s", "MP_PROJECT_ID": "1", "MP_REGION": "us"}


def fetch(url: str, last: str, folder: Path) -> dict[str, float]:
    """Fetch from the loopback server into a DuckDB file, from the first call to the table."""
    from mixpanel.data import Workspace

    account()
    with Workspace(path=folder / "ours.db", base_url=url) as workspace:
        began = time.perf_counter()
        result = workspace.fetch_events("events", from_date="2026-01-01", to_date=last)
        seconds = time.perf_counter() - began
        rows = workspace.sql_scalar("SELECT count(*) FROM events")
    assert rows == result.rows
    return {"rows": rows, "seconds": seconds}


def disk(path: str, _last: str, folder: Path) -> dict[str, float]:
    """Let DuckDB read the plain file from disk and shape it: nothing is fetched or checked."""
    import duckdb

    with duckdb.connect(str(folder / "disk.db")) as connection:
        began = time.perf_counter()
        connection.execute(f"CREATE TABLE events AS {SHAPED}", [path])
        connection.execute("CHECKPOINT")
        seconds = time.perf_counter() - began
        rows = connection.execute("SELECT count(*) FROM events").fetchall()[0][0]
    return {"rows": rows, "seconds": seconds}


def rowwise(path: str, _last: str, folder: Path) -> dict[str, float]:
    """Parse each event in Python and insert it with `executemany`: the first of the file."""
    import duckdb

    with duckdb.connect(str(folder / "rows.db")) as connection:
        connection.execute(
            "CREATE TABLE events (event_name VARCHAR, event_time TIMESTAMP, distinct_id VARCHAR,"
            " insert_id VARCHAR PRIMARY KEY, properties JSON)"
        )
        began = time.perf_counter()
        rows = []
        with Path(path).open() as lines:
            for _, line in zip(range(FEW), lines, strict=False):
                event = json.loads(line)
                properties = event["properties"]
                moment = properties.pop("time") / 1000
                who, own = properties.pop("distinct_id"), properties.pop("$insert_id")
                at = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(moment))
                rows.append((event["event"], at, who, own, json.dumps(properties)))
        for start in range(0, FEW, 1000):
            connection.executemany(
                "INSERT OR IGNORE INTO events VALUES (?, ?, ?, ?, ?)", rows[start : start + 1000]
            )
        seconds = time.perf_counter() - began
    return {"rows": len(rows), "seconds": seconds}


def first_row(url: str, last: str, folder: Path) -> dict[str, float]:
    """Wait for the first event of a stream while a fetch of everything runs beside it."""
    from mixpanel.data import AsyncWorkspace

    account()

    async def main() -> float:
        async with AsyncWorkspace(path=folder / "load.db", base_url=url) as workspace:
            days = {"from_date": "2026-01-01", "to_date": last}
            load = asyncio.create_task(workspace.fetch_events("events", **days))
            await asyncio.sleep(0.5)
            began = time.perf_counter()
            stream = workspace.stream_events(**days)
            await anext(stream)
            seconds = time.perf_counter() - began
            await stream.aclose()
            await load
            return seconds

    return {"rows": 1, "seconds": asyncio.run(main())}


def main() -> None:
    task, where, last = sys.argv[1:]
    with tempfile.TemporaryDirectory() as folder:
        measured = globals()[task](where, last, Path(folder))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps(measured | {"megabytes": peak}))


if __name__ == "__main__":
    main()
