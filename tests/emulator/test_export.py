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
    """A clock that a test moves."""

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
    body = {"time": time, "distinct_id": "u1", "$insert_id": insert_id}
    return {"event": name, "properties": {**body, **properties}}


def send(http, *events):
    """Import events."""
    http.post("/import", params={"project_id": "42"}, json=list(events)).raise_for_status()


def export(http, **parameters):
    """Return the lines of an export."""
    response = http.get("/api/2.0/export", params={**DAYS, **parameters})
    assert (200, "") == (response.status_code, "" if response.is_success else response.text)
    return [json.loads(line) for line in response.content.split(b"\n") if line]


def names(lines):
    return [each["event"] for each in lines]


# Lines


def test_a_line_has_the_documented_format(http):
    """One object with the time in seconds, the ids, the receipt time, and the properties."""
    send(http, event(time=NOW * 1000 - 1, amount=12.5, ip="1.2.3.4", mp_processing_time_ms=5))
    response = http.get("/api/2.0/export", params=DAYS)
    body = {
        "time": NOW - 1,
        "distinct_id": "u1",
        "$insert_id": "a-1",
        "mp_processing_time_ms": NOW * 1000,
        "amount": 12.5,
    }
    assert {"event": "Order Paid", "properties": body} == json.loads(response.content)
    assert "text/plain; charset=utf-8" == response.headers["content-type"]
    assert response.content.endswith(b"}\n")
    assert 1 == response.content.count(b"\n")


def test_a_token_is_not_exported(emu, http):
    """It identified the project, and is not a property of the event."""
    httpx.post(f"{emu.url}/track", json=[event(token="T")])
    (line,) = export(http)
    assert "token" not in line["properties"]


def test_times_are_in_milliseconds_on_request(http):
    """Without it, fractions of a second are lost."""
    send(http, event(time=NOW * 1000 - 1))
    (line,) = export(http, time_in_ms="true")
    assert NOW * 1000 - 1 == line["properties"]["time"]


def test_an_event_without_properties_is_valid_json(http):
    """Without a comma too many."""
    send(http, event())
    assert {"time", "distinct_id", "$insert_id", "mp_processing_time_ms"} == set(
        export(http)[0]["properties"]
    )


def test_both_days_count_as_utc(http):
    """From the first millisecond of one to the last of the other."""
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
    """That is not an error."""
    response = http.get("/api/2.0/export", params=DAYS)
    assert (200, b"") == (response.status_code, response.content)


def test_copies_are_exported_as_often_as_they_were_sent(http):
    """The export does not de-duplicate."""
    send(http, event(n=1))
    send(http, event(n=2))
    assert [1, 2] == [each["properties"]["n"] for each in export(http)]


def test_events_are_filtered_by_name(http):
    """`event` is a JSON array of names."""
    names_sent = ("a", "b", 'c"d')
    send(http, *(event(name, insert_id=f"i{n}") for n, name in enumerate(names_sent)))
    assert ["a", 'c"d'] == names(export(http, event=json.dumps(["a", 'c"d'])))


def test_events_are_filtered_by_condition(http):
    """`where` reads their properties, their time, and the profile of their user."""
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


def test_a_condition_finds_the_profile_of_an_alias(http):
    """Also over two steps."""
    for alias, who in (("a1", "a2"), ("a2", "u1")):
        properties = {"distinct_id": who, "alias": alias}
        send(http, {"event": "$create_alias", "properties": properties})
    send(http, event("mine", distinct_id="a1"))
    http.post("/engage", json=[{"$token": "T", "$distinct_id": "u1", "$set": {"plan": "team"}}])
    found = names(export(http, where='user["plan"] == "team"', event='["mine"]'))
    assert ["mine"] == found


@pytest.mark.slow
def test_a_limit_exports_the_first_events(http):
    """Exactly as many, with chunks of every size."""
    send(http, *(event(insert_id=f"i{n}", n=n) for n in range(500)))
    for limit in (1, 64, 65, 499, 500, 501):
        lines = export(http, limit=limit)
        assert list(range(min(limit, 500))) == [each["properties"]["n"] for each in lines]


def test_lines_may_contain_unicode_line_separators(http):
    """U+2028 and NUL are legal in JSON strings."""
    send(http, event(text="a\u2028b\u0085c\0d", insert_id="a"), event("b\u2028", insert_id="b"))
    lines = export(http)
    assert "a\u2028b\u0085c\0d" == lines[0]["properties"]["text"]
    assert "b\u2028" == lines[1]["event"]


# Transfer


def test_bodies_above_1400_bytes_are_gzipped(http):
    """If the client accepts it."""
    send(http, event())
    assert "content-encoding" not in http.get("/api/2.0/export", params=DAYS).headers
    send(http, *(event(insert_id=f"i{n}") for n in range(20)))
    response = http.get("/api/2.0/export", params=DAYS)
    assert "gzip" == response.headers["content-encoding"]
    assert 21 == response.content.count(b"\n")
    plain = http.get("/api/2.0/export", params=DAYS, headers={"accept-encoding": "identity"})
    assert "content-encoding" not in plain.headers
    assert response.content == plain.content


@pytest.mark.slow
def test_large_exports_are_sent_in_chunks(emu, http, tmp_path):
    """Several megabytes, gzipped and not, cached and not: the same lines."""
    file = tmp_path / "events.ndjson"
    lines = [json.dumps(event(insert_id=f"i{n}", n=n, pad="x" * 1000)) for n in range(12_000)]
    file.write_text("\n".join(lines))
    emu.load(file)
    for encoding in ("gzip", "identity", "gzip"):
        response = http.get("/api/2.0/export", params=DAYS, headers={"accept-encoding": encoding})
        assert "chunked" == response.headers["transfer-encoding"]
        found = [json.loads(line)["properties"]["n"] for line in response.content.splitlines()]
        assert list(range(12_000)) == found


def test_the_export_cache_is_invalidated_by_new_events(emu, http):
    """And by a clear."""
    send(http, *(event(insert_id=f"i{n}") for n in range(20)))
    assert 20 == len(export(http))
    send(http, event(insert_id="new"))
    assert 21 == len(export(http))
    emu.clear()
    assert [] == export(http)


@pytest.mark.slow
def test_an_export_does_not_block_other_requests(emu, http, tmp_path):
    """Even if its client does not read it."""
    file = tmp_path / "events.ndjson"
    line = json.dumps(event(pad="x" * 1000)) + "\n"
    file.write_text(line * 12_000)
    emu.load(file)
    with http.stream("GET", "/api/2.0/export", params=DAYS) as slow:
        assert 200 == slow.status_code
        assert 200 == http.get("/api/app/me").status_code


# Refusals


@pytest.mark.slow
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
def test_invalid_parameters_are_refused_in_plain_text(http, parameters, message):
    """400, before any line."""
    send(http, event(s="text"))
    response = http.get("/api/2.0/export", params={**DAYS, **parameters})
    assert (400, "text/plain; charset=utf-8") == (
        response.status_code,
        response.headers["content-type"],
    )
    assert message in response.text


@pytest.mark.parametrize(
    ("auth", "parameters"),
    [
        (None, {}),
        (("robot", "wrong"), {}),
        (("T", ""), {}),
        (ACCOUNT, {"project_id": ""}),
    ],
)
def test_the_export_requires_a_service_account(emu, auth, parameters):
    """A token is not sufficient."""
    response = httpx.get(f"{emu.url}/api/2.0/export", params={**DAYS, **parameters}, auth=auth)
    assert (401, "Invalid credentials") == (response.status_code, response.text)


def test_a_service_account_can_be_checked(emu, http):
    """GET /api/app/me needs no project."""
    response = http.get("/api/app/me").json()
    assert ("ok", "robot") == (response["status"], response["results"]["user_name"])
    refused = httpx.get(f"{emu.url}/api/app/me", auth=("robot", "wrong"))
    assert 401 == refused.status_code
    assert {"status": "error", "error": "Invalid credentials"} == refused.json()


# Limits


def test_calls_per_hour_and_per_second_are_limited(clock):
    """429 with Retry-After, by the emulator's clock."""
    limits = Limits(per_hour=4, per_second=3)
    with (
        Emulator(now=clock, export_limits=limits) as emu,
        httpx.Client(base_url=emu.url, auth=ACCOUNT) as http,
    ):

        def ask():
            response = http.get("/api/2.0/export", params=DAYS)
            return response.status_code, response.headers.get("retry-after")

        assert [(200, None)] * 3 == [ask() for _ in range(3)]
        assert (429, "1") == ask()
        clock.time += 1
        assert (200, None) == ask()
        clock.time += 599
        assert (429, "3000") == ask()
        clock.time += 3000
        assert (200, None) == ask()
        assert 200 == http.get("/api/app/me").status_code


@pytest.mark.slow
def test_concurrent_exports_are_limited(clock, tmp_path):
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


def test_the_limits_are_those_of_the_documentation():
    """Of the export and of the Query API."""
    assert Limits(per_hour=60, per_second=3, concurrent=100) == Limits.export()
    assert Limits(per_hour=60, concurrent=5) == Limits.query()


# Faults


@pytest.fixture
def full(http):
    """A client of an emulator with enough events for gzip."""
    send(http, *(event(insert_id=f"i{n}", n=n) for n in range(100)))
    return http


@pytest.mark.slow
@pytest.mark.parametrize("encoding", ["gzip", "identity"])
def test_an_export_may_be_terminated_early(emu, full, encoding):
    """200, half of the lines, and a last one that is not JSON."""
    emu.play(Fault.terminated_early(after=0.5), path="/api/2.0/export")
    response = full.get("/api/2.0/export", params=DAYS, headers={"accept-encoding": encoding})
    lines = response.content.splitlines()
    assert (200, 51, b"export terminated early") == (response.status_code, len(lines), lines[-1])
    assert 100 == len(export(full))


def test_a_body_may_be_truncated(emu, full):
    """Half of the declared bytes, then the connection is closed."""
    emu.play(Fault.truncated(at=0.5))
    with pytest.raises(httpx.RemoteProtocolError):
        full.get("/api/2.0/export", params=DAYS)


def test_a_body_may_be_truncated_with_a_matching_length(emu, full):
    """Only the gzip ends early."""
    emu.play(Fault.truncated(at=0.5, declared=False))
    with full.stream("GET", "/api/2.0/export", params=DAYS) as response:
        body = b"".join(response.iter_raw())
    with pytest.raises(EOFError):
        gzip.decompress(body)


def test_a_connection_may_be_reset_during_the_response(emu, full):
    """A part of the body has arrived."""
    emu.play(Fault.reset("answering"))
    got = b""
    with (
        pytest.raises(httpx.ReadError),
        full.stream("GET", "/api/2.0/export", params=DAYS) as response,
    ):
        for piece in response.iter_raw():
            got += piece
    assert got


@pytest.mark.slow
@pytest.mark.parametrize("status", [402, 403, 429, 503])
def test_a_scripted_status_has_the_format_of_its_endpoint(emu, full, status):
    """Plain text from the export, JSON from the Query API."""
    emu.play(Fault.status(status, retry_after=7) * 2)
    response = full.get("/api/2.0/export", params=DAYS)
    assert (status, "7", f"scripted answer {status}") == (
        response.status_code,
        response.headers["retry-after"],
        response.text,
    )
    body = full.post("/api/query/engage", params={"project_id": "42"}).json()
    assert {"error": f"scripted answer {status}", "status": "error"} == body


@pytest.mark.slow
def test_stopping_aborts_a_running_export(tmp_path):
    """No thread is left running."""
    file = tmp_path / "events.ndjson"
    file.write_text((json.dumps(event(pad="x" * 1000)) + "\n") * 30_000)
    before = set(threading.enumerate())
    emulator = Emulator(now=Clock(), db=tmp_path / "shop.duckdb")
    emulator.start()
    emulator.load(file)
    with (
        httpx.Client(base_url=emulator.url, auth=ACCOUNT) as http,
        pytest.raises(httpx.TransportError),
        http.stream("GET", "/api/2.0/export", params=DAYS) as response,
    ):
        emulator.stop()
        for _ in response.iter_raw():
            pass
        response.raise_for_status()
    deadline = time.monotonic() + 10
    while set(threading.enumerate()) - before and time.monotonic() < deadline:
        time.sleep(0.01)  # a thread that was reading ends when it notices the disconnect
    # One of an earlier test may have ended since: none is new.
    assert set() == set(threading.enumerate()) - before
