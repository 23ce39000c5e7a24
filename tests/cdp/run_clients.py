"""Make the same calls from asyncio, trio and plain sync code."""

import anyio

from mixpanel import FlushResult, RetryPolicy
from mixpanel.cdp import AsyncCustomerIO, AsyncHightouch, CustomerIO, Hightouch

RUNTIMES = ("asyncio", "trio", "sync")
FACES = {"customerio": (AsyncCustomerIO, CustomerIO), "hightouch": (AsyncHightouch, Hightouch)}
FAST_RETRY = RetryPolicy(first_wait=0.01, max_age=20.0)


def run_calls(
    runtime, emu, vendor, *calls, key="k", flush_timeout=10.0, close_timeout=5.0, **options
):
    """Run calls on a new client and flush it; return the result of the flush and the stats."""
    options = {"base_url": getattr(emu, f"{vendor}_url"), "retry": FAST_RETRY, **options}
    if options.get("send_immediately"):
        options["retry"] = RetryPolicy(attempts=3, first_wait=0.01)
    asynchronous, synchronous = FACES[vendor]
    if runtime == "sync":
        with synchronous(key, **options) as client:
            for call in calls:
                call(client)
            ended = totals(client.flush(flush_timeout), client.stats())
            client.close(close_timeout)
            return ended

    async def go():
        async with asynchronous(key, **options) as client:
            for call in calls:
                await call(client)
            ended = totals(await client.flush(flush_timeout), client.stats())
            await client.aclose(close_timeout)
            return ended

    return anyio.run(go, backend=runtime)


def totals(flushed, stats):
    """Return the totals as a flush result, with the errors of the last flush, and the stats."""
    whole = FlushResult(
        stats.delivered, stats.rejected, stats.dropped, stats.pending, flushed.errors
    )
    return whole, stats


def messages(emu, vendor=None, **options):
    """Return the messages that a vendor stored."""
    return [entry["message"] for entry in emu.cdp_messages(vendor, **options)]
