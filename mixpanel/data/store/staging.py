"""What waits beside a table until all of it is there, and takes its place in one transaction."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Literal
from weakref import WeakValueDictionary

from mixpanel.data.exceptions import ConfigError, TableExistsError
from mixpanel.data.store import fetch_log
from mixpanel.data.store.engine import reported, transaction
from mixpanel.data.store.quoting import quoted

if TYPE_CHECKING:
    from collections.abc import Hashable
    from datetime import date
    from pathlib import Path

    from duckdb import DuckDBPyConnection

    from mixpanel.data._fetch.plan import Filters
    from mixpanel.data.store.fetch_log import Table

__all__ = ["STAGE", "Loaded", "Mode", "Staging", "refuse_under_way"]

Mode = Literal["new", "replace", "append", "sync"]

STAGE = "_stage_"

# The loads under way in this process, by database and table; one that nobody holds has ended.
_under_way: WeakValueDictionary[Hashable, Staging] = WeakValueDictionary()
_turn = threading.Lock()


def refuse_under_way(database: Hashable, name: str) -> None:
    """Refuse what a load into this table would be disturbed by.

    :raises ConfigError: while there is one.
    """
    if (database, name.lower()) in _under_way:
        raise ConfigError(f"a fetch into {name} is under way: wait for its end, or stop it")


@dataclass(frozen=True, slots=True)
class Loaded:
    """What a load left in the table; `merged` counts copies that this process dropped."""

    rows: int
    merged: int
    from_date: date | None
    to_date: date | None


class Staging:
    """A load that has begun: what was loaded so far, and the table that it is for.

    Until it is finished, abandoned or stopped, no other load of this process gets that table.
    """

    def __init__(
        self,
        connection: DuckDBPyConnection,
        name: str,
        filters: Filters,
        mode: Mode,
        now: datetime | None,
        database: Hashable,
        exchange: Path,
        unreadable: Path,
    ) -> None:
        self.name: str = name
        self.mode: Mode = mode
        self.key: str = f"{name}-{mode}-{filters.key()}"
        self._connection = connection
        self._filters = filters.to_json()
        self._now = now
        self._exchange, self._unreadable = exchange, unreadable
        self._stage, self._table = quoted(STAGE + name), quoted(name)
        self._place = (database, name.lower())
        with _turn:
            refuse_under_way(database, name)
            _under_way[self._place] = self

    def abandon(self) -> None:
        """Drop what is staged; the table stays as it is."""
        try:
            with reported(), transaction(self._connection):
                self._discard()
        finally:
            self.stop()

    def stop(self) -> None:
        """End here: what is staged waits for the next load of this name, filters and mode."""
        with _turn:
            if _under_way.get(self._place) is self:
                del _under_way[self._place]

    def _hold(self) -> None:
        # Two loads with one staging table would mix what they load.
        if _under_way.get(self._place) is not self:
            raise ConfigError(f"this load into {self.name} has ended: begin another")

    def _moment(self) -> datetime:
        return self._now or datetime.now(UTC)

    def _discard(self) -> None:
        self._connection.execute(f"DROP TABLE IF EXISTS {self._stage}")
        fetch_log.forget(self._connection, self.name, "staged")

    def _swap(self, known: Table | None) -> None:
        # Somebody may have made a table of that name since this load began.
        taken = self._connection.execute(
            "SELECT 1 FROM information_schema.tables WHERE table_schema = 'main' "
            "AND table_catalog = current_database() AND lower(table_name) = lower(?)",
            [self.name],
        ).fetchone()
        if taken and (known is None or self.mode == "new"):
            raise TableExistsError(self.name)
        fetch_log.forget(self._connection, self.name, "done")
        self._connection.execute(f"DROP TABLE IF EXISTS {self._table}")
        self._connection.execute(f"ALTER TABLE {self._stage} RENAME TO {self._table}")
