"""What each call sends, record for record, and what validation finds before."""

import inspect
import json
import subprocess
import threading
import uuid
from copy import deepcopy
from datetime import UTC, datetime

import anyio
import anyio.to_thread
import pytest

import mixpanel
from mixpanel import AsyncMixpanel, Mixpanel, ValidationError
from mixpanel._records.record import deterministic_id
from tests import peers

NOW = 1_764_000_000.25


class Kept:
    """A consumer of the official kind, with a memory."""

    def __init__(self):
        self.calls = []

    def send(self, endpoint, json_message, api_key=None, api_secret=None):
        self.calls.append((endpoint, json.loads(json_message), api_key, api_secret))

    @property
    def only(self):
        [(endpoint, message, *_)] = self.calls
        return endpoint, message


@pytest.fixture
def kept():
    return Kept()


@pytest.fixture
def mp(kept):
    client = Mixpanel("TOKEN", kept, validation="raise")
    client._now = lambda: NOW
    client._make_insert_id = lambda: "ID"
    return client


LIBRARY = {"mp_lib": "python", "$lib_version": mixpanel.__version__}
EVENT = {"token": "TOKEN", "distinct_id": "u", "time": NOW, "$insert_id": "ID", **LIBRARY}
PERSON = {"$token": "TOKEN", "$time": NOW, "$distinct_id": "u"}
GROUP = {"$token": "TOKEN", "$time": NOW, "$group_key": "company", "$group_id": "acme"}

CALLS = [
    (lambda mp: mp.track("u", "E"), "events", {"event": "E", "properties": EVENT}),
    (
        lambda mp: mp.track("u", "E", {"a": 1, "time": NOW - 9}, {"extra": 2}),
        "events",
        {"event": "E", "properties": {**EVENT, "a": 1, "time": NOW - 9}, "extra": 2},
    ),
    (
        lambda mp: mp.import_data(None, "u", "E", 99_999_999, {"a": 1}),
        "imports",
        {"event": "E", "properties": {**EVENT, "time": 99_999_999, "a": 1}},
    ),
    (
        lambda mp: mp.alias("alias", "u"),
        "events",
        {
            "event": "$create_alias",
            "properties": {"distinct_id": "u", "alias": "alias", "token": "TOKEN"},
        },
    ),
    (
        lambda mp: mp.identify("u", "anon-1"),
        "events",
        {
            "event": "$identify",
            "properties": {"$identified_id": "u", "$anon_id": "anon-1", "token": "TOKEN"},
        },
    ),
    (
        lambda mp: mp.merge(None, "a", "b"),
        "imports",
        {"event": "$merge", "properties": {"$distinct_ids": ["a", "b"], "token": "TOKEN"}},
    ),
    (lambda mp: mp.people_set("u", {"a": 1}), "people", {**PERSON, "$set": {"a": 1}}),
    (lambda mp: mp.people_set_once("u", {"a": 1}), "people", {**PERSON, "$set_once": {"a": 1}}),
    (lambda mp: mp.people_increment("u", {"a": 1}), "people", {**PERSON, "$add": {"a": 1}}),
    (lambda mp: mp.people_append("u", {"a": 1}), "people", {**PERSON, "$append": {"a": 1}}),
    (lambda mp: mp.people_union("u", {"a": [1]}), "people", {**PERSON, "$union": {"a": [1]}}),
    (lambda mp: mp.people_remove("u", {"a": 1}), "people", {**PERSON, "$remove": {"a": 1}}),
    (lambda mp: mp.people_unset("u", ["a"]), "people", {**PERSON, "$unset": ["a"]}),
    (lambda mp: mp.people_unset("u", "abc"), "people", {**PERSON, "$unset": ["abc"]}),
    (lambda mp: mp.people_delete("u"), "people", {**PERSON, "$delete": ""}),
    (
        lambda mp: mp.people_delete("u", {"$ignore_alias": True}),
        "people",
        {**PERSON, "$delete": "", "$ignore_alias": True},
    ),
    (
        lambda mp: mp.people_track_charge("u", 5, {"x": 1}),
        "people",
        {**PERSON, "$append": {"$transactions": {"x": 1, "$amount": 5}}},
    ),
    (
        lambda mp: mp.people_clear_charges("u"),
        "people",
        {**PERSON, "$unset": ["$transactions"]},
    ),
    (
        lambda mp: mp.people_update({"$distinct_id": "u", "$set": {"a": 1}, "$time": 5}),
        "people",
        {**PERSON, "$time": 5, "$set": {"a": 1}},
    ),
    (
        lambda mp: mp.people_set(
            "u", {"a": 1}, ip="1.2.3.4", ignore_time=True, ignore_alias=True, time=7
        ),
        "people",
        {
            **PERSON,
            "$set": {"a": 1},
            "$ip": "1.2.3.4",
            "$ignore_time": True,
            "$ignore_alias": True,
            "$time": 7,
        },
    ),
    (
        lambda mp: mp.group_set("company", "acme", {"a": 1}),
        "groups",
        {**GROUP, "$set": {"a": 1}},
    ),
    (
        lambda mp: mp.group_set_once("company", "acme", {"a": 1}),
        "groups",
        {**GROUP, "$set_once": {"a": 1}},
    ),
    (
        lambda mp: mp.group_union("company", "acme", {"a": [1]}),
        "groups",
        {**GROUP, "$union": {"a": [1]}},
    ),
    (lambda mp: mp.group_unset("company", "acme", ["a"]), "groups", {**GROUP, "$unset": ["a"]}),
    (
        lambda mp: mp.group_remove("company", "acme", {"a": 1}),
        "groups",
        {**GROUP, "$remove": {"a": 1}},
    ),
    (lambda mp: mp.group_delete("company", "acme"), "groups", {**GROUP, "$delete": ""}),
    (
        lambda mp: mp.group_update(
            {"$group_key": "company", "$group_id": "acme", "$set": {}}, {"$ip": 0}
        ),
        "groups",
        {**GROUP, "$set": {}, "$ip": 0},
    ),
]


@pytest.mark.slow
@pytest.mark.parametrize(("call", "endpoint", "message"), CALLS)
def test_each_method_sends_its_exact_record(mp, kept, call, endpoint, message):
    """The official record, key for key."""
    assert call(mp) is None
    assert kept.only == (endpoint, message)


def test_both_clients_compose_the_same_records(kept):
    """The async client's records equal the sync client's."""
    client = AsyncMixpanel("TOKEN", kept, validation="raise")
    client._now = lambda: NOW
    client._make_insert_id = lambda: "ID"

    async def main():
        for call, _, _ in CALLS:
            await call(client)

    anyio.run(main)
    assert [(c[0], c[1]) for c in kept.calls] == [(e, m) for _, e, m in CALLS]


OFFICIAL = """
import json, logging, sys
logging.disable()
from mixpanel import Mixpanel
calls = []
class Kept:
    def send(self, *arguments):
        calls.append([arguments[0], json.loads(arguments[1]), *arguments[2:]])
mp = Mixpanel("TOKEN", Kept())
mp._now = lambda: 1764000000.25
mp._make_insert_id = lambda: "ID"
mp.track("u", "E", {"a": 1, "$insert_id": "own"}, {"extra": 2})
mp.import_data("key", "u", "E", 99999999, {"a": 1}, api_secret="secret")
mp.merge("key", "a", "b", api_secret="secret")
mp.people_set("u", {"a": 1}, {"$ip": 0})
mp.people_track_charge("u", 5)
mp.people_update({"$distinct_id": "u", "$set": {"a": 1}})
mp.group_union("company", "acme", {"a": [1]})
mp.group_update({"$group_key": "k", "$group_id": "i", "$set": {}})
print(json.dumps(calls))
"""


def test_the_official_client_makes_the_same_calls(kept):
    """Run side by side, a consumer cannot tell which client called it."""
    interpreter = peers.python("official")
    if not interpreter.exists():
        pytest.skip("python -m tests.peers official makes its environment")
    out = subprocess.run(
        [interpreter, "-I", "-c", OFFICIAL], capture_output=True, text=True, check=True
    )
    theirs = json.loads(out.stdout)
    ours = Mixpanel("TOKEN", kept)
    body = OFFICIAL[OFFICIAL.index("mp._now") : OFFICIAL.index("print(")]
    exec(body, {"mp": ours})
    mine = [json.loads(json.dumps([c[0], c[1], *([c[2]] if c[2] else [])])) for c in kept.calls]
    for call in theirs:
        call[1].get("properties", {}).pop("$lib_version", None)
    for call in mine:
        call[1].get("properties", {}).pop("$lib_version", None)
    assert mine == theirs


def test_official_signatures_are_a_prefix_of_ours():
    """Every official positional parameter keeps its position."""
    interpreter = peers.python("official")
    if not interpreter.exists():
        pytest.skip("python -m tests.peers official makes its environment")
    source = (
        "import inspect, json, mixpanel\n"
        "names = lambda c: [p.name for p in inspect.signature(c).parameters.values()]\n"
        "mp = mixpanel.Mixpanel\n"
        "public = [n for n in dir(mp) if n == '__init__' or not n.startswith('_')]\n"
        "out = {n: names(getattr(mp, n)) for n in public if callable(getattr(mp, n))}\n"
        "for c in ('Consumer', 'BufferedConsumer'):\n"
        "    out[c] = names(getattr(mixpanel, c).__init__)\n"
        "print(json.dumps(out))"
    )
    out = subprocess.run(
        [interpreter, "-I", "-c", source], capture_output=True, text=True, check=True
    )
    for name, official in json.loads(out.stdout).items():
        ours = getattr(mixpanel, name).__init__ if name[0] == "B" or name[0] == "C" else None
        ours = ours or getattr(Mixpanel, name)
        mine = [p.name for p in inspect.signature(ours).parameters.values()]
        assert mine[: len(official)] == official, name


def test_the_record_is_a_snapshot(kept):
    """Changing the dict afterwards has no effect, and the caller's dict stays unchanged."""
    mp = Mixpanel("t", kept)
    properties = {"list": [1]}
    mp.people_track_charge("u", 5, properties)
    assert properties == {"list": [1]}
    mp.track("u", "E", properties)
    properties["list"].append(2)
    assert kept.calls[-1][1]["properties"]["list"] == [1]


def test_fresh_ids_are_32_hexadecimal_digits(kept):
    """As the official client's, of a length and alphabet that Mixpanel accepts."""
    mp = Mixpanel("t", kept)
    mp.track("u", "E")
    mp.track("u", "E")
    first, second = (c[1]["properties"]["$insert_id"] for c in kept.calls)
    assert first != second
    assert uuid.UUID(first).hex == first


def test_a_falsy_consumer_is_used():
    """An empty list-like test double is not silently replaced."""

    class Falsy(list):
        def send(self, endpoint, message, *_):
            self.append(endpoint)

    consumer = Falsy()
    Mixpanel("t", consumer).track("u", "E")
    assert consumer == ["events"]


# ---- options ------------------------------------------------------------------------------------


def test_track_has_options_for_the_reserved_properties(mp, kept):
    """time, insert_id, ip, device_id and user_id."""
    when = datetime.fromtimestamp(NOW - 60, UTC)
    mp.track("u", "E", time=when, insert_id="own-1", ip="1.2.3.4", device_id="d", user_id="x")
    properties = kept.only[1]["properties"]
    assert properties == {
        **EVENT,
        "time": round((NOW - 60) * 1000),
        "$insert_id": "own-1",
        "ip": "1.2.3.4",
        "$device_id": "d",
        "$user_id": "x",
    }


def test_simplified_ids_omit_the_distinct_id(mp, kept):
    """Null would be taken for a user; without it, Mixpanel derives the distinct_id."""
    mp.track(None, "E", device_id="d")
    assert "distinct_id" not in kept.only[1]["properties"]


def test_a_missing_distinct_id_is_never_null(kept):
    """Null or a missing key would make one synthetic user of all events of a server."""
    mp = Mixpanel("t", kept)
    mp.track(None, "E")
    assert kept.only[1]["properties"]["distinct_id"] == ""
    assert mp.stats().warnings == {"invalid": 1}


def test_a_numeric_distinct_id_becomes_text(mp, kept):
    """A number and its text would be two users."""
    mp.track(17, "E")
    assert kept.only[1]["properties"]["distinct_id"] == "17"


def test_a_dedupe_key_gives_the_same_id_each_time(mp, kept):
    """For sources that deliver more than once."""
    mp.track("u", "Paid", dedupe_key="order-1", time=NOW)
    mp.track("u", "Paid", dedupe_key="order-1", time=NOW)
    mp.track("u", "Paid", dedupe_key="order-2", time=NOW)
    first, second, other = (c[1]["properties"]["$insert_id"] for c in kept.calls)
    assert first == second != other
    assert len(first) == 36
    assert first == deterministic_id("Paid", "u", "order-1")
    with pytest.raises(ValidationError, match="time"):
        mp.track("u", "Paid", dedupe_key="order-1")


def test_super_properties_context_and_call_win_in_that_order(mp, kept):
    """defaults < context < call."""
    mp.register({"a": "super", "b": "super", "c": "super"})
    with mixpanel.context("ctx-user", {"b": "context"}, c="context", d="context"):
        mp.track(None, "E", {"c": "call"})
        with mixpanel.context(d="inner"):
            mp.track("own", "E")
    mp.unregister("a", "never")
    mp.track("u", "E")
    one, two, three = (c[1]["properties"] for c in kept.calls)
    assert one["distinct_id"] == "ctx-user"
    assert [one[k] for k in "abcd"] == ["super", "context", "call", "context"]
    assert (two["distinct_id"], two["d"], two["b"]) == ("own", "inner", "context")
    assert "a" not in three
    assert three["b"] == "super"


@pytest.mark.anyio
async def test_the_context_follows_tasks_and_threads(kept, anyio_backend):
    """Each task keeps its own; worker threads inherit their caller's."""
    mp = AsyncMixpanel("t", kept)
    sync = Mixpanel("t", kept)

    async def serve(user):
        with mixpanel.context(user):
            await anyio.sleep(0.01)
            await mp.track(None, "Async")
            await anyio.to_thread.run_sync(lambda: sync.track(None, "Sync"))

    async with anyio.create_task_group() as tasks:
        for n in range(5):
            tasks.start_soon(serve, f"u{n}")
    seen = sorted((c[1]["event"], c[1]["properties"]["distinct_id"]) for c in kept.calls)
    assert seen == [(name, f"u{n}") for name in ("Async", "Sync") for n in range(5)]


def test_a_bare_thread_starts_outside_of_the_context(mp, kept):
    """What belongs to one request does not leak into another's thread."""
    with mixpanel.context("u", a=1):
        thread = threading.Thread(target=mp.track, args=("own", "E"))
        thread.start()
        thread.join()
    assert "a" not in kept.only[1]["properties"]


def test_batch_forms_complete_each_message(mp, kept):
    """Token, time, id and library are added where they are missing."""
    mp.track_batch(
        [
            {"event": "A", "properties": {"distinct_id": "u", "time": NOW - 5}},
            {"event": "B", "properties": {"distinct_id": "u", "$insert_id": "x"}, "extra": 1},
        ]
    )
    mp.people_batch([{"$distinct_id": "u", "$set": {"a": 1}}])
    mp.group_batch([{"$group_key": "company", "$group_id": "acme", "$unset": ["a"]}])
    assert [c[1] for c in kept.calls] == [
        {"event": "A", "properties": {**EVENT, "time": NOW - 5}},
        {"event": "B", "properties": {**EVENT, "$insert_id": "x"}, "extra": 1},
        {**PERSON, "$set": {"a": 1}},
        {**GROUP, "$unset": ["a"]},
    ]
    with pytest.raises(ValidationError):
        mp.track_batch([{"event": "C", "properties": {"distinct_id": "u"}}, {"oops": 1}])
    assert len(kept.calls) == 4


# ---- what is caught -----------------------------------------------------------------------------

BAD = [
    (lambda mp: mp.track("u", ""), "event name"),
    (lambda mp: mp.track("u", "x" * 256), "event name"),
    (lambda mp: mp.track(None, "E"), "distinct_id is missing"),
    (lambda mp: mp.track("", "E"), "distinct_id is missing"),
    (lambda mp: mp.track("NULL", "E"), "not accepted"),
    (lambda mp: mp.track(0, "E"), "not accepted"),
    (lambda mp: mp.track("00000000-0000-0000-0000-000000000000", "E"), "not accepted"),
    (lambda mp: mp.track(None, "E", device_id="anon"), r"\$device_id 'anon' .* not accepted"),
    (lambda mp: mp.track("u", "E", {"$device_id": "Undefined"}), r"\$device_id .* not accepted"),
    (lambda mp: mp.track(None, "E", device_id="d", user_id=-1), r"\$user_id -1 .* not accepted"),
    (lambda mp: mp.track("u", "E", insert_id="a_b"), "insert_id"),
    (lambda mp: mp.track("u", "E", insert_id="x" * 37), "insert_id"),
    (lambda mp: mp.track("u", "E", {"$insert_id": 5}), "insert_id"),
    (lambda mp: mp.track("u", "E", time=NOW - 6 * 86400), "5 days"),
    (lambda mp: mp.track("u", "E", time=NOW + 7200), "one hour"),
    (lambda mp: mp.track("u", "E", {"time": "yesterday"}), "time"),
    (lambda mp: mp.track("u", "E", {str(n): n for n in range(256)}), "properties"),
    (lambda mp: mp.track("u", "E", {"n" * 256: 1}), "name is longer"),
    (lambda mp: mp.track("u", "E", {"l": list(range(256))}), "items"),
    (lambda mp: mp.track("u", "E", {"d": {"a": {"b": {"c": {}}}}}), "nested"),
    (lambda mp: mp.track("u", "E", {"x": "x" * 1_100_000}), "bytes"),
    (lambda mp: mp.track("u", "E", {"x": float("nan")}), "finite"),
    (lambda mp: mp.track("u", "E", {"x": "\ud800"}), "surrogate"),
    (lambda mp: mp.track("u", "E", {"x": object()}), "sent as text"),
    (lambda mp: mp.import_data(None, "u", "E", 5), "1971"),
    (lambda mp: mp.people_set("anonymous", {"a": 1}), "not accepted"),
    (lambda mp: mp.people_set(None, {"a": 1}), "missing"),
    (lambda mp: mp.people_increment("u", {"a": "1"}), "numbers"),
    (lambda mp: mp.group_set("company", "", {"a": 1}), "missing"),
]


@pytest.mark.slow
@pytest.mark.parametrize(("call", "words"), BAD)
def test_mode_raise_raises_from_the_call(mp, kept, call, words):
    """A typed error describes the problem; nothing is sent."""
    with pytest.raises(ValidationError, match=words):
        call(mp)
    assert kept.calls == []


def test_an_id_of_none_is_not_the_text_none(mp, kept):
    """The server would reject the text "none"."""
    mp.track("u", "E", {"$device_id": None, "$user_id": None})
    assert len(kept.calls) == 1


@pytest.mark.slow
@pytest.mark.parametrize(("call", "words"), BAD)
def test_mode_warn_counts_the_problem_and_sends_the_message(kept, call, words):
    """The default never raises because of a message's content."""
    mp = Mixpanel("t", kept)
    mp._now = lambda: NOW
    call(mp)
    assert len(kept.calls) == 1
    assert sum(mp.stats().warnings.values()) >= 1


def test_mode_warn_logs_once_a_minute(kept, caplog):
    """Many bad messages are one line in the log."""
    mp = Mixpanel("t", kept)
    for _ in range(100):
        mp.track("null", "E")
    assert len(caplog.records) == 1
    assert mp.stats().warnings == {"invalid": 100}


def test_different_problems_do_not_hide_each_other(kept, caplog):
    """Each kind has its line, whatever the values; without end they share one."""
    mp = Mixpanel("t", kept)
    for n in range(20):
        mp.track("null" if n % 2 else "undefined", "E")
        mp.track("u", "E", {f"p{n}": {"a": {"b": {"c": {"d": n}}}}})
    assert ["distinct_id 'undefined' is not", "'p0' is nested deeper"] == [
        record.getMessage().partition(": ")[2][: len(start)]
        for record, start in zip(
            caplog.records, ["distinct_id 'undefined' is not", "'p0' is nested deeper"], strict=True
        )
    ]
    caplog.clear()
    for n in range(500):
        mp._stats.note("invalid", f"a new problem {chr(200 + n) * 3}")
    assert 40 <= len(caplog.records) <= 51


def test_mode_off_validates_nothing(kept):
    """For callers who validate on their own."""
    mp = Mixpanel("t", kept, validation="off")
    mp.track("null", "E")
    assert mp.stats().warnings == {}


def test_overriding_the_token_works_and_warns(kept):
    """The official client allows it, but it is seldom intended."""
    mp = Mixpanel("t", kept)
    mp.track("u", "E", {"token": "other"})
    assert kept.only[1]["properties"]["token"] == "other"
    assert mp.stats().warnings == {"token": 1}


# ---- hooks, off switch, sampling ----------------------------------------------------------------


def test_before_send_may_change_and_drop_messages(kept):
    """It gets each message before it is serialized."""

    def redact(endpoint, message):
        if endpoint == "people":
            return None
        message["properties"].pop("email", None)
        return message

    mp = Mixpanel("t", kept, before_send=redact)
    mp.track("u", "E", {"email": "a@example.org"})
    mp.people_set("u", {"email": "a@example.org"})
    assert "email" not in kept.only[1]["properties"]
    assert mp.stats().dropped == {"before_send": 1}
    assert mp.stats().balanced


def test_without_a_serializer_json_writes_what_it_can(kept):
    """As in the official client."""
    Mixpanel("t", kept, serializer=None).track("u", "E", {"n": 1})
    assert 1 == kept.only[1]["properties"]["n"]


def test_before_send_does_not_change_data_of_the_program(kept):
    """Nested objects are copied: else super properties would be changed again for each event."""

    def redact(_endpoint, message):
        for part in (
            message["properties"] if "properties" in message else message["$set"]
        ).values():
            if isinstance(part, dict):
                part["tags"].append("seen")
                part["email"] = len(part["email"])
        return message

    given = {"email": "a@example.org", "tags": ["x", ("y", {"z": 1})]}
    itself: dict = {"email": "b@example.org", "tags": []}
    itself["tags"].append(itself)
    before = deepcopy(given)
    mp = Mixpanel("t", kept, before_send=redact, super_properties={"user": given})
    for _ in range(2):
        mp.track("u", "E", {"nested": given})
    mp.track_batch([{"event": "E", "properties": {"distinct_id": "u", "nested": given}}])
    mp.people_set("u", {"nested": given})
    mp.people_update({"$distinct_id": "u", "$set": {"nested": given}})
    mp.track("u", "E", {"circular": itself})
    assert before == given
    sent = [call[1]["properties"] for call in kept.calls if call[0] == "events"]
    changed = {"email": 13, "tags": ["x", ["y", {"z": 1}], "seen"]}
    assert [changed] * 4 == [properties["user"] for properties in sent]
    assert "b@example.org" == itself["email"]


def test_a_failing_before_send_drops_the_message(kept):
    """The hook may exist to remove private data."""
    mp = Mixpanel("t", kept, before_send=lambda *_: 1 / 0)
    mp.track("u", "E", {"email": "a@example.org"})
    assert kept.calls == []
    assert mp.stats().dropped == {"before_send_error": 1}


def test_a_disabled_client_validates_but_sends_nothing(kept):
    """For tests and opt-outs; the statistics still balance."""
    mp = Mixpanel("t", kept, disabled=True, validation="raise")
    mp.track("u", "E")
    with pytest.raises(ValidationError):
        mp.track("null", "E")
    assert kept.calls == []
    assert mp.stats().dropped == {"disabled": 1}
    assert mp.stats().lost == 0


def test_sampling_keeps_whole_users_and_adds_weights(kept):
    """A user is in or out, so funnels stay complete; the weights give the totals."""
    mp = Mixpanel("t", kept, sample_rate=0.25)
    for n in range(400):
        mp.track(f"u{n}", "A")
        mp.track(f"u{n}", "B")
    users = [c[1]["properties"]["distinct_id"] for c in kept.calls]
    assert 120 < len(users) < 280
    assert all(users.count(user) == 2 for user in users)
    assert {c[1]["properties"]["$sample_weight"] for c in kept.calls} == {4.0}
    assert mp.stats().dropped == {"sampled": 800 - len(users)}
    assert mp.stats().balanced
