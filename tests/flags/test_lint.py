"""Lint finds rollouts that cannot be decided locally, and likely mistakes."""

import pytest

from mixpanel.flags import lint


def flag(rollouts=None, variants=None, **more):
    """Return a flag without anything to complain about, but for what is given."""
    variants = variants or [{"key": "on", "value": True, "is_control": False, "split": 1.0}]
    rollouts = [{"rollout_percentage": 1.0}] if rollouts is None else rollouts
    ruleset = {"variants": variants, "rollout": rollouts, "test": more.pop("test", None)}
    return {"key": "f", "context": "distinct_id", "hash_salt": "s", "ruleset": ruleset, **more}


def found(*flags, **options):
    """Return the kinds and places of lint's findings."""
    return [(d.kind, d.rollout) for d in lint({"flags": list(flags)}, **options)]


def half(**more):
    """Return a rollout that includes half of the users."""
    return {"rollout_percentage": 0.5, **more}


def test_a_good_flag_has_no_findings():
    """Lint finds nothing in a flag without mistakes."""
    rule = {"and": [{"==": [{"var": "plan"}, "pro"]}, {"in": ["a", {"var": "tags"}]}]}

    assert found(flag([half(runtime_evaluation_rule=rule), {"rollout_percentage": 1}])) == []


@pytest.mark.parametrize(
    ("expected", "broken"),
    [
        (("cohort", 0), flag([half(cohort_hash="abc")])),
        (("runtime_event", 0), flag([half(runtime_event_rule={"==": [1, 1]})])),
        (("rule", 0), flag([half(runtime_evaluation_rule={"nope": [1]})])),
        (("rule", 0), flag([half(runtime_evaluation_rule={"==": [1, 1], "!": 1})])),
        (("rule", 0), flag([half(runtime_evaluation_definition=["plan"])])),
        (("sticky", None), flag(variants=[{"key": "on", "split": 1, "is_sticky": True}])),
        (("no_variants", None), flag() | {"ruleset": {"variants": [], "rollout": []}}),
        (("malformed", None), flag([{"rollout_percentage": "most"}])),
        (("malformed", None), {"key": "f"}),
        (("malformed", None), "f"),
        (("splits", 0), flag(variants=[{"key": "on", "split": 0.5}])),
        (("splits", 0), flag([half(variant_splits={"on": 0.9})])),
        (("splits", 0), flag([half(variant_splits={"ON": 1.0})])),
        (("rounding", 0), flag([{"rollout_percentage": 0.005}])),
        (("rounding", 0), flag([{"rollout_percentage": 50}])),
        (("legacy_key", 0), flag([half(runtime_evaluation_definition={"Plan": "pro"})])),
        (("legacy_key", 0), flag([half(runtime_evaluation_definition={"plan": 5})])),
        (("override", 0), flag([half(variant_override={"key": "onn"})])),
        (("test_user", None), flag(test={"users": {"u1": "onn"}})),
        (("override", None), flag(variants=[{"key": "on", "split": 1}, {"key": "ON"}])),
        (("unreachable", 0), flag([{"rollout_percentage": 0}])),
        (("unreachable", 1), flag([{"rollout_percentage": 1}, half()])),
        (("unreachable", 1), flag([half(), half()], hash_salt=None)),
        (("default_only", 0), flag([half(runtime_evaluation_rule={"some": [[], True]})])),
        (("json_logic_only", 0), flag([half(runtime_evaluation_rule={"count": [1]})])),
    ],
)
def test_each_kind_of_mistake_is_found(expected, broken):
    """With its rollout, where it has one."""
    assert expected in found(broken)


def test_reachable_rollouts_have_no_findings():
    """A condition, a salt or a larger percentage leaves users to later rollouts."""
    rule = {"==": [1, 1]}

    assert found(flag([half(runtime_evaluation_rule=rule), half()], hash_salt=None)) == []
    assert found(flag([half(), half()])) == []
    assert found(flag([half(), {"rollout_percentage": 1}], hash_salt=None)) == []


@pytest.mark.slow
def test_lint_knows_the_operators_of_the_chosen_engine():
    """An operator that the engine lacks is reported."""
    some = flag([half(runtime_evaluation_rule={"some": [[], True]})])
    nope = flag([half(runtime_evaluation_rule={"nope": []})])
    count = flag([half(runtime_evaluation_rule={"count": [1]})])

    assert found(some, rule_engine="json-logic") == [("default_only", 0)]
    assert found(nope, rule_engine="json-logic") == [("rule", 0)]
    assert found(count) == [("rule", 0), ("json_logic_only", 0)]


def test_a_flag_defined_twice_is_found():
    """Only the last of two definitions counts."""
    assert ("duplicate_key", None) in found(flag(), flag())


@pytest.mark.parametrize("payload", [None, [], "<html>", {"flags": None}, {"error": "no"}])
def test_a_payload_without_definitions_is_one_finding(payload):
    """An error page is reported once, not per character."""
    assert [d.kind for d in lint(payload)] == ["payload"]


def test_a_finding_reads_as_a_line():
    """A finding has a place and a message, and does not repeat the payload."""
    broken = flag([half(variant_override={"key": "onn"})])

    assert [str(each) for each in lint({"flags": [broken]})] == [
        "flag 'f', rollout 0: variant_override names 'onn', which does not exist"
    ]
    assert str(lint(None)[0]) == 'definitions: not an object with a list of "flags"'
