"""Lint flag definitions: what cannot be decided locally, and what can hardly be meant."""

from collections import Counter
from collections.abc import Iterator
from math import isclose
from typing import Any, Final

from mixpanel.flags._evaluation.compiled_flag import CompiledFlag, CompiledRollout
from mixpanel.flags._evaluation.definitions import parse_definitions
from mixpanel.flags._evaluation.hashing import BUCKETS
from mixpanel.flags._rules.compiler import KNOWN_OPERATORS
from mixpanel.flags._rules.syntax import operators_used
from mixpanel.flags.diagnostics import Diagnostic
from mixpanel.flags.types import Rollout, RuleEngine, Variant

__all__ = ["lint"]

DEFAULT_ONLY: Final = frozenset({"some", "all", "none", "filter", "map", "reduce", "substr"})
"""Operators that mixpanel 5.x, hence the json-logic engine, does not know."""

JSON_LOGIC_ONLY: Final = frozenset({"count"})
"""Operators that only the json-logic engine knows."""


def lint(payload: Any, *, rule_engine: RuleEngine = "default") -> list[Diagnostic]:
    """Return what is wrong or doubtful in the decoded answer of the definitions endpoint.

    :raises RuleEngineError: the rule engine cannot be used.
    """
    definitions = parse_definitions(payload, rule_engine=rule_engine)
    found = list(definitions.diagnostics)
    for flag in definitions.flags.values():
        found += _variants(flag)
        found += _test_users(flag)
        for index, rollout in enumerate(flag.rollouts):
            found += _rollout(flag, index, rollout)
            found += _operators(flag, index, rollout)
        found += _unreachable(flag)
    return found


def _variants(flag: CompiledFlag) -> Iterator[Diagnostic]:
    keys = Counter(variant.key.casefold() for variant in flag.definition.ruleset.variants)
    for key, count in keys.items():
        if count > 1:
            message = f"{count} variants are called {key!r} but for capitals: one hides the others"
            yield Diagnostic("override", flag.key, message)


def _test_users(flag: CompiledFlag) -> Iterator[Diagnostic]:
    test = flag.definition.ruleset.test
    known = {variant.key.casefold() for variant in flag.definition.ruleset.variants}
    wrong = Counter(
        key
        for key in (test.users.values() if test is not None else ())
        if key.casefold() not in known
    )
    for key, count in wrong.items():
        message = f"{count} test user(s) should get variant {key!r}, which does not exist"
        yield Diagnostic("test_user", flag.key, message)


def _rollout(flag: CompiledFlag, index: int, compiled: CompiledRollout) -> Iterator[Diagnostic]:
    rollout, variants = compiled.rollout, flag.definition.ruleset.variants
    key = flag.key
    percentage = rollout.rollout_percentage
    if not 0 <= percentage <= 1:
        message = f"rollout_percentage is {percentage:.6g}, which is not within 0 and 1"
        yield Diagnostic("rounding", key, message, index)
    elif not isclose(percentage * BUCKETS, compiled.threshold, abs_tol=1e-9):
        message = f"rollout_percentage {percentage:.6g} takes {compiled.threshold} % of all users"
        yield Diagnostic("rounding", key, message, index)
    if rollout.variant_override is not None and compiled.override is None:
        message = f"variant_override names {rollout.variant_override.key!r}, which does not exist"
        yield Diagnostic("override", key, message, index)
    if compiled.override is None:
        yield from _splits(key, index, rollout, variants)
    legacy = rollout.runtime_evaluation_definition
    if isinstance(legacy, dict) and not rollout.runtime_evaluation_rule:
        yield from _legacy(key, index, legacy)


def _splits(
    key: str, index: int, rollout: Rollout, variants: list[Variant]
) -> Iterator[Diagnostic]:
    splits = rollout.variant_splits or {}
    for name in sorted(set(splits) - {variant.key for variant in variants}):
        yield Diagnostic("splits", key, f"variant_splits names {name!r}: no such variant", index)
    total = sum(splits.get(variant.key, variant.split) for variant in variants)
    if not isclose(total, 1, abs_tol=1e-6):
        last = max(variant.key for variant in variants)
        message = f"splits sum to {total:.6g}: variant {last!r} takes what they leave over"
        yield Diagnostic("splits", key, message, index)


def _legacy(key: str, index: int, legacy: dict[str, Any]) -> Iterator[Diagnostic]:
    for name, expected in legacy.items():
        if name != name.casefold():
            message = f"runtime_evaluation_definition key {name!r} has capitals: it never matches"
            yield Diagnostic("legacy_key", key, message, index)
        if not isinstance(expected, str):
            message = f"runtime_evaluation_definition {name!r} expects no text: it never matches"
            yield Diagnostic("legacy_key", key, message, index)


def _operators(flag: CompiledFlag, index: int, compiled: CompiledRollout) -> Iterator[Diagnostic]:
    used = set(operators_used(compiled.rollout.runtime_evaluation_rule))
    json_logic = flag.engine.name == "json-logic"
    for name in sorted(used & DEFAULT_ONLY):
        known = "this rule never matches" if json_logic else "the json-logic engine does not"
        message = f"only the default engine knows the operator {name!r}: {known}"
        yield Diagnostic("default_only", flag.key, message, index)
    if json_logic:
        for name in sorted(used - KNOWN_OPERATORS - JSON_LOGIC_ONLY):
            yield Diagnostic("rule", flag.key, f"unknown operator {name!r}", index)
    for name in sorted(used & JSON_LOGIC_ONLY):
        message = f"only the json-logic engine knows the operator {name!r}"
        yield Diagnostic("json_logic_only", flag.key, message, index)


def _unreachable(flag: CompiledFlag) -> Iterator[Diagnostic]:
    """Find rollouts whose whole share an earlier one has taken without a condition.

    Without a hash_salt a user has the same bucket in every rollout of a flag, so there an earlier
    share of 30 % takes everyone whom a later one of 20 % could take.
    """
    shared = flag.definition.hash_salt is None
    assigned = 0
    for index, compiled in enumerate(flag.rollouts):
        if compiled.threshold == 0:
            message = "its share is 0 %: nobody reaches it"
            yield Diagnostic("unreachable", flag.key, message, index)
        elif assigned >= (compiled.threshold if shared else BUCKETS):
            message = "an earlier rollout without a condition takes all of its users"
            yield Diagnostic("unreachable", flag.key, message, index)
        if compiled.test is None and compiled.reason is None:
            assigned = max(assigned, compiled.threshold)
