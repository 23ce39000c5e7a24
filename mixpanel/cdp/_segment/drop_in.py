"""Stand-ins for the vendors' own Python libraries: a client, and a module that shares one.

Names, the order of parameters and what a call returns are those of the vendors' libraries; messages
are sent by the clients of this package.
"""

from __future__ import annotations

import functools
import inspect
import logging
from typing import TYPE_CHECKING, Any, Concatenate, Final, ParamSpec, TypeVar

from mixpanel._runtime import fork, native_threads
from mixpanel._runtime.rebuilding import Rebuilt
from mixpanel._runtime.redaction import hide_init_arguments
from mixpanel._runtime.safe_logging import logger
from mixpanel.cdp._segment.composer import SegmentComposer
from mixpanel.exceptions import ConfigurationError, DeliveryError, QueueFullError
from mixpanel.settings import MAX_RECORDS, Limits, RetryPolicy, checked_callback

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from mixpanel._delivery.stats import FlushResult, Stats
    from mixpanel.cdp._segment.client import SegmentClient
    from mixpanel.cdp._segment.message import Kind, Message

__all__ = ["DropInClient", "DropInModule"]

P = ParamSpec("P")
ClientType = TypeVar("ClientType", bound="DropInClient")

MAX_AGE = 3600.0
MAX_MESSAGE_BYTES = 32_000  # the byte limit of the queue must not be lower than that in messages
# The keys that the vendors' messages have even without a value.
_NULLS = ("userId", "anonymousId")
_EMPTY: dict[Kind, tuple[str, ...]] = {
    "identify": ("integrations", "traits"),
    "track": ("integrations", "properties"),
    "page": ("integrations", "properties"),
    "screen": ("integrations", "properties"),
    "group": ("integrations", "traits"),
    "alias": ("integrations",),
}


def with_all_keys(message: Message) -> dict[str, Any]:
    """Return a message as it is sent, with None or {} for what it lacks, as vendors return it."""
    complete: dict[str, Any] = dict.fromkeys(_NULLS)
    complete |= {name: {} for name in _EMPTY[message.kind]}
    if message.kind in ("page", "screen"):
        complete |= {"category": None, "name": None}
    return complete | message.decoded()


def _call(
    compose: Callable[Concatenate[SegmentComposer, P], Message],
) -> Callable[Concatenate[Any, P], tuple[bool, dict[str, Any]]]:
    """Return a client's method for a composer's: same parameters, same documentation."""

    def call(client: Any, /, *args: P.args, **kwargs: P.kwargs) -> tuple[bool, dict[str, Any]]:
        accepted: tuple[bool, dict[str, Any]] = client._accept(
            compose(client._client._composer, *args, **kwargs)
        )
        return accepted

    functools.update_wrapper(call, compose)
    signature = inspect.signature(compose)
    call.__signature__ = signature.replace(  # type: ignore[attr-defined]
        return_annotation="tuple[bool, dict[str, Any]]"
    )
    return call


@hide_init_arguments
class DropInClient(Rebuilt):
    """A client with the parameters of the vendor's own, whose calls return `(success, message)`.

    The message is the one that is sent, with all the keys that the vendor's library returns. Calls
    return False for a message that is too large, or when the queue is full.

    :param write_key: the write key of the source.
    :param host: the origin of your region. Default: see `SegmentOptions`.
    :param debug: log each request, without its content; to stderr unless logging is configured.
    :param max_queue_size: messages that may wait.
    :param send: False: validate and count messages, but send nothing.
    :param on_error: `on_error(error, messages)` is called with the messages that are lost, and
        without messages as soon as nothing can be sent before a person has mended it: a wrong
        write key, an unknown host, a certificate that is not trusted. Both are logged, too.
    :param max_retries: retries with `sync_mode`; in the background `max_age` is the limit.
    :param sync_mode: each call sends its message immediately and raises errors.
    :param timeout: the time limit of one request, in seconds.
    :param proxies: the URL of a proxy by scheme, as for `requests`.
    :param thread: requests that may run at once. With one, messages keep their order.
    :param upload_size: messages in one request.
    :param upload_interval: seconds in which messages gather.
    :param max_age: seconds for which a message is kept and tried again in an outage.
    :raises ConfigurationError: for an invalid setting.
    """

    def __init__(
        self,
        write_key: str | None = None,
        host: str | None = None,
        debug: bool = False,  # noqa: FBT001, FBT002 - the vendors' parameters
        max_queue_size: int = 10_000,
        send: bool = True,  # noqa: FBT001, FBT002
        on_error: Callable[[Exception, list[dict[str, Any]]], object] | None = None,
        gzip: bool = False,  # noqa: FBT001, FBT002
        max_retries: int = 10,
        sync_mode: bool = False,  # noqa: FBT001, FBT002
        timeout: float = 15,
        proxies: Mapping[str, str] | None = None,
        thread: int = 1,
        upload_size: int = 100,
        upload_interval: float = 0.5,
        log_handler: logging.Handler | None = None,
        *,
        max_age: float = MAX_AGE,
        **options: Any,
    ) -> None:
        if not write_key:
            raise ConfigurationError("write_key is not set: pass your source's write key")
        checked_callback(on_error, "on_error")
        _set_up_logging(log_handler, debug=debug)
        self.on_error = on_error
        self._client = self._new_client(
            write_key,
            base_url=host,
            send_immediately=sync_mode,
            disabled=not send,
            gzip=gzip,
            ordered=thread <= 1,
            limits=Limits(
                max_batch_size=min(upload_size, MAX_RECORDS),
                flush_after=upload_interval,
                max_queue_size=max_queue_size,
                max_queue_bytes=max_queue_size * MAX_MESSAGE_BYTES,
                request_timeout=timeout,
                concurrency=max(thread, 1),
            ),
            retry=RetryPolicy(
                attempts=max_retries + 1 if sync_mode else None, first_wait=1.0, max_age=max_age
            ),
            when_full="raise",
            proxy=_proxy(proxies),
            on_error=self._failed,
            on_drop=self._dropped,
            **options,
        )
        if type(self).flush is not DropInClient.flush:
            self._client._sender.flush_hooks.add(self.flush)
        # Without the log handler, which cannot be pickled: it belongs to this process.
        self._keep_settings(
            write_key=write_key,
            host=host,
            debug=debug,
            max_queue_size=max_queue_size,
            send=send,
            gzip=gzip,
            max_retries=max_retries,
            sync_mode=sync_mode,
            timeout=timeout,
            proxies=proxies,
            thread=thread,
            upload_size=upload_size,
            upload_interval=upload_interval,
            max_age=max_age,
            **options,
        )

    def _rebuild(self, settings: dict[str, Any]) -> None:
        DropInClient.__init__(self, **settings)

    def _current_settings(self) -> dict[str, Any]:
        return {**super()._current_settings(), "on_error": self.on_error}

    def _new_client(self, write_key: str, **options: Any) -> SegmentClient:
        raise NotImplementedError

    identify: Final = _call(SegmentComposer.identify)
    track: Final = _call(SegmentComposer.track)
    page: Final = _call(SegmentComposer.page)
    screen: Final = _call(SegmentComposer.screen)
    group: Final = _call(SegmentComposer.group)
    alias: Final = _call(SegmentComposer.alias)

    def _accept(self, message: Message) -> tuple[bool, dict[str, Any]]:
        fits = not self._client._api.excess_bytes(message)
        try:
            self._client._deliver([message])
        except QueueFullError:
            return False, with_all_keys(message)
        return fits, with_all_keys(message)

    def flush(self, timeout: float | None = 30.0) -> FlushResult:
        """Send everything accepted so far, for up to `timeout` seconds, and return the result."""
        return self._client.flush(timeout)

    def shutdown(self, timeout: float | None = 30.0) -> FlushResult:
        """Send everything accepted so far, and close the client."""
        return self._client.close(timeout)

    def join(self) -> FlushResult:
        """Call `shutdown`, so that no pending message is lost."""
        return self.shutdown()

    def stats(self) -> Stats:
        """Return the counts of all messages so far."""
        return self._client.stats()

    def _failed(self, error: DeliveryError, messages: list[dict[str, Any]]) -> None:
        if not error.needs_attention:  # those are logged by the client
            level = logging.ERROR if messages else logging.WARNING
            logger.log(level, "%s: %s", type(error).__name__, error)
        if self.on_error is not None and (messages or error.needs_attention):
            self.on_error(error, messages)

    def _dropped(self, reason: str, messages: list[dict[str, Any]]) -> None:
        if reason in ("expired", "ambiguous"):
            return  # these were reported to `_failed` already
        stats = self._client._stats
        error = DeliveryError(stats.drop_text(reason, len(messages)))
        error.__cause__ = stats.last_error
        self._failed(error, messages)

    def __repr__(self) -> str:
        # A debugger may show it before `__init__` has returned.
        return f"<{type(self).__name__} of {getattr(self, '_client', None)!r}>"


class DropInModule:
    """The functions of a vendor's module, which share one client.

    The client is made at the first call, from those variables of the module that have the name of
    one of its parameters; at the first call after `shutdown` it is made anew.

    :param namespace: the module's variables.
    """

    def __init__(self, namespace: dict[str, Any], client: type[DropInClient]) -> None:
        self._namespace = namespace
        self._client_type = client
        self._name = str(namespace["__name__"]).rpartition(".")[2]
        self._lock = native_threads.new_rlock()
        fork.register(fork.Order.LOCKS, after_in_child=self._after_fork)

    def client(self) -> Any:
        """Return the shared client.

        :raises ConfigurationError: without a write key, and for an invalid setting.
        """
        with self._lock:
            client = self._namespace["default_client"]
            if client is None:
                if not self._namespace["write_key"]:
                    raise ConfigurationError(
                        f"{self._name}.write_key is not set: assign your source's write key first"
                    )
                known = inspect.signature(self._client_type).parameters
                settings = {name: self._namespace[name] for name in known.keys() & self._namespace}
                client = self._namespace["default_client"] = self._client_type(**settings)
            return client

    def function(
        self, compose: Callable[Concatenate[SegmentComposer, P], Message]
    ) -> Callable[P, tuple[bool, dict[str, Any]]]:
        """Return the module's function for a composer's method: same parameters and docstring."""
        namespace = self._namespace

        @functools.wraps(compose)
        def call(*args: P.args, **kwargs: P.kwargs) -> tuple[bool, dict[str, Any]]:
            client = namespace["default_client"] or self.client()
            return client._accept(compose(client._client._composer, *args, **kwargs))  # type: ignore[no-any-return]

        signature = inspect.signature(compose)
        call.__module__, call.__qualname__ = namespace["__name__"], compose.__name__
        call.__signature__ = signature.replace(  # type: ignore[attr-defined]
            parameters=list(signature.parameters.values())[1:],
            return_annotation="tuple[bool, dict[str, Any]]",
        )
        return call

    def flush(self, timeout: float | None = 30.0) -> FlushResult | None:
        """Send everything accepted so far, for up to `timeout` seconds, and return the result.

        Return None if no call was made yet.
        """
        client: DropInClient | None = self._namespace["default_client"]
        return None if client is None else client.flush(timeout)

    def shutdown(self, timeout: float | None = 30.0) -> FlushResult | None:
        """Send everything accepted so far, and close the client; the next call creates a new one.

        Return None if no call was made yet.
        """
        with self._lock:
            client: DropInClient | None = self._namespace["default_client"]
            self._namespace["default_client"] = None
        return None if client is None else client.shutdown(timeout)

    def join(self) -> FlushResult | None:
        """Call `shutdown`, so that no pending message is lost."""
        return self.shutdown()

    def _after_fork(self) -> None:
        self._lock = native_threads.new_rlock()


def _set_up_logging(handler: logging.Handler | None, *, debug: bool) -> None:
    standard = logging.getLogger("mixpanel")
    if handler is not None:
        standard.addHandler(handler)  # adding it again has no effect
    if debug:
        standard.setLevel(logging.DEBUG)
        if not standard.hasHandlers():
            standard.addHandler(logging.StreamHandler())


def _proxy(proxies: Mapping[str, str] | None) -> str | None:
    """Return the proxy for HTTPS in a mapping as `requests` takes it."""
    if not proxies:
        return None
    proxy = next((proxies[name] for name in ("https", "all", "http") if proxies.get(name)), None)
    return proxy if proxy is None or "://" in proxy else f"http://{proxy}"
