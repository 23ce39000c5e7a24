"""Keep secrets out of what an exception carries away: the local variables of its frames.

Crash reporters read the locals of every frame in a traceback, and of every exception in its chain.
Our own frames hold secrets in types that show nothing; frames of HTTP libraries hold headers and
bytes in clear, and those of a constructor hold its arguments.
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
QUOTING = frozenset({"LocalProtocolError"})  # its text repeats the header that it refuses


def strip_tracebacks(
    error: Raised, outer: BaseException | None = None, *, keep_callers: bool = False
) -> Raised:
    """Return an exception after dropping its traceback and those of all that led to it.

    `outer` is what the caller was already handling: it is theirs, and left alone. What quotes the
    value it failed on leaves the chain. With `keep_callers`, the frames of code that is neither
    ours nor an HTTP library's stay.
    """
    seen = {id(outer)}
    remaining: list[BaseException] = [error]
    while remaining:
        one = remaining.pop()
        if id(one) in seen:
            continue
        seen.add(id(one))
        one.__traceback__ = _callers(one.__traceback__) if keep_callers else None
        if getattr(one, "_request", None) is not None:  # httpx's errors hold the whole request
            one._request = None  # type: ignore[attr-defined]
        suppressed = one.__suppress_context__
        if one.__cause__ is not None and _quotes(one.__cause__):
            one.__cause__ = None
        if one.__context__ is not None and _quotes(one.__context__):
            one.__context__ = outer
        one.__suppress_context__ = suppressed
        remaining += [led for led in (one.__cause__, one.__context__) if led is not None]
        if isinstance(one, BaseExceptionGroup):
            remaining += one.exceptions
    return error


def _quotes(error: BaseException) -> bool:
    return isinstance(error, UnicodeError) or type(error).__name__ in QUOTING


def _callers(traceback: TracebackType | None) -> TracebackType | None:
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
    """Make a function whose failures leave no frame that holds its arguments."""

    @wraps(function)
    def concealed(*args: Any, **kwargs: Any) -> Any:
        outer = sys.exception()
        try:
            return function(*args, **kwargs)
        except Exception as error:
            failure = strip_tracebacks(error, outer)
        if failure.__suppress_context__ and failure.__cause__ is None:
            failure.__context__ = None  # `from None` only hides it
        del args, kwargs
        try:
            raise failure
        finally:
            del failure, outer

    return concealed  # type: ignore[return-value]


def hide_init_arguments(owner: Class) -> Class:
    """Make the failures of a class's constructor leave no frame that holds its arguments."""
    type.__setattr__(owner, "__init__", hide_arguments(owner.__init__))  # type: ignore[misc]
    return owner
