"""Write what a flag decides as one function of its own.

A call costs as much as a comparison, so what a check does is written out: the tests of rules, and
one rollout after the other. The source is made of the templates below, so flags of the same form
share their code; what a definition says only ever gets in as the value of a name.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from textwrap import indent
from typing import Any, Final, cast

from mixpanel.flags._rules.budget import PLAIN_OPERATIONS, Budget, TooManyStepsError, charge
from mixpanel.flags._rules.compiler import is_plain, written
from mixpanel.flags._rules.engines import Engine, Predicate, Properties
from mixpanel.flags.types import FallbackReason, SelectedVariant, VariantSource

Decide = Callable[[Mapping[str, Any]], SelectedVariant]
Taken = tuple[SelectedVariant | None, ...]
"""A user's variant in each branch; None where the user is not in the branch's share."""
Part = Callable[[Properties, Taken, list[SelectedVariant]], SelectedVariant | None]
Failed = Callable[[int, Exception], SelectedVariant]

_FLAG: Final = """\
def decide(context):
    try:
        value = context.get(context_key)
        if not value:
            return missing_context
{testers}{shares}{branches}        return {otherwise}
    except Exception as error:
        return unreadable(error)
"""
_TESTERS: Final = """\
        tester = context.get("distinct_id")
        if tester and (selected := test_users.get(tester)) is not None:
            return own(selected)
"""
_SHARES: Final = """\
        {taken}, = shares[value if type(value) is str else str(value)]
"""
_BLOCKABLE: Final = """\
        blocked = None
"""
_UNREAD: Final = """\
        given = folded = None
"""
_BRANCH: Final = """\
        if taken{at} is not None:
            {outcome}
"""
_RULED: Final = """\
        if taken{at} is not None:
{reading}            try:
                if data and {test}:
                    {outcome}
            except Exception as error:
                blocked = blocked or failed({index}, error)
"""
_READING: Final = """\
            data = context.get("custom_properties")
            if type(data) is not dict and not isinstance(data, dict):
                data = nothing
"""
_FOLDING: Final = """\
            if not are_ready(data):
                data = prepare(data)
"""
_READING_ONCE: Final = """\
            if given is None:
                given = context.get("custom_properties")
                if type(given) is not dict and not isinstance(given, dict):
                    given = nothing
            data = given
"""
_FOLDING_ONCE: Final = """\
            if folded is None:
                folded = given if are_ready(given) else prepare(given)
            data = folded
"""
_PART: Final = """\
def decide(data, taken, blocked):
    {taken}, = taken
{branches}    return None
"""
_PART_BRANCH: Final = """\
    if taken{at} is not None:
        {outcome}
"""
_PART_RULED: Final = """\
    if taken{at} is not None:
        try:
            if data and {test}:
                {outcome}
        except Exception as error:
            blocked.append(failed(index{at}, error))
"""


@dataclass(frozen=True, slots=True)
class Branch:
    """What one rollout does for the users in its share.

    It serves their variant, a copy of it where `copies` says that a caller could change it, if
    `test` is met; where `blocking` is given, it only says with that why nothing can be served here.
    """

    index: int
    test: Predicate | None
    blocking: SelectedVariant | None
    copies: bool
    operations: int = 0


MOST_WRITTEN: Final = 16
"""Branches, at most, that are written out: with more of them Python would compile for seconds."""
LONG_TEXT: Final = 4096
"""Characters of a property's text from which on a flag of many operations is charged for it."""


def deciding(
    context_key: str,
    test_users: Mapping[str, SelectedVariant],
    branches: Sequence[Branch],
    shares: Mapping[str, Taken],
    engine: Engine,
) -> Decide:
    """Return what decides a flag for a context; it never raises, whatever it is given.

    Few operations in plain comparisons are bounded as they stand; otherwise each check has a budget
    of steps.
    """
    names: dict[str, Any] = {
        "context_key": context_key,
        "missing_context": fallback(FallbackReason.missing_context_key(context_key)),
        "no_match": fallback(FallbackReason.no_rollout_match()),
        "test_users": test_users,
        "shares": shares,
        "nothing": {},
        "are_ready": engine.ready_names.issuperset,
        "prepare": engine.prepare,
        "own": own,
        "failed": lambda index, error: fallback(rule_error(index, error)),
        "unreadable": lambda error: fallback(invalid_context(error)),
    }
    operations = sum(branch.operations for branch in branches)
    if operations > PLAIN_OPERATIONS or len(branches) > MOST_WRITTEN:
        return _budgeted(_in_parts(branches, names))
    source = _source(bool(test_users), branches, names)
    # As variables of a closure, not globals: flags that share their code differ in them, and what
    # Python remembers of a look-up is kept with the code.
    decide: Decide = _maker(source, tuple(names))(**names)
    if all(branch.test is None or is_plain(branch.test) for branch in branches):
        return decide
    return _budgeted(decide)


def _budgeted(decide: Decide) -> Decide:
    return lambda context: Budget().run(decide, context)


def _longest_text(properties: Properties) -> int:
    return max([len(value) for value in properties.values() if type(value) is str], default=0)


def _in_parts(branches: Sequence[Branch], names: Mapping[str, Any]) -> Decide:
    """Return what decides as the whole template does, written out in parts of some branches.

    The time that Python takes to compile a function grows faster than its length; parts of the same
    form, moreover, share their code.
    """
    context_key, test_users, shares = names["context_key"], names["test_users"], names["shares"]
    are_ready, prepare = names["are_ready"], names["prepare"]
    choose = _choosing(branches, names["no_match"], names["failed"])

    def properties(context: Mapping[str, Any]) -> Properties:
        data = context.get("custom_properties")
        if not isinstance(data, dict):
            return {}
        return data if are_ready(data) else cast("Properties", prepare(data))

    def decide(context: Mapping[str, Any]) -> SelectedVariant:
        try:
            value = context.get(context_key)
            if not value:
                return cast("SelectedVariant", names["missing_context"])
            tester = context.get("distinct_id") if test_users else None
            if tester and (selected := test_users.get(tester)) is not None:
                return own(selected)
            return choose(properties(context), shares[value if type(value) is str else str(value)])
        except Exception as error:
            return cast("SelectedVariant", names["unreadable"](error))

    return decide


def _choosing(
    branches: Sequence[Branch], no_match: SelectedVariant, failed: Failed
) -> Callable[[Properties, Taken], SelectedVariant]:
    """Return what decides among a user's variants in all branches, a part of them at a time."""
    cuts = [slice(at, at + MOST_WRITTEN) for at in range(0, len(branches), MOST_WRITTEN)]
    parts = [
        (
            cut,
            sum(branch.operations for branch in branches[cut]),
            branches[cut][0].index,
            _written_part(branches[cut], failed),
        )
        for cut in cuts
    ]

    def choose(data: Properties, taken: Taken) -> SelectedVariant:
        blocked: list[SelectedVariant] = []
        longest = _longest_text(data)
        for cut, operations, index, part in parts:
            try:
                if longest > LONG_TEXT:  # each operation may casefold or search it
                    charge(operations * longest >> 12)
                found = part(data, taken[cut], blocked)
                if found is not None:
                    return found
            except TooManyStepsError as error:
                blocked.append(failed(index, error))
        return blocked[0] if blocked else no_match

    return choose


def _written_part(branches: Sequence[Branch], failed: Failed) -> Part:
    """Return a function that decides some of a flag's branches, or else says what blocks them."""
    names: dict[str, Any] = {"own": own, "failed": failed}
    written_out = []
    for at, branch in enumerate(branches):
        if branch.blocking is not None:
            names[f"blocking{at}"] = branch.blocking
            outcome = f"blocked.append(blocking{at})"
        else:
            outcome = f"return own(taken{at})" if branch.copies else f"return taken{at}"
        if branch.test is None:
            written_out.append(_PART_BRANCH.format(at=at, outcome=outcome))
            continue
        test = written(branch.test, f"_{at}")
        names |= test.values
        names[f"index{at}"] = branch.index  # not in the source, so that parts share their code
        written_out.append(_PART_RULED.format(at=at, test=test.source, outcome=outcome))
    taken = ", ".join(f"taken{at}" for at in range(len(branches)))
    source = _PART.format(taken=taken, branches="".join(written_out))
    part: Part = _maker(source, tuple(names))(**names)
    return part


@lru_cache(maxsize=1024)
def _maker(source: str, names: tuple[str, ...]) -> Callable[..., Any]:
    """Return what makes the `decide` of this source from the values of its names."""
    within = f"def make({', '.join(names)}):\n{indent(source, '    ')}    return decide\n"
    made: dict[str, Any] = {}
    exec(compile(within, "<flag>", "exec"), made)  # noqa: S102
    make: Callable[..., Any] = made["make"]
    return make


def _source(has_testers: bool, branches: Sequence[Branch], names: dict[str, Any]) -> str:  # noqa: FBT001
    """Return the source of `decide`, and add what it is about to `names`."""
    ruled = sum(branch.test is not None for branch in branches)
    several = ruled > 1
    parts = [_part(at, branch, names, several=several) for at, branch in enumerate(branches)]
    blockable = ruled or any(branch.blocking is not None for branch in branches)
    shares = _SHARES.format(taken=", ".join(f"taken{at}" for at in range(len(parts))))
    return _FLAG.format(
        testers=_TESTERS if has_testers else "",
        shares=shares if parts else "",
        branches="".join([_BLOCKABLE if blockable else "", _UNREAD * several, *parts]),
        otherwise="blocked or no_match" if blockable else "no_match",
    )


def _part(at: int, branch: Branch, names: dict[str, Any], *, several: bool) -> str:
    """Return the source of one branch; of `several` with rules the first reads the properties."""
    if branch.blocking is not None:
        names[f"blocking{at}"] = branch.blocking
        outcome = f"blocked = blocked or blocking{at}"
    else:
        outcome = f"return own(taken{at})" if branch.copies else f"return taken{at}"
    if branch.test is None:
        return _BRANCH.format(at=at, outcome=outcome)
    test = written(branch.test, f"_{at}")
    names |= test.values
    reading, folding = (_READING_ONCE, _FOLDING_ONCE) if several else (_READING, _FOLDING)
    return _RULED.format(
        at=at,
        index=branch.index,
        reading=reading if test.any_name else reading + folding,
        test=test.source,
        outcome=outcome,
    )


# ---- answers ------------------------------------------------------------------------------------


def fallback(reason: FallbackReason) -> SelectedVariant:
    """Return the answer that no rollout gave, with its reason."""
    return SelectedVariant(None, variant_source=VariantSource.FALLBACK, fallback_reason=reason)


def rule_error(index: int, error: Exception) -> FallbackReason:
    """Return the reason for a rule that failed, without the values that it read."""
    what = str(error) if isinstance(error, TooManyStepsError) else f"raised {type(error).__name__}"
    return FallbackReason("RULE_ERROR", f"rollout {index}: the rule {what}")


def invalid_context(error: Exception) -> FallbackReason:
    """Return the reason for a context that cannot be read."""
    return FallbackReason("INVALID_CONTEXT", f"reading the context raised {type(error).__name__}")


def is_container(selected: SelectedVariant) -> bool:
    """Tell whether the variant's value is one that a caller could change."""
    return isinstance(selected.variant_value, dict | list)


def own(selected: SelectedVariant) -> SelectedVariant:
    """Return the variant with a value that the caller may change."""
    if is_container(selected):
        return replace(selected, variant_value=copied(selected.variant_value))
    return selected


def copied(value: Any) -> Any:
    """Copy dicts and lists, to any depth."""
    if isinstance(value, dict):
        return {key: copied(item) for key, item in value.items()}
    return [copied(item) for item in value] if isinstance(value, list) else value
