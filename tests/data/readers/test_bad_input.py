"""Cells, lines, names and encodings that are not what they should be."""

import gzip
import json
import math
import re
from datetime import UTC, datetime
from decimal import Decimal

import duckdb
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mixpanel import ConfigurationError
from mixpanel.data.readers import (
    RaggedCSVError,
    ReadOptions,
    UnreadableRow,
    read_events,
    read_rows,
    text_files,
)
from mixpanel.data.readers.options import converted

HEADER = "event,time,user_id"
GOOD = {"event": "A", "properties": {"time": 1000, "distinct_id": "u"}}


@pytest.fixture
def write(tmp_path):
    """Write a file and return its path."""

    def write(name, content, encoding="utf-8"):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode(encoding))
        return path

    return write


def rows(path, **options):
    return list(read_rows(path, lambda _: (), ReadOptions(**options)))


def column(path, name, **options):
    return [each.get(name) for each in rows(path, **options)]


# Cells


@pytest.mark.slow
def test_whole_numbers_as_decimals_are_reported_in_a_column_of_ids(write):
    """17.0 and 17 would be two people. They are sent as they are, unless a type is stated."""
    path = write("a.csv", "id,n\n016,1\n17.0,2\n,3\n18.00,4\nu-17.0,5\n")

    def ids(found, **options):
        options = ReadOptions(on_mixed=found.append, **options)
        return [row["id"] for row in read_rows(path, lambda _: {"id": "text"}, options)]

    found = []
    assert ids(found) == ["016", "17.0", None, "18.00", "u-17.0"]
    (decimal,) = found
    assert (decimal.column, decimal.offenders, decimal.cells) == ("id", 2, 4)
    assert (decimal.first, decimal.row) == ("17.0", 2)
    assert "17.0 and 17 are different ids" in str(decimal)
    assert ids(stated := [], types={"id": "text"}) == ["016", "17.0", None, "18.00", "u-17.0"]
    assert stated == []


def test_a_bad_cell_among_numbers_is_reported(write):
    """With the column, the first offender and its row, and how many there are."""
    cells = ["12.5"] * 16 + ["n/a"] + ["7"] * 900 + ["unknown"]
    found = []
    path = write("a.csv", "amount,name\n" + "".join(f"{cell},x\n" for cell in cells))
    assert cells == column(path, "amount", on_mixed=found.append)
    (mixed,) = found
    expected = ("amount", "number", 2, 918, "n/a", 17)
    assert expected == (
        mixed.column, mixed.type, mixed.offenders, mixed.cells, mixed.first, mixed.row
    )  # fmt: skip
    assert str(mixed) == (
        "a.csv: the column 'amount' stays text, because 2 of 918 cells are not numbers; the first "
        "is 'n/a' in row 17"
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    "cells", ["a b c 1", "x y", "1", "1 2", "1 a", "true", "2026-01-01 n/a", "1  2"]
)
def test_other_columns_are_not_reported(write, cells):
    """Such as text with a few numbers in it, or numbers with empty cells."""
    text = "x,y\n" + "".join(f"{cell},1\n" for cell in cells.split(" "))
    rows(write("a.csv", text), on_mixed=pytest.fail)


def test_a_bad_cell_among_booleans_is_reported(write):
    """As among numbers."""
    found = []
    rows(write("a.csv", "x,y\ntrue,1\nfalse,2\nmaybe,3\n"), on_mixed=found.append)
    assert [("boolean", "maybe", 3)] == [(one.type, one.first, one.row) for one in found]


def test_a_stated_type_rejects_rows_with_other_cells(write):
    """The reason names the column, and the record has the cell; empty cells stay empty."""
    path = write("a.csv", "amount,n\n12.5,1\nn/a,2\n,3\n123,4\n")
    found = rows(path, types={"amount": "number"}, on_mixed=pytest.fail)
    assert [12.5, None, None, 123] == [each.get("amount") for each in found]
    bad = found[1]
    assert isinstance(bad, UnreadableRow)
    assert ("amount is not a number", {"amount": "n/a", "n": 2}) == (bad.problem, bad.record)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("type_", "cell", "value"),
    [
        ("text", "12", "12"), ("number", "12", 12), ("number", "1e3", 1000.0),
        ("number", "123456789012345678901", 123456789012345678901), ("boolean", "True", True),
        ("boolean", "0", False), ("date", "2026-01-31", datetime(2026, 1, 31, tzinfo=UTC)),
        ("json", '"{""a"": [1]}"', {"a": [1]}),
    ],
)  # fmt: skip
def test_types_can_be_stated(write, type_, cell, value):
    """A cell becomes a value of that type."""
    assert [value] == column(write("a.csv", f"x,y\n{cell},1\n"), "x", types={"x": type_})


@pytest.mark.slow
@given(
    st.text("0123456789+-.eE_ x½٣", max_size=12)
    | st.from_regex(r"-?[0-9]{1,25}(\.[0-9]{1,20})?([eE][+-]?[0-9]{1,3})?", fullmatch=True)
)
def test_a_stated_number_is_exact_or_rejected(text):
    """No zero, sign or digit of an identifier is lost in silence."""
    try:
        value = converted("x", text, "number", None)
    except ValueError as error:
        assert str(error).startswith("x ")  # noqa: PT017 - whether it raises depends on the text
        return
    plain = text.strip()
    assert plain.isascii()
    assert not re.match(r"[+]|-?0\d|.*_", plain)
    if re.fullmatch(r"-?\d+", plain):
        assert plain.lstrip("-") == str(abs(int(value)))
    else:  # decimals beyond the fifteenth digit are rounded
        assert math.isfinite(value)
        assert float(Decimal(plain)) == value
        assert (value == 0) == (Decimal(plain) == 0)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("cell", "why"),
    [
        ("017", "has leading zeros, which a number would lose"),
        ("-00.5", "has leading zeros"), ("+5", "has a plus sign, which a number would lose"),
        ("1e400", "is too large or too small"), ("1e-400", "is too large or too small"),
        ("12345678901234567.5", "has more digits than a number with decimals holds"),
        ("9" * 400, "is too large"), ("0x10", "is not a number"), ("1_000", "is not a number"),
        ("½", "is not a number"), ("٣", "is not a number"), ("nan", "is not a number"),
        ("5.", "is not a number"), ("1 000", "is not a number"),
    ],
)  # fmt: skip
def test_a_number_that_would_change_is_rejected_with_the_reason(write, cell, why):
    """The row is set aside as it is written."""
    (row,) = rows(write("a.csv", f'x,y\n"{cell}",1\n'), types={"x": "number"})
    assert isinstance(row, UnreadableRow)
    assert row.problem.startswith(f"x {why}")
    assert row.record["x"] == cell


@pytest.mark.slow
@pytest.mark.parametrize("cell", ["1e+400", "1e-400", "-0", "017", "+5", "1_000"])
def test_a_number_that_would_change_stays_text(write, cell):
    """Without a stated type."""
    assert [cell, cell] == column(write("a.csv", f"x,y\n{cell},1\n{cell},1\n"), "x")


@pytest.mark.slow
@pytest.mark.parametrize("cell", ["017", "1_000", "٣", "Y"])
def test_a_stated_date_is_no_such_number(write, cell):
    """Seconds since 1970 are written plainly."""
    (row,) = rows(write("a.csv", f"x,y\n{cell},1\n"), types={"x": "date"})
    assert "x is not a date" == row.problem


def test_a_stated_date_keeps_its_microseconds(write):
    """Also those of another zone."""
    at = datetime(2026, 1, 31, 12, 0, 0, 123456, tzinfo=UTC)
    cell = "2026-01-31T14:00:00.123456+02:00"
    assert [at] == column(write("a.csv", f"x,y\n{cell},1\n"), "x", types={"x": "date"})


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"types": {"x": "money"}}, "choose one of text, number"),
        ({"encoding": "utf-99"}, "unknown encoding 'utf-99'"),
        ({"encoding": "rot13"}, "unknown encoding 'rot13'"),
        ({"date_format": "%Q"}, "date_format='%Q'"),
    ],
)
def test_wrong_options_are_refused(options, why):
    """Before a file is read."""
    with pytest.raises(ConfigurationError, match=why):
        ReadOptions(**options)


def test_a_type_needs_a_column_of_a_csv_file(write):
    """A misspelt column is not ignored, and other files have types of their own."""
    with pytest.raises(ConfigurationError, match="no column 'y' to give a type; it has 'x'"):
        rows(write("a.csv", "x\n1\n"), types={"y": "text"})
    with pytest.raises(ConfigurationError, match="types= are for CSV files"):
        rows(write("a.ndjson", "{}"), types={"y": "text"})


@pytest.mark.slow
def test_dates_have_a_stated_form_or_stay_text(write):
    """Nobody can tell whether 01/02/2026 is in January; in a stated form it is in February."""
    text = f"{HEADER},paid\nA,01/02/2026,u,01/02/2026\nA,31/02/2026,u,01/02/2026\n"
    first, _ = read_events(write("a.csv", text))
    assert "01/02/2026" == first["properties"]["time"] == first["properties"]["paid"]
    options = ReadOptions(date_format="%d/%m/%Y", types={"paid": "date"})
    first, second = read_events(write("a.csv", text), None, options)
    assert 1_769_904_000_000 == first["properties"]["time"]
    assert datetime(2026, 2, 1, tzinfo=UTC) == first["properties"]["paid"]
    assert "time is not of the form %d/%m/%Y" == second.problem


@pytest.mark.slow
@pytest.mark.parametrize(
    "text", ["2026-01-01 12:00:00 UTC", "2026/1/1 12:00", "2026-01-01T12:00:00.000000000Z"]
)
def test_unambiguous_times_need_no_format(write, text):
    """As BigQuery, spreadsheets and other programs write them."""
    (event,) = read_events(write("a.csv", f"{HEADER}\nA,{text},u\n"))
    assert 1_767_268_800_000 == event["properties"]["time"]


def test_long_integers_keep_their_digits(write):
    """A floating-point number would make several ids one."""
    path = write("a.csv", "x,y\n123456789012345678901,1\n123456789012345678902,0.5\n")
    found = column(path, "x")  # integers, or text, by the version of DuckDB
    assert ["123456789012345678901", "123456789012345678902"] == list(map(str, found))
    path = write("b.csv", "x,y\n1234567890123456789,1\n0.5,2\n")
    assert ["1234567890123456789", "0.5"] == column(path, "x", on_mixed=pytest.fail)


# Names


HOSTILE = ["Plan", "plan", "PLAN", "a.b", 'a"b', "select", "📦", "$x", "x y", "'q'"]


@pytest.mark.slow
def test_a_column_without_a_name_is_refused_if_it_has_cells(write):
    """DuckDB would invent one, and the index of pandas become a property `column0`."""
    with pytest.raises(ConfigurationError, match=r"column 1 has cells, but no name .*index=False"):
        rows(write("a.csv", ",x\n0,a\n1,b\n"))
    empty = write("b.csv", "x,,y,\na,,1,\nb,,2,\n")
    assert [{"x": "a", "y": 1}, {"x": "b", "y": 2}] == rows(empty)
    ragged = rows(write("c.csv", "x,\na,\nb\n"), keep_ragged=True)
    assert [{"x": "a"}, {}] == ragged


def test_names_of_csv_columns_are_kept(write):
    """Also names that differ only in case, quotes, SQL words and emoji."""
    quoted = ",".join('"' + name.replace('"', '""') + '"' for name in HOSTILE)
    values = ",".join(str(n) for n in range(len(HOSTILE)))
    (row,) = rows(write("a.csv", f"{quoted}\n{values}\n"))
    assert {name: n for n, name in enumerate(HOSTILE)} == row


def test_names_of_parquet_columns_are_kept(tmp_path):
    """DuckDB would rename `plan` beside `Plan`."""
    pa = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    parquet.write_table(pa.table({name: [n] for n, name in enumerate(HOSTILE)}), tmp_path / "a.pq")
    (row,) = rows(tmp_path / "a.pq")
    assert {name: n for n, name in enumerate(HOSTILE)} == row


@pytest.mark.parametrize("inside", [{"Ab": 1, "ab": 2}, {"list": [{"Ab": 1, "ab": 2}]}])
def test_names_in_a_struct_that_differ_in_case_are_refused(tmp_path, inside):
    """DuckDB renames them, so that nobody would find the values."""
    pa = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    parquet.write_table(pa.table({"s": [inside]}), tmp_path / "a.parquet")
    with pytest.raises(ConfigurationError, match=r"'Ab', 'ab' in the column 's.*differ only in"):
        rows(tmp_path / "a.parquet")


def test_equal_names_are_refused(write):
    """One of the two values would be lost."""
    with pytest.raises(ConfigurationError, match=r"a\.csv: several columns are named 'x'"):
        rows(write("a.csv", "x,y,x\n1,2,3\n"))


@pytest.mark.heavy
@pytest.mark.slow
def test_ten_thousand_columns_are_read(write):
    """As many properties as an event may have, and more."""
    names = [f"p{n}" for n in range(10_000)]
    text = f"{HEADER},{','.join(names)}\nA,1,u,{','.join(map(str, range(10_000)))}\n"
    (event,) = read_events(write("a.csv", text))
    assert {name: n for n, name in enumerate(names)}.items() <= event["properties"].items()
    properties = {"time": 1, "distinct_id": "u", **{name: [{"a": [1]}] for name in names}}
    event = {"event": "A", "properties": properties}
    assert [event] == list(read_events(write("a.ndjson", json.dumps(event))))


# Lines


RAGGED = f"{HEADER}\nA,1,u\nA,1\nA,1,u\nA,1,u,x,y\n\nA,1,u\nA\n"


def test_all_ragged_lines_are_named(write):
    """Up to twenty of them."""
    with pytest.raises(RaggedCSVError) as caught:
        rows(write("a.csv", RAGGED))
    assert str(caught.value) == (
        "a.csv: line 3 has 2 cells, line 5 has 5 cells, line 8 has 1 cell, the first line has 3"
    )
    many = f"{HEADER}\nA,1,u\n" + "A,1\n" * 298
    with pytest.raises(RaggedCSVError, match="line 22 has 2 cells, and 278 more lines, the first"):
        rows(write("b.csv", many))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["a.csv", "a.csv.gz"])
def test_ragged_lines_can_be_set_aside(write, name):
    """Each is an unreadable row in its place, so that the positions of the others stay."""
    path = write(name, gzip.compress(RAGGED.encode()) if name.endswith(".gz") else RAGGED)
    found = list(read_events(path, None, ReadOptions(keep_ragged=True)))
    assert [GOOD, {}, GOOD, {}, GOOD, {}] == found
    bad = [each for each in found if not each]
    assert "the line has 2 cells, the first line has 3" == bad[0].problem
    columns = dict.fromkeys(HEADER.split(","), "text")
    assert {"line": 5, "columns": columns, "cells": ["A", "1", "u", "x", "y"]} == bad[1].record
    assert 8 == bad[2].record["line"]


def test_types_are_detected_without_the_ragged_lines(write):
    """A number stays a number."""
    path = write("a.csv", "x,y\n1,2\n1,2,3\n4,5\n")
    assert [1, None, 4] == column(path, "x", keep_ragged=True)


def test_an_open_quote_cannot_be_set_aside(write):
    """All lines after it belong to the cell."""
    with pytest.raises(ConfigurationError, match="line 3: a quote is not closed"):
        rows(write("a.csv", 'x,y\n1,2\n"1,2\n3,4\n'), keep_ragged=True)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ('{"event": ', "the line is not valid JSON"),
        ("[1]", "the line is not a JSON object"),
        (
            '{"event": "A", "properties": {"a": 1, "a": 2}}',
            "is ambiguous: the key 'a' occurs twice",
        ),
        ("[" * 100_000, "the line is nested too deeply"),
        (b'{"a": "\xff"}', "the line is not UTF-8"),
        ('{"a": "' + "x" * 2000 + '"}', "the line has more than 1,000 bytes"),
    ],
)
def test_a_line_of_json_that_cannot_be_read_is_named(write, monkeypatch, line, problem):
    """By its number, with the beginning of its text; the others are read."""
    monkeypatch.setattr(text_files, "MAX_LINE_BYTES", 1000 if "1,000" in problem else 10**6)
    line = line if isinstance(line, bytes) else line.encode()
    found = rows(write("a.ndjson", b'{"n": 1}\n\n' + line + b'\n{"n": 2}\n'))
    assert [{"n": 1}, {}, {"n": 2}] == found
    assert problem in found[1].problem
    assert 3 == found[1].record["line"]
    assert len(found[1].record["text"]) <= 50_000
    assert found[1].record.get("truncated", False) == (len(line) > 1000)


@pytest.mark.slow
def test_a_csv_line_may_be_longer_than_two_megabytes(write):
    """DuckDB's default is shorter."""
    assert [3_000_000] == [
        len(x) for x in column(write("a.csv", "x,y\n" + "x" * 3_000_000 + ",1\n"), "x")
    ]


@pytest.mark.slow
def test_a_csv_line_that_is_too_long_is_set_aside(write):
    """It is named with its line number, and the others are read."""
    path = write("a.csv", "x,y\n1,a\n2," + "z" * 17_000_000 + "\n3,b\n")
    with pytest.raises(RaggedCSVError, match="line 3 has more than 16,000,000 bytes"):
        rows(path)
    found = rows(path, keep_ragged=True)
    assert [{"x": 1, "y": "a"}, {}, {"x": 3, "y": "b"}] == found
    assert "the line has more than 16,000,000 bytes" == found[1].problem
    assert ["2", "z" * 200] == found[1].record["cells"]
    assert found[1].record["truncated"]


@pytest.mark.slow
def test_a_truncated_gzip_file_says_so(write):
    """The rows before the end are read."""
    whole = gzip.compress("".join(f'{{"n": {n}}}\n' for n in range(100_000)).encode())
    with pytest.raises(ConfigurationError, match=r"a\.ndjson\.gz: the compressed data is broken"):
        rows(write("a.ndjson.gz", whole[: len(whole) // 2]))


# Encodings


@pytest.mark.slow
@pytest.mark.parametrize("encoding", ["utf-16", "utf-8-sig", "utf-32", "utf-16-le", "utf-16-be"])
@pytest.mark.parametrize("name", ["a.csv", "a.csv.gz", "a.ndjson"])
def test_a_byte_order_mark_gives_the_encoding(write, name, encoding):
    """As spreadsheets on Windows write it."""
    text = '{"naïve": "café"}\n' if name == "a.ndjson" else "naïve,b\ncafé,1\n"
    data = text.encode(encoding)
    found = rows(write(name, gzip.compress(data) if name.endswith(".gz") else data))
    assert ["café"] == [row["naïve"] for row in found]


def test_an_encoding_can_be_stated(write):
    """Without it, the error names the line and the argument."""
    path = write("a.csv", "name,b\nx,1\ncafé,2\n", "cp1252")
    assert ["x", "café"] == column(path, "name", encoding="cp1252")
    with pytest.raises(ConfigurationError, match=r"a\.csv: line 3 is not UTF-8; pass encoding="):
        rows(path)
    with pytest.raises(ConfigurationError, match=r"a\.csv is not ascii .* pass another encoding="):
        rows(path, encoding="ascii")


def test_a_table_of_duckdb_is_read_as_it_is(tmp_path):
    """Nested values and exact numbers of Parquet stay."""
    duckdb.connect().execute(
        f"COPY (SELECT 170141183460469231731687303715884105727::HUGEINT::VARCHAR AS h, "
        f"{{'a': [1, NULL]}} AS s) TO '{tmp_path}/a.parquet' (FORMAT parquet)"
    )
    (row,) = rows(tmp_path / "a.parquet")
    assert {"h": str(2**127 - 1), "s": {"a": [1, None]}} == row


@pytest.mark.slow
def test_a_file_that_needs_more_memory_than_its_limit_is_named_with_what_helps(
    tmp_path, monkeypatch
):
    """The limit is that of the local database: an argument, or MP_MEMORY_LIMIT."""
    path = tmp_path / "a.parquet"
    with duckdb.connect() as connection:
        query = "SELECT 'A' AS event, 1 AS time, 'u' AS user_id, repeat('x', 40000000) AS text"
        connection.execute(f"COPY ({query}) TO '{path}' (COMPRESSION zstd)")
    assert 40_000_000 == len(rows(path, memory_limit="2GB", threads=1)[0]["text"])
    monkeypatch.setenv("MP_MEMORY_LIMIT", "50MB")
    with pytest.raises(ConfigurationError, match=r"a\.parquet cannot be read: .*memory_limit="):
        rows(path)
    with pytest.raises(ConfigurationError, match="memory_limit='a lot' must be a size"):
        rows(path, memory_limit="a lot")
