"""Statistics of the columns, events and properties of a table."""

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
from mixpanel.data.store.property_types import infer_value, typed
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
    """Return statistics of each column."""
    table = tables.resolve(connection, name)
    result = connection.execute(f"SUMMARIZE {quoted(table)}")
    names = [column[0] for column in result.description or []]
    rows: list[dict[str, Any]] = [dict(zip(names, row, strict=True)) for row in result.fetchall()]
    columns = [
        ColumnSummary(**{**row, "null_percentage": float(row["null_percentage"] or 0)})
        for row in rows
    ]
    return SummaryResult(table, count(connection, quoted(table)), columns)


def event_breakdown(connection: DuckDBPyConnection, name: str) -> EventBreakdownResult:
    """Return count, users and first and last time of each event."""
    table = _with_columns(connection, name, "event_name", "event_time", "distinct_id")
    query = (
        "SELECT event_name, count(*), count(DISTINCT distinct_id), min(event_time), "
        f"max(event_time), grouping(event_name) FROM {quoted(table)} "
        "GROUP BY ROLLUP (event_name) ORDER BY ALL"
    )
    rows = connection.execute(query).fetchall()
    totals = [row for row in rows if row[5]]
    _, total, users, first, last, _ = totals[0] if totals else (None, 0, 0, None, None, 1)
    events = [
        EventStats(event, n, users, _utc(first_seen), _utc(last_seen), round(100 * n / total, 2))
        for event, n, users, first_seen, last_seen, is_total in rows
        if not is_total
    ]
    events.sort(key=lambda stats: (-stats.count, stats.event_name or ""))
    dates = None if first is None or last is None else (aware(first), aware(last))
    return EventBreakdownResult(table, total, users, dates, events)


def property_keys(connection: DuckDBPyConnection, name: str, event: str | None) -> list[str]:
    """Return all property names, sorted; only those of `event` if it is given."""
    columns = ("properties",) if event is None else ("properties", "event_name")
    table = _with_columns(connection, name, *columns)
    rows = connection.execute(
        f"SELECT DISTINCT unnest(json_keys(properties)) FROM {quoted(table)} "
        + ("" if event is None else "WHERE event_name = ?"),
        [] if event is None else [event],
    ).fetchall()
    return sorted(key for (key,) in rows)


def column_stats(
    connection: DuckDBPyConnection, name: str, column: str, top_n: int
) -> ColumnStatsResult:
    """Return counts, statistics and the most frequent values of a column or property."""
    if isinstance(top_n, bool) or not isinstance(top_n, int) or top_n < 1:
        raise ConfigError(f"top_n must be a whole number, 1 or more, not {top_n!r}")
    table = tables.resolve(connection, name)
    source = quoted(table)
    value, dtype = _value(connection, table, column)
    total, non_null, unique = _row(
        connection,
        "SELECT count(*), count(v), approx_count_distinct(v) "
        f"FROM (SELECT {value} v FROM {source})",
    )
    numeric_stats: list[float | None] = [None] * 4
    if non_null and _NUMERIC.fullmatch(dtype):
        row = _row(
            connection,
            "SELECT min(v), max(v), avg(CAST(v AS DOUBLE)), stddev_samp(CAST(v AS DOUBLE)) "
            f"FROM (SELECT {value} v FROM {source})",
        )
        numeric_stats = [None if number is None else _exact(number) for number in row]
    top = connection.execute(
        f"SELECT {value} v, count(*) n FROM {source} WHERE v IS NOT NULL "
        "GROUP BY v ORDER BY n DESC, v LIMIT ?",
        [top_n],
    ).fetchall()
    if dtype.startswith("DECIMAL") and value != quoted(column):  # as they were sent
        top = [(_exact(number), n) for number, n in top]
    null_count = total - non_null
    unique = min(unique, non_null)  # an estimate, which may be a few percent too high
    return ColumnStatsResult(
        table,
        column,
        dtype,
        non_null,
        null_count,
        round(100 * null_count / total, 2) if total else 0.0,
        unique,
        round(100 * unique / non_null, 2) if non_null else 0.0,
        top,
        *numeric_stats,
    )


def _value(connection: DuckDBPyConnection, table: str, column: str) -> tuple[str, str]:
    """Return the SQL of a column, or of a path into a JSON column, and its type."""
    types = {info.name: info.type for info in tables.schema(connection, table).columns}
    if column in types:
        return quoted(column), types[column]
    path = _PATH.fullmatch(column)
    if path is None or types.get(path[1]) != "JSON":
        raise ConfigError(
            f"{table} has no column {column!r}; it has {', '.join(types)}. Write a property as "
            "properties->>'$.plan'"
        )
    where = literal(path[2].replace("''", "'"))
    json = f"({quoted(path[1])}->{where})"
    found = infer_value(connection, json, quoted(table))
    if found.type not in ("JSON", "VARCHAR", "BOOLEAN") and not found.outliers:
        return typed(json, found.type), found.type
    return f"({quoted(path[1])}->>{where})", "VARCHAR"


def _with_columns(connection: DuckDBPyConnection, name: str, *required: str) -> str:
    schema = tables.schema(connection, name)
    missing = [each for each in required if each not in {column.name for column in schema.columns}]
    if missing:
        raise ConfigError(f"{schema.table_name} has no column {' or '.join(missing)}")
    return schema.table_name


def _row(connection: DuckDBPyConnection, query: str) -> tuple[Any, ...]:
    row: tuple[Any, ...] | None = connection.execute(query).fetchone()
    assert row is not None
    return row


def _exact(number: Any) -> float:
    """Return a whole number that is not a float as an int: a float loses digits of a big one."""
    return float(number) if isinstance(number, float) or number % 1 else int(number)


def _utc(time: datetime | None) -> datetime | None:
    return None if time is None else aware(time)
