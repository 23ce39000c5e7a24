"""The file of `--failed`: corrected by hand, it is read by the command that wrote it."""

import gzip
import json

import pytest
from typer.testing import CliRunner

from mixpanel.cli._output.exit_codes import ExitCode
from mixpanel.cli.app import app
from mixpanel.emulator import Emulator

PAD = ["é" * 100] * 25
AT = "2026-01-01T12:00:00"
TABLE = (
    "order,paid_at,customer,amount,flag,seen\n"
    f"7,{AT},0042,12.5,true,2026-01-02 10:00:00\n"
    f"8,{AT},null,3,false,2026-01-02 10:00:00\n"
    f"9,,u3,4,true,2026-01-02 10:00:00\n"
    f"10,{AT}\n"
    f"11,{AT},u5,n/a,true,2026-01-02 10:00:00\n"
)
# What the five rows are once they are right.
RIGHT = TABLE.replace("null", "u2").replace("9,,", f"9,{AT},").replace("n/a", "6")
RIGHT = RIGHT.replace(f"10,{AT}\n", f"10,{AT},u4,5,false,2026-01-03 10:00:00\n")
EVENTS = [
    "--event", "Paid", "--column", "insert_id=order", "--column", "time=paid_at",
    "--column", "distinct_id=customer", "--type", "amount=number",
]  # fmt: skip


@pytest.fixture
def emu():
    """A Mixpanel and the vendors of customer data."""
    with Emulator() as emulator:
        yield emulator


@pytest.fixture
def mp(emu):
    """Run `mp` against the emulator, in this process."""
    environment = {
        "COLUMNS": "200", "NO_COLOR": "1", "MP_BASE_URL": emu.url, "MP_TOKEN": "T",
        "MP_CUSTOMERIO_WRITE_KEY": "k", "MP_CDP_BASE_URL": emu.customerio_url,
    }  # fmt: skip
    runner = CliRunner(env=environment)
    return lambda *arguments: runner.invoke(app, [*map(str, arguments)])


def messages(emu):
    return [one["message"] for one in emu.cdp_messages()]


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def correct(path, change):
    """Change the record of each line, as in an editor, and mangle what is not read."""
    rows = lines(path)
    for row in rows:
        row["message"] = "seen by Ada"
        change(row["record"])
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def of_events(emu):
    return sorted(
        (
            (one["event"], {k: v for k, v in one["properties"].items() if k not in ("token", "ip")})
            for one in emu.events()
        ),
        key=lambda one: str(one[1]["$insert_id"]),
    )


def corrected(record):
    """Give each of the four rows what it lacks, wherever the record has it."""
    if "cells" in record:
        record["cells"] += ["u4", "5", "false", "2026-01-03 10:00:00"]
        return
    fields = record.get("properties", record)
    for name in ("customer", "distinct_id", "userId"):
        if fields.get(name) == "null":
            fields[name] = "u2"
        if record.get(name) == "null":
            record[name] = "u2"
    if fields.get("amount") == "n/a":
        fields["amount"] = "6"
    if "time" in fields and fields["time"] is None:
        fields["time"] = AT


@pytest.mark.slow
def test_rejected_events_of_a_table_come_back_as_the_events_they_should_be(mp, emu, tmp_path):
    """With the types of the other rows, and those that are still wrong are rejected again."""
    table, failed, again = (tmp_path / name for name in ("a.csv", "f.ndjson", "g.ndjson"))
    table.write_text(TABLE)
    assert mp("import", "events", table, *EVENTS, "--failed", failed).exit_code == ExitCode.PARTIAL
    assert len(lines(failed)) == 4
    unchanged = mp("import", "events", failed, *EVENTS, "--failed", again)
    assert json.loads(unchanged.stdout)["rejected"] == 4
    assert sorted(one["message"] for one in lines(again)) == sorted(
        one["message"] for one in lines(failed)
    )
    correct(again, corrected)
    done = mp("import", "events", again, *EVENTS)
    assert (done.exit_code, done.stderr) == (ExitCode.OK, "")
    came = of_events(emu)
    emu.clear()
    table.write_text(RIGHT)
    assert mp("import", "events", table, *EVENTS).exit_code == ExitCode.OK
    assert came == of_events(emu)


@pytest.mark.slow
@pytest.mark.parametrize("ending", [".ndjson", ".ndjson.gz", ".json"])
def test_rejected_events_of_an_export_come_back(mp, emu, tmp_path, ending):
    """An event without a name, one with a wrong id, and a line with a typing error."""
    good = {"event": "A", "properties": {"time": 1_767_268_800, "distinct_id": "u", "n": 1}}
    path, failed = tmp_path / "a.ndjson", tmp_path / "f.ndjson"
    long = '{"event": "A", "properties": {"time": 1767268800, "pad": ' + json.dumps(PAD) + "}"
    nameless = good | {"event": None}
    path.write_text("\n".join([json.dumps(nameless), json.dumps(good), long, "[1]"]))
    assert mp("import", "events", path, "--failed", failed).exit_code == ExitCode.PARTIAL

    def change(record):
        if "text" in record:
            record["text"] = record["text"] + "}" if "pad" in record["text"] else json.dumps(good)
        else:
            record["event"] = "B"

    correct(failed, change)
    given = failed.rename(tmp_path / f"g{ending}") if ending != ".ndjson.gz" else failed
    if ending == ".ndjson.gz":
        given = tmp_path / "g.ndjson.gz"
        given.write_bytes(gzip.compress(failed.read_bytes()))
    done = mp("import", "events", given)
    assert (done.exit_code, json.loads(done.stdout)["imported"]) == (ExitCode.OK, 3), done.stderr
    assert ["A", "B"] == sorted({one["event"] for one in emu.events()})
    assert PAD in [one["properties"].get("pad") for one in emu.events()]


@pytest.mark.slow
def test_a_shortened_line_cannot_be_imported(mp, tmp_path):
    """Its end is in the file it came from."""
    path, failed = tmp_path / "a.ndjson", tmp_path / "f.ndjson"
    path.write_text('{"event": "' + "x" * 60_000)
    mp("import", "events", path, "--failed", failed)
    assert lines(failed)[0]["record"]["truncated"] is True
    result = mp("import", "events", failed)
    assert "the record is only the beginning of the line" in result.stdout


def test_types_are_still_refused_for_json(mp, tmp_path):
    """Only failed rows have text that a type was stated for."""
    path = tmp_path / "a.ndjson"
    path.write_text('{"event": "A", "time": 1, "distinct_id": "u"}\n')
    result = mp("import", "events", path, "--type", "x=number")
    assert (ExitCode.USAGE, True) == (result.exit_code, "are for CSV files" in result.stderr)


KINDS = {
    "track": ["--kind", "track", "--event", "Paid", "--column", "timestamp=paid_at"],
    "identify": ["--kind", "identify", "--column", "timestamp=paid_at"],
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("form", [None, "%d.%m.%Y %H:%M"])
def test_rejected_rows_of_a_backfill_come_back(mp, emu, tmp_path, kind, form):
    """Events and people; messages keep their form, and rows of the table theirs."""
    options = [*KINDS[kind], "--column", "user_id=customer", "--type", "amount=number"]
    options += [] if form is None else ["--date-format", form]

    def written(text):
        return text if form is None else text.replace(AT, "01.01.2026 12:00")

    def change(record):
        if "cells" in record:
            record["cells"] += ["u4", "5", "false", "2026-01-03 10:00:00"]
            return
        if record.get("amount") == "n/a":
            record["amount"] = "6"
        elif kind == "track":
            record["timestamp"] = f"{AT}Z"

    def came():
        found = []
        for body in messages(emu):
            kept = ("type", "userId", "event", "timestamp", "properties", "traits")
            found.append({name: body.get(name) for name in kept})
        return sorted(found, key=lambda one: str(one["userId"]))

    table, failed, again = (tmp_path / name for name in ("a.csv", "f.ndjson", "g.ndjson"))
    table.write_text(written(TABLE))
    mp("cdp", "backfill", table, *options, "--failed", failed)
    count = 3 if kind == "track" else 2
    assert len(lines(failed)) == count
    unchanged = mp("cdp", "backfill", failed, *options, "--failed", again)
    assert unchanged.exit_code == ExitCode.PARTIAL, unchanged.stderr
    assert len(lines(again)) == count
    correct(again, change)
    done = mp("cdp", "backfill", again, *options)
    assert (done.exit_code, done.stderr) == (ExitCode.OK, "")
    first = came()
    emu.clear()
    right = RIGHT.replace("u2", "null")
    right = right if kind == "track" else right.replace(f"9,{AT},", "9,,")
    table.write_text(written(right))
    assert mp("cdp", "backfill", table, *options).exit_code == ExitCode.OK
    second = came()
    if kind == "identify":  # a row without a time gets that of the sending
        for one in (*first, *second):
            one.pop("timestamp")
    assert first == second


def test_replay_reads_lines_that_could_not_be_read(mp, emu, tmp_path):
    """Their text, once it is JSON, and refers rows of tables to `backfill`."""
    path, failed = tmp_path / "a.ndjson", tmp_path / "f.ndjson"
    path.write_text('{"type": "track", "userId": "u", "event": "A"\n')
    assert mp("cdp", "batch", path, "--failed", failed).exit_code == ExitCode.PARTIAL
    (row,) = lines(failed)
    row["record"] += "}"
    failed.write_text(json.dumps(row))
    assert mp("cdp", "replay", failed).exit_code == ExitCode.OK
    assert ["A"] == [one["event"] for one in messages(emu)]
    failed.write_text(json.dumps({"position": 0, "message": "m", "record": {"a": 1}, "past": True}))
    assert "read this file with mp cdp backfill" in mp("cdp", "replay", failed).stdout


@pytest.mark.slow
def test_people_of_a_file_come_back(mp, emu, tmp_path):
    """By the command that wrote them, or `replay`."""
    path, failed = tmp_path / "people.ndjson", tmp_path / "f.ndjson"
    path.write_text('{"traits": {"plan": "team"}}\n{"userId": "u-1"}\n')
    assert mp("cdp", "identify", "--file", path, "--failed", failed).exit_code == ExitCode.PARTIAL
    correct(failed, lambda record: record.update(userId="u-2"))
    for command in (["identify", "--file"], ["replay"], ["batch"]):
        emu.clear()
        assert mp("cdp", *command, failed).exit_code == ExitCode.OK
        assert [("u-2", {"plan": "team"})] == [
            (one["userId"], one["traits"]) for one in messages(emu)
        ]


def test_suppressions_come_back(mp, emu, tmp_path):
    """Ids on lines of their own, and messages that were composed before they were rejected."""
    path, failed = tmp_path / "ids.txt", tmp_path / "f.ndjson"
    path.write_text('u-1\n{"userId": "u-2", "plan": 1}\n')
    result = mp("cdp", "suppress", "--force", "--file", path, "--failed", failed)
    assert result.exit_code == ExitCode.PARTIAL
    correct(failed, lambda record: record.pop("plan"))
    emu.clear()
    assert mp("cdp", "suppress", "--force", "--file", failed).exit_code == ExitCode.OK
    assert ["u-2"] == [one["userId"] for one in messages(emu)]
