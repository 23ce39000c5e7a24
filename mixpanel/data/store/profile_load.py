"""Load pages of profiles into a table: of profiles of one id the last fetched is kept."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mixpanel._runtime.private_files import make_folder
from mixpanel.data._fetch.plan import Chunk
from mixpanel.data.exceptions import MixpanelDataError, UnreadablePartError
from mixpanel.data.store import fetch_log, schema
from mixpanel.data.store.engine import count, first_line, is_content, reported, transaction
from mixpanel.data.store.fetch_log import Entry, Table
from mixpanel.data.store.part_files import exposed
from mixpanel.data.store.parts import Staged, private_file
from mixpanel.data.store.staging import Loaded, Staging

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterable
    from datetime import datetime
    from pathlib import Path

    from duckdb import DuckDBPyConnection

    from mixpanel.data._fetch.plan import Filters
    from mixpanel.data.store.staging import Mode

__all__ = ["ProfilesLoad"]


class ProfilesLoad(Staging):
    """A load of profiles that has begun: `stage` its pages, then `finish`.

    A page is a file with one profile a line, as Mixpanel answers them:
    `{"$distinct_id": ..., "$properties": {...}}`. What an earlier load left is dropped: pages
    belong to one query of the server and cannot be gone on with.
    """

    def __init__(
        self,
        connection: DuckDBPyConnection,
        name: str,
        *,
        filters: Filters,
        mode: Mode,
        database: Hashable,
        exchange: Path,
        unreadable: Path,
        now: datetime | None = None,
    ) -> None:
        super().__init__(connection, name, filters, mode, now, database, exchange, unreadable)
        self._pages = 0
        self._bytes = 0
        try:
            with reported(), transaction(connection):
                self._discard()
                connection.execute(f"CREATE TABLE {self._stage} ({schema.PROFILES}, _part BIGINT)")
        except BaseException:
            self.stop()
            raise

    def stage(self, *pages: Path, gzip: bool = False) -> Staged:
        """Load pages, later ones over earlier ones.

        :raises UnreadablePartError: for a page that is no NDJSON; none of the pages is then kept.
        :raises MixpanelDataError: when the database cannot take them: a full disk, for instance.
        """
        self._hold()
        with exposed(self._exchange, pages) as links:
            numbers = {link: self._pages + n for n, link in enumerate(links, 1)}
            query = schema.profiles(numbers, gzip=gzip)
            try:
                with reported(), transaction(self._connection):
                    before = count(self._connection, self._stage)
                    self._connection.execute(f"INSERT INTO {self._stage} {query}")
                    rows = count(self._connection, self._stage) - before
            except MixpanelDataError as error:
                cause = error.__cause__
                if isinstance(cause, Exception) and is_content(cause):
                    raise UnreadablePartError(
                        f"a page of profiles cannot be loaded: {first_line(cause)}"
                    ) from cause
                raise
        self._pages += len(pages)
        self._bytes += sum(path.stat().st_size for path in pages)
        return Staged(rows)

    def set_aside(self, name: str, lines: Iterable[bytes]) -> Path:
        """Keep lines of a page that DuckDB cannot load in a file; return where."""
        make_folder(self._unreadable)
        path = self._unreadable / name
        with private_file(path) as file:
            file.writelines(line + b"\n" for line in lines)
        return path

    def finish(self) -> Loaded:
        """Bring the profiles into the table, in one transaction.

        "new" and "replace" make them the table; "append" writes them over profiles of the same ids
        and leaves others as they are.

        :raises TableExistsError: when somebody made a table of that name since the load began.
        :raises MixpanelDataError: when the database cannot; the table is then as it was.
        """
        self._hold()
        with reported(), transaction(self._connection):
            staged = count(self._connection, self._stage)
            self._connection.execute(
                f"DELETE FROM {self._stage} WHERE rowid IN (SELECT rowid "  # noqa: S608
                f"FROM {self._stage} WHERE distinct_id IS NOT NULL QUALIFY row_number() OVER "
                "(PARTITION BY distinct_id ORDER BY _part DESC, rowid DESC) > 1)"
            )
            rows = count(self._connection, self._stage)
            self._connection.execute(f"ALTER TABLE {self._stage} DROP COLUMN _part")
            known = fetch_log.find(self._connection, self.name)
            if self.mode == "append" and known is not None:
                self._add()
            else:
                self._swap(known)
            self._register(rows)
        self.stop()
        return Loaded(rows, staged - rows, None, None)

    def _add(self) -> None:
        self._connection.execute(
            f"DELETE FROM {self._table} AS old USING {self._stage} AS new "  # noqa: S608
            "WHERE old.distinct_id IS NOT DISTINCT FROM new.distinct_id"
        )
        self._connection.execute(f"INSERT INTO {self._table} BY NAME FROM {self._stage}")
        self._connection.execute(f"DROP TABLE {self._stage}")

    def _register(self, rows: int) -> None:
        now = self._moment()
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
        fetch_log.record(self._connection, self.name, [entry])
        fetch_log.settle(self._connection, self.name)
        table = Table(self.name, "profiles", now, None, None, None)
        fetch_log.register(self._connection, table, count(self._connection, self._table))
