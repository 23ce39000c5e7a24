"""The calls of a fan-out and their options, shared by `AsyncFanOut` and `FanOut`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Generic, TypedDict, TypeVar, Unpack

from mixpanel._records.record import Properties, checked_mapping
from mixpanel.cdp._fanout.translation import reusable
from mixpanel.cdp._segment.composer import _event_name, _view_fields

if TYPE_CHECKING:
    from mixpanel.cdp._fanout.routing import Consent
    from mixpanel.cdp._segment.message import Kind
    from mixpanel.cdp._segment.typed_events import SemanticEvent
    from mixpanel.cdp._segment.values import Timestamp, UserId

__all__ = ["CallOptions", "FanOutMethods", "own_copy"]

Outcome = TypeVar("Outcome")


class CallOptions(TypedDict, total=False):
    """Keyword options of every call.

    - `consent`: the purposes that the person agreed to, `{"marketing"}` or `{"marketing": True}`.
      Default: the result of the fan-out's `consent` function, else none.
    - `integrations`: turns sinks off by their own or their vendor's name, `{"Hightouch": False}`.
      `"All": False` turns off all but those that are True. Names of no sink are passed to the
      vendors, together with "All".
    - `timestamp`: when it happened. Default: now. A datetime (naive is UTC), a date, ISO 8601 text,
      or seconds or milliseconds since 1970.
    - `message_id`: the id by which servers de-duplicate. Default: a new one. Mixpanel accepts up to
      36 letters, digits and hyphens; any other id is hashed for it, as `dedupe_key` is.
    - `context`: the `context` of the Segment spec. Mixpanel receives the parts that it has
      properties for: `ip`, app, campaign, device, network, os, page.
    - `anonymous_id`: the id from before login; Mixpanel's `$device_id`.
    - `durable`: wait until the call is on disk in the spool of each sink that receives it; all
      sinks need a spool, or a client that sends immediately.
    """

    consent: Consent | None
    integrations: Properties | None
    timestamp: Timestamp | None
    message_id: str | None
    context: Properties | None
    anonymous_id: UserId | None
    durable: bool


class FanOutMethods(Generic[Outcome]):
    """Track events and identify people in all sinks; every call takes the `CallOptions`.

    A call is composed for all sinks before it is sent to any. A call without ids is about the
    person of the current `mixpanel.context`; the properties of that context, like super properties,
    go to Mixpanel only.

    :raises ValidationError: if no sink would accept the call; it is sent to none then. A call that
        only some sinks reject is sent to the others and reported to `on_error`.
    :raises ClosedError: after the fan-out was closed.
    :raises SpoolError: with `durable=True`, if a disk failed; and whatever else kept a sink from
        keeping the call, such as a `QueueFullError`. Of several sinks, in an `ExceptionGroup`.
    """

    def _fan_out(
        self, kind: Kind, user_id: UserId | None, options: CallOptions, **arguments: Any
    ) -> Outcome:
        raise NotImplementedError

    def track(
        self,
        user_id: UserId | None = None,
        event: str | SemanticEvent | None = None,
        properties: Properties | None = None,
        **options: Unpack[CallOptions],
    ) -> Outcome:
        """Track an event.

        :param event: its name, or an event of `mixpanel.cdp.semantic`, whose fields Mixpanel
            receives as properties. Customer.io's actions go only to sinks that support them.
        """
        _event_name(event)
        copied = own_copy(properties, "properties")
        return self._fan_out("track", user_id, options, event=event, properties=copied)

    def identify(
        self,
        user_id: UserId | None = None,
        traits: Properties | None = None,
        **options: Unpack[CallOptions],
    ) -> Outcome:
        """Set the traits of a person.

        At Mixpanel this sets the user's profile; `email`, `phone`, `avatar`, `name`, `firstName`,
        `lastName` and `createdAt` become its reserved properties. Mixpanel stores no profile
        without a `user_id`, and links the two ids on the first event that carries both (Simplified
        ID Merge; for Original ID Merge call `identify` on the client itself).
        """
        return self._fan_out("identify", user_id, options, traits=own_copy(traits, "traits"))

    def group(
        self,
        user_id: UserId | None = None,
        group_id: UserId | None = None,
        traits: Properties | None = None,
        **options: Unpack[CallOptions],
    ) -> Outcome:
        """Add a person to a group, and set the traits of the group.

        At Mixpanel this sets the group's profile and adds the group to the user's property that is
        named by the sink's `group_key`.
        """
        copied = own_copy(traits, "traits")
        return self._fan_out("group", user_id, options, group_id=group_id, traits=copied)

    def page(
        self,
        user_id: UserId | None = None,
        category: str | None = None,
        name: str | None = None,
        properties: Properties | None = None,
        **options: Unpack[CallOptions],
    ) -> Outcome:
        """Track a page view; Mixpanel receives an event named "Page Viewed"."""
        arguments = _view_arguments(category, name, properties)
        return self._fan_out("page", user_id, options, **arguments)

    def screen(
        self,
        user_id: UserId | None = None,
        category: str | None = None,
        name: str | None = None,
        properties: Properties | None = None,
        **options: Unpack[CallOptions],
    ) -> Outcome:
        """Track the view of an app's screen; Mixpanel receives an event named "Screen Viewed"."""
        arguments = _view_arguments(category, name, properties)
        return self._fan_out("screen", user_id, options, **arguments)


def own_copy(given: Properties | None, what: str) -> dict[str, Any] | None:
    """Return a copy of a mapping that every sink can read; iterators inside become lists.

    :raises ValidationError: if it is not a mapping.
    """
    return None if given is None else reusable(dict(checked_mapping(given, what)))


def _view_arguments(
    category: str | None, name: str | None, properties: Properties | None
) -> dict[str, Any]:
    _view_fields(category, name, None)
    return {"category": category, "name": name, "properties": own_copy(properties, "properties")}
