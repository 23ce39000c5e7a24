"""What travels to a customer data platform: the six messages of the Segment spec.

The composer checks a call, fills in what every message carries and writes the JSON at once, so
that errors surface at the caller's line, later changes to the given dicts are not seen, and the
`messageId` by which the server knows a repetition never changes. Nothing that was given is
changed.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any

from mixpanel._records.encoding import loads
from mixpanel._records.record import Properties, Record, mapping
from mixpanel.cdp._segment.dialect import KINDS, Dialect, Kind
from mixpanel.cdp._segment.typed_events import Needs, SemanticEvent, place
from mixpanel.cdp._segment.values import (
    Moment,
    UserId,
    dumps,
    id_text,
    milliseconds_text,
    moment_text,
)
from mixpanel.exceptions import ConfigurationError, ValidationError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from mixpanel._records.record import Note, Validation
    from mixpanel.cdp._customerio.name_advice import Advice
    from mixpanel.credentials import Authority

__all__ = ["Message", "SegmentComposer"]

# What each kind may hold on the wire, and which argument it is.
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
_POSITIONAL: dict[Kind, tuple[str, ...]] = {
    "identify": (),
    "track": ("user_id", "event"),
    "page": (),
    "screen": (),
    "group": ("user_id", "group_id"),
    "alias": ("previous_id", "user_id"),
}
_SERVERS = frozenset({"type", "originalTimestamp", "receivedAt", "sentAt", "version"})


class Message(Record):
    """One message of the spec, ready to travel: alone to its own endpoint, or in a batch.

    `kind` is its type and `message_id` what the server knows a repetition by, so it may be sent
    again freely. In a buffer it lies in a lane of its own, "batch".
    """

    __slots__ = ("kind", "message_id")

    def __init__(self, kind: Kind, body: bytes, message_id: str) -> None:
        # As a record's own, written out: this is made for every call.
        self.endpoint = "batch"
        self.body = body
        self.repeatable = True
        self.auth: Authority | None = None
        self.kind: Kind = kind
        self.message_id: str = message_id

    @property
    def untyped(self) -> bytes:
        """Return the body without its beginning, the type: a direct endpoint's path says that."""
        return self.body[len(f'{{"type":"{self.kind}",') :]

    def __repr__(self) -> str:
        return f"<Message {self.kind} {self.message_id} {len(self.body)} bytes>"


class SegmentComposer:
    """Make messages of calls; pure but for the clock and the ids that it is given.

    Positional arguments stand in the order of Segment's own library for Python. Every call takes

    :param context: merged over `default_context`, name by name.
    :param timestamp: when it happened, if not now: see `moment_text`. Naive datetimes are UTC.
    :param anonymous_id: who it was before we knew; at least one of the two ids is needed.
    :param integrations: which destinations to send it on to, by name; `"All": False` turns the
        rest off.
    :param message_id: the message's own id, when it has one already.
    :param schema_version: the version of its contract, where there are contracts.
    :raises ValidationError: at once, for what no server would keep. In mode `validation="raise"`
        also for what loses something on the way to JSON, and for doubtful event names.
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
        note: Note = lambda _kind, _text: None,
    ) -> None:
        if validation not in ("off", "warn", "raise"):
            raise ConfigurationError(f"validation={validation!r} must be 'off', 'warn' or 'raise'")
        self.dialect = dialect
        self._fronts = {kind: f'{{"type":"{kind}",' for kind in dialect.kinds}
        # Remembered, as many messages are of the same millisecond.
        self._stamp_of = lru_cache(maxsize=4)(lambda at: self._stamp(milliseconds_text(at)))
        self._now = now
        self._new_id = new_id
        defaults = {} if default_context is None else mapping(default_context, "default_context")
        # Written once: most calls add nothing to it.
        written, self._context_notes = dumps({"context": {"library": library, **defaults}})
        self._context_end = b"," + written[1:]
        self._context: dict[str, Any] = loads(written)["context"] or {}
        self._validation = validation
        self._advice = None if validation == "off" else advice
        self._note = note

    # ---- the six kinds ----------------------------------------------------------------------

    def identify(
        self,
        user_id: UserId | None = None,
        traits: Properties | None = None,
        context: Properties | None = None,
        timestamp: Moment | None = None,
        anonymous_id: UserId | None = None,
        integrations: Properties | None = None,
        message_id: str | None = None,
        *,
        schema_version: str | None = None,
    ) -> Message:
        """Say who a person is, and what is known of them."""
        given = {} if traits is None else {"traits": mapping(traits, "traits")}
        email = None
        if self.dialect.email_identifies and user_id in (None, "") and anonymous_id in (None, ""):
            email = given.get("traits", {}).get("email")
        by_email = isinstance(email, str) and email != ""
        own = {"userId": ""} if by_email else _about("identify", user_id, anonymous_id)
        own |= given
        if schema_version is not None:
            self._tell_version("identify", own, schema_version)
        return self._sealed("identify", own, context, timestamp, integrations, message_id)

    def track(
        self,
        user_id: UserId | None,
        event: str | SemanticEvent,
        properties: Properties | None = None,
        context: Properties | None = None,
        timestamp: Moment | None = None,
        anonymous_id: UserId | None = None,
        integrations: Properties | None = None,
        message_id: str | None = None,
        *,
        group_id: UserId | None = None,
        schema_version: str | None = None,
    ) -> Message:
        """Say that a person did something.

        :param event: its name, or one of `mixpanel.cdp.semantic`, which knows where its fields
            belong; `properties` are then added to it.
        :param group_id: the group or object that it is about; where the dialect takes a group
            alone, no person is needed then.
        """
        name, known = event, None
        if type(name) is not str or not name or name.isspace():
            name, known = _told(event)
        needs: Needs = "either"
        if known is not None:
            self._allow(known)
            needs = known.needs
        if user_id is None and needs == "either":
            alone = group_id is not None and self.dialect.group_alone
            needs = "none" if alone or name in self.dialect.about_nobody else needs
        own = _about("track", user_id, anonymous_id, needs)
        own["event"] = name
        if group_id is not None:
            own["groupId"] = id_text(group_id, "group_id")
        if known is not None:
            for path, value in known.placed(_object(properties, "properties")):
                place(own, path, value)
        elif properties is not None:
            if type(properties) is not dict:
                properties = mapping(properties, "properties")
            own["properties"] = properties
        if schema_version is not None:
            self._tell_version("track", own, schema_version)
        return self._sealed("track", own, context, timestamp, integrations, message_id)

    def page(
        self,
        user_id: UserId | None = None,
        category: str | None = None,
        name: str | None = None,
        properties: Properties | None = None,
        context: Properties | None = None,
        timestamp: Moment | None = None,
        anonymous_id: UserId | None = None,
        integrations: Properties | None = None,
        message_id: str | None = None,
        *,
        schema_version: str | None = None,
    ) -> Message:
        """Say that a person looked at a page; `category` is sent as a property too."""
        own = _about("page", user_id, anonymous_id) | _viewed(category, name, properties)
        if schema_version is not None:
            self._tell_version("page", own, schema_version)
        return self._sealed("page", own, context, timestamp, integrations, message_id)

    def screen(
        self,
        user_id: UserId | None = None,
        category: str | None = None,
        name: str | None = None,
        properties: Properties | None = None,
        context: Properties | None = None,
        timestamp: Moment | None = None,
        anonymous_id: UserId | None = None,
        integrations: Properties | None = None,
        message_id: str | None = None,
        *,
        schema_version: str | None = None,
    ) -> Message:
        """Say that a person looked at a screen of an app; `category` is sent as a property too."""
        own = _about("screen", user_id, anonymous_id) | _viewed(category, name, properties)
        if schema_version is not None:
            self._tell_version("screen", own, schema_version)
        return self._sealed("screen", own, context, timestamp, integrations, message_id)

    def group(
        self,
        user_id: UserId | None,
        group_id: UserId,
        traits: Properties | None = None,
        context: Properties | None = None,
        timestamp: Moment | None = None,
        anonymous_id: UserId | None = None,
        integrations: Properties | None = None,
        message_id: str | None = None,
        *,
        schema_version: str | None = None,
    ) -> Message:
        """Say that a person belongs to a group, and what is known of the group."""
        needs: Needs = "none" if self.dialect.group_alone else "either"
        own = _about("group", user_id, anonymous_id, needs)
        own["groupId"] = _needed(group_id, "group_id")
        if traits is not None:
            own["traits"] = mapping(traits, "traits")
        if schema_version is not None:
            self._tell_version("group", own, schema_version)
        return self._sealed("group", own, context, timestamp, integrations, message_id)

    def alias(
        self,
        previous_id: UserId,
        user_id: UserId,
        context: Properties | None = None,
        timestamp: Moment | None = None,
        integrations: Properties | None = None,
        message_id: str | None = None,
    ) -> Message:
        """Merge the person `previous_id`, by user or anonymous id, into `user_id`, who stays."""
        kept, gone = _needed(user_id, "user_id"), _needed(previous_id, "previous_id")
        if kept == gone:
            raise ValidationError(["previous_id and user_id are the same: nothing to merge"])
        own = {"userId": kept, "previousId": gone}
        return self._sealed("alias", own, context, timestamp, integrations, message_id)

    def wire(self, message: Mapping[str, Any]) -> Message:
        """Complete a message that already has the wire's shape, `{"type": "track", …}`.

        `originalTimestamp` stands in for a missing `timestamp`; what servers add is left out.

        :raises ValidationError: also for a name that this kind of message does not have.
        """
        kind = mapping(message, "a message").get("type")
        if kind not in KINDS:
            known = ", ".join(map(repr, KINDS))
            raise ValidationError([f"a message needs its type, one of {known}"])
        arguments = _ARGUMENTS[kind]
        strange = [name for name in message if name not in arguments and name not in _SERVERS]
        if strange:
            raise ValidationError([f"{kind} messages have no {name!r}" for name in strange])
        given = dict.fromkeys(_POSITIONAL[kind])
        given |= {arguments[name]: message[name] for name in arguments if name in message}
        if given.get("timestamp") is None:
            given["timestamp"] = message.get("originalTimestamp")
        composed: Message = getattr(self, kind)(**given)
        return composed

    # ---- the common end ---------------------------------------------------------------------

    def _allow(self, event: SemanticEvent) -> None:
        if event.action and not self.dialect.actions:
            name = self.dialect.name
            why = f"is an action of Customer.io: {name} would keep it as any event and do nothing"
            raise ValidationError([f"{event.event_name!r} {why}"])

    def _tell_version(self, kind: Kind, own: dict[str, Any], schema_version: str) -> None:
        path = self.dialect.version_path(kind)
        if path is None:
            raise ValidationError([f"{self.dialect.name} knows no versions of contracts"])
        place(own, path, schema_version)

    def _sealed(
        self,
        kind: Kind,
        own: dict[str, Any],
        context: Properties | None,
        timestamp: Moment | None,
        integrations: Properties | None,
        message_id: str | None,
    ) -> Message:
        """Write what every message carries around its `own`, which may be added to."""
        front = self._fronts.get(kind)
        if front is None:
            raise ValidationError([f"{self.dialect.name} takes no {kind} messages"])
        if message_id is None:
            told = self._new_id()
            front = f'{front}"messageId":"{told}",'
        else:
            own["messageId"] = told = _needed(message_id, "message_id")
        if timestamp is None:
            front += self._stamp_of(round(self._now() * 1e6) // 1000)
        else:
            front += self._stamp(moment_text(timestamp))
        if integrations is not None:
            own["integrations"] = dict(mapping(integrations, "integrations"))
        if context or "context" in own:
            own["context"] = self._around(context, own.get("context"))
            rest, notes = dumps(own)
            body = front.encode() + rest[1:]
        else:
            free = own.get("properties") or own.get("traits") or _NOTHING  # the rest is text
            rest, notes = dumps(own, free if integrations is None else own)
            body = front.encode() + rest[1:-1] + self._context_end
        advise = None if self._advice is None else self._advice(own.get("event"))
        if advise is not None or notes or self._context_notes:
            own.setdefault("context", self._context)
            self._complain(notes + self._context_notes, [] if advise is None else advise(own))
        return Message(kind, body, told)

    def _stamp(self, moment: str) -> str:
        return "".join([f'"{name}":"{moment}",' for name in self.dialect.moments])

    def _around(self, context: Properties | None, own: Properties | None) -> dict[str, Any]:
        around = self._context
        if context:
            around = {**around, **mapping(context, "context")}
        return around if own is None else _over(around, own)

    def _complain(self, notes: list[str], doubts: list[str]) -> None:
        if self._validation == "raise" and (doubts or notes):
            raise ValidationError(doubts + notes)
        if self._validation == "off":
            return
        for text in doubts:
            self._note("doubtful", text)
        for text in notes:
            self._note("coerced", text)


PLACEHOLDER = "no-person"
_NOTHING: dict[str, Any] = {}


def _about(
    kind: Kind, user_id: UserId | None, anonymous_id: UserId | None, needs: Needs = "either"
) -> dict[str, Any]:
    """Return how a message says whom it is about."""
    user = id_text(user_id, "user_id")
    about: dict[str, Any] = {} if user is None else {"userId": user}
    if anonymous_id is not None:
        about["anonymousId"] = id_text(anonymous_id, "anonymous_id")
    elif user is None:
        if needs == "either":
            raise ValidationError([f"{kind} needs a user_id or an anonymous_id: whom is it about?"])
        if needs == "placeholder":
            about["anonymousId"] = PLACEHOLDER
    if needs == "user" and user is None:
        raise ValidationError(["this event needs a user_id: an anonymous id is not enough"])
    return about


def _told(event: Any) -> tuple[str, SemanticEvent | None]:
    """Return an event's name, and the event itself when it is a semantic one."""
    known = event if isinstance(event, SemanticEvent) else None
    name = event if known is None else known.event_name
    if not isinstance(name, str):
        raise ValidationError([f"the event name must be text, not {type(name).__name__}"])
    if not name or name.isspace():
        raise ValidationError(["the event name is empty"])
    return name, known


def _needed(given: UserId | None, what: str) -> str:
    text = id_text(given, what)
    if text is None:
        raise ValidationError([f"{what} is missing"])
    return text


def _object(given: Properties | None, what: str) -> dict[str, Any]:
    return {} if given is None else dict(mapping(given, what))


def _viewed(
    category: str | None, name: str | None, properties: Properties | None
) -> dict[str, Any]:
    told: dict[str, Any] = {}
    for what, text in (("category", category), ("name", name)):
        if text is not None:
            if not isinstance(text, str):
                raise ValidationError([f"{what} must be text, not {type(text).__name__}"])
            told[what] = text
    own = _object(properties, "properties")
    if "category" in told:
        own.setdefault("category", category)
    return {**told, **({"properties": own} if own else {})}


def _over(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Lay one context over another; objects that both have are joined."""
    join_bodies = {**below, **above}
    for name, value in above.items():
        under = below.get(name)
        if isinstance(under, dict) and isinstance(value, dict):
            join_bodies[name] = {**under, **value}
    return join_bodies
