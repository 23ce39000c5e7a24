"""Fetch a project's events once into DuckDB, then query them with SQL, from async code.

    pip install 'mixpanel-async[data]'
    python examples/data_quickstart.py 2013-02-09 2013-02-10

The account is the default one of `mp auth`, or MP_USERNAME, MP_SECRET, MP_PROJECT_ID and MP_REGION.
To try it without one, load the sample events of this repository into a local Mixpanel:

    mp emulator --load examples/data/flights.ndjson

and set MP_BASE_URL=http://127.0.0.1:8650; it accepts any account.
"""

import asyncio
import sys

from mixpanel.data import AsyncWorkspace

BUSIEST = """
    SELECT event_name, count(*) AS events, count(DISTINCT distinct_id) AS users
    FROM events GROUP BY ALL ORDER BY events DESC, event_name LIMIT 5
"""
HOURS = """
    SELECT date_trunc('hour', event_time) AS hour, count(*) AS events
    FROM events GROUP BY hour ORDER BY events DESC, hour LIMIT 1
"""


async def main(first: str, last: str) -> None:
    """Count the events by name, and find the busiest hour."""
    # In memory, so nothing is stored. AsyncWorkspace() stores the events in ~/.mp/data.
    async with AsyncWorkspace.memory() as ws:
        # Calls to Mixpanel are awaited. The plan shows in advance how many a fetch needs; a project
        # may make 60 an hour.
        plan = await ws.plan_events(from_date=first, to_date=last)
        print(f"{plan.days} days in {plan.calls} calls")

        fetched = await ws.fetch_events(from_date=first, to_date=last)
        print(f"{fetched.rows:,} events, {fetched.merged:,} duplicates merged")

        # Local SQL is not awaited.
        for name, events, users in ws.sql_rows(BUSIEST):
            print(f"{events:7,}  {name}, by {users:,}")
        for hour, events in ws.sql_rows(HOURS):
            print(f"busiest hour: {hour:%F %H:%M} UTC, {events:,} events")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("usage: data_quickstart.py FIRST_DAY LAST_DAY, such as 2013-02-09 2013-02-10")
    asyncio.run(main(*sys.argv[1:]))
