"""An OpenFeature provider of Mixpanel's flags; needs `pip install 'mixpanel-async[openfeature]'`.

api.set_provider_and_wait(MixpanelProvider(mp))
user = EvaluationContext("u-17", {"plan": "team"})
if api.get_client().get_boolean_value("new-checkout", False, user): ...
"""

from __future__ import annotations

import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import anyio

from mixpanel._runtime import event_loop, native_threads
from mixpanel.client import AsyncMixpanel, Mixpanel
from mixpanel.exceptions import ConfigurationError
from mixpanel.flags._fetching.poller import Poller
from mixpanel.flags._fetching.requests import FlagsError

try:
    from openfeature.event import ProviderEventDetails
    from openfeature.exception import GeneralError, ProviderFatalError, ProviderNotReadyError
    from openfeature.flag_evaluation import FlagResolutionDetails, FlagType
    from openfeature.provider import AbstractProvider, Metadata, ProviderStatus

    from mixpanel.flags._openfeature import Flags, Resolver, as_context
except ModuleNotFoundError as _error:
    if (_error.name or "").partition(".")[0] == "openfeature":
        raise ImportError(
            "OpenFeature is not installed: pip install 'mixpanel-async[openfeature]'"
        ) from _error
    raise

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from openfeature.evaluation_context import EvaluationContext
    from openfeature.flag_evaluation import FlagValueType
    from openfeature.track import TrackingEventDetails

    Context: TypeAlias = EvaluationContext | None
    Object: TypeAlias = Sequence[FlagValueType] | Mapping[str, FlagValueType]

__all__ = ["MixpanelProvider"]

STALE_AFTER: Final = 5  # polling intervals without a successful fetch
STATUS_INTERVAL: Final = 0.5  # seconds, at most, between checks of the definitions' age


class MixpanelProvider(AbstractProvider):
    """Provide a client's flags, or those of a flags provider, to OpenFeature.

    A client's local flags are used if it has them, else its remote ones; to combine both, pass a
    `HybridFeatureFlagsProvider`. Local evaluation never waits, in sync and in async code. Remote
    evaluation takes a request, which in async code only the `_async` methods can make.

    The targeting key becomes the `distinct_id`. All attributes become `custom_properties`; text and
    numbers among them are also keys of the context itself, for flags assigned by a group key such
    as `company_id`. Exposures are reported for the values that were served, as configured.

    It emits STALE after five polling intervals without a successful fetch, READY after the next
    one, and CONFIGURATION_CHANGED with the keys of changed flags.

    :raises ConfigurationError: for a client without flags.
    """

    def __init__(self, source: Mixpanel | AsyncMixpanel | Flags) -> None:
        super().__init__()
        self._client = source if isinstance(source, Mixpanel | AsyncMixpanel) else None
        self._resolver = Resolver(_flags_of(source), self._is_stale)
        self._local = self._resolver.local
        self._lifecycle_lock = threading.Lock()  # held while starting or stopping, which may wait
        self._lock = native_threads.new_lock()
        self._initialized = self._owns_polling = False
        self._started_at = time.monotonic()
        self._last_status = ProviderStatus.NOT_READY
        self._stop_listening: Callable[[], None] | None = None
        self._stale_after = float("inf")  # seconds after which the definitions are stale
        self._check_interval = STATUS_INTERVAL
        if self._local is not None:
            config = self._local._config
            interval = float(config.polling_interval_in_seconds)
            self._check_interval = min(STATUS_INTERVAL, interval / 2)
            if config.enable_polling and not config.offline:
                self._stale_after = STALE_AFTER * interval
        self._watcher = Poller(
            self._watch, self._check_interval, is_ready=lambda: True, on_error=lambda *_: None
        )

    def get_metadata(self) -> Metadata:
        """Return the provider's name."""
        return Metadata("Mixpanel")

    # ---- resolution -------------------------------------------------------------------------

    def resolve_boolean_details(
        self,
        flag_key: str,
        default_value: bool,  # noqa: FBT001 - OpenFeature's position
        evaluation_context: Context = None,
    ) -> FlagResolutionDetails[bool]:
        """Return a variant's value if it is true or false."""
        return self._resolver.resolve(FlagType.BOOLEAN, flag_key, default_value, evaluation_context)

    async def resolve_boolean_details_async(
        self,
        flag_key: str,
        default_value: bool,  # noqa: FBT001 - OpenFeature's position
        evaluation_context: Context = None,
    ) -> FlagResolutionDetails[bool]:
        """Return a variant's value if it is true or false."""
        kind = FlagType.BOOLEAN
        return await self._resolver.aresolve(kind, flag_key, default_value, evaluation_context)

    def resolve_string_details(
        self, flag_key: str, default_value: str, evaluation_context: Context = None
    ) -> FlagResolutionDetails[str]:
        """Return a variant's value if it is text."""
        return self._resolver.resolve(FlagType.STRING, flag_key, default_value, evaluation_context)

    async def resolve_string_details_async(
        self, flag_key: str, default_value: str, evaluation_context: Context = None
    ) -> FlagResolutionDetails[str]:
        """Return a variant's value if it is text."""
        kind = FlagType.STRING
        return await self._resolver.aresolve(kind, flag_key, default_value, evaluation_context)

    def resolve_integer_details(
        self, flag_key: str, default_value: int, evaluation_context: Context = None
    ) -> FlagResolutionDetails[int]:
        """Return a variant's value if it is an integer; true and 1.0 are not."""
        return self._resolver.resolve(FlagType.INTEGER, flag_key, default_value, evaluation_context)

    async def resolve_integer_details_async(
        self, flag_key: str, default_value: int, evaluation_context: Context = None
    ) -> FlagResolutionDetails[int]:
        """Return a variant's value if it is an integer; true and 1.0 are not."""
        kind = FlagType.INTEGER
        return await self._resolver.aresolve(kind, flag_key, default_value, evaluation_context)

    def resolve_float_details(
        self, flag_key: str, default_value: float, evaluation_context: Context = None
    ) -> FlagResolutionDetails[float]:
        """Return a variant's value if it is a number, as a float."""
        return self._resolver.resolve(FlagType.FLOAT, flag_key, default_value, evaluation_context)

    async def resolve_float_details_async(
        self, flag_key: str, default_value: float, evaluation_context: Context = None
    ) -> FlagResolutionDetails[float]:
        """Return a variant's value if it is a number, as a float."""
        kind = FlagType.FLOAT
        return await self._resolver.aresolve(kind, flag_key, default_value, evaluation_context)

    def resolve_object_details(
        self, flag_key: str, default_value: Object, evaluation_context: Context = None
    ) -> FlagResolutionDetails[Object]:
        """Return a variant's value if it is a dict or a list."""
        return self._resolver.resolve(FlagType.OBJECT, flag_key, default_value, evaluation_context)

    async def resolve_object_details_async(
        self, flag_key: str, default_value: Object, evaluation_context: Context = None
    ) -> FlagResolutionDetails[Object]:
        """Return a variant's value if it is a dict or a list."""
        kind = FlagType.OBJECT
        return await self._resolver.aresolve(kind, flag_key, default_value, evaluation_context)

    # ---- lifecycle --------------------------------------------------------------------------

    def initialize(self, evaluation_context: EvaluationContext) -> None:  # noqa: ARG002
        """Start polling unless it was started before, and wait for the first definitions.

        Waits for at most the request timeout plus one second. In a thread with a running event loop
        that blocks the loop, unless the client was opened with `async with` before. If it fails,
        polling continues, and READY is emitted once there are definitions.

        :raises ProviderFatalError: Mixpanel rejects the credentials (401, 403).
        :raises ProviderNotReadyError: there are no definitions for another reason.
        """
        local = self._local
        if local is None:
            return
        with self._lifecycle_lock:
            if not self._initialized:
                self._initialized, self._started_at = True, time.monotonic()
                self._owns_polling = not local._poller.running
            first_attempt = local._poller.start()
        end = time.monotonic() + local._start_timeout
        local._wait(first_attempt, local._start_timeout)
        while not local.are_flags_ready() and local._lease is not None and time.monotonic() < end:
            time.sleep(0.01)  # another process fetches for all
        with self._lock:
            if not self._initialized:
                raise ProviderNotReadyError(
                    "the provider was shut down before it had flag definitions"
                )
            ready = local.are_flags_ready()
            self._last_status = ProviderStatus.READY if ready else ProviderStatus.ERROR
            if self._stop_listening is None:
                self._stop_listening = local.add_listener(self._changed)
                self._watcher.start()
        if ready:
            return
        error = local.last_error
        rejected = isinstance(error, FlagsError) and error.status in (401, 403)
        kind = ProviderFatalError if rejected else ProviderNotReadyError
        raise kind(f"no flag definitions: {error or 'none were received'}") from error

    def shutdown(self) -> None:
        """Stop emitting events, and stop polling if `initialize` started it.

        Idempotent; takes a second at most; may be called from any thread. The client stays open.
        """
        with self._lifecycle_lock:
            with self._lock:
                stop_listening, self._stop_listening = self._stop_listening, None
                was_initialized, self._initialized = self._initialized, False
            if stop_listening is not None:
                stop_listening()
            self._watcher.stop()
            if was_initialized and self._owns_polling and self._local is not None:
                self._local.stop_polling_for_definitions()

    # ---- events -----------------------------------------------------------------------------

    def _is_stale(self) -> bool:
        assert self._local is not None
        if self._watcher.stopped_by_fork:  # this is a forked child's first evaluation
            self._watcher.resume()
        age = self._local.staleness
        if age is None:  # nothing was ever fetched, and the age of a bootstrap is unknown
            age = time.monotonic() - self._started_at
        return age > self._stale_after

    async def _watch(self) -> None:
        # Pause first: OpenFeature must handle the end of `initialize` before other events.
        await anyio.sleep(self._check_interval)
        self._emit_status()

    def _emit_status(self) -> None:
        """Emit READY or STALE if the status changed."""
        assert self._local is not None
        with self._lock:
            if self._stop_listening is None or not self._local.are_flags_ready():
                return
            status = ProviderStatus.STALE if self._is_stale() else ProviderStatus.READY
            if status is self._last_status:
                return
            self._last_status = status
        with suppress(AttributeError, RuntimeError):  # detached, or at interpreter shutdown
            if status is ProviderStatus.STALE:
                message = str(
                    self._local.last_error or "the flag definitions have not been updated"
                )
                self.emit_provider_stale(ProviderEventDetails(message=message))
            else:
                self.emit_provider_ready(ProviderEventDetails())

    def _changed(self, keys: frozenset[str]) -> None:
        self._emit_status()
        if self._stop_listening is not None:
            with suppress(AttributeError, RuntimeError):
                details = ProviderEventDetails(flags_changed=sorted(keys))
                self.emit_provider_configuration_changed(details)

    # ---- tracking ---------------------------------------------------------------------------

    def track(
        self,
        tracking_event_name: str,
        evaluation_context: Context = None,
        tracking_event_details: TrackingEventDetails | None = None,
    ) -> None:
        """Track an event of the user with the targeting key; its value becomes a property `value`.

        In sync code it does what `Mixpanel.track` does: the default consumer sends the event at
        once and raises errors. In a running event loop, and with an `AsyncMixpanel`, it never
        waits: the event is enqueued, and sent soon or when the client is flushed. Without a client
        it does nothing.

        :raises GeneralError: the event has no name.
        """
        if not tracking_event_name:
            raise GeneralError("tracking_event_name must not be empty")
        if self._client is None:
            return
        properties: dict[str, Any] = {}
        if tracking_event_details is not None:
            properties.update(tracking_event_details.attributes)
            if tracking_event_details.value is not None:
                properties["value"] = tracking_event_details.value
        distinct_id = as_context(evaluation_context).get("distinct_id")
        if isinstance(self._client, Mixpanel) and not event_loop.is_running():
            self._client.track(distinct_id, tracking_event_name, properties)
        else:
            self._client._track_exposure(distinct_id, tracking_event_name, properties)


def _flags_of(source: Mixpanel | AsyncMixpanel | Flags) -> Flags:
    if not isinstance(source, Mixpanel | AsyncMixpanel):
        return source
    flags = source._local_flags or source._remote_flags
    if flags is None:
        raise ConfigurationError(
            "the client has no flags: pass it local_flags_config=LocalFlagsConfig()"
        )
    return flags
