"""The calls of a fan-out, documented once for both faces, and what each takes by name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Generic, TypedDict, TypeVar, Unpack

from mixpanel._records.record import Properties, mapping
from mixpanel.cdp._fanout.translation import reusable
from mixpanel.cdp._segment.composer import _event_name, _required_id, _view_fields
from mixpanel.cdp._segment.signatures import resolve_outcome

if TYPE_CHECKING:
    from mixpanel.cdp._fanout.routing import Consent
    from mixpanel.cdp._segment.message import Kind
    from mixpanel.cdp._segment.typed_events import SemanticEvent
    from mixpanel.cdp._segment.values import Timestamp, UserId

__all__ = ["CallOptions", "FanOutMethods", "own_copy"]

Outcome = TypeVar("Outcome")


class CallOptions(TypedDict, total=False):
    """What every call takes by name.

    - `consent`: the purposes that the person agreed to, `{"marketing"}` or `{"marketing": True}`.
      Without it the fan-out's `consent` is asked; what nobody knows was not agreed to.
    - `integrations`: sinks to leave out, by their own or their vendor's name, `{"Hightouch":
      False}`; with `"All": False`, all are but those that are True. Names of no sink are passed on
      to the vendors, and "All" with them.
    - `timestamp`: when it happened, if not now: a datetime (naive is UTC), a date, ISO 8601 text,
      or seconds or milliseconds since 1970.
    - `message_id`: its id, when it has one. Mixpanel takes 36 letters, digits and hyphens; of
      another it gets what `dedupe_key` would make of it.
    - `context`: of the spec. Mixpanel gets what it has a name for: `ip`, app, campaign, device,
      network, os, page.
    - `anonymous_id`: who it was before we knew: Mixpanel's `$device_id`.
    """

    consent: Consent | None
    integrations: Properties | None
    timestamp: Timestamp | None
    message_id: str | None
    context: Properties | None
    anonymous_id: UserId | None


class FanOutMethods(Generic[Outcome]):
    """Say once what people do and who they are; each takes the `CallOptions`.

    Every call is composed for all sinks before it goes to any. One that names nobody is about
    whom `mixpanel.context` says; its properties are Mixpanel's alone, as super properties are.

    :raises ValidationError: at once, and nobody gets it, for what no sink that it is for would
        take. What only some refuse goes to the others, and is told to `on_error`.
    :raises ClosedError: after the fan-out was closed.
    """

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        resolve_outcome(cls)

    def _fan_out(
        self, kind: Kind, user_id: UserId | None, options: CallOptions, **arguments: Any
    ) -> Outcome:
        raise NotImplementedError

    def track(
        self,
        user_id: UserId | None,
        event: str | SemanticEvent,
        properties: Properties | None = None,
        **options: Unpack[CallOptions],
    ) -> Outcome:
        """Say that a person did something.

        :param event: its name, or one of `mixpanel.cdp.semantic`. Mixpanel gets all the fields of
            one as properties. Customer.io's actions go only to sinks that act on them.
        """
        _event_name(event)
        own = own_copy(properties, "properties")
        return self._fan_out("track", user_id, options, event=event, properties=own)

    def identify(
        self,
        user_id: UserId | None,
        traits: Properties | None = None,
        **options: Unpack[CallOptions],
    ) -> Outcome:
        """Say who a person is, and what is known of them.

        Mixpanel sets the profile of the user, `email`, `phone`, `avatar`, `name`, `firstName`,
        `lastName` and `createdAt` under its own names. There, nothing is kept of people without
        `user_id`, and the two ids are linked by the first event that carries both (Simplified ID
        Merge; for Original ID Merge call the client's own `identify`).
        """
        return self._fan_out("identify", user_id, options, traits=own_copy(traits, "traits"))

    def group(
        self,
        user_id: UserId | None,
        group_id: UserId,
        traits: Properties | None = None,
        **options: Unpack[CallOptions],
    ) -> Outcome:
        """Say that a person belongs to a group, and what is known of the group.

        Mixpanel sets the profile of the group, and adds it to the user's property `group_key`.
        """
        arguments = {
            "group_id": _required_id(group_id, "group_id"),
            "traits": own_copy(traits, "traits"),
        }
        return self._fan_out("group", user_id, options, **arguments)

    def page(
        self,
        user_id: UserId | None,
        category: str | None = None,
        name: str | None = None,
        properties: Properties | None = None,
        **options: Unpack[CallOptions],
    ) -> Outcome:
        """Say that a person looked at a page: to Mixpanel, an event named "Page Viewed"."""
        arguments = _view_arguments(category, name, properties)
        return self._fan_out("page", user_id, options, **arguments)

    def screen(
        self,
        user_id: UserId | None,
        category: str | None = None,
        name: str | None = None,
        properties: Properties | None = None,
        **options: Unpack[CallOptions],
    ) -> Outcome:
        """Say that a person looked at a screen of an app: to Mixpanel, "Screen Viewed"."""
        arguments = _view_arguments(category, name, properties)
        return self._fan_out("screen", user_id, options, **arguments)


def own_copy(given: Properties | None, what: str) -> dict[str, Any] | None:
    """Return a copy that can be read by every sink.

    :raises ValidationError: for what is no mapping.
    """
    return None if given is None else reusable(dict(mapping(given, what)))


def _view_arguments(
    category: str | None, name: str | None, properties: Properties | None
) -> dict[str, Any]:
    _view_fields(category, name, None)
    return {"category": category, "name": name, "properties": own_copy(properties, "properties")}
