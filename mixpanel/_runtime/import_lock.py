"""A lock that forks wait for, so that no child inherits a half-imported module.

A child process has only the thread that forked. If another thread was importing a module at that
time, the module's own import lock stays held in the child forever, and importing it there hangs.
So all that this package imports late, in threads, it imports while it holds `import_lock`.
"""

from __future__ import annotations

from mixpanel._runtime import fork, native_threads

__all__ = ["FORK_TIMEOUT", "import_lock"]

FORK_TIMEOUT = 10.0  # seconds that a fork waits for modules that are being imported


class _ImportLock:
    """A reentrant lock that is acquired before `os.fork`, and new in the child."""

    def __init__(self) -> None:
        self._lock = native_threads.new_rlock()
        self._acquired: list[bool] = []
        fork.register(
            fork.Order.LOCKS,
            before=self._before_fork,
            after_in_parent=self._after_fork_in_parent,
            after_in_child=self._after_fork_in_child,
        )

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()

    def is_held_here(self) -> bool:
        """Return True if this thread holds the lock."""
        return bool(self._lock._is_owned())

    def _before_fork(self) -> None:
        self._acquired.append(self._lock.acquire(timeout=FORK_TIMEOUT))

    def _after_fork_in_parent(self) -> None:
        if self._acquired.pop():
            self._lock.release()

    def _after_fork_in_child(self) -> None:
        self._lock = native_threads.new_rlock()
        self._acquired.clear()


import_lock = _ImportLock()
