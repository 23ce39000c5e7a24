"""Restore a forked child: one registry for the whole package, with a documented order.

A child process has a copy of every object of its parent, but only the thread that forked. Locks
that other threads held stay held, event loops have no thread, sockets are shared with the parent,
and buffered messages would be sent twice. So each module that has such state registers here what
its copy needs. The steps run in the order of `Order`; each calls its callbacks, in the order of
registration, and then its instances.
"""

from __future__ import annotations

import os
import sys
import weakref
from enum import IntEnum
from typing import TYPE_CHECKING, Any, Protocol

from mixpanel._runtime.safe_logging import logger

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

__all__ = ["AfterFork", "Order", "register", "register_instance"]


class Order(IntEnum):
    """The steps by which a forked child is restored.

    Each step may rely on the ones before it: senders renew their rate limiters and take locks, and
    nothing may run on a loop or a connection of the parent's.
    """

    LOCKS = 1  # locks and file locks that a thread of the parent may hold; random generators
    LOOPS = 2  # the background loop, and the connections of every loop
    SENDERS = 3  # buffers, delivery statistics, rate limits
    CLIENTS = 4  # what uses senders: fan-outs, flag providers and their pollers


class AfterFork(Protocol):
    """An object with state that a forked child must not share with its parent."""

    def after_fork(self) -> None:
        """Start afresh in a forked child."""
        ...


_before: list[Callable[[], object]] = []
_in_parent: list[Callable[[], object]] = []
_in_child: dict[Order, list[Callable[[], object]]] = {order: [] for order in Order}
_instances: dict[Order, weakref.WeakSet[AfterFork]] = {order: weakref.WeakSet() for order in Order}


def register(
    order: Order,
    *,
    before: Callable[[], object] | None = None,
    after_in_parent: Callable[[], object] | None = None,
    after_in_child: Callable[[], object] | None = None,
) -> None:
    """Register callbacks for the life of the process, with the meaning of `os.register_at_fork`.

    `order` is the step in which `after_in_child` runs. `before` callbacks run in reverse order of
    registration, as those of the standard library do.
    """
    if before is not None:
        _before.append(before)
    if after_in_parent is not None:
        _in_parent.append(after_in_parent)
    if after_in_child is not None:
        _in_child[order].append(after_in_child)


def register_instance(order: Order, instance: AfterFork) -> None:
    """Call `instance.after_fork()` in forked children while the instance is alive.

    The registry holds it weakly, and calls the instances of a step after the step's callbacks.
    """
    _instances[order].add(instance)


def _run_before() -> None:
    _call_each(reversed(_before))


def _run_in_parent() -> None:
    _call_each(_in_parent)


def _run_in_child() -> None:
    for order in Order:
        _call_each(_in_child[order])
        _call_each([instance.after_fork for instance in list(_instances[order])])


def _call_each(callbacks: Iterable[Callable[[], object]]) -> None:
    for callback in callbacks:
        try:
            callback()
        except BaseException:  # as the standard library does: one must not keep others from running
            logger.exception("a fork handler failed")


if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_run_before, after_in_parent=_run_in_parent, after_in_child=_run_in_child
    )


def _register_in_uwsgi(uwsgi: Any) -> None:
    """Run in the workers of uWSGI, which forks without Python's own hooks."""
    hook = getattr(uwsgi, "post_fork_hook", None)

    def run_after() -> None:
        if hook is not None:
            hook()
        _run_in_child()

    uwsgi.post_fork_hook = run_after


if "uwsgi" in sys.modules:
    _register_in_uwsgi(sys.modules["uwsgi"])
