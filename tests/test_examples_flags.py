"""The examples of flags do what they say."""

import importlib
import sys
from pathlib import Path

import anyio
import httpx
import pytest

from tests.test_flags_local import flag

EXAMPLES = Path(__file__).parent.parent / "examples"


@pytest.fixture
def example(emu, monkeypatch):
    """Import an example with the emulator in its environment, and forget it afterwards."""
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


def test_the_fastapi_dependency(emu, example):
    """Flags in handlers; exposures arrive, a bootstrap reports none."""
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


def test_the_django_view(emu, example):
    """Sync code, nothing blocks, everything arrives."""
    module = example("django_flags")
    module.mp.local_flags.start_polling_for_definitions()
    from django.test import RequestFactory

    request = RequestFactory().get("/checkout", headers={"X-User": "u-17"})
    assert b'"new"' in module.checkout(request).content
    assert module.mp.flush().ok
    assert len(emu.events("Checkout Opened")) == len(emu.events("$experiment_started")) == 1
    module.mp.close()
