"""Runtime rules decide as documented, case by case, under both engines."""

from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from functools import cache
from importlib import metadata
from itertools import cycle, islice
from math import inf, nan

import pytest

from mixpanel.flags._rules import casefolding, engines
from mixpanel.flags._rules.engines import RuleEngineError, compile_legacy
from mixpanel.flags._rules.limits import MAX_DEPTH, RuleError

YES, NO, RAISES, REFUSED = "match", "no match", "raises", "refused"
X, Y = {"var": "x"}, {"var": "y"}


@cache
def loaded(engine):
    """Return an engine, loaded once for all tests."""
    return engines.engine(engine)


def outcome(engine, rule, properties):
    """Return the result of a rule: a match or none, an exception, or an invalid rule."""
    chosen = loaded(engine)
    try:
        test = chosen.compile(rule)
    except RuleError:
        return REFUSED
    try:
        matched = test(chosen.prepare(properties))
    except Exception:
        return RAISES
    assert isinstance(matched, bool)
    return YES if matched else NO


# Each row: name, rule, properties, default engine, json-logic engine (mixpanel 5.x).
CASES = [
    # Comparing with null or missing.
    *[
        (f"{state} {symbol} number", {symbol: [X, 5]}, properties, NO, NO)
        for symbol in ("<", "<=", ">", ">=")
        for state, properties in {"missing": {"y": 1}, "null": {"x": None}}.items()
    ],
    *[
        (f"{state} {symbol} negative number", {symbol: [X, -5]}, properties, NO, NO)
        for symbol in (">", ">=")
        for state, properties in {"missing": {"y": 1}, "null": {"x": None}}.items()
    ],
    ("missing < text", {"<": [X, "b"]}, {"y": 1}, NO, RAISES),
    ("null <= null", {"<=": [X, None]}, {"x": None}, NO, RAISES),
    # Strict equality.
    ("5 === 5.0", {"===": [X, 5]}, {"x": 5.0}, YES, NO),
    ("5 !== 5.0", {"!==": [X, 5]}, {"x": 5.0}, NO, YES),
    ("true === 1", {"===": [X, 1]}, {"x": True}, NO, NO),
    ("true !== 1", {"!==": [X, 1]}, {"x": True}, YES, YES),
    ("text === text in capitals", {"===": [X, "PRO"]}, {"X": "pRo"}, YES, YES),
    ("missing === null", {"===": [X, None]}, {"y": 1}, YES, YES),
    # Fuzzy equality.
    ('"5" == 5.0', {"==": [X, 5.0]}, {"x": "5"}, YES, NO),
    ('"1" == true', {"==": [X, True]}, {"x": "1"}, YES, NO),
    ('"0" == false', {"==": [X, False]}, {"x": "0"}, YES, NO),
    ('"" == 0', {"==": [X, 0]}, {"x": ""}, YES, NO),
    ('1e21 == "1e21"', {"==": [X, "1e21"]}, {"x": 1e21}, YES, NO),
    ('"5" == 5', {"==": [X, 5]}, {"x": "5"}, YES, YES),
    ('5 == "5"', {"==": [X, "5"]}, {"x": 5}, YES, YES),
    ("true == 1", {"==": [X, 1]}, {"x": True}, YES, YES),
    ("0 == false", {"==": [X, False]}, {"x": 0}, YES, YES),
    ("null == null", {"==": [X, None]}, {"x": None}, YES, YES),
    ("missing == null", {"==": [X, None]}, {"y": 1}, YES, YES),
    ('true == "true"', {"==": [X, "true"]}, {"x": True}, NO, NO),
    ("null == 0", {"==": [X, 0]}, {"x": None}, NO, NO),
    ('null == "none"', {"==": [X, "none"]}, {"x": None}, NO, NO),
    ("list == list", {"==": [X, ["a"]]}, {"x": ["a"]}, NO, YES),
    ("list === list", {"===": [X, ["a"]]}, {"x": ["a"]}, NO, YES),
    ('["a"] == "a"', {"==": [X, "a"]}, {"x": ["a"]}, YES, NO),
    ('[5] == "5"', {"==": [X, "5"]}, {"x": [5]}, YES, NO),
    ("true == 5", {"==": [X, 5]}, {"x": True}, NO, YES),
    ("null == false", {"==": [X, False]}, {"x": None}, NO, YES),
    ("missing == false", {"==": [X, False]}, {"y": 1}, NO, YES),
    # Ordering values of different types.
    ('"abc" < 5', {"<": [X, 5]}, {"x": "abc"}, NO, RAISES),
    ('5 > "b"', {">": [X, "b"]}, {"x": 5}, NO, RAISES),
    (
        '"abc" < 5 or true',
        {"or": [{"<": [X, 5]}, {"==": [Y, 1]}]},
        {"x": "abc", "y": 1},
        YES,
        RAISES,
    ),
    (
        'true or "abc" < 5',
        {"or": [{"==": [Y, 1]}, {"<": [X, 5]}]},
        {"x": "abc", "y": 1},
        YES,
        RAISES,
    ),
    ('"2" < 10', {"<": [X, 10]}, {"x": "2"}, YES, YES),
    ('10 > "2"', {">": [X, "2"]}, {"x": 10}, YES, YES),
    ('"2" < "10"', {"<": [X, "10"]}, {"x": "2"}, NO, NO),
    ('"" < 5', {"<": [X, 5]}, {"x": ""}, NO, RAISES),
    ('" " < 5', {"<": [X, 5]}, {"x": " "}, NO, RAISES),
    ('"a" < ["b"]', {"<": [X, ["b"]]}, {"x": "a"}, NO, RAISES),
    ('true < "2"', {"<": [X, "2"]}, {"x": True}, NO, RAISES),
    ("true < 2", {"<": [X, 2]}, {"x": True}, YES, YES),
    ("1 < 2 < 3", {"<": [1, X, 3]}, {"x": 2}, YES, YES),
    ("1 < 3 < 3", {"<": [1, X, 3]}, {"x": 3}, NO, NO),
    ("1 <= 3 <= 3", {"<=": [1, X, 3]}, {"x": 3}, YES, YES),
    ("1 <= 4 <= 3", {"<=": [1, X, 3]}, {"x": 4}, NO, NO),
    ("1 < 2 < 3 < 0", {"<": [1, X, 3, 0]}, {"x": 2}, YES, NO),
    ("3 > 2 > 9", {">": [3, X, 9]}, {"x": 2}, YES, RAISES),
    ("3 >= 3 >= 9", {">=": [3, X, 9]}, {"x": 3}, YES, RAISES),
    ("number in capitals of infinity < 5", {">": [X, 5]}, {"x": "inf"}, NO, YES),
    # In.
    ("missing in text", {"in": [X, "abc"]}, {"y": 1}, NO, RAISES),
    ("1 in text", {"in": [X, "a1"]}, {"x": 1}, YES, RAISES),
    ('"1" in [1]', {"in": [X, [1]]}, {"x": "1"}, NO, NO),
    ("text in null", {"in": ["a", X]}, {"x": None}, NO, NO),
    ("text in missing", {"in": ["a", X]}, {"y": 1}, NO, NO),
    ("5 in [5.0]", {"in": [X, [5.0]]}, {"x": 5}, YES, YES),
    ('"" in text', {"in": [X, "abc"]}, {"x": ""}, YES, YES),
    ("text in text", {"in": ["OX", X]}, {"x": "Box"}, YES, YES),
    ("text in list", {"in": [X, ["DE", "fr"]]}, {"x": "de"}, YES, YES),
    ("text not in list", {"in": [X, ["DE", "fr"]]}, {"x": "us"}, NO, NO),
    ("missing in list", {"in": [X, ["DE", "fr"]]}, {"y": 1}, NO, NO),
    ("number in list of text", {"in": [X, ["5"]]}, {"x": 5}, NO, NO),
    ("null in list with null", {"in": [X, [None]]}, {"x": None}, YES, YES),
    ("true in [1]", {"in": [X, [1]]}, {"x": True}, NO, YES),
    ("text in object", {"in": ["a", X]}, {"x": {"a": 1}}, NO, YES),
    ("list in list of lists", {"in": [X, [["a"]]]}, {"x": ["a"]}, NO, YES),
    # Lists.
    ("some", {"some": [X, {"==": [{"var": ""}, "b"]}]}, {"x": ["A", "B"]}, YES, RAISES),
    ("some over objects", {"some": [X, {">": [{"var": "n"}, 2]}]}, {"x": [{"N": 3}]}, YES, RAISES),
    ("all", {"all": [X, {">": [{"var": ""}, 1]}]}, {"x": [2, 3]}, YES, RAISES),
    ("not all", {"all": [X, {">": [{"var": ""}, 2]}]}, {"x": [2, 3]}, NO, RAISES),
    ("none", {"none": [X, {">": [{"var": ""}, 5]}]}, {"x": [2, 3]}, YES, RAISES),
    ("filter", {"filter": [X, {">": [{"var": ""}, 2]}]}, {"x": [2, 3]}, YES, RAISES),
    ("filter of nothing", {"filter": [X, True]}, {"y": 1}, NO, RAISES),
    ("map", {"in": [4, {"map": [X, {"+": [{"var": ""}, 1]}]}]}, {"x": [2, 3]}, YES, RAISES),
    ("map of no list", {"map": [X, True]}, {"x": "ab"}, NO, RAISES),
    (
        "reduce",
        {"==": [{"reduce": [X, {"+": [{"var": "current"}, {"var": "Accumulator"}]}, 1]}, 6]},
        {"x": [2, 3]},
        YES,
        RAISES,
    ),
    ("reduce of no list", {"==": [{"reduce": [X, True, 7]}, 7]}, {"y": 1}, YES, RAISES),
    ("substr", {"==": [{"substr": [X, 1, 2]}, "el"]}, {"x": "Hello"}, YES, RAISES),
    ("substr from the end", {"==": [{"substr": [X, -2]}, "lo"]}, {"x": "Hello"}, YES, RAISES),
    ("substr to the end", {"==": [{"substr": [X, 1, -2]}, "el"]}, {"x": "Hello"}, YES, RAISES),
    *[
        (f"{name} over {what}", {name: [X, True]}, properties, expected, RAISES)
        for what, properties in {"an empty list": {"x": []}, "missing": {"y": 1}}.items()
        for name, expected in {"some": NO, "all": NO, "none": YES}.items()
    ],
    ("some over text", {"some": [X, True]}, {"x": "abc"}, NO, RAISES),
    # Var.
    ('var ""', {"==": [{"var": ""}, None]}, {"x": 1}, NO, YES),
    ("var null", {"!!": [{"var": None}]}, {"x": 1}, YES, NO),
    ("var of nothing", {"!!": [{"var": []}]}, {"x": 1}, YES, RAISES),
    ('var "a.5" out of range', {"==": [{"var": "a.5"}, None]}, {"a": ["b"]}, YES, RAISES),
    ('var "a.0"', {"==": [{"var": "a.0"}, "b"]}, {"a": ["B"]}, YES, YES),
    ('var "a.-1"', {"==": [{"var": "a.-1"}, "b"]}, {"a": ["b"]}, NO, YES),
    ('var "a.length"', {"==": [{"var": "a.length"}, 2]}, {"a": ["b", "c"]}, YES, NO),
    ('var "a.b" in an object', {"==": [{"var": "A.b"}, "c"]}, {"a": {"B": "C"}}, YES, YES),
    ('var "a.b" with a key "a.b"', {"==": [{"var": "a.b"}, None]}, {"a.b": 1}, YES, YES),
    ("var with a default, missing", {"==": [{"var": ["x", 7]}, 7]}, {"y": 1}, YES, YES),
    ("var with a default, null", {"==": [{"var": ["x", 7]}, None]}, {"x": None}, YES, YES),
    ("var by another var", {"==": [{"var": X}, "z"]}, {"x": "Y", "y": "Z"}, YES, YES),
    ("var by number", {"==": [{"var": 0}, None]}, {"x": 1}, YES, YES),
    # Missing.
    ("missing of null", {"in": ["x", {"missing": ["x"]}]}, {"x": None}, YES, NO),
    ('missing of ""', {"in": ["x", {"missing": ["x"]}]}, {"x": ""}, YES, NO),
    ("missing", {"missing": ["x", "y"]}, {"y": 1}, YES, YES),
    ("nothing missing", {"missing": ["x", "y"]}, {"x": 1, "y": 1}, NO, NO),
    ("missing of a list", {"missing": {"merge": ["x", "y"]}}, {"y": 1}, YES, YES),
    ("enough of some", {"missing_some": [1, ["x", "y"]]}, {"y": 1}, NO, NO),
    ("not enough of some", {"missing_some": [2, ["x", "y"]]}, {"y": 1}, YES, YES),
    # Logic.
    ("and does not look further", {"and": [{"==": [Y, 2]}, {"<": [X, 5]}]}, {"x": "b"}, NO, RAISES),
    (
        "if evaluates only the chosen branch",
        {"if": [True, True, {"<": [X, 5]}]},
        {"x": "b"},
        YES,
        RAISES,
    ),
    ("and of nothing", {"and": []}, {"x": 1}, NO, YES),
    ("or of nothing", {"or": []}, {"x": 1}, NO, NO),
    ("and of one", {"and": [{"==": [X, 1]}]}, {"x": 1}, YES, YES),
    ("and of two", {"and": [{"==": [X, 1]}, {"==": [Y, 2]}]}, {"x": 1, "y": 2}, YES, YES),
    ("and of four", {"and": [X, X, X, Y]}, {"x": 1, "y": 0}, NO, NO),
    ("or", {"or": [{"==": [X, 1]}, {"==": [Y, 2]}]}, {"x": 0, "y": 2}, YES, YES),
    ("and has a value", {"==": [{"and": [X, Y]}, 2]}, {"x": 1, "y": 2}, YES, YES),
    ("or has a value", {"==": [{"or": [X, Y]}, 2]}, {"x": 0, "y": 2}, YES, YES),
    ("if", {"if": [{"==": [X, 1]}, True, False]}, {"x": 1}, YES, YES),
    ("else if", {"if": [{"==": [X, 1]}, False, {"==": [X, 2]}, True, False]}, {"x": 2}, YES, YES),
    ("if without else", {"if": [{"==": [X, 1]}, True]}, {"x": 2}, NO, NO),
    ("if of nothing", {"if": []}, {"x": 2}, NO, NO),
    ("?:", {"?:": [X, False, True]}, {"x": 0}, YES, YES),
    ("not", {"!": [X]}, {"x": 0}, YES, YES),
    ("not, without a list", {"!": X}, {"x": 1}, NO, NO),
    ("not not", {"!!": [X]}, {"x": 1}, YES, YES),
    # Truth.
    ("[] as the result", X, {"x": []}, NO, NO),
    ('"0" as the result', X, {"x": "0"}, YES, YES),
    ("{} as the result", X, {"x": {}}, YES, NO),
    ("NaN as the result", X, {"x": nan}, NO, YES),
    # Arithmetic.
    ("1 / 0", {">": [{"/": [X, 0]}, 10**9]}, {"x": 1}, YES, RAISES),
    ("-1 / 0", {"<": [{"/": [X, 0]}, 0]}, {"x": -1}, YES, RAISES),
    ("0 / 0", {"/": [X, 0]}, {"x": 0}, NO, RAISES),
    ("7 / 2", {"==": [{"/": [X, 2]}, 3.5]}, {"x": 7}, YES, YES),
    ("1 % 0", {"%": [X, 0]}, {"x": 1}, NO, RAISES),
    ("-5 % 3", {"==": [{"%": [X, 3]}, -2]}, {"x": -5}, YES, NO),
    ("5 % 3", {"==": [{"%": [X, 3]}, 2]}, {"x": 5}, YES, YES),
    ("infinity % 3", {"%": [X, 3]}, {"x": inf}, NO, YES),
    ('+ "a"', {"+": [X]}, {"x": "a"}, NO, RAISES),
    ('* "a"', {"*": [X, 2]}, {"x": "a"}, NO, RAISES),
    ("+ of true", {"==": [{"+": [X, 1]}, 2]}, {"x": True}, NO, YES),
    ('"2" + 3', {"==": [{"+": [X, 3]}, 5]}, {"x": "2"}, YES, YES),
    ('+ "3px"', {"==": [{"+": [X]}, 3]}, {"x": "3px"}, YES, RAISES),
    ('"2" * 3', {"==": [{"*": [X, 3]}, 6]}, {"x": "2"}, YES, YES),
    ('"5" - 2', {"==": [{"-": [X, 2]}, 3]}, {"x": "5"}, YES, YES),
    ("- 5", {"==": [{"-": [X]}, -5]}, {"x": 5}, YES, YES),
    ("null - 2", {"==": [{"-": [X, 2]}, -2]}, {"x": None}, YES, RAISES),
    ("min of nothing", {">": [{"min": []}, 10**9]}, {"x": 1}, YES, RAISES),
    ("max of nothing", {"<": [{"max": []}, -(10**9)]}, {"x": 1}, YES, RAISES),
    ('max ["3", 2]', {"==": [{"max": [X, 2]}, 3]}, {"x": "3"}, YES, RAISES),
    ("max of text", {"max": [X, 2]}, {"x": "a"}, NO, RAISES),
    ("max", {"==": [{"max": [X, 2]}, 3]}, {"x": 3}, YES, YES),
    ("min", {"==": [{"min": [X, 2]}, 2]}, {"x": 3}, YES, YES),
    ("max of one number", {"==": [{"max": X}, 3]}, {"x": 3}, YES, YES),
    ("max of one list", {"max": X}, {"x": [2, 3]}, NO, YES),
    # Text.
    ("cat with 1.0", {"==": [{"cat": [X]}, "1"]}, {"x": 1.0}, YES, NO),
    ("cat with true", {"==": [{"cat": [X]}, "true"]}, {"x": True}, YES, NO),
    ("cat with null", {"==": [{"cat": ["a", X]}, "a"]}, {"x": None}, YES, NO),
    ("cat with 0.1", {"==": [{"cat": [X]}, "0.1"]}, {"x": 0.1}, YES, YES),
    ("cat with 1e-7", {"==": [{"cat": [X]}, "1e-7"]}, {"x": 1e-7}, YES, NO),
    ("cat with 0.00001", {"==": [{"cat": [X]}, "0.00001"]}, {"x": 0.00001}, YES, NO),
    ("cat with 1e21", {"==": [{"cat": [X]}, "1e+21"]}, {"x": 10**21}, YES, NO),
    ("cat with 1e20", {"==": [{"cat": [X]}, "100000000000000000000"]}, {"x": 1e20}, YES, NO),
    ("cat with a list", {"==": [{"cat": [X]}, "1,,b"]}, {"x": [1, None, "b"]}, YES, NO),
    ("cat", {"==": [{"cat": [X, "-", 5]}, "a-5"]}, {"x": "A"}, YES, YES),
    ("merge", {"in": [3, {"merge": [X, 3]}]}, {"x": [1, 2]}, YES, YES),
    ("log", {"log": [X]}, {"x": 1}, YES, YES),
    # The shape of rules.
    ("{} as an operand", {"!!": [{}]}, {"x": 1}, YES, RAISES),
    ("two keys as an operand", {"!!": [{"a": 1, "b": 2}]}, {"x": 1}, YES, RAISES),
    ("an operation in a list operand", {"in": ["b", [X]]}, {"x": "b"}, YES, NO),
    ("two operators at the top", {"==": [X, 1], "!": [X]}, {"x": 1}, REFUSED, YES),
    ("a list at the top", [1], {"x": 1}, REFUSED, YES),
    ("true at the top", True, {"x": 1}, REFUSED, YES),
    ("text at the top", "x", {"x": 1}, REFUSED, YES),
    ("an unknown operator", {"nope": [X]}, {"x": 1}, REFUSED, RAISES),
    ("an unknown operator not reached", {"or": [True, {"nope": 1}]}, {"x": 1}, REFUSED, RAISES),
    ("count", {"==": [{"count": [X, Y]}, 1]}, {"x": 1}, REFUSED, YES),
    # Properties.
    (
        "an aware datetime",
        {"datetime_compare": [X, "===", 0]},
        {"x": datetime(1970, 1, 1, 2, tzinfo=timezone(timedelta(hours=2)))},
        YES,
        NO,
    ),
    ("a naive datetime", {"datetime_compare": [X, "===", 0]}, {"x": datetime(1970, 1, 1)}, YES, NO),
    ("a decimal", {"==": [X, 2.5]}, {"x": Decimal("2.5")}, YES, YES),
    ("tuples are lists", {"in": ["A", X]}, {"x": ("A",)}, YES, NO),
    ("lists are folded", {"in": ["A", X]}, {"x": ["A"]}, YES, YES),
    ("a casefolded name wins over others", {"==": [X, 1]}, {"x": 1, "X": 2}, YES, NO),
    ("even without a value", {"==": [X, None]}, {"X": 2, "x": None}, YES, YES),
    ("of other names the last stays", {"==": [{"var": "ab"}, 2]}, {"Ab": 1, "aB": 2}, YES, YES),
    ("a name is found however it is written", {">": [X, 1]}, {"y": 1, "X": 2}, YES, YES),
    ("and so is a path", {"==": [{"var": "x.y"}, 2]}, {"X": {"Y": 2}}, YES, YES),
    ("folding is more than lower case", {"==": [X, "STRASSE"]}, {"x": "Straße"}, YES, YES),
    ("names that are not text", {"==": [X, 1]}, {5: 1, "x": 1}, YES, YES),
]
NAMES = [case[0] for case in CASES]


def test_cases_have_unique_names():
    """A case can be found by its name."""
    assert len(set(NAMES)) == len(NAMES)


def test_default_engine_decides_each_case():
    """The default engine follows Mixpanel's documented types, then JavaScript."""
    decided = {name: outcome("default", rule, data) for name, rule, data, _, _ in CASES}

    assert {name: expected for name, _, _, expected, _ in CASES} == decided


def test_json_logic_engine_decides_each_case_like_mixpanel_5():
    """The opt-in engine keeps every quirk of mixpanel 5.x."""
    decided = {name: outcome("json-logic", rule, data) for name, rule, data, _, _ in CASES}

    assert {name: expected for name, _, _, _, expected in CASES} == decided


SEMVER = [
    ("1.0.0-rc.1", "<", "1.0.0", True),
    ("1.0.0-alpha", "<", "1.0.0-alpha.1", True),
    ("1.0.0-alpha.beta", ">", "1.0.0-alpha.1", True),
    ("1.0.0-2", "<", "1.0.0-10", True),
    ("1.0.0-rc", "<", "1.0.0-1", False),
    ("1.0.0+b", "===", "1.0.0", True),
    (" V2.0.0 ", "===", "2", True),
    ("1.2", "===", "1.2.0", True),
    ("1-rc", "===", "1.0.0-rc", True),
    ("1+b", "===", "1", True),
    ("1.0.0-RC", "===", "1.0.0-rc", True),
    ("12345678901234567890.0.0", "<", "12345678901234567891.0.0", True),
    ("10.0.0", ">", "9.0.0", True),
    ("1.0.0", ">=", "1.0.0", True),
    ("1.0.0", "<=", "0.9.9", False),
    ("1.0.0", "!==", "1.0.1", True),
    ("1.0.0", "==", "1.0.0", False),
    ("1.2.3.4", "!==", "1.0.0", False),
    ("01.2.3", "!==", "1.0.0", False),
    ("1.0.0-01", "!==", "1.0.0", False),
    ("1.", "!==", "1.0.0", False),
    ("1.0.0-", "!==", "1.0.0", False),
    ("", "!==", "1.0.0", False),
    ("v 1", "!==", "1.0.0", False),
    ("vv1", "!==", "1.0.0", False),
    ("\u0661.0.0", "===", "1.0.0", False),
    ("1" * 256, "===", "1" * 256, True),
    ("1" * 257, "===", "1" * 257, False),
    (1, "===", "1.0.0", False),
    (None, "!==", "1.0.0", False),
    ("1.0.0", "<", 2, False),
    ("1.0.0", ["<"], "2.0.0", False),
]
DATETIME = [
    ("1970-01-01T00:00:01Z", "===", 1000, True),
    (" 1970-01-01t00:00:01z ", "===", 1999, True),
    ("1970-01-01T00:00:01.999Z", "===", 1000, True),
    ("1970-01-01T02:00:01+02:00", "===", 1000, True),
    ("1969-12-31T22:30:01-01:30", "===", 1000, True),
    ("1970-01-01T00:00:01-00:00", "===", 1000, True),
    ("1969-12-31T23:59:59Z", "===", -1500, True),
    ("1969-12-31T23:59:59.5Z", "===", -500, False),
    ("1970-01-01T00:00:01Z", ">", 999.9, True),
    ("2026-11-20T00:00:00Z", ">=", 1_700_000_000_000, True),
    ("2026-11-20T00:00:00Z", "<", 1_700_000_000_000, False),
    ("2026-11-20T00:00:00Z", "!==", 0, True),
    ("2026-11-20T00:00:00Z", "!=", 0, False),
    ("1970-01-01 00:00:01Z", "===", 1000, False),
    ("1970-01-01T00:00:01", "!==", 0, False),
    ("1970-02-30T00:00:00Z", "!==", 0, False),
    ("1970-01-01T24:00:00Z", "!==", 0, False),
    ("1970-01-01T00:00:60Z", "!==", 0, False),
    ("0000-01-01T00:00:00Z", "!==", 0, False),
    ("0001-01-01T00:00:00+23:59", "<", 0, True),
    ("1970-01-01T00:00:00+24:00", "!==", 0, False),
    ("1970-01-01T00:00:00+00:60", "!==", 0, False),
    ("\u0661970-01-01T00:00:00Z", "!==", 0, False),
    ("1970-01-01T00:00:00Z", "===", True, False),
    ("1970-01-01T00:00:00Z", "===", "0", False),
    ("1970-01-01T00:00:00Z", "!==", nan, False),
    ("1970-01-01T00:00:00Z", "!==", inf, False),
    ("1970-01-01T00:00:00Z", "<", 2**63, False),
    ("1970-01-01T00:00:00Z", "<", 2**63 - 1, True),
    ("1970-01-01T00:00:00Z", "!==", 10**400, False),
    (0, "===", 0, False),
    (None, "!==", 0, False),
]


@pytest.mark.parametrize("engine", ["default", "json-logic"])
@pytest.mark.parametrize(
    ("name", "rows"), [("semver_compare", SEMVER), ("datetime_compare", DATETIME)]
)
def test_versions_and_times_compare_alike_in_both_engines(engine, name, rows):
    """Mixpanel's own operators have one implementation."""
    for actual, symbol, target, expected in rows:
        rule = {name: [X, symbol, target]}

        decided = outcome(engine, rule, {"x": actual})

        assert (YES if expected else NO) == decided, (actual, symbol, target)


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["default", "json-logic"])
@pytest.mark.parametrize("operands", [[], [X], [X, "==="], [X, "===", "1", "1"]])
def test_own_operators_take_exactly_three_operands(engine, operands):
    """A comparison with another number of operands never matches."""
    for name in ("semver_compare", "datetime_compare"):
        assert outcome(engine, {name: operands}, {"x": "1"}) == NO


@pytest.mark.parametrize(
    ("definition", "properties", "expected"),
    [
        ({"plan": "Pro"}, {"plan": "PRO"}, True),
        ({"plan": "Pro", "country": "de"}, {"plan": "pro", "country": "DE"}, True),
        ({"plan": "Pro", "country": "de"}, {"plan": "pro"}, False),
        ({"Plan": "Pro"}, {"plan": "pro"}, False),
        ({"plan": "5"}, {"plan": 5}, False),
        ({"plan": 5}, {"plan": 5}, False),
    ],
)
def test_legacy_definition_compares_texts(definition, properties, expected):
    """The deprecated form ignores case in texts; its names are lower case."""
    assert expected == compile_legacy(definition)(properties)


def test_legacy_definition_must_be_an_object():
    """A legacy definition of another type is rejected."""
    with pytest.raises(RuleError, match="must be a JSON object"):
        compile_legacy(["plan"])


@pytest.mark.parametrize("engine", ["default", "json-logic"])
def test_rules_ignore_case_in_names_and_texts(engine):
    """On both sides, at any depth."""
    rule = {"==": [{"var": "Address.CITY"}, "PARIS"]}

    assert outcome(engine, rule, {"ADDRESS": {"city": "Paris"}}) == YES


@pytest.mark.slow
@pytest.mark.parametrize("constant", ["b", 5, 2.5, True, None, ["a", "b"], ["a", 1], []])
def test_inline_comparisons_agree_with_the_operators(constant):
    """A comparison of a property with a constant is generated code, with the same result."""
    long_way = {"if": [True, constant]}
    values = [
        None,
        True,
        False,
        0,
        1,
        5,
        5.0,
        2.5,
        nan,
        "",
        "a",
        "B",
        "5",
        "true",
        [],
        ["b"],
        {},
        (),
    ]

    for symbol in ("==", "===", "!=", "!==", "<", "<=", ">", ">=", "in"):
        for properties in [{"x": value} for value in values] + [{"y": 1}]:
            short = outcome("default", {symbol: [X, constant]}, properties)

            assert short == outcome("default", {symbol: [X, long_way]}, properties)


@pytest.mark.slow
@pytest.mark.parametrize("count", [2, 5, 40])
@pytest.mark.parametrize("chain", ["and", "or"])
def test_a_chain_has_the_result_of_its_clauses(chain, count):
    """However long it is, and whatever its texts contain."""
    texts = ["ss", 'it\'s {key0} "quoted"', "", "ǆ", "plan"]
    clauses = [
        [{"==": [X, text]} for text in texts],
        [{"!==": [{"var": "it's {0}"}, text]} for text in texts],
        [{"in": [X, texts[:2]]}, {"==": [X, ["a"]]}, {">=": [X, 18]}, {"!": [{"==": [X, True]}]}],
    ]
    values = ["SS", "ß", "Ss", 'IT\'S {KEY0} "QUOTED"', "", "ǅ", 18, 17.5, True, None, [], ["A"]]
    every = all if chain == "and" else any
    for some in clauses:
        chosen = list(islice(cycle(some), count))
        for properties in [{"x": value} for value in values] + [{"IT'S {0}": "Plan"}]:
            apart = [outcome("default", clause, properties) == YES for clause in chosen]

            assert outcome("default", {chain: chosen}, properties) == (YES if every(apart) else NO)


def test_a_rule_nested_too_deep_is_rejected():
    """A rule cannot exhaust the stack."""
    rule = True
    for _ in range(MAX_DEPTH):
        rule = {"!": [rule]}
    assert outcome("default", rule, {"x": 1}) == YES
    assert outcome("default", {"!": [rule]}, {"x": 1}) == REFUSED
    for _ in range(10_000):
        rule = {"!": [rule]}
    assert outcome("default", rule, {"x": 1}) == REFUSED


def test_the_set_of_casefolded_names_is_bounded(monkeypatch):
    """An application with ever new names does not fill the memory, and its rules still work."""
    monkeypatch.setattr(casefolding, "_MAX_CASEFOLDED_NAMES", 10)
    monkeypatch.setattr(engines, "casefolded_names", names := set())
    monkeypatch.setattr(casefolding, "casefolded_names", names)
    engine = engines.engine()
    test = engine.compile({"==": [X, 1]})

    matched = [test(engine.prepare({f"name{i}": 0, "X": 1})) for i in range(50)]

    assert all(matched)
    assert len(engine.casefolded_names) <= 11


def test_unknown_engine_is_an_error():
    """A mistyped engine name does not fall back to another engine."""
    with pytest.raises(RuleEngineError, match="json_logic"):
        engines.engine("json_logic")


@pytest.mark.parametrize("version", ["0.6.3", "0.6.10", "0.1"])
def test_an_older_json_logic_is_an_error(monkeypatch, version):
    """Older releases give other results than those that mixpanel 5.x accepts."""
    monkeypatch.setattr(metadata, "version", lambda _: version)

    with pytest.raises(RuleEngineError, match=rf"requires json-logic>=0\.7\.0a0, but {version} is"):
        engines.engine("json-logic")


@pytest.mark.slow
@pytest.mark.parametrize("version", ["0.7.0a0", "0.7.0", "0.10.1", "1.0"])
def test_a_later_json_logic_is_accepted(monkeypatch, version):
    """What the official package accepts, its bug-compatible engine accepts too."""
    monkeypatch.setattr(metadata, "version", lambda _: version)

    assert engines.engine("json-logic").compile({"==": [1, 1]})({})


def test_json_logic_not_installed_is_an_error(monkeypatch):
    """The error has the command that installs it."""

    def version(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", version)

    with pytest.raises(RuleEngineError, match="no version is installed: run `pip install"):
        engines.engine("json-logic")


def test_two_packages_with_the_same_module_are_an_error(monkeypatch):
    """Four distributions overwrite each other's json_logic: the error names the other one."""
    owners = {"json_logic": ["json-logic", "panzi-json-logic"]}
    monkeypatch.setattr(metadata, "packages_distributions", lambda: owners)

    with pytest.raises(RuleEngineError, match="panzi-json-logic"):
        engines.engine("json-logic")


def test_json_logic_is_not_shared_with_the_application():
    """Operators added here do not leak into the application's json_logic, nor the reverse."""
    json_logic = pytest.importorskip("json_logic")
    before = dict(json_logic.operations)

    assert outcome("json-logic", {"semver_compare": [X, "===", "1"]}, {"x": "1.0.0"}) == YES
    assert before == json_logic.operations


@pytest.mark.slow
def test_datetimes_are_compared_in_utc():
    """An aware datetime in the properties matches as RFC 3339 text."""
    moment = datetime(2026, 11, 20, 10, tzinfo=UTC)
    rule = {"==": [X, "2026-11-20T10:00:00+00:00"]}

    assert outcome("default", rule, {"x": moment}) == YES
