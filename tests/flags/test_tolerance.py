"""Odd definitions, contexts and responses: what can be used is used, the rest has a reason."""

import copy
import dataclasses
import enum
import math
import uuid
from datetime import UTC, date, datetime
from decimal import Decimal
from fractions import Fraction
from types import MappingProxyType

import numpy as np
import pandas as pd
import pytest

from mixpanel.emulator import Fault
from mixpanel.flags import (
    ExperimentationFlag,
    ExperimentationFlags,
    FallbackReason,
    FlagTestUsers,
    LocalFeatureFlagsProvider,
    RemoteFeatureFlagsProvider,
    RemoteFlagsConfig,
    RemoteFlagsResponse,
    Rollout,
    RuleSet,
    SelectedVariant,
    Variant,
    VariantOverride,
    explain,
    parse_definitions,
    types,
)
from mixpanel.flags._evaluation.evaluate import evaluate_flag

DEFINITION = {
    "id": "1", "name": "n", "key": "f", "status": "enabled", "project_id": 1,
    "context": "distinct_id",
    "ruleset": {
        "variants": [
            {"key": "a", "value": "A", "is_control": False, "split": 0.5},
            {"key": "b", "value": "B", "is_control": False, "split": 0.5},
        ],
        "rollout": [{"rollout_percentage": 1.0}],
        "test": {"users": {}},
    },
}  # fmt: skip
USERS = [f"u{n}" for n in range(20)]


def changed(**top):
    return {**copy.deepcopy(DEFINITION), **top}


def with_rules(**parts):
    return changed(ruleset={**DEFINITION["ruleset"], **parts})


def keys(definition, users=USERS):
    definitions = parse_definitions({"flags": [definition]})
    return [evaluate_flag(definitions, "f", {"distinct_id": user}).variant_key for user in users]


USUAL = keys(DEFINITION)
VARIANT = DEFINITION["ruleset"]["variants"][0]


# ---- definitions --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("field", "values"),
    [
        ("experiment_id", [17, ["x"], {}]),
        ("is_experiment_active", ["perhaps", [1]]),
        ("id", [None, ["x"]]),
        ("name", [None, 5]),
        ("status", [None, [1]]),
        ("project_id", ["x", [1]]),
    ],
)
def test_a_field_that_decides_nothing_is_ignored_if_it_is_odd(field, values):
    """The flag is served to the same users, and a diagnostic names the field."""
    for value in values:
        definition = changed(**{field: value})
        assert keys(definition) == USUAL
        (found,) = parse_definitions({"flags": [definition]}).diagnostics
        assert (found.kind, found.message.rpartition(" ")[2]) == ("ignored_field", field)


@pytest.mark.parametrize(
    "parts",
    [
        {"test": []},
        {"test": "u1"},
        {"test": {"users": ["u1"]}},
        {"test": {"users": {"u1": 5, "u2": ["b"]}}},
        {"variants": [{**each, "is_control": "no?"} for each in DEFINITION["ruleset"]["variants"]]},
        {"rollout": [{"rollout_percentage": 1.0, "variant_splits": [1]}]},
    ],
)
def test_an_odd_part_that_decides_nothing_is_ignored(parts):
    """Malformed test users and splits are as if they were not there."""
    definition = with_rules(**parts)
    assert keys(definition) == USUAL
    assert [d.kind for d in parse_definitions({"flags": [definition]}).diagnostics] == [
        "ignored_field"
    ]


def test_one_odd_test_user_affects_no_other():
    """The others get their variant."""
    users = {"u1": 5, "u2": "b", "u3": "a"}
    definition = with_rules(test={"users": users})
    assert keys(definition, ["u2", "u3"]) == ["b", "a"]


@pytest.mark.parametrize("key", ["", None])
def test_a_test_user_without_a_variant_gets_the_usual_one(key):
    """Also where a variant's key is the empty text."""
    empty = {"key": "", "value": "E", "is_control": False, "split": 0.0}
    variants = [empty, *DEFINITION["ruleset"]["variants"]]
    definition = with_rules(variants=variants, test={"users": {"u1": key}})
    assert keys(definition) == USUAL


@pytest.mark.parametrize("field", ["context", "hash_salt", "key"])
def test_a_field_that_decides_who_gets_what_is_not_guessed(field):
    """The flag is refused, with a reason."""
    definitions = parse_definitions({"flags": [changed(**{field: 5})]})
    assert not definitions.flags
    assert [found.kind for found in definitions.diagnostics] == ["malformed"]


def test_a_variant_key_may_be_a_number():
    """It is its text, as in JSON objects."""
    definition = with_rules(variants=[{**VARIANT, "key": 5, "split": 1.0}])
    assert keys(definition, ["u1"]) == ["5"]


def test_users_of_a_variant_without_a_value_get_the_fallback():
    """None would look like a value that was chosen; users of the other variants are served."""
    variants = copy.deepcopy(DEFINITION["ruleset"]["variants"])
    del variants[1]["value"]
    definitions = parse_definitions({"flags": [with_rules(variants=variants)]})
    assert [found.kind for found in definitions.diagnostics] == ["no_value"]
    for user, usual in zip(USERS, USUAL, strict=True):
        context = {"distinct_id": user}
        found = evaluate_flag(definitions, "f", context).with_fallback(SelectedVariant("mine"))
        if usual == "a":
            assert (found.variant_value, found.fallback_reason) == ("A", None)
        else:
            assert found.variant_value == "mine"
            reason = FallbackReason("PARSE_ERROR", "variant 'b' has no value")
            assert found.fallback_reason == reason
        assert str(explain(definitions, "f", context))


def test_a_value_of_null_is_a_value():
    """It was chosen."""
    definition = with_rules(variants=[{**VARIANT, "value": None, "split": 1.0}])
    assert keys(definition, ["u1"]) == ["a"]


# ---- contexts -----------------------------------------------------------------------------------

GROUP = parse_definitions({"flags": [changed(context="company")]})


@pytest.mark.parametrize("value", [["acme"], ["acme", "b"], ("acme",), {"acme"}, {"id": 1}])
def test_a_list_as_group_key_is_decided_by_a_reason(value):
    """Hashed as Python writes it, a group in a list would not get the variant it gets alone."""
    selected = evaluate_flag(GROUP, "f", {"company": value})
    assert selected.fallback_reason.kind == "INVALID_CONTEXT"
    assert f"is a {type(value).__name__}: pass one id" in selected.fallback_reason.message
    assert "pass one id" in str(explain(GROUP, "f", {"company": value}))


@pytest.mark.parametrize(
    "value",
    [None, math.nan, Decimal("NaN"), pd.NA, pd.NaT, np.float64("nan"), np.datetime64("NaT", "s")],
)
def test_a_missing_assignment_value_is_missing(value):
    """Whatever it is called; else all unknown users would get one variant."""
    selected = evaluate_flag(GROUP, "f", {"company": value})
    assert selected.fallback_reason == FallbackReason.missing_context_key("company")
    assert "MISSING_CONTEXT_KEY" in str(explain(GROUP, "f", {"company": value}))


class Plan(enum.Enum):
    TEAM = "Team"


@dataclasses.dataclass
class Owner:
    name: str


UUID = uuid.UUID(int=5)
X = {"var": "x"}
COMPARABLE = [
    (UUID, {"==": [X, str(UUID)]}),
    (UUID, {"in": [X, [str(UUID)]]}),
    (Plan.TEAM, {"==": [X, "team"]}),
    (Plan.TEAM, {"in": [X, ["team", "free"]]}),
    (np.int64(5), {"==": [X, 5]}),
    (np.int64(5), {">=": [X, 5]}),
    (np.int64(5), {"===": [X, 5]}),
    (np.float32(2.5), {"<": [X, 3]}),
    (np.bool_(True), {"==": [X, True]}),
    (np.bool_(True), {"===": [X, True]}),
    (np.bool_(True), X),
    (np.array(["A"]), {"in": ["a", X]}),
    (Fraction(1, 2), {"==": [X, 0.5]}),
    (datetime(2026, 1, 31, 12), {"datetime_compare": [X, ">", 0]}),
    (datetime(2026, 1, 31, 12, tzinfo=UTC), {"datetime_compare": [X, ">", 0]}),
    (pd.Timestamp("2026-01-31"), {"datetime_compare": [X, ">", 0]}),
    (np.datetime64("2026-01-31T12:00"), {"datetime_compare": [X, ">", 0]}),
    (date(2026, 1, 31), {"==": [X, "2026-01-31"]}),
    (("A", "b"), {"in": ["a", X]}),
    (("A", "b"), {"some": [X, {"==": [{"var": ""}, "b"]}]}),
    ({"A"}, {"in": ["a", X]}),
    (frozenset("A"), {"in": ["a", X]}),
    ({"y": (UUID,)}, {"in": [str(UUID), {"var": "x.y"}]}),
    (MappingProxyType({"Y": 1}), {"==": [{"var": "x.y"}, 1]}),
    (Owner("Ada"), {"==": [{"var": "x.name"}, "ada"]}),
    (b"Team", {"==": [X, "team"]}),
    (pd.NA, {"==": [X, None]}),
    (math.nan, {"==": [X, None]}),
]


@pytest.mark.slow
@pytest.mark.parametrize(("value", "rule"), COMPARABLE)
def test_a_property_is_compared_as_its_json(value, rule):
    """Whatever type the program has it in."""
    rollout = {"rollout_percentage": 1.0, "runtime_evaluation_rule": rule}
    definitions = parse_definitions({"flags": [with_rules(rollout=[rollout])]})
    context = {"distinct_id": "u1", "custom_properties": {"X": value}}
    for _ in range(2):
        assert evaluate_flag(definitions, "f", context).fallback_reason is None
    assert "no rule can match" not in str(explain(definitions, "f", context))


def test_a_legacy_rule_compares_json_as_well():
    """The deprecated form, a dict of texts."""
    rollout = {"rollout_percentage": 1.0, "runtime_evaluation_definition": {"x": "TEAM"}}
    definitions = parse_definitions({"flags": [with_rules(rollout=[rollout])]})
    for value in (Plan.TEAM, "team"):
        context = {"distinct_id": "u1", "custom_properties": {"x": value}}
        assert evaluate_flag(definitions, "f", context).fallback_reason is None


@pytest.mark.parametrize("value", [object(), len, lambda: 1, complex(1, 2)])
def test_explain_names_a_value_that_can_never_match(value):
    """It has no JSON form, so no rule can be about it."""
    rollout = {"rollout_percentage": 1.0, "runtime_evaluation_rule": {"==": [X, "a"]}}
    definitions = parse_definitions({"flags": [with_rules(rollout=[rollout])]})
    context = {"distinct_id": "u1", "custom_properties": {"x": value, "ok": 1}}
    assert evaluate_flag(definitions, "f", context).fallback_reason.kind == "NO_ROLLOUT_MATCH"
    (note,) = explain(definitions, "f", context).notes
    assert note == f"custom_properties['x'] is a {type(value).__name__}, which no rule can match"


@pytest.mark.slow
def test_explain_names_what_the_json_logic_engine_cannot_compare():
    """That engine compares as mixpanel-python 5.x does."""
    rollout = {"rollout_percentage": 1.0, "runtime_evaluation_rule": {"==": [X, "a"]}}
    raw = {"flags": [with_rules(rollout=[rollout])]}
    context = {"distinct_id": "u1", "custom_properties": {"x": UUID}}
    (note,) = explain(parse_definitions(raw, rule_engine="json-logic"), "f", context).notes
    assert "is a UUID, which no rule can match" in note


# ---- remote responses ---------------------------------------------------------------------------

USER = {"distinct_id": "u1"}
NONE = SelectedVariant("fallback")


def remote(emu):
    config = RemoteFlagsConfig(base_url=emu.url)
    return RemoteFeatureFlagsProvider("tok", config, "1", lambda *_: None)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("distinct_id must be provided", "HTTP 400: distinct_id must be provided"),
        ({"error": "bad context"}, "HTTP 400: bad context"),
        ({"message": "odd"}, 'HTTP 400: {"message":"odd"}'),
        ("", "HTTP 400"),
        ("<html><b>Bad</b>", "HTTP 400"),
        ("two\nlines", "HTTP 400: two lines"),
        ("no https://h/flags?token=tok&x here", "HTTP 400: no […] here"),
    ],
)
def test_the_reason_of_a_failed_evaluation_has_the_server_s_words(emu, body, message):
    """Text or JSON, on one line, without the URL that a proxy may repeat."""
    emu.play(Fault.status(400, body=body).forever(), path="/flags")
    with remote(emu) as flags:
        reason = flags.get_variant("f", NONE, USER).fallback_reason
    assert reason.kind == "BACKEND_ERROR"
    assert reason.message.replace(" ", "") == message.replace(" ", "")


def test_a_remote_variant_without_a_value_is_no_success(emu):
    """The fallback is served with a reason; the other flags are not affected."""
    variants = {"good": {"variant_key": 5, "variant_value": None}, "bad": {"variant_key": "a"}}
    emu.play(Fault.status(200, body={"code": 200, "flags": variants}).forever(), path="/flags")
    with remote(emu) as flags:
        good, bad = (flags.get_variant(key, NONE, USER) for key in ("good", "bad"))
        assert flags.get_all_variants(USER).keys() == {"good"}
    assert (good.variant_key, good.variant_value, good.variant_source) == ("5", None, "remote")
    assert (bad.variant_value, bad.fallback_reason.kind) == ("fallback", "BACKEND_ERROR")


# ---- the official names -------------------------------------------------------------------------


def test_models_are_made_from_dicts():
    """By the class method that the official models have."""
    flag = ExperimentationFlag.from_dict(DEFINITION)
    assert flag.ruleset == RuleSet.from_dict(DEFINITION["ruleset"])
    assert flag.ruleset.variants[0] == Variant.from_dict(VARIANT)
    assert flag.ruleset.rollout == [Rollout.from_dict({"rollout_percentage": 1.0})]
    assert FlagTestUsers.from_dict({"users": {"u": "a"}}).users == {"u": "a"}
    assert VariantOverride.from_dict({"key": "a"}).key == "a"
    assert ExperimentationFlags.from_dict({"flags": [DEFINITION]}).flags == [flag]
    with pytest.raises(ValueError, match="key"):
        Variant.from_dict({"value": 1})


def test_selected_variants_are_made_and_changed_as_in_the_official_package():
    """Unknown keys are ignored, the value is required, and the changes make copies."""
    variant = SelectedVariant.from_dict({"variant_key": "a", "variant_value": 1, "new": 2})
    assert variant == SelectedVariant(1, "a")
    with pytest.raises(TypeError, match="variant_value"):
        SelectedVariant.from_dict({"variant_key": "a"})
    reason = FallbackReason.backend_error("m")
    assert variant.as_fallback(reason) == SelectedVariant(
        1, "a", variant_source="fallback", fallback_reason=reason
    )
    assert variant.with_source("remote") == SelectedVariant(1, "a", variant_source="remote")
    response = RemoteFlagsResponse.from_dict({"code": 200, "flags": {"f": {"variant_value": 1}}})
    assert response == RemoteFlagsResponse(200, {"f": SelectedVariant(1)})


def test_models_take_positional_arguments_in_the_official_order():
    """Fields of our own come after them."""
    variant = types.Variant("on", {"a": 1}, True, 0.5)
    assert variant == types.Variant(key="on", value={"a": 1}, is_control=True, split=0.5)
    override, splits = types.VariantOverride("on"), {"on": 1.0}
    rollout = types.Rollout(0.5, {"a": "b"}, {"==": [1, 1]}, override, splits)
    assert rollout.runtime_evaluation_rule == {"==": [1, 1]}
    assert (rollout.variant_override, rollout.variant_splits) == (override, splits)
    rules = types.RuleSet([variant], [rollout], types.FlagTestUsers({"u": "on"}))
    flag = types.ExperimentationFlag(
        "1", "New", "new", "enabled", 3, rules, "distinct_id", "7", True, "salt"
    )
    assert flag == types.ExperimentationFlag(**dict(flag))
    assert types.ExperimentationFlags([flag]).flags == [flag]


def test_models_refuse_too_many_or_double_arguments():
    """As functions do."""
    with pytest.raises(TypeError, match="takes 1 values at most, not 2"):
        types.VariantOverride("on", "off")
    with pytest.raises(TypeError, match=r"\['key'\] by position and by name"):
        types.VariantOverride("on", key="on")


def test_the_official_steps_of_casefolding_can_be_called():
    """They go through dicts and lists only."""
    provider = LocalFeatureFlagsProvider(
        "t", types.LocalFlagsConfig(enable_polling=False), "1", print
    )
    given = {"A": ["B", {"C": "ẞ"}], 5: "X", "T": ("A",), "N": None}
    folded = {"a": ["b", {"c": "ss"}], 5: "x", "t": ("A",), "n": None}
    assert provider.lowercase_keys_and_values(given) == folded
    kept = {"A": ["b", {"C": "ss"}], 5: "x", "T": ("A",), "N": None}
    assert provider.lowercase_only_leaf_nodes(given) == kept
