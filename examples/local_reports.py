"""Fetch a project's events once, then compute Mixpanel's reports locally and chart them.

    pip install 'mixpanel-async[data]'
    python examples/local_reports.py 2013-02-09 2013-02-10

The account is the default one of `mp auth`, or MP_USERNAME, MP_SECRET, MP_PROJECT_ID and MP_REGION.
To try it without one, load the sample events of this repository into a local Mixpanel:

    mp emulator --load examples/data/flights.ndjson

and set MP_BASE_URL=http://127.0.0.1:8650; it accepts any account.
"""

import sys

from mixpanel.data import Step, Workspace, prop

WIDTH = 78


def main(first: str, last: str) -> None:
    """Chart two days of flights from New York, in New York's time zone."""
    with Workspace.memory() as ws:
        ws.fetch_events(from_date=first, to_date=last, progress=False)
        days = {"from_date": first, "to_date": last, "timezone": "America/New_York"}

        hours = ws.local.segmentation("Flight Departed", **days, unit="hour")
        print(hours.chart(WIDTH), "\n")

        # Each flight is a user here: how many landed within three hours?
        landed = Step("Flight Arrived", where=prop("delay_minutes") <= 15, label="In time")
        flights = ws.local.funnel(
            ["Flight Departed", landed], **days, on="origin", window=3, window_unit="hour"
        )
        print(flights.chart(WIDTH), "\n")

        cancelled = ws.local.property_distribution("Flight Cancelled", "carrier", **days, limit=5)
        print(cancelled.chart(WIDTH))


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("usage: local_reports.py FIRST_DAY LAST_DAY, as in 2013-02-09 2013-02-10")
    main(*sys.argv[1:])
