"""Identity and properties for all events of a block, as a context variable."""

from __future__ import annotations

from contextlib import contextmanager, suppress
from contextvars import ContextVar, Token
from enum import Enum
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

from mixpanel.exceptions import MixpanelException

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

__all__ = ["Scope", "context", "current", "entered", "temporarily_set", "update_context"]

T = TypeVar("T")
Identity: TypeAlias = tuple[str | None, str | None, str | None]

IDENTITY: tuple[str, ...] = ("distinct_id", "device_id", "user_id")


class Unchanged(Enum):
    """The type of an argument that leaves a part of the identity as it is."""

    UNCHANGED = "unchanged"


UNCHANGED = Unchanged.UNCHANGED


class Scope:
    """The identity and properties of a `context` block, merged with those of outer blocks.

    One request or task shares its scopes between threads and tasks, so that what `update_context`
    changes in one of them holds for all. A scope with `resolve` gets its identity when it is first
    read, as `(distinct_id, device_id, user_id)`; if that is None, it tries again at the next read.
    """

    __slots__ = ("_resolve", "device_id", "distinct_id", "outer", "properties", "user_id")

    distinct_id: str | None
    device_id: str | None
    user_id: str | None

    def __init__(
        self,
        identity: Identity = (None, None, None),
        properties: dict[str, Any] | None = None,
        *,
        outer: Scope | None = None,
        resolve: Callable[[], Identity | None] | None = None,
    ) -> None:
        self.properties = properties or {}
        self.outer = outer
        self._resolve = resolve
        if resolve is None:
            self.distinct_id, self.device_id, self.user_id = identity

    def __getattr__(self, name: str) -> Any:
        """Resolve the identity: Python calls this for attributes that are not set."""
        if name not in IDENTITY or self._resolve is None:
            raise AttributeError(name)
        resolve = self._resolve
        self.distinct_id = self.device_id = self.user_id = None  # while `_resolve` tracks events
        found = resolve()
        if self._resolve is not resolve:  # an update has set another one meanwhile
            return getattr(self, name)
        if found is None:
            self.resolve_later(resolve)
            return None
        self.distinct_id, self.device_id, self.user_id = found
        self._resolve = None
        return getattr(self, name)

    def ids_of(self, distinct_id: Any) -> tuple[str | None, str | None]:
        """Return the device and user id for a message of this user.

        They are None if the scope has the user id of another: with Simplified ID Merge, Mixpanel
        finds the user by these ids and not by distinct_id. A device without a user id may be
        anyone's, as in the request that logs in.
        """
        same = (self.distinct_id, self.user_id, self.device_id, f"$device:{self.device_id}")
        if self.user_id is None or str(distinct_id) in map(str, same):
            return self.device_id, self.user_id
        return None, None

    def resolve_later(self, resolve: Callable[[], Identity | None]) -> None:
        """Get the identity from a function when it is first read; again, if that returns None."""
        self._resolve = resolve
        for name in IDENTITY:
            with suppress(AttributeError):
                delattr(self, name)

    def update(self, changes: Mapping[str, str | None], properties: Mapping[str, Any]) -> None:
        """Change parts of the identity, and add properties."""
        if changes:
            _ = self.distinct_id  # resolves what does not change
            if self._resolve is not None:  # which was not possible
                self.distinct_id = self.device_id = self.user_id = None
                self._resolve = None
            if changes.get("distinct_id") is not None and "user_id" not in changes:
                self.device_id, self.user_id = self.ids_of(changes["distinct_id"])
            for name, value in changes.items():
                setattr(self, name, value)
        self.properties = {**self.properties, **properties}


_scope: ContextVar[Scope | None] = ContextVar("mixpanel_scope", default=None)
current = _scope.get


@contextmanager
def context(
    distinct_id: str | None = None,
    properties: Mapping[str, Any] | None = None,
    *,
    device_id: str | None = None,
    user_id: str | None = None,
    fresh: bool = False,
    **more: Any,
) -> Iterator[None]:
    """Set the identity and properties of every event that is tracked inside the block.

    Blocks nest, and the inner one wins. Properties given to `track` win over both; the client's
    super properties come last. The block applies to all that runs in its context: awaited
    coroutines, tasks started inside, `asyncio.to_thread`, `anyio.to_thread` and asgiref's
    `sync_to_async`. A bare `threading.Thread` starts outside of it unless it runs in
    `contextvars.copy_context()`. With `fresh`, nothing is inherited from outer blocks.

    >>> with context("u-17", plan="team"):
    ...     mp.track(None, "Opened Report")  # doctest: +SKIP
    """
    outer = None if fresh else _scope.get()
    identity = (distinct_id, device_id, user_id)
    if outer is not None:
        device, user = outer.ids_of(outer.distinct_id if distinct_id is None else distinct_id)
        identity = (
            outer.distinct_id if distinct_id is None else distinct_id,
            device if device_id is None else device_id,
            user if user_id is None else user_id,
        )
    inherited = outer.properties if outer else {}
    scope = Scope(identity, {**inherited, **(properties or {}), **more}, outer=outer)
    with temporarily_set(_scope, scope):
        yield


def update_context(
    distinct_id: str | Unchanged | None = UNCHANGED,
    properties: Mapping[str, Any] | None = None,
    *,
    device_id: str | Unchanged | None = UNCHANGED,
    user_id: str | Unchanged | None = UNCHANGED,
    **more: Any,
) -> None:
    """Change the identity, or add properties, for the rest of the surrounding `context` blocks.

    Use it where a request or a task learns who its user is, as a login does. The change holds for
    all threads and tasks of the request, up to the outermost block or the one that is `fresh`; None
    removes a part of the identity.

    >>> update_context("u-17", plan="team")  # doctest: +SKIP

    :raises MixpanelException: outside of any block.
    """
    scope = _scope.get()
    if scope is None:
        raise MixpanelException(
            "update_context() works inside a block of context(), or in a request or task of an "
            "integration: open a block, or install the middleware"
        )
    values = zip(IDENTITY, (distinct_id, device_id, user_id), strict=True)
    changes = {name: value for name, value in values if not isinstance(value, Unchanged)}
    added = {**(properties or {}), **more}
    while scope is not None:
        scope.update(changes, added)
        scope = scope.outer


class entered:  # noqa: N801 - used as a function
    """Run parts of a request in its scope: each `with` block continues where the last one ended.

    A server may call an application once for a response and again for each piece of its body.
    """

    def __init__(self, scope: Scope) -> None:
        self._inside: Scope | None = scope
        self._outside: Scope | None = None

    def __enter__(self) -> None:
        self._outside = _scope.get()
        _scope.set(self._inside)

    def __exit__(self, *_: object) -> None:
        self._inside = _scope.get()
        _scope.set(self._outside)


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
