"""Create the sinks of one emulator, and make the same calls from asyncio, trio and sync code."""

import anyio

from mixpanel import AsyncMixpanel, Mixpanel
from mixpanel.cdp import (
    AsyncCustomerIO,
    AsyncFanOut,
    AsyncHightouch,
    CustomerIO,
    FanOut,
    Hightouch,
    Sink,
)
from tests.cdp.run_clients import FAST_RETRY

UNREACHABLE = "http://127.0.0.1:9"
PAID = ("u-17", "Order Paid", {"amount": 12.5})


def sinks(runtime, emu, *, options=None, only=None, **rules):
    """Return the three sinks of one emulator; `rules` and client `options` are by sink."""
    faces = {"mixpanel": (AsyncMixpanel, Mixpanel), "customerio": (AsyncCustomerIO, CustomerIO),
             "hightouch": (AsyncHightouch, Hightouch)}  # fmt: skip
    urls = {"mixpanel": emu.url, "customerio": emu.customerio_url, "hightouch": emu.hightouch_url}
    made = {}
    for name in only or faces:
        settings = {"base_url": urls[name], "retry": FAST_RETRY, **(options or {}).get(name, {})}
        client = faces[name][runtime == "sync"]("k", **settings)
        made[name] = Sink(client, **rules.get(name, {}))
    return made


def send(runtime, made, *calls, **options):
    """Run calls on a fan-out, flush and close it; return the results and the stats."""
    if runtime == "sync":
        with FanOut(**options, **made) as fan_out:
            for call in calls:
                call(fan_out)
            return fan_out.flush(10), fan_out.stats()

    async def go():
        async with AsyncFanOut(**options, **made) as fan_out:
            for call in calls:
                await call(fan_out)
            return await fan_out.flush(10), fan_out.stats()

    return anyio.run(go, backend=runtime)


def counts(stats):
    """Return the counts of a sink that are not zero."""
    assert stats.balanced
    data = {
        "accepted": stats.accepted,
        **stats.filtered,
        **stats.rejected,
        "pending": stats.pending,
    }
    return {name: count for name, count in data.items() if count}


def all_counts(stats):
    return {name: counts(each) for name, each in stats.items()}
