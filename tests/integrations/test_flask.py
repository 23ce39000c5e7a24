"""The extension for Flask, in real applications."""

import flask
import pytest

from mixpanel import AsyncBufferedConsumer, LocalFlagsConfig, Mixpanel, update_context
from mixpanel.exceptions import ConfigurationError
from mixpanel.integrations.flask import MixpanelFlask, get_client, get_flags
from mixpanel.testing import MemoryConsumer
from tests.flags.test_local import flag


@pytest.fixture
def mp():
    """Return a client whose events are in memory."""
    return Mixpanel("t", MemoryConsumer())


def application(mp, **options):
    """Return an application with a login, a stream and an error."""
    app = flask.Flask("shop")
    app.secret_key = "only-a-test"
    extension = MixpanelFlask(client=mp, **options)
    extension.init_app(app)

    @app.post("/login")
    def login():
        get_client().track(None, "Before")
        flask.session["user"] = flask.request.form["user"]
        update_context(flask.session["user"])
        get_client().track(None, "After")
        return "ok"

    @app.get("/stream")
    def stream():
        def body():
            for piece in "ab":
                mp.track(None, "Piece")
                yield piece

        return flask.Response(flask.stream_with_context(body()))

    @app.get("/broken")
    def broken():
        mp.track(None, "Broken")
        raise LookupError

    return app


def test_identity_comes_from_the_session(mp):
    """A callback may use it; a login changes it, and a stream has it."""
    app = application(mp, identify=lambda: flask.session.get("user"))
    client = app.test_client()
    assert client.post("/login", data={"user": "u-1"}).text == "ok"
    assert client.get("/stream").text == "ab"
    assert client.get("/broken").status_code == 500
    found = [(e["event"], e["properties"]["distinct_id"]) for e in mp.consumer.events]
    rest = [(name, "u-1") for name in ("After", "Piece", "Piece", "Broken")]
    assert found == [("Before", ""), *rest]


def test_identify_is_called_at_the_first_event_only(mp):
    """After all handlers that load the user, and for the body of a stream, too."""
    app = flask.Flask("shop")
    app.secret_key = "only-a-test"
    MixpanelFlask(app, mp, identify=lambda: flask.g.user or flask.session.get("user"))

    @app.before_request
    def load_user():
        flask.g.user = "u-1"

    @app.get("/quiet")
    def quiet():
        return "ok"

    @app.get("/stream")
    def stream():
        def body():
            mp.track(None, "Piece")  # without Flask's context
            yield "a"

        return flask.Response(body())

    client = app.test_client()
    assert "Vary" not in client.get("/quiet").headers
    assert client.get("/stream").text == "a"
    assert mp.consumer.events[0]["properties"]["distinct_id"] == "u-1"


def test_without_a_callback_the_session_is_not_read(mp):
    """So responses stay cacheable: no `Vary: Cookie`."""
    client = application(mp).test_client()
    assert "Vary" not in client.get("/stream").headers


def test_what_a_callback_raises_is_logged(mp, caplog):
    """The request is served."""

    def broken():
        raise LookupError("no such session")

    client = application(mp, identify=broken, properties=lambda: {"plan": "team"}).test_client()
    assert client.get("/stream").status_code == 200
    assert caplog.text.count("no such session") == 2  # once, with its traceback
    assert mp.consumer.events[0]["properties"]["plan"] == "team"


def test_templates_have_the_flags(emu):
    """And checks there report their exposures, with the context of the callback."""
    emu.set_flags([flag("new-checkout")])
    consumer = AsyncBufferedConsumer(flush_after=60, base_url=emu.url)
    with Mixpanel("t", consumer, local_flags_config=LocalFlagsConfig()) as mp:
        app = flask.Flask("shop")
        MixpanelFlask(app, mp, identify=lambda: "u-1", flag_context=lambda: {"plan": "team"})

        @app.get("/")
        def page():
            assert get_flags().is_enabled("new-checkout")
            return flask.render_template_string("{{ flags.is_enabled('new-checkout') }}")

        assert app.test_client().get("/").text == "True"
        with app.app_context():
            assert flask.render_template_string("{{ flags }}") == ""
    [exposure] = emu.events("$experiment_started")
    assert exposure["properties"]["distinct_id"] == "u-1"


def test_settings_that_cannot_work_are_refused(mp):
    """No client, twice in one application, and an application without it."""
    with pytest.raises(ConfigurationError, match="client must be a Mixpanel, not NoneType"):
        MixpanelFlask()
    app = application(mp)
    with pytest.raises(ConfigurationError, match="add it once"):
        MixpanelFlask(app, mp)
    with flask.Flask("other").app_context(), pytest.raises(ConfigurationError, match="missing"):
        get_client()
