"""The examples of docs/integrations.md, run as they stand against the emulator."""

import asyncio
import re
import sys
import types
from pathlib import Path

import pytest

from mixpanel import context
from mixpanel.integrations.celery import disconnect
from tests.flags.test_local import flag
from tests.integrations.test_asgi import TestClient
from tests.integrations.test_wsgi import call

GUIDE = (Path(__file__).parents[2] / "docs" / "integrations.md").read_text()
EXAMPLES = dict(
    re.findall(r"<!-- example: (\w+) -->\n\n```python\n(.+?)^```", GUIDE, re.MULTILINE | re.DOTALL)
)


@pytest.fixture
def example(emu, monkeypatch):
    """Run an example as a module, with the emulator in its environment."""
    monkeypatch.setenv("MP_BASE_URL", emu.url)
    emu.set_flags([flag("new-checkout"), flag("button-colour", value="blue")])

    def load(name):
        module = types.ModuleType(f"example_{name}")
        monkeypatch.setitem(sys.modules, module.__name__, module)
        exec(compile(EXAMPLES[name], f"{name} of docs/integrations.md", "exec"), vars(module))
        return module

    return load


def users(emu, event):
    """Return the users of the events of this name."""
    return [e["properties"].get("distinct_id") for e in emu.events(event)]


def test_asgi(emu, example):
    """The event has the user of the request."""
    module = example("asgi")
    with TestClient(module.app) as client:
        assert client.get("/reports/sales", headers={"x-user": "u-1"}).text == "ok"
    assert users(emu, "Opened Report") == ["u-1"]
    asyncio.run(module.mp.aclose())


def test_fastapi(emu, example):
    """The value of the flag is that of the request's user."""
    app = example("fastapi").app
    with TestClient(app, headers={"x-user": "u-1"}) as client:
        assert client.get("/checkout").json() == {"page": "new"}
        assert client.get("/button").json() == "blue"
    assert users(emu, "Checkout Opened") == ["u-1"]
    assert users(emu, "$experiment_started") == ["u-1", "u-1"]
    asyncio.run(app.user_middleware[0].kwargs["client"].aclose())


def test_wsgi(emu, example):
    """The event has the user of the request."""
    module = example("wsgi")
    assert call(module.app, REMOTE_USER="u-1") == [b"ok"]
    module.mp.close()
    assert users(emu, "Opened") == ["u-1"]


def test_flask(emu, example):
    """The login is of the user, and so is the check of the flag."""
    module = example("flask")
    client = module.app.test_client()
    assert client.post("/login/u-1").text == "ok"
    assert client.get("/checkout").text == "new"
    module.mp.close()
    assert users(emu, "Logged In") == users(emu, "$experiment_started") == ["u-1"]


def test_celery(emu, example):
    """The task has the identity of its sender; here it runs at once."""
    module = example("celery")
    with context("u-1"):
        module.send_invoice.apply(args=(17,))
    disconnect()
    module.mp.close()
    assert users(emu, "Invoice Sent") == ["u-1"]


def test_serverless(emu, example):
    """The event is sent before the response."""
    module = example("serverless")
    assert module.handler({"user": "u-1"}, None) == {"statusCode": 200}
    assert users(emu, "Called") == ["u-1"]
    module.mp.close()


def test_every_module_has_an_example():
    """And every example is one of these."""
    import mixpanel.integrations

    folder = Path(mixpanel.integrations.__file__).parent
    modules = {path.stem for path in folder.iterdir() if not path.name.startswith("_")}
    assert set(EXAMPLES) == modules - {"flags"}
