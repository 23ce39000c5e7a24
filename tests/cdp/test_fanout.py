"""One call to several sinks: the same message, translated for each vendor, async and sync."""

import asyncio
import inspect
from collections.abc import Coroutine
from datetime import UTC, datetime
from typing import Any

import pytest

from mixpanel import (
    AsyncMixpanel,
    ConfigurationError,
    Mixpanel,
    SyncInAsyncError,
    ValidationError,
    context,
)
from mixpanel._records.record import deterministic_id
from mixpanel.cdp import (
    AsyncFanOut,
    Dialect,
    FanOut,
    Hightouch,
    SegmentClient,
    Sink,
    WriteKey,
    semantic,
)
from mixpanel.cdp._fanout.methods import FanOutMethods
from mixpanel.cdp._fanout.routing import parse_consent
from mixpanel.testing import MemoryConsumer, capture
from tests.cdp.run_clients import RUNTIMES, messages
from tests.cdp.run_fanout import PAID, UNREACHABLE, all_counts, counts, send, sinks


@pytest.fixture(params=RUNTIMES)
def runtime(request):
    """Run a test on asyncio, on trio, and without a loop."""
    return request.param


# ---- the same fan_out -------------------------------------------------------------------------


@pytest.mark.slow
def test_all_sinks_receive_the_same_id_and_timestamp(emu, runtime):
    """So the same event can be found at all three vendors."""
    results, stats = send(runtime, sinks(runtime, emu), lambda f: f.track(*PAID))
    (event,) = emu.events()
    (customerio,), (hightouch,) = messages(emu, "customerio"), messages(emu, "hightouch")
    message_id = customerio["messageId"]
    assert [message_id] * 2 == [hightouch["messageId"], event["properties"]["$insert_id"]]
    assert customerio["timestamp"] == hightouch["timestamp"] == hightouch["originalTimestamp"]
    timestamp = datetime.fromisoformat(customerio["timestamp"])
    assert round(timestamp.timestamp() * 1000) == event["properties"]["time"]
    assert [12.5] * 3 == [each["properties"]["amount"] for each in (event, customerio, hightouch)]
    assert [True, True, True] == [result.ok for result in results.values()]
    assert {name: {"accepted": 1} for name in stats} == all_counts(stats)
    assert [1, 1, 1] == [each.client.delivered for each in stats.values()]


def test_message_id_and_timestamp_may_be_passed(emu):
    """Mixpanel gets a hash of a longer id, as for `dedupe_key`, and de-duplicates repetitions."""
    timestamp = datetime.now(UTC).replace(microsecond=0)
    calls = [
        lambda f: f.track(*PAID, message_id="order/17: paid", timestamp=timestamp),
        lambda f: f.track(*PAID, message_id="order/17: paid", timestamp=timestamp.timestamp()),
        lambda f: f.track("u-17", "Visit", message_id="a-1", timestamp=timestamp.isoformat()),
    ]
    send("trio", sinks("trio", emu), *calls)
    hashed = deterministic_id("Order Paid", "u-17", "order/17: paid")
    assert {hashed, "a-1"} == {each["properties"]["$insert_id"] for each in emu.events()}
    assert {timestamp.timestamp() * 1000} == {each["properties"]["time"] for each in emu.events()}
    for vendor in ("customerio", "hightouch"):
        assert ["order/17: paid"] * 2 + ["a-1"] == [m["messageId"] for m in messages(emu, vendor)]
        timestamp_fields = {m["timestamp"] for m in messages(emu, vendor)}
        assert {f"{timestamp.isoformat()[:19]}.000Z"} == timestamp_fields


def test_a_fan_out_copies_arguments_when_it_is_called(emu):
    """Iterators are read once, and later changes of the dict have no effect."""

    async def main():
        async with AsyncFanOut(**sinks("asyncio", emu)) as fan_out:
            data = {"tags": iter("ab"), "deep": [{"more": (n for n in (1, 2))}]}
            calling = fan_out.track("u-17", "Visit", data)
            data["deep"].clear()
            await calling

    asyncio.run(main())
    expected = {"tags": ["a", "b"], "deep": [{"more": [1, 2]}]}
    for each in (emu.events()[0], *messages(emu)):
        assert expected == {name: each["properties"][name] for name in expected}


@pytest.mark.slow
def test_a_fan_out_uses_the_ids_of_the_context(emu, runtime):
    """In all sinks; a call with its own ids does not mix them with those of the context."""

    async def inside(f):
        with context("u-17", {"page": "/"}, device_id="d-1"):
            await f.track(None, "Visit")
            await f.track(None, "Visit", anonymous_id="d-2")

    def inside_sync(f):
        with context("u-17", {"page": "/"}, device_id="d-1"):
            f.track(None, "Visit")
            f.track(None, "Visit", anonymous_id="d-2")

    send(runtime, sinks(runtime, emu), inside_sync if runtime == "sync" else inside)
    whole = [("u-17", "d-1"), (None, "d-2")]
    for vendor in ("customerio", "hightouch"):
        assert whole == [(m.get("userId"), m["anonymousId"]) for m in messages(emu, vendor)]
    values = [each["properties"] for each in emu.events()]
    assert [("u-17", "d-1"), (None, "d-2")] == [
        (each.get("$user_id"), each["$device_id"]) for each in values
    ]
    assert ["u-17", "$device:d-2"] == [each["distinct_id"] for each in values]
    assert ["/", "/"] == [each["page"] for each in values]


# ---- as Mixpanel says it -------------------------------------------------------------------------


def test_people_groups_and_views_are_translated_for_mixpanel(emu):
    """Reserved names of profiles, `group_key`, two events for pages and screens."""
    traits = {"email": "ada@example.com", "firstName": "Ada", "plan": "team",
              "name": "A. L.", "$name": "Ada L."}  # fmt: skip
    calls = [
        lambda f: f.identify("u-17", traits),
        lambda f: f.group("u-17", "acme", {"name": "Acme", "seats": 3}),
        lambda f: f.page("u-17", "Docs", "Start", {"url": "/start"}),
        lambda f: f.screen("u-17", None, "Home"),
    ]
    made = sinks("asyncio", emu, mixpanel={"group_key": "company"})
    _, stats = send("asyncio", made, *calls)
    assert {name: {"accepted": 4} for name in stats} == all_counts(stats)
    profile = {"$email": "ada@example.com", "$first_name": "Ada", "plan": "team",
               "$name": "Ada L.", "company": ["acme"]}  # fmt: skip
    assert {"u-17": profile} == emu.profiles()
    assert {("company", "acme"): {"$name": "Acme", "seats": 3}} == emu.groups()
    page, screen = emu.events()
    assert ("Page Viewed", "Screen Viewed") == (page["event"], screen["event"])
    assert {"category": "Docs", "name": "Start", "url": "/start"}.items() <= (
        page["properties"].items()
    )
    assert "Home" == screen["properties"]["name"]
    assert "category" not in screen["properties"]
    kinds = ["identify", "group", "page", "screen"]
    assert kinds == [m["type"] for m in messages(emu, "hightouch")]


def test_calls_without_an_equivalent_at_mixpanel_are_filtered(emu):
    """And counted; the other sinks receive them."""
    calls = [
        lambda f: f.identify(None, {"plan": "free"}, anonymous_id="d-1"),
        lambda f: f.identify("u-17"),
        lambda f: f.group("u-17", "acme", {"seats": 3}),
    ]
    _, stats = send("sync", sinks("sync", emu), *calls)
    assert {"unsupported": 3} == counts(stats["mixpanel"])
    assert {"accepted": 3} == counts(stats["hightouch"])
    assert ({}, {}) == (emu.profiles(), emu.groups())


def test_calls_that_a_vendor_does_not_support_are_filtered():
    """They are not counted as rejected."""
    narrow = Dialect("Narrow", {"us": UNREACHABLE}, kinds=frozenset({"track"}))
    with FanOut(narrow=Sink(SegmentClient(WriteKey("k"), narrow, disabled=True))) as fan_out:
        fan_out.page("u-17")
        fan_out.track("u-17", "Visit")
    assert {"unsupported": 1, "accepted": 1} == counts(fan_out.stats()["narrow"])


def test_a_mixpanel_sink_alone_rejects_a_call_without_ids():
    """There is no person to attach the event to."""
    fan_out = FanOut(mixpanel=Sink(Mixpanel("T", MemoryConsumer())))
    for call in (lambda f: f.identify(None), lambda f: f.track(None, "V"), lambda f: f.page()):
        with pytest.raises((ValidationError, TypeError), match="user_id"):
            call(fan_out)
    assert 0 == fan_out.stats()["mixpanel"].received


def test_the_spec_context_becomes_mixpanel_properties():
    """Where Mixpanel has a default property; the event's own properties take precedence."""
    kept = MemoryConsumer()
    data = {"page": {"url": "/a", "title": "A"}, "os": {"name": "iOS"}, "ip": "1.2.3.4", "app": 3,
            "campaign": {"name": "spring"}}  # fmt: skip
    with FanOut(mixpanel=Sink(Mixpanel("T", kept), group_key="company")) as fan_out:
        fan_out.track("u-17", "Visit", {"$os": "mine"}, context=data)
        fan_out.identify("u-17", {"plan": "team"}, context=data)
        fan_out.track("u-17", semantic.EmailOpened(email_id="e-1", email="ada@example.com"))
    run_calls, opened = kept.events
    expected = {"$current_url": "/a", "$os": "mine", "ip": "1.2.3.4", "utm_campaign": "spring"}
    assert expected.items() <= run_calls["properties"].items()
    assert "1.2.3.4" == kept.people[0]["$ip"]
    assert {"email_id": "e-1", "email": "ada@example.com"}.items() <= opened["properties"].items()


def test_a_before_send_hook_affects_only_its_own_sink(emu):
    """It may remove something that the other sinks should receive."""

    def hook(endpoint, message):
        message["properties"]["who"]["email"] = "gone"
        return message

    made = sinks("sync", emu, options={"mixpanel": {"before_send": hook}})
    properties = {"who": {"email": "ada@example.com"}}
    send("sync", made, lambda f: f.track("u-17", "Visit", properties))
    assert {"email": "gone"} == emu.events()[0]["properties"]["who"]
    assert [{"email": "ada@example.com"}] * 2 == [m["properties"]["who"] for m in messages(emu)]
    assert {"email": "ada@example.com"} == properties["who"]


# ---- the two faces -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "expected_error"),
    [
        (FanOut, "FanOut has no sinks; pass at least one"),
        (lambda: FanOut(mp=Sink(AsyncMixpanel("T"))), r"mp: FanOut takes Sink\(Mixpanel"),
        (lambda: AsyncFanOut(ht=Sink(Hightouch("k"))), "ht: AsyncFanOut takes .* not Hightouch"),
        (lambda: FanOut(mp=Mixpanel("T")), r"takes Sink\("),
        (lambda: FanOut(all=Sink(Mixpanel("T"))), "reserved name"),
        (lambda: FanOut(mp=Sink(Mixpanel("T"), sample=0.5)), "sample_rate="),
        (lambda: FanOut(ht=Sink(Hightouch("k"), sample=0)), r"ht: sample=0 must lie in \(0, 1\]"),
        (lambda: FanOut(ht=Sink(Hightouch("k"), sample=True)), "sample=True"),
        (lambda: FanOut(ht=Sink(Hightouch("k"), group_key="company")), "only a Mixpanel sink"),
        (lambda: FanOut(ht=Sink(Hightouch("k"), events=[])), "ht: events must be text"),
        (lambda: FanOut(ht=Sink(Hightouch("k"), events=["!"])), "ht: events must be text"),
        (lambda: FanOut(ht=Sink(Hightouch("k"), consent=())), "ht: consent must be text"),
        (lambda: FanOut(ht=Sink(Hightouch("k"), consent=5)), "ht: consent must be text"),
        (lambda: FanOut(ht=Sink(Hightouch("k"), calls=["trak"])), "calls must be some of"),
        (
            lambda: FanOut(ht=Sink(Hightouch("k"), calls=[])),
            "calls must be text, or a non-empty list",
        ),
        (lambda: FanOut(ht=Sink(Hightouch("k")), on_error="log"), "on_error must be a function"),
        (lambda: FanOut(ht=Sink(Hightouch("k")), consent=_asks_later), "async function"),
    ],
)
def test_invalid_sinks_are_rejected(make, expected_error):
    """At construction, naming the sink."""
    with pytest.raises(ConfigurationError, match=expected_error):
        make()


async def _asks_later(sampling_id):
    """An async consent function, which would never be awaited."""


def test_a_client_cannot_be_used_by_two_sinks():
    """Every message would be sent twice."""
    client = Hightouch("k")
    with pytest.raises(ConfigurationError, match="twice"):
        FanOut(one=Sink(client), other=Sink(client))


def test_unknown_options_of_a_fan_out_call_are_rejected():
    """A misspelt option must not be a silent default."""
    fan_out = FanOut(ht=Sink(Hightouch("k", disabled=True)))
    with pytest.raises(TypeError, match="track has no option 'consents'"):
        fan_out.track("u-17", "Visit", consents={"marketing"})


def test_sync_calls_do_not_block_a_running_loop(emu):
    """If one sink would block, the call is rejected; with buffered sinks only, it works."""
    all_three = FanOut(**sinks("sync", emu))
    buffered = FanOut(**sinks("sync", emu, only=["customerio", "hightouch"]))

    async def main():
        with pytest.raises(SyncInAsyncError, match="AsyncFanOut"):
            all_three.track(*PAID)
        buffered.track(*PAID)
        with pytest.raises(SyncInAsyncError):
            buffered.flush()

    asyncio.run(main())
    assert [0, 0, 0] == [each.received for each in all_three.stats().values()]
    all_three.close()
    buffered.close()
    assert 2 == len(messages(emu))


def test_a_fan_out_can_be_captured():
    """`mixpanel.testing` captures what a fan-out sends to Mixpanel."""
    with capture() as kept, FanOut(mixpanel=Sink(Mixpanel("T", base_url=UNREACHABLE))) as fan_out:
        fan_out.track(*PAID)
    kept.assert_tracked("Order Paid", distinct_id="u-17", amount=12.5)
    assert {"accepted": 1} == counts(fan_out.stats()["mixpanel"])


def test_both_fan_outs_have_the_same_methods():
    """The methods are written once, and every public one is documented."""
    public = {
        face: {name for name in dir(face) if not name.startswith("_")}
        for face in (AsyncFanOut, FanOut, FanOutMethods)
    }
    renamed = {"aclose": "close"}
    assert {renamed.get(name, name) for name in public[AsyncFanOut]} == public[FanOut]
    for name in public[FanOutMethods]:
        methods = [getattr(face, name) for face in (AsyncFanOut, FanOut)]
        first, second = map(inspect.signature, methods)
        assert first.parameters == second.parameters
        assert methods[0].__doc__ == methods[1].__doc__
        assert (Coroutine[Any, Any, None], None) == (
            first.return_annotation, second.return_annotation
        )  # fmt: skip
    for face in (AsyncFanOut, FanOut):
        assert all(inspect.getdoc(getattr(face, name)) for name in public[face])
    assert "<FanOut to ht>" == repr(FanOut(ht=Sink(Hightouch("k"))))


def test_consent_is_one_or_several_texts():
    """A single text is one purpose, and in a mapping only True counts."""
    assert {"ads"} == parse_consent("ads") == parse_consent({"ads": True, "mail": None, "sms": 1})


@pytest.mark.slow
@pytest.mark.parametrize("way", ["call", "context", "before_send"])
def test_ids_that_are_converted_are_counted_by_each_client(emu, runtime, way):
    """As the clients count them without a fan-out: 17.0 becomes 17, a missing value no id."""
    made = sinks(runtime, emu)

    def before_send(kind, message):
        return {**message, "userId": 17.0, "anonymousId": float("nan")}

    def call(fan_out):
        if way == "before_send":
            return fan_out.track("u", "Paid")
        if way == "context":
            with context(user_id=17.0, device_id=18.0):
                return fan_out.track(event="Paid")
        return fan_out.track(17.0, "Paid", anonymous_id=float("nan"))

    options = {"before_send": before_send} if way == "before_send" else {}
    _, stats = send(runtime, made, call, **options)
    warnings = {name: dict(each.client.warnings) for name, each in stats.items()}
    assert warnings == {name: {"coerced": 2} for name in made}
    assert {message["userId"] for message in messages(emu)} == {"17"}
    assert {event["properties"]["distinct_id"] for event in emu.events()} == {"17"}


def test_a_client_that_raises_for_converted_ids_rejects_the_call(emu):
    """The other sinks get it, and the group's id counts as well."""
    strict = {"customerio": {"validation": "raise"}}
    made = sinks("sync", emu, options=strict, mixpanel={"group_key": "company"})
    errors = []

    def note(sink, error):
        errors.append((sink, str(error)))

    _, stats = send("sync", made, lambda f: f.group("u", 17.0, {"a": 1}), on_error=note)
    assert [sink for sink, _ in errors] == ["customerio"]
    assert "group_id 17.0 was sent as '17'" in errors[0][1]
    assert counts(stats["customerio"]) == {"invalid": 1}
    assert stats["mixpanel"].client.warnings == {"coerced": 1}
    assert [message["groupId"] for message in messages(emu)] == ["17"]
