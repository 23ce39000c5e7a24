"""Send each call to Mixpanel, Customer.io and Hightouch.

    MP_TOKEN=... MP_CUSTOMERIO_WRITE_KEY=... MP_HIGHTOUCH_WRITE_KEY=... python examples/fanout.py

Mixpanel gets everything. Customer.io gets people and groups, and the orders of people who agreed to
marketing. Hightouch gets the events of about a quarter of the people, the same people in every
process, and no traits.

To try it without an account, run `mp emulator`. Each vendor has its own address there: set
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
    """Create the clients, with rules for what each one receives."""
    mixpanel = AsyncMixpanel(os.environ.get("MP_TOKEN", "YOUR_TOKEN"))
    customerio = AsyncCustomerIO(os.environ.get("MP_CUSTOMERIO_WRITE_KEY", "YOUR_KEY"))
    hightouch = AsyncHightouch(os.environ.get("MP_HIGHTOUCH_WRITE_KEY", "YOUR_KEY"))
    return {
        "mixpanel": Sink(mixpanel, group_key="company"),
        "customerio": Sink(customerio, events=["Order *"], consent="marketing"),
        "hightouch": Sink(hightouch, calls=["track"], sample=0.25),
    }


def consent(person_id: str | None) -> set[str]:
    """Return the purposes that a person agreed to; none for an unknown person."""
    return AGREED.get(person_id or "", set())


def losses(fan_out: AsyncFanOut, results: Mapping[str, FlushResult]) -> Iterator[str]:
    """Yield a line for each sink that lost messages, with the last error."""
    for sink, stats in fan_out.stats().items():
        if stats.client.lost:
            why = "".join(f": {error}" for error in results[sink].errors[-1:])
            yield f"{sink} lost {stats.client.lost} of {stats.client.accepted} messages{why}"


async def main() -> None:
    """Let twenty customers open a report and buy, and delete one of them."""
    async with AsyncFanOut(consent=consent, **sinks()) as fan_out:
        for number in range(1, 21):
            user_id = f"u-{number}"
            await fan_out.identify(user_id, {"firstName": "Ada", "plan": "team"})
            await fan_out.group(user_id, "acme", {"name": "Acme"})
            await fan_out.track(user_id, "Report Opened", {"report": "sales"})
            await fan_out.track(user_id, semantic.OrderCompleted(order_id=number, total=12.5))

        # An action of Customer.io is sent to no other sink. Deleting a person needs no consent.
        await fan_out.track("u-7", semantic.UserDeleted())

        results = await fan_out.flush(timeout=10)
        for sink, stats in fan_out.stats().items():
            filtered = ", ".join(f"{count} {reason}" for reason, count in stats.filtered.items())
            counts = f"{stats.received} calls, {stats.accepted} accepted"
            print(f"{sink}: {counts}, filtered: {filtered}")

    # All clients are closed here, so a message that has not arrived yet is lost.
    if lost := list(losses(fan_out, results)):
        sys.exit("\n".join(lost))


if __name__ == "__main__":
    asyncio.run(main())
