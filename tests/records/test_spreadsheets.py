"""Text in CSV files that a spreadsheet would evaluate is guarded by every writer."""

import csv
import io
import sys
from pathlib import Path

import duckdb
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from mixpanel._records.spreadsheets import guarded, guarded_sql
from mixpanel.cli import export as export_command
from mixpanel.cli._output.format import Format, OutputOptions, write
from mixpanel.cli._output.terminal import complain, key_value_table
from mixpanel.cli.app import app
from mixpanel.data.results import SQLResult
from mixpanel.data.store import Database

STARTS = "=+-@\uff1d\uff0b\uff0d\uff20\ufe66\ufe62\ufe63\ufe6b\u2212"
BEFORE = ["", " ", "\t", "\r", "\n", "\r\n\t", "\u00a0", "\u3000", "\u200b", "\ufeff", "\u202e"]
RUNS = [before + start + "1+1" for start in STARTS for before in BEFORE]
RUNS += ["\tx", "\rx", "\nx", "\x00=1", "-inf", "-1-1", "+a", "-\u0661", "=", "@"]
SAFE = [
    "",
    "a",
    "a=1",
    "-5",
    "+5",
    "-.5e-3",
    "1e5",
    "'=1",
    "a\t=1",
    "(=1)",
    "{}",
    "[-1]",
    "\x1b[0m",
]
ESCAPE = "\x1b]0;owned\x07\x9b31m\x7f"


@pytest.fixture(scope="module")
def connection():
    """Connect to DuckDB."""
    with duckdb.connect() as opened:
        yield opened


@pytest.mark.slow
@pytest.mark.parametrize("text", RUNS)
def test_text_that_a_spreadsheet_would_evaluate_is_guarded(text):
    """Also fullwidth forms, and text after white space or invisible characters."""
    assert "'" + text == guarded(text)


@pytest.mark.parametrize("text", SAFE)
def test_other_text_and_numbers_are_unchanged(text):
    """A guard would change the data for nothing."""
    assert text == guarded(text)


@pytest.mark.slow
@given(st.text(st.sampled_from(STARTS + "".join(BEFORE) + "a0.5e\x00'\u0661 "), max_size=6))
def test_sql_and_python_guard_the_same_text(connection, text):
    """Two regular expression engines, one meaning."""
    query = f"SELECT {guarded_sql('$text')}"
    assert guarded(text) == connection.execute(query, {"text": text}).fetchone()[0]


@pytest.mark.slow
def test_all_writers_of_csv_guard_alike(tmp_path, capsys):
    """`export csv` of a table and `query --format csv` of its rows are the same cells."""
    with Database.open(tmp_path / "a.db") as db:
        db.sql_rows(
            'CREATE TABLE t AS SELECT i, v AS "\uff1dv", -i AS n FROM (SELECT unnest(?) AS v, '
            "unnest(range(len(?))) AS i)",
            [[*RUNS, *SAFE]] * 2,
            write=True,
        )
        [file] = db.export_csv("t", tmp_path / "t.csv")
        found = db.sql_rows("FROM t ORDER BY i")
    with Path(file).open(encoding="utf-8", newline="") as lines:
        header, *exported = csv.reader(lines)
    write([dict(zip(found.columns, row, strict=True)) for row in found], OutputOptions(Format.CSV))
    output, *printed = csv.reader(io.StringIO(capsys.readouterr().out, newline=""))
    assert ["i", "'\uff1dv", "n"] == header == output
    assert printed == sorted(exported, key=lambda row: int(row[0]))
    assert [guarded(text) for text in [*RUNS, *SAFE]] == [row[1] for row in printed]


@pytest.mark.slow
def test_column_names_of_an_empty_table_are_guarded(tmp_path):
    """As those of a table with rows."""
    Database.open(tmp_path / "a.db").close()
    query = 'SELECT 1 AS "=x" WHERE false'
    command = ["query", "sql", "--db", str(tmp_path / "a.db"), "--format", "csv", query]
    assert "'=x\n" == CliRunner().invoke(app, command).stdout


# ---- control characters -------------------------------------------------------------------------


class Terminal(io.StringIO):
    """A terminal that keeps what it gets."""

    encoding = "utf-8"

    def isatty(self):
        return True


def test_plain_output_contains_no_control_characters(capsys):
    """But for line ends and tabs; what is escaped can still be read."""
    write([ESCAPE + "\n\t"], OutputOptions(Format.PLAIN))
    write({"a": ESCAPE}, OutputOptions(Format.PLAIN))
    output = capsys.readouterr().out
    assert r"\x1b]0;owned\x07\x9b31m\x7f" + "\n\t\n" in output
    assert r"a=\x1b]0;owned\x07\x9b31m\x7f" + "\n" in output
    assert not set(ESCAPE[:1] + "\x07\x9b\x7f") & set(output)


def test_json_contains_no_control_characters(capsys):
    """JSON allows some in strings; their escapes mean the same."""
    for form in (Format.JSON, Format.JSONL):
        write([ESCAPE], OutputOptions(form))
        output = capsys.readouterr().out
        assert not set("\x1b\x07\x9b\x7f") & set(output)
        assert r"\u001b]0;owned\u0007\u009b31m\u007f" in output


@pytest.mark.parametrize("terminal", [False, True])
def test_csv_is_escaped_on_a_terminal_only(monkeypatch, terminal):
    """In a file the characters are data, which programs read."""
    out = Terminal() if terminal else io.StringIO()
    monkeypatch.setattr(sys, "stdout", out)
    write([{"a": ESCAPE}], OutputOptions(Format.CSV))
    assert terminal == (ESCAPE not in out.getvalue())
    assert terminal == (r"\x1b]0;owned" in out.getvalue())


@pytest.mark.slow
def test_an_export_to_a_terminal_is_escaped(tmp_path, monkeypatch):
    """As the output of a query is."""
    with Database.open(tmp_path / "a.db") as db:
        db.sql_rows("CREATE TABLE t AS SELECT ? AS a", [ESCAPE], write=True)
    out = Terminal()
    monkeypatch.setattr(sys, "stdout", out)
    export_command.csv("t", "-", db=tmp_path / "a.db")
    assert "a\n" + r"\x1b]0;owned\x07\x9b31m\x7f" + "\n" == out.getvalue()


def test_messages_and_reprs_contain_no_control_characters(capsys):
    """Text from a server or a table is shown, never sent to the terminal raw."""
    complain(ESCAPE)
    assert r"\x1b]0;owned\x07\x9b31m\x7f" in capsys.readouterr().err
    [cell] = key_value_table([("a", ESCAPE)]).columns[1].cells
    assert r"\x1b]0;owned\x07\x9b31m\x7f" == str(cell)
    assert "\x1b" not in repr(SQLResult(["a", "b"], [(ESCAPE, 1), (ESCAPE, 2)]))
