"""`mp import events`: from a file, through the wire, into the emulator."""

import json
import os
import pty
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from mixpanel.cli._output.exit_codes import ExitCode
from mixpanel.cli.app import app
from mixpanel.emulator import Emulator, Fault

FLIGHTS = Path(__file__).parents[2] / "examples" / "data" / "flights.ndjson"
ACCOUNT = {"MP_USERNAME": "robot", "MP_SECRET": "s3cret", "MP_PROJECT_ID": "42"}
RUN = [sys.executable, "-c", "from mixpanel.cli.main import run; run()"]
NOON = 1_767_268_800_000


@pytest.fixture
def emu():
    """A Mixpanel of our own."""
    with Emulator() as emulator:
        yield emulator


@pytest.fixture
def mp(emu):
    """Run `mp import events` against the emulator, in this process."""
    environment = {"COLUMNS": "100", "NO_COLOR": "1", "MP_BASE_URL": emu.url, "MP_TOKEN": "T"}
    runner = CliRunner(env={**dict.fromkeys(ACCOUNT), **environment})

    def run(*arguments, **env):
        return runner.invoke(app, ["import", "events", *map(str, arguments)], env=env)

    return run


@pytest.fixture
def orders(tmp_path):
    """A table of three orders, two of them broken."""
    path = tmp_path / "orders.csv"
    path.write_text(
        "order,paid_at,customer,amount\n"
        "7,2026-01-01T12:00:00,0042,12.5\n"
        "8,2026-01-01T12:00:00,null,3\n"
        "9,,u3,4\n"
    )
    columns = ["--column", "time=paid_at", "--column", "distinct_id=customer"]
    return [path, "--event", "Order Paid", "--column", "insert_id=order", *columns]


def many(path, count):
    with path.open("w") as lines:
        for n in range(count):
            event = {"time": NOON, "distinct_id": f"u-{n}", "$insert_id": f"i-{n}", "pad": "x" * 90}
            lines.write(json.dumps({"event": "Seen", "properties": event}) + "\n")
    return path


# Files that are not what they should be


AT = 1_767_268_800
RAGGED = f"event,time,user_id,amount\nA,{AT},u,1\nA,{AT},u\nA,{AT},u,2\nA,{AT},u,3,x\n"


@pytest.mark.slow
def test_ragged_lines_go_to_the_failed_rows(mp, emu, tmp_path):
    """With the line, the reason and the cells; the others are imported."""
    path, failed = tmp_path / "a.csv", tmp_path / "failed.ndjson"
    path.write_text(RAGGED)
    refused = mp(path)
    assert ExitCode.USAGE == refused.exit_code
    expected = "line 3 has 3 cells, line 5 has 5 cells, the first line has 4. Correct them, or add "
    assert expected + "--failed FILE to set them aside" in " ".join(refused.stderr.split())
    result = mp(path, "--failed", failed)
    assert ExitCode.PARTIAL == result.exit_code
    assert (2, 2) == tuple(json.loads(result.stdout)[name] for name in ("imported", "rejected"))
    assert [1, 2] == [event["properties"]["amount"] for event in emu.events()]
    lines = [json.loads(line) for line in failed.read_text().splitlines()]
    assert [(1, 3), (3, 5)] == [(each["position"], each["record"]["line"]) for each in lines]
    assert "the line has 3 cells, the first line has 4" == lines[0]["message"]


@pytest.mark.slow
def test_a_bad_cell_among_numbers_is_reported_or_rejected(mp, emu, tmp_path):
    """Without a type there is a warning; with one, the row is rejected."""
    path, failed = tmp_path / "a.csv", tmp_path / "failed.ndjson"
    path.write_text(
        "event,time,user_id,net amount\n"
        + "A,1767268800,u,5\n" * 3
        + "A,1767268800,u,n/a\nA,1767268800,u,7\n"
    )
    assert "the first is 'n/a' in row 4. --type 'net amount'=number rejects such rows" in " ".join(
        mp(path, "--dry-run").stderr.split()
    )
    result = mp(path, "--type", "net amount=number", "--failed", failed)
    assert (ExitCode.PARTIAL, "") == (result.exit_code, result.stderr)
    assert {"net amount is not a number": 1} == json.loads(result.stdout)["reasons"]
    assert "n/a" == json.loads(failed.read_text())["record"]["net amount"]
    assert {5, 7} == {event["properties"]["net amount"] for event in emu.events()}
    assert "" == mp(path, "--type", "net amount=text").stderr


@pytest.mark.slow
def test_dates_and_encodings_can_be_stated(mp, emu, tmp_path):
    """As spreadsheets write them."""
    path = tmp_path / "a.csv"
    path.write_text("event,time,user_id\nCafé,31.01.2026,u\n", encoding="cp1252")
    refused = mp(path)
    assert "line 2 is not UTF-8; pass --encoding" in " ".join(refused.stderr.split())
    assert ExitCode.OK == mp(path, "--encoding", "cp1252", "--date-format", "%d.%m.%Y").exit_code
    (event,) = emu.events()
    assert ("Café", 1_769_817_600_000) == (event["event"], event["properties"]["time"])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["--type", "amount"], "must be COLUMN=TYPE"),
        (["--type", "amount=text", "--type", "amount=number"], "amount is given two types"),
        (["--type", "amount=money"], "choose one of text, number, boolean, date, json"),
        (["--type", "price=text"], "no column 'price' to give a type"),
        (["--encoding", "utf-99"], "unknown encoding 'utf-99'"),
        (["--date-format", "%Q"], "--date-format '%Q'"),
        (["--start-at", "9"], "--start-at 9 is beyond"),
    ],
)
def test_wrong_options_are_explained_in_the_words_of_the_shell(mp, emu, tmp_path, arguments, why):
    """Nothing is sent."""
    path = tmp_path / "a.csv"
    path.write_text("event,time,user_id,amount\nA,1,u,1\n")
    result = mp(path, *arguments)
    assert ExitCode.USAGE == result.exit_code
    assert why in " ".join(result.stderr.replace("│", "").split())
    assert [] == emu.events()


# What arrives


@pytest.mark.slow
def test_a_file_of_exported_events_arrives(mp, emu):
    """Importing it twice makes no duplicates."""
    result = mp(FLIGHTS)
    assert (ExitCode.OK, "") == (result.exit_code, result.stderr)
    assert 975 == json.loads(result.stdout)["imported"]
    assert ExitCode.OK == mp(FLIGHTS).exit_code
    assert (975, 1950) == (len(emu.events()), len(emu.events(raw=True)))


@pytest.mark.slow
def test_a_table_arrives_as_events(mp, emu, orders):
    """Mapped columns become event, time, user and id; the rest are properties."""
    result = mp(*orders)
    assert ExitCode.PARTIAL == result.exit_code
    (event,) = emu.events()
    done = {"amount": 12.5, "time": NOON, "distinct_id": "0042", "$insert_id": "7"}
    assert "Order Paid" == event["event"]
    assert done.items() <= event["properties"].items()


@pytest.mark.slow
def test_rejected_events_are_counted_by_reason(mp, orders):
    """In a table and in JSON."""
    table = [line.split() for line in mp(*orders, "--format", "table").stdout.splitlines()]
    assert ["imported", "1"] in table
    assert ["rejected", "2"] in table
    assert ["rejected:", "an", "imported", "event", "needs", "its", "time", "1"] in table
    summary = json.loads(mp(*orders).stdout)
    assert (1, 2, 3) == (summary["imported"], summary["rejected"], summary["position"])
    assert 2 == len(summary["reasons"])


@pytest.mark.slow
def test_rejected_events_are_written_to_a_file(mp, orders, tmp_path):
    """With position and reason; resuming keeps the earlier ones."""
    file = tmp_path / "failed.ndjson"
    mp(*orders, "--failed", file)
    lines = sorted(map(json.loads, file.read_text().splitlines()), key=lambda one: one["position"])
    assert [1, 2] == [line["position"] for line in lines]
    assert ("8", "properties.distinct_id") == (lines[0]["insert_id"], lines[0]["field"])
    assert "u3" == lines[1]["record"]["properties"]["distinct_id"]
    mp(*orders, "--failed", file, "--start-at", "2")
    assert [1, 2] == [json.loads(line)["position"] for line in file.read_text().splitlines()]
    mp(*orders, "--failed", file)
    assert 2 == len(file.read_text().splitlines())


def test_the_imported_file_is_never_overwritten(mp, emu, orders):
    """Also not through a link."""
    file = orders[0]
    before, link = file.read_text(), file.with_name("link.csv")
    link.symlink_to(file)
    for failed in (file, link):
        for more in ([], ["--dry-run"]):
            result = mp(*orders, "--failed", failed, *more)
            assert ExitCode.USAGE == result.exit_code
            assert "is the file that is read: write to another one" in " ".join(
                result.stderr.split()
            )
    assert (before, []) == (file.read_text(), emu.requests())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "env"),
    [
        ([], {"MP_TOKEN": None}),
        (["--base-url", "http://far.example"], {}),
        (["--column", "time=when"], {}),
        (["--column", "time=when", "--dry-run"], {}),
    ],
)
def test_a_wrong_argument_leaves_the_failed_rows_of_an_earlier_run(
    mp, orders, tmp_path, arguments, env
):
    """They are not overwritten before there is something to write."""
    failed = tmp_path / "failed.ndjson"
    failed.write_text("{}\n")
    assert mp(*orders, "--failed", failed, *arguments, **env).exit_code in (1, ExitCode.USAGE)
    assert "{}\n" == failed.read_text()


@pytest.mark.slow
def test_nothing_is_imported_if_failed_rows_cannot_be_written(mp, emu, orders, tmp_path):
    """The error is one line."""
    result = mp(*orders, "--failed", tmp_path / "none" / "failed.ndjson")
    assert ExitCode.USAGE == result.exit_code
    assert "cannot write" in result.stderr
    assert "Traceback" not in result.stderr
    assert [] == emu.requests()


@pytest.mark.slow
def test_start_at_skips_rows(mp, emu):
    """To resume an import."""
    assert ExitCode.OK == mp(FLIGHTS, "--start-at", 900).exit_code
    assert 75 == len(emu.events())


def test_a_missing_column_is_reported_in_one_line(mp, tmp_path):
    """It names the columns of the file, and the option to use."""
    path = tmp_path / "a.csv"
    path.write_text("what,when\nA,1\n")
    result = mp(path)
    assert (ExitCode.USAGE, "") == (result.exit_code, result.stdout)
    assert result.stderr.startswith("mp: a.csv has no column 'event' or 'event_name' or 'name'")
    assert "it has 'what', 'when': pass --column event=COLUMN\n" in result.stderr


# A dry run


def test_a_dry_run_of_an_import_sends_nothing(mp, emu, orders):
    """Every event is validated by the documented rules."""
    result = mp(*orders, "--dry-run", MP_TOKEN="")
    assert ExitCode.PARTIAL == result.exit_code
    assert '"valid": 1' in result.stdout
    assert "orders.csv, event 1: distinct_id 'null' is not accepted by Mixpanel" in result.stderr
    assert result.stderr.endswith("dry run: nothing was sent\n")
    assert [] == emu.requests()


def test_a_dry_run_counts_events_by_name(mp):
    """Without a problem the exit code is 0."""
    result = mp(FLIGHTS, "--dry-run", "--format", "json")
    done = json.loads(result.stdout)
    assert (ExitCode.OK, 975, 0) == (result.exit_code, done["valid"], done["invalid"])
    assert 393 == done["events"]["Flight Cancelled"]


# Who may


def test_an_import_needs_a_token_or_an_account(mp):
    """The default account is not used."""
    result = mp(FLIGHTS, MP_TOKEN="")
    assert ExitCode.USAGE == result.exit_code
    done = " ".join(result.stderr.replace("│", " ").split())
    assert "MP_USERNAME" in done
    assert "or use mp --account NAME; the default account is not used" in done


def test_an_incomplete_account_is_a_mistake(mp):
    """Using the token instead would hide it."""
    result = mp(FLIGHTS, MP_USERNAME="robot")
    assert ExitCode.USAGE == result.exit_code
    assert "MP_SECRET" in result.stderr


@pytest.mark.slow
def test_the_account_comes_from_the_environment(orders):
    """A secret on the command line would be in the process list."""
    with Emulator(service_accounts={"robot": "s3cret"}, tokens=[]) as emu:
        env = {**ACCOUNT, "MP_BASE_URL": emu.url, "MP_TOKEN": None}
        arguments = ["import", "events", *map(str, orders)]
        assert ExitCode.PARTIAL == CliRunner(env=env).invoke(app, arguments).exit_code
        assert "42" == emu.requests("/import")[0].query["project_id"]
        wrong = CliRunner(env={**env, "MP_SECRET": "hunter2"}).invoke(app, arguments)
        assert ExitCode.AUTHENTICATION == wrong.exit_code
        assert "hunter2" not in wrong.output


# When it cannot go on


@pytest.mark.slow
def test_a_stopped_import_says_where_to_resume(mp, emu, tmp_path):
    """The result so far is on stdout, and the exit code is that of the error."""
    file = many(tmp_path / "many.ndjson", 5000)
    second = [False, True]
    emu.play(Fault.status(403).forever(), when=lambda _: second.pop(0) if second else True)
    result = mp(file, "--concurrency", 1)
    assert ExitCode.AUTHENTICATION == result.exit_code
    assert 2000 == json.loads(result.stdout)["imported"]
    assert "mp: the import stopped after 2,000 records" in result.stderr
    assert "--start-at 2000: " in result.stderr


@pytest.mark.slow
def test_ctrl_c_prints_the_position_of_an_import(tmp_path):
    """All rows before it have arrived."""
    file = many(tmp_path / "many.ndjson", 60_000)
    with Emulator(latency=0.3) as emu:
        env = {**os.environ, "MP_BASE_URL": emu.url, "MP_TOKEN": "T"}
        command = [*RUN, "import", "events", str(file), "--concurrency", "2"]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        with subprocess.Popen(command, env=env, **pipes) as running:
            watchdog = threading.Timer(30, running.kill)
            watchdog.start()
            emu.wait_for(4000, timeout=120)
            running.send_signal(signal.SIGINT)
            out, err = running.communicate()
            watchdog.cancel()
    assert (ExitCode.INTERRUPTED, "") == (running.returncode, out)
    assert "events were imported" in err
    assert "Traceback" not in err
    position = int(err.rsplit("--start-at ", 1)[1])
    assert position % 2000 == 0
    assert position < 60_000
    sent = {event["properties"]["distinct_id"] for event in emu.events()}
    assert {f"u-{n}" for n in range(position)} <= sent


# What one sees


@pytest.mark.slow
def test_an_import_shows_progress_on_a_terminal(tmp_path):
    """The bar is on stderr, and stdout has the result alone."""
    file = many(tmp_path / "many.ndjson", 6000)
    with Emulator() as emu:
        env = {**os.environ, "MP_BASE_URL": emu.url, "MP_TOKEN": "T", "TERM": "xterm"}
        master, slave = pty.openpty()
        command = [*RUN, "import", "events", str(file), "--format", "json"]
        with subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=slave) as running:
            os.close(slave)
            seen = read_all(master)
            out = running.stdout.read()
    assert 6000 == json.loads(out)["imported"]
    assert "many.ndjson" in seen
    assert "events" in seen


def read_all(master):
    seen, end = b"", time.monotonic() + 30
    while time.monotonic() < end:
        try:
            seen += os.read(master, 65_536)
        except OSError:  # the other end is closed
            break
    os.close(master)
    return seen.decode()
