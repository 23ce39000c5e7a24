"""Customer.io's own methods for people, devices and objects.

Four of them stop messages to a person, in different ways:

| method | effect | undone by |
|---|---|---|
| `unsubscribe` | keeps the person, stops mailings | `resubscribe` |
| `delete_person` | deletes the person | identifying them again |
| `suppress_person` | deletes the person and blocks their id | `unsuppress_person` |
| `delete_device` | keeps the person, stops push to one device | `register_device` |
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, TypedDict, Unpack

from mixpanel._records.record import Properties, checked_mapping
from mixpanel.cdp._segment.composer import SegmentComposer, _required_id
from mixpanel.cdp._segment.values import Timestamp, UserId, id_text
from mixpanel.cdp.semantic import (
    DeviceCreatedOrUpdated,
    DeviceDeleted,
    ObjectDeleted,
    RelationshipDeleted,
    ReportContentEvent,
    ReportDeliveryEvent,
    UserDeleted,
    UserSuppressed,
    UserUnsuppressed,
)
from mixpanel.exceptions import ValidationError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mixpanel.cdp._segment.message import Message

__all__ = ["CHANNELS", "CustomerIOComposer"]

CHANNELS = ("email", "sms", "push", "in_app", "whatsapp", "slack", "line", "inbox")
MAX_DIGITS = 20  # of an object type's number
_PREFERENCES = "cio_subscription_preferences"


class Options(TypedDict, total=False):
    """Keyword options of every method."""

    context: Properties | None
    timestamp: Timestamp | None
    integrations: Properties | None
    message_id: str | None
    durable: bool


class CustomerIOComposer(SegmentComposer):
    """Compose Customer.io's messages; every method takes the keyword `Options`.

    :raises ValidationError: for an invalid id, and for values that the API would ignore.
    """

    # ---- people -----------------------------------------------------------------------------

    def unsubscribe(self, user_id: UserId, **options: Unpack[Options]) -> Message:
        """Stop mailings to a person; their profile is kept."""
        return self.identify(self._user(user_id), {"unsubscribed": True}, **options)

    def resubscribe(self, user_id: UserId, **options: Unpack[Options]) -> Message:
        """Allow mailings to a person again."""
        return self.identify(self._user(user_id), {"unsubscribed": False}, **options)

    def set_preferences(
        self,
        user_id: UserId,
        *,
        topics: Mapping[int | str, bool] | None = None,
        channels: Mapping[str, bool] | None = None,
        **options: Unpack[Options],
    ) -> Message:
        """Change some of a person's subscription preferences; the others stay as they are.

        :param topics: topics by number, `{1: True}`, or by name, `{"topic_1": True}`.
        :param channels: channels by name: email, sms, push, in_app, whatsapp, slack, line, inbox.
        """
        preferences: dict[str, Any] = {}
        for topic, wanted in checked_mapping(topics or {}, "topics").items():
            name = str(topic).removeprefix("topic_")
            if not name.isdecimal():
                raise ValidationError([f"topic {topic!r} must be a number or topic_<number>"])
            preferences[f"{_PREFERENCES}.topics.topic_{name}"] = wanted
        for channel, wanted in checked_mapping(channels or {}, "channels").items():
            if channel not in CHANNELS:
                known = ", ".join(CHANNELS)
                raise ValidationError([f"channel {channel!r} is unknown; choose one of {known}"])
            preferences[f"{_PREFERENCES}.channels.{channel}"] = wanted
        if not preferences:
            raise ValidationError(["there is nothing to change: pass topics or channels"])
        for name, wanted in preferences.items():
            if not isinstance(wanted, bool):
                raise ValidationError([f"{name} must be True or False"])
        return self.identify(self._user(user_id), preferences, **options)

    def delete_person(self, user_id: UserId, **options: Unpack[Options]) -> Message:
        """Delete a person, by id or email. Identifying them again creates them anew."""
        return self.track(user_id, UserDeleted(), **options)

    def suppress_person(self, user_id: UserId, **options: Unpack[Options]) -> Message:
        """Delete a person and block their id, as privacy law may require.

        To only stop mailings, use `unsubscribe`.
        """
        return self.track(user_id, UserSuppressed(), **options)

    def unsuppress_person(self, user_id: UserId, **options: Unpack[Options]) -> Message:
        """Unblock the id of a suppressed person; deleted data is not restored."""
        return self.track(user_id, UserUnsuppressed(), **options)

    def merge(self, primary: UserId, secondary: UserId, **options: Unpack[Options]) -> Message:
        """Merge the person `secondary` into the person `primary`; this cannot be undone."""
        return self.alias(secondary, primary, **options)

    def _user(self, user_id: UserId) -> str:
        return _required_id(user_id, "user_id", self._note_id)

    # ---- devices ----------------------------------------------------------------------------

    def register_device(
        self,
        user_id: UserId,
        token: str,
        platform: Literal["ios", "android"],
        attributes: Properties | None = None,
        **options: Unpack[Options],
    ) -> Message:
        """Register a device for push notifications, or change its attributes."""
        device = DeviceCreatedOrUpdated(token=token, type=platform)
        return self.track(user_id, device, attributes, **options)

    def delete_device(self, user_id: UserId, token: str, **options: Unpack[Options]) -> Message:
        """Stop push notifications to one device."""
        return self.track(user_id, DeviceDeleted(token=token), **options)

    # ---- objects ----------------------------------------------------------------------------

    def set_object(
        self,
        object_id: UserId,
        traits: Properties | None = None,
        *,
        object_type_id: int | str = 1,
        **options: Unpack[Options],
    ) -> Message:
        """Create an object, such as a company or a course, or change its traits."""
        return self.group(None, object_id, self._with_type_id(traits, object_type_id), **options)

    def relate(
        self,
        user_id: UserId,
        object_id: UserId,
        relationship: Properties | None = None,
        *,
        object_type_id: int | str = 1,
        **options: Unpack[Options],
    ) -> Message:
        """Relate a person to an object.

        :param relationship: attributes of the relationship, such as the person's role.
        """
        traits = self._with_type_id(None, object_type_id)
        if relationship is not None:
            traits["relationshipAttributes"] = dict(checked_mapping(relationship, "relationship"))
        return self.group(self._user(user_id), object_id, traits, **options)

    def unrelate(
        self,
        user_id: UserId,
        object_id: UserId,
        *,
        object_type_id: int | str = 1,
        **options: Unpack[Options],
    ) -> Message:
        """Delete the relationship between a person and an object."""
        type_id = int(self._type_id(object_type_id))
        deleted = RelationshipDeleted(object_id=self._object_id(object_id), object_type_id=type_id)
        return self.track(user_id, deleted, **options)

    def delete_object(
        self, object_id: UserId, *, object_type_id: int | str = 1, **options: Unpack[Options]
    ) -> Message:
        """Delete an object; an unknown one is ignored."""
        type_id = int(self._type_id(object_type_id))
        deleted = ObjectDeleted(object_id=self._object_id(object_id), object_type_id=type_id)
        return self.track(None, deleted, **options)

    def _object_id(self, object_id: UserId) -> str:
        return _required_id(object_id, "object_id", self._note_id)

    def _type_id(self, object_type_id: int | str) -> str:
        text = id_text(object_type_id, "object_type_id", self._note_id) or ""
        if not (text.isascii() and text.isdecimal() and len(text) < MAX_DIGITS):
            raise ValidationError([f"object_type_id must be a whole number, not {text!r}"])
        return text

    def _with_type_id(self, traits: Properties | None, object_type_id: int | str) -> dict[str, Any]:
        # In the traits, because the API ignores it at the top of the message and assumes type 1.
        type_id = self._type_id(object_type_id)
        return {**checked_mapping(traits or {}, "traits"), "object_type_id": type_id}

    # ---- reports ----------------------------------------------------------------------------

    def report_delivery(self, report: ReportDeliveryEvent, **options: Unpack[Options]) -> Message:
        """Report a metric of a message on any channel; `timestamp` is when it happened."""
        return self.track(None, report, **options)

    def report_content(self, report: ReportContentEvent, **options: Unpack[Options]) -> Message:
        """Report that an anonymous in-app message was viewed or clicked."""
        return self.track(None, report, **options)
