"""Serve Mixpanel's flags through OpenFeature; needs `pip install 'mixpanel-async[openfeature]'`.

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

from mixpanel._runtime import background_loop
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
        raise ImportError("this needs: pip install 'mixpanel-async[openfeature]'") from _error
    raise

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from openfeature.evaluation_context import EvaluationContext
    from openfeature.flag_evaluation import FlagValueType
    from openfeature.track import TrackingEventDetails

    Context: TypeAlias = EvaluationContext | None
    Object: TypeAlias = Sequence[FlagValueType] | Mapping[str, FlagValueType]

__all__ = ["MixpanelProvider"]

STALE_AFTER: Final = 5  # polling intervals without news
WATCHING: Final = 0.5  # seconds between looks at the age of the definitions, at most


class MixpanelProvider(AbstractProvider):
    """Answer OpenFeature's clients from a client's flags, or from a flags provider directly.

    A client's local flags are used if it has them, else its remote ones; to combine both, give a
    `HybridFeatureFlagsProvider`. Sync and async evaluation decide locally in place, without a wait;
    only what Mixpanel has to be asked for costs a request, and in async code only the `_async`
    methods can make it.

    The targeting key is the `distinct_id`. All attributes are `custom_properties`, and those that
    are text or numbers stand beside it too, for flags assigned by a group key such as `company_id`.
    An exposure is reported for each value that was served, as the flags' configuration says.

    It emits STALE when nothing was heard for five polling intervals, READY when it was, and
    CONFIGURATION_CHANGED with the keys of the flags.

    :raises ConfigurationError: for a client without flags.
    """

    def __init__(self, source: Mixpanel | AsyncMixpanel | Flags) -> None:
        super().__init__()
        self._client = source if isinstance(source, Mixpanel | AsyncMixpanel) else None
        self._resolver = Resolver(_flags_of(source), self._is_stale)
        self._local = self._resolver.local
        self._turning = threading.Lock()  # one starts or stops at a time; stopping may wait
        self._lock = threading.Lock()
        self._live = self._owns_polling = False
        self._began = time.monotonic()
        self._told = ProviderStatus.NOT_READY
        self._stop_listening: Callable[[], None] | None = None
        self._patience = float("inf")  # seconds without news until the definitions are stale
        self._pause = WATCHING
        if self._local is not None:
            config = self._local._config
            interval = float(config.polling_interval_in_seconds)
            self._pause = min(WATCHING, interval / 2)
            if config.enable_polling and not config.offline:
                self._patience = STALE_AFTER * interval
        self._watcher = Poller(
            self._watch, self._pause, has_something=lambda: True, failed=lambda *_: None
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
        """Return a variant's value if it is an integer; true and 1.0 are none."""
        return self._resolver.resolve(FlagType.INTEGER, flag_key, default_value, evaluation_context)

    async def resolve_integer_details_async(
        self, flag_key: str, default_value: int, evaluation_context: Context = None
    ) -> FlagResolutionDetails[int]:
        """Return a variant's value if it is an integer; true and 1.0 are none."""
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

    # ---- life -------------------------------------------------------------------------------

    def initialize(self, evaluation_context: EvaluationContext) -> None:  # noqa: ARG002
        """Start polling if nobody did, and wait for the first definitions.

        Waits for the request timeout and a second more at the most, in any thread: a running
        event loop is held up for as long, unless the client was opened with `async with` before.
        When it fails, polling goes on, and READY comes when the definitions do.

        :raises ProviderFatalError: when Mixpanel refuses the credentials (401, 403).
        :raises ProviderNotReadyError: when there are no definitions for another reason.
        """
        local = self._local
        if local is None:
            return
        with self._turning:
            if not self._live:
                self._live, self._began = True, time.monotonic()
                self._owns_polling = not local._poller.running
            first_attempt = local._poller.start()
        end = time.monotonic() + local._patience
        local._wait(first_attempt, local._patience)
        while not local.are_flags_ready() and local._lease is not None and time.monotonic() < end:
            time.sleep(0.01)  # another process fetches for all
        with self._lock:
            if not self._live:
                raise ProviderNotReadyError("shut down before there were flag definitions")
            ready = local.are_flags_ready()
            self._told = ProviderStatus.READY if ready else ProviderStatus.ERROR
            if self._stop_listening is None:
                self._stop_listening = local.add_listener(self._changed)
                self._watcher.start()
        if ready:
            return
        error = local.last_error
        refused = isinstance(error, FlagsError) and error.status in (401, 403)
        kind = ProviderFatalError if refused else ProviderNotReadyError
        raise kind(f"no flag definitions: {error or 'nothing to fetch them from'}") from error

    def shutdown(self) -> None:
        """Stop emitting events, and polling if `initialize` started it.

        Idempotent, within a second, callable from any thread. The client stays open: whoever made
        it closes it.
        """
        with self._turning:
            with self._lock:
                stop_listening, self._stop_listening = self._stop_listening, None
                live, self._live = self._live, False
            if stop_listening is not None:
                stop_listening()
            self._watcher.stop()
            if live and self._owns_polling and self._local is not None:
                self._local.stop_polling_for_definitions()

    # ---- events -----------------------------------------------------------------------------

    def _is_stale(self) -> bool:
        assert self._local is not None
        if self._watcher.orphaned:  # this is a forked child, and somebody asks for a flag
            self._watcher.resume()
        age = self._local.staleness
        if age is None:  # nothing was ever fetched, and nobody knows the age of a bootstrap
            age = time.monotonic() - self._began
        return age > self._patience

    async def _watch(self) -> None:
        # First a pause: what `initialize` ends with has to be told before anything else.
        await anyio.sleep(self._pause)
        self._look()

    def _look(self) -> None:
        """Tell OpenFeature if the definitions came, grew stale, or are fresh again."""
        assert self._local is not None
        with self._lock:
            if self._stop_listening is None or not self._local.are_flags_ready():
                return
            status = ProviderStatus.STALE if self._is_stale() else ProviderStatus.READY
            if status is self._told:
                return
            self._told = status
        with suppress(AttributeError, RuntimeError):  # detached, or the interpreter ends
            if status is ProviderStatus.STALE:
                message = str(self._local.last_error or "no news of the flag definitions")
                self.emit_provider_stale(ProviderEventDetails(message=message))
            else:
                self.emit_provider_ready(ProviderEventDetails())

    def _changed(self, keys: frozenset[str]) -> None:
        self._look()
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
        """Track an event of the targeting key's user; its value becomes the property `value`.

        Sync code tracks as its client does: the default consumer sends at once and raises what goes
        wrong. In a running loop, and with an `AsyncMixpanel`, it never waits: the event is
        enqueued, and leaves soon or when the client is flushed. Without a client nothing happens.

        :raises GeneralError: for an event without a name.
        """
        if not tracking_event_name:
            raise GeneralError("an event needs a name")
        if self._client is None:
            return
        properties: dict[str, Any] = {}
        if tracking_event_details is not None:
            properties.update(tracking_event_details.attributes)
            if tracking_event_details.value is not None:
                properties["value"] = tracking_event_details.value
        distinct_id = as_context(evaluation_context).get("distinct_id")
        if isinstance(self._client, Mixpanel) and not background_loop.in_async():
            self._client.track(distinct_id, tracking_event_name, properties)
        else:
            self._client._track_exposure(distinct_id, tracking_event_name, properties)


def _flags_of(source: Mixpanel | AsyncMixpanel | Flags) -> Flags:
    if not isinstance(source, Mixpanel | AsyncMixpanel):
        return source
    flags = source._local_flags or source._remote_flags
    if flags is None:
        raise ConfigurationError(
            "the client has no flags: give it local_flags_config=LocalFlagsConfig()"
        )
    return flags
