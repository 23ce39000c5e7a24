"""Show the real return type at run time where one method body serves an async and a sync class.

A method of a mix-in such as `TrackingMethods[Outcome]` is written once. Type checkers know that it
returns a coroutine in the async class and None in the sync one; `help()` and IPython would show the
name of the type variable, and a sync class would show an example with `await`.
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Coroutine
from types import FunctionType
from typing import TYPE_CHECKING, Any, TypeVar, get_origin

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

__all__ = ["named_like", "returning", "without_await"]

Class = TypeVar("Class", bound=type)
Function = TypeVar("Function", bound="Callable[..., Any]")

EXAMPLE = re.compile(r"^ *(?:>>>|\.\.\.) .*$", re.MULTILINE)
KEYWORD = re.compile(r"\b(?:async|await) ")


def returning(
    outcome: Any, *, annotated: Collection[str] = ("Outcome",)
) -> Callable[[Class], Class]:
    """Return a class decorator that shows what inherited methods return in this class.

    It copies each public method whose return annotation is one of `annotated`, with `outcome` in
    its place; None as the outcome also takes `await` out of the examples. A copy shares its code
    with the original, so a call takes no longer. With a coroutine as the outcome, the copies count
    as coroutine functions: frameworks that take either kind, such as Starlette for its background
    tasks, then await them instead of calling them in a thread.
    """

    def decorate(owner: Class) -> Class:
        for name, function in _inherited(owner).items():
            if function.__annotations__.get("return") in annotated:
                setattr(owner, name, _copied(function, owner, outcome))
        return owner

    return decorate


def named_like(declared: Callable[..., Any], function: Function) -> Function:
    """Return `function` with the name and the place of `declared`, which it implements."""
    function.__name__, function.__qualname__ = declared.__name__, declared.__qualname__
    function.__module__ = declared.__module__
    return function


def without_await(doc: str | None) -> str | None:
    """Return a docstring whose examples are those of sync code.

    >>> without_await(">>> await mp.track('u', 'E')  # await it")
    ">>> mp.track('u', 'E')  # it"
    """
    if doc is None:
        return None
    return EXAMPLE.sub(lambda line: KEYWORD.sub("", line[0]), doc)


def _inherited(owner: type) -> dict[str, FunctionType]:
    found: dict[str, Any] = {}
    for base in reversed(owner.__mro__):
        found |= vars(base)
    return {
        name: value
        for name, value in found.items()
        if isinstance(value, FunctionType) and not name.startswith("_") and name not in vars(owner)
    }


def _copied(function: FunctionType, owner: type, outcome: Any) -> FunctionType:
    copy = FunctionType(
        function.__code__,
        function.__globals__,
        function.__name__,
        function.__defaults__,
        function.__closure__,
    )
    copy.__kwdefaults__ = function.__kwdefaults__
    copy.__annotations__ = {**function.__annotations__, "return": outcome}
    copy.__module__ = owner.__module__
    copy.__qualname__ = f"{owner.__qualname__}.{function.__name__}"
    copy.__doc__ = without_await(function.__doc__) if outcome is None else function.__doc__
    copy.__dict__.update(function.__dict__)
    if hasattr(copy, "__wrapped__"):  # whose own annotations would be shown
        signature = inspect.signature(function)
        copy.__signature__ = signature.replace(return_annotation=outcome)  # type: ignore[attr-defined]
    if get_origin(outcome) is Coroutine:
        _mark_as_coroutine_function(copy)
    return copy


def _mark_as_coroutine_function(function: Any) -> None:
    if sys.version_info >= (3, 12):
        inspect.markcoroutinefunction(function)
    else:
        import asyncio.coroutines

        function._is_coroutine = asyncio.coroutines._is_coroutine  # type: ignore[attr-defined]
