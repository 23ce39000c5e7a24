"""Every fire-and-forget method, written once for both faces.

`AsyncMixpanel` is `Verbs[Coroutine[Any, Any, None]]`, `Mixpanel` is `Verbs[None]`. Composing
happens when the method is called, in either world; only delivery differs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

from mixpanel._records.profile_methods import ProfileMethods
from mixpanel.credentials import api_secret_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from mixpanel._records.record import Properties, Time
    from mixpanel.settings import Endpoint

__all__ = ["TrackingMethods"]

Outcome = TypeVar("Outcome")


class TrackingMethods(ProfileMethods[Outcome]):
    """Track events, update profiles and groups, import, and link identities.

    Every method takes its message at once: it is composed, checked and serialised before the
    call returns, and later changes to the given dicts are not seen.

    :raises ValidationError: in mode `validation="raise"`, for a message Mixpanel would refuse.
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
        return self._deliver([]) if record is None else self._deliver_one(record)

    def track_batch(self, events: Iterable[Mapping[str, Any]]) -> Outcome:
        """Track many events that have the wire's shape, `{"event": …, "properties": {…}}`.

        Token, time, `$insert_id` and library are added where they are missing.

        :raises ValidationError: when one has no name or no properties; then none is tracked.
        :raises QueueFullError: with `when_full="raise"`, unless there is room for all of them; a
            buffer that sends when it is full may have taken some, `error.accepted`.
        """
        return self._deliver_all(
            self._composer.complete_event(event, self._event_endpoint) for event in events
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
        authority = [api_key, api_secret]
        del api_key, api_secret  # an error on the way shows the locals of this frame
        auth = api_secret_of(authority)
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
        authority = [api_key, api_secret]
        del api_key, api_secret  # an error on the way shows the locals of this frame
        auth = api_secret_of(authority)
        return self._one(self._composer.identity("$merge", pair, meta, "imports", auth))

    # ---- super properties -------------------------------------------------------------------

    def register(self, properties: Properties) -> None:
        """Send these properties with every event tracked from now on."""
        self._composer.super_properties = {**self._composer.super_properties, **properties}

    def unregister(self, *names: str) -> None:
        """Stop sending these super properties; names that are not registered are passed over."""
        kept = self._composer.super_properties.items()
        self._composer.super_properties = {k: v for k, v in kept if k not in names}
