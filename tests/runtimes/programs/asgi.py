"""An ASGI application: `GET /7` tracks event 7 through each client.

Its lifespan closes the clients with `END=lifespan`; with `END=signal` SIGTERM flushes them.
"""

import os

from mixpanel import (
    AsyncBufferedConsumer,
    AsyncConsumer,
    AsyncMixpanel,
    BufferedConsumer,
    Mixpanel,
    flush_on_signal,
)

END = os.environ.get("END")
at_once = AsyncMixpanel("t", AsyncConsumer())
buffered = Mixpanel("t", BufferedConsumer())  # a sync client, as in a helper without `await`
default = AsyncMixpanel("t", AsyncBufferedConsumer(flush_after=60))

if END == "signal":
    flush_on_signal()


async def app(scope, receive, send):
    """Serve the lifespan or a request."""
    if scope["type"] == "lifespan":
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        if END == "lifespan":
            await at_once.consumer.aclose()
            await buffered.consumer._sender.aclose()
            await default.consumer.aclose()
        await send({"type": "lifespan.shutdown.complete"})
        return
    number = scope["path"].strip("/")
    if number.isdigit():
        properties = {"n": int(number)}
        await at_once.track("u", "Visit", {**properties, "via": "Consumer"})
        buffered.track("u", "Visit", {**properties, "via": "BufferedConsumer"})
        await default.track("u", "Visit", {**properties, "via": "AsyncBufferedConsumer"})
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"ok"})
