"""The methods that update user and group profiles, written once for both clients."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Generic, TypedDict, TypeVar, Unpack

from mixpanel._records.record import checked_mapping
from mixpanel.exceptions import ValidationError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from mixpanel._records.composer import (
        Composer,
    )
    from mixpanel._records.record import (
        Properties,
        Record,
        Time,
    )
    from mixpanel.settings import Endpoint

__all__ = ["ProfileMethods", "UpdateOptions"]

Outcome = TypeVar("Outcome")


class UpdateOptions(TypedDict, total=False):
    """Options of every profile and group update."""

    ip: str | int
    time: Time
    ignore_time: bool
    ignore_alias: bool
    durable: bool


class ProfileMethods(Generic[Outcome]):
    """Update user profiles and group profiles."""

    _composer: Composer

    def _deliver(self, records: list[Record]) -> Outcome:
        raise NotImplementedError

    def _deliver_one(self, record: Record) -> Outcome:
        return self._deliver([record])

    def _deliver_durably(self, records: list[Record]) -> Outcome:
        """Deliver records, and wait until they are on disk."""
        raise NotImplementedError

    # ---- user profiles ----------------------------------------------------------------------

    def people_set(
        self,
        distinct_id: str,
        properties: Properties,
        meta: Properties | None = None,
        **options: Unpack[UpdateOptions],
    ) -> Outcome:
        """Set properties of a user profile, which is created if it does not exist.

        All `people_*` methods take these options: `ip` (the user's IP address, for city and
        country; 0 turns the lookup off), `time`, `ignore_time=True` (do not update "Last Seen"),
        `ignore_alias=True` (do not resolve an alias) and `durable=True` (wait until the update is
        on disk; needs a spool, or a consumer that sends at once).
        """
        return self._person(distinct_id, "$set", _as_dict(properties), meta, options)

    def people_set_once(
        self,
        distinct_id: str,
        properties: Properties,
        meta: Properties | None = None,
        **options: Unpack[UpdateOptions],
    ) -> Outcome:
        """Set properties that the profile does not have yet."""
        return self._person(distinct_id, "$set_once", _as_dict(properties), meta, options)

    def people_increment(
        self,
        distinct_id: str,
        properties: Mapping[str, float],
        meta: Properties | None = None,
        **options: Unpack[UpdateOptions],
    ) -> Outcome:
        """Add numbers to properties; a missing one counts as 0, a negative number subtracts.

        Not retried when the server may have applied it: see `AmbiguousDeliveryError`.
        """
        return self._person(distinct_id, "$add", _as_dict(properties), meta, options)

    def people_append(
        self,
        distinct_id: str,
        properties: Properties,
        meta: Properties | None = None,
        **options: Unpack[UpdateOptions],
    ) -> Outcome:
        """Append a value to list properties. Not retried when it may have been applied."""
        return self._person(distinct_id, "$append", _as_dict(properties), meta, options)

    def people_union(
        self,
        distinct_id: str,
        properties: Mapping[str, Iterable[Any]],
        meta: Properties | None = None,
        **options: Unpack[UpdateOptions],
    ) -> Outcome:
        """Add values to list properties that do not contain them yet."""
        return self._person(distinct_id, "$union", _as_dict(properties), meta, options)

    def people_remove(
        self,
        distinct_id: str,
        properties: Properties,
        meta: Properties | None = None,
        **options: Unpack[UpdateOptions],
    ) -> Outcome:
        """Remove a value from list properties. Not retried when it may have been applied."""
        return self._person(distinct_id, "$remove", _as_dict(properties), meta, options)

    def people_unset(
        self,
        distinct_id: str,
        properties: Iterable[str],
        meta: Properties | None = None,
        **options: Unpack[UpdateOptions],
    ) -> Outcome:
        """Delete properties of a profile, given by name."""
        return self._person(distinct_id, "$unset", _names(properties), meta, options)

    def people_delete(
        self, distinct_id: str, meta: Properties | None = None, **options: Unpack[UpdateOptions]
    ) -> Outcome:
        """Delete a user profile.

        For a duplicate whose id is an alias, pass `ignore_alias=True`; else the original profile is
        deleted.
        """
        return self._person(distinct_id, "$delete", "", meta, options)

    def people_track_charge(
        self,
        distinct_id: str,
        amount: float,
        properties: Properties | None = None,
        meta: Properties | None = None,
        **options: Unpack[UpdateOptions],
    ) -> Outcome:
        """Add a charge to `$transactions` of a profile. Not retried if it may have been applied."""
        charge = {"$transactions": {**checked_mapping(properties or {}), "$amount": amount}}
        return self._person(distinct_id, "$append", charge, meta, options)

    def people_clear_charges(
        self, distinct_id: str, meta: Properties | None = None, **options: Unpack[UpdateOptions]
    ) -> Outcome:
        """Delete all charges of a profile."""
        return self._person(distinct_id, "$unset", ["$transactions"], meta, options)

    def people_update(
        self,
        message: Mapping[str, Any],
        meta: Properties | None = None,
        **options: Unpack[UpdateOptions],
    ) -> Outcome:
        """Send a profile update in Mixpanel's form; token and time are added if missing."""
        return self._update("people", message, meta, options)

    def people_batch(
        self, updates: Iterable[Mapping[str, Any]], *, durable: bool = False
    ) -> Outcome:
        """Send many profile updates, each in the form that `people_update` takes."""
        records = (self._composer.update("people", update) for update in updates)
        return self._all_durably(records) if durable else self._deliver_all(records)

    # ---- group profiles ---------------------------------------------------------------------

    def group_set(
        self,
        group_key: str,
        group_id: str,
        properties: Properties,
        meta: Properties | None = None,
        **options: Unpack[UpdateOptions],
    ) -> Outcome:
        """Set properties of a group profile, such as a company's; it is created if missing."""
        return self._group(group_key, group_id, "$set", _as_dict(properties), meta, options)

    def group_set_once(
        self,
        group_key: str,
        group_id: str,
        properties: Properties,
        meta: Properties | None = None,
        **options: Unpack[UpdateOptions],
    ) -> Outcome:
        """Set properties that the group profile does not have yet."""
        return self._group(
            group_key, group_id, "$set_once", dict(checked_mapping(properties)), meta, options
        )

    def group_union(
        self,
        group_key: str,
        group_id: str,
        properties: Mapping[str, Iterable[Any]],
        meta: Properties | None = None,
        **options: Unpack[UpdateOptions],
    ) -> Outcome:
        """Add values to list properties that do not contain them yet."""
        return self._group(group_key, group_id, "$union", _as_dict(properties), meta, options)

    def group_unset(
        self,
        group_key: str,
        group_id: str,
        properties: Iterable[str],
        meta: Properties | None = None,
        **options: Unpack[UpdateOptions],
    ) -> Outcome:
        """Delete properties of a group profile, given by name."""
        return self._group(group_key, group_id, "$unset", _names(properties), meta, options)

    def group_remove(
        self,
        group_key: str,
        group_id: str,
        properties: Properties,
        meta: Properties | None = None,
        **options: Unpack[UpdateOptions],
    ) -> Outcome:
        """Remove a value from list properties. Not retried when it may have been applied."""
        return self._group(group_key, group_id, "$remove", _as_dict(properties), meta, options)

    def group_delete(
        self,
        group_key: str,
        group_id: str,
        meta: Properties | None = None,
        **options: Unpack[UpdateOptions],
    ) -> Outcome:
        """Delete a group profile."""
        return self._group(group_key, group_id, "$delete", "", meta, options)

    def group_update(
        self,
        message: Mapping[str, Any],
        meta: Properties | None = None,
        **options: Unpack[UpdateOptions],
    ) -> Outcome:
        """Send a group update in Mixpanel's form; token and time are added if missing."""
        return self._update("groups", message, meta, options)

    def group_batch(
        self, updates: Iterable[Mapping[str, Any]], *, durable: bool = False
    ) -> Outcome:
        """Send many group updates, each in the form that `group_update` takes."""
        records = (self._composer.update("groups", update) for update in updates)
        return self._all_durably(records) if durable else self._deliver_all(records)

    # ---- shared by all ----------------------------------------------------------------------

    def _one(self, record: Record | None, *, durable: bool = False) -> Outcome:
        if durable:
            return self._deliver_durably([] if record is None else [record])
        return self._deliver([]) if record is None else self._deliver_one(record)

    def _all_durably(self, records: Iterable[Record | None]) -> Outcome:
        return self._deliver_durably([record for record in records if record is not None])

    def _update(
        self,
        endpoint: Endpoint,
        message: Mapping[str, Any],
        meta: Properties | None,
        options: UpdateOptions,
    ) -> Outcome:
        durable = options.pop("durable", False)
        record = self._composer.update(endpoint, message, meta, **options)  # type: ignore[misc]
        return self._one(record, durable=durable)

    def _deliver_all(self, records: Iterable[Record | None]) -> Outcome:
        return self._deliver([record for record in records if record is not None])

    def _person(
        self,
        distinct_id: str,
        operation: str,
        value: Any,
        meta: Properties | None,
        options: UpdateOptions,
    ) -> Outcome:
        message = {"$distinct_id": distinct_id, operation: value}
        return self._update("people", message, meta, options)

    def _group(
        self,
        group_key: str,
        group_id: str,
        operation: str,
        value: Any,
        meta: Properties | None,
        options: UpdateOptions,
    ) -> Outcome:
        message = {"$group_key": group_key, "$group_id": group_id, operation: value}
        return self._update("groups", message, meta, options)


def _as_dict(properties: Properties) -> dict[str, Any]:
    # A mapping of another class is not written as a JSON object.
    return dict(checked_mapping(properties))


def _names(names: Iterable[str]) -> list[str]:
    # A single string is one name, not a list of letters.
    if isinstance(names, str):
        return [names]
    try:
        return list(names)
    except TypeError as error:
        raise ValidationError([f"names must be a list of strings: {error}"]) from error
