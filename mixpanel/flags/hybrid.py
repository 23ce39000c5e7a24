"""Evaluate flags locally where possible, and on Mixpanel's servers otherwise."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Final

from mixpanel._runtime.sync_methods import sync_twin
from mixpanel.flags import overrides
from mixpanel.flags._results import fallback
from mixpanel.flags.types import SelectedVariant

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mixpanel.flags.local_feature_flags import LocalFeatureFlagsProvider
    from mixpanel.flags.remote_feature_flags import RemoteFeatureFlagsProvider
    from mixpanel.flags.types import FallbackReason

__all__ = ["HybridFeatureFlagsProvider"]

UNDECIDED: Final = frozenset(
    {"COHORT_ROLLOUT", "RUNTIME_EVENT_ROLLOUT", "RULE_ERROR", "PARSE_ERROR"}
)


def undecided(
    local: LocalFeatureFlagsProvider,
    flag_key: str,
    context: Mapping[str, Any],
    selected: SelectedVariant,
) -> FallbackReason | None:
    """Return why Mixpanel may select another variant than was selected locally; None if not.

    Rollouts apply in their order, so one that was skipped counts although a later one was taken.
    """
    reason = selected.fallback_reason
    if reason is not None:
        return reason if reason.kind in UNDECIDED else None
    flag = local.definitions.flags.get(flag_key)
    if flag is None or not flag.is_partial or overridden(flag_key):
        return None
    return local.explain(flag_key, context).undecided


def overridden(flag_key: str) -> bool:
    """Return True if a test or a request overrides the flag."""
    return flag_key in (overrides.current() or ())


class HybridFeatureFlagsProvider:
    """Evaluate flags locally, and remotely only those that cannot be decided locally.

        flags = HybridFeatureFlagsProvider(mp.local_flags, mp.remote_flags)
        if flags.is_enabled("new-checkout", {"distinct_id": "u-17"}): ...
        if await flags.ais_enabled("new-checkout", {"distinct_id": "u-17"}): ...  # in async code

    A user whom a rollout for a cohort or past events, or with an invalid rule, may include takes a
    request (see `RemoteFlagsConfig.cache_time_to_live`), unless an earlier rollout decides; others
    take none. If the request fails, the fallback has the reason why the flag could not be decided
    locally.
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
        start = time.perf_counter()
        selected = self._local.get_variant(flag_key, fallback_value, context, False)  # noqa: FBT003
        reason = undecided(self._local, flag_key, context, selected)
        if reason is None:
            if reportExposure and selected.fallback_reason is None and not overridden(flag_key):
                latency = time.perf_counter() - start
                flag = self._local.definitions.flags.get(flag_key)
                assignment = None if flag is None else context.get(flag.context_key)
                self._local._reporter.report_evaluation(
                    flag_key, selected, context, assignment, latency
                )
            return selected
        remote = await self._remote.aget_variant(flag_key, fallback_value, context, reportExposure)
        if remote.fallback_reason is not None and remote.fallback_reason.kind == "BACKEND_ERROR":
            return fallback(reason).with_fallback(fallback_value)
        return remote

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
