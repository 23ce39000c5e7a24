"""The internal tables: what each table holds, and which of its days were fetched, when and how.

`_metadata` has a row per table, `_ledger` a row per day that was fetched or could not be. `_parts`
has the digest of every part file that was received whole; a file without a matching digest is not
loaded. `_pages` has the pages of profiles of interrupted fetches, with the session of the server to
which they belong.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from mixpanel.data._fetch.plan import Chunk, is_reusable

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from datetime import date

    import duckdb

    from mixpanel.data._fetch.plan import Part

__all__ = [
    "OUTLIERS",
    "Entry",
    "FailedDay",
    "PageRecord",
    "Table",
    "aware",
    "commit_staged",
    "created_at",
    "delete",
    "delete_days",
    "delete_pages",
    "delete_parts",
    "delete_typed",
    "entries",
    "failed_days",
    "find",
    "naive",
    "pages",
    "parts",
    "prepare",
    "project_id",
    "record_failed",
    "record_page",
    "record_part",
    "record_project_id",
    "record_staged",
    "register",
    "tables",
    "typed_names",
    "typed_tables",
]

OUTLIERS = "_outliers"  # a column that only typed tables have
SCHEMA = """
CREATE TABLE IF NOT EXISTS _metadata (
    table_name VARCHAR, type VARCHAR, fetched_at TIMESTAMP, from_date DATE, to_date DATE,
    row_count BIGINT, project_timezone VARCHAR, created_at TIMESTAMP, project_id VARCHAR
);
CREATE TABLE IF NOT EXISTS _ledger (
    table_name VARCHAR, day DATE, from_date DATE, to_date DATE, filters VARCHAR, mode VARCHAR,
    state VARCHAR, rows BIGINT, bytes BIGINT, fetched_at TIMESTAMP, part BIGINT, reason VARCHAR,
    is_gap BOOLEAN
);
CREATE TABLE IF NOT EXISTS _parts (
    table_name VARCHAR, load_key VARCHAR, name VARCHAR, digest VARCHAR, bytes BIGINT,
    received_at TIMESTAMP
);
CREATE TABLE IF NOT EXISTS _typed_tables (table_name VARCHAR, typed_name VARCHAR, stale VARCHAR);
CREATE TABLE IF NOT EXISTS _typed_columns (
    table_name VARCHAR, position BIGINT, property VARCHAR, column_name VARCHAR, type VARCHAR,
    pinned BOOLEAN
);
CREATE TABLE IF NOT EXISTS _pages (
    table_name VARCHAR, load_key VARCHAR, query VARCHAR, page BIGINT, session_id VARCHAR,
    page_size BIGINT, page_count BIGINT, rows BIGINT, bytes BIGINT, repaired BIGINT,
    unreadable BIGINT, kept_in VARCHAR, is_full BOOLEAN, received_at TIMESTAMP
);
"""


@dataclass(frozen=True, slots=True)
class Table:
    """A row of `_metadata`."""

    name: str
    type: str
    fetched_at: datetime
    from_date: date | None
    to_date: date | None
    project_timezone: str | None


@dataclass(frozen=True, slots=True)
class Entry:
    """A row of `_ledger`: one day of one fetch.

    Its `state` in the database is "staged" until its rows are in the table, then "done". Days
    that could not be fetched have the state "failed" or "skipped": see `FailedDay`.
    """

    day: date
    chunk: Chunk
    filters: str
    mode: str
    rows: int
    bytes: int
    fetched_at: datetime
    part: int

    def holds(self, now: datetime) -> bool:
        """Return True if the staged rows of this day are still recent enough to use."""
        zone = json.loads(self.filters).get("project_timezone")
        return is_reusable(self.day, self.fetched_at, now, zone)


@dataclass(frozen=True, slots=True)
class FailedDay:
    """A row of `_ledger` of a day that could not be fetched, or `skipped` after other failures.

    `is_gap` says that the table was put in place without it. The row is deleted when the day is
    fetched with the same filters.
    """

    day: date
    filters: str
    mode: str
    reason: str
    failed_at: datetime
    skipped: bool
    is_gap: bool


@dataclass(frozen=True, slots=True)
class PageRecord:
    """A row of `_pages`: one page of profiles that was staged.

    `load_key` and `query` are those of the fetch; `session_id`, `page_size` and `page_count` what
    the first response had, and `page_count` is None without a total. `is_full` says that another
    page may follow; `unreadable` profiles of it are in the file `kept_in`.
    """

    load_key: str
    query: str
    page: int
    session_id: str | None
    page_size: int
    page_count: int | None
    rows: int
    bytes: int
    repaired: int
    unreadable: int
    kept_in: str | None
    is_full: bool
    received_at: datetime


def prepare(connection: duckdb.DuckDBPyConnection, now: datetime) -> None:
    """Create the internal tables and columns that are missing."""
    connection.execute(SCHEMA)
    for column in ("project_timezone VARCHAR", "created_at TIMESTAMP", "project_id VARCHAR"):
        connection.execute(f"ALTER TABLE _metadata ADD COLUMN IF NOT EXISTS {column}")
    for column in ("reason VARCHAR", "is_gap BOOLEAN"):
        connection.execute(f"ALTER TABLE _ledger ADD COLUMN IF NOT EXISTS {column}")
    connection.execute(
        "INSERT INTO _metadata (table_name, type, fetched_at, row_count, created_at) "
        "SELECT '_ledger', 'database', $now, 0, $now "
        "WHERE NOT EXISTS (FROM _metadata WHERE table_name = '_ledger')",
        {"now": naive(now)},
    )


def tables(connection: duckdb.DuckDBPyConnection) -> list[Table]:
    """Return the rows of `_metadata`, without the one of the database itself."""
    known = _columns(connection, "_metadata")
    if not known:
        return []
    # Databases of the previous package have no such column.
    zone = "project_timezone" if "project_timezone" in known else "NULL"
    rows = connection.execute(
        f"SELECT table_name, type, fetched_at, from_date, to_date, {zone} "
        "FROM _metadata WHERE type <> 'database' ORDER BY table_name"
    ).fetchall()
    return [Table(name, type_, aware(at), *rest) for name, type_, at, *rest in rows]


def created_at(connection: duckdb.DuckDBPyConnection) -> datetime | None:
    """Return when the database was created, or None if that was not recorded."""
    if "created_at" not in _columns(connection, "_metadata"):
        return None
    row = connection.execute(
        "SELECT created_at FROM _metadata WHERE table_name = '_ledger'"
    ).fetchone()
    return aware(row[0]) if row else None


def project_id(connection: duckdb.DuckDBPyConnection) -> str | None:
    """Return the project whose data the database has; None before the first fetch."""
    if "project_id" not in _columns(connection, "_metadata"):
        return None
    query = "SELECT project_id FROM _metadata WHERE table_name = '_ledger'"
    rows = connection.execute(query).fetchall()
    return rows[0][0] if rows else None


def record_project_id(connection: duckdb.DuckDBPyConnection, project: str) -> None:
    """Record the project whose data the database will have, unless it is recorded already."""
    connection.execute(
        "UPDATE _metadata SET project_id = ? WHERE table_name = '_ledger' AND project_id IS NULL",
        [project],
    )


def _columns(connection: duckdb.DuckDBPyConnection, table: str) -> set[str]:
    rows = connection.execute(
        "SELECT column_name FROM information_schema.columns WHERE table_catalog = "
        "current_database() AND table_schema = 'main' AND table_name = ?",
        [table],
    ).fetchall()
    return {column for (column,) in rows}


def find(connection: duckdb.DuckDBPyConnection, name: str) -> Table | None:
    """Return the row of one table in `_metadata`, or None."""
    return next((table for table in tables(connection) if table.name == name), None)


def entries(connection: duckdb.DuckDBPyConnection, name: str, state: str) -> list[Entry]:
    """Return the days of a table in this state; none if the database has no `_ledger`."""
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


def record_staged(
    connection: duckdb.DuckDBPyConnection, name: str, staged: Sequence[Entry]
) -> None:
    """Record days as staged, replacing what was staged of them before."""
    delete_days(connection, name, "staged", {entry.day for entry in staged})
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


def delete_days(
    connection: duckdb.DuckDBPyConnection, name: str, state: str, days: Iterable[date] | None = None
) -> None:
    """Delete days of a table in this state; None deletes all of them."""
    query = "DELETE FROM _ledger WHERE table_name = ? AND state = ?"
    parameters: list[Any] = [name, state]
    if days is not None:
        query += " AND day IN (SELECT unnest(?::DATE[]))"
        parameters.append(sorted(days))
    connection.execute(query, parameters)


def commit_staged(connection: duckdb.DuckDBPyConnection, name: str) -> None:
    """Mark the staged days as done, replacing what is recorded of them with the same filters."""
    connection.execute(
        "DELETE FROM _ledger AS old WHERE table_name = $name AND state <> 'staged' AND EXISTS ("
        "FROM _ledger AS new WHERE new.table_name = $name AND new.state = 'staged' "
        "AND new.day = old.day AND new.filters = old.filters)",
        {"name": name},
    )
    connection.execute(
        "UPDATE _ledger SET state = 'done' WHERE table_name = ? AND state = 'staged'", [name]
    )


def record_failed(
    connection: duckdb.DuckDBPyConnection, name: str, failed: Sequence[FailedDay]
) -> None:
    """Record days that could not be fetched, replacing earlier failures of the same filters.

    A gap of the table stays one.
    """
    gaps = {(each.day, each.filters) for each in failed_days(connection, name) if each.is_gap}
    for each in failed:
        connection.execute(
            "DELETE FROM _ledger WHERE table_name = ? AND state IN ('failed', 'skipped') "
            "AND day = ? AND filters = ?",
            [name, each.day, each.filters],
        )
        state = "skipped" if each.skipped else "failed"
        is_gap = each.is_gap or (each.day, each.filters) in gaps
        values = [name, state, each.day, each.filters, each.mode, each.reason, is_gap]
        connection.execute(
            "INSERT INTO _ledger (table_name, state, day, filters, mode, reason, is_gap, "
            "fetched_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            [*values, naive(each.failed_at)],
        )


def failed_days(connection: duckdb.DuckDBPyConnection, name: str) -> list[FailedDay]:
    """Return the days of a table that could not be fetched since, in order."""
    if "is_gap" not in _columns(connection, "_ledger"):
        return []
    rows = connection.execute(
        "SELECT day, filters, mode, reason, fetched_at, state = 'skipped', is_gap FROM _ledger "
        "WHERE table_name = ? AND state IN ('failed', 'skipped') ORDER BY day",
        [name],
    ).fetchall()
    return [
        FailedDay(day, filters, mode, reason, aware(at), skipped, is_gap)
        for day, filters, mode, reason, at, skipped, is_gap in rows
    ]


def register(connection: duckdb.DuckDBPyConnection, table: Table, row_count: int) -> None:
    """Write a table's row of `_metadata`, replacing the old one."""
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


def delete(connection: duckdb.DuckDBPyConnection, name: str) -> None:
    """Delete everything recorded about a table."""
    for table in ("_metadata", "_ledger", "_parts", "_pages"):
        if _columns(connection, table):
            connection.execute(f"DELETE FROM {table} WHERE table_name = ?", [name])


def delete_typed(connection: duckdb.DuckDBPyConnection, name: str) -> None:
    """Delete what is recorded about the typed table of a table."""
    for table in ("_typed_tables", "_typed_columns"):
        connection.execute(f"DELETE FROM {table} WHERE table_name = ?", [name])


def typed_names(connection: duckdb.DuckDBPyConnection) -> dict[str, str]:
    """Return the names of the typed tables by those of their sources."""
    return {source: typed for source, typed, _ in typed_tables(connection)}


def typed_tables(connection: duckdb.DuckDBPyConnection) -> list[tuple[str, str, str | None]]:
    """Return source, name and stale days of each typed table; None if it is current.

    Without one that SQL has dropped, if another table or view has its name now.
    """
    if not _columns(connection, "_typed_tables"):
        return []
    return connection.execute(
        "SELECT table_name, typed_name, stale FROM _typed_tables LEFT JOIN ("
        f"SELECT lower(table_name) AS name, bool_or(column_name = '{OUTLIERS}') AS is_typed "
        "FROM information_schema.columns WHERE table_catalog = current_database() "
        "AND table_schema = 'main' GROUP BY ALL) ON name = lower(typed_name) "
        "WHERE is_typed IS NOT FALSE"
    ).fetchall()


# ---- part files --------------------------------------------------------------------------------


def record_part(
    connection: duckdb.DuckDBPyConnection, table: str, key: str, part: Part, now: datetime
) -> None:
    """Record that a part of a load was received whole."""
    connection.execute(
        "INSERT INTO _parts VALUES (?, ?, ?, ?, ?, ?)",
        [table, key, part.path.name, part.digest, part.bytes, naive(part.received_at or now)],
    )


def parts(connection: duckdb.DuckDBPyConnection, key: str) -> dict[str, tuple[str, datetime]]:
    """Return digest and time of receipt of a load's parts by file name; the latest wins."""
    rows = connection.execute(
        "SELECT name, digest, received_at FROM _parts WHERE load_key = ? ORDER BY received_at",
        [key],
    ).fetchall()
    return {name: (digest, aware(at)) for name, digest, at in rows}


def delete_parts(connection: duckdb.DuckDBPyConnection, table: str, *, keep: str = "") -> None:
    """Delete the parts of a table's loads, except those of the key `keep`."""
    connection.execute("DELETE FROM _parts WHERE table_name = ? AND load_key <> ?", [table, keep])


# ---- pages of profiles -------------------------------------------------------------------------


def record_page(connection: duckdb.DuckDBPyConnection, table: str, record: PageRecord) -> None:
    """Record that a page was staged."""
    values = [getattr(record, field.name) for field in fields(record)]
    values[-1] = naive(record.received_at)
    marks = ", ".join("?" for _ in values)
    connection.execute(f"INSERT INTO _pages VALUES (?, {marks})", [table, *values])


def pages(connection: duckdb.DuckDBPyConnection, table: str) -> list[PageRecord]:
    """Return the staged pages of a table, in the order of their numbers."""
    if not _columns(connection, "_pages"):
        return []
    rows = connection.execute(
        "SELECT * EXCLUDE (table_name) FROM _pages WHERE table_name = ? ORDER BY page", [table]
    ).fetchall()
    names = [field.name for field in fields(PageRecord)]
    found: Iterator[dict[str, Any]] = (dict(zip(names, row, strict=True)) for row in rows)
    return [PageRecord(**{**each, "received_at": aware(each["received_at"])}) for each in found]


def delete_pages(connection: duckdb.DuckDBPyConnection, table: str) -> None:
    """Delete what is recorded about the pages of a table."""
    connection.execute("DELETE FROM _pages WHERE table_name = ?", [table])


# ---- times -----------------------------------------------------------------------------


def aware(time: datetime) -> datetime:
    """Return a naive UTC datetime, as DuckDB stores it, as an aware one."""
    return time.replace(tzinfo=UTC)


def naive(time: datetime) -> datetime:
    """Return an aware datetime as a naive one in UTC, as DuckDB stores it."""
    return time.astimezone(UTC).replace(tzinfo=None)
