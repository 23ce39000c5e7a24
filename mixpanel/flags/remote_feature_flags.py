"""Ask Mixpanel which variant a user gets: one request each, or a short cache in between."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final, Self

import anyio
import anyio.to_thread

from mixpanel._http.connections import LoopConnections
from mixpanel._http.proxies import (
    TransportOptions,
)
from mixpanel._http.responses import (
    Response,
    TransportFailure,
)
from mixpanel._records.encoding import dumps
from mixpanel._runtime import background_loop, event_loop
from mixpanel._runtime.sync_methods import synced
from mixpanel.flags import overrides
from mixpanel.flags._exposures.reporter import Reporter
from mixpanel.flags._fetching.requests import Asker, FlagsError, decoded
from mixpanel.flags._rules.limits import MAX_FLAGS
from mixpanel.flags.types import FallbackReason, RemoteFlagsConfig, SelectedVariant, VariantSource

if TYPE_CHECKING:
    from mixpanel.credentials import ServiceAccountCredentials
    from mixpanel.flags._exposures.reporter import Tracker

__all__ = ["RemoteFeatureFlagsProvider"]

LARGEST_ANSWER = 4 * 1024 * 1024
DECODED_AT_ONCE = 128 * 1024  # bytes; more of them would hold up the loop

Question = tuple[Any, str | None, bytes]
Answered = tuple[dict[str, SelectedVariant], datetime, datetime, float]


class _Asking:
    """A request under way, for all who wait for the same answer."""

    def __init__(self) -> None:
        self.over = anyio.Event()
        self.outcome: Answered | FlagsError | None = None


class RemoteFeatureFlagsProvider:
    """Decide flags remotely; a client makes one when it is given `remote_flags_config`.

    Every method exists for async code, with an `a` before its name, and for sync code. None of them
    raises on what the server does: they return the fallback with reason `BACKEND_ERROR`.

    With `cache_time_to_live` seconds in the configuration, answers are kept that long for the same
    context, and callers who ask at the same time share one request.
    """

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
    ) -> None:
        self._config = config
        self._asker = Asker(token, config, version, credentials, origin)
        self._reporter = Reporter(tracker, config, "remote")
        self._connections = LoopConnections(
            transport or TransportOptions(),
            deadline=float(config.request_timeout_in_seconds),
            answer_bytes=LARGEST_ANSWER + 1,
        )
        self._cache: OrderedDict[Question, tuple[float, Answered]] = OrderedDict()
        self._asking: dict[Question, _Asking] = {}
        self._last_error: Exception | None = None

    # ---- async ------------------------------------------------------------------------------

    async def aget_variant(
        self,
        flag_key: str,
        fallback_value: SelectedVariant,
        context: Mapping[str, Any],
        reportExposure: bool = True,  # noqa: FBT001, FBT002, N803 - the official name
    ) -> SelectedVariant:
        """Return the variant that the context's user gets, or the fallback with its reason.

        `context` needs a `distinct_id`. A flag that does not exist and one that the user takes no
        part in look the same from here: `FLAG_NOT_FOUND`.
        """
        overridden = overrides.current()
        if overridden is not None and flag_key in overridden:
            return overridden[flag_key]
        try:
            variants, started, completed, latency = await self._answered(context, flag_key)
        except FlagsError as error:
            return _fallback(fallback_value, FallbackReason.backend_error(str(error)))
        selected = variants.get(flag_key)
        if selected is None:
            return _fallback(fallback_value, FallbackReason.flag_not_found())
        if reportExposure:
            who = context.get("distinct_id")
            self._reporter.automatic(flag_key, selected, context, who, latency, started, completed)
        return selected

    async def aget_variant_value(
        self, flag_key: str, fallback_value: Any, context: Mapping[str, Any]
    ) -> Any:
        """Return the value of the variant that the context's user gets, or the fallback."""
        variant = await self.aget_variant(flag_key, SelectedVariant(fallback_value), context)
        return variant.variant_value

    async def ais_enabled(self, flag_key: str, context: Mapping[str, Any]) -> bool:
        """Tell whether the flag's value is exactly true for the context's user."""
        return await self.aget_variant_value(flag_key, None, context) is True

    async def aget_all_variants(
        self, context: Mapping[str, Any]
    ) -> dict[str, SelectedVariant] | None:
        """Return the variants of all flags the user takes part in; None when nobody could say."""
        try:
            variants, *_ = await self._answered(context, None)
        except FlagsError:
            return None
        return variants | dict(overrides.current() or {})

    async def atrack_exposure_event(
        self, flag_key: str, variant: SelectedVariant, context: Mapping[str, Any]
    ) -> None:
        """Report that the user was exposed to a variant; enqueued, never raises."""
        self._reporter.manual(flag_key, variant, context)

    # ---- sync -------------------------------------------------------------------------------

    @property
    def _core(self) -> RemoteFeatureFlagsProvider:
        return self

    get_variant: Final = synced(aget_variant)
    get_variant_value: Final = synced(aget_variant_value)
    is_enabled: Final = synced(ais_enabled)
    get_all_variants: Final = synced(aget_all_variants)

    def track_exposure_event(
        self, flag_key: str, variant: SelectedVariant, context: Mapping[str, Any]
    ) -> None:
        """Report that the user was exposed to a variant; enqueued, never raises."""
        self._reporter.manual(flag_key, variant, context)

    @property
    def last_error(self) -> Exception | None:
        """Return why the latest answer could not be had; None when it could."""
        return self._last_error

    # ---- asking -----------------------------------------------------------------------------

    async def _answered(self, context: Mapping[str, Any], flag_key: str | None) -> Answered:
        try:
            answered = await self._shared(context, flag_key)
        except FlagsError as error:
            self._last_error = error
            raise
        self._last_error = None
        return answered

    async def _shared(self, context: Mapping[str, Any], flag_key: str | None) -> Answered:
        """Return an answer that is kept, or under way, or else ask."""
        keep = self._config.cache_time_to_live
        if keep <= 0:
            return await self._ask(context, flag_key)
        who = _question(context, flag_key)
        while True:
            kept = self._cache.get(who)
            if kept is not None and time.monotonic() - kept[0] < keep:
                return kept[1]
            asking = self._asking.get(who)
            if asking is None:
                break
            await asking.over.wait()
            # Without an outcome the one who asked was cancelled, and the next one asks.
            if isinstance(asking.outcome, FlagsError):
                raise asking.outcome.again()
            if asking.outcome is not None:
                return asking.outcome
        asking = self._asking[who] = _Asking()
        try:
            answered = asking.outcome = await self._ask(context, flag_key)
            self._cache[who] = time.monotonic(), answered
            while len(self._cache) > self._config.cached_contexts:
                self._cache.popitem(last=False)
            return answered
        except FlagsError as error:
            asking.outcome = error
            raise
        finally:
            if self._asking.get(who) is asking:
                del self._asking[who]
            asking.over.set()

    async def _ask(self, context: Mapping[str, Any], flag_key: str | None) -> Answered:
        try:
            request = self._asker.evaluation(context, flag_key)
        except Exception as error:
            raise _unsendable(error) from None
        started, began = datetime.now(), time.perf_counter()  # noqa: DTZ005 - as officially
        reply = await self._connections.send(request)
        latency, completed = time.perf_counter() - began, datetime.now()  # noqa: DTZ005
        if isinstance(reply, Response) and len(reply.body) > DECODED_AT_ONCE:
            variants = await anyio.to_thread.run_sync(_variants, reply, abandon_on_cancel=True)
        else:
            variants = _variants(reply)
        return variants, started, completed, latency

    # ---- life -------------------------------------------------------------------------------

    def shutdown(self) -> None:
        """Close the connections; callable from any thread."""
        background_loop.soon(self._connections.aclose)

    async def ashutdown(self) -> None:
        """Close the connections."""
        await self._connections.aclose()
        background_loop.soon(self._connections.aclose)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.ashutdown()


def _question(context: Mapping[str, Any], flag_key: str | None) -> Question:
    """Name what is asked; the answer to another loop's question could not be awaited here."""
    here = event_loop.running()
    try:
        return here and here.key, flag_key, dumps(dict(context))[0]
    except Exception as error:
        raise _unsendable(error) from None


def _unsendable(error: Exception) -> FlagsError:
    return FlagsError(f"the context cannot be sent: {type(error).__name__}")


def _variants(reply: Response | TransportFailure) -> dict[str, SelectedVariant]:
    """Return the variants in an answer.

    :raises FlagsError: there are none, or too many.
    """
    data = decoded(reply, LARGEST_ANSWER)
    flags = data.get("flags") if isinstance(data, dict) else None
    if not isinstance(flags, dict):
        raise FlagsError('HTTP 200: the answer has no "flags"')
    if len(flags) > MAX_FLAGS:
        raise FlagsError(f"HTTP 200: {len(flags):,} flags: at most {MAX_FLAGS:,}")
    return {key: made for key, raw in flags.items() if (made := _variant(raw)) is not None}


def _variant(raw: Any) -> SelectedVariant | None:
    """Read one flag of the answer; None for one that makes no sense, which harms no other."""
    if not isinstance(raw, Mapping) or not isinstance(raw.get("variant_key"), str):
        return None

    def one(name: str, kind: type) -> Any:
        value = raw.get(name)
        return value if isinstance(value, kind) else None

    return SelectedVariant(
        raw.get("variant_value"),
        raw["variant_key"],
        one("experiment_id", str),
        one("is_experiment_active", bool),
        one("is_qa_tester", bool),
        VariantSource.REMOTE,
    )


def _fallback(fallback: SelectedVariant, reason: FallbackReason) -> SelectedVariant:
    failed = SelectedVariant(None, variant_source=VariantSource.FALLBACK, fallback_reason=reason)
    return failed.or_fallback(fallback)
