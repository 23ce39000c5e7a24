"""Limits: definitions of any size and rules of any kind cost a bounded amount of work."""

import json
import subprocess
import sys
import threading
import time

import anyio
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mixpanel import ConfigurationError
from mixpanel.emulator import Fault
from mixpanel.flags import lint, parse_definitions
from mixpanel.flags._evaluation.evaluate import Snapshot
from mixpanel.flags._rules import budget, codegen, limits
from mixpanel.flags._rules.budget import Budget
from mixpanel.flags.explain import explain
from mixpanel.flags.openfeature import MixpanelProvider
from mixpanel.flags.remote_feature_flags import RemoteFeatureFlagsProvider
from mixpanel.flags.types import RemoteFlagsConfig
from tests.effort import cases
from tests.flags.test_local import NONE, USER, flag, provider, until

pytestmark = pytest.mark.slow

ENGINES = ("default", "json-logic")
ON = [{"key": "on", "value": True, "split": 1.0}]
HAS_X = {"==": [{"var": "x"}, 1]}


def ruled(*rules, key="f", **ruleset):
    """Return a flag that is on for users who match the rule, and off for everyone else."""
    rollouts = [{"rollout_percentage": 1.0, "runtime_evaluation_rule": rule} for rule in rules]
    ruleset = {"variants": ON, "rollout": rollouts, **ruleset}
    return {"key": key, "context": "distinct_id", "ruleset": ruleset}


def parsed(*flags, **options):
    return parse_definitions({"flags": list(flags)}, **options)


def user(**properties):
    return {**USER, "custom_properties": properties}


def decided(definition, context, engine="default"):
    """Return the value, or else the reason, of a flag for a context."""
    selected = parsed(definition, rule_engine=engine).flags["f"].decide(context)
    return selected.variant_value or selected.fallback_reason


# ---- definitions --------------------------------------------------------------------------------


def chained(count):
    """Return a rule with this number of operations: one `or`, the rest `!!`."""
    return {"or": [{"!!": 1}] * (count - 1)}


def nested(count):
    rule = True
    for _ in range(count):
        rule = {"!": [rule]}
    return rule


def iterated(count):
    rule = {"var": ""}
    for _ in range(count):
        rule = {"map": [[1], rule]}
    return rule


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(
    ("rule", "limit", "name"),
    [
        (chained, 60, "MAX_OPERATIONS"),
        (nested, limits.MAX_DEPTH, "MAX_DEPTH"),
        (iterated, limits.MAX_ITERATION_DEPTH, "MAX_ITERATION_DEPTH"),
        (lambda n: {"in": [{"var": "x"}, [""] * (n - 4)]}, 60, "MAX_VALUES"),
        (lambda n: {"==": [{"var": "x"}, "x" * n]}, 60, "MAX_TEXT"),
    ],
    ids=["operations", "depth", "iteration", "values", "text"],
)
def test_a_rule_above_a_limit_disables_only_its_rollout(monkeypatch, engine, rule, limit, name):
    """The next rollout and the other flags are decided; the reason is given."""
    monkeypatch.setattr(limits, name, limit)
    good = {"==": [{"var": "x"}, 1]}

    inside = parsed(ruled(rule(limit), good), rule_engine=engine)
    assert inside.diagnostics == ()

    beyond = parsed(ruled(rule(limit + 1), good), ruled(good, key="g"), rule_engine=engine)
    (found,) = beyond.diagnostics
    assert (found.kind, found.rollout) == ("rule", 0)
    assert f"more than {limit:,} " in found.message
    for key in ("f", "g"):
        assert beyond.flags[key].decide(user(x=1)).variant_value is True
    reason = beyond.flags["f"].decide(user(x=2)).fallback_reason
    assert (reason.kind, found.message in reason.message) == ("RULE_ERROR", True)
    assert found.message in str(explain(beyond, "f", user(x=2)))
    linted = lint({"flags": [ruled(rule(limit + 1), good)]}, rule_engine=engine)
    assert found.message in [one.message for one in linted]


def test_chained_iterations_are_not_nested():
    """A pipeline of any length within the depth is allowed: only bodies multiply the work."""
    rule = {"var": "items"}
    for _ in range(10):
        rule = {"filter": [rule, {">": [{"var": ""}, 0]}]}
    assert decided(ruled({"!!": [rule]}), user(items=[1])) is True


def legacy(count):
    rollout = {
        "rollout_percentage": 1.0,
        "runtime_evaluation_definition": {f"k{n}": "v" for n in range(count)},
    }
    return ruled(rollout=[rollout])


def test_a_legacy_rule_above_the_limit_is_rejected(monkeypatch):
    """Its entries count as operations."""
    monkeypatch.setattr(limits, "MAX_OPERATIONS", 5)
    assert parsed(legacy(5)).diagnostics == ()
    (found,) = parsed(legacy(6)).diagnostics
    assert found.kind == "rule"
    assert "more than 5 entries" in found.message


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda n: ruled(*[HAS_X] * n), "MAX_ROLLOUTS"),
        (lambda n: ruled(HAS_X, variants=[{"key": f"v{i}"} for i in range(n)]), "MAX_VARIANTS"),
        (
            lambda n: ruled(HAS_X, test={"users": {f"u{i}": "on" for i in range(n)}}),
            "MAX_TEST_USERS",
        ),
        (
            lambda n: ruled(
                rollout=[
                    {"rollout_percentage": 1, "variant_splits": {f"v{i}": 0 for i in range(n)}}
                ]
            ),
            "MAX_VARIANTS",
        ),
        (lambda n: ruled(*[{"!!": [1]}] * n), "MAX_FLAG_OPERATIONS"),
    ],
    ids=["rollouts", "variants", "test users", "splits", "operations"],
)
def test_a_flag_above_a_limit_affects_no_other(monkeypatch, engine, make, name):
    """It falls back with the reason, or stays as it was; the other flags are decided."""
    limit = 20
    monkeypatch.setattr(limits, name, limit)
    good = ruled(HAS_X, key="good")

    inside = parsed(good, make(limit), rule_engine=engine)
    assert set(inside.flags) == {"good", "f"}

    beyond = parsed(make(limit + 1), good, rule_engine=engine)
    (found,) = beyond.diagnostics
    assert (found.kind, found.flag_key) == ("too_large", "f")
    assert str(limit) in found.message
    assert Snapshot(beyond, user(x=1)).get_all().keys() == {"good"}
    reason = Snapshot(beyond, user(x=1)).get_variant("f").fallback_reason
    assert (reason.kind, reason.message) == ("PARSE_ERROR", found.message)
    assert found.message in str(explain(beyond, "f", user()))
    assert found in lint({"flags": [make(limit + 1)]}, rule_engine=engine)

    again = parsed(make(limit + 1), good, rule_engine=engine, previous=inside)
    assert again.flags["f"] is inside.flags["f"]
    assert "too_large" in [one.kind for one in again.diagnostics if one.flag_key == "f"]


@pytest.mark.parametrize(
    ("flags", "name"),
    [
        (lambda n: [flag(f"f{i}") for i in range(n)], "MAX_FLAGS"),
        (lambda n: [flag(f"f{i}") for i in range(n)], "MAX_TOTAL_ROLLOUTS"),
        (lambda n: [ruled({"!!": [1]}, key=f"f{i}") for i in range(n)], "MAX_TOTAL_OPERATIONS"),
        (lambda n: [ruled({"!!": 1}, key=f"f{i}") for i in range(n // 2)], "MAX_TOTAL_VALUES"),
    ],
    ids=["flags", "rollouts", "operations", "values"],
)
def test_definitions_above_a_limit_are_rejected_as_a_whole(monkeypatch, flags, name):
    """There is no good choice of which flags to keep."""
    for module in (limits, sys.modules["mixpanel.flags._evaluation.definitions"]):
        if hasattr(module, name):
            monkeypatch.setattr(module, name, 8)
    assert parsed(*flags(8)).problem is None
    refused = parsed(*flags(10))
    assert "8" in refused.problem
    assert refused.flags == {}
    assert [one.message for one in refused.diagnostics] == [refused.problem]


def test_large_real_projects_are_within_the_limits():
    """1,000 rollouts in one flag, and 2,000 other flags, with three clauses each."""

    def rule(n):
        clauses = [{"==": [{"var": "x"}, n]}, {">": [{"var": "age"}, 1]}]
        return {"and": [*clauses, {"in": [{"var": "plan"}, ["a", "b"]]}]}

    definitions = parsed(
        ruled(*map(rule, range(1000))),
        *[ruled(rule(n), key=f"f{n}") for n in range(2000)],
    )
    assert definitions.problem is None
    assert definitions.diagnostics == ()
    assert len(definitions.flags) == 2001
    assert definitions.flags["f"].decide(user(x=999, age=2, plan="a")).variant_value is True
    missed = definitions.flags["f"].decide(user(x=1000, age=2, plan="a", Unknown="?"))
    assert missed.fallback_reason.kind == "NO_ROLLOUT_MATCH"


def test_only_the_first_errors_of_a_malformed_flag_are_listed():
    """A thousand errors do not make a message of a hundred kilobytes."""
    bad = ruled(rollout=[{"rollout_percentage": "x"}] * 1000)
    (found,) = parsed(bad).diagnostics
    assert found.message.endswith("and 995 more")
    assert len(found.message) < 1000


PROPERTIES = st.dictionaries(
    st.sampled_from(["x", "Y", "z"]), st.sampled_from([1, 2, "a", "A", None, [1, 2], "a" * 5000])
)
CLAUSES = st.sampled_from(
    [
        {"==": [{"var": "x"}, 1]},
        {"==": [{"var": "y"}, "a"]},
        {"some": [{"var": "z"}, {"==": [{"var": ""}, 2]}]},
        {"and": [{"in": [{"var": "x"}, ["a"]]}, {"!": {"var": "z"}}]},
        {"unknown": [1]},
        None,
    ]
)


@settings(
    max_examples=cases(50, 1000),
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(st.lists(CLAUSES, min_size=1, max_size=20), PROPERTIES, st.sampled_from(["u", "t", "", "v"]))
def test_long_flags_are_decided_as_short_ones(monkeypatch, rules, properties, who):
    """Generated in parts or as one function, the results are the same."""
    definition = ruled(*rules, test={"users": {"t": "on"}})
    definition["ruleset"]["rollout"][-1]["rollout_percentage"] = 0.5
    definition["ruleset"]["rollout"][0]["cohort_hash"] = "c" if len(rules) % 3 == 0 else None
    context = {"distinct_id": who, "custom_properties": properties or None}
    answers = []
    for most in (2, 100):
        monkeypatch.setattr(codegen, "MAX_BRANCHES", most)
        monkeypatch.setattr(codegen, "UNCOUNTED_OPERATIONS", most)
        answers.append(parsed(definition).flags["f"].decide(context))
    assert answers[0] == answers[1]


# ---- work of a check ----------------------------------------------------------------------------


def steps(function, *arguments):
    """Return how many functions, Python's and C's, a call takes: a measure of its work."""
    count = 0

    def counting(_frame, event, _argument):
        nonlocal count
        count += event in ("call", "c_call")

    before = sys.getprofile()
    sys.setprofile(counting)
    try:
        result = function(*arguments)
    finally:
        sys.setprofile(before)
    return count, result


LITERAL = list(range(100))
VAR = {"var": ""}
ITEMS = {"var": "items"}
ACCUMULATED = {"var": "accumulator"}
BOMBS = {
    "map": {"map": [LITERAL, {"map": [LITERAL, {"map": [LITERAL, {"map": [LITERAL, VAR]}]}]}]},
    "all": {"all": [LITERAL, {"all": [LITERAL, {"all": [LITERAL, {"<": [VAR, 1e9]}]}]}]},
    "none": {"none": [LITERAL, {"some": [LITERAL, {"some": [LITERAL, {"<": [VAR, -1]}]}]}]},
    "some": {"some": [LITERAL, {"some": [LITERAL, {"some": [LITERAL, {"<": [VAR, -1]}]}]}]},
    "filter": {"filter": [LITERAL, {"filter": [LITERAL, {"filter": [LITERAL, VAR]}]}]},
    "merge": {"reduce": [LITERAL, {"merge": [ACCUMULATED, ACCUMULATED]}, [1]]},
    "cat": {"reduce": [LITERAL, {"cat": [ACCUMULATED, ACCUMULATED]}, "x"]},
    "list": {"cat": [{"reduce": [LITERAL, [ACCUMULATED, ACCUMULATED], "x"]}]},
    "loose": {"==": [{"reduce": [LITERAL, [ACCUMULATED, ACCUMULATED], "x"]}, "y"]},
    "in": {"reduce": [{"var": "items"}, {"in": [VAR, ACCUMULATED]}, {"var": "items"}]},
    "search": {"map": [{"var": "items"}, {"some": [LITERAL, {"in": ["x", {"cat": LITERAL}]}]}]},
    "rest": {"reduce": [{"var": "items"}, {"substr": [ACCUMULATED, 0]}, {"var": "text"}]},
    "number": {
        "reduce": [ITEMS, {"if": [{"<": [ACCUMULATED, 1]}, 1, ACCUMULATED]}, {"var": "text"}]
    },
    "path": {"reduce": [ITEMS, {"if": [{"var": ACCUMULATED}, 1, ACCUMULATED]}, {"var": "dots"}]},
    "missing": {"map": [{"var": "items"}, {"missing": [LITERAL]}]},
    "reads": {"or": [{"in": [-1, {"var": "items"}]}] * 1000},
    "copies": {"or": [{"in": [-1, {"merge": [{"var": "items"}] * 100}]}] * 10},
    "plain": {"or": [{"==": [{"var": "items"}, n]} for n in range(30)]},
    "plain, many": {"or": [{"==": [{"var": "items"}, n]} for n in range(2000)]},
    "long texts": {"or": [{"==": [{"var": "text"}, str(n)]} for n in range(2000)]},
}  # fmt: skip
BIG = {"items": list(range(20_000)), "text": "1" * 1_000_000, "dots": "a." * 500_000}


@pytest.mark.parametrize("name", BOMBS)
def test_a_check_ends_after_a_bounded_number_of_steps(monkeypatch, name):
    """Whatever multiplies the work, it stops within the budget, and the reason shows that."""
    monkeypatch.setattr(budget, "MAX_STEPS", 10_000)
    definitions = parsed(ruled(BOMBS[name], HAS_X), ruled(HAS_X, key="g"))
    assert definitions.diagnostics == ()
    decide = definitions.flags["f"].decide
    count, selected = steps(decide, user(**BIG))
    assert count < 15 * budget.MAX_STEPS
    assert selected.fallback_reason.kind == "RULE_ERROR"
    assert "takes more than 10,000 steps" in selected.fallback_reason.message
    assert "takes more than 10,000 steps" in str(explain(definitions, "f", user(**BIG)))
    assert decide(user(x=1)).variant_value is True
    assert definitions.flags["g"].decide(user(**BIG, x=1)).variant_value is True


@pytest.mark.parametrize("name", ["reads", "copies", "plain", "plain, many"])
def test_a_check_by_json_logic_is_bounded(monkeypatch, name):
    """It has no operator that iterates; the values that it reads are counted."""
    monkeypatch.setattr(budget, "MAX_STEPS", 10_000)
    definitions = parsed(ruled(BOMBS[name]), rule_engine="json-logic")
    count, selected = steps(definitions.flags["f"].decide, user(**BIG))
    assert count < 15 * budget.MAX_STEPS
    assert "takes more than 10,000 steps" in selected.fallback_reason.message


@pytest.mark.parametrize("form", ["%1000000000d", "%*d", "%.99999f", "%5d" * 300])
def test_json_logic_does_not_format_text_to_arbitrary_widths(form):
    """Python's `%` on a text would fill the memory with spaces."""
    rule = {"!!": [{"%": [form, {"var": "x"}]}]}
    assert decided(ruled(rule), user(x=5), "json-logic").kind == "RULE_ERROR"
    assert decided(ruled({"==": [{"%": [17, 5]}, 2]}), user(x=1), "json-logic") is True
    assert decided(ruled({"==": [{"%": ["%d!", 5]}, "5!"]}), user(x=1), "json-logic") is True


def test_the_budget_is_exact(monkeypatch):
    """An item costs as much as the operations in the body: just within, and just above."""
    rule = {"some": [{"var": "items"}, {"==": [{"var": ""}, "no"]}]}  # 4 values in the body
    definition = parsed(ruled(rule)).flags["f"]
    cost = 100 + 100 * 4 + 1  # read, visited with four values each, and one for the list
    definition.decide(user(items=[]))  # a name that is met for the first time costs a step
    monkeypatch.setattr(budget, "MAX_STEPS", cost)
    assert definition.decide(user(items=[0] * 100)).fallback_reason.kind == "NO_ROLLOUT_MATCH"
    assert definition.decide(user(items=[0] * 101)).fallback_reason.kind == "RULE_ERROR"


def test_all_rollouts_of_a_check_share_one_budget(monkeypatch):
    """A thousand rules just within it do not take a thousand times the work."""
    rule = {"some": [{"var": "items"}, {"==": [{"var": ""}, "no"]}]}
    flags = parsed(ruled(*[rule] * 100)).flags
    monkeypatch.setattr(budget, "MAX_STEPS", 1000)
    count, selected = steps(flags["f"].decide, user(items=[0] * 100))
    assert selected.fallback_reason.message.startswith("rollout 1: ")
    assert count < 15_000


def test_each_check_has_a_budget_of_its_own():
    """Consecutive checks, and one within another, do not reduce each other's budget."""
    rule = {"some": [{"var": "items"}, {"==": [{"var": ""}, "no"]}]}
    decide = parsed(ruled(rule)).flags["f"].decide
    for _ in range(4):
        assert decide(user(items=[0] * 10_000)).fallback_reason.kind == "NO_ROLLOUT_MATCH"
    outer = Budget(10)

    def check():
        within = decide(user(items=[0] * 10_000)).fallback_reason.kind
        budget.charge(10)
        return within

    assert outer.run(check) == "NO_ROLLOUT_MATCH"
    assert not budget.current_budget()


def test_threads_have_budgets_of_their_own():
    """Concurrent checks do not add up."""
    rule = {"some": [{"var": "items"}, {"==": [{"var": ""}, "no"]}]}
    decide = parsed(ruled(rule)).flags["f"].decide
    kinds = []

    def check():
        kinds.extend(decide(user(items=[0] * 10_000)).fallback_reason.kind for _ in range(3))

    threads = [threading.Thread(target=check) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert kinds == ["NO_ROLLOUT_MATCH"] * 12


def test_openfeature_finds_its_reason_within_a_budget(emu, monkeypatch):
    """It evaluates the rule once more, which costs no more than a check does."""
    monkeypatch.setattr(budget, "MAX_STEPS", 10_000)
    from openfeature.evaluation_context import EvaluationContext

    bomb = {"or": [{"==": [{"var": "x"}, 1]}, BOMBS["map"]]}
    emu.set_flags([ruled(bomb, key="f")])
    with provider(emu) as flags:
        flags.start_polling_for_definitions()
        resolver = MixpanelProvider(flags)
        count, found = steps(
            resolver.resolve_boolean_details, "f", False, EvaluationContext("u", {"x": 2})
        )
    assert count < 15 * budget.MAX_STEPS
    assert (found.value, found.error_code.name) == (False, "PARSE_ERROR")
    assert "takes more than" in found.error_message


LEAVES = st.sampled_from([0, 1, -1, 1e308, "a", "1", "", None, True, "a.b", "x" * 300, LITERAL])
VARS = st.sampled_from(["", "x", "items", "text", "current", "accumulator", "a.b"])
OPERATORS = st.sampled_from(
    [*sorted(limits.ITERATING)] * 3
    + ["merge", "cat", "in", "substr", "if", "and", "or", "==", "<", "+", "missing", "max", "!"]
)
RULES = st.recursive(
    LEAVES | st.builds(lambda name: {"var": name}, VARS),
    lambda inner: (
        st.builds(lambda name, operands: {name: operands}, OPERATORS, st.lists(inner, max_size=4))
        | st.lists(inner, max_size=3)
    ),
    max_leaves=30,
)


@pytest.mark.heavy
@settings(
    max_examples=cases(25, 500),
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(st.lists(RULES, min_size=1, max_size=3), st.sampled_from(ENGINES))
def test_no_rule_takes_more_than_its_steps(monkeypatch, rules, engine):
    """Hostile rules on large properties: the number of calls is bounded, and nothing raises."""
    monkeypatch.setattr(budget, "MAX_STEPS", 1_000)
    definition = parsed(ruled(*rules), rule_engine=engine).flags["f"]
    properties = {"items": list(range(300)), "text": "ab" * 5_000, "x": {"a": {"b": [1] * 300}}}
    count, selected = steps(definition.decide, user(**properties))
    assert count < 30 * 1_000 + 2_000
    assert selected.fallback_reason is None or selected.fallback_reason.kind in {
        "RULE_ERROR",
        "NO_ROLLOUT_MATCH",
    }


# ---- where definitions come from ----------------------------------------------------------------


def size(payload):
    return len(json.dumps(payload, separators=(",", ":")).encode())


def test_a_response_of_too_many_bytes_never_replaces_good_definitions(emu, caplog):
    """It is logged once; the last good ones are served; a response of exactly the limit is used."""
    large = {"flags": [flag(value="x" * 500)]}
    emu.set_flags([flag()])
    with provider(emu, max_definitions_bytes=size(large) - 1) as flags:
        flags.start_polling_for_definitions()
        emu.set_flags(large)
        until(lambda: flags.last_error is not None)
        assert f"more than {size(large) - 1:,} bytes" in str(flags.last_error)
        assert flags.is_enabled("checkout", USER)
        polls = len(emu.requests("/flags/definitions"))
        until(lambda: len(emu.requests("/flags/definitions")) > polls)
    assert len([one for one in caplog.records if "could not be fetched" in one.message]) == 1
    with provider(emu, max_definitions_bytes=size(large)) as flags:
        flags.start_polling_for_definitions()
        assert flags.get_variant_value("checkout", None, USER) == "x" * 500


def test_a_response_of_too_many_flags_never_replaces_good_definitions(emu, monkeypatch):
    """The reason is the last error."""
    monkeypatch.setattr("mixpanel.flags._evaluation.definitions.MAX_FLAGS", 3)
    emu.set_flags([flag()])
    with provider(emu) as flags:
        flags.start_polling_for_definitions()
        emu.set_flags([flag(f"f{n}") for n in range(4)])
        until(lambda: flags.last_error is not None)
        assert "4 flags (limit: 3)" in str(flags.last_error)
        assert flags.is_enabled("checkout", USER)


def test_a_bootstrap_above_a_limit_is_rejected(tmp_path, emu, monkeypatch):
    """A file because of its size, any bootstrap because of its contents."""
    path = tmp_path / "flags.json"
    path.write_text(json.dumps({"flags": [flag()]}))
    whole = path.stat().st_size
    with provider(emu, bootstrap=path, max_definitions_bytes=whole) as flags:
        assert flags.is_enabled("checkout", USER)
    with pytest.raises(ConfigurationError, match=f"larger than {whole - 1} bytes"):
        provider(emu, bootstrap=path, max_definitions_bytes=whole - 1)
    monkeypatch.setattr("mixpanel.flags._evaluation.definitions.MAX_FLAGS", 1)
    for bootstrap in (path, {"flags": [flag(), flag("b")]}):
        path.write_text(json.dumps({"flags": [flag(), flag("b")]}))
        with pytest.raises(ConfigurationError, match=r"2 flags \(limit: 1\)"):
            provider(emu, bootstrap=bootstrap)


@pytest.mark.parametrize("most", [0, -1, 1.5, "8", True, None])
def test_the_limit_of_bytes_is_an_integer(emu, most):
    """It must be above 0."""
    with pytest.raises(
        ConfigurationError, match="max_definitions_bytes must be an integer above 0"
    ):
        provider(emu, max_definitions_bytes=most)


def test_a_snapshot_above_the_limit_is_not_read(emu, tmp_path):
    """Neither at the start, nor by processes that follow the polling one."""
    path = tmp_path / "flags.snapshot"
    emu.set_flags([flag(value="x" * 20_000)])
    with provider(emu, snapshot_path=path) as flags:
        flags.start_polling_for_definitions()
        until(path.exists)
    with provider(emu, snapshot_path=path, offline=True) as flags:
        assert flags.are_flags_ready()
    with provider(emu, snapshot_path=path, offline=True, max_definitions_bytes=5_000) as flags:
        assert not flags.are_flags_ready()


def test_followers_reject_what_the_poller_would_reject(emu, tmp_path, monkeypatch):
    """A snapshot that another program wrote does not replace good definitions either."""
    path = tmp_path / "flags.snapshot"
    emu.set_flags([flag()])
    shared = {"snapshot_path": path, "share_polling": True}
    with provider(emu, **shared) as leader, provider(emu, **shared) as follower:
        leader.start_polling_for_definitions()
        until(path.exists)
        follower.start_polling_for_definitions()
        until(follower.are_flags_ready)
        saved = json.loads(path.read_text())
        leader.stop_polling_for_definitions()
        assert leader._lease.acquire()
        monkeypatch.setattr("mixpanel.flags._evaluation.definitions.MAX_FLAGS", 1)
        saved["payload"] = {"flags": [flag(value=False), flag("b")]}
        path.write_text(json.dumps(saved))
        until(lambda: follower.last_error is not None)
        assert "2 flags (limit: 1)" in str(follower.last_error)
        assert follower.is_enabled("checkout", USER)


def test_definitions_are_compiled_off_the_event_loop(emu, monkeypatch):
    """The background loop, which sends events as well, is not blocked."""
    from mixpanel.flags import local_feature_flags

    emu.set_flags([flag()])
    threads = []
    real = local_feature_flags.parse_definitions

    def watched(*given, **options):
        threads.append(threading.current_thread().name)
        return real(*given, **options)

    monkeypatch.setattr(local_feature_flags, "parse_definitions", watched)
    with provider(emu) as flags:
        flags.start_polling_for_definitions()
        assert flags.is_enabled("checkout", USER)
    assert threads
    assert all(name.startswith("AnyIO worker thread") for name in threads)


def test_stopping_does_not_wait_for_definitions_to_compile(emu, monkeypatch):
    """Definitions that are compiled by then are not used any more."""
    from mixpanel.flags import local_feature_flags

    emu.set_flags([flag()])
    begun, go_on = threading.Event(), threading.Event()
    real = local_feature_flags.parse_definitions

    def slow(*given, **options):
        begun.set()
        go_on.wait(10)
        return real(*given, **options)

    monkeypatch.setattr(local_feature_flags, "parse_definitions", slow)
    with provider(emu, request_timeout_in_seconds=1) as flags:
        starting = threading.Thread(target=flags.start_polling_for_definitions)
        starting.start()
        assert begun.wait(5)
        flags.stop_polling_for_definitions()
        assert not flags._poller.running
        go_on.set()
        starting.join()
        time.sleep(0.05)
        assert not flags.are_flags_ready()


def remote(emu):
    config = RemoteFlagsConfig(base_url=emu.url)
    return RemoteFeatureFlagsProvider("t", config, "1", lambda *_: None)


@pytest.mark.parametrize(
    ("count", "length", "reason"),
    [
        (1, 1, None),
        (1, 200_000, None),
        (5_000, 1, None),
        (5_001, 1, "5,001 flags (limit: 5,000)"),
        (1, 4 * 1024 * 1024, "the response has more than 4,194,304 bytes"),
    ],
)
def test_remote_responses_are_bounded(emu, count, length, reason):
    """In bytes and in flags; large ones are decoded off the loop."""
    made = {"variant_key": "on", "variant_value": "x" * length}
    body = {"flags": {f"f{n}": made for n in range(count)}}
    emu.play(Fault.status(200, body=body), path="/flags")
    with remote(emu) as flags:
        selected = anyio.run(flags.aget_variant, "f0", NONE, USER)
        anyio.run(flags.ashutdown)
    if reason is None:
        assert selected.variant_value == "x" * length
    else:
        assert reason in selected.fallback_reason.message


MEMORY = """
import json, resource, sys
from mixpanel._records.json_encoding import loads
from mixpanel.flags import parse_definitions
from mixpanel.flags._rules.limits import MAX_DEFINITIONS_BYTES
import mixpanel.flags.local_feature_flags

megabyte = 2**20
limit = 1500 * megabyte
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
rollout = {"rollout_percentage": 1}
variants = [{"key": f"v{n}", "split": .01} for n in range(100)]
kinds = {
    "rollouts": lambda n: {"rollout": [rollout] * 2000, "variants": variants},
    "lists": lambda n: {"variants": variants, "rollout": [], "nothing": [[]] * 100_000},
}
make = kinds[sys.argv[1]]
flags, bytes_, n = [], 20, 0
while True:
    text = json.dumps({"key": f"f{n}", "context": "c", "ruleset": make(n)}, separators=(",", ":"))
    if bytes_ + len(text) + 1 > MAX_DEFINITIONS_BYTES:
        break
    flags.append(text)
    bytes_ += len(text) + 1
    n += 1
body = ('{"flags":[' + ",".join(flags) + "]}").encode()
del flags
found = parse_definitions(loads(body))
print(len(found.flags), found.problem)
"""


@pytest.mark.heavy
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits the address space")
@pytest.mark.parametrize("kind", ["rollouts", "lists"])
def test_definitions_of_the_maximum_size_fit_into_memory(kind):
    """8 MiB of the most expensive definitions, in a process of 1.5 GB address space."""
    command = [sys.executable, "-c", MEMORY, kind]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-2000:]
    count, _, problem = done.stdout.strip().partition(" ")
    assert int(count) > 0 or "in all flags together" in problem or "flags (limit:" in problem
