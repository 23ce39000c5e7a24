"""Say each thing once, to Mixpanel, Customer.io and Hightouch.

    MP_TOKEN=... MP_CUSTOMERIO_WRITE_KEY=... MP_HIGHTOUCH_WRITE_KEY=... python examples/fanout.py

Mixpanel gets everything. Customer.io gets people, and the orders of those who agreed to marketing.
Hightouch gets what about a quarter of the people do, the same ones in every process, and not who
they are.

To try it without an account, run `mp emulator`. Each vendor has an address of its own, so set
MP_BASE_URL=http://127.0.0.1:8650, MP_CUSTOMERIO_BASE_URL=http://127.0.0.1:8650/customerio and
MP_HIGHTOUCH_BASE_URL=http://127.0.0.1:8650/hightouch; any key will do.
"""

import asyncio
import os
import sys
from collections.abc import Iterator, Mapping

from mixpanel import AsyncMixpanel, FlushResult
from mixpanel.cdp import AsyncCustomerIO, AsyncFanOut, AsyncHightouch, Sink, semantic

AGREED = {"u-1": {"marketing"}, "u-2": {"marketing", "research"}}


def sinks() -> dict[str, Sink]:
    """Make the clients, and say what each is to get."""
    mixpanel = AsyncMixpanel(os.environ.get("MP_TOKEN", "YOUR_TOKEN"))
    customerio = AsyncCustomerIO(os.environ.get("MP_CUSTOMERIO_WRITE_KEY", "YOUR_KEY"))
    hightouch = AsyncHightouch(os.environ.get("MP_HIGHTOUCH_WRITE_KEY", "YOUR_KEY"))
    return {
        "mixpanel": Sink(mixpanel, group_key="company"),
        "customerio": Sink(customerio, events=["Order *"], consent="marketing"),
        "hightouch": Sink(hightouch, calls=["track"], sample=0.25),
    }


def consent(who: str | None) -> set[str]:
    """Look up what a person agreed to; of a stranger, nothing."""
    return AGREED.get(who or "", set())


def losses(everywhere: AsyncFanOut, results: Mapping[str, FlushResult]) -> Iterator[str]:
    """Say which sink lost what, and why."""
    for sink, stats in everywhere.stats().items():
        if stats.client.lost:
            why = "".join(f": {error}" for error in results[sink].errors[-1:])
            yield f"{sink} lost {stats.client.lost} of {stats.client.accepted} messages{why}"


async def main() -> None:
    """Let twenty customers look around and buy, and one of them leave for good."""
    async with AsyncFanOut(consent=consent, **sinks()) as everywhere:
        for number in range(1, 21):
            who = f"u-{number}"
            await everywhere.identify(who, {"firstName": "Ada", "plan": "team"})
            await everywhere.group(who, "acme", {"name": "Acme"})
            await everywhere.track(who, "Report Opened", {"report": "sales"})
            await everywhere.track(who, semantic.OrderCompleted(order_id=number, total=12.5))

        # An action of Customer.io goes to nobody else. To be forgotten takes no consent.
        await everywhere.track("u-7", semantic.UserDeleted())

        results = await everywhere.flush(timeout=10)
        for sink, stats in everywhere.stats().items():
            withheld = ", ".join(f"{count} {why}" for why, count in stats.withheld.items())
            print(f"{sink}: {stats.offered} calls, {stats.taken} taken, withheld: {withheld}")

    # Now all of them are closed, and what has not arrived will not.
    if lost := list(losses(everywhere, results)):
        sys.exit("\n".join(lost))


if __name__ == "__main__":
    asyncio.run(main())
