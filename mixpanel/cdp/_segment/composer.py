"""Compose the six messages of the Segment spec.

The composer validates a call, adds the common fields and serialises the message at once. So errors
are raised at the caller's line, later changes to the arguments have no effect, and the `messageId`
by which servers de-duplicate never changes. The arguments themselves are not modified.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any

from mixpanel._records.json_encoding import loads
from mixpanel._records.record import Properties, checked_mapping
from mixpanel._records.values import is_missing
from mixpanel.cdp._segment.hooks import BeforeSendHook
from mixpanel.cdp._segment.message import KINDS, DroppedMessage, Kind, Message
from mixpanel.cdp._segment.typed_events import Needs, SemanticEvent, set_path
from mixpanel.cdp._segment.values import (
    Timestamp,
    UserId,
    dumps,
    id_text,
    milliseconds_text,
    now_text,
    timestamp_text,
)
from mixpanel.exceptions import ConfigurationError, ValidationError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from mixpanel._records.record import BeforeSend, Note, Validation
    from mixpanel.cdp._customerio.name_advice import Advice
    from mixpanel.cdp._segment.dialect import Dialect

__all__ = ["SegmentComposer"]

# The fields of each kind of message, and the arguments that they are passed as.
_SHARED = {
    "userId": "user_id",
    "anonymousId": "anonymous_id",
    "context": "context",
    "integrations": "integrations",
    "messageId": "message_id",
    "timestamp": "timestamp",
}
_ARGUMENTS: dict[Kind, dict[str, str]] = {
    "identify": {**_SHARED, "traits": "traits"},
    "track": {**_SHARED, "event": "event", "properties": "properties", "groupId": "group_id"},
    "page": {**_SHARED, "category": "category", "name": "name", "properties": "properties"},
    "screen": {**_SHARED, "category": "category", "name": "name", "properties": "properties"},
    "group": {**_SHARED, "groupId": "group_id", "traits": "traits"},
    "alias": {
        **{name: argument for name, argument in _SHARED.items() if name != "anonymousId"},
        "previousId": "previous_id",
    },
}
_SERVER_FIELDS = frozenset({"type", "originalTimestamp", "receivedAt", "sentAt", "version"})


class SegmentComposer:
    """Compose messages; pure, except for the clock and the id generator that are passed in.

    The positional arguments have the order of Segment's own Python library. The methods share
    these:

    :param context: merged into `default_context`, key by key.
    :param timestamp: when it happened. Default: now. A datetime (naive is UTC), a date, ISO 8601
        text, or seconds or milliseconds since 1970.
    :param anonymous_id: the id from before login; a user id or an anonymous id is required.
    :param integrations: the destinations to forward to, by name; `"All": False` turns off the
        others.
    :param message_id: the id by which servers de-duplicate. Default: a new one.
    :param schema_version: the version of the event's contract, at vendors with contracts.
    :param durable: for the method of a client: wait until the message is on disk. It needs a spool,
        or a client that sends immediately, and changes nothing in the message.
    :raises ValidationError: for a message that no server would accept. With `validation="raise"`
        also for values that JSON cannot represent, and for likely mistakes in event names.
    """

    def __init__(
        self,
        dialect: Dialect,
        *,
        now: Callable[[], float],
        new_id: Callable[[], str],
        library: Mapping[str, str],
        default_context: Properties | None = None,
        validation: Validation = "warn",
        advice: Callable[[str | None], Advice | None] | None = None,
        before_send: BeforeSend | None = None,
        note: Note = lambda _kind, _text: None,
    ) -> None:
        if validation not in ("off", "warn", "raise"):
            raise ConfigurationError(f"validation={validation!r} must be 'off', 'warn' or 'raise'")
        self.dialect = dialect
        self.before_send = None if before_send is None else BeforeSendHook(before_send)
        self._has_hooks = before_send is not None or dialect.prepare is not None
        # Empty with a hook, so that only then `_build` takes the slower path.
        self._prefixes = {
            kind: f'{{"type":"{kind}",' for kind in dialect.kinds if not self._has_hooks
        }
        # Cached because many messages have the same millisecond.
        self._cached_timestamps = lru_cache(maxsize=4)(
            lambda at: self._timestamps(milliseconds_text(at))
        )
        self._now = now
        self._new_id = new_id
        defaults = (
            {} if default_context is None else checked_mapping(default_context, "default_context")
        )
        # Serialised once and appended to each message: most calls have no context of their own.
        encoded, self._context_notes = dumps({"context": {"library": library, **defaults}})
        self._context_end = b"," + encoded[1:]
        self._context: dict[str, Any] = loads(encoded)["context"] or {}
        self._validation = validation
        self._advice = None if validation == "off" else advice
        self._note = note

    # ---- the six kinds ----------------------------------------------------------------------

    def identify(
        self,
        user_id: UserId | None = None,
        traits: Properties | None = None,
        context: Properties | None = None,
        timestamp: Timestamp | None = None,
        anonymous_id: UserId | None = None,
        integrations: Properties | None = None,
        message_id: str | None = None,
        *,
        schema_version: str | None = None,
        durable: bool = False,  # noqa: ARG002
    ) -> Message:
        """Set the traits of a person, and link their anonymous id to their user id."""
        given = {} if traits is None else {"traits": checked_mapping(traits, "traits")}
        email = None
        if self.dialect.email_identifies and user_id in (None, "") and anonymous_id in (None, ""):
            email = given.get("traits", {}).get("email")
        by_email = isinstance(email, str) and email != ""
        fields = {"userId": ""} if by_email else self._identity("identify", user_id, anonymous_id)
        fields |= given
        if schema_version is not None:
            self._set_version("identify", fields, schema_version)
        return self._build("identify", fields, context, timestamp, integrations, message_id)

    def track(
        self,
        user_id: UserId | None = None,
        event: str | SemanticEvent | None = None,
        properties: Properties | None = None,
        context: Properties | None = None,
        timestamp: Timestamp | None = None,
        anonymous_id: UserId | None = None,
        integrations: Properties | None = None,
        message_id: str | None = None,
        *,
        group_id: UserId | None = None,
        schema_version: str | None = None,
        durable: bool = False,  # noqa: ARG002
    ) -> Message:
        """Track an event.

        :param event: its name, or an event of `mixpanel.cdp.semantic`, which places its fields
            where the vendor reads them; `properties` are then added to it.
        :param group_id: the group or object that the event is about. At Customer.io no person is
            required then.
        """
        name, typed = event, None
        if type(name) is not str or not name or name.isspace():
            name, typed = _event_name(event)
        needs: Needs = "either"
        if typed is not None:
            self._check_action(typed)
            needs = typed.needs
        if user_id is None and needs == "either":
            alone = group_id is not None and self.dialect.group_alone
            needs = "none" if alone or name in self.dialect.no_user_events else needs
        fields = self._identity("track", user_id, anonymous_id, needs)
        fields["event"] = name
        if group_id is not None and not is_missing(group_id):
            fields["groupId"] = id_text(group_id, "group_id", self._note_id)
        if typed is not None:
            for path, value in typed.with_paths(_as_dict(properties, "properties")):
                set_path(fields, path, value)
        elif properties is not None:
            if type(properties) is not dict:
                properties = checked_mapping(properties, "properties")
            fields["properties"] = properties
        if schema_version is not None:
            self._set_version("track", fields, schema_version)
        return self._build("track", fields, context, timestamp, integrations, message_id)

    def page(
        self,
        user_id: UserId | None = None,
        category: str | None = None,
        name: str | None = None,
        properties: Properties | None = None,
        context: Properties | None = None,
        timestamp: Timestamp | None = None,
        anonymous_id: UserId | None = None,
        integrations: Properties | None = None,
        message_id: str | None = None,
        *,
        schema_version: str | None = None,
        durable: bool = False,  # noqa: ARG002
    ) -> Message:
        """Track a page view; `category` is sent as a property too."""
        fields = self._identity("page", user_id, anonymous_id) | _view_fields(
            category, name, properties
        )
        if schema_version is not None:
            self._set_version("page", fields, schema_version)
        return self._build("page", fields, context, timestamp, integrations, message_id)

    def screen(
        self,
        user_id: UserId | None = None,
        category: str | None = None,
        name: str | None = None,
        properties: Properties | None = None,
        context: Properties | None = None,
        timestamp: Timestamp | None = None,
        anonymous_id: UserId | None = None,
        integrations: Properties | None = None,
        message_id: str | None = None,
        *,
        schema_version: str | None = None,
        durable: bool = False,  # noqa: ARG002
    ) -> Message:
        """Track the view of an app's screen; `category` is sent as a property too."""
        fields = self._identity("screen", user_id, anonymous_id) | _view_fields(
            category, name, properties
        )
        if schema_version is not None:
            self._set_version("screen", fields, schema_version)
        return self._build("screen", fields, context, timestamp, integrations, message_id)

    def group(
        self,
        user_id: UserId | None = None,
        group_id: UserId | None = None,
        traits: Properties | None = None,
        context: Properties | None = None,
        timestamp: Timestamp | None = None,
        anonymous_id: UserId | None = None,
        integrations: Properties | None = None,
        message_id: str | None = None,
        *,
        schema_version: str | None = None,
        durable: bool = False,  # noqa: ARG002
    ) -> Message:
        """Add a person to a group, and set the traits of the group."""
        needs: Needs = "none" if self.dialect.group_alone else "either"
        fields = self._identity("group", user_id, anonymous_id, needs)
        fields["groupId"] = _required_id(group_id, "group_id", self._note_id)
        if traits is not None:
            fields["traits"] = checked_mapping(traits, "traits")
        if schema_version is not None:
            self._set_version("group", fields, schema_version)
        return self._build("group", fields, context, timestamp, integrations, message_id)

    def alias(
        self,
        previous_id: UserId | None = None,
        user_id: UserId | None = None,
        context: Properties | None = None,
        timestamp: Timestamp | None = None,
        integrations: Properties | None = None,
        message_id: str | None = None,
        *,
        durable: bool = False,  # noqa: ARG002
    ) -> Message:
        """Merge the person with the user or anonymous id `previous_id` into `user_id`."""
        user = _required_id(user_id, "user_id", self._note_id)
        previous = _required_id(previous_id, "previous_id", self._note_id)
        if user == previous:
            raise ValidationError(["previous_id and user_id are the same: nothing to merge"])
        fields = {"userId": user, "previousId": previous}
        return self._build("alias", fields, context, timestamp, integrations, message_id)

    def from_dict(self, message: Mapping[str, Any]) -> Message:
        """Compose a message given as a dict of the spec, `{"type": "track", …}`.

        `originalTimestamp` is used if there is no `timestamp`; fields that servers add are removed.

        :raises ValidationError: also for a field that this kind of message does not have.
        """
        kind = checked_mapping(message, "a message").get("type")
        if kind not in KINDS:
            known = ", ".join(map(repr, KINDS))
            raise ValidationError([f"the message's type must be one of {known}"])
        arguments = _ARGUMENTS[kind]
        known_fields = arguments.keys() | _SERVER_FIELDS | self.dialect.own_fields
        unknown = [name for name in message if name not in known_fields]
        if unknown:
            raise ValidationError([f"{kind} messages have no {name!r}" for name in unknown])
        given = {arguments[name]: message[name] for name in arguments if name in message}
        if is_missing(given.get("timestamp")):
            given["timestamp"] = message.get("originalTimestamp")
        composed: Message = getattr(self, kind)(**given)
        return composed

    # ---- the common fields ------------------------------------------------------------------

    def _check_action(self, event: SemanticEvent) -> None:
        if event.action and not self.dialect.actions:
            name = self.dialect.name
            problem = f"is an action of Customer.io; {name} would only store it as an event"
            raise ValidationError([f"{event.event_name!r} {problem}"])

    def _set_version(self, kind: Kind, fields: dict[str, Any], schema_version: str) -> None:
        path = self.dialect.version_path(kind)
        if path is None:
            raise ValidationError([f"{self.dialect.name} does not support schema_version"])
        set_path(fields, path, schema_version)

    def _build(
        self,
        kind: Kind,
        fields: dict[str, Any],
        context: Properties | None,
        timestamp: Timestamp | None,
        integrations: Properties | None,
        message_id: str | None,
    ) -> Message:
        """Serialise a message with the common fields; `fields` is modified.

        The JSON is assembled from three pieces: a prefix with the fields that need no escaping, the
        fields of this message, and the default context, which is serialised once per client.
        """
        prefix = self._prefixes.get(kind)
        if prefix is None:
            return self._build_with_hooks(
                kind, fields, context, timestamp, integrations, message_id
            )
        if message_id is None:
            final_id = self._new_id()
            prefix = f'{prefix}"messageId":"{final_id}",'
        else:
            fields["messageId"] = final_id = _required_id(message_id, "message_id", self._note_id)
        if timestamp is None or is_missing(timestamp):
            prefix += self._cached_timestamps(round(self._now() * 1e6) // 1000)
        else:
            prefix += self._timestamps(timestamp_text(timestamp))
        if integrations is not None:
            fields["integrations"] = dict(checked_mapping(integrations, "integrations"))
        if context or "context" in fields:
            fields["context"] = self._merged_context(context, fields.get("context"))
            rest, notes = dumps(fields)
            body = prefix.encode() + rest[1:]
        else:
            # Only these can hold arbitrary values; all other fields are text by now.
            free = fields.get("properties") or fields.get("traits") or _EMPTY
            rest, notes = dumps(fields, free if integrations is None else fields)
            body = prefix.encode() + rest[1:-1] + self._context_end
        advise = None if self._advice is None else self._advice(fields.get("event"))
        if advise is not None or notes or self._context_notes:
            fields.setdefault("context", self._context)
            self._report_problems(
                notes + self._context_notes, [] if advise is None else advise(fields)
            )
        return Message(kind, body, final_id)

    def _build_with_hooks(
        self,
        kind: Kind,
        fields: dict[str, Any],
        context: Properties | None,
        timestamp: Timestamp | None,
        integrations: Properties | None,
        message_id: str | None,
    ) -> Message:
        """Serialise a message after `before_send` and the dialect's `prepare` changed it."""
        if kind not in self.dialect.kinds:
            raise ValidationError([f"{self.dialect.name} does not support {kind} messages"])
        final_id = self._new_id() if message_id is None else _required_id(message_id, "message_id")
        at = now_text(self._now()) if timestamp is None else timestamp_text(timestamp)
        times = dict.fromkeys(self.dialect.timestamp_fields, at)
        message = {"type": kind, "messageId": final_id, **times, **fields}
        if integrations is not None:
            message["integrations"] = dict(checked_mapping(integrations, "integrations"))
        message["context"] = self._merged_context(context, fields.get("context"))
        advise = None if self._advice is None else self._advice(fields.get("event"))
        doubts = [] if advise is None else advise(message)
        notes = list(self._context_notes)
        if self.before_send is not None:
            # As JSON, so that the hook sees what is sent, and cannot change the caller's objects.
            body, lost = dumps(message)
            notes += lost
            changed, reason = self.before_send(kind, loads(body))
            if changed is None:
                return DroppedMessage(kind, body, final_id, reason)
            message = changed
        if self.dialect.prepare is not None:
            message = self.dialect.prepare(message)
        final_id = _required_id(message.get("messageId", final_id), "messageId")
        # The type is first, where `body_without_type` expects it.
        message = {"type": kind, **message, "messageId": final_id}
        message["type"] = kind
        body, lost = dumps(message)
        self._report_problems(notes + lost, doubts)
        return Message(kind, body, final_id)

    def _timestamps(self, timestamp: str) -> str:
        return "".join([f'"{name}":"{timestamp}",' for name in self.dialect.timestamp_fields])

    def _merged_context(
        self, context: Properties | None, from_event: Properties | None
    ) -> dict[str, Any]:
        merged = self._context
        if context:
            merged = {**merged, **checked_mapping(context, "context")}
        return merged if from_event is None else _merge_contexts(merged, from_event)

    def _identity(
        self,
        kind: Kind,
        user_id: UserId | None,
        anonymous_id: UserId | None,
        needs: Needs = "either",
    ) -> dict[str, Any]:
        """Return the ids of a message as its fields.

        :raises ValidationError: for an invalid id, or if a required one is missing.
        """
        if type(user_id) is str and user_id and not user_id.isspace():
            user: str | None = user_id  # as `id_text` returns it, without the calls
        else:
            user = id_text(user_id, "user_id", self._note_id)
        ids: dict[str, Any] = {} if user is None else {"userId": user}
        anonymous = None
        if anonymous_id is not None:
            anonymous = id_text(anonymous_id, "anonymous_id", self._note_id)
        if anonymous is not None:
            ids["anonymousId"] = anonymous
        elif user is None:
            if needs == "either":
                raise ValidationError([MISSING_ID.format(kind)])
            if needs == "placeholder":
                ids["anonymousId"] = PLACEHOLDER
        if needs == "user" and user is None:
            raise ValidationError(["this event requires a user_id: an anonymous id is not enough"])
        return ids

    def _note_id(self, text: str) -> None:
        self._report_problems([text], [])

    def _report_problems(self, notes: list[str], doubts: list[str]) -> None:
        if self._validation == "raise" and (doubts or notes):
            raise ValidationError(doubts + notes)
        if self._validation == "off":
            return
        for text in doubts:
            self._note("doubtful", text)
        for text in notes:
            self._note("coerced", text)


MISSING_ID = "{} requires a user_id or an anonymous_id"
PLACEHOLDER = "no-person"  # the anonymous id of messages about an object, which need some id
_EMPTY: dict[str, Any] = {}


def _event_name(event: Any) -> tuple[str, SemanticEvent | None]:
    """Return an event's name, and the event itself if it is a typed one."""
    typed = event if isinstance(event, SemanticEvent) else None
    name = event if typed is None else typed.event_name
    if name is None:
        raise ValidationError(["the event name is missing"])
    if not isinstance(name, str):
        raise ValidationError([f"the event name must be text, not {type(name).__name__}"])
    if not name or name.isspace():
        raise ValidationError(["the event name is empty"])
    return name, typed


def _required_id(
    given: UserId | None, what: str, note: Callable[[str], object] | None = None
) -> str:
    text = id_text(given, what, note)
    if text is None:
        raise ValidationError([f"{what} is missing"])
    return text


def _as_dict(given: Properties | None, what: str) -> dict[str, Any]:
    return {} if given is None else dict(checked_mapping(given, what))


def _view_fields(
    category: str | None, name: str | None, properties: Properties | None
) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    for what, text in (("category", category), ("name", name)):
        if text is not None:
            if not isinstance(text, str):
                raise ValidationError([f"{what} must be text, not {type(text).__name__}"])
            fields[what] = text
    copied = _as_dict(properties, "properties")
    if "category" in fields:
        copied.setdefault("category", category)
    return {**fields, **({"properties": copied} if copied else {})}


def _merge_contexts(base: Mapping[str, Any], override: Mapping[str, Any]) -> dict[str, Any]:
    """Return one context updated with another; objects in both are merged, one level deep."""
    merged = {**base, **override}
    for name, value in override.items():
        inner = base.get(name)
        if isinstance(inner, dict) and isinstance(value, dict):
            merged[name] = {**inner, **value}
    return merged
