"""The base of all results: as JSON, as a DataFrame, as text and as a table in a notebook."""

from __future__ import annotations

import math
import re
from dataclasses import fields
from datetime import date, datetime, time
from decimal import Decimal
from functools import cached_property
from html import escape
from typing import TYPE_CHECKING, Any

from mixpanel.data.exceptions import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import pandas as pd

__all__ = ["Result", "Rows", "plain"]

SHOWN = 10  # rows of a repr
SHOWN_IN_NOTEBOOK = 50
MAX_WIDTH = 40  # characters of a cell
CONTROL_CHARACTERS = re.compile(r"[\x00-\x08\x0a-\x1f\x7f-\x9f]")  # a terminal would obey them


class Result:
    """Base class of results: a dataclass with `to_dict()`, `df` and a readable repr."""

    def to_dict(self) -> dict[str, Any]:
        """Return all fields as values that JSON can represent: times as ISO 8601, NaN as None."""
        own = {field.name: getattr(self, field.name) for field in fields(self)}  # type: ignore[arg-type]
        return {name: plain(value) for name, value in own.items()}

    def to_table_dict(self) -> list[dict[str, Any]]:
        """Return the rows of `.df` as values that JSON can represent."""
        return [plain(row) for row in self._rows()]

    @cached_property
    def df(self) -> pd.DataFrame:
        """The rows as a pandas DataFrame, made once.

        :raises ConfigError: when pandas is not installed.
        """
        try:
            import pandas as pd
        except ModuleNotFoundError as error:
            raise ConfigError(
                "a DataFrame needs pandas: pip install 'mixpanel-async[pandas]'"
            ) from error
        return pd.DataFrame(self._rows(), columns=self._columns())

    def _rows(self) -> Sequence[Mapping[str, Any]]:
        """Return the rows of `.df`: by default one row with all fields."""
        return [{field.name: getattr(self, field.name) for field in fields(self)}]  # type: ignore[arg-type]

    def _columns(self) -> list[str] | None:
        return None

    def __repr__(self) -> str:
        hidden = {field.name for field in fields(self) if not field.repr}  # type: ignore[arg-type]
        known = ", ".join(
            f"{name}={_short(value)}"
            for name, value in self._scalars().items()
            if not isinstance(value, (list, dict)) and value is not None and name not in hidden
        )
        head = f"{type(self).__name__}({known})"
        rows, count = self._first_rows(SHOWN)
        if count == 1 and type(self)._rows is Result._rows:
            return head
        return "\n".join([head, *_aligned(rows), *_more(count, SHOWN)])

    def _scalars(self) -> dict[str, Any]:
        """Return the fields for a repr, which leaves lists and objects out."""
        return self.to_dict()

    def _first_rows(self, limit: int) -> tuple[list[dict[str, Any]], int]:
        """Return the first rows for a repr, and the number of all rows."""
        rows = self.to_table_dict()
        return rows[:limit], len(rows)

    def _repr_html_(self) -> str:
        rows, count = self._first_rows(SHOWN_IN_NOTEBOOK)
        names = list(rows[0]) if rows else self._columns() or []
        head = "".join(f"<th>{escape(name)}</th>" for name in names)
        body = "".join(
            "<tr>" + "".join(f"<td>{escape(_text(row.get(name)))}</td>" for name in names) + "</tr>"
            for row in rows
        )
        more = "".join(f"<p>{line}</p>" for line in _more(count, SHOWN_IN_NOTEBOOK))
        return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>{more}"


class Rows(Result):
    """A result whose rows are the items of one of its fields, `_FIELD`."""

    _FIELD = "columns"

    def _rows(self) -> Sequence[Mapping[str, Any]]:
        return [
            {field.name: getattr(row, field.name) for field in fields(row)}
            for row in getattr(self, self._FIELD)
        ]


# ---- JSON and text ------------------------------------------------------------------------------


def plain(value: Any) -> Any:
    """Return a value as one that JSON can represent."""
    if value is None or isinstance(value, (str, bool, int)):
        return value
    if isinstance(value, (float, Decimal)):
        number = float(value)
        return number if math.isfinite(number) else None
    if isinstance(value, (datetime, date, time)):
        return value.isoformat()
    if isinstance(value, Result):
        return value.to_dict()
    if isinstance(value, dict):
        return {str(key): plain(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [plain(inner) for inner in value]
    return str(value)


def _text(value: Any) -> str:
    return "" if value is None else str(value)


def _escaped(found: re.Match[str]) -> str:
    return " " if found[0] == "\n" else repr(found[0])[1:-1]


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= MAX_WIDTH else text[: MAX_WIDTH - 1] + "…"


def _more(count: int, shown: int) -> list[str]:
    return [f"… {count - shown} more rows"] if count > shown else []


def _aligned(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    if not rows:
        return []
    cells = [list(rows[0]), *([_text(value) for value in row.values()] for row in rows)]
    cut = [
        [cell if len(cell) <= MAX_WIDTH else cell[: MAX_WIDTH - 1] + "…" for cell in line]
        for line in ([CONTROL_CHARACTERS.sub(_escaped, cell) for cell in line] for line in cells)
    ]
    widths = [max(map(len, column)) for column in zip(*cut, strict=True)]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in cut
    ]
