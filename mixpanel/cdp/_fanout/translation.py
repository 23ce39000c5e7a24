"""Translate one call for each vendor: to a message of the Segment spec, or to Mixpanel's records.

The tables map the names of the Segment spec to Mixpanel's. Sources: Mixpanel's documentation,
"Reserved Properties" and "Default Properties"; Segment's, "Common Fields" and "Traits".
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, Protocol

from mixpanel._records import context as _context
from mixpanel._records.copies import deep_copy
from mixpanel._records.json_encoding import plain_depth
from mixpanel._records.record import deterministic_id
from mixpanel._records.validation import BANNED_IDS, INSERT_ID
from mixpanel.cdp._fanout.routing import VIEW_EVENTS
from mixpanel.cdp._segment.composer import MISSING_ID
from mixpanel.cdp._segment.typed_events import SemanticEvent, set_path
from mixpanel.exceptions import ValidationError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mixpanel._records.composer import (
        Composer,
    )
    from mixpanel._records.record import (
        Properties,
        Record,
    )
    from mixpanel.cdp._fanout.routing import Call
    from mixpanel.cdp._segment.composer import SegmentComposer
    from mixpanel.settings import Endpoint

__all__ = ["MixpanelTranslator", "SegmentTranslator", "Translator", "reusable"]

_TRAITS = {
    "avatar": "$avatar",
    "createdAt": "$created",
    "created_at": "$created",
    "email": "$email",
    "firstName": "$first_name",
    "first_name": "$first_name",
    "lastName": "$last_name",
    "last_name": "$last_name",
    "name": "$name",
    "phone": "$phone",
}
_CONTEXT = {
    "app.build": "$app_build_number",
    "app.version": "$app_version_string",
    "campaign.content": "utm_content",
    "campaign.medium": "utm_medium",
    "campaign.name": "utm_campaign",
    "campaign.source": "utm_source",
    "campaign.term": "utm_term",
    "device.manufacturer": "$manufacturer",
    "device.model": "$model",
    "ip": "ip",
    "network.carrier": "$carrier",
    "network.wifi": "$wifi",
    "os.name": "$os",
    "os.version": "$os_version",
    "page.referrer": "$referrer",
    "page.url": "$current_url",
}
_PATHS = [(tuple(path.split(".")), name) for path, name in _CONTEXT.items()]
# As properties these would override the person or the time at Mixpanel, but not at other sinks.
# The value is what to use instead.
_RESERVED = {
    "token": "a sink of that project",
    "distinct_id": "user_id",
    "time": "timestamp",
    "$insert_id": "message_id",
    "$device_id": "anonymous_id",
    "$user_id": "user_id",
}


class Translator(Protocol):
    """What composes the records of one vendor."""

    def is_unsupported(self, call: Call) -> bool:
        """Return True if the vendor has no such message."""
        ...

    def records(self, call: Call) -> Sequence[Record]:
        """Return the records to deliver; none if the client's sampling or hook drops the call.

        :raises ValidationError: for a call that this vendor would not accept.
        """
        ...


@dataclass(frozen=True, slots=True)
class SegmentTranslator:
    """Compose messages for a client of the Segment spec."""

    composer: SegmentComposer

    def is_unsupported(self, call: Call) -> bool:
        """Return True if the vendor does not accept this kind of message."""
        return call.kind not in self.composer.dialect.kinds

    def records(self, call: Call) -> Sequence[Record]:
        """Return the message."""
        if call.notes:
            self.composer._report_problems(list(call.notes), [])
        message: Record = getattr(self.composer, call.kind)(
            user_id=call.user_id,
            anonymous_id=call.anonymous_id,
            context=call.context,
            timestamp=call.timestamp,
            integrations=call.integrations.for_vendors,
            message_id=call.message_id,
            **call.arguments,
        )
        return [message]


@dataclass(frozen=True, slots=True)
class MixpanelTranslator:
    """Compose records for a Mixpanel client; `group_key` is the key of the project's groups."""

    composer: Composer
    endpoint: Endpoint
    group_key: str | None

    def is_unsupported(self, call: Call) -> bool:
        """Return True for a profile without a user id or traits, and a group without a key."""
        if call.kind == "identify":
            if call.user_id is None:
                return call.anonymous_id is not None  # without any id, it is an error instead
            return not call.arguments["traits"]
        if call.kind == "group":
            return self.group_key is None or not (call.arguments["traits"] or call.user_id)
        return False

    def records(self, call: Call) -> Sequence[Record]:
        """Return an event, or the updates of profiles."""
        records = self._compose_without_ids(call)
        if records and call.notes:
            self.composer._report(list(call.notes), [])
        return records

    def _compose_without_ids(self, call: Call) -> list[Record]:
        scope = _context.current()
        if scope is None:
            return self._compose(call)
        # The call has its final ids, the same for every sink: hide those of the context, which the
        # composer would add, and keep its properties.
        without_ids = _context.Scope(properties=scope.properties)
        with _context.temporarily_set(_context._scope, without_ids):
            return self._compose(call)

    def _compose(self, call: Call) -> list[Record]:
        if call.kind == "identify":
            records = [self._person(call, "$set", mixpanel_traits(call.arguments["traits"] or {}))]
        elif call.kind == "group":
            records = self._group(call)
        else:
            records = [self._event(call, *_event_of(call))]
        return [record for record in records if record is not None]

    def _event(self, call: Call, name: str, properties: dict[str, Any]) -> Record | None:
        user, anonymous = call.user_id, call.anonymous_id
        if user is None and anonymous is None:
            raise ValidationError([MISSING_ID.format(call.kind)])
        clashes = [each for each in _RESERVED if each in properties]
        if clashes:
            problem = "the property {!r} is reserved at Mixpanel: rename it, or use {} instead"
            raise ValidationError([problem.format(each, _RESERVED[each]) for each in clashes])
        return self.composer.event(
            user,
            name,
            {**context_properties(call.context), **properties},
            time=datetime.fromisoformat(call.timestamp),
            insert_id=insert_id(call, name),
            device_id=anonymous,
            user_id=None if anonymous is None else user,
            endpoint=self.endpoint,
        )

    def _person(self, call: Call, operation: str, value: dict[str, Any]) -> Record | None:
        if call.user_id is None:
            raise ValidationError([MISSING_ID.format(call.kind)])
        return self._update(call, "people", {"$distinct_id": call.user_id, operation: value})

    def _group(self, call: Call) -> list[Record | None]:
        key, group_id, traits = self.group_key, call.arguments["group_id"], call.arguments["traits"]
        assert key is not None
        records = []
        if traits:
            update = {"$group_key": key, "$group_id": group_id, "$set": mixpanel_traits(traits)}
            records.append(self._update(call, "groups", update))
        if call.user_id is not None:
            records.append(self._person(call, "$union", {key: [group_id]}))
        return records

    def _update(self, call: Call, endpoint: Endpoint, message: dict[str, Any]) -> Record | None:
        return self.composer.update(
            endpoint,
            message,
            ip=None if call.context is None else call.context.get("ip"),
            time=datetime.fromisoformat(call.timestamp).timestamp(),
        )


def insert_id(call: Call, name: str) -> str:
    """Return the message id if Mixpanel accepts it, else a hash of it, as for `dedupe_key`."""
    given = call.message_id
    if INSERT_ID.fullmatch(given) and given.lower() not in BANNED_IDS:
        return given
    return deterministic_id(name, call.user_id or call.anonymous_id, given)


def mixpanel_traits(traits: Properties) -> dict[str, Any]:
    """Return traits under Mixpanel's names; one that already has such a name takes precedence."""
    translated = {_TRAITS.get(name, name): value for name, value in traits.items()}
    return translated | {name: traits[name] for name in _TRAITS.values() if name in traits}


def context_properties(context: Properties | None) -> dict[str, Any]:
    """Return the parts of a message's `context` that are default properties of Mixpanel."""
    properties: dict[str, Any] = {}
    if context:
        for path, name in _PATHS:
            value: Any = context
            for step in path:
                value = value.get(step) if isinstance(value, Mapping) else None
            if value is not None:
                properties[name] = value
    return properties


def _event_of(call: Call) -> tuple[str, dict[str, Any]]:
    arguments = call.arguments
    properties = dict(arguments["properties"] or {})
    event = arguments.get("event")
    if event is None:
        given = (name for name in ("category", "name") if arguments[name] is not None)
        return VIEW_EVENTS[call.kind], {name: arguments[name] for name in given} | properties
    if not isinstance(event, SemanticEvent):
        return event, properties
    flat: dict[str, Any] = {}
    for path, value in event.with_paths(properties):
        if path[0] == "properties":
            set_path(flat, path[1:], value)
        else:
            flat[path[-1]] = value
    return event.event_name, flat


# ---- values that every sink can read ------------------------------------------------------------


def reusable(properties: dict[str, Any]) -> dict[str, Any]:
    """Return properties that can be read more than once: with lists in place of iterators.

    :raises ValidationError: for an iterator that raises.
    """
    if plain_depth(properties):
        return properties
    return deep_copy(properties, read_iterators=True)
