"""Keep a table of events and a lake of Parquet files up to date, as a nightly job.

    pip install 'mixpanel-async[data]'
    python examples/sync_nightly.py shop.db lake 2026-01-01

The first run starts with the given day. A second day is the last one to fetch; the default is
yesterday. In a crontab, an hour after midnight in UTC:

    0 1 * * *  python sync_nightly.py shop.db lake 2026-01-01

The account is the default one of `mp auth`, or MP_USERNAME, MP_SECRET, MP_PROJECT_ID and MP_REGION.
Run it again after a failure and it resumes; run it twice and the second run changes nothing.
"""

import sys
from datetime import UTC, date, datetime, timedelta

from mixpanel.data import Workspace
from mixpanel.data.exceptions import InterruptedFetchError

Days = dict[date, int]


def events_a_day(ws: Workspace) -> Days:
    """Count the events of each day; none before the first fetch."""
    if not any(table.name == "events" for table in ws.tables()):
        return {}
    found = ws.sql_rows("SELECT CAST(event_time AS DATE) AS day, count(*) FROM events GROUP BY day")
    return dict(found.rows)


def main(database: str, lake: str, first: str, last: str | None = None) -> None:
    """Fetch new and late events, rewrite the lake, and print the days that changed."""
    yesterday = datetime.now(UTC).date() - timedelta(days=1)  # today is incomplete
    with Workspace(path=database) as ws:
        before = events_a_day(ws)
        try:
            result = ws.sync_events(from_date=first, to_date=last or yesterday, progress=False)
        except InterruptedFetchError as error:
            sys.exit(str(error))  # names the missing days and the reason
        after = events_a_day(ws)
        ws.export_parquet("events", lake, overwrite=True)

    print(f"{result.rows:,} events in {result.requests} calls")
    for day in sorted(before | after):
        was, now = before.get(day, 0), after.get(day, 0)
        if was != now:
            print(f"{day}: {was:,} -> {now:,}")
    print(f"{sum(after.values()):,} events in {lake}")


if __name__ == "__main__":
    if len(sys.argv) not in (4, 5):
        sys.exit("usage: sync_nightly.py DATABASE LAKE_FOLDER FIRST_DAY [LAST_DAY]")
    main(*sys.argv[1:])
