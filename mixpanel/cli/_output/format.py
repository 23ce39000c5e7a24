"""Results on stdout, in the formats of `--format`: table, JSON, lines of JSON, CSV, plain.

Every command that has a result takes `OutputOptions` and passes its result to `write`:

    @with_options(output=output_options)
    def tables(*, output: OutputOptions) -> None:
        write(found, output)
"""

import json
import math
import os
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, is_dataclass
from datetime import date, datetime, time
from decimal import Decimal
from enum import Enum, StrEnum
from typing import Annotated, Any

import typer

from mixpanel._records.spreadsheets import guarded
from mixpanel.cli._output.terminal import escape_controls, is_plain, say, stdout_console
from mixpanel.exceptions import ConfigurationError

INDENT = 2
UNBOUNDED_WIDTH = 1_000_000
RULE_WIDTH = 60
PADDING = 2  # between the columns of a table
FEW_COLUMNS = 2  # such as names and values, which are always a table
MAX_LINES = 2  # of a row of a table, else rows are written as records
TERMINAL_ROWS = 10_000  # rows of a stream that a terminal or a table shows unless limited
NAME_FIELDS = ("name", "value", "event", "id")  # the first one represents an object in plain output
REASONS_SHOWN = 5  # in a table; JSON has all of them


class Format(StrEnum):
    """How a result is written."""

    TABLE = "table"
    JSON = "json"
    JSONL = "jsonl"
    CSV = "csv"
    PLAIN = "plain"


@dataclass(frozen=True, slots=True)
class OutputOptions:
    """The values of `--format` and `--jq`.

    :raises ConfigurationError: for `--jq` with a format other than json and jsonl.
    """

    requested: Format | None = None
    jq: str | None = None
    is_stream: bool = False

    def __post_init__(self) -> None:
        if self.jq is not None and self.format not in (Format.JSON, Format.JSONL):
            raise ConfigurationError(
                f"--jq works on json and jsonl, not on {self.format}: add --format json"
            )

    @property
    def format(self) -> Format:
        """Return the format of `--format`, or the default.

        That is plain with `MP_PLAIN`, else a table on a terminal and JSON anywhere else or with
        `--jq`; a stream of rows is lines of JSON instead of one document.
        """
        if self.requested is not None:
            return self.requested
        if self.jq is None and is_plain():
            return Format.PLAIN
        if self.jq is None and sys.stdout is not None and sys.stdout.isatty():
            return Format.TABLE
        return Format.JSONL if self.is_stream else Format.JSON

    def for_stream(self) -> "OutputOptions":
        """Return the options for rows that are written as they come."""
        return OutputOptions(self.requested, self.jq, is_stream=True)


def _checked_filter(expression: str | None) -> str | None:
    """Refuse an expression that jq cannot compile before the command does anything else."""
    if expression is not None:
        try:
            _jq().compile(expression)
        except ValueError as error:
            reason = _jq_message(error)
            raise typer.BadParameter(f"invalid jq filter {expression!r}: {reason}") from error
    return expression


FormatOption = Annotated[
    Format | None,
    typer.Option(
        "--format", "-f", metavar="FORMAT", show_default="table on a terminal, else json",
        help="table, json, jsonl, csv or plain.",
    ),
]  # fmt: skip
JqOption = Annotated[
    str | None,
    typer.Option(
        "--jq", metavar="FILTER", callback=_checked_filter,
        help="Apply a jq filter to the JSON.",
    ),
]  # fmt: skip


TextFormatOption = Annotated[
    Format | None,
    typer.Option(
        "--format", "-f", metavar="FORMAT", show_default="text",
        help="table, json, jsonl, csv or plain.",
    ),
]  # fmt: skip


def output_options(*, format: FormatOption = None, jq: JqOption = None) -> OutputOptions:
    """Return the options for a command's result, see `with_options`."""
    return OutputOptions(format, jq)


def text_output_options(*, format: TextFormatOption = None, jq: JqOption = None) -> OutputOptions:
    """Return the options for a result that is text by default, see `with_options`."""
    return OutputOptions(format, jq)


@dataclass(frozen=True, slots=True)
class TableView:
    """A result whose table shows other rows than its JSON: a selection, or other units."""

    data: dict[str, Any]
    rows: Any

    def to_dict(self) -> dict[str, Any]:
        """Return the data for JSON."""
        return self.data

    def to_table_dict(self) -> Any:
        """Return rows for a table, or one mapping of names to values."""
        return self.rows


def delivery_summary(data: dict[str, Any], reasons: Mapping[str, int]) -> TableView:
    """Return the summary of a delivery: all reasons of rejections in JSON, few in a table."""
    common = sorted(reasons.items(), key=lambda item: -item[1])[:REASONS_SHOWN]
    rows = data | {f"rejected: {reason}": count for reason, count in common}
    return TableView(data | {"reasons": dict(reasons)}, rows)


def write(result: Any, output: OutputOptions, *, empty: str | None = "no rows") -> None:
    """Write a result on stdout.

    A result is a mapping, an iterable of mappings or of plain values, or an object with
    `to_dict()`; a table shows the rows of its `to_table_dict()`. Rows of an iterator are written as
    they come in jsonl and plain. For a table without rows, `empty` is printed on stderr.
    """
    if output.jq is not None:
        result = _filtered(_data(result), output.jq)
    if output.format is Format.TABLE:
        if not _write_table(result) and empty is not None:
            say(empty, "dim")
    elif output.format is Format.JSON:
        _print_json(_data(result), INDENT)
    elif output.format is Format.JSONL:
        for row in _rows_of(result):
            _print_json(row)
    elif output.format is Format.CSV:
        _write_csv(_data(result))
    else:
        _write_plain(result)


# ---- rows of a query ----------------------------------------------------------------------------


def write_value(value: Any, output: OutputOptions) -> None:
    """Write one value on stdout: as JSON in json and jsonl, else as text."""
    if output.jq is not None:
        value = _filtered(value, output.jq)
    if output.format in (Format.JSON, Format.JSONL):
        _print_json(value, INDENT if output.format is Format.JSON else None)
    elif output.format is Format.CSV:
        write_csv_line([value])
    else:
        _print(escape_controls(_cell(value)))


def default_limit(output: OutputOptions) -> int | None:
    """Return how many rows of a query are shown if no number was given; None for all of them.

    A table needs all its rows at once for the widths of its columns, so it does not show millions.
    """
    is_terminal = sys.stdout is not None and sys.stdout.isatty()
    return TERMINAL_ROWS if is_terminal or output.format is Format.TABLE else None


def takes_bytes(output: OutputOptions) -> bool:
    """Return True if rows can be written to stdout as bytes, without a filter or an escape."""
    return (
        output.jq is None
        and output.format in (Format.CSV, Format.JSON, Format.JSONL)
        and not sys.stdout.isatty()
        and hasattr(sys.stdout, "buffer")
        and _encoding().lower().replace("_", "-") == "utf-8"
    )


def write_bytes(chunks: Iterable[bytes]) -> int:
    """Write bytes on stdout as they come, and return the number of lines."""
    lines = 0
    sys.stdout.flush()
    for chunk in chunks:
        sys.stdout.buffer.write(chunk)
        lines += chunk.count(b"\n")
    sys.stdout.flush()
    return lines


def write_rows(
    columns: Sequence[str],
    types: Sequence[str],
    batches: Iterable[Sequence[Sequence[Any]]],
    output: OutputOptions,
) -> None:
    """Write rows on stdout in batches, as they come; a table and `--jq` need all of them first.

    JSON is one array with one row a line. Columns of JSON text are nested in it, not escaped.
    """
    nested = [number for number, type_ in enumerate(types) if type_ == "JSON"]
    if output.format is Format.CSV:
        write_csv_line(columns)
        for batch in batches:
            for row in batch:
                write_csv_line(row)
    elif output.format is Format.PLAIN:
        for batch in batches:
            for row in batch:
                _print("\t".join(_one_line(escape_controls(_cell(value))) for value in row))
    else:
        rows = (
            dict(zip(columns, _nested(row, nested), strict=True))
            for batch in batches
            for row in batch
        )
        if output.jq is not None or output.format is Format.TABLE:
            write(list(rows), output)
        elif output.format is Format.JSONL:
            for each in rows:
                _print_json(each)
        else:
            _print_array(rows)


def _nested(row: Sequence[Any], positions: Sequence[int]) -> Sequence[Any]:
    if not positions:
        return row
    values = list(row)
    for position in positions:
        if isinstance(values[position], str):
            values[position] = json_value(values[position])
    return values


def json_value(text: str) -> Any:
    """Return the value of JSON text, in which DuckDB also accepts NaN, or the text itself."""
    with suppress(ValueError):
        return json.loads(text)
    from mixpanel.data.store.parts import repair_text

    with suppress(ValueError):
        return json.loads(repair_text(text))
    return text


def _one_line(text: str) -> str:
    return text.replace("\t", " ").replace("\n", " ")


def _print_array(rows: Iterable[Any]) -> None:
    separator = "[\n\t"
    for row in rows:
        sys.stdout.write(separator)
        _print_json(row, end="")
        separator = ",\n\t"
    print("[]" if separator.startswith("[") else "\n]")


# ---- JSON ---------------------------------------------------------------------------------------


def _data(result: Any) -> Any:
    """Return a result as mappings, lists and values."""
    if hasattr(result, "to_dict"):
        return result.to_dict()
    if is_dataclass(result) and not isinstance(result, type):
        return asdict(result)
    if isinstance(result, Mapping | str | bytes) or not isinstance(result, Iterable):
        return result
    return [_data(each) for each in result]


def _rows_of(result: Any) -> Iterator[Any]:
    if isinstance(result, Mapping | str | bytes) or hasattr(result, "to_dict"):
        yield _data(result)
    elif isinstance(result, Iterable):
        yield from map(_data, result)
    else:
        yield _data(result)


def _json(value: Any, indent: int | None = None, *, ascii_only: bool = False) -> str:
    try:
        return json.dumps(
            value, indent=indent, ensure_ascii=ascii_only, allow_nan=False, default=_json_value
        )
    except (TypeError, ValueError):  # a NaN, or a key that is not text
        return json.dumps(_finite(value), indent=indent, ensure_ascii=ascii_only)


def _json_value(value: Any) -> Any:
    """Return the JSON value closest to a Python value."""
    if isinstance(value, datetime | date | time):
        return value.isoformat()
    if isinstance(value, Decimal):
        if not value.is_finite():
            return None
        # A number, unless a reader's float would lose digits.
        number = int(value) if value == value.to_integral_value() else float(value)
        return number if Decimal(str(number)) == value else str(value)
    if isinstance(value, Enum):
        return value.value
    if hasattr(value, "to_dict") or (is_dataclass(value) and not isinstance(value, type)):
        return _data(value)
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, bytes | bytearray):
        return bytes(value).decode("utf-8", "backslashreplace")
    if isinstance(value, set | frozenset | Iterator):
        return list(value)
    to_list = getattr(value, "tolist", None)
    if type(value).__module__ == "numpy" and to_list is not None:
        return to_list()
    return str(value)


def _finite(value: Any) -> Any:
    """Return a value with None for NaN and infinity, and text for every key."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, str | int):
        return value
    if isinstance(value, Mapping):
        return {_text(key): _finite(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(each) for each in value]
    return _finite(_json_value(value))


def _filtered(data: Any, expression: str) -> Any:
    """Return [] for no result of the filter, a single result as it is, and several as a list."""
    try:
        found = _jq().compile(expression).input_text(_json(data)).all()
    except ValueError as error:
        raise ConfigurationError(f"--jq {expression!r}: {_jq_message(error)}") from error
    return found[0] if len(found) == 1 else found


def _jq_message(error: ValueError) -> str:
    first = str(error).partition("\n")[0].rstrip(": ")
    return first.removeprefix("jq: ").removeprefix("error: ")


def _jq() -> Any:
    try:
        import jq
    except ImportError as error:
        raise ImportError("--jq needs: pip install jq") from error
    return jq


# ---- tables, CSV, plain -------------------------------------------------------------------------


def _write_table(result: Any) -> bool:
    """Print a table; return False if there are no rows for it."""
    flat = result.to_table_dict() if hasattr(result, "to_table_dict") else _data(result)
    if isinstance(flat, Mapping):
        rows = [{"field": name, "value": value} for name, value in flat.items()]
    else:
        rows = [_row(each) for each in (flat if isinstance(flat, list) else [flat])]
    columns = _columns(rows)
    if columns:
        _print_table(rows, columns)
    return bool(columns)


def _print_table(rows: list[dict[str, Any]], columns: list[str]) -> None:
    from rich.measure import Measurement
    from rich.table import Table
    from rich.text import Text

    console = stdout_console()
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console.width = UNBOUNDED_WIDTH  # nothing is folded in a file
    wide = console.options.update(max_width=UNBOUNDED_WIDTH)
    table = Table(box=None, pad_edge=False, header_style="dim")
    fixed, flexible, words = PADDING * (len(columns) - 1), 0, 0
    for name in columns:
        values = [row[name] for row in rows if row.get(name) is not None]
        is_numeric = bool(values) and all(map(_is_number, values))
        title = _shown(name)
        longest = Measurement.get(
            console, wide, Text("\n".join([title, *map(_shown_cell, values)]))
        )
        is_one_word = longest.minimum == longest.maximum
        fixed += longest.maximum if is_one_word else 0
        flexible += 0 if is_one_word else longest.maximum
        words += 0 if is_one_word else longest.minimum
        # Rich breaks words of a column before it has wrapped the others.
        table.add_column(
            Text(title),
            overflow="fold",
            no_wrap=is_one_word and len(columns) > FEW_COLUMNS,
            justify="right" if is_numeric else "left",
        )
    # A table is read by its columns: rows of many lines, or of broken words, are easier to read as
    # records.
    space = console.width - fixed
    is_wide = len(columns) > FEW_COLUMNS and flexible > space
    if is_wide and (flexible > MAX_LINES * space or words > space):
        _print_records(rows, columns, console)
        return
    for row in rows:
        table.add_row(*(Text(_shown_cell(row.get(name))) for name in columns))
    console.print(table)


def _shown(text: str) -> str:
    return _printable(escape_controls(text))


def _shown_cell(value: Any) -> str:
    return _shown(_cell(value, "Yes", "No"))


def _print_records(rows: list[dict[str, Any]], columns: list[str], console: Any) -> None:
    """Print one field a line, as `psql -x` does, for rows that are wider than the terminal."""
    from rich.table import Table
    from rich.text import Text

    for number, row in enumerate(rows, 1):
        title = f"-[ record {number} ]"
        console.print(Text(title.ljust(min(console.width, RULE_WIDTH), "-"), "dim"))
        record = Table(box=None, pad_edge=False, show_header=False)
        record.add_column(style="dim", overflow="fold", max_width=console.width // 2)
        record.add_column(overflow="fold")
        for name in columns:
            record.add_row(Text(_shown(name)), Text(_shown_cell(row.get(name))))
        console.print(record)


def _write_csv(data: Any) -> None:
    rows = [_row(each) for each in (data if isinstance(data, list) else [data])]
    columns = _columns(rows)
    if columns:
        write_csv_line(columns)
    for row in rows if columns else ():
        write_csv_line([row.get(name) for name in columns])


def write_csv_line(cells: Iterable[Any]) -> None:
    """Write one line of CSV on stdout, with text escaped that a spreadsheet would run.

    In a file control characters stay: programs read them as data. A terminal would act on them.
    """
    line = ",".join(map(_csv_cell, cells)) or '""'
    _print(escape_controls(line) if sys.stdout.isatty() else line)


def _write_plain(result: Any) -> None:
    if isinstance(result, Mapping) or hasattr(result, "to_dict"):
        data = _data(result)
        if isinstance(data, Mapping) and not any(name in data for name in NAME_FIELDS):
            for name, value in data.items():
                _print(escape_controls(f"{name}={_cell(value)}"))
            return
    for each in _rows_of(result):
        _print(escape_controls(_cell(_plain_value(each))))


def _plain_value(row: Any) -> Any:
    """Return the value that represents a row: its name, value, event or id, else the first."""
    if not isinstance(row, Mapping):
        return row
    name = next((name for name in NAME_FIELDS if name in row), None)
    return row[name] if name is not None else next(iter(row.values()), None)


def _row(value: Any) -> dict[str, Any]:
    if isinstance(value, Mapping):
        return {_text(key): each for key, each in value.items()}
    return {"value": value}


def _columns(rows: Iterable[Mapping[str, Any]]) -> list[str]:
    return list(dict.fromkeys(name for row in rows for name in row))


def _cell(value: Any, yes: str = "true", no: str = "false") -> str:
    """Return a value as text: nothing for None, JSON for lists and objects."""
    if isinstance(value, bool):
        return yes if value else no
    if not isinstance(value, str | int | float | Mapping | list | tuple) and value is not None:
        value = _json_value(value)
    if value is None:
        return ""
    if isinstance(value, Mapping | list | tuple):
        return _json(value)
    return _text(value)


def _csv_cell(value: Any) -> str:
    """Return a quoted cell that a spreadsheet does not take for a formula."""
    if isinstance(value, datetime):  # one format in a whole column, as pandas requires
        text = value.isoformat(" ", "microseconds")
    else:
        text = _cell(value) if _is_number(value) else guarded(_cell(value))
    # The csv module leaves a bare carriage return unquoted, and readers begin a new row after it.
    if any(character in text for character in ',"\r\n'):
        return '"' + text.replace('"', '""') + '"'
    return text


def _text(value: Any) -> str:
    return value if isinstance(value, str) else str(_json_value(value))


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float | Decimal) and not isinstance(value, bool)


# ---- what stdout can encode ---------------------------------------------------------------------


def _print_json(value: Any, indent: int | None = None, *, end: str = "\n") -> None:
    text = _json(value, indent)
    if not _can_encode(text):
        text = _json(value, indent, ascii_only=True)
    # JSON allows these control characters in a string, a terminal acts on them.
    print(re.sub(r"[\x7f-\x9f]", lambda found: f"\\u{ord(found[0]):04x}", text), end=end)


def _print(text: str) -> None:
    print(_printable(text))


def _printable(text: str) -> str:
    if _can_encode(text):
        return text
    return text.encode(_encoding(), "backslashreplace").decode(_encoding())


def _can_encode(text: str) -> bool:
    """Return True unless stdout lacks a character: an unpaired surrogate, or é in ASCII."""
    try:
        text.encode(_encoding())
    except UnicodeEncodeError:
        return False
    return True


def _encoding() -> str:
    return getattr(sys.stdout, "encoding", None) or "utf-8"
