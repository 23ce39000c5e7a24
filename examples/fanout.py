"""Say each thing once, to Mixpanel, Customer.io and Hightouch.

    MP_TOKEN=... MP_CUSTOMERIO_WRITE_KEY=... MP_HIGHTOUCH_WRITE_KEY=... python examples/fanout.py

Mixpanel gets everything. Customer.io gets people, and the orders of those who agreed to marketing.
Hightouch gets what about a quarter of the people do, the same ones in every process, and not who
they are.
"""

import asyncio
import os

from mixpanel import AsyncMixpanel
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

        results = await everywhere.flush()
        for sink, stats in everywhere.stats().items():
            withheld = ", ".join(f"{count} {why}" for why, count in stats.withheld.items())
            print(f"{sink}: {stats.offered} calls, {stats.taken} taken, withheld: {withheld}")
            assert results[sink].ok


if __name__ == "__main__":
    asyncio.run(main())
