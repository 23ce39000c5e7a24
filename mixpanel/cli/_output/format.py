"""Write results on stdout: as JSON, lines of JSON, a table, CSV, or the plain values."""

import json
import math
import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, is_dataclass
from datetime import date, datetime, time
from decimal import Decimal
from enum import Enum, StrEnum
from typing import Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from mixpanel._records.spreadsheets import guarded
from mixpanel.cli._output.terminal import json_visible, out, plain, visible
from mixpanel.exceptions import ConfigurationError

INDENT = 2
WIDEST = 1_000_000
NAMES = ("name", "value", "event", "id")  # what stands for a whole object in plain output


class Format(StrEnum):
    """How a command writes its result."""

    JSON = "json"
    JSONL = "jsonl"
    TABLE = "table"
    CSV = "csv"
    PLAIN = "plain"


@dataclass(frozen=True, slots=True)
class Options:
    """Hold what `--format` and `--jq` asked for; make them first, so that mistakes cost nothing.

    :raises ConfigurationError: for `--jq` with another format than json and jsonl.
    """

    format: Format | None = None
    jq: str | None = None

    def __post_init__(self) -> None:
        if self.jq is not None and self.written not in (Format.JSON, Format.JSONL):
            raise ConfigurationError(
                f"--jq works on json and jsonl, not on {self.written}: add --format json"
            )

    @property
    def written(self) -> Format:
        """Return the format to write: json unless another is asked for, or plain by `MP_PLAIN`."""
        if self.format is not None:
            return self.format
        return Format.PLAIN if plain() else Format.JSON


def _program(expression: str | None) -> str | None:
    """Refuse an expression that jq cannot read before anything else is done."""
    if expression is not None:
        try:
            _jq().compile(expression)
        except ValueError as error:
            raise typer.BadParameter(f"{expression!r} is no jq filter: {_why(error)}") from error
    return expression


As = Annotated[
    Format | None,
    typer.Option(
        "--format", "-f", show_default="json, or plain with MP_PLAIN=1",
        help="How to write the result.",
    ),
]  # fmt: skip
Jq = Annotated[
    str | None,
    typer.Option(
        "--jq", metavar="EXPR", callback=_program, help="Pass json or jsonl through this jq filter."
    ),
]


def write(result: Any, options: Options) -> None:
    """Write a result on stdout.

    A result is a mapping, a list or iterator of mappings or of plain values, or an object with
    `to_dict()`; a table shows the rows of its `to_table_dict()`. Rows from an iterator are written
    as they come in jsonl and plain.
    """
    kind = options.written
    if options.jq is not None:
        result = _filtered(_data(result), options.jq)
    if kind is Format.TABLE:
        _write_table(result)
    elif kind is Format.JSON:
        _print_json(_data(result), INDENT)
    elif kind is Format.JSONL:
        for row in _each(result):
            _print_json(row)
    elif kind is Format.CSV:
        _write_csv(_data(result))
    else:
        _write_plain(result)


# ---- JSON ---------------------------------------------------------------------------------------


def _data(result: Any) -> Any:
    """Return a result as mappings, lists and values."""
    if hasattr(result, "to_dict"):
        return result.to_dict()
    if is_dataclass(result) and not isinstance(result, type):
        return asdict(result)
    if isinstance(result, Mapping | str | bytes) or not isinstance(result, Iterable):
        return result
    return [_data(one) for one in result]


def _each(result: Any) -> Iterator[Any]:
    if isinstance(result, Mapping | str | bytes) or hasattr(result, "to_dict"):
        yield _data(result)
    elif isinstance(result, Iterable):
        yield from map(_data, result)
    else:
        yield _data(result)


def _json(value: Any, indent: int | None = None, *, ascii_only: bool = False) -> str:
    try:
        return json.dumps(
            value, indent=indent, ensure_ascii=ascii_only, allow_nan=False, default=_plainer
        )
    except (TypeError, ValueError):  # a NaN, or a key that JSON has not
        return json.dumps(_valid(value), indent=indent, ensure_ascii=ascii_only)


def _plainer(value: Any) -> Any:
    """Return the nearest thing that JSON has."""
    if isinstance(value, datetime | date | time):
        return value.isoformat()
    if isinstance(value, Decimal):
        if not value.is_finite():
            return None
        # A number, unless a reader's float would change it.
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


def _valid(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, str | int):
        return value
    if isinstance(value, Mapping):
        return {_text(key): _valid(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_valid(one) for one in value]
    return _valid(_plainer(value))


def _filtered(data: Any, expression: str) -> Any:
    """Return no result as [], one as itself, and several as a list."""
    try:
        found = _jq().compile(expression).input_text(_json(data)).all()
    except ValueError as error:
        raise ConfigurationError(f"--jq {expression!r}: {_why(error)}") from error
    return found[0] if len(found) == 1 else found


def _why(error: ValueError) -> str:
    first = str(error).partition("\n")[0].rstrip(": ")
    return first.removeprefix("jq: ").removeprefix("error: ")


def _jq() -> Any:
    try:
        import jq
    except ImportError as error:
        raise ImportError("--jq needs: pip install jq") from error
    return jq


# ---- tables, CSV, plain -------------------------------------------------------------------------


def _write_table(result: Any) -> None:
    flat = result.to_table_dict() if hasattr(result, "to_table_dict") else _data(result)
    if isinstance(flat, Mapping):
        rows = [{"field": name, "value": value} for name, value in flat.items()]
    else:
        rows = [_row(one) for one in (flat if isinstance(flat, list) else [flat])]
    table = Table(box=None, pad_edge=False, header_style="dim")
    columns = _columns(rows)
    for name in columns:
        values = [row[name] for row in rows if row.get(name) is not None]
        numeric = bool(values) and all(map(_is_number, values))
        title = Text(_seen(name.replace("_", " ").upper()))
        table.add_column(title, overflow="fold", justify="right" if numeric else "left")
    for row in rows:
        table.add_row(*(Text(_seen(_cell(row.get(name), "Yes", "No"))) for name in columns))
    console = out()
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console.width = WIDEST  # a file has no width: nothing is folded
    if columns:
        console.print(table)


def _write_csv(data: Any) -> None:
    rows = [_row(one) for one in (data if isinstance(data, list) else [data])]
    columns = _columns(rows)
    if columns:
        write_csv_line(columns)
    for row in rows if columns else ():
        write_csv_line([row.get(name) for name in columns])


def write_csv_line(cells: Iterable[Any]) -> None:
    """Write one line of CSV on stdout, guarded against spreadsheets.

    In a file control characters stay: programs read them as data. A terminal would obey them.
    """
    line = ",".join(map(_quoted, cells)) or '""'
    _print(visible(line) if sys.stdout.isatty() else line)


def _write_plain(result: Any) -> None:
    if isinstance(result, Mapping) or hasattr(result, "to_dict"):
        data = _data(result)
        if isinstance(data, Mapping) and not any(name in data for name in NAMES):
            for name, value in data.items():
                _print(visible(f"{name}={_cell(value)}"))
            return
    for one in _each(result):
        _print(visible(_cell(_standing_for(one))))


def _standing_for(one: Any) -> Any:
    if not isinstance(one, Mapping):
        return one
    name = next((name for name in NAMES if name in one), None)
    return one[name] if name is not None else next(iter(one.values()), None)


def _row(one: Any) -> dict[str, Any]:
    if isinstance(one, Mapping):
        return {_text(key): value for key, value in one.items()}
    return {"value": one}


def _columns(rows: Iterable[Mapping[str, Any]]) -> list[str]:
    return list(dict.fromkeys(name for row in rows for name in row))


def _cell(value: Any, yes: str = "true", no: str = "false") -> str:
    """Write one value for people, and for spreadsheets: nothing for None, JSON for what nests."""
    if isinstance(value, bool):
        return yes if value else no
    value = value if isinstance(value, str | int | float) else _jsonable(value)
    if value is None:
        return ""
    if isinstance(value, Mapping | list | tuple):
        return _json(value)
    return _text(value)


def _quoted(value: Any) -> str:
    """Write a cell of CSV that no spreadsheet takes for a formula; numbers stay as they are."""
    text = _cell(value) if _is_number(value) else guarded(_cell(value))
    # The csv module leaves a bare carriage return as it is, and what follows begins a new row.
    if any(letter in text for letter in ',"\r\n'):
        return '"' + text.replace('"', '""') + '"'
    return text


def _jsonable(value: Any) -> Any:
    return value if value is None or isinstance(value, Mapping | list | tuple) else _plainer(value)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else str(_plainer(value))


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float | Decimal) and not isinstance(value, bool)


def _seen(text: str) -> str:
    return _sayable(visible(text))


def _print_json(value: Any, indent: int | None = None) -> None:
    text = _json(value, indent)
    print(json_visible(text if _can_say(text) else _json(value, indent, ascii_only=True)))


def _print(text: str) -> None:
    print(_sayable(text))


def _sayable(text: str) -> str:
    if _can_say(text):
        return text
    return text.encode(_encoding(), "backslashreplace").decode(_encoding())


def _can_say(text: str) -> bool:
    """Tell whether stdout has these letters: not half a surrogate pair, not é in plain ASCII."""
    try:
        text.encode(_encoding())
    except UnicodeEncodeError:
        return False
    return True


def _encoding() -> str:
    return getattr(sys.stdout, "encoding", None) or "utf-8"
