"""The two clients: `AsyncMixpanel`, and `Mixpanel` for sync code."""

from __future__ import annotations

import math
import time
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any, Literal, Self, TypeVar, Unpack

import anyio
import anyio.lowlevel

from mixpanel._delivery import sync_delivery
from mixpanel._delivery.awaitables import (
    YIELD_EVERY,
    already_done,
    deliver_and_commit,
    enqueue_when_space,
    raise_after_yield,
    yield_to_loop,
)
from mixpanel._delivery.custom_consumer import CustomConsumer, ReplacedSend
from mixpanel._delivery.sender import Sender
from mixpanel._delivery.stats import DeliveryStats, FlushResult, Stats
from mixpanel._page.switch import watch_if_enabled
from mixpanel._records.composer import (
    Composer,
)
from mixpanel._records.ids import new_hex
from mixpanel._records.json_encoding import DatetimeSerializer
from mixpanel._records.methods import TrackingMethods
from mixpanel._runtime import background_loop, event_loop
from mixpanel._runtime.import_lock import import_lock
from mixpanel._runtime.rebuilding import Rebuilt
from mixpanel._runtime.redaction import hide_init_arguments
from mixpanel._runtime.safe_logging import logger
from mixpanel._runtime.signatures import returning
from mixpanel._runtime.sync_methods import sync_twin
from mixpanel._version import __version__
from mixpanel.consumers import (
    CLOSE_TIMEOUT,
    FLUSH_TIMEOUT,
    AnyConsumer,
    AsyncBufferedConsumer,
    Consumer,
    ConsumerOptions,
)
from mixpanel.credentials import checked_text
from mixpanel.exceptions import (
    ClosedError,
    ConfigurationError,
    MixpanelException,
    QueueFullError,
)
from mixpanel.settings import check_options

if TYPE_CHECKING:
    import json
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from mixpanel._delivery.health import Health
    from mixpanel._http.connections import LoopConnections
    from mixpanel._http.ingestion import (
        IngestionApi,
    )
    from mixpanel._records.record import (
        BeforeSend,
        Properties,
        Record,
        Validation,
    )
    from mixpanel.bulk import ImportProgress, ImportResult, Rows
    from mixpanel.credentials import ServiceAccountCredentials
    from mixpanel.exceptions import RejectedRecord
    from mixpanel.flags.local_feature_flags import LocalFeatureFlagsProvider
    from mixpanel.flags.remote_feature_flags import RemoteFeatureFlagsProvider
    from mixpanel.flags.types import LocalFlagsConfig, RemoteFlagsConfig
    from mixpanel.lookup_tables import LookupTable
    from mixpanel.settings import RetryPolicy

__all__ = ["AsyncMixpanel", "ClientOptions", "Mixpanel"]

Outcome = TypeVar("Outcome")


class ClientOptions(ConsumerOptions, total=False):
    """Keyword options of both clients, in addition to those of the consumer that the client makes.

    - `api_host`: a host name, as in the official consumers; prefer `region`.
    - `ingestion`: "track" (the default; needs only the token) or "import" (one outcome per event,
      events of any age; needs `credentials`).
    - `validation`: "off", "warn" (the default: count, log at most once a minute, send the message
      as it is) or "raise".
    - `super_properties`: sent with every tracked event.
    - `before_send(endpoint, message)`: returns the message, changed or not, or None to drop it.
    - `disabled`: compose and validate messages, but send nothing.
    - `debug`: show on a live page what the client composed, queued, sent and got back: True serves
      the page from this process, and the address of an emulator shows it there; `MP_DEBUG_PAGE` if
      it is None (docs/live-page.md). Messages are sent as without it.
    - `sample_rate`: track this share of users, in (0, 1]; each event then carries its weight in
      the property named by `sample_weight`.
    """

    api_host: str | None
    ingestion: Literal["track", "import"]
    validation: Validation
    super_properties: Properties | None
    before_send: BeforeSend | None
    disabled: bool
    debug: bool | int | str | None
    sample_rate: float
    sample_weight: str


@hide_init_arguments
class _Client(TrackingMethods[Outcome], Rebuilt):
    """The shared part of both clients: composing messages, and holding the consumer."""

    _is_sync = False
    _copied_deeply = frozenset({"consumer"})

    def __init__(
        self,
        token: str,
        consumer: Any = None,
        serializer: type[json.JSONEncoder] = DatetimeSerializer,
        local_flags_config: Any = None,
        remote_flags_config: Any = None,
        credentials: ServiceAccountCredentials | None = None,
        **options: Unpack[ClientOptions],
    ) -> None:
        token = checked_text(
            token, "token", what=": the project token, from Settings > Access Keys"
        )
        check_options(type(self).__name__, options, ClientOptions.__optional_keys__)
        own_options: dict[str, Any] = {k: v for k, v in options.items() if k in _CLIENT_ONLY}
        for_consumer: Any = {k: v for k, v in options.items() if k not in _CLIENT_ONLY}
        ingestion = own_options.pop("ingestion", "track")
        if ingestion not in ("track", "import"):
            raise ConfigurationError(f"ingestion={ingestion!r} must be 'track' or 'import'")
        self._token = token
        self._event_endpoint = "imports" if ingestion == "import" else "events"
        self._disabled = bool(own_options.pop("disabled", False))
        debug = own_options.pop("debug", None)
        self._owns_consumer = consumer is None
        given_consumer = consumer
        if consumer is None:
            consumer = self._default_consumer(credentials=credentials, **for_consumer)
        else:
            if credentials is not None and local_flags_config is remote_flags_config is None:
                logger.warning(
                    "the client's credentials are not used: pass them to the consumer that it was "
                    "given, as in Consumer(credentials=...)"
                )
            if for_consumer:
                given = ", ".join(sorted(for_consumer))
                raise ConfigurationError(f"{given}: pass this to the consumer, not to the client")
        self._consumer = consumer
        self._delivery: Sender[IngestionApi] | CustomConsumer = (
            consumer._sender
            if isinstance(consumer, AnyConsumer)
            else CustomConsumer(consumer, DeliveryStats())
        )
        self._stats = self._delivery.stats
        # A consumer of the program's own gets each message through its `send`, and so does one of
        # this package with another `send` than its own: a subclass may redact or filter there.
        self._custom = (
            ReplacedSend(consumer, self._stats)
            if isinstance(self._delivery, Sender)
            else self._delivery
        )
        self._own_send: Any = None
        if isinstance(consumer, AnyConsumer) and not consumer.replaces("send", "accept", "deliver"):
            self._own_send = self._consumer.send
        if self._is_sync and isinstance(self._delivery, Sender):
            self._delivery.serve_sync_client()
        self.debug_page: str | None = watch_if_enabled(self._delivery, debug)
        """The address of the live page that shows what this client does; None without `debug`."""
        self._closed = False
        # A sender that accepts a message without further checks: of async clients, nearly always.
        self._fast_sender: Sender[IngestionApi] | None = None
        is_fast = self._own_send is not None and not self._disabled
        if isinstance(self._delivery, Sender) and self._delivery.background and is_fast:
            self._fast_sender = self._delivery
        self._composer = Composer(
            token,
            now=lambda: self._now(),  # noqa: PLW0108
            new_id=lambda: self._make_insert_id(),  # noqa: PLW0108
            library={"mp_lib": "python", "$lib_version": __version__},
            serializer=serializer,
            note=self._stats.note,
            **own_options,
        )

        if isinstance(self._delivery, Sender) and type(self).flush not in _OWN_FLUSH:
            hooks = self._delivery.flush_hooks
            (hooks.add if self._owns_consumer else hooks.add_weak)(self.flush)

        self._local_flags: LocalFeatureFlagsProvider | None = None
        self._remote_flags: RemoteFeatureFlagsProvider | None = None
        if local_flags_config is not None or remote_flags_config is not None:
            self._add_flags(local_flags_config, remote_flags_config, credentials)
        self._keep_settings(
            token=token,
            consumer=given_consumer,
            serializer=serializer,
            local_flags_config=local_flags_config,
            remote_flags_config=remote_flags_config,
            credentials=credentials,
            **options,
        )

    def _rebuild(self, settings: dict[str, Any]) -> None:
        _Client.__init__(self, **settings)

    def _current_settings(self) -> dict[str, Any]:
        return {**super()._current_settings(), "super_properties": self._composer.super_properties}

    def _add_flags(
        self,
        local: LocalFlagsConfig | None,
        remote: RemoteFlagsConfig | None,
        credentials: ServiceAccountCredentials | None,
    ) -> None:
        from mixpanel.flags.local_feature_flags import LocalFeatureFlagsProvider
        from mixpanel.flags.remote_feature_flags import RemoteFeatureFlagsProvider

        connection: dict[str, Any] = {"observer": self._delivery.observer}
        if isinstance(self._delivery, Sender):
            api = self._delivery.api
            credentials = credentials or api.credentials
            connection |= {
                "origin": api.endpoints.origin,
                "transport": self._delivery.connections.transport,
            }
        shared = (__version__, self._track_exposure, credentials)
        if local is not None:
            self._local_flags = LocalFeatureFlagsProvider(self._token, local, *shared, **connection)
        if remote is not None:
            self._remote_flags = RemoteFeatureFlagsProvider(
                self._token, remote, *shared, **connection
            )

    @property
    def local_flags(self) -> LocalFeatureFlagsProvider:
        """Return the flags that are evaluated in this process.

        :raises MixpanelException: without `local_flags_config`.
        """
        if self._local_flags is None:
            raise MixpanelException("local flags need local_flags_config=LocalFlagsConfig(...)")
        return self._local_flags

    @property
    def remote_flags(self) -> RemoteFeatureFlagsProvider:
        """Return the flags that Mixpanel evaluates.

        :raises MixpanelException: without `remote_flags_config`.
        """
        if self._remote_flags is None:
            raise MixpanelException("remote flags need remote_flags_config=RemoteFlagsConfig(...)")
        return self._remote_flags

    def _track_exposure(self, distinct_id: Any, event_name: str, properties: Properties) -> None:
        """Enqueue an exposure event, without I/O whatever the consumer."""
        record = self._composer.event(
            distinct_id, event_name, properties, endpoint=self._event_endpoint
        )
        if record is not None:
            self._enqueue(record)

    def _enqueue(self, record: Record) -> None:
        """Accept a message without waiting, whatever the consumer."""
        if self._discards(1):
            return
        delivery = self._delivery
        if (
            isinstance(delivery, Sender)
            and self._consumer.send == self._own_send
            and (delivery.buffered or not self._consumer.replaces("_write_request"))
        ):
            sync_delivery.enqueue(delivery, record)
        else:
            self._custom.deliver_in_background(record)

    def _api_and_connections(self, method: str) -> tuple[IngestionApi, LoopConnections]:
        if isinstance(self._delivery, CustomConsumer):
            raise ConfigurationError(
                f"{method}() needs one of the consumers of mixpanel, not a "
                f"{type(self._consumer).__name__}"
            )
        if method == "import_events" and self._consumer.send != self._own_send:
            raise ConfigurationError(
                f"import_events() sends in bulk, not through the send() of "
                f"{type(self._consumer).__name__}: use before_send= for what it does, and one of "
                "the consumers of mixpanel"
            )
        return self._delivery.api, self._delivery.connections

    def _default_consumer(self, **options: Any) -> Any:
        raise NotImplementedError

    def flush(self, timeout: float | None = FLUSH_TIMEOUT) -> Any:
        """Send everything accepted so far."""
        raise NotImplementedError

    def _now(self) -> float:
        return time.time()

    def _make_insert_id(self) -> str:
        return new_hex()

    @property
    def consumer(self) -> Any:
        """Return the consumer that delivers this client's messages."""
        return self._consumer

    def stats(self) -> Stats:
        """Return the outcome of every message so far, in numbers."""
        return self._stats.snapshot()

    def health(self) -> Health:
        """Return what is pending and since when, what each queue is doing, and the spool."""
        if isinstance(self._delivery, Sender):
            return self._delivery.buffer.health()
        from mixpanel._delivery.health import Health

        return Health(ok=True, pending=self._stats.pending)

    def _durable_sender(self, what: str) -> Sender[IngestionApi] | None:
        """Return the sender to commit; None if messages are delivered before a call returns.

        :raises ConfigurationError: if messages are only in memory.
        """
        if isinstance(self._delivery, CustomConsumer) or self._consumer.send != self._own_send:
            raise ConfigurationError(
                f"{what} needs one of the consumers of mixpanel with spool=FOLDER, not a "
                f"{type(self._consumer).__name__}"
            )
        return self._delivery if self._delivery.check_durable(what) else None

    def _discards(self, count: int) -> bool:
        """Return True, and count the messages, if the client is disabled.

        :raises ClosedError: if it is closed.
        """
        if self._closed:
            raise ClosedError("the client is closed: this message was not accepted")
        if self._disabled:
            self._stats.count_dropped("disabled", count)
        return self._disabled

    def __repr__(self) -> str:
        # A debugger may show it before `__init__` has returned.
        return f"<{type(self).__name__} via {getattr(self, '_consumer', None)!r}>"


_CLIENT_ONLY = ClientOptions.__optional_keys__ - ConsumerOptions.__optional_keys__ - {"api_host"}


async def _send_rest(sender: Sender[Any], records: list[Record]) -> None:
    """Send what is due, and accept the rest: for a buffered consumer without a background task."""
    await sender.send_due()
    for record in records:
        while sender.accept(record) is None:
            await sender.flush()
        await sender.send_due()


@returning(Coroutine[Any, Any, None])
class AsyncMixpanel(_Client[Coroutine[Any, Any, None]]):
    """Track events and update profiles from async code, on asyncio or trio.

    >>> async with AsyncMixpanel("TOKEN", region="eu") as mp:  # doctest: +SKIP
    ...     await mp.track("u-17", "Signed Up", {"plan": "team"})

    By default messages go to a buffer in a few microseconds and a background task sends them;
    awaiting `track` does no I/O. A message is accepted when the method is *called*. Delivery
    errors go to `on_error` and `stats()`. Without `async with`, call `flush()` or `aclose()`
    before the event loop ends; messages left then are sent at interpreter exit.

    :param token: the project token.
    :param consumer: delivers the messages; closing the client flushes it but leaves it open.
    :param options: see `help(mixpanel.client.ClientOptions)`, and those of the consumer,
        `help(mixpanel.consumers.ConsumerOptions)`, when none is given.
    :raises ConfigurationError: for settings that cannot work.
    """

    def _default_consumer(self, **options: Any) -> AsyncBufferedConsumer:
        return AsyncBufferedConsumer(**options)

    def _deliver(self, records: list[Record]) -> Coroutine[Any, Any, None]:
        if (self._closed or self._disabled) and self._discards(len(records)):
            return already_done()
        if self._consumer.send != self._own_send:
            return self._custom.deliver(records)
        sender: Any = self._delivery
        if not sender.buffered:
            if self._consumer.replaces("_write_request"):
                return self._custom.deliver(records)
            delivery: Coroutine[Any, Any, None] = sender.deliver(records)
            return delivery
        if len(records) > 1:
            sender.buffer.ensure_space(records)
        accept = sender.accept
        for at, record in enumerate(records):
            signal = accept(record)
            if signal is None:
                return enqueue_when_space(sender, records[at:])
            if signal and not sender.background:
                return _send_rest(sender, records[at + 1 :])
        return already_done() if self._stats.accepted % YIELD_EVERY else yield_to_loop()

    def _deliver_one(self, record: Record) -> Coroutine[Any, Any, None]:
        sender = self._fast_sender
        if sender is None or self._closed:
            return self._deliver([record])
        try:
            if sender.accept(record) is None:
                return enqueue_when_space(sender, [record])
        except QueueFullError as error:
            return raise_after_yield(error)
        return already_done() if self._stats.accepted % YIELD_EVERY else yield_to_loop()

    def _deliver_all(self, records: Iterable[Record | None]) -> Coroutine[Any, Any, None]:
        try:
            return super()._deliver_all(records)
        except QueueFullError as error:
            return raise_after_yield(error)

    def _deliver_durably(self, records: list[Record]) -> Coroutine[Any, Any, None]:
        self._durable_sender("durable=True")
        return deliver_and_commit(self, self._deliver(records), records)

    async def _commit_records(self, records: Sequence[Record]) -> None:
        """Wait until records of this client are on disk.

        :raises QueueFullError: if one was dropped, because the buffer or the spool is full.
        :raises SpoolError: if the disk failed.
        """
        sender = self._durable_sender("durable=True")
        if sender is not None and not self._disabled:
            await sender.commit()
            sender.check_accepted(records)

    async def commit(self, timeout: float | None = FLUSH_TIMEOUT) -> None:
        """Wait until everything accepted so far is on disk, in the spool.

        From then on a message outlives this process; see `docs/spool.md`. With a consumer that
        sends at once there is nothing to wait for.

        :raises SpoolError: if the disk failed, or did not respond within the timeout.
        :raises ConfigurationError: without a spool.
        """
        sender = self._durable_sender("commit()")
        if sender is not None:
            await sender.commit(timeout)

    async def flush(self, timeout: float | None = FLUSH_TIMEOUT) -> FlushResult:
        """Send everything accepted so far and return the result.

        Return early when `timeout` seconds have passed, or when only a human can help, as with
        wrong credentials; the rest is `pending` in the result.
        """
        if isinstance(self._delivery, CustomConsumer):
            return await self._delivery.flush(timeout)
        await self._custom.wait_async(timeout)
        if not self._consumer.replaces("flush", "_flush_endpoint"):
            return await self._delivery.flush(timeout)
        before = self._delivery.buffer.snapshot()
        result = await self._custom.call_flush(timeout)
        if isinstance(result, FlushResult):
            return result
        return self._delivery.buffer.result_since(before)

    async def aclose(self, timeout: float | None = CLOSE_TIMEOUT) -> FlushResult:
        """Flush and close; return the result of the flush.

        Return within `timeout` seconds plus 0.25, whatever the server does, and use that time even
        when the surrounding scope is cancelled. A consumer that was passed to the client is flushed
        but stays open: other clients may use it.
        """
        self._closed = True
        result = FlushResult(0, 0, {}, 0)
        end = anyio.current_time() + (math.inf if timeout is None else timeout)
        finish = self._delivery.aclose if self._owns_consumer else self.flush
        with anyio.CancelScope(shield=True):
            with anyio.move_on_after(timeout):
                if self._local_flags is not None:
                    await self._local_flags.__aexit__()
                if self._remote_flags is not None:
                    await self._remote_flags.ashutdown()
            left = None if timeout is None else max(0.0, end - anyio.current_time())
            result = await finish(left)
        return result  # noqa: RET504 - to type checkers a scope may swallow what leaves it

    async def import_events(
        self,
        events: Rows,
        *,
        concurrency: int = 20,
        start_at: int = 0,
        keep_rejected: int = 1000,
        on_progress: Callable[[ImportProgress], object] | None = None,
        on_rejected: Callable[[RejectedRecord], object] | None = None,
        retry: RetryPolicy | None = None,
    ) -> ImportResult:
        """Import any number of events of any age, and return the outcome of each.

        >>> result = await mp.import_events(rows, on_progress=print)  # doctest: +SKIP

        :param events: an iterable or async iterable of `{"event": …, "properties": {…}}`, or of the
            rows of an events table, as from `Workspace.stream_events`; only a few thousand are held
            at a time. Give each a `time` and an `$insert_id` that stay the same when the source is
            read again, or a resumed import creates duplicates.
        :param concurrency: the maximum of requests in flight; it starts lower and adapts.
        :param start_at: skip this many events, to resume at `result.position`.
        :param keep_rejected: how many rejected records the result holds; `on_rejected` gets each.
        :raises ImportInterrupted: when the import cannot continue; it holds the result so far.
        :raises ConfigurationError: for a `concurrency` outside 1 to 32 or a negative `start_at`.
        """
        with import_lock:
            from mixpanel import bulk
        api, connections = self._api_and_connections("import_events")
        return await bulk.import_rows(
            events,
            bulk.ImportJob(
                self._composer.import_event, api, connections, observer=self._delivery.observer
            ),
            concurrency=concurrency,
            start_at=start_at,
            keep_rejected=keep_rejected,
            on_progress=on_progress,
            on_rejected=on_rejected,
            retry=retry,
        )

    async def lookup_tables(self) -> list[LookupTable]:
        """List the project's lookup tables.

        :raises ConfigurationError: without `credentials`.
        :raises DeliveryError: when there is no response, or the server rejects the request.
        """
        with import_lock:
            from mixpanel import lookup_tables
        return await lookup_tables.list_tables(
            *self._api_and_connections("lookup_tables"), observer=self._delivery.observer
        )

    async def replace_lookup_table(
        self, table_id: str, rows: str | bytes | Iterable[Mapping[str, Any]]
    ) -> None:
        """Replace a whole lookup table with CSV (RFC 4180), or with rows keyed by column name.

        The first column is the unique key of a row. Mixpanel takes up to 100 MB, and 100
        replacements in 24 hours.

        :raises RejectedError: when rows are not valid; `rejected_records` names up to ten.
        :raises ConfigurationError: without `credentials`, for an invalid id, no rows, or rows with
            different columns.
        :raises DeliveryError: when there is no response, or the server fails otherwise.
        """
        with import_lock:
            from mixpanel import lookup_tables
        await lookup_tables.replace_table(
            *self._api_and_connections("replace_lookup_table"),
            table_id,
            rows,
            observer=self._delivery.observer,
        )

    async def __aenter__(self) -> Self:
        if isinstance(self._delivery, Sender):
            await self._delivery.connections.warm()
            self._delivery.start()
        if self._local_flags is not None:
            await self._local_flags.astart_polling_for_definitions()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()


@returning(None)
class Mixpanel(_Client[None]):
    """Track events and update profiles from sync code; a drop-in for the official client.

    >>> mp = Mixpanel("TOKEN")  # doctest: +SKIP
    >>> mp.track("u-17", "Signed Up", {"plan": "team"})

    The default `Consumer` sends at once and raises errors. `BufferedConsumer` sends in batches;
    use the client as a context manager, or call `flush()`, to send the last of them.

    :param options: see `help(mixpanel.client.ClientOptions)`, and those of the consumer,
        `help(mixpanel.consumers.ConsumerOptions)`, when none is given.
    :raises SyncInAsyncError: on the thread of a running event loop, for a call that would block it:
        with a buffered consumer only `flush` and `close` do. A notebook may be blocked.
    :raises ConfigurationError: for settings that cannot work.
    """

    _is_sync = True

    def _default_consumer(self, **options: Any) -> Consumer:
        return Consumer(**options)

    def _deliver(self, records: list[Record]) -> None:
        if (self._closed or self._disabled) and self._discards(len(records)):
            return
        if self._consumer.send != self._own_send:
            self._custom.deliver_sync(records)
            return
        sender: Any = self._delivery
        if not sender.buffered:
            if self._consumer.replaces("_write_request"):
                self._custom.deliver_sync(records)
                return
            background_loop.refuse_in_async(
                "Mixpanel",
                "use AsyncMixpanel and await it, or give Mixpanel an AsyncBufferedConsumer()",
                allow_background_loop=True,
            )
            sync_delivery.deliver(sender, records)
            return
        for at, record in enumerate(records):
            try:
                sync_delivery.accept(sender, record)
            except QueueFullError as error:
                error.accepted = at
                raise

    def _deliver_durably(self, records: list[Record]) -> None:
        self._durable_sender("durable=True")
        background_loop.refuse_in_async("Mixpanel", "use AsyncMixpanel and await it")
        self._deliver(records)
        self._commit_records(records)

    def _commit_records(self, records: Sequence[Record]) -> None:
        """Wait until records of this client are on disk; see `AsyncMixpanel`."""
        sender = self._durable_sender("durable=True")
        if sender is not None and not self._disabled:
            sender.commit_blocking()
            sender.check_accepted(records)

    def commit(self, timeout: float | None = FLUSH_TIMEOUT) -> None:
        """Wait until everything accepted so far is on disk, in the spool.

        From then on a message outlives this process; see `docs/spool.md`. With a consumer that
        sends at once there is nothing to wait for.

        :raises SpoolError: if the disk failed, or did not respond within the timeout.
        :raises ConfigurationError: without a spool.
        """
        background_loop.refuse_in_async("Mixpanel.commit")
        sender = self._durable_sender("commit()")
        if sender is not None:
            sender.commit_blocking(timeout)

    def flush(self, timeout: float | None = FLUSH_TIMEOUT) -> FlushResult:
        """Send everything accepted so far and return the result."""
        if isinstance(self._delivery, CustomConsumer):
            return self._delivery.flush_sync(timeout)
        background_loop.refuse_in_async("Mixpanel.flush")
        self._custom.wait(timeout)
        if self._consumer.replaces("flush", "_flush_endpoint"):
            before = self._delivery.buffer.snapshot()
            result = self._custom.call_flush_sync(timeout)
            if isinstance(result, FlushResult):
                return result
            return self._delivery.buffer.result_since(before)
        return sync_delivery.flush(self._delivery, timeout)

    def close(self, timeout: float | None = CLOSE_TIMEOUT) -> FlushResult:
        """Flush and close; return the result of the flush.

        A consumer that was passed to the client is flushed but stays open: other clients may use
        it.
        """
        if not isinstance(self._delivery, CustomConsumer):
            background_loop.refuse_in_async("Mixpanel.close")
        for flags in (self._local_flags, self._remote_flags):
            if flags is not None:
                flags.shutdown()
        self._closed = True
        if self._owns_consumer and isinstance(self._delivery, Sender):
            self._custom.wait(timeout)
            return sync_delivery.close(self._delivery, timeout)
        return self.flush(timeout)

    @sync_twin(AsyncMixpanel.import_events)
    def import_events(self) -> Any: ...
    @sync_twin(AsyncMixpanel.lookup_tables)
    def lookup_tables(self) -> Any: ...
    @sync_twin(AsyncMixpanel.replace_lookup_table)
    def replace_lookup_table(self) -> Any: ...

    def __enter__(self) -> Self:
        if isinstance(self._delivery, Sender):
            self._delivery.start()
        if self._local_flags is not None:
            self._local_flags.start_polling_for_definitions()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        """Start the flags without blocking the event loop; `AsyncMixpanel` is the async client."""
        if self._local_flags is not None:
            await self._local_flags.astart_polling_for_definitions()
        return self

    async def __aexit__(self, *_: object) -> None:
        """Flush and close without blocking the event loop, also when the task is cancelled."""
        with anyio.CancelScope(shield=True):
            await event_loop.in_worker_thread(self.close)


_OWN_FLUSH = (AsyncMixpanel.flush, Mixpanel.flush)
