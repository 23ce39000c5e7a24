"""Create a view with a typed column for each property of a table."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mixpanel.data.exceptions import ConfigError, TableExistsError
from mixpanel.data.store import property_types, tables
from mixpanel.data.store.engine import database_errors, transaction
from mixpanel.data.store.quoting import quoted, table_name
from mixpanel.data.store.row_ranges import parallel_source

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

__all__ = ["source_columns", "typed_view"]


def typed_view(connection: DuckDBPyConnection, table: str, name: str | None) -> str:
    """Create or replace a view with a column for each property of a table; return its name.

    Numbers, booleans and text become columns of their types; lists, objects and properties with
    values of several types stay JSON. A value that its column cannot hold exactly is NULL, and so
    is an explicit null.

    :raises TableExistsError: if the view's name is that of a table.
    """
    source = tables.resolve(connection, table)
    columns = source_columns(connection, source)
    view = table_name(name or source + tables.TYPED_SUFFIX)
    if tables.names(connection).get(view) is False:
        raise TableExistsError(view)
    scanned = parallel_source(connection, source)
    collected = property_types.collect(connection, f"SELECT properties FROM {scanned}")
    found = {key: property_types.decide(each) for key, each in collected.items()}
    names = property_types.column_names(found, columns)
    chosen = [quoted(column) for column in columns]
    chosen += [
        f"{property_types.typed_property(key, found[key].type)} AS {quoted(names[key])}"
        for key in sorted(found)
    ]
    statement = f"SELECT {', '.join(chosen)} FROM {quoted(source)}"
    with database_errors(), transaction(connection):
        connection.execute(f"CREATE OR REPLACE VIEW {quoted(view)} AS {statement}")
    return view


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
