"""Evaluate flags in this process, from definitions that a poller keeps fresh.

Evaluation reads the current definitions, which are replaced and never edited: it takes no lock,
does no I/O and never raises. Fetching happens on the home loop, so one provider serves sync code,
asyncio and trio, outlives event loops, and starts again in forked children.
"""

from __future__ import annotations

import time
import weakref
from concurrent.futures import CancelledError
from contextlib import suppress
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import anyio.to_thread

from mixpanel._http.connections import LoopConnections
from mixpanel._http.proxies import (
    TransportOptions,
)
from mixpanel._http.responses import (
    Response,
    TransportFailure,
)
from mixpanel._records.encoding import loads
from mixpanel._runtime import background_loop, event_loop, fork
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
from mixpanel.flags._fetching.requests import FlagsApi, FlagsError, decoded, send
from mixpanel.flags._fetching.snapshot_file import SavedDefinitions, SnapshotFile
from mixpanel.flags._results import fallback
from mixpanel.flags.explain import explain
from mixpanel.flags.types import NO_FALLBACK, FallbackReason, LocalFlagsConfig, SelectedVariant

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from concurrent.futures import Future

    from mixpanel.credentials import ServiceAccountCredentials
    from mixpanel.flags._evaluation.compiled_flag import CompiledFlag
    from mixpanel.flags._exposures.reporter import Tracker
    from mixpanel.flags.explain import Trace

    Listener = Callable[[frozenset[str]], object]

__all__ = ["LocalFeatureFlagsProvider"]

NOT_READY = fallback(
    FallbackReason(
        "FLAG_NOT_FOUND",
        "no definitions yet: call start_polling_for_definitions(), or use the client in a `with`",
    )
)
SNAPSHOT_GROWTH = 2  # written anew, an answer may be longer: 1e9 becomes 1000000000.0
SNAPSHOT_FIELDS = 4096  # project, ETag and time
STOPPING = 1.0  # seconds that stopping may take


class LocalFeatureFlagsProvider:
    """Decide flags locally; a client makes one when it is given `local_flags_config`.

    :param tracker: called with `(distinct_id, event_name, properties)` for each exposure.
    :raises ConfigurationError: for a bootstrap that is none, or settings that exclude each other.
    """

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
    ) -> None:
        self._config = config
        self._most_bytes = _most_bytes(config)
        self._api = FlagsApi(token, config, version, credentials, origin)
        self._reporter = ExposureReporter(tracker, config, "local")
        self._connections = LoopConnections(
            transport or TransportOptions(),
            deadline=float(config.request_timeout_in_seconds),
            max_response_bytes=self._most_bytes + 1,
        )
        self._definitions = Definitions()
        self._active_flags: Mapping[str, CompiledFlag] = {}  # empty while a check must look further
        self._ready = False
        self._fetched_at: float | None = None  # epoch
        self._etag: str | None = None
        self._empty_answers = 0
        self._last_error: Exception | None = None
        self._listeners: tuple[Listener, ...] = ()
        self._snapshot: SnapshotFile | None = None
        if config.snapshot_path:
            self._snapshot = SnapshotFile(
                config.snapshot_path, token, SNAPSHOT_GROWTH * self._most_bytes + SNAPSHOT_FIELDS
            )
        self._lease: FileLock | None = None
        self._lease_problem = False
        if config.share_polling:
            if self._snapshot is None:
                raise ConfigurationError("share_polling=True needs a snapshot_path to share")
            self._lease = FileLock(
                self._snapshot.path.with_name(f"{self._snapshot.path.name}.lease")
            )
        self._poller = Poller(
            self._refresh,
            _interval(config),
            has_something=self.are_flags_ready,
            failed=self._failed,
            repeat=config.enable_polling,
        )
        _providers.add(self)
        self._begin()

    def _begin(self) -> None:
        """Take definitions from the bootstrap, or from the last good snapshot."""
        bootstrap = self._config.bootstrap
        if bootstrap is not None:
            try:
                if not isinstance(bootstrap, dict):
                    # It comes with the program, and may be its author's: as its code may.
                    file = Path(bootstrap).resolve()
                    bootstrap = loads(read_checked(file, max_bytes=self._most_bytes, owned=False))
            except OSError as error:
                raise ConfigurationError(f"bootstrap {bootstrap}: {error.strerror}") from error
            except (ValueError, RecursionError) as error:
                raise ConfigurationError(f"bootstrap: {error}") from error
            except TypeError:
                kind = type(bootstrap).__name__
                raise ConfigurationError(
                    f"bootstrap must be a dict or the path of a JSON file, not {kind}"
                ) from None
            parsed = self._parsed(bootstrap)
            if parsed.problem is not None:
                raise ConfigurationError(f"bootstrap: {parsed.problem}")
            self._replace(parsed, None)
        saved = self._snapshot.load() if self._snapshot is not None else None
        if saved is not None and (parsed := self._parsed(saved.payload)).problem is None:
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
        `custom_properties` for rules. Never raises, never waits. The exposure is reported once in
        a while for the same flag, variant and assignment value.
        """
        began = time.perf_counter() if report_exposure else 0.0
        try:
            flag = self._active_flags[flag_key]
        except KeyError:
            found = self._lookup_slow(flag_key, fallback_value)
            if isinstance(found, SelectedVariant):
                return found
            flag = found
        decide = flag.decide  # looked up as a method it would cost twice
        selected = decide(context)
        if selected.fallback_reason is not None:
            return selected.with_fallback(fallback_value)
        if report_exposure:
            latency = time.perf_counter() - began
            assignment = context.get(flag.context_key)
            self._reporter.report_evaluation(flag_key, selected, context, assignment, latency)
        return selected

    def _lookup_slow(
        self, flag_key: str, fallback_value: SelectedVariant
    ) -> CompiledFlag | SelectedVariant:
        """Find a flag that is not at hand: because of an override, after a fork, or it is unknown.

        Together they would cost each check more than the look-up of a flag.
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
        """Have the definitions' flags at hand, unless something was ever overridden.

        Whoever writes last looks last: other threads may replace the definitions meanwhile, or
        begin to override.
        """
        while True:
            definitions, overridden = self._definitions, overrides.used
            self._active_flags = {} if overridden else definitions.flags
            if definitions is self._definitions and overridden is overrides.used:
                return

    def get_variant_value(
        self, flag_key: str, fallback_value: Any, context: Mapping[str, Any]
    ) -> Any:
        """Return the value of the variant that the context's user gets, or the fallback."""
        selected = self.get_variant(flag_key, NO_FALLBACK, context)
        return fallback_value if selected.fallback_reason is not None else selected.variant_value

    def is_enabled(self, flag_key: str, context: Mapping[str, Any]) -> bool:
        """Tell whether the flag's value is exactly true for the context's user."""
        return self.get_variant_value(flag_key, None, context) is True

    def get_all_variants(self, context: Mapping[str, Any]) -> dict[str, SelectedVariant]:
        """Return the variants of all flags that take the context's user; reports no exposure."""
        return self.snapshot(context).get_all()

    def snapshot(self, context: Mapping[str, Any]) -> Snapshot:
        """Return the answers for one user from the definitions of this moment, for one request.

        Checks on it report no exposures; `track_exposure_event` does, where one is shown.
        """
        if self._poller.stopped_by_fork:
            self._poller.resume()
        return Snapshot(self._definitions, context, overrides.current())

    def explain(self, flag_key: str, context: Mapping[str, Any]) -> Trace:
        """Say how a flag is decided for a context: rollout by rollout, with buckets and clauses."""
        return explain(self._definitions, flag_key, context)

    def track_exposure_event(
        self, flag_key: str, variant: SelectedVariant, context: Mapping[str, Any]
    ) -> None:
        """Report that the user was exposed to a variant; not de-duplicated, never raises."""
        self._reporter.report_explicit(flag_key, variant, context)

    # ---- definitions ------------------------------------------------------------------------

    @property
    def definitions(self) -> Definitions:
        """Return the definitions of this moment, with what is wrong in them."""
        return self._definitions

    def are_flags_ready(self) -> bool:
        """Tell whether definitions are there: fetched, from the bootstrap or from a snapshot."""
        return self._ready

    @property
    def staleness(self) -> float | None:
        """Return how many seconds ago the definitions were last known to be current, if ever."""
        return None if self._fetched_at is None else max(0.0, time.time() - self._fetched_at)

    def add_listener(self, listener: Listener) -> Callable[[], None]:
        """Call `listener` with the keys of changed flags after each change; return a way to stop.

        It is called on the poller's thread: hand longer work to another.
        """
        self._listeners = (*self._listeners, listener)

        def remove() -> None:
            self._listeners = tuple(one for one in self._listeners if one is not listener)

        return remove

    def _parsed(self, payload: Any) -> Definitions:
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
                    logger.exception("a listener to flag changes failed")

    async def _refresh(self) -> None:
        """Bring the definitions up to date: from the server, or from who polls for all of us.

        :raises FlagsError: when the last good definitions have to do for longer.
        """
        if self._config.offline:
            return
        if self._lease is not None and not self._leads(self._lease):
            await self._follow()
            return
        reply = await send(self._connections, self._api.definitions(self._etag))
        if isinstance(reply, Response) and reply.status == 304 and self._ready:
            self._fetched_at = time.time()
            if self._snapshot is not None:
                await anyio.to_thread.run_sync(self._snapshot.touch)
            return
        # Away from the loop, which sends events as well: definitions may take seconds to compile.
        payload, parsed = await anyio.to_thread.run_sync(
            self._compiled, reply, abandon_on_cancel=True
        )
        self._guard(parsed)
        self._replace(parsed, time.time())
        self._etag = reply.headers.get("etag") if isinstance(reply, Response) else None
        if self._snapshot is not None:
            saved = SavedDefinitions(payload, self._etag, time.time())
            await anyio.to_thread.run_sync(self._save, saved)

    def _compiled(self, reply: Response | TransportFailure) -> tuple[Any, Definitions]:
        """Return an answer, and the definitions in it.

        :raises FlagsError: there are none.
        """
        payload = decoded(reply, self._most_bytes)
        return payload, self._parsed(payload)

    def _guard(self, parsed: Definitions) -> None:
        """Refuse an answer that would wipe out good definitions by mistake."""
        if parsed.problem is not None:
            raise FlagsError(f"HTTP 200: {parsed.problem}; the last good definitions stay")
        had = len(self._definitions.flags)
        if parsed.flags or not had:
            self._empty_answers = 0
            return
        self._empty_answers += 1
        if parsed.received:
            raise FlagsError(f"none of {parsed.received} flags is usable; the last good ones stay")
        if self._empty_answers < 2:
            raise FlagsError(f"no flags where there were {had}: believed when it is said twice")

    def _leads(self, lease: FileLock) -> bool:
        """Return True if this process polls: it has the lease, or there cannot be one."""
        try:
            make_folder(lease.path.parent)
            leads = lease.acquire()
        except OSError as error:
            if not self._lease_problem:
                self._lease_problem = True
                logger.warning(
                    "polling cannot be shared, so this process polls for itself: %s: %s",
                    error.filename, error.strerror,
                )  # fmt: skip
            return True
        self._lease_problem = False
        return leads

    async def _follow(self) -> None:
        """Take what the process that holds the lease has fetched."""
        assert self._snapshot is not None
        new = await anyio.to_thread.run_sync(self._loaded, abandon_on_cancel=True)
        if new is not None:
            saved, parsed = new
            if parsed.problem is not None:
                raise FlagsError(f"snapshot: {parsed.problem}; the last good definitions stay")
            self._replace(parsed, saved.fetched_at)
            self._etag = saved.etag
        elif self._ready and (touched := self._snapshot.touched()) is not None:
            self._fetched_at = touched
        if not self._ready:
            raise FlagsError("waiting for the process that polls for all")

    def _loaded(self) -> tuple[SavedDefinitions, Definitions] | None:
        """Return what is new in the snapshot, and the definitions in it."""
        assert self._snapshot is not None
        saved = self._snapshot.load(only_new=True)
        return None if saved is None else (saved, self._parsed(saved.payload))

    def _save(self, saved: SavedDefinitions) -> None:
        assert self._snapshot is not None
        try:
            self._snapshot.save(saved)
        except OSError as error:
            logger.warning("the flag snapshot could not be written: %s", error.strerror)

    @property
    def last_error(self) -> Exception | None:
        """Return why the latest attempt to fetch failed; None when it did not."""
        return self._last_error

    def _failed(self, error: Exception, failures: int) -> float | None:
        self._last_error = error
        if failures == 1 and not (self._lease is not None and not self._ready):
            logger.warning("flag definitions could not be fetched: %s", error)
        return getattr(error, "retry_after", None)

    # ---- life -------------------------------------------------------------------------------

    def start_polling_for_definitions(self) -> None:
        """Fetch the definitions, then keep them fresh in the background; idempotent.

        Returns when the first attempt is over, successful or not: see `are_flags_ready`. With
        `enable_polling=False` it fetches once.

        :raises SyncInAsyncError: on the thread of a running event loop.
        """
        background_loop.refuse_in_async(
            "start_polling_for_definitions", "await astart_polling_for_definitions() instead"
        )
        self._wait(self._poller.start(), self._patience)

    async def astart_polling_for_definitions(self) -> None:
        """Fetch the definitions, then keep them fresh in the background; idempotent."""
        await anyio.to_thread.run_sync(
            self._wait, self._poller.start(), self._patience, abandon_on_cancel=True
        )

    @property
    def _patience(self) -> float:
        return float(self._config.request_timeout_in_seconds) + 1.0

    @staticmethod
    def _wait(future: Future[None] | None, timeout: float) -> None:
        if future is not None:
            with suppress(TimeoutError, CancelledError):
                future.result(timeout)

    def wait_until_ready(self, timeout: float | None = None) -> bool:
        """Wait until definitions are there; tell whether they are. It does not start the poller.

        :raises SyncInAsyncError: on the thread of a running event loop.
        """
        background_loop.refuse_in_async("wait_until_ready", "await await_until_ready() instead")
        end = None if timeout is None else time.monotonic() + timeout
        while not self._ready and (end is None or time.monotonic() < end):
            time.sleep(0.01)
        return self._ready

    async def await_until_ready(self, timeout: float | None = None) -> bool:
        """Wait until definitions are there; tell whether they are."""
        with anyio.move_on_after(timeout):
            while not self._ready:  # noqa: ASYNC110 - another thread's loop sets it
                await anyio.sleep(0.01)
        return self._ready

    def stop_polling_for_definitions(self) -> None:
        """Stop fetching; the definitions stay. Idempotent, and bounded to a second."""
        stopping = self._poller.stop()
        if not event_loop.is_running():
            self._wait(stopping, STOPPING)
        if self._lease is not None:
            self._lease.release()

    async def astop_polling_for_definitions(self) -> None:
        """Stop fetching; the definitions stay. Idempotent, and bounded to a second."""
        stopping = self._poller.stop()
        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(self._wait, stopping, STOPPING)
        if self._lease is not None:
            self._lease.release()

    def shutdown(self) -> None:
        """Stop for good; callable from any thread, with or without a running loop."""
        self.stop_polling_for_definitions()
        background_loop.soon(self._connections.aclose)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.astop_polling_for_definitions()
        background_loop.soon(self._connections.aclose)


def _interval(config: LocalFlagsConfig) -> float:
    """Return the seconds between two polls.

    :raises ConfigurationError: when they are not a number above 0.
    """
    told = config.polling_interval_in_seconds
    with suppress(TypeError, ValueError):
        if 0 < float(told) < inf:
            return float(told)
    raise ConfigurationError(
        f"polling_interval_in_seconds must be above 0, and it is {told!r}: "
        "to fetch only once, say enable_polling=False"
    )


def _most_bytes(config: LocalFlagsConfig) -> int:
    """Return how many bytes definitions may have.

    :raises ConfigurationError: when it is not a whole number above 0.
    """
    most = config.max_definitions_bytes
    if isinstance(most, bool) or not isinstance(most, int) or most <= 0:
        raise ConfigurationError(
            f"max_definitions_bytes must be a whole number above 0, and it is {most!r}"
        )
    return most


_providers: weakref.WeakSet[LocalFeatureFlagsProvider] = weakref.WeakSet()


def _clear_active_flags() -> None:
    for provider in list(_providers):
        provider._active_flags = {}


overrides.before_override.append(_clear_active_flags)
fork.register(fork.Order.CLIENTS, after_in_child=_clear_active_flags)
