"""The clients of all programs here: one per consumer, none of which sends by itself in time."""

import os

from mixpanel import AsyncBufferedConsumer, BufferedConsumer, Consumer, Mixpanel

FLUSH_AFTER = float(os.environ.get("FLUSH_AFTER", "60"))
CLIENTS = {
    "Consumer": Mixpanel("t", Consumer()),
    "BufferedConsumer": Mixpanel("t", BufferedConsumer()),
    "AsyncBufferedConsumer": Mixpanel("t", AsyncBufferedConsumer(flush_after=FLUSH_AFTER)),
}


def track(n, *names, user="u"):
    """Track an event through each client, or through those of these names."""
    for name in names or CLIENTS:
        CLIENTS[name].track(user, "Visit", {"n": n, "via": name})
