"""Send what is buffered when the process gets a signal, such as SIGTERM.

Python does not handle SIGTERM: the process ends at once, and runs no exit handler.
"""

from __future__ import annotations

import signal
import threading
from typing import TYPE_CHECKING

from mixpanel._runtime import native_threads, shutdown
from mixpanel._runtime.import_lock import import_lock
from mixpanel._runtime.safe_logging import logger
from mixpanel.exceptions import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType
    from typing import Any

__all__ = ["flush_on_signal"]

RETRY_AFTER = 0.02  # seconds until a signal that struck inside a client's own code comes again
RETRIES = 100
IGNORED_BY_DEFAULT = {
    getattr(signal, name, None) for name in ("SIGCHLD", "SIGCONT", "SIGURG", "SIGWINCH")
}

_previous: dict[int, Any] = {}  # what handled each signal before
_retries: dict[int, int] = {}


def flush_on_signal(signum: int = signal.SIGTERM) -> None:
    """Send what all clients have buffered when this signal comes, then do what was done before.

    >>> flush_on_signal()  # doctest: +SKIP

    Sending takes two seconds at most. If the signal ends the process by default, it still does
    so, with the same exit status. If it had a handler, such as a server's that ends requests in
    order, that one is called; from then on each message is sent at once. A handler that is
    installed later replaces this one. Call it once, early, in the main thread; nothing else
    installs a signal handler.

    :raises ConfigurationError: outside of the main thread, where Python installs no handlers, or
        for a signal that cannot be handled.
    """
    if threading.current_thread() is not threading.main_thread():
        raise ConfigurationError(
            "flush_on_signal() works in the main thread only: call it when the program starts"
        )
    previous = signal.getsignal(signum)
    if previous is _handle:
        return
    with import_lock:  # what sending needs: a signal handler may interrupt an import
        import mixpanel._http.sync_transport  # noqa: F401
    try:
        signal.signal(signum, _handle)
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"signal {signum} cannot be handled: {error}") from error
    _previous[signum] = previous


def _handle(signum: int, frame: FrameType | None) -> None:
    if shutdown.is_draining():
        return  # the process ends already, and is sending what is left
    if shutdown.is_interrupted() and _retries.get(signum, 0) < RETRIES:
        # The interrupted code holds a lock of a client. It continues when this handler returns.
        _retries[signum] = _retries.get(signum, 0) + 1
        _signal_again(signum)
        return
    _retries.pop(signum, None)
    previous = _previous.get(signum)
    ends_process = previous is signal.SIG_DFL and signum not in IGNORED_BY_DEFAULT
    try:
        _blocking(shutdown.drain if ends_process else shutdown.flush)
    except Exception:
        logger.exception("what was buffered could not be sent after signal %d", signum)
    if callable(previous):
        previous(signum, frame)
    elif ends_process:
        signal.signal(signum, signal.SIG_DFL)
        signal.raise_signal(signum)


def _blocking(work: Callable[[], None]) -> None:
    """Call a function; under gevent in a thread of its own, as the hub cannot wait for a socket."""
    if not native_threads.is_patched():
        work()
        return
    native_threads.start_thread(work, "mixpanel-signal").join(shutdown.EXIT_TIMEOUT + 1)


def _signal_again(signum: int) -> None:
    main = threading.main_thread().ident

    def wait_and_signal() -> None:
        pause = native_threads.new_lock()
        pause.acquire()
        pause.acquire(timeout=RETRY_AFTER)
        if hasattr(signal, "pthread_kill") and main is not None:
            signal.pthread_kill(main, signum)
        else:
            signal.raise_signal(signum)

    native_threads.start_thread(wait_and_signal, "mixpanel-signal")
