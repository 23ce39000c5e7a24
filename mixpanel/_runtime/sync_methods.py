"""Make the blocking twins of async methods."""

from __future__ import annotations

import functools
import inspect
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeVar, cast

from mixpanel._runtime.background_loop import refuse_in_async, run
from mixpanel._runtime.signatures import named_like, without_await

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

__all__ = ["sync_twin"]

P = ParamSpec("P")
R = TypeVar("R")


def sync_twin(
    method: Callable[Concatenate[Any, P], Awaitable[R]],
) -> Callable[[Callable[..., Any]], Callable[Concatenate[Any, P], R]]:
    """Return a decorator that makes a method the blocking twin of an async one.

    >>> class Mixpanel:  # doctest: +SKIP
    ...     @sync_twin(AsyncMixpanel.lookup_tables)
    ...     def lookup_tables(self) -> Any: ...

    The declaration gives the name; parameters, return type and documentation are those of `method`.
    An assignment (`lookup_tables = ...`) would be shorter, but type checkers disagree about the
    type of one that is not `Final`, and do not let a subclass override one that is.

    The twin runs the async method on the background loop: that of the object's `_async`, where it
    has one; else its own, if its class has one by that name (so that a subclass may override it);
    else the given one, with the object as `self`.
    """
    name = method.__name__

    def decorate(declared: Callable[..., Any]) -> Callable[Concatenate[Any, P], R]:
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
        return cast("Callable[Concatenate[Any, P], R]", named_like(declared, twin))

    return decorate
