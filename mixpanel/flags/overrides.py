"""Serve other values for a while, in this task or thread only; `mixpanel.testing` offers it."""

from __future__ import annotations

from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Final

from mixpanel._records.context import during
from mixpanel.flags.types import SelectedVariant, VariantSource

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

__all__ = ["current", "override_flags"]

_overrides: ContextVar[Mapping[str, SelectedVariant] | None] = ContextVar(
    "mixpanel_flag_overrides", default=None
)
current: Final[Callable[[], Mapping[str, SelectedVariant] | None]] = _overrides.get
used: bool = False
"""Whether anything was ever overridden in this process: if not, a check need not look."""
when_overriding: Final[list[Callable[[], None]]] = []
"""Called before something is overridden."""


@contextmanager
def override_flags(values: Mapping[str, Any] | None = None, **more: Any) -> Iterator[None]:
    """Let these flags have these values inside the block; blocks nest, the inner one wins.

    A value may be a `SelectedVariant`. It follows the tasks and worker threads started inside, and
    no others. No exposure is reported for an overridden flag.
    """
    global used
    used = True
    for tell in when_overriding:
        tell()
    chosen = {**(values or {}), **more}
    variants = {key: as_variant(value) for key, value in chosen.items()}
    with during(_overrides, {**(_overrides.get() or {}), **variants}):
        yield


def as_variant(value: Any) -> SelectedVariant:
    """Return the value as a variant that was selected locally."""
    if isinstance(value, SelectedVariant):
        return value
    return SelectedVariant(value, str(value), variant_source=VariantSource.LOCAL)
