"""Override flags in the current task or thread; public as `mixpanel.testing.override_flags`."""

from __future__ import annotations

from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Final

from mixpanel._records.context import temporarily_set
from mixpanel.flags.types import SelectedVariant, VariantSource

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

__all__ = ["current", "override_flags"]

_overrides: ContextVar[Mapping[str, SelectedVariant] | None] = ContextVar(
    "mixpanel_flag_overrides", default=None
)
current: Final[Callable[[], Mapping[str, SelectedVariant] | None]] = _overrides.get
ever_used: bool = False
"""True if a flag was ever overridden in this process; until then checks skip the look-up."""
before_override: Final[list[Callable[[], None]]] = []
"""Functions that are called before a flag is overridden."""


@contextmanager
def override_flags(values: Mapping[str, Any] | None = None, **more: Any) -> Iterator[None]:
    """Override the values of flags inside the block; an inner block takes precedence.

        with override_flags({"new-checkout": True}):
            assert mp.local_flags.is_enabled("new-checkout", {"distinct_id": "u-17"})

    A value may be a `SelectedVariant`. Overrides apply in this task or thread and in the tasks and
    worker threads that it starts inside the block, in no others. An overridden flag reports no
    exposures.
    """
    global ever_used
    ever_used = True
    for callback in before_override:
        callback()
    chosen = {**(values or {}), **more}
    variants = {key: as_variant(value) for key, value in chosen.items()}
    with temporarily_set(_overrides, {**(_overrides.get() or {}), **variants}):
        yield


def as_variant(value: Any) -> SelectedVariant:
    """Return a value as a locally selected variant."""
    if isinstance(value, SelectedVariant):
        return value
    return SelectedVariant(value, str(value), variant_source=VariantSource.LOCAL)
