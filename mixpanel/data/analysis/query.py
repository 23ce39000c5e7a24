"""A report as SQL: the statement, its parameters, and the function that reads its rows."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from mixpanel.data.query_results import QueryResult

__all__ = ["Query"]

R = TypeVar("R", bound="QueryResult")
_PARAMETER = re.compile(r"\$([A-Za-z_]\w*)")


@dataclass(frozen=True, slots=True)
class Query(Generic[R]):
    """A report: run `statement` with `parameters` on DuckDB, and pass the rows to `read`.

    `events` are the names of its events. `sql` is the statement with its parameters as literals,
    to be shown or run by hand.
    """

    statement: str
    parameters: dict[str, Any]
    read: Callable[[Sequence[tuple[Any, ...]]], R] = field(compare=False, repr=False)
    events: tuple[str, ...] = ()

    @property
    def sql(self) -> str:
        """The statement with its parameters as literals."""
        return _PARAMETER.sub(self._written, self.statement)

    def _written(self, found: re.Match[str]) -> str:
        if found[1] not in self.parameters:
            return found[0]
        return _literal(self.parameters[found[1]])


def _literal(value: Any) -> str:
    if isinstance(value, datetime):
        return f"TIMESTAMP '{value.isoformat(sep=' ')}'"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(map(_literal, value)) + "]"
    if isinstance(value, (bool, int)) or (isinstance(value, float) and math.isfinite(value)):
        return repr(value).lower()
    parts = str(value).replace("'", "''").split("\x00")
    if len(parts) == 1:
        return f"'{parts[0]}'"
    return (
        "(" + " || chr(0) || ".join(f"'{part}'" for part in parts) + ")"
    )  # SQL text cannot contain NUL
