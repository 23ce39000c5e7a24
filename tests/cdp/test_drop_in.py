"""The stand-ins for the vendors' Python libraries: their parameters, results and callbacks."""

import inspect
import logging
from json import loads

import pytest

from mixpanel import AuthenticationError, ConfigurationError, DeliveryError, ValidationError
from mixpanel.cdp import analytics, htevents
from mixpanel.emulator import Fault
from tests.cdp.run_clients import messages

MODULES = {"customerio": analytics, "hightouch": htevents}
VENDORS_ORDER = (
    "write_key host debug max_queue_size send on_error gzip max_retries sync_mode timeout proxies "
    "thread upload_size upload_interval"
)
OAUTH_ORDER = (
    "log_handler oauth_client_id oauth_client_key oauth_key_id oauth_auth_server oauth_scope"
)
ALWAYS = {"integrations", "anonymousId", "userId", "timestamp", "context", "type", "messageId"}
RETURNED = {
    "identify": (("u",), {"traits"}),
    "track": (("u", "E"), {"event", "properties"}),
    "alias": (("p", "u"), {"previousId"}),
    "group": (("u", "g"), {"groupId", "traits"}),
    "page": (("u",), {"category", "name", "properties"}),
    "screen": (("u",), {"category", "name", "properties"}),
}


@pytest.fixture(params=MODULES)
def vendor(request):
    """Return the name of each vendor."""
    return request.param


@pytest.fixture
def drop_in(emu, vendor):
    """Return the vendor's module, configured for the emulator, and reset it afterwards."""
    module = MODULES[vendor]
    before = {n: v for n, v in vars(module).items() if n.islower() and not n.startswith("_")}
    module.write_key, module.host = "k", getattr(emu, f"{vendor}_url")
    yield module
    module.shutdown(1)
    vars(module).update(before)


def client(emu, vendor, **options):
    return MODULES[vendor].Client("k", getattr(emu, f"{vendor}_url"), **options)


def test_the_parameters_of_a_client_have_the_order_of_the_vendors(vendor):
    """Programs pass them by position."""
    expected = VENDORS_ORDER if vendor == "customerio" else f"{VENDORS_ORDER} {OAUTH_ORDER}"
    ours = inspect.signature(MODULES[vendor].Client).parameters.values()
    positional = [each.name for each in ours if each.kind is each.POSITIONAL_OR_KEYWORD]
    assert expected.split() == positional
    assert all(each.default is not each.empty for each in ours)


@pytest.mark.slow
@pytest.mark.parametrize("call", RETURNED)
def test_a_returned_message_has_all_keys_of_the_vendors(emu, vendor, call):
    """Also those without a value, which are not sent."""
    arguments, own = RETURNED[call]
    ours = client(emu, vendor, send=False)
    accepted, message = getattr(ours, call)(*arguments)
    assert accepted is True
    assert ALWAYS | own == set(message) - {"originalTimestamp"}
    assert message["anonymousId"] is None
    assert {} == message["integrations"]
    for name in {"traits", "properties"} & own:
        assert {} == message[name]


def test_several_sources_have_a_client_each(emu, vendor):
    """As the vendors document it for more than one write key."""
    module, url = MODULES[vendor], getattr(emu, f"{vendor}_url")
    one, two = module.Client("one", host=url), module.Client("two", host=url)
    assert one.track("u", "E")[0]
    assert two.track(anonymous_id="a", event="E")[0]
    assert one.flush().ok
    assert two.shutdown().ok
    assert one.join().ok
    assert {"one", "two"} == {entry["key"] for entry in emu.cdp_messages()}
    assert 1 == one.stats().delivered


def test_every_parameter_may_be_left_out_or_passed_by_name(drop_in):
    """What is missing is named by a validation error, not a TypeError."""
    assert drop_in.track(anonymous_id="a", event="E")[0]
    assert drop_in.group(user_id="u", group_id="g")[0]
    assert drop_in.alias(user_id="u", previous_id="p")[0]
    for call, words in (
        (drop_in.track, "event name is missing"),
        (drop_in.identify, "user_id or an anonymous_id"),
        (drop_in.page, "user_id or an anonymous_id"),
        (drop_in.screen, "user_id or an anonymous_id"),
        (drop_in.group, "group_id is missing|user_id or an anonymous_id"),
        (drop_in.alias, "user_id is missing"),
    ):
        with pytest.raises(ValidationError, match=words):
            call()


def test_a_wrong_key_is_reported_at_once_and_named_at_shutdown(emu, vendor, caplog):
    """Without messages while they are kept, and with them when they are lost."""
    calls = []
    emu.play(*[Fault.status(401)] * 4)
    ours = client(emu, vendor, on_error=lambda error, batch: calls.append((error, len(batch))))
    with caplog.at_level(logging.ERROR, logger="mixpanel"):
        for n in range(3):
            ours.track("u", "E", {"n": n})
        assert 3 == ours.flush(5).pending
        assert calls
        assert all(type(error) is AuthenticationError and not n for error, n in calls)
        assert "AuthenticationError" in caplog.text
        ours.shutdown(0.1)
    error, lost = calls[-1]
    assert (DeliveryError, 3) == (type(error), lost)
    assert "dropped: closed; last error: AuthenticationError" in str(error)
    assert isinstance(error.__cause__, AuthenticationError)
    assert str(error) in caplog.text


@pytest.mark.slow
def test_a_passing_failure_is_logged_and_not_passed_to_on_error(emu, vendor, caplog):
    """The vendors call `on_error` only when a message is lost."""
    calls = []
    emu.play(Fault.status(503, retry_after=0))
    ours = client(emu, vendor, on_error=lambda *call: calls.append(call))
    with caplog.at_level(logging.WARNING, logger="mixpanel"):
        ours.track("u", "E")
        assert ours.shutdown().ok
    assert [] == calls
    assert "HTTP 503" in caplog.text


def test_max_age_is_how_long_an_outage_is_survived(emu, vendor):
    """An hour by default; settable for each client and for the module."""
    emu.play(*[Fault.status(503)] * 20)
    calls = []
    ours = client(emu, vendor, max_age=0.05, on_error=lambda *call: calls.append(call))
    ours.track("u", "E")
    assert {"expired": 1} == ours.flush(5).dropped
    [(error, [message])] = calls
    assert (503, "E") == (error.status, message["event"])
    ours.shutdown()
    assert 3600 == MODULES[vendor].max_age
    assert 3600 == client(emu, vendor)._client._sender.dispatcher.policy.max_age


def test_the_settings_of_the_module_reach_its_client(drop_in):
    """All that it has."""
    drop_in.max_age, drop_in.max_queue_size, drop_in.timeout = 7.0, 77, 3
    drop_in.track("u", "E")
    sender = drop_in.default_client._client._sender
    assert 7.0 == sender.dispatcher.policy.max_age
    assert (77, 3) == (sender.buffer.limits.max_queue_size, sender.buffer.limits.request_timeout)


def test_the_vendors_batching_parameters_are_used(emu, vendor):
    """Items in a request, the time to gather them, and requests at once."""
    ours = client(emu, vendor, upload_size=2, upload_interval=30, thread=3)
    for n in range(5):
        ours.track("u", "E", {"n": n})
    assert ours.shutdown().ok
    assert [1, 2, 2] == sorted(
        len(loads(r.body)["batch"]) for r in emu.requests(f"/{vendor}/v1/batch")
    )
    assert 5 == len(messages(emu))


@pytest.mark.parametrize(
    ("proxies", "expected"),
    [
        ({"https": "http://proxy.example:3128"}, "http://proxy.example:3128"),
        ({"http": "proxy.example:3128"}, "http://proxy.example:3128"),
        ({}, None),
    ],
)
def test_proxies_are_used_as_requests_takes_them(vendor, proxies, expected):
    """Hightouch's library ignored them."""
    ours = MODULES[vendor].Client("k", proxies=proxies)
    proxy = ours._client._sender.connections.transport.proxy
    assert expected == (None if proxy is None else proxy.reveal())


def test_a_missing_write_key_is_a_configuration_error(vendor):
    """The vendors' libraries raise an AssertionError."""
    with pytest.raises(ConfigurationError, match="write_key"):
        MODULES[vendor].Client()
    with pytest.raises(ConfigurationError, match=r"write_key"):
        MODULES[vendor].track("u", "E")
