"""The 72 events that Customer.io knows by name, as types: the one table they are all made from.

    from mixpanel.cdp import semantic

    await cio.track("u-17", semantic.OrderCompleted(order_id="o-1", total=12.5))

Every field is checked when the event is made, and goes where the vendor reads it: among the
properties unless it says otherwise. What the schemas leave optional is optional here; what is your
own is given to `track` as `properties`. All but the nine actions mean the same to any vendor of
the Segment spec.

Source: Customer.io's Data Pipelines API reference, "Semantic Events".
"""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Final, Literal

from mixpanel.cdp._segment.typed_events import (
    At,
    Bool,
    DateOrText,
    Id,
    IdOrIds,
    Int,
    Number,
    Object,
    Objects,
    RequiredId,
    RequiredText,
    SemanticEvent,
    Text,
    Texts,
    TypedModel,
    list_of,
)

__all__ = [
    "EVENTS",
    "ApplicationBackgrounded",
    "ApplicationCrashed",
    "ApplicationForegrounded",
    "ApplicationInstalled",
    "ApplicationOpened",
    "ApplicationUninstalled",
    "ApplicationUpdated",
    "CartShared",
    "CartViewed",
    "CheckoutStarted",
    "CheckoutStepCompleted",
    "CheckoutStepViewed",
    "CouponApplied",
    "CouponDenied",
    "CouponEntered",
    "CouponRemoved",
    "DeviceCreatedOrUpdated",
    "DeviceDeleted",
    "EmailBounced",
    "EmailDelivered",
    "EmailLinkClicked",
    "EmailMarkedAsSpam",
    "EmailOpened",
    "EmailUnsubscribed",
    "ExperimentViewed",
    "LiveChatConversationEnded",
    "LiveChatConversationStarted",
    "LiveChatMessageReceived",
    "LiveChatMessageSent",
    "ObjectDeleted",
    "OrderCancelled",
    "OrderCompleted",
    "OrderRefunded",
    "OrderUpdated",
    "PaymentInfoEntered",
    "Product",
    "ProductAdded",
    "ProductAddedToWishlist",
    "ProductClicked",
    "ProductListFiltered",
    "ProductListViewed",
    "ProductRemoved",
    "ProductRemovedFromWishlist",
    "ProductReviewed",
    "ProductShared",
    "ProductViewed",
    "ProductsSearched",
    "PromotionClicked",
    "PromotionViewed",
    "RelationshipDeleted",
    "ReportContentEvent",
    "ReportDeliveryEvent",
    "UserDeleted",
    "UserSuppressed",
    "UserUnsuppressed",
    "VideoAdCompleted",
    "VideoAdPlaying",
    "VideoAdStarted",
    "VideoContentCompleted",
    "VideoContentPlaying",
    "VideoContentStarted",
    "VideoPlaybackBufferCompleted",
    "VideoPlaybackBufferStarted",
    "VideoPlaybackCompleted",
    "VideoPlaybackExited",
    "VideoPlaybackInterrupted",
    "VideoPlaybackPaused",
    "VideoPlaybackResumed",
    "VideoPlaybackSeekCompleted",
    "VideoPlaybackSeekStarted",
    "VideoPlaybackStarted",
    "VideoQualityUpdated",
    "WishlistProductAddedToCart",
]

# ---- actions of Customer.io (9) -----------------------------------------------------------------

_ObjectType = Annotated[Id, At("properties.objectTypeId")]
_Platform = Literal["ios", "android"]
_Metric = Literal[
    "delivered", "opened", "clicked", "converted", "bounced", "dropped", "deferred", "spammed"
]


class _Device(SemanticEvent, needs="user", action=True, extras=("context", "device")):
    token: Annotated[RequiredText, At("context.device.token")]


class DeviceCreatedOrUpdated(_Device, event="Device Created or Updated"):
    """Register a device for push; attributes of your own go to the device."""

    type: Annotated[_Platform, At("context.device.type")]


class DeviceDeleted(_Device, event="Device Deleted"):
    """Remove a device, so that it gets no more push."""

    type: Annotated[_Platform | None, At("context.device.type")] = None


class UserDeleted(SemanticEvent, event="User Deleted", needs="user", action=True):
    """Delete a person; they come back when they are identified again."""


class UserSuppressed(SemanticEvent, event="User Suppressed", needs="user", action=True):
    """Delete a person and keep them from ever coming back: for privacy law, not for mailings."""


class UserUnsuppressed(SemanticEvent, event="User Unsuppressed", needs="user", action=True):
    """Let a suppressed person come back; what was deleted stays deleted."""


class ObjectDeleted(SemanticEvent, event="Object Deleted", needs="placeholder", action=True):
    """Delete an object, such as a company; an unknown one is passed over."""

    # The schema reads the property; the prose and the destination read the group.
    object_id: Annotated[RequiredId, At("properties.objectId", "groupId")]
    object_type_id: _ObjectType = None


class RelationshipDeleted(SemanticEvent, event="Relationship Deleted", needs="user", action=True):
    """Take a person out of an object."""

    object_id: Annotated[RequiredId, At("properties.objectId")]
    object_type_id: _ObjectType = None


class ReportDeliveryEvent(SemanticEvent, event="Report Delivery Event", needs="none", action=True):
    """Report what became of a message, on any channel."""

    delivery_id: Annotated[RequiredId, At("properties.deliveryId")]
    metric: _Metric
    recipient: Text = None
    reason: Text = None
    href: Text = None
    action_name: Annotated[Text, At("properties.actionName")] = None
    action_value: Annotated[Text, At("properties.actionValue")] = None


class ReportContentEvent(SemanticEvent, event="Report Content Event", needs="none", action=True):
    """Report that an anonymous in-app message was seen or clicked."""

    # The schema requires one name and declares the other.
    action_type: Annotated[
        Literal["viewed_content", "clicked_content"],
        At("properties.actionType", "properties.activityType"),
    ]
    content_id: Annotated[Int, At("properties.contentId")] = None
    template_id: Annotated[Int, At("properties.templateId")] = None


# ---- experiments (1) ----------------------------------------------------------------------------


class ExperimentViewed(SemanticEvent, event="Experiment Viewed"):
    """Say which variation of an experiment a person saw."""

    experiment_id: Id = None
    experiment_name: Text = None
    variation_id: Id = None
    variation_name: Text = None


# ---- commerce (28) ------------------------------------------------------------------------------


class Product(TypedModel):
    """A product, in an order, a cart or a list; names of your own need a plain mapping."""

    product_id: Id = None
    sku: Id = None
    category: Text = None
    name: Text = None
    brand: Text = None
    variant: Text = None
    price: Number = None
    quantity: Int = None
    coupon: Text = None
    position: Number = None
    url: Text = None
    image_url: Text = None


Products = Annotated[Sequence[Product | Mapping[str, Any]] | None, list_of(Product)]


class _Order(SemanticEvent):
    order_id: Id = None
    affiliation: Text = None
    revenue: Number = None
    shipping: Number = None
    tax: Number = None
    discount: Number = None
    coupon: Text = None
    currency: Text = None
    products: Products = None


class _Settled(_Order):
    checkout_id: Id = None
    subtotal: Number = None
    total: Number = None


class _List(SemanticEvent):
    list_id: Id = None
    category: Text = None
    products: Products = None


class _Seen(SemanticEvent, Product):
    currency: Text = None
    value: Number = None


class _InCart(SemanticEvent, Product):
    cart_id: Id = None


class _Checkout(SemanticEvent):
    checkout_id: Id = None
    step: Int = None
    shipping_method: Text = None
    payment_method: Text = None


class _Promotion(SemanticEvent):
    promotion_id: Id = None
    creative: Text = None
    name: Text = None
    position: Text = None


class _Coupon(SemanticEvent):
    order_id: Id = None
    cart_id: Id = None
    coupon_id: Id = None


class _CouponUsed(_Coupon):
    coupon_name: Text = None
    discount: Number = None


class _Wishlist(SemanticEvent, Product):
    wishlist_id: Id = None
    wishlist_name: Text = None


class _Shared(SemanticEvent):
    share_via: Text = None
    share_message: Text = None
    recipient: Text = None


class ProductsSearched(SemanticEvent, event="Products Searched"):
    """Say what a person searched for."""

    query: Text = None


class ProductListViewed(_List, event="Product List Viewed"):
    """Say which list or category a person looked at."""


class ProductListFiltered(_List, event="Product List Filtered"):
    """Say how a person filtered or sorted a list; each is a mapping of `type` and `value`."""

    filters: Objects = None
    sorts: Objects = None


class ProductClicked(_Seen, event="Product Clicked"):
    """Say which product a person clicked on."""


class ProductViewed(_Seen, event="Product Viewed"):
    """Say which product a person looked at."""


class ProductAdded(_InCart, event="Product Added"):
    """Say what a person put in their cart."""


class ProductRemoved(_InCart, event="Product Removed"):
    """Say what a person took out of their cart."""


class CartViewed(SemanticEvent, event="Cart Viewed"):
    """Say that a person looked at their cart."""

    cart_id: Id = None
    products: Products = None


class CheckoutStarted(_Order, event="Checkout Started"):
    """Say that a person began to check out."""

    value: Number = None


class CheckoutStepViewed(_Checkout, event="Checkout Step Viewed"):
    """Say which step of a checkout a person came to."""


class CheckoutStepCompleted(_Checkout, event="Checkout Step Completed"):
    """Say which step of a checkout a person finished."""


class PaymentInfoEntered(_Checkout, event="Payment Info Entered"):
    """Say that a person gave their payment details (never the details)."""

    order_id: Id = None


class OrderUpdated(_Order, event="Order Updated"):
    """Say that an order changed."""


class OrderCompleted(_Settled, event="Order Completed"):
    """Say that a person bought something."""


class OrderRefunded(_Settled, event="Order Refunded"):
    """Say that an order was paid back."""


class OrderCancelled(_Order, event="Order Cancelled"):
    """Say that an order was called off."""

    total: Number = None


class PromotionViewed(_Promotion, event="Promotion Viewed"):
    """Say which promotion a person saw."""


class PromotionClicked(_Promotion, event="Promotion Clicked"):
    """Say which promotion a person clicked on."""


class CouponEntered(_Coupon, event="Coupon Entered"):
    """Say which coupon a person typed in."""


class CouponApplied(_CouponUsed, event="Coupon Applied"):
    """Say which coupon was taken."""


class CouponRemoved(_CouponUsed, event="Coupon Removed"):
    """Say which coupon was taken back."""


class CouponDenied(_Coupon, event="Coupon Denied"):
    """Say which coupon was refused, and why."""

    coupon_name: Text = None
    reason: Text = None


class ProductAddedToWishlist(_Wishlist, event="Product Added to Wishlist"):
    """Say what a person wishes for."""


class ProductRemovedFromWishlist(_Wishlist, event="Product Removed from Wishlist"):
    """Say what a person no longer wishes for."""


class WishlistProductAddedToCart(_Wishlist, event="Wishlist Product Added to Cart"):
    """Say which wish a person put in their cart."""

    cart_id: Id = None


class ProductShared(_Shared, event="Product Shared"):
    """Say which product a person told somebody of."""

    product_id: Id = None
    sku: Id = None
    category: Text = None
    name: Text = None
    brand: Text = None
    variant: Text = None
    price: Number = None
    url: Text = None
    image_url: Text = None


class CartShared(_Shared, event="Cart Shared"):
    """Say that a person told somebody of their cart."""

    cart_id: Id = None
    products: Products = None


class ProductReviewed(SemanticEvent, event="Product Reviewed"):
    """Say how a person found a product."""

    product_id: Id = None
    review_id: Id = None
    review_body: Text = None
    rating: Int = None


# ---- email (6) ----------------------------------------------------------------------------------


class _Email(SemanticEvent):
    email_id: RequiredId
    email_subject: Text = None
    campaign_id: Id = None
    campaign_name: Text = None
    email: Annotated[Text, At("context.traits.email")] = None


class _EmailRead(_Email):
    ip: Annotated[Text, At("context.traits.ip")] = None
    user_agent: Annotated[Text, At("context.traits.user_agent")] = None


class EmailBounced(_Email, event="Email Bounced"):
    """Say that an email came back."""


class EmailDelivered(_Email, event="Email Delivered"):
    """Say that an email arrived."""


class EmailOpened(_EmailRead, event="Email Opened"):
    """Say that a person opened an email."""


class EmailLinkClicked(_EmailRead, event="Email Link Clicked"):
    """Say which link of an email a person followed."""

    link_id: Id = None
    link_url: Text = None


class EmailMarkedAsSpam(_EmailRead, event="Email Marked as Spam"):
    """Say that a person called an email spam."""


class EmailUnsubscribed(_EmailRead, event="Email Unsubscribed"):
    """Say that a person left a list; this unsubscribes nobody, see `unsubscribe`."""

    list_id: Id = None
    list_name: Text = None


# ---- live chat (4) ------------------------------------------------------------------------------


class _Chat(SemanticEvent):
    agent_id: Id = None
    agent_name: Text = None
    agent_username: Text = None
    conversation_id: Id = None
    conversation_duration: Int = None  # seconds
    message_id: Id = None


class LiveChatConversationStarted(_Chat, event="Live Chat Conversation Started"):
    """Say that a chat began."""


class LiveChatConversationEnded(_Chat, event="Live Chat Conversation Ended"):
    """Say that a chat ended."""


class LiveChatMessageSent(_Chat, event="Live Chat Message Sent"):
    """Say that a person wrote in a chat."""


class LiveChatMessageReceived(_Chat, event="Live Chat Message Received"):
    """Say that a person was answered in a chat."""


# ---- apps (7) -----------------------------------------------------------------------------------


class _Application(SemanticEvent):
    version: Id = None
    build: Id = None


class ApplicationInstalled(_Application, event="Application Installed"):
    """Say that a person opened the app for the first time."""


class ApplicationOpened(_Application, event="Application Opened"):
    """Say that a person opened the app."""

    from_background: Bool = None
    url: Text = None


class ApplicationUpdated(_Application, event="Application Updated"):
    """Say that a person has another version of the app."""

    previous_version: Id = None
    previous_build: Id = None


class ApplicationBackgrounded(SemanticEvent, event="Application Backgrounded"):
    """Say that a person left the app."""


class ApplicationForegrounded(SemanticEvent, event="Application Foregrounded"):
    """Say that a person came back to the app."""


class ApplicationUninstalled(SemanticEvent, event="Application Uninstalled"):
    """Say that a person removed the app."""


class ApplicationCrashed(SemanticEvent, event="Application Crashed"):
    """Say that the app broke down."""


# ---- video (17) ---------------------------------------------------------------------------------


class _Player(SemanticEvent):
    session_id: Id = None
    ad_type: Literal["pre-roll", "mid-roll", "post-roll"] | None = None
    position: Int = None  # seconds
    total_length: Int = None  # seconds
    bitrate: Int = None
    framerate: Int = None
    video_player: Text = None
    sound: Int = None
    full_screen: Bool = None
    ad_enabled: Bool = None
    quality: Text = None
    livestream: Bool = None


class _Playback(_Player):
    ad_asset_id: Id = None
    ad_pod_id: Id = None
    content_asset_id: Id = None
    content_pod_id: Id = None


class _Content(SemanticEvent):
    session_id: Id = None
    asset_id: Id = None
    pod_id: Id = None
    program: Text = None
    title: Text = None
    description: Text = None
    season: Id = None
    position: Int = None  # seconds
    total_length: Int = None  # seconds
    genre: Text = None
    publisher: Text = None
    channel: Text = None
    full_episode: Bool = None
    livestream: Bool = None
    airdate: DateOrText = None
    bitrate: Int = None
    framerate: Int = None
    keywords: Texts = None


class _Ad(SemanticEvent):
    session_id: Id = None
    asset_id: Id = None
    pod_id: Id = None
    pod_position: Int = None
    pod_length: Int = None
    type: Text = None
    title: Text = None
    position: Int = None  # seconds
    total_length: Int = None  # seconds
    publisher: Text = None
    load_type: Literal["dynamic", "linear"] | None = None
    content: Object = None
    quartile: Int = None


class VideoPlaybackStarted(_Player, event="Video Playback Started"):
    """Say that a person pressed play; here the ids of content and ads are several."""

    ad_asset_id: IdOrIds = None
    ad_pod_id: IdOrIds = None
    content_asset_ids: IdOrIds = None
    content_pod_ids: IdOrIds = None


class VideoPlaybackPaused(_Playback, event="Video Playback Paused"):
    """Say that a person paused."""


class VideoPlaybackInterrupted(_Playback, event="Video Playback Interrupted"):
    """Say that something else stopped a video, such as a call."""

    method: Text = None


class VideoPlaybackBufferStarted(_Playback, event="Video Playback Buffer Started"):
    """Say that a video began to wait for data."""


class VideoPlaybackBufferCompleted(_Playback, event="Video Playback Buffer Completed"):
    """Say that a video has its data."""


class VideoPlaybackSeekStarted(_Playback, event="Video Playback Seek Started"):
    """Say that a person seeks another place, `seek_position` seconds in."""

    seek_position: Int = None


class VideoPlaybackSeekCompleted(_Playback, event="Video Playback Seek Completed"):
    """Say that a person found another place."""


class VideoPlaybackResumed(_Playback, event="Video Playback Resumed"):
    """Say that a video went on."""


class VideoPlaybackCompleted(_Playback, event="Video Playback Completed"):
    """Say that a video came to its end."""


class VideoPlaybackExited(_Playback, event="Video Playback Exited"):
    """Say that a person left a video."""


class VideoContentStarted(_Content, event="Video Content Started"):
    """Say that a part of the content began."""


class VideoContentPlaying(_Content, event="Video Content Playing"):
    """Say, every few seconds, that the content goes on."""


class VideoContentCompleted(_Content, event="Video Content Completed"):
    """Say that a part of the content ended."""


class VideoAdStarted(_Ad, event="Video Ad Started"):
    """Say that an ad began."""


class VideoAdPlaying(_Ad, event="Video Ad Playing"):
    """Say, every few seconds, that an ad goes on."""


class VideoAdCompleted(_Ad, event="Video Ad Completed"):
    """Say that an ad ended."""


class VideoQualityUpdated(SemanticEvent, event="Video Quality Updated"):
    """Say that a video's quality changed."""

    bitrate: Int = None
    framerate: Int = None
    startup_time: Annotated[Int, At("properties.startupTime")] = None
    dropped_frames: Annotated[Int, At("properties.droppedFrames")] = None


EVENTS: Final[Mapping[str, type[SemanticEvent]]] = {
    kind.event_name: kind
    for kind in list(vars().values())
    if isinstance(kind, type) and issubclass(kind, SemanticEvent) and kind.event_name
}
