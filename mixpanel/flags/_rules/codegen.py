"""Generate Python for flags: one function decides a flag, with its simple rules written inline.

A call in Python costs as much as a comparison, so `compile_flag` writes out what a check does, one
rollout after the other, and compiles that once when definitions load: a check takes well under a
microsecond where nested closures take about three.

Definitions come over the network, so none of their text ever becomes source. The source consists of
the templates in this module, filled with numbers and with names that are made here (`key0_1`); what
a definition holds is only bound to those names, as the variables of a closure. Flags of the same
form therefore have the same source, and share its compiled code.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from sys import intern
from textwrap import indent
from types import CodeType
from typing import Any, Final, cast

from mixpanel._records.values import is_missing
from mixpanel.flags._results import (
    assignment_text,
    copy_variant,
    fallback,
    invalid_context,
    rule_error,
)
from mixpanel.flags._rules.budget import (
    MAX_STEPS,
    UNCOUNTED_OPERATIONS,
    Budget,
    TooManyStepsError,
    charge,
    current_budget,
)
from mixpanel.flags._rules.casefolding import fold, get_casefolded
from mixpanel.flags._rules.js_conversions import is_number
from mixpanel.flags._rules.operators import BOOLEAN
from mixpanel.flags._rules.syntax import is_computed, is_operation, operands_of, property_name
from mixpanel.flags.types import FallbackReason, SelectedVariant

Properties = dict[Any, Any]
Test = Callable[[Any], bool]
Decide = Callable[[Mapping[str, Any]], SelectedVariant]
Assigned = tuple[SelectedVariant | None, ...]
"""A user's variant in each branch; None where the rollout does not include the user."""
DecidePart = Callable[[Properties, Assigned, list[SelectedVariant]], SelectedVariant | None]
OnError = Callable[[int, Exception], SelectedVariant]

MAX_BRANCHES: Final = 16
"""Branches in one generated function: compiling a longer one would take Python seconds."""
LONG_TEXT: Final = 4096
"""Characters of a property's text above which a flag of many operations is charged for it."""


# ---- rules: expressions about `data`, the user's properties -----------------------------------


@dataclass(frozen=True, slots=True)
class Expression:
    """A test on properties as the source of an expression about `data`.

    `template` has a `{placeholder}` for each name in `values`. `is_plain` is True if it consists of
    comparisons of a property with a constant: these walk no list, and find a property under a name
    of any case, so that `data` may be the properties as the user gave them.
    """

    template: str
    values: dict[str, Any]
    is_plain: bool

    def compile(self) -> Test:
        """Return the expression as a function of the properties."""
        # Evaluating is safe: the source holds names of this module alone (see above).
        code = _expression_code(f"lambda data: {self.source}")
        test: Test = eval(code, dict(self.values))  # noqa: S307
        return test

    def renamed(self, suffix: str) -> "Expression":
        """Return the expression with names that end in `suffix`, to be joined with others."""
        return Expression(
            self.template.format_map({name: f"{{{name}{suffix}}}" for name in self.values}),
            {f"{name}{suffix}": value for name, value in self.values.items()},
            self.is_plain,
        )

    @property
    def source(self) -> str:
        """The source, with the names of `values` in it."""
        return self.template.format_map({name: name for name in self.values})


class GeneratedTest:
    """A test that a flag's function has inline; it is compiled by itself when it is first called.

    Few are: explaining a flag calls them, evaluating it does not.
    """

    __slots__ = ("_compiled", "expression")

    def __init__(self, expression: Expression) -> None:
        self.expression = expression
        self._compiled: Test | None = None

    def __call__(self, data: Any) -> bool:
        """Test properties."""
        if self._compiled is None:
            self._compiled = self.expression.compile()
        return self._compiled(data)


def is_plain(test: Test) -> bool:
    """Return True if a test consists of plain comparisons alone, which walk no list."""
    return isinstance(test, GeneratedTest) and test.expression.is_plain


def call(test: Test) -> Expression:
    """Return an expression that calls a test."""
    return Expression("{test}(data)", {"test": test}, is_plain=False)


def join(operator: str, expressions: Sequence[Expression]) -> Expression:
    """Join expressions by `and` or `or`; each one's names end in its position."""
    renamed = [each.renamed(str(at)) for at, each in enumerate(expressions)]
    values = {name: value for each in renamed for name, value in each.values.items()}
    template = f"({f' {operator} '.join(each.template for each in renamed)})"
    return Expression(template, values, all(each.is_plain for each in renamed))


def comparison(node: Any) -> Expression | None:
    """Return the expression for `[property, constant]` under a comparing operator; None otherwise.

    Most clauses of rules are such. Python's own operator compares where the property has the usual
    type for the constant; `compare_other` decides for every other type, as JsonLogic does.
    """
    name, operands = operands_of(node) if is_operation(node) else ("", [])
    if len(operands) != 2 or is_computed(operands[1]):
        return None
    key, constant = property_name(operands[0]), operands[1]
    template = _comparison_template(name, constant)
    if key is None or template is None:
        return None
    values = {"key": key, "constant": constant, "compare_other": _slow_path(name, key, constant)}
    if "{texts}" in template:
        values["texts"] = frozenset(constant)
        values["spellings"] = frozenset(_spellings(constant))
    elif "{spellings}" in template:
        values["spellings"] = tuple(dict.fromkeys(_spellings([constant])))
    return Expression(template, values, is_plain=True)


_SIGNS: Final = {
    "==": "==", "===": "==", "!=": "!=", "!==": "!=", "<": "<", "<=": "<=", ">": ">", ">=": ">=",
}  # fmt: skip


def _comparison_template(name: str, constant: Any) -> str | None:
    """Return a template that compares a property with a constant, chosen by the constant's type."""
    found, sign = "type(value := data.get({key}))", _SIGNS.get(name)
    if sign == "==" and isinstance(constant, str):
        # Spellings in a tuple, not a set: `in` must work for a property that is a list, which has
        # no hash.
        folded = (
            "value.casefold() == {constant} if type(value) is str else {compare_other}(value, data)"
        )
        return f"((value := data.get({{key}})) in {{spellings}} or ({folded}))"
    if name == "in" and isinstance(constant, list) and all(isinstance(x, str) for x in constant):
        test, kinds = "value in {spellings} or value.casefold() in {texts}", "is str"
    elif sign is None:
        return None
    elif isinstance(constant, str):
        test, kinds = f"value.casefold() {sign} {{constant}}", "is str"
    elif isinstance(constant, bool):
        test, kinds = f"value {sign} {{constant}}", "is bool"
    elif is_number(constant):
        # Not `isinstance`: a bool is an int in Python, and JsonLogic converts it first.
        test, kinds = f"value {sign} {{constant}}", "is int or kind is float"
        found = f"(kind := {found})"
    else:
        return None
    return f"(({test}) if {found} {kinds} else {{compare_other}}(value, data))"


def _slow_path(name: str, key: str, constant: Any) -> Callable[[Any, Any], Any]:
    """Return the function that compares a property of an unusual type.

    It also looks for the property under its name in another case when `data` has none under `key`.
    """
    operator = BOOLEAN[name]
    if_missing = operator(None, constant)

    def compare(value: Any) -> Any:
        return operator(fold(value), constant)

    def compare_other(value: Any, data: Any) -> Any:
        if value is None:
            value = get_casefolded(data, key)
            if value is None:
                return if_missing
        # A list or dict is walked through. Flags of few operations run without a budget for the
        # whole check, so each comparison gets its share of one here.
        if isinstance(value, list | tuple | dict) and current_budget() is None:
            return Budget(MAX_STEPS // UNCOUNTED_OPERATIONS).run(compare, value)
        return compare(value)

    return compare_other


def _spellings(texts: list[str]) -> Iterator[str]:
    """Yield the usual spellings of casefolded texts; a text among them need not be casefolded."""
    for folded in texts:
        for spelled in (folded, folded.upper(), folded.title(), folded.capitalize()):
            if spelled.casefold() == folded:
                yield intern(spelled)


@lru_cache(maxsize=1024)
def _expression_code(source: str) -> CodeType:
    """Compile source, once for all rules of the same form."""
    return compile(source, "<rule>", "eval")


# ---- flags: a function of the context ---------------------------------------------------------

# The outer `try`: a context is whatever the caller passes, so that `get` or `str` may raise.
_FLAG: Final = """\
def decide(context):
    try:
        value = context.get(context_key)
        if not value:
            return missing_context
{test_users}{assignments}{branches}        return {otherwise}
    except Exception as error:
        return unreadable(error, context)
"""
_TEST_USERS: Final = """\
        distinct_id = context.get("distinct_id")
        if distinct_id and (selected := test_users.get(distinct_id)) is not None:
            return copy(selected)
"""
# `assignments` computes the entry of a new user in `__missing__`: for a known one, all the hashing
# costs one look-up.
_ASSIGNMENTS: Final = """\
        {assigned}, = assignments[value if type(value) is str else text_of(value)]
"""
_NONE_UNDECIDED: Final = """\
        undecided = None
"""
_NONE_READ: Final = """\
        given = folded = None
"""
_BRANCH: Final = """\
        if assigned{at} is not None:
            {outcome}
"""
# A rule that fails must not hide a later rollout that serves the user: its error is remembered, and
# becomes the fallback only if none does.
_RULE_BRANCH: Final = """\
        if assigned{at} is not None:
{reading}            try:
                if data and {test}:
                    {outcome}
            except Exception as error:
                undecided = undecided or failed({index}, error)
"""
_READ: Final = """\
            data = context.get("custom_properties")
            if type(data) is not dict and not isinstance(data, dict):
                data = no_properties
"""
_CASEFOLD: Final = """\
            if not are_casefolded(data):
                data = prepare(data)
"""
# `given` and `folded` are made by the first rule that needs them, as a user may be in no rollout
# with a rule, and casefolding the names of properties copies them all.
_READ_ONCE: Final = """\
            if given is None:
                given = context.get("custom_properties")
                if type(given) is not dict and not isinstance(given, dict):
                    given = no_properties
            data = given
"""
_CASEFOLD_ONCE: Final = """\
            if folded is None:
                folded = given if are_casefolded(given) else prepare(given)
            data = folded
"""
_PART: Final = """\
def decide(data, assigned, undecided):
    {assigned}, = assigned
{branches}    return None
"""
_PART_BRANCH: Final = """\
    if assigned{at} is not None:
        {outcome}
"""
_PART_RULE_BRANCH: Final = """\
    if assigned{at} is not None:
        try:
            if data and {test}:
                {outcome}
        except Exception as error:
            undecided.append(failed(index{at}, error))
"""


@dataclass(frozen=True, slots=True)
class Branch:
    """What one rollout does with the users that its percentage includes.

    It serves the variant assigned to them if they meet `test`: a copy where `copies` is True,
    because the value is one that a caller could change. Where `undecidable` is given, only
    Mixpanel's servers can decide; that is the fallback, unless a later rollout serves a variant.
    """

    index: int
    test: Test | None
    undecidable: SelectedVariant | None
    copies: bool
    operations: int = 0


def compile_flag(
    context_key: str,
    test_users: Mapping[str, SelectedVariant],
    branches: Sequence[Branch],
    assignments: Mapping[str, Assigned],
    *,
    prepare: Callable[[Properties], Properties],
    casefolded_names: set[Any] | frozenset[Any],
    bounds_small_flags: bool = False,
) -> Decide:
    """Return the function that decides a flag for a context; it never raises.

    `assignments[value]` has the variant of the user with that assignment value, for each branch.
    `prepare` makes properties ready for rules that are not plain; properties whose names are all in
    `casefolded_names` are ready as they are. With `bounds_small_flags` the rule engine limits the
    work of a flag of few operations itself.

    For example, a flag assigned by distinct_id, without test users, whose one rollout has the rule

        {"and": [{"==": [{"var": "plan"}, "team"]}, {">=": [{"var": "seats"}, 5]}]}

    is compiled from this source (here the rule is broken into lines):

        def decide(context):
            try:
                value = context.get(context_key)
                if not value:
                    return missing_context
                assigned0, = assignments[value if type(value) is str else text_of(value)]
                undecided = None
                if assigned0 is not None:
                    data = context.get("custom_properties")
                    if type(data) is not dict and not isinstance(data, dict):
                        data = no_properties
                    try:
                        if data and (
                            ((value := data.get(key0_0)) in spellings0_0
                             or (value.casefold() == constant0_0 if type(value) is str
                                 else compare_other0_0(value, data)))
                            and
                            ((value >= constant1_0)
                             if (kind := type(value := data.get(key1_0))) is int or kind is float
                             else compare_other1_0(value, data))
                        ):
                            return assigned0
                    except Exception as error:
                        undecided = undecided or failed(0, error)
                return undecided or no_match
            except Exception as error:
                return unreadable(error, context)

    In `key1_0`, 1 is the clause and 0 the branch. What the names are bound to:

        context_key      "distinct_id"
        assignments      maps "u-17" to (SelectedVariant(…),), or to (None,) if not in the rollout
        key0_0           "plan"
        constant0_0      "team"
        spellings0_0     ("team", "TEAM", "Team"): found here, a text need not be casefolded
        key1_0           "seats"
        constant1_0      5
        compare_other…   compare values of other types, or under the name in another case
        missing_context, no_match     ready-made fallbacks
        failed, unreadable            make a fallback from an exception
        text_of          the text of an id that is not text
        no_properties    {}
    """
    missing_context = fallback(FallbackReason.missing_context_key(context_key))

    def unreadable(error: Exception, context: Mapping[str, Any]) -> SelectedVariant:
        # Some missing values have no truth: `not pandas.NA` raises.
        with suppress(Exception):
            if is_missing(context.get(context_key)):
                return missing_context
        return fallback(invalid_context(error))

    names: dict[str, Any] = {
        "context_key": context_key,
        "missing_context": missing_context,
        "no_match": fallback(FallbackReason.no_rollout_match()),
        "test_users": test_users,
        "assignments": assignments,
        "no_properties": {},
        "are_casefolded": casefolded_names.issuperset,
        "prepare": prepare,
        "copy": copy_variant,
        "failed": lambda index, error: fallback(rule_error(index, error)),
        "unreadable": unreadable,
        "text_of": assignment_text,
    }
    operations = sum(branch.operations for branch in branches)
    if operations > UNCOUNTED_OPERATIONS or len(branches) > MAX_BRANCHES:
        return _with_budget(_compile_in_parts(branches, names))
    source = _flag_source(branches, names, has_test_users=bool(test_users))
    decide: Decide = _factory(source, tuple(names))(**names)
    # A few plain comparisons take bounded time; everything else gets a budget for each check.
    if bounds_small_flags or all(
        branch.test is None or is_plain(branch.test) for branch in branches
    ):
        return decide
    return _with_budget(decide)


def _with_budget(decide: Decide) -> Decide:
    return lambda context: Budget().run(decide, context)


@lru_cache(maxsize=1024)
def _factory(source: str, names: tuple[str, ...]) -> Callable[..., Any]:
    """Return the function that makes the `decide` of this source from the values of its names.

    The names become variables of a closure, not globals: flags that share their code differ in
    them, and the interpreter's cache of a global's look-up is kept with the code.
    """
    wrapped = f"def make({', '.join(names)}):\n{indent(source, '    ')}    return decide\n"
    namespace: dict[str, Any] = {}
    exec(compile(wrapped, "<flag>", "exec"), namespace)  # noqa: S102
    make: Callable[..., Any] = namespace["make"]
    return make


def _flag_source(branches: Sequence[Branch], names: dict[str, Any], *, has_test_users: bool) -> str:
    """Return the source of `decide`, and add the values of its branches to `names`."""
    with_rules = sum(branch.test is not None for branch in branches)
    # With one rule the properties are read where it needs them; of several, the first that is
    # reached reads them for all.
    once = with_rules > 1
    parts = [_branch_source(at, branch, names, once=once) for at, branch in enumerate(branches)]
    can_fail = with_rules or any(branch.undecidable is not None for branch in branches)
    assignments = _ASSIGNMENTS.format(assigned=_assigned_names(len(parts)))
    return _FLAG.format(
        test_users=_TEST_USERS if has_test_users else "",
        assignments=assignments if parts else "",
        branches="".join([_NONE_UNDECIDED if can_fail else "", _NONE_READ * once, *parts]),
        otherwise="undecided or no_match" if can_fail else "no_match",
    )


def _branch_source(at: int, branch: Branch, names: dict[str, Any], *, once: bool) -> str:
    """Return the source of one branch, and add its values to `names`."""
    if branch.undecidable is not None:
        names[f"undecidable{at}"] = branch.undecidable
        outcome = f"undecided = undecided or undecidable{at}"
    else:
        outcome = _return_assigned(at, branch)
    if branch.test is None:
        return _BRANCH.format(at=at, outcome=outcome)
    test = _inline(branch.test, at)
    names |= test.values
    read, casefold = (_READ_ONCE, _CASEFOLD_ONCE) if once else (_READ, _CASEFOLD)
    return _RULE_BRANCH.format(
        at=at,
        index=branch.index,
        reading=read if test.is_plain else read + casefold,
        test=test.source,
        outcome=outcome,
    )


def _inline(test: Test, at: int) -> Expression:
    """Return the expression of a test in the branch at a position, or else a call of it."""
    expression = test.expression if isinstance(test, GeneratedTest) else call(test)
    return expression.renamed(f"_{at}")


def _return_assigned(at: int, branch: Branch) -> str:
    return f"return copy(assigned{at})" if branch.copies else f"return assigned{at}"


def _assigned_names(count: int) -> str:
    return ", ".join(f"assigned{at}" for at in range(count))


# ---- flags of many rollouts or operations: several functions ----------------------------------


def _compile_in_parts(branches: Sequence[Branch], names: Mapping[str, Any]) -> Decide:
    """Return a function that decides as the template of a whole flag does, some branches at a time.

    The time that Python takes to compile a function grows faster than its length. Parts of the same
    form also share their code.
    """
    context_key, test_users = names["context_key"], names["test_users"]
    assignments = names["assignments"]
    are_casefolded, prepare = names["are_casefolded"], names["prepare"]
    choose = _chain_parts(branches, names["no_match"], names["failed"])

    def properties(context: Mapping[str, Any]) -> Properties:
        data = context.get("custom_properties")
        if not isinstance(data, dict):
            return {}
        return data if are_casefolded(data) else cast("Properties", prepare(data))

    def decide(context: Mapping[str, Any]) -> SelectedVariant:
        try:
            value = context.get(context_key)
            if not value:
                return cast("SelectedVariant", names["missing_context"])
            distinct_id = context.get("distinct_id") if test_users else None
            if distinct_id and (selected := test_users.get(distinct_id)) is not None:
                return copy_variant(selected)
            assigned = assignments[value if type(value) is str else assignment_text(value)]
            return choose(properties(context), assigned)
        except Exception as error:
            return cast("SelectedVariant", names["unreadable"](error, context))

    return decide


def _chain_parts(
    branches: Sequence[Branch], no_match: SelectedVariant, failed: OnError
) -> Callable[[Properties, Assigned], SelectedVariant]:
    """Return a function that decides among a user's variants in all branches, part after part."""
    # The budget is one for all parts. A part that exceeds it is undecided like a rule that fails,
    # and a later part without costly rules may still serve the user.
    slices = [slice(at, at + MAX_BRANCHES) for at in range(0, len(branches), MAX_BRANCHES)]
    parts = [
        (
            each,
            sum(branch.operations for branch in branches[each]),
            branches[each][0].index,
            _compile_part(branches[each], failed),
        )
        for each in slices
    ]

    def choose(data: Properties, assigned: Assigned) -> SelectedVariant:
        undecided: list[SelectedVariant] = []
        longest = _longest_text(data)
        for branch_slice, operations, index, decide in parts:
            try:
                if longest > LONG_TEXT:  # each operation may casefold or search it
                    charge(operations * longest >> 12)
                selected = decide(data, assigned[branch_slice], undecided)
                if selected is not None:
                    return selected
            except TooManyStepsError as error:
                undecided.append(failed(index, error))
        return undecided[0] if undecided else no_match

    return choose


def _compile_part(branches: Sequence[Branch], failed: OnError) -> DecidePart:
    """Return a function that decides some of a flag's branches.

    It returns None if none of them serves a variant, and adds the fallbacks of those that cannot be
    decided to its list `undecided`.
    """
    names: dict[str, Any] = {"copy": copy_variant, "failed": failed}
    parts = []
    for at, branch in enumerate(branches):
        if branch.undecidable is not None:
            names[f"undecidable{at}"] = branch.undecidable
            outcome = f"undecided.append(undecidable{at})"
        else:
            outcome = _return_assigned(at, branch)
        if branch.test is None:
            parts.append(_PART_BRANCH.format(at=at, outcome=outcome))
            continue
        test = _inline(branch.test, at)
        names |= test.values
        names[f"index{at}"] = branch.index  # not in the source, so that parts share their code
        parts.append(_PART_RULE_BRANCH.format(at=at, test=test.source, outcome=outcome))
    source = _PART.format(assigned=_assigned_names(len(branches)), branches="".join(parts))
    decide: DecidePart = _factory(source, tuple(names))(**names)
    return decide


def _longest_text(properties: Properties) -> int:
    return max([len(value) for value in properties.values() if type(value) is str], default=0)
