"""The examples of docs/integrations.md, run as they stand against the emulator."""

import asyncio
import re
import subprocess
import sys
import types
from pathlib import Path

import fakeredis
import pytest
from dramatiq import Worker

from mixpanel import context
from mixpanel.integrations._carried import load_context
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


@pytest.mark.slow
def test_django(example):
    """The settings can be set up; `test_django.py` makes requests to such a project."""
    names = {name: value for name, value in vars(example("django")).items() if name.isupper()}
    assert names.keys() == {"INSTALLED_APPS", "MIDDLEWARE", "MIXPANEL"}
    source = f"""
import django
from django.conf import settings
settings.configure(**{names!r})
django.setup()
from django.core.handlers.wsgi import WSGIHandler
from mixpanel.integrations.django import get_client
WSGIHandler()
assert get_client().local_flags.are_flags_ready() in (True, False)
"""
    subprocess.run([sys.executable, "-W", "error", "-c", source], check=True, timeout=60)


def test_celery(emu, example):
    """The task has the identity of its sender; here it runs at once."""
    module = example("celery")
    with context("u-1"):
        module.send_invoice.apply(args=(17,))
    disconnect()
    module.mp.close()
    assert users(emu, "Invoice Sent") == ["u-1"]


def test_dramatiq(emu, example):
    """The message carries the identity of its sender."""
    module = example("dramatiq")
    worker = Worker(module.broker, worker_timeout=10, worker_threads=1)
    worker.start()
    with context("u-1"):
        module.send_invoice.send(17)
    module.broker.join("default", timeout=20_000)
    worker.stop()
    module.broker.close()
    module.mp.close()
    assert users(emu, "Invoice Sent") == ["u-1"]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of fakeredis and rq
def test_rq(example, monkeypatch):
    """The job has the identity of its sender in its meta data."""
    with fakeredis.FakeStrictRedis() as connection:
        monkeypatch.setattr("redis.Redis", lambda: connection)
        job = example("rq").enqueue_invoice("u-1", 17)
        assert load_context(job.meta["mixpanel_context"]).distinct_id == "u-1"
        assert type(job).__name__ == "MixpanelJob"


@pytest.mark.slow
def test_ipython(emu, monkeypatch, shell):
    """The event is sent after the cell, although its batch is not full."""
    monkeypatch.setenv("MP_BASE_URL", emu.url)
    load, _, rest = EXAMPLES["ipython"].partition("\n\n")
    assert shell.run_cell(load).success
    assert shell.run_cell(rest).success
    assert users(emu, "Opened Notebook") == ["u-17"]
    shell.user_ns["mp"].close()
    shell.user_ns["mp"].consumer.close()


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
