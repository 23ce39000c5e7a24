"""`mp fetch`: from Mixpanel into the local database, or to stdout."""

import io
import json
import os
import pty
import re
import shlex
import subprocess
import sys
import threading
from itertools import takewhile

import pytest
import typer
from rich.console import Console

from mixpanel.cli._output import progress
from mixpanel.cli._output.exit_codes import ExitCode
from mixpanel.cli._output.progress import FetchReporter, ProgressBar, progress_bar
from mixpanel.cli.app import app
from mixpanel.data import Config, ConfigError
from mixpanel.data._fetch.progress import Progress
from mixpanel.emulator import Emulator, Fault
from tests.cli.cli_data import (
    DAYS,
    EXPORT,
    FIRST,
    LAST,
    NAMES,
    environment,
    fill,
    interrupt_after_five,
    lines,
    nine_days,
    runner,
)

pytestmark = pytest.mark.slow

ENGAGE = "/api/query/engage"
RUN = [sys.executable, "-c", "from mixpanel.cli.main import run; run()"]


@pytest.fixture
def env(emu, tmp_path):
    """Point `mp` at an emulator with three days of orders."""
    fill(emu)
    return environment(emu.url, tmp_path)


@pytest.fixture
def mp(env):
    """Run `mp` in this process."""
    return runner(env)


def tables(mp):
    """Return what is in the database, by name."""
    return {one["name"]: one for one in json.loads(mp("inspect", "tables").stdout)}


# Events


def test_events_become_a_table(mp, emu, tmp_path):
    """The result is on stdout, and a summary on stderr."""
    done = mp("fetch", "events", *DAYS)
    assert ExitCode.OK == done.exit_code, done.stderr
    result = json.loads(done.stdout)
    assert ("events", 72, [FIRST, LAST]) == (result["table"], result["rows"], result["date_range"])
    assert done.stderr.startswith("72 rows in ")
    assert done.stderr.endswith(f" s: table events of {tmp_path / 'shop.db'}\n")
    assert 3 == len(emu.requests(EXPORT))
    assert 72 == tables(mp)["events"]["row_count"]


def test_the_result_of_a_fetch_comes_in_every_format(mp):
    """A table leaves out what is empty."""
    plain = mp("fetch", "events", *DAYS, "-f", "plain").stdout
    assert "rows=72\n" in plain
    table = mp("fetch", "events", "again", *DAYS, "-f", "table").stdout
    assert "72" in table
    assert "failed" not in table
    only = mp("--quiet", "fetch", "events", "third", *DAYS, "--jq", ".rows")
    assert ("72\n", "") == (only.stdout, only.stderr)


@pytest.mark.parametrize(
    ("given", "rows"),
    [
        (["-e", "Order Paid"], 24),
        (["-e", "Order Paid", "--events", "Order Shipped"], 48),
        (["-e", "Order Paid,Order Shipped"], 48),
        (["-e", '"Paid, late"'], 24),
        (["-e", 'Order Paid, "Paid, late"'], 48),
        (["-w", 'properties["plan"] == "team"'], 36),
        (["-l", "5"], 5),
        (["-p", "--batch-size", "500", "--workers", "2", "--chunk-days", "2"], 72),
    ],
)
def test_events_are_filtered(mp, given, rows):
    """By name, by an expression, by a limit; ignored options are accepted."""
    result = mp("fetch", "events", "chosen", *DAYS, *given)
    assert ExitCode.OK == result.exit_code, result.stderr
    assert rows == json.loads(result.stdout)["rows"]


def test_an_existing_table_is_not_overwritten(mp, emu):
    """The error says what to do, and no request is sent."""
    mp("fetch", "events", "--from", FIRST, "--to", FIRST)
    spent = len(emu.requests(EXPORT))
    result = mp("fetch", "events", *DAYS)
    assert (ExitCode.ERROR, "") == (result.exit_code, result.stdout)
    assert "--append adds days to it, and replaces those it has already\n" in result.stderr
    assert spent == len(emu.requests(EXPORT))
    added = mp("fetch", "events", "--from", LAST, "--to", LAST, "--append")
    assert ExitCode.OK == added.exit_code
    assert [["2026-01-02", "2026-01-02"]] == tables(mp)["events"]["gaps"]
    assert "2026-01-02" in mp("inspect", "tables", "-f", "table").stdout
    replaced = mp("fetch", "events", "--from", FIRST, "--to", FIRST, "--replace")
    assert ExitCode.OK == replaced.exit_code
    assert 24 == tables(mp)["events"]["row_count"]


def test_appending_with_other_filters_needs_mixed(mp):
    """A table of both would mislead."""
    mp("fetch", "events", "--from", FIRST, "--to", FIRST, "-e", NAMES[0])
    more = ["fetch", "events", "--from", LAST, "--to", LAST, "--append"]
    result = mp(*more)
    assert ExitCode.USAGE == result.exit_code
    assert "pass --mixed\n" in result.stderr
    assert ExitCode.OK == mp(*more, "--mixed").exit_code
    shown = mp("inspect", "tables", "-f", "table").stdout
    assert 'events ["Order Paid"]; none' in shown


def test_appending_needs_a_table(mp, emu):
    """It is not found, and no request is sent."""
    assert ExitCode.NOT_FOUND == mp("fetch", "events", *DAYS, "--append").exit_code
    assert [] == emu.requests(EXPORT)


def test_a_dry_run_of_a_fetch_sends_no_request(mp, emu, tmp_path):
    """It shows the requests it would make, and creates no database."""
    result = mp("fetch", "events", *DAYS, "--dry-run")
    assert ExitCode.OK == result.exit_code, result.stderr
    plan = json.loads(result.stdout)
    assert (3, 3, 60) == (plan["days"], plan["calls"], plan["calls_left"])
    days = "3 days (2026-01-01 to 2026-01-03)"
    text = f"dry run: {days} in 3 calls, 60 calls left this hour; no request was sent"
    assert result.stderr.startswith(text)
    table = mp("fetch", "events", *DAYS, "--dry-run", "-f", "table").stdout
    assert ["2026-01-01", "2026-01-01", "1"] == table.splitlines()[1].split()
    assert [] == emu.requests(EXPORT)
    assert not (tmp_path / "shop.db").exists()
    mp("fetch", "events", "--from", FIRST, "--to", FIRST)
    longer = mp("fetch", "events", "--dry-run", "--from", LAST, "--to", LAST, "--append")
    assert 1 == json.loads(longer.stdout)["calls"]


def test_errors_name_options(mp):
    """Not the arguments of the library."""
    for more in ([], ["--dry-run"], ["--stdout"]):
        result = mp("fetch", "events", "--from", LAST, "--to", FIRST, *more)
        assert ExitCode.USAGE == result.exit_code
        assert f"mp: --from {LAST} is later than --to {FIRST}\n" == result.stderr
    zone = mp("fetch", "events", *DAYS, "--project-timezone", "Mars/Base")
    assert "--project-timezone 'Mars/Base' is not a known time zone" in zone.stderr


def test_a_table_has_rounded_seconds(mp):
    """To milliseconds; JSON has all digits."""
    table = mp("fetch", "events", *DAYS, "-f", "table").stdout
    assert re.search(r"\b\d+\.\d{1,3}\s", table)
    assert not re.search(r"\d\.\d{4}", table)


# Sync


def test_a_dry_run_of_a_sync_sends_no_request(mp, emu):
    """It shows the days that are missing, none if the table is up to date."""
    nowhere = mp("fetch", "sync", "--dry-run")
    assert "pass --from, the first day to fetch\n" in nowhere.stderr
    ahead = mp("fetch", "sync", "--from", FIRST, "--to", LAST, "--dry-run")
    assert (3, 3) == (json.loads(ahead.stdout)["days"], json.loads(ahead.stdout)["calls"])
    assert [] == emu.requests(EXPORT)
    mp("fetch", "sync", "--from", FIRST, "--to", "2026-01-02")
    rest = mp("fetch", "sync", "--to", LAST, "--dry-run")
    assert [[LAST, LAST]] == json.loads(rest.stdout)["chunks"]
    mp("fetch", "sync", "--to", LAST)
    done = mp("fetch", "sync", "--to", LAST, "--dry-run")
    assert (0, []) == (json.loads(done.stdout)["calls"], json.loads(done.stdout)["chunks"])
    assert done.stderr.startswith("dry run: 0 days in 0 calls")
    assert 3 == len(emu.requests(EXPORT))


def test_sync_brings_a_table_up_to_date(mp, emu):
    """A second time there is nothing to do; a new table needs --from."""
    nowhere = mp("fetch", "sync")
    assert ExitCode.USAGE == nowhere.exit_code
    assert "events has no days yet: pass --from, the first day to fetch\n" in nowhere.stderr
    first = mp("fetch", "sync", "--from", FIRST, "--to", "2026-01-02")
    assert 48 == json.loads(first.stdout)["rows"]
    second = mp("fetch", "sync", "--to", LAST)
    assert 24 == json.loads(second.stdout)["rows"]
    spent = len(emu.requests(EXPORT))
    third = mp("fetch", "sync", "--to", LAST)
    assert ExitCode.OK == third.exit_code, third.stderr
    assert 72 == tables(mp)["events"]["row_count"]
    assert spent == len(emu.requests(EXPORT))


# Profiles


def test_profiles_become_a_table(mp, emu):
    """`--append` updates them."""
    result = mp("fetch", "profiles")
    assert (ExitCode.OK, 5) == (result.exit_code, json.loads(result.stdout)["rows"])
    again = mp("fetch", "profiles")
    assert ExitCode.ERROR == again.exit_code
    assert "--append updates its profiles\n" in again.stderr
    assert ExitCode.OK == mp("fetch", "profiles", "--append").exit_code
    assert 5 == tables(mp)["profiles"]["row_count"]
    assert ExitCode.OK == mp("fetch", "profiles", "--replace").exit_code


def test_a_dry_run_of_profiles_says_what_they_cost(mp, emu):
    """One query however many there are, and nothing is sent."""
    before = len(emu.requests())
    result = mp("fetch", "profiles", "--dry-run")
    assert (ExitCode.OK, 1, 0) == (
        result.exit_code,
        json.loads(result.stdout)["calls"],
        json.loads(result.stdout)["pages_done"],
    )
    assert "dry run: 1 call, " in result.stderr
    assert "no request was sent\n" in result.stderr
    assert ExitCode.OK == mp("fetch", "sync-profiles", "--dry-run").exit_code
    assert before == len(emu.requests())


def test_sync_profiles_updates_a_table(mp):
    """What changed is counted; `--history` keeps the versions of before."""
    assert ExitCode.OK == mp("fetch", "sync-profiles").exit_code
    result = mp("fetch", "sync-profiles", "--history")
    assert ExitCode.OK == result.exit_code
    assert "0 new, 0 changed, " in result.stderr
    history = json.loads(mp("query", "sql", "SELECT count(*) AS n FROM profiles_history").stdout)
    assert [{"n": 5}] == history


def test_profiles_are_filtered(mp):
    """By id or by expression, and by their properties."""
    some = mp("fetch", "profiles", "two", "--distinct-ids", "u-1", "--distinct-ids", "u-2")
    assert 2 == json.loads(some.stdout)["rows"]
    one = mp("fetch", "profiles", "one", "--distinct-id", "u-1", "-o", "city,nothing")
    assert 1 == json.loads(one.stdout)["rows"]
    assert ["city"] == json.loads(mp("inspect", "keys", "one").stdout)
    none = mp("fetch", "profiles", "none", "-w", 'properties["plan"] == "solo"')
    assert 0 == json.loads(none.stdout)["rows"]
    shown = mp("fetch", "profiles", "nobody", "-w", "false", "-f", "table").stdout.splitlines()
    assert ["rows", "0"] == shown[2].split()


# To stdout


def test_events_stream_as_lines(mp, tmp_path):
    """Shaped, or as Mixpanel sends them; nothing is stored."""
    result = mp("fetch", "events", *DAYS, "--stdout")
    assert (ExitCode.OK, "72 events\n") == (result.exit_code, result.stderr)
    rows = lines(result.stdout)
    assert {"event_name", "event_time", "distinct_id", "insert_id", "properties"} == set(rows[0])
    assert {f"i-{n}" for n in range(72)} == {row["insert_id"] for row in rows}
    raw = lines(mp("fetch", "events", *DAYS, "--stdout", "--raw", "-l", "3").stdout)
    assert 3 == len(raw)
    assert {"event", "properties"} == set(raw[0])
    assert not (tmp_path / "shop.db").exists()


def test_profiles_stream_as_lines(mp):
    """Shaped, or as Mixpanel sends them."""
    result = mp("fetch", "profiles", "--stdout")
    assert (ExitCode.OK, "5 profiles\n") == (result.exit_code, result.stderr)
    assert {"distinct_id", "last_seen", "properties"} == set(lines(result.stdout)[0])
    raw = lines(mp("fetch", "profiles", "--stdout", "--raw").stdout)
    assert {"$distinct_id", "$properties"} == set(raw[0])


def test_a_closed_pipe_ends_quietly(env):
    """As before `head`, without a traceback."""
    command = [*RUN, "fetch", "events", *DAYS, "--stdout"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, env={**os.environ, **env}, **pipes) as running:
        running.stdout.close()
        message = running.stderr.read()
    assert "" == message


# What contradicts itself


@pytest.mark.parametrize(
    "given",
    [
        ["events", *DAYS, "--replace", "--append"],
        ["events", *DAYS, "--raw"],
        ["events", *DAYS, "--stdout", "--replace"],
        ["events", *DAYS, "--stdout", "--dry-run"],
        ["events", "january", *DAYS, "--stdout"],
        ["events", *DAYS, "--stdout", "--format", "csv"],
        ["events", *DAYS, "--stdout", "--jq", "."],
        ["events", *DAYS, "-e", '"Paid'],
        ["events", *DAYS, "--limit", "0"],
        ["events", *DAYS, "--limit", "100001"],
        ["events", *DAYS, "--chunk-days", "101"],
        ["events", *DAYS, "--batch-size", "99"],
        ["events", *DAYS, "--project-timezone", "Mars/Olympus"],
        ["events", *DAYS, "--format", "csv", "--jq", "."],
        ["events", "--from", FIRST],
        ["events", "--from", LAST, "--to", FIRST],
        ["events", "--from", "January", "--to", LAST],
        ["events", "_mine", *DAYS],
        ["sync", "--to", "2026-13-01"],
        ["sync", "--from", FIRST, "--lookback-days", "-1"],
        ["profiles", "--replace", "--append"],
        ["profiles", "--raw"],
        ["profiles", "--distinct-id", "u", "--distinct-ids", "v"],
        ["profiles", "--behaviors", "[]", "--cohort", "7"],
        ["profiles", "--behaviors", "[]"],
        ["profiles", "--behaviors", "{", "--where", "true"],
        ["profiles", "--behaviors", "[1]", "--where", "true"],
        ["profiles", "--include-all-users"],
        ["profiles", "--as-of-timestamp", "99999999999"],
    ],
    ids=" ".join,
)
def test_wrong_options_of_a_fetch_send_no_request(mp, emu, given):
    """They end with 3."""
    result = mp("fetch", *given)
    assert (ExitCode.USAGE, "") == (result.exit_code, result.stdout), result.stderr
    assert [] == emu.requests(EXPORT) + emu.requests(ENGAGE)


# What may fail


@pytest.mark.parametrize(
    ("fault", "code"),
    [
        (Fault.status(401), ExitCode.AUTHENTICATION),
        (Fault.status(402), ExitCode.AUTHENTICATION),
        (Fault.status(400), ExitCode.USAGE),
    ],
)
def test_the_error_of_a_fetch_decides_the_exit_code(mp, emu, fault, code):
    """And there is no table."""
    emu.play(fault.forever())
    result = mp("fetch", "events", "--from", FIRST, "--to", FIRST)
    assert (code, "") == (result.exit_code, result.stdout)
    assert {} == {name: one for name, one in tables(mp).items() if one["state"] == "complete"}
    assert "s3cret" not in result.stderr


def test_an_error_of_a_fetch_may_be_json(mp):
    """Alone on stderr."""
    result = mp("--error-format", "json", "fetch", "events", *DAYS, "--append")
    assert "TABLE_NOT_FOUND" == json.loads(result.stderr)["code"]


def test_missing_credentials_are_explained(mp):
    """Also if the database is named."""
    result = mp("fetch", "profiles", MP_USERNAME=None, MP_SECRET=None, MP_PROJECT_ID=None)
    assert ExitCode.USAGE == result.exit_code
    assert "mp auth add" in result.stderr


def test_the_account_may_come_after_the_command(mp, tmp_path):
    """As well as before it; it overrides the environment."""
    Config(tmp_path / "config.toml").add_account("prod", username="p", secret="s", project_id="7")
    command = ["fetch", "events", *DAYS, "--dry-run"]
    for typed in (["--account", "prod", *command], [*command, "--account", "prod"]):
        assert ExitCode.OK == mp(*typed, MP_PROJECT_ID="").exit_code
    for group, name, *rest in (command, ["inspect", "tables"], ["query", "sql", "FROM events"]):
        result = mp(group, name, *rest, "--account", "nobody", MP_DB=None)
        assert ExitCode.NOT_FOUND == result.exit_code
        assert "there is no account 'nobody'; there are: prod" in result.stderr


# Ctrl-C


def test_ctrl_c_keeps_finished_days(tmp_path):
    """The same command resumes, and fetches no finished day again."""
    nine = ["fetch", "events", "--from", FIRST, "--to", "2026-01-09"]
    with Emulator() as emu:
        nine_days(emu)
        env = environment(emu.url, tmp_path)
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        with subprocess.Popen([*RUN, *nine], env={**os.environ, **env}, **pipes) as running:
            watchdog = threading.Timer(30, running.kill)
            watchdog.start()
            interrupt_after_five(emu, tmp_path, running)
            out, err = running.communicate()
            watchdog.cancel()
        message = "interrupted: finished days are kept; the same command resumes from there\n"
        assert (ExitCode.INTERRUPTED, "", message) == (running.returncode, out, err)
        mp = runner(env)
        left = tables(mp)["events"]
        assert ("incomplete", 5 * 24) == (left["state"], left["row_count"])
        before = len(emu.requests(EXPORT))
        done = mp(*nine)
        assert ExitCode.OK == done.exit_code, done.stderr
        assert 9 * 24 == tables(mp)["events"]["row_count"]
        assert 4 == len(emu.requests(EXPORT)) - before
    assert ["shop.db"] == [one.name for one in tmp_path.iterdir()]


# What one sees


def on_terminal(env, *arguments):
    """Run `mp` with stderr on a terminal; return its stdout, and what the terminal got."""
    master, slave = pty.openpty()
    whole = {**os.environ, **env, "TERM": "xterm"}
    with subprocess.Popen(
        [*RUN, *arguments], env=whole, stdout=subprocess.PIPE, stderr=slave
    ) as running:
        os.close(slave)
        out, seen = [], b""
        reading = threading.Thread(target=lambda: out.append(running.stdout.read()))
        reading.start()
        while True:
            try:
                seen += os.read(master, 65_536)
            except OSError:  # the other end is closed
                break
        reading.join()
    os.close(master)
    return out[0].decode(), seen.decode()


def test_a_fetch_shows_progress_on_a_terminal(env):
    """Days and rows on stderr, and the result alone on stdout."""
    out, seen = on_terminal(env, "fetch", "events", *DAYS)
    assert 72 == json.loads(out)["rows"]
    assert "3/3 days  72 rows" in seen
    quiet, unseen = on_terminal(env, "fetch", "events", "again", *DAYS, "--no-progress")
    assert 72 == json.loads(quiet)["rows"]
    assert "days" not in unseen


def test_streamed_records_stay_on_stdout(env):
    """The count on a terminal hides none of them."""
    out, seen = on_terminal(env, "fetch", "events", *DAYS, "--stdout")
    assert 72 == len(lines(out))
    assert "i-1" not in seen
    assert "72 events" in seen


def test_a_long_wait_is_shown(capsys, monkeypatch):
    """As a line, or as a countdown below a bar."""
    FetchReporter(ProgressBar("events")).wait(719, "waiting 719 s")
    assert "waiting 719 s\n" == capsys.readouterr().err
    monkeypatch.setattr(
        progress, "stderr_console", lambda: Console(file=io.StringIO(), force_terminal=True)
    )
    with progress_bar("events") as bar:
        FetchReporter(bar, "days").wait(719, "waiting 12 min")
        (line,) = bar.wait_line()
    assert line.plain.startswith("waiting 12 min (1")
    assert "" == capsys.readouterr().err


def test_an_early_error_shows_no_bar(monkeypatch):
    """It is drawn with the first update, after all checks."""
    screen = io.StringIO()
    terminal = Console(file=screen, force_terminal=True)
    monkeypatch.setattr(progress, "stderr_console", lambda: terminal)
    with pytest.raises(ConfigError), progress_bar("events"):
        raise ConfigError("no")
    assert screen.getvalue() == ""
    with progress_bar("events") as bar:
        FetchReporter(bar, "days").progress(Progress("events", 1, 3, 24, 1_000_000, 1, 2.0))
    assert "1/3 days  24 rows" in screen.getvalue()


@pytest.mark.parametrize("group", ["fetch", "query", "inspect", "export"])
def test_every_example_of_a_group_can_be_parsed(group):
    """Up to a pipe or a redirection."""
    commands = typer.main.get_command(app).commands[group].commands
    for name, command in commands.items():
        typed = [
            line for line in command.epilog.splitlines() if f"mp {group} {name} " in f"{line} "
        ]
        assert typed, f"mp {group} {name} shows no example"
        for line in typed:
            words = list(takewhile(lambda word: word not in "|>", shlex.split(line)))
            command.make_context(name, words[words.index(name) + 1 :])


def test_help_of_a_group_imports_no_heavy_module():
    """It needs no database, no HTTP client and no data frames."""
    code = (
        "import sys\nfrom mixpanel.cli.main import run\n"
        "try:\n    run()\nexcept SystemExit:\n    pass\n"
        "heavy = {'httpx', 'duckdb', 'pandas', 'pyarrow', 'jq', 'starlette', 'asgiref'}\n"
        "print(heavy & set(sys.modules), file=sys.stderr)"
    )
    for group in ([], ["fetch"], ["fetch", "events"], ["query", "sql"], ["inspect"], ["export"]):
        done = subprocess.run(
            [sys.executable, "-c", code, *group, "--help"],
            capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip
        assert "set()" == done.stderr.strip(), group


def test_ignored_options_say_so():
    """Scripts for another package use them."""
    commands = typer.main.get_command(app).commands["fetch"].commands
    for name in ("events", "profiles"):
        result = {one.opts[0]: one.help for one in commands[name].params}
        assert result["--parallel"].startswith("Ignored")
        assert result["--batch-size"].startswith("Ignored")
