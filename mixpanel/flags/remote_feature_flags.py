"""Evaluate flags on Mixpanel's servers: one request for each evaluation, or a short cache."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final, Self

import anyio
import anyio.to_thread

from mixpanel._http.connections import LoopConnections
from mixpanel._http.proxies import TransportOptions
from mixpanel._http.responses import Response, TransportFailure
from mixpanel._records.json_encoding import dumps
from mixpanel._runtime import background_loop, event_loop
from mixpanel._runtime.safe_logging import logger
from mixpanel._runtime.sync_methods import sync_twin
from mixpanel.flags import overrides
from mixpanel.flags._exposures.reporter import ExposureReporter
from mixpanel.flags._fetching.requests import (
    FlagsApi,
    FlagsError,
    decode_response,
    failure_reason,
    send,
)
from mixpanel.flags._results import copy_variant, fallback
from mixpanel.flags._rules.limits import MAX_FLAGS
from mixpanel.flags.types import FallbackReason, RemoteFlagsConfig, SelectedVariant, VariantSource
from mixpanel.settings import check_type

if TYPE_CHECKING:
    from mixpanel._delivery.observer import Observer
    from mixpanel.credentials import ServiceAccountCredentials
    from mixpanel.flags._exposures.reporter import Tracker

__all__ = ["RemoteFeatureFlagsProvider"]

MAX_RESPONSE_BYTES = 4 * 1024 * 1024
LOG_INTERVAL = 60.0  # seconds between two log lines for the same reason
INLINE_DECODE_BYTES = 128 * 1024  # a longer response is decoded in a thread, not in the loop

CacheKey = tuple[Any, str | None, bytes]
Evaluation = tuple[dict[str, SelectedVariant], datetime, datetime, float]


class _PendingRequest:
    """A request in flight, shared by all evaluations that need the same response."""

    def __init__(self) -> None:
        self.done = anyio.Event()
        self.outcome: Evaluation | FlagsError | None = None


class RemoteFeatureFlagsProvider:
    """Evaluate flags remotely; a client given `remote_flags_config` has one as `remote_flags`.

    Each method has a sync form and an async form whose name starts with `a`. None of them raises
    when the request fails: they return the fallback with the reason `BACKEND_ERROR`.

    With a `cache_time_to_live` in the configuration, variants are cached for that many seconds for
    the same context, and evaluations at the same time share one request.
    """

    FLAGS_URL_PATH: Final = "/flags"

    def __init__(
        self,
        token: str,
        config: RemoteFlagsConfig,
        version: str,
        tracker: Tracker,
        credentials: ServiceAccountCredentials | None = None,
        *,
        origin: str | None = None,
        transport: TransportOptions | None = None,
        observer: Observer | None = None,
    ) -> None:
        check_type(config, "remote_flags_config", RemoteFlagsConfig)
        config.check()
        self._observer = observer
        self._config = config
        self._api = FlagsApi(token, config, version, credentials, origin)
        self._reporter = ExposureReporter(tracker, config, "remote")
        self._connections = LoopConnections(
            transport or TransportOptions(),
            deadline=float(config.request_timeout_in_seconds),
            max_response_bytes=MAX_RESPONSE_BYTES + 1,
        )
        self._cache: OrderedDict[CacheKey, tuple[float, Evaluation]] = OrderedDict()
        self._pending: dict[CacheKey, _PendingRequest] = {}
        self._last_error: Exception | None = None
        self._logged_failure: tuple[object, float] = None, 0.0

    # ---- async ------------------------------------------------------------------------------

    async def aget_variant(
        self,
        flag_key: str,
        fallback_value: SelectedVariant,
        context: Mapping[str, Any],
        reportExposure: bool = True,  # noqa: FBT001, FBT002, N803 - the official name
    ) -> SelectedVariant:
        """Return the variant that the context's user gets, or the fallback with its reason.

        `context` needs a `distinct_id`. The server does not distinguish a flag that does not exist
        from one that does not include the user: both are `FLAG_NOT_FOUND`.
        """
        overridden = overrides.current()
        if overridden is not None and flag_key in overridden:
            return overridden[flag_key]
        try:
            variants, started, completed, latency = await self._evaluate(context, flag_key)
        except FlagsError as error:
            reason = FallbackReason.backend_error(str(error))
            return fallback(reason).with_fallback(fallback_value)
        selected = variants.get(flag_key)
        if selected is None:
            return fallback(FallbackReason.flag_not_found()).with_fallback(fallback_value)
        if selected.fallback_reason is not None:
            return selected.with_fallback(fallback_value)
        if reportExposure:
            distinct_id = context.get("distinct_id")
            self._reporter.report_evaluation(
                flag_key, selected, context, distinct_id, latency, started, completed
            )
        return copy_variant(selected)  # the cache has it for others

    async def aget_variant_value(
        self, flag_key: str, fallback_value: Any, context: Mapping[str, Any]
    ) -> Any:
        """Return the value of the variant that the context's user gets, or the fallback."""
        variant = await self.aget_variant(flag_key, SelectedVariant(fallback_value), context)
        return variant.variant_value

    async def ais_enabled(self, flag_key: str, context: Mapping[str, Any]) -> bool:
        """Return True if the flag's value is exactly true for the context's user."""
        return await self.aget_variant_value(flag_key, None, context) is True

    async def aget_all_variants(
        self, context: Mapping[str, Any]
    ) -> dict[str, SelectedVariant] | None:
        """Return the variants of all flags that include the user; None if the request failed."""
        try:
            variants, *_ = await self._evaluate(context, None)
        except FlagsError:
            return None
        variants = {
            key: copy_variant(each)
            for key, each in variants.items()
            if each.fallback_reason is None
        }
        return variants | dict(overrides.current() or {})

    async def atrack_exposure_event(
        self, flag_key: str, variant: SelectedVariant, context: Mapping[str, Any]
    ) -> None:
        """Report that the user was exposed to a variant: the event is enqueued. Never raises."""
        self._reporter.report_explicit(flag_key, variant, context)

    # ---- sync -------------------------------------------------------------------------------

    @sync_twin(aget_variant)
    def get_variant(self) -> Any: ...
    @sync_twin(aget_variant_value)
    def get_variant_value(self) -> Any: ...
    @sync_twin(ais_enabled)
    def is_enabled(self) -> Any: ...
    @sync_twin(aget_all_variants)
    def get_all_variants(self) -> Any: ...

    def track_exposure_event(
        self, flag_key: str, variant: SelectedVariant, context: Mapping[str, Any]
    ) -> None:
        """Report that the user was exposed to a variant: the event is enqueued. Never raises."""
        self._reporter.report_explicit(flag_key, variant, context)

    @property
    def last_error(self) -> Exception | None:
        """Why the latest request failed; None if it did not."""
        return self._last_error

    # ---- requests ---------------------------------------------------------------------------

    async def _evaluate(self, context: Mapping[str, Any], flag_key: str | None) -> Evaluation:
        try:
            evaluation = await self._fetch_cached(context, flag_key)
        except FlagsError as error:
            self._last_error = error
            self._log_failure(error)
            raise
        self._last_error = None
        return evaluation

    def _log_failure(self, error: FlagsError) -> None:
        """Log why evaluations fail: each reason at once, and then at most once a minute."""
        reason, now = failure_reason(error), time.monotonic()
        logged, at = self._logged_failure
        if reason != logged or now - at >= LOG_INTERVAL:
            self._logged_failure = reason, now
            logger.warning("flags could not be evaluated remotely: %s", error)

    async def _fetch_cached(self, context: Mapping[str, Any], flag_key: str | None) -> Evaluation:
        """Return what is cached, or what a request in flight returns, or else send a request."""
        time_to_live = self._config.cache_time_to_live
        if time_to_live <= 0:
            return await self._fetch(context, flag_key)
        key = _cache_key(context, flag_key)
        while True:
            cached = self._cache.get(key)
            if cached is not None and time.monotonic() - cached[0] < time_to_live:
                return cached[1]
            pending = self._pending.get(key)
            if pending is None:
                break
            await pending.done.wait()
            # Without an outcome its sender was cancelled: the next one to wake up sends another.
            if isinstance(pending.outcome, FlagsError):
                raise pending.outcome.copy()
            if pending.outcome is not None:
                return pending.outcome
        pending = self._pending[key] = _PendingRequest()
        try:
            evaluation = pending.outcome = await self._fetch(context, flag_key)
            self._cache[key] = time.monotonic(), evaluation
            while len(self._cache) > self._config.cached_contexts:
                self._cache.popitem(last=False)
            return evaluation
        except FlagsError as error:
            pending.outcome = error
            raise
        finally:
            if self._pending.get(key) is pending:
                del self._pending[key]
            pending.done.set()

    async def _fetch(self, context: Mapping[str, Any], flag_key: str | None) -> Evaluation:
        try:
            request = self._api.evaluation(context, flag_key)
        except Exception as error:
            raise _encoding_error(error) from None
        # Naive local time, as the official SDK reports it.
        started, start = datetime.now(), time.perf_counter()  # noqa: DTZ005
        response = await send(self._connections, request, self._observer)
        latency, completed = time.perf_counter() - start, datetime.now()  # noqa: DTZ005
        if isinstance(response, Response) and len(response.body) > INLINE_DECODE_BYTES:
            variants = await anyio.to_thread.run_sync(
                _parse_variants, response, abandon_on_cancel=True
            )
        else:
            variants = _parse_variants(response)
        return variants, started, completed, latency

    # ---- lifecycle --------------------------------------------------------------------------

    def shutdown(self) -> None:
        """Close the connections; may be called from any thread."""
        background_loop.submit_if_running(self._connections.aclose)

    async def ashutdown(self) -> None:
        """Close the connections."""
        await self._connections.aclose()
        background_loop.submit_if_running(self._connections.aclose)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.ashutdown()


def _cache_key(context: Mapping[str, Any], flag_key: str | None) -> CacheKey:
    """Return the cache key. It includes the loop: requests cannot be shared between event loops."""
    loop = event_loop.running_loop()
    try:
        return loop and loop.key, flag_key, dumps(dict(context))[0]
    except Exception as error:
        raise _encoding_error(error) from None


def _encoding_error(error: Exception) -> FlagsError:
    return FlagsError(f"the context cannot be encoded: {type(error).__name__}")


def _parse_variants(response: Response | TransportFailure) -> dict[str, SelectedVariant]:
    """Return the variants in a response.

    :raises FlagsError: there are none, or too many.
    """
    data = decode_response(response, MAX_RESPONSE_BYTES)
    flags = data.get("flags") if isinstance(data, dict) else None
    if not isinstance(flags, dict):
        raise FlagsError('HTTP 200: the response has no "flags"')
    if len(flags) > MAX_FLAGS:
        raise FlagsError(f"HTTP 200: {len(flags):,} flags (limit: {MAX_FLAGS:,})")
    return {key: made for key, raw in flags.items() if (made := _parse_variant(raw)) is not None}


def _parse_variant(raw: Any) -> SelectedVariant | None:
    """Return the variant of one flag in the response; None if it is malformed."""
    if not isinstance(raw, Mapping):
        return None
    variant_key = raw.get("variant_key")
    if isinstance(variant_key, int | float) and not isinstance(variant_key, bool):
        variant_key = str(variant_key)
    if not isinstance(variant_key, str):
        return None
    if "variant_value" not in raw:
        message = f"HTTP 200: variant {variant_key!r} has no variant_value"
        return fallback(FallbackReason.backend_error(message))

    def typed(name: str, kind: type) -> Any:
        value = raw.get(name)
        return value if isinstance(value, kind) else None

    return SelectedVariant(
        raw["variant_value"],
        variant_key,
        typed("experiment_id", str),
        typed("is_experiment_active", bool),
        typed("is_qa_tester", bool),
        VariantSource.REMOTE,
    )
