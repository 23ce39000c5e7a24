"""Make the sinks of one emulator, and the same calls from asyncio, trio and plain sync code."""

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
from tests.cdp.cdp_worlds import SWIFT

NOWHERE = "http://127.0.0.1:9"
PAID = ("u-17", "Order Paid", {"amount": 12.5})


def sinks(world, emu, *, options=None, only=None, **terms):
    """The three sinks of one emulator; `terms` and client `options` by sink."""
    faces = {"mixpanel": (AsyncMixpanel, Mixpanel), "customerio": (AsyncCustomerIO, CustomerIO),
             "hightouch": (AsyncHightouch, Hightouch)}  # fmt: skip
    urls = {"mixpanel": emu.url, "customerio": emu.customerio_url, "hightouch": emu.hightouch_url}
    made = {}
    for name in only or faces:
        told = {"base_url": urls[name], "retry": SWIFT, **(options or {}).get(name, {})}
        client = faces[name][world == "sync"]("k", **told)
        made[name] = Sink(client, **terms.get(name, {}))
    return made


def send(world, made, *calls, **options):
    """Make a fan-out of the sinks, let each call use it, flush, close; return results and stats."""
    if world == "sync":
        with FanOut(**options, **made) as everywhere:
            for call in calls:
                call(everywhere)
            return everywhere.flush(10), everywhere.stats()

    async def go():
        async with AsyncFanOut(**options, **made) as everywhere:
            for call in calls:
                await call(everywhere)
            return await everywhere.flush(10), everywhere.stats()

    return anyio.run(go, backend=world)


def account(stats):
    """What is not zero of an account."""
    assert stats.balanced
    told = {"taken": stats.taken, **stats.withheld, **stats.refused, "pending": stats.pending}
    return {name: count for name, count in told.items() if count}


def accounts(stats):
    return {name: account(each) for name, each in stats.items()}
