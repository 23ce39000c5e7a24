"""Load pages of profiles into a table; the profile fetched last replaces others of its id."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING

from mixpanel._runtime.private_files import make_folder
from mixpanel.data._fetch.plan import Chunk
from mixpanel.data.exceptions import MemoryLimitError, MixpanelDataError, UnreadablePartError
from mixpanel.data.store import fetch_log, profile_history, schema, tables, typed_tables
from mixpanel.data.store.engine import (
    count,
    database_errors,
    error_message,
    is_data_error,
    transaction,
)
from mixpanel.data.store.fetch_log import Entry, PageRecord, Table
from mixpanel.data.store.part_files import linked_files
from mixpanel.data.store.parts import Staged, line_end, pieces, private_file
from mixpanel.data.store.staging import Changes, Loaded, Staging, connected, exclusive

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from datetime import datetime
    from pathlib import Path

    from mixpanel.data._fetch.plan import Filters
    from mixpanel.data.store.connection import Connection
    from mixpanel.data.store.staging import Mode

__all__ = ["ProfilesLoad", "is_resumable"]

# How long Mixpanel keeps a session is not documented; a request that it refuses starts over anyway.
SESSION_AGE = timedelta(hours=1)
MAX_VANISHED_IDS = 1000


def is_resumable(records: Sequence[PageRecord], key: str, query: str, now: datetime) -> bool:
    """Return True if the pages belong to this query, and their session may still be open."""
    age = now - max(record.received_at for record in records)
    same = {(record.load_key, record.query) for record in records} == {(key, query)}
    return same and -SESSION_AGE < age < SESSION_AGE


class ProfilesLoad(Staging):
    """A running load of profiles: `stage` its pages, then `finish`.

    A page is a file with one profile per line, as Mixpanel returns them:
    `{"$distinct_id": ..., "$properties": {...}}`. The pages in `resumed` were staged by an earlier
    load of the same `query` that stopped. They belong to one session of the server, so all are
    dropped if the last one was received more than an hour ago.

    `is_partial` says that the query selects only some of the table's profiles.
    """

    def __init__(
        self,
        database: Connection,
        name: str,
        *,
        filters: Filters,
        mode: Mode,
        query: str = "",
        is_partial: bool = False,
        history: bool = False,
        now: datetime | None = None,
    ) -> None:
        super().__init__(database, name, filters, mode, now)
        self.query = query
        self.resumed: tuple[PageRecord, ...] = ()
        self._is_partial = is_partial
        self._began = self._current_time()
        self._pages = self._bytes = 0
        try:
            with self._connect(), database_errors():
                self._keeps_history = profile_history.is_kept(
                    self._connection, name, wanted=history
                )
                self._resume()
        except BaseException:
            self.stop()
            raise

    def _resume(self) -> None:
        records = fetch_log.pages(self._connection, self.name)
        if records and is_resumable(records, self.key, self.query, self._current_time()):
            self.resumed = tuple(records)
            self._began = min(record.received_at for record in records)
            self._pages = max(record.page for record in records) + 1
            self._bytes = sum(record.bytes for record in records)
        else:
            self.restart()

    @connected
    def restart(self) -> None:
        """Drop what was staged, and begin again with the first page."""
        with database_errors(), transaction(self._connection):
            self._discard()
            self._connection.execute(
                f"CREATE TABLE {self._staging_table} ({schema.PROFILES}, _part BIGINT)"
            )
        self.resumed, self._pages, self._bytes = (), 0, 0
        self._began = self._current_time()

    @connected
    def stage(self, *pages: Path, gzip: bool = False, record: PageRecord | None = None) -> Staged:
        """Load pages; profiles of later pages replace those of earlier ones.

        With the `record` of a single page, a later load can resume after it.

        :raises UnreadablePartError: for a page that is not NDJSON; none of the pages is then kept.
        :raises MixpanelDataError: if the database cannot store them, for instance on a full disk.
        """
        self._require_active()
        with linked_files(self._exchange, pages) as links:
            first = self._pages if record is None else record.page
            numbers = {link: first + n for n, link in enumerate(links, 1)}
            insert = partial(self._insert, numbers, gzip, record)
            try:
                with database_errors():
                    rows = self._insert_with_memory(insert, "a page of profiles")
            except MemoryLimitError:
                raise
            except MixpanelDataError as error:
                cause = error.__cause__
                if isinstance(cause, Exception) and is_data_error(cause):
                    raise UnreadablePartError(
                        f"a page of profiles cannot be loaded: {error_message(cause)}"
                    ) from cause
                raise
        self._pages += len(pages)
        self._bytes += sum(path.stat().st_size for path in pages)
        return Staged(rows)

    def _insert(self, numbers: Mapping[Path, int], gzip: bool, record: PageRecord | None) -> int:  # noqa: FBT001
        with transaction(self._connection):
            before = count(self._connection, self._staging_table)
            if self._piece_bytes is None:
                self._insert_files(numbers, gzip=gzip)
            else:
                for path, number in numbers.items():
                    for piece in pieces(path, self._piece_bytes, _truncated, gzipped=gzip):
                        self._insert_files({piece: number}, gzip=False)
            rows = count(self._connection, self._staging_table) - before
            if record is not None:
                fetch_log.record_page(self._connection, self.name, replace(record, rows=rows))
        return rows

    def _insert_files(self, numbers: Mapping[Path, int], *, gzip: bool) -> None:
        query = schema.profiles(numbers, gzip=gzip)
        self._connection.execute(f"INSERT INTO {self._staging_table} {query}")

    def set_aside(self, name: str, lines: Iterable[bytes]) -> Path:
        """Write lines of a page that DuckDB cannot load to a file, and return its path."""
        make_folder(self._unreadable)
        path = self._unreadable / name
        with private_file(path) as file:
            file.writelines(line + b"\n" for line in lines)
        return path

    @connected
    @exclusive
    def finish(self) -> Loaded:
        """Move the staged profiles into the table, in one transaction.

        "new" and "replace" make them the table; "append" replaces profiles of the same ids and
        leaves the others as they are.

        :raises TableExistsError: if a table of that name was created since the load began.
        :raises MixpanelDataError: if the database fails; the table is then unchanged.
        """
        self._require_active()
        with database_errors(), transaction(self._connection):
            staged = count(self._connection, self._staging_table)
            self._connection.execute(
                f"DELETE FROM {self._staging_table} WHERE rowid IN (SELECT rowid "
                f"FROM {self._staging_table} WHERE distinct_id IS NOT NULL QUALIFY row_number() "
                "OVER (PARTITION BY distinct_id ORDER BY _part DESC, rowid DESC) > 1)"
            )
        # DuckDB 1.4 cannot delete rows of a table and alter it in one transaction.
        with database_errors(), transaction(self._connection):
            rows = count(self._connection, self._staging_table)
            self._connection.execute(f"ALTER TABLE {self._staging_table} DROP COLUMN _part")
            known = fetch_log.find(self._connection, self.name)
            changes = None if known is None else self._changes()
            fetch_log.delete_pages(self._connection, self.name)
            if self._keeps_history:
                profile_history.create(self._connection, self.name, known)
            if self.mode in ("append", "sync") and known is not None:
                self._merge_into_table()
            else:
                self._replace_table(known)
            if self._keeps_history:
                profile_history.record(self._connection, self.name, self._began)
            self._record_table(rows)
            sources = [self.name]
            if self._keeps_history:
                history = self.name + profile_history.SUFFIX
                sources.append(tables.canonical(self._connection, history))
            for source in sources:
                typed_tables.mark_stale(self._connection, source, None)
        typed, *_ = [typed_tables.refresh_loaded(self._connection, each) for each in sources]
        self.stop()
        return Loaded(rows, staged - rows, None, None, changes, typed)

    def _changes(self) -> Changes:
        """Compare the staged profiles with those in the table; the order of keys is ignored."""
        same = profile_history.SAME
        new, changed, unchanged = self._connection.execute(
            "SELECT count(*) FILTER (old._known IS NULL), "
            f"count(*) FILTER (old._known AND NOT ({same})), "
            f"count(*) FILTER (old._known AND {same}) FROM {self._staging_table} AS new LEFT JOIN "
            f"(SELECT *, true AS _known FROM {self._table} WHERE distinct_id IS NOT NULL) AS old "
            "ON old.distinct_id = new.distinct_id"
        ).fetchone() or (0, 0, 0)
        entries = fetch_log.entries(self._connection, self.name, "done")
        if self._is_partial or {entry.filters for entry in entries} != {self._filters}:
            return Changes(new, changed, unchanged, None, ())
        gone = (
            f"FROM {self._table} AS old ANTI JOIN {self._staging_table} AS new "
            "ON old.distinct_id IS NOT DISTINCT FROM new.distinct_id"
        )
        vanished = count(self._connection, f"(SELECT 1 {gone})")
        ids = self._connection.execute(
            f"SELECT old.distinct_id {gone} ORDER BY 1 LIMIT {MAX_VANISHED_IDS}"
        ).fetchall()
        return Changes(new, changed, unchanged, vanished, tuple(each for (each,) in ids))

    def _merge_into_table(self) -> None:
        self._connection.execute(
            f"DELETE FROM {self._table} AS old USING {self._staging_table} AS new "
            "WHERE old.distinct_id IS NOT DISTINCT FROM new.distinct_id"
        )
        self._connection.execute(f"INSERT INTO {self._table} BY NAME FROM {self._staging_table}")
        self._connection.execute(f"DROP TABLE {self._staging_table}")

    def _record_table(self, rows: int) -> None:
        now = self._began  # the profiles are those of the first page's time
        today = now.date()
        entry = Entry(
            today,
            Chunk(today, today),
            self._filters,
            self.mode,
            rows,
            self._bytes,
            now,
            self._pages,
        )
        fetch_log.record_staged(self._connection, self.name, [entry])
        fetch_log.commit_staged(self._connection, self.name)
        table = Table(self.name, "profiles", now, None, None, None)
        fetch_log.register(self._connection, table, count(self._connection, self._table))


def _truncated(line: bytes) -> UnreadablePartError:
    return UnreadablePartError(
        f"a page of profiles is truncated; it ends with {line_end(line)!r}: fetch it again"
    )
