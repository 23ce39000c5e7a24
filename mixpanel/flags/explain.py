"""Explain an evaluation: rollout by rollout, with buckets, thresholds, clauses and reasons."""

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

from pydantic_core import to_json

from mixpanel.flags._evaluation.compiled_flag import CompiledFlag, CompiledRollout
from mixpanel.flags._evaluation.definitions import Definitions
from mixpanel.flags._evaluation.evaluate import Context, evaluate_flag
from mixpanel.flags._evaluation.hashing import BUCKETS, bucket
from mixpanel.flags._results import invalid_context, rule_error
from mixpanel.flags._rules.budget import Budget, TooManyStepsError, charge_parsing
from mixpanel.flags._rules.casefolding import has_json_form
from mixpanel.flags._rules.compiler import value_read
from mixpanel.flags._rules.engines import Predicate, Properties, compile_legacy, fold_rule
from mixpanel.flags._rules.syntax import is_operation, names_read, operands_of
from mixpanel.flags.types import FallbackReason, SelectedVariant

__all__ = ["ClauseTrace", "RolloutTrace", "Trace", "explain"]

MAX_VALUE_LENGTH: Final = 1000
"""Characters of a value that are shown."""


@dataclass(frozen=True, slots=True)
class ClauseTrace:
    """One clause of a rule: its result (None if it failed) and the properties that it reads."""

    rule: str
    result: bool | None
    reads: tuple[tuple[str, Any], ...] = ()

    def __str__(self) -> str:
        """Return one line."""
        result = {True: "true ", False: "false", None: "error"}[self.result]
        reads = ", ".join(f"{name} = {_format(value)}" for name, value in self.reads)
        return f"{result}  {self.rule}" + (f"  with {reads}" if reads else "")


@dataclass(frozen=True, slots=True)
class RolloutTrace:
    """The evaluation of one rollout.

    It includes the user if `bucket` is below `threshold`. `rule` is the rule's result: None without
    a rule, or if it was not evaluated. `reason` is why a rollout that includes the user could not
    be decided locally.
    """

    index: int
    percentage: float
    bucket: int
    threshold: int
    rule: bool | None = None
    clauses: tuple[ClauseTrace, ...] = ()
    reason: FallbackReason | None = None
    variant_key: str | None = None

    @property
    def includes_user(self) -> bool:
        """True if the rollout's percentage includes the user's bucket."""
        return self.bucket < self.threshold

    @property
    def is_taken(self) -> bool:
        """True if this rollout decided the variant."""
        return self.variant_key is not None

    def __str__(self) -> str:
        """Return a line for the rollout and one for each clause."""
        sign = "<" if self.includes_user else ">="
        line = f"rollout {self.index} ({self.percentage:.6g}): bucket {self.bucket} {sign} "
        line += f"{self.threshold}, {self._outcome_text()}"
        return "\n".join([line, *(f"    {clause}" for clause in self.clauses)])

    def _outcome_text(self) -> str:
        if not self.includes_user:
            return "not included"
        if self.reason is not None:
            return f"cannot be decided locally: {self.reason.kind} ({self.reason.message})"
        if self.rule is False:
            return "rule does not match"
        return f"taken, variant {self.variant_key!r}"


@dataclass(frozen=True, slots=True)
class Trace:
    """The evaluation of a flag for a context, up to the rollout that decided."""

    flag_key: str
    selected: SelectedVariant
    context_key: str | None = None
    assignment: str | None = None
    variant_bucket: int | None = None
    rollouts: tuple[RolloutTrace, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def undecided(self) -> FallbackReason | None:
        """Why Mixpanel's servers might decide differently: the first rollout skipped, if any."""
        return next((r.reason for r in self.rollouts if r.reason is not None), None)

    def __str__(self) -> str:
        """Return the trace as lines of text."""
        lines = [f"flag {self.flag_key!r}: {self._outcome()}"]
        if self.assignment is not None:
            lines.append(f"  {self.context_key} = {self.assignment!r}")
            if self.variant_bucket is not None:
                lines[-1] += f", variant bucket {self.variant_bucket} of {BUCKETS}"
        lines += [f"  {line}" for rollout in self.rollouts for line in str(rollout).splitlines()]
        return "\n".join([*lines, *(f"  note: {note}" for note in self.notes)])

    def _outcome(self) -> str:
        reason = self.selected.fallback_reason
        if reason is not None:
            return f"fallback, {reason.kind}" + (f" ({reason.message})" if reason.message else "")
        how = ", as a test user" if self.selected.is_qa_tester else ""
        return (
            f"variant {self.selected.variant_key!r} = {_format(self.selected.variant_value)}{how}"
        )


def explain(definitions: Definitions, flag_key: str, context: Context) -> Trace:
    """Return a trace of evaluating a flag for a context. Like `evaluate`, it never raises."""
    selected = evaluate_flag(definitions, flag_key, context)
    flag = definitions.flags.get(flag_key)
    if flag is None:
        return Trace(flag_key, selected)
    try:
        return _trace(flag, selected, context)
    except Exception as error:
        return Trace(flag_key, selected, flag.context_key, notes=(_error_note(error),))


def _trace(flag: CompiledFlag, selected: SelectedVariant, context: Context) -> Trace:
    key = flag.context_key
    value, reason = context.get(key), selected.fallback_reason
    if reason is not None and reason.kind in ("MISSING_CONTEXT_KEY", "INVALID_CONTEXT"):
        return Trace(flag.key, selected, key)
    assignment = str(value)
    tested = selected.is_qa_tester is True
    return Trace(
        flag_key=flag.key,
        selected=selected,
        context_key=key,
        assignment=assignment,
        variant_bucket=bucket(assignment, flag.variant_salt),
        rollouts=() if tested else tuple(_rollouts(flag, assignment, context)),
        notes=(*_notes(key, value), *_unmatchable(flag, context)),
    )


def _rollouts(flag: CompiledFlag, assignment: str, context: Context) -> Iterator[RolloutTrace]:
    properties = _prepared(flag, context)
    # The rules share one budget, as in an evaluation; clauses, evaluated only here, have another.
    rule_budget, clause_budget = Budget(), Budget()
    for index, rollout in enumerate(flag.rollouts):
        trace = _rollout(flag, index, rollout, assignment, properties, rule_budget, clause_budget)
        yield trace
        if trace.is_taken:
            return


def _rollout(
    flag: CompiledFlag,
    index: int,
    rollout: CompiledRollout,
    assignment: str,
    properties: Properties,
    rule_budget: Budget,
    clause_budget: Budget,
) -> RolloutTrace:
    user_bucket = bucket(assignment, flag.rollout_salt(index))
    percentage, threshold = rollout.rollout.rollout_percentage, rollout.threshold
    if user_bucket >= threshold:
        return RolloutTrace(index, percentage, user_bucket, threshold)
    clauses, met = tuple(_clauses(flag, rollout, properties, clause_budget)), None
    reason = rollout.reason
    if rollout.test is not None:
        try:
            met = bool(properties) and rule_budget.run(rollout.test, properties)
        except Exception as error:
            met, reason = False, rule_error(index, error)
        else:
            reason = reason if met else None
    variant = None
    if reason is None and met is not False:
        chosen = bucket(assignment, flag.variant_salt)
        variant = rollout.variants[chosen].variant_key
    return RolloutTrace(index, percentage, user_bucket, threshold, met, clauses, reason, variant)


def _prepared(flag: CompiledFlag, context: Context) -> Properties:
    properties = context.get("custom_properties")
    if not isinstance(properties, dict) or not properties:
        return {}
    return flag.engine.prepare(properties)


def _clauses(
    flag: CompiledFlag, rollout: CompiledRollout, properties: Properties, budget: Budget
) -> Iterator[ClauseTrace]:
    rule = rollout.rollout.runtime_evaluation_rule
    legacy = rollout.rollout.runtime_evaluation_definition
    if not rollout.size.values:
        return  # no rule, or one that was rejected because of its size
    if rule:
        for clause in _split(rule):
            if budget.left < 0:
                return  # used up by the clauses so far
            names = names_read(fold_rule(clause))
            # A constant alone is not a rule; `!!` makes it one, and changes nothing for the others.
            rule_of_clause = {"!!": [clause]}
            yield _clause(clause, rule_of_clause, flag.engine.compile, names, properties, budget)
    elif isinstance(legacy, dict):
        for name, text in legacy.items():
            yield _clause({name: text}, {name: text}, compile_legacy, [name], properties, budget)


def _clause(
    shown: Any,
    rule: Any,
    compile_clause: Callable[[Any], Predicate],
    names: list[str],
    properties: Properties,
    budget: Budget,
) -> ClauseTrace:
    result: bool | None = None
    reads: list[tuple[str, Any]] = []
    with suppress(TooManyStepsError):
        reads += [(name, budget.run(_read, properties, name)) for name in names]
    with suppress(Exception):
        result = bool(properties) and budget.run(compile_clause(rule), properties)
    return ClauseTrace(_json(shown), result, tuple(reads))


def _read(properties: Properties, name: str) -> Any:
    value = value_read(properties, name)
    if isinstance(value, str):
        charge_parsing(value)
    return value


def _split(rule: Any) -> Iterator[Any]:
    """Split a rule at its outer `and` and `or`."""
    if is_operation(rule):
        name, operands = operands_of(rule)
        if name in {"and", "or"} and operands:
            for operand in operands:
                yield from _split(operand)
            return
    yield rule


def _notes(key: str, value: Any) -> Iterator[str]:
    if isinstance(value, bool | float):
        yield f"{key} is hashed as {str(value)!r}; other SDKs may format it differently"


def _unmatchable(flag: CompiledFlag, context: Context) -> Iterator[str]:
    """Yield a note for each property whose value no rule can match."""
    properties = context.get("custom_properties")
    if not isinstance(properties, dict):
        return
    budget = Budget()
    for name, value in properties.items():
        matchable = value is None or isinstance(value, str | int | float | list | dict)
        if not matchable and flag.engine.name == "default":
            with suppress(TooManyStepsError):
                matchable = budget.run(has_json_form, value)
        if not matchable:
            kind = type(value).__name__
            yield f"custom_properties[{name!r}] is a {kind}, which no rule can match"


def _json(value: Any) -> str:
    return to_json(value, serialize_unknown=True).decode(errors="replace")


def _format(value: Any) -> str:
    try:
        shown = repr(value)
        return shown if len(shown) <= MAX_VALUE_LENGTH else f"{shown[:MAX_VALUE_LENGTH]}…"
    except Exception as error:
        return f"<{type(value).__name__}: {type(error).__name__}>"


def _error_note(error: Exception) -> str:
    return invalid_context(error).message or ""
