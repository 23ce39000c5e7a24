"""Expressions are quoted and read correctly, in both of Mixpanel's languages."""

import math
from datetime import UTC, date, datetime
from decimal import Decimal

import duckdb
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mixpanel.data.analysis.expressions import Names, compile_expression
from mixpanel.data.exceptions import ConfigError, ExpressionError
from mixpanel.data.expressions import (
    as_expression,
    ceil,
    defined,
    event_prop,
    floor,
    parse,
    prop,
    round_,
    to_boolean,
    to_filters,
    to_number,
    to_string,
    user_prop,
)

NAMES = {name: Names(json="p") for name in ("properties", "user", "event")}
# What DuckDB and the language both know: any text but surrogates and NUL.
TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))


def value_in(expression, properties="{}"):
    """Return what the emulator's SQL makes of an expression, for one event."""
    compiled = compile_expression(str(expression), NAMES)
    value = compiled.value
    columns = ", ".join(each or "null" for each in (value.number, value.text, value.boolean))
    sql = f"select {columns} from (select $p::json as p)"
    [row] = duckdb.execute(sql, compiled.parameters | {"p": properties}).fetchall()
    return next((each for each in row if each is not None), None)


# ---- text ---------------------------------------------------------------------------------------


@pytest.mark.slow
@given(TEXT)
def test_any_text_survives_as_a_literal(text):
    """The emulator's parser reads back every string unchanged."""
    assert (value_in(as_expression(text)) or "") == text


@pytest.mark.slow
@given(TEXT.filter(bool), TEXT)
def test_any_text_is_read_back_by_our_own_parser(name, text):
    """Names and values keep quotes, backslashes and line breaks."""
    again = parse(str(prop(name) == text))
    assert again.left.name == name
    assert again.right.value == text


@pytest.mark.slow
@given(st.text(st.sampled_from("\\\"'nu0]) or properties["), max_size=30))
def test_a_value_cannot_become_part_of_the_expression(text):
    """A hostile value stays a literal."""
    assert value_in(prop("plan") == text, '{"plan": "team"}') is (text == "team")


LEAVES = st.one_of(
    st.builds(lambda name, value: prop(name) == value, st.sampled_from("ab"), TEXT),
    st.builds(lambda name, value: prop(name) > value, st.sampled_from("ab"), st.integers()),
    st.builds(lambda name: user_prop(name).is_defined(), st.sampled_from("ab")),
    st.builds(lambda values: prop("a").is_in(values), st.lists(TEXT, min_size=1, max_size=3)),
    st.builds(lambda text: prop("b").contains(text), TEXT),
    st.floats(allow_nan=False, allow_infinity=False).map(lambda number: prop("a") + number <= 1.5),
)
CONDITIONS = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.builds(lambda one, two: one & two, inner, inner),
        st.builds(lambda one, two: one | two, inner, inner),
        inner.map(lambda one: ~one),
    ),
    max_leaves=8,
)


@pytest.mark.slow
@given(CONDITIONS)
def test_rendering_and_parsing_are_inverse(condition):
    """Parsed text renders to the same text."""
    assert str(parse(str(condition))) == str(condition)


@pytest.mark.slow
@given(CONDITIONS)
def test_the_emulator_reads_whatever_we_render(condition):
    """No condition that can be built is a syntax error there."""
    compile_expression(str(condition), NAMES)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("expression", "text"),
    [
        (prop("plan") == "team", 'properties["plan"] == "team"'),
        (prop("n") != 1, 'properties["n"] != 1'),
        (prop("n") >= Decimal("1.50"), 'properties["n"] >= 1.50'),
        (prop("n") < -2, 'properties["n"] < (-2)'),
        (prop("b") == True, 'properties["b"] == true'),  # noqa: E712
        (prop("x") == None, 'not defined(properties["x"])'),  # noqa: E711
        (prop("x") != None, 'defined(properties["x"])'),  # noqa: E711
        (prop("x").is_undefined(), 'not defined(properties["x"])'),
        (defined(user_prop("$email")), 'defined(user["$email"])'),
        (prop("x").is_in(["a", 1]), 'properties["x"] in ["a", 1]'),
        (prop("x").contains("ab"), '"ab" in properties["x"]'),
        (5 < prop("x"), 'properties["x"] > 5'),
        (prop("x").between(1, 2), '(properties["x"] >= 1) and (properties["x"] <= 2)'),
        (~(prop("a") == 1), 'not (properties["a"] == 1)'),
        (~~(prop("a") == 1), 'properties["a"] == 1'),
        (prop("a") * 2 + 1 > 3, '((properties["a"] * 2) + 1) > 3'),
        (10 - prop("a") / 2 % 3, '10 - ((properties["a"] / 2) % 3)'),
        (-prop("a"), '-properties["a"]'),
        (1 + prop("a"), '1 + properties["a"]'),
        (2 * prop("a"), '2 * properties["a"]'),
        (1 / prop("a") - 1, '(1 / properties["a"]) - 1'),
        (to_number(prop("a")), 'number(properties["a"])'),
        (to_string(prop("a")), 'string(properties["a"])'),
        (to_boolean(prop("a")), 'boolean(properties["a"])'),
        (floor(prop("a")), 'floor(properties["a"])'),
        (ceil(prop("a")), 'ceil(properties["a"])'),
        (round_(prop("a")), 'round(properties["a"])'),
        (
            event_prop("$time") < datetime(2026, 1, 1, 12, 30),
            'event["$time"] < datetime("2026-01-01T12:30:00")',
        ),
        (
            prop("t") > datetime(2026, 1, 1, tzinfo=UTC),
            'properties["t"] > datetime(1767225600)',
        ),
    ],
    ids=repr,
)
def test_helpers_render_the_documented_language(expression, text):
    """Each helper renders one construct."""
    assert str(expression) == text


@pytest.mark.slow
@pytest.mark.parametrize("operator", ["==", "!=", "<", "<=", ">", ">="])
@pytest.mark.parametrize("moment", ["2026-01-30T23:59:59", "2026-01-31", "2026-01-31T18:00:00"])
@pytest.mark.parametrize("next_day", [False, True])
def test_comparing_with_a_date_compares_the_day(operator, moment, next_day):
    """A time on that day equals the date."""
    if next_day:
        moment = "2026-02-01T00:00:00"
    truth = {
        "==": lambda a, b: a == b, "!=": lambda a, b: a != b, "<": lambda a, b: a < b,
        "<=": lambda a, b: a <= b, ">": lambda a, b: a > b, ">=": lambda a, b: a >= b,
    }[operator]  # fmt: skip
    expression = truth(prop("t"), date(2026, 1, 31))
    expected = truth(datetime.fromisoformat(moment).date(), date(2026, 1, 31))
    assert value_in(expression, f'{{"t": "{moment}"}}') is expected


def test_a_list_of_dates_is_joined_by_or():
    """`in` cannot compare days."""
    condition = prop("t").is_in([date(2026, 1, 1), date(2026, 1, 3)])
    assert value_in(condition, '{"t": "2026-01-03T09:00:00"}') is True
    assert value_in(condition, '{"t": "2026-01-02T09:00:00"}') is False
    assert str(prop("t").is_in([date(2026, 1, 1)])) == str(prop("t") == date(2026, 1, 1))


@pytest.mark.slow
def test_many_conditions_are_joined_without_nesting():
    """Hundreds of them are one level deep, as servers limit the depth."""
    condition = prop("a") == 0
    for number in range(1, 500):
        condition = condition | (prop("a") == number)
    assert value_in(condition, '{"a": 499}') is True


# ---- what is refused ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "make",
    [
        lambda: prop(""),
        lambda: prop(None),
        lambda: prop("\ud800"),
        lambda: prop("a") == "\ud800",
        lambda: as_expression(math.nan),
        lambda: prop("a") > math.inf,
        lambda: prop("a") == b"bytes",
        lambda: prop("a") == ["x"],
        lambda: prop("a").is_in([]),
        lambda: prop("a").is_in("text"),
        lambda: prop("a").contains(5),
        lambda: prop("a") & "text",
        lambda: bool(prop("a") == 1),
        lambda: "x" in prop("a"),
        lambda: 1 < prop("a") < 5,
        lambda: (prop("a") == 1) and (prop("b") == 2),
        lambda: str(prop("a").starts_with("x")),
        lambda: str(prop("a") <= date.max),
    ],
)
def test_operands_that_the_language_cannot_express_raise(make):
    """At the line of the mistake, as a ConfigError."""
    with pytest.raises(ExpressionError) as error:
        make()
    assert isinstance(error.value, ConfigError)
    assert error.value.code == "EXPRESSION_ERROR"


@pytest.mark.parametrize(
    ("text", "position", "about"),
    [
        ("", 1, "empty"),
        ('properties["plan"] = "team"', 20, "write =="),
        ('properties["plan] == 1', 12, "is not closed"),
        ('properties["plan"] == ', 23, "at the end"),
        ('(properties["plan"] == 1', 25, r"expected '\)', not the end"),
        ('properties["plan"] == 1)', 24, "unexpected"),
        ('plan == "team"', 1, "unknown name 'plan'"),
        ('properties[plan] == "team"', 12, "brackets must contain a string"),
        ("lower(1)", 1, "unknown function 'lower'"),
        ("1 < 2 < 3", 7, "cannot be chained"),
        ("true & false", 6, "and, or, not"),
        ("not", 4, "at the end"),
        ("1 in [1, 2", 11, "'the end'|the end"),
        ("1 == #", 6, "not part of the expression language"),
        ('properties[""] == 1', 12, "must not be empty"),
        ('"\\ud800"', 1, "surrogate"),
        ("(" * 150 + "1" + ")" * 150, 101, "nested too deeply"),
    ],
)
def test_a_syntax_error_shows_its_position(text, position, about):
    """Counted from 1, with what to write instead if that is known."""
    with pytest.raises(ExpressionError, match=about) as error:
        parse(text)
    assert error.value.position == position
    assert error.value.details == {"position": position}


def test_parse_accepts_text_only():
    """Anything else raises with its type."""
    with pytest.raises(ExpressionError, match="not int"):
        parse(5)


# ---- filters ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("condition", "kind", "operator", "value"),
    [
        (prop("p") == "team", "string", "equals", ["team"]),
        (prop("p") != "team", "string", "does not equal", ["team"]),
        (~(prop("p") == "team"), "string", "does not equal", ["team"]),
        (prop("p").is_in(["a", "b"]), "string", "equals", ["a", "b"]),
        (~prop("p").is_in(["a", "b"]), "string", "does not equal", ["a", "b"]),
        ((prop("p") == "a") | (prop("p") == "b"), "string", "equals", ["a", "b"]),
        (prop("p").contains("x"), "string", "contains", "x"),
        (~prop("p").contains("x"), "string", "does not contain", "x"),
        (prop("p").starts_with("x"), "string", "starts with", "x"),
        (prop("p").ends_with("x"), "string", "ends with", "x"),
        (prop("p").is_defined(), "string", "is set", None),
        (prop("p").is_undefined(), "string", "is not set", None),
        (prop("p") == True, "boolean", "true", None),  # noqa: E712
        (prop("p") != True, "boolean", "false", None),  # noqa: E712
        (~prop("p"), "boolean", "false", None),
        (prop("p") == 5, "number", "equals", 5),
        (prop("p") > 5, "number", "is greater than", 5),
        (prop("p") < Decimal("1.5"), "number", "is less than", 1.5),
        (prop("p") >= 5, "number", "is at least", 5),
        (parse('5 >= properties["p"]'), "number", "is at most", 5),
        (prop("p") == date(2026, 1, 31), "datetime", "was on", "2026-01-31"),
        (prop("p") != date(2026, 1, 31), "datetime", "was not on", "2026-01-31"),
        (prop("p") < date(2026, 1, 31), "datetime", "was before", "2026-01-31"),
        (prop("p") <= date(2026, 1, 31), "datetime", "was before", "2026-02-01"),
        (prop("p") > date(2026, 1, 31), "datetime", "was since", "2026-02-01"),
        (prop("p") >= date(2026, 1, 31), "datetime", "was since", "2026-01-31"),
    ],
    ids=repr,
)
def test_a_condition_becomes_a_filter(condition, kind, operator, value):
    """With the exact operators of bookmarks."""
    assert to_filters(condition) == [
        {
            "resourceType": "events",
            "filterType": kind,
            "defaultType": kind,
            "filterOperator": operator,
            "filterValue": value,
            "value": "p",
        }
    ]


def test_expression_text_becomes_filters_too():
    """Joined conditions are several filters; profile properties belong to people."""
    filters = to_filters('properties["plan"] == "team" and user["age"] > 30')
    assert [(one["value"], one["resourceType"]) for one in filters] == [
        ("plan", "events"),
        ("age", "people"),
    ]


@pytest.mark.parametrize(
    "condition",
    [
        (prop("a") == "x") | (prop("b") == "y"),
        (prop("a") == "x") & ((prop("b") == "y") | (prop("c") == "z")),
        ~((prop("a") == "x") & (prop("b") == "y")),
        ~(prop("a") > 5),
        prop("a") + 1 > 5,
        prop("a") == prop("b"),
        prop("a").is_in([1, 2]),
        prop("a") > "text",
        prop("a") > datetime(2026, 1, 1),
        to_number(prop("a")) > 5,
        to_boolean(prop("a")),
        parse('properties["a"] == undefined'),
        parse('properties["a"] < true'),
        parse('1 in properties["a"]'),
        event_prop("x") + 1,
        5,
    ],
    ids=repr,
)
def test_conditions_that_filters_cannot_express_raise(condition):
    """They are not sent as something else."""
    with pytest.raises(ExpressionError):
        to_filters(condition)
