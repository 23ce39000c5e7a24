"""Customer.io's methods send each id where its API reads it."""

import json

import pytest

from mixpanel import ValidationError
from mixpanel.cdp import CUSTOMERIO, CustomerIOComposer
from mixpanel.cdp._customerio.composer import CHANNELS

LIBRARY = {"name": "x"}
CONTEXT = {"library": LIBRARY}


@pytest.fixture
def cio():
    return CustomerIOComposer(CUSTOMERIO, now=lambda: 0.0, new_id=lambda: "ID", library=LIBRARY)


def sent(message):
    return json.loads(message.body)


def own(message):
    """Return the fields of a message without the common ones."""
    body = sent(message)
    return {k: v for k, v in body.items() if k not in ("messageId", "timestamp")}


def event(name, **rest):
    return {"type": "track", "event": name, "context": CONTEXT, **rest}


OBJECT = {"objectId": "acme", "objectTypeId": 2}
CALLS = [
    (lambda c: c.delete_person("u"), event("User Deleted", userId="u")),
    (lambda c: c.suppress_person("u"), event("User Suppressed", userId="u")),
    (lambda c: c.unsuppress_person(0), event("User Unsuppressed", userId="0")),
    (
        lambda c: c.unsubscribe("u"),
        {"type": "identify", "userId": "u", "traits": {"unsubscribed": True}, "context": CONTEXT},
    ),
    (
        lambda c: c.resubscribe("u"),
        {"type": "identify", "userId": "u", "traits": {"unsubscribed": False}, "context": CONTEXT},
    ),
    (
        lambda c: c.merge("kept", "gone"),
        {"type": "alias", "userId": "kept", "previousId": "gone", "context": CONTEXT},
    ),
    (
        lambda c: c.register_device("u", "tok", "ios", {"model": "m"}),
        event(
            "Device Created or Updated",
            userId="u",
            context={**CONTEXT, "device": {"token": "tok", "type": "ios", "model": "m"}},
        ),
    ),
    (
        lambda c: c.delete_device("u", "tok"),
        event("Device Deleted", userId="u", context={**CONTEXT, "device": {"token": "tok"}}),
    ),
    (
        lambda c: c.set_object("acme", {"size": 3}, object_type_id=2),
        {
            "type": "group",
            "groupId": "acme",
            "traits": {"size": 3, "object_type_id": "2"},
            "context": CONTEXT,
        },
    ),
    (
        lambda c: c.relate("u", "acme", {"role": "owner"}),
        {
            "type": "group",
            "userId": "u",
            "groupId": "acme",
            "traits": {"object_type_id": "1", "relationshipAttributes": {"role": "owner"}},
            "context": CONTEXT,
        },
    ),
    (
        lambda c: c.unrelate("u", "acme", object_type_id=2),
        event("Relationship Deleted", userId="u", properties=OBJECT),
    ),
    (
        lambda c: c.delete_object("acme", object_type_id="2"),
        event("Object Deleted", anonymousId="no-person", groupId="acme", properties=OBJECT),
    ),
]


@pytest.mark.parametrize(("call", "expected"), CALLS)
def test_each_customerio_method_composes_what_the_api_reads(cio, call, expected):
    """The type of an object is sent in its traits: elsewhere it would be ignored."""
    assert expected == own(call(cio))


def test_unsubscribe_does_not_delete_the_person(cio):
    """Three methods send three clearly different messages."""
    verbs = [cio.unsubscribe, cio.delete_person, cio.suppress_person]
    values = [own(verb("u")) for verb in verbs]
    assert [None, "User Deleted", "User Suppressed"] == [each.get("event") for each in values]
    assert [{"unsubscribed": True}, None, None] == [each.get("traits") for each in values]


def test_set_preferences_changes_only_the_given_ones(cio):
    """By flat names, which leave the other preferences as they are."""
    message = sent(
        cio.set_preferences("u", topics={1: True, "topic_2": False}, channels={"sms": False})
    )
    assert {
        "cio_subscription_preferences.topics.topic_1": True,
        "cio_subscription_preferences.topics.topic_2": False,
        "cio_subscription_preferences.channels.sms": False,
    } == message["traits"]
    for channel in CHANNELS:
        cio.set_preferences("u", channels={channel: True})


def test_customerio_methods_take_the_common_options(cio):
    """Such as a timestamp for a backfill, and an id that is shared with other sinks."""
    message = sent(cio.delete_person("u", timestamp="2020-01-01", message_id="m"))
    assert ("2020-01-01T00:00:00.000Z", "m") == (message["timestamp"], message["messageId"])


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda c: c.suppress_person(None), "requires a user_id"),
        (lambda c: c.delete_person(""), "user_id is empty"),
        (lambda c: c.unsubscribe(None), "user_id is missing"),
        (lambda c: c.relate(None, "acme"), "user_id is missing"),
        (lambda c: c.merge("u", "u"), "nothing to merge"),
        (lambda c: c.register_device("u", "", "web"), "one of 'android', 'ios'"),
        (lambda c: c.set_object("acme", object_type_id="company"), "must be a whole number"),
        (lambda c: c.set_object("acme", object_type_id=True), "object_type_id must be"),
        (lambda c: c.set_preferences("u"), "nothing to change"),
        (lambda c: c.set_preferences("u", topics={"news": True}), "topic 'news' must be a number"),
        (lambda c: c.set_preferences("u", channels={"fax": True}), "'fax' is unknown"),
        (lambda c: c.set_preferences("u", channels={"sms": "no"}), "must be True or False"),
    ],
)
def test_values_that_the_api_would_ignore_are_rejected(cio, call, words):
    """At the call, with a message."""
    with pytest.raises(ValidationError, match=words):
        call(cio)
