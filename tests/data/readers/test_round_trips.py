"""What we export, and what Mixpanel exports, is imported as the same events."""

import json
from datetime import UTC, datetime

import duckdb
import pytest

from mixpanel import Mixpanel
from mixpanel.data import Credentials, Workspace
from mixpanel.data.readers import Columns, read_events
from mixpanel.data.store import Database
from mixpanel.emulator import Emulator

ROBOT = Credentials(username="robot", secret="s3cret", project_id="42")
NOON = 1_767_268_800_123
DAYS = {"from_date": "2026-01-01", "to_date": "2026-01-03"}
HOSTILE = {
    "Plan": "team", "plan": "solo", "a.b": 1, 'quo"te': "x", "select": True, "📦": ["ü", {}],
    "big": 2**53 + 1, "price": 12.5, "formula": "=1+1", "text": 'a,"b"\nc', "time_zone": "UTC",
    "event": "mine", "event_name": "mine", "insert_id": 7, "empty": "", "nested": {"A": {"a": []}},
}  # fmt: skip
EVENTS = [
    {
        "event": name,
        "properties": {
            "time": NOON + n, "distinct_id": user, "$insert_id": f"i-{n}", "$device_id": "d-1",
            "$user_id": user, **HOSTILE, "n": n,
        },
    }
    for n, (name, user) in enumerate(
        [("Order Paid", "007"), ("=cmd", "-user"), ("'quoted", "null user"), ('Ω, "x"', "0x1F")]
    )
]  # fmt: skip


def canonical(events):
    return sorted(json.dumps(each, sort_keys=True) for each in events)


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A folder with the same events in every form, and the events that a stream yields."""
    folder = tmp_path_factory.mktemp("exports")
    with Emulator() as emu:
        write(folder / "events.ndjson", EVENTS)
        emu.load(folder / "events.ndjson")
        with Workspace(path=folder / "shop.db", credentials=ROBOT, base_url=emu.url) as ws:
            ws.fetch_events(**DAYS)
            ws.export_csv("events", folder / "table.csv")
            ws.export_csv("events", folder / "table.csv.gz")
            ws.export_parquet("events", folder / "table.parquet", partition_by=None)
            ws.export_parquet("events", folder / "lake")
            rows = ws.sql_rows("SELECT * REPLACE (event_time::VARCHAR AS event_time) FROM events")
            text = [dict(zip(rows.columns, row, strict=True)) for row in rows.rows]
            write(folder / "text.jsonl", text)
            nested = [row | {"properties": json.loads(row["properties"])} for row in text]
            write(folder / "nested.jsonl", nested)
            streamed = list(ws.stream_events(**DAYS))
            write(folder / "raw.ndjson", ws.stream_events(**DAYS, raw=True))
    write(folder / "pipeline.json", map(pipeline_row, EVENTS))
    columns = "* REPLACE (strptime(time, '%Y-%m-%d %H:%M:%S.%f UTC') AS time)"
    duckdb.connect().execute(
        f"COPY (SELECT {columns} FROM read_ndjson('{folder}/pipeline.json', columns = {{"
        "event_name: 'VARCHAR', time: 'VARCHAR', distinct_id: 'VARCHAR', insert_id: 'VARCHAR', "
        "device_id: 'VARCHAR', user_id: 'VARCHAR', properties: 'JSON'})) "
        f"TO '{folder}/pipeline.parquet' (FORMAT parquet)"
    )
    return folder, streamed


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def pipeline_row(event):
    """Return an event as a JSON pipeline writes it, with a time as BigQuery does."""
    properties = dict(event["properties"])
    at = datetime.fromtimestamp(properties.pop("time") / 1000, UTC)
    return {
        "event_name": event["event"],
        "time": f"{at:%Y-%m-%d %H:%M:%S.%f} UTC",
        "distinct_id": properties.pop("distinct_id"),
        "insert_id": properties.pop("$insert_id"),
        "device_id": properties.pop("$device_id"),
        "user_id": properties.pop("$user_id"),
        "properties": properties,
    }


def without_additions(event):
    """Return an event without what Mixpanel adds to it."""
    added = {"mp_processing_time_ms", "$mp_api_endpoint", "mp_lib", "$import"}
    kept = {k: v for k, v in event["properties"].items() if k not in added}
    return {"event": event["event"], "properties": kept}


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        "table.csv", "table.csv.gz", "table.parquet", "lake", "text.jsonl", "nested.jsonl",
        "raw.ndjson", "pipeline.json", "pipeline.parquet",
    ],
)  # fmt: skip
def test_an_export_is_read_as_the_same_events(exported, name):
    """Also with names that differ in case, formulas, quotes, line ends, and nested values."""
    folder, _ = exported
    assert canonical(EVENTS) == canonical(map(without_additions, read_events(folder / name)))


@pytest.mark.slow
def test_the_day_of_a_folder_is_not_a_property(tmp_path):
    """Also without a column of properties; other columns of folders are."""
    query = "SELECT 'A' AS event_name, TIMESTAMP '2026-01-01' AS event_time, 'u' AS distinct_id"
    with Database.open() as db:
        db.export_parquet(None, tmp_path / "country=PT", query=f"{query}, 5 AS amount")
    [event] = read_events(tmp_path)
    assert {"distinct_id", "time", "amount", "country"} == event["properties"].keys()


@pytest.mark.slow
def test_streamed_events_are_imported_as_the_same_events(exported):
    """`import_events` takes the rows of `stream_events`, with aware times."""
    _, streamed = exported
    with Emulator() as emu, Mixpanel("T", base_url=emu.url) as mp:
        result = mp.import_events(streamed)
        assert (len(EVENTS), 0) == (result.imported, result.rejected)
        assert canonical(EVENTS) == canonical(map(imported, emu.events()))


def imported(event):
    """Return an event as it was sent, without what the client and the server add."""
    properties = {k: v for k, v in event["properties"].items() if k not in ("ip", "token")}
    return without_additions({"event": event["event"], "properties": properties})


def test_rows_of_a_query_are_imported_with_json_text():
    """`properties` may be text, and a missing time of its own stays among the properties."""
    row = {
        "event_name": "A", "event_time": None, "distinct_id": None, "insert_id": "i",
        "properties": json.dumps({"time": NOON, "n": 1}),
    }  # fmt: skip
    with Emulator() as emu, Mixpanel("T", base_url=emu.url) as mp:
        assert 1 == mp.import_events([row]).imported
        (event,) = emu.events()
    assert (NOON, 1) == (event["properties"]["time"], event["properties"]["n"])


def test_a_row_that_is_no_event_is_rejected():
    """Such as a row whose properties are not an object."""
    row = {"event_name": "A", "event_time": None, "properties": "[1]"}
    with Emulator() as emu, Mixpanel("T", base_url=emu.url) as mp:
        result = mp.import_events([row])
    assert (0, 1) == (result.imported, result.rejected)


@pytest.mark.slow
def test_a_column_of_properties_can_be_an_ordinary_property(tmp_path):
    """Text stays as it is, and `Columns(properties="")` keeps objects as well."""
    write(tmp_path / "a.jsonl", [{"event_name": "A", "time": 1, "user_id": "u", "properties": "x"}])
    (event,) = read_events(tmp_path / "a.jsonl")
    assert "x" == event["properties"]["properties"]
    write(tmp_path / "b.csv", [])
    (tmp_path / "b.csv").write_text('name,time,user_id,properties\nA,1,u,"{""a"": 1}"\n')
    (event,) = read_events(tmp_path / "b.csv", Columns(properties=""))
    assert '{"a": 1}' == event["properties"]["properties"]
    (event,) = read_events(tmp_path / "b.csv")
    assert 1 == event["properties"]["a"]


def test_a_property_named_event_stays_one_in_a_typed_view(tmp_path):
    """The columns of a typed view are those of its table, and properties beside them."""
    row = {
        "event_name": "A", "event_time": "2026-01-01T12:00:00", "distinct_id": "u",
        "insert_id": "i", "event": "mine", "time": "noon", "id": 7,
    }  # fmt: skip
    write(tmp_path / "a.jsonl", [row])
    (event,) = read_events(tmp_path / "a.jsonl")
    assert ("A", "i") == (event["event"], event["properties"]["$insert_id"])
    assert ("mine", 7) == (event["properties"]["event"], event["properties"]["id"])
    assert 1_767_268_800_000 == event["properties"]["time"]
