"""Build and refresh a table with a typed column for each property, beside the table itself.

Names and types of the columns are recorded, so that they stay as they are when more events come;
a value that a column cannot hold exactly is NULL there, and kept in the column `_outliers`.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mixpanel._runtime.safe_logging import logger
from mixpanel.data.exceptions import ConfigError, MixpanelDataError, TableExistsError
from mixpanel.data.results import TypedColumn, TypedTable
from mixpanel.data.store import fetch_log, property_types, tables
from mixpanel.data.store.engine import (
    count,
    database_errors,
    error_message,
    load_duckdb,
    transaction,
)
from mixpanel.data.store.property_types import PropertyType
from mixpanel.data.store.quoting import literal, pointer, quoted, table_name
from mixpanel.data.store.row_ranges import row_ranges, scan
from mixpanel.data.store.typed_views import MAX_COLUMNS, column_aliases, source_columns

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence
    from datetime import date

    from duckdb import DuckDBPyConnection

__all__ = ["build", "mark_stale", "mark_written", "refresh", "refresh_loaded"]

OUTLIERS = "_outliers"
ALL_DAYS = "all"
# Tables with more values are written without ranges: sorting them would need too much memory.
MAX_SORTED = 40_000_000
_TYPE = re.compile(
    r"VARCHAR|BOOLEAN|BIGINT|HUGEINT|DOUBLE|JSON|DATE|TIMESTAMP|DECIMAL\((\d{1,2}),(\d{1,2})\)"
)


@dataclass(frozen=True, slots=True)
class _Column:
    """A recorded column of a typed table."""

    key: str
    name: str
    type: str
    pinned: bool


def build(
    connection: DuckDBPyConnection,
    table: str,
    name: str | None,
    types: Mapping[str, str],
    *,
    infer_again: bool,
) -> TypedTable:
    """Create a table's typed table, or build it again with the recorded columns.

    :raises TableExistsError: if another table has its name.
    :raises ConfigError: for a type that is not known, or a table without properties or with a
        column `_outliers`.
    """
    pins = {key: _checked_type(key, type_) for key, type_ in types.items()}
    source = tables.resolve(connection, table)
    base = source_columns(connection, source)
    for column in base:
        if column.lower() == OUTLIERS:
            raise ConfigError(
                f"{source} has a column {column}, a name that typed tables use: rename it"
            )
    with database_errors(), transaction(connection):
        recorded = _recorded_name(connection, source)
        target = table_name(name or recorded or source + tables.TYPED_SUFFIX)
        known = {} if infer_again else _columns(connection, source)
        kept = {c.key: c.type for c in _columns(connection, source).values() if c.pinned}
        existing = tables.names(connection)
        same = {each.lower(): each for each in existing}.get(target.lower())
        if same and existing[same] is False and same != recorded:
            raise TableExistsError(same)
        for old in filter(None, (recorded, same)):
            kind = "VIEW" if existing.get(old) else "TABLE"
            connection.execute(f"DROP {kind} IF EXISTS {quoted(old)}")
        ranges = row_ranges(connection, source, base)
        found = property_types.collect(connection, scan(source, ranges, "properties"))
        columns, omitted = _settle(found, base, known, kept | pins)
        query = _select(source, ranges, base, columns, found)
        connection.execute(f"CREATE TABLE {quoted(target)} AS {query}")
        _record(connection, source, target, columns)
        previous = known.values() if recorded and not infer_again else None
        return _result(connection, source, target, columns, found, previous, omitted)


def mark_stale(connection: DuckDBPyConnection, source: str, days: Iterable[date] | None) -> None:
    """Record that rows of these days have changed, or all rows; within the caller's transaction."""
    if _recorded_name(connection, source) is None:
        return
    before = _stale(connection, source)
    if days is None or before == ALL_DAYS:
        stale = ALL_DAYS
    else:
        earlier = json.loads(before) if before else []
        stale = json.dumps(sorted({*earlier, *map(str, days)}))
    connection.execute("UPDATE _typed_tables SET stale = ? WHERE table_name = ?", [stale, source])


def mark_written(connection: DuckDBPyConnection, names: Collection[str]) -> None:
    """Record that all rows may have changed of those of the tables that have a typed table."""
    for source in fetch_log.typed_names(connection):
        if source.lower() in names:
            mark_stale(connection, source, None)


def refresh(connection: DuckDBPyConnection, source: str) -> TypedTable | None:
    """Build the stale days of a table's typed table again; None if there are none.

    Columns keep their names and types; new properties get new columns. If rows of other days have
    come or gone without a record, the whole table is built again.
    """
    target, stale = _recorded_name(connection, source), _stale(connection, source)
    if target is None or stale is None:
        return None
    if stale == ALL_DAYS or target not in tables.names(connection):
        return build(connection, source, None, {}, infer_again=False)
    base = source_columns(connection, source)
    time = "event_time_local" if "event_time_local" in base else "event_time"
    days = f"SELECT unnest({literal(stale)}::JSON::DATE[])"
    where = f"({time} IS NULL OR CAST({time} AS DATE) IN ({days}))"
    with database_errors(), transaction(connection):
        known = _columns(connection, source)
        ranges = row_ranges(connection, source, base)
        found = property_types.collect(connection, scan(source, ranges, "properties", where))
        columns, omitted = _settle(found, base, known, {})
        for column in columns:
            if column.key not in known:
                connection.execute(
                    f"ALTER TABLE {quoted(target)} ADD COLUMN {quoted(column.name)} {column.type}"
                )
        connection.execute(f"DELETE FROM {quoted(target)} WHERE {where}")
        query = _select(source, ranges, base, columns, found, where)
        connection.execute(f"INSERT INTO {quoted(target)} BY NAME {query}")
        if count(connection, quoted(target)) == count(connection, quoted(source)):
            _record(connection, source, target, columns)
            return _result(connection, source, target, columns, found, known.values(), omitted)
        connection.execute(
            "UPDATE _typed_tables SET stale = ? WHERE table_name = ?", [ALL_DAYS, source]
        )
    return build(connection, source, None, {}, infer_again=False)


def refresh_loaded(connection: DuckDBPyConnection, source: str) -> TypedTable | None:
    """Refresh after a load, whose rows are safe: an error is logged, and the days stay stale."""
    try:
        return refresh(connection, source)
    except (load_duckdb().Error, MixpanelDataError) as error:
        logger.warning(
            "%s was loaded, but its typed table could not be brought up to date: %s. "
            "The next fetch, or typed_table(%r), tries again",
            source,
            error_message(error),
            source,
        )
        return None


def _checked_type(key: str, type_: str) -> str:
    chosen = re.sub(r"\s", "", str(type_)).upper()
    match = _TYPE.fullmatch(chosen)
    if not match or (match[1] and not int(match[2]) <= int(match[1]) <= 38):
        raise ConfigError(
            f"{type_!r} is not a type for {key!r}: use VARCHAR, BOOLEAN, BIGINT, HUGEINT, DOUBLE, "
            "DECIMAL(38,2), DATE, TIMESTAMP or JSON"
        )
    return chosen


def _settle(
    found: Mapping[str, property_types.Found],
    base: Iterable[str],
    known: Mapping[str, _Column],
    pins: Mapping[str, str],
) -> tuple[list[_Column], int]:
    """Return the columns, and how many properties have none because there are too many."""
    inferred = {key: property_types.decide(each) for key, each in found.items()}
    for key in pins:
        inferred.setdefault(key, PropertyType(pins[key], 0, 0))
    frequent = sorted(inferred, key=lambda key: (key not in pins, -inferred[key].values, key))
    room = max(MAX_COLUMNS - len(known), 0)
    new = [key for key in frequent if key not in known]
    chosen = {key: inferred[key] for key in new[:room]}
    names = property_types.column_names(
        chosen, (*base, OUTLIERS), {key: column.name for key, column in known.items()}
    )
    columns = []
    for key in (*known, *sorted(chosen)):
        if key in pins:
            columns.append(_Column(key, names[key], pins[key], pinned=True))
        elif key in known:
            columns.append(known[key])
        else:
            columns.append(_Column(key, names[key], chosen[key].type, pinned=False))
    return columns, len(new) - len(chosen)


def _select(
    table: str,
    ranges: Sequence[range],
    base: Collection[str],
    columns: Collection[_Column],
    found: Mapping[str, property_types.Found],
    where: str = "true",
) -> str:
    """Return the query that fills a table's typed table; it parses each event once.

    A property of which every value has the column's type is converted while it is parsed; others
    are taken as JSON text and checked. The order of the rows is kept.
    """
    structure: dict[str, str] = {}
    folded: set[str] = set()
    aliases = column_aliases(base)
    chosen = [f"{alias} AS {name}" for alias, name in aliases.items()]
    raw, outliers = [], []
    for number, column in enumerate(columns):
        each = found.get(column.key)
        direct = each is None or (not column.pinned and property_types.fits(each, column.type))
        in_structure = column.key and "\x00" not in column.key and column.key.lower() not in folded
        if in_structure:
            folded.add(column.key.lower())
            structure[column.key] = column.type if direct else "JSON"
            value = f"s.{quoted(column.key)}"
        else:  # DuckDB refuses names that differ only in case, and empty ones
            value = f"j{number}"
            raw.append(f"properties->{_pointer(column.key)} AS {value}")
            direct = False
        if direct:
            chosen.append(f"CAST({value} AS {column.type}) AS {quoted(column.name)}")
            continue
        converted = property_types.typed(f"({value})", column.type, as_text=column.pinned)
        chosen.append(f"{converted} AS {quoted(column.name)}")
        if each is not None and not property_types.fits(each, column.type):
            missed = f"({converted}) IS NULL AND CAST({value} AS VARCHAR) <> 'null'"
            outliers.append(f"{literal(column.name)}, CASE WHEN {missed} THEN {value} END")
    kept = "CAST(NULL AS JSON)"
    if outliers:  # a merge patch drops what is null
        kept = f"json_merge_patch('{{}}', json_object({', '.join(outliers)}))"
        kept = f"CAST(NULLIF(CAST({kept} AS VARCHAR), '{{}}') AS JSON)"
    shape = literal(json.dumps(structure or {"-": "JSON"}, ensure_ascii=False))
    scanned = ["properties", *(f"{name} AS {alias}" for alias, name in aliases.items())]
    parsed = [*aliases, f"json_transform(properties, {shape}) AS s", *raw]
    order = ""  # several ranges are written in parallel only if the query sorts
    if ranges and ranges[-1].stop * (len(aliases) + len(columns)) <= MAX_SORTED:
        scanned.append("rowid AS n")
        parsed.append("n")
        order = " ORDER BY parsed.n"
    else:
        ranges = ()
    source = scan(table, ranges, ", ".join(scanned), where)
    return (
        f"SELECT {', '.join(chosen)}, {kept} AS {OUTLIERS} "
        f"FROM (SELECT {', '.join(parsed)} FROM {source}) AS parsed{order}"
    )


def _pointer(key: str) -> str:
    return "(" + literal(pointer(key)).replace("\x00", "' || chr(0) || '") + ")"


def _result(
    connection: DuckDBPyConnection,
    source: str,
    target: str,
    columns: list[_Column],
    found: Mapping[str, property_types.Found],
    known: Iterable[_Column] | None,
    omitted: int,
) -> TypedTable:
    outliers = dict(
        connection.execute(
            f"SELECT k, count(*) FROM (SELECT unnest(json_keys({OUTLIERS})) AS k "
            f"FROM {quoted(target)} WHERE {OUTLIERS} IS NOT NULL) GROUP BY k"
        ).fetchall()
    )
    values: tuple[int, ...] = ()
    if columns:
        counts = ", ".join(f"count({quoted(column.name)})" for column in columns)
        values = connection.execute(f"SELECT {counts} FROM {quoted(target)}").fetchone() or ()
    described = tuple(
        TypedColumn(
            column.name, column.key, column.type, number + outliers.get(column.name, 0),
            outliers.get(column.name, 0), column.pinned,
        )
        for column, number in zip(columns, values, strict=True)
    )  # fmt: skip
    before = {column.key: column for column in known or ()}
    fresh = () if known is None else (each for each in described if each.property not in before)
    changed = []
    for key, column in before.items():
        each = found.get(key)
        if each is not None and not column.pinned and not property_types.fits(each, column.type):
            now = property_types.decide(each).type
            if now != column.type:
                changed.append((column.name, column.type, now))
    return TypedTable(
        source,
        target,
        count(connection, quoted(target)),
        described,
        new=tuple(each.name for each in fresh),
        vanished=tuple(e.name for e in described if e.property in before and not e.values),
        changed=tuple(changed),
        omitted=omitted,
    )


# ---- the record ---------------------------------------------------------------------------------


def _recorded_name(connection: DuckDBPyConnection, source: str) -> str | None:
    row = connection.execute(
        "SELECT typed_name FROM _typed_tables WHERE table_name = ?", [source]
    ).fetchone()
    return row[0] if row else None


def _stale(connection: DuckDBPyConnection, source: str) -> str | None:
    row = connection.execute(
        "SELECT stale FROM _typed_tables WHERE table_name = ?", [source]
    ).fetchone()
    return row[0] if row else None


def _columns(connection: DuckDBPyConnection, source: str) -> dict[str, _Column]:
    rows = connection.execute(
        "SELECT property, column_name, type, pinned FROM _typed_columns WHERE table_name = ? "
        "ORDER BY position",
        [source],
    ).fetchall()
    return {row[0]: _Column(*row) for row in rows}


def _record(
    connection: DuckDBPyConnection, source: str, target: str, columns: list[_Column]
) -> None:
    fetch_log.delete_typed(connection, source)
    connection.execute("INSERT INTO _typed_tables VALUES (?, ?, NULL)", [source, target])
    connection.execute(
        "INSERT INTO _typed_columns SELECT ?, unnest(range(len(?))), unnest(?::VARCHAR[]), "
        "unnest(?::VARCHAR[]), unnest(?::VARCHAR[]), unnest(?::BOOLEAN[])",
        [
            source,
            [column.key for column in columns],
            [column.key for column in columns],
            [column.name for column in columns],
            [column.type for column in columns],
            [column.pinned for column in columns],
        ],
    )
