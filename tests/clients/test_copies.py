"""Copies and pickles of clients and consumers: the settings, an empty buffer, no connection."""

import copy
import multiprocessing
import pickle
import ssl

import httpx
import pytest

from mixpanel import (
    AsyncBufferedConsumer,
    AsyncConsumer,
    AsyncMixpanel,
    BufferedConsumer,
    Consumer,
    Limits,
    LocalFlagsConfig,
    Mixpanel,
    RetryPolicy,
    ServiceAccountCredentials,
)

NOWHERE = "http://127.0.0.1:9"
SECRET, PASSWORD = "cAnArY-secret", "cAnArY-proxy"
SETTINGS = {
    "base_url": NOWHERE,
    "credentials": ServiceAccountCredentials("user", SECRET, "1"),
    "proxy": f"http://user:{PASSWORD}@127.0.0.1:1",
    "retry": RetryPolicy(attempts=3),
    "when_full": "drop_oldest",
    "limits": Limits(max_queue_size=11),
}
KINDS = [Consumer, BufferedConsumer, AsyncConsumer, AsyncBufferedConsumer]
WAYS = {
    "pickle": lambda one: pickle.loads(pickle.dumps(one)),
    "deepcopy": copy.deepcopy,
    "copy": copy.copy,
}
each_kind = pytest.mark.parametrize("kind", KINDS)
each_way = pytest.mark.parametrize("copied", WAYS.values(), ids=WAYS)


class Tagged(Mixpanel):
    """A subclass as programs write them, with attributes of its own."""

    def __init__(self, tag, **options):
        super().__init__("t", **options)
        self.tags = [tag]


class Owner:
    """An object that holds a client, and is its callback."""

    def __init__(self):
        self.errors = []
        self.mp = Mixpanel("t", BufferedConsumer(base_url=NOWHERE, on_error=self.keep))

    def keep(self, error, messages):
        self.errors.append(error)


@pytest.mark.slow
@each_kind
@each_way
def test_a_copy_of_a_consumer_has_its_settings_and_an_empty_buffer(kind, copied):
    """What the original holds is the original's to send."""
    size = {"max_size": 7} if issubclass(kind, (BufferedConsumer, AsyncBufferedConsumer)) else {}
    consumer = kind(**size, **SETTINGS)
    if size:
        Mixpanel("t", consumer).track("u", "Visit")
        consumer._sender.buffer.drop_all("test")
    new = copied(consumer)
    assert type(new) is kind
    assert repr(new) == repr(consumer)
    assert new.stats().accepted == 0
    ours, theirs = new._sender, consumer._sender
    assert ours is not theirs
    assert ours.buffer.limits == theirs.buffer.limits
    assert ours.buffer.when_full == "drop_oldest"
    assert ours.dispatcher.policy == theirs.dispatcher.policy
    assert ours.api.credentials == SETTINGS["credentials"]
    assert ours.connections.transport == theirs.connections.transport


@each_way
@pytest.mark.parametrize("kind", [Mixpanel, AsyncMixpanel])
def test_a_copy_of_a_client_composes_the_same_messages(kind, copied):
    """Token, super properties, also those registered later, and flags."""
    mp = kind(
        "token",
        super_properties={"a": 1},
        local_flags_config=LocalFlagsConfig(),
        ingestion="import",
        credentials=SETTINGS["credentials"],
        base_url=NOWHERE,
    )
    mp.register({"b": 2})
    new = copied(mp)
    assert (new._token, new._event_endpoint) == ("token", "imports")
    assert new._composer.super_properties == {"a": 1, "b": 2}
    assert new.local_flags is not mp.local_flags
    assert new.consumer is not mp.consumer
    new.unregister("a")
    assert mp._composer.super_properties == {"a": 1, "b": 2}


@each_way
def test_what_a_subclass_adds_is_copied_as_usual(copied):
    """Its constructor, which may have other parameters, is not called."""
    mp = Tagged("x", base_url=NOWHERE)
    mp.later = {"y"}
    new = copied(mp)
    assert (type(new), new.tags, new.later) == (Tagged, ["x"], {"y"})
    assert new.stats().accepted == 0


def test_a_deep_copy_keeps_a_consumer_shared():
    """Within one graph of objects; what cannot be copied is shared with the original."""
    own, context = httpx.AsyncClient(), ssl.create_default_context()
    consumer = BufferedConsumer(base_url=NOWHERE, http_client=own)
    graph = {"one": Mixpanel("t", consumer), "other": Mixpanel("s", consumer), "it": consumer}
    new = copy.deepcopy(graph)
    assert new["one"].consumer is new["other"].consumer is new["it"] is not consumer
    assert new["it"]._sender.connections.transport.client is own
    tls = copy.deepcopy(Consumer(base_url=NOWHERE, ssl_context=context))
    assert tls._sender.connections.transport.ssl_context is context


@each_way
def test_an_object_that_holds_a_client_can_be_copied(copied):
    """Even if a method of its own is the client's callback."""
    new = copied(Owner())
    assert new.mp.stats().accepted == 0


@each_kind
def test_only_the_pickle_itself_shows_a_secret(kind):
    """Neither a copy nor its attributes do; a pickle has to, for a process that is spawned."""
    consumer = kind(**SETTINGS)
    for one in (consumer, Mixpanel("t", consumer)):
        for new in (one, *(copied(one) for copied in WAYS.values())):
            shown = repr(new) + repr(vars(new))
            assert SECRET not in shown
            assert PASSWORD not in shown
        pickled = pickle.dumps(one)
        assert SECRET.encode() in pickled
        assert PASSWORD.encode() in pickled


def _track(mp, n):
    mp.track("u", "Visit", {"n": n})


@pytest.mark.slow
def test_a_client_can_be_passed_to_spawned_processes(emu):
    """Each has a buffer of its own, which its end sends."""
    mp = Mixpanel("t", BufferedConsumer(base_url=emu.url))
    mp.track("u", "Visit", {"n": 0})
    context = multiprocessing.get_context("spawn")
    children = [context.Process(target=_track, args=(mp, n)) for n in (1, 2)]
    for child in children:
        child.start()
    for child in children:
        child.join(30)
    mp.consumer.close()
    assert sorted(event["properties"]["n"] for event in emu.events()) == [0, 1, 2]
