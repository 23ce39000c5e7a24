"""What an editor and a type checker see. Checked by mypy, never run."""

from collections.abc import Coroutine
from typing import Any, assert_type

from mixpanel import (
    AsyncBufferedConsumer,
    AsyncMixpanel,
    BufferedConsumer,
    Consumer,
    FlushResult,
    Mixpanel,
    RetryPolicy,
    Stats,
    context,
)
from mixpanel.bulk import ImportResult
from mixpanel.lookup_tables import LookupTable


async def async_face() -> None:
    mp = AsyncMixpanel("t", region="eu", validation="raise", when_full="wait")
    await assert_type(mp.track("u", "E"), Coroutine[Any, Any, None])
    mp.track("u", "E")  # type: ignore[unused-coroutine]  # a forgotten await is caught
    assert_type(await mp.people_set("u", {"a": 1}, ip=0, ignore_time=True), None)
    assert_type(await mp.flush(), FlushResult)
    assert_type(await mp.aclose(timeout=1), FlushResult)
    assert_type(mp.stats(), Stats)
    assert_type(await mp.import_events([]), ImportResult)
    assert_type(await mp.lookup_tables(), list[LookupTable])
    async with mp as entered:
        assert_type(entered, AsyncMixpanel)


def sync_face() -> None:
    mp = Mixpanel("t", BufferedConsumer(2000, retry=RetryPolicy()))
    assert_type(mp.track("u", "E", {"a": 1}, time=1.0), None)
    assert_type(mp.import_data(None, "u", "E", 1), None)
    assert_type(mp.flush(), FlushResult)
    assert_type(mp.import_events([], start_at=5), ImportResult)
    assert_type(mp.lookup_tables(), list[LookupTable])
    with mp as entered, context("u", plan="team"):
        assert_type(entered, Mixpanel)


def mistakes() -> None:
    Mixpanel("t", region="mars")  # type: ignore[arg-type]
    Mixpanel("t", nonsense=1)  # type: ignore[call-arg]
    Consumer(on_error=3)  # type: ignore[arg-type]
    AsyncBufferedConsumer("many")  # type: ignore[arg-type]
    Mixpanel("t").people_set("u", {}, nonsense=1)  # type: ignore[call-arg]
    Mixpanel("t").import_events([], nonsense=1)  # type: ignore[call-arg]
