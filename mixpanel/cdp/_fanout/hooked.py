"""Show a call of a fan-out to `before_send` as a message, and make the call of what it returns."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from mixpanel._records.copies import deep_copy
from mixpanel.cdp._segment.composer import _event_name, _required_id
from mixpanel.cdp._segment.typed_events import SemanticEvent, set_path
from mixpanel.cdp._segment.values import id_text, timestamp_text

if TYPE_CHECKING:
    from mixpanel.cdp._fanout.routing import Call
    from mixpanel.cdp._segment.hooks import BeforeSendHook

__all__ = ["apply_hook"]

# The arguments of each kind of call, and their fields in a message.
_FIELDS = {
    "identify": {"traits": "traits"},
    "track": {"event": "event", "properties": "properties"},
    "page": {"category": "category", "name": "name", "properties": "properties"},
    "screen": {"category": "category", "name": "name", "properties": "properties"},
    "group": {"group_id": "groupId", "traits": "traits"},
}
_TYPED = ("event", "properties", "context", "groupId")  # where a typed event has its fields


def apply_hook(hook: BeforeSendHook, call: Call) -> Call | str:
    """Return the call that the hook made of one; the reason if the hook dropped it.

    :raises ValidationError: for an invalid message that the hook returned.
    """
    message = _as_message(call)
    changed, reason = hook(call.kind, deep_copy(message))
    return reason if changed is None else _as_call(call, message, changed)


def _as_message(call: Call) -> dict[str, Any]:
    message: dict[str, Any] = {
        "type": call.kind,
        "messageId": call.message_id,
        "timestamp": call.timestamp,
        "context": dict(call.context or {}),
    }
    ids = {"userId": call.user_id, "anonymousId": call.anonymous_id}
    message |= {name: person for name, person in ids.items() if person is not None}
    event = call.arguments.get("event")
    for argument, name in _FIELDS[call.kind].items():
        value = call.arguments[argument]
        if value is None and name in ("traits", "properties"):
            value = {}
        if value is not None:
            message[name] = value
    if isinstance(event, SemanticEvent):
        message |= {"event": event.event_name, "properties": {}}
        for path, value in event.with_paths(call.arguments["properties"] or {}):
            set_path(message, path, value)
    return message


def _as_call(call: Call, message: dict[str, Any], changed: dict[str, Any]) -> Call:
    notes = list(call.notes)
    arguments = {name: changed.get(field) for name, field in _FIELDS[call.kind].items()}
    context = changed.get("context")
    if call.kind == "track":
        _event_name(arguments["event"])
        if "groupId" in changed:
            arguments["group_id"] = changed["groupId"]
        typed = isinstance(call.arguments["event"], SemanticEvent)
        # A typed event keeps its type, unless the hook has changed one of its fields.
        if typed and all(changed.get(name) == message.get(name) for name in _TYPED):
            arguments, context = dict(call.arguments), call.context
    elif call.kind == "group":
        arguments["group_id"] = _required_id(arguments["group_id"], "groupId", notes.append)
    return replace(
        call,
        arguments=arguments,
        user_id=id_text(changed.get("userId"), "userId", notes.append),
        anonymous_id=id_text(changed.get("anonymousId"), "anonymousId", notes.append),
        message_id=id_text(changed.get("messageId"), "messageId", notes.append) or call.message_id,
        timestamp=timestamp_text(changed.get("timestamp") or call.timestamp),
        context=context,
        notes=tuple(notes),
    )
