"""Generated functions of flags: their source is as documented, and contains no definition."""

import inspect
import re

import pytest

from mixpanel.flags import parse_definitions
from mixpanel.flags._rules import codegen
from mixpanel.flags._rules.codegen import Branch, compile_flag
from mixpanel.flags._rules.engines import engine

RULE = {"and": [{"==": [{"var": "plan"}, "team"]}, {">=": [{"var": "seats"}, 5]}]}


@pytest.fixture
def sources(monkeypatch):
    """Return a list of the sources that are compiled in a test."""
    compiled = []
    factory = codegen._factory

    def spy(source, names):
        compiled.append(source)
        return factory(source, names)

    monkeypatch.setattr(codegen, "_factory", spy)
    return compiled


def words(source):
    return re.sub(r"\s+", "", source)


def test_the_docstring_of_compile_flag_shows_the_source_that_is_generated(sources):
    """Apart from white space: there the rule is broken into lines."""
    default = engine()
    branches = [Branch(0, default.compile(RULE), None, copies=False, operations=3)]
    compile_flag(
        "distinct_id",
        {},
        branches,
        {},
        prepare=default.prepare,
        casefolded_names=default.casefolded_names,
    )
    documented = inspect.getdoc(compile_flag)
    example = documented[documented.index("    def decide(") : documented.index("In `key1_0`")]

    assert words(example) == words(sources[0])


@pytest.mark.parametrize("rollouts", [1, 40])
def test_no_text_of_a_definition_becomes_source(sources, rollouts):
    """Keys, values, names and texts of rules are bound to names: nothing in them is run."""
    evil = "__import__('os')"
    rule = {"and": [{"==": [{"var": evil}, evil]}, {"in": [{"var": "x"}, [evil]]}, {"!!": [evil]}]}
    flag = {
        "key": evil,
        "context": evil,
        "hash_salt": evil,
        "ruleset": {
            "variants": [{"key": evil, "value": evil, "split": 1.0}],
            "rollout": [{"rollout_percentage": 1.0, "runtime_evaluation_rule": rule}] * rollouts,
            "test": {"users": {evil: evil}},
        },
    }
    definitions = parse_definitions({"flags": [flag]})
    properties = {evil.upper(): evil.upper(), "x": evil}

    selected = definitions.flags[evil].decide({evil: "u-17", "custom_properties": properties})

    assert selected.variant_value == evil
    assert sources
    assert not any("import" in source for source in sources)


def test_flags_of_the_same_form_share_their_code():
    """Their rules differ only in names and constants."""
    flags = [
        {
            "key": f"flag-{number}",
            "context": "distinct_id",
            "ruleset": {
                "variants": [{"key": "on", "value": number, "split": 1.0}],
                "rollout": [
                    {
                        "rollout_percentage": 1.0,
                        "runtime_evaluation_rule": {"==": [{"var": f"p{number}"}, number]},
                    }
                ],
            },
        }
        for number in range(3)
    ]
    definitions = parse_definitions({"flags": flags})
    context = {"distinct_id": "u-17", "custom_properties": {f"p{n}": n for n in range(3)}}

    decides = [flag.decide for flag in definitions.flags.values()]

    assert len({decide.__code__ for decide in decides}) == 1
    assert [decide(context).variant_value for decide in decides] == [0, 1, 2]
