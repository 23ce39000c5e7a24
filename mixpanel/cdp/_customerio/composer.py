"""Customer.io's verbs: people, devices, objects, each in the shape that its API reads.

Four verbs end what a person gets, and none stands for another:

| verb | what it does | way back |
|---|---|---|
| `unsubscribe` | keeps the person, sends no more mailings | `resubscribe` |
| `delete_person` | forgets the person | they return when they are identified again |
| `suppress_person` | forgets the person and refuses their id from now on | `unsuppress_person` |
| `delete_device` | keeps the person, sends no more push to one device | `register_device` |
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, TypedDict, Unpack

from mixpanel._records.record import Properties, mapping
from mixpanel.cdp._segment.composer import SegmentComposer
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
_PREFERENCES = "cio_subscription_preferences"


class Options(TypedDict, total=False):
    """What any call takes by name."""

    context: Properties | None
    timestamp: Timestamp | None
    integrations: Properties | None
    message_id: str | None


class CustomerIOComposer(SegmentComposer):
    """Make Customer.io's messages; each verb takes the `Options` of any call.

    :raises ValidationError: for an id that is none, and for what the API would not read.
    """

    # ---- people -----------------------------------------------------------------------------

    def unsubscribe(self, user_id: UserId, **options: Unpack[Options]) -> Message:
        """Send a person no more mailings; they stay, and so does what is known of them."""
        return self.identify(_required_user_id(user_id), {"unsubscribed": True}, **options)

    def resubscribe(self, user_id: UserId, **options: Unpack[Options]) -> Message:
        """Send a person mailings again."""
        return self.identify(_required_user_id(user_id), {"unsubscribed": False}, **options)

    def set_preferences(
        self,
        user_id: UserId,
        *,
        topics: Mapping[int | str, bool] | None = None,
        channels: Mapping[str, bool] | None = None,
        **options: Unpack[Options],
    ) -> Message:
        """Change some of what a person wants to hear of, and leave their other choices alone.

        :param topics: by number, `{1: True}`, or by name, `{"topic_1": True}`.
        :param channels: by name, one of `CHANNELS`.
        """
        chosen: dict[str, Any] = {}
        for topic, wanted in mapping(topics or {}, "topics").items():
            name = str(topic).removeprefix("topic_")
            if not name.isdecimal():
                raise ValidationError(
                    [f"topic {topic!r} must be a number, or named topic_<number>"]
                )
            chosen[f"{_PREFERENCES}.topics.topic_{name}"] = wanted
        for channel, wanted in mapping(channels or {}, "channels").items():
            if channel not in CHANNELS:
                known = ", ".join(CHANNELS)
                raise ValidationError([f"channel {channel!r} is unknown; choose one of {known}"])
            chosen[f"{_PREFERENCES}.channels.{channel}"] = wanted
        if not chosen:
            raise ValidationError(["give topics or channels: there is nothing to change"])
        for name, wanted in chosen.items():
            if not isinstance(wanted, bool):
                raise ValidationError([f"{name} must be True or False"])
        return self.identify(_required_user_id(user_id), chosen, **options)

    def delete_person(self, user_id: UserId, **options: Unpack[Options]) -> Message:
        """Forget a person, by id or email. They return when they are identified again."""
        return self.track(user_id, UserDeleted(), **options)

    def suppress_person(self, user_id: UserId, **options: Unpack[Options]) -> Message:
        """Forget a person and refuse their id from now on, as privacy law may ask.

        To merely stop mailings, `unsubscribe`.
        """
        return self.track(user_id, UserSuppressed(), **options)

    def unsuppress_person(self, user_id: UserId, **options: Unpack[Options]) -> Message:
        """Let a suppressed person return; what was forgotten stays forgotten."""
        return self.track(user_id, UserUnsuppressed(), **options)

    def merge(self, kept: UserId, gone: UserId, **options: Unpack[Options]) -> Message:
        """Merge the person `gone` into the person `kept`; there is no way back."""
        return self.alias(gone, kept, **options)

    # ---- devices ----------------------------------------------------------------------------

    def register_device(
        self,
        user_id: UserId,
        token: str,
        platform: Literal["ios", "android"],
        attributes: Properties | None = None,
        **options: Unpack[Options],
    ) -> Message:
        """Register a device for push, or change its attributes."""
        device = DeviceCreatedOrUpdated(token=token, type=platform)
        return self.track(user_id, device, attributes, **options)

    def delete_device(self, user_id: UserId, token: str, **options: Unpack[Options]) -> Message:
        """Send no more push to one device."""
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
        return self.group(None, object_id, _with_type_id(traits, object_type_id), **options)

    def relate(
        self,
        user_id: UserId,
        object_id: UserId,
        relationship: Properties | None = None,
        *,
        object_type_id: int | str = 1,
        **options: Unpack[Options],
    ) -> Message:
        """Put a person into an object; `relationship` says as what, such as their role."""
        traits = _with_type_id(None, object_type_id)
        if relationship is not None:
            traits["relationshipAttributes"] = dict(mapping(relationship, "relationship"))
        return self.group(_required_user_id(user_id), object_id, traits, **options)

    def unrelate(
        self,
        user_id: UserId,
        object_id: str | int,
        *,
        object_type_id: int = 1,
        **options: Unpack[Options],
    ) -> Message:
        """Take a person out of an object."""
        ended = RelationshipDeleted(object_id=object_id, object_type_id=_type_id(object_type_id))
        return self.track(user_id, ended, **options)

    def delete_object(
        self, object_id: UserId, *, object_type_id: int | str = 1, **options: Unpack[Options]
    ) -> Message:
        """Delete an object; an unknown one is passed over."""
        gone = ObjectDeleted(object_id=object_id, object_type_id=_type_id(object_type_id))
        return self.track(None, gone, **options)

    # ---- reports ----------------------------------------------------------------------------

    def report_delivery(self, report: ReportDeliveryEvent, **options: Unpack[Options]) -> Message:
        """Report what became of an email, text or push; when, says `timestamp`."""
        return self.track(None, report, **options)

    def report_content(self, report: ReportContentEvent, **options: Unpack[Options]) -> Message:
        """Report that an anonymous in-app message was seen or clicked."""
        return self.track(None, report, **options)


def _required_user_id(user_id: UserId) -> str:
    text = id_text(user_id, "user_id")
    if text is None:
        raise ValidationError(["user_id is missing"])
    return text


def _type_id(object_type_id: int | str) -> str:
    text = id_text(object_type_id, "object_type_id") or ""
    if not text.isdecimal():
        raise ValidationError([f"object_type_id must be the number of a type, not {text!r}"])
    return text


def _with_type_id(traits: Properties | None, object_type_id: int | str) -> dict[str, Any]:
    # Inside the traits: at the top of the message it would be ignored, and the type be 1.
    return {**mapping(traits or {}, "traits"), "object_type_id": _type_id(object_type_id)}
