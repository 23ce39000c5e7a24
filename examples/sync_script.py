"""Track from a script that knows nothing of async, in batches.

    MP_TOKEN=... python examples/sync_script.py

The default `Mixpanel` sends each message at once and raises what goes wrong. For more than a few
messages, a `BufferedConsumer` sends up to 2,000 in one request.
"""

import os
from datetime import UTC, datetime, timedelta

from mixpanel import BufferedConsumer, Mixpanel

INVOICES = [("acme", 1200.0), ("globex", 450.0), ("initech", 80.0)]


def main() -> None:
    """Book last night's invoices, once, however often the script runs."""
    night = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0) - timedelta(days=1)
    token = os.environ.get("MP_TOKEN", "YOUR_TOKEN")
    with Mixpanel(token, BufferedConsumer(max_size=500)) as mp:
        for company, amount in INVOICES:
            # The same key, time and user give the same event: a second run makes no copy.
            mp.track(
                company, "Invoice Sent", {"amount": amount}, time=night, dedupe_key=f"{night:%F}"
            )
            mp.group_set("company", company, {"last_invoice": amount})
        mp.flush().raise_for_loss()
        print(mp.stats())


if __name__ == "__main__":
    main()
