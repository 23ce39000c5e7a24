"""The two rule engines and the official SDK agree, except for documented differences."""

import json
import random
import subprocess
from functools import cache
from math import isnan

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mixpanel.flags import evaluate, explain, parse_definitions
from mixpanel.flags._evaluation.evaluate import evaluate_flag
from mixpanel.flags._rules import engines
from mixpanel.flags._rules.casefolding import fold
from mixpanel.flags._rules.compiler import _value
from tests import peers
from tests.effort import cases

pytestmark = pytest.mark.slow

RAISED = "raised"
quiet = settings(derandomize=True, max_examples=cases(200, 5000))

OPERATORS = ["!", "!!", "!=", "!==", "%", "*", "+", "-", "/", "<", "<=", "==", "===", ">", ">="]
OPERATORS += [
    "?:",
    "and",
    "cat",
    "if",
    "in",
    "max",
    "merge",
    "min",
    "missing",
    "missing_some",
    "or",
]
OPERATORS += ["var", "semver_compare", "datetime_compare"]

TEXTS = ["", " ", "a", "b", "abc", "0", "1", "5", "5.0", "05", "1e3", "true", "none", "x", "x.y"]
atoms = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-6, 6),
    st.sampled_from([0.0, 0.5, 1.0, 5.0, -2.5, 1e21]),
    st.sampled_from(TEXTS),
)
values = st.one_of(
    atoms,
    st.lists(atoms, max_size=3),
    st.dictionaries(st.sampled_from(["x", "y", "a"]), atoms, max_size=2),
)


@cache
def engine(name):
    """Return an engine, loaded once for all tests."""
    return engines.engine(name)


@cache
def json_logic():
    """Return json-logic's own evaluation, with our two operators in it."""
    return engines._load_json_logic().jsonLogic


def ours(rule, data):
    """Return the value of a rule in the default engine."""
    return _value(engines.fold_rule(rule), fold)(data)


def theirs(rule, data):
    """Return the value of a rule in json-logic, or that it raises."""
    try:
        return json_logic()(engines.fold_rule(rule), engines.fold_like_mixpanel_5(data))
    except Exception:
        return RAISED


def same(a, b):
    """Return True if two values are the same JSON: 5 is 5.0, true is not 1."""
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, float) and isinstance(b, float) and isnan(a):
        return isnan(b)
    return isinstance(a, bool) == isinstance(b, bool) and a == b


def is_number(value):
    return isinstance(value, int | float) and not isinstance(value, bool)


def is_container(value):
    return isinstance(value, list | dict)


def pair(operands, one, other):
    """Return True if the first two operands are of two kinds, in either order."""
    a, b = [*operands, None, None][:2]
    return (one(a) and other(b)) or (one(b) and other(a))


def is_text(value):
    return isinstance(value, str)


def is_bool(value):
    return isinstance(value, bool)


def is_false(value):
    return value is False


def is_none(value):
    return value is None


def is_scalar(value):
    return is_number(value) or is_bool(value)


def any_container(operands):
    return any(map(is_container, operands))


EQUALITY, STRICT, ORDER = {"==", "!="}, {"===", "!=="}, {"<", "<=", ">", ">="}
ARITHMETIC = {"+", "-", "*", "/", "%"}

# The named differences: operator and operands (and what json-logic made of them) -> is it this one?
DIFFERENCES = {
    "numbers are compared as numbers, not as they are written": lambda op, v, r: (
        op in EQUALITY | ORDER and pair(v, is_text, is_scalar)
    ),
    "a list equals its text, and no other list": lambda op, v, r: (
        op in EQUALITY | STRICT and any_container(v[:2])
    ),
    "a boolean is 0 or 1, and no other number": lambda op, v, r: (
        op in EQUALITY | ORDER and pair(v, is_bool, is_number)
    ),
    "null is not false": lambda op, v, r: op in EQUALITY and pair(v, is_false, is_none),
    "5 is 5.0": lambda op, v, r: op in STRICT and pair(v, is_number, is_number),
    "what cannot be ordered fails its clause, not the rule": lambda op, v, r: (
        op in ORDER and r == RAISED
    ),
    "lists are not ordered": lambda op, v, r: op in ORDER and any_container(v),
    "operands too many are ignored": lambda op, v, r: op in ORDER and len(v) > 2,
    "operands too many or too few are no error": lambda op, v, r: (
        r == RAISED and op in {"!", "!!", "in", "%", "-", "/", "?:", "var"} | EQUALITY | STRICT
    ),
    "and and or of nothing are null": lambda op, v, r: op in {"and", "or"} and not v,
    "text may hold anything": lambda op, v, r: op == "in" and len(v) > 1 and is_text(v[1]),
    "in a list only the very same is found, and in an object nothing": lambda op, v, r: (
        op == "in" and len(v) > 1 and is_container(v[1])
    ),
    "null and empty text are missing": lambda op, v, r: op in {"missing", "missing_some"},
    "an object is true": lambda op, v, r: op in {"!", "!!", "and", "or", "if", "?:"} and {} in v,
    "arithmetic has a value for everything": lambda op, v, r: op in ARITHMETIC and r == RAISED,
    "parseFloat reads no booleans": lambda op, v, r: op in {"+", "*"} and any(map(is_bool, v)),
    "a remainder has the sign of the dividend": lambda op, v, r: op == "%",
    "a quotient needs a divisor": lambda op, v, r: op == "/" and v[1:2] in ([], [None]),
    "least and greatest are numbers": lambda op, v, r: (
        op in {"min", "max"} and not (v and all(map(is_number, v)))
    ),
    "text is written as in JavaScript": lambda op, v, r: (
        op == "cat" and not all(isinstance(each, str) for each in v)
    ),
    "a path ends as in JavaScript": lambda op, v, r: op == "var",
}


@quiet
@given(
    operator=st.sampled_from(OPERATORS),
    operands=st.lists(values, max_size=4),
)
def test_operators_agree_except_for_named_differences(operator, operands):
    """Every operator has the same value in both engines, or the difference has a name."""
    names = [f"v{i}" for i in range(len(operands))]
    data = {**dict(zip(names, operands, strict=True)), "unused": 1}
    rule = {operator: [{"var": name} for name in names]}
    if operator == "missing_some" and not (len(operands) == 2 and isinstance(operands[1], list)):
        return

    mine, other = ours(rule, data), theirs(rule, data)

    if not same(mine, other):
        named = {name for name, is_it in DIFFERENCES.items() if is_it(operator, operands, other)}
        assert named, (rule, data, mine, other)


# Rules as people write them: typed operands that no difference touches.
texts = st.sampled_from([{"var": "t0"}, {"var": "T1"}, "a", "B", "abc"])
numbers = st.recursive(
    st.sampled_from([{"var": "n0"}, {"var": "n1"}, {"var": ["nope", 3]}, 0, 1, 5]),
    lambda inner: st.one_of(
        st.tuples(st.sampled_from(["+", "-", "*", "min", "max"]), inner, inner).map(
            lambda each: {each[0]: [each[1], each[2]]}
        ),
        inner.map(lambda each: {"-": [each]}),
    ),
    max_leaves=4,
)
versions = st.sampled_from([{"var": "v"}, "1.2.3", "v1.3.0-rc.1", "1", "nope"])
symbols = st.sampled_from(["===", "!==", "<", "<=", ">", ">="])
clauses = st.one_of(
    st.tuples(st.sampled_from(["==", "!=", *ORDER]), numbers, numbers).map(
        lambda each: {each[0]: [each[1], each[2]]}
    ),
    st.tuples(st.sampled_from(["<", "<="]), numbers, numbers, numbers).map(
        lambda each: {each[0]: list(each[1:])}
    ),
    st.tuples(st.sampled_from([*EQUALITY, *STRICT, *ORDER]), texts, texts).map(
        lambda each: {each[0]: [each[1], each[2]]}
    ),
    st.tuples(texts, st.lists(texts.filter(is_text), max_size=3)).map(lambda each: {"in": [*each]}),
    st.tuples(texts, texts).map(lambda each: {"in": [*each]}),
    st.tuples(texts, texts, texts).map(lambda each: {"==": [{"cat": [*each[:2]]}, each[2]]}),
    st.tuples(texts, texts).map(lambda each: {"in": [each[0], {"merge": [each[1], {"var": "l"}]}]}),
    st.tuples(versions, symbols, versions).map(lambda each: {"semver_compare": [*each]}),
    st.tuples(symbols, st.integers(-5000, 5000)).map(
        lambda each: {"datetime_compare": [{"var": "d"}, *each]}
    ),
    st.tuples(numbers, st.integers(1, 5)).map(lambda each: {"==": [{"/": [*each]}, 1]}),
    st.integers(1, 5).map(lambda each: {"==": [{"%": [{"var": "n1"}, each]}, 1]}),
    st.just({"missing": ["n0", "nope"]}),
    st.integers(0, 3).map(lambda each: {"missing_some": [each, ["n0", "t0", "nope"]]}),
)
whole_rules = st.recursive(
    clauses,
    lambda inner: st.one_of(
        st.tuples(st.sampled_from(["and", "or"]), st.lists(inner, min_size=1, max_size=4)).map(
            lambda each: {each[0]: each[1]}
        ),
        st.tuples(st.sampled_from(["!", "!!"]), inner).map(lambda each: {each[0]: [each[1]]}),
        st.tuples(st.sampled_from(["if", "?:"]), inner, inner, inner).map(
            lambda each: {each[0]: list(each[1:])}
        ),
    ),
    max_leaves=6,
)
properties = st.fixed_dictionaries(
    {
        "N0": st.integers(-3, 6),
        "n1": st.integers(0, 6),
        "t0": st.sampled_from(["A", "b", "c", "ABC"]),
        "T1": st.sampled_from(["a", "B", "xyz"]),
        "v": st.sampled_from(["1.2.3", "2.0.0-rc.1", "?"]),
        "d": st.sampled_from(["1970-01-01T00:00:01Z", "1970-01-01T00:00:01.5+00:01", "?"]),
        "l": st.lists(st.sampled_from(["a", "B"]), max_size=2),
    }
)


@quiet
@given(rule=whole_rules, data=properties)
def test_typed_rules_agree(rule, data):
    """A rule that compares values of the same type has the same result in both engines."""
    results = [
        each.compile(rule)(each.prepare(data)) for each in map(engine, ("default", "json-logic"))
    ]

    assert results[0] == results[1]


class Wild:
    """Make random definitions, contexts and rules, including nonsensical ones."""

    def __init__(self, seed):
        self.random = random.Random(seed)

    def one(self, *choices):
        return self.random.choice(choices)

    def value(self, depth=2):
        kind = self.random.randrange(12 if depth else 8)
        if kind < 3:
            return self.one(*TEXTS, "Pro", "É", "1.2.3", "2026-11-20T00:00:00Z")
        if kind < 5:
            return self.random.randint(-5, 5)
        if kind < 8:
            return self.one(None, True, False, 0.5, 5.0, 1e21)
        if kind < 10:
            return [self.value(depth - 1) for _ in range(self.random.randrange(3))]
        names = self.random.sample(["x", "Y", "plan", "a.b"], 2)
        return {name: self.value(depth - 1) for name in names}

    def rule(self, depth=3):
        if depth and self.random.random() < 0.9:
            operands = [self.rule(depth - 1) for _ in range(self.one(1, 2, 2, 2, 3, 4))]
            return {self.one(*OPERATORS, "and", "or", "==", "===", "in"): operands}
        if self.random.random() < 0.6:
            return {"var": self.one("x", "Y", "plan", "x.y", "plan.0", "nope", "a.b")}
        return self.value()

    def rollout(self, variants):
        rollout = {"rollout_percentage": self.one(0.0, 0.01, 0.29, 0.5, 0.995, 1.0, 1.0)}
        if self.random.random() < 0.5:
            rollout["runtime_evaluation_rule"] = self.rule(self.random.randint(1, 3))
        elif self.random.random() < 0.2:
            rollout["runtime_evaluation_definition"] = {
                self.one("x", "y", "Plan"): self.one(*TEXTS)
            }
        if self.random.random() < 0.2:
            rollout["variant_override"] = {"key": self.one(*variants, "A", "nope", "")}
        if self.random.random() < 0.3:
            rollout["variant_splits"] = {key: self.one(0.0, 0.01, 0.05, 0.5) for key in variants}
        return rollout

    def flag(self, key):
        keys = self.random.sample(["a", "b", "B", "é", "control", "10", "9"], self.one(1, 2, 3, 3))
        splits = [self.one(0.0, 0.01, 0.05, 0.1, 0.3, 0.5, 1.0) for _ in keys]
        ruleset = {
            "variants": [
                {"key": name, "value": self.value(1), "is_control": False, "split": split}
                for name, split in zip(keys, splits, strict=True)
            ],
            "rollout": [self.rollout(keys) for _ in range(self.one(0, 1, 1, 2, 3))],
        }
        if self.random.random() < 0.3:
            ruleset["test"] = {"users": {f"u{self.random.randrange(9)}": self.one(*keys, "nope")}}
        return {
            "id": "1",
            "name": key,
            "key": key,
            "status": "enabled",
            "project_id": 1,
            "context": self.one("distinct_id", "distinct_id", "company"),
            "experiment_id": self.one(None, "e1"),
            "hash_salt": self.one(None, "", "salt", "ü"),
            "ruleset": ruleset,
        }

    def context(self):
        context = {"distinct_id": self.one(f"u{self.random.randrange(500)}", "é", "", 7, None)}
        if self.random.random() < 0.5:
            context["company"] = self.one("Acme", "acme", 0, 1.0, True)
        if self.random.random() < 0.9:
            names = self.random.sample(["x", "Y", "plan", "PLAN", "A.b", "y"], self.one(0, 2, 4))
            context["custom_properties"] = {name: self.value() for name in names}
        return context

    def broken(self, value):
        """Damage a value somewhere."""
        if isinstance(value, dict) and value and self.random.random() < 0.8:
            key = self.one(*value)
            return {**value, key: self.broken(value[key])}
        if isinstance(value, list) and value and self.random.random() < 0.8:
            at = self.random.randrange(len(value))
            return [*value[:at], self.broken(value[at]), *value[at + 1 :]]
        return self.one(None, "?", -1, 1e400, [], {}, True, [None], {"key": 5}, "\ud800")


@pytest.mark.parametrize("rule_engine", ["default", "json-logic"])
def test_random_definitions_raise_nothing(rule_engine):
    """Whatever definitions and contexts hold, the result is a variant or a reason."""
    wild, definitions, decided = Wild(7), None, set()
    for i in range(cases(2000, 20_000)):
        flag = wild.flag(f"f{i}")
        flag = wild.broken(flag) if i % 4 == 0 else flag
        context = wild.broken(wild.context()) if i % 5 == 0 else wild.context()

        definitions = parse_definitions(
            {"flags": [flag]}, rule_engine=rule_engine, previous=definitions
        )
        result = evaluate_flag(definitions, f"f{i}", context)

        assert (result.fallback_reason is None) == (result.variant_source == "local")
        decided.add(result.fallback_reason.kind if result.fallback_reason else "chosen")
        if i % 20 == 0:
            assert result == explain(definitions, f"f{i}", context).selected
    expected = {"chosen", "NO_ROLLOUT_MATCH", "MISSING_CONTEXT_KEY", "FLAG_NOT_FOUND"}
    assert expected | {"PARSE_ERROR", "RULE_ERROR"} <= decided


def test_the_default_engine_never_fails_a_rule():
    """A rule whose operators are known has a value for any JSON."""
    wild = Wild(11)
    compile_rule = engine("default").compile
    for _ in range(cases(2000, 20_000)):
        test = compile_rule({"and": [wild.rule()]})
        properties = {"x": wild.value(), "y": wild.value(), "plan": wild.value()}

        assert isinstance(test(properties), bool)


OFFICIAL = """
import datetime, json, logging, sys
import httpx
from mixpanel.flags.local_feature_flags import LocalFeatureFlagsProvider
from mixpanel.flags.types import LocalFlagsConfig, SelectedVariant

logging.disable(logging.CRITICAL)
provider = LocalFeatureFlagsProvider(
    "token", LocalFlagsConfig(enable_polling=False), "5.4.1", lambda *_: None
)
now = datetime.datetime.now()
answers = []
for flag, contexts in json.load(sys.stdin):
    request = httpx.Request("GET", "https://localhost/")
    response = httpx.Response(200, json={"flags": [flag]}, request=request)
    provider._handle_response(response, now, now)
    for context in contexts:
        try:
            got = provider.get_variant("f", SelectedVariant(variant_value=None), context, False)
            reason = got.fallback_reason and got.fallback_reason.kind
            answers.append([got.variant_key, got.variant_value, got.experiment_id, reason])
        except Exception as error:
            answers.append(["raised", type(error).__name__, None, None])
json.dump(answers, sys.stdout)
"""


def test_json_logic_engine_agrees_with_the_official_sdk():
    """Random definitions with three users each have the variants of mixpanel 5.4.1."""
    official = peers.python("official")
    if not official.exists():
        pytest.skip("the official SDK is not installed: python -m tests.peers official")
    wild = Wild(13)
    flags = [wild.flag("f") for _ in range(cases(1000, 10_000))]
    drawn = [(flag, [wild.context() for _ in range(3)]) for flag in flags]

    # Isolated, or it would import our mixpanel from the working directory.
    command = [official, "-I", "-c", OFFICIAL]
    ran = subprocess.run(command, input=json.dumps(drawn).encode(), stdout=-1, check=True)

    expected = iter(json.loads(ran.stdout))
    definitions, kinds, raised = None, set(), set()
    for flag, contexts in drawn:
        definitions = parse_definitions(
            {"flags": [flag]}, rule_engine="json-logic", previous=definitions
        )
        for context in contexts:
            key, value, experiment, reason = next(expected)
            result = evaluate(definitions.flags["f"], context)
            kind = result.fallback_reason and result.fallback_reason.kind
            if key == "raised":
                raised.add(value)
                continue
            mine = [result.variant_key, result.variant_value, result.experiment_id]
            kind = "NO_ROLLOUT_MATCH" if kind == "RULE_ERROR" else kind
            assert [key, value, experiment, reason] == [*mine, kind], (flag, context)
            kinds.add(kind)
    assert kinds == {None, "NO_ROLLOUT_MATCH", "MISSING_CONTEXT_KEY"}
    assert raised == {"AttributeError"}, "a legacy rule on a property that is no text"
