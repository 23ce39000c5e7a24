"""Look into a table: what its columns, events and properties hold."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from mixpanel.data.exceptions import ConfigError
from mixpanel.data.results import (
    ColumnStatsResult,
    ColumnSummary,
    EventBreakdownResult,
    EventStats,
    SummaryResult,
)
from mixpanel.data.store import tables
from mixpanel.data.store.engine import count
from mixpanel.data.store.fetch_log import aware
from mixpanel.data.store.quoting import literal, quoted

if TYPE_CHECKING:
    from datetime import datetime

    from duckdb import DuckDBPyConnection

__all__ = ["column_stats", "event_breakdown", "property_keys", "summarize"]

_NUMERIC = re.compile(
    r"U?(TINY|SMALL|BIG|HUGE)?INT(EGER)?|FLOAT|DOUBLE|DECIMAL\(.*\)|UINTEGER|BIGNUM"
)
_PATH = re.compile(r"\s*([A-Za-z_]\w*)\s*->>?\s*'((?:[^']|'')*)'\s*", re.ASCII)


def summarize(connection: DuckDBPyConnection, name: str) -> SummaryResult:
    """Return what each column holds."""
    table = tables.resolve(connection, name)
    answer = connection.execute(f"SUMMARIZE {quoted(table)}")
    names = [column[0] for column in answer.description or []]
    rows: list[dict[str, Any]] = [dict(zip(names, row, strict=True)) for row in answer.fetchall()]
    columns = [
        ColumnSummary(**{**row, "null_percentage": float(row["null_percentage"] or 0)})
        for row in rows
    ]
    return SummaryResult(table, count(connection, quoted(table)), columns)


def event_breakdown(connection: DuckDBPyConnection, name: str) -> EventBreakdownResult:
    """Return how often each event is there, from how many users and when."""
    table = _with_columns(connection, name, "event_name", "event_time", "distinct_id")
    query = (
        "SELECT event_name, count(*), count(DISTINCT distinct_id), min(event_time), "  # noqa: S608
        f"max(event_time), grouping(event_name) FROM {quoted(table)} "
        "GROUP BY ROLLUP (event_name) ORDER BY ALL"
    )
    rows = connection.execute(query).fetchall()
    whole = [row for row in rows if row[5]]
    _, total, users, first, last, _ = whole[0] if whole else (None, 0, 0, None, None, 1)
    events = [
        EventStats(event, n, people, _utc(begin), _utc(end), round(100 * n / total, 2))
        for event, n, people, begin, end, is_whole in rows
        if not is_whole
    ]
    events.sort(key=lambda stats: (-stats.count, stats.event_name or ""))
    dates = None if first is None or last is None else (aware(first), aware(last))
    return EventBreakdownResult(table, total, users, dates, events)


def property_keys(connection: DuckDBPyConnection, name: str, event: str | None) -> list[str]:
    """Return the names of all properties, sorted; those of one event when it is given."""
    columns = ("properties",) if event is None else ("properties", "event_name")
    table = _with_columns(connection, name, *columns)
    rows = connection.execute(
        f"SELECT DISTINCT unnest(json_keys(properties)) FROM {quoted(table)} "  # noqa: S608
        + ("" if event is None else "WHERE event_name = ?"),
        [] if event is None else [event],
    ).fetchall()
    return sorted(key for (key,) in rows)


def column_stats(
    connection: DuckDBPyConnection, name: str, column: str, top_n: int
) -> ColumnStatsResult:
    """Return how a column or a property is filled and with what."""
    if isinstance(top_n, bool) or not isinstance(top_n, int) or top_n < 1:
        raise ConfigError(f"top_n must be a whole number from 1 on, not {top_n!r}")
    table = tables.resolve(connection, name)
    source = quoted(table)
    value, dtype = _value(connection, table, column)
    total, there, unique = _row(
        connection,
        "SELECT count(*), count(v), approx_count_distinct(v) "  # noqa: S608
        f"FROM (SELECT {value} v FROM {source})",
    )
    figures: list[float | None] = [None] * 4
    if there and _NUMERIC.fullmatch(dtype):
        found = _row(
            connection,
            "SELECT min(v), max(v), avg(v), stddev_samp(v) "  # noqa: S608
            f"FROM (SELECT CAST({value} AS DOUBLE) v FROM {source})",
        )
        figures = [None if figure is None else float(figure) for figure in found]
    top = connection.execute(
        f"SELECT {value} v, count(*) n FROM {source} WHERE v IS NOT NULL "  # noqa: S608
        "GROUP BY v ORDER BY n DESC, v LIMIT ?",
        [top_n],
    ).fetchall()
    empty, unique = total - there, min(unique, there)  # the estimate may be some percent too high
    return ColumnStatsResult(
        table,
        column,
        dtype,
        there,
        empty,
        round(100 * empty / total, 2) if total else 0.0,
        unique,
        round(100 * unique / there, 2) if there else 0.0,
        top,
        *figures,
    )


def _value(connection: DuckDBPyConnection, table: str, column: str) -> tuple[str, str]:
    """Return the SQL of a column, or of a path into a JSON column, and its type."""
    types = {info.name: info.type for info in tables.schema(connection, table).columns}
    if column in types:
        return quoted(column), types[column]
    path = _PATH.fullmatch(column)
    if path is None or types.get(path[1]) != "JSON":
        raise ConfigError(
            f"{table} has no column {column!r}; it has {', '.join(types)}. A property is written "
            "as properties->>'$.plan'"
        )
    where = literal(path[2].replace("''", "'"))
    json = f"{quoted(path[1])}->{where}"
    text = f"{quoted(path[1])}->>{where}"
    (numbers,) = _row(
        connection,
        f"SELECT bool_and(json_type({json}) IN ('BIGINT', 'UBIGINT', 'DOUBLE')) "  # noqa: S608
        f"FILTER (({text}) IS NOT NULL) FROM {quoted(table)}",
    )
    return (f"CAST({text} AS DOUBLE)", "DOUBLE") if numbers else (f"({text})", "VARCHAR")


def _with_columns(connection: DuckDBPyConnection, name: str, *wanted: str) -> str:
    schema = tables.schema(connection, name)
    missing = [each for each in wanted if each not in {column.name for column in schema.columns}]
    if missing:
        raise ConfigError(f"{schema.table_name} has no column {' or '.join(missing)}")
    return schema.table_name


def _row(connection: DuckDBPyConnection, query: str) -> tuple[Any, ...]:
    row: tuple[Any, ...] | None = connection.execute(query).fetchone()
    assert row is not None
    return row


def _utc(moment: datetime | None) -> datetime | None:
    return None if moment is None else aware(moment)
