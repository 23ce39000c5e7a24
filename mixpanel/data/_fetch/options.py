"""The keyword arguments of fetches, typed once for all methods that share them.

Methods such as `fetch_events(name, **options: Unpack[FetchEventsOptions])` pass their options to a
function that validates them, such as `EventQuery.create`. Type checkers and editors read the
TypedDict. `help()` and `inspect.signature` would show `**options`, so `with_options` gives the
method the parameters of that function, with their defaults.
"""

from __future__ import annotations

import functools
import inspect
from typing import TYPE_CHECKING, Any, Required, TypedDict, TypeVar, cast

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from mixpanel.data._fetch.plan import Day

__all__ = [
    "FetchEventsOptions",
    "FetchProfilesOptions",
    "StreamEventsOptions",
    "StreamProfilesOptions",
    "SyncEventsOptions",
    "SyncProfilesOptions",
    "with_options",
]

Method = TypeVar("Method", bound="Callable[..., Any]")


class _EventFilters(TypedDict, total=False):
    events: Sequence[str] | str | None
    where: str | None
    chunk_days: int | None


class StreamEventsOptions(_EventFilters, total=False):
    """Which events to stream."""

    from_date: Required[Day]
    to_date: Required[Day]
    limit: int | None


class FetchEventsOptions(StreamEventsOptions, total=False):
    """Which events to fetch into a table, and how."""

    append: bool
    replace: bool
    mixed: bool
    max_workers: int | None
    project_timezone: str | None
    partial: bool
    max_requests: int | None


class SyncEventsOptions(_EventFilters, total=False):
    """Which events to bring a table up to date with."""

    lookback_days: int
    from_date: Day | None
    to_date: Day | None
    max_workers: int | None
    project_timezone: str | None
    partial: bool
    max_requests: int | None


class StreamProfilesOptions(TypedDict, total=False):
    """Which profiles to stream."""

    where: str | None
    cohort_id: int | None
    output_properties: Sequence[str] | str | None
    distinct_id: str | None
    distinct_ids: Sequence[str] | None
    group_id: str | None
    behaviors: Sequence[Mapping[str, Any]] | str | None
    as_of_timestamp: int | None
    include_all_users: bool


class FetchProfilesOptions(StreamProfilesOptions, total=False):
    """Which profiles to fetch into a table, and how."""

    append: bool
    replace: bool
    mixed: bool
    max_workers: int | None
    history: bool


class SyncProfilesOptions(TypedDict, total=False):
    """Which profiles to bring a table up to date with."""

    lookback_days: int
    where: str | None
    cohort_id: int | None
    output_properties: Sequence[str] | str | None
    group_id: str | None
    max_workers: int | None
    history: bool


def with_options(options: type[Any], validate: Callable[..., object]) -> Callable[[Method], Method]:
    """Return a decorator for methods that take `**options: Unpack[...]`.

    The method shows the parameters of `validate` that are keys of `options`, and a call with other
    arguments raises a TypeError that names the method, not `validate`.
    """
    known = inspect.signature(validate).parameters
    # In the order in which `validate` declares them, so that help reads the same everywhere.
    expanded = [known[name] for name in known if name in options.__annotations__]

    def decorate(method: Method) -> Method:
        own = inspect.signature(method)
        named = [p for p in own.parameters.values() if p.kind is not p.VAR_KEYWORD]
        before = [p for p in named if p.kind is not p.KEYWORD_ONLY]
        after = [p for p in named if p.kind is p.KEYWORD_ONLY]
        signature = own.replace(parameters=[*before, *expanded, *after])

        def check(args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            try:
                signature.bind(*args, **kwargs)
            except TypeError as error:
                raise TypeError(f"{method.__name__}(): {error}") from None

        @functools.wraps(method)
        async def awaited(*args: Any, **kwargs: Any) -> Any:
            check(args, kwargs)
            return await method(*args, **kwargs)

        @functools.wraps(method)
        def iterated(*args: Any, **kwargs: Any) -> Any:  # an async generator function
            check(args, kwargs)
            return method(*args, **kwargs)

        call: Any = awaited if inspect.iscoroutinefunction(method) else iterated
        call.__signature__ = signature
        return cast("Method", call)

    return decorate
