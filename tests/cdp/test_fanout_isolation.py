"""One sink never harms another, and of every call each has an account."""

import asyncio
import os
import subprocess
import sys

import anyio
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mixpanel import (
    AsyncMixpanel,
    ClosedError,
    Limits,
    Mixpanel,
    RetryPolicy,
    ServerError,
    ValidationError,
)
from mixpanel.cdp import AsyncFanOut, AsyncHightouch, CustomerIO, FanOut, Hightouch, Sink, semantic
from mixpanel.emulator import Fault
from mixpanel.testing import MemoryConsumer
from tests.cdp.run_clients import RUNTIMES, messages
from tests.cdp.run_fanout import PAID, UNREACHABLE, all_counts, counts, send, sinks
from tests.effort import cases


@pytest.fixture(params=RUNTIMES)
def runtime(request):
    """Run a test on asyncio, on trio, and without a loop."""
    return request.param


# ---- one sink never harms another ----------------------------------------------------------------


@pytest.mark.slow
def test_a_call_that_one_sink_rejects_is_sent_to_the_others(emu, runtime):
    """It is reported to `on_error`, and counted."""
    reported = []
    calls = [
        lambda f: f.group(None, "acme", {"seats": 3}),  # Hightouch asks for a member
        lambda f: f.track("u-17", "Visit", {"time": "noon"}),  # to Mixpanel, when it happened
    ]
    made = sinks(runtime, emu, mixpanel={"group_key": "company"})
    _, stats = send(
        runtime, made, *calls, on_error=lambda name, error: reported.append((name, error))
    )
    assert ["group", "track"] == [m["type"] for m in messages(emu, "customerio")]
    assert ["hightouch", "mixpanel"] == [name for name, _ in reported]
    assert all(isinstance(error, ValidationError) for _, error in reported)
    assert "use timestamp instead" in str(reported[1][1])
    expected = {"mixpanel": {"accepted": 1, "invalid": 1}, "customerio": {"accepted": 2},
                "hightouch": {"accepted": 1, "invalid": 1}}  # fmt: skip
    assert expected == all_counts(stats)


WRONG = (
    lambda f: f.track(None, "Visit"),
    lambda f: f.track("u-17", ""),
    lambda f: f.track("u-17", "Visit", ["no mapping"]),
    lambda f: f.track("u-17", "Visit", timestamp="yesterday"),
    lambda f: f.track("u-17", "Visit", consent=True),
    lambda f: f.track("u-17", "Visit", integrations={"Hightouch": "no"}),
    lambda f: f.track("u-17", "Visit", message_id=""),
    lambda f: f.track(1.5, "Visit"),
    lambda f: f.track("u-17", "Visit", context=3),
    lambda f: f.track("u-17", "Visit", {"n": _failing()}),
    lambda f: f.identify(None, {"plan": "team"}),
    lambda f: f.group("u-17", ""),
    lambda f: f.page("u-17", 5),
)


def test_an_invalid_call_raises_and_is_sent_to_no_sink(emu):
    """At the caller's line, before anything is sent; such a call counts as never made."""
    fan_out = FanOut(**sinks("sync", emu))
    for call in WRONG:
        with pytest.raises(ValidationError):
            call(fan_out)
    fan_out.close()
    assert [] == emu.requests()
    assert [0, 0, 0] == [each.received for each in fan_out.stats().values()]


def _failing():
    yield 1
    raise OSError("gone")


def test_a_validation_error_names_the_sinks(emu):
    """Once, when all say the same."""
    fan_out = FanOut(**sinks("sync", emu, only=["customerio", "hightouch"]))
    text = "track requires a user_id or an anonymous_id (customerio, hightouch)"
    with pytest.raises(ValidationError) as caught:
        fan_out.track(None, "Visit")
    assert text == str(caught.value)
    fan_out.close()


@pytest.mark.slow
def test_a_server_that_is_down_affects_only_its_own_sink(emu, runtime):
    """The others get everything; its messages are waited for, then counted."""
    emu.play(Fault.status(500).forever(), path="/hightouch/v1/batch")
    swift = {"retry": RetryPolicy(first_wait=0.01, max_age=0.1), "on_error": lambda *_: None}
    calls = [lambda f, n=n: f.track(f"u-{n}", "Visit") for n in range(20)]
    made = sinks(runtime, emu, options={"hightouch": swift})
    results, stats = send(runtime, made, *calls)
    assert (20, 20) == (len(emu.events()), len(messages(emu, "customerio")))
    assert [True, True, False] == [result.ok for result in results.values()]
    assert {name: {"accepted": 20} for name in stats} == all_counts(stats)
    assert {"expired": 20} == stats["hightouch"].client.dropped


@pytest.mark.slow
def test_an_error_of_a_sink_that_sends_immediately_is_its_rejection(emu, runtime, caplog):
    """It is reported to `on_error`, or logged; the other sinks receive the call."""
    emu.play(Fault.status(500).forever(), path="/hightouch/v1/track")
    reported = []
    send_immediately = {"send_immediately": True, "retry": RetryPolicy(attempts=2, first_wait=0.01)}
    options = {"hightouch": send_immediately, "customerio": send_immediately}
    for on_error in (lambda *given: reported.append(given), None):
        made = sinks(runtime, emu, options=options)
        _, stats = send(runtime, made, lambda f: f.track(*PAID), on_error=on_error)
        assert {"undelivered": 1} == counts(stats["hightouch"])
        assert {"accepted": 1} == counts(stats["customerio"]) == counts(stats["mixpanel"])
    ((name, error),) = reported
    assert ("hightouch", ServerError) == (name, type(error))
    assert "hightouch rejected a call: Hightouch: HTTP 500" in caplog.text
    assert (2, 2) == (len(emu.events()), len(messages(emu, "customerio")))


@pytest.mark.slow
def test_full_and_closed_clients_do_not_affect_other_sinks(emu, runtime):
    """A callback that raises changes nothing."""

    def broken(*_):
        raise RuntimeError("mine")

    full = {"when_full": "raise", "limits": Limits(max_queue_size=1, flush_after=None)}
    made = sinks(runtime, emu, options={"customerio": full})
    client = made["hightouch"].client
    if runtime == "sync":
        client.close()
    else:
        anyio.run(client.aclose, backend=runtime)
    calls = [lambda f, n=n: f.track(f"u-{n}", "Visit") for n in range(2)]
    _, stats = send(runtime, made, *calls, on_error=broken)
    expected = {"mixpanel": {"accepted": 2}, "customerio": {"accepted": 1, "queue_full": 1},
                "hightouch": {"closed": 2}}  # fmt: skip
    assert expected == all_counts(stats)


class Meeting:
    """A consumer whose send returns only when all the others are sending, too."""

    def __init__(self, guests):
        self.guests = guests
        self.here = anyio.Event()

    async def send(self, endpoint, json_message, api_key=None, api_secret=None):
        self.here.set()
        for guest in self.guests:
            await guest.here.wait()


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_sinks_that_send_immediately_run_concurrently(backend):
    """Awaiting takes as long as the slowest needs: one after the other, these would never end."""

    async def go():
        guests = []
        guests += [Meeting(guests) for _ in range(3)]
        made = {f"s{n}": Sink(AsyncMixpanel("T", guest)) for n, guest in enumerate(guests)}
        async with AsyncFanOut(**made) as fan_out:
            with anyio.fail_after(5):
                await fan_out.track("u-17", "Visit")
            return fan_out.stats()

    stats = anyio.run(go, backend=backend)
    assert {name: {"accepted": 1} for name in stats} == all_counts(stats)


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_cancelled_call_is_counted_as_interrupted(backend):
    """A delivery in progress counts as interrupted; accepted calls stay accepted."""

    async def go():
        stuck = Meeting([])
        stuck.guests.append(Meeting([]))
        made = {
            "stuck": Sink(AsyncMixpanel("T", stuck)),
            "quick": Sink(AsyncHightouch("k", disabled=True)),
        }
        fan_out = AsyncFanOut(**made)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(fan_out.track, "u-17", "Visit")
            await stuck.here.wait()
            under_way = fan_out.stats()
            tasks.cancel_scope.cancel()
        await fan_out.aclose()
        return under_way, fan_out.stats()

    under_way, after = anyio.run(go, backend=backend)
    assert {"stuck": {"pending": 1}, "quick": {"accepted": 1}} == all_counts(under_way)
    assert {"stuck": {"interrupted": 1}, "quick": {"accepted": 1}} == all_counts(after)


def test_a_fan_out_call_that_is_never_awaited_is_accepted(emu):
    """By the sinks that send in the background."""

    async def main():
        async with AsyncFanOut(**sinks("asyncio", emu)) as fan_out:
            fan_out.track(*PAID).close()
        return fan_out.stats()

    stats = asyncio.run(main())
    assert [1, 1, 1] == [each.client.delivered for each in stats.values()]


CALLS = st.one_of(
    st.builds(
        lambda user, name, properties, options: (
            lambda f: f.track(user, name, properties, **options)
        ),
        st.sampled_from(["u-1", "u-2", None, 0]),
        st.sampled_from(["Order Paid", "Order Viewed", "User Deleted", semantic.UserSuppressed()]),
        st.sampled_from([None, {}, {"time": 1}, {"n": [1]}, {"big": "x" * 40_000}]),
        st.fixed_dictionaries(
            {},
            optional={
                "consent": st.sampled_from(["marketing", (), {"marketing": False}]),
                "integrations": st.sampled_from([{"All": False}, {"full": False}, {"Ads": True}]),
                "anonymous_id": st.just("d-1"),
            },
        ),
    ),
    st.builds(lambda user: lambda f: f.identify(user, {"n": 1}), st.sampled_from(["u-1", None])),
    st.builds(lambda user: lambda f: f.group(user, "g"), st.sampled_from(["u-1", None])),
    st.just(lambda f: f.page("u-3", None, "Start")),
)


@pytest.mark.slow
@settings(max_examples=cases(50, 1000))
@given(st.lists(CALLS, max_size=12))
def test_the_counts_of_every_sink_balance(calls):
    """Every call that did not raise is counted once; the clients' counts balance too."""
    full = {"when_full": "raise", "limits": Limits(max_queue_size=2, flush_after=None)}
    made = {
        "mixpanel": Sink(Mixpanel("T", MemoryConsumer(), sample_rate=0.5)),
        "full": Sink(CustomerIO("k", base_url=UNREACHABLE, **full), consent="marketing"),
        "some": Sink(Hightouch("k", disabled=True), events=["Order *"], sample=0.5),
    }
    fan_out = FanOut(on_error=lambda *_: None, **made)
    made_calls = 0
    for call in calls:
        try:
            call(fan_out)
            made_calls += 1
        except ValidationError:
            pass
        stats = fan_out.stats()
        assert [made_calls] * 3 == [each.received for each in stats.values()]
        assert all(each.balanced and each.client.balanced for each in stats.values())
        assert [0, 0, 0] == [each.pending for each in stats.values()]
        assert all(each.accepted == each.client.accepted for each in list(stats.values())[1:])
    made["full"].client._sender.buffer.drop_all("test")
    fan_out.close(0)


# ---- opening, flushing, closing ------------------------------------------------------------------


@pytest.mark.slow
def test_closing_a_fan_out_leaves_keep_open_clients_open(emu, runtime):
    """Those are flushed and stay usable."""
    made = sinks(runtime, emu, hightouch={"keep_open": True})
    send(runtime, made, lambda f: f.track(*PAID))
    assert 1 == len(messages(emu, "hightouch"))

    async def after():
        with pytest.raises(ClosedError):
            await made["customerio"].client.track(*PAID)
        await made["hightouch"].client.track(*PAID)
        await made["hightouch"].client.aclose()

    if runtime == "sync":
        with pytest.raises(ClosedError):
            made["customerio"].client.track(*PAID)
        made["hightouch"].client.track(*PAID)
        made["hightouch"].client.close()
    else:
        anyio.run(after, backend=runtime)
    assert 2 == len(messages(emu, "hightouch"))


@pytest.mark.slow
def test_a_closed_fan_out_accepts_nothing(emu, runtime):
    """Closing it again has no effect."""
    made = sinks(runtime, emu)
    if runtime == "sync":
        fan_out = FanOut(**made)
        fan_out.track(*PAID)
        assert [True] * 3 == [result.ok for result in fan_out.close().values()]
        assert [0, 0, 0] == [result.delivered for result in fan_out.close().values()]
        with pytest.raises(ClosedError):
            fan_out.track(*PAID)
        return

    async def go():
        fan_out = AsyncFanOut(**made)
        await fan_out.track(*PAID)
        assert [True] * 3 == [result.ok for result in (await fan_out.aclose()).values()]
        assert [0, 0, 0] == [result.delivered for result in (await fan_out.aclose()).values()]
        with pytest.raises(ClosedError):
            await fan_out.track(*PAID)

    anyio.run(go, backend=runtime)


class Broken:
    """A consumer that cannot flush."""

    def send(self, endpoint, json_message, api_key=None, api_secret=None):
        raise LookupError("not today")

    def flush(self):
        raise OSError("disk full")


@pytest.mark.slow
def test_a_failing_consumer_does_not_keep_other_sinks_from_closing(emu, runtime):
    """Its error is raised at the end; its messages are counted as rejected."""
    made = sinks(runtime, emu, only=["hightouch"])
    face = Mixpanel if runtime == "sync" else AsyncMixpanel
    made |= {"first": Sink(face("T", Broken())), "second": Sink(face("T", Broken()))}
    with pytest.raises(ExceptionGroup) as caught:
        send(runtime, made, lambda f: f.track(*PAID), on_error=lambda *_: None)
    assert [OSError, OSError] == [type(error) for error in caught.value.exceptions]
    assert 1 == len(messages(emu))
    made = sinks(runtime, emu, only=["hightouch"]) | {"first": Sink(face("T", Broken()))}
    with pytest.raises(OSError, match="disk full"):
        send(runtime, made, lambda f: f.track(*PAID), on_error=lambda *_: None)
    assert 2 == len(messages(emu))


def test_a_client_that_cannot_be_entered_leaves_no_client_open(emu):
    """Those that were entered before are closed again."""

    class Shut(AsyncMixpanel):
        async def __aenter__(self):
            raise OSError("no flags")

    made = sinks("asyncio", emu, only=["hightouch"])
    made["shut"] = Sink(Shut("T", base_url=emu.url))

    async def go():
        async with AsyncFanOut(**made):
            pass

    with pytest.raises(OSError, match="no flags"):
        asyncio.run(go())
    assert made["hightouch"].client._closed


SCRIPT = """
import os
from mixpanel.cdp import CustomerIO, FanOut, Hightouch, Sink
fan_out = FanOut(
    customerio=Sink(CustomerIO("k", base_url=os.environ["CIO_URL"])),
    hightouch=Sink(Hightouch("k", base_url=os.environ["HT_URL"]), events="Parent"),
)
fan_out.track("u", "Parent")
assert fan_out.flush()["customerio"].ok
child = os.fork()
if child == 0:
    assert 0 == fan_out.stats()["hightouch"].received
    fan_out.track("u", "Child")
    assert {"routing": 1} == fan_out.stats()["hightouch"].filtered
else:
    os.waitpid(child, 0)
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
def test_a_forked_child_counts_from_zero(emu):
    """And sends its own messages when it ends."""
    env = {**os.environ, "CIO_URL": emu.customerio_url, "HT_URL": emu.hightouch_url}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", SCRIPT], env=env, check=True, capture_output=True,
        timeout=120,
    )  # fmt: skip
    assert b"" == done.stderr
    assert ["Child", "Parent"] == sorted(m["event"] for m in messages(emu, "customerio"))
    assert ["Parent"] == [m["event"] for m in messages(emu, "hightouch")]
