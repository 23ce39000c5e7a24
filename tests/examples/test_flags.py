"""The examples of feature flags."""

import importlib
import subprocess
import sys
from pathlib import Path
from wsgiref.util import setup_testing_defaults

import anyio
import httpx
import pytest

from tests.flags.test_local import flag

pytestmark = pytest.mark.slow

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture
def example(emu, monkeypatch):
    """Import an example with the emulator in its environment, and remove it afterwards."""
    monkeypatch.setenv("MP_BASE_URL", emu.url)
    monkeypatch.setenv("MP_TOKEN", "t")
    monkeypatch.syspath_prepend(str(EXAMPLES))
    emu.set_flags([flag("new-checkout"), flag("button-colour", value="blue")])
    names = []

    def load(name):
        names.append(name)
        return importlib.import_module(name)

    yield load
    for name in names:
        sys.modules.pop(name, None)


def test_the_fastapi_flags_example_tracks_exposures(emu, example):
    """Exposures of checks are tracked; a bootstrap tracks none."""
    module = example("fastapi_flags")

    async def main():
        transport = httpx.ASGITransport(app=module.app)
        user = {"x-user": "u-17"}
        async with (
            module.lifespan(module.app),
            httpx.AsyncClient(transport=transport, base_url="http://app", headers=user) as client,
        ):
            assert (await client.get("/bootstrap")).json()["button"] == "blue"
            assert (await client.get("/checkout")).json() == {"page": "new"}

    anyio.run(main)
    [exposure] = emu.events("$experiment_started")
    assert exposure["properties"]["Experiment name"] == "new-checkout"


def test_the_django_example_never_blocks(emu, example):
    """Imported and called as by a WSGI server; every event arrives."""
    module = example("django_flags")
    environ = {"PATH_INFO": "/checkout", "HTTP_X_USER": "u-17"}
    setup_testing_defaults(environ)
    statuses = []
    answer = module.application(environ, lambda status, _headers: statuses.append(status))
    assert (["200 OK"], b'{"page": "new"}') == (statuses, b"".join(answer))
    answer.close()
    assert module.mp.flush().ok
    assert len(emu.events("Checkout Opened")) == len(emu.events("$experiment_started")) == 1
    module.mp.close()


DECIDED = """\
u-17: new checkout True, because SPLIT
u-18: new checkout False, because DEFAULT
"""
UNDEFINED = """\
u-17: new checkout False, because ERROR
  FLAG_NOT_FOUND: flag new-checkout not found
"""


def test_the_openfeature_example_prints_the_reason(emu, monkeypatch):
    """With flags one visitor is included; without them, an error is printed."""
    monkeypatch.setenv("MP_BASE_URL", emu.url)

    def shown():
        command = [sys.executable, "-W", "error", EXAMPLES / "openfeature_flags.py"]
        return subprocess.check_output(command, text=True, timeout=120)

    assert shown().startswith(UNDEFINED)
    emu.set_flags(EXAMPLES / "data" / "flags.json")
    assert DECIDED == shown()


@pytest.mark.parametrize("name", ["openfeature_flags", "fastapi_flags", "django_flags"])
def test_examples_of_flags_name_the_flags_file(name):
    """So they can be run without an account."""
    assert "mp emulator --flags examples/data/flags.json" in (EXAMPLES / f"{name}.py").read_text()
