"""Track events in batches from a sync script.

    MP_TOKEN=... python examples/sync_script.py

By default `Mixpanel` sends each message immediately and raises errors. For more than a few
messages, use a `BufferedConsumer`, which sends 50 in one request, or up to 2,000 with `max_size`.
"""

import os
from datetime import UTC, datetime, timedelta

from mixpanel import BufferedConsumer, Mixpanel

INVOICES = [("acme", 1200.0), ("globex", 450.0), ("initech", 80.0)]


def main() -> None:
    """Track last night's invoices, once even if the script runs repeatedly."""
    night = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0) - timedelta(days=1)
    token = os.environ.get("MP_TOKEN", "YOUR_TOKEN")
    with Mixpanel(token, BufferedConsumer(max_size=500)) as mp:
        for company, amount in INVOICES:
            # Key, time and user identify the event, so a second run adds no duplicate.
            mp.track(
                company, "Invoice Sent", {"amount": amount}, time=night, dedupe_key=f"{night:%F}"
            )
            mp.group_set("company", company, {"last_invoice": amount})
        mp.flush().raise_for_loss()
        print(mp.stats())


if __name__ == "__main__":
    main()
