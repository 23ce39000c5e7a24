"""Open a client when a server starts, and send what is buffered when it stops."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import anyio
import anyio.to_thread

from mixpanel._delivery import sync_delivery
from mixpanel._delivery.custom_consumer import wait_until
from mixpanel._delivery.sender import Sender
from mixpanel._runtime import event_loop, shutdown
from mixpanel._runtime.safe_logging import logger
from mixpanel.client import AsyncMixpanel, Mixpanel
from mixpanel.exceptions import ConfigurationError, SyncInAsyncError

if TYPE_CHECKING:
    from mixpanel._delivery.stats import FlushResult

__all__ = [
    "checked_client",
    "checked_timeout",
    "flush_all",
    "flush_client",
    "flush_client_async",
    "start",
    "start_polling",
    "stop",
]


def checked_client(client: Any, *, optional: bool = False, sync: bool = False) -> Any:
    """Return a client.

    :raises ConfigurationError: for anything else, and with `sync` for an async client.
    """
    if client is None and optional:
        return None
    if sync and isinstance(client, AsyncMixpanel):
        raise ConfigurationError(
            "an AsyncMixpanel cannot be flushed by sync code: pass "
            "Mixpanel(token, AsyncBufferedConsumer()), whose calls never wait either"
        )
    if not isinstance(client, (AsyncMixpanel, Mixpanel)):
        expected = "a Mixpanel" if sync else "an AsyncMixpanel or Mixpanel"
        raise ConfigurationError(f"client must be {expected}, not {type(client).__name__}")
    return client


def checked_timeout(timeout: Any, name: str) -> float:
    """Return a number of seconds that is not negative.

    :raises ConfigurationError: when it is not one.
    """
    valid = isinstance(timeout, (int, float)) and not isinstance(timeout, bool) and timeout >= 0
    if not valid:
        raise ConfigurationError(f"{name}={timeout!r} must be a number of seconds, 0 or more")
    return float(timeout)


async def start(client: AsyncMixpanel | Mixpanel) -> None:
    """Prepare the connections, fetch the definitions of flags and keep them up to date."""
    if isinstance(client, AsyncMixpanel):
        await client.__aenter__()
    elif client._local_flags is not None:
        await client._local_flags.astart_polling_for_definitions()


def start_polling(client: Mixpanel) -> None:
    """Start to fetch the definitions of flags; wait for the first response where that is allowed.

    On the thread of an event loop, as where an ASGI server imports an application, they arrive
    a little later.
    """
    flags = client._local_flags
    if flags is not None:
        if event_loop.is_running():
            flags._poller.start()
        else:
            flags.start_polling_for_definitions()


async def stop(client: AsyncMixpanel | Mixpanel, timeout: float) -> None:
    """Stop polling for flags and send what is buffered; never raises.

    The client stays open: what is tracked later is sent when the process exits, and the server may
    start again, as in tests.
    """
    # A server may cancel what still runs when it stops, hence the shield. The flush has its own
    # timeout; the outer limit also covers a poller that does not stop.
    with anyio.CancelScope(shield=True), anyio.move_on_after(timeout + 1):
        try:
            if client._local_flags is not None:
                await client._local_flags.astop_polling_for_definitions()
        except Exception:
            logger.exception("the polling for flags could not be stopped")
        await flush_client_async(client, timeout)


async def flush_client_async(client: AsyncMixpanel | Mixpanel, timeout: float) -> None:
    """Send what is buffered without blocking the event loop, and log what could not be sent."""
    try:
        if isinstance(client, AsyncMixpanel):
            _report(await client.flush(timeout))
        else:
            # The thread cannot be cancelled: at the server's limit it is left behind, as waiting
            # for it would hold up the shutdown.
            flush = anyio.to_thread.run_sync(client.flush, timeout, abandon_on_cancel=True)
            _report(await flush)
    except Exception:
        logger.exception("a client could not be flushed")


def flush_client(client: Mixpanel, timeout: float) -> None:
    """Send what is buffered, and log what could not be sent; never raises."""
    try:
        _report(client.flush(timeout))
    except Exception:
        logger.exception("a client could not be flushed")


def flush_all(timeout: float) -> None:
    """Send what all clients of sync code have buffered, in `timeout` seconds; never raises."""
    end = time.monotonic() + timeout
    wait_until(end)
    for sender in list(shutdown.senders):
        if not isinstance(sender, Sender) or not sender.stats.pending:
            continue
        # Even after the time is used up, a tenth of a second is left for each of the others: a
        # client whose server does not respond must not cost them their events.
        sender.flush_hooks.call(max(0.1, end - time.monotonic()))
        try:
            _report(sync_delivery.flush(sender, max(0.1, end - time.monotonic())))
        except SyncInAsyncError:
            continue  # an async client in a notebook's own loop, which sends once that is idle
        except Exception:
            logger.exception("a client could not be flushed")


def _report(result: FlushResult) -> None:
    if result.pending:
        logger.warning("%d messages were not sent before the timeout", result.pending)
