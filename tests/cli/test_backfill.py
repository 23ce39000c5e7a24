"""`mp cdp backfill`: files of the past, checked, sent, gone on with, and accounted for."""

import gzip
import json
import os
import signal
import subprocess
import sys
from collections import Counter

import pytest
from typer.testing import CliRunner

from mixpanel.cli._cdp.checkpoint import Checkpoint, Progress
from mixpanel.cli._output.exit_codes import ExitCode
from mixpanel.cli.app import app
from mixpanel.emulator import CustomerIORules, Emulator, Fault
from tests.cdp.run_clients import messages
from tests.cli.cli_data import wait_until

pytestmark = pytest.mark.slow

RUN = [sys.executable, "-c", "from mixpanel.cli.main import run; run()"]
TABLE = (
    "--kind", "track", "--event", "Order Paid",
    "--column", "user_id=customer", "--column", "timestamp=paid_at",
)  # fmt: skip


def environment(emu, vendor="customerio"):
    return {
        f"MP_{vendor.upper()}_WRITE_KEY": "k",
        "MP_CDP_BASE_URL": getattr(emu, f"{vendor}_url"),
        "COLUMNS": "160",
        "NO_COLOR": "1",
    }


@pytest.fixture
def mp(emu):
    """Run `mp cdp backfill` against the emulator, in this process."""

    def run(*arguments, vendor="customerio", at=None):
        runner = CliRunner(env=environment(at or emu, vendor))
        return runner.invoke(app, ["cdp", "backfill", *map(str, arguments)])

    return run


def orders(path, count):
    rows = "".join(f"{n:04},2024-01-31 12:00:{n % 60:02},{n}\n" for n in range(count))
    path.write_text(f"customer,paid_at,amount\n{rows}")
    return path


def history(path, count, bad=()):
    with path.open("w") as lines:
        for n in range(count):
            lines.write(
                json.dumps(
                    {
                        "type": "track",
                        "userId": f"u-{n}",
                        "event": "Order Paid",
                        "timestamp": None if n in bad else "2024-01-31T12:00:00Z",
                        "properties": {"n": n},
                    }
                )
                + "\n"
            )
    return path


def came(checkpoint):
    return json.loads(checkpoint.read_text())["position"] if checkpoint.exists() else 0


def numbers(emu, vendor="customerio"):
    return sorted(one["properties"]["n"] for one in messages(emu, vendor, unique=True))


@pytest.mark.parametrize("vendor", ["customerio", "hightouch"])
def test_a_table_arrives_with_its_times_and_ids(mp, emu, tmp_path, vendor):
    """Leading zeros of an id stay, other columns are properties, and no file is left behind."""
    result = mp(orders(tmp_path / "orders.csv", 2500), *TABLE, vendor=vendor)
    assert (result.exit_code, result.stderr) == (ExitCode.OK, "")
    done = json.loads(result.stdout)
    assert (done["delivered"], done["rejected"], done["requests"]) == (2500, 0, 2)
    first = min(messages(emu, vendor), key=lambda one: one["userId"])
    assert ("0000", "Order Paid", {"amount": 0}, "2024-01-31T12:00:00.000Z") == (
        first["userId"], first["event"], first["properties"], first["timestamp"],
    )  # fmt: skip
    assert os.listdir(tmp_path) == ["orders.csv"]  # noqa: PTH208


def test_parquet_and_ndjson_can_be_sent(mp, emu, tmp_path):
    """The extension decides; rows of NDJSON with a type are messages."""
    import duckdb

    path = tmp_path / "people.parquet"
    duckdb.connect().execute(
        "COPY (SELECT 'u-' || range AS \"User ID\", 'team' AS plan, NULL AS age FROM range(3)) "
        f"TO '{path}'"
    )
    assert mp(path, "--kind", "identify").exit_code == ExitCode.OK
    assert [("u-0", {"plan": "team"}), ("u-1", {"plan": "team"}), ("u-2", {"plan": "team"})] == [
        (one["userId"], one["traits"]) for one in messages(emu)
    ]
    emu.clear()
    assert mp(history(tmp_path / "h.ndjson", 3)).exit_code == ExitCode.OK
    assert numbers(emu) == [0, 1, 2]


def test_rejected_rows_are_reported_and_the_rest_arrives(mp, emu, tmp_path):
    """Rejected here or by the server, they can be replayed once they are corrected."""
    path, failed = history(tmp_path / "h.ndjson", 250, bad={7}), tmp_path / "failed.ndjson"
    with path.open("a") as lines:
        lines.write("no json at all\n")
    result = mp(path, "--failed", failed)
    assert result.exit_code == ExitCode.PARTIAL
    done = json.loads(result.stdout)
    assert (done["delivered"], done["rejected"]) == (249, 2)
    refused = [json.loads(line) for line in failed.read_text().splitlines()]
    assert {
        7: "a message in a backfill needs a timestamp",
        250: "the line is not valid JSON",
    } == {one["position"]: one["message"] for one in refused}
    fixed = {**refused[0]["record"], "timestamp": "2024-01-31T12:00:00Z"}
    failed.write_text(json.dumps({"position": 7, "record": fixed}) + "\n")
    again = CliRunner(env=environment(emu)).invoke(app, ["cdp", "replay", str(failed)])
    assert again.exit_code == ExitCode.OK
    assert numbers(emu) == list(range(250))


def test_a_dry_run_sends_nothing_and_shows_the_first_message(mp, emu, tmp_path):
    """It shows how the columns are mapped."""
    path = orders(tmp_path / "orders.csv", 3)
    with path.open("a") as rows:
        rows.write("0003,,4\n")
    result = mp(path, *TABLE, "--dry-run")
    assert result.exit_code == ExitCode.PARTIAL
    done = json.loads(result.stdout)
    assert (done["valid"], done["invalid"], done["example"]["userId"]) == (3, 1, "0000")
    assert "orders.csv, row 3: a message in a backfill needs a timestamp" in result.stderr
    assert "nothing was sent" in result.stderr
    assert emu.requests() == []


def test_a_stopped_backfill_resumes_at_its_position(mp, emu, tmp_path):
    """Counts are those of all runs together, and the checkpoint is deleted at the end."""
    path, failed = history(tmp_path / "h.ndjson", 4000, bad={5, 3900}), tmp_path / "failed.ndjson"
    emu.play(Fault.latency(0.0), Fault.status(401).forever())
    stopped = mp(path, "--failed", failed, "--concurrency", 1)
    assert stopped.exit_code == ExitCode.AUTHENTICATION
    assert "stopped at row 2,001: run the same command again to resume" in stopped.stderr
    emu.clear_faults()
    result = mp(path, "--failed", failed, "--concurrency", 1)
    assert "resuming at row 2,001: 2,000 delivered and 1 rejected before" in result.stderr
    assert result.exit_code == ExitCode.PARTIAL
    done = json.loads(result.stdout)
    assert (done["delivered"], done["rejected"], done["requests"]) == (3998, 2, 1)
    assert {"a message in a backfill needs a timestamp": 2} == done["reasons"]
    assert [5, 3900] == [json.loads(one)["position"] for one in failed.read_text().splitlines()]
    assert numbers(emu) == [n for n in range(4000) if n not in {5, 3900}]
    assert not (tmp_path / "h.ndjson.backfill").exists()


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda path: history(path, 999), "the file has changed since"),
        (lambda path: None, "it is for another columns, event, sent_to"),
    ],
)
def test_a_checkpoint_of_another_job_is_refused(mp, tmp_path, change, why):
    """Resuming would skip rows that were never sent; --restart starts over."""
    path = orders(tmp_path / "orders.csv", 10)
    job = {"to": "customerio", "sent_to": "x", "kind": "track", "event": "Other", "columns": {}}
    Checkpoint(tmp_path / "orders.csv.backfill", path, job).save(Progress(5))
    change(path)
    result = mp(path, *TABLE)
    assert result.exit_code == ExitCode.USAGE
    assert why in result.stderr
    assert "--restart" in result.stderr


def test_restart_ignores_the_checkpoint(mp, emu, tmp_path):
    """Messages sent twice have the same ids."""
    path = history(tmp_path / "h.ndjson", 10)
    (tmp_path / "h.ndjson.backfill").write_text("{not json")
    assert mp(path).exit_code == ExitCode.USAGE
    assert mp(path, "--restart").exit_code == ExitCode.OK
    assert numbers(emu) == list(range(10))


def test_a_killed_backfill_resumes_without_duplicates(emu, tmp_path):
    """After kill -9 every message arrives, under one id."""
    path = history(tmp_path / "h.ndjson", 10_000)
    emu.play(Fault.latency(0.5).forever())
    command = [*RUN, "cdp", "backfill", str(path), "--concurrency", "2"]
    whole = {**os.environ, **environment(emu)}
    process = subprocess.Popen(command, env=whole, stdout=subprocess.DEVNULL)
    checkpoint = tmp_path / "h.ndjson.backfill"
    wait_until(lambda: came(checkpoint) > 0)
    process.kill()
    process.wait()
    position = came(checkpoint)
    emu.clear_faults()
    done = subprocess.run(command, env=whole, capture_output=True, text=True, check=True)
    assert f"resuming at row {position:,}" in done.stderr
    result = json.loads(done.stdout)
    assert 0 < position < 10_000
    assert (result["delivered"], result["rejected"]) == (10_000, 0)
    assert numbers(emu) == list(range(10_000))
    assert len(messages(emu)) - 10_000 <= 10_000 - position
    assert not checkpoint.exists()


def test_ctrl_c_saves_the_position(emu, tmp_path):
    """And ends with 130."""
    path = history(tmp_path / "h.ndjson", 10_000)
    emu.play(Fault.latency(0.5).forever())
    command = [*RUN, "cdp", "backfill", str(path), "--concurrency", "2"]
    checkpoint = tmp_path / "h.ndjson.backfill"
    with subprocess.Popen(
        command, env={**os.environ, **environment(emu)}, stderr=subprocess.PIPE, text=True
    ) as process:
        wait_until(lambda: came(checkpoint) > 0)
        process.send_signal(signal.SIGINT)
        _, message = process.communicate()
    assert process.returncode == ExitCode.INTERRUPTED
    assert "run the same command again to resume" in message
    assert came(checkpoint) > 0


def test_a_wrong_key_ends_with_2(mp, tmp_path):
    """A strict Customer.io answers 401."""
    with Emulator(customerio=CustomerIORules(keys={"good"})) as emu:
        result = mp(history(tmp_path / "h.ndjson", 5), at=emu)
    assert result.exit_code == ExitCode.AUTHENTICATION


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["--column", "user_id"], "'user_id' must be ROLE=COLUMN"),
        (["--column", "user_id=x"], "--event and --column need --kind"),
        (["--kind", "group", *["--column", "user_id=x"] * 2], "user_id is given two columns"),
        (["--event", "x"], "--event and --column need --kind"),
        (["--kind", "track", "--column", "users=x"], "columns has unknown keys 'users' for track"),
        (["--kind", "track", "--column", "user_id=x"], "there is no column 'x' for user_id"),
        (["--kind", "group"], "name it with --column group_id=COLUMN"),
        (["--kind", "identify", "--event", "x"], "is for --kind 'track'"),
    ],
)
def test_wrong_arguments_are_explained_before_anything_is_sent(mp, emu, tmp_path, arguments, why):
    """The exit code is 3."""
    result = mp(orders(tmp_path / "orders.csv", 3), *arguments)
    assert result.exit_code == ExitCode.USAGE
    assert why in result.stderr
    assert emu.requests() == []


def test_the_source_is_never_overwritten_by_failed_rows(mp, tmp_path):
    """A mistyped path would cost the file."""
    path = history(tmp_path / "h.ndjson", 3)
    result = mp(path, "--failed", path)
    assert result.exit_code == ExitCode.USAGE
    assert "is the file that is read: write to another one" in result.stderr
    assert path.read_text().count("\n") == 3


def test_a_checkpoint_belongs_to_one_write_key(mp, tmp_path):
    """Rows sent to staging were not sent to production."""
    path = history(tmp_path / "h.ndjson", 5)
    assert (
        mp(path, "--to", "customerio", "--write-key", "staging-key", "--restart").exit_code
        == ExitCode.OK
    )
    job = {"to": "customerio", "source": "another", "sent_to": "x"}
    Checkpoint(tmp_path / "h.ndjson.backfill", path, job).save(Progress(3))
    result = mp(path)
    assert result.exit_code == ExitCode.USAGE
    assert "it is for another sent_to, source" in result.stderr


@pytest.mark.parametrize("more", [[], ["--restart"]])
def test_another_file_is_never_overwritten_by_a_checkpoint(mp, tmp_path, more):
    """Neither the source, nor the failed rows, nor any other file."""
    path, notes = history(tmp_path / "h.ndjson", 3), tmp_path / "notes.json"
    notes.write_text('{"dear": "diary"}')
    for place in (path, notes, tmp_path):
        result = mp(path, "--checkpoint", place, *more)
        assert result.exit_code == ExitCode.USAGE
        assert "Traceback" not in result.stderr
    failed = tmp_path / "failed.ndjson"
    for _ in range(2):  # whether it is there or not
        result = mp(
            path, "--failed", failed, "--checkpoint", tmp_path / "." / "failed.ndjson", *more
        )
        assert result.exit_code == ExitCode.USAGE
        failed.write_text("{}\n")
    assert path.read_text().count("\n") == 3
    assert notes.read_text() == '{"dear": "diary"}'


@pytest.mark.parametrize(
    "fields",
    ['"position": 5, "rejected": 9', '"position": -5, "rejected": 0', '"position": Infinity'],
)
def test_an_inconsistent_checkpoint_is_refused(mp, tmp_path, fields):
    """In one sentence that names --restart."""
    path = history(tmp_path / "h.ndjson", 3)
    (tmp_path / "h.ndjson.backfill").write_text(f'{{"version": 1, {fields}}}')
    result = mp(path)
    assert (result.exit_code, "Traceback" in result.stderr) == (ExitCode.USAGE, False)
    assert "--restart" in result.stderr


def test_failed_rows_are_on_the_disk_before_the_checkpoint(emu, tmp_path):
    """After kill -9 every rejection that is counted is also written."""
    path, failed = tmp_path / "h.ndjson", tmp_path / "failed.ndjson"
    history(path, 20_000, bad=range(0, 20_000, 50))
    emu.play(Fault.latency(0.05).forever())
    command = [*RUN, "cdp", "backfill", str(path), "--concurrency", "1", "--failed", str(failed)]
    whole = {**os.environ, **environment(emu)}
    process = subprocess.Popen(command, env=whole, stdout=subprocess.DEVNULL)
    checkpoint = tmp_path / "h.ndjson.backfill"
    wait_until(lambda: came(checkpoint) > 0)
    process.kill()
    process.wait()
    kept = json.loads(checkpoint.read_text())
    written = [json.loads(line)["position"] for line in failed.read_bytes().split(b"\n")[:-1]]
    assert kept["rejected"] == sum(one < kept["position"] for one in written)
    emu.clear_faults()
    subprocess.run(command, env=whole, capture_output=True, check=False)
    lines = [json.loads(line)["position"] for line in failed.read_text().splitlines()]
    assert list(range(0, 20_000, 50)) == sorted(lines)
    assert numbers(emu) == [n for n in range(20_000) if n % 50]


def test_a_second_backfill_of_the_same_file_is_refused(mp, emu, tmp_path):
    """Each would overwrite the checkpoint of the other."""
    path, failed = history(tmp_path / "h.ndjson", 9000, bad={5}), tmp_path / "failed.ndjson"
    emu.play(Fault.latency(30.0).forever())
    command = [*RUN, "cdp", "backfill", str(path), "--failed", str(failed)]
    process = subprocess.Popen(
        command, env={**os.environ, **environment(emu)}, stderr=subprocess.DEVNULL
    )
    wait_until(lambda: failed.exists() and failed.read_text())
    for more in ([], ["--restart"]):
        result = mp(path, "--failed", failed, *more)
        assert result.exit_code == ExitCode.USAGE
        assert "another backfill is using" in result.stderr
    assert failed.read_text().count("\n") == 1
    process.kill()
    process.wait()
    emu.clear_faults()
    assert mp(path, "--failed", failed).exit_code == ExitCode.PARTIAL
    assert ["failed.ndjson", "h.ndjson"] == sorted(one.name for one in tmp_path.iterdir())


def test_a_backfill_that_sent_nothing_leaves_no_checkpoint(mp, emu, tmp_path):
    """The corrected command then runs."""
    path = history(tmp_path / "h.ndjson", 3)
    wrong = ["--write-key", "sk_eu_" + "0" * 32 + "_000000", "--region", "us", "--to", "customerio"]
    for arguments in (wrong, ["--failed", tmp_path / "no" / "folder"]):
        assert (
            mp(path, *arguments, "--base-url", "https://cdp.customer.io").exit_code
            == ExitCode.USAGE
        )
        assert ["h.ndjson"] == [one.name for one in tmp_path.iterdir()]
    Checkpoint(tmp_path / "h.ndjson.backfill", path, {"to": "another"}).save(Progress())
    assert mp(path).exit_code == ExitCode.OK


def test_errors_name_no_python_argument(mp, emu, tmp_path):
    """The checkpoint resumes it; `start_at` belongs to Python."""
    path = history(tmp_path / "h.ndjson", 3)
    emu.play(Fault.status(401).forever())
    result = mp(path)
    assert result.exit_code == ExitCode.AUTHENTICATION
    assert result.stderr.startswith("mp: Customer.io: HTTP 401")
    broken = tmp_path / "broken.ndjson.gz"
    broken.write_bytes(gzip.compress(path.read_bytes() * 90_000)[:-2000])
    result = mp(broken)
    assert result.exit_code != ExitCode.OK
    assert "start_at" not in result.stderr


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no full disk here")  # noqa: PTH110
@pytest.mark.parametrize("more", [[], ["--dry-run"]])
def test_a_full_disk_for_failed_rows_stops_the_backfill(mp, tmp_path, more):
    """In one sentence, and the checkpoint has the position."""
    path = history(tmp_path / "h.ndjson", 300, bad={250})
    result = mp(path, "--failed", "/dev/full", *more)
    assert result.exit_code == ExitCode.ERROR
    assert "cannot write the file of --failed: No space left on device" in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize("zone", ["Z", "+02:00", ""])
def test_times_of_a_csv_may_have_a_zone(mp, emu, tmp_path, zone):
    """Most files have one."""
    path = tmp_path / "orders.csv"
    path.write_text(f"user_id,timestamp,event\nu,2026-01-31T12:00:00{zone},Paid\n")
    assert mp(path, "--kind", "track").exit_code == ExitCode.OK
    (kept,) = messages(emu, "customerio")
    assert f"2026-01-31T{'10' if '2' in zone else '12'}:00:00.000Z" == kept["timestamp"]


def test_a_table_without_rows_still_has_its_columns_checked(mp, tmp_path):
    """A wrong name is reported before the day there are rows."""
    path = tmp_path / "orders.csv"
    path.write_text("customer,paid_at,amount\n")
    assert mp(path, *TABLE).exit_code == ExitCode.OK
    result = mp(path, "--kind", "track", "--event", "Order Paid")
    assert result.exit_code == ExitCode.USAGE
    assert "track needs a column for timestamp; the rows have 'customer'" in result.stderr


def test_a_row_with_a_cell_too_many_stops_it_before_anything_is_sent(mp, emu, tmp_path):
    """DuckDB would skip such rows."""
    path = orders(tmp_path / "orders.csv", 20)
    path.write_text(path.read_text() + "0020,2024-01-31,20,more\n")
    result = mp(path, "--kind", "identify", "--column", "user_id=customer")
    assert result.exit_code == ExitCode.USAGE
    assert "orders.csv: line 22 has 4 cells, the first line has 3" in result.stderr
    assert messages(emu, "customerio") == []


def test_unreadable_json_is_one_rejected_row(mp, emu, tmp_path):
    """Too deeply nested, or too long a number; the rest is sent."""
    path = history(tmp_path / "h.ndjson", 2)
    with path.open("a") as lines:
        lines.write("[" * 3000 + "]" * 3000 + "\n" + '{"n": ' + "9" * 5000 + "}\n")
    history(tmp_path / "more.ndjson", 4)
    with path.open("a") as lines:
        lines.writelines((tmp_path / "more.ndjson").read_text().splitlines(keepends=True)[2:])
    result = mp(path)
    assert result.exit_code == ExitCode.PARTIAL
    assert numbers(emu) == [0, 1, 2, 3]


def test_mapped_columns_of_a_csv_stay_text(mp, emu, tmp_path):
    """Ambiguous dates are rejected instead of guessed, and a name of digits stays a name."""
    path = tmp_path / "views.csv"
    path.write_text("user_id,time,name\n007,2024-01-31,404\n008,1700000000,405\n009,01/02/2024,x\n")
    result = mp(path, "--kind", "page")
    assert result.exit_code == ExitCode.PARTIAL
    done = {one["userId"]: (one["name"], one["timestamp"][:10]) for one in messages(emu)}
    assert done == {"007": ("404", "2024-01-31"), "008": ("405", "2023-11-14")}


def test_messages_that_are_too_large_have_one_reason(mp, tmp_path):
    """A reason with the size would be another one for each message."""
    path = tmp_path / "h.ndjson"
    sizes = range(33_000, 33_004)
    rows = [{"type": "identify", "userId": "u", "traits": {"pad": "x" * size}} for size in sizes]
    path.write_text("".join(json.dumps(each) + "\n" for each in rows))
    reasons = json.loads(mp(path).stdout)["reasons"]
    assert {"the message is larger than Customer.io accepts": 4} == reasons


def test_a_checkpoint_without_reasons_still_sums(tmp_path):
    """As one that an earlier release wrote."""
    path = orders(tmp_path / "orders.csv", 9)
    saved = Checkpoint(tmp_path / "c.backfill", path, {})
    saved.save(Progress(5, Counter({"x": 2})))
    text = json.loads(saved.path.read_text())
    del text["reasons"]
    saved.path.write_text(json.dumps(text))
    assert {"rejected before": 2} == saved.load().reasons


def test_ragged_lines_of_a_backfill_go_to_the_failed_rows(mp, emu, tmp_path):
    """The others are sent."""
    path, failed = orders(tmp_path / "orders.csv", 3), tmp_path / "failed.ndjson"
    with path.open("a") as lines:
        lines.write("0009,2024-01-31\n")
    assert "line 5 has 2 cells" in mp(path, *TABLE).stderr
    result = mp(path, *TABLE, "--failed", failed)
    assert ExitCode.PARTIAL == result.exit_code
    assert ["0009", "2024-01-31"] == json.loads(failed.read_text())["record"]["cells"]
    assert 3 == len(messages(emu, "customerio"))


def test_a_date_format_is_for_csv(mp, tmp_path):
    """JSON has no cells: a format that would be ignored is refused."""
    path = tmp_path / "orders.ndjson"
    path.write_text('{"type": "track", "userId": "u", "event": "E", "timestamp": "31/01/2024"}\n')
    result = mp(path, "--date-format", "%d/%m/%Y")
    assert result.exit_code == ExitCode.USAGE
    assert "--date-format is for CSV files" in result.stderr


def test_types_dates_and_encodings_of_a_backfill_can_be_stated(mp, emu, tmp_path):
    """A resumed backfill needs the same ones."""
    path = tmp_path / "orders.csv"
    path.write_text("customer,paid_at,amount\nÉva,31/01/2024,5\n", encoding="utf-16")
    options = (*TABLE, "--type", "amount=text", "--date-format", "%d/%m/%Y")
    assert ExitCode.OK == mp(path, *options).exit_code
    (message,) = messages(emu, "customerio")
    assert ("Éva", "5") == (message["userId"], message["properties"]["amount"])
    assert message["timestamp"].startswith("2024-01-31T00:00:00")
