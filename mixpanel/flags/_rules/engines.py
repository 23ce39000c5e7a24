"""Compile runtime rules into tests on a user's properties, with one of two engines.

`default` compiles a rule to Python (see `compiler`). `json-logic` runs the package of that name and
is bug-compatible with mixpanel 5.x: all operands are evaluated first, and an operator that it does
not know or cannot apply fails the whole rule. With both, a test takes properties that its engine
prepared, once for a user, and an exception means that the rule does not match.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from types import ModuleType
from typing import Any, Final, cast

from mixpanel.exceptions import ConfigurationError
from mixpanel.flags._rules.budget import Budget, charge_items, current_budget
from mixpanel.flags._rules.casefolding import casefolded_names, fold, fold_key, fold_names
from mixpanel.flags._rules.comparisons import datetime_compare, semver_compare
from mixpanel.flags._rules.compiler import compile_rule
from mixpanel.flags._rules.limits import RuleError
from mixpanel.flags.types import RuleEngine

Properties = dict[Any, Any]
Predicate = Callable[[Properties], bool]

JSON_LOGIC_MIN_VERSION: Final = (0, 7)  # as the official package requires it
_SCALARS: Final = frozenset({str, int, float, bool, type(None)})
MAX_FORMAT_LENGTH: Final = 1024  # characters of a text on the left of `%`
_WIDE_FORMAT: Final = re.compile(r"[0-9]{4}|\*")


class RuleEngineError(ConfigurationError):
    """A rule engine does not exist, or its package cannot be used."""


@dataclass(frozen=True, slots=True)
class Engine:
    """One implementation of rules: how to compile one, and how to prepare properties for it.

    Properties whose names are all in `casefolded_names` need no preparing. An engine that
    `bounds_small_flags` limits the work of flags of few operations itself.
    """

    name: RuleEngine
    compile: Callable[[Any], Predicate]
    prepare: Callable[[Properties], Properties]
    casefolded_names: set[Any] | frozenset[Any] = frozenset()
    bounds_small_flags: bool = False


def engine(name: RuleEngine = "default") -> Engine:
    """Return a rule engine by name.

    :raises RuleEngineError: there is no such engine, or it is json-logic and the package is not
        installed, is older than 0.7 or is mixed with one that overwrites its files.
    """
    if name == "default":
        return Engine("default", _compile_default, fold_names, casefolded_names)
    if name == "json-logic":
        compile_ = partial(
            _compile_json_logic,
            run=_load_json_logic().jsonLogic,
            run_counted=_load_json_logic(count_reads=True).jsonLogic,
        )
        return Engine("json-logic", compile_, _prepare_json_logic, bounds_small_flags=True)
    raise RuleEngineError(f'unknown rule engine {name!r}: use "default" or "json-logic"')


def compile_legacy(definition: Any) -> Predicate:
    """Compile the deprecated form of a rule, a dict of names and the texts they must equal.

    The properties' names are casefolded, those of the definition are not: one with capitals never
    matches, as in mixpanel 5.x.

    :raises RuleError: the definition is not a JSON object.
    """
    if not isinstance(definition, dict):
        raise RuleError("runtime_evaluation_definition must be a JSON object")
    expected = {name: fold_rule(value) for name, value in definition.items()}

    def test(properties: Properties) -> bool:
        for name, value in expected.items():
            actual = fold(properties.get(name))
            if not isinstance(actual, str) or actual != value:
                return False
        return True

    return test


def fold_rule(node: Any) -> Any:
    """Casefold the texts of a rule, including the names that `var` reads, but not its operators."""
    if isinstance(node, str):
        return node.casefold()
    if isinstance(node, dict):
        return {key: fold_rule(value) for key, value in node.items()}
    return [fold_rule(item) for item in node] if isinstance(node, list) else node


def fold_like_mixpanel_5(value: Any) -> Any:
    """Casefold texts and keys through dicts and lists, and leave everything else as it is."""
    if isinstance(value, str):
        return value.casefold()
    if isinstance(value, dict):
        return {fold_key(key): fold_like_mixpanel_5(item) for key, item in value.items()}
    return [fold_like_mixpanel_5(item) for item in value] if isinstance(value, list) else value


def _compile_default(rule: Any) -> Predicate:
    try:
        return compile_rule(fold_rule(rule))
    except RecursionError:
        raise RuleError("operations are nested too deep") from None


class _WithBudget(dict[Any, Any]):
    """Prepared properties of a check whose reads are counted: all its rules share one budget."""

    __slots__ = ("budget",)

    def __init__(self, properties: Properties, budget: Budget) -> None:
        super().__init__(properties)
        self.budget = budget


def _prepare_json_logic(properties: Properties) -> Properties:
    """Casefold properties as mixpanel 5.x does; with lists or dicts among them, attach a budget.

    The package has no operator that iterates: its work is proportional to what a rule reads. The
    few reads of a small flag need no counting as long as every value is a scalar.
    """
    budget = current_budget()
    if budget is None and _SCALARS.issuperset(map(type, properties.values())):
        return {
            key.casefold() if type(key) is str else fold_key(key): (
                value.casefold() if type(value) is str else value
            )
            for key, value in properties.items()
        }
    return _WithBudget(fold_like_mixpanel_5(properties), budget or Budget())


def _compile_json_logic(
    rule: Any, *, run: Callable[[Any, Any], Any], run_counted: Callable[[Any, Any], Any]
) -> Predicate:
    folded = fold_rule(rule)

    def test(properties: Properties) -> bool:
        if type(properties) is dict:
            return bool(run(folded, properties))
        budget = cast("_WithBudget", properties).budget
        return bool(budget.run(run_counted, folded, properties))

    return test


def _load_json_logic(*, count_reads: bool = False) -> ModuleType:
    """Load a private copy of json_logic, whose table of operators is global to the module.

    With `count_reads`, the values that a rule reads are charged to the current budget.
    """
    from importlib import metadata, util

    try:
        version = metadata.version("json-logic")
    except metadata.PackageNotFoundError:
        version = ""
    if tuple(map(int, re.findall(r"\d+", version)[:2])) < JSON_LOGIC_MIN_VERSION:
        raise RuleEngineError(
            'rule_engine="json-logic" requires json-logic>=0.7.0a0, but '
            f"{version or 'no version'} is installed: run `pip install 'json-logic>=0.7.0a0'`"
        )
    owners = set(metadata.packages_distributions().get("json_logic", ())) - {"json-logic"}
    if owners:
        raise RuleEngineError(
            "the module json_logic belongs to several installed packages: json-logic and "
            f"{', '.join(sorted(owners))}; uninstall them all, then install json-logic again"
        )
    spec = util.find_spec("json_logic")
    if spec is None or spec.origin is None or spec.loader is None:
        raise RuleEngineError(
            "json-logic is installed, but its module json_logic is missing: reinstall it"
        )
    spec = util.spec_from_file_location(f"{__name__}._json_logic", spec.origin)
    if spec is None or spec.loader is None:
        raise RuleEngineError("the module json_logic cannot be loaded: reinstall json-logic")
    module = util.module_from_spec(spec)
    spec.loader.exec_module(module)
    names = vars(module)
    operations = names["operations"]
    operations |= {
        "semver_compare": semver_compare,
        "datetime_compare": datetime_compare,
        "%": _limited_remainder(operations["%"]),
    }
    if count_reads:
        names["get_var"] = _counted_reads(names["get_var"])
    return module


def _counted_reads(get_var: Callable[..., Any]) -> Callable[..., Any]:
    """Charge for the values that a rule reads."""

    def counted(data: Any, *names: Any) -> Any:
        found = get_var(data, *names)
        charge_items(found)
        return found

    return counted


def _limited_remainder(remainder: Callable[..., Any]) -> Callable[..., Any]:
    """Refuse texts that Python's `%` would format to any width: "%1000000000d" takes a gigabyte.

    The package applies `%` to texts as well as to numbers.
    """

    def limited(a: Any, b: Any) -> Any:
        if isinstance(a, str) and (len(a) > MAX_FORMAT_LENGTH or _WIDE_FORMAT.search(a)):
            raise RuleError("% cannot be applied to a text with a format of arbitrary width")
        return remainder(a, b)

    return limited
