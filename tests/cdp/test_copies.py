"""Copies and pickles of CDP clients and fan-outs: the settings, an empty buffer, no connection."""

import copy
import logging
import multiprocessing
import pickle

import pytest

from mixpanel import ConfigurationError, Limits, Mixpanel, RetryPolicy
from mixpanel.cdp import (
    AsyncCustomerIO,
    AsyncFanOut,
    AsyncHightouch,
    CustomerIO,
    FanOut,
    Hightouch,
    Sink,
    analytics,
    htevents,
)
from mixpanel.cdp.rudderstack import RudderStack
from mixpanel.cdp.segment import AsyncSegment, Segment
from tests.cdp.run_clients import messages
from tests.clients.test_copies import NOWHERE, PASSWORD, WAYS, each_way

KEY = "cAnArY-key"
SETTINGS = {
    "base_url": NOWHERE,
    "proxy": f"http://user:{PASSWORD}@127.0.0.1:1",
    "retry": RetryPolicy(attempts=3),
    "limits": Limits(max_queue_size=11),
    "when_full": "drop_oldest",
    "ordered": False,
    "gzip": True,
    "max_message_bytes": 64_000,
    "validation": "raise",
    "default_context": {"app": {"name": "shop"}},
}
KINDS = [AsyncCustomerIO, CustomerIO, AsyncHightouch, Hightouch, AsyncSegment, Segment, RudderStack]
MODULES = [htevents, analytics]
each_kind = pytest.mark.parametrize("kind", KINDS)
each_module = pytest.mark.parametrize("module", MODULES)


class Tagged(CustomerIO):
    """A subclass as programs write them, with attributes of its own."""

    def __init__(self, tag):
        super().__init__(KEY, base_url=NOWHERE)
        self.tags = [tag]


class Owner:
    """An object that holds a client, and is its callback."""

    def __init__(self, make):
        self.errors = []
        self.client = make(KEY, on_error=self.keep)

    def keep(self, error, messages):
        self.errors.append(error)


def agreed(_person):
    """Return what everybody agreed to."""
    return {"marketing"}


@pytest.mark.slow
@each_kind
@each_way
def test_a_copy_of_a_client_has_its_settings_and_an_empty_buffer(kind, copied):
    """What the original holds is the original's to send."""
    client = kind(KEY, **SETTINGS)
    made = client.track("u", "Visit")
    if made is not None:
        made.close()
    client._sender.buffer.drop_all("test")
    new = copied(client)
    assert type(new) is kind
    assert repr(new) == repr(client)
    assert new.stats().accepted == 0
    ours, theirs = new._sender, client._sender
    assert ours is not theirs
    assert ours.buffer.limits == theirs.buffer.limits
    assert ours.buffer.when_full == "drop_oldest"
    assert ours.buffer._max_in_flight == theirs.buffer._max_in_flight
    assert ours.dispatcher.policy == theirs.dispatcher.policy
    assert ours.connections.transport == theirs.connections.transport
    assert new._api.dialect == client._api.dialect
    assert new._api.key == client._api.key
    assert new._api.max_message_bytes == 64_000
    assert new._composer.track("u", "Visit").decoded()["context"]["app"] == {"name": "shop"}


@each_way
def test_options_of_one_vendor_are_kept(copied):
    """Leniency at Customer.io, the place of the version at Hightouch."""
    lenient = copied(CustomerIO(KEY, strict=False, base_url=NOWHERE))
    assert not lenient._api.dialect.strict_headers
    versioned = copied(Hightouch(KEY, version_at="properties.apiVersion", base_url=NOWHERE))
    message = versioned._composer.track("u", "Visit", {}, schema_version="2")
    assert message.decoded()["properties"]["apiVersion"] == "2"


@each_way
def test_what_a_subclass_adds_is_copied_as_usual(copied):
    """Its constructor, which may have other parameters, is not called."""
    new = copied(Tagged("x"))
    assert (type(new), new.tags) == (Tagged, ["x"])


@each_module
@each_way
def test_a_copy_of_a_drop_in_client_is_a_client_of_its_own(module, copied):
    """With the callback that it has now; a log handler stays in this process."""
    client = module.Client(KEY, NOWHERE, thread=3, upload_size=7, max_age=8.0)
    client.on_error = print
    client._client._sender.buffer.drop_all("test")
    new = copied(client)
    assert new.on_error is print
    assert new._client is not client._client
    assert new._client._sender.buffer.limits == client._client._sender.buffer.limits
    assert new._client._sender.dispatcher.policy.max_age == 8.0
    assert new.stats().accepted == 0


def test_a_drop_in_client_with_a_log_handler_can_be_pickled():
    """The other process has logging of its own."""
    handler = logging.NullHandler()
    try:
        client = htevents.Client(KEY, NOWHERE, log_handler=handler)
        assert pickle.loads(pickle.dumps(client)).stats().accepted == 0
    finally:
        logging.getLogger("mixpanel").removeHandler(handler)


@pytest.mark.slow
@each_way
@pytest.mark.parametrize("make", [*KINDS[:2], *(module.Client for module in MODULES)])
def test_an_object_that_holds_a_client_can_be_copied(make, copied):
    """Even if a method of its own is the client's callback."""
    host = "host" if make in (each.Client for each in MODULES) else "base_url"
    new = copied(Owner(lambda key, **options: make(key, **{host: NOWHERE}, **options)))
    assert new.client.stats().accepted == 0


@each_way
@pytest.mark.parametrize("kind", [FanOut, AsyncFanOut])
def test_a_copy_of_a_fan_out_has_the_same_sinks_and_rules(kind, copied):
    """Also those given by an iterator, which is empty by then."""
    make = CustomerIO if kind is FanOut else AsyncCustomerIO
    fan_out = kind(
        consent=agreed,
        one=Sink(make(KEY, base_url=NOWHERE), events=iter(["Order *"]), consent="marketing"),
        two=Sink(make("other", base_url=NOWHERE), sample=0.5, calls=["track"], keep_open=True),
    )
    new = copied(fan_out)
    assert type(new) is kind
    assert repr(new) == repr(fan_out)
    for ours, theirs in zip(new._destinations, fan_out._destinations, strict=True):
        assert (ours.name, ours.keep_open) == (theirs.name, theirs.keep_open)
        assert ours.may_block == theirs.may_block
        assert ours.counters is not theirs.counters
        assert ours.rules.calls == theirs.rules.calls
        assert ours.rules.required_consent == theirs.rules.required_consent
        assert ours.rules.matches_event("Visit") == theirs.rules.matches_event("Visit")
        # A copy shares its clients, as that of a `Mixpanel` shares its consumer.
        assert (ours.client is theirs.client) == (copied is copy.copy)
    assert new._consent is agreed


def test_only_the_pickle_itself_shows_a_key():
    """Neither a copy nor its attributes do; a pickle has to, for a process that is spawned."""
    clients = [kind(KEY, **SETTINGS) for kind in KINDS]
    clients += [module.Client(KEY, NOWHERE, proxies={"https": SETTINGS["proxy"]})
                for module in MODULES]  # fmt: skip
    clients.append(FanOut(one=Sink(CustomerIO(KEY, **SETTINGS))))
    for client in clients:
        for new in (client, *(copied(client) for copied in WAYS.values())):
            shown = repr(new) + repr(vars(new)) + repr(new.__getstate__())
            assert KEY not in shown
            assert PASSWORD not in shown
        pickled = pickle.dumps(client)
        assert KEY.encode() in pickled
        assert PASSWORD.encode() in pickled


def test_a_copy_that_cannot_be_made_shows_no_key(monkeypatch):
    """A crash reporter gets the local variables of each frame."""
    client = CustomerIO(KEY)
    pickled = pickle.dumps(client)
    monkeypatch.setenv("MP_CUSTOMERIO_BASE_URL", "ftp://nowhere")
    for make in (lambda: copy.copy(client), lambda: copy.deepcopy(client),
                 lambda: pickle.loads(pickled)):  # fmt: skip
        with pytest.raises(ConfigurationError) as caught:
            make()
        frames = [each.frame for each in caught.traceback[2:]]  # after those of this test
        assert KEY not in "".join(repr(frame.f_locals) for frame in frames)


def _track(target, n):
    """Send one message in another process, and return the result."""
    target.track("u", "Visit", {"n": n})
    return target.flush(20)


@pytest.mark.slow
def test_clients_and_fan_outs_go_through_a_spawn_pool(emu):
    """Each process has a buffer of its own."""
    cio = CustomerIO("cio", base_url=emu.customerio_url)
    hightouch = Hightouch("ht", base_url=emu.hightouch_url)
    fan_out = FanOut(
        mixpanel=Sink(Mixpanel("t", base_url=emu.url)),
        cdp=Sink(CustomerIO("fan", base_url=emu.customerio_url)),
    )
    drop_in = htevents.Client("drop-in", emu.hightouch_url)
    targets = [cio, hightouch, fan_out, drop_in]
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        pool.starmap(_track, [(target, n) for n, target in enumerate(targets)])
        pool.close()
        pool.join()
    numbers = sorted(message["properties"]["n"] for message in messages(emu))
    assert numbers == [0, 1, 2, 3]
    assert [event["properties"]["n"] for event in emu.events()] == [2]
    for target in targets:
        getattr(target, "close", getattr(target, "shutdown", None))()
