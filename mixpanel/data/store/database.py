"""The local database: ask it, look into it, fill it, and write it out again."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from mixpanel._runtime.safe_logging import logger
from mixpanel.data._fetch.plan import zone
from mixpanel.data.exceptions import ConfigError, TableExistsError, TableNotFoundError
from mixpanel.data.store import export, fetch_log, part_files, sql, statistics
from mixpanel.data.store import tables as catalog
from mixpanel.data.store.connection import Connection
from mixpanel.data.store.engine import reported
from mixpanel.data.store.event_load import Load
from mixpanel.data.store.profile_load import ProfilesLoad
from mixpanel.data.store.quoting import quoted, table_name
from mixpanel.data.store.staging import refuse_under_way

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from datetime import date
    from pathlib import Path

    import pandas as pd
    import pyarrow as pa
    from duckdb import DuckDBPyConnection

    from mixpanel.data._fetch.plan import Filters, Part
    from mixpanel.data.results import (
        ColumnStatsResult,
        EventBreakdownResult,
        SQLResult,
        SummaryResult,
        TableInfo,
        TableSchema,
        TableType,
    )
    from mixpanel.data.store.staging import Mode

__all__ = ["Database"]

L = TypeVar("L", Load, ProfilesLoad)


class Database(Connection):
    """A local database of events and profiles; `open` one.

    SQL of users only reads unless `write=True`, and reaches no file, extension or other database
    unless opened with `external_access=True`. All methods block and may be called from any thread;
    a load belongs to one thread at a time.
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

        :raises UnsafeSQLError: when it writes unasked, or reaches for a file.
        :raises SQLError: when it is wrong.
        """
        with self._cursor() as cursor:
            return sql.rows(cursor, query, params, write=write, limit=limit)

    def sql_scalar(
        self, query: str, params: Sequence[Any] | Mapping[str, Any] | None = None
    ) -> Any:
        """Return the first column of the first row, None when there is none.

        :raises SQLError: as `sql_rows` does.
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

        :raises SQLError: as `sql_rows` does.
        :raises ConfigError: without pandas.
        """
        with self._cursor() as cursor:
            return sql.data_frame(cursor, query, params, write=write)

    def sql_arrow(
        self,
        query: str,
        params: Sequence[Any] | Mapping[str, Any] | None = None,
        *,
        write: bool = False,
    ) -> pa.Table:
        """Run one statement and return a pyarrow Table.

        :raises SQLError: as `sql_rows` does.
        :raises ConfigError: without pyarrow.
        """
        with self._cursor() as cursor:
            return sql.arrow(cursor, query, params, write=write)

    # ---- looking in -----------------------------------------------------------------------------

    @property
    def size_mb(self) -> float:
        """The size of the file and of what waits beside it, in millions of bytes; 0 in memory."""
        if self.path is None:
            return 0.0
        files = (self.path, self.path.with_name(self.path.name + ".wal"))
        return round(sum(file.stat().st_size for file in files if file.exists()) / 1e6, 3)

    @property
    def created_at(self) -> datetime | None:
        """When this database was first opened for writing."""
        with self._asking() as cursor:
            return fetch_log.created_at(cursor)

    def tables(self) -> list[TableInfo]:
        """Return all tables by name, views and interrupted loads among them."""
        with self._asking() as cursor:
            return catalog.tables(cursor)

    def schema(self, table: str) -> TableSchema:
        """Return the columns of a table.

        :raises TableNotFoundError: as all that follow, when there is no such table.
        """
        with self._asking() as cursor:
            return catalog.schema(cursor, table)

    def sample_df(self, table: str, n: int = 10) -> pd.DataFrame:
        """Return `n` rows taken at random, as a pandas DataFrame."""
        return self.sample(table, n).df

    def sample(self, table: str, n: int = 10) -> SQLResult:
        """Return `n` rows taken at random."""
        if isinstance(n, bool) or not isinstance(n, int) or n < 0:
            raise ConfigError(f"n must be a whole number of rows, not {n!r}")
        with self._asking() as cursor:
            name = catalog.resolve(cursor, table)
            query = f"FROM {quoted(name)} USING SAMPLE reservoir({n} ROWS)"
            return sql.rows(cursor, query, None, write=False, limit=None)

    def summarize(self, table: str) -> SummaryResult:
        """Return what each column of a table holds."""
        with self._asking() as cursor:
            return statistics.summarize(cursor, table)

    def event_breakdown(self, table: str) -> EventBreakdownResult:
        """Return how often each event is in a table, most frequent first."""
        with self._asking() as cursor:
            return statistics.event_breakdown(cursor, table)

    def property_keys(self, table: str, event: str | None = None) -> list[str]:
        """Return the names of all properties, sorted; those of one event when it is given."""
        with self._asking() as cursor:
            return statistics.property_keys(cursor, table, event)

    def column_stats(self, table: str, column: str, *, top_n: int = 10) -> ColumnStatsResult:
        """Return what a column holds, or a property: `properties->>'$.plan'`."""
        with self._asking() as cursor:
            return statistics.column_stats(cursor, table, column, top_n)

    # ---- changing -------------------------------------------------------------------------------

    def drop(self, *names: str) -> None:
        """Drop tables, all or none; a name may also be that of an interrupted load.

        :raises TableNotFoundError: when there is nothing of one of the names.
        :raises ConfigError: while a fetch into one of them is under way.
        """
        with self._asking() as cursor:
            self._drop(cursor, names)

    def drop_all(self, type: TableType | None = None) -> None:  # noqa: A002 - the user's word
        """Drop all tables and views, or only tables of events or of profiles."""
        with self._asking() as cursor:
            self._drop(cursor, catalog.of_kind(cursor, type))

    def _drop(self, cursor: DuckDBPyConnection, names: Sequence[str]) -> None:
        for name in names:
            refuse_under_way(self._place, table_name(name))
        catalog.drop(cursor, names)
        part_files.sweep(self.parts, *names)
        part_files.sweep(self.unreadable, *names)
        if self.unreadable.is_dir():
            with suppress(OSError):  # lines of other tables
                self.unreadable.rmdir()

    def typed_view(self, table: str, name: str | None = None) -> str:
        """Make a view with a typed column for each property found, `<table>_typed`."""
        with self._asking() as cursor:
            return catalog.typed_view(cursor, table, name)

    # ---- filling --------------------------------------------------------------------------------

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
        """Begin to load the events of some days, or go on with a load that stopped.

        "new" needs a free name; "replace" takes the place of a table at the end; "append" adds to
        one; "sync" adds, or makes a new one. `mixed` allows to add rows of other filters than those
        the table has. With a `project_timezone` among the filters, for a project from before 2023,
        the table has a column `event_time_local` too. Times are in milliseconds unless
        `time_in_ms` is False.

        :raises TableExistsError: for "new" when the name is taken.
        :raises TableNotFoundError: for "append" when there is no such table.
        :raises ConfigError: for a name that cannot be, a table of another kind or zone, and other
            filters than those of the table.
        """
        chosen = frozenset(days)
        if not chosen:
            raise ConfigError("there is no day to load")
        cursor = self._loader()
        name = self._checked(cursor, name, "events", mode, filters, mixed=mixed)
        load = Load(
            cursor,
            name,
            filters=filters,
            mode=mode,
            days=chosen,
            database=self._place,
            exchange=self._exchange,
            unreadable=self.unreadable,
            time_in_ms=time_in_ms,
            now=now,
        )
        with reported():
            fetch_log.forget_parts(cursor, name, but=load.key)
        return self._begun(load, keep=load.key)

    def begin_profiles(
        self,
        name: str,
        *,
        filters: Filters,
        mode: Mode,
        mixed: bool = False,
        now: datetime | None = None,
    ) -> ProfilesLoad:
        """Begin to load profiles; arguments and errors as for `begin_events`."""
        cursor = self._loader()
        name = self._checked(cursor, name, "profiles", mode, filters, mixed=mixed)
        load = ProfilesLoad(
            cursor,
            name,
            filters=filters,
            mode=mode,
            database=self._place,
            exchange=self._exchange,
            unreadable=self.unreadable,
            now=now,
        )
        return self._begun(load)

    def check_events(self, name: str, *, filters: Filters, mode: Mode, mixed: bool = False) -> None:
        """Refuse what `begin_events` would refuse, and begin nothing."""
        with self._asking() as cursor:
            self._checked(cursor, name, "events", mode, filters, mixed=mixed)

    def left_over(self, load: Load) -> list[Part]:
        """Return the parts of a load that were received before, but not loaded.

        One that is not, byte for byte, what was received is moved to the folder `unreadable`.
        """
        with self._asking() as cursor:
            known = fetch_log.parts(cursor, load.key)
        trusted = []
        for part in part_files.left_over(self.parts, load.key):
            digest, at = known.get(part.path.name, ("", None))
            if digest and digest == part_files.digest(part.path):
                trusted.append(replace(part, digest=digest, received_at=at))
                continue
            kept_in = part_files.set_aside(part.path, self.unreadable)
            logger.warning(
                "%s is not as it was received: it was moved to %s, and %s is fetched again",
                part.path.name,
                kept_in,
                part.chunk,
            )
        return trusted

    def note_part(self, load: Load, part: Part) -> None:
        """Note a part that was received whole, so that a later load trusts it."""
        with self._asking() as cursor:
            fetch_log.note_part(cursor, load.name, load.key, part, datetime.now(UTC))

    def _begun(self, load: L, keep: str = "") -> L:
        self._loads.add(load)
        part_files.sweep(self.parts, load.name, keep=keep)
        return load

    def staged_days(
        self, name: str, filters: Filters, mode: Mode, *, now: datetime | None = None
    ) -> frozenset[date]:
        """Return the days that a load of this name, filters and mode would find done."""
        moment = now or datetime.now(UTC)
        with self._asking() as cursor:
            entries = fetch_log.entries(cursor, catalog.canonical(cursor, name), "staged")
        return frozenset(
            entry.day
            for entry in entries
            if (entry.filters, entry.mode) == (filters.to_json(), mode) and entry.holds(moment)
        )

    def fetched_days(self, name: str) -> dict[date, datetime]:
        """Return the days that are in a table, each with when it was last fetched."""
        with self._asking() as cursor:
            entries = fetch_log.entries(cursor, catalog.canonical(cursor, name), "done")
        return {entry.day: entry.fetched_at for entry in entries}

    def _checked(
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
                f"{filters.project_timezone!r}: fetch with the same, or replace the table"
            )
        before = {entry.filters for entry in fetch_log.entries(cursor, name, "done")}
        if before - {filters.to_json()} and not mixed:
            raise ConfigError(
                f"{name} was fetched with other filters ({' and '.join(sorted(before))}): one "
                "table of both would mislead; choose another name, or pass mixed=True"
            )
        return name

    # ---- out of here ----------------------------------------------------------------------------

    def export_parquet(
        self,
        table: str,
        path: Path | str,
        *,
        partition_by: Literal["day"] | None = "day",
        overwrite: bool = False,
        storage_options: Mapping[str, Any] | None = None,
    ) -> list[str]:
        """Write a table as Parquet, in one folder a day: `day=2026-01-31/`.

        `path` is a folder, or a file with `partition_by=None`; with a scheme, as in
        `s3://bucket/lake`, it is reached through fsspec, which gets `storage_options`. Days are
        those of `event_time`. Returns what was written.

        :raises ConfigError: when there is something already, unless `overwrite`; without a column
            `event_time` to take days from; for a folder that is named like a file, `.parquet`; when
            fsspec is not installed.
        """
        with self._asking() as cursor:
            return export.parquet(
                cursor,
                table,
                path,
                self._exchange,
                own=self.path,
                partition_by=partition_by,
                overwrite=overwrite,
                storage_options=storage_options or {},
            )

    def export_csv(
        self,
        table: str,
        path: Path | str,
        *,
        overwrite: bool = False,
        storage_options: Mapping[str, Any] | None = None,
    ) -> list[str]:
        """Write a table as CSV; text that a spreadsheet would run as a formula gets a `'` in front.

        `path` is a file, compressed when it ends in `.gz`; with a scheme it is reached through
        fsspec. Returns what was written.

        :raises ConfigError: as `export_parquet` does.
        """
        with self._asking() as cursor:
            return export.csv(
                cursor,
                table,
                path,
                self._exchange,
                own=self.path,
                overwrite=overwrite,
                storage_options=storage_options or {},
            )
