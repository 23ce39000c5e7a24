"""Create a view with a typed column for each property of a table."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

from mixpanel._runtime.safe_logging import logger
from mixpanel.data.exceptions import ConfigError, TableExistsError
from mixpanel.data.store import property_types, tables
from mixpanel.data.store.engine import database_errors, transaction
from mixpanel.data.store.quoting import literal, pointer, quoted, table_name
from mixpanel.data.store.row_ranges import row_ranges, scan, with_enough_memory

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from duckdb import DuckDBPyConnection

__all__ = ["MAX_COLUMNS", "column_aliases", "is_typed_view", "source_columns", "typed_view"]

MAX_COLUMNS = 1000
MAX_APART = 200
_ALIASES = re.compile(r"\(SELECT .* AS [bj]0\b")


def typed_view(connection: DuckDBPyConnection, table: str, name: str | None) -> str:
    """Create or replace a view with a column for each property of a table; return its name.

    Numbers, booleans and text become columns of their types; lists, objects and properties with
    values of several types stay JSON. A value that its column cannot hold exactly is NULL, and so
    is an explicit null. Of more than 1,000 properties, the rarest have no column.

    :raises TableExistsError: if the view's name is that of a table or of another view.
    """
    source = tables.resolve(connection, table)
    columns = source_columns(connection, source)
    view = table_name(name or source + tables.TYPED_SUFFIX)
    for each in tables.names(connection):
        if each.lower() == view.lower() and not is_typed_view(connection, each):
            raise TableExistsError(each)

    def attempt(ranges: Sequence[range]) -> dict[str, property_types.Found]:
        with database_errors():
            return property_types.collect(connection, scan(source, ranges, "properties"))

    collected = with_enough_memory(row_ranges(connection, source, columns), attempt)
    inferred = {key: property_types.decide(each) for key, each in collected.items()}
    found = property_types.most_frequent(inferred, MAX_COLUMNS)
    if len(found) < len(inferred):
        logger.warning(
            "%s has columns for the %s most frequent properties of %s, and none for %s others, "
            "which properties->>'$.name' reads",
            view,
            len(found),
            source,
            len(inferred) - len(found),
        )
    names = property_types.column_names(found, columns)
    keys = sorted(found)
    aliases = column_aliases(columns)
    chosen = [f"{alias} AS {column}" for alias, column in aliases.items()]
    chosen += [
        f"{property_types.typed(f'(j{number})', found[key].type)} AS {quoted(names[key])}"
        for number, key in enumerate(keys)
    ]
    if not chosen:
        raise ConfigError(f"{source} has no properties, and so nothing for a view")
    statement = f"SELECT {', '.join(chosen)} FROM ({_extracted(source, aliases, keys)})"
    with database_errors(), transaction(connection):
        connection.execute(f"CREATE OR REPLACE VIEW {quoted(view)} AS {statement}")
    return view


def _extracted(source: str, aliases: Mapping[str, str], keys: Iterable[str]) -> str:
    """Return the query of a table's columns by their aliases, and of properties as j0, j1, ….

    A value is extracted once, below its conversion, and only if a query uses its column. Each such
    expression parses the event again: of very many properties, all are extracted together.
    """
    apart = {key: f"j{number}" for number, key in enumerate(keys)}
    selected = [f"{column} AS {alias}" for alias, column in aliases.items()]
    if len(apart) <= MAX_APART:
        return _by_pointer(source, selected, apart)
    # DuckDB refuses names that differ only in case, and empty ones.
    together = {key.lower(): key for key in apart if key and "\x00" not in key}.values()
    names = {key: apart.pop(key) for key in together}
    shape = literal(json.dumps(dict.fromkeys(names, "JSON") or {"-": "JSON"}, ensure_ascii=False))
    parsed = _by_pointer(source, [*selected, f"json_transform(properties, {shape}) AS s"], apart)
    fields = [f"s.{quoted(key)} AS {name}" for key, name in names.items()]
    return f"SELECT {', '.join([*aliases, *apart.values(), *fields])} FROM ({parsed})"


def _by_pointer(source: str, selected: Iterable[str], names: Mapping[str, str]) -> str:
    columns = [f"properties->{literal(pointer(key))} AS {name}" for key, name in names.items()]
    return f"SELECT {', '.join([*selected, *columns])} FROM {quoted(source)}"


def is_typed_view(connection: DuckDBPyConnection, name: str) -> bool:
    """Return True for a view that `typed_view` made, which it may replace, by its aliases."""
    row = connection.execute(
        "SELECT sql FROM duckdb_views() WHERE view_name = ? AND schema_name = 'main' "
        "AND database_name = current_database()",
        [name],
    ).fetchone()
    return row is not None and _ALIASES.search(row[0]) is not None


def column_aliases(columns: Iterable[str]) -> dict[str, str]:
    """Return aliases b0, b1, … for a table's columns, whose names the query may use itself."""
    return {f"b{number}": quoted(name) for number, name in enumerate(columns)}


def source_columns(connection: DuckDBPyConnection, source: str) -> list[str]:
    """Return the columns of a table besides `properties`.

    :raises ConfigError: if it has no JSON column `properties`.
    """
    columns = {column.name: column.type for column in tables.schema(connection, source).columns}
    if columns.pop("properties", None) != "JSON":
        raise ConfigError(
            f"{source} has no JSON column properties, which typed columns need: use a table of "
            "events or profiles"
        )
    return list(columns)
