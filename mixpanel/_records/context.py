"""Identity and properties for all events of a block, as a context variable."""

from __future__ import annotations

from contextlib import contextmanager
from contextvars import ContextVar, Token
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

__all__ = ["context", "current", "temporarily_set"]

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Scope:
    """The identity and properties of a `context` block, merged with those of outer blocks."""

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
    """Set the identity and properties of every event that is tracked inside the block.

    Blocks nest, and the inner one wins. Properties given to `track` win over both; the client's
    super properties come last. The block applies to all that runs in its context: awaited
    coroutines, tasks started inside, `asyncio.to_thread`, `anyio.to_thread` and asgiref's
    `sync_to_async`. A bare `threading.Thread` starts outside of it unless it runs in
    `contextvars.copy_context()`.

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
    with temporarily_set(_scope, scope):
        yield


@contextmanager
def temporarily_set(variable: ContextVar[T | None], value: T) -> Iterator[None]:
    """Set a context variable inside the block, and restore its value afterwards.

    An async generator may be closed in another context than it was started in, as pytest fixtures
    and cancelled streams are. Then the variable cannot be reset there; if the closing context is a
    copy that has the value, it is restored here.
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
