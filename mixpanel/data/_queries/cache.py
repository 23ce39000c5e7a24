"""Cache values for some minutes."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any
from weakref import WeakValueDictionary

import anyio

from mixpanel._runtime import event_loop, fork, native_threads

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

__all__ = ["Cache"]

LIFETIME = 600.0  # seconds


class Cache:
    """A cache whose values expire after `lifetime` seconds; safe to use from several threads."""

    def __init__(
        self, lifetime: float = LIFETIME, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.lifetime = lifetime
        self._clock = clock
        self._lock = native_threads.new_lock()
        self._values: dict[Hashable, tuple[float, Any]] = {}
        # By loop and key. Weak, so that a lock is dropped with the last of its users.
        self._loading: WeakValueDictionary[Hashable, anyio.Lock] = WeakValueDictionary()
        fork.register_instance(fork.Order.LOCKS, self)

    def get(self, key: Hashable, default: Any = None) -> Any:
        """Return the value of a key, or the default if there is none or it has expired."""
        with self._lock:
            expires, value = self._values.get(key, (0.0, default))
            if key in self._values and expires <= self._clock():
                del self._values[key]
                return default
            return value

    def age(self, key: Hashable) -> float:
        """Return how many seconds ago a value was loaded; 0 if there is none."""
        with self._lock:
            expires, _ = self._values.get(key, (None, None))
            return 0.0 if expires is None else self._clock() + self.lifetime - expires

    def loading(self, key: Hashable) -> anyio.Lock:
        """Return a lock for loading a value, so that callers in one event loop load it once."""
        loop = event_loop.running_loop()
        place = (loop.key if loop is not None else None, key)
        with self._lock:
            lock = self._loading.get(place)
            if lock is None:
                lock = self._loading[place] = anyio.Lock()
            return lock

    def put(self, key: Hashable, value: Any) -> None:
        """Store a value."""
        with self._lock:
            self._values[key] = self._clock() + self.lifetime, value

    def remove(self, *kinds: str) -> None:
        """Remove the values whose keys are, or begin with, one of these."""
        with self._lock:
            for key in list(self._values):
                if (key[0] if isinstance(key, tuple) else key) in kinds:
                    del self._values[key]

    def after_fork(self) -> None:
        """Renew the lock, which a thread of the parent may have held."""
        self._lock = native_threads.new_lock()
        self._loading = WeakValueDictionary()

    def clear(self) -> None:
        """Remove all values."""
        with self._lock:
            self._values.clear()
