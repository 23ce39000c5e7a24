"""What programs do that were written for the official client: it works here, too."""

import json
import logging
import re
import subprocess
import sys
import textwrap
from concurrent.futures import ThreadPoolExecutor

import anyio
import httpx
import pytest

import mixpanel
from mixpanel import (
    AsyncBufferedConsumer,
    AsyncConsumer,
    AsyncMixpanel,
    BufferedConsumer,
    Consumer,
    LocalFlagsConfig,
    Mixpanel,
    ServiceAccountCredentials,
    ValidationError,
)
from mixpanel.flags import utils


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


@pytest.mark.slow
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


# ---- names ------------------------------------------------------------------------------------


def test_modules_are_attributes_without_an_import_of_their_own():
    """`import mixpanel` is enough, and imports none of them before they are used."""
    program = """
        import sys
        import mixpanel
        assert "mixpanel.flags" not in sys.modules
        assert mixpanel.flags.types.MIXPANEL_DEFAULT_API_ENDPOINT == "api.mixpanel.com"
        assert mixpanel.flags.utils.normalized_hash("abc", "variant") == 0.72
        assert mixpanel.flags.custom_operators.semver_compare("1.0", "<", "2")
        assert mixpanel.flags.local_feature_flags.LocalFeatureFlagsProvider
        assert mixpanel.flags.remote_feature_flags.RemoteFeatureFlagsProvider
        assert mixpanel.credentials.ServiceAccountCredentials
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(program)], check=True)


def test_the_logger_is_the_one_that_messages_go_to(caplog):
    """So that its level can be set through the package."""
    assert mixpanel.logger is logging.getLogger("mixpanel")
    mixpanel.logger.setLevel(logging.CRITICAL)
    try:
        Mixpanel("t", Kept(), credentials=account())
    finally:
        mixpanel.logger.setLevel(logging.NOTSET)
    assert not caplog.records


@pytest.mark.anyio
async def test_a_sync_client_in_an_async_block_is_flushed_and_closed(emu, anyio_backend):
    """Without blocking the event loop."""
    consumer = BufferedConsumer(base_url=emu.url)
    async with Mixpanel("t", consumer) as mp:
        mp.track("u", "E")
        assert not emu.events()
    assert len(emu.events()) == 1
    await consumer._sender.aclose()


@pytest.mark.anyio
async def test_a_cancelled_async_block_is_flushed_all_the_same(emu, anyio_backend):
    """The messages were accepted."""
    consumer = BufferedConsumer(base_url=emu.url)
    with anyio.CancelScope() as scope:
        async with Mixpanel("t", consumer) as mp:
            mp.track("u", "E")
            scope.cancel()
            await anyio.sleep(1)
    assert len(emu.events()) == 1
    await consumer._sender.aclose()


@pytest.mark.anyio
async def test_an_async_block_starts_the_flags(emu, anyio_backend):
    """As `with` does for sync code."""
    emu.set_flags([])
    config = LocalFlagsConfig(base_url=emu.url, enable_polling=False)
    async with Mixpanel("t", Kept(), local_flags_config=config) as mp:
        assert mp.local_flags.are_flags_ready()


def test_exposures_are_dispatched_as_by_the_official_function(caplog):
    """At once, or in an executor, where an error is logged."""
    kept, reason = Kept(), RuntimeError("own")
    utils.dispatch_exposure(kept.send, None, "u", {"a": 1})
    assert kept.calls == [("u", "$experiment_started", {"a": 1})]

    def failing(*_):
        raise reason

    with pytest.raises(RuntimeError, match="own"):
        utils.dispatch_exposure(failing, None, "u", {})
    with ThreadPoolExecutor(1) as executor:
        utils.dispatch_exposure(failing, executor, "u", {})
    assert "could not be tracked" in caplog.text


def test_an_async_http_client_is_closed_from_sync_code():
    """As shutting flags down needs it."""
    client = httpx.AsyncClient()
    utils.close_async_client_from_sync(client)
    assert client.is_closed


def test_queries_and_traces_of_flags_have_the_official_form():
    """With a project for a service account only."""
    query = {"mp_lib": "python", "lib_version": "1", "token": "t"}
    assert utils.prepare_common_query_params("t", "1") == query
    assert utils.prepare_common_query_params("t", "1", "p") == {**query, "project_id": "p"}
    assert re.fullmatch("00-[0-9a-f]{32}-[0-9a-f]{16}-01", utils.generate_traceparent())
