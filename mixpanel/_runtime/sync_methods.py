"""Make the sync twins of async methods."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any, Concatenate, TypeVar, cast

from mixpanel._runtime.background_loop import (
    P,
    R,
    refuse_in_async,
    run,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable


__all__ = ["synced"]

Core = TypeVar("Core")


def synced(
    method: Callable[Concatenate[Core, P], Awaitable[R]],
) -> Callable[Concatenate[Any, P], R]:
    """Make the sync twin of an async method, with its signature and documentation.

    The face holds the core as `_core`; the twin runs the core's method on the home loop.
    """

    @functools.wraps(method)
    def twin(self: Any, *args: P.args, **kwargs: P.kwargs) -> R:
        same = self._core is self
        instead = f"await {method.__name__}() instead" if same else ""
        refuse_in_async(type(self).__name__, instead)
        bound: Any = getattr(self._core, method.__name__)
        return run(bound, *args, **kwargs)  # type: ignore[no-any-return]

    return cast("Callable[Concatenate[Any, P], R]", twin)
