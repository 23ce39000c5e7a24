"""The local database: query, inspect, load and export its tables."""

from __future__ import annotations

import json
import shutil
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from mixpanel._runtime.safe_logging import logger
from mixpanel.data._fetch.plan import zone
from mixpanel.data.exceptions import ConfigError, TableExistsError, TableNotFoundError
from mixpanel.data.results import Attached
from mixpanel.data.store import (
    attachments,
    engine,
    export,
    export_targets,
    fetch_log,
    pages,
    part_files,
    sql,
    statistics,
    typed_tables,
    typed_views,
)
from mixpanel.data.store import tables as catalog
from mixpanel.data.store.connection import Connection
from mixpanel.data.store.engine import database_errors
from mixpanel.data.store.event_load import Load
from mixpanel.data.store.profile_load import ProfilesLoad, is_resumable
from mixpanel.data.store.quoting import quoted, table_name
from mixpanel.data.store.staging import lock_table, require_no_active_load

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from datetime import date

    import pandas as pd
    import polars as pl
    import pyarrow as pa
    from duckdb import DuckDBPyConnection

    from mixpanel.data._fetch.plan import Filters, Part
    from mixpanel.data.analysis.period import Period
    from mixpanel.data.readers.lookup_files import FileKind
    from mixpanel.data.results import (
        ColumnStatsResult,
        EventBreakdownResult,
        ParquetSync,
        SQLResult,
        SummaryResult,
        TableInfo,
        TableSchema,
        TableType,
        TypedTable,
    )
    from mixpanel.data.store.fetch_log import FailedDay, PageRecord
    from mixpanel.data.store.pages import RowPage
    from mixpanel.data.store.rows import RowsFormat, RowStream
    from mixpanel.data.store.staging import Mode

__all__ = ["Database", "FetchedEvents"]

L = TypeVar("L", Load, ProfilesLoad)


@dataclass(frozen=True, slots=True)
class FetchedEvents:
    """Which `days` of a table of events were fetched, and with which filters."""

    name: str
    first: date
    last: date
    days: frozenset[date]
    events: tuple[str, ...]
    where: str | None
    project_timezone: str | None


class Database(Connection):
    """A local database of events and profiles; create one with `Database.open`.

    SQL is read-only unless `write=True`, and cannot access files, extensions or other databases
    unless the database was opened with `external_access=True`. All methods block and may be called
    from any thread; use a load from one thread at a time.
    """

    # ---- SQL ------------------------------------------------------------------------------------

    def sql_rows(
        self,
        query: str,
        params: Sequence[Any] | Mapping[str, Any] | None = None,
        *,
        write: bool = False,
        limit: int | None = None,
    ) -> SQLResult:
        """Run one statement and return its rows, at most `limit` of them.

        :raises UnsafeSQLError: if it writes without `write=True`, or accesses a file.
        :raises SQLError: if DuckDB rejects it.
        """
        with self._cursor(writes=write) as cursor:
            return sql.rows(cursor, query, params, write=write, limit=limit)

    def sql_scalar(
        self, query: str, params: Sequence[Any] | Mapping[str, Any] | None = None
    ) -> Any:
        """Return the first column of the first row, or None if there are no rows.

        :raises SQLError: as for `sql_rows`.
        """
        rows = self.sql_rows(query, params, limit=1).rows
        return rows[0][0] if rows else None

    def sql_df(
        self,
        query: str,
        params: Sequence[Any] | Mapping[str, Any] | None = None,
        *,
        write: bool = False,
    ) -> pd.DataFrame:
        """Run one statement and return a pandas DataFrame.

        :raises SQLError: as for `sql_rows`.
        :raises ConfigError: if pandas is not installed.
        """
        with self._cursor(writes=write) as cursor:
            return sql.data_frame(cursor, query, params, write=write)

    def sql_arrow(
        self,
        query: str,
        params: Sequence[Any] | Mapping[str, Any] | None = None,
        *,
        write: bool = False,
    ) -> pa.Table:
        """Run one statement and return a pyarrow Table.

        :raises SQLError: as for `sql_rows`.
        :raises ConfigError: if pyarrow is not installed.
        """
        with self._cursor(writes=write) as cursor:
            return sql.arrow(cursor, query, params, write=write)

    def sql_polars(
        self,
        query: str,
        params: Sequence[Any] | Mapping[str, Any] | None = None,
        *,
        write: bool = False,
    ) -> pl.DataFrame:
        """Run one statement and return a polars DataFrame.

        :raises SQLError: as for `sql_rows`.
        :raises ConfigError: if polars is not installed.
        """
        with self._cursor(writes=write) as cursor:
            return sql.polars(cursor, query, params, write=write)

    @contextmanager
    def sql_stream(
        self,
        query: str,
        params: Sequence[Any] | Mapping[str, Any] | None = None,
        *,
        write: bool = False,
    ) -> Iterator[RowStream]:
        """Run one statement and pass its rows to the block as they come, in batches of tuples.

        >>> with database.sql_stream("FROM events") as rows:  # doctest: +SKIP
        ...     for batch in rows.batches:
        ...         print(rows.columns, len(batch))

        :raises SQLError: as for `sql_rows`, also while the rows are read.
        """
        with (
            self._cursor(writes=write) as cursor,
            sql.stream(cursor, query, params, write=write) as found,
        ):
            yield found

    @contextmanager
    def sql_copy(
        self, query: str, form: RowsFormat, *, limit: int | None = None
    ) -> Iterator[Iterator[bytes] | None]:
        """Run one query and pass its rows to the block as bytes of "csv", "json" or "jsonl".

        There are at most `limit` of them. DuckDB writes them, faster than Python can. It is None
        for a statement other than a query, and for columns of types that DuckDB writes in JSON
        otherwise than `sql_stream` gives them.

        :raises SQLError: as for `sql_rows`, also while the rows are read.
        """
        with self._cursor(writes=False) as cursor:
            chunks = sql.copy(cursor, query, form, self._exchange, limit=limit)
            try:
                yield chunks
            finally:
                if chunks is not None:
                    chunks.close()  # type: ignore[attr-defined]

    def sql_count(self, query: str) -> int | None:
        """Return the number of rows of a query, or None for a statement that is not a query."""
        with self._cursor(writes=False) as cursor:
            return sql.count(cursor, query)

    def sql_page(self, query: str, *, offset: int, limit: int, width: int) -> RowPage:
        """Return up to `limit` rows of a query from `offset` on, with text cut at `width` + 1.

        For agents: unlike other SQL, it cannot read the path of the database or any setting.

        :raises SQLError: as for `sql_rows`.
        """
        with self._cursor(writes=False) as cursor:
            return pages.page(cursor, query, offset=offset, limit=limit, width=width)

    # ---- attaching ------------------------------------------------------------------------------

    def attach_csv(self, name: str, path: Path | str, *, encoding: str | None = None) -> Attached:
        """Let SQL join with a CSV file under a name, until the database is closed.

        >>> ws.attach_csv("plans", "plans.csv")  # doctest: +SKIP
        >>> ws.sql("SELECT * FROM events JOIN plans USING (distinct_id)")  # doctest: +SKIP

        The rows are copied: attach the file again to read its changes. SQL can access no other
        file. The first line names the columns; a column is text unless all of its cells are written
        unambiguously as numbers, dates or booleans. `encoding` is UTF-8, or UTF-16 with a byte
        order mark, unless it is given. The file may be compressed (`.gz`, `.zst`).

        :raises ConfigError: if it cannot be read, columns differ only in case, or the name is
            invalid or that of a table.
        :raises MixpanelDataError: if it is missing, or no regular file.
        """
        return self._attach_file(name, "csv", path, encoding)

    def attach_parquet(self, name: str, path: Path | str) -> Attached:
        """Let SQL join with a Parquet file under a name; see `attach_csv`."""
        return self._attach_file(name, "parquet", path)

    def attach_json(self, name: str, path: Path | str) -> Attached:
        """Let SQL join with a file of JSON objects, one a line or in an array; see `attach_csv`."""
        return self._attach_file(name, "json", path)

    def attach(self, path: Path | str, *, as_: str) -> Attached:
        """Let SQL read the tables of another database, such as another project's, under a name.

        >>> ws.attach("eu.db", as_="eu")  # doctest: +SKIP
        >>> ws.sql("FROM events UNION ALL BY NAME FROM eu.events")  # doctest: +SKIP

        It is open, for reading, whenever this database is: a fetch into it waits meanwhile.

        :raises DatabaseNotFoundError: if there is no such file.
        :raises DatabaseLockedError: if another process writes to it.
        :raises ConfigError: if it is not a database or this one, or the name is invalid or taken;
            for a workspace in memory without external access, and after `connection` was used.
        """
        file = Path(path).expanduser().absolute()
        if self.path is not None and file.resolve() == self.path.resolve():
            raise ConfigError(f"{file} is this database itself: its tables need no prefix")
        databases = self._attachments.databases
        if table_name(as_).lower() in databases:
            self.detach(as_)
        with self._cursor(with_files=False) as cursor:
            name = attachments.check_alias(cursor, as_)
            unlocked = sql.has_external_access(cursor)
            if unlocked:
                engine.attach(cursor, name, file)
                databases[name.lower()] = (name, file)
        if not unlocked:
            with self._disconnected():
                databases[name.lower()] = (name, file)
            try:
                self._acquire()
            except BaseException:
                del databases[name.lower()]
                raise
            self._release()
        return Attached(name, "database", file, None)

    def attached(self) -> list[Attached]:
        """Return the files and databases that are attached, by name."""
        return self._attachments.listed()

    def detach(self, name: str) -> None:
        """Detach a file or database.

        :raises ConfigError: if nothing of that name is attached.
        """
        key = table_name(name).lower()
        lookup = self._attachments.lookups.get(key)
        if lookup is not None:
            with self._query_cursor() as cursor:
                self._remove_lookup(cursor, lookup)
            return
        if key not in self._attachments.databases:
            known = ", ".join(each.name for each in self.attached()) or "none"
            raise ConfigError(f"nothing is attached as {name!r}; attached are: {known}")
        with self._cursor(with_files=False) as cursor:
            unlocked = sql.has_external_access(cursor)
            if unlocked:
                cursor.execute(f"DETACH DATABASE IF EXISTS {quoted(name)}")
        if unlocked:
            del self._attachments.databases[key]
            return
        with self._disconnected():
            del self._attachments.databases[key]

    def _attach_file(
        self, name: str, kind: FileKind, path: Path | str, encoding: str | None = None
    ) -> Attached:
        from mixpanel.data.readers.lookup_files import write_lookup

        source = Path(path).expanduser().absolute()
        with self._query_cursor() as cursor:
            existing = {each.lower() for each in catalog.names(cursor)}
        if table_name(name).lower() in existing:
            raise ConfigError(f"{name} is a table of the database: attach the file as another name")
        copy, alias = self._attachments.new_copy(self.parts)
        try:
            with database_errors():
                rows = write_lookup(
                    source, kind, copy, encoding=encoding, interruptible=self._interruptible
                )
                lookup = attachments.Lookup(name, kind, source, copy, rows, alias)
                with self._query_cursor() as cursor:
                    previous = self._attachments.lookups.get(name.lower())
                    if previous is not None:
                        self._remove_lookup(cursor, previous)
                    self._add_lookup(lookup)
        except BaseException:
            shutil.rmtree(copy.parent, ignore_errors=True)
            raise
        return Attached(name, kind, source, rows)

    # ---- inspecting -----------------------------------------------------------------------------

    @property
    def size_mb(self) -> float:
        """The size of the file and its write-ahead log in megabytes (10**6 bytes); 0 in memory."""
        if self.path is None:
            return 0.0
        files = (self.path, self.path.with_name(self.path.name + ".wal"))
        return round(sum(file.stat().st_size for file in files if file.exists()) / 1e6, 3)

    @property
    def created_at(self) -> datetime | None:
        """When this database was first opened for writing."""
        with self._query_cursor(writes=False) as cursor:
            return fetch_log.created_at(cursor)

    def tables(self) -> list[TableInfo]:
        """Return all tables, views and interrupted loads, sorted by name."""
        with self._query_cursor(writes=False) as cursor:
            return catalog.tables(cursor)

    def schema(self, table: str) -> TableSchema:
        """Return the columns of a table.

        :raises TableNotFoundError: if there is no such table, as for all methods below.
        """
        with self._query_cursor(writes=False) as cursor:
            return catalog.schema(cursor, table)

    def sample_df(self, table: str, n: int = 10) -> pd.DataFrame:
        """Return `n` random rows as a pandas DataFrame."""
        return self.sample(table, n).df

    def sample(self, table: str, n: int = 10) -> SQLResult:
        """Return `n` random rows."""
        if isinstance(n, bool) or not isinstance(n, int) or n < 0:
            raise ConfigError(f"n must be a whole number of rows, 0 or more, not {n!r}")
        with self._query_cursor(writes=False) as cursor:
            name = catalog.resolve(cursor, table)
            query = f"FROM {quoted(name)} USING SAMPLE reservoir({n} ROWS)"
            return sql.rows(cursor, query, None, write=False, limit=None)

    def summarize(self, table: str) -> SummaryResult:
        """Return minimum, maximum, distinct count and share of nulls for each column."""
        with self._query_cursor(writes=False) as cursor:
            return statistics.summarize(cursor, table)

    def event_breakdown(self, table: str) -> EventBreakdownResult:
        """Return count, users and first and last time of each event, most frequent first."""
        with self._query_cursor(writes=False) as cursor:
            return statistics.event_breakdown(cursor, table)

    def property_keys(self, table: str, event: str | None = None) -> list[str]:
        """Return all property names, sorted; only those of `event` if it is given."""
        with self._query_cursor(writes=False) as cursor:
            return statistics.property_keys(cursor, table, event)

    def column_stats(self, table: str, column: str, *, top_n: int = 10) -> ColumnStatsResult:
        """Return statistics of a column, or of a property such as `properties->>'$.plan'`."""
        with self._query_cursor(writes=False) as cursor:
            return statistics.column_stats(cursor, table, column, top_n)

    # ---- changing -------------------------------------------------------------------------------

    def drop(self, *names: str) -> None:
        """Drop tables, all or none; a name may also be an interrupted load's.

        :raises TableNotFoundError: if one of the names is neither a table nor an interrupted load.
        :raises ConfigError: while a fetch into one of them is running.
        """
        with self._tables_lock, self._query_cursor() as cursor:
            self._drop(cursor, names)

    def drop_all(self, type: TableType | None = None) -> None:
        """Drop all tables and views, or only the tables of one type."""
        with self._tables_lock, self._query_cursor() as cursor:
            self._drop(cursor, catalog.names_of_type(cursor, type))

    def _drop(self, cursor: DuckDBPyConnection, names: Sequence[str]) -> None:
        with ExitStack() as locks:
            for name in {table_name(each).lower(): each for each in names}.values():
                require_no_active_load(self._identity, name)
                if not self.read_only and (lock := lock_table(self, name)) is not None:
                    locks.callback(lock.release)
            catalog.drop(cursor, names)
            part_files.remove_stale(self.parts, *names)
        part_files.remove_stale(self.unreadable, *names)
        if self.unreadable.is_dir():
            with suppress(OSError):  # not empty: lines of other tables
                self.unreadable.rmdir()

    def typed_view(self, table: str, name: str | None = None) -> str:
        """Create a view with a typed column for each property, and return its name.

        The default name is `<table>_typed`. A column has a type that holds its values exactly; a
        value of another type, up to one in ten, is NULL there. Of names that differ only in case
        the most frequent keeps its name, and the others get a number, as in `plan_2`.
        """
        with self._tables_lock, self._query_cursor() as cursor:
            return typed_views.typed_view(cursor, table, name)

    def typed_table(
        self,
        table: str,
        name: str | None = None,
        *,
        types: Mapping[str, str] | None = None,
        infer_again: bool = False,
    ) -> TypedTable:
        """Create a table with a typed column for each property, which later fetches keep current.

        The default name is `<table>_typed`. Types are inferred from all values: of numbers, one
        that holds each digit (BIGINT, HUGEINT, DOUBLE or DECIMAL). A value that its column cannot
        hold, up to one in ten, is NULL there, counted, and kept in the column `_outliers`. Names
        and types are recorded and stay, unless `infer_again`; `types` states some yourself, as in
        `{"amount": "DECIMAL(18,2)"}`, which always stay. The 1,000 most frequent properties become
        columns. Call it again after a change through `connection`, of which only another number of
        rows is noticed.

        :raises TableExistsError: if another table or view has that name.
        :raises ConfigError: for an unknown type, or a table without properties or with a column
            `_outliers`.
        """
        with self._tables_lock, self._query_cursor() as cursor:
            return typed_tables.build(cursor, table, name, types or {}, infer_again=infer_again)

    def refresh_typed(self, table: str) -> TypedTable | None:
        """Bring the typed table of a table up to date; None if there is none or nothing changed."""
        with self._tables_lock, self._query_cursor() as cursor:
            return typed_tables.refresh(cursor, catalog.resolve(cursor, table))

    # ---- loading --------------------------------------------------------------------------------

    def begin_events(
        self,
        name: str,
        *,
        filters: Filters,
        mode: Mode,
        days: Iterable[date],
        mixed: bool = False,
        time_in_ms: bool = True,
        now: datetime | None = None,
    ) -> Load:
        """Begin to load the events of some days, or resume a load that stopped.

        `mode` is "new" (the table must not exist), "replace" (the old table is kept until the load
        finishes), "append" (it must exist) or "sync" (append, or create it). `mixed` allows rows of
        other filters than those already in the table. With a `project_timezone` among the filters,
        for a project created before 2023, the table also has a column `event_time_local`. Times
        are in milliseconds unless `time_in_ms` is False, then in seconds.

        :raises TableExistsError: for "new", if the table exists.
        :raises TableNotFoundError: for "append", if there is no such table.
        :raises ConfigError: for an invalid name, a table of another type or time zone, or filters
            that differ from the table's without `mixed`.
        """
        chosen = frozenset(days)
        if not chosen:
            raise ConfigError("there are no days to load: pass at least one")
        with self._load_cursor() as cursor:
            name = self._validate_target(cursor, name, "events", mode, filters, mixed=mixed)
            self._record_project(cursor)
            load = Load(
                self,
                name,
                filters=filters,
                mode=mode,
                days=chosen,
                time_in_ms=time_in_ms,
                now=now,
            )
            with database_errors():
                fetch_log.delete_parts(cursor, name, keep=load.key)
        return self._track_load(load, keep=load.key)

    def begin_profiles(
        self,
        name: str,
        *,
        filters: Filters,
        mode: Mode,
        mixed: bool = False,
        query: str = "",
        is_partial: bool = False,
        history: bool = False,
        now: datetime | None = None,
    ) -> ProfilesLoad:
        """Begin to load profiles, or resume a load of the same `query` that stopped.

        `is_partial` says that the query selects only some of the profiles of `filters`. With
        `history`, and for a table that has one, the versions of profiles are kept, see
        `profile_history`. Other arguments and errors are those of `begin_events`.
        """
        with self._load_cursor() as cursor:
            name = self._validate_target(cursor, name, "profiles", mode, filters, mixed=mixed)
            self._record_project(cursor)
            load = ProfilesLoad(
                self,
                name,
                filters=filters,
                mode=mode,
                query=query,
                is_partial=is_partial,
                history=history,
                now=now,
            )
        return self._track_load(load)

    def check_events(self, name: str, *, filters: Filters, mode: Mode, mixed: bool = False) -> None:
        """Raise the errors that `begin_events` would raise, without beginning a load."""
        with self._query_cursor() as cursor:
            self._validate_target(cursor, name, "events", mode, filters, mixed=mixed)

    def check_profiles(
        self, name: str, *, filters: Filters, mode: Mode, mixed: bool = False
    ) -> None:
        """Raise the errors that `begin_profiles` would raise, without beginning a load."""
        with self._query_cursor() as cursor:
            self._validate_target(cursor, name, "profiles", mode, filters, mixed=mixed)

    def staged_pages(
        self, name: str, filters: Filters, mode: Mode, query: str, *, now: datetime | None = None
    ) -> list[PageRecord]:
        """Return the pages of profiles that a load of this query would resume after."""
        with self._query_cursor(writes=False) as cursor:
            name = catalog.canonical(cursor, name)
            records = fetch_log.pages(cursor, name)
        key, checked_at = f"{name}-{mode}-{filters.key()}", now or datetime.now(UTC)
        return records if records and is_resumable(records, key, query, checked_at) else []

    def profiles_fetched_at(self, name: str, filters: Filters) -> datetime | None:
        """Return the time of the latest profiles in a table with these filters; None without."""
        with self._query_cursor(writes=False) as cursor:
            entries = fetch_log.entries(cursor, catalog.canonical(cursor, name), "done")
        times = [entry.fetched_at for entry in entries if entry.filters == filters.to_json()]
        return max(times, default=None)

    def reusable_parts(self, load: Load) -> list[Part]:
        """Return the parts that an earlier, interrupted fetch received but did not load.

        A part whose bytes are not those received is moved to the folder `unreadable`.
        """
        # The digest is recorded only after the whole body was received and written. A file without
        # one, or with another, may be half a download or rows that Mixpanel never sent: other
        # programs can write to the folder.
        with self._query_cursor() as cursor:
            known = fetch_log.parts(cursor, load.key)
        trusted = []
        for part in part_files.complete_parts(self.parts, load.key):
            digest, at = known.get(part.path.name, ("", None))
            if digest and digest == part_files.digest(part.path):
                trusted.append(replace(part, digest=digest, received_at=at))
                continue
            kept_in = part_files.set_aside(part.path, self.unreadable)
            logger.warning(
                "%s does not match what was received: moved it to %s and fetching %s again",
                part.path.name,
                kept_in,
                part.chunk,
            )
        return trusted

    def record_part(self, load: Load, part: Part) -> None:
        """Record that a part was received whole, so that a later load can reuse it."""
        with self._query_cursor() as cursor:
            fetch_log.record_part(cursor, load.name, load.key, part, datetime.now(UTC))

    def _track_load(self, load: L, keep: str = "") -> L:
        self._loads.add(load)
        part_files.remove_stale(self.parts, load.name, keep=keep)
        return load

    def staged_days(
        self, name: str, filters: Filters, mode: Mode, *, now: datetime | None = None
    ) -> frozenset[date]:
        """Return the days already staged for a load of this name, filters and mode."""
        checked_at = now or datetime.now(UTC)
        with self._query_cursor(writes=False) as cursor:
            entries = fetch_log.entries(cursor, catalog.canonical(cursor, name), "staged")
        return frozenset(
            entry.day
            for entry in entries
            if (entry.filters, entry.mode) == (filters.to_json(), mode) and entry.holds(checked_at)
        )

    def fetched_days(self, name: str) -> dict[date, datetime]:
        """Return the days in a table, each with the time of its last fetch."""
        with self._query_cursor(writes=False) as cursor:
            entries = fetch_log.entries(cursor, catalog.canonical(cursor, name), "done")
        return {entry.day: entry.fetched_at for entry in entries}

    def fetched_events(self, name: str) -> FetchedEvents:
        """Return which days of a table of events were fetched, and with which filters.

        :raises TableNotFoundError: if there is no such table.
        :raises ConfigError: if it was not fetched, mixes filters or has a limit.
        """
        with self._query_cursor(writes=False) as cursor:
            name = catalog.resolve(cursor, name)
            known = fetch_log.find(cursor, name)
            if known is None or not (known.from_date and known.to_date):
                raise ConfigError(f"{name} was not fetched as a table of events: choose another")
            entries = fetch_log.entries(cursor, name, "done")
        filters = {entry.filters for entry in entries}
        if len(filters) > 1:
            raise ConfigError(f"{name} mixes events of several filters: choose another table")
        chosen: dict[str, Any] = json.loads(filters.pop()) if filters else {}
        if "limit" in chosen:
            raise ConfigError(
                f"{name} was fetched with a limit, so it lacks events: choose another"
            )
        return FetchedEvents(
            name,
            known.from_date,
            known.to_date,
            frozenset(entry.day for entry in entries),
            tuple(chosen.get("events", ())),
            chosen.get("where"),
            known.project_timezone,
        )

    def daily_counts(self, name: str, period: Period) -> dict[str, int]:
        """Return the number of events of a table by day of a period, where there are any."""
        query = (
            f"SELECT {period.bucket('event_time', 'day')}, count(*) FROM main.{quoted(name)} "
            "WHERE event_time >= ? AND event_time < ? GROUP BY ALL"
        )
        rows = self.sql_rows(query, [period.start, period.end]).rows
        return {str(day)[:10]: count for day, count in rows}

    def first_day(self, name: str) -> date | None:
        """Return the first day of a table, which need not be one that could be fetched."""
        with self._query_cursor(writes=False) as cursor:
            known = fetch_log.find(cursor, catalog.canonical(cursor, name))
        return None if known is None else known.from_date

    def failed_days(self, name: str, filters: Filters) -> list[FailedDay]:
        """Return the days that fetches into a table with these filters could not fetch so far."""
        with self._query_cursor(writes=False) as cursor:
            failed = fetch_log.failed_days(cursor, catalog.canonical(cursor, name))
        return [each for each in failed if each.filters == filters.to_json()]

    def reusable_days(
        self, name: str, filters: Filters, *, now: datetime | None = None
    ) -> frozenset[date]:
        """Return the days of a table that were fetched with these filters and need no refresh."""
        checked_at = now or datetime.now(UTC)
        with self._query_cursor() as cursor:
            entries = fetch_log.entries(cursor, catalog.canonical(cursor, name), "done")
        return frozenset(
            entry.day
            for entry in entries
            if entry.filters == filters.to_json() and entry.holds(checked_at)
        )

    def has_table(self, name: str) -> bool:
        """Return True if there is a table or view of that name; case is ignored."""
        with self._query_cursor(writes=False) as cursor:
            return catalog.canonical(cursor, name) in catalog.names(cursor)

    def _validate_target(
        self,
        cursor: DuckDBPyConnection,
        name: str,
        type_: TableType,
        mode: Mode,
        filters: Filters,
        *,
        mixed: bool,
    ) -> str:
        zone(filters.project_timezone)
        name = catalog.canonical(cursor, name)
        if name.lower() in self._attachments.lookups:
            raise ConfigError(f"a file is attached as {name}: detach it, or use another table name")
        existing = catalog.names(cursor)
        if name not in existing:
            if mode == "append":
                raise TableNotFoundError(name, existing)
            return name
        if mode == "new":
            raise TableExistsError(name)
        known = fetch_log.find(cursor, name)
        if known is None or known.type != type_:
            kind = "a table of your own" if known is None else f"a table of {known.type}"
            raise ConfigError(f"{name} is {kind}, not of {type_}: choose another name")
        if mode == "replace":
            return name
        if type_ == "events" and known.project_timezone != filters.project_timezone:
            raise ConfigError(
                f"{name} was fetched with project_timezone={known.project_timezone!r}, not "
                f"{filters.project_timezone!r}: use the same time zone, or replace the table"
            )
        fetched_with = {entry.filters for entry in fetch_log.entries(cursor, name, "done")}
        if fetched_with - {filters.to_json()} and not mixed:
            others = " and ".join("none" if each == "{}" else each for each in sorted(fetched_with))
            # A sync has no such argument: it would fetch the days that one of the filters lacks.
            hint = ", or pass mixed=True" if mode == "append" else ""
            raise ConfigError(
                f"{name} was fetched with other filters ({others}), and appending would mix them: "
                f"use another table name{hint}"
            )
        return name

    # ---- exporting ------------------------------------------------------------------------------

    def export_parquet(
        self,
        table: str | None,
        path: Path | str,
        *,
        query: str | None = None,
        partition_by: Literal["day"] | None = "day",
        overwrite: bool = False,
        storage_options: Mapping[str, Any] | None = None,
    ) -> list[str]:
        """Write a table as Parquet, with one folder per day (`day=2026-01-31/`).

        With `table=None` the rows of `query` are written, a statement that only reads. `path` is a
        folder, or a file if `partition_by` is None. A path with a scheme, such as
        `s3://bucket/lake`, is written through fsspec, which gets `storage_options`. Days are those
        of `event_time`. Returns the paths of the files written.

        :raises ConfigError: if the path exists and `overwrite` is False; if the table has no column
            `event_time` to partition by; if a folder is named like a file (`.parquet`); if fsspec
            is not installed.
        """
        with self._cursor(writes=False) as cursor, sql.translated(cursor):
            return export.parquet(
                cursor,
                table,
                path,
                self._exchange,
                query=query,
                database_path=self.path,
                partition_by=partition_by,
                overwrite=overwrite,
                storage_options=storage_options or {},
            )

    def sync_parquet(
        self,
        table: str | None,
        path: Path | str,
        *,
        query: str | None = None,
        storage_options: Mapping[str, Any] | None = None,
    ) -> ParquetSync:
        """Bring a folder that `export_parquet` wrote by day up to date, or write it.

        >>> ws.sync_parquet("events", "lake")  # doctest: +SKIP
        ParquetSync(written=('2026-01-31',), kept=30, removed=())

        Only the days that have changed are written, and those that are gone are removed. Each day
        is one file, which is replaced when it is complete: readers find the old rows or the new
        ones. If a call is interrupted, the next one writes what is missing.

        :raises ConfigError: if the folder has files that no export wrote; and as `export_parquet`.
        """
        with self._cursor() as cursor, sql.translated(cursor):
            return export.sync_parquet(
                cursor,
                table,
                path,
                self._exchange,
                query=query,
                database_path=self.path,
                storage_options=storage_options or {},
            )

    def export_csv(
        self,
        table: str | None,
        path: Path | str,
        *,
        query: str | None = None,
        overwrite: bool = False,
        storage_options: Mapping[str, Any] | None = None,
    ) -> list[str]:
        """Write a table as CSV, with a `'` before text that a spreadsheet would run as a formula.

        With `table=None` the rows of `query` are written. `path` is a file, compressed if it ends
        in `.gz`; a path with a scheme is written through fsspec. Times are written as
        `2026-01-31 09:30:00.000000`. Returns the paths of the files written.

        :raises ConfigError: as for `export_parquet`.
        """
        with self._cursor(writes=False) as cursor, sql.translated(cursor):
            return export.csv(
                cursor,
                table,
                path,
                self._exchange,
                query=query,
                database_path=self.path,
                overwrite=overwrite,
                storage_options=storage_options or {},
            )

    def discard(self) -> bool:
        """Remove temporary files, before the process is ended without `close`.

        Return False, and do nothing, while files of an export get their names; and if the database
        is not read-only.
        """
        if export_targets.is_committing() or not self.read_only:
            return False
        shutil.rmtree(self.parts, ignore_errors=True)
        return True

    @contextmanager
    def csv_bytes(
        self, table: str | None, *, query: str | None = None
    ) -> Iterator[Iterator[bytes]]:
        """Pass the CSV of `export_csv` to the block as bytes, while they are written."""
        with self._cursor(writes=False) as cursor, sql.translated(cursor):
            chunks = export.csv_bytes(cursor, table, self._exchange, query=query)
            try:
                yield chunks
            finally:
                chunks.close()  # type: ignore[attr-defined]
