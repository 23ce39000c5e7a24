"""What an editor and a type checker see of a fan-out. Checked by mypy, never run."""

from typing import assert_type

from mixpanel import AsyncMixpanel, FlushResult, Mixpanel
from mixpanel.cdp import (
    AsyncFanOut,
    AsyncHightouch,
    CustomerIO,
    FanOut,
    Hightouch,
    Sink,
    SinkStats,
    semantic,
)


async def typed_calls() -> None:
    async with AsyncFanOut(
        mixpanel=Sink(AsyncMixpanel("T"), group_key="company"),
        hightouch=Sink(AsyncHightouch("k"), events="Order *", calls={"track"}, sample=0.1),
        consent=lambda who: {"marketing"} if who else (),
        on_error=lambda sink, error: print(sink.upper(), error.args),
    ) as everywhere:
        assert_type(await everywhere.track("u", "Paid", {"amount": 1}, consent="ads"), None)
        await everywhere.track("u", semantic.OrderCompleted(total=1), consent={"ads": True})
        await everywhere.identify(None, {"a": 1}, anonymous_id="d", timestamp="2026-01-31")
        await everywhere.group(17, "acme", integrations={"All": False})
        await everywhere.page("u", None, "Start", message_id="m", context={"ip": "1.2.3.4"})
        assert_type(await everywhere.flush(), dict[str, FlushResult])
        assert_type(everywhere.stats(), dict[str, SinkStats])
        await everywhere.track("u", "Paid", time=1)  # type: ignore[call-arg]
        await everywhere.track("u", "Paid", consent=3)  # type: ignore[arg-type]


def typed_sinks() -> None:
    sink = Sink(Hightouch("k"))
    assert_type(sink.client, Hightouch)
    everywhere = FanOut(hightouch=sink, mixpanel=Sink(Mixpanel("T")))
    assert_type(everywhere.screen("u", None, "Home"), None)
    assert_type(everywhere.close(1.0), dict[str, FlushResult])
    AsyncFanOut(hightouch=sink)  # type: ignore[arg-type]  # a sync client
    FanOut(customerio=CustomerIO("k"))  # type: ignore[arg-type]  # no sink
    Sink(CustomerIO("k"), calls=["trak"])  # type: ignore[list-item]
    sink.sample = 0.5  # type: ignore[misc]  # frozen
