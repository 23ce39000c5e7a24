"""Customer.io and Hightouch in the emulator: messages accepted, dropped and rejected."""

import gzip
import json

import httpx
import pytest

from mixpanel.emulator import CustomerIORules, Emulator, Fault, HightouchRules

NOW = 1_795_000_000
STRICT = {"X-Strict-Mode": "1"}
TRACK = {"userId": "u1", "event": "Order Paid", "messageId": "m1"}
CLASSIC = ("KEY", "")
PREFIXED = "sk_us_0123456789abcdef0123456789abcdef_a1b2c3"


class Clock:
    """A clock that a test moves."""

    def __init__(self):
        self.now = NOW

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    """Start at a fixed moment."""
    return Clock()


@pytest.fixture
def emulate(clock):
    """Start an emulator with options, and stop it after the test."""
    running = []

    def start(**options):
        emulator = Emulator(now=clock, **options)
        emulator.start()
        running.append(emulator)
        return emulator

    yield start
    for each in running:
        each.stop()


@pytest.fixture
def emu(emulate):
    """An emulator that takes any key."""
    return emulate()


def written(message):
    """Write JSON compactly, with letters as they are and an unpaired surrogate escaped."""
    text = json.dumps(message, ensure_ascii=False, separators=(",", ":"))
    return text.encode("utf-8", "backslashreplace")


def post(emu, endpoint, message, *, headers=STRICT, auth=CLASSIC):
    """Send to Customer.io, in strict mode by default."""
    url = f"{emu.customerio_url}/v1/{endpoint}"
    headers = {"Content-Type": "application/json", **(headers or {})}
    return httpx.post(url, content=written(message), headers=headers, auth=auth)


def permissive(emu, endpoint, message, **options):
    return post(emu, endpoint, message, headers=None, **options)


def hightouch(emu, endpoint, message, *, auth=CLASSIC, **options):
    return httpx.post(f"{emu.hightouch_url}/v1/{endpoint}", json=message, auth=auth, **options)


def errors(response):
    return response.json()["meta"]["errors"]


def why(emu, vendor=None):
    return [each["why"] for each in emu.cdp_dropped(vendor)]


def ids(emu, vendor=None, **options):
    return [each["message"]["messageId"] for each in emu.cdp_messages(vendor, **options)]


# Accepted messages

GOOD = {
    "identify": {"anonymousId": "a1", "traits": {"plan": "pro"}},
    "track": {"userId": "u1", "event": "Order Paid"},
    "page": {"userId": "u1", "name": "Home"},
    "screen": {"userId": 7, "name": "Home"},
    "group": {"userId": "u1", "groupId": "g1"},
    "alias": {"userId": "u1", "previousId": "a1"},
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", GOOD)
@pytest.mark.parametrize("send", [post, hightouch])
def test_each_endpoint_accepts_its_message(emu, send, kind):
    """The type comes from the path."""
    message = {**GOOD[kind], "messageId": "m1"}
    assert (200, {}) == ((response := send(emu, kind, message)).status_code, response.json())
    (kept,) = emu.cdp_messages()
    assert {**message, "type": kind} == kept["message"]
    assert (kind, "KEY", NOW) == (kept["endpoint"], kept["key"], kept["received_at"])


@pytest.mark.parametrize("send", [post, hightouch])
def test_a_batch_accepts_all_six_types_in_order(emu, send):
    """Each item has its type."""
    batch = [{**GOOD[kind], "type": kind, "messageId": kind} for kind in GOOD]
    sent = {"batch": batch, "sentAt": "2026-11-20T10:00:00.000Z"}
    assert 200 == send(emu, "batch", sent).status_code
    assert list(GOOD) == ids(emu)
    assert {("batch", sent["sentAt"])} == {
        (each["endpoint"], each["sent_at"]) for each in emu.cdp_messages()
    }


def test_messages_of_both_vendors_are_separate(emu):
    """But they are in one order of arrival."""
    post(emu, "track", TRACK)
    hightouch(emu, "track", {**TRACK, "messageId": "m2"})
    assert ["customerio", "hightouch"] == [each["vendor"] for each in emu.cdp_messages()]
    assert ["m2"] == ids(emu, "hightouch")


def test_the_context_of_an_item_overrides_that_of_its_batch(emu):
    """Key by key."""
    items = [{**TRACK, "type": "track", "context": {"ip": "1.1.1.1"}}, {**TRACK, "type": "track"}]
    above = {"context": {"ip": "2.2.2.2", "locale": "de"}, "integrations": {"All": False}}
    assert 200 == post(emu, "batch", {"batch": items, **above}).status_code
    messages = [each["message"] for each in emu.cdp_messages()]
    assert ["1.1.1.1", "2.2.2.2"] == [each["context"]["ip"] for each in messages]
    assert [("de", False)] * 2 == [
        (each["context"]["locale"], each["integrations"]["All"]) for each in messages
    ]


def test_messages_have_the_headers_of_their_request(emu):
    """Strict mode and retries are recorded, secrets are not."""
    post(emu, "track", TRACK, headers={**STRICT, "X-Retry-Count": "2", "User-Agent": "me/1"})
    (kept,) = emu.cdp_messages()
    assert {
        "content-type": "application/json",
        "user-agent": "me/1",
        "x-retry-count": "2",
        "x-strict-mode": "1",
    } == kept["headers"]


def test_event_names_are_trimmed(emu):
    """As the server does."""
    post(emu, "track", {**TRACK, "event": " Order Paid "})
    assert "Order Paid" == emu.cdp_messages()[0]["message"]["event"]


def test_a_message_sent_twice_is_seen_twice_and_counted_once(emu):
    """By messageId, within one source; messages without an id are always unique."""
    for message in (TRACK, TRACK, {**TRACK, "messageId": None}, {**TRACK, "messageId": None}):
        post(emu, "track", message)
    post(emu, "track", TRACK, auth=("OTHER", ""))
    assert ["m1", "m1", None, None, "m1"] == ids(emu)
    assert ["m1", None, None, "m1"] == ids(emu, unique=True)


def test_gzip_is_accepted(emu):
    """Sizes are those of the uncompressed message."""
    body = gzip.compress(json.dumps({"batch": [{**TRACK, "type": "track"}]}).encode())
    for url in (emu.customerio_url, emu.hightouch_url):
        headers = {**STRICT, "Content-Encoding": "gzip"}
        response = httpx.post(f"{url}/v1/batch", content=body, headers=headers, auth=CLASSIC)
        assert 200 == response.status_code
    expected = len(json.dumps({**TRACK, "type": "track"}))
    assert [expected] * 2 == [each["bytes"] for each in emu.cdp_messages()]


@pytest.mark.parametrize(
    ("rules", "status", "content"),
    [
        ({"empty_body": True}, 200, b""),
        ({"success_status": 202}, 202, b"{}"),
        ({"success_status": 204}, 204, b""),
    ],
)
def test_success_may_be_any_2xx_and_empty(emulate, rules, status, content):
    """For both vendors."""
    emu = emulate(customerio=CustomerIORules(**rules), hightouch=HightouchRules(**rules))
    for send in (post, hightouch):
        response = send(emu, "track", TRACK)
        assert (status, content) == (response.status_code, response.content)
    assert 2 == len(emu.cdp_messages())


def test_the_endpoints_accept_only_post(emu):
    """There are seven."""
    assert 405 == httpx.get(f"{emu.customerio_url}/v1/identify").status_code
    assert 404 == permissive(emu, "delete", {}).status_code


# Customer.io: keys

BEARER = {"Authorization": f"Bearer {PREFIXED}"}


@pytest.mark.parametrize(
    ("auth", "headers", "key"),
    [
        (CLASSIC, {}, "KEY"),
        ((PREFIXED, ""), {}, PREFIXED),
        (None, BEARER, PREFIXED),
    ],
)
def test_a_valid_key_is_basic_or_a_prefixed_bearer(emulate, auth, headers, key):
    """Messages have the key that they were sent with."""
    emu = emulate(customerio=CustomerIORules(keys={"KEY", PREFIXED}))
    assert 200 == post(emu, "track", TRACK, auth=auth, headers={**STRICT, **headers}).status_code
    assert [key] == [each["key"] for each in emu.cdp_messages()]


BAD_KEYS = [
    (("WRONG", ""), {}),
    (("KEY", "password"), {}),
    (None, {}),
    (None, {"Authorization": "Bearer KEY"}),
    (None, {"Authorization": "Bearer sk_us_other"}),
    (None, {"Authorization": "Basic ???"}),
]


@pytest.mark.slow
@pytest.mark.parametrize(("auth", "headers"), BAD_KEYS)
def test_an_invalid_key_is_401_in_strict_mode_else_200(emulate, auth, headers):
    """Permissive mode drops the message without an error."""
    emu = emulate(customerio=CustomerIORules(keys=["KEY", PREFIXED]))
    response = post(emu, "track", TRACK, auth=auth, headers={**STRICT, **headers})
    assert 401 == response.status_code
    assert "Unauthorized" in response.json()["meta"]["error"]
    assert ([], []) == (emu.cdp_messages(), emu.cdp_dropped())
    assert 200 == post(emu, "track", TRACK, auth=auth, headers=headers).status_code
    assert ([], ["write key is not known"]) == (emu.cdp_messages(), why(emu))
    assert {**TRACK, "type": "track"} == emu.cdp_dropped()[0]["message"]


def test_a_key_of_another_region_gets_200_and_is_dropped(emulate):
    """Even in strict mode; a classic key has no region."""
    emu = emulate(customerio=CustomerIORules(region="eu"))
    assert 200 == post(emu, "track", TRACK, auth=None, headers={**STRICT, **BEARER}).status_code
    assert ["write key is for another region"] == why(emu)
    post(emu, "track", TRACK)
    assert ["KEY"] == [each["key"] for each in emu.cdp_messages()]


def test_one_key_may_be_given_as_text(emulate):
    """A string is one key, not a collection of letters."""
    emu = emulate(customerio=CustomerIORules(keys="KEY"))
    responses = [post(emu, "track", TRACK, auth=(key, "")).status_code for key in ("KEY", "K")]
    assert [200, 401] == responses


# Customer.io: required fields

BAD = [
    ("identify", {"traits": {"email": "a@example.org"}}, "userId or anonymousId is required"),
    ("identify", {"userId": "", "anonymousId": None}, "userId or anonymousId is required"),
    ("identify", {"userId": "u", "traits": []}, "traits must be an object"),
    ("identify", {"userId": True}, "userId or anonymousId is required"),
    ("track", {"event": "x"}, "userId or anonymousId is required"),
    ("track", {"userId": "u"}, "event is required"),
    ("track", {"userId": "u", "event": " "}, "event is required"),
    ("track", {"userId": "u", "event": "x", "properties": 1}, "properties must be an object"),
    ("track", {**TRACK, "messageId": 5}, "messageId must be a string"),
    ("track", {**TRACK, "timestamp": "yesterday"}, "timestamp must be an ISO 8601 time"),
    ("track", {**TRACK, "timestamp": 1795000000}, "timestamp must be an ISO 8601 time"),
    ("page", {"name": "Home"}, "userId or anonymousId is required"),
    ("screen", {"userId": "u", "context": "x"}, "context must be an object"),
    ("group", {"userId": "u"}, "groupId is required"),
    ("alias", {"userId": "u"}, "previousId is required"),
    ("alias", {"previousId": "u"}, "userId is required"),
    ("track", {"userId": "u", "event": "Device Deleted"},
     "context.device.token is required by Device Deleted"),
    ("track", {"anonymousId": "a", "event": "User Suppressed"},
     "userId is required by User Suppressed"),
    ("track", {"anonymousId": "a", "event": "Object Deleted", "properties": {"objectId": ""}},
     "properties.objectId is required by Object Deleted"),
    ("track", {"event": "Report Delivery Event"},
     "properties is required by Report Delivery Event"),
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(("endpoint", "message", "reason"), BAD)
def test_an_invalid_message_is_400_in_strict_mode_else_200(emu, endpoint, message, reason):
    """The reason is in the response, or else in the dropped message."""
    response = post(emu, endpoint, message)
    assert (400, [reason]) == (response.status_code, errors(response))
    assert [] == emu.cdp_dropped()
    assert 200 == permissive(emu, endpoint, message).status_code
    assert ([], [reason]) == (emu.cdp_messages(), why(emu))


FINE = [
    ("identify", {"userId": "", "traits": {"email": "a@example.org"}}),
    ("track", {"groupId": "g", "event": "x"}),
    ("track", {"event": "Report Delivery Event", "properties": {"deliveryId": "d"}}),
    ("track", {"userId": "u", "event": "Device Deleted", "context": {"device": {"token": "t"}}}),
    ("group", {"groupId": "g", "traits": {"object_type_id": "2"}}),
    ("track", {**TRACK, "timestamp": "2012-12-02T00:30:08.276Z", "userId": 0, "context": None}),
]


@pytest.mark.slow
@pytest.mark.parametrize(("endpoint", "message"), FINE)
def test_the_exceptions_of_the_schemas_are_accepted(emu, endpoint, message):
    """Email instead of ids, an object alone, reports without a person, old timestamps."""
    assert 200 == post(emu, endpoint, message).status_code
    assert 1 == len(emu.cdp_messages())


@pytest.mark.slow
@pytest.mark.parametrize("value", ["0", "2", "true", ""])
def test_any_other_strict_mode_is_permissive(emu, value):
    """Only 1 is strict."""
    assert 200 == post(emu, "track", {}, headers={"X-Strict-Mode": value}).status_code
    assert 1 == len(emu.cdp_dropped())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"{", "invalid JSON"),
        (b"[]", "invalid JSON"),
        (b'{"a": NaN}', "invalid JSON"),
        (b'{"a": 1} x', "invalid JSON: unexpected text"),
        (b"{1: 1}", "invalid JSON"),
        (b'{"a": "\xff"}', "invalid JSON"),
        pytest.param(b'{"a": ' + b"[" * 100_000, "invalid JSON", id="deep"),
        pytest.param(b'{"batch": [' + b"[" * 100_000, "invalid JSON", id="deep batch"),
        (b"", "invalid JSON"),
        (b"{}", "batch must be a list"),
        (b'{"batch": {}}', "batch must be a list"),
        (b' { "batch" : [ ] } ', "batch must be a list"),
    ],
)  # fmt: skip
def test_an_unreadable_body_is_400_in_strict_mode_else_200(emu, body, reason):
    """The dropped entry then has no message."""
    url = f"{emu.customerio_url}/v1/batch"
    response = httpx.post(url, content=body, headers=STRICT, auth=CLASSIC)
    assert (400, True) == (response.status_code, errors(response)[0].startswith(reason))
    assert 200 == httpx.post(url, content=body, auth=CLASSIC).status_code
    (dropped,) = emu.cdp_dropped()
    assert (None, True) == (dropped["message"], dropped["why"].startswith(reason))


def test_an_unknown_encoding_is_415_in_strict_mode(emu):
    """Only gzip is supported."""
    headers = {"Content-Encoding": "br"}
    assert 415 == post(emu, "track", TRACK, headers={**STRICT, **headers}).status_code
    assert 200 == post(emu, "track", TRACK, headers=headers).status_code
    assert ["Content-Encoding 'br' is not supported"] == why(emu)


MIXED = {
    "batch": [
        {**TRACK, "type": "track"},
        {**TRACK, "type": "delete"},
        {"type": "track", "event": "x"},
        {"userId": "u"},
        "text",
    ]
}
REASONS = [
    "type must be one of identify, track, page, screen, group, alias, not 'delete'",
    "userId or anonymousId is required",
    "type must be one of identify, track, page, screen, group, alias, not None",
    "message must be an object",
]


@pytest.mark.parametrize(("whole", "kept"), [(True, []), (False, ["m1"])])
def test_a_strict_batch_lists_all_its_invalid_items(emulate, whole, kept):
    """Whether the valid ones are accepted is configurable; nothing is silently dropped."""
    emu = emulate(customerio=CustomerIORules(whole_batch=whole))
    response = post(emu, "batch", MIXED)
    named = [f"batch[{index}]: {reason}" for index, reason in enumerate(REASONS, start=1)]
    assert (400, named) == (response.status_code, errors(response))
    assert (kept, []) == (ids(emu), emu.cdp_dropped())


def test_a_permissive_batch_drops_its_invalid_items(emu):
    """The valid one is accepted."""
    assert (200, {}) == ((response := permissive(emu, "batch", MIXED)).status_code, response.json())
    assert (["m1"], REASONS) == (ids(emu), why(emu))


# Sizes


def sized(size):
    """Return a message of this many bytes, some of them in two-byte letters."""
    message = {**TRACK, "type": "track", "properties": {"text": "ä" * 100}}
    message["properties"]["text"] += "x" * (size - len(written(message)))
    return message


@pytest.mark.parametrize(("size", "status"), [(32_000, 200), (32_001, 400)])
def test_a_message_may_have_32_kb(emu, size, status):
    """In bytes, alone and in a batch."""
    for endpoint, body in (("track", sized(size)), ("batch", {"batch": [sized(size)]})):
        assert status == post(emu, endpoint, body).status_code
        assert 200 == permissive(emu, endpoint, body).status_code
    what = [each["bytes"] for each in emu.cdp_messages() + emu.cdp_dropped()]
    assert {size} == set(what)
    expected = ["message of 32001 bytes exceeds the limit of 32000"] * 2
    assert (expected if status == 400 else []) == why(emu)


def whole(size):
    """Return a batch request of this many bytes."""
    batch = [sized(20_000) for _ in range(24)]
    return {"batch": [*batch, sized(size - len(written({"batch": batch})) - 1)]}


@pytest.mark.slow
@pytest.mark.parametrize(("size", "status"), [(500_000, 200), (500_001, 400)])
def test_a_request_may_have_500_kb(emu, size, status):
    """The envelope counts; permissive mode drops the whole batch with 200."""
    assert status == post(emu, "batch", whole(size)).status_code
    assert 200 == permissive(emu, "batch", whole(size)).status_code
    expected = ["request exceeds the limit of 500000 bytes"]
    assert (expected if status == 400 else []) == why(emu)
    assert {size} == {len(each.body) for each in emu.requests()}


@pytest.mark.slow
def test_gzip_does_not_raise_the_limit(emu):
    """A zip bomb does not fill the memory either."""
    body = gzip.compress(b" " * 50_000_000, compresslevel=1)
    headers = {**STRICT, "Content-Encoding": "gzip"}
    url = f"{emu.customerio_url}/v1/batch"
    response = httpx.post(url, content=body, headers=headers, auth=CLASSIC)
    assert ["request exceeds the limit of 500000 bytes"] == errors(response)


def test_limits_and_their_status_are_configurable(emulate):
    """The status for oversize messages in strict mode is not documented."""
    rules = {"max_message_bytes": 100, "max_batch_bytes": 1000, "oversize_status": 413}
    emu = emulate(customerio=CustomerIORules(**rules))
    for endpoint, body in (("track", sized(400)), ("batch", whole(499_000))):
        assert 413 == post(emu, endpoint, body).status_code


def test_an_invalid_item_takes_precedence_over_an_oversize_one(emulate):
    """A batch with both is 400."""
    emu = emulate(customerio=CustomerIORules(oversize_status=413))
    response = post(emu, "batch", {"batch": [sized(32_001), {}]})
    assert (400, 2) == (response.status_code, len(errors(response)))


def test_the_limits_of_mixpanel_do_not_apply_to_vendors(emulate):
    """And the other way round."""
    emu = emulate(max_bytes=100)
    assert 200 == post(emu, "batch", whole(500_000)).status_code


# Rates and faults


def test_exceeding_the_rate_is_429_in_both_modes_until_it_passes(emulate, clock):
    """3000 requests in 3 seconds, here 3; each vendor has its own."""
    emu = emulate(customerio=CustomerIORules(rate=(3, 3)))
    assert [200, 200, 200, 429] == [post(emu, "track", TRACK).status_code for _ in range(4)]
    refused = permissive(emu, "track", TRACK)
    assert (429, False) == (refused.status_code, "retry-after" in refused.headers)
    assert 200 == hightouch(emu, "track", TRACK).status_code
    clock.now += 3
    assert 200 == post(emu, "track", TRACK).status_code
    assert ([], 5) == (emu.cdp_dropped(), len(emu.cdp_messages()))


def test_faults_apply_to_vendors(emu):
    """For one path, in the vendor's error format."""
    path = "/customerio/v1/track"
    emu.play(Fault.status(400), Fault.status(503), Fault.status(204), path=path)
    emu.play(Fault.status(500), path="/hightouch/v1/track")
    assert ["scripted answer 400"] == errors(post(emu, "track", TRACK))
    assert {"meta": {"error": "scripted answer 503"}} == post(emu, "track", TRACK).json()
    assert b"" == post(emu, "track", TRACK).content
    body = {"code": "internal_server_error", "message": "scripted answer 500"}
    assert body == hightouch(emu, "track", TRACK).json()
    assert ([400, 503, 204], []) == (
        [each.status for each in emu.requests(path)],
        emu.cdp_messages(),
    )


def test_a_message_before_a_reset_is_accepted(emu):
    """The client cannot know, and sends it again."""
    emu.play(Fault.reset("after"))
    with pytest.raises(httpx.ReadError):
        post(emu, "track", TRACK)
    post(emu, "track", TRACK)
    assert (["m1", "m1"], ["m1"]) == (ids(emu), ids(emu, unique=True))


def test_a_fault_can_reject_items_of_a_batch(emu):
    """The whole batch in strict mode, else only these."""
    emu.play(Fault.partial([1], "contract violated") * 3)
    body = {"batch": [{**TRACK, "type": "track", "messageId": str(n)} for n in range(3)]}
    assert ["batch[1]: contract violated"] == errors(post(emu, "batch", body))
    for send in (permissive, hightouch):
        assert 200 == send(emu, "batch", body).status_code
    assert ["0", "2"] * 2 == ids(emu)
    assert ["contract violated"] * 2 == why(emu)


def test_a_fault_can_have_any_header(emu):
    """Such as the time when a rate limit ends."""
    emu.play(Fault.status(429, headers={"X-RateLimit-Reset": "1795000005000"}))
    assert "1795000005000" == post(emu, "track", TRACK).headers["x-ratelimit-reset"]


def test_clear_forgets_messages_and_rates(emulate):
    """Accepted and dropped ones."""
    emu = emulate(customerio=CustomerIORules(rate=(2, 3)))
    post(emu, "track", TRACK)
    permissive(emu, "track", {})
    emu.clear()
    assert ([], []) == (emu.cdp_messages(), emu.cdp_dropped())
    assert 200 == post(emu, "track", TRACK).status_code


# Hightouch


def test_a_write_key_may_be_in_the_header_or_the_body(emulate):
    """The header takes precedence."""
    emu = emulate(hightouch=HightouchRules(keys={"KEY", "BODY"}))
    body = {"batch": [{**TRACK, "type": "track"}], "writeKey": "BODY"}
    for auth in (CLASSIC, None):
        assert 200 == hightouch(emu, "batch", body, auth=auth).status_code
    assert ["KEY", "BODY"] == [each["key"] for each in emu.cdp_messages()]


@pytest.mark.parametrize(
    ("auth", "key"), [(("WRONG", ""), "KEY"), (("KEY", "x"), "KEY"), (None, "WRONG"), (None, None)]
)
def test_an_invalid_write_key_is_401(emulate, auth, key):
    """Unless the mode is permissive."""
    emu = emulate(hightouch=HightouchRules(keys={"KEY"}))
    response = hightouch(emu, "track", {**TRACK, "writeKey": key}, auth=auth)
    assert (401, "unauthorized") == (response.status_code, response.json()["code"])
    assert ([], []) == (emu.cdp_messages(), emu.cdp_dropped())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("endpoint", "message", "reason"),
    [
        ("track", {"event": "x", "messageId": "m"}, "userId or anonymousId is required"),
        ("track", {"userId": "u", "messageId": "m"}, "event is required"),
        ("track", {"userId": "u", "event": "x"}, "messageId is required"),
        ("track", {"groupId": "g", "event": "x", "messageId": "m"},
         "userId or anonymousId is required"),
        ("group", {"groupId": "g", "messageId": "m"}, "userId or anonymousId is required"),
        ("identify", {"userId": "", "messageId": "m", "traits": {"email": "a@example.org"}},
         "userId or anonymousId is required"),
    ],
)  # fmt: skip
def test_hightouch_drops_invalid_messages_with_200(emu, endpoint, message, reason):
    """It requires a person for groups, and does not accept an email instead of an id."""
    assert 200 == hightouch(emu, endpoint, message).status_code
    assert ([], [reason]) == (emu.cdp_messages(), why(emu, "hightouch"))


def test_hightouch_has_no_reserved_events(emu):
    """They are events like any other."""
    hightouch(emu, "track", {"userId": "u", "event": "Device Deleted", "messageId": "m"})
    assert ["m"] == ids(emu)


@pytest.mark.slow
@pytest.mark.parametrize("body", [{"batch": [sized(32_001)]}, whole(500_001)])
def test_hightouch_rejects_oversize_messages(emu, body):
    """With 413, and nothing is accepted."""
    assert (413, []) == (hightouch(emu, "batch", body).status_code, emu.cdp_messages())


def test_hightouch_rejects_an_unreadable_body(emu):
    """With 400."""
    response = httpx.post(f"{emu.hightouch_url}/v1/batch", content=b"{", auth=CLASSIC)
    assert (400, "bad_request") == (response.status_code, response.json()["code"])


# The live feed


def test_the_live_feed_has_messages_and_why_some_were_dropped(emu):
    """A dropped one was answered with 200 nevertheless."""
    post(emu, "track", {**TRACK, "event": "<b>"})
    permissive(emu, "track", {"event": "lost"})
    post(emu, "track", {**TRACK, "event": "half \ud83d"})
    first, lost, half = emu.live(lane="customerio")
    assert ("accepted", "<b>", None) == (first["verdict"], first["event"], first["reason"])
    assert ("rejected", 200) == (lost["verdict"], lost["status"])
    assert "userId or anonymousId is required" in lost["reason"]
    assert "half \ud83d" == half["event"]


def test_the_live_feed_names_the_vendor_of_a_request_without_its_path(emu):
    """Clients that drop the path of a base URL are known by their headers."""
    headers = {"x-strict-mode": "1"}
    httpx.post(f"{emu.url}/v1/track", json=TRACK, headers=headers, auth=("KEY", ""))
    assert ["customerio"] == [each["lane"] for each in emu.live()]


@pytest.mark.parametrize("whole_batch", [True, False])
def test_a_message_that_is_rejected_with_its_batch_says_so(emulate, whole_batch):
    """It is valid, and not stored nevertheless."""
    emu = emulate(customerio=CustomerIORules(whole_batch=whole_batch))
    message = {"type": "track", **TRACK}
    assert 400 == post(emu, "batch", {"batch": [message, {"type": "track"}]}).status_code
    valid, invalid = emu.live(lane="customerio")
    assert "rejected" == invalid["verdict"]
    assert valid["verdict"] == ("rejected" if whole_batch else "accepted")
    assert (valid["reason"] or "").startswith("rejected with its batch" if whole_batch else "")
