"""Modes, regions and contracts of Hightouch in the emulator."""

import httpx
import pytest

from mixpanel import RejectedError, RetryPolicy
from mixpanel.cdp import Hightouch
from mixpanel.emulator import Contract, Emulator, HightouchRules, OAuthRules

NOW = 1_795_000_000
TRACK = {"userId": "u1", "event": "Order Paid", "messageId": "m1"}
ITEM = {**TRACK, "type": "track"}
CLASSIC = ("KEY", "")
LARGE = {**ITEM, "properties": {"text": "x" * 32_000}}
HUGE = {"batch": [{**ITEM, "properties": {"text": "x" * 30_000}}] * 17}


@pytest.fixture
def emulate():
    """Start an emulator with rules for Hightouch, and stop it after the test."""
    running = []

    def start(**rules):
        emulator = Emulator(now=lambda: NOW, hightouch=HightouchRules(**rules))
        emulator.start()
        running.append(emulator)
        return emulator

    yield start
    for each in running:
        each.stop()


def post(emu, endpoint, message, *, auth=CLASSIC, **options):
    return httpx.post(f"{emu.hightouch_url}/v1/{endpoint}", json=message, auth=auth, **options)


def error_of(response):
    return response.status_code, response.json()["code"], response.json()["message"]


def ids(emu):
    return [each["message"]["messageId"] for each in emu.cdp_messages("hightouch")]


def why(emu):
    return [each["why"] for each in emu.cdp_dropped("hightouch")]


def versioned(version, **properties):
    """Return an event with the version of its contract."""
    context = {"protocols": {"schemaVersion": version}}
    return {**TRACK, "context": context, "properties": properties}


# Strict

BAD = [
    ("track", {"event": "x", "messageId": "m"}, "userId or anonymousId is required"),
    ("track", {"userId": "u", "messageId": "m"}, "event is required"),
    ("track", {"userId": "u", "event": "x"}, "messageId is required"),
    ("identify", {**TRACK, "traits": []}, "traits must be an object"),
    ("group", {"userId": "u", "messageId": "m"}, "groupId is required"),
    ("alias", {"userId": "u", "messageId": "m"}, "previousId is required"),
    ("batch", {"batch": [ITEM, "text"]}, "batch[1]: message must be an object"),
]


@pytest.mark.slow
@pytest.mark.parametrize(("endpoint", "message", "reason"), BAD)
def test_strict_mode_rejects_invalid_messages(emulate, endpoint, message, reason):
    """With 400, and nothing is silently dropped."""
    emu = emulate(mode="strict")
    assert (400, "bad_request", reason) == error_of(post(emu, endpoint, message))
    assert ([], []) == (emu.cdp_messages(), emu.cdp_dropped())


def test_strict_mode_accepts_valid_messages(emulate):
    """As the other modes do."""
    emu = emulate(mode="strict")
    response = post(emu, "batch", {"batch": [ITEM]})
    assert (200, {}, ["m1"]) == (response.status_code, response.json(), ids(emu))


@pytest.mark.slow
@pytest.mark.parametrize("auth", [("WRONG", ""), ("KEY", "password"), None])
@pytest.mark.parametrize("mode", ["mixed", "strict"])
def test_an_invalid_key_is_401_unless_permissive(emulate, mode, auth):
    """Before its messages are validated."""
    emu = emulate(mode=mode, keys=["KEY"])
    response = post(emu, "track", {}, auth=auth)
    assert (401, "unauthorized") == error_of(response)[:2]
    assert [] == emu.cdp_dropped()


@pytest.mark.parametrize("status", [413, 400])
@pytest.mark.parametrize("body", [{"batch": [LARGE]}, HUGE], ids=["message", "request"])
def test_the_status_for_oversize_messages_is_configurable(emulate, status, body):
    """It is not documented."""
    emu = emulate(mode="strict", oversize_status=status)
    response = post(emu, "batch", body)
    assert (status, True) == (response.status_code, "exceeds the limit" in error_of(response)[2])
    assert ([], []) == (emu.cdp_messages(), emu.cdp_dropped())


MIXED = {"batch": [ITEM, {**ITEM, "event": None}, LARGE, {**ITEM, "messageId": "m2"}]}
NAMED = "batch[1]: event is required"


@pytest.mark.parametrize(
    ("rules", "status", "kept"),
    [
        ({"mode": "strict"}, 400, []),
        ({"mode": "strict", "whole_batch": False}, 400, ["m1", "m2"]),
        ({}, 413, []),
        ({"whole_batch": False}, 413, ["m1", "m2"]),
    ],
)
def test_a_rejected_batch_may_still_accept_its_valid_items(emulate, rules, status, kept):
    """Rejected for invalid items only in strict mode, for oversize ones in both."""
    emu = emulate(**rules)
    response = post(emu, "batch", MIXED)
    reasons = error_of(response)[2].split("; ")
    assert (status, kept, []) == (response.status_code, ids(emu), emu.cdp_dropped())
    assert [NAMED] * (status == 400) == reasons[:-1]
    assert reasons[-1].startswith("batch[2]: message of ")


@pytest.mark.parametrize(
    ("shape", "content"),
    [
        ("code", '{"code":"bad_request","message":"event is required"}'),
        ("error", '{"error":"bad_request","error_description":"event is required"}'),
        ("text", "event is required"),
    ],
)
def test_the_format_of_an_error_is_configurable(emulate, shape, content):
    """It is not documented; a client reads all three."""
    contracts = {"Blocked": Contract(required="amount")}
    emu = emulate(mode="strict", error_shape=shape, keys=["KEY"], contracts=contracts)
    bad = {**TRACK, "event": ""}
    assert content == post(emu, "track", bad).text
    assert "write key is missing or not known" in post(emu, "track", bad, auth=("NO", "")).text
    once = {"send_immediately": True, "retry": RetryPolicy(attempts=1)}
    with (
        Hightouch("KEY", base_url=emu.hightouch_url, **once) as client,
        pytest.raises(RejectedError, match=r"HTTP 400: .*properties\.amount is required"),
    ):
        client.track("u1", "Blocked")


# Permissive


@pytest.mark.parametrize(
    ("auth", "headers", "reason"),
    [
        (("WRONG", ""), {}, "write key is missing or not known"),
        (("KEY", "x"), {}, "Authorization must be Basic with a write key, or Bearer"),
        (None, {}, "write key is missing or not known"),
        (None, {"Authorization": "Bearer x"}, "access token is unknown or revoked"),
    ],
)
def test_permissive_mode_responds_200_to_an_invalid_key(emulate, auth, headers, reason):
    """The message is dropped, with the reason."""
    emu = emulate(mode="permissive", keys=["KEY"])
    response = post(emu, "track", TRACK, auth=auth, headers=headers)
    assert (200, {}) == (response.status_code, response.json())
    (dropped,) = emu.cdp_dropped()
    assert (ITEM, None, reason) == (dropped["message"], dropped["key"], dropped["why"])
    assert [] == emu.cdp_messages()


def test_permissive_mode_responds_200_without_a_token(emulate):
    """The message is dropped."""
    emu = emulate(mode="permissive", oauth=OAuthRules(required=True))
    assert 200 == post(emu, "track", TRACK).status_code
    assert ([], ["an access token is required for this source"]) == (ids(emu), why(emu))


def test_permissive_mode_drops_the_invalid_items_of_a_batch(emulate):
    """Oversize ones too; the valid ones are accepted."""
    emu = emulate(mode="permissive")
    assert 200 == post(emu, "batch", MIXED).status_code
    assert (["m1", "m2"], 2) == (ids(emu), len(emu.cdp_dropped()))
    assert "event is required" == why(emu)[0]


@pytest.mark.parametrize(
    ("content", "headers", "reason"),
    [
        (b"{", {}, "invalid JSON"),
        (b'{"batch": []}', {}, "batch must be a list"),
        (b" " * 500_001, {}, "request exceeds the limit of 500000 bytes"),
        (b"{}", {"Content-Encoding": "br"}, "Content-Encoding 'br' is not supported"),
        (b"{}", {"Content-Encoding": "gzip"}, ""),
    ],
    ids=["json", "empty", "large", "encoding", "gzip"],
)
def test_permissive_mode_responds_200_to_an_unreadable_body(emulate, content, headers, reason):
    """The dropped entry then has no message."""
    emu = emulate(mode="permissive")
    url = f"{emu.hightouch_url}/v1/batch"
    response = httpx.post(url, content=content, headers=headers, auth=CLASSIC)
    assert 200 == response.status_code
    (dropped,) = emu.cdp_dropped()
    assert (None, len(content)) == (dropped["message"], dropped["bytes"])
    assert dropped["why"].startswith(reason)


@pytest.mark.parametrize("mode", ["mixed", "strict", "permissive"])
def test_exceeding_the_rate_is_429_in_all_modes(emulate, mode):
    """Then nothing is silently dropped."""
    emu = emulate(mode=mode, rate=(1, 3))
    assert [200, 429] == [post(emu, "track", TRACK).status_code for _ in range(2)]
    assert (["m1"], []) == (ids(emu), emu.cdp_dropped())


# Regions


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["mixed", "strict", "permissive"])
@pytest.mark.parametrize("message", [TRACK, {}], ids=["good", "invalid"])
def test_the_wrong_region_answers_200_and_keeps_nothing(emulate, mode, message):
    """In all modes."""
    emu = emulate(mode=mode, region="eu-west-1", key_regions={"KEY": "us-east-1"})
    assert 200 == post(emu, "track", message).status_code
    (dropped,) = emu.cdp_dropped()
    assert ("KEY", "write key is for another region") == (dropped["key"], dropped["why"])
    assert [] == emu.cdp_messages()


@pytest.mark.slow
def test_keys_of_this_region_or_of_none_are_accepted(emulate):
    """The key itself has no region."""
    emu = emulate(region="eu-west-1", key_regions={"EU": "eu-west-1", "US": "us-east-1"})
    for key in ("EU", "KEY", "US"):
        assert 200 == post(emu, "track", TRACK, auth=(key, "")).status_code
    assert ["EU", "KEY"] == [each["key"] for each in emu.cdp_messages()]
    emu = emulate(key_regions={"US": "us-east-1"})
    assert 200 == post(emu, "track", TRACK, auth=("US", "")).status_code
    assert (["m1"], []) == (ids(emu), emu.cdp_dropped())


# Contracts

CONTRACT = Contract(versions={"1.0.0", "1.1.0"}, required=["amount", "currency"])
VERSION = "contract of Order Paid: context.protocols.schemaVersion is {}, not one of its versions"
VIOLATIONS = [
    (versioned("2", amount=1, currency="EUR"), VERSION.format("'2'")),
    (versioned(["1.0.0"], amount=1, currency="EUR"), VERSION.format("['1.0.0']")),
    (TRACK, VERSION.format(None)),
    (versioned("1.0.0", amount=1), "contract of Order Paid: properties.currency is required"),
    ({**versioned("1.0.0"), "properties": None},
     "contract of Order Paid: properties.amount is required"),
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(("message", "reason"), VIOLATIONS)
@pytest.mark.parametrize("mode", ["mixed", "permissive"])
def test_a_contract_blocks_an_event_with_200(emulate, mode, message, reason):
    """The blocked event is in the dropped ones, with the reason."""
    emu = emulate(mode=mode, contracts={"Order Paid": CONTRACT})
    response = post(emu, "track", message)
    assert (200, {}) == (response.status_code, response.json())
    assert ([], [reason]) == (emu.cdp_messages(), why(emu))
    assert {**message, "type": "track"} == emu.cdp_dropped()[0]["message"]


@pytest.mark.slow
@pytest.mark.parametrize(("message", "reason"), VIOLATIONS)
def test_a_contract_rejects_an_event_in_strict_mode(emulate, message, reason):
    """With 400, alone and in a batch."""
    emu = emulate(mode="strict", contracts={"Order Paid": CONTRACT})
    assert (400, "bad_request", reason) == error_of(post(emu, "track", message))
    batch = {"batch": [{**message, "type": "track"}]}
    assert (400, "bad_request", f"batch[0]: {reason}") == error_of(post(emu, "batch", batch))
    assert ([], []) == (emu.cdp_messages(), emu.cdp_dropped())


@pytest.mark.parametrize(
    ("endpoint", "message"),
    [
        ("track", versioned("1.1.0", amount=None, currency="EUR", more=1)),
        ("track", {**TRACK, "event": "order paid"}),
        ("track", {**TRACK, "event": "Order Paid "}),
        ("page", {**TRACK, "name": "Order Paid"}),
    ],
)
def test_a_contract_applies_to_its_event_only(emulate, endpoint, message):
    """By the exact name of the event; additional properties are allowed."""
    emu = emulate(mode="strict", contracts={"Order Paid": CONTRACT})
    assert 200 == post(emu, endpoint, message).status_code
    assert ["m1"] == ids(emu)


def test_an_invalid_event_is_reported_before_its_contract(emulate):
    """One reason is enough."""
    emu = emulate(contracts={"Order Paid": CONTRACT})
    post(emu, "track", {**TRACK, "userId": None})
    assert ["userId or anonymousId is required"] == why(emu)


def test_a_contract_may_accept_events_without_a_version(emulate):
    """Or any version at all; one version may be given as text."""
    contracts = {"Order Paid": Contract(versions=[None, "1"]), "x": Contract(required="amount")}
    emu = emulate(mode="strict", contracts=contracts)
    events = [TRACK, versioned("1"), versioned("2")]
    events += [{**TRACK, "event": "x", "properties": each} for each in ({"amount": 1}, {"a": 1})]
    assert [200, 200, 400, 200, 400] == [post(emu, "track", each).status_code for each in events]


def test_the_path_of_a_contracts_version_is_configurable(emulate):
    """For clients that put it there as well."""
    at = "properties.apiVersion"
    emu = emulate(contracts={"Order Paid": Contract(versions="1.0.0")}, version_at=at)
    once = {"send_immediately": True, "version_at": at}
    with Hightouch("KEY", base_url=emu.hightouch_url, **once) as client:
        for version in ("1.0.0", "1.0"):
            client.track("u1", "Order Paid", schema_version=version)
    assert 1 == len(emu.cdp_messages())
    assert [f"contract of Order Paid: {at} is '1.0', not one of its versions"] == why(emu)


def test_the_live_feed_has_blocked_events(emulate):
    """With the reason."""
    emu = emulate(contracts={"Order Paid": Contract(required=["amount"])})
    post(emu, "track", TRACK)
    (entry,) = emu.live(lane="hightouch")
    assert "contract of Order Paid: properties.amount is required" in entry["reason"]
