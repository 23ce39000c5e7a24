"""Customer data platforms: Customer.io and Hightouch on one core of the Segment spec.

`AsyncFanOut` and `FanOut` say a call to several of them, and to Mixpanel.

Importing this package loads nothing; each name loads its room when it is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mixpanel.cdp import htevents, semantic, webhooks
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
    from mixpanel.cdp._segment.options import Delivery, SegmentOptions
    from mixpanel.cdp._segment.typed_events import SemanticEvent
    from mixpanel.cdp.customerio import AsyncCustomerIO, CustomerIO
    from mixpanel.cdp.fanout import AsyncFanOut, FanOut
    from mixpanel.cdp.hightouch import AsyncHightouch, Hightouch

_ROOMS = {
    "_fanout.stats": ["SinkStats"],
    "_customerio.name_advice": ["did_you_mean"],
    "_hightouch.oauth": ["HightouchOAuth"],
    "_customerio.dialect": ["CUSTOMERIO"],
    "_segment.dialect": ["Dialect", "WriteKey"],
    "_fanout.base": ["Sink"],
    "_hightouch.dialect": ["HIGHTOUCH"],
    "_segment.composer": ["SegmentComposer"],
    "_segment.message": ["Message"],
    "_customerio.composer": ["CustomerIOComposer"],
    "_segment.client": ["AsyncSegmentClient", "SegmentClient"],
    "_segment.options": ["Delivery", "SegmentOptions"],
    "_segment.typed_events": ["SemanticEvent"],
    "customerio": ["AsyncCustomerIO", "CustomerIO"],
    "fanout": ["AsyncFanOut", "FanOut"],
    "hightouch": ["AsyncHightouch", "Hightouch"],
}
_HOME = {name: room for room, names in _ROOMS.items() for name in names}

__all__ = [
    "CUSTOMERIO",
    "HIGHTOUCH",
    "AsyncCustomerIO",
    "AsyncFanOut",
    "AsyncHightouch",
    "AsyncSegmentClient",
    "CustomerIO",
    "CustomerIOComposer",
    "Delivery",
    "Dialect",
    "FanOut",
    "Hightouch",
    "HightouchOAuth",
    "Message",
    "SegmentClient",
    "SegmentComposer",
    "SegmentOptions",
    "SemanticEvent",
    "Sink",
    "SinkStats",
    "WriteKey",
    "did_you_mean",
    "htevents",
    "semantic",
    "webhooks",
]


def __getattr__(name: str) -> Any:
    """Load a name from its room, once."""
    if name in ("htevents", "semantic", "webhooks"):
        return importlib.import_module(f"{__name__}.{name}")
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """Name what there is to use."""
    return __all__
