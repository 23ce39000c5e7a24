"""Evaluate flags in this process, from definitions that a poller keeps up to date.

Evaluation reads the current definitions, which are immutable and replaced as a whole: it takes no
lock, does no I/O and never raises. Fetching runs on the background loop, so one provider serves
sync code, asyncio and trio, survives the event loops of its callers, and resumes in forked
children.
"""

from __future__ import annotations

import time
import weakref
from concurrent.futures import CancelledError
from contextlib import suppress
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self

import anyio.to_thread

from mixpanel._http.connections import LoopConnections
from mixpanel._http.proxies import TransportOptions
from mixpanel._http.responses import Response, TransportFailure
from mixpanel._records.json_encoding import loads
from mixpanel._runtime import background_loop, event_loop, fork, native_threads
from mixpanel._runtime.checked_files import read_checked
from mixpanel._runtime.file_lock import FileLock
from mixpanel._runtime.private_files import make_folder
from mixpanel._runtime.safe_logging import logger
from mixpanel.exceptions import ConfigurationError
from mixpanel.flags import overrides
from mixpanel.flags._evaluation.definitions import Definitions, parse_definitions
from mixpanel.flags._evaluation.evaluate import FLAG_NOT_FOUND, Snapshot
from mixpanel.flags._exposures.reporter import ExposureReporter
from mixpanel.flags._fetching.poller import Poller
from mixpanel.flags._fetching.requests import (
    FlagsApi,
    FlagsError,
    decode_response,
    failure_reason,
    send,
)
from mixpanel.flags._fetching.snapshot_file import SavedDefinitions, SnapshotFile
from mixpanel.flags._results import fallback
from mixpanel.flags._rules.casefolding import fold_texts
from mixpanel.flags.explain import explain
from mixpanel.flags.types import NO_FALLBACK, FallbackReason, LocalFlagsConfig, SelectedVariant
from mixpanel.settings import check_type

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from concurrent.futures import Future

    from mixpanel._delivery.observer import Observer
    from mixpanel.credentials import ServiceAccountCredentials
    from mixpanel.flags._evaluation.compiled_flag import CompiledFlag
    from mixpanel.flags._exposures.reporter import Tracker
    from mixpanel.flags.explain import Trace

    Listener = Callable[[frozenset[str]], object]

__all__ = ["LocalFeatureFlagsProvider"]

NOT_READY = fallback(
    FallbackReason(
        "FLAG_NOT_FOUND",
        "no definitions yet: call start_polling_for_definitions(), or open the client using `with`",
    )
)
SNAPSHOT_GROWTH = 2  # encoded again, a response may be longer: 1e9 becomes 1000000000.0
SNAPSHOT_FIELDS = 4096  # bytes for project, ETag and time
STOP_TIMEOUT = 1.0  # seconds


class _WaitingError(FlagsError):
    """Another process fetches the definitions for all, and has not yet."""


class LocalFeatureFlagsProvider:
    """Evaluate flags locally; a client given `local_flags_config` has one as `local_flags`.

    :param tracker: called with `(distinct_id, event_name, properties)` for each exposure.
    :raises ConfigurationError: for an invalid bootstrap, or contradictory settings.
    """

    FLAGS_DEFINITIONS_URL_PATH: Final = "/flags/definitions"

    def __init__(
        self,
        token: str,
        config: LocalFlagsConfig,
        version: str,
        tracker: Tracker,
        credentials: ServiceAccountCredentials | None = None,
        *,
        origin: str | None = None,
        transport: TransportOptions | None = None,
        observer: Observer | None = None,
    ) -> None:
        check_type(config, "local_flags_config", LocalFlagsConfig)
        config.check()
        self._observer = observer
        self._config = config
        self._max_definitions_bytes = _max_definitions_bytes(config)
        self._api = FlagsApi(token, config, version, credentials, origin)
        self._reporter = ExposureReporter(tracker, config, "local")
        self._connections = LoopConnections(
            transport or TransportOptions(),
            deadline=float(config.request_timeout_in_seconds),
            max_response_bytes=self._max_definitions_bytes + 1,
        )
        self._definitions = Definitions()
        self._active_flags: Mapping[str, CompiledFlag] = {}  # see `_lookup_slow`
        self._ready = False
        self._fetched_at: float | None = None  # epoch
        self._etag: str | None = None
        self._empty_responses = 0
        self._last_error: Exception | None = None
        self._listeners: tuple[Listener, ...] = ()
        self._snapshot: SnapshotFile | None = None
        if config.snapshot_path:
            self._snapshot = SnapshotFile(
                config.snapshot_path,
                token,
                SNAPSHOT_GROWTH * self._max_definitions_bytes + SNAPSHOT_FIELDS,
            )
        self._lease: FileLock | None = None
        self._lease_problem = False
        if config.share_polling:
            if self._snapshot is None:
                raise ConfigurationError("share_polling=True requires a snapshot_path")
            self._lease = FileLock(
                self._snapshot.path.with_name(f"{self._snapshot.path.name}.lease")
            )
        self._poller = Poller(
            self._refresh,
            _interval(config),
            is_ready=self.are_flags_ready,
            on_error=self._on_fetch_error,
            repeat=config.enable_polling,
        )
        _providers.add(self)
        self._load_initial()

    def _load_initial(self) -> None:
        """Load definitions from the bootstrap, then from the snapshot if there is one."""
        bootstrap = self._config.bootstrap
        if bootstrap is not None:
            try:
                if not isinstance(bootstrap, dict):
                    # It may belong to another user: it is part of the program, as its code is.
                    file = Path(bootstrap).resolve()
                    bootstrap = loads(
                        read_checked(file, max_bytes=self._max_definitions_bytes, owned=False)
                    )
            except OSError as error:
                raise ConfigurationError(f"bootstrap {bootstrap}: {error.strerror}") from error
            except (ValueError, RecursionError) as error:
                raise ConfigurationError(f"bootstrap: {error}") from error
            except TypeError:
                kind = type(bootstrap).__name__
                raise ConfigurationError(
                    f"bootstrap must be a dict or the path of a JSON file, not {kind}"
                ) from None
            parsed = self._parse(bootstrap)
            if parsed.problem is not None:
                raise ConfigurationError(f"bootstrap: {parsed.problem}")
            self._replace(parsed, None)
        saved = self._snapshot.load() if self._snapshot is not None else None
        if saved is not None and (parsed := self._parse(saved.payload)).problem is None:
            self._replace(parsed, saved.fetched_at)

    # ---- evaluation -------------------------------------------------------------------------

    def get_variant(
        self,
        flag_key: str,
        fallback_value: SelectedVariant,
        context: Mapping[str, Any],
        report_exposure: bool = True,  # noqa: FBT001, FBT002 - the official position
    ) -> SelectedVariant:
        """Return the variant that the context's user gets, or the fallback with its reason.

        `context` holds the assignment value (`distinct_id`, `device_id` or a group key) and
        `custom_properties` for rules. Never raises, never waits. The exposure of the same
        user, flag, variant and assignment value is reported once per `exposure_time_to_live`.
        """
        start = time.perf_counter() if report_exposure else 0.0
        try:
            flag = self._active_flags[flag_key]
        except KeyError:
            found = self._lookup_slow(flag_key, fallback_value)
            if isinstance(found, SelectedVariant):
                return found
            flag = found
        decide = flag.decide  # in a variable: `flag.decide(…)` would look for a method first
        selected = decide(context)
        if selected.fallback_reason is not None:
            return selected.with_fallback(fallback_value)
        if report_exposure:
            latency = time.perf_counter() - start
            assignment = context.get(flag.context_key)
            self._reporter.report_evaluation(flag_key, selected, context, assignment, latency)
        return selected

    def _lookup_slow(
        self, flag_key: str, fallback_value: SelectedVariant
    ) -> CompiledFlag | SelectedVariant:
        """Find a flag that is not in `_active_flags`.

        `_active_flags` is empty after a fork (the poller has to be resumed) and once a flag was
        overridden; and it lacks unknown flags. Checking for each of these first would cost every
        evaluation more than looking up the flag does.
        """
        if self._poller.stopped_by_fork:
            self._poller.resume()
        overridden = overrides.current()
        if overridden is not None and flag_key in overridden:
            return overridden[flag_key]
        self._set_active_flags()
        definitions = self._definitions
        flag = definitions.flags.get(flag_key)
        if flag is not None:
            return flag
        unknown = FLAG_NOT_FOUND if self._ready else NOT_READY
        return definitions.unusable.get(flag_key, unknown).with_fallback(fallback_value)

    def _set_active_flags(self) -> None:
        """Make the current definitions' flags the active ones, unless any was ever overridden.

        Other threads may replace the definitions, or start to override flags, at the same time.
        Without a lock the last writer has to check that what it wrote is still current.
        """
        while True:
            definitions, overridden = self._definitions, overrides.ever_used
            self._active_flags = {} if overridden else definitions.flags
            if definitions is self._definitions and overridden is overrides.ever_used:
                return

    def get_variant_value(
        self, flag_key: str, fallback_value: Any, context: Mapping[str, Any]
    ) -> Any:
        """Return the value of the variant that the context's user gets, or the fallback."""
        selected = self.get_variant(flag_key, NO_FALLBACK, context)
        return fallback_value if selected.fallback_reason is not None else selected.variant_value

    def is_enabled(self, flag_key: str, context: Mapping[str, Any]) -> bool:
        """Return True if the flag's value is exactly true for the context's user."""
        return self.get_variant_value(flag_key, None, context) is True

    def get_all_variants(self, context: Mapping[str, Any]) -> dict[str, SelectedVariant]:
        """Return the variants of all flags that include the user; reports no exposures."""
        return self.snapshot(context).get_all()

    def snapshot(self, context: Mapping[str, Any]) -> Snapshot:
        """Return a snapshot of the current definitions for one user, to be used in one request.

        Its evaluations report no exposures: call `track_exposure_event` where a variant is shown.
        """
        if self._poller.stopped_by_fork:
            self._poller.resume()
        return Snapshot(self._definitions, context, overrides.current())

    def explain(self, flag_key: str, context: Mapping[str, Any]) -> Trace:
        """Explain the evaluation of a flag: rollout by rollout, with buckets and clauses."""
        return explain(self._definitions, flag_key, context)

    def track_exposure_event(
        self, flag_key: str, variant: SelectedVariant, context: Mapping[str, Any]
    ) -> None:
        """Report that the user was exposed to a variant: every call does. Never raises."""
        self._reporter.report_explicit(flag_key, variant, context)

    # ---- definitions ------------------------------------------------------------------------

    @property
    def definitions(self) -> Definitions:
        """The current definitions, with their diagnostics."""
        return self._definitions

    def are_flags_ready(self) -> bool:
        """Return True if there are definitions: fetched, or from the bootstrap or a snapshot."""
        return self._ready

    @property
    def staleness(self) -> float | None:
        """Seconds since the definitions were last known to be current; None if they never were."""
        return None if self._fetched_at is None else max(0.0, time.time() - self._fetched_at)

    def add_listener(self, listener: Listener) -> Callable[[], None]:
        """Call `listener` with the keys of changed flags after each change.

        Returns a function that removes the listener. The listener is called in the poller's thread,
        so it must not block: pass longer work to another thread.
        """
        self._listeners = (*self._listeners, listener)

        def remove() -> None:
            self._listeners = tuple(one for one in self._listeners if one is not listener)

        return remove

    def _parse(self, payload: Any) -> Definitions:
        return parse_definitions(
            payload, rule_engine=self._config.rule_engine, previous=self._definitions
        )

    def _replace(self, parsed: Definitions, fetched_at: float | None) -> None:
        before, self._definitions = self._definitions, parsed
        self._set_active_flags()
        self._fetched_at, self._ready, self._last_error = fetched_at, True, None
        changed = frozenset(
            key
            for key in before.flags.keys() | parsed.flags.keys()
            if before.flags.get(key) is not parsed.flags.get(key)
        )
        if changed:
            for listener in self._listeners:
                try:
                    listener(changed)
                except (Exception, SystemExit):
                    logger.exception("a listener of flag changes failed")

    async def _refresh(self) -> None:
        """Update the definitions: from the server, or from the snapshot of the polling process.

        :raises FlagsError: they could not be updated, and the last good ones stay.
        """
        if self._config.offline:
            return
        if self._lease is not None and not self._holds_lease(self._lease):
            await self._load_shared()
            return
        response = await send(self._connections, self._api.definitions(self._etag), self._observer)
        if isinstance(response, Response) and response.status == 304 and self._ready:
            # The current definitions are confirmed: an empty response before was a mistake.
            self._fetched_at, self._last_error, self._empty_responses = time.time(), None, 0
            if self._snapshot is not None:
                await anyio.to_thread.run_sync(self._snapshot.touch)
            return
        # In a thread: compiling may take seconds, and this loop sends events as well.
        payload, parsed = await anyio.to_thread.run_sync(
            self._decode, response, abandon_on_cancel=True
        )
        self._reject_wipe(parsed)
        self._replace(parsed, time.time())
        self._etag = response.headers.get("etag") if isinstance(response, Response) else None
        if self._snapshot is not None:
            saved = SavedDefinitions(payload, self._etag, time.time())
            await anyio.to_thread.run_sync(self._save, saved)

    def _decode(self, response: Response | TransportFailure) -> tuple[Any, Definitions]:
        """Return the payload of a response, and the definitions in it.

        :raises FlagsError: the request failed, or the response is too long or not JSON.
        """
        payload = decode_response(response, self._max_definitions_bytes)
        return payload, self._parse(payload)

    def _reject_wipe(self, parsed: Definitions) -> None:
        """Reject a response that would wipe out good definitions by mistake."""
        if parsed.problem is not None:
            raise FlagsError(f"HTTP 200: {parsed.problem}. Keeping the current definitions.")
        previous = len(self._definitions.flags)
        if parsed.flags or not previous:
            self._empty_responses = 0
            return
        if parsed.received:
            raise FlagsError(
                f"none of the {parsed.received} flags can be parsed. Keeping the current ones."
            )
        self._empty_responses += 1
        if self._empty_responses < 2:
            raise FlagsError(
                f"the server returned no flags (previously {previous}). Keeping the current ones "
                "until a second empty response confirms it."
            )

    def _holds_lease(self, lease: FileLock) -> bool:
        """Return True if this process has to poll: it holds the lease, or there cannot be one."""
        try:
            make_folder(lease.path.parent)
            acquired = lease.acquire()
        except OSError as error:
            if not self._lease_problem:
                self._lease_problem = True
                logger.warning(
                    "cannot share polling, so this process polls on its own: %s: %s",
                    error.filename, error.strerror,
                )  # fmt: skip
            return True
        self._lease_problem = False
        return acquired

    async def _load_shared(self) -> None:
        """Load what the process that holds the lease has fetched."""
        assert self._snapshot is not None
        loaded = await anyio.to_thread.run_sync(self._load_new_snapshot, abandon_on_cancel=True)
        if loaded is not None:
            saved, parsed = loaded
            if parsed.problem is not None:
                raise FlagsError(f"snapshot: {parsed.problem}. Keeping the current definitions.")
            self._replace(parsed, saved.fetched_at)
            self._etag = saved.etag
        elif self._ready and (touched := self._snapshot.touched()) is not None:
            self._fetched_at, self._last_error = touched, None
        if not self._ready:
            raise _WaitingError("waiting for the process that polls for all processes")

    def _load_new_snapshot(self) -> tuple[SavedDefinitions, Definitions] | None:
        """Return the snapshot's new contents and the definitions in it; None if nothing is new."""
        assert self._snapshot is not None
        saved = self._snapshot.load(only_new=True)
        return None if saved is None else (saved, self._parse(saved.payload))

    def _save(self, saved: SavedDefinitions) -> None:
        assert self._snapshot is not None
        try:
            self._snapshot.save(saved)
        except OSError as error:
            logger.warning("the flag snapshot could not be written: %s", error.strerror)

    @property
    def last_error(self) -> Exception | None:
        """Why the latest attempt to fetch failed; None if it did not."""
        return self._last_error

    def _on_fetch_error(self, error: Exception, failures: int) -> float | None:
        previous, self._last_error = self._last_error, error
        # Also when the reason changes: a wrong credential may follow a passing failure.
        is_new = failures == 1 or failure_reason(error) != failure_reason(previous)
        if is_new and not isinstance(error, _WaitingError):
            logger.warning("flag definitions could not be fetched: %s", error)
        return getattr(error, "retry_after", None)

    # ---- lifecycle --------------------------------------------------------------------------

    def start_polling_for_definitions(self) -> None:
        """Fetch the definitions, then keep them up to date in the background; idempotent.

        Returns after the first attempt, successful or not: see `are_flags_ready`. With
        `enable_polling=False` it fetches once.

        :raises SyncInAsyncError: on the thread of a running event loop.
        """
        background_loop.refuse_in_async(
            "start_polling_for_definitions", "await astart_polling_for_definitions() instead"
        )
        self._wait(self._poller.start(), self._start_timeout)

    async def astart_polling_for_definitions(self) -> None:
        """Fetch the definitions, then keep them up to date in the background; idempotent."""
        await anyio.to_thread.run_sync(
            self._wait, self._poller.start(), self._start_timeout, abandon_on_cancel=True
        )

    @property
    def _start_timeout(self) -> float:
        return float(self._config.request_timeout_in_seconds) + 1.0

    @staticmethod
    def _wait(future: Future[None] | None, timeout: float) -> None:
        if future is not None:
            with suppress(TimeoutError, CancelledError):
                native_threads.wait_for(future, timeout)

    def wait_until_ready(self, timeout: float | None = None) -> bool:
        """Wait until there are definitions; return False after the timeout (in seconds).

        Does not start the poller.

        :raises SyncInAsyncError: on the thread of a running event loop.
        """
        background_loop.refuse_in_async("wait_until_ready", "await await_until_ready() instead")
        end = None if timeout is None else time.monotonic() + timeout
        while not self._ready and (end is None or time.monotonic() < end):
            time.sleep(0.01)
        return self._ready

    async def await_until_ready(self, timeout: float | None = None) -> bool:
        """Wait until there are definitions; return False after the timeout (in seconds)."""
        with anyio.move_on_after(timeout):
            while not self._ready:  # noqa: ASYNC110 - set by another thread
                await anyio.sleep(0.01)
        return self._ready

    def stop_polling_for_definitions(self) -> None:
        """Stop fetching; the definitions stay. Idempotent; takes a second at most."""
        stopping = self._poller.stop()
        if not event_loop.is_running():
            self._wait(stopping, STOP_TIMEOUT)
        if self._lease is not None:
            self._lease.release()

    async def astop_polling_for_definitions(self) -> None:
        """Stop fetching; the definitions stay. Idempotent; takes a second at most."""
        stopping = self._poller.stop()
        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(self._wait, stopping, STOP_TIMEOUT)
        if self._lease is not None:
            self._lease.release()

    def lowercase_keys_and_values(self, val: Any) -> Any:
        """Return a value with its texts and keys casefolded, through dicts and lists.

        As in the official package; evaluation here casefolds more types, and does not call this.
        """
        return fold_texts(val, keys=True)

    def lowercase_only_leaf_nodes(self, val: Any) -> Any:
        """Return a value with its texts casefolded, through dicts and lists, and its keys kept.

        As in the official package; evaluation here does not call this.
        """
        return fold_texts(val, keys=False)

    def shutdown(self) -> None:
        """Stop polling and close the connections; may be called from any thread."""
        self.stop_polling_for_definitions()
        background_loop.submit_if_running(self._connections.aclose)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.astop_polling_for_definitions()
        background_loop.submit_if_running(self._connections.aclose)


def _interval(config: LocalFlagsConfig) -> float:
    """Return the seconds between two polls.

    :raises ConfigurationError: they are not a number above 0.
    """
    interval = config.polling_interval_in_seconds
    with suppress(TypeError, ValueError):
        if 0 < float(interval) < inf:
            return float(interval)
    raise ConfigurationError(
        f"polling_interval_in_seconds must be above 0, not {interval!r}: "
        "to fetch only once, pass enable_polling=False"
    )


def _max_definitions_bytes(config: LocalFlagsConfig) -> int:
    """Return the size limit of definitions, in bytes.

    :raises ConfigurationError: it is not an integer above 0.
    """
    max_bytes = config.max_definitions_bytes
    if isinstance(max_bytes, bool) or not isinstance(max_bytes, int) or max_bytes <= 0:
        raise ConfigurationError(
            f"max_definitions_bytes must be an integer above 0, not {max_bytes!r}"
        )
    return max_bytes


_providers: weakref.WeakSet[LocalFeatureFlagsProvider] = weakref.WeakSet()


def _clear_active_flags() -> None:
    for provider in list(_providers):
        provider._active_flags = {}


overrides.before_override.append(_clear_active_flags)
fork.register(fork.Order.CLIENTS, after_in_child=_clear_active_flags)
