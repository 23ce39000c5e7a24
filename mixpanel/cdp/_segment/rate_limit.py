"""The rate limit and the access token of a request to a customer data platform.

The flow is a generator of steps, like a delivery with retries: it does no I/O itself, so async code
and blocking code run the same one.
"""

from __future__ import annotations

import time
from collections import deque
from typing import TYPE_CHECKING, Protocol
from weakref import WeakValueDictionary

from mixpanel._http.responses import (
    Response,
    TransportFailure,
)
from mixpanel._runtime import fork, native_threads

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from mixpanel._http.request import Request
    from mixpanel.credentials import Secret

    RequestFlow = Generator[
        float | Request | None, Response | TransportFailure | None, Response | TransportFailure
    ]
    TokenFlow = Generator[
        float | Request | None, Response | TransportFailure | None, TransportFailure | None
    ]

__all__ = ["RateLimitedAuth", "RateLimiter", "TokenSource", "shared_rate_limiter"]

MARGIN = 0.005  # seconds between a window and the next request; event loops may wake early
UNAUTHORIZED = frozenset({401, 403})  # the responses to an access token that is no longer valid


class RateLimiter:
    """A limit of `requests` in any window of `seconds`, both of its ends included.

    A request reserves its slot when it asks for it, so requests run in the order of their
    reservations and none is rejected.
    """

    def __init__(
        self, requests: int, seconds: float, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._seconds = seconds
        self._clock = clock
        self._reserved: deque[float] = deque(maxlen=requests)
        self._lock = native_threads.new_rlock()

    def reserve(self) -> float:
        """Reserve a slot, and return the seconds until it begins."""
        with self._lock:
            now = at = self._clock()
            # The deque holds the last `requests` slots: once it is full, the next slot begins more
            # than one window after the oldest of them, which also covers slots that lie in the
            # future.
            if len(self._reserved) == self._reserved.maxlen:
                at = max(now, self._reserved[0] + self._seconds + MARGIN)
            self._reserved.append(at)
        return at - now

    def after_fork(self) -> None:
        """Start from zero: the lock may be held by a thread that the child does not have."""
        self._lock = native_threads.new_rlock()
        self._reserved.clear()


_limiters: WeakValueDictionary[tuple[str, Secret, int, float], RateLimiter] = WeakValueDictionary()
_limiters_lock = native_threads.new_rlock()


def shared_rate_limiter(origin: str, key: Secret, requests: int, seconds: float) -> RateLimiter:
    """Return the rate limiter of a source, which all its clients in this process share."""
    source = origin, key, requests, seconds
    with _limiters_lock:
        rate_limiter = _limiters.get(source)
        if rate_limiter is None:
            rate_limiter = _limiters[source] = RateLimiter(requests, seconds)
        return rate_limiter


def _after_fork() -> None:
    global _limiters_lock
    _limiters_lock = native_threads.new_rlock()


fork.register(fork.Order.LOCKS, after_in_child=_after_fork)


class TokenSource(Protocol):
    """A source of access tokens."""

    @property
    def token(self) -> Secret | None:
        """Return the current token; None before the first one."""
        ...

    def ensure_token(self, stale: Secret | None = None) -> TokenFlow:
        """Obtain a token other than `stale`; return the failure if that is impossible."""
        ...

    def after_fork(self) -> None:
        """Reset what a forked child must not inherit."""
        ...


class RateLimitedAuth:
    """Run requests within the rate limit and with a token, renewed once if it is rejected."""

    def __init__(self, rate_limiter: RateLimiter | None, token_source: TokenSource | None) -> None:
        self.rate_limiter = rate_limiter
        self.token_source = token_source

    def run(self) -> RequestFlow:
        """Yield the steps of one attempt; see `RequestGuard`."""
        token = None
        if self.token_source is not None:
            failure = yield from self.token_source.ensure_token()
            if failure is not None:
                return failure
            token = self.token_source.token
        reply = yield from self._send()
        if (
            self.token_source is None
            or not isinstance(reply, Response)
            or reply.status not in UNAUTHORIZED
        ):
            return reply
        failure = yield from self.token_source.ensure_token(stale=token)
        if failure is not None:
            return failure
        return (yield from self._send())

    def _send(self) -> RequestFlow:
        if self.rate_limiter is not None:
            seconds = self.rate_limiter.reserve()
            if seconds > 0:
                yield seconds
        reply = yield None
        assert reply is not None
        return reply

    def after_fork(self) -> None:
        """Reset what a forked child must not inherit."""
        for each in (self.rate_limiter, self.token_source):
            if each is not None:
                each.after_fork()
