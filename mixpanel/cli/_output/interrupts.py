"""Ctrl-C while a statement runs in DuckDB: stop the statement, then end.

Python runs its own handler of a signal only between two instructions of the main thread, which may
be minutes away inside a statement. The byte that Python writes to a socket at once wakes a thread
that interrupts the statement.
"""

import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, NoReturn

__all__ = ["interruptible"]

FORCE_SECONDS = 0.15
REPEAT_SECONDS = 0.05  # a statement may begin just after it was interrupted


@contextmanager
def interruptible(
    interrupt: Callable[[], None], *, force: Callable[[], bool] | None = None
) -> Iterator[None]:
    """Call `interrupt` when Ctrl-C or SIGTERM arrives, and end the block with it.

    With `force`, the process ends after 0.2 seconds at the latest, as some operators of DuckDB
    look for interrupts rarely: `force` is called until it returns True, and removes what must not
    be left.

    :raises KeyboardInterrupt: after Ctrl-C, whatever the block raised.
    :raises SystemExit: after SIGTERM.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # signals belong to the main thread
        return
    reader, writer = socket.socketpair()
    writer.setblocking(False)
    received: list[int] = []
    ended = threading.Event()

    def watch() -> None:
        while numbers := reader.recv(64):
            received.extend(one for one in numbers if one in (signal.SIGINT, signal.SIGTERM))
            end = time.monotonic() + FORCE_SECONDS
            while received and not ended.is_set():
                interrupt()
                if force is not None and time.monotonic() > end and force():
                    os._exit(128 + received[0])
                ended.wait(REPEAT_SECONDS)

    watcher = threading.Thread(target=watch, name="mixpanel-interrupt", daemon=True)
    watcher.start()
    wakeup = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
    terminate = signal.signal(signal.SIGTERM, _terminate)
    try:
        try:
            yield
        finally:
            ended.set()
            signal.set_wakeup_fd(wakeup)
            with suppress(TypeError):  # the handler was not Python's
                signal.signal(signal.SIGTERM, terminate)
            writer.close()
            watcher.join()
            reader.close()
    except BaseException:
        if received:  # only now certain: DuckDB may notice a signal before the thread does
            _end(received[0])
        raise


def _terminate(number: int, _frame: Any) -> NoReturn:
    raise SystemExit(128 + number)


def _end(number: int) -> NoReturn:
    if number == signal.SIGINT:
        raise KeyboardInterrupt from None
    raise SystemExit(128 + number) from None
