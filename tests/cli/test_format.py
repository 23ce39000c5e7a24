"""How commands write results: json, jsonl, table, csv, plain, and through jq."""

import csv
import io
import json
import sys
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal
from enum import Enum

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mixpanel.cli._output.format import Format, OutputOptions, write
from mixpanel.exceptions import ConfigurationError

ROWS = [
    {"name": "Order Paid", "count": 3, "first": None, "new": True, "by": {"plan": "Größe"}},
    {"name": "[red]x", "count": -2, "extra": [1, 2]},
]


@dataclass
class Result:
    """What a query returns: nested for machines, flat for tables."""

    rows: list

    def to_dict(self):
        return {"rows": self.rows, "row_count": len(self.rows)}

    def to_table_dict(self):
        return self.rows


@pytest.fixture
def written(capsys):
    """Write a result, and return what came to stdout."""

    def run(result, form=None, jq=None):
        write(result, OutputOptions(form and Format(form), jq))
        return capsys.readouterr().out

    return run


# json, jsonl


def test_json_is_indented_and_readable(written):
    """By two spaces, with letters as they are."""
    text = written(ROWS)
    assert ROWS == json.loads(text)
    assert '    "plan": "Größe"' in text
    assert '{\n  "rows": [],\n  "row_count": 0\n}\n' == written(Result([]))


class Colour(Enum):
    RED = "red"


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (datetime(2026, 1, 31, 12, 0, 0, 500_000), "2026-01-31T12:00:00.500000"),
        (datetime(2026, 1, 31, tzinfo=UTC), "2026-01-31T00:00:00+00:00"),
        (date(2026, 1, 31), "2026-01-31"),
        (Decimal("1.50"), 1.5),
        (Decimal("3E+2"), 300),
        (Decimal("0.1234567890123456789"), "0.1234567890123456789"),
        (Decimal("NaN"), None),
        (float("nan"), None),
        (float("inf"), None),
        (2**70, 2**70),
        (Colour.RED, "red"),
        (b"ab\xff", "ab\\xff"),
        ({1}, [1]),
        (object, "<class 'object'>"),
        (Result([1]), {"rows": [1], "row_count": 1}),
        ({date(2026, 1, 31): 1}, {"2026-01-31": 1}),
        ({"deep": [float("nan"), Decimal(1)]}, {"deep": [None, 1]}),
    ],
)
def test_any_value_is_written_as_json(written, value, shown):
    """As a number if that loses nothing, as null if JSON has no such value, else as text."""
    assert {"it": shown} == json.loads(written({"it": value}))
    assert {"it": shown} == json.loads(written({"it": value}, "jsonl"))


def test_jsonl_is_a_line_for_each_row(written):
    """An object is one line."""
    assert ROWS == list(map(json.loads, written(ROWS, "jsonl").splitlines()))
    assert '{"a": 1}\n{"a": 2}\n' == written(({"a": n} for n in (1, 2)), "jsonl")
    assert '{"rows": [], "row_count": 0}\n' == written(Result([]), "jsonl")
    assert "" == written([], "jsonl")


def test_rows_of_an_iterator_are_written_at_once(capsys):
    """A stream is never held in memory."""

    def rows():
        yield {"name": "a"}
        seen.append(capsys.readouterr().out)

    for form, line in ((Format.JSONL, '{"name": "a"}\n'), (Format.PLAIN, "a\n")):
        seen = []
        write(rows(), OutputOptions(form))
        assert [line] == seen


@pytest.mark.parametrize("form", ["json", "jsonl", "csv", "plain", "table"])
@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_characters_that_stdout_cannot_encode_are_escaped(monkeypatch, form, encoding):
    """Half a surrogate pair, or é in ASCII; JSON stays JSON."""
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding=encoding))
    row = {"name": "é\ud83d"}
    write([row], OutputOptions(Format(form)))
    sys.stdout.flush()
    text = raw.getvalue().decode(encoding)
    assert "ud83d" in text
    if form.startswith("json"):
        assert json.loads(text) in (row, [row])


# table


def test_a_table_has_headers_and_readable_values(written):
    """The names of columns as they are, Yes and No, nothing for None, and markup as text."""
    lines = written(ROWS, "table").splitlines()
    assert ["name", "count", "first", "new", "by", "extra"] == lines[0].split()
    assert 'Order Paid      3         Yes  {"plan": "Größe"}' in lines[1]
    assert lines[2].split() == ["[red]x", "-2", "[1,", "2]"]
    assert "" == written([], "table")


def test_a_table_shows_the_rows_of_a_result(written):
    """An object without rows is a table of its fields."""
    assert "n\n1\n" == written(Result([{"n": 1}]), "table").replace(" ", "")
    lines = written({"first_day": None, "ok": True}, "table").splitlines()
    assert [["field", "value"], ["first_day"], ["ok", "Yes"]] == [line.split() for line in lines]
    assert ["value", "a"] == written(["a"], "table").split()


def test_a_table_in_a_file_is_not_folded(written, monkeypatch):
    """A file has no width."""
    monkeypatch.delenv("COLUMNS", raising=False)
    assert "x" * 300 in written([{"a": "x" * 300}], "table")


def test_a_table_escapes_control_characters(written):
    """They may come from an event name that a stranger sent."""
    text = written([{"name\x1b[2J": "\x1b]0;title\x07\x9b31m"}], "table")
    assert not {"\x1b", "\x07", "\x9b"} & set(text)
    assert "\\x1b]0;title\\x07\\x9b31m" in text


def test_a_table_that_would_break_words_is_written_as_records(written, monkeypatch):
    """A date stays readable in a narrow terminal."""
    row = {"name": "Flight Cancelled", "count": 520, "first": "2013-02-09 00:00", "share": 58.89}
    monkeypatch.setenv("COLUMNS", "45")
    assert "2013-02-09" in written([row], "table").split()
    assert "record 1" not in written([row], "table")
    monkeypatch.setenv("COLUMNS", "34")
    assert "record 1" in written([row], "table")


def test_a_table_without_rows_is_a_message(capsys):
    """On stderr, in the words of the command if it has any."""
    write([], OutputOptions(Format.TABLE))
    assert ("", "no rows\n") == capsys.readouterr()
    write([], OutputOptions(Format.TABLE), empty=None)
    write([], OutputOptions(Format.CSV))
    assert ("", "") == capsys.readouterr()


# csv


def test_csv_has_every_key(written):
    """Nothing for None, true and false, and JSON for nested values."""
    lines = written(ROWS, "csv").split("\n")
    assert "name,count,first,new,by,extra" == lines[0]
    assert 'Order Paid,3,,true,"{""plan"": ""Größe""}",' == lines[1]
    assert '[red]x,-2,,,,"[1, 2]"' == lines[2]
    assert "a,b\n1,false\n" == written({"a": 1, "b": False}, "csv")
    assert "value\nx\n" == written(["x"], "csv")
    assert 'a\n""\n' == written([{"a": None}], "csv")
    assert "" == written([], "csv")


@pytest.mark.parametrize(
    ("value", "cell"),
    [
        ("=1+1", "'=1+1"),
        ("+cmd|' /C calc'!A0", "'+cmd|' /C calc'!A0"),
        ("@SUM(A1)", "'@SUM(A1)"),
        ("-2+3", "'-2+3"),
        ("\t=1", "'\t=1"),
        ("\r=1", "'\r=1"),
        ("-", "'-"),
        ("-12.5", "-12.5"),
        ("+351", "+351"),
        ("-1e-7", "-1e-7"),
        (-3, "-3"),
        (-1.5, "-1.5"),
        (Decimal("-0.10"), "-0.1"),
        ("a=b", "a=b"),
        ("'=1", "'=1"),
    ],
)
def test_csv_cells_are_not_formulas(written, value, cell):
    """A spreadsheet shows them as text; numbers stay numbers."""
    rows = list(csv.reader(io.StringIO(written([{"=a": value, "b": 1}], "csv"), newline="")))
    assert [["'=a", "b"], [cell, "1"]] == rows


CELLS = st.text() | st.text("=+-@\t\r\n\"',a1 ")


@pytest.mark.slow
@given(st.lists(st.dictionaries(CELLS, st.none() | st.booleans() | CELLS | st.floats())))
def test_every_cell_of_csv_is_harmless(rows):
    """Whatever it holds, it is read back as the same rows, and none begins a formula."""
    out, sys.stdout = sys.stdout, io.TextIOWrapper(io.BytesIO(), "utf-8", newline="")
    try:
        write(rows, OutputOptions(Format.CSV))
        sys.stdout.seek(0)
        text = sys.stdout.read()
    finally:
        out, sys.stdout = sys.stdout, out
    for row in csv.reader(io.StringIO(text, newline="")):
        for cell in row:
            assert not cell.startswith(("=", "@", "\t", "\r"))
            if cell.startswith(("+", "-")):
                float(cell)


# plain


def test_plain_prints_one_value_for_each_row(written):
    """Its name, value, event or id, else its first value."""
    assert "Order Paid\n[red]x\n" == written(ROWS, "plain")
    assert "1\n2\n" == written([{"value": 1, "x": 0}, {"x": 2, "y": 3}], "plain")
    assert "a\nb\n" == written(["a", "b"], "plain")
    assert "7\n" == written({"id": 7, "kind": "x"}, "plain")
    assert "rows=3\nok=true\nlast=\n" == written({"rows": 3, "ok": True, "last": None}, "plain")
    assert "3\n" == written(3, "plain")


def test_mp_plain_makes_plain_the_default(written, monkeypatch):
    """`--format` overrides it."""
    monkeypatch.setenv("MP_PLAIN", "1")
    assert "x\n" == written([{"name": "x"}])
    assert '[\n  "x"\n]\n' == written(["x"], "json")
    monkeypatch.setenv("MP_PLAIN", "0")
    assert Format.JSON == OutputOptions().format


# jq


@pytest.mark.parametrize(
    ("expression", "form", "text"),
    [
        (".[].count", "json", "[\n  3,\n  -2\n]\n"),
        (".[].count", "jsonl", "3\n-2\n"),
        (".[0].by.plan", "json", '"Größe"\n'),
        ("map(.count)", "jsonl", "3\n-2\n"),
        (".[] | select(.count > 9)", "json", "[]\n"),
        (".[0].first", "json", "null\n"),
    ],
)
def test_jq_filters_json(written, expression, form, text):
    """No result is an empty list, one is itself, several are a list, or lines."""
    pytest.importorskip("jq")
    assert text == written(ROWS, form, expression)


def test_jq_reads_the_values_that_json_would_have(written):
    """Dates as text, and no NaN."""
    pytest.importorskip("jq")
    row = {"day": date(2026, 1, 31), "rate": float("nan")}
    assert '"2026-01-31"\n' == written(row, "json", ".day")
    assert "null\n" == written(row, "json", ".rate")


def test_jq_is_refused_for_other_formats(written):
    """Its results have no known columns."""
    for form in ("table", "csv", "plain"):
        with pytest.raises(ConfigurationError, match=f"json and jsonl, not on {form}"):
            written(ROWS, form, ".")


def test_a_filter_that_fails_is_one_error(written):
    """With jq's own words."""
    pytest.importorskip("jq")
    with pytest.raises(ConfigurationError, match=r"'\.a': Cannot index array"):
        written(ROWS, "json", ".a")


def test_without_jq_the_error_says_what_to_install(written, monkeypatch):
    """The rest of `mp` works without it."""
    monkeypatch.setitem(sys.modules, "jq", None)
    with pytest.raises(ImportError, match="pip install jq"):
        written(ROWS, "json", ".")


# The default


@pytest.mark.parametrize(
    ("is_terminal", "options", "expected"),
    [
        (True, {}, Format.TABLE),
        (False, {}, Format.JSON),
        (True, {"jq": "."}, Format.JSON),
        (True, {"requested": Format.CSV}, Format.CSV),
        (False, {"is_stream": True}, Format.JSONL),
        (True, {"is_stream": True}, Format.TABLE),
        (False, {"is_stream": True, "jq": "."}, Format.JSONL),
    ],
)
def test_a_terminal_gets_a_table_and_a_pipe_json(monkeypatch, is_terminal, options, expected):
    """Rows that come one by one are lines of JSON; `--format` and `--jq` decide before that."""
    monkeypatch.setattr(sys.stdout, "isatty", lambda: is_terminal)
    assert expected == OutputOptions(**options).format
