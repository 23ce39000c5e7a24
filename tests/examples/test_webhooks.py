"""The example that receives webhooks: over ASGI, and as a server that is killed."""

import asyncio
import importlib.util
import json
import logging
import os
import re
import signal
import subprocess
import sys
import threading
import time
from contextlib import asynccontextmanager, contextmanager
from itertools import chain
from pathlib import Path

import httpx
import pytest

from mixpanel.cdp import webhooks

pytestmark = pytest.mark.slow

EXAMPLES = Path(__file__).parents[2] / "examples"
KEY = "signing-key"
WHO = "ada@example.com"


def body(event_id="01E", metric="bounced", **changes):
    """Return the body of a reporting event about an email."""
    data = {"recipient": WHO, "identifiers": {"email": WHO}}
    options = {
        "event_id": event_id,
        "object_type": "email",
        "metric": metric,
        "timestamp": 1,
        **changes,
    }
    return json.dumps({**options, "data": data}).encode()


def signed(content, key=KEY, age=0):
    return {"content": content, "headers": webhooks.sign(content, key, int(time.time()) - age)}


@pytest.fixture
def example(monkeypatch, tmp_path):
    """Import the module anew, with its own file and key, and a handler that records events."""
    monkeypatch.setenv("CUSTOMERIO_SIGNING_KEY", f"{KEY} the-next-key")
    monkeypatch.setenv("WEBHOOKS_FILE", str(tmp_path / "webhooks.db"))
    spec = importlib.util.spec_from_file_location("webhooks_asgi", EXAMPLES / "webhooks_asgi.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.handled = []

    async def handle(event):
        module.handled.append((event.name, event.event_id))

    module.handle = handle
    return module


@asynccontextmanager
async def served(example):
    wire = httpx.ASGITransport(example.app)
    async with (
        example.app.router.lifespan_context(example.app),
        httpx.AsyncClient(transport=wire, base_url="http://hooks") as http,
    ):
        yield http


async def until(true):
    """Wait until a condition holds."""
    async with asyncio.timeout(20):
        while not true():
            await asyncio.sleep(0.005)


def post(example, *requests, handled=None, done=lambda: True):
    """Send requests, wait until `handled` events are handled, and return the statuses."""

    async def main():
        async with served(example) as http:
            statuses = [(await http.post("/customerio", **one)).status_code for one in requests]
            await until(lambda: len(example.handled) >= (handled or 0) and done())
            return statuses

    return asyncio.run(main())


def test_a_signed_event_is_acknowledged_and_handled(example):
    """With either key, of any kind, known or unknown, and as old as a repetition may be."""
    requests = [
        signed(body("1")),
        signed(body("2"), key="the-next-key"),
        signed(body("3", metric="read_aloud")),
        signed(body("4", object_type="pigeon")),
        signed(body("5"), age=7 * 86_400),
    ]
    assert [200] * 5 == post(example, *requests, handled=5)
    assert list("12345") == [event_id for _, event_id in example.handled]


def test_an_invalid_signature_gets_a_401(example):
    """A missing signature, another key, another body, or an old timestamp."""
    requests = [
        {"content": body()},
        signed(body(), key="another"),
        {**signed(body()), "content": body("02")},
        signed(body(), age=9 * 86_400),
    ]
    assert [401] * 4 == post(example, *requests)
    assert [] == example.handled


def test_a_signed_request_without_an_event_gets_a_200(example, caplog):
    """A 4xx would hold back later events; the problem is logged."""
    assert [200, 200] == post(example, signed(b"not JSON"), signed(b"{}"))
    assert "valid signature, but not a reporting event" in caplog.text


def test_large_requests_and_other_methods_are_rejected(example):
    """More than a megabyte, or anything but POST."""

    async def main():
        async with served(example) as http:
            large = await http.post("/customerio", **signed(b"x" * 1_000_001))
            return large.status_code, (await http.get("/customerio")).status_code

    assert (413, 405) == asyncio.run(main())


def test_a_repeated_event_is_handled_once(example):
    """Also after a restart of the server, and with a new signature."""
    first, again = signed(body("1")), signed(body("1"), age=60)
    assert [200] * 3 == post(example, first, again, signed(body("2")), handled=2)
    assert [200] * 2 == post(example, again, signed(body("3")), handled=3)
    assert list("123") == [event_id for _, event_id in example.handled]


def test_a_failing_event_is_retried_and_then_kept_in_the_file(example, caplog):
    """The others are handled meanwhile; the logs contain no address."""
    caplog.set_level(logging.INFO)
    example.RETRY_DELAY = 0.0
    tried = []

    async def handle(event):
        tried.append(event.event_id)
        if event.event_id == "odd" or len(tried) < 3:
            raise ValueError(f"cannot reach {WHO}")
        example.handled.append(event.event_id)

    async def main():
        example.handle = handle
        async with served(example) as http:
            for event_id in ("even", "odd"):
                await http.post("/customerio", **signed(body(event_id)))
            await until(lambda: tried.count("odd") == 5 and "even" in example.handled)
            await until(lambda: caplog.text.count("email_bounced odd") == 5)
            return await example.app.state.inbox.pending()

    assert [] == asyncio.run(main())
    assert ["even"] == example.handled
    assert WHO not in caplog.text
    assert "email_bounced odd: ValueError" in caplog.text


def test_a_handled_event_leaves_no_personal_data_in_the_file(example, tmp_path, monkeypatch):
    """Only its id is kept, to recognise a repetition; the file is private."""
    settle, settled = example.Inbox.settle, []

    async def noted(inbox, event_id, *, handled):
        await settle(inbox, event_id, handled=handled)
        settled.append(event_id)

    monkeypatch.setattr(example.Inbox, "settle", noted)
    post(example, signed(body("1")), handled=1, done=lambda: settled)
    [file] = tmp_path.iterdir()
    assert os.name != "posix" or 0o600 == file.stat().st_mode & 0o777
    kept = file.read_bytes()
    assert b"SQLite" in kept
    assert WHO.encode() not in kept


def test_the_webhook_server_requires_a_signing_key(example, monkeypatch):
    """Without a key it would reject every request."""
    monkeypatch.setenv("CUSTOMERIO_SIGNING_KEY", " ")
    with pytest.raises(RuntimeError, match="CUSTOMERIO_SIGNING_KEY is not set"):
        post(example)


# ---- as a server --------------------------------------------------------------------------------

STUCK = """
import anyio
import webhooks_asgi
from webhooks_asgi import app

async def handle(event):
    await anyio.sleep_forever()

webhooks_asgi.handle = handle
"""


@contextmanager
def running(app, tmp_path):
    """Run uvicorn on any port; yield its process, address and output.

    Pending events are handled at the start, so the output may begin with them.
    """
    environment = {
        **os.environ,
        "CUSTOMERIO_SIGNING_KEY": KEY,
        "WEBHOOKS_FILE": str(tmp_path / "webhooks.db"),
        "PYTHONPATH": os.pathsep.join([str(tmp_path), str(EXAMPLES)]),
        "PYTHONUNBUFFERED": "1",
    }
    command = [sys.executable, "-m", "uvicorn", app, "--port", "0"]
    with subprocess.Popen(
        command, env=environment, cwd=tmp_path, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL,
        text=True,
    ) as process:  # fmt: skip
        watchdog = threading.Timer(60, process.kill)
        watchdog.start()
        try:
            early, url = [], None
            for line in iter(process.stderr.readline, ""):
                early.append(line)
                url = re.search(r"http://\S+\d", line)
                if url is not None:
                    break
            assert url is not None, early
            yield process, f"{url[0]}/customerio", chain(early, iter(process.stderr.readline, ""))
        finally:
            watchdog.cancel()
            process.kill()


@pytest.mark.skipif(os.name != "posix", reason="kills")
def test_no_event_is_lost_when_the_webhook_server_is_killed(tmp_path):
    """An acknowledged event is handled once after the restart; no personal data is logged."""
    (tmp_path / "stuck.py").write_text(STUCK)
    with running("stuck:app", tmp_path) as (process, url, _):
        assert 200 == httpx.post(url, **signed(body("1"))).status_code
        process.send_signal(signal.SIGKILL)
        process.wait(10)
    with running("webhooks_asgi:app", tmp_path) as (process, url, lines):
        assert 200 == httpx.post(url, **signed(body("1"))).status_code
        assert 200 == httpx.post(url, **signed(body("2", metric="opened"))).status_code
        first = next(line for line in lines if "stop mailing this address" in line)
        noted = next(line for line in lines if "nothing to do" in line)
        process.send_signal(signal.SIGTERM)
        rest = "".join(lines)
    assert "stop mailing this address: email_bounced 1" in first
    assert "nothing to do: email_opened 2" in noted
    assert "stop mailing" not in rest
    assert WHO not in first + noted + rest
