"""The 72 semantic events: their names, their fields, and where in a message each field goes."""

import ast
import json
from datetime import date
from decimal import Decimal
from pathlib import Path
from uuid import UUID

import pytest

from mixpanel import ValidationError
from mixpanel.cdp import (
    CUSTOMERIO,
    HIGHTOUCH,
    SegmentComposer,
    SemanticEvent,
    did_you_mean,
    semantic,
)
from mixpanel.cdp._customerio.name_advice import advice
from mixpanel.cdp.semantic import EVENTS, Product

# The vendor's reference, event by event and written down on its own: fields are properties unless
# a path says otherwise, `!` marks the required ones, capitals stand for a group of fields.
P = "product_id sku category name brand variant price quantity coupon position url image_url"
O = "order_id affiliation revenue shipping tax discount coupon currency products"  # noqa: E741
STEP = "checkout_id step shipping_method payment_method"
PROMOTION = "promotion_id creative name position"
SHARED = "share_via share_message recipient"
MAIL = "email_id! email_subject campaign_id campaign_name context.traits.email"
READ = f"{MAIL} context.traits.ip context.traits.user_agent"
CHAT = "agent_id agent_name agent_username conversation_id conversation_duration message_id"
PLAYER = (
    "session_id ad_asset_id ad_pod_id ad_type position total_length bitrate framerate "
    "video_player sound full_screen ad_enabled quality livestream"
)
PLAYBACK = f"{PLAYER} content_asset_id content_pod_id"
CONTENT = (
    "session_id asset_id pod_id program title description season position total_length genre "
    "publisher channel full_episode livestream airdate bitrate framerate keywords"
)
AD = (
    "session_id asset_id pod_id pod_position pod_length type title position total_length "
    "publisher load_type content quartile"
)
REFERENCE = {
    "Device Created or Updated": "context.device.token! context.device.type!",
    "Device Deleted": "context.device.token! context.device.type",
    "User Deleted": "",
    "User Suppressed": "",
    "User Unsuppressed": "",
    "Object Deleted": "objectId! groupId! objectTypeId",
    "Relationship Deleted": "objectId! objectTypeId",
    "Report Delivery Event": ("deliveryId! metric! recipient reason actionName actionValue href"),
    "Report Content Event": "actionType! activityType! contentId templateId",
    "Experiment Viewed": "experiment_id experiment_name variation_id variation_name",
    "Products Searched": "query",
    "Product List Viewed": "list_id category products",
    "Product List Filtered": "list_id category products filters sorts",
    "Product Clicked": f"{P} currency value",
    "Product Viewed": f"{P} currency value",
    "Product Added": f"{P} cart_id",
    "Product Removed": f"{P} cart_id",
    "Cart Viewed": "cart_id products",
    "Checkout Started": f"{O} value",
    "Checkout Step Viewed": STEP,
    "Checkout Step Completed": STEP,
    "Payment Info Entered": f"{STEP} order_id",
    "Order Updated": O,
    "Order Completed": f"{O} checkout_id subtotal total",
    "Order Refunded": f"{O} checkout_id subtotal total",
    "Order Cancelled": f"{O} total",
    "Promotion Viewed": PROMOTION,
    "Promotion Clicked": PROMOTION,
    "Coupon Entered": "order_id cart_id coupon_id",
    "Coupon Applied": "order_id cart_id coupon_id coupon_name discount",
    "Coupon Removed": "order_id cart_id coupon_id coupon_name discount",
    "Coupon Denied": "order_id cart_id coupon_id coupon_name reason",
    "Product Added to Wishlist": f"{P} wishlist_id wishlist_name",
    "Product Removed from Wishlist": f"{P} wishlist_id wishlist_name",
    "Wishlist Product Added to Cart": f"{P} wishlist_id wishlist_name cart_id",
    "Product Shared": (f"{SHARED} product_id sku category name brand variant price url image_url"),
    "Cart Shared": f"{SHARED} cart_id products",
    "Product Reviewed": "product_id review_id review_body rating",
    "Email Bounced": MAIL,
    "Email Delivered": MAIL,
    "Email Opened": READ,
    "Email Link Clicked": f"{READ} link_id link_url",
    "Email Marked as Spam": READ,
    "Email Unsubscribed": f"{READ} list_id list_name",
    "Live Chat Conversation Started": CHAT,
    "Live Chat Conversation Ended": CHAT,
    "Live Chat Message Sent": CHAT,
    "Live Chat Message Received": CHAT,
    "Application Installed": "version build",
    "Application Opened": "from_background url version build",
    "Application Updated": "previous_version previous_build version build",
    "Application Backgrounded": "",
    "Application Foregrounded": "",
    "Application Uninstalled": "",
    "Application Crashed": "",
    "Video Playback Started": f"{PLAYER} content_asset_ids content_pod_ids",
    "Video Playback Paused": PLAYBACK,
    "Video Playback Interrupted": f"{PLAYBACK} method",
    "Video Playback Buffer Started": PLAYBACK,
    "Video Playback Buffer Completed": PLAYBACK,
    "Video Playback Seek Started": f"{PLAYBACK} seek_position",
    "Video Playback Seek Completed": PLAYBACK,
    "Video Playback Resumed": PLAYBACK,
    "Video Playback Completed": PLAYBACK,
    "Video Playback Exited": PLAYBACK,
    "Video Content Started": CONTENT,
    "Video Content Playing": CONTENT,
    "Video Content Completed": CONTENT,
    "Video Ad Started": AD,
    "Video Ad Playing": AD,
    "Video Ad Completed": AD,
    "Video Quality Updated": "bitrate framerate startupTime droppedFrames",
}
NUMBERS = {"price", "value", "revenue", "shipping", "tax", "discount", "subtotal", "total"}
WHOLE = {
    "quantity", "step", "rating", "conversation_duration", "total_length", "bitrate", "framerate",
    "sound", "seek_position", "pod_position", "pod_length", "quartile", "contentId", "templateId",
    "startupTime", "droppedFrames",
}  # fmt: skip
FLAGS = {"from_background", "full_screen", "ad_enabled", "livestream", "full_episode"}
CHOICES = {
    "context.device.type": "ios android",
    "metric": "delivered opened clicked converted bounced dropped deferred spammed",
    "actionType": "viewed_content clicked_content",
    "ad_type": "pre-roll mid-roll post-roll",
    "load_type": "dynamic linear",
}
LISTS = {"products": [{}], "filters": [{}], "sorts": [{}], "keywords": ["a"], "content": {"a": 1}}


def composer(dialect=CUSTOMERIO, **options):
    return SegmentComposer(
        dialect, now=lambda: 0.0, new_id=lambda: "ID", library={"name": "x"}, **options
    )


def sent(message):
    return json.loads(message.body)


def sample(name, path):
    """Return a value of the kind that the reference gives for a field."""
    if path in CHOICES:
        return CHOICES[path].split()[0]
    if path in LISTS:
        return LISTS[path]
    if path in FLAGS:
        return True
    if path == "position" and "Promotion" in name:
        return "top"
    return 3 if path in NUMBERS | WHOLE | {"position", "objectTypeId"} else "text"


def paths_of(kind):
    """Return where each field goes, in the reference's notation."""
    return {
        ".".join(path).removeprefix("properties.") + ("!" if field.required else "")
        for field in kind.schema.values()
        for path in field.paths
    }


def test_there_are_72_semantic_events():
    """Nine actions, an experiment, 28 of commerce, 6 of email, 4 chats, 7 of apps, 17 videos."""
    assert 72 == len(EVENTS) == len(REFERENCE)
    assert list(REFERENCE) == list(EVENTS)
    assert 9 == sum(kind.action for kind in EVENTS.values())


@pytest.mark.slow
@pytest.mark.parametrize("name", REFERENCE)
def test_each_event_has_the_fields_of_the_reference(name):
    """Each in its place, and required where the schema says so."""
    assert set(REFERENCE[name].split()) == paths_of(EVENTS[name])


@pytest.mark.slow
@pytest.mark.parametrize("name", REFERENCE)
def test_each_event_takes_the_types_of_the_reference_and_no_others(name):
    """A sample of every field is accepted; a value of another type is rejected by name."""
    kind = EVENTS[name]
    given = {}
    for field in kind.schema.values():
        path = ".".join(field.paths[0]).removeprefix("properties.")
        given[field.name] = sample(name, path)
        for choice in CHOICES.get(path, "").split():
            assert field.rule.accepts(choice)
        with pytest.raises(ValidationError, match=rf"{field.name} must be "):
            kind(**{field.name: object()})
        if path in NUMBERS | WHOLE:
            assert not field.rule.accepts("3")
            assert not field.rule.accepts(True)
        assert field.rule.accepts(1.5) == (path in NUMBERS or (path == "position" and _loose(kind)))
    message = sent(composer(validation="raise", advice=advice).track("u", kind(**given)))
    assert name == message["event"]
    for field in kind.schema.values():
        for path in field.paths:
            there = message
            for step in path:
                there = there[step]
            assert given[field.name] == there


def _loose(kind):
    return issubclass(kind, Product)  # where a position is any number


@pytest.mark.parametrize("given", [2, "2", True, "two", 2.0, "²"])
def test_the_type_of_an_object_is_sent_as_an_integer(given):
    """As both of the vendor's API references have it, also when it is given as text."""
    for kind in (semantic.ObjectDeleted, semantic.RelationshipDeleted):
        if given in (2, "2") and type(given) in (int, str):
            event = kind(object_id="acme", object_type_id=given)
            assert 2 == sent(composer().track("u", event))["properties"]["objectTypeId"]
        else:
            with pytest.raises(ValidationError, match="object_type_id must be a whole number"):
                kind(object_id="acme", object_type_id=given)


@pytest.mark.slow
@pytest.mark.parametrize("name", REFERENCE)
def test_each_class_is_named_after_its_event(name):
    """So the class can be found by the name."""
    called = "".join(word[0].upper() + word[1:] for word in name.split())
    assert getattr(semantic, called) is EVENTS[name]
    assert (EVENTS[name].__doc__ or "").rstrip().endswith((".", ").", "`."))


@pytest.mark.slow
@pytest.mark.parametrize(("name", "kind"), EVENTS.items())
def test_each_event_knows_which_ids_it_requires(name, kind):
    """A user id for actions, none for reports, a placeholder for objects, else any id."""
    required = {field.name: "x" for field in kind.schema.values() if field.required}
    required |= {k: v for k, v in (("type", "ios"), ("metric", "opened"),
                                   ("action_type", "viewed_content")) if k in required}  # fmt: skip
    event = kind(**required)
    if name.startswith("Report"):
        message = sent(composer().track(None, event))
        assert not {"userId", "anonymousId"} & set(message)
    elif name == "Object Deleted":
        message = sent(composer().track(None, event))
        assert "no-person" == message["anonymousId"]
        assert "x" == message["groupId"] == message["properties"]["objectId"]
    elif kind.action:
        with pytest.raises(ValidationError, match="anonymous id is not enough"):
            composer().track(None, event, anonymous_id="a")
    else:
        assert "a" == sent(composer().track(None, event, anonymous_id="a"))["anonymousId"]
        with pytest.raises(ValidationError, match="requires a user_id or an anonymous_id"):
            composer().track(None, event)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "kind"), EVENTS.items())
def test_each_event_can_be_sent_again_from_its_dict(name, kind):
    """As from a file of failed records."""
    samples = {"token": "t", "type": "ios", "metric": "opened", "action_type": "viewed_content"}
    given = {
        field.name: samples.get(field.name, "x") for field in kind.schema.values() if field.required
    }
    user = None if kind.needs in ("none", "placeholder") else "u"
    message = composer().track(user, kind(**given))
    assert sent(message) == sent(composer().from_dict(sent(message)))


def test_actions_are_rejected_where_they_would_do_nothing():
    """Hightouch would store "User Suppressed" as an ordinary event."""
    with pytest.raises(ValidationError, match="is an action of Customer"):
        composer(HIGHTOUCH).track("u", semantic.UserSuppressed())
    composer(HIGHTOUCH).track("u", semantic.OrderCompleted(total=1))


# ---- making them --------------------------------------------------------------------------------


def test_ids_are_sent_as_text_and_amounts_as_numbers():
    """As the schemas have them."""
    event = semantic.OrderCompleted(
        order_id=17, checkout_id=UUID(int=1), total=Decimal("12.5"), tax=None,
        products=[Product(product_id=3, price=1), {"sku": 4, "mine": True}],
    )  # fmt: skip
    assert {
        "order_id": "17",
        "checkout_id": str(UUID(int=1)),
        "total": 12.5,
        "products": [{"product_id": "3", "price": 1}, {"sku": "4", "mine": True}],
    } == sent(composer().track("u", event))["properties"]


def test_a_list_of_ids_stays_a_list():
    """At the start of a video there may be more than one ad."""
    event = semantic.VideoPlaybackStarted(ad_asset_id=[1, "b"], content_asset_ids=["c"])
    body = sent(composer().track("u", event))["properties"]
    assert {"ad_asset_id": ["1", "b"], "content_asset_ids": ["c"]} == body


def test_a_date_may_be_a_date():
    """Not only text."""
    event = semantic.VideoContentStarted(airdate=date(2026, 1, 31))
    assert "2026-01-31" == sent(composer().track("u", event))["properties"]["airdate"]


def test_extra_properties_are_sent_with_a_semantic_event():
    """In the properties; of a device event, in the device, merged with the call's context."""
    paid = sent(composer().track("u", semantic.OrderCompleted(total=1), {"gift": True}))
    assert {"gift": True, "total": 1} == paid["properties"]
    device = semantic.DeviceCreatedOrUpdated(token="t", type="ios")
    given = {"device": {"model": "m"}, "ip": "::1"}
    message = sent(composer().track("u", device, {"beta.user": True}, given))
    assert "properties" not in message
    assert {"model": "m", "beta.user": True, "token": "t", "type": "ios"} == message["context"][
        "device"
    ]
    assert "::1" == message["context"]["ip"]
    assert {"device": {"model": "m"}, "ip": "::1"} == given


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: semantic.OrderCompleted(totl=1), "unknown field totl; did you mean total"),
        (lambda: semantic.OrderCompleted(gift=1), "unknown field gift; pass your own"),
        (lambda: semantic.OrderCompleted(total="12"), "total must be a number, not str"),
        (lambda: semantic.OrderCompleted(order_id=1.0), "order_id must be text, a whole number"),
        (lambda: semantic.OrderCompleted(products=[3]), "a list of Product or of mappings"),
        (lambda: semantic.OrderCompleted(products=[{"price": "3"}]), "Product: price must be"),
        (lambda: semantic.OrderCompleted(products="p"), "products must be a list"),
        (lambda: semantic.DeviceCreatedOrUpdated(token="t"), "type is missing"),
        (
            lambda: semantic.DeviceCreatedOrUpdated(token="t", type="web"),
            "DeviceCreatedOrUpdated: type must be one of 'android', 'ios', not 'web'$",
        ),
        (lambda: semantic.DeviceCreatedOrUpdated(token="t", type="w" * 99), "not 'w{39}$"),
        (lambda: semantic.DeviceCreatedOrUpdated(token="t", type=3), "'ios', not int$"),
        (lambda: semantic.DeviceCreatedOrUpdated(token=b"t", type="ios"), "text, not bytes$"),
        (lambda: semantic.DeviceCreatedOrUpdated(token="t", type="web"), "one of 'android', 'ios'"),
        (semantic.EmailOpened, "email_id is missing"),
        (lambda: semantic.ReportDeliveryEvent(delivery_id="d", metric="seen"), "must be one of"),
    ],
)  # fmt: skip
def test_an_invalid_field_is_rejected_when_the_event_is_created(make, words):
    """With all problems at once, and without the values."""
    with pytest.raises(ValidationError, match=words):
        make()


def test_events_are_frozen_and_compare_by_value():
    """A validated event cannot be changed."""
    event = semantic.OrderCompleted(total=1)
    with pytest.raises(AttributeError, match="frozen"):
        event.total = 2
    assert semantic.OrderCompleted(total=1) == event != semantic.OrderRefunded(total=1)
    assert (1, None) == (event.total, event.order_id)
    assert "OrderCompleted(total=1)" == repr(event)


def test_a_subclass_defines_a_typed_event():
    """It is not added to the 72."""

    class SeatAdded(SemanticEvent, event="Seat Added"):
        seats: semantic.Int = None

    message = sent(composer(HIGHTOUCH).track("u", SeatAdded(seats=2)))
    assert ("Seat Added", {"seats": 2}) == (message["event"], message["properties"])
    assert "Seat Added" not in EVENTS


def test_a_typed_model_without_a_name_is_not_an_event():
    """Only events can be tracked."""

    class Nameless(SemanticEvent):
        pass

    with pytest.raises(ValidationError, match="event name is empty"):
        composer().track("u", Nameless())


# ---- near misses --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("Order Complete", "Order Completed"),
        ("order completed", "Order Completed"),
        ("order_completed", "Order Completed"),
        ("OrderCompleted", "Order Completed"),
        ("ORDER-COMPLETED", "Order Completed"),
        ("Order Canceled", "Order Cancelled"),
        ("Orders Completed", "Order Completed"),
        ("Ordre Completed", "Order Completed"),
        ("Product View", "Product Viewed"),
        ("Checkout Start", "Checkout Started"),
        ("Product Added To Wishlist", "Product Added to Wishlist"),
        ("Email Clicked", "Email Link Clicked"),
        ("Email marked as spam", "Email Marked as Spam"),
        ("App Installed", "Application Installed"),
        ("AppOpened", "Application Opened"),
        ("Video Started", "Video Playback Started"),
        ("Video Playback interrupted", "Video Playback Interrupted"),
        ("Payment Info Updated", "Payment Info Entered"),
        ("Create Device", "Device Created or Updated"),
        ("Delete Device", "Device Deleted"),
        ("Group Deleted", "Object Deleted"),
        ("User Suppress", "User Suppressed"),
        ("user unsuppressed", "User Unsuppressed"),
    ],
)
def test_a_misspelt_event_name_is_recognised(written, meant):
    """Otherwise no mapping would apply, without any error."""
    assert meant == did_you_mean(written)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        "Order Created", "Order Shipped", "Order Paid", "Product Purchased", "Product Rated",
        "Email Sent", "Signed Up", "User Updated", "User Unsubscribed", "Video Ad Skipped",
        "Completed", "Order", "", "x" * 1000, "Ad Viewed", "Cart Emptied", "Coupon Issued",
        " Order Completed ", *REFERENCE,
    ],
)  # fmt: skip
def test_an_unrelated_event_name_is_not_corrected(name):
    """Nor any of the 72: none resembles another."""
    assert did_you_mean(name) is None


def test_advice_names_the_missing_fields_of_an_action():
    """Tracked by name, its fields may be at paths that the vendor does not read."""
    notes = []
    actual = composer(advice=advice, note=lambda _kind, text: notes.append(text))
    actual.track("u", "Device Deleted", {"device": {"token": "t"}})
    actual.track("u", "Order Complete")
    actual.track("u", "Order Completed")
    actual.track(None, "Object Deleted", {"objectId": 3, "objectTypeId": 2}, anonymous_id="a")
    actual.track(None, "Object Deleted", {"objectId": 3, "objectTypeId": "2"}, anonymous_id="a")
    actual.identify("u", {"event": "Order Complete"})
    assert [
        "'Device Deleted' lacks context.device.token: use DeviceDeleted",
        "'Order Complete' is not a semantic event; did you mean 'Order Completed'?",
        "'Object Deleted': properties.objectTypeId must be a whole number",
    ] == notes


def test_the_module_of_semantic_events_contains_only_declarations():
    """Classes with fields, groups of them, and nothing that runs."""
    tree = ast.parse(Path(semantic.__file__).read_text())
    for kind in (node for node in tree.body if isinstance(node, ast.ClassDef)):
        assert all(isinstance(part, (ast.AnnAssign, ast.Expr)) for part in kind.body), kind.name
