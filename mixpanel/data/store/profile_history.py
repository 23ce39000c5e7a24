"""Keep the versions of profiles, so that those of any past fetch can be queried.

A table such as `profiles` may have a second one, `profiles_history`, with a row for each version
that a fetch found; `deleted` marks a profile that a fetch no longer found. The table macro
`profiles_as_of(time)` selects the versions of a time in UTC.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mixpanel.data.exceptions import ConfigError
from mixpanel.data.store.fetch_log import naive
from mixpanel.data.store.quoting import quoted
from mixpanel.data.store.schema import SAME_PROPERTIES

if TYPE_CHECKING:
    from datetime import datetime

    from duckdb import DuckDBPyConnection

    from mixpanel.data.store.fetch_log import Table

__all__ = ["SAME", "SUFFIX", "create", "drop_macro", "is_kept", "record"]

SUFFIX, MACRO_SUFFIX = "_history", "_as_of"
COLUMNS = {
    "distinct_id": "VARCHAR",
    "properties": "JSON",
    "last_seen": "TIMESTAMP",
    "as_of": "TIMESTAMP",
    "deleted": "BOOLEAN",
}


# Whether two versions of a profile, `new` and `old`, are equal; the order of keys is ignored.
SAME = f"new.last_seen IS NOT DISTINCT FROM old.last_seen AND {SAME_PROPERTIES}"


def is_kept(connection: DuckDBPyConnection, name: str, *, wanted: bool) -> bool:
    """Return True if the history of a table is kept: it is wanted, or there is one.

    :raises ConfigError: if it is wanted, and a table of its name is something else.
    """
    rows = connection.execute(
        "SELECT column_name, data_type FROM information_schema.columns WHERE table_schema = 'main' "
        "AND table_catalog = current_database() AND lower(table_name) = lower(?)",
        [name + SUFFIX],
    ).fetchall()
    is_history = dict(rows) == COLUMNS
    if wanted and rows and not is_history:
        raise ConfigError(
            f"{name}{SUFFIX} is a table of your own, but would have the history of {name}: "
            "rename it, or fetch into a table of another name"
        )
    return wanted or is_history


def create(connection: DuckDBPyConnection, name: str, known: Table | None) -> None:
    """Create the history if there is none, with the rows that the table has."""
    history = quoted(name + SUFFIX)
    exists = is_kept(connection, name, wanted=False)
    columns = ", ".join(f"{column} {kind}" for column, kind in COLUMNS.items())
    connection.execute(f"CREATE TABLE IF NOT EXISTS {history} ({columns})")
    if known is not None and not exists:
        connection.execute(
            f"INSERT INTO {history} SELECT distinct_id, properties, last_seen, ?, false "
            f"FROM {quoted(name)} WHERE distinct_id IS NOT NULL",
            [naive(known.fetched_at)],
        )
    connection.execute(
        f"CREATE OR REPLACE MACRO {quoted(name + MACRO_SUFFIX)}(moment) AS TABLE "
        "SELECT distinct_id, properties, last_seen FROM ("
        f"{_latest(history, 'as_of <= moment::TIMESTAMP')}) WHERE NOT deleted"
    )


def record(connection: DuckDBPyConnection, name: str, at: datetime) -> None:
    """Add what differs between the table and the latest versions in its history."""
    history, table = quoted(name + SUFFIX), quoted(name)
    latest = _latest(history, "true")
    connection.execute(
        f"INSERT INTO {history} SELECT new.distinct_id, new.properties, new.last_seen, ?, false "
        f"FROM {table} AS new LEFT JOIN ({latest}) AS old ON old.distinct_id = new.distinct_id "
        f"WHERE new.distinct_id IS NOT NULL AND (old.deleted IS NOT FALSE OR NOT ({SAME}))",
        [naive(at)],
    )
    connection.execute(
        f"INSERT INTO {history} SELECT old.distinct_id, NULL, NULL, ?, true FROM ({latest}) AS old "
        f"ANTI JOIN {table} AS new ON old.distinct_id = new.distinct_id WHERE NOT old.deleted",
        [naive(at)],
    )


def drop_macro(connection: DuckDBPyConnection, name: str) -> None:
    """Drop the macro of a history that is dropped."""
    if name.endswith(SUFFIX):
        macro = quoted(name.removesuffix(SUFFIX) + MACRO_SUFFIX)
        connection.execute(f"DROP MACRO TABLE IF EXISTS {macro}")


def _latest(history: str, condition: str) -> str:
    return (
        f"SELECT * FROM {history} WHERE {condition} QUALIFY row_number() OVER "
        "(PARTITION BY distinct_id ORDER BY as_of DESC, rowid DESC) = 1"
    )
