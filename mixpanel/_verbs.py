"""Every fire-and-forget method, written once for both faces.

`AsyncMixpanel` is `Verbs[Coroutine[Any, Any, None]]`, `Mixpanel` is `Verbs[None]`. Composing
happens when the method is called, in either world; only delivery differs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Generic, TypedDict, TypeVar, Unpack

from mixpanel.credentials import ApiSecret

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from mixpanel.messages import Composer, Properties, Record, Time
    from mixpanel.settings import Endpoint

__all__ = ["UpdateOptions", "Verbs"]

Outcome = TypeVar("Outcome")


class UpdateOptions(TypedDict, total=False):
    """Options of every profile and group update."""

    ip: str | int
    time: Time
    ignore_time: bool
    ignore_alias: bool


class Verbs(Generic[Outcome]):
    """Track events, update profiles and groups, import, and link identities.

    Every method takes its message at once: it is composed, checked and serialised before the
    call returns, and later changes to the given dicts are not seen.

    :raises ValidationError: in mode `validation="raise"`, for a message Mixpanel would refuse.
    :raises QueueFullError: with `when_full="raise"`, when the buffer is full.
    :raises ClosedError: after the client was closed.
    :raises DeliveryError: only from consumers that send at once.
    """

    _composer: Composer
    _event_endpoint: Endpoint = "events"

    def _deliver(self, records: list[Record]) -> Outcome:
        raise NotImplementedError

    def _one(self, record: Record | None) -> Outcome:
        return self._deliver([] if record is None else [record])

    # ---- events -----------------------------------------------------------------------------

    def track(
        self,
        distinct_id: str | None,
        event_name: str,
        properties: Properties | None = None,
        meta: Properties | None = None,
        *,
        time: Time | None = None,
        insert_id: str | None = None,
        dedupe_key: str | None = None,
        ip: str | int | None = None,
        device_id: str | None = None,
        user_id: str | None = None,
    ) -> Outcome:
        """Record that a user did something.

        >>> await mp.track("u-17", "Order Paid", {"amount": 12.5})  # doctest: +SKIP

        :param distinct_id: whom the event belongs to. None takes it from `mixpanel.context`, or
            leaves it out when `device_id` or `user_id` say who it is (Simplified ID Merge).
        :param event_name: at most 255 characters.
        :param properties: fewer than 255; they win over super properties and the context.
        :param meta: keys to stand beside `event` and `properties`.
        :param time: when it happened, if not now: a datetime (naive is UTC), or seconds or
            milliseconds since 1970. `/track` takes the last five days.
        :param insert_id: the event's own id, 1 to 36 letters, digits and hyphens. Mixpanel keeps
            one event for each (event, time, distinct_id, insert_id).
        :param dedupe_key: derive the id from a natural key such as an order number, for sources
            that deliver more than once. Give `time` too, or the copies will differ by it.
        :param ip: the user's address, for their city and country; 0 turns the look-up off.
        :param device_id: sent as `$device_id`.
        :param user_id: sent as `$user_id`.
        """
        record = self._composer.event(
            distinct_id,
            event_name,
            properties,
            meta,
            time=time,
            insert_id=insert_id,
            dedupe_key=dedupe_key,
            ip=ip,
            device_id=device_id,
            user_id=user_id,
            endpoint=self._event_endpoint,
        )
        return self._deliver([] if record is None else [record])

    def track_batch(self, events: Iterable[Mapping[str, Any]]) -> Outcome:
        """Track many events that have the wire's shape, `{"event": …, "properties": {…}}`.

        Token, time, `$insert_id` and library are added where they are missing.

        :raises ValidationError: when one has no name or no properties; then none is tracked.
        """
        return self._deliver_all(
            self._composer.wire_event(event, self._event_endpoint) for event in events
        )

    def import_data(
        self,
        api_key: str | None,
        distinct_id: str | None,
        event_name: str,
        timestamp: Time,
        properties: Properties | None = None,
        meta: Properties | None = None,
        api_secret: str | None = None,
        *,
        insert_id: str | None = None,
        dedupe_key: str | None = None,
    ) -> Outcome:
        """Record an event of any age through `/import`.

        The client's service account authorises it; `api_key` and `api_secret` are for projects
        that still use them (Mixpanel switches them off on 2027-03-03). For more than a handful of
        events use `import_events`.
        """
        return self._one(
            self._composer.past_event(
                distinct_id,
                event_name,
                timestamp,
                properties,
                meta,
                insert_id=insert_id,
                dedupe_key=dedupe_key,
                auth=_api_secret(api_key, api_secret),
            )
        )

    # ---- identity ---------------------------------------------------------------------------

    def alias(self, alias_id: str, original: str, meta: Properties | None = None) -> Outcome:
        """Let `alias_id` mean the user `original`.

        For projects on Original ID Merge or the legacy system; Simplified ID Merge ignores it.
        """
        pair = {"distinct_id": original, "alias": alias_id}
        return self._one(self._composer.identity("$create_alias", pair, meta))

    def identify(self, identified_id: str, anon_id: str, meta: Properties | None = None) -> Outcome:
        """Link an anonymous id, a UUIDv4 not merged before, to a user.

        For projects on Original ID Merge; with Simplified ID Merge send an event that carries both
        `device_id` and `user_id` instead.
        """
        pair = {"$identified_id": identified_id, "$anon_id": anon_id}
        return self._one(self._composer.identity("$identify", pair, meta))

    def merge(
        self,
        api_key: str | None,
        distinct_id1: str,
        distinct_id2: str,
        meta: Properties | None = None,
        api_secret: str | None = None,
    ) -> Outcome:
        """Merge two users for good. For projects on Original ID Merge; there is no way back."""
        pair = {"$distinct_ids": [distinct_id1, distinct_id2]}
        auth = _api_secret(api_key, api_secret)
        return self._one(self._composer.identity("$merge", pair, meta, "imports", auth))

    # ---- super properties -------------------------------------------------------------------

    def register(self, properties: Properties) -> None:
        """Send these properties with every event tracked from now on."""
        self._composer.super_properties = {**self._composer.super_properties, **properties}

    def unregister(self, *names: str) -> None:
        """Stop sending these super properties; names that are not registered are passed over."""
        kept = self._composer.super_properties.items()
        self._composer.super_properties = {k: v for k, v in kept if k not in names}

    # ---- user profiles ----------------------------------------------------------------------

    def people_set(
        self,
        distinct_id: str,
        properties: Properties,
        meta: Properties | None = None,
        **options: Unpack[UpdateOptions],
    ) -> Outcome:
        """Set properties of a user profile, making the profile if there is none.

        All `people_*` methods take these options: `ip` (the user's address, for city and
        country; 0 turns it off), `time`, `ignore_time=True` (do not move "Last Seen") and
        `ignore_alias=True` (do not resolve an alias).
        """
        return self._person(distinct_id, "$set", dict(properties), meta, options)

    def people_set_once(
        self,
        distinct_id: str,
        properties: Properties,
        meta: Properties | None = None,
        **options: Unpack[UpdateOptions],
    ) -> Outcome:
        """Set properties that the profile does not have yet."""
        return self._person(distinct_id, "$set_once", dict(properties), meta, options)

    def people_increment(
        self,
        distinct_id: str,
        properties: Mapping[str, float],
        meta: Properties | None = None,
        **options: Unpack[UpdateOptions],
    ) -> Outcome:
        """Add numbers to properties; a missing one counts as 0, a negative number subtracts.

        Never repeated after an answer that is in doubt: see `AmbiguousDeliveryError`.
        """
        return self._person(distinct_id, "$add", dict(properties), meta, options)

    def people_append(
        self,
        distinct_id: str,
        properties: Properties,
        meta: Properties | None = None,
        **options: Unpack[UpdateOptions],
    ) -> Outcome:
        """Append a value to list properties. Never repeated after an answer that is in doubt."""
        return self._person(distinct_id, "$append", dict(properties), meta, options)

    def people_union(
        self,
        distinct_id: str,
        properties: Mapping[str, Iterable[Any]],
        meta: Properties | None = None,
        **options: Unpack[UpdateOptions],
    ) -> Outcome:
        """Add values to list properties that do not hold them yet."""
        return self._person(distinct_id, "$union", dict(properties), meta, options)

    def people_remove(
        self,
        distinct_id: str,
        properties: Properties,
        meta: Properties | None = None,
        **options: Unpack[UpdateOptions],
    ) -> Outcome:
        """Remove a value from list properties. Never repeated after an answer in doubt."""
        return self._person(distinct_id, "$remove", dict(properties), meta, options)

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

        Give `ignore_alias=True` for a duplicate whose id is an alias, or the original goes.
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
        """Record a charge in the profile's `$transactions`. Never repeated when in doubt."""
        charge = {"$transactions": {**(properties or {}), "$amount": amount}}
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
        """Send a profile update as it is; token and time are added where they are missing."""
        return self._one(self._composer.update("people", message, meta, **options))

    def people_batch(self, updates: Iterable[Mapping[str, Any]]) -> Outcome:
        """Send many profile updates, each in the form that `people_update` takes."""
        return self._deliver_all(self._composer.update("people", update) for update in updates)

    # ---- group profiles ---------------------------------------------------------------------

    def group_set(
        self,
        group_key: str,
        group_id: str,
        properties: Properties,
        meta: Properties | None = None,
        **options: Unpack[UpdateOptions],
    ) -> Outcome:
        """Set properties of a group profile, such as a company, making it if there is none."""
        return self._group(group_key, group_id, "$set", dict(properties), meta, options)

    def group_set_once(
        self,
        group_key: str,
        group_id: str,
        properties: Properties,
        meta: Properties | None = None,
        **options: Unpack[UpdateOptions],
    ) -> Outcome:
        """Set properties that the group profile does not have yet."""
        return self._group(group_key, group_id, "$set_once", dict(properties), meta, options)

    def group_union(
        self,
        group_key: str,
        group_id: str,
        properties: Mapping[str, Iterable[Any]],
        meta: Properties | None = None,
        **options: Unpack[UpdateOptions],
    ) -> Outcome:
        """Add values to list properties that do not hold them yet."""
        return self._group(group_key, group_id, "$union", dict(properties), meta, options)

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
        """Remove a value from list properties. Never repeated after an answer in doubt."""
        return self._group(group_key, group_id, "$remove", dict(properties), meta, options)

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
        """Send a group update as it is; token and time are added where they are missing."""
        return self._one(self._composer.update("groups", message, meta, **options))

    def group_batch(self, updates: Iterable[Mapping[str, Any]]) -> Outcome:
        """Send many group updates, each in the form that `group_update` takes."""
        return self._deliver_all(self._composer.update("groups", update) for update in updates)

    # ---- the common end ---------------------------------------------------------------------

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
        return self._one(self._composer.update("people", message, meta, **options))

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
        return self._one(self._composer.update("groups", message, meta, **options))


def _api_secret(api_key: str | None, api_secret: str | None) -> ApiSecret | None:
    return None if api_secret is None else ApiSecret(api_secret, api_key)


def _names(names: Iterable[str]) -> list[str]:
    # A lone string is a sequence of letters; nobody means that.
    return [names] if isinstance(names, str) else list(names)
