"""List tables and their missing days, drop them, and create typed views."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from mixpanel.data._fetch import plan
from mixpanel.data.exceptions import ConfigError, TableExistsError, TableNotFoundError
from mixpanel.data.results import ColumnInfo, TableInfo, TableSchema
from mixpanel.data.store import fetch_log, profile_history
from mixpanel.data.store.engine import count, database_errors, transaction
from mixpanel.data.store.quoting import literal, pointer, quoted, table_name
from mixpanel.data.store.staging import STAGING_PREFIX

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import date

    from duckdb import DuckDBPyConnection

    from mixpanel.data.results import TableType

__all__ = [
    "canonical",
    "drop",
    "names",
    "names_of_type",
    "resolve",
    "schema",
    "tables",
    "typed_view",
]

TYPED_SUFFIX = "_typed"
# Types DuckDB finds in JSON -> column types of a typed view; all others stay JSON.
COLUMN_TYPES = {
    "BIGINT": "BIGINT",
    "UBIGINT": "BIGINT",
    "DOUBLE": "DOUBLE",
    "BOOLEAN": "BOOLEAN",
    "VARCHAR": "VARCHAR",
    "NULL": "NULL",
}


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
    known = [*_staged_names(connection), *names(connection)]
    return {each.lower(): each for each in known}.get(table_name(name).lower(), name)


def resolve(connection: DuckDBPyConnection, name: str) -> str:
    """Return a table's name in the spelling it was created with; case is ignored.

    :raises TableNotFoundError: if there is no such table.
    """
    found, known = canonical(connection, name), names(connection)
    if found not in known:
        raise TableNotFoundError(name, known)
    return found


def tables(connection: DuckDBPyConnection) -> list[TableInfo]:
    """Return all tables and interrupted loads, sorted by name."""
    registered = {table.name: table for table in fetch_log.tables(connection)}
    found = [
        _table_info(connection, registered[name])
        if name in registered
        else TableInfo(name, "view" if is_view else "other", count(connection, quoted(name)), None)
        for name, is_view in names(connection).items()
    ]
    return sorted(
        [*found, *_interrupted_loads(connection)], key=lambda info: (info.name, info.state)
    )


def _date_ranges(days: set[date]) -> tuple[tuple[date, date], ...]:
    return tuple((chunk.from_date, chunk.to_date) for chunk in plan.ranges(days))


def _table_info(connection: DuckDBPyConnection, table: fetch_log.Table) -> TableInfo:
    done = fetch_log.entries(connection, table.name, "done")
    first, last = table.from_date, table.to_date
    missing: set[date] = set()
    if first and last:
        missing = set(plan.days_of(first, last)) - {entry.day for entry in done}
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
    """Drop tables, all or none, each with its typed view and the rows of an interrupted load.

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


# ---- typed views --------------------------------------------------------------------------------


def typed_view(connection: DuckDBPyConnection, table: str, name: str | None) -> str:
    """Create or replace a view with a column for each property of a table; return its name.

    Numbers, booleans and text become columns of their types; lists, objects and properties with
    values of several types stay JSON. An integer beyond 64 bits is NULL. A name that is already
    used gets a number, as in `event_name_2`.

    :raises TableExistsError: if the view's name is that of a table.
    """
    source = resolve(connection, table)
    columns = {column.name: column.type for column in schema(connection, source).columns}
    if columns.get("properties") != "JSON":
        raise ConfigError(
            f"{source} has no JSON column properties, which a typed view needs: use a table of "
            "events or profiles"
        )
    view = table_name(name or source + TYPED_SUFFIX)
    if names(connection).get(view) is False:
        raise TableExistsError(view)
    found = _property_types(connection, source)
    taken = {column.lower() for column in columns if column != "properties"}
    chosen = [quoted(column) for column in columns if column != "properties"]
    chosen += [
        f"{_property(key, found[key])} AS {quoted(_unique_name(key, taken))}"
        for key in sorted(found)
    ]
    statement = f"SELECT {', '.join(chosen)} FROM {quoted(source)}"
    with database_errors(), transaction(connection):
        connection.execute(f"CREATE OR REPLACE VIEW {quoted(view)} AS {statement}")
    return view


def _property_types(connection: DuckDBPyConnection, table: str) -> dict[str, str | None]:
    """Return the type of each property; None if it has several, or is a list or an object."""
    pointer = "'/' || replace(replace(key, '~', '~0'), '/', '~1')"
    rows = connection.execute(
        f"SELECT DISTINCT key, json_type(properties, {pointer}) FROM (SELECT properties, "
        f"unnest(json_keys(properties)) AS key FROM {quoted(table)})"
    ).fetchall()
    seen: dict[str, set[str | None]] = {}
    for key, found in rows:
        seen.setdefault(key, set()).add(COLUMN_TYPES.get(found))
    types: dict[str, str | None] = {}
    for key, several in seen.items():
        kinds = several - {"NULL"}
        types[key] = "DOUBLE" if kinds == {"BIGINT", "DOUBLE"} else None
        if len(kinds) < 2:
            types[key] = next(iter(kinds), "VARCHAR")
    return types


def _property(key: str, type_: str | None) -> str:
    path = literal(pointer(key))
    if type_ is None:
        return f"properties->{path}"
    text = f"properties->>{path}"
    return text if type_ == "VARCHAR" else f"TRY_CAST({text} AS {type_})"


def _unique_name(key: str, taken: set[str]) -> str:
    name = (key or "property").replace("\x00", "")
    number = 1
    while name.lower() in taken:
        number += 1
        name = f"{key or 'property'}_{number}"
    taken.add(name.lower())
    return name
