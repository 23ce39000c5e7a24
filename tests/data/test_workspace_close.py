"""Fetches that end early: a callback, a full disk, a closed workspace, a fork, no terminal."""

import asyncio
import errno
import io
import os
import subprocess
import sys
import threading
from types import SimpleNamespace

import anyio
import pytest

from mixpanel import Mixpanel, SyncInAsyncError
from mixpanel.data import AsyncWorkspace, ConfigError, Credentials, Workspace
from mixpanel.data._api import download
from mixpanel.data.exceptions import MixpanelDataError
from mixpanel.emulator import Emulator, Fault
from tests.cli.cli_data import FIRST, LAST, PER_DAY, fill, wait_until

pytestmark = pytest.mark.slow

EXPORT = "/api/2.0/export"
ROBOT = Credentials(username="robot", secret="s3cret", project_id="42")
THREE = {"from_date": FIRST, "to_date": LAST}


@pytest.fixture
def shop(emu):
    """An emulator with three days of orders."""
    fill(emu)
    return emu


@pytest.fixture
def ws(shop):
    """A workspace on it, in memory."""
    with Workspace.memory(credentials=ROBOT, base_url=shop.url) as workspace:
        yield workspace


def interrupt(_now):
    raise KeyboardInterrupt("from a callback")


# Callbacks


@pytest.mark.parametrize("name", ["progress", "on_batch_complete"])
def test_ctrl_c_in_a_callback_ends_the_fetch(ws, shop, name):
    """KeyboardInterrupt reaches the caller; fetching and tracking work afterwards."""
    with pytest.raises(KeyboardInterrupt, match="from a callback"):
        ws.fetch_events(**THREE, **{name: interrupt})
    assert 3 * PER_DAY == ws.fetch_events(**THREE).rows
    with Mixpanel("T", base_url=shop.url) as mp:
        mp.track("u-1", "Opened")
    assert "Opened" in {one["event"] for one in shop.events()}


def test_ctrl_c_after_a_page_ends_the_fetch(ws):
    """The page is kept, and the next fetch continues after it."""
    with pytest.raises(KeyboardInterrupt, match="from a callback"):
        ws.fetch_profiles(on_page_complete=interrupt)
    assert ["incomplete"] == [table.state for table in ws.tables()]
    again = ws.fetch_profiles()
    assert (5, 0) == (again.rows, again.requests)
    assert ["complete"] == [table.state for table in ws.tables()]


async def later(*_now):
    """Stand in for a callback that would never be awaited."""


def test_async_callbacks_are_refused(ws, shop):
    """The error names the argument, before any call; so it is for objects that are not callable."""
    for name in ("progress", "on_batch_complete"):
        for fetch in (ws.fetch_events, ws.sync_events):
            with pytest.raises(ConfigError, match=f"{name} is an async function"):
                fetch(**THREE, **{name: later})
    with pytest.raises(ConfigError, match="on_page_complete is an async function"):
        ws.fetch_profiles(on_page_complete=later)
    with pytest.raises(ConfigError, match="on_wait is an async function"):
        Workspace(credentials=ROBOT, on_wait=later)
    with pytest.raises(ConfigError, match="progress must be a function, not str"):
        ws.fetch_events(**THREE, progress="yes")
    assert [] == shop.requests(EXPORT)


# The machine


@pytest.mark.parametrize("closed", [True, False])
def test_a_daemon_without_stderr_can_fetch(ws, monkeypatch, closed):
    """With a closed stderr, or None, no progress is shown."""
    stderr = io.StringIO()
    stderr.close()
    with monkeypatch.context() as daemon:
        daemon.setattr(sys, "stderr", stderr if closed else None)
        assert 3 * PER_DAY == ws.fetch_events(**THREE).rows


def test_a_full_disk_is_one_clear_error(shop, tmp_path, monkeypatch):
    """It has the file and the remedy; with space again, the same call succeeds."""

    def fail(_file, _piece):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with Workspace(path=tmp_path / "ws.db", credentials=ROBOT, base_url=shop.url) as ws:
        with monkeypatch.context() as full:
            full.setattr(download, "os", SimpleNamespace(**vars(os) | {"write": fail}))
            with pytest.raises(
                MixpanelDataError, match="the disk is full: free some space"
            ) as caught:
                ws.fetch_events(**THREE)
        assert "DISK_FULL" == caught.value.code
        assert caught.value.details["path"].startswith(str(tmp_path / "ws.db.parts"))
        assert 3 * PER_DAY == ws.fetch_events(**THREE).rows


FORKED = """
import os, sys
from mixpanel.data import Credentials, Workspace

robot = Credentials(username="robot", secret="s3cret", project_id="42")
with Workspace.ephemeral(credentials=robot) as ws:
    folder = ws.db_path.parent
    if os.fork() == 0:
        sys.exit()
    os.wait()
    ws.connection.execute("CREATE TABLE t AS SELECT 1 AS n")
    print(folder.is_dir(), ws.sql_scalar("SELECT n FROM t"))
print(folder.exists())
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
def test_a_forked_child_keeps_the_temporary_database_of_its_parent():
    """The exit of the child does not delete the directory."""
    output = subprocess.run(
        [sys.executable, "-c", FORKED], capture_output=True, text=True, check=True, timeout=120
    )
    assert ["True 1", "False"] == output.stdout.splitlines()


# Credentials


@pytest.mark.parametrize(
    ("given", "options", "why"),
    [
        (ROBOT, {"region": "xx"}, "region must be one of us, eu, in"),
        (ROBOT, {"project_id": "4 2"}, "project_id must be a project id"),
    ],
)
def test_invalid_credentials_are_a_config_error(given, options, why):
    """The error names the field and does not contain the secret."""
    with pytest.raises(ConfigError, match=f"credentials: {why}") as caught:
        Workspace(credentials=given, **options)
    assert "s3cret" not in repr(caught.value)


# Closing


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request):
    return request.param


@pytest.mark.anyio
async def test_closing_cancels_a_fetch_that_can_be_continued(tmp_path, anyio_backend):
    """With one clear error; the days that had arrived are not fetched again."""
    caught = []
    with Emulator() as emu:
        fill(emu)
        emu.play(Fault.latency(30), path=EXPORT, when=lambda r: LAST == r.query["from_date"])
        ws = AsyncWorkspace(path=tmp_path / "ws.db", credentials=ROBOT, base_url=emu.url)
        arrived = anyio.Event()

        async def fetch():
            with pytest.raises(MixpanelDataError, match="closed before the fetch") as error:
                await ws.fetch_events(
                    **THREE, on_batch_complete=lambda now: now.batch_index == 1 and arrived.set()
                )
            caught.append(error.value.code)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(fetch)
            await arrived.wait()
            await ws.aclose()
        assert ["CLOSED"] == caught
        with pytest.raises(MixpanelDataError, match="the workspace is closed"):
            ws.api  # noqa: B018
        with pytest.raises(MixpanelDataError, match="the workspace is closed"):
            await ws.fetch_profiles()
        options = {"credentials": ROBOT, "base_url": emu.url}
        async with AsyncWorkspace(path=tmp_path / "ws.db", **options) as again:
            result = await again.fetch_events(**THREE)
        assert (3 * PER_DAY, 1) == (result.rows, result.requests)


def test_another_thread_may_close_the_workspace(shop, tmp_path):
    """The fetch of the sync workspace ends with the same error."""
    shop.play(Fault.latency(30), path=EXPORT, when=lambda r: LAST == r.query["from_date"])
    ws = Workspace(path=tmp_path / "ws.db", credentials=ROBOT, base_url=shop.url)
    errors = []

    def fetch():
        try:
            ws.fetch_events(**THREE)
        except MixpanelDataError as error:
            errors.append(error.code)

    thread = threading.Thread(target=fetch)
    thread.start()
    wait_until(lambda: 3 == len(shop.requests(EXPORT)))
    ws.close()
    thread.join(20)
    assert ["CLOSED"] == errors


def test_close_works_on_a_running_event_loop(shop):
    """As in a cell of a notebook; in a callback of a fetch it is refused, to avoid a deadlock."""
    ws = Workspace.memory(credentials=ROBOT, base_url=shop.url)
    refused = []

    async def cell():
        with ws as opened:
            await asyncio.to_thread(opened.fetch_profiles)

            def close(_now):
                with pytest.raises(SyncInAsyncError, match="leave it to the code after the call"):
                    opened.close()
                refused.append(True)

            await asyncio.to_thread(opened.fetch_events, **THREE, on_batch_complete=close)

    asyncio.run(cell())
    assert [True] * 3 == refused
