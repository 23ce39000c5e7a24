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
    """The result is on stdout, what a person wants to know on stderr."""
    told = mp("fetch", "events", *DAYS)
    assert ExitCode.OK == told.exit_code, told.stderr
    result = json.loads(told.stdout)
    assert ("events", 72, [FIRST, LAST]) == (result["table"], result["rows"], result["date_range"])
    assert told.stderr.startswith("72 rows in ")
    assert told.stderr.endswith(f" s: table events of {tmp_path / 'shop.db'}\n")
    assert 3 == len(emu.requests(EXPORT))
    assert 72 == tables(mp)["events"]["row_count"]


def test_the_result_comes_in_every_format(mp):
    """As a table, it leaves out what is nothing."""
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
def test_events_are_chosen(mp, given, rows):
    """By name, also with a comma in it, by an expression, by number; old options still work."""
    told = mp("fetch", "events", "chosen", *DAYS, *given)
    assert ExitCode.OK == told.exit_code, told.stderr
    assert rows == json.loads(told.stdout)["rows"]


def test_a_table_is_not_overwritten_unasked(mp, emu):
    """What to do about it is said, and no call is spent."""
    mp("fetch", "events", "--from", FIRST, "--to", FIRST)
    spent = len(emu.requests(EXPORT))
    told = mp("fetch", "events", *DAYS)
    assert (ExitCode.ERROR, "") == (told.exit_code, told.stdout)
    assert "--replace writes a new table over it, --append adds days to it\n" in told.stderr
    assert spent == len(emu.requests(EXPORT))
    added = mp("fetch", "events", "--from", LAST, "--to", LAST, "--append")
    assert ExitCode.OK == added.exit_code
    assert [["2026-01-02", "2026-01-02"]] == tables(mp)["events"]["gaps"]
    assert "2026-01-02" in mp("inspect", "tables", "-f", "table").stdout
    replaced = mp("fetch", "events", "--from", FIRST, "--to", FIRST, "--replace")
    assert ExitCode.OK == replaced.exit_code
    assert 24 == tables(mp)["events"]["row_count"]


def test_other_filters_need_a_word(mp):
    """A table of both would mislead whoever asks it."""
    mp("fetch", "events", "--from", FIRST, "--to", FIRST, "-e", NAMES[0])
    more = ["fetch", "events", "--from", LAST, "--to", LAST, "--append"]
    told = mp(*more)
    assert ExitCode.USAGE == told.exit_code
    assert "pass --mixed\n" in told.stderr
    assert ExitCode.OK == mp(*more, "--mixed").exit_code
    shown = mp("inspect", "tables", "-f", "table").stdout
    assert 'events ["Order Paid"]; none' in shown


def test_appending_needs_a_table(mp, emu):
    """It is not found, and no call is spent."""
    assert ExitCode.NOT_FOUND == mp("fetch", "events", *DAYS, "--append").exit_code
    assert [] == emu.requests(EXPORT)


def test_a_dry_run_asks_nothing(mp, emu, tmp_path):
    """It says which calls there would be, and makes no database."""
    told = mp("fetch", "events", *DAYS, "--dry-run")
    assert ExitCode.OK == told.exit_code, told.stderr
    plan = json.loads(told.stdout)
    assert (3, 3, 60) == (plan["days"], plan["calls"], plan["calls_left"])
    said = "dry run: 3 days in 3 calls, 60 calls left this hour; no request was sent"
    assert told.stderr.startswith(said)
    table = mp("fetch", "events", *DAYS, "--dry-run", "-f", "table").stdout
    assert ["2026-01-01", "2026-01-01", "1"] == table.splitlines()[1].split()
    assert [] == emu.requests(EXPORT)
    assert not (tmp_path / "shop.db").exists()
    mp("fetch", "events", "--from", FIRST, "--to", FIRST)
    longer = mp("fetch", "events", "--dry-run", "--from", LAST, "--to", LAST, "--append")
    assert 1 == json.loads(longer.stdout)["calls"]


def test_errors_name_what_was_typed(mp):
    """Options, not the arguments of the library that they become."""
    for more in ([], ["--dry-run"], ["--stdout"]):
        told = mp("fetch", "events", "--from", LAST, "--to", FIRST, *more)
        assert ExitCode.USAGE == told.exit_code
        assert f"mp: --from {LAST} is later than --to {FIRST}\n" == told.stderr
    zone = mp("fetch", "events", *DAYS, "--project-timezone", "Mars/Base")
    assert "--project-timezone 'Mars/Base' is not a known time zone" in zone.stderr


def test_a_table_has_seconds_that_people_can_read(mp):
    """Milliseconds, and no more; JSON has all of it."""
    table = mp("fetch", "events", *DAYS, "-f", "table").stdout
    assert re.search(r"\b\d+\.\d{1,3}\s", table)
    assert not re.search(r"\d\.\d{4}", table)


# Sync


def test_a_dry_sync_asks_for_nothing(mp, emu):
    """It says which days are lacking, none when it is up to date."""
    nowhere = mp("fetch", "sync", "--dry-run")
    assert "say --from, where to begin\n" in nowhere.stderr
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
    """A second time there is nothing to do; the first time it must know where to begin."""
    nowhere = mp("fetch", "sync")
    assert ExitCode.USAGE == nowhere.exit_code
    assert "events has no days yet: say --from, where to begin\n" in nowhere.stderr
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
    """Fetched again with `--append` they are updated."""
    told = mp("fetch", "profiles")
    assert (ExitCode.OK, 5) == (told.exit_code, json.loads(told.stdout)["rows"])
    again = mp("fetch", "profiles")
    assert ExitCode.ERROR == again.exit_code
    assert "--append updates its profiles\n" in again.stderr
    assert ExitCode.OK == mp("fetch", "profiles", "--append").exit_code
    assert 5 == tables(mp)["profiles"]["row_count"]
    assert ExitCode.OK == mp("fetch", "profiles", "--replace").exit_code


def test_profiles_are_chosen(mp):
    """By id, by expression; and only some of their properties."""
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
    told = mp("fetch", "events", *DAYS, "--stdout")
    assert (ExitCode.OK, "72 events\n") == (told.exit_code, told.stderr)
    rows = lines(told.stdout)
    assert {"event_name", "event_time", "distinct_id", "insert_id", "properties"} == set(rows[0])
    assert {f"i-{n}" for n in range(72)} == {row["insert_id"] for row in rows}
    raw = lines(mp("fetch", "events", *DAYS, "--stdout", "--raw", "-l", "3").stdout)
    assert 3 == len(raw)
    assert {"event", "properties"} == set(raw[0])
    assert not (tmp_path / "shop.db").exists()


def test_profiles_stream_as_lines(mp):
    """Shaped, or as Mixpanel sends them."""
    told = mp("fetch", "profiles", "--stdout")
    assert (ExitCode.OK, "5 profiles\n") == (told.exit_code, told.stderr)
    assert {"distinct_id", "last_seen", "properties"} == set(lines(told.stdout)[0])
    raw = lines(mp("fetch", "profiles", "--stdout", "--raw").stdout)
    assert {"$distinct_id", "$properties"} == set(raw[0])


def test_a_closed_pipe_is_no_news(env):
    """As behind `head`: no traceback."""
    command = [*RUN, "fetch", "events", *DAYS, "--stdout"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, env={**os.environ, **env}, **pipes) as running:
        running.stdout.close()
        said = running.stderr.read()
    assert "" == said


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
def test_what_cannot_be_is_refused_before_anything_is_sent(mp, emu, given):
    """Wrong arguments cost no call, and end with 3."""
    told = mp("fetch", *given)
    assert (ExitCode.USAGE, "") == (told.exit_code, told.stdout), told.stderr
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
def test_the_exit_code_tells_what_failed(mp, emu, fault, code):
    """And no table is there."""
    emu.play(fault.forever())
    told = mp("fetch", "events", "--from", FIRST, "--to", FIRST)
    assert (code, "") == (told.exit_code, told.stdout)
    assert {} == {name: one for name, one in tables(mp).items() if one["state"] == "complete"}
    assert "s3cret" not in told.stderr


def test_an_error_may_come_as_json(mp):
    """For machines, alone on stderr."""
    told = mp("--error-format", "json", "fetch", "events", *DAYS, "--append")
    assert "TABLE_NOT_FOUND" == json.loads(told.stderr)["code"]


def test_without_credentials_it_says_what_is_missing(mp):
    """Though the database is named."""
    told = mp("fetch", "profiles", MP_USERNAME=None, MP_SECRET=None, MP_PROJECT_ID=None)
    assert ExitCode.USAGE == told.exit_code
    assert "mp auth add" in told.stderr


def test_the_account_may_come_after_the_command(mp, tmp_path):
    """As well as before it; it stands above the environment."""
    Config(tmp_path / "config.toml").add_account("prod", username="p", secret="s", project_id="7")
    asked = ["fetch", "events", *DAYS, "--dry-run"]
    for typed in (["--account", "prod", *asked], [*asked, "--account", "prod"]):
        assert ExitCode.OK == mp(*typed, MP_PROJECT_ID="").exit_code
    for group, name, *rest in (asked, ["inspect", "tables"], ["query", "sql", "FROM events"]):
        told = mp(group, name, *rest, "--account", "nobody", MP_DB=None)
        assert ExitCode.NOT_FOUND == told.exit_code
        assert "there is no account 'nobody'; there are: prod" in told.stderr


# Ctrl-C


def test_ctrl_c_loses_nothing(tmp_path):
    """The same command goes on from there, and asks for no finished day again."""
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
        said = "interrupted: finished days are kept; the same command resumes from there\n"
        assert (ExitCode.INTERRUPTED, "", said) == (running.returncode, out, err)
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


def test_progress_is_for_terminals(env):
    """A bar of days and rows on stderr; stdout holds the result and nothing else."""
    out, seen = on_terminal(env, "fetch", "events", *DAYS)
    assert 72 == json.loads(out)["rows"]
    assert "3/3 days  72 rows" in seen
    quiet, unseen = on_terminal(env, "fetch", "events", "again", *DAYS, "--no-progress")
    assert 72 == json.loads(quiet)["rows"]
    assert "days" not in unseen


def test_a_stream_stays_on_stdout(env):
    """What counts it on a terminal takes none of its lines away."""
    out, seen = on_terminal(env, "fetch", "events", *DAYS, "--stdout")
    assert 72 == len(lines(out))
    assert "i-1" not in seen
    assert "72 events" in seen


def test_a_long_wait_is_shown(capsys, monkeypatch):
    """On one line where nothing moves, as a countdown under a bar."""
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


def test_a_mistake_flashes_no_bar(monkeypatch):
    """It begins to be drawn with the first thing to tell, after all checks."""
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
def test_every_example_can_be_typed(group):
    """What the help shows is read without a complaint, up to where it is piped on."""
    commands = typer.main.get_command(app).commands[group].commands
    for name, command in commands.items():
        typed = [
            line for line in command.epilog.splitlines() if f"mp {group} {name} " in f"{line} "
        ]
        assert typed, f"mp {group} {name} shows no example"
        for line in typed:
            words = list(takewhile(lambda word: word not in "|>", shlex.split(line)))
            command.make_context(name, words[words.index(name) + 1 :])


def test_help_loads_nothing_heavy():
    """Asking what one can fetch costs no database, no HTTP client, no data frames."""
    code = (
        "import sys\nfrom mixpanel.cli.main import run\n"
        "try:\n    run()\nexcept SystemExit:\n    pass\n"
        "heavy = {'httpx', 'duckdb', 'pandas', 'pyarrow', 'jq', 'starlette', 'asgiref'}\n"
        "print(heavy & set(sys.modules), file=sys.stderr)"
    )
    for group in ([], ["fetch"], ["fetch", "events"], ["query", "sql"], ["inspect"], ["export"]):
        done = subprocess.run(
            [sys.executable, "-c", code, *group, "--help"],
            capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        assert "set()" == done.stderr.strip(), group


def test_options_without_effect_say_so():
    """They are taken from who comes from elsewhere; nothing is ignored in silence."""
    commands = typer.main.get_command(app).commands["fetch"].commands
    for name in ("events", "profiles"):
        told = {one.opts[0]: one.help for one in commands[name].params}
        assert told["--parallel"].startswith("Ignored")
        assert told["--batch-size"].startswith("Ignored")
