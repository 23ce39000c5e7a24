"""Consumers deliver messages to Mixpanel: at once or in batches, for async and for sync code.

| class | sends | errors |
|---|---|---|
| `AsyncConsumer` | at once, awaited | raised |
| `AsyncBufferedConsumer` | in the background, in batches | `on_error`, `stats()` |
| `Consumer` | at once | raised |
| `BufferedConsumer` | full batches, on `flush()`, at close and exit | `on_error`, `stats()` |

Any other object with `send(endpoint, json_message, api_key=None, api_secret=None)`, sync or async,
works as a consumer too.

Subclasses may replace `send` and `flush`, of `Consumer` also `_write_request` and of
`BufferedConsumer` also `_flush_endpoint`, as with the official consumers: each message and each
flush then goes through them, at exit too.
"""

from __future__ import annotations

import inspect
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal, TypedDict, Unpack, get_args

from mixpanel._delivery import sync_delivery
from mixpanel._delivery.awaitables import raise_after_yield
from mixpanel._delivery.buffer import Buffer
from mixpanel._delivery.sender import Sender
from mixpanel._delivery.spool_settings import Durability, SpoolSettings, spool_settings
from mixpanel._delivery.stats import DeliveryStats, FlushResult, OnDrop, OnError, Stats
from mixpanel._http.ingestion import (
    IngestionApi,
)
from mixpanel._http.proxies import (
    TransportOptions,
)
from mixpanel._records.json_encoding import dumps, loads
from mixpanel._records.record import Record, is_repeatable
from mixpanel._runtime import background_loop
from mixpanel._runtime.rebuilding import Rebuilt
from mixpanel._runtime.redaction import hide_arguments, hide_init_arguments
from mixpanel._runtime.safe_logging import logger
from mixpanel.credentials import ProjectToken, ServiceAccountCredentials, authority_of
from mixpanel.exceptions import (
    ConfigurationError,
    MixpanelException,
    QueueFullError,
    ValidationError,
)
from mixpanel.settings import (
    ENDPOINTS,
    MAX_RECORDS,
    Endpoint,
    Endpoints,
    Limits,
    Region,
    RetryPolicy,
    WhenFull,
    check_number,
    check_options,
    check_type,
)

if TYPE_CHECKING:
    import os
    import ssl

    import httpx

    from mixpanel._delivery.health import Health
    from mixpanel.credentials import Authority

__all__ = ["AsyncBufferedConsumer", "AsyncConsumer", "BufferedConsumer", "Consumer"]

FLUSH_TIMEOUT = 30.0
CLOSE_TIMEOUT = 5.0


class ConsumerOptions(TypedDict, total=False):
    """Keyword options of every consumer, and of a client that makes its own.

    - `region`: "us" (default), "eu" or "in"; it must be the project's own, or events are lost.
    - `base_url`: one origin for every request, such as the emulator or a proxy of your own.
    - `geolocate`: let Mixpanel locate users by the address that the request comes from.
    - `limits`, `retry`: see `Limits` and `RetryPolicy`.
    - `when_full`: what to do with a message when the buffer is full: "drop_newest" (default),
      "drop_oldest", "wait" or "raise".
    - `repeat_ambiguous`: repeat `$add`, `$append` and `$remove` even when they may have been
      applied; without it, only when they provably were not (docs/guarantees.md lists the proofs).
    - `on_error(error, messages)`, `on_drop(reason, messages)`: called for each failure and loss;
      exceptions they raise are logged. Messages given up after retries ("expired", "ambiguous") are
      passed to both. To keep each dead letter once, take all of `on_drop`, and of `on_error` only
      those with a `RejectedError` or `PayloadTooLargeError`.
    - `spool`: a folder on a local disk in which a buffered consumer keeps messages until they are
      delivered, so that they outlive the process; `MP_SPOOL` if it is None, and False for none.
    - `durability`: what committed messages outlive: "process" (default: a killed process) or
      "power" (a power failure too; each commit waits for the disk).
    - `http_client`: your own `httpx.AsyncClient`, which is never closed here.
    - `proxy`, `ssl_context`: for the HTTP client that the consumer makes.
    """

    region: Region | None
    base_url: str | None
    geolocate: bool
    limits: Limits | None
    retry: RetryPolicy | None
    when_full: WhenFull
    repeat_ambiguous: bool
    on_error: OnError | None
    on_drop: OnDrop | None
    spool: str | os.PathLike[str] | Literal[False] | None
    durability: Durability
    http_client: httpx.AsyncClient | None
    proxy: str | None
    ssl_context: ssl.SSLContext | None


KNOWN_OPTIONS = ConsumerOptions.__optional_keys__


@hide_init_arguments
class AnyConsumer(Rebuilt):
    """The shared part of the four consumers: settings, a `Sender`, and statistics."""

    _buffered = False
    _background = False
    _limits = Limits(flush_after=None)

    def __init__(
        self,
        events_url: str | None = None,
        people_url: str | None = None,
        import_url: str | None = None,
        request_timeout: float | None = None,
        groups_url: str | None = None,
        api_host: str | None = None,
        retry_limit: int = 4,
        retry_backoff_factor: float = 0.25,
        verify_cert: bool = True,  # noqa: FBT001, FBT002
        credentials: ServiceAccountCredentials | None = None,
        **options: Unpack[ConsumerOptions],
    ) -> None:
        check_options(type(self).__name__, options, KNOWN_OPTIONS)
        if not verify_cert:
            raise ConfigurationError(
                "verify_cert=False is not supported: it allows man-in-the-middle attacks. "
                "For a private certificate authority pass ssl_context="
            )
        when_full = options.get("when_full", "drop_newest")
        if when_full not in get_args(WhenFull):
            known = ", ".join(map(repr, get_args(WhenFull)))
            raise ConfigurationError(f"when_full={when_full!r} must be one of {known}")
        check_type(options.get("retry"), "retry", RetryPolicy)
        check_type(credentials, "credentials", ServiceAccountCredentials)
        check_number(retry_limit, "retry_limit", whole=True)
        check_number(retry_backoff_factor, "retry_backoff_factor")
        limits = checked_limits(options, self._limits)
        if request_timeout is not None:
            limits = replace(
                limits, request_timeout=checked_seconds(request_timeout, "request_timeout")
            )
        endpoints = Endpoints.resolve(
            region=options.get("region"),
            api_host=api_host,
            base_url=options.get("base_url"),
            events_url=events_url,
            people_url=people_url,
            import_url=import_url,
            groups_url=groups_url,
        )
        stats = DeliveryStats(options.get("on_error"), options.get("on_drop"))
        api = IngestionApi(
            endpoints,
            credentials,
            geolocate=options.get("geolocate", False),
        )
        retry = options.get("retry")
        spool = spool_settings(
            options.get("spool"), options.get("durability"), when_full, buffered=self._buffered
        )
        if spool is None:
            buffer = Buffer(limits, stats, when_full=when_full)
        else:
            buffer = self._spooled_buffer(spool, limits, stats, api, options)
            retry = retry or spool.retry(self._default_retry(retry_limit, retry_backoff_factor))
        self._sender = Sender(
            buffer,
            api,
            retry or self._default_retry(retry_limit, retry_backoff_factor),
            TransportOptions(
                options.get("http_client"), options.get("proxy"), options.get("ssl_context")
            ),
            buffered=self._buffered,
            background=self._background,
            repeat_ambiguous=options.get("repeat_ambiguous", False),
        )
        self._keep_settings(
            events_url=events_url,
            people_url=people_url,
            import_url=import_url,
            request_timeout=request_timeout,
            groups_url=groups_url,
            api_host=api_host,
            retry_limit=retry_limit,
            retry_backoff_factor=retry_backoff_factor,
            credentials=credentials,
            **options,
        )
        if self.replaces("flush", "_flush_endpoint"):
            self._sender.flush_hooks.add(self.flush)
            if isinstance(self, Consumer):
                self._sender.flush_endpoint = self._flush_endpoint

    @staticmethod
    def _spooled_buffer(
        spool: SpoolSettings,
        limits: Limits,
        stats: DeliveryStats,
        api: IngestionApi,
        options: ConsumerOptions,
    ) -> Buffer:
        urls = [api.endpoints.url(endpoint) for endpoint in ENDPOINTS]
        credentials = api.credentials
        account = [] if credentials is None else [credentials.username, credentials.project_id]
        description = {"origin": api.endpoints.origin, "geolocate": str(api.geolocate).lower()}
        if credentials is not None:
            description["project_id"] = credentials.project_id
        return spool.buffer(
            limits,
            stats,
            service="mixpanel",
            identity=(*urls, str(api.geolocate), *account),
            description=description,
            has_credentials=credentials is not None,
            repeat_ambiguous=options.get("repeat_ambiguous", False),
            when_full=options.get("when_full", "drop_newest"),
        )

    def _default_retry(self, retry_limit: int, backoff: float) -> RetryPolicy:
        return RetryPolicy(attempts=retry_limit + 1, first_wait=2 * backoff, max_age=60.0)

    def _rebuild(self, settings: dict[str, Any]) -> None:
        AnyConsumer.__init__(self, **settings)

    def replaces(self, *names: str) -> bool:
        """Return True if a subclass, or this object, has its own version of one of these methods.

        A client then calls it for each message, as the official client does.
        """
        methods = [getattr(self, name) for name in names if hasattr(self, name)]
        return any(getattr(each, "__func__", None) not in _OWN_METHODS for each in methods)

    def flush(self, timeout: float | None = FLUSH_TIMEOUT) -> Any:
        """Send everything kept so far."""
        raise NotImplementedError

    def stats(self) -> Stats:
        """Return the outcome of every message so far, in numbers."""
        return self._sender.stats.snapshot()

    def health(self) -> Health:
        """Return what is pending and since when, what each queue is doing, and the spool."""
        return self._sender.buffer.health()

    def __repr__(self) -> str:
        # A debugger may show it before `__init__` has returned.
        sender = getattr(self, "_sender", None)
        origin = None if sender is None else sender.api.endpoints.origin
        return f"<{type(self).__name__} to {origin}>"


@hide_arguments
def records_from_json(
    endpoint: str, json_message: str | bytes, authority: list[Any]
) -> list[Record]:
    """Make records from the arguments of the official `send`; the key may be `(key, secret)`.

    A JSON array holds one record in each item. `authority` is a list of API key and secret, which
    is emptied: so the caller keeps them in no variable that the traceback of an error would show.

    :raises MixpanelException: for an unknown endpoint.
    :raises ValidationError: for a message that is not a JSON object or an array of them.
    """
    known_endpoint(endpoint)
    auth = authority_of(authority, "")
    if not isinstance(json_message, (str, bytes)):
        raise ValidationError(
            [f"json_message must be JSON as str or bytes, not {type(json_message).__name__}"]
        )
    try:
        body = json_message.encode() if isinstance(json_message, str) else json_message
        message = loads(body)
    except (ValueError, RecursionError) as error:
        raise ValidationError([f"json_message is not JSON: {error}"]) from error
    if isinstance(message, dict):
        return [_record(endpoint, message, body, auth)]
    items = message if isinstance(message, list) else []
    if not items or not all(isinstance(item, dict) for item in items):
        raise ValidationError(["json_message must be a JSON object, or an array of objects"])
    return [_record(endpoint, item, dumps(item)[0], auth) for item in items]


def known_endpoint(endpoint: Any) -> str:
    """Return the name of an endpoint.

    :raises MixpanelException: for an unknown one.
    """
    if not isinstance(endpoint, str) or endpoint not in ENDPOINTS:
        known = ", ".join(ENDPOINTS)
        raise MixpanelException(f'No such endpoint "{endpoint}". Valid endpoints are: {known}')
    return endpoint


def _record(endpoint: str, message: dict[str, Any], body: bytes, auth: Authority) -> Record:
    properties = message.get("properties")
    token = properties.get("token") if isinstance(properties, dict) else None
    authority: Authority | None = auth
    if isinstance(auth, ProjectToken):
        authority = ProjectToken(token, auth.api_key) if isinstance(token, str) else None
    if endpoint != "imports":
        authority = None
    return Record(endpoint, body, repeatable=is_repeatable(message), auth=authority)


class AsyncConsumer(AnyConsumer):
    """Send each message at once; awaiting `send` returns when it is delivered, or raises.

    That takes the time of a request, retries included: use it where each event matters more than
    the caller's time. The constructor is the official `Consumer`'s, with keyword options.
    """

    async def send(
        self,
        endpoint: Endpoint,
        json_message: str | bytes,
        api_key: Any = None,
        api_secret: str | None = None,
    ) -> None:
        """Send a message that is already JSON, or an array of messages.

        :raises DeliveryError: when it was not delivered.
        """
        authority = [api_key, api_secret]
        del api_key, api_secret  # an error on the way shows the locals of this frame
        await self.deliver(records_from_json(endpoint, json_message, authority))

    async def deliver(self, records: list[Record]) -> None:
        """Send records of any endpoints in order, in as few requests as they fit in.

        :raises DeliveryError: for the first batch that was not delivered.
        """
        await self._sender.deliver(records)

    async def flush(self, timeout: float | None = FLUSH_TIMEOUT) -> FlushResult:
        """Send the exposures that are waiting; everything else was sent at once."""
        return await self._sender.flush(timeout)

    async def aclose(self, timeout: float | None = CLOSE_TIMEOUT) -> FlushResult:
        """Close the connections."""
        return await self._sender.aclose(timeout)


@hide_init_arguments
class AsyncBufferedConsumer(AnyConsumer):
    """Send in the background, in batches: the async default.

    A batch is sent when it holds `max_size` messages (2,000) or about 1.9 MB, or when its oldest
    message is `flush_after` seconds old (1). The sender is a task in the event loop of the first
    message; it restarts in the next loop, and any thread may track. A message is retried for five
    minutes, then it counts as dropped.
    """

    _buffered = True
    _background = True

    def __init__(
        self,
        max_size: int | None = None,
        flush_after: float | None = None,
        *,
        api_host: str | None = None,
        request_timeout: float | None = None,
        credentials: ServiceAccountCredentials | None = None,
        **options: Unpack[ConsumerOptions],
    ) -> None:
        limits = checked_limits(options, Limits())
        if max_size is not None:
            limits = replace(limits, max_batch_size=checked_size(max_size))
        if flush_after is not None:
            limits = replace(limits, flush_after=checked_seconds(flush_after, "flush_after"))
        options["limits"] = limits
        super().__init__(
            request_timeout=request_timeout, api_host=api_host, credentials=credentials, **options
        )

    def _default_retry(self, retry_limit: int, backoff: float) -> RetryPolicy:  # noqa: ARG002
        return RetryPolicy()

    def accept(self, record: Record) -> bool | None:
        """Accept a record without waiting, from any thread; None when full with `when_full="wait"`.

        :raises QueueFullError: with `when_full="raise"`.
        :raises ClosedError: after `aclose`.
        """
        return self._sender.accept(record)

    async def wait_for_space(self) -> None:
        """Flush and wait until there may be space in the buffer: 0.25 s at most."""
        await self._sender.wait_for_space()

    async def send(
        self,
        endpoint: Endpoint,
        json_message: str | bytes,
        api_key: Any = None,
        api_secret: str | None = None,
    ) -> None:
        """Accept a message that is already JSON, or an array of messages."""
        authority = [api_key, api_secret]
        del api_key, api_secret  # an error on the way shows the locals of this frame
        records = records_from_json(endpoint, json_message, authority)
        try:
            for record in records:
                while self.accept(record) is None:
                    await self.wait_for_space()
        except QueueFullError as error:
            await raise_after_yield(error)

    async def flush(self, timeout: float | None = FLUSH_TIMEOUT) -> FlushResult:
        """Send everything accepted so far and return the result."""
        return await self._sender.flush(timeout)

    async def commit(self, timeout: float | None = FLUSH_TIMEOUT) -> None:
        """Wait until everything accepted so far is on disk, in the spool.

        :raises SpoolError: if the disk failed, or did not respond within the timeout.
        :raises ConfigurationError: without a spool.
        """
        await self._sender.commit(timeout)

    async def aclose(self, timeout: float | None = CLOSE_TIMEOUT) -> FlushResult:
        """Flush and close; what is not delivered by then counts as dropped.

        Return within the timeout (in seconds) plus 0.25 s, whatever the server does.
        """
        return await self._sender.aclose(timeout)


class Consumer(AnyConsumer):
    """Send each message at once and raise errors, as the official one does.

    Call it from any thread that runs no event loop, or from a notebook.
    """

    def send(
        self,
        endpoint: Endpoint,
        json_message: str | bytes,
        api_key: Any = None,
        api_secret: str | None = None,
    ) -> None:
        """Send a message that is already JSON, or an array of messages.

        :raises DeliveryError: when it was not delivered.
        :raises SyncInAsyncError: on the thread of a running event loop.
        """
        authority = [api_key, api_secret]
        del api_key, api_secret  # an error on the way shows the locals of this frame
        if self.replaces("_write_request"):
            self._call_write_request(endpoint, json_message, authority)
        else:
            self.deliver(records_from_json(endpoint, json_message, authority))

    @hide_arguments
    def _call_write_request(
        self, endpoint: str, json_message: str | bytes, authority: list[Any]
    ) -> None:
        url = self._sender.api.endpoints.url(known_endpoint(endpoint))
        arguments: tuple[Any, ...] = (url, json_message, *authority, endpoint)
        authority.clear()
        try:
            inspect.signature(self._write_request).bind(*arguments)
        except TypeError:
            arguments = arguments[:-1]  # as before 5.0
        self._write_request(*arguments)

    def _write_request(
        self,
        request_url: str,
        json_message: str | bytes,
        api_key: Any = None,
        api_secret: str | None = None,
        endpoint: str | None = None,
    ) -> bool:
        """Send a message, or an array of them, and return True.

        Subclasses may replace it, as with the official `Consumer`: then `send` calls it for each
        message. `BufferedConsumer` does not.

        :raises DeliveryError: when it was not delivered.
        :raises ConfigurationError: for a URL that is not one of this consumer's.
        """
        authority = [api_key, api_secret]
        del api_key, api_secret  # an error on the way shows the locals of this frame
        urls = {self._sender.api.endpoints.url(name): name for name in ENDPOINTS}
        own_url = None if endpoint is None else self._sender.api.endpoints.url(endpoint)
        if request_url not in urls or (own_url is not None and own_url != request_url):
            raise ConfigurationError(
                f"{type(self).__name__} does not send to this URL: pass events_url=, people_url=, "
                "groups_url= or import_url= to its constructor instead"
            )
        self.deliver(records_from_json(endpoint or urls[request_url], json_message, authority))
        return True

    def deliver(self, records: list[Record]) -> None:
        """Send records of any endpoints in order, in as few requests as they fit in.

        :raises DeliveryError: for the first batch that was not delivered.
        """
        self._refuse_in_async(allow_background_loop=True)
        sync_delivery.deliver(self._sender, records)

    def flush(self, timeout: float | None = FLUSH_TIMEOUT) -> FlushResult:
        """Send the exposures that are waiting; everything else was sent at once."""
        self._refuse_in_async()
        return sync_delivery.flush(self._sender, timeout)

    def close(self, timeout: float | None = CLOSE_TIMEOUT) -> FlushResult:
        """Close the connections."""
        self._refuse_in_async()
        if not self.replaces("flush", "_flush_endpoint"):
            return sync_delivery.close(self._sender, timeout)
        before = self._sender.buffer.snapshot()
        self.flush()
        sync_delivery.close(self._sender, timeout)
        return self._sender.buffer.result_since(before)

    def _refuse_in_async(self, *, allow_background_loop: bool = False) -> None:
        # The error names the async class: of a subclass, that of its base.
        name = next(each.__name__ for each in type(self).__mro__ if each.__module__ == __name__)
        background_loop.refuse_in_async(name, allow_background_loop=allow_background_loop)

    def _flush_endpoint(self, endpoint: str) -> FlushResult:
        """Send what is kept for one endpoint.

        Subclasses may replace it, as with the official `BufferedConsumer`: then full batches and
        `flush` go through it.
        """
        return sync_delivery.flush(self._sender, FLUSH_TIMEOUT, endpoint)


@hide_init_arguments
class BufferedConsumer(Consumer):
    """Keep messages and send them in batches of `max_size`, on `flush()`, at close and at exit.

    The caller that fills a batch waits for its request. With `flush_after`, a batch is also full
    when its oldest message is that many seconds old and another one is tracked. Errors go to
    `on_error` (or the log) and `stats()`, not to the caller, whose message they may not be about.
    On the thread of a running event loop, full batches are sent in the background instead.
    `max_size` is at most 2,000. Any number of threads may share one.
    """

    _buffered = True

    def __init__(
        self,
        max_size: int = 50,
        events_url: str | None = None,
        people_url: str | None = None,
        import_url: str | None = None,
        request_timeout: float | None = None,
        groups_url: str | None = None,
        api_host: str | None = None,
        retry_limit: int = 4,
        retry_backoff_factor: float = 0.25,
        verify_cert: bool = True,  # noqa: FBT001, FBT002
        credentials: ServiceAccountCredentials | None = None,
        *,
        flush_after: float | None = None,
        **options: Unpack[ConsumerOptions],
    ) -> None:
        limits = replace(
            checked_limits(options, self._limits), max_batch_size=checked_size(max_size)
        )
        if flush_after is not None:
            limits = replace(limits, flush_after=checked_seconds(flush_after, "flush_after"))
        options["limits"] = limits
        super().__init__(
            events_url,
            people_url,
            import_url,
            request_timeout,
            groups_url,
            api_host,
            retry_limit,
            retry_backoff_factor,
            verify_cert,
            credentials,
            **options,
        )
        if self.replaces("_write_request"):
            logger.warning(
                "%s: a buffered consumer does not call _write_request: replace send instead",
                type(self).__name__,
            )

    def accept(self, record: Record) -> None:
        """Accept a record, and send the batch that it fills.

        :raises QueueFullError: with `when_full="raise"`.
        :raises ClosedError: after `close`.
        """
        sync_delivery.accept(self._sender, record)

    def send(
        self,
        endpoint: Endpoint,
        json_message: str | bytes,
        api_key: Any = None,
        api_secret: str | None = None,
    ) -> None:
        """Accept a message that is JSON, or an array of messages; send the batches they fill."""
        authority = [api_key, api_secret]
        del api_key, api_secret  # an error on the way shows the locals of this frame
        for record in records_from_json(endpoint, json_message, authority):
            self.accept(record)

    def commit(self, timeout: float | None = FLUSH_TIMEOUT) -> None:
        """Wait until everything accepted so far is on disk, in the spool.

        :raises SpoolError: if the disk failed, or did not respond within the timeout.
        :raises ConfigurationError: without a spool.
        """
        self._refuse_in_async()
        self._sender.commit_blocking(timeout)

    def flush(self, timeout: float | None = FLUSH_TIMEOUT) -> FlushResult:
        """Send everything kept so far and return the result."""
        if not self.replaces("_flush_endpoint"):
            return super().flush(timeout)
        self._refuse_in_async()
        before = self._sender.buffer.snapshot()
        for endpoint in ENDPOINTS:
            self._flush_endpoint(endpoint)
        return self._sender.buffer.result_since(before)


_OWN_METHODS = frozenset(
    getattr(kind, name)
    for kind in (AsyncConsumer, AsyncBufferedConsumer, Consumer, BufferedConsumer)
    for name in ("send", "accept", "deliver", "flush", "_flush_endpoint", "_write_request")
    if hasattr(kind, name)
)


def checked_limits(options: ConsumerOptions, default: Limits) -> Limits:
    """Return the option `limits`, or the default.

    :raises ConfigurationTypeError: if it is not a `Limits`.
    """
    limits = options.get("limits")
    check_type(limits, "limits", Limits)
    return limits or default


def checked_size(max_size: int) -> int:
    """Return the batch size, at most what Mixpanel takes.

    :raises ConfigurationError: when it is not a positive whole number.
    """
    if isinstance(max_size, bool) or not isinstance(max_size, int) or max_size < 1:
        raise ConfigurationError(f"max_size={max_size!r} must be a whole number from 1 to 2000")
    return min(max_size, MAX_RECORDS)


def checked_seconds(seconds: float, name: str) -> float:
    """Return a positive number of seconds.

    :raises ConfigurationError: when it is not positive, or not a number.
    """
    check_number(seconds, name)
    if not seconds > 0:
        raise ConfigurationError(f"{name}={seconds!r} must be a positive number of seconds")
    return float(seconds)
