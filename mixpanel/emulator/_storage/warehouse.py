"""Store events, profiles, groups, aliases and lookup tables in DuckDB.

Every method may be called from any thread.
"""

import threading
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import duckdb
from pydantic_core import from_json

from mixpanel._records.json_encoding import loads
from mixpanel.emulator._rules.events import Event, json_text
from mixpanel.emulator._rules.profiles import Properties, Update, apply_update
from mixpanel.emulator._storage.database import Database
from mixpanel.emulator._storage.tables import COPY_KEY, KEYS, LOAD, TABLES

# DuckDB inserts whole columns fast and single rows slowly, so rows are collected until the next
# read, or until there are this many.
MAX_PENDING = 5_000

Key = tuple[str, ...]
Profile = tuple[Properties | None, int | None]
"""Properties, None if deleted, and the time (ms) when it was last seen."""


class EventCopy(NamedTuple):
    """One copy of an event as it is stored: an `Event` and the time when it was received.

    An id that was not sent is None. `raw` is the text of properties that JSON parsers reject.
    """

    event: str
    time: int
    distinct_id: str | None
    insert_id: str | None
    sent_fields: str
    properties: str
    raw: str | None
    ingested_at: int


class Warehouse:
    """One project's data, in memory or in a DuckDB file."""

    def __init__(self, path: str | Path | None = None) -> None:
        self._path = None if path is None else str(path)
        self._lock = threading.RLock()
        self._database: Database | None = None
        self._pending: list[tuple[Any, ...]] = []
        self._changed: dict[str, dict[Key, Profile]] = {table: {} for table in KEYS}
        self._aliases: dict[str, str] = {}
        self._seq = 0
        self.revision = 0  # increases with every change

    # Events

    def add_events(self, events: Iterable[Event], *, now: float) -> None:
        """Store events, including repeated ones."""
        ingested_at = round(now * 1000)
        self.add_copies(EventCopy(*event, None, ingested_at) for event in events)

    def events(
        self, name: str | None = None, *, distinct_id: str | None = None, raw: bool = False
    ) -> list[dict[str, Any]]:
        """Return events in the order of their first arrival.

        Of copies with the same event, time, distinct_id and `$insert_id` the latest wins; `raw`
        returns every copy.
        """
        chosen = (
            "select seq, event, distinct_id, insert_id, sent_fields,"
            " coalesce(raw, properties::varchar) from events"
            if raw
            else "select min(seq) as seq, event, distinct_id, insert_id, arg_max(sent_fields, seq),"
            " arg_max(coalesce(raw, properties::varchar), seq) from events"
        )
        rows = self._read(
            chosen
            + " where event = coalesce($name, event)"
            + " and ($distinct_id::varchar is null or distinct_id = $distinct_id)"
            + ("" if raw else f" group by {COPY_KEY}")
            + " order by seq",
            {"name": name, "distinct_id": distinct_id},
        )
        return [_event(*row[1:]) for row in rows]

    def timeline(self, distinct_id: str, limit: int) -> list[dict[str, Any]]:
        """Return the newest events of a user and of its aliases, newest first."""
        rows = self._read(
            "select seq, event, time, distinct_id, insert_id, coalesce(raw, properties::varchar)"
            " from events where distinct_id in $ids order by time desc, seq desc limit $limit",
            {"ids": [distinct_id, *self.aliases_of(distinct_id)], "limit": limit},
        )
        return [
            {
                "event": event,
                "time": time / 1000,
                "distinct_id": owner,
                "insert_id": insert_id,
                "properties": loads(text),
            }
            for _, event, time, owner, insert_id, text in rows
        ]

    def count(self) -> int:
        """Count the events, without repeated copies."""
        rows = self._read(f"select count(*) from (select distinct {COPY_KEY} from events)")
        return int(rows[0][0])

    def copies(self) -> int:
        """Count all copies of events: cheap, and never less than `count`."""
        with self._lock:
            self._open()
            return self._seq

    def counts(self) -> dict[str, int]:
        """Count the rows of every table, copies of events included."""
        return {table: self._read(f"select count(*) from {table}")[0][0] for table in TABLES}

    def add_copies(self, copies: Iterable[EventCopy]) -> None:
        """Store copies of events without validation."""
        with self._lock:
            self._open()
            self.revision += 1
            for copy in copies:
                self._seq += 1
                self._pending.append((self._seq, *copy))
            if len(self._pending) >= MAX_PENDING:
                self._flush()

    def add_lines(self, lines: Sequence[str], *, now: float) -> None:
        """Store exported events, given as lines of JSON: all of them or none.

        :raises ValueError: a line is not an event, or DuckDB cannot parse it.
        """
        with self._lock:
            connection = self._open().connection
            self._flush()
            values = {"lines": lines, "seq": self._seq, "now": round(now * 1000)}
            connection.execute("begin")
            stored = -1
            try:
                (stored,) = connection.execute(LOAD, values).fetchone() or (0,)
            except duckdb.Error as error:
                raise ValueError(str(error)) from error
            finally:
                connection.execute("commit" if stored == len(lines) else "rollback")
            if stored != len(lines):
                raise ValueError("a line is not an event")
            self._seq += len(lines)
            self.revision += 1

    def add_selected(self, select: str, values: Mapping[str, Any], *, now: float) -> int:
        """Store the events that a SELECT returns, and return how many they are: all or none.

        Its columns are `number` (from 1), `event`, `time`, `distinct_id`, `insert_id`,
        `sent_fields` and `properties`.

        :raises ValueError: with DuckDB's message, if the SELECT fails.
        """
        columns = "event, time, distinct_id, insert_id, sent_fields, properties"
        insert = (
            f"insert into events by name select $seq + number as seq, {columns},"
            f" $now as ingested_at from ({select}) order by number"
        )
        with self._lock:
            connection = self._open().connection
            self._flush()
            values = {**values, "seq": self._seq, "now": round(now * 1000)}
            try:
                (count,) = connection.execute(insert, values).fetchone() or (0,)
            except duckdb.Error as error:
                raise ValueError(str(error).partition("\n")[0]) from error
            self._seq += int(count)
            self.revision += 1
            return int(count)

    # Profiles

    def apply(self, updates: Sequence[Update], *, groups: bool = False) -> None:
        """Apply profile updates in order."""
        table = "groups" if groups else "profiles"
        if not updates:
            return
        with self._lock:
            self._open()
            self.revision += 1
            changed = self._changed[table]
            keyed = [(self._owner(update), update) for update in updates]
            # One query for all profiles of a batch. Several updates of one profile build on each
            # other.
            profiles = self._profiles(table, {key for key, _ in keyed})
            for key, update in keyed:
                properties, seen = profiles.get(key, (None, None))
                after = apply_update(properties or {}, update)
                profiles[key] = (after, seen if update.seen is None else update.seen)
            changed.update(profiles)
            if len(changed) >= MAX_PENDING:
                self._flush()

    def profiles(self) -> dict[str, Properties]:
        """Return every user profile by its distinct_id."""
        rows = self._read("select distinct_id, properties from profiles order by rowid")
        return {distinct_id: from_json(text) for distinct_id, text in rows}

    def groups(self) -> dict[tuple[str, str], Properties]:
        """Return every group profile by its (group_key, group_id)."""
        rows = self._read("select group_key, group_id, properties from groups order by rowid")
        return {(key, group_id): from_json(text) for key, group_id, text in rows}

    # Identity

    def add_aliases(self, aliases: Mapping[str, str]) -> None:
        """Map aliases to users, and merge their profiles.

        An alias keeps its first user. If both profiles have a property, that of the user wins (the
        live service does not document which).
        """
        with self._lock:
            self._open()
            self.revision += 1
            for alias, distinct_id in aliases.items():
                # An alias never gets aliases of its own, so that the chains which `canonical`
                # follows have no cycle.
                root = self.canonical(distinct_id)
                if alias in self._aliases or alias == root:
                    continue
                self._aliases[alias] = root
                self._run("insert into aliases values (?, ?)", [alias, root])
                self._merge_profiles(alias, root)

    def canonical(self, distinct_id: str) -> str:
        """Return the user's id of an alias; other ids are returned unchanged."""
        with self._lock:
            self._open()
            while distinct_id in self._aliases:
                distinct_id = self._aliases[distinct_id]
            return distinct_id

    def aliases_of(self, distinct_id: str) -> list[str]:
        """Return the aliases of a user, in alphabetical order."""
        with self._lock:
            self._open()
            return sorted(alias for alias in self._aliases if self.canonical(alias) == distinct_id)

    def profile(self, distinct_id: str) -> Properties | None:
        """Return the profile of one user, None without one."""
        rows = self._read(
            "select properties from profiles where distinct_id = $id", {"id": distinct_id}
        )
        return from_json(rows[0][0]) if rows else None

    # Lookup tables

    def create_lookup_table(self, table_id: str, name: str) -> None:
        """Create an empty lookup table, or rename one."""
        with self._lock:
            rows = self.lookup_tables().get(table_id, {}).get("rows", [])
            self._run("delete from lookup_tables where id = ?", [table_id])
            values = [table_id, name, json_text(rows)]
            self._run("insert into lookup_tables values (?, ?, ?)", values)

    def replace_lookup_table(self, table_id: str, rows: Sequence[Properties]) -> None:
        """Replace all rows of a lookup table at once."""
        values = [json_text(rows), table_id]
        self._run("update lookup_tables set rows = ? where id = ?", values)

    def lookup_tables(self) -> dict[str, dict[str, Any]]:
        """Return every lookup table by its id: `{"name", "rows"}`."""
        found = self._read("select id, name, rows from lookup_tables order by rowid")
        return {table_id: {"name": name, "rows": from_json(rows)} for table_id, name, rows in found}

    def drop_lookup_table(self, table_id: str) -> None:
        """Remove a lookup table, if there is one."""
        self._run("delete from lookup_tables where id = ?", [table_id])

    # Saved objects

    @property
    def is_file(self) -> bool:
        """True if the data is kept in a file."""
        return self._path is not None

    def objects(self) -> list[tuple[str, str, str, dict[str, Any]]]:
        """Return the saved objects, in the order in which they were kept first."""
        rows = self._read("select what, kind, name, content from saved_objects order by rowid")
        return [(what, kind, name, from_json(content)) for what, kind, name, content in rows]

    def keep_object(self, what: str, kind: str, name: str, content: Any) -> None:
        """Keep a saved object, or remove it if the content is None."""
        key = [what, kind, name]
        with self._lock:
            known = "what = ? and kind = ? and name = ?"
            if content is None:
                self._run(f"delete from saved_objects where {known}", key)
            elif self._read(
                "select 1 from saved_objects where what = $what and kind = $kind and name = $name",
                {"what": what, "kind": kind, "name": name},
            ):
                values = [json_text(content), *key]
                self._run(f"update saved_objects set content = ? where {known}", values)
            else:
                self._run(
                    "insert into saved_objects values (?, ?, ?, ?)", [*key, json_text(content)]
                )

    def clear_objects(self) -> None:
        """Remove all saved objects."""
        self._run("delete from saved_objects")

    # The database

    def clear(self) -> None:
        """Forget everything."""
        with self._lock:
            self._seq = 0
            self.revision += 1
            self._pending.clear()
            self._aliases.clear()
            for changed in self._changed.values():
                changed.clear()
            for table in TABLES:
                self._run(f"delete from {table}")

    def open(self) -> None:
        """Open the database now.

        :raises OSError: the file is not a database, or another process has opened it.
        """
        try:
            with self._lock:
                self._open()
        except duckdb.IOException as error:
            raise OSError(str(error)) from error

    def close(self) -> None:
        """Write everything and close the file; the next use opens it again.

        A database in memory stays open, so that it can be read after the server has stopped.
        """
        with self._lock:
            if self._database is None:
                return
            self._flush()
            if self._path is not None:
                self._database.close()
                self._database = None

    def _open(self) -> Database:
        if self._database is None:
            self._database = Database(self._path)
            connection = self._database.connection
            found = connection.execute("select coalesce(max(seq), 0) from events").fetchall()
            self._seq = found[0][0]
            pairs = connection.execute("select alias, distinct_id from aliases").fetchall()
            self._aliases = dict(pairs)
        return self._database

    def _run(self, sql: str, values: Sequence[Any] = ()) -> None:
        with self._lock:
            self._open().connection.execute(sql, values)

    def _read(self, sql: str, values: Mapping[str, Any] | None = None) -> list[tuple[Any, ...]]:
        with self._lock:
            connection = self._open().connection
            self._flush()
            return connection.execute(sql, values or {}).fetchall()

    def query(self, sql: str, values: Mapping[str, Any]) -> list[tuple[Any, ...]]:
        """Run a query on a connection of its own, concurrently with other readers.

        :raises ValueError: with DuckDB's message, if values have the wrong type for the SQL.
        """
        with self._lock:
            database = self._open()
            self._flush()
            cursor = database.cursor()
        with cursor:
            try:
                return cursor.execute(sql, values).fetchall()
            except duckdb.Error as error:
                raise ValueError(str(error).partition(": ")[2].partition("\n")[0]) from error

    def _flush(self) -> None:
        for table in KEYS:
            self._flush_profiles(table)
        if not self._pending:
            return
        self._run(
            "insert into events by name select unnest(?::bigint[]) as seq,"
            " unnest(?::varchar[]) as event, unnest(?::bigint[]) as time,"
            " unnest(?::varchar[]) as distinct_id, unnest(?::varchar[]) as insert_id,"
            " unnest(?::varchar[]) as sent_fields, unnest(?::varchar[]) as properties,"
            " unnest(?::varchar[]) as raw, unnest(?::bigint[]) as ingested_at",
            _columns(self._pending),
        )
        self._pending.clear()

    def _owner(self, update: Update) -> Key:
        first, *more = update.key
        if more or update.ignore_alias:
            return update.key
        return (self.canonical(first),)

    def _profiles(self, table: str, keys: Iterable[Key]) -> dict[Key, Profile]:
        changed = self._changed[table]
        known = {key: changed[key] for key in keys if key in changed}
        if missing := [key for key in keys if key not in changed]:
            width = len(KEYS[table])
            columns = f"{', '.join(KEYS[table])}, properties, last_seen"
            sql = f"select {columns} from {table} where {_keys_match(table)}"
            for row in self._open().connection.execute(sql, _columns(missing)).fetchall():
                known[row[:width]] = (from_json(row[width]), row[width + 1])
        return known

    def _flush_profiles(self, table: str) -> None:
        profiles = self._changed[table]
        if not profiles:
            return
        kept = [
            (*key, json_text(properties), seen)
            for key, (properties, seen) in profiles.items()
            if properties is not None
        ]
        self._run("begin")
        self._run(f"delete from {table} where {_keys_match(table)}", _columns(profiles))
        if kept:
            keys = "unnest(?::varchar[]), " * len(KEYS[table])
            self._run(
                f"insert into {table} select {keys} unnest(?::varchar[]), unnest(?::bigint[])",
                _columns(kept),
            )
        self._run("commit")
        profiles.clear()

    def _merge_profiles(self, alias: str, root: str) -> None:
        found = self._profiles("profiles", [(alias,), (root,)])
        properties, _ = found.get((alias,), (None, None))
        kept, seen = found.get((root,), (None, None))
        if properties is not None:
            changed = self._changed["profiles"]
            # None deletes the row when the changes are written.
            changed[(alias,)] = (None, None)
            changed[(root,)] = ({**properties, **(kept or {})}, seen)


def _event(
    event: str, distinct_id: str | None, insert_id: str | None, sent_fields: str, rest: str
) -> dict[str, Any]:
    properties = {**from_json(sent_fields), "distinct_id": distinct_id, "$insert_id": insert_id}
    present = {name: value for name, value in properties.items() if value is not None}
    return {"event": event, "properties": {**present, **loads(rest)}}


def _keys_match(table: str) -> str:
    columns = KEYS[table]
    wanted = ", ".join(f"unnest(?::varchar[]) as {column}" for column in columns)
    return f"exists (from (select {wanted}) as wanted where {_equal(table)})"


def _equal(table: str) -> str:
    return " and ".join(f"wanted.{column} = {table}.{column}" for column in KEYS[table])


def _columns(rows: Iterable[tuple[Any, ...]]) -> list[list[Any]]:
    return [list(column) for column in zip(*rows, strict=True)]
