"""Validate and apply profile updates: `/engage` for users, `/groups` for groups.

Does no I/O. As at Mixpanel, updates are not de-duplicated: an `$add` that arrives twice adds twice.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from pydantic_core import to_json

from mixpanel.emulator._rules.events import (
    MAX_NAME,
    MAX_RECORD_BYTES,
    InvalidRecord,
    RejectedRecord,
    ValidationResult,
    apply_forced_refusal,
    identifier,
)

OPERATIONS = ("$set", "$set_once", "$add", "$union", "$append", "$remove", "$unset", "$delete")
Properties = dict[str, Any]


class Update(NamedTuple):
    """One operation on one profile. `key` is (distinct_id,) or (group_key, group_id)."""

    key: tuple[str, ...]
    operation: str
    value: Any
    seen: int | None = None
    ignore_alias: bool = False


def validate_updates(
    records: Sequence[Any],
    *,
    groups: bool = False,
    now: float = 0,
    accepts: Callable[[str], bool] = bool,
    refuse: Mapping[int, str] | None = None,
) -> ValidationResult[Update]:
    """Validate one request's profile updates.

    An update has exactly one operation. `$add` and `$append` are not documented for groups, but
    accepted.
    """
    result: ValidationResult[Update] = ValidationResult()
    for index, record in enumerate(records):
        try:
            apply_forced_refusal(index, refuse)
            update = _validate(record, groups, now, accepts)
        except InvalidRecord as refused:
            result.unauthorized += refused.unauthorized
            result.rejected.append(RejectedRecord(index, None, refused.field, refused.message))
        else:
            result.good += 1
            result.accepted.append(update)
    return result


def _validate(record: Any, groups: bool, now: float, accepts: Callable[[str], bool]) -> Update:  # noqa: FBT001
    if not isinstance(record, dict):
        raise InvalidRecord("", "record must be an object")
    token = record.get("$token")
    if not isinstance(token, str) or not accepts(token):
        raise InvalidRecord("$token", "'$token' is missing or invalid", unauthorized=True)
    key = tuple(_key(record, name) for name in (_GROUP if groups else _USER))
    present = [operation for operation in OPERATIONS if operation in record]
    if len(present) != 1:
        raise InvalidRecord("", f"update must have exactly one operation, not {present or 'none'}")
    operation = present[0]
    value = record[operation]
    _check(operation, value)
    if len(to_json(value, inf_nan_mode="null")) > MAX_RECORD_BYTES:
        raise InvalidRecord(operation, f"update is larger than {MAX_RECORD_BYTES} bytes")
    seen = None if record.get("$ignore_time") else round(now * 1000)
    return Update(key, operation, value, seen, bool(record.get("$ignore_alias")))


_USER = ("$distinct_id",)
_GROUP = ("$group_key", "$group_id")


def _key(record: Properties, name: str) -> str:
    value = record.get(name)
    if value is None or value == "":
        raise InvalidRecord(name, f"'{name}' is missing")
    return identifier(value, name)


def _check(operation: str, value: Any) -> None:
    if operation == "$delete":
        return
    if operation == "$unset":
        if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
            raise InvalidRecord("$unset", "'$unset' must be a list of property names")
        return
    if not isinstance(value, dict):
        raise InvalidRecord(operation, f"'{operation}' must be an object")
    for name, member in value.items():
        if len(name) > MAX_NAME:
            raise InvalidRecord(
                operation, f"property name is longer than {MAX_NAME}: {name[:40]!r}"
            )
        if operation == "$add" and not _is_number(member):
            raise InvalidRecord(f"$add.{name}", f"'$add.{name}' must be a number")
        if operation == "$union" and not isinstance(member, list):
            raise InvalidRecord(f"$union.{name}", f"'$union.{name}' must be a list")


def apply_update(properties: Properties, update: Update) -> Properties | None:
    """Return the profile's properties after one operation; None if it deletes the profile.

    Two details are not documented and chosen here: `$remove` removes every equal member, and `$add`
    leaves a value that is not a number unchanged.
    """
    if update.operation == "$delete":
        return None
    if update.operation == "$unset":
        return {name: value for name, value in properties.items() if name not in update.value}
    change = _CHANGES[update.operation]
    after = dict(properties)
    for name, value in update.value.items():
        before = after.get(name)
        new_value = change(before, value)
        if new_value is not None or before is not None or update.operation == "$set":
            after[name] = new_value
    return after


def _add(before: Any, value: Any) -> Any:
    if before is None:
        return value
    return before + value if _is_number(before) else before


def _union(before: Any, value: list[Any]) -> list[Any]:
    members = _list(before)
    for member in value:
        if not any(_same(member, one) for one in members):
            members.append(member)
    return members


def _remove(before: Any, value: Any) -> Any:
    if not isinstance(before, list):
        return before
    return [member for member in before if not _same(member, value)]


_CHANGES: dict[str, Callable[[Any, Any], Any]] = {
    "$set": lambda _before, value: value,
    "$set_once": lambda before, value: value if before is None else before,
    "$add": _add,
    "$union": _union,
    "$append": lambda before, value: [*_list(before), value],
    "$remove": _remove,
}


def _list(value: Any) -> list[Any]:
    if value is None:
        return []
    return list(value) if isinstance(value, list) else [value]


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _same(one: Any, other: Any) -> bool:
    return isinstance(one, bool) == isinstance(other, bool) and bool(one == other)
