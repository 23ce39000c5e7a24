"""What programs do that were written for the official client: it works here, too."""

import json

import pytest

from mixpanel import (
    AsyncBufferedConsumer,
    AsyncConsumer,
    AsyncMixpanel,
    BufferedConsumer,
    Consumer,
    Mixpanel,
    ServiceAccountCredentials,
    ValidationError,
)


class Kept:
    """A consumer of the program's own, that keeps the arguments of each call."""

    def __init__(self):
        self.calls = []

    def send(self, *arguments):
        self.calls.append(arguments)


def account():
    return ServiceAccountCredentials("user", "secret", "17")


# ---- messages that are JSON already -----------------------------------------------------------

TWO = '[{"event":"A","properties":{"token":"t"}},{"event":"B","properties":{"token":"t"}}]'


@pytest.mark.parametrize("kind", [Consumer, BufferedConsumer])
def test_a_consumer_sends_an_array_of_messages(emu, kind):
    """As home-made buffers do, which join what they have kept."""
    consumer = kind(base_url=emu.url)
    consumer.send("events", TWO)
    consumer.close()
    assert sorted(event["event"] for event in emu.events()) == ["A", "B"]
    assert consumer.stats().delivered == 2


@pytest.mark.anyio
@pytest.mark.parametrize("kind", [AsyncConsumer, AsyncBufferedConsumer])
async def test_an_async_consumer_sends_an_array_of_messages(emu, anyio_backend, kind):
    """In order, each message counted."""
    consumer = kind(base_url=emu.url)
    await consumer.send("events", TWO)
    await consumer.aclose()
    assert sorted(event["event"] for event in emu.events()) == ["A", "B"]
    assert consumer.stats().delivered == 2


@pytest.mark.parametrize("message", ["[]", "[1]", '[{"event":"A"},"B"]', '[[{"event":"A"}]]'])
def test_an_array_of_anything_but_messages_is_refused(emu, message):
    """Before any of it is sent."""
    with pytest.raises(ValidationError, match="an array of objects"):
        Consumer(base_url=emu.url).send("events", message)
    assert not emu.requests()


def test_an_array_of_updates_repeats_only_what_may_be_repeated():
    """Each update of an array is judged by itself."""
    consumer = BufferedConsumer()
    consumer.send("people", '[{"$add":{"a":1}},{"$set":{"a":1}}]')
    queue = consumer._sender.buffer.queues["people"].unsent
    assert [record.repeatable for record in queue] == [False, True]
    queue.clear()


def test_a_message_for_import_is_authorised_by_its_token(emu):
    """A consumer without credentials sends what the client would."""
    consumer = Consumer(base_url=emu.url)
    consumer.send(
        "imports", '{"event":"E","properties":{"token":"t","time":1700000000,"$insert_id":"a"}}'
    )
    consumer.close()
    assert emu.requests()[-1].headers["authorization"].startswith("Basic ")


# ---- credentials and keys ---------------------------------------------------------------------


@pytest.mark.parametrize("kind", [Mixpanel, AsyncMixpanel])
def test_credentials_beside_a_consumer_are_ignored_with_a_warning(kind, caplog):
    """The client works, and the log says where the credentials belong."""
    kind("t", Kept(), credentials=account())
    assert "Consumer(credentials=...)" in caplog.text
    assert "secret" not in caplog.text


@pytest.mark.parametrize(
    ("call", "pair"),
    [
        (lambda mp: mp.import_data("KEY", "u", "E", 99999999), ("KEY", None)),
        (lambda mp: mp.import_data("KEY", "u", "E", 99999999, api_secret="S"), ("KEY", "S")),
        (lambda mp: mp.import_data(None, "u", "E", 99999999, api_secret="S"), (None, "S")),
        (lambda mp: mp.import_data(None, "u", "E", 99999999), (None, None)),
        (lambda mp: mp.merge("KEY", "a", "b"), ("KEY", None)),
        (lambda mp: mp.merge("KEY", "a", "b", api_secret="S"), ("KEY", "S")),
    ],
)
def test_a_consumer_gets_the_api_key_with_and_without_a_secret(call, pair):
    """As one positional argument, a pair."""
    kept = Kept()
    call(Mixpanel("t", kept))
    assert kept.calls[0][2:] == (pair,)


# ---- meta -------------------------------------------------------------------------------------


def test_meta_may_replace_the_properties_of_an_event():
    """Of an imported event as of a tracked one."""
    kept = Kept()
    mp = Mixpanel("t", kept)
    mp.track("u", "E", {"a": 1}, {"properties": {"b": 2}})
    mp.import_data(None, "u", "E", 99999999, {"a": 1}, {"properties": {"b": 2}})
    assert [json.loads(call[1]) for call in kept.calls] == 2 * [
        {"event": "E", "properties": {"b": 2}}
    ]


@pytest.mark.parametrize(
    "call",
    [
        lambda mp, meta: mp.track("u", "E", None, meta),
        lambda mp, meta: mp.import_data(None, "u", "E", 99999999, None, meta),
        lambda mp, meta: mp.alias("a", "b", meta),
        lambda mp, meta: mp.merge(None, "a", "b", meta),
    ],
)
@pytest.mark.parametrize("meta", [{"properties": None}, {"properties": 3}, {"event": None}, 3])
def test_meta_that_makes_no_event_is_refused(call, meta):
    """With a ValidationError that names what is wrong."""
    kept = Kept()
    with pytest.raises(ValidationError, match=r"must be (a mapping|text)"):
        call(Mixpanel("t", kept), meta)
    assert not kept.calls
