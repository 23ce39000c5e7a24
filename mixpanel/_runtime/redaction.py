"""Keep secrets out of the local variables that an exception's traceback refers to.

Crash reporters record the locals of every frame in a traceback, and of every exception in its
chain. This package's own frames hold secrets in types with a masked repr. Frames of HTTP libraries
hold headers and bytes in clear, and those of a constructor hold its arguments.
"""

from __future__ import annotations

import sys
from functools import wraps
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["hide_arguments", "hide_init_arguments", "strip_tracebacks"]

Raised = TypeVar("Raised", bound=BaseException)
Class = TypeVar("Class", bound=type)
Function = TypeVar("Function", bound="Callable[..., Any]")

LIBRARIES = frozenset({
    *("httpx", "httpcore", "h11", "h2", "hpack", "http", "socksio", "sniffio", "anyio", "asyncio"),
    *("trio", "uvloop", "contextlib", "selectors", "socket", "ssl", "threading", "mixpanel"),
})  # fmt: skip
QUOTING = frozenset({"LocalProtocolError"})  # exceptions whose text quotes a header


def strip_tracebacks(
    error: Raised, outer: BaseException | None = None, *, keep_callers: bool = False
) -> Raised:
    """Remove the tracebacks of an exception and of all in its chain, and return it.

    `outer` is the exception that the caller was already handling, which stays as it is. Exceptions
    whose text quotes the value that they failed on are removed from the chain. With `keep_callers`,
    frames of code that is neither ours nor an HTTP library's stay.
    """
    # Chains can share exceptions, and refer back: each is visited once. `outer` counts as visited.
    seen = {id(outer)}
    remaining: list[BaseException] = [error]
    while remaining:
        current = remaining.pop()
        if id(current) in seen:
            continue
        seen.add(id(current))
        current.__traceback__ = (
            _without_library_frames(current.__traceback__) if keep_callers else None
        )
        if getattr(current, "_request", None) is not None:  # httpx's errors refer to the request
            current._request = None  # type: ignore[attr-defined]
        suppressed = current.__suppress_context__  # assigning `__cause__` sets it to True
        if current.__cause__ is not None and _quotes(current.__cause__):
            current.__cause__ = None
        if current.__context__ is not None and _quotes(current.__context__):
            current.__context__ = outer
        current.__suppress_context__ = suppressed
        remaining += [
            cause for cause in (current.__cause__, current.__context__) if cause is not None
        ]
        if isinstance(current, BaseExceptionGroup):
            remaining += current.exceptions
    return error


def _quotes(error: BaseException) -> bool:
    return isinstance(error, UnicodeError) or type(error).__name__ in QUOTING


def _without_library_frames(traceback: TracebackType | None) -> TracebackType | None:
    # Tracebacks cannot lose a middle part: the ones to keep are linked anew, from the last one.
    kept = []
    while traceback is not None:
        name = str(traceback.tb_frame.f_globals.get("__name__", ""))
        if name.partition(".")[0] not in LIBRARIES:
            kept.append(traceback)
        traceback = traceback.tb_next
    rebuilt: TracebackType | None = None
    for each in reversed(kept):
        rebuilt = TracebackType(rebuilt, each.tb_frame, each.tb_lasti, each.tb_lineno)
    return rebuilt


def hide_arguments(function: Function) -> Function:
    """Return the function, so that no frame in the traceback of its errors holds its arguments."""

    @wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        outer = sys.exception()
        try:
            return function(*args, **kwargs)
        except Exception as error:
            failure = strip_tracebacks(error, outer)
        if failure.__suppress_context__ and failure.__cause__ is None:
            failure.__context__ = None  # `from None` hides it, but keeps it
        del args, kwargs
        try:
            raise failure
        finally:
            del failure, outer

    return wrapper  # type: ignore[return-value]


def hide_init_arguments(owner: Class) -> Class:
    """Apply `hide_arguments` to the constructor of a class, and return the class."""
    type.__setattr__(owner, "__init__", hide_arguments(owner.__init__))  # type: ignore[misc]
    return owner
