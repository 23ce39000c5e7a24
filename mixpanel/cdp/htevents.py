"""A drop-in for Hightouch's module: to migrate, change one import.

    from mixpanel.cdp import htevents          # was: import hightouch.htevents as htevents

    htevents.write_key = "WRITE_KEY"
    htevents.track("u-17", "Order Paid", {"amount": 12.5})
    htevents.shutdown()

Names and parameters are those of Hightouch's own library. A call returns whether the message was
accepted, and the message. The settings below are read at the first call, and again at the first
one after `shutdown`. Messages that are pending at the end of the process are sent then.
"""

from __future__ import annotations

import functools
import inspect
import logging
from typing import TYPE_CHECKING, Any, Concatenate, Final, ParamSpec

from mixpanel._runtime import fork, native_threads
from mixpanel._runtime.safe_logging import logger
from mixpanel._version import __version__
from mixpanel.cdp._segment.composer import SegmentComposer
from mixpanel.cdp.hightouch import Hightouch
from mixpanel.exceptions import ConfigurationError, DeliveryError, QueueFullError
from mixpanel.settings import Limits, RetryPolicy

if TYPE_CHECKING:
    from collections.abc import Callable

    from mixpanel._delivery.stats import FlushResult
    from mixpanel.cdp._hightouch.oauth import HightouchOAuth
    from mixpanel.cdp._segment.message import Message

__all__ = [
    "__version__",
    "alias",
    "flush",
    "group",
    "identify",
    "join",
    "page",
    "screen",
    "shutdown",
    "track",
]

P = ParamSpec("P")

write_key: str | None = None
host: str | None = None
"""The origin of your region, such as `https://eu-west-1.hightouch-events.com`. Default:
`MP_HIGHTOUCH_BASE_URL`, else the first region."""
on_error: Callable[[Exception, list[dict[str, Any]]], object] | None = None
"""Called with an error and the messages that were lost by it."""
debug = False
"""True: log each request, without its content; to stderr unless logging is configured."""
send = True
"""False: validate and count messages, but send nothing."""
sync_mode = False
"""True: each call sends its message immediately and raises errors."""
max_queue_size = 10_000
gzip = False
timeout: float = 15
"""The time limit of one request, in seconds."""
max_retries = 10
"""Retries in `sync_mode`; in the background a message is retried for five minutes."""
log_handler: logging.Handler | None = None
oauth_client_id: str | None = None
oauth_client_key: str | None = None
"""A private key as PEM text."""
oauth_key_id: str | None = None
oauth_auth_server = "https://oauth2.hightouch.io"
oauth_scope = "tracking_api:write"

default_client: Hightouch | None = None

_client_lock = native_threads.new_rlock()


def flush(timeout: float | None = 30.0) -> FlushResult | None:  # noqa: A001, RUF100
    """Send everything accepted so far, for up to `timeout` seconds, and return the result.

    Return None if no call was made yet.
    """
    client = default_client
    return None if client is None else client.flush(timeout)


def shutdown(timeout: float | None = 30.0) -> FlushResult | None:
    """Send everything accepted so far, and close the client; the next call creates a new one."""
    global default_client
    with _client_lock:
        client, default_client = default_client, None
    return None if client is None else client.close(timeout)


def join() -> FlushResult | None:
    """Call `shutdown`, so that no pending message is lost."""
    return shutdown()


def _module_function(
    compose: Callable[Concatenate[SegmentComposer, P], Message],
) -> Callable[P, tuple[bool, dict[str, Any]]]:
    """Return the module's function for a composer's method: same parameters, same documentation."""

    @functools.wraps(compose)
    def call(*args: P.args, **kwargs: P.kwargs) -> tuple[bool, dict[str, Any]]:
        client = default_client or _get_client()
        message = compose(client._composer, *args, **kwargs)
        fits = not client._api.excess_bytes(message)
        try:
            client._deliver([message])
        except QueueFullError:
            return False, message.decoded()
        return fits, message.decoded()

    signature = inspect.signature(compose)
    parameters = list(signature.parameters.values())[1:]
    call.__signature__ = signature.replace(  # type: ignore[attr-defined]
        parameters=parameters, return_annotation="tuple[bool, dict[str, Any]]"
    )
    return call


identify: Final = _module_function(SegmentComposer.identify)
track: Final = _module_function(SegmentComposer.track)
page: Final = _module_function(SegmentComposer.page)
screen: Final = _module_function(SegmentComposer.screen)
group: Final = _module_function(SegmentComposer.group)
alias: Final = _module_function(SegmentComposer.alias)


# ---- the shared client --------------------------------------------------------------------------


def _get_client() -> Hightouch:
    global default_client
    with _client_lock:
        if default_client is None:
            if not write_key:
                raise ConfigurationError(
                    "htevents.write_key is not set: assign your source's write key first"
                )
            _set_up_logging()
            default_client = Hightouch(
                write_key,
                oauth=_oauth(),
                base_url=host,
                send_immediately=sync_mode,
                disabled=not send,
                gzip=gzip,
                limits=Limits(
                    flush_after=0.5, max_queue_size=max_queue_size, request_timeout=timeout
                ),
                retry=RetryPolicy(attempts=max_retries + 1, first_wait=1.0) if sync_mode else None,
                when_full="raise",
                on_error=_failed,
                on_drop=_dropped,
            )
        return default_client


def _oauth() -> HightouchOAuth | None:
    if not (oauth_client_id and oauth_client_key and oauth_key_id):
        return None
    from mixpanel.cdp._hightouch.oauth import HightouchOAuth

    return HightouchOAuth(
        oauth_client_id, oauth_client_key, oauth_key_id, oauth_auth_server, oauth_scope
    )


def _set_up_logging() -> None:
    standard = logging.getLogger("mixpanel")
    if log_handler is not None:
        standard.addHandler(log_handler)  # adding it again has no effect
    if debug:
        standard.setLevel(logging.DEBUG)
        if not standard.hasHandlers():
            standard.addHandler(logging.StreamHandler())


def _failed(error: DeliveryError, messages: list[dict[str, Any]]) -> None:
    if on_error is not None:
        if messages:  # without messages, it will be retried
            on_error(error, messages)
        return
    logger.log(
        logging.ERROR if messages else logging.WARNING, "%s: %s", type(error).__name__, error
    )


def _dropped(reason: str, messages: list[dict[str, Any]]) -> None:
    if reason not in ("expired", "ambiguous"):  # these were reported to `_failed` already
        _failed(DeliveryError(f"{len(messages)} message(s) dropped: {reason}"), messages)


def _after_fork() -> None:
    global _client_lock
    _client_lock = native_threads.new_rlock()


fork.register(fork.Order.LOCKS, after_in_child=_after_fork)
