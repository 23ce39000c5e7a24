"""The raw export of the emulator, over a socket."""

import gzip
import json
import threading
import time

import httpx
import pytest

from mixpanel.emulator import Emulator, Fault, Limits

DAY = 1_763_942_400  # 2025-11-24
NOW = DAY + 12 * 3600
ACCOUNT = ("robot", "s3cret")
DAYS = {"project_id": "42", "from_date": "2025-11-20", "to_date": "2025-11-24"}


class Clock:
    """A clock that tests put forward."""

    def __init__(self):
        self.time = NOW

    def __call__(self):
        return self.time


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def emu(clock):
    """An emulator that knows one service account."""
    with Emulator(now=clock, service_accounts=dict([ACCOUNT]), tokens="T") as emulator:
        yield emulator


@pytest.fixture
def http(emu):
    with httpx.Client(base_url=emu.url, auth=ACCOUNT) as client:
        yield client


def event(name="Order Paid", *, insert_id="a-1", time=NOW, **properties):
    told = {"time": time, "distinct_id": "u1", "$insert_id": insert_id}
    return {"event": name, "properties": {**told, **properties}}


def send(http, *events):
    """Import events."""
    http.post("/import", params={"project_id": "42"}, json=list(events)).raise_for_status()


def export(http, **parameters):
    """Return the lines of an export."""
    answer = http.get("/api/2.0/export", params={**DAYS, **parameters})
    assert (200, "") == (answer.status_code, "" if answer.is_success else answer.text)
    return [json.loads(line) for line in answer.content.split(b"\n") if line]


def names(lines):
    return [each["event"] for each in lines]


# What comes


def test_a_line_has_the_documented_shape(http):
    """One object with the time in seconds, the ids, the moment it came, and the rest."""
    send(http, event(time=NOW * 1000 - 1, amount=12.5, ip="1.2.3.4", mp_processing_time_ms=5))
    answer = http.get("/api/2.0/export", params=DAYS)
    told = {
        "time": NOW - 1,
        "distinct_id": "u1",
        "$insert_id": "a-1",
        "mp_processing_time_ms": NOW * 1000,
        "amount": 12.5,
    }
    assert {"event": "Order Paid", "properties": told} == json.loads(answer.content)
    assert "text/plain; charset=utf-8" == answer.headers["content-type"]
    assert answer.content.endswith(b"}\n")
    assert 1 == answer.content.count(b"\n")


def test_a_token_is_not_exported(emu, http):
    """It said whose event it was, and is no property of it."""
    httpx.post(f"{emu.url}/track", json=[event(token="T")])
    (line,) = export(http)
    assert "token" not in line["properties"]


def test_times_come_in_milliseconds_on_request(http):
    """Sub-seconds are lost only without it."""
    send(http, event(time=NOW * 1000 - 1))
    (line,) = export(http, time_in_ms="true")
    assert NOW * 1000 - 1 == line["properties"]["time"]


def test_an_event_without_properties_is_whole(http):
    """No comma too many."""
    send(http, event())
    assert {"time", "distinct_id", "$insert_id", "mp_processing_time_ms"} == set(
        export(http)[0]["properties"]
    )


def test_both_days_count_as_utc(http):
    """From the first millisecond of the one to the last of the other."""
    edges = {
        "before": DAY * 1000 - 1,
        "first": DAY * 1000,
        "last": (DAY + 3600) * 1000,
        "older": (DAY - 2 * 86400) * 1000,
    }
    send(http, *(event(name, insert_id=name, time=time) for name, time in edges.items()))
    assert ["first", "last"] == names(export(http, from_date="2025-11-24"))
    assert ["before"] == names(export(http, from_date="2025-11-23", to_date="2025-11-23"))


def test_no_events_are_an_empty_body(http):
    """Emptiness is no error."""
    answer = http.get("/api/2.0/export", params=DAYS)
    assert (200, b"") == (answer.status_code, answer.content)


def test_copies_come_as_often_as_they_were_sent(http):
    """The export does not de-duplicate."""
    send(http, event(n=1))
    send(http, event(n=2))
    assert [1, 2] == [each["properties"]["n"] for each in export(http)]


def test_events_are_chosen_by_name(http):
    """`event` is a JSON array of names."""
    names_sent = ("a", "b", 'c"d')
    send(http, *(event(name, insert_id=f"i{n}") for n, name in enumerate(names_sent)))
    assert ["a", 'c"d'] == names(export(http, event=json.dumps(["a", 'c"d'])))


def test_events_are_chosen_by_condition(http):
    """`where` sees their properties, their time, and the profile of their user."""
    send(
        http,
        event("small", insert_id="a", amount=1, time=NOW - 7200),
        event("large", insert_id="b", amount=100),
        event("other", insert_id="c", distinct_id="u2"),
    )
    update = {"$token": "T", "$distinct_id": "u1", "$set": {"plan": "team"}}
    http.post("/engage", json=[update])
    assert ["large"] == names(export(http, where='properties["amount"] > 10'))
    assert ["small"] == names(export(http, where='event["$time"] < datetime("2025-11-24T11:00")'))
    assert ["small", "large"] == names(export(http, where='user["plan"] == "team"'))
    assert ["other"] == names(export(http, where='properties["$distinct_id"] == "u2"'))


def test_an_alias_leads_to_the_profile(http):
    """Also over two hops."""
    for alias, who in (("a1", "a2"), ("a2", "u1")):
        properties = {"distinct_id": who, "alias": alias}
        send(http, {"event": "$create_alias", "properties": properties})
    send(http, event("mine", distinct_id="a1"))
    http.post("/engage", json=[{"$token": "T", "$distinct_id": "u1", "$set": {"plan": "team"}}])
    found = names(export(http, where='user["plan"] == "team"', event='["mine"]'))
    assert ["mine"] == found


def test_a_limit_takes_the_first(http):
    """Exactly as many, over pieces of every size."""
    send(http, *(event(insert_id=f"i{n}", n=n) for n in range(500)))
    for limit in (1, 64, 65, 499, 500, 501):
        lines = export(http, limit=limit)
        assert list(range(min(limit, 500))) == [each["properties"]["n"] for each in lines]


def test_what_splits_other_readers_comes_whole(http):
    """U+2028 and NUL are legal in JSON strings."""
    send(http, event(text="a\u2028b\u0085c\0d", insert_id="a"), event("b\u2028", insert_id="b"))
    lines = export(http)
    assert "a\u2028b\u0085c\0d" == lines[0]["properties"]["text"]
    assert "b\u2028" == lines[1]["event"]


# How it comes


def test_gzip_begins_above_1400_bytes(http):
    """For who accepts it."""
    send(http, event())
    assert "content-encoding" not in http.get("/api/2.0/export", params=DAYS).headers
    send(http, *(event(insert_id=f"i{n}") for n in range(20)))
    answer = http.get("/api/2.0/export", params=DAYS)
    assert "gzip" == answer.headers["content-encoding"]
    assert 21 == answer.content.count(b"\n")
    plain = http.get("/api/2.0/export", params=DAYS, headers={"accept-encoding": "identity"})
    assert "content-encoding" not in plain.headers
    assert answer.content == plain.content


def test_large_exports_come_in_pieces(emu, http, tmp_path):
    """Several megabytes, gzipped and not, the first time and again: the same lines."""
    file = tmp_path / "events.ndjson"
    lines = [json.dumps(event(insert_id=f"i{n}", n=n, pad="x" * 1000)) for n in range(12_000)]
    file.write_text("\n".join(lines))
    emu.load(file)
    for encoding in ("gzip", "identity", "gzip"):
        answer = http.get("/api/2.0/export", params=DAYS, headers={"accept-encoding": encoding})
        assert "chunked" == answer.headers["transfer-encoding"]
        found = [json.loads(line)["properties"]["n"] for line in answer.content.splitlines()]
        assert list(range(12_000)) == found


def test_what_was_remembered_is_not_served_when_events_have_come(emu, http):
    """Neither after a new event nor after a clear."""
    send(http, *(event(insert_id=f"i{n}") for n in range(20)))
    assert 20 == len(export(http))
    send(http, event(insert_id="new"))
    assert 21 == len(export(http))
    emu.clear()
    assert [] == export(http)


def test_other_requests_are_answered_meanwhile(emu, http, tmp_path):
    """An export that nobody reads holds up no one."""
    file = tmp_path / "events.ndjson"
    line = json.dumps(event(pad="x" * 1000)) + "\n"
    file.write_text(line * 12_000)
    emu.load(file)
    with http.stream("GET", "/api/2.0/export", params=DAYS) as slow:
        assert 200 == slow.status_code
        assert 200 == http.get("/api/app/me").status_code


# What does not come


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"from_date": ""}, "from_date is required"),
        ({"from_date": "24-11-2025"}, "from_date must be a date as YYYY-MM-DD"),
        ({"from_date": "2025-02-30"}, "from_date must be a date"),
        ({"to_date": "2025-11-19"}, "is after to_date"),
        ({"to_date": "2025-11-25"}, "to_date cannot be later than today"),
        ({"event": "Order Paid"}, "event must be a JSON array"),
        ({"event": '"Order Paid"'}, "event must be a JSON array"),
        ({"limit": "0"}, "limit must be between 1 and 100000"),
        ({"limit": "100001"}, "limit must be between 1 and 100000"),
        ({"where": "amount > 1"}, "where: unknown name 'amount'"),
        ({"where": 'properties["s"] and true'}, "where: `and` joins conditions"),
    ],
)
def test_wrong_parameters_are_refused_in_plain_text(http, parameters, message):
    """400, before any line."""
    send(http, event(s="text"))
    answer = http.get("/api/2.0/export", params={**DAYS, **parameters})
    assert (400, "text/plain; charset=utf-8") == (
        answer.status_code,
        answer.headers["content-type"],
    )
    assert message in answer.text


@pytest.mark.parametrize(
    ("auth", "parameters"),
    [
        (None, {}),
        (("robot", "wrong"), {}),
        (("T", ""), {}),
        (ACCOUNT, {"project_id": ""}),
    ],
)
def test_a_service_account_is_needed(emu, auth, parameters):
    """With its secret and a project_id; a token does not do."""
    answer = httpx.get(f"{emu.url}/api/2.0/export", params={**DAYS, **parameters}, auth=auth)
    assert (401, "Invalid credentials") == (answer.status_code, answer.text)


def test_a_service_account_can_be_probed(emu, http):
    """GET /api/app/me needs no project."""
    answer = http.get("/api/app/me").json()
    assert {"status": "ok", "results": {"user_name": "robot"}} == answer
    refused = httpx.get(f"{emu.url}/api/app/me", auth=("robot", "wrong"))
    assert 401 == refused.status_code
    assert {"status": "error", "error": "Invalid credentials"} == refused.json()


# Limits


def test_the_hour_and_the_second_have_their_limits(clock):
    """429 says in how many seconds to come again, by the emulator's clock."""
    limits = Limits(per_hour=4, per_second=3)
    with (
        Emulator(now=clock, export_limits=limits) as emu,
        httpx.Client(base_url=emu.url, auth=ACCOUNT) as http,
    ):

        def ask():
            answer = http.get("/api/2.0/export", params=DAYS)
            return answer.status_code, answer.headers.get("retry-after")

        assert [(200, None)] * 3 == [ask() for _ in range(3)]
        assert (429, "1") == ask()
        clock.time += 1
        assert (200, None) == ask()
        clock.time += 599
        assert (429, "3000") == ask()
        clock.time += 3000
        assert (200, None) == ask()
        assert 200 == http.get("/api/app/me").status_code


def test_as_many_at_once_and_no_more(clock, tmp_path):
    """An export counts until its last byte is sent."""
    file = tmp_path / "events.ndjson"
    file.write_text((json.dumps(event(pad="x" * 1000)) + "\n") * 30_000)
    with (
        Emulator(now=clock, export_limits=Limits(concurrent=1)) as emu,
        httpx.Client(base_url=emu.url, auth=ACCOUNT) as http,
    ):
        emu.load(file)
        plain = {"accept-encoding": "identity"}
        with http.stream("GET", "/api/2.0/export", params=DAYS, headers=plain) as first:
            assert 200 == first.status_code
            assert 429 == http.get("/api/2.0/export", params=DAYS).status_code
            first.read()
        assert 200 == http.get("/api/2.0/export", params={**DAYS, "limit": 1}).status_code


def test_the_documented_limits():
    """As in the reference."""
    assert Limits(per_hour=60, per_second=3, concurrent=100) == Limits.export()
    assert Limits(per_hour=60, concurrent=5) == Limits.query()


# Faults


@pytest.fixture
def full(http):
    """A client of an emulator that has enough for gzip."""
    send(http, *(event(insert_id=f"i{n}", n=n) for n in range(100)))
    return http


@pytest.mark.parametrize("encoding", ["gzip", "identity"])
def test_an_export_may_be_terminated_early(emu, full, encoding):
    """200, half of the lines, and one that is no JSON."""
    emu.play(Fault.terminated_early(after=0.5), path="/api/2.0/export")
    answer = full.get("/api/2.0/export", params=DAYS, headers={"accept-encoding": encoding})
    lines = answer.content.splitlines()
    assert (200, 51, b"export terminated early") == (answer.status_code, len(lines), lines[-1])
    assert 100 == len(export(full))


def test_a_body_may_break_off(emu, full):
    """Half of the promised bytes, and a close."""
    emu.play(Fault.truncated(at=0.5))
    with pytest.raises(httpx.RemoteProtocolError):
        full.get("/api/2.0/export", params=DAYS)


def test_a_body_may_break_off_and_not_say_so(emu, full):
    """The gzip ends early and the length agrees."""
    emu.play(Fault.truncated(at=0.5, declared=False))
    with full.stream("GET", "/api/2.0/export", params=DAYS) as answer:
        body = b"".join(answer.iter_raw())
    with pytest.raises(EOFError):
        gzip.decompress(body)


def test_a_connection_may_be_reset_while_answering(emu, full):
    """Some of the body is there already."""
    emu.play(Fault.reset("answering"))
    got = b""
    with (
        pytest.raises(httpx.ReadError),
        full.stream("GET", "/api/2.0/export", params=DAYS) as answer,
    ):
        for piece in answer.iter_raw():
            got += piece
    assert got


@pytest.mark.parametrize("status", [402, 403, 429, 503])
def test_any_status_comes_in_the_words_of_its_family(emu, full, status):
    """Plain text from the export, JSON from the Query API."""
    emu.play(Fault.status(status, retry_after=7) * 2)
    answer = full.get("/api/2.0/export", params=DAYS)
    assert (status, "7", f"scripted answer {status}") == (
        answer.status_code,
        answer.headers["retry-after"],
        answer.text,
    )
    told = full.post("/api/query/engage", params={"project_id": "42"}).json()
    assert {"error": f"scripted answer {status}", "status": "error"} == told


def test_stopping_cuts_an_export_that_is_running(tmp_path):
    """No thread is left behind."""
    file = tmp_path / "events.ndjson"
    file.write_text((json.dumps(event(pad="x" * 1000)) + "\n") * 30_000)
    before = set(threading.enumerate())
    emulator = Emulator(now=Clock(), db=tmp_path / "shop.duckdb")
    emulator.start()
    emulator.load(file)
    with (
        httpx.Client(base_url=emulator.url, auth=ACCOUNT) as http,
        pytest.raises(httpx.TransportError),
        http.stream("GET", "/api/2.0/export", params=DAYS) as answer,
    ):
        emulator.stop()
        for _ in answer.iter_raw():
            pass
        answer.raise_for_status()
    deadline = time.monotonic() + 10
    while set(threading.enumerate()) - before and time.monotonic() < deadline:
        time.sleep(0.01)  # a thread that was reading ends when it has been told
    # One of an earlier test may have ended meanwhile: none is new.
    assert set() == set(threading.enumerate()) - before
