"""Limit flag definitions: anything above a limit is rejected, with a reason, before compilation.

Definitions come over the network. Without limits a response of a few megabytes could take gigabytes
of memory, and minutes of work, in every process that evaluates flags. The limits are far above
Mixpanel's own (11 variants, and a few hundred flags in a project).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

MAX_DEFINITIONS_BYTES: Final = 8 * 1024 * 1024
"""Bytes of the definitions as JSON, unless the configuration says otherwise."""

MAX_FLAGS: Final = 5_000
MAX_ROLLOUTS: Final = 2_000
"""Rollouts of one flag."""
MAX_VARIANTS: Final = 200
"""Variants of one flag."""
MAX_TEST_USERS: Final = 50_000
"""Test users of one flag."""
MAX_OPERATIONS: Final = 5_000
"""Operations of one rule."""
MAX_VALUES: Final = 50_000
"""JSON values in one rule, operations included."""
MAX_TEXT: Final = 4_096
"""Characters of one text in a rule; a property in Mixpanel has 255 bytes."""
MAX_DEPTH: Final = 64
"""Nesting of operations and lists: far more than real rules have, far below the recursion limit."""
MAX_ITERATION_DEPTH: Final = 4
"""Nesting of operators that iterate (`map`, `filter`, `reduce`, `all`, `some`, `none`)."""
MAX_FLAG_OPERATIONS: Final = 50_000
"""Operations of all rules of one flag."""
MAX_TOTAL_ROLLOUTS: Final = 50_000
"""Rollouts of all flags."""
MAX_TOTAL_OPERATIONS: Final = 250_000
"""Operations of all rules of all flags."""
MAX_TOTAL_VALUES: Final = 1_000_000
"""JSON values in all rules of all flags."""

ITERATING: Final = frozenset({"map", "filter", "reduce", "all", "some", "none"})
"""Operators that evaluate an operand once for each item of a list."""


class RuleError(ValueError):
    """A rule cannot be compiled."""


class TooLargeError(ValueError):
    """A flag, or the definitions as a whole, exceeds a limit."""


@dataclass(frozen=True, slots=True)
class Size:
    """The amount of work that compiling and evaluating takes."""

    rollouts: int = 0
    operations: int = 0
    values: int = 0

    def __add__(self, other: "Size") -> "Size":
        return Size(
            self.rollouts + other.rollouts,
            self.operations + other.operations,
            self.values + other.values,
        )


def rule_size(rule: Any) -> Size:
    """Return the size of a rule.

    Every JSON object counts as an operation, because the json-logic engine evaluates it as one.

    :raises RuleError: the rule exceeds a limit.
    """
    operations = values = 0
    pending = [(rule, 0, 0)]
    while pending:
        node, depth, iterations = pending.pop()
        values += 1
        operations += isinstance(node, dict)
        if isinstance(node, dict):
            for name, operands in node.items():
                # A list of operands does not count as a level of nesting. An operator that iterates
                # evaluates only its second operand for each item.
                for at, operand in enumerate(
                    operands if isinstance(operands, list) else [operands]
                ):
                    nested = iterations + (at == 1 and name in ITERATING)
                    pending.append((operand, depth + 1, nested))
        elif isinstance(node, list):
            pending += [(item, depth + 1, iterations) for item in node]
        for name, count, limit in (
            ("values in one rule", values, MAX_VALUES),
            ("operations in one rule", operations, MAX_OPERATIONS),
            ("levels of operations", depth, MAX_DEPTH),
            ("levels of map, filter, reduce, all, some and none", iterations, MAX_ITERATION_DEPTH),
            ("characters in a text", len(node) if isinstance(node, str) else 0, MAX_TEXT),
        ):
            if count > limit:
                raise RuleError(f"more than {limit:,} {name}")
    return Size(operations=operations, values=values)


def legacy_size(definition: Any) -> Size:
    """Return the size of a rule in its deprecated form, a dict of names and texts.

    :raises RuleError: it exceeds a limit.
    """
    entries = len(definition) if isinstance(definition, dict) else 0
    if entries > MAX_OPERATIONS:
        raise RuleError(f"more than {MAX_OPERATIONS:,} entries in runtime_evaluation_definition")
    return Size(operations=entries, values=entries)


def check_lengths(raw: Any) -> None:
    """Check the lengths of the lists in a flag, before it is parsed.

    :raises TooLargeError: one exceeds its limit.
    """
    ruleset = raw.get("ruleset") if isinstance(raw, Mapping) else None
    if not isinstance(ruleset, Mapping):
        return
    _check("rollouts", ruleset.get("rollout"), MAX_ROLLOUTS)
    _check("variants", ruleset.get("variants"), MAX_VARIANTS)
    test = ruleset.get("test")
    _check("test users", test.get("users") if isinstance(test, Mapping) else None, MAX_TEST_USERS)
    rollouts = ruleset.get("rollout")
    for rollout in rollouts if isinstance(rollouts, list) else ():
        splits = rollout.get("variant_splits") if isinstance(rollout, Mapping) else None
        _check("variant_splits in a rollout", splits, MAX_VARIANTS)


def check_flag(size: Size) -> None:
    """Check all rules of one flag together.

    :raises TooLargeError: they exceed the limit.
    """
    if size.operations > MAX_FLAG_OPERATIONS:
        raise TooLargeError(
            f"{size.operations:,} operations in all its rules (limit: {MAX_FLAG_OPERATIONS:,})"
        )


def check_total(size: Size) -> None:
    """Check all flags together.

    :raises TooLargeError: they exceed a limit.
    """
    for name, count, limit in (
        ("rollouts", size.rollouts, MAX_TOTAL_ROLLOUTS),
        ("operations", size.operations, MAX_TOTAL_OPERATIONS),
        ("values in rules", size.values, MAX_TOTAL_VALUES),
    ):
        if count > limit:
            raise TooLargeError(f"more than {limit:,} {name} in all flags together")


def _check(name: str, found: Any, limit: int) -> None:
    if isinstance(found, list | Mapping) and len(found) > limit:
        raise TooLargeError(f"{len(found):,} {name} (limit: {limit:,})")
