"""Store what was ingested in DuckDB: events, profiles, groups, aliases and lookup tables.

The only room of the emulator that knows DuckDB. Every method may be called from any thread.
"""

import threading
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import duckdb
from pydantic_core import from_json

from mixpanel.emulator.ingest import Event, json_text
from mixpanel.emulator.profiles import Properties, Update, apply_update

# DuckDB takes whole columns gladly and single rows dearly, so what comes in waits here for company:
# until somebody reads, or until there is this much.
PENDING = 5_000

Key = tuple[str, ...]
Profile = tuple[Properties | None, int | None]  # None: deleted; and when it was last seen

SCHEMA = """
create table if not exists events (
    seq bigint, event varchar, time bigint, distinct_id varchar, insert_id varchar,
    properties json, ingested_at bigint
);
create table if not exists profiles (
    distinct_id varchar, properties json, last_seen bigint
);
create table if not exists groups (
    group_key varchar, group_id varchar, properties json, last_seen bigint
);
create table if not exists aliases (alias varchar, distinct_id varchar);
create table if not exists lookup_tables (id varchar, name varchar, rows json);
"""
TABLES = ("events", "profiles", "groups", "aliases", "lookup_tables")
KEYS = {"profiles": ("distinct_id",), "groups": ("group_key", "group_id")}


class Warehouse:
    """One project's data, in memory or in a DuckDB file that is kept."""

    def __init__(self, path: str | Path | None = None) -> None:
        self._path = None if path is None else str(path)
        self._lock = threading.RLock()
        self._connection: duckdb.DuckDBPyConnection | None = None
        self._pending: list[tuple[int, Event, int]] = []
        self._changed: dict[str, dict[Key, Profile]] = {table: {} for table in KEYS}
        self._aliases: dict[str, str] = {}
        self._seq = 0

    # Events

    def add_events(self, events: Iterable[Event], *, now: float) -> None:
        """Store events, each copy of each of them."""
        with self._lock:
            self._open()
            ingested_at = round(now * 1000)
            for event in events:
                self._seq += 1
                self._pending.append((self._seq, event, ingested_at))
            if len(self._pending) >= PENDING:
                self._settle()

    def events(
        self, name: str | None = None, *, distinct_id: str | None = None, raw: bool = False
    ) -> list[dict[str, Any]]:
        """Return events in the order of their first arrival.

        Of copies that share the four-part key the latest wins; `raw` returns every copy.
        """
        chosen = (
            "select seq, event, properties from events"
            if raw
            else "select min(seq) as seq, event, arg_max(properties, seq) as properties from events"
        )
        rows = self._read(
            chosen
            + " where event = coalesce($name, event)"
            + " and distinct_id = coalesce($distinct_id, distinct_id)"
            + ("" if raw else " group by event, time, distinct_id, insert_id")
            + " order by seq",
            {"name": name, "distinct_id": distinct_id},
        )
        return [{"event": event, "properties": from_json(text)} for _, event, text in rows]

    def newest(self, limit: int) -> list[tuple[str, int, str, Properties]]:
        """Return the newest event copies: name, time in milliseconds, distinct_id, properties."""
        rows = self._read(
            "select event, time, distinct_id, properties from events"
            " order by seq desc limit $limit",
            {"limit": limit},
        )
        return [(event, time, who, from_json(text)) for event, time, who, text in rows]

    def count(self) -> int:
        """Count the events, each four-part key once."""
        rows = self._read(
            "select count(*) from (select distinct event, time, distinct_id, insert_id from events)"
        )
        return int(rows[0][0])

    def copies(self) -> int:
        """Count the event copies ever stored: cheap, and never less than `count`."""
        with self._lock:
            self._open()
            return self._seq

    def counts(self) -> dict[str, int]:
        """Count the rows of every table, event copies included."""
        return {
            table: self._read(f"select count(*) from {table}")[0][0]  # noqa: S608
            for table in TABLES
        }

    # Profiles

    def apply(self, updates: Sequence[Update], *, groups: bool = False) -> None:
        """Apply profile updates in their order."""
        table = "groups" if groups else "profiles"
        if not updates:
            return
        with self._lock:
            self._open()
            changed = self._changed[table]
            keyed = [(self._owner(update), update) for update in updates]
            profiles = self._profiles(table, {key for key, _ in keyed})
            for key, update in keyed:
                properties, seen = profiles.get(key, (None, None))
                after = apply_update(properties or {}, update)
                profiles[key] = (after, seen if update.seen is None else update.seen)
            changed.update(profiles)
            if len(changed) >= PENDING:
                self._settle()

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
        """Remember which id stands for which user, and join their profiles.

        An alias keeps the user it was first given. Where both profiles have a property, that of the
        user wins over that of the alias (the live service does not document which).
        """
        with self._lock:
            self._open()
            for alias, distinct_id in aliases.items():
                root = self.canonical(distinct_id)
                if alias in self._aliases or alias == root:
                    continue
                self._aliases[alias] = root
                self._run("insert into aliases values (?, ?)", [alias, root])
                self._join(alias, root)

    def canonical(self, distinct_id: str) -> str:
        """Follow aliases to the id they stand for."""
        with self._lock:
            self._open()
            while distinct_id in self._aliases:
                distinct_id = self._aliases[distinct_id]
            return distinct_id

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

    # The database

    def clear(self) -> None:
        """Forget everything."""
        with self._lock:
            self._seq = 0
            self._pending.clear()
            self._aliases.clear()
            for changed in self._changed.values():
                changed.clear()
            for table in TABLES:
                self._run(f"delete from {table}")  # noqa: S608

    def open(self) -> None:
        """Open the database now.

        :raises OSError: when the file is no database, or another process has it.
        """
        try:
            with self._lock:
                self._open()
        except duckdb.IOException as error:
            raise OSError(str(error)) from error

    def close(self) -> None:
        """Write everything and let go of the file; the next use opens it again.

        A database in memory stays, so that it can be read when the server has stopped.
        """
        with self._lock:
            if self._connection is None:
                return
            self._settle()
            if self._path is not None:
                self._connection.close()
                self._connection = None

    def _open(self) -> duckdb.DuckDBPyConnection:
        if self._connection is None:
            self._connection = duckdb.connect(self._path or ":memory:")
            self._connection.execute(SCHEMA)
            found = self._connection.execute("select coalesce(max(seq), 0) from events").fetchall()
            self._seq = found[0][0]
            pairs = self._connection.execute("select alias, distinct_id from aliases").fetchall()
            self._aliases = dict(pairs)
        return self._connection

    def _run(self, sql: str, values: Sequence[Any] = ()) -> None:
        with self._lock:
            self._open().execute(sql, values)

    def _read(self, sql: str, values: Mapping[str, Any] | None = None) -> list[tuple[Any, ...]]:
        with self._lock:
            connection = self._open()
            self._settle()
            return connection.execute(sql, values or {}).fetchall()

    def _settle(self) -> None:
        for table in KEYS:
            self._settle_profiles(table)
        if not self._pending:
            return
        seqs, events, moments = zip(*self._pending, strict=True)
        columns = [seqs, *zip(*events, strict=True), moments]
        self._run(
            "insert into events select unnest(?::bigint[]), unnest(?::varchar[]),"
            " unnest(?::bigint[]), unnest(?::varchar[]), unnest(?::varchar[]),"
            " unnest(?::varchar[]), unnest(?::bigint[])",
            [list(column) for column in columns],
        )
        self._pending.clear()

    def _owner(self, update: Update) -> Key:
        if len(update.key) > 1 or update.ignore_alias:
            return update.key
        return (self.canonical(update.key[0]),)

    def _profiles(self, table: str, keys: Iterable[Key]) -> dict[Key, Profile]:
        changed = self._changed[table]
        known = {key: changed[key] for key in keys if key in changed}
        if asked := [key for key in keys if key not in changed]:
            width = len(KEYS[table])
            columns = f"{', '.join(KEYS[table])}, properties, last_seen"
            sql = f"select {columns} from {table} where {_among(table)}"  # noqa: S608
            for row in self._open().execute(sql, _columns(asked)).fetchall():
                known[row[:width]] = (from_json(row[width]), row[width + 1])
        return known

    def _settle_profiles(self, table: str) -> None:
        profiles = self._changed[table]
        if not profiles:
            return
        kept = [
            (*key, json_text(properties), seen)
            for key, (properties, seen) in profiles.items()
            if properties is not None
        ]
        self._run("begin")
        self._run(f"delete from {table} where {_among(table)}", _columns(profiles))  # noqa: S608
        if kept:
            keys = "unnest(?::varchar[]), " * len(KEYS[table])
            self._run(
                f"insert into {table} select {keys} unnest(?::varchar[]), unnest(?::bigint[])",
                _columns(kept),
            )
        self._run("commit")
        profiles.clear()

    def _join(self, alias: str, root: str) -> None:
        found = self._profiles("profiles", [(alias,), (root,)])
        properties, _ = found.get((alias,), (None, None))
        kept, seen = found.get((root,), (None, None))
        if properties is not None:
            changed = self._changed["profiles"]
            changed[(alias,)] = (None, None)
            changed[(root,)] = ({**properties, **(kept or {})}, seen)


def _among(table: str) -> str:
    columns = KEYS[table]
    wanted = ", ".join(f"unnest(?::varchar[]) as {column}" for column in columns)
    return f"exists (from (select {wanted}) as wanted where {_equal(table)})"


def _equal(table: str) -> str:
    return " and ".join(f"wanted.{column} = {table}.{column}" for column in KEYS[table])


def _columns(rows: Iterable[tuple[Any, ...]]) -> list[list[Any]]:
    return [list(column) for column in zip(*rows, strict=True)]
