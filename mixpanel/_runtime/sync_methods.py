"""Make the blocking twins of async methods."""

from __future__ import annotations

import functools
import inspect
from typing import TYPE_CHECKING, Any, Concatenate, TypeVar, cast

from mixpanel._runtime.background_loop import (
    P,
    R,
    refuse_in_async,
    run,
)
from mixpanel._runtime.signatures import without_await

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable


__all__ = ["synced"]

Core = TypeVar("Core")


def synced(
    method: Callable[Concatenate[Core, P], Awaitable[R]],
) -> Callable[Concatenate[Any, P], R]:
    """Return the blocking twin of an async method, with its signature and documentation.

    The twin runs the async method on the background loop: that of the object's `_async`, where it
    has one; else its own, if its class has one by that name (so that a subclass may override it);
    else the given one, with the object as `self`.
    """
    name = method.__name__

    @functools.wraps(method)
    def twin(self: Any, *args: P.args, **kwargs: P.kwargs) -> R:
        core = getattr(self, "_async", self)
        call: Any = getattr(core, name, None)
        instead = ""
        if core is self:
            if inspect.iscoroutinefunction(call):
                instead = f"await {name}() instead"
            else:
                call = functools.partial(method, self)
        refuse_in_async(type(self).__name__, instead)
        return run(call, *args, **kwargs)  # type: ignore[no-any-return]

    twin.__doc__ = without_await(method.__doc__)
    return cast("Callable[Concatenate[Any, P], R]", twin)
