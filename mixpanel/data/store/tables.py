"""List tables and their missing days, and drop them."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING

from mixpanel.data._fetch import plan
from mixpanel.data.exceptions import TableNotFoundError
from mixpanel.data.results import ColumnInfo, TableInfo, TableSchema
from mixpanel.data.store import fetch_log, profile_history
from mixpanel.data.store.engine import count, database_errors, load_duckdb, transaction
from mixpanel.data.store.quoting import literal, quoted, table_name
from mixpanel.data.store.staging import STAGING_PREFIX

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from datetime import date

    from duckdb import DuckDBPyConnection

    from mixpanel.data.results import TableType

__all__ = [
    "TYPED_SUFFIX",
    "canonical",
    "drop",
    "gaps",
    "names",
    "names_of_type",
    "resolve",
    "schema",
    "tables",
]

TYPED_SUFFIX = "_typed"


def names(connection: DuckDBPyConnection) -> dict[str, bool]:
    """Return the user's tables and views by name; the value is True for a view."""
    rows = connection.execute(
        "SELECT table_name, table_type = 'VIEW' FROM information_schema.tables "
        "WHERE table_schema = 'main' AND table_catalog = current_database() "
        "AND NOT starts_with(table_name, '_') ORDER BY table_name"
    ).fetchall()
    return dict(rows)


def canonical(connection: DuckDBPyConnection, name: str) -> str:
    """Return a validated name, in the spelling of the existing table if there is one."""
    return _canonical(connection, name, names(connection))


def resolve(connection: DuckDBPyConnection, name: str) -> str:
    """Return a table's name in the spelling it was created with; case is ignored.

    :raises TableNotFoundError: if there is no such table.
    """
    known = names(connection)
    found = _canonical(connection, name, known)
    if found not in known:
        raise TableNotFoundError(name, known)
    return found


def _canonical(connection: DuckDBPyConnection, name: str, known: Iterable[str]) -> str:
    spellings = {each.lower(): each for each in (*_staged_names(connection), *known)}
    return spellings.get(table_name(name).lower(), name)


def tables(connection: DuckDBPyConnection) -> list[TableInfo]:
    """Return all tables and interrupted loads, sorted by name."""
    registered = {table.name: table for table in fetch_log.tables(connection)}
    found = [
        _table_info(connection, registered[name])
        if name in registered
        else _own_info(connection, name, is_view=is_view)
        for name, is_view in names(connection).items()
    ]
    found = _with_sources(connection, found)
    return sorted(
        [*found, *_interrupted_loads(connection)], key=lambda info: (info.name, info.state)
    )


def _own_info(connection: DuckDBPyConnection, name: str, *, is_view: bool) -> TableInfo:
    """Describe a table or view that SQL has made; the tables of a view may be gone or changed."""
    try:
        rows = count(connection, quoted(name))
    except load_duckdb().Error:
        if not is_view:
            raise
        return TableInfo(name, "view", 0, None, state="broken")
    return TableInfo(name, "view" if is_view else "other", rows, None)


def _with_sources(connection: DuckDBPyConnection, infos: list[TableInfo]) -> list[TableInfo]:
    """Return the tables, typed tables and histories with the names of those they belong to."""
    by_name = {info.name: info for info in infos}
    for source, name, stale in fetch_log.typed_tables(connection):
        if name in by_name and source in by_name:
            typed = replace(by_name[name], type="typed", source=source)
            # Whoever writes by way of `connection` changes rows without a record.
            if stale is not None or typed.row_count != by_name[source].row_count:
                typed = replace(typed, state="stale")
            by_name[name] = typed
    lowered = {name.lower(): name for name in by_name}
    for info in infos:
        if info.type == "profiles" and profile_history.is_kept(connection, info.name, wanted=False):
            history = lowered[(info.name + profile_history.SUFFIX).lower()]
            by_name[history] = replace(by_name[history], type="history", source=info.name)
    return list(by_name.values())


def _date_ranges(days: set[date]) -> tuple[tuple[date, date], ...]:
    return tuple((chunk.from_date, chunk.to_date) for chunk in plan.ranges(days))


def gaps(connection: DuckDBPyConnection, table: fetch_log.Table) -> set[date]:
    """Return the days between the first and the last of a table that were not fetched."""
    if not (table.from_date and table.to_date):
        return set()
    done = fetch_log.entries(connection, table.name, "done")
    return set(plan.days_of(table.from_date, table.to_date)) - {entry.day for entry in done}


def _table_info(connection: DuckDBPyConnection, table: fetch_log.Table) -> TableInfo:
    done = fetch_log.entries(connection, table.name, "done")
    first, last = table.from_date, table.to_date
    missing = gaps(connection, table)
    failed = {each.day for each in fetch_log.failed_days(connection, table.name) if each.is_gap}
    filters = sorted({entry.filters for entry in done})
    return TableInfo(
        table.name,
        "profiles" if table.type == "profiles" else "events",
        count(connection, quoted(table.name)),
        table.fetched_at,
        first,
        last,
        _date_ranges(missing),
        tuple(json.loads(each) for each in filters),
        "partial" if failed & missing else "complete",
    )


def _staged_names(connection: DuckDBPyConnection) -> list[str]:
    rows = connection.execute(
        "SELECT table_name FROM information_schema.tables WHERE table_schema = 'main' "
        "AND table_catalog = current_database() AND starts_with(table_name, ?)",
        [STAGING_PREFIX],
    ).fetchall()
    return [stage.removeprefix(STAGING_PREFIX) for (stage,) in rows]


def _interrupted_loads(connection: DuckDBPyConnection) -> list[TableInfo]:
    found = []
    for name in _staged_names(connection):
        staged = fetch_log.entries(connection, name, "staged")
        days = [entry.day for entry in staged]
        pages = fetch_log.pages(connection, name)
        times = [entry.fetched_at for entry in staged] + [page.received_at for page in pages]
        missing = set(plan.days_of(min(days), max(days))) - set(days) if days else set()
        found.append(
            TableInfo(
                name,
                "events" if days else "profiles" if pages else "other",
                count(connection, quoted(STAGING_PREFIX + name)),
                max(times, default=None),
                min(days, default=None),
                max(days, default=None),
                _date_ranges(missing),
                tuple(json.loads(each) for each in sorted({entry.filters for entry in staged})),
                "incomplete",
            )
        )
    return found


def schema(connection: DuckDBPyConnection, name: str) -> TableSchema:
    """Return the columns of a table or view."""
    found = resolve(connection, name)
    rows = connection.execute(f"PRAGMA table_info({literal(found)})").fetchall()
    columns = [
        ColumnInfo(column, type_, not not_null, bool(primary))
        for _, column, type_, not_null, _, primary in rows
    ]
    return TableSchema(found, columns)


def drop(connection: DuckDBPyConnection, requested: Sequence[str]) -> None:
    """Drop tables, all or none, each with its typed view or table and its interrupted load.

    :raises TableNotFoundError: if one of the names is neither a table nor an interrupted load.
    """
    with database_errors(), transaction(connection):
        known = names(connection)
        lowered = {name.lower(): name for name in known}
        staged = {info.name.lower(): info.name for info in _interrupted_loads(connection)}
        found = []
        for name in requested:
            key = table_name(name).lower()
            if key not in lowered and key not in staged:
                raise TableNotFoundError(name, known)
            found.append(lowered.get(key) or staged[key])
        for name in dict.fromkeys(found):
            kind = "VIEW" if known.get(name) else "TABLE"
            connection.execute(f"DROP {kind} IF EXISTS {quoted(name)}")
            if known.get(name + TYPED_SUFFIX):
                connection.execute(f"DROP VIEW IF EXISTS {quoted(name + TYPED_SUFFIX)}")
            for source, typed in fetch_log.typed_names(connection).items():
                if name == source:
                    connection.execute(f"DROP TABLE IF EXISTS {quoted(typed)}")
                if name == typed:
                    fetch_log.delete_typed(connection, source)
            fetch_log.delete_typed(connection, name)
            connection.execute(f"DROP TABLE IF EXISTS {quoted(STAGING_PREFIX + name)}")
            profile_history.drop_macro(connection, name)
            fetch_log.delete(connection, name)


def names_of_type(connection: DuckDBPyConnection, kind: TableType | None) -> list[str]:
    """Return the names of all tables and views, or of the tables of one type."""
    infos = tables(connection)
    views = {info.name for info in infos if info.type == "view"}
    chosen = {info.name for info in infos if kind is None or info.type == kind}
    # Dropping a table drops its typed view, so views count only when all is dropped.
    return sorted(n for n in chosen if n not in views or kind is None)
