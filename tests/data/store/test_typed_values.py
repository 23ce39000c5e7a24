"""Typed views and column statistics agree with plain Python over random events."""

import json
from collections import Counter
from decimal import Decimal

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from mixpanel.data.store import Database, typed_views

KEYS = [
    "plan", "Plan", "PLAN", "plan_2", "id", "amount", "select", 'a"b\'c', "x.y/z~", "😀", "",
    "event_name", "$os", "É", "é",
]  # fmt: skip
INTEGERS = st.integers(-(10**6), 10**6)
IDS = st.integers(2**60, 2**60 + 50) | st.integers(2**63 - 5, 2**64 + 5)
SIGNED_IDS = st.integers(-(2**63) - 3, -(2**63) + 3) | st.integers(2**53 - 3, 2**53 + 3)
LIMITS = st.sampled_from([-(2**127), 2**127 - 1, -(2**63), 2**63 - 1, -(2**53), 2**53])
HUGE = st.integers(-(2**127) - 2, 2**127 + 2) | st.integers(2**126, 2**130) | LIMITS
DECIMALS = st.integers(-(10**6), 10**6).map(lambda n: n / 100)
FLOATS = st.floats(allow_nan=False, allow_infinity=False)
TEXTS = st.sampled_from(["", "N/A", "5", "true", "null", "it's", "\u2028", "long" * 20])
NESTED = st.sampled_from([[], {}, [1, "x"], {"plan": 1, "Plan": {"b": None}}])
KINDS = [
    INTEGERS, IDS, SIGNED_IDS, HUGE, DECIMALS, FLOATS, TEXTS, st.booleans(), NESTED,
    INTEGERS | DECIMALS, IDS | DECIMALS, IDS | FLOATS, INTEGERS | TEXTS, st.booleans() | INTEGERS,
]  # fmt: skip


@st.composite
def properties_of_events(draw):
    """Draw the properties of some events: mostly of one kind for each name, with exceptions."""
    kinds = {key: draw(st.sampled_from(KINDS)) for key in draw(st.sets(st.sampled_from(KEYS)))}
    rare = {key: draw(st.integers(2, 20)) for key in kinds}
    rows = []
    for number in range(draw(st.integers(1, 40))):
        row = {}
        for key, kind in kinds.items():
            chosen = draw(st.integers(0, 9))
            if chosen == 0:
                row[key] = None
            elif chosen > 1:
                exception = number % rare[key] == 1
                row[key] = draw(DECIMALS | TEXTS | IDS | LIMITS | NESTED if exception else kind)
        rows.append(row)
    return rows


@pytest.fixture(scope="module")
def db():
    """Open a database in memory."""
    with Database.open() as database:
        yield database


def load(db, rows):
    """Create a table of events with these properties, in order."""
    db.connection.execute(
        "CREATE OR REPLACE TABLE t (event_name VARCHAR, n BIGINT, properties JSON)"
    )
    db.connection.execute(
        "INSERT INTO t SELECT 'e', unnest(range(len($1))), unnest($1::VARCHAR[])",
        [[json.dumps(row) for row in rows]],
    )


def kind_of(value):
    """Return the class of a value that may not be mixed with another."""
    if isinstance(value, bool | str):
        return type(value)
    return "number" if isinstance(value, int | float | Decimal) else "nested"


def expected_columns(rows):
    """Return the column of each property: the most frequent spelling keeps its name."""
    counts = Counter({key: 0 for row in rows for key in row})
    counts.update(key for row in rows for key, value in row.items() if value is not None)
    names, taken, later = {}, {"event_name", "n"}, []
    for key in sorted(counts, key=lambda key: (-counts[key], key)):
        name = key or "property"
        if name.lower() in taken:
            later.append(key)
        else:
            names[key] = name
            taken.add(name.lower())
    for key in later:
        name = next(
            each for each in (f"{key or 'property'}_{n}" for n in range(2, 99))
            if each.lower() not in taken
        )  # fmt: skip
        names[key] = name
        taken.add(name.lower())
    return names


def check_column(sent, got, type_):
    """Assert that a column has each value unchanged, and lacks one in ten at most."""
    values = [value for value in sent if value is not None]
    missing = 0
    for value, found in zip(sent, got, strict=True):
        if value is None:
            assert found is None
        elif found is None:
            missing += 1
        elif type_ == "JSON":
            assert value == json.loads(found)
        else:
            same = float(found) if isinstance(value, float) else found
            assert (kind_of(value), value) == (kind_of(found), same)
    assert missing <= len(values) / 10
    assert type_ != "JSON" or not missing


@pytest.mark.slow
@settings(max_examples=20, deadline=None, phases=[Phase.explicit, Phase.reuse, Phase.generate])
@given(properties_of_events(), st.sampled_from([200, 1]))
def test_each_value_of_a_typed_view_is_the_value_that_was_sent(db, rows, apart):
    """Ids keep their digits, spellings their columns, and an explicit null is no value."""
    load(db, rows)
    with pytest.MonkeyPatch.context() as patched:  # as if there were very many properties
        patched.setattr(typed_views, "MAX_APART", apart)
        db.typed_view("t")
    types = {column.name: column.type for column in db.schema("t_typed").columns}
    names = expected_columns(rows)
    assert set(types) == {"event_name", "n", *names.values()}
    found = db.sql_rows("FROM t_typed ORDER BY n").to_dicts()
    for key, name in names.items():
        check_column([row.get(key) for row in rows], [row[name] for row in found], types[name])


@pytest.mark.slow
@settings(max_examples=20, deadline=None, phases=[Phase.explicit, Phase.reuse, Phase.generate])
@given(properties_of_events())
def test_each_value_of_a_typed_table_is_the_value_that_was_sent(db, rows):
    """What does not fit its column is counted, and kept whole beside it."""
    load(db, rows)
    typed = db.typed_table("t", "materialised", infer_again=True)
    names = expected_columns(rows)
    assert names == {column.property: column.name for column in typed.columns}
    found = db.sql_rows("FROM materialised ORDER BY n").to_dicts()
    for column in typed.columns:
        sent = [row.get(column.property) for row in rows]
        got = [row[column.name] for row in found]
        check_column(sent, got, column.type)
        kept = [json.loads(row["_outliers"] or "{}").get(column.name) for row in found]
        lost = [None if new is not None else old for old, new in zip(sent, got, strict=True)]
        assert lost == kept
        assert column.outliers == len(lost) - lost.count(None)
        assert column.values == len(sent) - sent.count(None)


@pytest.mark.slow
@settings(max_examples=20, deadline=None, phases=[Phase.explicit, Phase.reuse, Phase.generate])
@given(properties_of_events())
def test_statistics_of_a_property_are_those_of_plain_python(db, rows):
    """Counts, most frequent values and the least and greatest number are exact."""
    load(db, rows)
    for key in {key for row in rows for key in row} & {"plan", "Plan", "id", "amount"}:
        values = [row[key] for row in rows if row.get(key) is not None]
        found = db.column_stats("t", f"properties->>'$.{key}'", top_n=100)
        assert (len(values), len(rows) - len(values)) == (found.count, found.null_count)
        if values and found.dtype != "VARCHAR":
            assert (min(values), max(values)) == (found.min, found.max)
            assert Counter(values) == Counter(dict(found.top_values))


def test_a_rare_spelling_does_not_hide_the_frequent_one(db):
    """999 events with `plan` and one with `Plan`: `plan` is the one of 999."""
    load(db, [{"Plan": "x"}, *[{"plan": "pro"}] * 999])
    db.typed_view("t")
    assert [(999, 1)] == db.sql_rows('SELECT count(plan), count("Plan_2") FROM t_typed').rows


@pytest.mark.slow
@pytest.mark.parametrize(
    ("values", "type_", "distinct"),
    [
        ([2**63 - 500 + n for n in range(1000)], "HUGEINT", 1000),
        ([*[2**60 + n for n in range(1000)], 0.5], "DECIMAL(38,1)", 1001),
        ([*range(999), "N/A"], "BIGINT", 999),
        ([*range(500), *[None] * 500], "BIGINT", 500),
        ([2**53 - 1, 0.25], "DOUBLE", 2),
        ([*range(5), *"abcde"], "JSON", 10),
    ],
)
def test_a_column_has_a_type_that_holds_its_values(db, values, type_, distinct):
    """Nothing is merged by a DOUBLE, and one text does not take the type of a thousand numbers."""
    load(db, [{"v": value} for value in values])
    db.typed_view("t")
    assert type_ == {c.name: c.type for c in db.schema("t_typed").columns}["v"]
    assert distinct == db.sql_scalar("SELECT count(DISTINCT v) FROM t_typed")


def test_big_ids_beside_a_decimal_are_counted_apart(db):
    """Each of 1,001 values is among the most frequent ones once, with all digits."""
    values = [*[2**60 + n for n in range(1000)], 0.5]
    load(db, [{"id": value} for value in values])
    found = db.column_stats("t", "properties->>'$.id'", top_n=2000)
    assert dict.fromkeys(values, 1) == dict(found.top_values)
    assert (0.5, 2**60 + 999) == (found.min, found.max)
