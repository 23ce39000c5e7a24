"""The clients of all programs here: one per consumer, none of which sends by itself in time."""

from mixpanel import AsyncBufferedConsumer, BufferedConsumer, Consumer, Mixpanel

CLIENTS = {
    "Consumer": Mixpanel("t", Consumer()),
    "BufferedConsumer": Mixpanel("t", BufferedConsumer()),
    "AsyncBufferedConsumer": Mixpanel("t", AsyncBufferedConsumer(flush_after=60)),
}


def track(n, *names):
    """Track an event through each client, or through those of these names."""
    for name in names or CLIENTS:
        CLIENTS[name].track("u", "Visit", {"n": n, "via": name})
