"""Mixpanel for Python: async first, sync faces over the same core, honest about loss.

    async with AsyncMixpanel("TOKEN") as mp:
        await mp.track("u-17", "Signed Up", {"plan": "team"})

Importing this package starts nothing; each name loads its room when it is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from mixpanel._version import __version__

if TYPE_CHECKING:
    from mixpanel._delivery.stats import FlushResult, Stats
    from mixpanel._records.context import context
    from mixpanel._records.encoding import DatetimeSerializer, json_dumps
    from mixpanel.client import AsyncMixpanel, Mixpanel
    from mixpanel.consumers import (
        AsyncBufferedConsumer,
        AsyncConsumer,
        BufferedConsumer,
        Consumer,
    )
    from mixpanel.credentials import ServiceAccountCredentials
    from mixpanel.exceptions import (
        AmbiguousDeliveryError,
        AuthenticationError,
        ClosedError,
        ConfigurationError,
        DeliveryError,
        MixpanelException,
        PayloadTooLargeError,
        QueueFullError,
        RateLimitError,
        RejectedError,
        RejectedRecord,
        RequestTimeoutError,
        ServerError,
        SyncInAsyncError,
        TransportError,
        ValidationError,
    )
    from mixpanel.flags.types import LocalFlagsConfig, RemoteFlagsConfig
    from mixpanel.settings import Limits, RetryPolicy

_ROOMS = {
    "_records.context": ["context"],
    "_records.encoding": ["DatetimeSerializer", "json_dumps"],
    "_delivery.stats": ["FlushResult", "Stats"],
    "client": ["AsyncMixpanel", "Mixpanel"],
    "consumers": ["AsyncBufferedConsumer", "AsyncConsumer", "BufferedConsumer", "Consumer"],
    "credentials": ["ServiceAccountCredentials"],
    "exceptions": [
        "AmbiguousDeliveryError",
        "AuthenticationError",
        "ClosedError",
        "ConfigurationError",
        "DeliveryError",
        "MixpanelException",
        "PayloadTooLargeError",
        "QueueFullError",
        "RateLimitError",
        "RejectedError",
        "RejectedRecord",
        "RequestTimeoutError",
        "ServerError",
        "SyncInAsyncError",
        "TransportError",
        "ValidationError",
    ],
    "flags.types": ["LocalFlagsConfig", "RemoteFlagsConfig"],
    "settings": ["Limits", "RetryPolicy"],
}
_HOME = {name: room for room, names in _ROOMS.items() for name in names}

__all__ = [
    "AmbiguousDeliveryError",
    "AsyncBufferedConsumer",
    "AsyncConsumer",
    "AsyncMixpanel",
    "AuthenticationError",
    "BufferedConsumer",
    "ClosedError",
    "ConfigurationError",
    "Consumer",
    "DatetimeSerializer",
    "DeliveryError",
    "FlushResult",
    "Limits",
    "LocalFlagsConfig",
    "Mixpanel",
    "MixpanelException",
    "PayloadTooLargeError",
    "QueueFullError",
    "RateLimitError",
    "RejectedError",
    "RejectedRecord",
    "RemoteFlagsConfig",
    "RequestTimeoutError",
    "RetryPolicy",
    "ServerError",
    "ServiceAccountCredentials",
    "Stats",
    "SyncInAsyncError",
    "TransportError",
    "ValidationError",
    "__version__",
    "context",
    "json_dumps",
]


def __getattr__(name: str) -> Any:
    room = _HOME.get(name)
    if room is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{room}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
