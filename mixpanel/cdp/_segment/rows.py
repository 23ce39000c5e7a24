"""Turn flat rows, as of a CSV file, a table or a DataFrame, into messages with stable ids.

A backfill may be repeated or resumed. So that servers can de-duplicate, the id of a message is a
hash of its content, unless the row has an id of its own.
"""

from __future__ import annotations

import hashlib
import re
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

from mixpanel._records.failed_rows import FailedRecord
from mixpanel._records.record import checked_mapping
from mixpanel._records.values import is_missing
from mixpanel.cdp._segment.message import KINDS
from mixpanel.cdp._segment.values import dumps
from mixpanel.exceptions import ConfigurationError, ValidationError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mixpanel.cdp._segment.message import Kind

__all__ = ["COLUMNS", "FlatRows", "is_failed_message", "require_timestamp", "with_message_id"]

# By argument: the field of the message, and the usual names of such a column, in lower case without
# separators.
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
_COMMON: Final = ("user_id", "anonymous_id", "timestamp", "message_id", "context", "integrations")
_ROLES: Final[Mapping[Kind, tuple[str, ...]]] = {
    "identify": _COMMON,
    "track": (*_COMMON, "event", "group_id"),
    "page": (*_COMMON, "name", "category"),
    "screen": (*_COMMON, "name", "category"),
    "group": (*_COMMON, "group_id"),
    "alias": (*(role for role in _COMMON if role != "anonymous_id"), "previous_id"),
}
_REQUIRED: Final[Mapping[Kind, tuple[str, ...]]] = {
    "identify": (),
    "track": ("event", "timestamp"),
    "page": ("timestamp",),
    "screen": ("timestamp",),
    "group": ("group_id",),
    "alias": ("previous_id", "user_id"),
}
_REST_FIELD: Final[Mapping[Kind, str]] = {"identify": "traits", "group": "traits"}
_MESSAGE_FIELDS: Final = {field for field, _ in COLUMNS.values()} | {
    "type", "properties", "traits", "originalTimestamp", "sentAt", "receivedAt", "version",
    "_metadata", "channel",
}  # fmt: skip
_SECONDS: Final = re.compile(r"\d{9,}(\.\d+)?")  # a shorter number may be a date, such as 20260131
_SEPARATORS: Final = re.compile(r"[^a-z0-9]")


class FlatRows:
    """The mapping from columns to fields, for messages of one kind.

    :param event: the event name for all rows, instead of a column.
    :param columns: the column of each argument, `{"user_id": "customer"}`; "" for none. Arguments
        that are not listed are found by their usual names: `user_id`, `userId` or `User ID`. All
        other columns become properties, or traits in `identify` and `group` messages.
    :raises ConfigurationError: for an unknown kind, or an argument that this kind does not have.
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
        self._columns = dict(checked_mapping(columns or {}, "columns"))
        unknown = self._columns.keys() - _ROLES[kind]
        if unknown:
            known = ", ".join(_ROLES[kind])
            names = ", ".join(sorted(map(repr, unknown)))
            raise ConfigurationError(f"columns has unknown keys {names} for {kind}; use {known}")
        named = [column for column in self._columns.values() if column]
        if len(set(named)) < len(named):
            raise ConfigurationError(f"columns={self._columns} uses one column for two arguments")
        self._first = True
        # Cached by the names of the columns, which are the same for nearly all rows.
        self.column_fields = lru_cache(maxsize=1000)(self._column_fields)

    def message(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """Return the message of a row, as a dict of the spec, without empty cells.

        :raises ConfigurationError: from the first row, if a column is missing.
        :raises ValidationError: if the row is not a mapping, or has cells that this kind of message
            cannot hold.
        """
        cells = checked_mapping(row, "a row")
        column_fields = self.column_fields(tuple(cells))
        message: dict[str, Any] = {"type": self.kind}
        rest: dict[str, Any] = {}
        for name, value in cells.items():
            field = column_fields.get(name)
            if is_missing(value) or (field is not None and value == ""):
                continue
            if field is not None:
                message[field] = _numeric_timestamp(value) if field == "timestamp" else value
            elif name is None:  # where `csv.DictReader` puts surplus cells
                raise ValidationError(["the row has more cells than the table has columns"])
            elif str(name) in rest:
                raise ValidationError([f"two columns are named {str(name)!r}"])
            else:
                rest[str(name)] = value
        if self._event is not None:
            message["event"] = self._event
        if rest and self.kind == "alias":
            names = ", ".join(map(repr, rest))
            raise ValidationError([f"an alias message has no properties: remove {names}"])
        if rest:
            message[_REST_FIELD.get(self.kind, "properties")] = rest
        return message

    def match_columns(self, names: tuple[str, ...]) -> dict[str, str]:
        """Return the arguments that these columns hold: `{"customer": "user_id"}`."""
        texts = [name for name in reversed(names) if isinstance(name, str)]
        usual = {_SEPARATORS.sub("", name.lower()): name for name in texts}
        found = {}
        for role in _ROLES[self.kind]:
            column = self._columns.get(role)
            if column is None:
                column = next((usual[one] for one in COLUMNS[role][1] if one in usual), "")
            if column and column in names and not (role == "event" and self._event is not None):
                found[column] = role
        return found

    def require_columns(self, names: tuple[str, ...]) -> dict[str, str]:
        """Return `match_columns(names)`, for a table whose rows all have these columns.

        :raises ConfigurationError: if a required column is missing.
        """
        found = self.match_columns(names)
        self._require_columns(names, set(found.values()))
        return found

    def _column_fields(self, names: tuple[str, ...]) -> dict[str, str]:
        # Rows may differ in their columns: a missing column is a configuration error only in the
        # first one, and later an invalid row.
        first, self._first = self._first, self._first and not names
        found = self.require_columns(names) if first and names else self.match_columns(names)
        return {column: COLUMNS[role][0] for column, role in found.items()}

    def _require_columns(self, names: tuple[str, ...], found: set[str]) -> None:
        has = f"the rows have {', '.join(map(repr, names)) or 'none'}"
        for role, column in self._columns.items():
            if column and column not in names:
                raise ConfigurationError(f"there is no column {column!r} for {role}; {has}")
        for role in _REQUIRED[self.kind]:
            if role not in found and not (role == "event" and self._event is not None):
                hint = "name it with columns={" + f"{role!r}: …" + "}"
                hint += ", or give event=" if role == "event" else ""
                raise ConfigurationError(f"{self.kind} needs a column for {role}; {has}: {hint}")


def is_failed_message(row: Any, kind: Kind) -> bool:
    """Return True if a failed record is a message already, and not a row of a table."""
    if not isinstance(row, FailedRecord) or row.get("type") != kind:
        return False
    rest = (row.get(name, {}) for name in ("properties", "traits"))
    return row.keys() <= _MESSAGE_FIELDS and all(isinstance(each, dict) for each in rest)


def _numeric_timestamp(value: Any) -> Any:
    """Return text that holds seconds or milliseconds as a number; anything else unchanged."""
    return float(value) if isinstance(value, str) and _SECONDS.fullmatch(value.strip()) else value


def with_message_id(message: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a message with a hash of its content as id, if it has no id of its own."""
    if message.get("messageId") is not None:
        return message
    content, _ = dumps(dict(message))
    return {**message, "messageId": hashlib.sha256(content).hexdigest()[:36]}


def require_timestamp(message: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the message if it has a timestamp or needs none.

    :raises ValidationError: for an event or a view without one, which would be dated today.
    """
    if message.get("type") in ("track", "page", "screen") and all(
        is_missing(message.get(name)) for name in ("timestamp", "originalTimestamp")
    ):
        raise ValidationError(["a message in a backfill needs a timestamp"])
    return message
