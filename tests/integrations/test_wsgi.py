"""WSGI applications, with the standard library's server interface."""

from wsgiref.util import setup_testing_defaults
from wsgiref.validate import validator

import pytest

from mixpanel import AsyncMixpanel, Mixpanel, context, update_context
from mixpanel.exceptions import ConfigurationError
from mixpanel.integrations.wsgi import MixpanelMiddleware, get_flags
from mixpanel.testing import MemoryConsumer


@pytest.fixture
def mp():
    """Return a client whose events are in memory."""
    return Mixpanel("t", MemoryConsumer())


def user_of(environ):
    """Return the user that a request names in a header."""
    return environ.get("HTTP_X_USER")


def call(app, path="/", *, read=True, **environ):
    """Make a request, and return the pieces of the body, or the body itself."""
    environ = {"PATH_INFO": path, "QUERY_STRING": "", "SCRIPT_NAME": "", **environ}
    setup_testing_defaults(environ)
    body = app(environ, lambda _status, _headers: None)
    if not read:
        return body
    try:
        return list(body)
    finally:
        if hasattr(body, "close"):
            body.close()


def test_a_body_is_made_in_the_context_of_its_request(mp):
    """Two requests of one thread, a piece of each in turn; the context does not leak outside."""

    def app(environ, start_response):
        start_response("200 OK", [])
        name = environ["PATH_INFO"]
        mp.track(None, name)

        def body():
            with context(inside=name):
                try:
                    for piece in (b"1", b"2"):
                        mp.track(None, name)
                        yield piece
                finally:
                    mp.track(None, name)

        return body()

    wrapped = MixpanelMiddleware(app, mp, identify=user_of)
    with context("outside", leak=True):
        first = call(wrapped, "/a", HTTP_X_USER="u-a", read=False)
        second = call(wrapped, "/b", HTTP_X_USER="u-b", read=False)
        pieces = [next(first), next(second), next(first), next(second)]
        first.close()
        second.close()
        mp.track(None, "outside")
    assert pieces == [b"1", b"1", b"2", b"2"]
    *inside, outside = mp.consumer.events
    assert outside["properties"]["distinct_id"] == "outside"
    assert len(inside) == 8
    for event in inside:
        assert event["properties"]["distinct_id"] == f"u-{event['event'][1]}"
        assert "leak" not in event["properties"]
    assert sum("inside" in event["properties"] for event in inside) == 6


def test_the_page_has_no_query_string(mp):
    """And the address is the connection's, as no proxy is trusted."""

    def app(_environ, start_response):
        start_response("200 OK", [])
        mp.track(None, "Opened")
        return []

    wrapped = MixpanelMiddleware(app, mp, client_ip=True)
    call(
        wrapped,
        "/\xc3\xa9\n",
        HTTP_HOST="shop.example:8080",
        QUERY_STRING="token=secret",
        REMOTE_ADDR="192.0.2.9",
        HTTP_X_FORWARDED_FOR="198.51.100.1",
        HTTP_REFERER="http://[bad",
    )
    found = mp.consumer.events[0]["properties"]
    assert found["$current_url"] == "http://shop.example:8080/%C3%A9%0A"
    assert found["ip"] == "192.0.2.9"
    assert "$referrer" not in found
    assert "secret" not in str(found)


def test_bodies_that_run_no_code_are_passed_on(mp):
    """A list, and a file that the server sends by itself."""

    class FileWrapper:
        pass

    bodies = [[b"a"], FileWrapper()]
    for body in bodies:
        wrapped = MixpanelMiddleware(lambda *_, body=body: body, mp)
        assert call(wrapped, read=False, **{"wsgi.file_wrapper": FileWrapper}) is body


@pytest.mark.parametrize("wrapper", [lambda file, size=8192: file, None, "no callable"])
def test_a_file_wrapper_need_not_be_a_class(mp, wrapper):
    """PEP 3333 requires a callable, and that of uWSGI is a function."""

    def app(_environ, start_response):
        start_response("200 OK", [])
        return (piece for piece in [b"a", b"b"])

    assert [b"a", b"b"] == call(MixpanelMiddleware(app, mp), **{"wsgi.file_wrapper": wrapper})


def test_it_follows_the_protocol(mp):
    """Checked by the standard library, on both sides; an exception passes through."""

    def app(environ, start_response):
        start_response("200 OK", [("Content-Type", "text/plain")])
        if environ["PATH_INFO"] == "/broken":
            raise LookupError
        update_context("u-1")
        mp.track(None, "Opened")
        return (piece for piece in [b"a", b"b"])

    wrapped = validator(MixpanelMiddleware(validator(app), mp))
    assert call(wrapped) == [b"a", b"b"]
    assert mp.consumer.events[0]["properties"]["distinct_id"] == "u-1"
    environ = {"PATH_INFO": "/broken"}
    setup_testing_defaults(environ)
    with pytest.raises(LookupError):
        MixpanelMiddleware(app, mp)(environ, lambda *_: None)


def test_an_async_identify_is_logged(mp, caplog):
    """It cannot be awaited here; the request is served."""

    async def user(_environ):
        return "u-1"

    assert call(MixpanelMiddleware(lambda *_: [b"ok"], mp, identify=user)) == [b"ok"]
    assert "cannot be awaited" in caplog.text


def test_settings_that_cannot_work_are_refused():
    """An async client, and flags without a client."""
    with pytest.raises(ConfigurationError, match="AsyncBufferedConsumer"):
        MixpanelMiddleware(print, AsyncMixpanel("t"))
    with pytest.raises(ConfigurationError, match="wrap the application"):
        get_flags({})
