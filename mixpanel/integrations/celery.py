"""Carry identity and properties into Celery tasks, and flush when a worker ends.

    mp = Mixpanel("TOKEN", AsyncBufferedConsumer())
    connect(mp)

Call it in the module of the Celery application, which workers and senders import.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from celery.signals import (
    before_task_publish,
    task_postrun,
    task_prerun,
    worker_process_shutdown,
    worker_shutdown,
)

from mixpanel._records import context as contexts
from mixpanel.integrations._carried import HEADER, dump_context, load_context
from mixpanel.integrations._serving import checked_client, checked_timeout, flush_client

if TYPE_CHECKING:
    from mixpanel.client import Mixpanel

__all__ = ["connect", "disconnect"]

_ENTERED = "_mixpanel_entered"
_flushed: dict[Mixpanel, float] = {}  # clients, with their timeouts


def connect(client: Mixpanel | None = None, *, flush_timeout: float = 5.0) -> None:
    """Carry the context of each sender into its tasks; flush a client when a worker ends.

    A task has the identity and properties that were current where it was sent, and nothing from
    other tasks of the same worker; a retry keeps them, and so do tasks that the task sends. They
    travel in the header `mixpanel_context` of the message, so the broker sees them. A task that
    runs at once (`task_always_eager`, `apply`) has the context of its caller.

    The flush happens in each process and at the end of each pool: prefork, threads, solo, gevent
    and eventlet. May be called for several clients; each is connected once.

    :param client: the client that tasks use; without one, only the context is carried, and
        buffers are sent in the two seconds that the end of any process has.
    :param flush_timeout: seconds for the flush.
    :raises ConfigurationError: for another kind of client.
    """
    client = checked_client(client, optional=True, sync=True)
    seconds = checked_timeout(flush_timeout, "flush_timeout")
    if client is not None:
        _flushed[client] = seconds
    for signal, handler in _HANDLERS:
        signal.connect(handler, weak=False, dispatch_uid=f"mixpanel.{handler.__name__}")


def disconnect() -> None:
    """Undo all calls of `connect`."""
    _flushed.clear()
    for signal, handler in _HANDLERS:
        signal.disconnect(handler, dispatch_uid=f"mixpanel.{handler.__name__}")


def _add_header(headers: dict[str, Any] | None = None, **_: Any) -> None:
    # A retry already has the header of its first sender, which stays.
    if headers is not None and HEADER not in headers and (carried := dump_context()):
        headers[HEADER] = carried


def _enter(task: Any = None, **_: Any) -> None:
    # One task object runs many times at once in a pool of threads or greenlets, but `request` is
    # that of the current one: Celery keeps them on a stack for each thread or greenlet.
    request = task.request
    if not request.is_eager:
        entered = contexts.entered(load_context(getattr(request, HEADER, None)))
        setattr(request, _ENTERED, entered)
        # No `with`: the two ends of the block are two signals.
        entered.__enter__()


def _leave(task: Any = None, **_: Any) -> None:
    # Nothing was entered for an eager task.
    entered = vars(task.request).pop(_ENTERED, None)
    if entered is not None:
        entered.__exit__()


def _flush(**_: Any) -> None:
    for client, seconds in list(_flushed.items()):
        flush_client(client, seconds)


_HANDLERS = [
    (before_task_publish, _add_header),
    (task_prerun, _enter),
    (task_postrun, _leave),
    # The first is sent in each process of a prefork pool, the second in the main process, which for
    # all other pools is the one that runs tasks.
    (worker_process_shutdown, _flush),
    (worker_shutdown, _flush),
]
