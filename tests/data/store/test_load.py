"""Loading part files: rows, duplicates, replaced days and interrupted loads."""

import gzip
import json
import signal
import subprocess
import sys
from datetime import UTC, date, datetime, timedelta

import pytest

from mixpanel.data._fetch.plan import Chunk, Filters, Part
from mixpanel.data.exceptions import (
    ConfigError,
    MixpanelDataError,
    TableExistsError,
    TableNotFoundError,
    TruncatedError,
)
from mixpanel.data.store import Database
from mixpanel.data.store.engine import load_duckdb

pytestmark = pytest.mark.slow

DAY = date(2026, 1, 1)
NEXT = DAY + timedelta(days=1)
LATER = DAY + timedelta(days=2)
MIDNIGHT = 1_767_225_600_000  # of DAY, in milliseconds
NONE = Filters()


@pytest.fixture
def db(tmp_path):
    """Open a database on disk."""
    with Database.open(tmp_path / "a.db") as database:
        yield database


def event(name="E", *, day=DAY, n=0, insert_id=None, **properties):
    properties = {"time": MIDNIGHT + (day - DAY).days * 86_400_000 + n, **properties}
    properties |= {"distinct_id": f"u{n}"} if "distinct_id" not in properties else {}
    if insert_id is not None:
        properties["$insert_id"] = insert_id
    return {"event": name, "properties": properties}


@pytest.fixture
def part(db):
    """Write a part file of events, lines or bytes."""
    made = 0

    def write(content, first=DAY, last=None, *, gzipped=False, cut=0):
        nonlocal made
        made += 1
        data = content
        if not isinstance(content, bytes):
            lines = [c if isinstance(c, bytes) else json.dumps(c).encode() for c in content]
            data = b"".join(line + b"\n" for line in lines)
        data = gzip.compress(data) if gzipped else data
        data = data[: len(data) - cut]
        path = db.parts / f"it's [{made}]*.part"
        path.write_bytes(data)
        return Part(path, Chunk(first, last or first), len(data), gzipped)

    return write


def load(db, *parts, mode="new", filters=NONE, days=None, limit=None, name="events", **more):
    days = days or {day for one in parts for day in one.chunk}
    begun = db.begin_events(name, filters=filters, mode=mode, days=days, **more)
    staged = begun.stage(parts)
    return staged, begun.finish(limit)


def rows(db, columns="*", table="events"):
    return db.sql_rows(f"SELECT {columns} FROM {table} ORDER BY ALL").rows


# ---- shape --------------------------------------------------------------------------------------


def test_what_becomes_a_column_leaves_the_properties(db, part):
    """All other properties stay unchanged, including nulls and the processing time."""
    sent = event(
        "Order Paid", n=123, insert_id="i", plan=None, mp_processing_time_ms=5, a={"time": 1}
    )
    load(db, part([sent], gzipped=True))
    found = db.sql_rows("SELECT * EXCLUDE properties, properties FROM events")
    assert ["event_name", "event_time", "distinct_id", "insert_id", "properties"] == found.columns
    [(name, when, distinct_id, insert_id, properties)] = found.rows
    assert ("Order Paid", datetime(2026, 1, 1, 0, 0, 0, 123000)) == (name, when)
    assert ("u123", "i") == (distinct_id, insert_id)
    assert {"plan": None, "mp_processing_time_ms": 5, "a": {"time": 1}} == json.loads(properties)


ODD = [
    ({"event": "a", "properties": {"time": MIDNIGHT, "distinct_id": None}}, (True, None, None)),
    ({"event": "a", "properties": {"time": MIDNIGHT, "distinct_id": 12}}, (True, "12", None)),
    ({"event": "a", "properties": {"time": MIDNIGHT, "distinct_id": ""}}, (True, "", None)),
    ({"event": "a", "properties": {"distinct_id": "u"}}, (False, "u", None)),
    ({"event": "a", "properties": {"time": None, "distinct_id": "u"}}, (False, "u", None)),
    ({"event": "a", "properties": {"time": "soon", "distinct_id": "u"}}, (False, "u", "soon")),
    ({"event": "a", "properties": {"time": 1e300, "distinct_id": "u"}}, (False, "u", 1e300)),
    ({"event": "a", "properties": {"time": 2**62, "distinct_id": "u"}}, (False, "u", 2**62)),
    ({"event": "a", "properties": {"time": True, "distinct_id": "u"}}, (False, "u", True)),
    ({"event": "a", "properties": {"time": str(MIDNIGHT), "distinct_id": "u"}}, (True, "u", None)),
    ({"event": "a", "properties": {"time": MIDNIGHT + 0.0, "distinct_id": "u"}}, (True, "u", None)),
    ({"event": "a", "properties": {"time": -1, "distinct_id": "u"}}, (True, "u", None)),
]


@pytest.mark.parametrize(("sent", "expected"), ODD)
def test_unusual_values_lose_no_row(db, part, sent, expected):
    """An invalid time is NULL, is counted, and stays among the properties."""
    [staged], loaded = load(db, part([event("b"), sent]))
    assert (2, 2, 0 if expected[0] else 1) == (staged.rows, loaded.rows, staged.without_time)
    [(timed, distinct_id, properties)] = rows(
        db, "event_time IS NOT NULL, distinct_id, properties", "events WHERE event_name = 'a'"
    )
    assert expected == (timed, distinct_id, json.loads(properties).get("time"))


@pytest.mark.parametrize("properties", [None, "text", [1], 5])
def test_properties_that_are_not_an_object_are_kept(db, part, properties):
    """Their values are unchanged."""
    load(db, part([{"event": "a", "properties": properties}, event("b")]))
    kept = db.sql_scalar("SELECT properties FROM events WHERE event_name = 'a'")
    assert properties == (None if kept is None else json.loads(kept))


def test_text_that_resembles_line_ends_is_kept(db, part):
    """It has raw U+2028 and U+0085, an escaped NUL, quotes, and a megabyte of text."""
    texts = ["a\u2028b", "a\u2029b", "a\x85b", "a\x00b", "\"'\\", "x" * 1_000_000, "😀", "\x1e"]
    sent = [event(text[:9], n=n, v=text) for n, text in enumerate(texts)]
    lines = [json.dumps(one, ensure_ascii=False).encode() for one in sent]
    [staged], _ = load(db, part(lines))
    assert (len(texts), 0) == (staged.rows, staged.repaired)
    found = db.sql_rows("SELECT event_name, properties FROM events ORDER BY event_time").rows
    assert [(text[:9], text) for text in texts] == [(n, json.loads(p)["v"]) for n, p in found]


BROKEN = [
    (rb'"half \ud83d"', "half \ufffd"),
    (rb'"half \uDE00 other"', "half \ufffd other"),
    (rb'"pair \ud83d\ude00 \\ud83d"', "pair 😀 \\ud83d"),
    (b'"caf\xe9"', "caf\\xe9"),
    (b'"tab\there"', "tab\there"),
    (b"NaN", None),
    (b"[1,-Infinity,NaN]", [1, None, None]),
    (b"[nan,NAN,-inf,Inf,-INF]", [None] * 5),
    (rb'{"NaN":"NaN, \"Infinity","x":NaN}', {"NaN": 'NaN, "Infinity', "x": None}),
]


@pytest.mark.parametrize("gzipped", [False, True])
@pytest.mark.parametrize(("sent", "kept"), BROKEN)
def test_a_line_that_is_not_json_is_repaired(db, part, sent, kept, gzipped):
    """Only that line changes, and it is counted."""
    line = b'{"event": "a", "properties": {"time": %d, "v": %s, "n": 1.10}}' % (MIDNIGHT, sent)
    [staged, other], _ = load(
        db, part([event("b", v="NaN,"), line], gzipped=gzipped), part([event("c", day=NEXT)], NEXT)
    )
    assert (2, int(b"pair" not in sent), None) == (staged.rows, staged.repaired, staged.error)
    assert (1, 0) == (other.rows, other.repaired)
    found = db.sql_scalar("SELECT properties FROM events WHERE event_name = 'a'")
    assert kept == json.loads(found, parse_constant=pytest.fail)["v"]
    assert '{"v":"NaN,"}' == db.sql_scalar("SELECT properties FROM events WHERE event_name = 'b'")
    assert [] == list(db.parts.glob("*.repaired"))


def test_times_can_be_in_seconds(db, part):
    """The unit is an argument, and never guessed."""
    sent = {"event": "a", "properties": {"time": MIDNIGHT // 1000, "distinct_id": "u"}}
    load(db, part([sent]), time_in_ms=False)
    assert [(datetime(2026, 1, 1),)] == rows(db, "event_time")


def test_old_projects_have_utc_and_local_times(db, part):
    """Days are those of the local time."""
    filters = Filters(project_timezone="US/Pacific")
    one = part([event(n=3_600_000), event(n=22 * 3_600_000)])
    for mode in ("new", "sync", "append"):
        load(db, one, filters=filters, mode=mode)
        assert [
            (datetime(2026, 1, 1, 9), datetime(2026, 1, 1, 1)),
            (datetime(2026, 1, 2, 6), datetime(2026, 1, 1, 22)),
        ] == rows(db, "event_time, event_time_local")
    with pytest.raises(ConfigError, match="project_timezone='US/Pacific', not None"):
        load(db, one, mode="append")
    with pytest.raises(ConfigError, match="not a known time zone"):
        load(db, one, name="x", filters=Filters(project_timezone="Mars/North"))


# ---- copies -------------------------------------------------------------------------------------


def test_the_duplicate_processed_last_is_kept(db, part):
    """Duplicates share name, time, distinct id and insert id, in one part file or in several."""
    copies = [event(insert_id="i", mp_processing_time_ms=p, v=p) for p in (2, 3, 1)]
    others = [
        event("F", insert_id="i"),
        event(insert_id="i", n=1, distinct_id="u0"),
        event(insert_id="i", distinct_id="u9"),
        event(insert_id="j"),
    ]
    [staged], loaded = load(db, part([*copies, *others]))
    assert (5, 2, 5, 2) == (staged.rows, staged.merged, loaded.rows, loaded.merged)
    assert ["3"] == [p for (p,) in rows(db, "properties->>'v'") if p]


def test_events_without_an_insert_id_are_never_duplicates(db, part):
    """Equal events are all kept."""
    [staged], _ = load(db, part([event(), event(), event(insert_id=""), event(insert_id="")]))
    assert (4, 0) == (staged.rows, staged.merged)


# ---- whole or not -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tail", "gzipped", "cut"),
    [
        (b"terminated early", False, 0),
        (b"terminated early\n", True, 0),
        (b'{"event": "x", "prop', False, 0),
        (b'{"error": "too long"}\n', False, 0),
        (b"123\n", False, 0),
        (b'{"event": "x", "properties": {}}\n', True, 4),
        (b'{"event": "x", "properties": {}}\n', True, 20),
    ],
)
def test_a_truncated_part_does_not_affect_others(db, part, tail, gzipped, cut):
    """Nothing of it is kept, the error has its tail, and it can be staged again."""
    line = json.dumps(event(day=NEXT)).encode() + b"\n"
    begun = db.begin_events("events", filters=NONE, mode="new", days=[DAY, NEXT, LATER])
    one, two, three = begun.stage(
        [part([event()]), part(line + tail, NEXT, gzipped=gzipped, cut=cut), part([], LATER)]
    )
    assert (1, None, 0, None) == (one.rows, one.error, three.rows, three.error)
    if cut == 4 and two.error is None and load_duckdb().__version__.startswith("1.4."):
        pytest.skip("DuckDB 1.4 does not look at the end of a gzip file, after the data")
    assert isinstance(two.error, TruncatedError)
    assert (str(NEXT), str(NEXT)) == (two.error.details["from_date"], two.error.details["to_date"])
    if not cut:
        assert tail.strip().decode() in two.error.tail
    assert {DAY, LATER} == begun.done
    begun.stage([part(line, NEXT)])
    assert 2 == begun.finish().rows


def test_an_empty_part_marks_its_days_as_done(db, part):
    """A day without events was fetched, too."""
    staged, loaded = load(db, part(b""), part(b"", NEXT, gzipped=True), part(b"\n\n", LATER))
    assert ([0, 0, 0], 0) == ([one.rows for one in staged], loaded.rows)
    [table] = db.tables()
    assert (0, DAY, LATER, ()) == (table.row_count, table.from_date, table.to_date, table.gaps)


def test_an_empty_file_marked_as_gzip_is_an_empty_part(db, part):
    """It is not an error."""
    path = db.parts / "x"
    path.write_bytes(b"")
    [staged], _ = load(db, Part(path, Chunk(DAY, DAY), 0, gzip=True))
    assert (0, None) == (staged.rows, staged.error)


# ---- days ---------------------------------------------------------------------------------------


def test_the_fetch_log_counts_each_day_of_a_part(db, part):
    """Events outside of its days count for the nearest one."""
    far = event(day=DAY + timedelta(days=30))
    several = [event(), event(n=1), event(day=LATER), far, {"event": "x", "properties": {"a": 1}}]
    load(db, part(several, DAY, LATER))
    assert [(DAY, 3), (NEXT, 0), (LATER, 2)] == rows(db, "day, rows", "_ledger")


def test_tables_report_missing_days_and_filters(db, part):
    """A day between two fetched days is a gap."""
    filters = Filters(events=("E",))
    load(db, part([event()]), filters=filters)
    load(db, part([event(day=LATER)], LATER), filters=filters, mode="append")
    [table] = db.tables()
    assert (DAY, LATER, ((NEXT, NEXT),)) == (table.from_date, table.to_date, table.gaps)
    assert ("complete", 2, [["E"]]) == (
        table.state,
        table.row_count,
        [list(f["events"]) for f in table.filters],
    )
    assert {DAY, LATER} == set(db.fetched_days("events"))


@pytest.mark.parametrize("mode", ["append", "sync"])
def test_a_day_fetched_again_is_replaced(db, part, mode):
    """A second fetch changes nothing, even for events without an id or a time, or out of range."""
    timeless = {"event": "x", "properties": {"a": 1}}
    far = event("far", day=DAY + timedelta(days=30))
    far_id = event("far", day=DAY + timedelta(days=30), insert_id="f")
    sent = [event(), event(), event(insert_id="i"), timeless, timeless, far, far_id]
    load(db, part([event("gone"), *sent[1:]]), part([event("kept", day=NEXT)], NEXT))
    late = event("late", n=5)
    for _ in range(2):
        load(db, part([*sent, late]), mode=mode)
        expected = [*[e["event"] for e in sent], "late", "kept"]
        assert sorted(expected) == sorted(name for (name,) in rows(db, "event_name"))
    assert [(DAY, 8), (NEXT, 1)] == rows(db, "day, rows", "_ledger")


def test_mixed_filters_require_an_option(db, part):
    """Rows of the other filter are kept."""
    signups, orders = Filters(events=("Signup",)), Filters(events=("Order",))
    load(db, part([event("Signup", insert_id="1"), event("Signup", n=1)]), filters=signups)
    again = part([event("Order", insert_id="2"), event("Order", n=3)])
    with pytest.raises(ConfigError, match="other filters"):
        load(db, again, filters=orders, mode="append")
    for _ in range(2):
        load(db, again, filters=orders, mode="append", mixed=True)
        assert 4 == db.tables()[0].row_count
    assert 2 == len(db.tables()[0].filters)


def test_modes_check_the_existing_table(db, part):
    """They are checked before anything is fetched; names ignore case."""
    one = part([event()])
    with pytest.raises(TableNotFoundError):
        load(db, one, mode="append")
    load(db, one, mode="sync")
    with pytest.raises(TableExistsError):
        load(db, one, name="EVENTS")
    load(db, part([event(), event(n=1)]), name="Events", mode="replace", filters=Filters(where="x"))
    assert [("events", 2)] == [(t.name, t.row_count) for t in db.tables()]
    profiles = db.begin_profiles("people", filters=NONE, mode="new")
    profiles.finish()
    with pytest.raises(ConfigError, match="people is a table of profiles, not of events"):
        load(db, one, name="people", mode="append")
    db.sql_rows("CREATE TABLE mine AS SELECT 1", write=True)
    with pytest.raises(ConfigError, match="mine is a table of your own"):
        load(db, one, name="mine", mode="replace")
    with pytest.raises(ConfigError, match="no day"):
        db.begin_events("x", filters=NONE, mode="new", days=[])


def test_limit_is_exact(db, part):
    """The earliest events are kept."""
    load(db, part([event(n=n) for n in (3, 1, 2)]), limit=2)
    assert [("u1",), ("u2",)] == rows(db, "distinct_id")


def test_abandoning_a_load_keeps_the_table(db, part):
    """The staged rows are dropped."""
    load(db, part([event()]))
    begun = db.begin_events("events", filters=NONE, mode="replace", days=[DAY])
    begun.stage([part([event(), event()])])
    begun.abandon()
    assert [("complete", 1)] == [(t.state, t.row_count) for t in db.tables()]


# ---- stops --------------------------------------------------------------------------------------


def test_a_stopped_load_is_resumed(db, part):
    """This needs the same name, filters and mode, and covers the requested days only."""
    begun = db.begin_events("events", filters=NONE, mode="new", days=[DAY, NEXT, LATER])
    begun.stage([part([event(), event(day=NEXT)], DAY, NEXT)])
    assert {DAY, NEXT} == db.staged_days("EVENTS", NONE, "new")
    assert not db.staged_days("events", NONE, "replace")
    [table] = db.tables()
    assert ("events", "incomplete", 2, DAY, NEXT) == (
        table.name,
        table.state,
        table.row_count,
        table.from_date,
        table.to_date,
    )
    begun.stop()
    again = db.begin_events("events", filters=NONE, mode="new", days=[NEXT, LATER])
    assert (begun.key, {NEXT}) == (again.key, again.done)
    assert (True, False) == (NEXT in again.done, LATER in again.done)
    again.stage([part([event(day=LATER)], LATER)])
    assert 2 == again.finish().rows
    other = db.begin_events("events", filters=NONE, mode="replace", days=[DAY])
    assert set() == other.done


def test_a_load_with_other_filters_starts_over(db, part):
    """The rows staged with the old filters are dropped."""
    begun = db.begin_events("events", filters=NONE, mode="new", days=[DAY])
    begun.stage([part([event()])])
    begun.stop()
    again = db.begin_events("events", filters=Filters(where="x"), mode="new", days=[DAY])
    assert (set(), 0) == (again.done, again.finish().rows)


def test_recent_days_are_fetched_again_after_a_day(db, part):
    """Their events were still arriving when they were staged; older days are not fetched again."""
    staged_at = datetime(2026, 1, 7, 12, tzinfo=UTC)  # DAY ended five days before, LATER less
    begun = db.begin_events(
        "events", filters=NONE, mode="new", days=[DAY, LATER + timedelta(days=2)], now=staged_at
    )
    young = LATER + timedelta(days=2)
    begun.stage([part([event()]), part([event(day=young)], young)])
    for hours, expected in ((23, {DAY, young}), (25, {DAY})):
        now = staged_at + timedelta(hours=hours)
        assert expected == db.staged_days("events", NONE, "new", now=now)
    begun.stop()
    again = db.begin_events("events", filters=NONE, mode="new", days=[DAY, young], now=now)
    assert ({DAY}, 1) == (again.done, again.finish().rows)


def test_staging_a_day_twice_keeps_the_second(db, part):
    """Rows and fetch log agree."""
    begun = db.begin_events("events", filters=NONE, mode="new", days=[DAY, NEXT])
    begun.stage([part([event("a"), event("b", day=NEXT)], DAY, NEXT)])
    begun.stage([part([event("c"), event("d")])])
    begun.finish()
    assert [("b",), ("c",), ("d",)] == rows(db, "event_name")


def test_an_interrupted_load_can_be_dropped(db, part):
    """Its name is that of its table."""
    db.begin_events("events", filters=NONE, mode="new", days=[DAY]).stage([part([event()])])
    db.drop("events")
    assert ([], set()) == (db.tables(), db.staged_days("events", NONE, "new"))


def test_staging_a_missing_part_raises(db, part):
    """It is not an error of the server, which would be returned."""
    begun = db.begin_events("events", filters=NONE, mode="new", days=[DAY])
    with pytest.raises((MixpanelDataError, OSError)):
        begun.stage([Part(db.parts / "none", Chunk(DAY, DAY), 0, gzip=False)])
    assert set() == begun.done


KILLED = """
import os, signal, sys
from datetime import date, timedelta
from pathlib import Path
from mixpanel.data._fetch.plan import Chunk, Filters, Part
from mixpanel.data.store import Database, event_load
db, when = Database.open(sys.argv[1]), sys.argv[2]
days = [date(2026, 1, 1) + timedelta(days=n) for n in range(3)]
begun = db.begin_events("events", filters=Filters(), mode="replace", days=days)
for day in days:
    if day == days[2] and when == "stage":
        os.kill(os.getpid(), signal.SIGKILL)
    path = Path(sys.argv[1] + ".parts", f"{day}.ndjson")
    begun.stage([Part(path, Chunk(day, day), 1, False)])
event_load.fetch_log.register = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
begun.finish()
"""


@pytest.mark.parametrize("when", ["stage", "finish"])
def test_a_killed_load_keeps_the_old_table_and_the_staged_days(tmp_path, when):
    """After SIGKILL between two stages, or within finish, the next process resumes it."""
    path = tmp_path / "a.db"
    days = [DAY, NEXT, LATER]
    with Database.open(path) as db:
        parts = [Part(db.parts / f"{day}.ndjson", Chunk(day, day), 1, gzip=False) for day in days]
        for one in parts:
            lines = (json.dumps(event(day=one.chunk.from_date, n=n)) + "\n" for n in range(1000))
            one.path.write_text("".join(lines))
        load(db, parts[0])
    done = subprocess.run([sys.executable, "-c", KILLED, str(path), when], check=False)
    assert -signal.SIGKILL == done.returncode
    with Database.open(path) as db:
        assert [("complete", 1000), ("incomplete", 2000 if when == "stage" else 3000)] == [
            (t.state, t.row_count) for t in db.tables()
        ]
        begun = db.begin_events("events", filters=NONE, mode="replace", days=days)
        assert set(days[:2] if when == "stage" else days) == begun.done
        begun.stage([one for one in parts if one.chunk.from_date not in begun.done])
        assert 3000 == begun.finish().rows
        assert [("complete", 3000)] == [(t.state, t.row_count) for t in db.tables()]
        assert [(3000,)] == rows(db, "count(DISTINCT (event_time, distinct_id))")


# ---- profiles -----------------------------------------------------------------------------------


def page(db, *profiles, name="p"):
    path = db.parts / f"{name}.ndjson"
    lines = (
        json.dumps({"$distinct_id": distinct_id, "$properties": properties}) + "\n"
        for distinct_id, properties in profiles
    )
    path.write_text("".join(lines))
    return path


def test_the_profile_fetched_last_is_kept(db):
    """Other profiles stay, and `$last_seen` becomes a column."""
    begun = db.begin_profiles("users", filters=NONE, mode="new")
    seen = {"$last_seen": "2026-01-03T10:11:12", "plan": "free"}
    assert 2 == begun.stage(page(db, ("a", seen), ("b", {"plan": "pro"}))).rows
    assert 1 == begun.stage(page(db, ("a", seen | {"plan": "team"}))).rows
    loaded = begun.finish()
    assert (2, 1, None) == (loaded.rows, loaded.merged, loaded.from_date)
    assert [
        ("a", '{"plan":"team"}', datetime(2026, 1, 3, 10, 11, 12)),
        ("b", '{"plan":"pro"}', None),
    ] == rows(db, table="users")
    begun = db.begin_profiles("users", filters=NONE, mode="append")
    begun.stage(page(db, ("b", {"$last_seen": "never"}), ("c", {}), (None, {}), (5, {})))
    begun.finish()
    assert [
        ("5", "{}"),
        ("a", '{"plan":"team"}'),
        ("b", '{"$last_seen":"never"}'),
        ("c", "{}"),
    ] == [row for row in rows(db, "distinct_id, properties", "users") if row[0]]
    [table] = db.tables()
    assert ("users", "profiles", 5, None, ()) == (
        table.name,
        table.type,
        table.row_count,
        table.from_date,
        table.gaps,
    )


def test_loads_of_profiles_check_the_existing_table(db):
    """The rules of the modes are those of events."""
    with pytest.raises(TableNotFoundError):
        db.begin_profiles("users", filters=NONE, mode="append")
    db.begin_profiles("users", filters=NONE, mode="new").finish()
    with pytest.raises(TableExistsError):
        db.begin_profiles("users", filters=NONE, mode="new")
    with pytest.raises(ConfigError, match="other filters"):
        db.begin_profiles("users", filters=Filters(cohort_id=1), mode="append")
    begun = db.begin_profiles("users", filters=Filters(cohort_id=1), mode="replace")
    begun.stage(page(db, ("a", {})))
    begun.abandon()
    assert [0] == [table.row_count for table in db.tables()]
    begun = db.begin_profiles("users", filters=NONE, mode="replace")
    broken = page(db)
    broken.write_text("nonsense\n")
    with pytest.raises(MixpanelDataError):
        begun.stage(broken)
    assert 0 == begun.finish().rows
