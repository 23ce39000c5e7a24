"""The methods that send something and return nothing, written once for both clients.

`AsyncMixpanel` is a `TrackingMethods[Coroutine[Any, Any, None]]`, `Mixpanel` a
`TrackingMethods[None]`. Both compose the record when the method is called; only delivery differs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

from mixpanel._records.profile_methods import ProfileMethods
from mixpanel.credentials import authority_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from mixpanel._records.record import Properties, Time
    from mixpanel.settings import Endpoint

__all__ = ["TrackingMethods"]

Outcome = TypeVar("Outcome")


class TrackingMethods(ProfileMethods[Outcome]):
    """Track events, update profiles and groups, import, and link identities.

    Every message is composed, validated and serialized when the method is called, also without
    `await`. Later changes to the given dicts have no effect.

    :raises ValidationError: with `validation="raise"`, for a message that Mixpanel would reject.
    :raises QueueFullError: with `when_full="raise"`, when the buffer is full.
    :raises ClosedError: after the client was closed.
    :raises DeliveryError: only from consumers that send at once.
    """

    _event_endpoint: Endpoint = "events"

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
        durable: bool = False,
    ) -> Outcome:
        """Record that a user did something.

        >>> await mp.track("u-17", "Order Paid", {"amount": 12.5})  # doctest: +SKIP

        :param distinct_id: the id of the user. None takes it from `mixpanel.context`; with
            `device_id` or `user_id` it may be missing (Simplified ID Merge).
        :param event_name: at most 255 characters.
        :param properties: at most 255, with those added; they override super properties and the
            context.
        :param meta: further keys beside `event` and `properties`.
        :param time: when it happened, by default now: a datetime or ISO 8601 text (naive is UTC), a
            date, or seconds or milliseconds since 1970. `/track` accepts the last five days.
        :param insert_id: the event's own id, 1 to 36 letters, digits and hyphens. Mixpanel keeps
            one event for each (event, time, distinct_id, insert_id).
        :param dedupe_key: derives `insert_id` from a natural key such as an order number, for
            sources that deliver more than once. Pass `time`, too, or the copies differ in it.
        :param ip: the user's IP address, for city and country; 0 turns the lookup off.
        :param device_id: sent as `$device_id`.
        :param user_id: sent as `$user_id`.
        :param durable: wait until the event is on disk; needs a spool, or a consumer that sends at
            once. Raises `SpoolError` if the disk fails: the event is in memory then.
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
        if durable:
            return self._one(record, durable=True)
        return self._deliver([]) if record is None else self._deliver_one(record)

    def track_batch(self, events: Iterable[Mapping[str, Any]], *, durable: bool = False) -> Outcome:
        """Track many events in Mixpanel's form, `{"event": …, "properties": {…}}`.

        Token, time, `$insert_id` and library are added where they are missing.

        :raises ValidationError: when one has no name or no properties; then none is tracked.
        :raises QueueFullError: with `when_full="raise"`, when the buffer has no space for all of
            them. `error.accepted` were tracked: some, with a buffer that sends when it is full;
            with any other, none.
        """
        records = (self._composer.complete_event(event, self._event_endpoint) for event in events)
        return self._all_durably(records) if durable else self._deliver_all(records)

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
        durable: bool = False,
    ) -> Outcome:
        """Track an event of any age through `/import`.

        The client's service account authorizes it. `api_key` and `api_secret` are for projects
        that still use them (Mixpanel turns them off on 2027-03-03). For more than a few events use
        `import_events`.
        """
        authority = [api_key, api_secret]
        del api_key, api_secret  # crash reporters record the locals of this frame
        auth = authority_of(authority, self._composer.token)
        return self._one(
            self._composer.import_data_event(
                distinct_id,
                event_name,
                timestamp,
                properties,
                meta,
                insert_id=insert_id,
                dedupe_key=dedupe_key,
                auth=auth,
            ),
            durable=durable,
        )

    # ---- identity ---------------------------------------------------------------------------

    def alias(
        self,
        alias_id: str,
        original: str,
        meta: Properties | None = None,
        *,
        durable: bool = False,
    ) -> Outcome:
        """Make `alias_id` another id of the user `original`.

        For projects with Original ID Merge or legacy identity management; Simplified ID Merge
        ignores it.
        """
        pair = {"distinct_id": original, "alias": alias_id}
        return self._one(self._composer.identity("$create_alias", pair, meta), durable=durable)

    def identify(
        self,
        identified_id: str,
        anon_id: str,
        meta: Properties | None = None,
        *,
        durable: bool = False,
    ) -> Outcome:
        """Link an anonymous id, a UUIDv4 that was not merged before, to a user.

        For projects with Original ID Merge. With Simplified ID Merge, track an event that has both
        `device_id` and `user_id` instead.
        """
        pair = {"$identified_id": identified_id, "$anon_id": anon_id}
        return self._one(self._composer.identity("$identify", pair, meta), durable=durable)

    def merge(
        self,
        api_key: str | None,
        distinct_id1: str,
        distinct_id2: str,
        meta: Properties | None = None,
        api_secret: str | None = None,
        *,
        durable: bool = False,
    ) -> Outcome:
        """Merge two users, which cannot be undone. For projects with Original ID Merge."""
        pair = {"$distinct_ids": [distinct_id1, distinct_id2]}
        authority = [api_key, api_secret]
        del api_key, api_secret  # crash reporters record the locals of this frame
        auth = authority_of(authority, self._composer.token)
        record = self._composer.identity("$merge", pair, meta, "imports", auth)
        return self._one(record, durable=durable)

    # ---- super properties -------------------------------------------------------------------

    def register(self, properties: Properties) -> None:
        """Send these properties with every event tracked from now on."""
        self._composer.super_properties = {**self._composer.super_properties, **properties}

    def unregister(self, *names: str) -> None:
        """Stop sending these super properties; names that are not registered are ignored."""
        kept = self._composer.super_properties.items()
        self._composer.super_properties = {k: v for k, v in kept if k not in names}
