"""Clients of the Segment spec: the six calls and `batch`, for async code and for sync code.

Messages are composed when a method is called, and delivered by the same buffer and sender as those
of a Mixpanel client. The differences between vendors are in their `Dialect`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Coroutine
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Self, TypeVar, Unpack, cast, get_args

from mixpanel._delivery import sync_delivery
from mixpanel._delivery.awaitables import (
    YIELD_EVERY,
    already_done,
    deliver_and_commit,
    enqueue_when_space,
    raise_after_yield,
    yield_to_loop,
)
from mixpanel._delivery.buffer import Buffer
from mixpanel._delivery.sender import Sender
from mixpanel._delivery.spool_settings import spool_settings
from mixpanel._delivery.stats import DeliveryStats, FlushResult, Stats
from mixpanel._http.proxies import (
    TransportOptions,
)
from mixpanel._page.switch import watch_if_enabled
from mixpanel._records.ids import new_uuid
from mixpanel._runtime import background_loop
from mixpanel._runtime.rebuilding import Rebuilt
from mixpanel._runtime.redaction import hide_init_arguments
from mixpanel._runtime.safe_logging import logger
from mixpanel._runtime.signatures import returning
from mixpanel._runtime.sync_methods import sync_twin
from mixpanel._version import __version__
from mixpanel.cdp._segment.backfill import AsyncBackfill
from mixpanel.cdp._segment.dialect import WriteKey
from mixpanel.cdp._segment.message import DroppedMessage, Message, MessageCodec
from mixpanel.cdp._segment.methods import SegmentMethods
from mixpanel.cdp._segment.options import Delivery, SegmentOptions
from mixpanel.cdp._segment.rate_limit import RateLimitedAuth, shared_rate_limiter
from mixpanel.cdp._segment.requests import SegmentApi
from mixpanel.consumers import CLOSE_TIMEOUT, FLUSH_TIMEOUT
from mixpanel.exceptions import (
    ClosedError,
    ConfigurationError,
    ConfigurationTypeError,
    PayloadTooLargeError,
    QueueFullError,
)
from mixpanel.settings import (
    Limits,
    RetryPolicy,
    WhenFull,
    check_number,
    check_options,
    check_type,
    checked_callback,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mixpanel._delivery.health import Health
    from mixpanel._records.record import Record
    from mixpanel.cdp._customerio.name_advice import Advice
    from mixpanel.cdp._segment.dialect import Dialect
    from mixpanel.cdp._segment.oauth import OAuth
    from mixpanel.cdp._segment.rate_limit import TokenSource

__all__ = ["AsyncSegmentClient", "SegmentClient"]

Outcome = TypeVar("Outcome")

LIBRARY = {"name": "mixpanel-async", "version": __version__}
IMMEDIATE_RETRY = RetryPolicy(attempts=5, first_wait=0.5, max_age=60.0)


# ---- shared by both clients ---------------------------------------------------------------------


@hide_init_arguments
class _Client(SegmentMethods[Outcome], Rebuilt):
    _is_sync = False

    def __init__(
        self,
        key: WriteKey,
        dialect: Dialect,
        *,
        oauth: OAuth | None = None,
        advice: Callable[[str | None], Advice | None] | None = None,
        **options: Unpack[SegmentOptions],
    ) -> None:
        check_options(type(self).__name__, options, SegmentOptions.__optional_keys__)
        given_dialect = dialect
        max_message_bytes = options.get("max_message_bytes")
        if max_message_bytes is not None:
            check_number(max_message_bytes, "max_message_bytes", whole=True)
            dialect = replace(dialect, max_message_bytes=max_message_bytes)
        origin = dialect.origin(key, region=options.get("region"), base_url=options.get("base_url"))
        warning = dialect.region_warning(key, origin)
        if warning is not None:
            raise ConfigurationError(warning)
        self._send_immediately = bool(options.get("send_immediately", False))
        self._disabled = bool(options.get("disabled", False))
        self._closed = False
        self._on_delivery = options.get("on_delivery")
        checked_callback(self._on_delivery, "on_delivery")
        guard, token_source = None, _token_source(oauth)
        if token_source is not None or dialect.rate is not None:
            rate = dialect.rate
            guard = RateLimitedAuth(rate and shared_rate_limiter(origin, key, *rate), token_source)
        self._api = SegmentApi(
            dialect,
            origin,
            key,
            time.time,
            guard,
            self._send_immediately,
            bool(options.get("gzip", False)),
        )
        # A message up to this size skips the checks of `_admitted`, which nearly all of them do.
        before_send = options.get("before_send")
        skips_checks = not (self._send_immediately or self._disabled or before_send is not None)
        self._fast_path_bytes = self._api.max_message_bytes if skips_checks else -1
        self._stats = DeliveryStats(options.get("on_error"), options.get("on_drop"))
        self._sender = self._new_sender(options)
        self.debug_page: str | None = watch_if_enabled(self._sender, options.get("debug"))
        """The address of the live page that shows what this client does; None without `debug`."""
        self._composer = self._composes(
            dialect,
            now=time.time,
            new_id=new_uuid,
            library=LIBRARY,
            default_context=options.get("default_context"),
            validation=options.get("validation", "warn"),
            advice=advice,
            before_send=before_send,
            note=self._stats.note,
        )
        if type(self).flush not in _OWN_FLUSH:
            self._sender.flush_hooks.add(self.flush)
        self._keep_settings(
            key=key.reveal(), dialect=given_dialect, oauth=oauth, advice=advice, **options
        )

    def _rebuild(self, settings: dict[str, Any]) -> None:
        _Client.__init__(self, WriteKey(settings.pop("key")), **settings)

    def _new_sender(self, options: SegmentOptions) -> Sender[SegmentApi]:
        when_full = options.get("when_full", "drop_newest")
        if when_full not in get_args(WhenFull):
            known = ", ".join(map(repr, get_args(WhenFull)))
            raise ConfigurationError(f"when_full={when_full!r} must be one of {known}")
        check_type(options.get("limits"), "limits", Limits)
        check_type(options.get("retry"), "retry", RetryPolicy)
        given = options.get("limits") or Limits(flush_after=0.5)
        dialect = self._api.dialect
        limits = replace(
            given,
            max_batch_size=min(given.max_batch_size, dialect.max_batch_size),
            # The buffer's limit includes the brackets of a list, the capacity does not.
            max_batch_bytes=min(given.max_batch_bytes, self._api.capacity + len("[]")),
        )
        parallel = 1 if options.get("ordered", True) else limits.concurrency
        on_outcome = None if self._on_delivery is None else self._report_delivery
        retry = IMMEDIATE_RETRY if self._send_immediately else RetryPolicy()
        spool = spool_settings(
            options.get("spool"),
            options.get("durability"),
            when_full,
            buffered=not self._send_immediately,
        )
        kept: dict[str, Any] = {
            "when_full": when_full,
            "max_in_flight": {"batch": parallel},
            "on_outcome": on_outcome,
        }
        if spool is None:
            buffer = Buffer(limits, self._stats, **kept)
        else:
            retry = spool.retry(retry)
            origin, key = self._api.origin, self._api.key.reveal()
            service = self._api.captured_as("batch")
            buffer = spool.buffer(
                limits,
                self._stats,
                service=service,
                identity=(origin, key),
                description={"origin": origin},
                codec=MessageCodec(),
                **kept,
            )
        sender = Sender(
            buffer,
            self._api,
            options.get("retry") or retry,
            TransportOptions(
                options.get("http_client"), options.get("proxy"), options.get("ssl_context")
            ),
            buffered=not self._send_immediately,
            background=not self._send_immediately,
        )
        if self._is_sync:
            sender.serve_sync_client()
        return sender

    def flush(self, timeout: float | None = FLUSH_TIMEOUT) -> Any:
        """Send everything accepted so far."""
        raise NotImplementedError

    def stats(self) -> Stats:
        """Return the counts of all messages so far: delivered, rejected, dropped and pending."""
        return self._stats.snapshot()

    def health(self) -> Health:
        """Return what is pending and since when, what the queue is doing, and the spool."""
        return self._sender.buffer.health()

    def _durable_sender(self, what: str) -> Sender[SegmentApi] | None:
        """Return the sender to commit; None if messages are delivered before a call returns.

        :raises ConfigurationError: if messages are only in memory.
        """
        return self._sender if self._sender.check_durable(what) else None

    def _expected(self, records: Sequence[Record]) -> list[Record]:
        """Return the messages that must be on disk after a durable call.

        :raises PayloadTooLargeError: for one that was dropped because it is too large.
        """
        messages = cast("Sequence[Message]", records)
        expected = [each for each in messages if not isinstance(each, DroppedMessage)]
        for message in expected:
            excess_bytes = self._api.excess_bytes(message)
            if excess_bytes:
                raise self._too_large_error(message, excess_bytes)
        return cast("list[Record]", expected)

    def _too_large_error(self, message: Message, excess_bytes: int) -> PayloadTooLargeError:
        return PayloadTooLargeError(
            f"{message!r} is {excess_bytes:,} bytes larger than {self._api.dialect.name} takes: it "
            "was not sent",
            endpoint="batch",
        )

    def _report_delivery(self, records: Sequence[Record], fate: Any, reason: str) -> None:
        assert self._on_delivery is not None
        for message in cast("Sequence[Message]", records):
            try:
                self._on_delivery(Delivery(message.message_id, message.kind, fate, reason))
            except (Exception, SystemExit):
                # An error in the user's callback must not stop the sender.
                logger.exception("the on_delivery callback failed")

    def _admitted(self, messages: list[Message]) -> list[Message]:
        """Return the messages that may be sent, and count the others as dropped.

        :raises PayloadTooLargeError: with `send_immediately`, for the first that is too large.
        """
        if self._closed:
            raise ClosedError("the client is closed: this message was not accepted")
        if self._composer.before_send is not None:
            messages = self._without_dropped(messages)
        if self._disabled:
            return self._count_dropped(messages, "disabled")
        if not self._send_immediately:
            largest = max([len(message.body) for message in messages], default=0)
            if largest <= self._api.max_message_bytes:
                return messages
        oversize = [message for message in messages if self._api.excess_bytes(message)]
        if not oversize:
            return messages
        self._count_dropped(oversize, "too_large")
        if self._send_immediately:
            raise self._too_large_error(oversize[0], self._api.excess_bytes(oversize[0]))
        self._stats.report_drop("too_large", list(oversize))
        dropped = {id(message) for message in oversize}
        return [message for message in messages if id(message) not in dropped]

    def _without_dropped(self, messages: list[Message]) -> list[Message]:
        """Count the messages that `before_send` dropped, and return the others."""
        dropped = [each for each in messages if isinstance(each, DroppedMessage)]
        for each in dropped:
            self._count_dropped([each], each.reason)
        return [each for each in messages if each not in dropped] if dropped else messages

    def _count_dropped(self, messages: list[Message], reason: str) -> list[Message]:
        self._stats.count_dropped(reason, len(messages))
        if self._on_delivery is not None:
            self._report_delivery(messages, "dropped", reason)
        return []

    def __repr__(self) -> str:
        # A debugger may show it before `__init__` has returned.
        return f"<{type(self).__name__} to {getattr(getattr(self, '_api', None), 'origin', None)}>"


def _token_source(oauth: OAuth | None) -> TokenSource | None:
    if oauth is None:
        return None
    from mixpanel.cdp._segment.oauth import AccessTokens, OAuth

    if not isinstance(oauth, OAuth):
        raise ConfigurationTypeError(f"oauth must be an OAuth, not {type(oauth).__name__}")
    return AccessTokens(oauth)


# ---- the async and the sync client --------------------------------------------------------------


@returning(Coroutine[Any, Any, None])
class AsyncSegmentClient(_Client[Coroutine[Any, Any, None]], AsyncBackfill):
    """Send to a source of any dialect from async code, on asyncio or trio.

    By default messages are buffered within microseconds and sent by a background task; awaiting a
    call does no I/O. A message is accepted when the method is *called*. Delivery errors are
    reported to `on_error`, `on_delivery` and `stats()`. Without `async with`, call `flush()` or
    `aclose()` before the event loop ends; messages that are left then are sent at interpreter exit.

    :raises ConfigurationError: for invalid settings, such as a key of another region.
    """

    def _deliver(self, messages: list[Message]) -> Coroutine[Any, Any, None]:
        records: list[Any] = self._admitted(messages)
        if not records:
            return already_done()
        sender = self._sender
        if self._send_immediately:
            return sender.deliver(records)
        if len(records) > 1:
            sender.buffer.ensure_space(records)
        for at, record in enumerate(records):
            if sender.accept(record) is None:
                return enqueue_when_space(sender, records[at:])
        return already_done() if self._stats.accepted % YIELD_EVERY else yield_to_loop()

    def _deliver_one(self, message: Message) -> Coroutine[Any, Any, None]:
        if len(message.body) <= self._fast_path_bytes and not self._closed:
            try:
                if self._sender.accept(message) is None:
                    return enqueue_when_space(self._sender, [message])
            except QueueFullError as error:
                return raise_after_yield(error)
            return already_done() if self._stats.accepted % YIELD_EVERY else yield_to_loop()
        return self._deliver([message])

    def _deliver_all(self, messages: list[Message]) -> Coroutine[Any, Any, None]:
        try:
            return self._deliver(messages)
        except QueueFullError as error:
            return raise_after_yield(error)

    def _deliver_durably(self, messages: list[Message]) -> Coroutine[Any, Any, None]:
        self._durable_sender("durable=True")
        return deliver_and_commit(self, self._deliver(messages), messages)

    async def _commit_records(self, records: Sequence[Record]) -> None:
        """Wait until records of this client are on disk.

        :raises QueueFullError: if one was dropped, because the buffer or the spool is full.
        :raises PayloadTooLargeError: if one was dropped because it is too large.
        :raises SpoolError: if the disk failed.
        """
        sender = self._durable_sender("durable=True")
        if sender is not None and not self._disabled:
            await sender.commit()
            sender.check_accepted(self._expected(records))

    async def flush(self, timeout: float | None = FLUSH_TIMEOUT) -> FlushResult:
        """Send everything accepted so far and return the result.

        Ends early after `timeout` seconds, or at an error that retries cannot fix, such as a wrong
        write key; the rest is `pending` in the result.
        """
        return await self._sender.flush(timeout)

    async def commit(self, timeout: float | None = FLUSH_TIMEOUT) -> None:
        """Wait until everything accepted so far is on disk, in the spool.

        :raises SpoolError: if the disk failed, or did not respond within the timeout.
        :raises ConfigurationError: without a spool.
        """
        await self._sender.commit(timeout)

    async def aclose(self, timeout: float | None = CLOSE_TIMEOUT) -> FlushResult:
        """Flush and close; return the result for the messages that were pending.

        Returns within `timeout` seconds plus 0.25, whatever the server does, also when the
        surrounding scope is cancelled.
        """
        self._closed = True
        return await self._sender.aclose(timeout)

    async def __aenter__(self) -> Self:
        await self._sender.connections.warm()
        self._sender.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()


@returning(None)
class SegmentClient(_Client[None]):
    """Send to a source of any dialect from sync code, on any number of threads.

    Calls return within microseconds; the background event loop of this process sends the messages.
    Use the client as a context manager, or call `flush()` or `close()`; messages that are left are
    sent at interpreter exit.

    :raises SyncInAsyncError: from `flush`, `close` and any call that would block, on the thread of
        a running event loop.
    :raises ConfigurationError: for invalid settings, such as a key of another region.
    """

    _is_sync = True

    def _deliver(self, messages: list[Message]) -> None:
        messages = self._admitted(messages)
        records = cast("list[Record]", messages)
        if not messages:
            return
        if self._send_immediately:
            background_loop.refuse_in_async(type(self).__name__, allow_background_loop=True)
            sync_delivery.deliver(self._sender, records)
            return
        if len(messages) > 1:
            self._sender.buffer.ensure_space(records)
        for at, record in enumerate(records):
            try:
                sync_delivery.accept(self._sender, record)
            except QueueFullError as error:
                error.accepted = at
                raise

    def _deliver_durably(self, messages: list[Message]) -> None:
        self._durable_sender("durable=True")
        background_loop.refuse_in_async(f"{type(self).__name__} with durable=True")
        self._deliver(messages)
        self._commit_records(messages)

    def _commit_records(self, records: Sequence[Record]) -> None:
        """Wait until records of this client are on disk; see `AsyncSegmentClient`."""
        sender = self._durable_sender("durable=True")
        if sender is not None and not self._disabled:
            sender.commit_blocking()
            sender.check_accepted(self._expected(records))

    def flush(self, timeout: float | None = FLUSH_TIMEOUT) -> FlushResult:
        """Send everything accepted so far and return the result."""
        background_loop.refuse_in_async(f"{type(self).__name__}.flush")
        return sync_delivery.flush(self._sender, timeout)

    def commit(self, timeout: float | None = FLUSH_TIMEOUT) -> None:
        """Wait until everything accepted so far is on disk, in the spool.

        :raises SpoolError: if the disk failed, or did not respond within the timeout.
        :raises ConfigurationError: without a spool.
        """
        background_loop.refuse_in_async(f"{type(self).__name__}.commit")
        self._sender.commit_blocking(timeout)

    def close(self, timeout: float | None = CLOSE_TIMEOUT) -> FlushResult:
        """Flush and close; return the result for the messages that were pending."""
        background_loop.refuse_in_async(f"{type(self).__name__}.close")
        self._closed = True
        return sync_delivery.close(self._sender, timeout)

    @sync_twin(AsyncBackfill.backfill)
    def backfill(self) -> Any: ...

    def __enter__(self) -> Self:
        self._sender.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


_OWN_FLUSH = (AsyncSegmentClient.flush, SegmentClient.flush)
