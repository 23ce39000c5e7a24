"""The 72 events that Customer.io knows by name, as typed classes.

    from mixpanel.cdp import semantic

    await cio.track("u-17", semantic.OrderCompleted(order_id="o-1", total=12.5))

Fields are validated when the event is created, and sent where the vendor reads them, by default in
the properties. A field is required if the vendor's schema requires it; pass your own fields to
`track` as `properties`. All but the nine actions have the same meaning for every vendor of the
Segment spec.

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
    WholeNumber,
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

_ObjectType = Annotated[WholeNumber, At("properties.objectTypeId")]
_Platform = Literal["ios", "android"]
_Metric = Literal[
    "delivered", "opened", "clicked", "converted", "bounced", "dropped", "deferred", "spammed"
]


class _Device(SemanticEvent, needs="user", action=True, extras=("context", "device")):
    token: Annotated[RequiredText, At("context.device.token")]


class DeviceCreatedOrUpdated(_Device, event="Device Created or Updated"):
    """Register a device for push; properties passed to `track` become attributes of the device."""

    type: Annotated[_Platform, At("context.device.type")]


class DeviceDeleted(_Device, event="Device Deleted"):
    """Delete a device, which stops push notifications to it."""

    type: Annotated[_Platform | None, At("context.device.type")] = None


class UserDeleted(SemanticEvent, event="User Deleted", needs="user", action=True):
    """Delete a person; identifying them again creates them anew."""


class UserSuppressed(SemanticEvent, event="User Suppressed", needs="user", action=True):
    """Delete a person and block their id, as privacy law may require (not to stop mailings)."""


class UserUnsuppressed(SemanticEvent, event="User Unsuppressed", needs="user", action=True):
    """Unblock the id of a suppressed person; deleted data is not restored."""


class ObjectDeleted(SemanticEvent, event="Object Deleted", needs="placeholder", action=True):
    """Delete an object, such as a company; an unknown one is ignored."""

    # The schema documents the property, but the prose and the server use the group id: send both.
    object_id: Annotated[RequiredId, At("properties.objectId", "groupId")]
    object_type_id: _ObjectType = None


class RelationshipDeleted(SemanticEvent, event="Relationship Deleted", needs="user", action=True):
    """Delete the relationship between a person and an object."""

    object_id: Annotated[RequiredId, At("properties.objectId")]
    object_type_id: _ObjectType = None


class ReportDeliveryEvent(SemanticEvent, event="Report Delivery Event", needs="none", action=True):
    """Report a metric of a message, on any channel."""

    delivery_id: Annotated[RequiredId, At("properties.deliveryId")]
    metric: _Metric
    recipient: Text = None
    reason: Text = None
    href: Text = None
    action_name: Annotated[Text, At("properties.actionName")] = None
    action_value: Annotated[Text, At("properties.actionValue")] = None


class ReportContentEvent(SemanticEvent, event="Report Content Event", needs="none", action=True):
    """Report that an anonymous in-app message was viewed or clicked."""

    # The schema requires one of the two names and declares the other: send both.
    action_type: Annotated[
        Literal["viewed_content", "clicked_content"],
        At("properties.actionType", "properties.activityType"),
    ]
    content_id: Annotated[Int, At("properties.contentId")] = None
    template_id: Annotated[Int, At("properties.templateId")] = None


# ---- experiments (1) ----------------------------------------------------------------------------


class ExperimentViewed(SemanticEvent, event="Experiment Viewed"):
    """A person saw a variation of an experiment."""

    experiment_id: Id = None
    experiment_name: Text = None
    variation_id: Id = None
    variation_name: Text = None


# ---- commerce (28) ------------------------------------------------------------------------------


class Product(TypedModel):
    """A product in an order, a cart or a list; use a mapping for fields of your own."""

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
    """A person searched for products."""

    query: Text = None


class ProductListViewed(_List, event="Product List Viewed"):
    """A person viewed a list or category of products."""


class ProductListFiltered(_List, event="Product List Filtered"):
    """A person filtered or sorted a list; each filter is a mapping of `type` and `value`."""

    filters: Objects = None
    sorts: Objects = None


class ProductClicked(_Seen, event="Product Clicked"):
    """A person clicked on a product."""


class ProductViewed(_Seen, event="Product Viewed"):
    """A person viewed a product."""


class ProductAdded(_InCart, event="Product Added"):
    """A person added a product to their cart."""


class ProductRemoved(_InCart, event="Product Removed"):
    """A person removed a product from their cart."""


class CartViewed(SemanticEvent, event="Cart Viewed"):
    """A person viewed their cart."""

    cart_id: Id = None
    products: Products = None


class CheckoutStarted(_Order, event="Checkout Started"):
    """A person started the checkout."""

    value: Number = None


class CheckoutStepViewed(_Checkout, event="Checkout Step Viewed"):
    """A person viewed a step of the checkout."""


class CheckoutStepCompleted(_Checkout, event="Checkout Step Completed"):
    """A person completed a step of the checkout."""


class PaymentInfoEntered(_Checkout, event="Payment Info Entered"):
    """A person entered payment details; do not send the details themselves."""

    order_id: Id = None


class OrderUpdated(_Order, event="Order Updated"):
    """An order was updated."""


class OrderCompleted(_Settled, event="Order Completed"):
    """A person completed an order."""


class OrderRefunded(_Settled, event="Order Refunded"):
    """An order was refunded."""


class OrderCancelled(_Order, event="Order Cancelled"):
    """An order was cancelled."""

    total: Number = None


class PromotionViewed(_Promotion, event="Promotion Viewed"):
    """A person saw a promotion."""


class PromotionClicked(_Promotion, event="Promotion Clicked"):
    """A person clicked on a promotion."""


class CouponEntered(_Coupon, event="Coupon Entered"):
    """A person entered a coupon."""


class CouponApplied(_CouponUsed, event="Coupon Applied"):
    """A coupon was applied to an order."""


class CouponRemoved(_CouponUsed, event="Coupon Removed"):
    """A coupon was removed from an order."""


class CouponDenied(_Coupon, event="Coupon Denied"):
    """A coupon was denied, for a reason."""

    coupon_name: Text = None
    reason: Text = None


class ProductAddedToWishlist(_Wishlist, event="Product Added to Wishlist"):
    """A person added a product to their wishlist."""


class ProductRemovedFromWishlist(_Wishlist, event="Product Removed from Wishlist"):
    """A person removed a product from their wishlist."""


class WishlistProductAddedToCart(_Wishlist, event="Wishlist Product Added to Cart"):
    """A person added a product of their wishlist to their cart."""

    cart_id: Id = None


class ProductShared(_Shared, event="Product Shared"):
    """A person shared a product."""

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
    """A person shared their cart."""

    cart_id: Id = None
    products: Products = None


class ProductReviewed(SemanticEvent, event="Product Reviewed"):
    """A person reviewed a product."""

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
    """An email bounced."""


class EmailDelivered(_Email, event="Email Delivered"):
    """An email was delivered."""


class EmailOpened(_EmailRead, event="Email Opened"):
    """A person opened an email."""


class EmailLinkClicked(_EmailRead, event="Email Link Clicked"):
    """A person clicked a link in an email."""

    link_id: Id = None
    link_url: Text = None


class EmailMarkedAsSpam(_EmailRead, event="Email Marked as Spam"):
    """A person marked an email as spam."""


class EmailUnsubscribed(_EmailRead, event="Email Unsubscribed"):
    """A person left a list; the event itself does not unsubscribe them, see `unsubscribe`."""

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
    """A chat started."""


class LiveChatConversationEnded(_Chat, event="Live Chat Conversation Ended"):
    """A chat ended."""


class LiveChatMessageSent(_Chat, event="Live Chat Message Sent"):
    """A person sent a message in a chat."""


class LiveChatMessageReceived(_Chat, event="Live Chat Message Received"):
    """A person received a message in a chat."""


# ---- apps (7) -----------------------------------------------------------------------------------


class _Application(SemanticEvent):
    version: Id = None
    build: Id = None


class ApplicationInstalled(_Application, event="Application Installed"):
    """A person opened the app for the first time."""


class ApplicationOpened(_Application, event="Application Opened"):
    """A person opened the app."""

    from_background: Bool = None
    url: Text = None


class ApplicationUpdated(_Application, event="Application Updated"):
    """A person updated the app."""

    previous_version: Id = None
    previous_build: Id = None


class ApplicationBackgrounded(SemanticEvent, event="Application Backgrounded"):
    """The app was sent to the background."""


class ApplicationForegrounded(SemanticEvent, event="Application Foregrounded"):
    """The app returned to the foreground."""


class ApplicationUninstalled(SemanticEvent, event="Application Uninstalled"):
    """A person uninstalled the app."""


class ApplicationCrashed(SemanticEvent, event="Application Crashed"):
    """The app crashed."""


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
    """A person started playback; the ids of ads and content may be lists here."""

    ad_asset_id: IdOrIds = None
    ad_pod_id: IdOrIds = None
    content_asset_ids: IdOrIds = None
    content_pod_ids: IdOrIds = None


class VideoPlaybackPaused(_Playback, event="Video Playback Paused"):
    """A person paused playback."""


class VideoPlaybackInterrupted(_Playback, event="Video Playback Interrupted"):
    """Something interrupted playback, such as a phone call."""

    method: Text = None


class VideoPlaybackBufferStarted(_Playback, event="Video Playback Buffer Started"):
    """Playback started to buffer."""


class VideoPlaybackBufferCompleted(_Playback, event="Video Playback Buffer Completed"):
    """Playback finished buffering."""


class VideoPlaybackSeekStarted(_Playback, event="Video Playback Seek Started"):
    """A person started to seek to `seek_position`, in seconds."""

    seek_position: Int = None


class VideoPlaybackSeekCompleted(_Playback, event="Video Playback Seek Completed"):
    """A person finished seeking."""


class VideoPlaybackResumed(_Playback, event="Video Playback Resumed"):
    """Playback was resumed."""


class VideoPlaybackCompleted(_Playback, event="Video Playback Completed"):
    """Playback reached the end of the video."""


class VideoPlaybackExited(_Playback, event="Video Playback Exited"):
    """A person left the video."""


class VideoContentStarted(_Content, event="Video Content Started"):
    """A segment of the content started."""


class VideoContentPlaying(_Content, event="Video Content Playing"):
    """The content is playing; send this every few seconds."""


class VideoContentCompleted(_Content, event="Video Content Completed"):
    """A segment of the content ended."""


class VideoAdStarted(_Ad, event="Video Ad Started"):
    """An ad started."""


class VideoAdPlaying(_Ad, event="Video Ad Playing"):
    """An ad is playing; send this every few seconds."""


class VideoAdCompleted(_Ad, event="Video Ad Completed"):
    """An ad ended."""


class VideoQualityUpdated(SemanticEvent, event="Video Quality Updated"):
    """The quality of the video changed."""

    bitrate: Int = None
    framerate: Int = None
    startup_time: Annotated[Int, At("properties.startupTime")] = None
    dropped_frames: Annotated[Int, At("properties.droppedFrames")] = None


EVENTS: Final[Mapping[str, type[SemanticEvent]]] = {
    kind.event_name: kind
    for kind in list(vars().values())
    if isinstance(kind, type) and issubclass(kind, SemanticEvent) and kind.event_name
}
