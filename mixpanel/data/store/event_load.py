"""Load part files of events into a table, day by day, so that an interrupted load can resume.

Rows are staged in a table of their own, and their days recorded in the fetch log in the same
transaction. Only `finish` changes the table itself, in one transaction.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from mixpanel.data.exceptions import TruncatedError
from mixpanel.data.store import fetch_log, schema, typed_tables
from mixpanel.data.store.engine import (
    count,
    database_errors,
    is_data_error,
    load_duckdb,
    transaction,
)
from mixpanel.data.store.fetch_log import Entry, FailedDay, Table
from mixpanel.data.store.part_files import linked_files
from mixpanel.data.store.parts import (
    MAX_LINE_BYTES,
    SAFE_LINE_BYTES,
    Repair,
    Staged,
    pieces,
    repair_part,
    repair_text,
    truncated_error,
    unreadable_error,
)
from mixpanel.data.store.quoting import literal
from mixpanel.data.store.staging import Changes, Loaded, Staging, connected, exclusive

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence
    from datetime import date, datetime
    from pathlib import Path

    from mixpanel.data._fetch.plan import Filters, Part
    from mixpanel.data.store.connection import Connection
    from mixpanel.data.store.staging import Mode

__all__ = ["Load"]

REPAIR_BATCH_SIZE = 20_000  # rows
NOT_FINITE = ("NaN", "nan", "Nan", "NAN", "Inf", "inf", "INF")

NO_REPAIR = Repair()


@dataclass(frozen=True, slots=True)
class _Source:
    """A part or its repaired copy, with its number in the staging table."""

    number: int
    part: Part
    path: Path  # the link or copy that DuckDB reads
    gzip: bool
    repair: Repair = NO_REPAIR


class _NotAnEventError(Exception):
    """A line is JSON, but not an event."""


class _PropertyTwiceError(_NotAnEventError):
    """An event has a property twice."""


class Load(Staging):
    """A running load of events: `stage` its parts, then `finish`.

    The days in `done` were staged already, by a load of the same name, filters and mode that
    stopped. All methods block; call them from one thread at a time.
    """

    def __init__(
        self,
        database: Connection,
        name: str,
        *,
        filters: Filters,
        mode: Mode,
        days: frozenset[date],
        time_in_ms: bool = True,
        now: datetime | None = None,
    ) -> None:
        super().__init__(database, name, filters, mode, now)
        self.days = days
        self._timezone = filters.project_timezone
        self._time_in_ms = time_in_ms
        self._merged = 0
        self._time_column = "event_time" if self._timezone is None else "event_time_local"
        try:
            with self._connect(), database_errors(), transaction(self._connection):
                self._resume()
        except BaseException:
            self.stop()
            raise

    # Days

    @property
    @connected
    def done(self) -> frozenset[date]:
        """The days already staged."""
        return frozenset(entry.day for entry in self._entries())

    def _entries(self) -> list[Entry]:
        return fetch_log.entries(self._connection, self.name, "staged")

    @property
    @connected
    def extends_table(self) -> bool:
        """True if the rows will be added to a table that was fetched with the same filters."""
        is_known = fetch_log.find(self._connection, self.name) is not None
        return self.mode in ("append", "sync") and is_known and not self._is_mixed()

    # Begin

    def _resume(self) -> None:
        entries = self._entries()
        if {(entry.filters, entry.mode) for entry in entries} != {(self._filters, self.mode)}:
            self._discard()
            local = "" if self._timezone is None else f", {schema.LOCAL_TIME}"
            self._connection.execute(
                f"CREATE TABLE {self._staging_table} ({schema.EVENTS}{local}, _part BIGINT)"
            )
            return
        now = self._current_time()
        stale = {
            entry.day for entry in entries if entry.day not in self.days or not entry.holds(now)
        }
        if stale:
            self._unstage(stale)

    def _unstage(self, days: set[date]) -> None:
        # A part may cover several days. A row belongs to the day of its time or, outside of the
        # part's range or without a time, to the nearest one, as `_record_days` counts it.
        day = f"coalesce(CAST({self._time_column} AS DATE), l.from_date)"
        self._connection.execute(
            f"DELETE FROM {self._staging_table} USING _ledger AS l WHERE l.table_name = ? "
            "AND l.state = 'staged' AND l.part = _part AND l.day IN (SELECT unnest(?::DATE[])) "
            f"AND l.day = greatest(l.from_date, least(l.to_date, {day}))",
            [self.name, sorted(days)],
        )
        fetch_log.delete_days(self._connection, self.name, "staged", days)

    # Stage

    @connected
    def stage(self, parts: Sequence[Part]) -> list[Staged]:
        """Load parts and record their days as staged, in one transaction.

        Of duplicate events the one Mixpanel processed last is kept; events without `$insert_id`
        are never duplicates. A line with an unpaired surrogate, NaN or bytes that are not UTF-8 is
        repaired; one that cannot be repaired is written to a file and counted. A part that is
        truncated, or that DuckDB cannot load, is returned with its `error` and nothing of it is
        kept; the other parts are loaded.

        :raises MixpanelDataError: if the database cannot store them, for instance on a full disk.
        """
        self._require_active()
        entries = self._entries()
        number = max((entry.part for entry in entries), default=0) + 1
        failed: dict[int, Staged] = {}
        with linked_files(self._exchange, [part.path for part in parts]) as links:
            sources = [
                _Source(number + n, part, link, part.gzip)
                for n, (part, link) in enumerate(zip(parts, links, strict=True))
            ]
            # Nearly all parts are clean: check their lines only after DuckDB has failed.
            try:
                staged = self._insert(sources)
            except (load_duckdb().Error, _NotAnEventError, TruncatedError):
                staged, failed = self._insert_repaired(sources)
        self._merged += sum(one.merged for one in staged.values())
        found = staged | failed
        return [found[source.number] for source in sources]

    def _insert_repaired(
        self, sources: Sequence[_Source]
    ) -> tuple[dict[int, Staged], dict[int, Staged]]:
        good: list[_Source] = []
        failed: dict[int, Staged] = {}
        for source in sources:
            try:
                good.append(self._repaired(source))
            except TruncatedError as error:
                failed[source.number] = Staged(error=error)
        try:
            return self._insert(good), failed
        except (load_duckdb().Error, _NotAnEventError) as error:
            if not is_data_error(error):
                with database_errors():
                    raise
        staged: dict[int, Staged] = {}
        originals = {source.number: source for source in sources}
        for source in good:
            found = self._insert_alone(source, originals[source.number])
            (staged if found.error is None else failed)[source.number] = found
        return staged, failed

    def _insert_alone(self, source: _Source, original: _Source) -> Staged:
        """Insert one part; if that fails, without its longest lines, which may exceed memory."""
        limits = [MAX_LINE_BYTES, SAFE_LINE_BYTES]
        while True:
            try:
                return self._insert([source])[source.number]
            except (load_duckdb().Error, _NotAnEventError) as error:
                if not is_data_error(error):
                    with database_errors():
                        raise
                if not limits:
                    if isinstance(error, load_duckdb().OutOfMemoryException):
                        with database_errors():
                            raise
                    return Staged(error=unreadable_error(source.part, error))
            try:
                source = self._rewritten(original, limits.pop(0))
            except TruncatedError as error:
                return Staged(error=error)

    def _repaired(self, source: _Source) -> _Source:
        columns = "event: 'VARCHAR', properties: 'JSON'"
        query = (
            "SELECT count(*) FILTER (event IS NULL AND properties IS NULL), "
            f"count({schema.checked_nesting('properties')}), "
            "count(*) FILTER (len(json_keys(properties)) <> list_unique(json_keys(properties))) "
            f"FROM {schema.ndjson_source([source.path], columns, gzip=source.gzip)}"
        )
        try:
            not_events, _, twice = self._connection.execute(query).fetchone() or (1, 0, 0)
            if not_events == twice == 0:
                return source
        except load_duckdb().Error:
            pass  # expected: DuckDB has refused these parts already
        return self._rewritten(source, MAX_LINE_BYTES)

    def _rewritten(self, source: _Source, max_bytes: int) -> _Source:
        target = source.path.with_name(source.path.name + ".repaired")
        repair = repair_part(source.part, source.path, target, self._unreadable, max_bytes)
        return _Source(source.number, source.part, target, gzip=False, repair=repair)

    def _insert(self, sources: Sequence[_Source]) -> dict[int, Staged]:
        """Insert parts; without enough memory again in smaller pieces, as all parts after them."""
        if not sources:
            return {}
        return self._insert_with_memory(partial(self._insert_all, sources), sources[0].part.chunk)

    def _insert_all(self, sources: Sequence[_Source]) -> dict[int, Staged]:
        days = {day for source in sources for day in source.part.chunk}
        with transaction(self._connection):
            self._unstage(days)
            if self._piece_bytes is None:
                for gzip in {source.gzip for source in sources}:
                    self._insert_files(
                        {s.path: s.number for s in sources if s.gzip == gzip}, gzip=gzip
                    )
            else:
                for source in sources:
                    truncated = partial(truncated_error, source.part)
                    for piece in pieces(
                        source.path, self._piece_bytes, truncated, gzipped=source.gzip
                    ):
                        self._insert_files({piece: source.number}, gzip=False)
            first = sources[0].number
            self._require_unique_properties(first)
            repaired = self._repair_nan(first)
            merged = self._merge_duplicates(first)
            return self._record_days(sources, merged, repaired)

    def _insert_files(self, paths: dict[Path, int], *, gzip: bool) -> None:
        query = schema.events(
            paths, gzip=gzip, time_in_ms=self._time_in_ms, timezone=self._timezone
        )
        self._connection.execute(f"INSERT INTO {self._staging_table} {query}")

    def _require_unique_properties(self, first: int) -> None:
        """Raise if a property occurs twice, of which DuckDB would read the first.

        The events of a part have few different lists of properties, so each list is checked once.
        """
        query = (
            "SELECT 1 FROM (SELECT any_value(keys) AS keys FROM (SELECT json_keys(properties) AS "
            f"keys FROM {self._staging_table} WHERE _part >= ?) GROUP BY hash(keys), len(keys)) "
            f"WHERE {schema.HAS_PROPERTY_TWICE} LIMIT 1"
        )
        if self._connection.execute(query, [first]).fetchone():
            raise _PropertyTwiceError

    def _repair_nan(self, first: int) -> dict[int, int]:
        """Replace NaN and infinities, which DuckDB accepts, by null; return counts by part.

        It also accepts mixed case such as `nAN`, which no known program writes, and is not sought.
        """
        counts: dict[int, int] = {}
        last = -1
        may_be = " OR ".join(f"contains(properties, {literal(each)})" for each in NOT_FINITE)
        query = (
            f"SELECT rowid, _part, properties FROM {self._staging_table} WHERE ({may_be}) "
            "AND _part >= ? AND rowid > ? "
            "AND regexp_matches(properties, '[\\[:,]-?(?i:nan|inf)') "
            "ORDER BY rowid LIMIT ?"
        )
        while rows := self._connection.execute(query, [first, last, REPAIR_BATCH_SIZE]).fetchall():
            last = rows[-1][0]
            fixed = [(row, part, repair_text(text), text) for row, part, text in rows]
            changed = [(row, part, new) for row, part, new, old in fixed if new != old]
            for _, part, _ in changed:
                counts[part] = counts.get(part, 0) + 1
            self._connection.execute(
                f"UPDATE {self._staging_table} SET properties = fixed.new FROM (SELECT "
                "unnest(?::BIGINT[]) AS row, unnest(?::VARCHAR[]) AS new) AS fixed "
                f"WHERE {self._staging_table}.rowid = fixed.row",
                [[row for row, _, _ in changed], [new for _, _, new in changed]],
            )
        return counts

    def _merge_duplicates(self, first: int) -> dict[int, int]:
        """Drop duplicates except the one processed last; return counts by part."""
        counts: dict[int, int] = {}
        for part, _ in self._delete_duplicates(f"_part >= {first:d}"):
            counts[part] = counts.get(part, 0) + 1
        return counts

    def _merge_duplicates_of_days(self) -> None:
        """Drop duplicates that came with the exports of different days, but the last processed.

        The time is part of their key, so one of the copies is outside the days of its part.
        """
        table, key = self._staging_table, schema.EVENT_KEY
        outside = (
            f"SELECT hash({key}) FROM {table} JOIN (SELECT DISTINCT part, from_date, to_date FROM "
            "_ledger WHERE table_name = $name AND state = 'staged') AS l ON l.part = _part WHERE "
            f"coalesce(CAST({self._time_column} AS DATE) NOT BETWEEN l.from_date AND l.to_date, "
            "true)"
        )
        parameters = {"name": self.name}
        if not count(self._connection, f"({outside} LIMIT 1)", parameters):
            return
        deleted = self._delete_duplicates(f"hash({key}) IN ({outside})", parameters)
        self._merged += len(deleted)
        for part, day in deleted:
            self._connection.execute(
                "UPDATE _ledger SET rows = rows - 1 WHERE table_name = ? AND state = 'staged' AND "
                "part = ? AND day = greatest(from_date, least(to_date, coalesce(?, from_date)))",
                [self.name, part, day],
            )

    def _delete_duplicates(
        self, condition: str, parameters: Mapping[str, Any] | None = None
    ) -> list[tuple[int, date | None]]:
        """Drop duplicates among the rows of a condition; return part and day of each."""
        table, key = self._staging_table, schema.EVENT_KEY
        condition = f"{condition} AND {schema.HAS_INSERT_ID}"
        # Compare hashes first, and sort only rows whose hash is not unique: sorting all rows by
        # their key needs much more memory. A hash collision costs time, and no row.
        found = self._connection.execute(
            f"""SELECT rowid, _part, CAST({self._time_column} AS DATE) FROM (
                SELECT rowid, _part, {self._time_column}, {key}, properties FROM {table}
                    WHERE {condition} AND hash({key}) IN (
                        SELECT hash({key}) FROM {table} WHERE {condition}
                        GROUP BY ALL HAVING count(*) > 1))
                QUALIFY row_number() OVER (PARTITION BY {key} ORDER BY TRY_CAST(
                    properties->>'/mp_processing_time_ms' AS BIGINT) DESC NULLS LAST, rowid DESC
                ) > 1""",
            parameters or {},
        ).fetchall()
        # Not DELETE ... RETURNING: DuckDB 1.4 returns no row that its transaction has inserted.
        self._connection.execute(
            f"DELETE FROM {table} WHERE rowid IN (SELECT unnest(?::BIGINT[]))",
            [[row for row, *_ in found]],
        )
        return [(part, day) for _, part, day in found]

    def _record_days(
        self, sources: Sequence[_Source], merged: dict[int, int], repaired: dict[int, int]
    ) -> dict[int, Staged]:
        by_number = {source.number: source for source in sources}
        rows = dict.fromkeys(by_number, 0)
        without_time = dict.fromkeys(by_number, 0)
        by_day = {(source.number, day): 0 for source in sources for day in source.part.chunk}
        counted = self._connection.execute(
            f"SELECT _part, CAST({self._time_column} AS DATE), count(*), "
            "count(*) FILTER (event_name IS NULL AND properties IS NULL) "
            f"FROM {self._staging_table} WHERE _part >= ? GROUP BY ALL",
            [sources[0].number],
        ).fetchall()
        for number, day, events, not_events in counted:
            if not_events:
                raise _NotAnEventError
            chunk = by_number[number].part.chunk
            rows[number] += events
            without_time[number] += 0 if day else events
            nearest = max(chunk.from_date, min(chunk.to_date, day or chunk.from_date))
            by_day[number, nearest] += events
        now = self._current_time()
        entries = []
        for (number, day), events in by_day.items():
            part = by_number[number].part
            size = part.bytes * events // max(rows[number], 1)
            received_at = part.received_at or now
            entries.append(
                Entry(day, part.chunk, self._filters, self.mode, events, size, received_at, number)
            )
        fetch_log.record_staged(self._connection, self.name, entries)
        return {
            number: Staged(
                rows[number],
                merged.get(number, 0),
                source.repair.repaired + repaired.get(number, 0),
                without_time[number],
                source.repair.unreadable,
                source.repair.kept_in,
            )
            for number, source in by_number.items()
        }

    # End

    @connected
    def kept_days(self, days: Collection[date]) -> set[date]:
        """Return those of the days that the table has already, from an earlier fetch."""
        if fetch_log.find(self._connection, self.name) is None:
            return set()
        done = fetch_log.entries(self._connection, self.name, "done")
        return {entry.day for entry in done} & set(days)

    @connected
    def record_failed(self, failed: Mapping[date, str], skipped: Collection[date] = ()) -> None:
        """Record days that could not be fetched, and why, so that the next load knows them.

        `skipped` are those that were not tried.
        """
        with database_errors(), transaction(self._connection):
            self._record_failed(failed, skipped, is_gap=False)

    def _record_failed(
        self, failed: Mapping[date, str], skipped: Collection[date], *, is_gap: bool
    ) -> None:
        now = self._current_time()
        records = [
            FailedDay(day, self._filters, self.mode, reason, now, day in skipped, is_gap)
            for day, reason in sorted(failed.items())
        ]
        fetch_log.record_failed(self._connection, self.name, records)

    @connected
    @exclusive
    def finish(
        self,
        limit: int | None = None,
        *,
        failed: Mapping[date, str] | None = None,
        skipped: Collection[date] = (),
        future: Collection[date] = (),
    ) -> Loaded:
        """Move the staged rows into the table, in one transaction; keep at most `limit` rows.

        Duplicates, and rows beyond the limit, are deleted from the staged rows before that.

        "new" and "replace" make the staged rows the table. "append" and "sync" replace the staged
        days: older rows of those days are deleted, unless the table also has rows fetched with
        other filters. Then only duplicates are replaced.

        `failed` days, with the reason of each, become gaps of the table unless it has them;
        `skipped` ones of them were not tried. `future` days, which have not begun, are left out.

        :raises TableExistsError: if a table of that name was created since the load began; the
            staged rows are kept.
        :raises MixpanelDataError: if the database fails; the table is then unchanged.
        """
        self._require_active()
        changes = None
        with database_errors(), transaction(self._connection):
            known = fetch_log.find(self._connection, self.name)
            if self.mode not in ("append", "sync") or known is None:
                self._check_name(known)  # before rows are deleted, which a later finish may want
            # In a transaction of its own: DuckDB 1.4 cannot delete rows of a table and alter it.
            self._merge_duplicates_of_days()
            if limit is not None:
                self._connection.execute(
                    f"DELETE FROM {self._staging_table} WHERE rowid NOT IN (SELECT rowid "
                    f"FROM {self._staging_table} ORDER BY event_time NULLS LAST, rowid LIMIT ?)",
                    [limit],
                )
        with database_errors(), transaction(self._connection):
            rows = count(self._connection, self._staging_table)
            self._connection.execute(f"ALTER TABLE {self._staging_table} DROP COLUMN _part")
            known = fetch_log.find(self._connection, self.name)
            merges = self.mode in ("append", "sync") and known is not None
            changed = self._changed_days() if merges else None
            typed_tables.mark_stale(self._connection, self.name, changed)
            if merges:
                changes = self._changes()
                self._merge_into_table()
            else:
                self._replace_table(known)
                known = None
            fetch_log.commit_staged(self._connection, self.name)
            fetch_log.delete_parts(self._connection, self.name)
            self._record_failed(failed or {}, skipped, is_gap=True)
            days = self.days - set(future)
            self._record_table(known, days)
        typed = typed_tables.refresh_loaded(self._connection, self.name)
        self.stop()
        return Loaded(rows, self._merged, min(days), max(days), changes, typed)

    def _is_mixed(self) -> bool:
        """Return True if the table has rows that were fetched with other filters."""
        done = fetch_log.entries(self._connection, self.name, "done")
        return bool({entry.filters for entry in done} - {self._filters})

    def _same_key(self) -> str:
        return " AND ".join(
            f"old.{column} IS NOT DISTINCT FROM new.{column}"
            for column in schema.EVENT_KEY.split(", ")
        )

    def _changes(self) -> Changes:
        """Compare the staged rows with those in the table, by their key.

        Rows without an insert id are compared whole: they are new or unchanged.
        """
        columns = f"{schema.EVENT_KEY}, properties"
        # Only rows of the same time can be equal, which bounds the work for a long table.
        old = (
            f"(SELECT {columns}, {self._time_column} AS _clock FROM {self._table} WHERE event_time "
            f"IS NULL OR event_time BETWEEN (SELECT min(event_time) FROM {self._staging_table}) "
            f"AND (SELECT max(event_time) FROM {self._staging_table}))"
        )
        new, changed, unchanged = self._connection.execute(
            "SELECT count(*) FILTER (NOT known), count(*) FILTER (known AND NOT same), "
            "count(*) FILTER (same) FROM (SELECT bool_or(old._known IS NOT NULL) AS known, "
            f"bool_or(old._known IS NOT NULL AND {schema.SAME_PROPERTIES}) AS same "
            f"FROM (SELECT {columns}, rowid AS _row FROM {self._staging_table} "
            f"WHERE {schema.HAS_INSERT_ID}) AS new LEFT JOIN (SELECT *, true AS _known FROM {old} "
            f"WHERE {schema.HAS_INSERT_ID}) AS old ON {self._same_key()} GROUP BY new._row)"
        ).fetchone() or (0, 0, 0)
        whole = f"SELECT {columns} FROM {{}} WHERE NOT {schema.HAS_INSERT_ID}"
        staged = whole.format(self._staging_table)
        same = count(self._connection, f"({staged} INTERSECT ALL {whole.format(old)})")
        new += count(self._connection, f"({staged})") - same
        vanished = None
        if not self._is_mixed():
            parameters = {"days": sorted(self.done)}
            day = f"CAST({self._time_column} AS DATE)"
            in_days = f"FROM {self._table} WHERE {day} IN (SELECT unnest($days::DATE[]))"
            keyed = (
                f"SELECT 1 FROM (SELECT * {in_days} AND {schema.HAS_INSERT_ID}) AS old ANTI JOIN "
                f"{self._staging_table} AS new ON {self._same_key()}"
            )
            others = (
                f"SELECT {columns} {in_days} AND NOT {schema.HAS_INSERT_ID} EXCEPT ALL {staged}"
            )
            vanished = sum(
                count(self._connection, f"({each})", parameters) for each in (keyed, others)
            )
        return Changes(new, changed, unchanged + same, vanished)

    def _changed_days(self) -> set[date]:
        """Return the days of which rows will be replaced; a row without a time has no day."""
        rows = self._connection.execute(
            f"SELECT DISTINCT CAST({self._time_column} AS DATE) FROM {self._staging_table} "
            f"WHERE {self._time_column} IS NOT NULL"
        ).fetchall()
        return {day for (day,) in rows} | self.done

    def _merge_into_table(self) -> None:
        """Replace the rows of the staged days, and other rows by their key."""
        day = f"CAST({self._time_column} AS DATE)"
        in_days = f"coalesce({day} IN (SELECT unnest($days::DATE[])), false)"
        by_key = f"NOT {in_days}"
        # Rows do not record their filters. With several, deleting whole days would also delete rows
        # that the staged filters do not return, so every row is matched by key.
        if self._is_mixed():
            by_key = "true"
        else:
            self._execute_with_days(f"DELETE FROM {self._table} WHERE {in_days}")
        columns = f"{schema.EVENT_KEY}, properties"
        columns += "" if self._timezone is None else ", event_time_local"
        into = f"INSERT INTO {self._table} ({columns}) "
        into += f"SELECT {columns} FROM {self._staging_table} WHERE"
        self._merged += self._execute_with_days(
            f"DELETE FROM {self._table} AS old USING (FROM {self._staging_table} "
            f"WHERE {by_key} AND {schema.HAS_INSERT_ID}) AS new WHERE {self._same_key()}"
        )
        # Rows without an insert id are compared whole. EXCEPT ALL keeps the number of equal rows.
        self._execute_with_days(
            f"{into} {by_key} AND NOT {schema.HAS_INSERT_ID} EXCEPT ALL "
            f"SELECT {columns} FROM {self._table} WHERE NOT {schema.HAS_INSERT_ID}"
        )
        self._execute_with_days(f"{into} NOT ({by_key} AND NOT {schema.HAS_INSERT_ID})")
        self._connection.execute(f"DROP TABLE {self._staging_table}")

    def _execute_with_days(self, statement: str) -> int:
        """Run a statement that may name `$days`, the staged days; return how many rows it wrote."""
        parameters = {"days": sorted(self.done)} if "$days" in statement else {}
        row = self._connection.execute(statement, parameters).fetchone()
        return int(row[0]) if row else 0

    def _record_table(self, known: Table | None, loaded: Collection[date]) -> None:
        days = [*loaded]
        if known is not None:
            days += [day for day in (known.from_date, known.to_date) if day is not None]
        first, last = min(days), max(days)
        table = Table(self.name, "events", self._current_time(), first, last, self._timezone)
        fetch_log.register(self._connection, table, count(self._connection, self._table))
