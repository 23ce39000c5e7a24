"""The async and the sync workspace, and the public names of `mixpanel.data`."""

import asyncio
import functools
import inspect
import json
import os
import re
import subprocess
import sys
from datetime import UTC, datetime, timedelta

import pytest

import mixpanel.data
from mixpanel import SyncInAsyncError
from mixpanel.data import (
    AsyncWorkspace,
    ConfigError,
    Credentials,
    CredentialsCheck,
    Workspace,
    exceptions,
    results,
)
from mixpanel.emulator import Emulator
from tests.cli.cli_data import FIRST, PER_DAY, environment, interrupt_after_five, nine_days

RENAMED = {"aclose": "close"}
ASYNC_WORDS = re.compile(r"\b(?:async|await) |\bAsync(?=Workspace)")
ROBOT = Credentials(username="robot", secret="s3cret", project_id="42")
NINE = {"from_date": FIRST, "to_date": "2026-01-09"}


def public(workspace_class):
    return {name for name in dir(workspace_class) if not name.startswith("_")}


def without_async_words(doc):
    return ASYNC_WORDS.sub("", doc)


# The database file


@pytest.mark.slow
def test_the_database_is_that_of_the_argument_then_of_the_environment(monkeypatch, tmp_path):
    """In the same order as for the command line; an empty variable is not set."""
    monkeypatch.setenv("HOME", str(tmp_path))
    usual = tmp_path / ".mp" / "data" / "42.db"
    for variable, argument, expected in (
        ("~/mine.db", None, tmp_path / "mine.db"),
        ("~/mine.db", tmp_path / "other.db", tmp_path / "other.db"),
        ("", None, usual),
    ):
        monkeypatch.setenv("MP_DB", variable)
        options = {} if argument is None else {"path": argument}
        with Workspace(credentials=ROBOT, **options) as ws:
            ws.sql_scalar("SELECT 1")
            assert ws.db_path == expected
            assert expected.is_file()
        assert AsyncWorkspace(credentials=ROBOT, **options).db_path == expected
    with Workspace.memory(credentials=ROBOT) as ws:
        assert ws.db_path is None
    monkeypatch.setenv("MP_DB", str(tmp_path / "mine.db"))
    with Workspace.ephemeral(credentials=ROBOT) as ws:
        assert ws.db_path != tmp_path / "mine.db"


# Public names


def test_mixpanel_data_exports_every_error_and_result():
    """To catch or annotate one, its module need not be known."""
    assert {*exceptions.__all__, *results.__all__} <= set(mixpanel.data.__all__)


def test_importing_the_package_loads_nothing_heavy():
    """Importing one of its errors or results does not, either."""
    source = (
        "import sys\nimport mixpanel.data\nfrom mixpanel.data import APIError, FetchResult\n"
        "heavy = {'duckdb', 'httpx', 'pydantic', 'pandas', 'anyio', 'asgiref', 'asyncio'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", source], check=True)


@pytest.mark.slow
def test_importing_a_workspace_loads_no_parsers_of_queries():
    """Nor local analysis: the first query or report loads them."""
    source = """
import sys
import mixpanel.data.workspace
loaded = {name.rpartition(".")[2] for name in sys.modules if name.startswith("mixpanel.data.")}
heavy = {"funnel_responses", "bookmarks", "requests", "query_results", "analysis"}
assert not heavy & loaded, heavy & loaded
assert "mixpanel.data._queries.responses" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", source], check=True)


# The two workspaces


def test_both_workspaces_have_the_same_methods():
    """Only `close` has another name."""
    assert {RENAMED.get(name, name) for name in public(AsyncWorkspace)} == public(Workspace)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(public(AsyncWorkspace) - set(RENAMED)))
def test_sync_methods_have_the_signature_and_documentation_of_the_async_ones(name):
    """Apart from the words async and await in the examples."""
    theirs, ours = getattr(AsyncWorkspace, name), getattr(Workspace, name)
    assert without_async_words(theirs.__doc__) == without_async_words(ours.__doc__)
    if not callable(theirs):
        kinds = property, functools.cached_property
        assert isinstance(inspect.getattr_static(Workspace, name), kinds)
        return
    assert inspect.signature(ours).parameters == inspect.signature(theirs).parameters
    assert not inspect.iscoroutinefunction(ours)
    assert not inspect.isasyncgenfunction(ours)


def test_both_workspaces_take_the_same_arguments():
    """Code can be moved from one to the other."""
    assert inspect.signature(Workspace) == inspect.signature(AsyncWorkspace)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(public(Workspace)))
def test_examples_of_sync_methods_are_sync(name):
    """An example with `await` would be a syntax error in the caller's code."""
    examples = re.findall(r"^ *(?:>>>|\.\.\.) .*$", getattr(Workspace, name).__doc__, re.MULTILINE)
    assert [] == [line for line in examples if re.search(r"\b(?:async|await) ", line)]


FETCHES = ["fetch_events", "plan_events", "sync_events", "plan_sync", "stream_events"]


@pytest.mark.parametrize("workspace_class", [AsyncWorkspace, Workspace])
@pytest.mark.parametrize("name", [*FETCHES, "fetch_profiles", "stream_profiles"])
def test_help_of_fetches_shows_every_parameter_with_its_type(workspace_class, name):
    """Their shared options are typed in one place, and still complete in help and editors."""
    signature = inspect.signature(getattr(workspace_class, name))
    self_, *parameters = signature.parameters.values()
    assert "self" == self_.name
    assert inspect.Parameter.VAR_KEYWORD not in {parameter.kind for parameter in parameters}
    assert all(parameter.annotation is not parameter.empty for parameter in parameters)
    expected = {"from_date", "to_date", "chunk_days"} if name in FETCHES else {"cohort_id"}
    assert expected | {"where"} <= set(signature.parameters)
    returned = {"fetch": "FetchResult", "sync_": "FetchResult", "plan_": "FetchPlan"}
    assert returned.get(name[:5], "dict[str, Any]") in signature.return_annotation


@pytest.mark.parametrize("wrong", [{"wher": "x"}, {"from_date": FIRST}, {"name": "x", "limits": 5}])
def test_wrong_arguments_of_a_fetch_name_the_method(wrong):
    """The error is about the call, not about a function inside."""
    with Workspace.memory(credentials=ROBOT) as ws, pytest.raises(TypeError, match="fetch_events"):
        ws.fetch_events(**wrong)


def test_accepted_credentials_are_a_result(emu, monkeypatch):
    """It says which were used and where they were found."""
    fields = {"MP_USERNAME": "u", "MP_SECRET": "s", "MP_PROJECT_ID": "7", "MP_REGION": "eu"}
    for name, value in fields.items():
        monkeypatch.setenv(name, value)
    check = Workspace.test_credentials(base_url=emu.url)
    assert CredentialsCheck(True, None, "7", "eu", "environment") == check
    assert {"success": True, "project_id": "7"}.items() <= check.to_dict().items()


def test_a_blocking_call_on_an_event_loop_is_refused(tmp_path):
    """It would block the loop; the error names the async class."""

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
    """So is the result of `sql`."""
    with Workspace.memory(credentials=ROBOT) as ws:
        ws.connection.execute("CREATE TABLE t AS SELECT range AS n FROM range(20)")
        sample = ws.sample("t", 3)
        assert (type(ws.sql("FROM t")), ["n"], 3) == (type(sample), list(sample), len(sample))


# Dates in the future


@pytest.mark.slow
def test_dates_in_the_future_are_refused_before_any_call(emu):
    """Tomorrow is allowed: in projects east of UTC it may have begun."""
    tomorrow = datetime.now(UTC).date() + timedelta(days=1)
    with Workspace.memory(credentials=ROBOT, base_url=emu.url) as ws:
        for to_date in (tomorrow + timedelta(days=2), "2999-01-01"):
            wrong = {"from_date": FIRST, "to_date": to_date}
            for fetch in (ws.fetch_events, ws.plan_events, ws.sync_events):
                with pytest.raises(ConfigError, match=f"to_date={to_date} is in the future"):
                    fetch(**wrong)
            with pytest.raises(ConfigError, match="is in the future"):
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
    report = {"still": still, "state": left.state, "rows": done.rows, "requests": done.requests}
    print(json.dumps(report | {"kept": left.row_count}))
"""


@pytest.mark.slow
def test_ctrl_c_ends_a_fetch(tmp_path):
    """Nothing keeps running in the background, and the same call continues with what is missing."""
    with Emulator() as emu:
        nine_days(emu)
        with subprocess.Popen(
            [sys.executable, "-c", INTERRUPTED, tmp_path / "ws.db"],
            env={**os.environ, **environment(emu.url, tmp_path)},
            stdout=subprocess.PIPE,
            text=True,
        ) as running:
            interrupt_after_five(emu, tmp_path, running)
            report = json.loads(running.communicate(timeout=120)[0])
    assert 0 == running.returncode
    assert ([], "incomplete", 5 * PER_DAY) == (report["still"], report["state"], report["kept"])
    assert (9 * PER_DAY, 4) == (report["rows"], report["requests"])
