"""Who is being served right now: identity and properties that follow a task or thread."""

from __future__ import annotations

from contextlib import contextmanager
from contextvars import ContextVar, Token
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

__all__ = ["context", "current", "during"]

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Scope:
    """Hold what `context` has set, outer scopes already mixed in."""

    distinct_id: str | None
    device_id: str | None
    user_id: str | None
    properties: dict[str, Any]


_scope: ContextVar[Scope | None] = ContextVar("mixpanel_scope", default=None)
current = _scope.get


@contextmanager
def context(
    distinct_id: str | None = None,
    properties: Mapping[str, Any] | None = None,
    *,
    device_id: str | None = None,
    user_id: str | None = None,
    **more: Any,
) -> Iterator[None]:
    """Give every event tracked inside the block an identity and properties.

    Blocks nest, the inner one wins; a property given to `track` wins over both, and the client's
    super properties stand below. The block follows what runs in its context: awaited coroutines,
    tasks started inside, `asyncio.to_thread`, `anyio.to_thread` and asgiref's `sync_to_async`.
    A bare `threading.Thread` starts outside of it unless it runs in `contextvars.copy_context()`.

    >>> with context("u-17", plan="team"):
    ...     mp.track(None, "Opened Report")  # doctest: +SKIP
    """
    outer = _scope.get()
    inherited = outer.properties if outer else {}
    scope = Scope(
        distinct_id if distinct_id is not None else (outer.distinct_id if outer else None),
        device_id if device_id is not None else (outer.device_id if outer else None),
        user_id if user_id is not None else (outer.user_id if outer else None),
        {**inherited, **(properties or {}), **more},
    )
    with during(_scope, scope):
        yield


@contextmanager
def during(variable: ContextVar[T | None], value: T) -> Iterator[None]:
    """Let a variable have a value inside the block, and afterwards what it had before.

    An async generator may be left in another context than it was entered in, as pytest fixtures
    and cancelled streams are. What was set there is out of reach then; a copy of it here is undone.
    """
    token = variable.set(value)
    try:
        yield
    finally:
        try:
            variable.reset(token)
        except ValueError:
            if variable.get() is value:
                before = token.old_value
                variable.set(None if before is Token.MISSING else before)
