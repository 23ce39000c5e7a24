"""Build and refresh a table with a typed column for each property, beside the table itself.

Names and types of the columns are recorded, so that they stay as they are when more events come;
a value that a column cannot hold exactly is NULL there, and kept in the column `_outliers`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from mixpanel._runtime.safe_logging import logger
from mixpanel.data.exceptions import ConfigError, MixpanelDataError, TableExistsError
from mixpanel.data.results import TypedColumn, TypedTable
from mixpanel.data.store import fetch_log, property_types, tables, typed_views
from mixpanel.data.store.engine import (
    count,
    database_errors,
    error_message,
    load_duckdb,
    transaction,
)
from mixpanel.data.store.fetch_log import OUTLIERS
from mixpanel.data.store.property_types import PropertyType
from mixpanel.data.store.quoting import literal, pointer, quoted, table_name
from mixpanel.data.store.row_ranges import row_ranges, scan, with_enough_memory
from mixpanel.data.store.typed_views import MAX_COLUMNS, column_aliases, source_columns

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence
    from datetime import date

    from duckdb import DuckDBPyConnection

__all__ = ["build", "mark_stale", "mark_written", "refresh", "refresh_loaded"]

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

    :raises TableExistsError: if another table or view has its name.
    :raises ConfigError: for a type that is not known, or a table without properties or with a
        column `_outliers`.
    """
    pins = _checked_types(types)
    source = tables.resolve(connection, table)
    base = source_columns(connection, source)
    for column in base:
        if column.lower() == OUTLIERS:
            raise ConfigError(
                f"{source} has a column {column}, a name that typed tables use: rename it"
            )
    attempt = partial(_build, connection, source, base, name, pins, infer_again)
    return with_enough_memory(row_ranges(connection, source, base), attempt)


def _build(
    connection: DuckDBPyConnection,
    source: str,
    base: Collection[str],
    name: str | None,
    pins: dict[str, str],
    infer_again: bool,  # noqa: FBT001 - of `build`
    ranges: Sequence[range],
) -> TypedTable:
    with database_errors(), transaction(connection):
        recorded = _recorded_name(connection, source)
        target = table_name(name or recorded or source + tables.TYPED_SUFFIX)
        known = {} if infer_again else _columns(connection, source)
        kept = {c.key: c.type for c in _columns(connection, source).values() if c.pinned}
        existing = tables.names(connection)
        same = {each.lower(): each for each in existing}.get(target.lower())
        if same and same != recorded and not typed_views.is_typed_view(connection, same):
            raise TableExistsError(same)
        for old in filter(None, (recorded, same)):
            kind = "VIEW" if existing.get(old) else "TABLE"
            connection.execute(f"DROP {kind} IF EXISTS {quoted(old)}")
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
    come or gone without a record, or columns, the whole table is built again.
    """
    target, stale = _recorded_name(connection, source), _stale(connection, source)
    if target is None:
        return None
    is_table = tables.names(connection).get(target) is False
    if is_table and stale is None and _has_rows_of(connection, target, source):
        return None
    base = source_columns(connection, source)
    result = None
    if (
        is_table
        and stale not in (None, ALL_DAYS)
        and _has_columns(connection, target, source, base)
    ):
        attempt = partial(_refresh_days, connection, source, base, target, stale)
        result = with_enough_memory(row_ranges(connection, source, base), attempt)
    return result or build(connection, source, None, {}, infer_again=False)


def _has_rows_of(connection: DuckDBPyConnection, target: str, source: str) -> bool:
    return count(connection, quoted(target)) == count(connection, quoted(source))


def _has_columns(
    connection: DuckDBPyConnection, target: str, source: str, base: Iterable[str]
) -> bool:
    """Return False if SQL has added or dropped columns of a table or of its typed table."""
    recorded = (column.name for column in _columns(connection, source).values())
    found = (column.name for column in tables.schema(connection, target).columns)
    return sorted(map(str.lower, found)) == sorted(map(str.lower, (*base, *recorded, OUTLIERS)))


def _refresh_days(
    connection: DuckDBPyConnection,
    source: str,
    base: Collection[str],
    target: str,
    stale: str,
    ranges: Sequence[range],
) -> TypedTable | None:
    """Replace the rows of the stale days; None if the table then has not as many as its source."""
    time = "event_time_local" if "event_time_local" in base else "event_time"
    days = f"SELECT unnest({literal(stale)}::JSON::DATE[])"
    where = f"({time} IS NULL OR CAST({time} AS DATE) IN ({days}))"
    with database_errors(), transaction(connection):
        known = _columns(connection, source)
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
        if _has_rows_of(connection, target, source):
            _record(connection, source, target, columns)
            return _result(connection, source, target, columns, found, known.values(), omitted)
        connection.execute(
            "UPDATE _typed_tables SET stale = ? WHERE table_name = ?", [ALL_DAYS, source]
        )
    return None


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


def _checked_types(types: Mapping[str, str]) -> dict[str, str]:
    if not isinstance(types, Mapping) or not all(isinstance(key, str) for key in types):
        raise ConfigError(
            f"types={types!r} must name a type for each of some properties, as in "
            "{'amount': 'DECIMAL(18,2)'}"
        )
    return {key: _checked_type(key, type_) for key, type_ in types.items()}


def _checked_type(key: str, type_: str) -> str:
    chosen = re.sub(r"\s", "", str(type_)).upper()
    match = _TYPE.fullmatch(chosen)
    if match and match[1]:
        digits, scale = int(match[1]), int(match[2])
        chosen = f"DECIMAL({digits},{scale})"
        if not max(1, scale) <= digits <= property_types.MAX_DIGITS:
            match = None
    if not match:
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
    taken = {column.lower() for column in base}  # SQL may have added a column of a known name
    known = {key: column for key, column in known.items() if column.name.lower() not in taken}
    new = [key for key in frequent if key not in known]
    room = max(MAX_COLUMNS - len(known), sum(key in pins for key in new))
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
    raw, converted, outliers = [], [], []
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
        chosen.append(f"c{number} AS {quoted(column.name)}")
        if direct:
            converted.append(f"CAST({value} AS {column.type}) AS c{number}")
            continue
        typed = property_types.typed(f"({value})", column.type, as_text=column.pinned)
        converted.append(f"{typed} AS c{number}")
        if each is not None and not property_types.fits(each, column.type):
            converted.append(f"CAST({value} AS VARCHAR) AS v{number}")
            member = literal(json.dumps(column.name, ensure_ascii=False) + ":")
            is_outlier = f"c{number} IS NULL AND v{number} <> 'null'"
            outliers.append(f"CASE WHEN {is_outlier} THEN {member} || v{number} END")
    kept = "CAST(NULL AS JSON)"
    if outliers:  # concat_ws leaves out what is NULL
        members = f"concat_ws(',', {', '.join(outliers)})"
        kept = f"CAST(NULLIF('{{' || {members} || '}}', '{{}}') AS JSON)"
    shape = literal(json.dumps(structure or {"-": "JSON"}, ensure_ascii=False))
    scanned = ["properties", *(f"{name} AS {alias}" for alias, name in aliases.items())]
    converted = [*aliases, *converted]
    parsed = [*aliases, f"json_transform(properties, {shape}) AS s", *raw]
    order = ""  # several ranges are written in parallel only if the query sorts
    if ranges and ranges[-1].stop * (len(aliases) + len(columns)) <= MAX_SORTED:
        scanned.append("rowid AS n")
        parsed.append("n")
        converted.append("n")
        order = " ORDER BY converted.n"
    else:
        ranges = ()
    source = scan(table, ranges, ", ".join(scanned), where)
    return (
        f"SELECT {', '.join(chosen)}, {kept} AS {OUTLIERS} FROM (SELECT {', '.join(converted)} "
        f"FROM (SELECT {', '.join(parsed)} FROM {source})) AS converted{order}"
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
    return fetch_log.typed_names(connection).get(source)


def _stale(connection: DuckDBPyConnection, source: str) -> str | None:
    found = fetch_log.typed_tables(connection)
    return next((stale for name, _, stale in found if name == source), None)


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
