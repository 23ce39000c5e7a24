"""Flags with fixed values, for tests; public as `mixpanel.testing.FixedFlags`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mixpanel.flags._results import fallback
from mixpanel.flags.overrides import as_variant
from mixpanel.flags.types import FallbackReason, SelectedVariant

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["FixedFlags"]


class FixedFlags:
    """Serve fixed values where code expects a flags provider, local or remote, sync or async.

    >>> flags = FixedFlags({"new-checkout": True, "button": "blue"})
    >>> flags.is_enabled("new-checkout", {"distinct_id": "u-17"})
    True

    A value may be a `SelectedVariant`. All users get the same, whatever the context. `exposures`
    lists the evaluated and the reported ones as `(flag_key, variant_key, distinct_id)`. A flag that
    is not listed gets the fallback, or with `strict=True` fails the test.
    """

    def __init__(self, values: Mapping[str, Any] | None = None, *, strict: bool = False) -> None:
        self._variants = {key: as_variant(value) for key, value in (values or {}).items()}
        self._strict = strict
        self.exposures: list[tuple[str, str | None, Any]] = []

    def get_variant(
        self,
        flag_key: str,
        fallback_value: SelectedVariant,
        context: Mapping[str, Any],
        report_exposure: bool = True,  # noqa: FBT001, FBT002 - the official position
    ) -> SelectedVariant:
        """Return the fixed variant, or the fallback.

        :raises AssertionError: for a flag that is not listed, with `strict=True`.
        """
        selected = self._variants.get(flag_key)
        if selected is None:
            if self._strict:
                raise AssertionError(f"flag {flag_key!r} has no fixed value: add it to FixedFlags")
            return fallback(FallbackReason.flag_not_found()).with_fallback(fallback_value)
        if report_exposure:
            self.track_exposure_event(flag_key, selected, context)
        return selected

    def get_variant_value(
        self, flag_key: str, fallback_value: Any, context: Mapping[str, Any]
    ) -> Any:
        """Return the fixed value, or the fallback."""
        return self.get_variant(flag_key, SelectedVariant(fallback_value), context).variant_value

    def is_enabled(self, flag_key: str, context: Mapping[str, Any]) -> bool:
        """Return True if the fixed value is exactly true."""
        return self.get_variant_value(flag_key, None, context) is True

    def get_all_variants(self, context: Mapping[str, Any]) -> dict[str, SelectedVariant]:  # noqa: ARG002
        """Return all fixed variants."""
        return dict(self._variants)

    def track_exposure_event(
        self, flag_key: str, variant: SelectedVariant, context: Mapping[str, Any]
    ) -> None:
        """Record an exposure."""
        self.exposures.append((flag_key, variant.variant_key, context.get("distinct_id")))

    def are_flags_ready(self) -> bool:
        """Return True."""
        return True

    async def aget_variant(
        self,
        flag_key: str,
        fallback_value: SelectedVariant,
        context: Mapping[str, Any],
        reportExposure: bool = True,  # noqa: FBT001, FBT002, N803 - the official name
    ) -> SelectedVariant:
        """Return the fixed variant, or the fallback."""
        return self.get_variant(flag_key, fallback_value, context, reportExposure)

    async def aget_variant_value(
        self, flag_key: str, fallback_value: Any, context: Mapping[str, Any]
    ) -> Any:
        """Return the fixed value, or the fallback."""
        return self.get_variant_value(flag_key, fallback_value, context)

    async def ais_enabled(self, flag_key: str, context: Mapping[str, Any]) -> bool:
        """Return True if the fixed value is exactly true."""
        return self.is_enabled(flag_key, context)

    async def aget_all_variants(self, context: Mapping[str, Any]) -> dict[str, SelectedVariant]:
        """Return all fixed variants."""
        return self.get_all_variants(context)

    async def atrack_exposure_event(
        self, flag_key: str, variant: SelectedVariant, context: Mapping[str, Any]
    ) -> None:
        """Record an exposure."""
        self.track_exposure_event(flag_key, variant, context)
