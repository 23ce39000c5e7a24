"""`mp schema`, `mp docs` and `mp mcp`: what a shell gives to a model."""

import json
import sys

import pytest

from mixpanel._agents.results import tokens
from mixpanel.emulator import Emulator, Fault
from tests.cli.cli_data import DAYS, environment, fill, runner

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    """Keep an emulator and a database with three days of orders, and `mp` pointed at both."""
    folder = tmp_path_factory.mktemp("agents")
    with Emulator() as emu:
        fill(emu)
        mp = runner(environment(emu.url, folder))
        for command in (["events", *DAYS], ["profiles"]):
            assert 0 == mp("fetch", *command).exit_code
        yield emu, mp


@pytest.fixture
def mp(shop):
    """Run `mp` with the account, the emulator and the database."""
    return shop[1]


# ---- mp schema ----------------------------------------------------------------------------------


def test_a_schema_shows_the_project_and_the_tables(mp):
    """As text, for a model as for a person."""
    result = mp("schema")
    assert 0 == result.exit_code, result.stderr
    assert "project: 42\nregion: us\n" in result.stdout
    assert "## events: events, 72 rows, 2026-01-01 to 2026-01-03\n" in result.stdout
    assert 'events: Order Paid 24, Order Shipped 24, "Paid, late" 24\n' in result.stdout
    assert "amount (number)" in result.stdout
    assert "## Events of the project, and their properties\nOrder Paid: amount, " in result.stdout
    assert tokens(result.stdout) < 2_000


def test_a_schema_is_json_where_json_is_wanted(mp):
    """With the same facts, and a filter."""
    found = json.loads(mp("schema", "--local", "--format", "json").stdout)
    assert ["events", "profiles"] == [each["name"] for each in found["tables"]]
    assert "project_events" not in found
    assert "24\n" == mp("schema", "--jq", '.tables[0].events["Order Paid"]').stdout


def test_a_local_schema_sends_nothing(shop, mp):
    """It needs no account either."""
    asked = len(shop[0].requests())
    nobody = dict.fromkeys(("MP_USERNAME", "MP_SECRET", "MP_PROJECT_ID"))
    for more in ({}, nobody):
        result = mp("schema", "--local", **more)
        assert "## events: events, 72 rows" in result.stdout
    assert "project:" not in result.stdout
    assert asked == len(shop[0].requests())


def test_a_schema_without_the_project_says_why(shop, mp):
    """The tables are shown all the same."""
    shop[0].play(
        Fault.status(403, body=b'{"error": "no"}'), path="/api/query/data_definitions/events"
    )
    result = mp("schema")
    assert 0 == result.exit_code
    assert "## events: events, 72 rows" in result.stdout
    assert "without the events of the project: " in result.stderr


def test_what_does_not_fit_is_counted(mp):
    """And a limit that leaves no room is refused."""
    result = mp("schema", "--tokens", 500)
    assert tokens(result.stdout) <= 500
    assert "Left out: " in result.stdout
    assert 3 == mp("schema", "--tokens", 10).exit_code


def test_a_schema_without_a_database_shows_the_project(mp, tmp_path):
    """Without an account either, the error says what to set."""
    result = mp("schema", "--db", tmp_path / "none.db")
    assert "There are no local tables yet.\n" in result.stdout
    assert "Order Paid: " in result.stdout
    assert not (tmp_path / "none.db").exists()


# ---- mp docs ------------------------------------------------------------------------------------


def test_pages_and_sections_are_printed(mp):
    """As Markdown."""
    page = mp("docs", "agents").stdout
    assert page.startswith("# Agents\n")
    section = mp("docs", "agents#sql").stdout
    assert section.startswith("## SQL\n")
    assert section in page
    assert mp("docs", "llms.txt").stdout.startswith("# mixpanel-async\n\n> ")
    names = [each["topic"] for each in json.loads(mp("docs").stdout)]
    assert {"agents", "queries", "readme"} <= set(names)
    found = json.loads(mp("docs", "agents", "--format", "json").stdout)
    assert (page, "agents#sql") == (found["text"], found["sections"][3]["topic"])


def test_an_unknown_page_is_not_found(mp):
    """With similar names on stderr."""
    result = mp("docs", "querys")
    assert (4, "") == (result.exit_code, result.stdout)
    assert "did you mean queries" in result.stderr


# ---- mp mcp -------------------------------------------------------------------------------------


def test_the_tools_are_listed_with_their_arguments(mp):
    """Without a database, an account or the extra."""
    found = json.loads(mp("mcp", "--tools").stdout)
    assert "sql" in [each["name"] for each in found]
    assert "fetch_events" not in [each["name"] for each in found]
    found = json.loads(mp("mcp", "--tools", "--allow-writes").stdout)
    assert 11 == len(found)
    assert "object" == found[0]["arguments"]["type"]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--call", "sql", "--arguments", "{"], "not valid JSON"),
        (["--call", "sql", "--arguments", "[]"], "must be an object"),
        (["--arguments", "{}"], "--arguments needs --call"),
        (["--call", "sql", "--tools"], "cannot be used together"),
        (["--call", "sql", "--http"], "cannot be used together"),
        (["--timeout", "0"], "--timeout"),
    ],
)
def test_options_that_do_not_fit_are_refused(mp, arguments, says):
    """Before anything is started."""
    result = mp("mcp", *arguments)
    assert (3, "") == (result.exit_code, result.stdout)
    assert says in result.stderr


def test_a_failed_call_is_json_for_scripts(mp):
    """With its code and the next step."""
    result = mp(
        "--error-format", "json", "mcp", "--call", "sql",
        "--arguments", '{"query": "SELECT nope FROM events"}',
    )  # fmt: skip
    error = json.loads(result.stderr)
    assert (3, "SQL_ERROR") == (result.exit_code, error["code"])
    assert "overview" in error["next"]


def test_a_tool_can_fetch_where_that_is_allowed(mp, tmp_path):
    """Into a database of its own."""
    given = json.dumps({"from_date": "2026-01-01", "to_date": "2026-01-01"})
    db = ("--db", tmp_path / "a.db")
    refused = mp("mcp", *db, "--call", "fetch_events", "--arguments", given)
    assert (3, True) == (refused.exit_code, "--allow-writes" in refused.stderr)
    done = mp("mcp", *db, "--allow-writes", "--call", "fetch_events", "--arguments", given)
    assert 24 == json.loads(done.stdout)["rows"], done.stderr


def test_without_an_account_and_a_database_the_server_does_not_start(mp):
    """The error says what to set."""
    nobody = dict.fromkeys(("MP_USERNAME", "MP_SECRET", "MP_PROJECT_ID", "MP_DB"))
    result = mp("mcp", "--call", "overview", **nobody)
    assert 3 == result.exit_code
    assert "mp auth add" in result.stderr


def test_serving_without_the_extra_says_what_to_install(mp, monkeypatch):
    """And nothing else is imported for the other commands."""
    monkeypatch.setitem(sys.modules, "mcp", None)
    monkeypatch.setitem(sys.modules, "mcp.types", None)
    monkeypatch.delitem(sys.modules, "mixpanel._agents.server", raising=False)
    monkeypatch.delattr("mixpanel._agents.server", raising=False)
    result = mp("mcp")
    assert (1, "") == (result.exit_code, result.stdout)
    assert "pip install 'mixpanel-async[mcp]'" in result.stderr
