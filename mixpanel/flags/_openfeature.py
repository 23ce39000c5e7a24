"""Resolve one flag for OpenFeature: its value, if it has the requested type, and the reason."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import suppress
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Final, TypeAlias, TypeVar

from openfeature.exception import ErrorCode
from openfeature.flag_evaluation import FlagResolutionDetails, FlagType, Reason

from mixpanel.exceptions import SyncInAsyncError
from mixpanel.flags import overrides
from mixpanel.flags._evaluation.hashing import BUCKETS
from mixpanel.flags._results import fallback
from mixpanel.flags._rules.budget import Budget
from mixpanel.flags.hybrid import HybridFeatureFlagsProvider, undecided
from mixpanel.flags.local_feature_flags import LocalFeatureFlagsProvider
from mixpanel.flags.remote_feature_flags import RemoteFeatureFlagsProvider
from mixpanel.flags.types import (
    NO_FALLBACK,
    FallbackKind,
    FallbackReason,
    SelectedVariant,
    VariantSource,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from openfeature.evaluation_context import EvaluationContext
    from openfeature.flag_evaluation import FlagMetadata

    from mixpanel.flags._evaluation.compiled_flag import CompiledFlag, CompiledRollout
    from mixpanel.flags._rules.engines import Predicate

__all__ = ["Flags", "Resolver", "as_context"]

Flags: TypeAlias = (
    LocalFeatureFlagsProvider | RemoteFeatureFlagsProvider | HybridFeatureFlagsProvider
)
Context: TypeAlias = Mapping[str, Any]
Value = TypeVar("Value")

NEEDS_AWAIT: Final = (
    "the flag needs a request, and an event loop is running in this thread: await the _async method"
)
ERROR_CODES: Final[Mapping[FallbackKind, ErrorCode]] = {
    "FLAG_NOT_FOUND": ErrorCode.FLAG_NOT_FOUND,
    "MISSING_CONTEXT_KEY": ErrorCode.TARGETING_KEY_MISSING,
    "BACKEND_ERROR": ErrorCode.GENERAL,
    "COHORT_ROLLOUT": ErrorCode.GENERAL,
    "RUNTIME_EVENT_ROLLOUT": ErrorCode.GENERAL,
    "RULE_ERROR": ErrorCode.PARSE_ERROR,
    "PARSE_ERROR": ErrorCode.PARSE_ERROR,
    "INVALID_CONTEXT": ErrorCode.INVALID_CONTEXT,
}
TYPES: Final[Mapping[FlagType, type | tuple[type, ...]]] = {
    FlagType.BOOLEAN: bool,
    FlagType.STRING: str,
    FlagType.INTEGER: int,
    FlagType.FLOAT: float,
    FlagType.OBJECT: (dict, list),
}


class Resolver:
    """Resolve flags from any of Mixpanel's providers.

    `is_stale` returns True if the local definitions are outdated. Exposures are reported here,
    after the type was checked: a user does not see a value of the wrong type.
    """

    def __init__(self, flags: Flags, is_stale: Callable[[], bool]) -> None:
        self._flags = flags
        self._is_stale = is_stale
        self.local: LocalFeatureFlagsProvider | None = None
        self.remote: RemoteFeatureFlagsProvider | None = None
        if isinstance(flags, HybridFeatureFlagsProvider):
            self.local, self.remote = flags._local, flags._remote
        elif isinstance(flags, LocalFeatureFlagsProvider):
            self.local = flags
        else:
            self.remote = flags
        self._reasons: dict[str, tuple[CompiledFlag, tuple[Reason, ...]]] = {}

    def resolve(
        self, kind: FlagType, flag_key: str, default: Value, given: EvaluationContext | None
    ) -> FlagResolutionDetails[Value]:
        """Resolve a flag; waits only if it needs a request."""
        started, context = time.perf_counter(), as_context(given)
        selected = self._resolve_locally(flag_key, context)
        if selected is None:
            try:
                selected = self._flags.get_variant(flag_key, NO_FALLBACK, context, False)  # noqa: FBT003
            except SyncInAsyncError:
                selected = fallback(FallbackReason.backend_error(NEEDS_AWAIT))
        return self._details(kind, flag_key, default, context, selected, started)

    async def aresolve(
        self, kind: FlagType, flag_key: str, default: Value, given: EvaluationContext | None
    ) -> FlagResolutionDetails[Value]:
        """Resolve a flag; suspends only if it needs a request."""
        started, context = time.perf_counter(), as_context(given)
        selected = self._resolve_locally(flag_key, context)
        if selected is None:
            assert not isinstance(self._flags, LocalFeatureFlagsProvider)
            selected = await self._flags.aget_variant(flag_key, NO_FALLBACK, context, False)  # noqa: FBT003
        return self._details(kind, flag_key, default, context, selected, started)

    def _resolve_locally(self, flag_key: str, context: Context) -> SelectedVariant | None:
        """Return the local result, or None if the flag needs a request."""
        overridden = _overridden(flag_key)
        if overridden is not None:
            return overridden
        if self.local is None:
            has_user = bool(context.get("distinct_id"))
            return None if has_user else fallback(FallbackReason.missing_context_key("distinct_id"))
        selected = self.local.get_variant(flag_key, NO_FALLBACK, context, report_exposure=False)
        if self.remote is not None and undecided(self.local, flag_key, context, selected):
            return None
        return selected

    # ---- details ----------------------------------------------------------------------------

    def _details(
        self,
        kind: FlagType,
        flag_key: str,
        default: Value,
        context: Context,
        selected: SelectedVariant,
        started: float,
    ) -> FlagResolutionDetails[Value]:
        latency, metadata = time.perf_counter() - started, self._metadata(selected)
        if selected.fallback_reason is not None:
            code, message = self._error(flag_key, selected.fallback_reason)
            reason = Reason.DEFAULT if code is None else Reason.ERROR
            return FlagResolutionDetails(default, code, message, reason, flag_metadata=metadata)
        value = _typed(kind, selected.variant_value)
        if value is None:
            message = f"flag {flag_key} is a {type(selected.variant_value).__name__}, not {kind}"
            code = ErrorCode.TYPE_MISMATCH
            return FlagResolutionDetails(
                default, code, message, Reason.ERROR, flag_metadata=metadata
            )
        reason = self._reason(flag_key, context, selected)
        self._report(flag_key, context, selected, latency)
        return FlagResolutionDetails(
            value, reason=reason, variant=selected.variant_key, flag_metadata=metadata
        )

    def _error(self, flag_key: str, reason: FallbackReason) -> tuple[ErrorCode | None, str | None]:
        message = reason.message or reason.kind
        if reason.kind == "NO_ROLLOUT_MATCH":
            return None, None
        if reason.kind == "FLAG_NOT_FOUND":
            if self.local is not None and not self.local.are_flags_ready():
                return ErrorCode.PROVIDER_NOT_READY, "there are no flag definitions yet"
            message = "not found" + ("" if self.local else ", or it does not include the user")
        elif reason.kind == "MISSING_CONTEXT_KEY":
            required = "a targeting key" if message == "distinct_id" else f"the attribute {message}"
            message = f"requires {required} in the context"
        return ERROR_CODES[reason.kind], f"flag {flag_key} {message}"

    def _reason(self, flag_key: str, context: Context, selected: SelectedVariant) -> Reason:
        if _overridden(flag_key) is not None:
            return Reason.STATIC
        if self.local is None or selected.variant_source == VariantSource.REMOTE:
            return Reason.TARGETING_MATCH
        if self._is_stale():
            return Reason.STALE
        flag = self.local.definitions.flags.get(flag_key)
        if flag is None:
            return Reason.UNKNOWN
        known = self._reasons.get(flag_key)
        if known is None or known[0] is not flag:
            known = self._reasons[flag_key] = flag, reasons_of(flag)
        return Budget().run(reason_for, flag, known[1], context, selected)

    def _metadata(self, selected: SelectedVariant) -> FlagMetadata:
        reason = selected.fallback_reason
        is_remote = self.local is None or selected.variant_source == VariantSource.REMOTE
        metadata: dict[str, bool | float | str | None] = {
            "variant_source": selected.variant_source,
            "fallback_reason": None if reason is None else reason.kind,
            "experiment_id": selected.experiment_id,
            "is_experiment_active": selected.is_experiment_active,
            "is_qa_tester": selected.is_qa_tester,
            "staleness": None if is_remote or self.local is None else self.local.staleness,
        }
        return {name: value for name, value in metadata.items() if value is not None}

    def _report(
        self, flag_key: str, context: Context, selected: SelectedVariant, latency: float
    ) -> None:
        if _overridden(flag_key) is not None:
            return
        if self.remote is not None and selected.variant_source == VariantSource.REMOTE:
            distinct_id = context.get("distinct_id")
            completed = datetime.now()  # noqa: DTZ005 - naive, as the official SDK reports it
            started = completed - timedelta(seconds=latency)
            report = self.remote._reporter.report_evaluation
            report(flag_key, selected, context, distinct_id, latency, started, completed)
        elif self.local is not None:
            flag = self.local.definitions.flags.get(flag_key)
            assignment = context.get("distinct_id" if flag is None else flag.context_key)
            self.local._reporter.report_evaluation(flag_key, selected, context, assignment, latency)


# ---- reasons ------------------------------------------------------------------------------------


def reasons_of(flag: CompiledFlag) -> tuple[Reason, ...]:
    """Return, for each rollout, the reason for the users that get a variant from it.

    With a rule it is TARGETING_MATCH. Without one it is SPLIT if it depends on the user's bucket,
    DEFAULT if rules or test users come before it, and STATIC if all users get the same variant.
    """
    split, targeted = False, bool(flag.test_users)
    reasons = []
    for rollout in flag.rollouts:
        if rollout.test is not None or rollout.reason is not None:
            targeted = targeted or rollout.threshold > 0
            reasons.append(Reason.TARGETING_MATCH)
            continue
        split = split or (rollout.threshold > 0 and not _is_for_everyone(rollout))
        reasons.append(Reason.SPLIT if split else Reason.DEFAULT if targeted else Reason.STATIC)
    return tuple(reasons)


def reason_for(
    flag: CompiledFlag,
    reasons: tuple[Reason, ...],
    context: Context,
    selected: SelectedVariant,
) -> Reason:
    """Return why the user got this variant; UNKNOWN if the flag has changed since."""
    if selected.is_qa_tester:
        return Reason.TARGETING_MATCH
    assignment = str(context.get(flag.context_key))
    for index, chosen in zip(flag.reachable, flag.assignments[assignment], strict=True):
        rollout = flag.rollouts[index]
        if chosen is None or rollout.reason is not None:
            continue
        # Rollouts may serve the same variant for different reasons, so rules are evaluated again.
        if chosen.variant_key == selected.variant_key and (
            rollout.test is None or _is_met(rollout.test, flag, context)
        ):
            return reasons[index]
    return Reason.UNKNOWN


def _is_for_everyone(rollout: CompiledRollout) -> bool:
    return rollout.threshold >= BUCKETS and rollout.has_one_variant


def _is_met(test: Predicate, flag: CompiledFlag, context: Context) -> bool:
    properties = context.get("custom_properties")
    try:
        return bool(properties) and bool(test(flag.engine.prepare(properties or {})))
    except Exception:
        return False


# ---- context and value --------------------------------------------------------------------------


def as_context(given: EvaluationContext | None) -> dict[str, Any]:
    """Return an OpenFeature context as a context of Mixpanel's flags; values stay as they are.

    The attributes `distinct_id` and `custom_properties` may be passed in Mixpanel's own form.
    """
    attributes: dict[str, Any] = dict(given.attributes or {}) if given is not None else {}
    context: dict[str, Any] = {
        name: value for name, value in attributes.items() if isinstance(value, str | int | float)
    }
    nested = attributes.get("custom_properties")
    if isinstance(nested, Mapping):
        del attributes["custom_properties"]
        attributes.update(nested)
    context["custom_properties"] = attributes
    if given is not None and given.targeting_key:
        context["distinct_id"] = given.targeting_key
    return context


def _typed(kind: FlagType, value: Any) -> Any:
    """Return the value if it has this type, else None; an integer is accepted as a float."""
    if isinstance(value, bool) and kind is not FlagType.BOOLEAN:
        return None
    if isinstance(value, int) and kind is FlagType.FLOAT:
        with suppress(OverflowError):
            return float(value)
    return value if isinstance(value, TYPES[kind]) else None


def _overridden(flag_key: str) -> SelectedVariant | None:
    return (overrides.current() or {}).get(flag_key)
