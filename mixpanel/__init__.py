"""Mixpanel for Python: async first, with sync classes over the same core, and no silent loss.

    async with AsyncMixpanel("TOKEN") as mp:
        await mp.track("u-17", "Signed Up", {"plan": "team"})

Importing this package starts nothing; each name is imported when it is first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mixpanel._lazy import load_lazily
from mixpanel._version import __version__

if TYPE_CHECKING or not load_lazily(__name__):
    from mixpanel import credentials, flags
    from mixpanel._delivery.health import Health
    from mixpanel._delivery.stats import FlushResult, Stats
    from mixpanel._records.context import context, update_context
    from mixpanel._records.json_encoding import DatetimeSerializer, json_dumps
    from mixpanel._runtime.safe_logging import standard_logger as logger
    from mixpanel.bulk import ImportInterrupted, ImportResult
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
        ConfigurationTypeError,
        DeliveryError,
        MixpanelException,
        PayloadTooLargeError,
        QueueFullError,
        RateLimitError,
        RejectedError,
        RejectedRecord,
        RequestTimeoutError,
        ServerError,
        SpoolError,
        SyncInAsyncError,
        TransportError,
        ValidationError,
    )
    from mixpanel.flags.local_feature_flags import LocalFeatureFlagsProvider
    from mixpanel.flags.remote_feature_flags import RemoteFeatureFlagsProvider
    from mixpanel.flags.types import LocalFlagsConfig, RemoteFlagsConfig
    from mixpanel.lookup_tables import LookupTable
    from mixpanel.settings import Limits, RetryPolicy
    from mixpanel.signals import flush_on_signal

__all__ = [
    "AmbiguousDeliveryError",
    "AsyncBufferedConsumer",
    "AsyncConsumer",
    "AsyncMixpanel",
    "AuthenticationError",
    "BufferedConsumer",
    "ClosedError",
    "ConfigurationError",
    "ConfigurationTypeError",
    "Consumer",
    "DatetimeSerializer",
    "DeliveryError",
    "FlushResult",
    "Health",
    "ImportInterrupted",
    "ImportResult",
    "Limits",
    "LocalFeatureFlagsProvider",
    "LocalFlagsConfig",
    "LookupTable",
    "Mixpanel",
    "MixpanelException",
    "PayloadTooLargeError",
    "QueueFullError",
    "RateLimitError",
    "RejectedError",
    "RejectedRecord",
    "RemoteFeatureFlagsProvider",
    "RemoteFlagsConfig",
    "RequestTimeoutError",
    "RetryPolicy",
    "ServerError",
    "ServiceAccountCredentials",
    "SpoolError",
    "Stats",
    "SyncInAsyncError",
    "TransportError",
    "ValidationError",
    "__version__",
    "context",
    "credentials",
    "flags",
    "flush_on_signal",
    "json_dumps",
    "logger",
    "update_context",
]
