"""Customer data platforms: Customer.io, Hightouch, Segment and RudderStack on one core.

`AsyncFanOut` and `FanOut` send each call to several of them, and to Mixpanel.

Importing this package loads nothing; each name is imported when it is first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mixpanel._lazy import load_lazily

if TYPE_CHECKING or not load_lazily(__name__):
    from mixpanel.cdp import analytics, htevents, semantic, webhooks
    from mixpanel.cdp._customerio.composer import CustomerIOComposer
    from mixpanel.cdp._customerio.dialect import CUSTOMERIO
    from mixpanel.cdp._customerio.name_advice import did_you_mean
    from mixpanel.cdp._fanout.base import Sink
    from mixpanel.cdp._fanout.stats import SinkStats
    from mixpanel.cdp._hightouch.dialect import HIGHTOUCH
    from mixpanel.cdp._hightouch.oauth import HightouchOAuth
    from mixpanel.cdp._segment.client import AsyncSegmentClient, SegmentClient
    from mixpanel.cdp._segment.composer import SegmentComposer
    from mixpanel.cdp._segment.dialect import Dialect, WriteKey
    from mixpanel.cdp._segment.message import Message
    from mixpanel.cdp._segment.oauth import OAuth
    from mixpanel.cdp._segment.options import Delivery, SegmentOptions
    from mixpanel.cdp._segment.typed_events import SemanticEvent
    from mixpanel.cdp.customerio import AsyncCustomerIO, CustomerIO
    from mixpanel.cdp.fanout import AsyncFanOut, FanOut
    from mixpanel.cdp.hightouch import AsyncHightouch, Hightouch
    from mixpanel.cdp.rudderstack import RUDDERSTACK, AsyncRudderStack, RudderStack
    from mixpanel.cdp.segment import SEGMENT, AsyncSegment, Segment, SegmentOAuth

__all__ = [
    "CUSTOMERIO",
    "HIGHTOUCH",
    "RUDDERSTACK",
    "SEGMENT",
    "AsyncCustomerIO",
    "AsyncFanOut",
    "AsyncHightouch",
    "AsyncRudderStack",
    "AsyncSegment",
    "AsyncSegmentClient",
    "CustomerIO",
    "CustomerIOComposer",
    "Delivery",
    "Dialect",
    "FanOut",
    "Hightouch",
    "HightouchOAuth",
    "Message",
    "OAuth",
    "RudderStack",
    "Segment",
    "SegmentClient",
    "SegmentComposer",
    "SegmentOAuth",
    "SegmentOptions",
    "SemanticEvent",
    "Sink",
    "SinkStats",
    "WriteKey",
    "analytics",
    "did_you_mean",
    "htevents",
    "semantic",
    "webhooks",
]
