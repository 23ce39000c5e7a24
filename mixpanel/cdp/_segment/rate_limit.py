"""What a request to a customer data platform passes first: a pace, and an access token.

The flow is a generator of steps, as an exchange is: it does no I/O, so a loop and a plain thread
drive the same one.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from typing import TYPE_CHECKING, Protocol
from weakref import WeakValueDictionary

from mixpanel._http.responses import (
    Response,
    TransportFailure,
)
from mixpanel._runtime import fork

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from mixpanel._http.request import Request
    from mixpanel.credentials import Secret

    Passage = Generator[
        float | Request | None, Response | TransportFailure | None, Response | TransportFailure
    ]
    Asking = Generator[
        float | Request | None, Response | TransportFailure | None, TransportFailure | None
    ]

__all__ = ["Access", "RateLimitedAuth", "RateLimiter", "shared_rate_limiter"]

REFUSED = frozenset({401, 403})  # what a token that is no longer good is answered with


class RateLimiter:
    """Let at most so many requests pass in any span of so many seconds; the rest wait their turn.

    Whoever asks has a place in the line from then on, so nobody is refused and nobody overtakes.
    """

    def __init__(
        self, requests: int, seconds: float, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._seconds = seconds
        self._clock = clock
        self._turns: deque[float] = deque(maxlen=requests)
        self._lock = threading.RLock()

    def turn(self) -> float:
        """Take a turn, and return the seconds until it comes."""
        with self._lock:
            now = at = self._clock()
            if len(self._turns) == self._turns.maxlen:
                at = max(now, self._turns[0] + self._seconds)
            self._turns.append(at)
        return at - now

    def after_fork(self) -> None:
        """Start afresh: the lock may be held by a thread that the child does not have."""
        self._lock = threading.RLock()
        self._turns.clear()


_paces: WeakValueDictionary[tuple[str, Secret, int, float], RateLimiter] = WeakValueDictionary()
_looking = threading.RLock()


def shared_rate_limiter(origin: str, key: Secret, requests: int, seconds: float) -> RateLimiter:
    """Return the pace of a source, which all clients of it in this process share."""
    source = origin, key, requests, seconds
    with _looking:
        rate_limiter = _paces.get(source)
        if rate_limiter is None:
            rate_limiter = _paces[source] = RateLimiter(requests, seconds)
        return rate_limiter


def _after_fork() -> None:
    global _looking
    _looking = threading.RLock()


fork.register(fork.Order.LOCKS, after_in_child=_after_fork)


class Access(Protocol):
    """Who hands out access tokens."""

    @property
    def token(self) -> Secret | None:
        """Return the token to use now."""
        ...

    def asked(self, stale: Secret | None = None) -> Asking:
        """See to it that there is a token other than `stale`, or return why there is none."""
        ...

    def after_fork(self) -> None:
        """Start afresh in a forked child."""
        ...


class RateLimitedAuth:
    """Let requests through at a pace and with a token, renewed once when it is refused."""

    def __init__(self, rate_limiter: RateLimiter | None, access: Access | None) -> None:
        self.rate_limiter = rate_limiter
        self.access = access

    def run(self) -> Passage:
        """Yield what has to happen for one attempt; see `Gate`."""
        used = None
        if self.access is not None:
            failure = yield from self.access.asked()
            if failure is not None:
                return failure
            used = self.access.token
        reply = yield from self._sent()
        if self.access is None or not isinstance(reply, Response) or reply.status not in REFUSED:
            return reply
        failure = yield from self.access.asked(stale=used)
        if failure is not None:
            return failure
        return (yield from self._sent())

    def _sent(self) -> Passage:
        if self.rate_limiter is not None:
            seconds = self.rate_limiter.turn()
            if seconds > 0:
                yield seconds
        reply = yield None
        assert reply is not None
        return reply

    def after_fork(self) -> None:
        """Start afresh in a forked child."""
        for each in (self.rate_limiter, self.access):
            if each is not None:
                each.after_fork()
