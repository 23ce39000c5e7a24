"""Which sinks of a fan-out a call is for: events, consent, integrations, samples, actions."""

import pytest

from mixpanel import Mixpanel
from mixpanel.cdp import FanOut, Hightouch, Sink, semantic
from mixpanel.cdp._fanout.routing import (
    Call,
    IntegrationSelection,
    SinkRules,
    event_matcher,
    parse_integrations,
)
from mixpanel.cdp._segment.message import KINDS
from mixpanel.testing import MemoryConsumer
from tests.cdp.run_clients import messages
from tests.cdp.run_fanout import PAID, all_counts, counts, send, sinks

# ---- who gets what -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "wanted", "unwanted"),
    [
        (["Order *"], ["Order Paid", "Order "], ["Orders", "My Order Paid", "order paid"]),
        (["Order *", "!Order Viewed"], ["Order Paid"], ["Order Viewed", "Visit"]),
        (["!Order Viewed", "Order *"], ["Order Paid"], ["Order Viewed"]),
        (["!Debug *"], ["Order Paid", "Visit"], ["Debug Mail"]),
        (["Really?", "[a]"], ["Really?", "[a]"], ["Really!", "a"]),
        (["*ed"], ["Paid and delivered", "two\nlines ended"], ["Paid"]),
    ],
)
def test_event_patterns_have_wildcards_and_exclusions(given, wanted, unwanted):
    """Only `*` is special, and an exclusion takes precedence."""
    matches = event_matcher(given)
    assert [True] * len(wanted) == list(map(matches, wanted))
    assert [False] * len(unwanted) == list(map(matches, unwanted))


def test_sinks_are_routed_by_event_and_kind_of_call(emu):
    """Event patterns apply to pages, but not to people and groups."""
    calls = [
        lambda f: f.identify("u-17", {"plan": "team"}),
        lambda f: f.track(*PAID),
        lambda f: f.track("u-17", " Order Viewed "),
        lambda f: f.page("u-17", None, "Start"),
    ]
    made = sinks(
        "trio", emu, mixpanel={"calls": ["track"]},
        customerio={"events": ["Order *", "!Order Viewed"]}, hightouch={"events": "!Page Viewed"},
    )  # fmt: skip
    _, stats = send("trio", made, *calls)
    assert ["identify", "track"] == [m["type"] for m in messages(emu, "customerio")]
    assert ["identify", "track", "track"] == [m["type"] for m in messages(emu, "hightouch")]
    expected = {"mixpanel": {"accepted": 2, "routing": 2},
                "customerio": {"accepted": 2, "routing": 2},
                "hightouch": {"accepted": 3, "routing": 1}}  # fmt: skip
    assert expected == all_counts(stats)


def test_a_sink_with_consent_receives_only_people_who_agreed(emu):
    """To all purposes of the sink; unknown consent counts as none."""
    calls = [
        lambda f: f.track("u-1", "V"),
        lambda f: f.track("u-2", "V", consent=()),
        lambda f: f.track("u-3", "V", consent="marketing"),
        lambda f: f.track("u-4", "V", consent={"marketing": True, "ads": False}),
        lambda f: f.track("u-5", "V", consent=["ads", "marketing"]),
        lambda f: f.identify("u-6", {"plan": "team"}, consent={"market"}),
    ]
    rules = {"customerio": {"consent": "marketing"}, "hightouch": {"consent": ["marketing", "ads"]}}
    _, stats = send("asyncio", sinks("asyncio", emu, **rules), *calls)
    assert ["u-3", "u-4", "u-5"] == [m["userId"] for m in messages(emu, "customerio")]
    assert ["u-5"] == [m["userId"] for m in messages(emu, "hightouch")]
    expected = {"mixpanel": {"accepted": 6}, "customerio": {"accepted": 3, "consent": 3},
                "hightouch": {"accepted": 1, "consent": 5}}  # fmt: skip
    assert expected == all_counts(stats)


def test_consent_may_come_from_a_function(emu, caplog):
    """It gets the person's id; a call's own consent takes precedence, and an error means none."""
    requested = []

    def consent_of(sampling_id):
        requested.append(sampling_id)
        return {"u-1": {"marketing"}, "d-1": "marketing", "u-2": None}[sampling_id]

    calls = [
        lambda f: f.track("u-1", "V"),
        lambda f: f.track(None, "V", anonymous_id="d-1"),
        lambda f: f.track("u-2", "V"),
        lambda f: f.track("u-3", "V"),
        lambda f: f.track("u-1", "V", consent=set()),
    ]
    made = sinks("sync", emu, only=["hightouch"], hightouch={"consent": "marketing"})
    _, stats = send("sync", made, *calls, consent=consent_of)
    assert {"accepted": 2, "consent": 3} == counts(stats["hightouch"])
    assert ["u-1", "d-1", "u-2", "u-3"] == requested
    assert 2 == caplog.text.count("the fan-out's consent function failed")


def test_integrations_turn_sinks_off(emu):
    """By the name of the sink or its vendor; other names are passed on to the vendors."""
    calls = [
        lambda f: f.track("u-1", "V", integrations={"Hightouch": False, "Ads": False}),
        lambda f: f.track("u-2", "V", integrations={"All": False, "Customer.io": True}),
        lambda f: f.track("u-3", "V", integrations={"customer_io": False, "MIXPANEL": False}),
        lambda f: f.track("u-4", "V", integrations={"All": False}),
    ]
    _, stats = send("trio", sinks("trio", emu), *calls)
    assert {"u-1"} == {each["properties"]["distinct_id"] for each in emu.events()}
    values = [(m["userId"], m.get("integrations")) for m in messages(emu, "customerio")]
    assert [("u-1", {"Ads": False}), ("u-2", None)] == values
    assert [("u-3", None)] == [
        (m["userId"], m.get("integrations")) for m in messages(emu, "hightouch")
    ]
    assert [3, 2, 3] == [each.filtered["integrations"] for each in stats.values()]


@pytest.mark.parametrize(
    ("integrations", "expected"),
    [
        ({}, IntegrationSelection({}, True, None)),
        ({"All": False, "ht": True}, IntegrationSelection({"ht": True}, False, None)),
        (
            {"All": False, "Ads": {"id": 1}},
            IntegrationSelection({}, False, {"Ads": {"id": 1}, "All": False}),
        ),
    ],
)
def test_integrations_are_split_into_sinks_and_vendors(integrations, expected):
    """A vendor never reads an "All" that was meant for the fan-out alone."""
    assert expected == parse_integrations(integrations, frozenset({"ht"}))


def rules(**given):
    options = {
        "supports_actions": False,
        "calls": KINDS,
        "events": None,
        "consent": None,
        "sample": 1.0,
        **given,
    }
    return SinkRules.from_options("ht", "Hightouch", **options)


def visit_call(user_id, **arguments):
    data = {"event": "Visit", "properties": None, **arguments}
    return Call("track", data, user_id, None, "m-1", "2026-01-31T12:00:00.000Z")


@pytest.mark.slow
def test_sampling_keeps_a_share_of_the_people():
    """Within three standard deviations of 10,000, and the smaller sample is part of the larger."""
    tenth, half = rules(sample=0.1), rules(sample=0.5)
    people = [f"user-{number}" for number in range(10_000)]
    few = {
        sampling_id
        for sampling_id in people
        if tenth.filter_reason(visit_call(sampling_id), frozenset()) is None
    }
    many = {
        sampling_id
        for sampling_id in people
        if half.filter_reason(visit_call(sampling_id), frozenset()) is None
    }
    assert abs(len(few) - 1000) < 90
    assert abs(len(many) - 5000) < 150
    assert few < many


def test_sampling_is_the_same_in_every_process_and_at_mixpanel():
    """`sample` chooses the same people as the `sample_rate` of a Mixpanel client."""
    kept = MemoryConsumer()
    made = {
        "mixpanel": Sink(Mixpanel("T", kept, sample_rate=0.3)),
        "hightouch": Sink(Hightouch("k", disabled=True), sample=0.3),
    }
    accepted = set()
    with FanOut(**made) as fan_out:
        for number in range(60):
            before = fan_out.stats()["hightouch"].accepted
            fan_out.track(f"user-{number}", "Visit")
            if fan_out.stats()["hightouch"].accepted > before:
                accepted.add(f"user-{number}")
    assert accepted == {each["properties"]["distinct_id"] for each in kept.events}
    assert {f"user-{n}" for n in (0, 2, 6, 7, 8, 10)} == {f"user-{n}" for n in range(11)} & accepted


def test_all_calls_about_a_person_are_in_a_sample_or_none():
    """A call without a person is sampled by its group or message id."""
    half = rules(sample=0.5)
    for user in map(str, range(20)):
        calls = [
            visit_call(user),
            Call("identify", {"traits": None}, user, "d", "m-2", "2026-01-31T12:00:00.000Z"),
            Call("group", {"group_id": "g", "traits": None}, user, None, "m-3", "2026-01-31"),
        ]
        assert 1 == len({half.filter_reason(call, frozenset()) for call in calls})
    group = Call("group", {"group_id": "g", "traits": None}, None, None, "m-3", "2026-01-31")
    assert ("g", "m-1") == (group.sampling_id, visit_call(None).sampling_id)


# ---- Customer.io's actions -----------------------------------------------------------------------


def test_actions_are_sent_only_to_sinks_that_support_them(emu):
    """Typed or by name; other semantic events are sent to all sinks."""
    order = semantic.OrderCompleted(order_id="o-1", total=9.5)
    calls = [
        lambda f: f.track("u-1", semantic.UserSuppressed()),
        lambda f: f.track("u-2", "User Deleted"),
        lambda f: f.track("u-3", order, {"gift": True}),
    ]
    _, stats = send("asyncio", sinks("asyncio", emu), *calls)
    assert ["User Suppressed", "User Deleted", "Order Completed"] == [
        m["event"] for m in messages(emu, "customerio")
    ]
    assert ["Order Completed"] == [m["event"] for m in messages(emu, "hightouch")]
    (event,) = emu.events()
    assert {"order_id": "o-1", "total": 9.5, "gift": True}.items() <= event["properties"].items()
    assert [{"action": 2}, {}, {"action": 2}] == [each.filtered for each in stats.values()]


def test_deletions_ignore_consent_and_sampling(emu):
    """People who withdrew their consent can still be deleted; unsuppressing requires consent."""
    calls = [
        lambda f: f.track("u-1", semantic.UserDeleted()),
        lambda f: f.track("u-1", semantic.DeviceDeleted(token="t")),
        lambda f: f.track("u-1", semantic.UserUnsuppressed()),
        lambda f: f.track("u-1", semantic.UserDeleted(), integrations={"All": False}),
    ]
    strict = {"consent": "marketing", "sample": 1e-9, "events": ["Order *"]}
    made = sinks("sync", emu, only=["customerio"], customerio=strict)
    _, stats = send("sync", made, *calls)
    assert ["User Deleted", "Device Deleted"] == [m["event"] for m in messages(emu)]
    assert {"accepted": 2, "consent": 1, "integrations": 1} == counts(stats["customerio"])
