"""Customer data platforms: Customer.io and Hightouch on one core of the Segment spec.

Importing this package loads nothing; each name loads its room when it is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mixpanel.cdp import semantic, webhooks
    from mixpanel.cdp._advice import did_you_mean
    from mixpanel.cdp._customerio import CUSTOMERIO
    from mixpanel.cdp._dialect import Dialect, WriteKey
    from mixpanel.cdp._hightouch import HIGHTOUCH
    from mixpanel.cdp._messages import Message, SegmentComposer
    from mixpanel.cdp._packing import Packed, pack
    from mixpanel.cdp._people import CustomerIOComposer
    from mixpanel.cdp._semantic import SemanticEvent

_ROOMS = {
    "_advice": ["did_you_mean"],
    "_customerio": ["CUSTOMERIO"],
    "_dialect": ["Dialect", "WriteKey"],
    "_hightouch": ["HIGHTOUCH"],
    "_messages": ["Message", "SegmentComposer"],
    "_packing": ["Packed", "pack"],
    "_people": ["CustomerIOComposer"],
    "_semantic": ["SemanticEvent"],
}
_HOME = {name: room for room, names in _ROOMS.items() for name in names}

__all__ = [
    "CUSTOMERIO",
    "HIGHTOUCH",
    "CustomerIOComposer",
    "Dialect",
    "Message",
    "Packed",
    "SegmentComposer",
    "SemanticEvent",
    "WriteKey",
    "did_you_mean",
    "pack",
    "semantic",
    "webhooks",
]


def __getattr__(name: str) -> Any:
    """Load a name from its room, once."""
    if name in ("semantic", "webhooks"):
        return importlib.import_module(f"{__name__}.{name}")
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """Name what there is to use."""
    return __all__
