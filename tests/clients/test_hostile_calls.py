"""Calls that no one means to make raise a typed error at their line, or send a valid message."""

import dataclasses
import json
import logging
import uuid
from contextvars import copy_context
from datetime import UTC, datetime

import pytest

import mixpanel
from mixpanel import (
    AsyncBufferedConsumer,
    AsyncMixpanel,
    BufferedConsumer,
    ConfigurationError,
    Mixpanel,
    QueueFullError,
    ValidationError,
)
from mixpanel._records.json_encoding import dumps
from mixpanel.flags import RemoteFlagsConfig
from mixpanel.settings import Limits, checked_origin
from mixpanel.testing import MemoryConsumer, capture, override_flags

NOWHERE = "http://127.0.0.1:9"
NOW = 1_764_000_000.0


@pytest.fixture
def kept():
    """Keep what is sent, reading each message as strict JSON."""
    return MemoryConsumer()


# ---- arguments ----------------------------------------------------------------------------------

WRONG_TYPES = {
    "properties, a list": lambda mp: mp.track("u", "E", ["list"]),
    "properties, text": lambda mp: mp.track("u", "E", "text"),
    "properties, pairs": lambda mp: mp.track("u", "E", [("a", 1)]),
    "properties, a number": lambda mp: mp.import_data(None, "u", "E", NOW, 5),
    "meta": lambda mp: mp.track("u", "E", {}, ["meta"]),
    "meta that ruins the message": lambda mp: mp.track("u", "E", {}, {"properties": [1]}),
    "event name None": lambda mp: mp.track("u", None),
    "event name 5": lambda mp: mp.track("u", 5),
    "event name, a list": lambda mp: mp.import_data(None, "u", ["E"], NOW),
    "distinct_id without text": lambda mp: mp.track(10**5000, "E"),
    "dedupe_key without text": lambda mp: mp.track("u", "E", dedupe_key=10**5000, time=NOW),
    "profile, a list": lambda mp: mp.people_set("u", ["list"]),
    "profile, None": lambda mp: mp.people_set_once("u", None),
    "profile names": lambda mp: mp.people_unset("u", 5),
    "charge": lambda mp: mp.people_track_charge("u", 5, ["list"]),
    "group, a list": lambda mp: mp.group_set("company", "acme", ["list"]),
    "update, a list": lambda mp: mp.people_update(["list"]),
    "batch of one dict": lambda mp: mp.track_batch({"event": "E", "properties": {}}),
}


@pytest.mark.parametrize("validation", ["off", "warn", "raise"])
@pytest.mark.parametrize("call", WRONG_TYPES.values(), ids=WRONG_TYPES)
def test_a_wrong_type_is_a_validation_error_in_every_mode(kept, call, validation):
    """Such a call has a bug, whatever the data; nothing is sent."""
    mp = Mixpanel("t", kept, validation=validation)
    with pytest.raises(ValidationError):
        call(mp)
    assert [] == kept.messages()


STRANGE_VALUES = {
    "time beyond floats": lambda mp: mp.track("u", "E", time=10**400),
    "time without text": lambda mp: mp.track("u", "E", {"time": 10**5000}),
    "time infinite": lambda mp: mp.track("u", "E", time=float("inf")),
    "a number beyond floats": lambda mp: mp.track("u", "E", {"n": 10**400}),
    "a number without text": lambda mp: mp.track("u", "E", {"n": [10**5000]}),
    "an id without text": lambda mp: mp.track("u", "E", {"$insert_id": 10**5000}),
    "surrogates": lambda mp: mp.track("\ud800", "\ud800", {"\ud800": "\ud800"}),
    "profile id without text": lambda mp: mp.people_set(10**5000, {"a": 1}),
    "profile number": lambda mp: mp.people_increment("u", {"n": -(10**400)}),
}


@pytest.mark.parametrize("call", STRANGE_VALUES.values(), ids=STRANGE_VALUES)
def test_a_strange_value_never_spoils_a_batch(kept, call):
    """It is logged and sent as valid JSON; in mode "raise" it raises."""
    with pytest.raises(ValidationError):
        call(Mixpanel("t", kept, validation="raise"))
    assert [] == kept.messages()
    for validation in ("off", "warn"):
        mp = Mixpanel("t", kept, validation=validation)
        call(mp)
        assert sum(mp.stats().warnings.values()) >= 1
    for message in kept.messages():
        assert message == json.loads(json.dumps(message).encode("utf-8"), parse_int=float)


def test_a_dedupe_key_of_lone_surrogates_still_makes_an_id(kept):
    """The id is a digest of any text."""
    mp = Mixpanel("t", kept, validation="raise")
    mp.track("u", "E", dedupe_key="\ud800", time=mp._now())
    mp.track("u", "E", dedupe_key="\udfff", time=mp._now())
    first, second = (event["properties"]["$insert_id"] for event in kept.events)
    assert first != second


def test_a_uuid_is_an_insert_id(kept):
    """As option or property, it is sent as its text, without a warning."""
    mp, own = Mixpanel("t", kept, validation="raise"), uuid.uuid4()
    mp.track("u", "E", insert_id=own)
    mp.track("u", "E", {"$insert_id": own})
    mp.import_data(None, "u", "E", NOW, insert_id=own)
    assert [str(own)] * 3 == [e["properties"]["$insert_id"] for e in kept.messages()]


def test_a_token_read_from_a_file_loses_its_newline(kept):
    """As `echo TOKEN > file` leaves it."""
    Mixpanel("TOKEN\n", kept).track("u", "E")
    assert "TOKEN" == kept.events[0]["properties"]["token"]


# ---- object graphs ------------------------------------------------------------------------------


@dataclasses.dataclass
class Node:
    """A node of a graph."""

    links: list = dataclasses.field(default_factory=list)


def test_a_wide_cycle_is_cut_where_it_closes():
    """Twenty nodes that refer to each other are written once, not twenty to the sixteenth times."""
    node = Node()
    node.links = [node] * 20
    body, notes = dumps({"node": node})
    assert {"node": {"links": [None] * 20}} == json.loads(body)
    assert {"Node contains itself"} == set(notes)


@pytest.mark.slow
@pytest.mark.parametrize("plain", [True, False], ids=["lists", "dataclasses"])
def test_shared_objects_do_not_multiply(plain):
    """Ten links at each of fifteen levels stop at the bound, with one note of it."""
    graph = [] if plain else Node()
    for _ in range(7 if not plain else 14):
        graph = [graph] * 10 if plain else Node([graph] * 10)
    _, notes = dumps({"graph": graph})
    assert ["more than 100,000 values"] == notes


def test_an_endless_iterable_ends():
    """A note says that it was cut."""
    from itertools import count

    body, notes = dumps({"numbers": count()})
    assert ["more than 100,000 values"] == notes
    assert 100_000 > len(json.loads(body)["numbers"]) > 99_000


def test_a_cycle_raises_in_mode_raise(kept):
    """At the caller's line."""
    node = Node()
    node.links = [node]
    with pytest.raises(ValidationError, match="contains itself"):
        Mixpanel("t", kept, validation="raise").track("u", "E", {"node": node})


def test_a_value_that_occurs_twice_is_not_a_cycle():
    """Only a value inside itself is cut."""
    node = Node()
    body, notes = dumps({"a": node, "b": [node, node]})
    assert {"a": {"links": []}, "b": [{"links": []}] * 2} == json.loads(body)
    assert [] == notes


# ---- blocks that are left elsewhere -------------------------------------------------------------


BLOCKS = {"context": lambda: mixpanel.context("u"), "flags": lambda: override_flags(f=1)}


@pytest.mark.parametrize("block", BLOCKS.values(), ids=BLOCKS)
def test_a_block_may_be_left_in_another_context(block):
    """As an async generator's fixtures are, when their loop closes them."""
    entered = block()
    copy_context().run(entered.__enter__)
    entered.__exit__(None, None, None)


def test_leaving_a_block_in_another_task_undoes_its_copy(kept):
    """A task started inside the block which ends it is outside afterwards."""
    mp = Mixpanel("t", kept)
    with mixpanel.context("outer"):
        entered = mixpanel.context("inner")
        entered.__enter__()
        elsewhere = copy_context()
        elsewhere.run(mp.track, None, "Before")
        elsewhere.run(entered.__exit__, None, None, None)
        elsewhere.run(mp.track, None, "After")
    assert ["inner", "outer"] == [event["properties"]["distinct_id"] for event in kept.events]


# ---- hooks --------------------------------------------------------------------------------------


def test_before_send_may_track(kept):
    """Messages that the hook tracks skip the hook; the next message passes it again."""

    def count(endpoint, message):
        mp.track("u", "Seen", {"event": message["event"]})
        return message

    mp = Mixpanel("t", kept, before_send=count)
    mp.track("u", "A")
    mp.track("u", "B")
    assert ["Seen", "A", "Seen", "B"] == [event["event"] for event in kept.events]


@pytest.mark.parametrize("returned", [["list"], "text", 5, True], ids=repr)
def test_before_send_that_returns_no_message_drops_it(kept, returned, caplog):
    """As when it raises."""
    mp = Mixpanel("t", kept, before_send=lambda *_: returned)
    mp.track("u", "E")
    assert [] == kept.messages()
    assert {"before_send_error": 1} == mp.stats().dropped
    assert "before_send must return" in caplog.text


@pytest.mark.anyio
@pytest.mark.parametrize("when_full", ["drop_newest", "drop_oldest"])
async def test_on_drop_may_track_into_a_full_buffer(anyio_backend, when_full, caplog):
    """It is called for the first drop; those that it causes itself are logged."""
    caplog.set_level(logging.ERROR)
    heard = []

    def complain(reason, messages):
        heard.append((reason, [message["event"] for message in messages]))
        mp._enqueue(mp._composer.event("u", "Dropped"))

    limits = Limits(max_queue_size=1, flush_after=None)
    consumer = AsyncBufferedConsumer(
        base_url=NOWHERE, limits=limits, when_full=when_full, on_drop=complain
    )
    mp = AsyncMixpanel("t", consumer)
    await mp.track("u", "First")
    await mp.track("u", "Second")
    lost = "Second" if when_full == "drop_newest" else "First"
    assert [("queue_full", [lost])] == heard
    assert {"queue_full": 2} == mp.stats().dropped
    assert "1 message(s) dropped: queue_full" in caplog.text
    await consumer.aclose(0)


# ---- a batch too many ---------------------------------------------------------------------------

BATCH = [{"event": f"E{n}", "properties": {"distinct_id": "u"}} for n in range(3)]


@pytest.mark.anyio
async def test_a_batch_is_accepted_as_a_whole_or_not_at_all(anyio_backend):
    """With `when_full="raise"` the caller may try the same batch again."""
    limits = Limits(max_queue_size=4, flush_after=None)
    consumer = AsyncBufferedConsumer(base_url=NOWHERE, limits=limits, when_full="raise")
    mp = AsyncMixpanel("t", consumer)
    await mp.track_batch(BATCH)
    with pytest.raises(QueueFullError, match="none of 3 was accepted") as refused:
        await mp.track_batch(BATCH)
    assert 0 == refused.value.accepted
    assert 3 == mp.stats().pending
    await mp.track("u", "Fits")
    await consumer.aclose(0)


def test_a_sync_batch_says_how_much_of_it_was_accepted():
    """A buffer that sends when it is full cannot know beforehand."""
    limits = Limits(max_queue_size=2, flush_after=None)
    consumer = BufferedConsumer(base_url=NOWHERE, limits=limits, when_full="raise")
    mp = Mixpanel("t", consumer)
    with pytest.raises(QueueFullError) as refused:
        mp.track_batch(BATCH)
    assert 2 == refused.value.accepted == mp.stats().pending
    consumer.close(0)


# ---- the rest -----------------------------------------------------------------------------------


def test_flags_are_not_fetched_while_events_are_captured():
    """The provider returns the fallback with the reason; only a loopback emulator is used."""
    config = RemoteFlagsConfig(base_url="https://flags.example.invalid")
    mp = Mixpanel("t", MemoryConsumer(), remote_flags_config=config)
    with capture():
        fallback = mixpanel.flags.SelectedVariant("fallback")
        found = mp.remote_flags.get_variant("f", fallback, {"distinct_id": "u"})
    assert "fallback" == found.variant_value
    assert "captured" in str(found.fallback_reason)
    mp.close()


def test_a_half_built_client_has_a_repr():
    """A debugger shows it at the line that failed."""
    assert "<Mixpanel via None>" == repr(Mixpanel.__new__(Mixpanel))


@pytest.mark.parametrize(
    "url",
    [
        "https://user:hunter2@example.org",
        "https://user:hunter2/x@example.org",
        "user:hunter2@example.org:port",
        "ftp://hunter2@example.org",
        "https://user:hun ter2@example.org",
        "https://[user:hunter2@example.org",
    ],
)
def test_no_error_text_holds_a_password(url):
    """Neither ours nor the URL parser's."""
    with pytest.raises(ConfigurationError) as refused:
        checked_origin(url)
    assert "ter2" not in str(refused.value)


def test_a_datetime_is_a_time_of_the_last_five_days(kept):
    """The check of the range accepts valid times."""
    mp = Mixpanel("t", kept, validation="raise")
    mp.track("u", "E", time=datetime.now(UTC))
    assert 1 == len(kept.events)
