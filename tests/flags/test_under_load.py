"""A web application evaluates flags while definitions change and the server fails."""

import anyio
import anyio.lowlevel
import httpx
import pytest
from fastapi import FastAPI

from mixpanel import AsyncMixpanel, LocalFlagsConfig
from mixpanel.emulator import Fault
from tests.flags.test_local import flag

pytestmark = pytest.mark.slow

KEYS = ("checkout", "search", "banner")
REQUESTS = 1000


def generation(n):
    """Three flags whose values all name the generation, so that a mixture would show."""
    return [flag(key, value=f"{key}-{n}") for key in KEYS]


def test_no_request_sees_a_wrong_variant(emu):
    """1,000 at once, three flags each, while definitions change and the server fails."""
    emu.set_flags(generation(0))
    config = LocalFlagsConfig(polling_interval_in_seconds=0.02)
    app = FastAPI()
    answers, lags = [], []

    @app.get("/{user}")
    async def home(user: str):
        seen = mp.local_flags.snapshot({"distinct_id": user})
        first = [seen.get_variant_value(key, None) for key in KEYS]
        await anyio.lowlevel.checkpoint()
        single = mp.local_flags.get_variant_value("checkout", None, {"distinct_id": user})
        return {"first": first, "again": [seen.get_variant_value(key, None) for key in KEYS],
                "single": single}  # fmt: skip

    async def ask(client, n):
        response = await client.get(f"/u{n}")
        answers.append((response.status_code, response.json()))

    async def stir(stop):
        n = 0
        bad = [Fault.html(), Fault.status(500), Fault.status(200, body={"flags": []})]
        while not stop.is_set():
            n += 1
            emu.play(bad[n % 3], path="/flags/definitions")
            emu.set_flags(generation(n))
            await anyio.sleep(0.03)

    async def watch(stop):
        while not stop.is_set():
            before = anyio.current_time()
            await anyio.sleep(0.005)
            lags.append(anyio.current_time() - before - 0.005)

    async def main():
        nonlocal mp
        mp = AsyncMixpanel("t", base_url=emu.url, local_flags_config=config)
        async with mp:
            stop = anyio.Event()
            transport = httpx.ASGITransport(app=app)
            async with (
                httpx.AsyncClient(transport=transport, base_url="http://app") as client,
                anyio.create_task_group() as background,
            ):
                background.start_soon(stir, stop)
                background.start_soon(watch, stop)
                async with anyio.create_task_group() as requests:
                    for n in range(REQUESTS):
                        requests.start_soon(ask, client, n)
                stop.set()

    mp = None
    anyio.run(main)
    assert [status for status, _ in answers] == [200] * REQUESTS
    for _, answer in answers:
        assert answer["first"] == answer["again"]
        generations = {value.rpartition("-")[2] for value in answer["first"]}
        assert len(generations) == 1
        assert answer["single"].startswith("checkout-")
    assert lags
