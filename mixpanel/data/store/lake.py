"""Write a table as one Parquet file per day, and later only the days that have changed.

The metadata of each file has a fingerprint of the rows of its day, so no separate record of them is
needed: a day is rewritten unless its folder has exactly one file, with the same fingerprint.
"""

from __future__ import annotations

import hashlib
import re
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import quote
from uuid import uuid4

from mixpanel.data.exceptions import ConfigError
from mixpanel.data.results import ParquetSync
from mixpanel.data.store.engine import load_duckdb
from mixpanel.data.store.quoting import literal, quoted
from mixpanel.data.store.rows import copy_bytes

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from duckdb import DuckDBPyConnection

    from mixpanel.data.store.export_targets import Target

__all__ = ["Lake"]

PARQUET = "FORMAT parquet, COMPRESSION zstd"
NO_DAY = "__HIVE_DEFAULT_PARTITION__"  # of rows without a time, in Hive's layout
KEY = "mixpanel_export"
# In the footer, keys and values follow their lengths. The last match counts: statistics, which have
# bytes of the data, precede the metadata.
_FINGERPRINT = re.compile(KEY.encode() + rb".{1,4}?([0-9a-f]{32})", re.DOTALL)
_RANGED = re.compile(r"DATE|TIMESTAMP(_S|_MS|_NS| WITH TIME ZONE)?")
# Days for which a range can be computed, whatever the type of the time.
_FIRST_RANGED, _LAST_RANGED = "1678-01-01", "2261-12-31"
_DAY_NS = 86_400_000_000_000
# Types whose values have different hashes if they differ.
_HASHED_TYPES = re.compile(
    r"U?(TINY|SMALL|BIG|HUGE)?INT(EGER)?|DECIMAL\(.*\)|BOOLEAN|UUID|VARCHAR|JSON|BLOB|BIT|ENUM\(.*\)"
    r"|DATE|TIME(_NS| WITH TIME ZONE)?|TIMESTAMP(_S|_MS|_NS| WITH TIME ZONE)?",
    re.DOTALL,
)
_NESTED = re.compile(r".*\[\d*\]", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Day:
    """A day of a table; `text` is None for rows without a time."""

    text: str | None
    fingerprint: str

    @property
    def folder(self) -> str:
        return f"day={NO_DAY if self.text is None else quote(self.text, safe='')}"


class Lake:
    """The rows of a source by day.

    :param columns: expressions with their names, as in `SELECT`.
    :param time: the expression of the time, and its type.
    :param is_query: True if reading the source may be slow; it is then read only once.
    """

    def __init__(
        self,
        connection: DuckDBPyConnection,
        exchange: Path,
        source: str,
        columns: Sequence[tuple[str, str, str]],
        time: tuple[str, str],
        *,
        is_query: bool,
    ) -> None:
        self._connection, self._exchange = connection, exchange
        self._source, self._columns = source, columns
        self._time, self._is_query = time, is_query

    def write(self, target: Target) -> list[str]:
        """Write all days, replacing what the target has; return the files."""
        with self._snapshot() as days:
            files = ((self._new_name(day), self._bytes(day)) for day in days)
            return target.write_folder(files)

    def sync(self, target: Target) -> ParquetSync:
        """Write the days that have changed, and remove those that the source no longer has."""
        existing = target.files()
        written, kept, paths = [], [], []
        with self._snapshot() as days:
            for day in days:
                files = existing.pop(day.folder, [])
                if len(files) == 1 and self._has(target, files[0], day.fingerprint):
                    kept.append(day)
                    continue
                # A file keeps its name, so that readers find either its old rows or the new ones.
                name = files[0] if len(files) == 1 else self._new_name(day)
                paths.append(target.replace(name, self._bytes(day)))
                target.remove(files[1:] if name in files else files)
                written.append(day)
        target.remove(name for files in existing.values() for name in files)
        return ParquetSync(
            written=tuple(day.text for day in written),
            kept=len(kept),
            removed=tuple(folder.partition("=")[2] for folder in sorted(existing)),
            paths=tuple(paths),
        )

    @contextmanager
    def _snapshot(self) -> Iterator[list[Day]]:
        """Yield the days; within the block, all statements see the same rows."""
        connection, name = self._connection, f"_export_{uuid4().hex}"
        connection.execute("BEGIN TRANSACTION")
        try:
            if self._is_query:
                listed = ", ".join(f"{sql} AS {quoted(title)}" for title, sql, _ in self._columns)
                connection.execute(
                    f"CREATE TEMP TABLE {name} AS SELECT {self._time[0]} AS _time, "
                    f"{listed} FROM {self._source}"
                )
                self._source, self._time = name, ("_time", self._time[1])
                self._columns = [(title, quoted(title), type_) for title, _, type_ in self._columns]
            yield self._days()
        finally:
            with suppress(load_duckdb().Error):
                connection.execute("ROLLBACK")

    def _days(self) -> list[Day]:
        values = ", ".join(_hashed(sql, type_) for _, sql, type_ in self._columns)
        rows = self._connection.execute(
            "SELECT CAST(day AS VARCHAR), count(*), bit_xor(value), sum(value) FROM ("
            f"SELECT {_day_of(*self._time)} AS day, hash({values}) AS value "
            f"FROM {self._source}) GROUP BY day ORDER BY day"
        ).fetchall()
        layout = [(title, type_) for title, _, type_ in self._columns]
        return [
            Day(day, hashlib.sha256(repr((PARQUET, layout, *sums)).encode()).hexdigest()[:32])
            for day, *sums in rows
        ]

    def _bytes(self, day: Day) -> Iterator[bytes]:
        time, type_ = self._time
        if day.text is None:
            condition = f"{time} IS NULL"
        else:
            # A range lets DuckDB skip row groups; the first and last days of a type have none.
            condition = f"CAST({_day_of(time, type_)} AS VARCHAR) = {literal(day.text)}"
            is_common = len(day.text) == len(_FIRST_RANGED)
            if _RANGED.fullmatch(type_) and is_common and _FIRST_RANGED <= day.text <= _LAST_RANGED:
                date = f"DATE {literal(day.text)}"
                condition = f"{time} >= {date} AND {time} < {date} + 1"
        listed = ", ".join(f"{sql} AS {quoted(title)}" for title, sql, _ in self._columns)
        statement = f"SELECT {listed} FROM {self._source} WHERE {condition}"
        options = f"{PARQUET}, KV_METADATA {{{KEY}: {literal(day.fingerprint)}}}"
        return copy_bytes(self._connection, statement, options, self._exchange)

    def _new_name(self, day: Day) -> str:
        return f"{day.folder}/part-{uuid4().hex}-0.parquet"

    def _has(self, target: Target, name: str, fingerprint: str) -> bool:
        footer = target.footer(name)
        found = _FINGERPRINT.findall(footer) if footer.endswith(b"PAR1") else []
        return bool(found) and found[-1].decode() == fingerprint


def _day_of(time: str, type_: str) -> str:
    """Return the expression of the day of a time."""
    if type_ != "TIMESTAMP_NS":
        return f"CAST({time} AS DATE)"
    # The cast rounds to microseconds first, so that the last of a day would be in the next.
    days = f"epoch_ns({time}) // {_DAY_NS} - CAST(epoch_ns({time}) % {_DAY_NS} < 0 AS BIGINT)"
    return (
        f"CASE WHEN isfinite({time}) THEN DATE '1970-01-01' + CAST({days} AS INTEGER) "
        f"ELSE CAST({time} AS DATE) END"
    )


def _hashed(sql: str, type_: str) -> str:
    """Return what to hash of a column, so that values that differ have different hashes.

    DuckDB's hash is the same for 0.0 and -0.0, a month and 30 days, and an empty list and NULL.
    """
    if type_ in ("DOUBLE", "FLOAT"):
        return f"{sql}, signbit({sql})"
    if _HASHED_TYPES.fullmatch(type_) and not _NESTED.fullmatch(type_):
        return sql
    return f"{sql}, CAST({sql} AS VARCHAR)"


def time_of(
    columns: Sequence[tuple[str, str, str]], source: str, partition: str
) -> tuple[str, str]:
    """Return the expression and type of the column `event_time`.

    :raises ConfigError: if there is none.
    """
    found = [(sql, type_) for title, sql, type_ in columns if title == "event_time"]
    if partition != "day" or not found:
        raise ConfigError(
            f"{source} cannot be partitioned by {partition!r}: only tables with a column "
            "event_time can be, by 'day'; partition_by=None writes one file"
        )
    return found[0]
