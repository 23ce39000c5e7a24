"""Profile operations, without a server."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mixpanel.emulator._rules.profiles import OPERATIONS, Update, apply_update, validate_updates

SCALARS = st.none() | st.booleans() | st.integers() | st.text(max_size=5)
VALUES = SCALARS | st.lists(SCALARS, max_size=4)
PROFILES = st.dictionaries(st.sampled_from("abcd"), VALUES)
LISTS = st.dictionaries(st.sampled_from("abcd"), st.lists(SCALARS, max_size=4))
REPEATABLE = st.one_of(
    st.tuples(st.sampled_from(["$set", "$set_once", "$remove"]), PROFILES),
    st.tuples(st.just("$union"), LISTS),
    st.tuples(st.just("$unset"), st.lists(st.sampled_from("abcd"))),
)


def apply(properties, operation, value):
    return apply_update(properties, Update(("u1",), operation, value))


def update(**members):
    return {"$token": "T", "$distinct_id": "u1", **members}


@pytest.mark.parametrize(
    ("before", "operation", "value", "after"),
    [
        ({}, "$set", {"a": 1}, {"a": 1}),
        ({"a": 1, "b": 2}, "$set", {"a": None}, {"a": None, "b": 2}),
        ({"a": 1}, "$set_once", {"a": 2, "b": 3}, {"a": 1, "b": 3}),
        ({}, "$add", {"a": 2}, {"a": 2}),
        ({"a": 1.5}, "$add", {"a": -2}, {"a": -0.5}),
        ({"a": "x"}, "$add", {"a": 1}, {"a": "x"}),
        ({"a": [1]}, "$union", {"a": [1, 2, 2, True], "b": [3]}, {"a": [1, 2, True], "b": [3]}),
        ({"a": [1]}, "$append", {"a": 1, "b": [2]}, {"a": [1, 1], "b": [[2]]}),
        ({"a": "x"}, "$append", {"a": "y"}, {"a": ["x", "y"]}),
        ({"a": [1, 2, 1]}, "$remove", {"a": 1, "b": 1}, {"a": [2]}),
        ({"a": [1, True]}, "$remove", {"a": True}, {"a": [1]}),
        ({"a": 1}, "$remove", {"a": 1}, {"a": 1}),
        ({"a": 1, "b": 2}, "$unset", ["a", "c"], {"b": 2}),
        ({"a": 1}, "$delete", "", None),
    ],
)
def test_an_operation_does_what_is_documented(before, operation, value, after):
    """One profile, one operation."""
    assert after == apply(before, operation, value)


@pytest.mark.slow
@given(PROFILES, REPEATABLE)
def test_repeating_a_repeatable_operation_changes_nothing(properties, change):
    """This is why clients may send them again."""
    once = apply(properties, *change)
    assert once == apply(once, *change)


@pytest.mark.slow
@given(PROFILES, st.sampled_from(["$set", "$set_once", "$union", "$append", "$remove"]), LISTS)
def test_an_operation_does_not_change_the_given_profile(properties, operation, value):
    """It returns a new one."""
    before = repr(properties)
    apply(properties, operation, value)
    assert before == repr(properties)


@pytest.mark.parametrize(
    ("record", "field"),
    [
        (17, ""),
        (update(), ""),
        (update(**{"$set": {}, "$add": {}}), ""),
        ({"$token": "T", "$set": {}}, "$distinct_id"),
        (update(**{"$distinct_id": "", "$set": {}}), "$distinct_id"),
        (update(**{"$distinct_id": "NULL", "$set": {}}), "$distinct_id"),
        (update(**{"$set": []}), "$set"),
        (update(**{"$set": {"a" * 256: 1}}), "$set"),
        (update(**{"$set": {"a": "x" * 1_000_000}}), "$set"),
        (update(**{"$add": {"a": True}}), "$add.a"),
        (update(**{"$add": {"a": None}}), "$add.a"),
        (update(**{"$union": {"a": 1}}), "$union.a"),
        (update(**{"$unset": "a"}), "$unset"),
        (update(**{"$unset": [1]}), "$unset"),
    ],
)
def test_an_invalid_update_is_rejected_alone(record, field):
    """The other updates are applied."""
    judgement = validate_updates([record, update(**{"$set": {"a": 1}})])
    assert [(0, field)] == [(each.index, each.field) for each in judgement.rejected]
    assert 1 == len(judgement.accepted)


@pytest.mark.parametrize("operation", OPERATIONS)
def test_groups_accept_every_operation(operation):
    """Including those that are not documented for them."""
    value = ["a"] if operation == "$unset" else {}
    record = {"$token": "T", "$group_key": "company", "$group_id": 7, operation: value}
    (accepted,) = validate_updates([record], groups=True).accepted
    assert (("company", "7"), operation) == (accepted.key, accepted.operation)


def test_ignore_time_and_ignore_alias_apply():
    """`$ignore_time` does not change last_seen, `$ignore_alias` takes the id literally."""
    plain = update(**{"$delete": "", "$ip": "0", "$time": 1})
    result = validate_updates(
        [plain, {**plain, "$ignore_time": True, "$ignore_alias": True}], now=5
    )
    assert [(5000, False), (None, True)] == [(x.seen, x.ignore_alias) for x in result.accepted]
