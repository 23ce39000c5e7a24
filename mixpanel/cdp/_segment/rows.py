"""Make messages of flat rows, as of a CSV file, a table or a DataFrame; and give old ones an id.

A backfill may be run twice, or go on in the middle. So a message's id has to be the same whenever
its row is: it is made of the content, unless the row has one of its own.
"""

from __future__ import annotations

import hashlib
import re
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

from mixpanel._records.record import mapping
from mixpanel.cdp._segment.dialect import KINDS
from mixpanel.cdp._segment.values import dumps
from mixpanel.exceptions import ConfigurationError, ValidationError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mixpanel.cdp._segment.dialect import Kind

__all__ = ["COLUMNS", "FlatRows", "dated", "identified"]

# What a column may hold, by the argument of the call: its name on the wire, and the usual names of
# such columns, in small letters without anything between them.
COLUMNS: Final[Mapping[str, tuple[str, tuple[str, ...]]]] = {
    "user_id": ("userId", ("userid",)),
    "anonymous_id": ("anonymousId", ("anonymousid",)),
    "timestamp": ("timestamp", ("timestamp", "originaltimestamp", "time", "eventtime")),
    "message_id": ("messageId", ("messageid",)),
    "context": ("context", ("context",)),
    "integrations": ("integrations", ("integrations",)),
    "event": ("event", ("event", "eventname")),
    "group_id": ("groupId", ("groupid",)),
    "previous_id": ("previousId", ("previousid",)),
    "name": ("name", ("name",)),
    "category": ("category", ("category",)),
}
_ANY: Final = ("user_id", "anonymous_id", "timestamp", "message_id", "context", "integrations")
_OF_KIND: Final[Mapping[Kind, tuple[str, ...]]] = {
    "identify": _ANY,
    "track": (*_ANY, "event", "group_id"),
    "page": (*_ANY, "name", "category"),
    "screen": (*_ANY, "name", "category"),
    "group": (*_ANY, "group_id"),
    "alias": (*(role for role in _ANY if role != "anonymous_id"), "previous_id"),
}
_NEEDED: Final[Mapping[Kind, tuple[str, ...]]] = {
    "identify": (),
    "track": ("event", "timestamp"),
    "page": ("timestamp",),
    "screen": ("timestamp",),
    "group": ("group_id",),
    "alias": ("previous_id", "user_id"),
}
_REST: Final[Mapping[Kind, str]] = {"identify": "traits", "group": "traits"}
_SECONDS: Final = re.compile(r"\d{9,}(\.\d+)?")  # a shorter number may be a date, as 20260131
_BETWEEN: Final = re.compile(r"[^a-z0-9]")


class FlatRows:
    """Know what the columns of flat rows mean, for messages of one kind.

    :param event: one name for every `track`, when no column holds it.
    :param columns: which column holds what, as in `{"user_id": "customer"}`; "" says that none
        does. What is not named is looked for under its usual names, `user_id` as well as `userId`
        or `User ID`. All other columns become properties, of `identify` and `group` traits.
    :raises ConfigurationError: for an unknown kind, or a name that this kind does not have.
    """

    def __init__(
        self,
        kind: Kind,
        event: str | None = None,
        columns: Mapping[str, str] | None = None,
    ) -> None:
        if kind not in KINDS:
            known = ", ".join(map(repr, KINDS))
            raise ConfigurationError(f"kind={kind!r} must be one of {known}")
        if event is not None and kind != "track":
            raise ConfigurationError(f"event={event!r} is for kind='track', not for {kind!r}")
        self.kind: Kind = kind
        self._event = event
        self._columns = dict(mapping(columns or {}, "columns"))
        strange = self._columns.keys() - _OF_KIND[kind]
        if strange:
            known = ", ".join(_OF_KIND[kind])
            told = ", ".join(sorted(map(repr, strange)))
            raise ConfigurationError(f"columns has no {told} for {kind}; there are {known}")
        named = [column for column in self._columns.values() if column]
        if len(set(named)) < len(named):
            raise ConfigurationError(f"columns={self._columns} gives one column two meanings")
        self._first = True
        self.roles = lru_cache(maxsize=1000)(self._roles)

    def message(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """Return a row as a message of the wire's shape; empty cells are left out.

        :raises ConfigurationError: from the first row, when a column is missing.
        :raises ValidationError: for a row that is none, or that has more than this kind holds.
        """
        given = mapping(row, "a row")
        roles = self.roles(tuple(given))
        told: dict[str, Any] = {"type": self.kind}
        rest: dict[str, Any] = {}
        for name, value in given.items():
            where = roles.get(name)
            if _is_empty(value) or (where is not None and value == ""):
                continue
            if where is not None:
                told[where] = _moment(value) if where == "timestamp" else value
            elif name is None:
                raise ValidationError(["the row has more cells than the table has columns"])
            elif str(name) in rest:
                raise ValidationError([f"two columns are named {str(name)!r}"])
            else:
                rest[str(name)] = value
        if self._event is not None:
            told["event"] = self._event
        if rest and self.kind == "alias":
            names = ", ".join(map(repr, rest))
            raise ValidationError([f"an alias has no properties, so {names} has no place in it"])
        if rest:
            told[_REST.get(self.kind, "properties")] = rest
        return told

    def looks_for(self, names: tuple[str, ...]) -> dict[str, str]:
        """Return which of these columns hold what: `{"customer": "user_id"}`."""
        texts = [name for name in reversed(names) if isinstance(name, str)]
        usual = {_BETWEEN.sub("", name.lower()): name for name in texts}
        found = {}
        for role in _OF_KIND[self.kind]:
            column = self._columns.get(role)
            if column is None:
                column = next((usual[one] for one in COLUMNS[role][1] if one in usual), "")
            if column and column in names and not (role == "event" and self._event is not None):
                found[column] = role
        return found

    def checked(self, names: tuple[str, ...]) -> dict[str, str]:
        """Do as `looks_for`, for a table whose rows all have these columns.

        :raises ConfigurationError: when a column is missing.
        """
        found = self.looks_for(names)
        self._refuse_missing(names, set(found.values()))
        return found

    def _roles(self, names: tuple[str, ...]) -> dict[str, str]:
        # Rows may have names of their own: only the first may say that all are wrong.
        first, self._first = self._first, self._first and not names
        found = self.checked(names) if first and names else self.looks_for(names)
        return {column: COLUMNS[role][0] for column, role in found.items()}

    def _refuse_missing(self, names: tuple[str, ...], found: set[str]) -> None:
        has = f"the rows have {', '.join(map(repr, names)) or 'none'}"
        for role, column in self._columns.items():
            if column and column not in names:
                raise ConfigurationError(f"there is no column {column!r} for {role}; {has}")
        for role in _NEEDED[self.kind]:
            if role not in found and not (role == "event" and self._event is not None):
                hint = "name it with columns={" + f"{role!r}: …" + "}"
                hint += ", or give event=" if role == "event" else ""
                raise ConfigurationError(f"{self.kind} needs a column for {role}; {has}: {hint}")


def _moment(value: Any) -> Any:
    """Return seconds that are written as text as a number; anything else as it is."""
    return float(value) if isinstance(value, str) and _SECONDS.fullmatch(value.strip()) else value


def _is_empty(value: Any) -> bool:
    """Tell whether a cell is None, NaN, NaT, or pandas' NA, which answers no comparison."""
    if value is None:
        return True
    try:
        return bool(value != value)  # noqa: PLR0124
    except (TypeError, ValueError):
        return type(value).__name__ == "NAType"


def identified(message: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a message with an id made of its content, if it has none of its own."""
    if message.get("messageId") is not None:
        return message
    content, _ = dumps(dict(message))
    return {**message, "messageId": hashlib.sha256(content).hexdigest()[:36]}


def dated(message: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a message that says when it happened.

    :raises ValidationError: for what was done or seen at no time: it would be dated today.
    """
    if message.get("type") in ("track", "page", "screen") and all(
        message.get(name) is None for name in ("timestamp", "originalTimestamp")
    ):
        raise ValidationError(["a message of the past needs its timestamp"])
    return message
