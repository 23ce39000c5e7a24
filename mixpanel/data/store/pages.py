"""One page of the rows of a query, with long values cut by DuckDB before they reach Python."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mixpanel.data.store import sql
from mixpanel.data.store.rows import NotAQueryError, query_source, unique_names
from mixpanel.data.store.statements import check_statement

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

__all__ = ["RowPage", "page"]

# Types whose values are short. Values of other types are read as text of limited length.
_SHORT = re.compile(
    r"U?(TINY|SMALL|BIG|HUGE)?INT(EGER)?|FLOAT|DOUBLE|DECIMAL\(.*\)|BOOLEAN|UUID|DATE|TIME"
    r"|TIMESTAMP(_S|_MS|_NS)?|\"NULL\""
)
_ZONED = "TIMESTAMP WITH TIME ZONE"
_NESTED = re.compile(r"JSON|(STRUCT|MAP)\(.*|.*\[\d*\]", re.DOTALL)


@dataclass(frozen=True, slots=True)
class RowPage:
    """Rows from `offset` on; `has_more` is True if the query has more of them.

    `types` are DuckDB's types of the `columns`. JSON, lists and objects are Python values.
    """

    columns: list[str]
    types: list[str]
    rows: list[list[Any]]
    has_more: bool


def page(
    connection: DuckDBPyConnection, query: str, *, offset: int, limit: int, width: int
) -> RowPage:
    """Return up to `limit` rows of a query, with text cut after `width` characters.

    Text that was cut has `width` + 1 characters, and so has the JSON of a long list or object.

    :raises UnsafeSQLError: if it does more than read tables, or accesses a file or a setting.
    :raises SQLError: if DuckDB rejects it.
    """
    try:
        with sql.translated(connection):
            check_statement(connection, query, write=False, tables_only=True)
            source, columns = query_source(connection, query)
    except NotAQueryError:  # EXPLAIN and the like, whose rows are few
        found = sql.rows(connection, query, None, write=False, limit=offset + limit)
        names = unique_names(found.columns)
        rows = [[_short(value, width) for value in row] for row in found.rows[offset:]]
        return RowPage(names, ["VARCHAR"] * len(names), rows, found.truncated)
    selected = ", ".join(_narrow(column, type_, width) for _, column, type_ in columns)
    statement = f"SELECT {selected} FROM {source} LIMIT {limit + 1} OFFSET {offset}"
    found = sql.rows(connection, statement, None, write=False, limit=limit)
    nested = [number for number, column in enumerate(columns) if _NESTED.fullmatch(column[2])]
    rows = [_with_values(list(row), nested, width) for row in found.rows]
    titles = [title for title, _, _ in columns]
    return RowPage(titles, [type_[:80] for _, _, type_ in columns], rows, found.truncated)


def _short(value: Any, width: int) -> Any:
    return value[: width + 1] if isinstance(value, str) else value


def _narrow(column: str, type_: str, width: int) -> str:
    if _SHORT.fullmatch(type_):
        return column
    if type_ == _ZONED:
        return f"strftime({column}, '%Y-%m-%dT%H:%M:%S.%f') || '+00:00'"
    text = f"to_json({column})" if _NESTED.fullmatch(type_) and type_ != "JSON" else column
    return f"left(CAST({text} AS VARCHAR), {width + 1})"


def _with_values(row: list[Any], nested: list[int], width: int) -> list[Any]:
    for number in nested:
        text = row[number]
        if isinstance(text, str) and len(text) <= width:
            try:
                row[number] = json.loads(text)
            except (ValueError, RecursionError):
                continue
    return row
