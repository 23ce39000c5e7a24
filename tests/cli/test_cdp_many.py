"""`mp cdp` with files: batches, what is refused, replay, validate."""

import gzip
import json
import os
import pty
import signal
import subprocess
import sys
import threading
from contextlib import contextmanager
from pathlib import Path

import pytest

from mixpanel.cdp._segment import rows as _rows
from mixpanel.cli._cdp import send_file
from mixpanel.cli._cdp.input import MAX_ROW_BYTES, RowReader
from mixpanel.cli._output.exit_codes import ExitCode
from mixpanel.emulator import Emulator, Fault
from mixpanel.exceptions import MixpanelException
from tests.cdp.run_clients import messages
from tests.cli.cli_data import lines, runner, wait_until
from tests.cli.test_import import read_all

pytestmark = pytest.mark.slow

RUN = [sys.executable, "-c", "from mixpanel.cli.main import run; run()"]
SIX = [
    {"type": "identify", "userId": "u", "traits": {"plan": "team"}},
    {"type": "track", "userId": "u", "event": "Paid", "properties": {"amount": 12.5}},
    {"type": "page", "userId": "u", "name": "Pricing"},
    {"type": "screen", "anonymousId": "a"},
    {"type": "group", "userId": "u", "groupId": "acme"},
    {"type": "alias", "userId": "u", "previousId": "a"},
]


@pytest.fixture(scope="module")
def server():
    """Run one emulator for all."""
    with Emulator() as emulator:
        yield emulator


@pytest.fixture
def emu(server):
    """Empty it; its faults go too."""
    server.clear()
    return server


@pytest.fixture(params=["customerio", "hightouch"])
def vendor(request):
    """Run a test against each vendor."""
    return request.param


@pytest.fixture
def mp(emu):
    """Run `mp cdp` against Customer.io."""
    return runner_for(emu)


def environment(emu, vendor="customerio"):
    return {
        "MP_CDP_BASE_URL": getattr(emu, f"{vendor}_url"),
        f"MP_{vendor.upper()}_WRITE_KEY": "k",
        "COLUMNS": "200",
        "NO_COLOR": "1",
    }


def runner_for(emu, vendor="customerio"):
    run = runner(environment(emu, vendor))
    return lambda *arguments, **more: run("cdp", *arguments, **more)


def written(path, rows):
    path.write_text(
        "".join(f"{row if isinstance(row, str) else json.dumps(row)}\n" for row in rows)
    )
    return path


def visits(count):
    return [{"type": "track", "userId": f"u-{n}", "event": "Visit"} for n in range(count)]


def users(emu):
    return [message["userId"] for message in messages(emu)]


# ---- what arrives -------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", ["lines", "array", "gz", "stdin"])
def test_a_batch_of_any_types_arrives(emu, vendor, shape, tmp_path):
    """In order and in one request, from lines or an array, from a file or stdin."""
    text = "".join(f"{json.dumps(one)}\n" for one in SIX)
    text = json.dumps(SIX, indent=1) if shape == "array" else text
    name = "messages.ndjson.gz" if shape == "gz" else "messages.ndjson"
    content = text.encode()
    (tmp_path / name).write_bytes(gzip.compress(content) if shape == "gz" else content)
    where, given = ("-", text) if shape == "stdin" else (tmp_path / name, None)
    done = runner_for(emu, vendor)("batch", where, given=given)
    assert (ExitCode.OK, "") == (done.exit_code, done.stderr)
    result = json.loads(done.stdout)
    assert (6, 0, 6, 1) == tuple(
        result[name] for name in ("delivered", "rejected", "position", "requests")
    )
    assert [one["type"] for one in SIX] == [one["type"] for one in messages(emu, vendor)]
    assert {"batch"} == {one["endpoint"] for one in emu.cdp_messages()}


@pytest.mark.parametrize("message", SIX, ids=lambda message: message["type"])
def test_each_type_takes_a_file_of_rows(emu, vendor, message, tmp_path):
    """With the field names of the spec; the type may be left out."""
    row = {name: value for name, value in message.items() if name != "type"}
    file = written(tmp_path / "rows.ndjson", [row, "", {**row, "type": message["type"]}])
    result = runner_for(emu, vendor)(message["type"], "--file", file)
    assert (ExitCode.OK, "") == (result.exit_code, result.stderr)
    kept = messages(emu, vendor)
    assert 2 == len(kept)
    for one in kept:
        assert message.items() <= one.items()


@pytest.mark.parametrize("shape", ["words", "lines", "array", "stdin"])
def test_people_are_suppressed_and_deleted_by_a_file_of_ids(mp, emu, tmp_path, shape):
    """An id of digits keeps its zeros."""
    ids = ["u-1", "ada@example.com", "17", "007", "u-3"]
    text = "".join(f"{each}\n" for each in ids)
    if shape == "lines":
        text = '"u-1"\n{"userId": "ada@example.com"}\n17\n"007"\n{"userId": "u-3"}\n'
    if shape == "array":
        text = '["u-1", "ada@example.com", 17, "007", {"userId": "u-3"}]'
    file = tmp_path / "ids.txt"
    file.write_text(text)
    for command, event in (("suppress", "User Suppressed"), ("delete", "User Deleted")):
        emu.clear()
        where, given = ("-", text) if shape == "stdin" else (file, None)
        result = mp(command, "--file", where, "--force", given=given)
        assert ExitCode.OK == result.exit_code, result.stderr
        assert [(each, event) for each in ids] == [
            (message["userId"], message["event"]) for message in messages(emu)
        ]


def test_suppress_refuses_ambiguous_rows(mp, emu, tmp_path):
    """Rows of a table and broken JSON are rejected, and confirmation is required."""
    rows = [
        "u-1",
        "u-2,Ada",
        "u 3",
        '{"userId": ',
        '"u-4',
        "null",
        '{"user": "u-5"}',
        "x" * MAX_ROW_BYTES,
    ]
    file, failed = written(tmp_path / "ids.txt", rows), tmp_path / "failed.ndjson"
    result = mp("suppress", "--file", file, "--force", "--failed", failed)
    assert ExitCode.PARTIAL == result.exit_code
    assert ["u-1"] == users(emu)
    assert [1, 2, 3, 4, 5, 6, 7] == [one["position"] for one in lines(failed.read_text())]
    emu.clear()
    for arguments, why in (
        (["--file", file], "add --force"),
        (["--file", "-"], "confirmation required, but stdin is the file: add --force"),
        (["-", "--force"], "use --file -"),
        (["u-1", "--file", file, "--force"], "an id and --file cannot be used together"),
        (["--force"], "USER_ID is missing: give it, or --file"),
        (
            ["--file", file, "--force", "--message-id", "x"],
            "--message-id and --file cannot be used together",
        ),
        (["u-1", "--force", "--failed", failed], "--failed needs --file"),
    ):
        result = mp("suppress", *arguments, given="")
        assert (ExitCode.USAGE, True) == (result.exit_code, why in result.stderr), result.stderr
    assert [] == emu.requests()
    failed.write_text('{"position": 1, "message": "mended", "record": "u-2"}\n')
    assert ExitCode.OK == mp("delete", "--file", failed, "--force").exit_code
    assert ["u-2"] == users(emu)


def test_devices_and_objects_are_sent_from_files(mp, emu, tmp_path):
    """Options are the defaults of fields that a row does not have."""
    devices = [
        {"token": "T1", "userId": "u-1", "platform": "ios", "attributes": {"os": "18"}},
        {"token": "T2", "userId": "u-2"},
        {"token": "T3"},
    ]
    result = mp("device", "--file", written(tmp_path / "d", devices), "--platform", "android")
    assert (ExitCode.PARTIAL, {"userId is missing": 1}) == (
        result.exit_code, json.loads(result.stdout)["reasons"],
    )  # fmt: skip
    assert [{"token": "T1", "type": "ios", "os": "18"}, {"token": "T2", "type": "android"}] == [
        message["context"]["device"] for message in messages(emu)
    ]
    emu.clear()
    objects = [
        {"objectId": "acme", "traits": {"plan": "team"}, "timestamp": "2026-01-31"},
        {"objectId": "acme", "relate": "u-1", "relationship": {"role": "admin"}, "type": 3},
        {"objectId": "acme", "unrelate": "u-2"},
    ]
    file = written(tmp_path / "o", objects)
    assert ExitCode.OK == mp("object", "--file", file, "--type", "2").exit_code
    first, second, third = messages(emu)
    assert ("2026-01-31T00:00:00.000Z", {"plan": "team", "object_type_id": "2"}) == (
        first["timestamp"], first["traits"],
    )  # fmt: skip
    assert {"object_type_id": "3", "relationshipAttributes": {"role": "admin"}} == second["traits"]
    assert ("Relationship Deleted", "u-2") == (third["event"], third["userId"])
    emu.clear()
    result = mp("object", "--file", "-", "--delete", "--force", "--dry-run", given="acme\n")
    assert "Object Deleted" == json.loads(result.stdout)["event"]
    assert [] == emu.requests()


def test_options_are_the_defaults_of_a_row(mp, emu, tmp_path):
    """The row's own values win, and objects are merged."""
    rows = [
        {"userId": "u-1", "context": {"locale": "pt"}},
        {"userId": "u-2", "event": "Refunded", "context": {"ip": "198.51.100.1"}},
    ]
    file = written(tmp_path / "rows.ndjson", rows)
    result = mp("track", "Paid", "--file", file, "--context", '{"ip": "203.0.113.9"}')
    assert ExitCode.OK == result.exit_code
    first, second = messages(emu)
    assert ("Paid", "203.0.113.9", "pt") == (
        first["event"], first["context"]["ip"], first["context"]["locale"]
    )  # fmt: skip
    assert ("Refunded", "198.51.100.1") == (second["event"], second["context"]["ip"])


def test_one_message_id_is_refused_for_a_file(mp, emu, tmp_path):
    """All but the first message would count as duplicates."""
    result = mp("track", "--file", written(tmp_path / "r.ndjson", visits(1)), "--message-id", "m")
    assert ExitCode.USAGE == result.exit_code
    assert [] == emu.requests()


def test_a_message_with_a_timestamp_may_be_sent_again(mp, emu, tmp_path):
    """Its id is derived from its content; a message without a timestamp is new each time."""
    old = {**SIX[1], "timestamp": "2026-01-01T00:00:00Z"}
    file = written(tmp_path / "m.ndjson", [old, SIX[1]])
    mp("batch", file)
    mp("batch", file)
    assert (4, 3) == (len(messages(emu)), len(messages(emu, unique=True)))


def test_a_large_file_is_sent_in_order_within_the_limits(mp, emu, tmp_path, monkeypatch):
    """And never more messages are in flight than allowed."""
    monkeypatch.setattr(send_file, "MAX_PENDING", 150)
    result = mp("batch", written(tmp_path / "many.ndjson", visits(420)))
    assert 420 == json.loads(result.stdout)["delivered"]
    assert [f"u-{n}" for n in range(420)] == users(emu)
    requests = emu.requests("/customerio/v1/batch")
    assert max(len(json.loads(request.body)["batch"]) for request in requests) <= 150


def test_an_empty_file_sends_nothing(mp, emu, tmp_path):
    """It is no error."""
    for content in ("", "\n\n", "[]", " [ ] "):
        (tmp_path / "empty").write_text(content)
        result = mp("batch", tmp_path / "empty")
        assert (ExitCode.OK, 0) == (result.exit_code, json.loads(result.stdout)["delivered"])
    assert [] == emu.requests()


def test_nothing_is_sent_if_failed_rows_cannot_be_written(mp, emu, tmp_path):
    """They would be lost."""
    result = mp("batch", "-", "--failed", tmp_path / "none" / "failed", given=json.dumps(SIX))
    assert ExitCode.USAGE == result.exit_code
    assert "No such file or directory" in result.stderr
    assert [] == emu.requests()


def test_a_missing_key_leaves_the_failed_rows_of_an_earlier_run(mp, emu, tmp_path):
    """They are not overwritten before there is something to write."""
    failed = written(tmp_path / "failed.ndjson", [{"record": SIX[0]}])
    env = {"MP_CUSTOMERIO_WRITE_KEY": None, "MP_CDP_TO": "customerio"}
    result = mp("batch", "-", "--failed", failed, given=json.dumps(SIX), **env)
    assert ExitCode.USAGE == result.exit_code
    wrong = ["--base-url", "https://cdp.customer.io", "--write-key", "sk_eu_" + "0" * 32]
    result = mp("batch", "-", "--failed", failed, *wrong, given=json.dumps(SIX))
    assert (ExitCode.USAGE, True) == (result.exit_code, "region" in result.stderr)
    assert 1 == len(lines(failed.read_text()))


def test_a_link_to_the_failed_rows_stays_a_link(mp, tmp_path):
    """Resuming writes to the file it points to."""
    file, failed = written(tmp_path / "m.ndjson", ["a", "b"]), tmp_path / "failed.ndjson"
    link = tmp_path / "link"
    link.symlink_to(failed)
    mp("batch", file, "--failed", link)
    mp("batch", file, "--failed", link, "--start-at", 1)
    assert link.is_symlink()
    assert [0, 1] == [one["position"] for one in lines(failed.read_text())]


@pytest.mark.parametrize("command", ["batch", "replay", "validate"])
def test_a_missing_file_is_not_found(mp, tmp_path, command):
    """A folder is an error of usage."""
    assert ExitCode.NOT_FOUND == mp(command, tmp_path / "none").exit_code
    result = mp(command, tmp_path)
    assert ExitCode.USAGE == result.exit_code
    assert "is a folder" in result.stderr


# ---- what is refused ----------------------------------------------------------------------------

ODD = [
    {"userId": "u-1", "event": "Paid"},
    "nope",
    {"event": "Paid"},
    {"type": "page", "userId": "u"},
    "[1]",
    {"userId": "u-2", "event": "Paid", "properties": {"x": "x" * 32_000}},
    {"userId": "u-3", "event": "Paid", "colour": "red"},
    {"userId": "u-4", "event": "Paid"},
]
WHY = {
    1: "the line is not valid JSON: Expecting value: line 1 column 1 (char 0)",
    2: "track requires a user_id or an anonymous_id",
    3: "the row's type is 'page', not 'track': use mp cdp batch",
    4: "a row must be a mapping of names to values, not list",
    5: "too large",
    6: "track messages have no 'colour'",
}


def test_a_rejected_line_does_not_stop_the_others(emu, vendor, tmp_path):
    """It is counted by reason, and written to the file of failed rows."""
    file, failed = written(tmp_path / "odd.ndjson", ODD), tmp_path / "failed.ndjson"
    done = runner_for(emu, vendor)("track", "--file", file, "--failed", failed)
    assert ExitCode.PARTIAL == done.exit_code
    result = json.loads(done.stdout)
    assert (2, 6, 8) == (result["delivered"], result["rejected"], result["position"])
    assert dict.fromkeys(WHY.values(), 1) == result["reasons"]
    assert ["u-1", "u-4"] == users(emu)
    assert WHY == {one["position"]: one["message"] for one in lines(failed.read_text())}


def test_a_message_the_server_rejects_is_reported(mp, emu, tmp_path):
    """With the server's reason, and the rest of the batch arrives."""
    emu.play(
        Fault.status(400, body={"meta": {"errors": ["no visits"]}}).forever(),
        when=lambda request: b'"u-7"' in request.body,
    )
    failed = tmp_path / "failed.ndjson"
    result = mp("batch", written(tmp_path / "m.ndjson", visits(12)), "--failed", failed)
    assert (ExitCode.PARTIAL, 11) == (result.exit_code, json.loads(result.stdout)["delivered"])
    (refused,) = lines(failed.read_text())
    assert (7, "Customer.io: HTTP 400: no visits") == (refused["position"], refused["message"])
    assert "u-7" == refused["record"]["userId"]


def test_replay_keeps_message_ids(mp, emu, tmp_path):
    """From a file of failed rows, and from messages themselves."""
    emu.play(Fault.status(400).forever())
    failed = tmp_path / "failed.ndjson"
    assert ExitCode.PARTIAL == mp("batch", "-", "--failed", failed, given=json.dumps(SIX)).exit_code
    ids = [one["record"]["messageId"] for one in lines(failed.read_text())]
    emu.clear_faults()
    assert ExitCode.OK == mp("validate", failed).exit_code
    assert ExitCode.OK == mp("replay", failed).exit_code
    bare = "".join(f"{json.dumps(one['record'])}\n" for one in lines(failed.read_text()))
    assert ExitCode.OK == mp("replay", "-", given=bare).exit_code
    assert ids * 2 == [one["messageId"] for one in messages(emu)]
    assert len(set(ids)) == 6


def test_a_replayed_backfill_message_still_needs_its_timestamp(mp, emu, tmp_path):
    """It does not get the current time, and replaying twice makes no duplicates."""
    file = tmp_path / "orders.csv"
    file.write_text("user_id,timestamp,event\nu-1,,Paid\nu-2,2026-01-31,Paid\n")
    failed = tmp_path / "failed.ndjson"
    result = mp("backfill", file, "--kind", "track", "--failed", failed)
    assert ExitCode.PARTIAL == result.exit_code
    for command in ("validate", "replay"):
        again = mp(command, failed)
        assert ExitCode.PARTIAL == again.exit_code
        assert "a message in a backfill needs a timestamp" in again.stdout
    failed.write_text(failed.read_text().replace('"userId"', '"timestamp":"2026-01-30","userId"'))
    for _ in range(2):
        assert ExitCode.OK == mp("replay", failed).exit_code
    assert {"u-1": "2026-01-30T00:00:00.000Z", "u-2": "2026-01-31T00:00:00.000Z"} == {
        message["userId"]: message["timestamp"] for message in messages(emu)
    }
    assert 2 == len(messages(emu, "customerio", unique=True))


def test_two_messages_with_one_id_are_counted_separately(mp, tmp_path):
    """The one that is too large is rejected before it is sent."""
    small = {**SIX[1], "messageId": "X", "userId": "small"}
    large = {**small, "userId": "large", "properties": {"text": "x" * 40_000}}
    failed = tmp_path / "failed.ndjson"
    result = mp("batch", written(tmp_path / "m.ndjson", [small, large]), "--failed", failed)
    assert (1, 1) == (json.loads(result.stdout)["delivered"], json.loads(result.stdout)["rejected"])
    (line,) = lines(failed.read_text())
    assert (1, "too large", "large") == (
        line["position"], line["message"], line["record"]["userId"],
    )  # fmt: skip


def test_replay_never_overwrites_the_file_it_reads(mp, tmp_path):
    """The failed rows would be lost before they were read."""
    failed = written(tmp_path / "failed.ndjson", [{"record": SIX[0]}])
    result = mp("replay", failed, "--failed", failed)
    assert ExitCode.USAGE == result.exit_code
    assert 1 == len(lines(failed.read_text()))


def test_replay_rejects_a_line_that_was_not_json_again(mp, tmp_path):
    """With the same text."""
    failed, again = tmp_path / "failed.ndjson", tmp_path / "again.ndjson"
    mp("batch", "-", "--failed", failed, given="nope\n")
    assert ExitCode.PARTIAL == mp("replay", failed, "--failed", again).exit_code
    assert ["nope", "nope"] == [lines(one.read_text())[0]["record"] for one in (failed, again)]


def test_warnings_are_counted(mp, emu, tmp_path):
    """One line for all rows; with --fail-on-warning they are rejected."""
    row = {"type": "track", "userId": "u", "event": "order_complete"}
    file = written(tmp_path / "m.ndjson", [row] * 3)
    result = mp("batch", file)
    assert ExitCode.OK == result.exit_code
    assert "did you mean 'Order Completed'? (3 times)\n" in result.stderr
    assert 1 == result.stderr.count("\n")
    result = mp("batch", file, "--fail-on-warning")
    assert (ExitCode.PARTIAL, 3) == (result.exit_code, json.loads(result.stdout)["rejected"])
    assert 3 == len(messages(emu))


def test_a_table_shows_the_reasons_of_rejections(mp, tmp_path):
    """One row for each."""
    result = mp("batch", written(tmp_path / "m.ndjson", ["nope", SIX[0]]), "-f", "table").stdout
    assert any(line.split()[:2] == ["delivered", "1"] for line in result.splitlines())
    assert "rejected: the line is not valid JSON" in result


# ---- when it cannot go on -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "code"),
    [
        (Fault.status(401), ExitCode.AUTHENTICATION),
        (Fault.status(429), ExitCode.RATE_LIMITED),
        (Fault.status(503), ExitCode.ERROR),
    ],
)
def test_a_failing_server_stops_the_run_and_the_position_is_printed(
    emu, vendor, fault, code, tmp_path
):
    """Nothing is lost, and nothing is sent twice."""
    mp = runner_for(emu, vendor)
    large = [{**one, "properties": {"text": "x" * 4000}} for one in visits(250)]  # three requests
    file = written(tmp_path / "m.ndjson", large)
    emu.play(fault.forever(), when=lambda request: b'"u-150"' in request.body)
    done = mp("batch", file, "--retries", 0)
    assert code == done.exit_code
    result = json.loads(done.stdout)
    came = len(users(emu))
    assert 0 < came <= 150
    assert (came, 0, came) == (result["delivered"], result["rejected"], result["position"])
    hint, error = done.stderr.splitlines()
    assert hint.endswith(f"--start-at {came}")
    assert error.startswith("mp: ")
    emu.clear_faults()
    done = mp("batch", file, "--start-at", came)
    assert 250 - came == json.loads(done.stdout)["delivered"]
    assert [f"u-{n}" for n in range(250)] == users(emu)


def test_resuming_keeps_earlier_failed_rows(mp, tmp_path):
    """And a row that is tried again is not written twice."""
    file, failed = written(tmp_path / "m.ndjson", ["a", "b", "c"]), tmp_path / "failed.ndjson"
    mp("batch", file, "--failed", failed)
    mp("batch", file, "--failed", failed, "--start-at", 2)
    assert [0, 1, 2] == [one["position"] for one in lines(failed.read_text())]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ('[{"type": "page", "userId": "u"}, {"type"]', "item 1 of the array is not valid JSON"),
        (
            '[{"type": "page", "userId": "u"}',
            "the array after item 0 is not valid JSON: ] expected",
        ),
        ('[{"type": "page", "userId": "u"}] {}', "there is more text after the array"),
    ],
)
def test_an_invalid_array_is_read_up_to_the_error(mp, emu, text, why):
    """The items before it are sent and counted."""
    result = mp("batch", "-", given=text)
    assert (ExitCode.ERROR, 1) == (result.exit_code, json.loads(result.stdout)["delivered"])
    assert why in result.stderr
    assert ["u"] == users(emu)


def test_a_truncated_gzip_file_is_read_up_to_the_error(mp, emu, tmp_path):
    """With one line, not a traceback."""
    text = "".join(f"{json.dumps(one)}\n" for one in visits(2000))
    (tmp_path / "m.ndjson.gz").write_bytes(gzip.compress(text.encode(), mtime=0)[:-4000])
    result = mp("batch", tmp_path / "m.ndjson.gz")
    assert ExitCode.ERROR == result.exit_code
    assert "mp: cannot read m.ndjson.gz beyond position" in result.stderr
    assert json.loads(result.stdout)["delivered"] == len(users(emu)) > 0


@contextmanager
def sending(emu, file):
    """Run `mp cdp batch` in a process of its own, for half a minute at the most."""
    command = [*RUN, "cdp", "batch", str(file)]
    env = {**os.environ, **environment(emu)}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, env=env, **pipes) as running:
        watchdog = threading.Timer(30, running.kill)
        watchdog.start()
        try:
            yield running
        finally:
            watchdog.cancel()


def test_ctrl_c_prints_the_position_of_a_batch(tmp_path):
    """Requests in flight are waited for."""
    file = written(tmp_path / "m.ndjson", visits(20_000))
    with Emulator(latency=0.2) as emu:
        with sending(emu, file) as running:
            wait_until(lambda: len(emu.requests()) > 2)
            running.send_signal(signal.SIGINT)
            out, err = running.communicate()
        assert ExitCode.INTERRUPTED == running.returncode
        assert "Traceback" not in err
        position = int(err.rsplit("--start-at ", 1)[1])
        assert (position, position) == (json.loads(out)["position"], len(users(emu)))
        assert position < 20_000


def test_a_second_ctrl_c_ends_a_batch_at_once(tmp_path):
    """The position is printed too."""
    file = written(tmp_path / "m.ndjson", visits(5000))
    with Emulator(latency=60.0) as emu, sending(emu, file) as running:
        wait_until(lambda: len(emu.requests()) > 0)
        running.send_signal(signal.SIGINT)
        assert "waiting for the requests in flight" in running.stderr.readline()
        running.send_signal(signal.SIGINT)
        out, err = running.communicate()
    assert ExitCode.INTERRUPTED == running.returncode
    assert "Traceback" not in err
    assert "--start-at 0" in err
    assert 0 == json.loads(out)["position"]


def test_a_closed_stdin_is_a_usage_error(emu):
    """As under cron."""
    for arguments in (["batch", "-"], ["track", "E", "--user-id", "u", "--properties", "-"]):
        done = subprocess.run(
            ["sh", "-c", 'exec "$@" <&-', "sh", *RUN, "cdp", *arguments],
            env={**os.environ, **environment(emu)}, capture_output=True, text=True, timeout=120,
            check=False,
        )  # fmt: skip
        assert ExitCode.USAGE == done.returncode
        assert "- is stdin, which is closed" in done.stderr


def test_a_message_that_ctrl_c_interrupts_is_not_skipped(mp, emu, tmp_path, monkeypatch):
    """Resuming begins with it."""
    made = _rows.with_message_id

    def interrupted(result):
        if result["userId"] == "u-2":
            raise KeyboardInterrupt
        return made(result)

    monkeypatch.setattr(_rows, "with_message_id", interrupted)
    file = written(tmp_path / "m.ndjson", [{**each, "timestamp": 1e9} for each in visits(5)])
    result = mp("batch", file)
    assert "--start-at 2" in result.stderr
    assert (2, ["u-0", "u-1"]) == (json.loads(result.stdout)["position"], users(emu))


def test_a_batch_shows_progress_on_a_terminal(emu, tmp_path):
    """The bar is on stderr, and stdout has the result alone."""
    file = written(tmp_path / "many.ndjson", visits(300))
    env = {**os.environ, **environment(emu), "TERM": "xterm", "COLUMNS": "80"}
    master, slave = pty.openpty()
    command = [*RUN, "cdp", "batch", str(file)]
    with subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=slave) as running:
        os.close(slave)
        seen = read_all(master)
        out = running.stdout.read()
    assert 300 == json.loads(out)["delivered"]
    assert "many.ndjson" in seen
    assert "delivered" in seen


# ---- a dry run, and validate --------------------------------------------------------------------


def test_a_dry_run_shows_each_message(emu, vendor, tmp_path):
    """As lines of JSON, without a key; rejected rows are reported."""
    file, failed = written(tmp_path / "odd.ndjson", ODD), tmp_path / "failed.ndjson"
    key = {f"MP_{vendor.upper()}_WRITE_KEY": None, "MP_CDP_TO": vendor}
    result = runner_for(emu, vendor)(
        "track", "--file", file, "--failed", failed, "--dry-run", **key
    )
    assert ExitCode.PARTIAL == result.exit_code
    assert ["u-1", "u-4"] == [one["userId"] for one in lines(result.stdout)]
    assert "dry run: nothing was sent to" in result.stderr
    assert "2 would be sent, 6 rejected" in result.stderr
    assert sorted(WHY) == [one["position"] for one in lines(failed.read_text())]
    assert [] == emu.requests()


def test_validate_names_each_problem_and_its_line(mp, emu, tmp_path):
    """Also warnings, and messages that are too large."""
    rows = [
        SIX[0],
        "nope",
        "",
        {"type": "track"},
        {"type": "track", "userId": "u", "event": "order_complete"},
        {"type": "identify", "userId": "u", "traits": {"x": "x" * 32_000}},
    ]
    result = mp("validate", written(tmp_path / "m.ndjson", rows))
    assert (ExitCode.PARTIAL, "1 valid, 4 invalid\n") == (result.exit_code, result.stderr)
    found = {one["where"]: one["problem"] for one in json.loads(result.stdout)}
    assert ["m.ndjson:2", "m.ndjson:4", "m.ndjson:5", "m.ndjson:6"] == list(found)
    assert "not valid JSON" in found["m.ndjson:2"]
    assert "the event name is missing" in found["m.ndjson:4"]
    assert "did you mean 'Order Completed'?" in found["m.ndjson:5"]
    assert found["m.ndjson:6"].endswith("bytes larger than Customer.io accepts")
    assert [] == emu.requests()


def test_validate_applies_the_rules_of_the_vendor(emu):
    """Customer.io accepts a group without a person, Hightouch does not."""
    text = '[{"type": "group", "groupId": "acme"}]'
    assert ExitCode.OK == runner_for(emu)("validate", "-", given=text).exit_code
    result = runner_for(emu, "hightouch")("validate", "-", "-f", "csv", given=text)
    assert ExitCode.PARTIAL == result.exit_code
    assert result.stdout.splitlines()[1].startswith("stdin[0],0,group requires a user_id")


# ---- reading ------------------------------------------------------------------------------------


def read(path, **options):
    return [(row.position, row.value, bool(row.problem)) for row in RowReader(path).rows(**options)]


def test_positions_count_lines_and_items(tmp_path):
    """From 0, and empty lines count too."""
    file = tmp_path / "rows"
    file.write_text('\n{"a": 1}\n\n  \n{"b": 2}\r\n{"c": 3}')
    assert [(1, {"a": 1}, False), (4, {"b": 2}, False), (5, {"c": 3}, False)] == read(file)
    assert [(4, {"b": 2}, False), (5, {"c": 3}, False)] == read(file, start_at=2)
    file.write_text('\n [1, "x",\n{"a": [2]}] \n')
    assert [(0, 1, False), (1, "x", False), (2, {"a": [2]}, False)] == read(file)
    assert [(2, {"a": [2]}, False)] == read(file, start_at=2)


@pytest.mark.parametrize("line", [b"\xff{}", b"{", b"nope", b"[" * 100_000 + b"\n{}"])
def test_an_unreadable_line_is_a_row_with_a_problem(tmp_path, line):
    """The next one is read."""
    file = tmp_path / "rows"
    file.write_bytes(b'{"a": 1}\n' + line.partition(b"\n")[0] + b'\n{"b": 2}\n')
    first, second, third = read(file)
    assert ((0, {"a": 1}, False), (2, {"b": 2}, False)) == (first, third)
    assert (1, True) == (second[0], second[2])


@pytest.mark.parametrize("end", [b"", b"\n", b'\n{"b": 2}\n'])
def test_a_line_that_is_too_long_is_skipped_in_pieces(tmp_path, end):
    """It does not fill the memory."""
    file = tmp_path / "rows"
    file.write_bytes(b"x" * (3 * MAX_ROW_BYTES) + end)
    rows = list(RowReader(file).rows())
    assert "the line has more than 1,048,576 bytes" == rows[0].problem
    assert 100 == len(rows[0].value)
    assert [{"b": 2}] * (len(end) > 1) == [row.value for row in rows[1:]]


def test_a_byte_order_mark_changes_no_position(tmp_path):
    """However long the first line is."""
    file = tmp_path / "rows"
    for first in (b"{}", b'{"a": "' + b"x" * MAX_ROW_BYTES + b'"}'):
        for mark in (b"", b"\xef\xbb\xbf"):
            file.write_bytes(mark + first + b'\n{"b": 2}\n')
            one, two = read(file)
            assert (0, len(first) > MAX_ROW_BYTES) == (one[0], one[2])
            assert (1, {"b": 2}, False) == two


def test_an_array_is_read_in_chunks(tmp_path):
    """Wherever a chunk ends: in a number, a character of several bytes, or an escape."""
    items = [{"n": 10**12 + n, "name": 'Zoë\n"é"' * (n % 40)} for n in range(6000)]
    for text in (json.dumps(items, ensure_ascii=False), json.dumps(items, indent=2)):
        file = tmp_path / "rows"
        file.write_text(text)
        assert file.stat().st_size > MAX_ROW_BYTES
        assert items == [row.value for row in RowReader(file).rows()]


def test_an_item_that_is_too_long_does_not_fill_the_memory(tmp_path):
    """No vendor accepts a message of that size."""
    file = tmp_path / "rows"
    file.write_text('[{"a": "' + "x" * (2 * MAX_ROW_BYTES))
    with pytest.raises(MixpanelException, match="item 0 of the array is not valid JSON"):
        read(file)


def test_a_named_pipe_can_be_read(tmp_path, mp, emu):
    """As <(command) is one in a shell."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    text = "".join(f"{json.dumps(one)}\n" for one in SIX)
    writer = threading.Thread(target=Path.write_text, args=(pipe, text))
    writer.start()
    assert ExitCode.OK == mp("batch", pipe).exit_code
    writer.join()
    assert 6 == len(messages(emu))
