"""Files of events: what `read_events` makes of NDJSON, CSV and Parquet."""

import gzip
import json
from datetime import UTC, date, datetime
from pathlib import Path

import duckdb
import pytest

from mixpanel import ConfigurationError
from mixpanel.data.store import Columns, count_rows, read_events, to_milliseconds

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
    duckdb.sql(f"COPY ({select}) TO '{path}' (FORMAT parquet)")
    return path


# NDJSON


@pytest.mark.parametrize("name", ["a.ndjson", "a.jsonl", "a.json", "a.ndjson.gz"])
def test_exported_events_come_back_as_they_were(write, name):
    """Values keep their types, whatever the lines around them hold."""
    events = [
        {"event": "A", "properties": {"time": 1, "n": 1, "list": [1, "a", {"b": None}]}},
        {"event": "B", "properties": {"time": 2.5, "n": "1", "big": 2**53 + 1}, "extra": True},
    ]
    assert events == read(write(name, events))


def test_a_json_file_may_hold_an_array(write):
    """One array of events is a common way to write them."""
    assert [EVENT, EVENT] == read(write("a.json", json.dumps([EVENT, EVENT], indent=1)))


def test_flat_lines_become_events(write):
    """The usual names are found; the rest are properties; null is left out."""
    row = {**FLAT, "amount": 12.5, "coupon": None}
    assert [EVENT] == read(write("a.ndjson", [row]))


def test_each_line_may_have_other_names(write):
    """Only a first line without the needed names stops the reading."""
    rows = [FLAT, {"event": "B", "ts": 1, "distinct_id": 7}, {"event": "C"}]
    last = read(write("a.ndjson", rows))[1:]
    assert {"event": "B", "properties": {"time": 1000, "distinct_id": "7"}} == last[0]
    assert {"event": "C", "properties": {"time": None}} == last[1]


def test_a_line_that_is_no_json_keeps_its_position(write):
    """It comes as an empty event, to be refused on its own."""
    path = write("a.ndjson", f'{json.dumps(EVENT)}\n{{"event": \n[1]\n{json.dumps(EVENT)}\n')
    assert [EVENT, {}, {}, EVENT] == read(path)


# CSV and Parquet


def test_a_csv_becomes_events(write):
    """Numbers are numbers, but ids keep the zeros in front; empty cells are left out."""
    text = "event,time,user_id,id,amount,coupon\nOrder Paid,2026-01-01 12:00:00,007,a-1,12.5,\n"
    assert [EVENT] == read(write("a.csv", text))
    assert [EVENT] == read(write("a.csv.gz", text))
    assert [EVENT] == read(write("a.tsv", text.replace(",", "\t")))


def test_a_csv_is_judged_by_all_of_its_rows(write):
    """A column that turns out to be text after many numbers is text."""
    rows = "".join(f"A,{n},u,{n}\n" for n in range(30_000))
    events = read(write("a.csv", f"event,time,user_id,code\n{rows}A,1,u,x9\n"))
    assert ("0", "x9") == (events[0]["properties"]["code"], events[-1]["properties"]["code"])


def test_a_parquet_file_becomes_events(tmp_path):
    """Typed columns arrive as what they are, time zones included."""
    path = parquet(
        tmp_path / "a.parquet",
        "SELECT 'Order Paid' AS event, TIMESTAMPTZ '2026-01-01 13:00:00+01' AS time, "
        "'007' AS user_id, 'a-1' AS id, 12.5::DOUBLE AS amount",
    )
    assert [EVENT] == read(path)


def test_other_time_columns_need_no_further_package(tmp_path):
    """Times with a zone can be read without a time zone library."""
    path = parquet(
        tmp_path / "a.parquet",
        "SELECT 'A' AS event, 1 AS time, 'u' AS user_id, "
        "TIMESTAMPTZ '2026-01-01 13:00:00+01' AS paid, [TIMESTAMPTZ '2026-01-01 13:00+01'] AS all",
    )
    (event,) = read(path)
    assert datetime(2026, 1, 1, 12) == event["properties"]["paid"]
    assert isinstance(event["properties"]["all"], str)


def test_rows_come_in_the_order_of_the_file(tmp_path):
    """A position means the same event in every run."""
    path = parquet(
        tmp_path / "a.parquet",
        "SELECT 'A' AS event, i AS time, 'u' AS user_id, i AS i FROM range(300000) AS t(i)",
    )
    assert list(range(300_000)) == [event["properties"]["i"] for event in read_events(path)]
    assert 300_000 == count_rows(path)


# Columns


def test_columns_can_be_named(write):
    """Where the usual names are missing, or mean something else."""
    text = "what,when,who,key,name\nA,1,u,k-1,Ada\n"
    (event,) = read(
        write("a.csv", text), event="what", time="when", distinct_id="who", insert_id="key"
    )
    properties = {"name": "Ada", "time": 1000, "distinct_id": "u", "$insert_id": "k-1"}
    assert {"event": "A", "properties": properties} == event


def test_one_name_for_all_rows(write):
    """A table of orders is a table of one event; its `name` is a property."""
    (event,) = read(write("a.csv", "time,user_id,name\n1,u,Emma\n"), event_name="Order Paid")
    assert ("Order Paid", "Emma") == (event["event"], event["properties"]["name"])


def test_usual_names_are_found_in_any_case(write):
    """Spreadsheets like capitals."""
    (event,) = read(write("a.csv", "Event,Timestamp,User_ID\nA,1,u\n"))
    assert {"event": "A", "properties": {"time": 1000, "distinct_id": "u"}} == event


def test_events_without_a_user_must_be_asked_for(write):
    """Forgetting the user by accident would make every event useless."""
    path = write("a.csv", "event,time\nA,1\n")
    with pytest.raises(ConfigurationError, match="'distinct_id' or 'user_id'"):
        read(path)
    assert [{"event": "A", "properties": {"time": 1000}}] == read(path, distinct_id="")


@pytest.mark.parametrize("columns", [{}, {"time": "when"}, {"insert_id": "key"}])
def test_a_missing_column_is_an_error_that_names_the_others(write, columns):
    """Whoever reads it knows what to write instead."""
    text = "event,clock,user_id\nA,1,u\n" if not columns.get("insert_id") else "event,time,user_id"
    with pytest.raises(ConfigurationError, match=r"a\.csv has no column .* it has 'event', '"):
        read(write("a.csv", f"{text}\nA,1,u\n"), **columns)


def test_ids_that_mixpanel_would_refuse_are_hashed(write):
    """The same id gives the same hash, so that a second import makes no copies."""
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
    """What is no time stays as it is, for the server to refuse."""
    told = to_milliseconds(given)
    assert expected == told
    assert type(told) in (int, str)


@pytest.mark.parametrize("odd", [float("nan"), float("inf"), True, "nan", "-inf"])
def test_odd_times_end_in_no_loop(odd):
    """Infinity has no milliseconds."""
    assert repr(to_milliseconds(odd)) in (repr(odd), repr(float(odd)))


# Files that cannot be read


def test_an_unknown_ending_is_an_error(write):
    """The ending decides; guessing would misread."""
    with pytest.raises(ConfigurationError, match=r"\.ndjson, \.jsonl"):
        read(write("a.xlsx", "x"))


def test_a_broken_file_is_an_error_of_one_line(write):
    """DuckDB's reason, without its stack."""
    with pytest.raises(ConfigurationError) as failed:
        read(write("a.parquet", "no parquet at all"))
    assert "a.parquet: " in str(failed.value)
    assert "\n" not in str(failed.value)


ROW = "A,1,u\n"


@pytest.mark.parametrize("name", ["a.csv", "a.csv.gz"])
@pytest.mark.parametrize(
    ("text", "why"),
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
def test_a_csv_that_does_not_fit_is_refused_whole(write, name, text, why):
    """DuckDB would guess another form, in which rows disappear."""
    with pytest.raises(ConfigurationError) as failed:
        read(write(name, text))
    assert f"{name}: {why}" == str(failed.value)


def test_nothing_of_a_csv_is_a_comment_or_a_preamble(write):
    """Nor is a quote anything but a double one: what looks like it is data."""
    rows = "#1,1,u\n" + ROW + "'A,1,o'neil\n" + '"a ""b"", c",1,u\n'
    events = read(write("a.csv", f"event,time,user_id\n{rows}"))
    assert ["#1", "A", "'A", 'a "b", c'] == [event["event"] for event in events]
    title = write("b.csv", f"Orders of May\nevent,time,user_id\n{ROW}")
    with pytest.raises(ConfigurationError, match="it has 'Orders of May'"):
        read(title)


@pytest.mark.parametrize(
    ("cells", "values"),
    [
        ("f f", "f f"), ("T F", "T F"), ("No Yes", "No Yes"), ("0x1F 0x20", "0x1F 0x20"),
        ("5e3 6e3", "5e3 6e3"), ("01234 99999", "01234 99999"), ("12:30 12:31", "12:30 12:31"),
        ("+5 5", "+5 5"), ("1 x", "1 x"), ("true False", [True, False]), ("1 -20", [1, -20]),
        ("12.50 -3", [12.5, -3.0]), ("1e-05 .5", [1e-05, 0.5]),
    ],
)  # fmt: skip
def test_a_column_is_of_numbers_only_when_it_is_written_so(write, cells, values):
    """A code, a postcode, a gender or a clock's time is not taken for something else."""
    rows = "".join(f"A,1,u,{cell}\n" for cell in cells.split())
    events = read(write("a.csv", f"event,time,user_id,x\n{rows}"))
    expected = values.split() if isinstance(values, str) else values
    assert expected == [event["properties"]["x"] for event in events]


def test_a_value_may_be_longer_than_pythons_own_reader_takes(write):
    """It is asked only why DuckDB failed."""
    (event,) = read(write("a.csv", f"event,time,user_id,x\nA,1,u,{'x' * 200_000}\n"))
    assert 200_000 == len(event["properties"]["x"])


def test_a_name_is_not_a_pattern(write):
    """Brackets and stars in a file's name mean themselves."""
    path = write("a[1]*.csv", "event,time,user_id\nA,1,u\n")
    write("a1.csv", "event,time,user_id\nWrong,1,u\n")
    assert ["A"] == [event["event"] for event in read(path)]


@pytest.mark.parametrize("name", ["a.ndjson", "a.csv", "a.parquet"])
def test_rows_are_counted(write, tmp_path, name):
    """For the progress bar, before the first event is read."""
    if name == "a.parquet":
        path = parquet(tmp_path / name, "SELECT i FROM range(3) AS t(i)")
    else:
        path = write(name, "x\n1\n2\n3\n" if name == "a.csv" else "{}\n{}\n{}\n")
    assert 3 == count_rows(path)


def test_the_shipped_events_can_be_read():
    """The file of real events is whole: 291 flights that flew, 393 that did not."""
    path = Path(__file__).parents[2] / "examples" / "data" / "flights.ndjson"
    events = list(read_events(path))
    assert 975 == len(events) == len({event["properties"]["$insert_id"] for event in events})
