"""Mixpanel's expression language as DuckDB SQL, row by row of its documented table."""

import json
import math
import re

import duckdb
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mixpanel.data.analysis.expressions import (
    ExpressionError,
    Names,
    Value,
    compile_condition,
    compile_expression,
)

UNDEFINED = None
ROW = {
    "s": "abc",
    "one": "1",
    "n": 1,
    "half": 2.5,
    "neg": -7,
    "zero": 0,
    "yes": True,
    "word": "true",
    "null": None,
    "list": [1, 2],
    "objects": [{"a": "x", "b": 1}, {"a": "z", "b": 2}],
    "day": "2026-01-02T03:04:05",
    'a/b~c"d\\e': 5,
    "": "empty",
    "nul": "a\0b",
    "line": "a\u2028b",
}
EVENT = Names(columns={"$time": Value(number="1767322800", set_when="true", is_time=True)})


@pytest.fixture(scope="module")
def table():
    """A table of one row, with every type in it."""
    with duckdb.connect() as connection:
        connection.execute("create table rows as select ?::json as p", [json.dumps(ROW)])
        yield connection


def evaluate(table, text):
    """Return what an expression is in the row: a number, string or boolean, or undefined."""
    compiled = compile_expression(text, {"properties": Names("p"), "event": EVENT})
    value = compiled.value
    body = []
    for column in (value.number, value.text, value.boolean):
        names = set(re.findall(r"\$(x\d+)", column or ""))
        parameters = {name: compiled.parameters[name] for name in names}
        body += table.execute(f"select {column or 'null'} from rows", parameters).fetchone()
    present = [each for each in body if each is not None]
    assert len(present) <= 1
    return present[0] if present else UNDEFINED


@pytest.mark.slow
@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('"a"', "a"),
        ("1", 1),
        ("true", True),
        ("null", UNDEFINED),
        ("undefined", UNDEFINED),
        ('properties["s"]', "abc"),
        ('properties["half"]', 2.5),
        ('properties["yes"]', True),
        ('properties["null"]', UNDEFINED),
        ('properties["list"]', UNDEFINED),
        ('properties["missing"]', UNDEFINED),
        # == and != are always boolean, and false and true across types
        ('properties["n"] == 1', True),
        ('properties["n"] == "1"', False),
        ('properties["one"] == 1', False),
        ('properties["yes"] == true', True),
        ('properties["yes"] == 1', False),
        ('properties["missing"] == 1', False),
        ('properties["n"] != "1"', True),
        ('properties["missing"] != 1', True),
        ('properties["missing"] == undefined', True),
        ('properties["n"] == null', False),
        ('properties["list"] == properties["list"]', False),
        # order is for two numbers
        ('properties["n"] < 2', True),
        ("2 >= 2", True),
        ('"a" < "b"', UNDEFINED),
        ('properties["one"] > 0', UNDEFINED),
        ('properties["yes"] > 0', UNDEFINED),
        # and for dates through datetime()
        ('properties["day"] > datetime("2026-01-01")', True),
        ('datetime(properties["day"]) == datetime("2026-01-02T03:04:05Z")', True),
        ('event["$time"] >= datetime("2026-01-02T03:00:00")', True),
        ('event["$time"] < datetime(1767322801)', True),
        ('properties["s"] > datetime("2026-01-01")', UNDEFINED),
        # + adds two numbers or joins two strings
        ('properties["n"] + 1', 2),
        ('properties["s"] + "d"', "abcd"),
        ('properties["s"] + 1', UNDEFINED),
        ("true + 1", UNDEFINED),
        # - * / % take two numbers
        ("7 - 2 * 3", 1),
        ('properties["s"] * 2', UNDEFINED),
        ("5 / 2", 2.5),
        ('5 / properties["zero"]', UNDEFINED),
        ("5 % 0", UNDEFINED),
        ('properties["neg"] % 3', -1),
        ("7 % -3", 1),
        # in looks into a string or a list literal
        ('"b" in properties["s"]', True),
        ('"B" in properties["s"]', False),
        ('1 in properties["s"]', UNDEFINED),
        ('"a" in properties["n"]', UNDEFINED),
        # or into the values of a list property, each with its own type
        ('1 in properties["list"]', True),
        ('"1" in properties["list"]', False),
        ('3 in properties["list"]', False),
        ('properties["one"] in properties["list"]', False),
        ('3 not in properties["list"]', True),
        ('properties["missing"] in properties["list"]', False),
        ('properties["n"] in [1, "x"]', True),
        ('properties["n"] in ["1"]', False),
        ('properties["n"] in []', False),
        ('properties["missing"] in [1]', False),
        ('properties["n"] not in [2]', True),
        # what inline filters need besides
        ('_starts_with(properties["s"], "ab")', True),
        ('_starts_with(properties["s"], "b")', False),
        ('_ends_with(properties["s"], "bc")', True),
        ('_ends_with(properties["n"], "1")', UNDEFINED),
        ('_any_item(properties["objects"], "a", ["x", "y"])', True),
        ('_any_item(properties["objects"], "a", ["x"], "b", ["2"])', False),
        ('_all_items(properties["objects"], "a", ["x"])', False),
        ('_all_items(properties["objects"], "a", ["x", "z"])', True),
        ('_any_item(properties["list"], "a", ["x"])', False),
        ('_any_item(properties["missing"], "a", ["x"])', UNDEFINED),
        # and, or, not: undefined counts as false
        ('properties["missing"] and true', False),
        ('properties["missing"] or true', True),
        ('properties["n"] == 1 and properties["s"] == "abc"', True),
        ('not properties["missing"]', True),
        ('not properties["yes"]', False),
        ('not properties["s"]', UNDEFINED),
        ("not 1", UNDEFINED),
        ('not "a" < "b"', True),
        # a sign and roundings take a number
        ('-properties["half"]', -2.5),
        ('-properties["s"]', UNDEFINED),
        ("floor(-2.5)", -3),
        ("ceil(2.1)", 3),
        ("round(2.4)", 2),
        ("round(true)", UNDEFINED),
        # string()
        ("string(1)", "1"),
        ("string(1.5)", "1.5"),
        ("string(true)", "true"),
        ('string(properties["s"])', "abc"),
        ('string(properties["null"])', UNDEFINED),
        ('string(properties["n"]) == properties["one"]', True),
        # number()
        ('number("1.5")', 1.5),
        ('number(" -2e3 ")', -2000),
        ('number("inf")', UNDEFINED),
        ('number("1x")', UNDEFINED),
        ('number("")', UNDEFINED),
        ("number(true)", 1),
        ("number(false)", 0),
        ('number(properties["null"])', UNDEFINED),
        # boolean()
        ('boolean(properties["word"])', True),
        ('boolean("false")', False),
        ('boolean("yes")', UNDEFINED),
        # defined()
        ('defined(properties["zero"])', True),
        ('defined(properties["list"])', True),
        ('defined(properties["null"])', False),
        ('defined(properties["missing"])', False),
        # precedence as in Python
        ("1 + 2 * 3 == 7 and not 1 > 2", True),
        # names and strings of every kind
        ('properties["a/b~c\\"d\\\\e"]', 5),
        ('properties[""]', "empty"),
        ('properties["nul"] == "a\\u0000b"', True),
        ('properties["line"] == "a\u2028b"', True),
        ('"\\d"', "\\d"),
        ('"\\ud83d\\ude00"', "\N{GRINNING FACE}"),
        ("'single'", "single"),
    ],
)
def test_each_construct_has_the_documented_value(table, text, expected):
    """Undefined included."""
    found = evaluate(table, text)
    assert (expected, isinstance(expected, bool)) == (found, isinstance(found, bool))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("text", "message", "position"),
    [
        ("", "cannot read", 1),
        ("plan", "unknown name 'plan'", 1),
        ('1 == prop["x"]', "unknown name 'prop'", 6),
        ('"äö" == prop["x"]', "unknown name 'prop'", 9),
        ("properties.plan", "Attribute is not part", 1),
        ("properties[plan]", "brackets hold one string", 1),
        ('event["plan"]', "event has no 'plan'; it has '\\$time'", 1),
        ("1 < 2 < 3", "cannot be chained", 1),
        ('properties["a"] = 1', "cannot read", 17),
        ("2 ** 3", "only the operators", 1),
        ("1 is 1", "only the comparisons", 1),
        ("1 and true", "joins conditions", 1),
        ("[1]", "on the right of `in`", 1),
        ("sleep(1)", "unknown function 'sleep'", 1),
        ('__import__("os")', "unknown function", 1),
        ("round(1, 2)", "takes one value", 1),
        ('f"{1}"', "JoinedStr", 1),
        ("1 if true else 2", "IfExp", 1),
        ("lambda: 1", "Lambda", 1),
        ("1j", "not part", 1),
        ('datetime("soon")', "not an ISO 8601", 10),
        ('"\\ud800"', "an unpaired surrogate", 1),
        ("1" * 400, "too large", 1),
        ("1" * 5000, "cannot read", None),
        ("(" * 500, "cannot read", None),
        ("-" * 9000 + "1", "nested too deeply", 1),
        ("1 +" * 9000 + "1", "longer than", None),
        ("a\0b", "cannot read", 1),
    ],
)
def test_a_syntax_error_names_its_reason_and_position(text, message, position):
    """Nothing is ever executed."""
    with pytest.raises(ExpressionError, match=message) as caught:
        compile_expression(text, {"properties": Names("p"), "event": EVENT})
    assert position in (None, caught.value.position)


def test_a_condition_must_be_able_to_be_a_boolean():
    """A number cannot be one; a property can."""
    names = {"properties": Names("p")}
    with pytest.raises(ExpressionError, match="must be true or false"):
        compile_condition("1 + 1", names)
    assert compile_condition('properties["yes"]', names).condition.startswith("coalesce(")


def test_and_and_or_of_anything_but_booleans_raise(table):
    """They take booleans and undefined only."""
    with pytest.raises(duckdb.Error, match="joins conditions"):
        evaluate(table, 'properties["s"] and true')


def test_expressions_whose_sql_grows_too_long_raise():
    """Some expressions double with every level of nesting."""
    text = 'properties["s"]'
    for _ in range(40):
        text = f"(not string({text}) == string(boolean({text})))" if len(text) < 5000 else text
    with pytest.raises(ExpressionError, match=r"too complex|nested|longer"):
        compile_expression(text, {"properties": Names("p")})


def test_a_compiled_expression_lists_the_names_it_uses():
    """So that profiles are joined only if they are used."""
    names = {"properties": Names("p"), "user": Names("u")}
    assert {"user"} == compile_expression('defined(user["$email"])', names).uses


@pytest.mark.slow
@given(st.text(), st.text())
def test_names_and_strings_are_never_part_of_the_sql(name, value):
    """They are passed as parameters, whatever they contain."""

    def quoted(text):
        return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'

    text = f"properties[{quoted(name)}] == {quoted(value)}"
    if any(each in text for each in "\0\r\n\f"):
        return
    compiled = compile_condition(text, {"properties": Names("p")})
    plain = compile_condition('properties["n"] == "v"', {"properties": Names("p")})
    assert plain.condition == compiled.condition
    assert value in compiled.parameters.values()


@pytest.mark.slow
@given(dividend=st.floats(allow_nan=False, allow_infinity=False), divisor=st.integers(1, 10**6))
def test_remainders_have_the_sign_of_the_dividend(table, dividend, divisor):
    """As in C and JavaScript, unlike in Python."""
    compiled = compile_expression(f"({dividend!r}) % {divisor}", {})
    sql = f"select {compiled.value.number}"
    expected = [(math.fmod(dividend, divisor),)]
    assert table.execute(sql, compiled.parameters).fetchall() == expected
