"""Evaluate flags locally where possible, and on Mixpanel's servers otherwise."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from mixpanel._runtime.sync_methods import sync_twin
from mixpanel.flags.types import SelectedVariant

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mixpanel.flags.local_feature_flags import LocalFeatureFlagsProvider
    from mixpanel.flags.remote_feature_flags import RemoteFeatureFlagsProvider

__all__ = ["HybridFeatureFlagsProvider"]

UNDECIDED: Final = frozenset(
    {"COHORT_ROLLOUT", "RUNTIME_EVENT_ROLLOUT", "RULE_ERROR", "PARSE_ERROR"}
)


class HybridFeatureFlagsProvider:
    """Evaluate flags locally, and remotely only those that cannot be decided locally.

        flags = HybridFeatureFlagsProvider(mp.local_flags, mp.remote_flags)
        if flags.is_enabled("new-checkout", {"distinct_id": "u-17"}): ...
        if await flags.ais_enabled("new-checkout", {"distinct_id": "u-17"}): ...  # in async code

    A flag with a rollout for a cohort or past events, or with an invalid rule, takes a request (see
    `RemoteFlagsConfig.cache_time_to_live`); other flags take none. If the request fails, the
    fallback has the reason why the flag could not be decided locally.
    """

    def __init__(
        self, local: LocalFeatureFlagsProvider, remote: RemoteFeatureFlagsProvider
    ) -> None:
        self._local = local
        self._remote = remote

    async def aget_variant(
        self,
        flag_key: str,
        fallback_value: SelectedVariant,
        context: Mapping[str, Any],
        reportExposure: bool = True,  # noqa: FBT001, FBT002, N803 - the official name
    ) -> SelectedVariant:
        """Return the variant that the context's user gets, or the fallback with its reason."""
        selected = self._local.get_variant(flag_key, fallback_value, context, reportExposure)
        reason = selected.fallback_reason
        if reason is None or reason.kind not in UNDECIDED:
            return selected
        remote = await self._remote.aget_variant(flag_key, fallback_value, context, reportExposure)
        failed = remote.fallback_reason
        return selected if failed is not None and failed.kind == "BACKEND_ERROR" else remote

    async def aget_variant_value(
        self, flag_key: str, fallback_value: Any, context: Mapping[str, Any]
    ) -> Any:
        """Return the value of the variant that the context's user gets, or the fallback."""
        variant = await self.aget_variant(flag_key, SelectedVariant(fallback_value), context)
        return variant.variant_value

    async def ais_enabled(self, flag_key: str, context: Mapping[str, Any]) -> bool:
        """Return True if the flag's value is exactly true for the context's user."""
        return await self.aget_variant_value(flag_key, None, context) is True

    @sync_twin(aget_variant)
    def get_variant(self) -> Any: ...
    @sync_twin(aget_variant_value)
    def get_variant_value(self) -> Any: ...
    @sync_twin(ais_enabled)
    def is_enabled(self) -> Any: ...
