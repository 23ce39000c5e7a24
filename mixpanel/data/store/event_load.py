"""Load part files of events into a table, day by day, so that a load may stop and go on.

What is loaded waits in a staging table, its days in the ledger, each committed with its rows. Only
`finish` touches the table itself, in one transaction.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from mixpanel.data.exceptions import TruncatedError
from mixpanel.data.store import fetch_log, schema
from mixpanel.data.store.engine import count, engine, is_content, reported, transaction
from mixpanel.data.store.fetch_log import Entry, Table
from mixpanel.data.store.part_files import exposed
from mixpanel.data.store.parts import (
    LONGEST,
    SURE_TO_FIT,
    Repair,
    Staged,
    repair_part,
    repair_text,
    unreadable,
)
from mixpanel.data.store.staging import Loaded, Staging

if TYPE_CHECKING:
    from collections.abc import Hashable, Sequence
    from datetime import date, datetime
    from pathlib import Path

    from duckdb import DuckDBPyConnection

    from mixpanel.data._fetch.plan import Filters, Part
    from mixpanel.data.store.staging import Mode

__all__ = ["Load"]

REPAIRED_AT_ONCE = 20_000


AS_IT_CAME = Repair()


@dataclass(frozen=True, slots=True)
class _Source:
    """A part, or what repairing it left, under its number in the staging table."""

    number: int
    part: Part
    path: Path  # where DuckDB reads it
    gzip: bool
    repair: Repair = AS_IT_CAME


class _NoEventError(Exception):
    """A line that is JSON, but no event."""


class Load(Staging):
    """A load of events that has begun: `stage` its parts, then `finish`.

    `done` days are there already from a load of the same name, filters and mode that stopped.
    Every method blocks; call them from one thread at a time.
    """

    def __init__(
        self,
        connection: DuckDBPyConnection,
        name: str,
        *,
        filters: Filters,
        mode: Mode,
        days: frozenset[date],
        database: Hashable,
        exchange: Path,
        unreadable: Path,
        time_in_ms: bool = True,
        now: datetime | None = None,
    ) -> None:
        super().__init__(connection, name, filters, mode, now, database, exchange, unreadable)
        self.days = days
        self._timezone = filters.project_timezone
        self._in_ms = time_in_ms
        self._merged = 0
        self._raw = "event_time" if self._timezone is None else "event_time_local"
        try:
            with reported(), transaction(connection):
                self._resume()
        except BaseException:
            self.stop()
            raise

    # Days

    @property
    def done(self) -> frozenset[date]:
        """The days that are staged."""
        return frozenset(entry.day for entry in self._entries())

    def _entries(self) -> list[Entry]:
        return fetch_log.entries(self._connection, self.name, "staged")

    # Begin

    def _resume(self) -> None:
        entries = self._entries()
        if {(entry.filters, entry.mode) for entry in entries} != {(self._filters, self.mode)}:
            self._discard()
            local = "" if self._timezone is None else f", {schema.LOCAL}"
            self._connection.execute(
                f"CREATE TABLE {self._stage} ({schema.EVENTS}{local}, _part BIGINT)"
            )
            return
        now = self._moment()
        stale = {
            entry.day for entry in entries if entry.day not in self.days or not entry.holds(now)
        }
        if stale:
            self._unstage(stale)

    def _unstage(self, days: set[date]) -> None:
        day = f"coalesce(CAST({self._raw} AS DATE), l.from_date)"
        self._connection.execute(
            f"DELETE FROM {self._stage} USING _ledger AS l WHERE l.table_name = ? "  # noqa: S608
            "AND l.state = 'staged' AND l.part = _part AND l.day IN (SELECT unnest(?::DATE[])) "
            f"AND l.day = greatest(l.from_date, least(l.to_date, {day}))",
            [self.name, sorted(days)],
        )
        fetch_log.forget(self._connection, self.name, "staged", days)

    # Stage

    def stage(self, parts: Sequence[Part]) -> list[Staged]:
        """Load parts and note their days as staged, all in one transaction.

        Of copies of an event the one that was processed last is kept; events without `$insert_id`
        are never taken for copies. A line with half a character, NaN or bytes that are no text is
        repaired; one that cannot be is set aside in a file and counted. A part that was cut, or
        that DuckDB cannot load, comes back with its `error` and nothing of it is kept; its
        neighbours are.

        :raises MixpanelDataError: when the database cannot take them: a full disk, for instance.
        """
        self._hold()
        entries = self._entries()
        number = max((entry.part for entry in entries), default=0) + 1
        failed: dict[int, Staged] = {}
        with exposed(self._exchange, [part.path for part in parts]) as links:
            sources = [
                _Source(number + n, part, link, part.gzip)
                for n, (part, link) in enumerate(zip(parts, links, strict=True))
            ]
            try:
                staged = self._insert(sources)
            except (engine().Error, _NoEventError):
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
        except (engine().Error, _NoEventError) as error:
            if not is_content(error):
                with reported():
                    raise
        staged: dict[int, Staged] = {}
        as_sent = {source.number: source for source in sources}
        for source in good:
            found = self._insert_alone(source, as_sent[source.number])
            (staged if found.error is None else failed)[source.number] = found
        return staged, failed

    def _insert_alone(self, source: _Source, as_sent: _Source) -> Staged:
        """Insert one part of those that failed together, at last without its longest lines."""
        limits = [LONGEST, SURE_TO_FIT]
        while True:
            try:
                return self._insert([source])[source.number]
            except (engine().Error, _NoEventError) as error:
                if not is_content(error):
                    with reported():
                        raise
                if not limits:
                    return Staged(error=unreadable(source.part, error))
            try:
                source = self._rewritten(as_sent, limits.pop(0))
            except TruncatedError as error:
                return Staged(error=error)

    def _repaired(self, source: _Source) -> _Source:
        columns = "event: 'VARCHAR', properties: 'JSON'"
        query = (
            "SELECT count(*) FILTER (event IS NULL AND properties IS NULL), "  # noqa: S608
            f"count({schema.bounded('properties')}) "
            f"FROM {schema.reader([source.path], columns, gzip=source.gzip)}"
        )
        try:
            if (self._connection.execute(query).fetchone() or (1,))[0] == 0:
                return source
        except engine().Error:
            pass  # the reason to be here
        return self._rewritten(source, LONGEST)

    def _rewritten(self, source: _Source, longest: int) -> _Source:
        target = source.path.with_name(source.path.name + ".repaired")
        repair = repair_part(source.part, source.path, target, self._unreadable, longest)
        return _Source(source.number, source.part, target, gzip=False, repair=repair)

    def _insert(self, sources: Sequence[_Source]) -> dict[int, Staged]:
        if not sources:
            return {}
        days = {day for source in sources for day in source.part.chunk}
        with transaction(self._connection):
            self._unstage(days)
            for gzip in {source.gzip for source in sources}:
                paths = {s.path: s.number for s in sources if s.gzip == gzip}
                query = schema.events(
                    paths, gzip=gzip, time_in_ms=self._in_ms, timezone=self._timezone
                )
                self._connection.execute(f"INSERT INTO {self._stage} {query}")
            first = sources[0].number
            repaired = self._repair_nan(first)
            merged = self._merge_copies(first)
            return self._note(sources, merged, repaired)

    def _repair_nan(self, first: int) -> dict[int, int]:
        """Put null where DuckDB let NaN or an infinity through, and count by part."""
        counts: dict[int, int] = {}
        last = -1
        query = (
            f"SELECT rowid, _part, properties FROM {self._stage} "  # noqa: S608
            "WHERE (contains(properties, 'NaN') OR contains(properties, 'Infinity')) "
            "AND _part >= ? AND rowid > ? AND regexp_matches(properties, '[\\[:,]-?(NaN|Inf)') "
            "ORDER BY rowid LIMIT ?"
        )
        while rows := self._connection.execute(query, [first, last, REPAIRED_AT_ONCE]).fetchall():
            last = rows[-1][0]
            fixed = [(row, part, repair_text(text), text) for row, part, text in rows]
            changed = [(row, part, new) for row, part, new, old in fixed if new != old]
            for _, part, _ in changed:
                counts[part] = counts.get(part, 0) + 1
            self._connection.execute(
                f"UPDATE {self._stage} SET properties = fixed.new FROM (SELECT "  # noqa: S608
                "unnest(?::BIGINT[]) AS row, unnest(?::VARCHAR[]) AS new) AS fixed "
                f"WHERE {self._stage}.rowid = fixed.row",
                [[row for row, _, _ in changed], [new for _, _, new in changed]],
            )
        return counts

    def _merge_copies(self, first: int) -> dict[int, int]:
        """Drop all but the last processed of events with one key, and count by part."""
        # Hashes alone find out whether there are any: sorting all rows by key costs memory.
        rows = self._connection.execute(
            f"""DELETE FROM {self._stage} WHERE rowid IN (
                SELECT rowid FROM (SELECT rowid, {schema.KEY}, properties FROM {self._stage}
                    WHERE _part >= $first AND {schema.HAS_ID} AND hash({schema.KEY}) IN (
                        SELECT hash({schema.KEY}) FROM {self._stage}
                        WHERE _part >= $first AND {schema.HAS_ID}
                        GROUP BY ALL HAVING count(*) > 1))
                QUALIFY row_number() OVER (PARTITION BY {schema.KEY} ORDER BY TRY_CAST(
                    properties->>'/mp_processing_time_ms' AS BIGINT) DESC NULLS LAST, rowid DESC
                ) > 1) RETURNING _part""",  # noqa: S608
            {"first": first},
        ).fetchall()
        counts: dict[int, int] = {}
        for (part,) in rows:
            counts[part] = counts.get(part, 0) + 1
        return counts

    def _note(
        self, sources: Sequence[_Source], merged: dict[int, int], repaired: dict[int, int]
    ) -> dict[int, Staged]:
        by_number = {source.number: source for source in sources}
        rows = dict.fromkeys(by_number, 0)
        timeless = dict.fromkeys(by_number, 0)
        by_day = {(source.number, day): 0 for source in sources for day in source.part.chunk}
        counted = self._connection.execute(
            f"SELECT _part, CAST({self._raw} AS DATE), count(*), "  # noqa: S608
            "count(*) FILTER (event_name IS NULL AND properties IS NULL) "
            f"FROM {self._stage} WHERE _part >= ? GROUP BY ALL",
            [sources[0].number],
        ).fetchall()
        for number, day, events, strange in counted:
            if strange:
                raise _NoEventError
            chunk = by_number[number].part.chunk
            rows[number] += events
            timeless[number] += 0 if day else events
            nearest = max(chunk.from_date, min(chunk.to_date, day or chunk.from_date))
            by_day[number, nearest] += events
        now = self._moment()
        entries = []
        for (number, day), events in by_day.items():
            part = by_number[number].part
            size = part.bytes * events // max(rows[number], 1)
            at = part.received_at or now
            entries.append(
                Entry(day, part.chunk, self._filters, self.mode, events, size, at, number)
            )
        fetch_log.record(self._connection, self.name, entries)
        return {
            number: Staged(
                rows[number],
                merged.get(number, 0),
                source.repair.repaired + repaired.get(number, 0),
                timeless[number],
                source.repair.unreadable,
                source.repair.kept_in,
            )
            for number, source in by_number.items()
        }

    # End

    def finish(self, limit: int | None = None) -> Loaded:
        """Bring what is staged into the table, in one transaction; keep at most `limit` rows.

        "new" and "replace" make the staged rows the table. "append" and "sync" replace the staged
        days: rows of those days that were there before go, unless other filters fetched them too.
        Then only copies are replaced.

        :raises TableExistsError: when somebody made a table of that name since the load began; what
            is staged stays.
        :raises MixpanelDataError: when the database cannot; the table is then as it was.
        """
        self._hold()
        with reported(), transaction(self._connection):
            if limit is not None:
                self._connection.execute(
                    f"DELETE FROM {self._stage} WHERE rowid NOT IN (SELECT rowid "  # noqa: S608
                    f"FROM {self._stage} ORDER BY event_time NULLS LAST, rowid LIMIT ?)",
                    [limit],
                )
            rows = count(self._connection, self._stage)
            self._connection.execute(f"ALTER TABLE {self._stage} DROP COLUMN _part")
            known = fetch_log.find(self._connection, self.name)
            if self.mode in ("append", "sync") and known is not None:
                self._add()
            else:
                self._swap(known)
                known = None
            fetch_log.settle(self._connection, self.name)
            fetch_log.forget_parts(self._connection, self.name)
            self._register(known)
        self.stop()
        return Loaded(rows, self._merged, min(self.days), max(self.days))

    def _add(self) -> None:
        """Replace the staged days; what cannot be told by its day is replaced by its key."""
        done = fetch_log.entries(self._connection, self.name, "done")
        day = f"CAST({self._raw} AS DATE)"
        in_days = f"coalesce({day} IN (SELECT unnest($days::DATE[])), false)"
        by_key = f"NOT {in_days}"
        if {entry.filters for entry in done} - {self._filters}:
            by_key = "true"
        else:
            self._by_days(f"DELETE FROM {self._table} WHERE {in_days}")  # noqa: S608
        same = " AND ".join(
            f"old.{column} IS NOT DISTINCT FROM new.{column}" for column in schema.KEY.split(", ")
        )
        columns = f"{schema.KEY}, properties"
        columns += "" if self._timezone is None else ", event_time_local"
        into = f"INSERT INTO {self._table} ({columns}) "
        into += f"SELECT {columns} FROM {self._stage} WHERE"  # noqa: S608
        self._by_days(
            f"DELETE FROM {self._table} AS old USING (FROM {self._stage} "  # noqa: S608
            f"WHERE {by_key} AND {schema.HAS_ID}) AS new WHERE {same}"
        )
        # Without an id rows are told by all they hold, each as often as it is there.
        self._by_days(
            f"{into} {by_key} AND NOT {schema.HAS_ID} EXCEPT ALL "  # noqa: S608
            f"SELECT {columns} FROM {self._table} WHERE NOT {schema.HAS_ID}"
        )
        self._by_days(f"{into} NOT ({by_key} AND NOT {schema.HAS_ID})")
        self._connection.execute(f"DROP TABLE {self._stage}")

    def _by_days(self, statement: str) -> None:
        parameters = {"days": sorted(self.done)} if "$days" in statement else {}
        self._connection.execute(statement, parameters)

    def _register(self, known: Table | None) -> None:
        days = [*self.days]
        if known is not None:
            days += [day for day in (known.from_date, known.to_date) if day is not None]
        first, last = min(days), max(days)
        table = Table(self.name, "events", self._moment(), first, last, self._timezone)
        fetch_log.register(self._connection, table, count(self._connection, self._table))
