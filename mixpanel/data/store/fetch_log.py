"""The database's own tables: what each table is, and which days of it were fetched and how.

`_parts` names the part files that were received whole: only what it knows by its digest is loaded.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from mixpanel.data._fetch.plan import Chunk, is_reusable

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from datetime import date

    import duckdb

    from mixpanel.data._fetch.plan import Part

__all__ = [
    "Entry",
    "Table",
    "aware",
    "created_at",
    "entries",
    "find",
    "forget",
    "forget_parts",
    "naive",
    "note_part",
    "parts",
    "prepare",
    "record",
    "register",
    "settle",
    "strike",
    "tables",
]

SCHEMA = """
CREATE TABLE IF NOT EXISTS _metadata (
    table_name VARCHAR, type VARCHAR, fetched_at TIMESTAMP, from_date DATE, to_date DATE,
    row_count BIGINT, project_timezone VARCHAR, created_at TIMESTAMP
);
CREATE TABLE IF NOT EXISTS _ledger (
    table_name VARCHAR, day DATE, from_date DATE, to_date DATE, filters VARCHAR, mode VARCHAR,
    state VARCHAR, rows BIGINT, bytes BIGINT, fetched_at TIMESTAMP, part BIGINT
);
CREATE TABLE IF NOT EXISTS _parts (
    table_name VARCHAR, load_key VARCHAR, name VARCHAR, digest VARCHAR, bytes BIGINT,
    received_at TIMESTAMP
);
"""


@dataclass(frozen=True, slots=True)
class Table:
    """What `_metadata` says of a table."""

    name: str
    type: str
    fetched_at: datetime
    from_date: date | None
    to_date: date | None
    project_timezone: str | None


@dataclass(frozen=True, slots=True)
class Entry:
    """One day of one fetch: `state` is "staged" until its rows are in the table, then "done"."""

    day: date
    chunk: Chunk
    filters: str
    mode: str
    rows: int
    bytes: int
    fetched_at: datetime
    part: int

    def holds(self, now: datetime) -> bool:
        """Whether what was staged of this day may still be used."""
        zone = json.loads(self.filters).get("project_timezone")
        return is_reusable(self.day, self.fetched_at, now, zone)


def prepare(connection: duckdb.DuckDBPyConnection, now: datetime) -> None:
    """Create the tables where they are missing."""
    connection.execute(SCHEMA)
    for column in ("project_timezone VARCHAR", "created_at TIMESTAMP"):
        connection.execute(f"ALTER TABLE _metadata ADD COLUMN IF NOT EXISTS {column}")
    connection.execute(
        "INSERT INTO _metadata (table_name, type, fetched_at, row_count, created_at) "
        "SELECT '_ledger', 'database', $now, 0, $now "
        "WHERE NOT EXISTS (FROM _metadata WHERE table_name = '_ledger')",
        {"now": naive(now)},
    )


def tables(connection: duckdb.DuckDBPyConnection) -> list[Table]:
    """Return what `_metadata` knows, the database's own row left out."""
    known = _columns(connection, "_metadata")
    if not known:
        return []
    # Databases of the package before this one know no zone.
    zone = "project_timezone" if "project_timezone" in known else "NULL"
    rows = connection.execute(
        f"SELECT table_name, type, fetched_at, from_date, to_date, {zone} "  # noqa: S608
        "FROM _metadata WHERE type <> 'database' ORDER BY table_name"
    ).fetchall()
    return [Table(name, type_, aware(at), *rest) for name, type_, at, *rest in rows]


def created_at(connection: duckdb.DuckDBPyConnection) -> datetime | None:
    """Return when the database was made; None when that was not noted."""
    if "created_at" not in _columns(connection, "_metadata"):
        return None
    row = connection.execute(
        "SELECT created_at FROM _metadata WHERE table_name = '_ledger'"
    ).fetchone()
    return aware(row[0]) if row else None


def _columns(connection: duckdb.DuckDBPyConnection, own: str) -> set[str]:
    rows = connection.execute(
        "SELECT column_name FROM information_schema.columns WHERE table_catalog = "
        "current_database() AND table_schema = 'main' AND table_name = ?",
        [own],
    ).fetchall()
    return {column for (column,) in rows}


def find(connection: duckdb.DuckDBPyConnection, name: str) -> Table | None:
    """Return what `_metadata` knows of one table."""
    return next((table for table in tables(connection) if table.name == name), None)


def entries(connection: duckdb.DuckDBPyConnection, name: str, state: str) -> list[Entry]:
    """Return the days of a table that are in this state; a database without a ledger has none."""
    if not _columns(connection, "_ledger"):
        return []
    rows = connection.execute(
        "SELECT day, from_date, to_date, filters, mode, rows, bytes, fetched_at, part "
        "FROM _ledger WHERE table_name = ? AND state = ? ORDER BY day, fetched_at",
        [name, state],
    ).fetchall()
    return [
        Entry(day, Chunk(first, last), filters, mode, count, size, aware(at), part)
        for day, first, last, filters, mode, count, size, at, part in rows
    ]


def record(connection: duckdb.DuckDBPyConnection, name: str, staged: Sequence[Entry]) -> None:
    """Note days as staged, in place of what was staged of them before."""
    forget(connection, name, "staged", {entry.day for entry in staged})
    columns = [
        [entry.day for entry in staged],
        [entry.chunk.from_date for entry in staged],
        [entry.chunk.to_date for entry in staged],
        [entry.filters for entry in staged],
        [entry.mode for entry in staged],
        [entry.rows for entry in staged],
        [entry.bytes for entry in staged],
        [naive(entry.fetched_at) for entry in staged],
        [entry.part for entry in staged],
    ]
    connection.execute(
        "INSERT INTO _ledger BY NAME SELECT ? AS table_name, 'staged' AS state, "
        "unnest(?::DATE[]) AS day, unnest(?::DATE[]) AS from_date, unnest(?::DATE[]) AS to_date, "
        "unnest(?::VARCHAR[]) AS filters, unnest(?::VARCHAR[]) AS mode, "
        "unnest(?::BIGINT[]) AS rows, unnest(?::BIGINT[]) AS bytes, "
        "unnest(?::TIMESTAMP[]) AS fetched_at, unnest(?::BIGINT[]) AS part",
        [name, *columns],
    )


def forget(
    connection: duckdb.DuckDBPyConnection, name: str, state: str, days: Iterable[date] | None = None
) -> None:
    """Drop days of a table in this state from the ledger; None is all of them."""
    query = "DELETE FROM _ledger WHERE table_name = ? AND state = ?"
    parameters: list[Any] = [name, state]
    if days is not None:
        query += " AND day IN (SELECT unnest(?::DATE[]))"
        parameters.append(sorted(days))
    connection.execute(query, parameters)


def settle(connection: duckdb.DuckDBPyConnection, name: str) -> None:
    """Note the staged days as done: of days fetched twice with one filter the last fetch counts."""
    connection.execute(
        "DELETE FROM _ledger AS old WHERE table_name = $name AND state = 'done' AND EXISTS ("
        "FROM _ledger AS new WHERE new.table_name = $name AND new.state = 'staged' "
        "AND new.day = old.day AND new.filters = old.filters)",
        {"name": name},
    )
    connection.execute(
        "UPDATE _ledger SET state = 'done' WHERE table_name = ? AND state = 'staged'", [name]
    )


def register(connection: duckdb.DuckDBPyConnection, table: Table, row_count: int) -> None:
    """Write a table's row of `_metadata`."""
    connection.execute("DELETE FROM _metadata WHERE table_name = ?", [table.name])
    connection.execute(
        "INSERT INTO _metadata (table_name, type, fetched_at, from_date, to_date, row_count, "
        "project_timezone) VALUES (?, ?, ?, ?, ?, ?, ?)",
        [
            table.name,
            table.type,
            naive(table.fetched_at),
            table.from_date,
            table.to_date,
            row_count,
            table.project_timezone,
        ],
    )


def strike(connection: duckdb.DuckDBPyConnection, name: str) -> None:
    """Forget a table."""
    for own in ("_metadata", "_ledger", "_parts"):
        if _columns(connection, own):
            connection.execute(f"DELETE FROM {own} WHERE table_name = ?", [name])  # noqa: S608


# ---- part files --------------------------------------------------------------------------------


def note_part(
    connection: duckdb.DuckDBPyConnection, table: str, key: str, part: Part, now: datetime
) -> None:
    """Note that a part of a load was received whole."""
    connection.execute(
        "INSERT INTO _parts VALUES (?, ?, ?, ?, ?, ?)",
        [table, key, part.path.name, part.digest, part.bytes, naive(part.received_at or now)],
    )


def parts(connection: duckdb.DuckDBPyConnection, key: str) -> dict[str, tuple[str, datetime]]:
    """Return digest and time of the parts of a load by name, as they were received last."""
    rows = connection.execute(
        "SELECT name, digest, received_at FROM _parts WHERE load_key = ? ORDER BY received_at",
        [key],
    ).fetchall()
    return {name: (digest, aware(at)) for name, digest, at in rows}


def forget_parts(connection: duckdb.DuckDBPyConnection, table: str, *, but: str = "") -> None:
    """Forget the parts of a table's loads, but those of one key."""
    connection.execute("DELETE FROM _parts WHERE table_name = ? AND load_key <> ?", [table, but])


# ---- times -----------------------------------------------------------------------------


def aware(moment: datetime) -> datetime:
    """Return what DuckDB keeps, UTC without saying so, as an aware datetime."""
    return moment.replace(tzinfo=UTC)


def naive(moment: datetime) -> datetime:
    """Return an aware datetime as DuckDB keeps it."""
    return moment.astimezone(UTC).replace(tzinfo=None)
