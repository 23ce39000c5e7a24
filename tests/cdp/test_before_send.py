"""`before_send` changes or drops messages to customer data platforms."""

import logging

import pytest

from mixpanel import BufferedConsumer, ConfigurationError, Mixpanel
from mixpanel.cdp import CustomerIO, FanOut, Hightouch, RudderStack, Sink, semantic
from tests.cdp.run_clients import RUNTIMES, messages, run_calls


def without_email(_kind, message):
    """Remove an address, also from nested traits."""
    message.get("traits", {}).pop("email", None)
    return message


@pytest.mark.slow
@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("send_immediately", [False, True])
def test_the_hook_changes_what_is_sent(emu, runtime, send_immediately):
    """And not the caller's objects."""
    traits = {"email": "ada@example.com", "plan": "team"}
    _, stats = run_calls(
        runtime, emu, "customerio",
        lambda c: c.identify("u", traits),
        before_send=without_email, send_immediately=send_immediately,
    )  # fmt: skip
    assert {"plan": "team"} == messages(emu)[0]["traits"]
    assert {"email": "ada@example.com", "plan": "team"} == traits
    assert 1 == stats.delivered


@pytest.mark.slow
@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("send_immediately", [False, True])
def test_the_hook_drops_a_message_by_none(emu, runtime, send_immediately):
    """It is counted, with each message's outcome, and not reported as a loss."""
    outcomes, losses = [], []
    _, stats = run_calls(
        runtime, emu, "hightouch",
        lambda c: c.track("u", "Secret"),
        lambda c: c.track("u", "Visit"),
        lambda c: c.batch([{"type": "page", "userId": "u"}, {"type": "screen", "userId": "u"}]),
        before_send=lambda kind, m: None if kind == "page" or m.get("event") == "Secret" else m,
        on_delivery=outcomes.append, on_drop=lambda *call: losses.append(call),
        send_immediately=send_immediately,
    )  # fmt: skip
    assert ["track", "screen"] == [m["type"] for m in messages(emu)]
    assert ({"before_send": 2}, 2, 0) == (stats.dropped, stats.delivered, stats.lost)
    assert stats.balanced
    assert ["before_send"] * 2 == [one.reason for one in outcomes if one.fate == "dropped"]
    assert [] == losses


@pytest.mark.parametrize("hook", [lambda *_: 1 / 0, lambda *_: "text"])
def test_a_message_that_the_hook_fails_on_is_not_sent(emu, hook, caplog):
    """The hook may exist to remove private data."""
    with CustomerIO("k", base_url=emu.customerio_url, before_send=hook) as client:
        with caplog.at_level(logging.ERROR):
            client.track("u", "Visit")
        assert {"before_send_error": 1} == client.stats().dropped
        assert 1 == client.stats().lost
    assert [] == emu.cdp_messages()
    assert "before_send" in caplog.text


def test_the_hook_sees_the_message_as_it_is_sent(emu):
    """Typed events at the places where the vendor reads them, with the default context."""
    seen = []
    with CustomerIO(
        "k", base_url=emu.customerio_url, default_context={"app": {"name": "shop"}},
        before_send=lambda kind, message: seen.append((kind, message)) or message,
    ) as client:  # fmt: skip
        client.track("u", semantic.DeviceCreatedOrUpdated(token="t", type="ios"), {"beta": True})
        client.flush()
    [(kind, message)] = seen
    assert ("track", "Device Created or Updated") == (kind, message["event"])
    assert "shop" == message["context"]["app"]["name"]
    assert {"token": "t", "type": "ios", "beta": True} == message["context"]["device"]
    assert {"type", "messageId", "timestamp", "userId", "event", "context"} <= set(message)
    assert message == messages(emu)[0]


def test_the_hook_comes_before_the_fields_of_a_vendor(emu):
    """So one hook serves all vendors."""
    seen = []
    with RudderStack(
        "k", base_url=emu.hightouch_url, before_send=lambda _, m: seen.append(dict(m)) or m
    ) as client:
        client.identify("u", {"plan": "team"})
        client.flush()
    assert "channel" not in seen[0]
    assert {"plan": "team"} == seen[0]["traits"]
    assert "server" == messages(emu)[0]["channel"]


@pytest.mark.slow
def test_the_hook_may_send_messages_itself(emu):
    """They are not passed to it, or it would never return."""

    def hook(_kind, message):
        client.track("u", "Hooked")
        return message

    with Hightouch("k", base_url=emu.hightouch_url, before_send=hook) as client:
        client.track("u", "Visit")
        client.flush()
    assert ["Hooked", "Visit"] == [m["event"] for m in messages(emu)]


def test_the_hook_cannot_change_the_kind_of_a_message(emu):
    """A message id that it changes is the one that is reported."""
    outcomes = []

    def hook(_kind, message):
        message.pop("type")
        return {**message, "messageId": "mine"}

    with Hightouch(
        "k", base_url=emu.hightouch_url, before_send=hook, on_delivery=outcomes.append,
        send_immediately=True,
    ) as client:  # fmt: skip
        client.track("u", "Visit")
    assert ("track", "mine") == (outcomes[0].kind, outcomes[0].message_id)
    assert [("track", "mine")] == [(m["type"], m["messageId"]) for m in messages(emu)]


def test_a_backfill_runs_the_hook(emu):
    """Dropped rows are left out; rows that it fails on are rejected."""

    def hook(_kind, message):
        if message["event"] == "Bad":
            raise ValueError
        return None if message["event"] == "Secret" else message

    rows = [
        {"type": "track", "userId": "u", "event": event, "timestamp": "2026-01-31"}
        for event in ("Visit", "Secret", "Bad")
    ]
    with CustomerIO("k", base_url=emu.customerio_url, before_send=hook) as client:
        result = client.backfill(rows)
    assert ["Visit"] == [m["event"] for m in messages(emu)]
    assert (1, 1) == (result.imported, result.rejected)


def fan_out(emu, **options):
    """Return a fan-out to all three."""
    return FanOut(
        mixpanel=Sink(Mixpanel("token", BufferedConsumer(base_url=emu.url)), group_key="company"),
        customerio=Sink(CustomerIO("k", base_url=emu.customerio_url)),
        hightouch=Sink(Hightouch("k", base_url=emu.hightouch_url)),
        **options,
    )


def test_a_hook_of_a_fan_out_changes_a_call_for_all_sinks(emu):
    """Ids, properties, traits and context, and not the caller's objects."""
    traits = {"email": "ada@example.com", "plan": {"name": "team"}}

    def hook(kind, message):
        if kind == "identify":
            del message["traits"]["email"]
            message["traits"]["plan"]["name"] = "changed"
        elif kind == "track":
            message |= {"event": f"Shop {message['event']}", "userId": "other"}
            message["properties"]["amount"] = 2
        return message

    with fan_out(emu, before_send=hook) as fan:
        fan.identify("u", traits)
        fan.track("u", "Paid", {"amount": 1}, timestamp="2026-11-29T10:00:00Z")
        fan.page("u", "Docs", "Start", {"a": 1})
        fan.group("u", "acme", {"size": 3})
        fan.flush()
    assert {"email": "ada@example.com", "plan": {"name": "team"}} == traits
    for vendor in ("customerio", "hightouch"):
        identified, tracked, paged, grouped = messages(emu, vendor)
        assert {"plan": {"name": "changed"}} == identified["traits"]
        assert ("other", "Shop Paid", {"amount": 2}) == (
            tracked["userId"], tracked["event"], tracked["properties"],
        )  # fmt: skip
        assert ("Docs", "Start", 1) == (paged["category"], paged["name"], paged["properties"]["a"])
        assert ("acme", {"size": 3}) == (grouped["groupId"], grouped["traits"])
    events = {event["event"]: event["properties"] for event in emu.events()}
    assert {"Shop Paid", "Page Viewed"} == set(events)
    assert ("other", 2) == (events["Shop Paid"]["distinct_id"], events["Shop Paid"]["amount"])


@pytest.mark.parametrize(
    ("hook", "reason"),
    [(lambda *_: None, "before_send"), (lambda *_: 1 / 0, "before_send_error")],
)
def test_a_hook_of_a_fan_out_drops_a_call_for_all_sinks(emu, hook, reason):
    """Each sink counts it."""
    with fan_out(emu, before_send=hook) as fan:
        fan.track("u", "Paid")
        stats = fan.stats()
    assert [{reason: 1}] * 3 == [sink.filtered for sink in stats.values()]
    assert all(sink.balanced for sink in stats.values())
    assert [] == [*emu.cdp_messages(), *emu.events()]


@pytest.mark.parametrize("changes", [False, True])
def test_a_typed_event_passes_the_hook_of_a_fan_out(emu, changes):
    """With its fields where the vendors read them, and as an action unless they are changed."""

    def hook(_kind, message):
        assert "t" == message["context"]["device"]["token"]
        if changes:
            message["context"]["device"]["name"] = "phone"
        return message

    with fan_out(emu, before_send=hook) as fan:
        fan.track("u", semantic.DeviceCreatedOrUpdated(token="t", type="ios"), {"beta": True})
        fan.track("u", semantic.DeviceDeleted(token="t"))
        fan.flush()
        filtered = fan.stats()["hightouch"].filtered
    created, deleted = messages(emu, "customerio")
    added = {"name": "phone"} if changes else {}
    assert {"token": "t", "type": "ios", "beta": True, **added} == created["context"]["device"]
    assert {"token": "t", **added} == deleted["context"]["device"]
    assert {"action": 2} == filtered


def test_a_hook_that_is_not_a_plain_function_is_rejected():
    """An async one would never be awaited."""

    async def hook(_kind, message):
        return message

    with pytest.raises(ConfigurationError, match="before_send is an async function"):
        CustomerIO("k", before_send=hook)
