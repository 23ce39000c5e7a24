"""Load pages of profiles into a table; the profile fetched last replaces others of its id."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mixpanel._runtime.private_files import make_folder
from mixpanel.data._fetch.plan import Chunk
from mixpanel.data.exceptions import MixpanelDataError, UnreadablePartError
from mixpanel.data.store import fetch_log, schema, typed_tables
from mixpanel.data.store.engine import (
    count,
    database_errors,
    error_message,
    is_data_error,
    transaction,
)
from mixpanel.data.store.fetch_log import Entry, Table
from mixpanel.data.store.part_files import linked_files
from mixpanel.data.store.parts import Staged, private_file
from mixpanel.data.store.staging import Loaded, Staging, connected

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import datetime
    from pathlib import Path

    from mixpanel.data._fetch.plan import Filters
    from mixpanel.data.store.connection import Connection
    from mixpanel.data.store.staging import Mode

__all__ = ["ProfilesLoad"]


class ProfilesLoad(Staging):
    """A running load of profiles: `stage` its pages, then `finish`.

    A page is a file with one profile per line, as Mixpanel returns them:
    `{"$distinct_id": ..., "$properties": {...}}`. Rows staged by an earlier load are dropped:
    pages belong to one query session of the server, which cannot be resumed.
    """

    def __init__(
        self,
        database: Connection,
        name: str,
        *,
        filters: Filters,
        mode: Mode,
        now: datetime | None = None,
    ) -> None:
        super().__init__(database, name, filters, mode, now)
        self._pages = 0
        self._bytes = 0
        try:
            with self._connect(), database_errors(), transaction(self._connection):
                self._discard()
                self._connection.execute(
                    f"CREATE TABLE {self._staging_table} ({schema.PROFILES}, _part BIGINT)"
                )
        except BaseException:
            self.stop()
            raise

    @connected
    def stage(self, *pages: Path, gzip: bool = False) -> Staged:
        """Load pages; profiles of later pages replace those of earlier ones.

        :raises UnreadablePartError: for a page that is not NDJSON; none of the pages is then kept.
        :raises MixpanelDataError: if the database cannot store them, for instance on a full disk.
        """
        self._require_active()
        with linked_files(self._exchange, pages) as links:
            numbers = {link: self._pages + n for n, link in enumerate(links, 1)}
            query = schema.profiles(numbers, gzip=gzip)
            try:
                with database_errors(), transaction(self._connection):
                    before = count(self._connection, self._staging_table)
                    self._connection.execute(f"INSERT INTO {self._staging_table} {query}")
                    rows = count(self._connection, self._staging_table) - before
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

    def set_aside(self, name: str, lines: Iterable[bytes]) -> Path:
        """Write lines of a page that DuckDB cannot load to a file, and return its path."""
        make_folder(self._unreadable)
        path = self._unreadable / name
        with private_file(path) as file:
            file.writelines(line + b"\n" for line in lines)
        return path

    @connected
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
            rows = count(self._connection, self._staging_table)
            self._connection.execute(f"ALTER TABLE {self._staging_table} DROP COLUMN _part")
            known = fetch_log.find(self._connection, self.name)
            if self.mode == "append" and known is not None:
                self._merge_into_table()
            else:
                self._replace_table(known)
            self._record_table(rows)
            typed_tables.mark_stale(self._connection, self.name, None)
        typed = typed_tables.refresh_loaded(self._connection, self.name)
        self.stop()
        return Loaded(rows, staged - rows, None, None, typed)

    def _merge_into_table(self) -> None:
        self._connection.execute(
            f"DELETE FROM {self._table} AS old USING {self._staging_table} AS new "
            "WHERE old.distinct_id IS NOT DISTINCT FROM new.distinct_id"
        )
        self._connection.execute(f"INSERT INTO {self._table} BY NAME FROM {self._staging_table}")
        self._connection.execute(f"DROP TABLE {self._staging_table}")

    def _record_table(self, rows: int) -> None:
        now = self._current_time()
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
