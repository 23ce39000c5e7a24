"""What waits beside a table until all of it is there, and takes its place in one transaction."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Literal

from mixpanel.data.exceptions import TableExistsError
from mixpanel.data.store import ledger
from mixpanel.data.store.engine import reported, transaction
from mixpanel.data.store.names import quoted

if TYPE_CHECKING:
    from datetime import date

    from duckdb import DuckDBPyConnection

    from mixpanel.data.plan import Filters
    from mixpanel.data.store.ledger import Table

Mode = Literal["new", "replace", "append", "sync"]

STAGE = "_stage_"


@dataclass(frozen=True, slots=True)
class Loaded:
    """What a load left in the table; `merged` counts copies that this process dropped."""

    rows: int
    merged: int
    from_date: date | None
    to_date: date | None


class Staging:
    """A load that has begun: what was loaded so far, and the table that it is for."""

    def __init__(
        self,
        connection: DuckDBPyConnection,
        name: str,
        filters: Filters,
        mode: Mode,
        now: datetime | None,
    ) -> None:
        self.name, self.mode = name, mode
        self.key = f"{name}-{mode}-{filters.key()}"
        self._connection = connection
        self._filters = filters.to_json()
        self._now = now
        self._stage, self._table = quoted(STAGE + name), quoted(name)

    def abandon(self) -> None:
        """Drop what is staged; the table stays as it is."""
        with reported(), transaction(self._connection):
            self._discard()

    def _moment(self) -> datetime:
        return self._now or datetime.now(UTC)

    def _discard(self) -> None:
        self._connection.execute(f"DROP TABLE IF EXISTS {self._stage}")
        ledger.forget(self._connection, self.name, "staged")

    def _swap(self, known: Table | None) -> None:
        if known is not None and self.mode == "new":
            raise TableExistsError(self.name)
        ledger.forget(self._connection, self.name, "done")
        self._connection.execute(f"DROP TABLE IF EXISTS {self._table}")
        self._connection.execute(f"ALTER TABLE {self._stage} RENAME TO {self._table}")
