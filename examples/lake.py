"""Fetch events once, export them to a data lake, and query it with a distributed engine.

    pip install 'mixpanel-async[data]' daft
    python examples/lake.py LAKE_FOLDER 2026-01-01 2026-01-31

The account is that of `mp auth` or the environment. The lake is hive-partitioned Parquet, with one
folder `day=2026-01-31/` for each day; Spark, Ray, Polars and Trino can read it as well. A URL such
as `s3://bucket/lake` is written through fsspec.
"""

import sys
from datetime import date

import daft
from daft import DataType, col

from mixpanel.data import Workspace

Users = list[tuple[date, int]]


def fill(lake: str, first: str, last: str) -> Users:
    """Fetch some days, write the lake, and count the users of each day with DuckDB."""
    with Workspace.memory() as ws:
        ws.fetch_events("events", from_date=first, to_date=last)
        ws.export_parquet("events", lake, partition_by="day", overwrite=True)
        return ws.sql_rows(
            "SELECT CAST(event_time AS DATE) AS day, count(DISTINCT distinct_id) AS users "
            "FROM events GROUP BY day ORDER BY day"
        ).rows


def users_a_day(lake: str) -> Users:
    """Count the users of each day with Daft, from the lake alone."""
    events = daft.read_parquet(f"{lake}/**/*.parquet", hive_partitioning=True)
    users = col("distinct_id").count_distinct().alias("users")
    days = events.with_column("day", col("day").cast(DataType.date())).groupby("day").agg(users)
    found = days.sort("day").to_pydict()
    return list(zip(found["day"], found["users"], strict=True))


def main(lake: str, first: str, last: str) -> None:
    """Print the users of each day, and check that both engines agree."""
    from_duckdb, from_lake = fill(lake, first, last), users_a_day(lake)
    for day, users in from_lake:
        print(day, users)
    if from_lake != from_duckdb:
        sys.exit("DuckDB returned a different result")


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit("usage: lake.py LAKE_FOLDER FIRST_DAY LAST_DAY, as in lake 2026-01-01 2026-01-31")
    main(*sys.argv[1:])
