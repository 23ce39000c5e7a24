"""Lint flag definitions: rollouts that cannot be decided locally, and likely mistakes."""

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
"""Operators that mixpanel 5.x, and therefore the json-logic engine, does not have."""

JSON_LOGIC_ONLY: Final = frozenset({"count"})
"""Operators that only the json-logic engine has."""


def lint(payload: Any, *, rule_engine: RuleEngine = "default") -> list[Diagnostic]:
    """Return the errors and likely mistakes in the decoded response of the definitions endpoint.

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
            message = (
                f"{count} variants have the key {key!r} in different case: one hides the others"
            )
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
        message = f"{count} test user(s) get variant {key!r}, which does not exist"
        yield Diagnostic("test_user", flag.key, message)


def _rollout(flag: CompiledFlag, index: int, compiled: CompiledRollout) -> Iterator[Diagnostic]:
    rollout, variants = compiled.rollout, flag.definition.ruleset.variants
    key = flag.key
    percentage = rollout.rollout_percentage
    if not 0 <= percentage <= 1:
        message = f"rollout_percentage is {percentage:.6g}, which is not between 0 and 1"
        yield Diagnostic("rounding", key, message, index)
    elif not isclose(percentage * BUCKETS, compiled.threshold, abs_tol=1e-9):
        message = (
            f"rollout_percentage {percentage:.6g} includes {compiled.threshold} % of all users"
        )
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
        yield Diagnostic(
            "splits", key, f"variant_splits names {name!r}, which does not exist", index
        )
    total = sum(splits.get(variant.key, variant.split) for variant in variants)
    if not isclose(total, 1, abs_tol=1e-6):
        last = max(variant.key for variant in variants)
        message = f"splits sum to {total:.6g}: variant {last!r} gets the rest"
        yield Diagnostic("splits", key, message, index)


def _legacy(key: str, index: int, legacy: dict[str, Any]) -> Iterator[Diagnostic]:
    for name, expected in legacy.items():
        if name != name.casefold():
            message = f"runtime_evaluation_definition key {name!r} has capitals: it never matches"
            yield Diagnostic("legacy_key", key, message, index)
        if not isinstance(expected, str):
            message = (
                f"runtime_evaluation_definition value of {name!r} is not text: it never matches"
            )
            yield Diagnostic("legacy_key", key, message, index)


def _operators(flag: CompiledFlag, index: int, compiled: CompiledRollout) -> Iterator[Diagnostic]:
    used = set(operators_used(compiled.rollout.runtime_evaluation_rule))
    json_logic = flag.engine.name == "json-logic"
    for name in sorted(used & DEFAULT_ONLY):
        effect = ": this rule never matches" if json_logic else ", not the json-logic engine"
        message = f"only the default engine has the operator {name!r}{effect}"
        yield Diagnostic("default_only", flag.key, message, index)
    if json_logic:
        for name in sorted(used - KNOWN_OPERATORS - JSON_LOGIC_ONLY):
            yield Diagnostic("rule", flag.key, f"unknown operator {name!r}", index)
    for name in sorted(used & JSON_LOGIC_ONLY):
        message = f"only the json-logic engine has the operator {name!r}"
        yield Diagnostic("json_logic_only", flag.key, message, index)


def _unreachable(flag: CompiledFlag) -> Iterator[Diagnostic]:
    """Find rollouts whose users all get their variant from an earlier, unconditional one.

    Without a hash_salt a user has the same bucket in every rollout of a flag: an earlier rollout of
    30 % includes everyone whom a later one of 20 % includes.
    """
    shared = flag.definition.hash_salt is None
    included = 0
    for index, compiled in enumerate(flag.rollouts):
        if compiled.threshold == 0:
            message = "it includes 0 % of all users"
            yield Diagnostic("unreachable", flag.key, message, index)
        elif included >= (compiled.threshold if shared else BUCKETS):
            message = "an earlier rollout without conditions serves all of its users"
            yield Diagnostic("unreachable", flag.key, message, index)
        if compiled.test is None and compiled.reason is None:
            included = max(included, compiled.threshold)
