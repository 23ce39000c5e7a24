"""Fetch a project's events once into DuckDB, then ask them in SQL, from async code.

    pip install 'mixpanel-async[data]'
    python examples/data_quickstart.py 2013-02-09 2013-02-10

The account is the default one of `mp auth`, or MP_USERNAME, MP_SECRET, MP_PROJECT_ID and MP_REGION.
To try it without one, load the real events that are beside this file into a local Mixpanel:

    mp emulator --load examples/data/flights.ndjson

and set MP_BASE_URL=http://127.0.0.1:8650; it takes any account.
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
    """Count what happened, and find the hour in which most of it did."""
    # In memory: nothing is left behind. AsyncWorkspace() keeps what it fetched in ~/.mp/data.
    async with AsyncWorkspace.memory() as ws:
        # Asking Mixpanel is awaited. What a fetch would cost is known before, in calls:
        # a project has 60 an hour.
        plan = await ws.plan_events(from_date=first, to_date=last)
        print(f"{plan.days} days in {plan.calls} calls")

        fetched = await ws.fetch_events(from_date=first, to_date=last)
        print(f"{fetched.rows:,} events, {fetched.merged:,} copies merged")

        # Asking the database is not: it is here.
        for name, events, users in ws.sql_rows(BUSIEST):
            print(f"{events:7,}  {name}, by {users:,}")
        for hour, events in ws.sql_rows(HOURS):
            print(f"most in the hour from {hour:%F %H:%M} UTC: {events:,}")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("usage: data_quickstart.py FIRST_DAY LAST_DAY, as in 2013-02-09 2013-02-10")
    asyncio.run(main(*sys.argv[1:]))
