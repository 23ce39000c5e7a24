"""Evaluation follows the official algorithm to the bucket, and never raises."""

import doctest
import sys
import threading
from types import MappingProxyType

import pytest

from mixpanel.flags import Snapshot, evaluate, explain, parse_definitions
from mixpanel.flags._evaluation import hashing
from mixpanel.flags._evaluation.compiled_flag import threshold_of, variant_of_each_bucket
from mixpanel.flags._evaluation.evaluate import evaluate_flag
from mixpanel.flags._evaluation.hashing import BoundedCache, Salt, bucket, fnv1a, state_of
from mixpanel.flags.types import Variant

VECTORS = [
    ("abc", "variant", 0xB176B6B6CE8BAB0C, 72),
    ("def", "variant", 0x988928E32FD4850D, 21),
    ("user123", "test_flagrollout", 0x77064B4EDF7F543A, 10),
    ("user123", "test_flagvariant", 0x63A53F4BDD36DB7E, 62),
    ("1234", "sample-flagsalt0", 0x03DDE319A5BE7930, 40),
    ("é", "flagvariant", 0xA6F8E782A1F8C6BC, 80),
    ("", "", 0xCBF29CE484222325, 37),
    ("a", "", 0xAF63DC4C8601EC8C, 96),
    ("foobar", "", 0x85944171F73967E8, 68),
]
AB = [
    {"key": "a", "value": "A", "is_control": True, "split": 0.5},
    {"key": "b", "value": "B", "is_control": False, "split": 0.5},
]
EVERYONE = {"rollout_percentage": 1.0}
PRO = {"==": [{"var": "plan"}, "pro"]}


def flag(*rollouts, key="f", variants=AB, test=None, **more):
    """Return a flag's definition."""
    ruleset = {"variants": variants, "rollout": list(rollouts)}
    if test is not None:
        ruleset["test"] = {"users": test}
    return {"key": key, "context": "distinct_id", "ruleset": ruleset, **more}


def everyone(variant, **more):
    """Return a rollout that gives everyone one variant."""
    return {**EVERYONE, "variant_override": {"key": variant}, **more}


def compiled(definition, **options):
    """Return one flag, compiled."""
    return parse_definitions({"flags": [definition]}, **options).flags[definition["key"]]


def selected(definition, context, **options):
    """Return the variant key that a context gets, or the kind of fallback."""
    result = evaluate(compiled(definition, **options), context)
    return result.variant_key or result.fallback_reason.kind


def user(distinct_id="u1", **properties):
    """Return a context."""
    return {"distinct_id": distinct_id, "custom_properties": properties}


def user_in(wanted, salt):
    """Return a user whose bucket under a salt is the wanted one."""
    return next(name for i in range(10_000) if bucket(name := f"u{i}", salt) == wanted)


def test_the_worked_example_of_hashing_is_right():
    """The figures in the docstring of the module are those that its functions return."""
    results = doctest.testmod(hashing)
    assert (results.failed, results.attempted > 5) == (0, True)


@pytest.mark.parametrize(("value", "salt", "hashed", "expected"), VECTORS)
def test_hash_vectors(value, salt, hashed, expected):
    """The bucket of a value under a salt is the same in every SDK."""
    assert hashed == fnv1a(salt.encode(), state_of(value))
    assert hashed == Salt(salt).after(state_of(value))
    assert hashed == (Salt(salt[:3]) + Salt(salt[3:])).after(state_of(value))
    assert expected == bucket(value, salt)


def test_a_salt_hashes_like_its_bytes_from_any_state():
    """The shortcut of one multiplication is exact, whatever the state and its low byte."""
    text = "checkout-é-variant"
    whole, joined = Salt(text), Salt("checkout-é") + Salt("-variant")

    for state in [*range(256), *(fnv1a(bytes([i, 255 - i])) for i in range(256)), 2**64 - 1]:
        assert fnv1a(text.encode(), state) == whole.after(state) == joined.after(state)


@pytest.mark.parametrize(
    ("percentage", "threshold"),
    [
        (0.0, 0),
        (0.005, 1),
        (0.01, 1),
        (0.29, 29),
        (0.291, 30),
        (0.57, 57),
        (1.0, 100),
        (2, 100),
        (-1, 0),
        (float("nan"), 0),
        (float("inf"), 100),
    ],
)
def test_threshold_counts_the_buckets_below_the_percentage(percentage, threshold):
    """A fraction that is not a whole percentage is rounded up."""
    assert threshold == threshold_of(percentage)


def test_threshold_of_every_whole_percent_is_exact():
    """Every whole percentage is exact, although a double cannot represent 0.29 exactly."""
    assert [threshold_of(n / 100) for n in range(101)] == list(range(101))


def test_splits_are_added_up_as_doubles():
    """0.01 + 0.05 is a little more than 0.06, so bucket 6 is still the second variant's."""
    splits = {"a": 0.01, "b": 0.05, "c": 0.94}
    variants = [Variant(key=key, split=split) for key, split in splits.items()]

    winners = variant_of_each_bucket(variants, {})

    assert winners[:8] == [0, 1, 1, 1, 1, 1, 1, 2]


@pytest.mark.slow
def test_rounding_moves_a_split_by_one_bucket_in_706_of_4851_cases():
    """So many pairs of percentages end one bucket off: part of the contract with other SDKs."""
    off = 0
    for a in range(1, 99):
        for b in range(1, 100 - a):
            variants = [Variant(key="a", split=a / 100), Variant(key="b", split=b / 100)]
            third = Variant(key="c", split=1.0)
            winners = variant_of_each_bucket([*variants, third], {})
            off += winners.count(2) != 100 - a - b

    assert off == 706


def test_the_last_variant_gets_the_buckets_that_splits_leave_over():
    """Splits that sum to less than one leave no user without a variant."""
    variants = [Variant(key="a", split=0.1), Variant(key="b", split=0.1)]

    assert variant_of_each_bucket(variants, {}).count(1) == 90
    assert variant_of_each_bucket(variants, {"a": 0.0, "b": 0.0}) == [1] * 100


def test_splits_of_a_rollout_replace_those_of_the_variants():
    """`variant_splits` overrides the variants' splits key by key; its keys are case-sensitive."""
    assert selected(flag({**EVERYONE, "variant_splits": {"a": 0.0, "b": 1.0}}), user()) == "b"
    assert selected(flag({**EVERYONE, "variant_splits": {"a": 1.0}}), user()) == "a"
    name = user_in(10, "fvariant")
    assert selected(flag({**EVERYONE, "variant_splits": {"A": 0.0}}), user(name)) == "a"


def test_variants_are_sorted_by_key():
    """Not by their order in the response: by code point, capitals first."""
    variants = [{"key": key, "value": key, "split": 0.5} for key in ("b", "Z")]

    assert selected(flag(EVERYONE, variants=variants), user(user_in(10, "fvariant"))) == "Z"
    assert selected(flag(EVERYONE, variants=variants), user(user_in(90, "fvariant"))) == "b"


@pytest.mark.parametrize("drawn", [0, 49, 50, 99])
def test_users_are_split_by_the_variant_salt(drawn):
    """The variant's bucket is hashed with key + hash_salt + "variant"."""
    expected = "a" if drawn < 50 else "b"

    assert expected == selected(flag(EVERYONE), user(user_in(drawn, "fvariant")))
    salted = flag(EVERYONE, hash_salt="s")
    assert expected == selected(salted, user(user_in(drawn, "fsvariant")))


@pytest.mark.parametrize(
    ("hash_salt", "salts"),
    [(None, ("frollout", "frollout")), ("s", ("fs0", "fs1")), ("", ("f0", "f1"))],
)
def test_rollouts_include_users_by_their_salts(hash_salt, salts):
    """Without a hash_salt all rollouts share a bucket; an empty hash_salt counts as one."""
    for index, salt in enumerate(salts):
        closed = [everyone("a", rollout_percentage=0.0)] * index
        definition = flag(*closed, everyone("b", rollout_percentage=0.3), hash_salt=hash_salt)

        assert selected(definition, user(user_in(29, salt))) == "b"
        assert selected(definition, user(user_in(30, salt))) == "NO_ROLLOUT_MATCH"


def test_more_than_ten_rollouts_have_salts_of_two_digits():
    """The salt ends in the decimal index of the rollout."""
    definition = flag(
        *[everyone("a", rollout_percentage=0.0)] * 11,
        everyone("b", rollout_percentage=0.01),
        hash_salt="s",
    )

    assert selected(definition, user(user_in(0, "fs11"))) == "b"


def test_the_first_rollout_that_includes_a_user_decides():
    """Rollouts are evaluated in their order."""
    pro, rest = everyone("a", runtime_evaluation_rule=PRO), everyone("b")

    assert selected(flag(pro, rest), user(plan="Pro")) == "a"
    assert selected(flag(pro, rest), user(plan="free")) == "b"
    assert selected(flag(rest, pro), user(plan="Pro")) == "b"


def test_a_user_in_no_rollout_gets_a_reason():
    """A user whom no rollout includes gets the fallback; its reason has no message."""
    result = evaluate(compiled(flag({"rollout_percentage": 0.0})), user())

    assert (result.variant_value, result.variant_source) == (None, "fallback")
    assert (result.fallback_reason.kind, result.fallback_reason.message) == (
        "NO_ROLLOUT_MATCH",
        None,
    )
    assert selected(flag(), user()) == "NO_ROLLOUT_MATCH"


@pytest.mark.parametrize("value", [None, "", 0, 0.0, False, [], {}])
def test_a_falsy_assignment_value_counts_as_missing(value):
    """As in the official SDK, 0 and False count as missing, even for test users."""
    result = evaluate(compiled(flag(EVERYONE, test={"": "a"})), {"distinct_id": value})

    assert (result.fallback_reason.kind, result.fallback_reason.message) == (
        "MISSING_CONTEXT_KEY",
        "distinct_id",
    )


def test_a_flag_is_assigned_by_its_context_key():
    """A group flag gives all users of a company the same variant."""
    definition = flag(EVERYONE, context="company_id")
    company = user_in(90, "fvariant")

    assert selected(definition, {"distinct_id": "u1", "company_id": company}) == "b"
    assert selected(definition, {"distinct_id": "u1"}) == "MISSING_CONTEXT_KEY"


@pytest.mark.parametrize("value", [17, 1.0, True])
def test_an_assignment_value_that_is_not_text_is_hashed_as_its_str(value):
    """True is "True" and 1.0 is "1.0", as in the official SDK."""
    expected = "a" if bucket(str(value), "fvariant") < 50 else "b"

    assert expected == selected(flag(EVERYONE), {"distinct_id": value})


def test_test_users_get_their_variant_first():
    """A test user gets the named variant, in any case, whatever the rollouts are."""
    definition = compiled(flag({"rollout_percentage": 0.0}, test={"u1": "B", "u2": "nope"}))

    result = evaluate(definition, user("u1"))

    assert (result.variant_key, result.variant_value, result.is_qa_tester) == ("b", "B", True)
    assert evaluate(definition, user("U1")).variant_key is None
    assert evaluate(definition, user("u2")).fallback_reason.kind == "NO_ROLLOUT_MATCH"


def test_test_users_are_identified_by_distinct_id():
    """Test users of a group flag are people; the group is required nevertheless."""
    definition = flag(EVERYONE, context="company_id", test={"u1": "b"})
    company = user_in(0, "fvariant")

    assert selected(definition, {"distinct_id": "u1", "company_id": company}) == "b"
    assert selected(definition, {"distinct_id": "u2", "company_id": company}) == "a"
    assert selected(definition, {"distinct_id": "u1"}) == "MISSING_CONTEXT_KEY"


def test_an_override_gives_everyone_its_variant():
    """An override ignores case, and does not mark users as testers."""
    result = evaluate(compiled(flag(everyone("B"))), user())

    assert (result.variant_key, result.is_qa_tester) == ("b", None)


def test_an_unknown_override_is_ignored():
    """A mistyped override falls back to the rollout's own splits."""
    assert selected(flag(everyone("nope")), user(user_in(10, "fvariant"))) == "a"
    assert selected(flag(everyone("")), user(user_in(90, "fvariant"))) == "b"


def test_a_selected_variant_has_the_experiment():
    """Exposures need the experiment of the flag."""
    result = evaluate(
        compiled(flag(everyone("a"), experiment_id="e1", is_experiment_active=True)), user()
    )

    assert (result.experiment_id, result.is_experiment_active) == ("e1", True)
    assert (result.variant_source, result.fallback_reason) == ("local", None)


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["default", "json-logic"])
@pytest.mark.parametrize("properties", [None, {}, [], "pro", [("plan", "free")], 5, ...])
def test_rules_need_properties(engine, properties):
    """Without properties no rule matches, not even one that tests for inequality."""
    definition = flag(everyone("a", runtime_evaluation_rule={"!=": [{"var": "plan"}, "pro"]}))
    context = {"distinct_id": "u1"}
    if properties is not ...:
        context["custom_properties"] = properties

    assert selected(definition, context, rule_engine=engine) == "NO_ROLLOUT_MATCH"


@pytest.mark.parametrize("rule", [None, {}, [], False, ""])
def test_an_empty_rule_counts_as_no_rule(rule):
    """A rollout whose rule is empty includes users by its percentage alone."""
    definition = flag(everyone("a", runtime_evaluation_rule=rule, runtime_evaluation_definition={}))

    assert selected(definition, {"distinct_id": "u1"}) == "a"


def test_a_rule_takes_precedence_over_the_legacy_definition():
    """The deprecated form counts only without the current one."""
    legacy = {"plan": "free"}

    assert (
        selected(flag(everyone("a", runtime_evaluation_definition=legacy)), user(plan="FREE"))
        == "a"
    )
    both = everyone("a", runtime_evaluation_rule=PRO, runtime_evaluation_definition=legacy)
    assert selected(flag(both), user(plan="pro")) == "a"
    assert selected(flag(both), user(plan="free")) == "NO_ROLLOUT_MATCH"


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["default", "json-logic"])
@pytest.mark.parametrize(
    ("undecidable", "kind"),
    [
        ({"cohort_hash": "abc"}, "COHORT_ROLLOUT"),
        ({"runtime_event_rule": {"==": [1, 1]}}, "RUNTIME_EVENT_ROLLOUT"),
    ],
)
def test_rollouts_that_only_servers_can_decide_fail_closed(engine, undecidable, kind):
    """A cohort or event rollout serves no user locally; it is the reason if no other does."""
    rollout = everyone("a", **undecidable)

    assert selected(flag(rollout), user(), rule_engine=engine) == kind
    assert selected(flag(rollout, everyone("b")), user(), rule_engine=engine) == "b"
    definition = compiled(flag(rollout), rule_engine=engine)
    assert definition.is_partial
    assert not compiled(flag(everyone("b"))).is_partial


def test_an_undecidable_rollout_that_excludes_a_user_is_not_the_reason():
    """A user outside the percentage, or whose rule does not match, is decided: no match."""
    closed = everyone("a", cohort_hash="abc", rollout_percentage=0.0)
    pro = everyone("a", cohort_hash="abc", runtime_evaluation_rule=PRO)

    assert selected(flag(closed), user()) == "NO_ROLLOUT_MATCH"
    assert selected(flag(pro), user(plan="free")) == "NO_ROLLOUT_MATCH"
    assert selected(flag(pro), user(plan="pro")) == "COHORT_ROLLOUT"


def test_test_users_of_an_undecidable_flag_are_decided():
    """A test user needs no rollout."""
    assert selected(flag(everyone("a", cohort_hash="abc"), test={"u1": "b"}), user("u1")) == "b"


def test_a_bad_rule_affects_only_its_rollout():
    """An invalid rule never matches; it is the reason if no other rollout serves a variant."""
    bad = everyone("a", runtime_evaluation_rule={"nope": [1]})

    result = evaluate(compiled(flag(bad)), user(plan="pro"))

    assert result.fallback_reason.kind == "RULE_ERROR"
    assert result.fallback_reason.message == "rollout 0: unknown operator 'nope'"
    assert selected(flag(bad, everyone("b")), user()) == "b"


@pytest.mark.slow
def test_a_failing_rule_is_a_reason_without_values():
    """The reason names the exception, but not the values that the rule read."""
    failing = everyone("a", runtime_evaluation_rule={"<": [{"var": "secret"}, 5]})

    result = evaluate(compiled(flag(failing), rule_engine="json-logic"), user(secret="hunter2"))

    assert result.fallback_reason.kind == "RULE_ERROR"
    assert result.fallback_reason.message == "rollout 0: the rule raised ValueError"
    decided = flag(failing, everyone("b"))
    assert selected(decided, user(secret="hunter2"), rule_engine="json-logic") == "b"


class Hostile:
    """Raise on every operation that evaluation could perform on a value."""

    def __bool__(self):
        raise RuntimeError("no")

    __eq__ = __str__ = __hash__ = __len__ = __repr__ = __bool__


class HostileMapping(dict):
    """Raise when read."""

    def get(self, *_):
        raise RuntimeError("no")

    __getitem__ = __iter__ = items = keys = get


def cyclic():
    """Return a dict that contains itself."""
    properties = {"plan": "pro"}
    properties["self"] = properties
    return properties


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["default", "json-logic"])
@pytest.mark.parametrize(
    "context",
    [
        None,
        5,
        "u1",
        [],
        Hostile(),
        HostileMapping(distinct_id="u1"),
        {"distinct_id": Hostile()},
        {"distinct_id": "\ud800"},
        {"distinct_id": ["u1"]},
        {"distinct_id": {"a": 1}},
        user(plan=Hostile()),
        user(plan=["pro", Hostile()]),
        {"distinct_id": "u1", "custom_properties": Hostile()},
        {"distinct_id": "u1", "custom_properties": HostileMapping(plan="pro")},
        {"distinct_id": "u1", "custom_properties": {None: 1, 5: 2, (1, 2): 3}},
        {"distinct_id": "u1", "custom_properties": cyclic()},
    ],
    ids=lambda value: None if isinstance(value, str) else type(value).__name__,
)
def test_no_context_makes_evaluation_raise(engine, context):
    """Whatever a caller passes, the result is a variant or a fallback with a reason."""
    rule = {"or": [PRO, {"in": ["a", {"var": ""}]}, {"==": [{"var": "self"}, 1]}]}
    definitions = parse_definitions(
        {"flags": [flag(everyone("a", runtime_evaluation_rule=rule), test={"u0": "a"})]},
        rule_engine=engine,
    )

    result = evaluate_flag(definitions, "f", context)

    assert result.variant_key == "a" or result.fallback_reason is not None
    assert str(explain(definitions, "f", context))
    assert Snapshot(definitions, context).get_variant("f").variant_key == result.variant_key


def test_an_invalid_context_is_a_reason():
    """One that is not a mapping, a lone surrogate, an unhashable tester: a reason, not an error."""
    definition = compiled(flag(EVERYONE, test={"u0": "a"}))

    for context in (None, {"distinct_id": "\ud800"}, {"distinct_id": ["u1"]}):
        assert evaluate(definition, context).fallback_reason.kind == "INVALID_CONTEXT"


def test_any_mapping_is_a_context():
    """A context need not be a dict."""
    assert selected(flag(everyone("a")), MappingProxyType({"distinct_id": "u1"})) == "a"


def test_an_unknown_flag_is_a_reason():
    """A flag without a definition is not an error."""
    result = evaluate_flag(parse_definitions({"flags": []}), "f", user())

    assert (result.variant_value, result.fallback_reason.kind) == (None, "FLAG_NOT_FOUND")


def test_a_malformed_flag_affects_no_other():
    """It becomes a diagnostic and a reason; the other flags are served."""
    bad = flag(key="bad") | {"ruleset": {"variants": "?"}}

    definitions = parse_definitions({"flags": [bad, None, flag(everyone("a"), key="good")]})

    assert evaluate_flag(definitions, "good", user()).variant_key == "a"
    assert evaluate_flag(definitions, "bad", user()).fallback_reason.kind == "PARSE_ERROR"
    assert (definitions.received, list(definitions.flags)) == (3, ["good"])
    assert [d.flag_key for d in definitions.diagnostics] == ["bad", None]


def test_a_flag_without_variants_is_malformed():
    """An empty list of variants is reported with its own kind."""
    definitions = parse_definitions({"flags": [flag(EVERYONE, variants=[])]})

    reason = evaluate_flag(definitions, "f", user()).fallback_reason

    assert (reason.kind, reason.message) == ("PARSE_ERROR", "the flag has no variants")


def test_diagnostics_do_not_repeat_the_contents_of_a_flag():
    """A definition may hold e-mail addresses of test users."""
    odd = flag(EVERYONE, test={"secret@example.com": ["a"]})
    bad = flag({"rollout_percentage": "secret@example.com"}, key="g")

    ignored, malformed = sorted(
        parse_definitions({"flags": [odd, bad]}).diagnostics, key=lambda each: each.flag_key
    )

    assert (ignored.kind, ignored.flag_key) == ("ignored_field", "f")
    assert (malformed.kind, malformed.flag_key) == ("malformed", "g")
    assert "valid number" in malformed.message
    assert "secret" not in f"{ignored} {malformed}"


@pytest.mark.parametrize("payload", [None, 5, "<html>", [], {}, {"flags": {}}, {"flags": None}])
def test_a_response_without_definitions_has_a_problem(payload):
    """A caller can tell an error page from an empty project."""
    definitions = parse_definitions(payload)

    assert definitions.problem == 'not an object with a list of "flags"'
    assert (definitions.received, definitions.flags) == (0, {})
    assert parse_definitions({"flags": []}).problem is None


def test_the_last_of_two_definitions_wins():
    """A flag that is defined twice has the last definition, and a diagnostic."""
    definitions = parse_definitions({"flags": [flag(everyone("a")), flag(everyone("b"))]})

    assert evaluate_flag(definitions, "f", user()).variant_key == "b"
    assert [d.kind for d in definitions.diagnostics] == ["duplicate_key"]


def test_unchanged_flags_are_reused():
    """A poll that changes one flag compiles one flag; true is not 1."""
    first = parse_definitions({"flags": [flag(everyone("a")), flag(everyone("a"), key="g")]})
    changed = [{**each, "value": 1} for each in AB]

    second = parse_definitions(
        {"flags": [flag(everyone("a")), flag(everyone("a"), key="g", variants=changed)]},
        previous=first,
    )
    truth = [{**each, "value": True} for each in AB]
    third = parse_definitions(
        {"flags": [flag(everyone("a"), key="g", variants=truth)]}, previous=second
    )

    assert second.flags["f"] is first.flags["f"]
    assert second.flags["g"].revision != first.flags["g"].revision
    assert evaluate_flag(third, "g", user()).variant_value is True


def test_a_flag_that_becomes_malformed_stays_as_it_was():
    """A malformed definition does not replace a good one, and has a diagnostic."""
    first = parse_definitions({"flags": [flag(everyone("a"))]})

    second = parse_definitions({"flags": [flag(everyone("a"), context=None)]}, previous=first)
    third = parse_definitions({"flags": []}, previous=second)

    assert evaluate_flag(second, "f", user()).variant_key == "a"
    assert [d.kind for d in second.diagnostics] == ["malformed"]
    assert evaluate_flag(third, "f", user()).fallback_reason.kind == "FLAG_NOT_FOUND"


@pytest.mark.slow
def test_another_engine_reuses_no_flags():
    """Rules are compiled again when the engine changes."""
    first = parse_definitions({"flags": [flag(everyone("a"))]})

    second = parse_definitions(
        {"flags": [flag(everyone("a"))]}, previous=first, rule_engine="json-logic"
    )

    assert second.flags["f"].engine.name == "json-logic"


def test_callers_own_the_values_that_they_get():
    """Changing a served value changes no other result."""
    variants = [{"key": "a", "value": {"colors": ["red"]}, "split": 1.0}]
    definition = compiled(flag(EVERYONE, variants=variants, test={"qa": "a"}))

    for context in (user(), user("qa")):
        evaluate(definition, context).variant_value["colors"].append("blue")

        assert evaluate(definition, context).variant_value == {"colors": ["red"]}


def test_variants_with_immutable_values_are_shared():
    """Equal results are the same object: nothing is allocated on the hot path."""
    definition = compiled(flag(everyone("a")))

    assert evaluate(definition, user()) is evaluate(definition, user("u2"))


def test_the_cache_of_users_is_bounded():
    """Memory is bounded, and results do not depend on it."""
    definition = compiled(flag(EVERYONE), remembered_users=10)

    before = [evaluate(definition, user(f"u{i}")).variant_key for i in range(100)]
    after = [evaluate(definition, user(f"u{i}")).variant_key for i in range(100)]

    assert before == after
    assert len(definition.assignments) <= 10


def test_a_bounded_cache_computes_each_value_once():
    """Until it is full: then it starts again."""
    computed = []
    recent = BoundedCache(2, lambda key: computed.append(key) or key)

    assert [recent[key] for key in (1, 1, 2, 1, 3, 1)] == [1, 1, 2, 1, 3, 1]
    assert computed == [1, 2, 3, 1]


def test_threads_get_the_same_variants():
    """Evaluation takes no lock: eight threads with a tiny cache agree."""
    definition = compiled(flag({"rollout_percentage": 0.7}, hash_salt="s"), remembered_users=3)
    users = [user(f"u{i}") for i in range(300)]
    expected = [evaluate(definition, each) for each in users]
    results, interval = [], sys.getswitchinterval()

    def check():
        results.append([evaluate(definition, each) for each in users])

    threads = [threading.Thread(target=check) for _ in range(8)]
    sys.setswitchinterval(1e-5)
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)

    assert results == [expected] * 8


def test_sticky_variants_are_not_sticky_and_have_a_diagnostic():
    """Local evaluation, like the official SDK's, knows no earlier assignment."""
    variants = [{**AB[0], "is_sticky": True}, AB[1]]

    definitions = parse_definitions({"flags": [flag(everyone("a"), variants=variants)]})

    assert evaluate_flag(definitions, "f", user()).variant_key == "a"
    assert [d.kind for d in definitions.diagnostics] == ["sticky"]


def test_a_snapshot_evaluates_as_each_flag_does():
    """All flags for one user have the results of each flag evaluated alone."""
    flags = [flag({"rollout_percentage": i / 20}, key=f"f{i}", hash_salt="s") for i in range(20)]
    definitions = parse_definitions({"flags": flags})
    snapshot = Snapshot(definitions, user())

    chosen = snapshot.get_all()

    assert chosen == {
        key: result
        for key in definitions.flags
        if (result := evaluate_flag(definitions, key, user())).fallback_reason is None
    }
    assert 0 < len(chosen) < 20
    assert snapshot.get_variant("f0").fallback_reason.kind == "NO_ROLLOUT_MATCH"
    assert list(snapshot.get_all(["f19", "nope"])) == (["f19"] if "f19" in chosen else [])


def test_a_snapshot_does_not_change():
    """A request sees one context, even if the caller's dict changes meanwhile."""
    context = user(plan="pro", tags=["a"])
    rule = {"and": [PRO, {"in": ["a", {"var": "tags"}]}]}
    definitions = parse_definitions({"flags": [flag(everyone("a", runtime_evaluation_rule=rule))]})

    snapshot = Snapshot(definitions, context)
    context["custom_properties"]["plan"] = "free"
    context["custom_properties"]["tags"].clear()
    context.clear()

    assert snapshot.get_variant("f").variant_key == "a"
    assert snapshot.get_variant("f") is snapshot.get_variant("f")


def test_a_snapshot_serves_values_and_fallbacks():
    """Its methods are those of the providers, without the context."""
    variants = [{"key": "on", "value": True, "split": 1.0}]
    definitions = parse_definitions({"flags": [flag(EVERYONE, variants=variants)]})
    snapshot = Snapshot(definitions, user())
    mine = definitions.flags["f"].variants[0]

    assert snapshot.is_enabled("f")
    assert not snapshot.is_enabled("nope")
    assert snapshot.get_variant_value("f", "mine") is True
    assert snapshot.get_variant_value("nope", "mine") == "mine"
    assert snapshot.get_variant("nope", mine).variant_value is True
    assert snapshot.get_variant("nope", mine).fallback_reason.kind == "FLAG_NOT_FOUND"


def test_a_snapshot_initializes_a_front_end():
    """`bootstrap` has the format of remote evaluation."""
    definitions = parse_definitions(
        {"flags": [flag(everyone("a"), experiment_id="e1"), flag(key="closed")]}
    )

    assert Snapshot(definitions, user()).bootstrap() == {
        "f": {
            "variant_key": "a",
            "variant_value": "A",
            "experiment_id": "e1",
            "is_experiment_active": None,
            "is_qa_tester": None,
        }
    }


def test_explain_goes_rollout_by_rollout():
    """The trace shows buckets, thresholds, clauses and what they read, up to the decision."""
    rule = {"and": [PRO, {">=": [{"var": "age"}, 18]}]}
    definitions = parse_definitions(
        {
            "flags": [
                flag(
                    everyone("a", rollout_percentage=0.0),
                    everyone("a", runtime_evaluation_rule=rule),
                    everyone("a", runtime_evaluation_definition={"plan": "max"}),
                    everyone("b"),
                    everyone("a"),
                    hash_salt="s",
                )
            ]
        }
    )

    trace = explain(definitions, "f", user("user123", Plan="PRO", age=17))

    assert trace.selected.variant_key == "b"
    assert trace.variant_bucket == bucket("user123", "fsvariant")
    assert [r.bucket for r in trace.rollouts] == [bucket("user123", f"fs{i}") for i in range(4)]
    assert [r.threshold for r in trace.rollouts] == [0, 100, 100, 100]
    assert [r.rule for r in trace.rollouts] == [None, False, False, None]
    assert [(c.result, c.reads) for c in trace.rollouts[1].clauses] == [
        (True, (("plan", "pro"),)),
        (False, (("age", 17),)),
    ]
    assert [r.is_taken for r in trace.rollouts] == [False, False, False, True]
    assert str(trace) == "\n".join(
        [
            "flag 'f': variant 'b' = 'B'",
            f"  distinct_id = 'user123', variant bucket {trace.variant_bucket} of 100",
            f"  rollout 0 (0): bucket {trace.rollouts[0].bucket} >= 0, not included",
            f"  rollout 1 (1): bucket {trace.rollouts[1].bucket} < 100, rule does not match",
            """      true   {"==":[{"var":"plan"},"pro"]}  with plan = 'pro'""",
            """      false  {">=":[{"var":"age"},18]}  with age = 17""",
            f"  rollout 2 (1): bucket {trace.rollouts[2].bucket} < 100, rule does not match",
            """      false  {"plan":"max"}  with plan = 'pro'""",
            f"  rollout 3 (1): bucket {trace.rollouts[3].bucket} < 100, taken, variant 'b'",
        ]
    )


def test_explain_shows_what_cannot_be_decided_locally():
    """A trace shows whether Mixpanel's servers might decide differently."""
    cohort = everyone("a", cohort_hash="abc")
    definitions = parse_definitions({"flags": [flag(cohort, everyone("b"))]})

    trace = explain(definitions, "f", user())

    assert trace.selected.variant_key == "b"
    assert trace.undecided.kind == "COHORT_ROLLOUT"
    assert "cannot be decided locally: COHORT_ROLLOUT (rollout 0: for a cohort)" in str(trace)
    plain = parse_definitions({"flags": [flag(everyone("b"), cohort)]})
    assert explain(plain, "f", user()).undecided is None


def test_explain_without_rollouts_shows_the_reason():
    """Unknown flags, missing contexts and test users are explained without rollouts."""
    definitions = parse_definitions({"flags": [flag(EVERYONE, test={"qa": "a"})]})

    assert str(explain(definitions, "nope", user())) == "flag 'nope': fallback, FLAG_NOT_FOUND"
    missing = str(explain(definitions, "f", {}))
    assert missing == "flag 'f': fallback, MISSING_CONTEXT_KEY (distinct_id)"
    assert "variant 'a' = 'A', as a test user" in str(explain(definitions, "f", user("qa")))


def test_explain_notes_values_that_other_languages_format_differently():
    """JavaScript formats 1.0 as 1, which is another bucket."""
    definitions = parse_definitions({"flags": [flag(EVERYONE)]})

    trace = explain(definitions, "f", {"distinct_id": 1.0})

    assert str(trace).endswith(
        "note: distinct_id is hashed as '1.0'; other SDKs may format it differently"
    )


@pytest.mark.slow
def test_explain_shows_a_clause_that_failed():
    """With the json-logic engine one clause can fail the rule: the trace shows which."""
    rule = {"or": [PRO, {"<": [{"var": "age"}, 5]}]}
    definitions = parse_definitions(
        {"flags": [flag(everyone("a", runtime_evaluation_rule=rule))]}, rule_engine="json-logic"
    )

    trace = explain(definitions, "f", user(plan="pro", age="old"))

    assert [clause.result for clause in trace.rollouts[0].clauses] == [True, None]
    assert "RULE_ERROR (rollout 0: the rule raised ValueError)" in str(trace)
