"""The two faces of a workspace, and what `mixpanel.data` offers by name."""

import asyncio
import inspect
import json
import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta

import pytest

import mixpanel.data
from mixpanel import SyncInAsyncError
from mixpanel.data import AsyncWorkspace, ConfigError, Credentials, Workspace, exceptions, results
from mixpanel.emulator import Emulator
from tests.cli.cli_data import FIRST, PER_DAY, environment, interrupt_after_five, nine_days

RENAMED = {"aclose": "close"}
ROBOT = Credentials(username="robot", secret="s3cret", project_id="42")
NINE = {"from_date": FIRST, "to_date": "2026-01-09"}


def public(face):
    return {name for name in dir(face) if not name.startswith("_")}


def offered(face, name):
    """Return a method as a caller meets it."""
    return inspect.getattr_static(face, name)


# What is offered by name


def test_every_error_and_result_is_offered():
    """Whoever catches or annotates need not know which room it is from."""
    assert {*exceptions.__all__, *results.__all__} <= set(mixpanel.data.__all__)


def test_importing_the_package_loads_nothing_heavy():
    """Nor does naming one of its errors."""
    source = (
        "import sys\nimport mixpanel.data\nfrom mixpanel.data import APIError, FetchResult\n"
        "heavy = {'duckdb', 'httpx', 'pydantic', 'pandas', 'anyio', 'asgiref', 'asyncio'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", source], check=True)


# The two faces


def test_the_faces_offer_the_same_methods():
    """What one can do the other can; only close has another name."""
    assert {RENAMED.get(name, name) for name in public(AsyncWorkspace)} == public(Workspace)


@pytest.mark.parametrize("name", sorted(public(AsyncWorkspace) - set(RENAMED)))
def test_twins_keep_signature_and_documentation(name):
    """Hover help is the same in both worlds."""
    theirs, ours = getattr(AsyncWorkspace, name), getattr(Workspace, name)
    assert ours.__doc__.replace("await ", "") == theirs.__doc__.replace("await ", "")
    if not callable(theirs):
        assert isinstance(offered(Workspace, name), property)
        return
    assert inspect.signature(ours).parameters == inspect.signature(theirs).parameters
    assert not inspect.iscoroutinefunction(ours)
    assert not inspect.isasyncgenfunction(ours)


def test_the_faces_are_made_alike():
    """From the same arguments."""
    assert inspect.signature(Workspace) == inspect.signature(AsyncWorkspace)


def test_a_blocking_call_is_refused_in_a_loop(tmp_path):
    """It would hold the loop up; the error says what to use."""

    async def within():
        Workspace.test_credentials()

    with pytest.raises(SyncInAsyncError, match="use AsyncWorkspace and await it"):
        asyncio.run(within())
    with Workspace(path=tmp_path / "ws.db", credentials=ROBOT) as ws:

        async def fetching():
            ws.fetch_events(**NINE)

        with pytest.raises(SyncInAsyncError, match="use AsyncWorkspace and await it"):
            asyncio.run(fetching())


def test_a_sample_is_a_data_frame():
    """As `sql` returns one too."""
    with Workspace.memory(credentials=ROBOT) as ws:
        ws.connection.execute("CREATE TABLE t AS SELECT range AS n FROM range(20)")
        sample = ws.sample("t", 3)
        assert (type(ws.sql("FROM t")), ["n"], 3) == (type(sample), list(sample), len(sample))


# Days to come


def test_days_to_come_are_refused_before_any_call(emu):
    """A project east of here may have tomorrow already; the day after nobody has."""
    tomorrow = datetime.now(UTC).date() + timedelta(days=1)
    with Workspace.memory(credentials=ROBOT, base_url=emu.url) as ws:
        for to_date in (tomorrow + timedelta(days=2), "2999-01-01"):
            wrong = {"from_date": FIRST, "to_date": to_date}
            for ask in (ws.fetch_events, ws.plan_events, ws.sync_events):
                with pytest.raises(ConfigError, match=f"to_date={to_date} is yet to come"):
                    ask(**wrong)
            with pytest.raises(ConfigError, match="yet to come"):
                list(ws.stream_events(**wrong))
        assert [] == emu.requests()
        assert 1 == ws.plan_events(from_date=tomorrow, to_date=tomorrow).days


# Ctrl-C

INTERRUPTED = """
import asyncio, json, sys
from mixpanel._runtime import background_loop
from mixpanel.data import Workspace

nine = {"from_date": "2026-01-01", "to_date": "2026-01-09"}
with Workspace(path=sys.argv[1]) as ws:
    try:
        ws.fetch_events(**nine)
    except KeyboardInterrupt:
        tasks = asyncio.all_tasks(background_loop.background_loop())
        still = [repr(one) for one in tasks if "close_when_idle" not in repr(one)]
    [left] = ws.tables()
    done = ws.fetch_events(**nine)
    told = {"still": still, "state": left.state, "rows": done.rows, "requests": done.requests}
    print(json.dumps(told | {"kept": left.row_count}))
"""


@pytest.mark.slow
def test_ctrl_c_ends_a_fetch(tmp_path):
    """Nothing goes on behind the caller's back, and the same call goes on from what arrived."""
    with Emulator() as emu:
        nine_days(emu)
        with subprocess.Popen(
            [sys.executable, "-c", INTERRUPTED, tmp_path / "ws.db"],
            env={**os.environ, **environment(emu.url, tmp_path)},
            stdout=subprocess.PIPE,
            text=True,
        ) as running:
            interrupt_after_five(emu, tmp_path, running)
            told = json.loads(running.communicate(timeout=30)[0])
    assert 0 == running.returncode
    assert ([], "incomplete", 5 * PER_DAY) == (told["still"], told["state"], told["kept"])
    assert (9 * PER_DAY, 4) == (told["rows"], told["requests"])
