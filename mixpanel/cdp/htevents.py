"""Hightouch's module-level calls, so that changing over is one line of imports.

    from mixpanel.cdp import htevents          # was: import hightouch.htevents as htevents

    htevents.write_key = "WRITE_KEY"
    htevents.track("u-17", "Order Paid", {"amount": 12.5})
    htevents.shutdown()

Names and positions are those of Hightouch's own library, and so is the answer of a call: whether
the message was taken, and the message. The settings below are read at the first call, and again
at the first after `shutdown`. What waits at the end of the process is sent then.
"""

from __future__ import annotations

import functools
import inspect
import logging
import threading
from typing import TYPE_CHECKING, Any, Concatenate, Final, ParamSpec

from mixpanel._runtime import fork
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
"""The origin of your region, such as `https://eu-west-1.hightouch-events.com`; without it that of
`MP_HIGHTOUCH_BASE_URL`, else of the first region."""
on_error: Callable[[Exception, list[dict[str, Any]]], object] | None = None
"""Told of each error that ended a message's way, with the messages it struck."""
debug = False
"""True: tell on stderr of each request, never what is in it; unless logging goes elsewhere."""
send = True
"""False: check and count, but send nothing."""
sync_mode = False
"""True: each call sends its message, and raises what goes wrong."""
max_queue_size = 10_000
gzip = False
timeout: float = 15
"""Seconds for one attempt."""
max_retries = 10
"""In `sync_mode`; in the background, a message is tried for five minutes."""
log_handler: logging.Handler | None = None
oauth_client_id: str | None = None
oauth_client_key: str | None = None
"""A private key as PEM text."""
oauth_key_id: str | None = None
oauth_auth_server = "https://oauth2.hightouch.io"
oauth_scope = "tracking_api:write"

default_client: Hightouch | None = None

_client_lock = threading.RLock()


def flush(timeout: float | None = 30.0) -> FlushResult | None:  # noqa: A001, RUF100
    """Send everything accepted so far, within so many seconds; return what became of it."""
    client = default_client
    return None if client is None else client.flush(timeout)


def shutdown(timeout: float | None = 30.0) -> FlushResult | None:
    """Send everything accepted so far, and let go; the next call starts afresh."""
    global default_client
    with _client_lock:
        client, default_client = default_client, None
    return None if client is None else client.close(timeout)


def join() -> FlushResult | None:
    """Do as `shutdown`: nothing that waits is left behind."""
    return shutdown()


def _module_function(
    compose: Callable[Concatenate[SegmentComposer, P], Message],
) -> Callable[P, tuple[bool, dict[str, Any]]]:
    """Make the module's function of a composer's method, with its parameters and documentation."""

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

    own = inspect.signature(compose)
    parameters = list(own.parameters.values())[1:]
    call.__signature__ = own.replace(  # type: ignore[attr-defined]
        parameters=parameters, return_annotation="tuple[bool, dict[str, Any]]"
    )
    return call


identify: Final = _module_function(SegmentComposer.identify)
track: Final = _module_function(SegmentComposer.track)
page: Final = _module_function(SegmentComposer.page)
screen: Final = _module_function(SegmentComposer.screen)
group: Final = _module_function(SegmentComposer.group)
alias: Final = _module_function(SegmentComposer.alias)


# ---- the client behind them ---------------------------------------------------------------------


def _get_client() -> Hightouch:
    global default_client
    with _client_lock:
        if default_client is None:
            if not write_key:
                raise ConfigurationError("set htevents.write_key to your source's key first")
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
        standard.addHandler(log_handler)  # once, however often it is added
    if debug:
        standard.setLevel(logging.DEBUG)
        if not standard.hasHandlers():
            standard.addHandler(logging.StreamHandler())


def _failed(error: DeliveryError, messages: list[dict[str, Any]]) -> None:
    if on_error is not None:
        if messages:  # else it is going to be tried again
            on_error(error, messages)
        return
    logger.log(
        logging.ERROR if messages else logging.WARNING, "%s: %s", type(error).__name__, error
    )


def _dropped(reason: str, messages: list[dict[str, Any]]) -> None:
    if reason not in ("expired", "ambiguous"):  # of these, `_failed` has heard
        _failed(DeliveryError(f"{len(messages)} message(s) dropped: {reason}"), messages)


def _after_fork() -> None:
    global _client_lock
    _client_lock = threading.RLock()


fork.register(fork.Order.LOCKS, after_in_child=_after_fork)
