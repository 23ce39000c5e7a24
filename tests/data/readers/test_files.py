"""Reading events from NDJSON, CSV and Parquet files."""

import gzip
import json
from datetime import UTC, date, datetime
from pathlib import Path

import duckdb
import pytest

from mixpanel import ConfigurationError, Mixpanel, ValidationError
from mixpanel.data.readers import Columns, count_rows, read_events, to_milliseconds

NOON = 1_767_268_800_000  # 2026-01-01T12:00:00Z in milliseconds
FLAT = {"event": "Order Paid", "time": "2026-01-01T12:00:00Z", "user_id": "007", "id": "a-1"}
EVENT = {
    "event": "Order Paid",
    "properties": {"amount": 12.5, "time": NOON, "distinct_id": "007", "$insert_id": "a-1"},
}


@pytest.fixture
def write(tmp_path):
    """Write a file, lines or text, and return its path."""

    def write(name, content):
        text = content if isinstance(content, str) else "\n".join(map(json.dumps, content))
        path = tmp_path / name
        data = text.encode()
        path.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
        return path

    return write


def read(path, **columns):
    return list(read_events(path, Columns(**columns)))


def parquet(path, select):
    duckdb.connect().execute(f"COPY ({select}) TO '{path}' (FORMAT parquet)")
    return path


# NDJSON


@pytest.mark.slow
@pytest.mark.parametrize("name", ["a.ndjson", "a.jsonl", "a.json", "a.ndjson.gz"])
def test_exported_events_are_unchanged(write, name):
    """Values keep their types, whatever types other lines have."""
    events = [
        {"event": "A", "properties": {"time": 1, "n": 1, "list": [1, "a", {"b": None}]}},
        {"event": "B", "properties": {"time": 2.5, "n": "1", "big": 2**53 + 1}, "extra": True},
    ]
    assert events == read(write(name, events))


def test_a_json_file_can_be_an_array(write):
    """It yields the events of the array."""
    assert [EVENT, EVENT] == read(write("a.json", json.dumps([EVENT, EVENT], indent=1)))


def test_flat_lines_become_events(write):
    """The usual names are recognised; other keys are properties; null is left out."""
    row = {**FLAT, "amount": 12.5, "coupon": None}
    assert [EVENT] == read(write("a.ndjson", [row]))


def test_each_line_can_have_its_own_keys(write):
    """Only a first line without the needed keys raises."""
    rows = [FLAT, {"event": "B", "ts": 1, "distinct_id": 7}, {"event": "C"}]
    last = read(write("a.ndjson", rows))[1:]
    assert {"event": "B", "properties": {"time": 1000, "distinct_id": "7"}} == last[0]
    assert {"event": "C", "properties": {"time": None}} == last[1]


def test_a_line_that_is_not_json_yields_an_empty_event(write):
    """Positions stay right, and validation rejects the event alone."""
    path = write("a.ndjson", f'{json.dumps(EVENT)}\n{{"event": \n[1]\n{json.dumps(EVENT)}\n')
    assert [EVENT, {}, {}, EVENT] == read(path)


# CSV and Parquet


@pytest.mark.slow
def test_a_csv_becomes_events(write):
    """Numbers are converted, ids keep leading zeros, and empty cells are left out."""
    text = "event,time,user_id,id,amount,coupon\nOrder Paid,2026-01-01 12:00:00,007,a-1,12.5,\n"
    assert [EVENT] == read(write("a.csv", text))
    assert [EVENT] == read(write("a.csv.gz", text))
    assert [EVENT] == read(write("a.tsv", text.replace(",", "\t")))


@pytest.mark.slow
def test_types_of_a_csv_are_detected_from_all_rows(write):
    """A column with text after many numbers is text."""
    rows = "".join(f"A,{n},u,{n}\n" for n in range(30_000))
    events = read(write("a.csv", f"event,time,user_id,code\n{rows}A,1,u,x9\n"))
    assert ("0", "x9") == (events[0]["properties"]["code"], events[-1]["properties"]["code"])


def test_a_parquet_file_becomes_events(tmp_path):
    """Columns keep their types, including time zones."""
    path = parquet(
        tmp_path / "a.parquet",
        "SELECT 'Order Paid' AS event, TIMESTAMPTZ '2026-01-01 13:00:00+01' AS time, "
        "'007' AS user_id, 'a-1' AS id, 12.5::DOUBLE AS amount",
    )
    assert [EVENT] == read(path)


def test_times_with_a_zone_need_no_other_package(tmp_path):
    """They can be read without pytz."""
    path = parquet(
        tmp_path / "a.parquet",
        "SELECT 'A' AS event, 1 AS time, 'u' AS user_id, "
        "TIMESTAMPTZ '2026-01-01 13:00:00+01' AS paid, [paid] AS all",
    )
    (event,) = read(path)
    assert datetime(2026, 1, 1, 12) == event["properties"]["paid"]
    assert isinstance(event["properties"]["all"], str)


@pytest.mark.slow
def test_rows_keep_the_order_of_the_file(tmp_path):
    """A position is the same event in every run."""
    path = parquet(
        tmp_path / "a.parquet",
        "SELECT 'A' AS event, i AS time, 'u' AS user_id, i AS i FROM range(300000) AS t(i)",
    )
    assert list(range(300_000)) == [event["properties"]["i"] for event in read_events(path)]
    assert 300_000 == count_rows(path)


# Columns


def test_columns_can_be_named(write):
    """This helps if the usual names are missing, or mean something else."""
    text = "what,when,who,key,name\nA,1,u,k-1,Ada\n"
    (event,) = read(
        write("a.csv", text), event="what", time="when", distinct_id="who", insert_id="key"
    )
    properties = {"name": "Ada", "time": 1000, "distinct_id": "u", "$insert_id": "k-1"}
    assert {"event": "A", "properties": properties} == event


def test_one_event_name_can_apply_to_all_rows(write):
    """A column `name` is then a property."""
    (event,) = read(write("a.csv", "time,user_id,name\n1,u,Emma\n"), event_name="Order Paid")
    assert ("Order Paid", "Emma") == (event["event"], event["properties"]["name"])


def test_usual_column_names_ignore_case(write):
    """Spreadsheets often use capitals."""
    (event,) = read(write("a.csv", "Event,Timestamp,User_ID\nA,1,u\n"))
    assert {"event": "A", "properties": {"time": 1000, "distinct_id": "u"}} == event


@pytest.mark.slow
def test_events_without_a_user_require_an_option(write):
    """Otherwise a missing column of users raises."""
    path = write("a.csv", "event,time\nA,1\n")
    with pytest.raises(ConfigurationError, match="'distinct_id' or 'user_id'"):
        read(path)
    assert [{"event": "A", "properties": {"time": 1000}}] == read(path, distinct_id="")


@pytest.mark.slow
@pytest.mark.parametrize("columns", [{}, {"time": "when"}, {"insert_id": "key"}])
def test_the_error_of_a_missing_column_names_the_others(write, columns):
    """It names the parameter to pass."""
    text = "event,clock,user_id\nA,1,u\n" if not columns.get("insert_id") else "event,time,user_id"
    with pytest.raises(ConfigurationError, match=r"a\.csv has no column .* it has 'event', '"):
        read(write("a.csv", f"{text}\nA,1,u\n"), **columns)


def test_ids_that_mixpanel_would_reject_are_hashed(write):
    """Equal ids have equal hashes, so that a second import creates no duplicates."""
    text = "event,time,user_id,id\nA,1,u,order_7\nA,1,u,order_7\nA,1,u,order_8\nA,1,u,null\n"
    ids = [each["properties"]["$insert_id"] for each in read(write("a.csv", text))]
    assert ids[0] == ids[1] != ids[2]
    assert all(len(one) == 36 and one.isalnum() for one in ids)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("2026-01-01T12:00:00Z", NOON),
        ("2026-01-01T12:00:00", NOON),
        ("2026-01-01 13:00:00+01:00", NOON),
        (" 2026-01-01T12:00:00.000Z ", NOON),
        (datetime(2026, 1, 1, 12), NOON),
        (datetime(2026, 1, 1, 12, tzinfo=UTC), NOON),
        (date(2026, 1, 1), NOON - 12 * 3_600_000),
        (NOON // 1000, NOON),
        (NOON / 1000 + 0.5, NOON + 500),
        (NOON, NOON),
        (NOON * 1000, NOON),
        (NOON * 1_000_000, NOON),
        (str(NOON // 1000), NOON),
        (str(NOON), NOON),
        ("yesterday", "yesterday"),
        ("", ""),
    ],
)
def test_times_become_whole_milliseconds(given, expected):
    """An invalid time is unchanged, and rejected by the server."""
    result = to_milliseconds(given)
    assert expected == result
    assert type(result) in (int, str)


@pytest.mark.parametrize("odd", [float("nan"), float("inf"), True, "nan", "-inf"])
def test_invalid_numbers_are_not_converted_to_times(odd):
    """These are NaN, infinities and booleans."""
    assert repr(to_milliseconds(odd)) in (repr(odd), repr(float(odd)))


# Files that cannot be read


def test_an_unknown_file_extension_raises(write):
    """The error names the known ones."""
    with pytest.raises(ConfigurationError, match=r"\.ndjson, \.jsonl"):
        read(write("a.xlsx", "x"))


def test_the_error_of_a_broken_file_is_one_line(write):
    """It has DuckDB's reason without its stack trace."""
    with pytest.raises(ConfigurationError) as failed:
        read(write("a.parquet", "no parquet at all"))
    assert "a.parquet: " in str(failed.value)
    assert "\n" not in str(failed.value)


ROW = "A,1,u\n"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["a.csv", "a.csv.gz"])
@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (
            f"event,time,user_id\n{ROW * 30}A,1,u,more\n",
            "line 32 has 4 cells, the first line has 3",
        ),
        (f"event,time,user_id\n{ROW}A\n{ROW}", "line 3 has 1 cell, the first line has 3"),
        (f"event;time;user_id\n{ROW}", "line 2 has 1 cell, the first line has 3"),
        (f'event,time,user_id\n{ROW}A,1,"u\n{ROW}', "line 3: a quote is not closed"),
        (f"\nevent,time,user_id\n{ROW}", "the first line is empty; it must name the columns"),
        ("", "the first line is empty; it must name the columns"),
    ],
    ids=["long", "short", "other delimiter", "open quote", "blank first", "empty"],
)
def test_a_malformed_csv_is_refused_whole(write, name, text, reason):
    """DuckDB would detect another dialect, in which rows disappear."""
    with pytest.raises(ConfigurationError) as failed:
        read(write(name, text))
    assert f"{name}: {reason}" == str(failed.value)


def test_a_csv_has_no_comments_and_no_preamble(write):
    """Lines that resemble them are data, and so are single quotes."""
    rows = "#1,1,u\n" + ROW + "'A,1,o'neil\n" + '"a ""b"", c",1,u\n'
    events = read(write("a.csv", f"event,time,user_id\n{rows}"))
    assert ["#1", "A", "'A", 'a "b", c'] == [event["event"] for event in events]
    title = write("b.csv", f"Orders of May\nevent,time,user_id\n{ROW}")
    with pytest.raises(ConfigurationError, match="it has 'Orders of May'"):
        read(title)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("cells", "values"),
    [
        ("f f", "f f"), ("T F", "T F"), ("No Yes", "No Yes"), ("0x1F 0x20", "0x1F 0x20"),
        ("5e3 6e3", "5e3 6e3"), ("01234 99999", "01234 99999"), ("12:30 12:31", "12:30 12:31"),
        ("+5 5", "+5 5"), ("1 x", "1 x"), ("true False", [True, False]), ("1 -20", [1, -20]),
        ("12.50 -3", [12.5, -3.0]), ("1e-05 .5", [1e-05, 0.5]),
    ],
)  # fmt: skip
def test_csv_columns_are_converted_only_if_unambiguous(write, cells, values):
    """Codes, postcodes, genders and times of day stay text."""
    rows = "".join(f"A,1,u,{cell}\n" for cell in cells.split())
    events = read(write("a.csv", f"event,time,user_id,x\n{rows}"))
    expected = values.split() if isinstance(values, str) else values
    assert expected == [event["properties"]["x"] for event in events]


def test_a_value_can_exceed_the_limit_of_pythons_csv_reader(write):
    """That reader is used only to explain errors of DuckDB."""
    (event,) = read(write("a.csv", f"event,time,user_id,x\nA,1,u,{'x' * 200_000}\n"))
    assert 200_000 == len(event["properties"]["x"])


def test_a_file_name_is_not_a_glob_pattern(write):
    """Brackets and stars in it are literal."""
    path = write("a[1]*.csv", "event,time,user_id\nA,1,u\n")
    write("a1.csv", "event,time,user_id\nWrong,1,u\n")
    assert ["A"] == [event["event"] for event in read(path)]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["a.ndjson", "a.csv", "a.parquet"])
def test_rows_are_counted(write, tmp_path, name):
    """`count_rows` works for every format."""
    if name == "a.parquet":
        path = parquet(tmp_path / name, "SELECT i FROM range(3) AS t(i)")
    else:
        path = write(name, "x\n1\n2\n3\n" if name == "a.csv" else "{}\n{}\n{}\n")
    assert 3 == count_rows(path)


def test_the_example_events_can_be_read():
    """The file has 975 events with distinct insert ids."""
    path = Path(__file__).parents[3] / "examples" / "data" / "flights.ndjson"
    events = list(read_events(path))
    assert 975 == len(events) == len({event["properties"]["$insert_id"] for event in events})


def test_serial_dates_of_a_spreadsheet_are_not_taken_for_seconds(write):
    """They stay as they are, and the import refuses each with the date that was meant."""
    rows = read(write("e.csv", "event,time,distinct_id\nA,45661.4,u\n"))
    assert rows[0]["properties"]["time"] == 45661.4
    with pytest.raises(ValidationError, match="2025-01-04 09:36"):
        Mixpanel("t")._composer.import_event(rows[0])


def test_ids_of_a_column_of_floats_are_whole_numbers(tmp_path):
    """As a table with missing values has them."""
    path = parquet(
        tmp_path / "e.parquet",
        "SELECT 'A' AS event, 1700000000 AS time, unnest([17.0::DOUBLE, NULL]) AS distinct_id",
    )
    with_user, without = read(path)
    assert with_user["properties"]["distinct_id"] == "17"
    assert "distinct_id" not in without["properties"]
