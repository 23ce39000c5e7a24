"""The feed of the emulator: each record of each lane, and what became of it."""

import contextlib
import gzip
import json
import time
from datetime import UTC, datetime
from types import SimpleNamespace

import anyio
import httpx
import pytest

from mixpanel import Mixpanel
from mixpanel.emulator import Emulator, Fault, Limits
from tests.page.test_feed import frames

DAY = 24 * 3600
CHANGE = {"X-Live-Page": "1"}
AUTH = ("robot", "s3cret")


@pytest.fixture
def running():
    """Start an emulator, and a client that sends to it."""
    emulator = Emulator(tokens=["T"], query_limits=Limits.query())
    with emulator, httpx.Client(base_url=emulator.url) as client:
        yield SimpleNamespace(emu=emulator, http=client)


@pytest.fixture
def emu(running):
    """The emulator."""
    return running.emu


@pytest.fixture
def http(running):
    """A client that sends to it."""
    return running.http


def event(name="Order Paid", **properties):
    body = {"token": "T", "time": int(time.time()), "distinct_id": "u-17"}
    return {"event": name, "properties": {**body, **properties}}


def found(emu, **conditions):
    """Return verdict and reason of each entry."""
    return [(each["verdict"], each["reason"]) for each in emu.live(**conditions)]


def test_each_lane_is_in_one_list(emu, http):
    """In the order of arrival."""
    http.post("/track", json=[event(), event("Other")])
    http.post("/import?project_id=1", json=[event(**{"$insert_id": "i-1"})], auth=AUTH)
    http.post("/engage", json=[{"$token": "T", "$distinct_id": "u-17", "$set": {"plan": "pro"}}])
    http.post(
        "/groups", json=[{"$token": "T", "$group_key": "c", "$group_id": "a", "$set": {"x": 1}}]
    )
    http.get("/flags/definitions", auth=("T", ""))
    message = {"type": "track", "event": "E", "userId": "u", "messageId": "m"}
    for vendor in ("customerio", "hightouch", "segment", "rudderstack"):
        http.post(f"/{vendor}/v1/track", json=message, auth=("KEY", ""))
    http.get("/api/app/me", auth=AUTH)
    lanes = "events events imports profiles groups flags customerio hightouch segment rudderstack"
    assert [*lanes.split(), "queries"] == [each["lane"] for each in emu.live()]
    assert {"accepted"} == {each["verdict"] for each in emu.live()}


def test_a_rejected_record_has_its_reason_although_the_answer_is_200(emu, http):
    """The others of its request are accepted."""
    old = event("Late", time=int(time.time()) - 6 * DAY)
    answer = http.post("/track", json=[event(), old])
    assert "1" == answer.text
    accepted, rejected = emu.live()
    assert ("accepted", 200) == (accepted["verdict"], accepted["status"])
    assert ("rejected", 200) == (rejected["verdict"], rejected["status"])
    assert "older than five days" in rejected["reason"]
    assert ["too-old", "insert-id"][:1] == rejected["problems"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("content", "status", "reason"),
    [
        (json.dumps([event(token="X")]), 401, "Invalid or missing project token"),
        ("{", 400, "invalid JSON"),
        ("\xff", 400, "invalid JSON"),
        (json.dumps([event()] * 2001), 413, "request exceeds max limit of 2000 records"),
    ],
    ids=["token", "broken", "binary", "many"],
)
def test_a_refused_request_has_its_reason_in_each_record(emu, http, content, status, reason):
    """Its records are shown if they can be decoded."""
    assert status == http.post("/track", content=content).status_code
    for entry in emu.live():
        assert ("rejected", status) == (entry["verdict"], entry["status"])
        assert reason in entry["reason"] or "'properties.token'" in entry["reason"]


def test_a_copy_is_a_duplicate(emu, http):
    """By event, time, distinct_id and $insert_id together."""
    same = event(**{"$insert_id": "i-1"})
    for record in (same, same, event("Other", **{"$insert_id": "i-1"}), event(), event()):
        http.post("/track", json=[record])
    verdicts = [each["verdict"] for each in emu.live()]
    assert ["accepted", "duplicate", "accepted", "accepted", "accepted"] == verdicts


def test_an_ignored_event_says_that_it_is_not_stored(emu, http):
    """The server counts it as accepted."""
    http.post("/track", json=[event(**{"$ignore": True}), event()])
    first, second = emu.live()
    assert ("accepted", "not stored, as $ignore is set") == (first["verdict"], first["note"])
    assert "ignored" not in second["problems"]
    assert ["ignored"] == [
        each["kind"] for each in emu._project.live.state()["problems"] if each["kind"] == "ignored"
    ]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fault", "verdict", "reason"),
    [
        (Fault.status(503), "faulted", "fault status 503: nothing stored"),
        (Fault.reset("before"), "faulted", "fault reset before: nothing stored"),
        (Fault.reset("after"), "faulted", "fault reset after: stored, but the client got no"),
        (Fault.malformed(), "faulted", "fault malformed: stored, but the client got no"),
        (Fault.partial([0]), "rejected", "refused by a fault"),
        (Fault.latency(0.001), "accepted", None),
    ],
    ids=lambda each: getattr(each, "name", ""),
)
def test_a_fault_is_named(emu, http, fault, verdict, reason):
    """With what became of the records."""
    emu.play(fault)
    with contextlib.suppress(httpx.HTTPError):
        http.post("/track", json=[event()])
    (entry,) = emu.live()
    assert verdict == entry["verdict"]
    assert (entry["reason"] or "").startswith(reason or "")
    assert fault.name == entry["fault"]


def test_a_silent_request_is_seen_at_once(emu):
    """Not only when the client gives up."""
    emu.play(Fault.silence(ingested=True))
    with pytest.raises(httpx.TimeoutException):
        httpx.post(f"{emu.url}/track", json=[event()], timeout=0.3)
    assert [("faulted", None)] == [(each["verdict"], each["status"]) for each in emu.live()]


def test_compressed_requests_are_shown_decoded(emu, http):
    """With their size uncompressed."""
    body = gzip.compress(json.dumps([event(text="x" * 5000, **{"$insert_id": "i"})]).encode())
    headers = {"content-encoding": "gzip"}
    http.post("/import?project_id=1", content=body, headers=headers, auth=AUTH)
    (entry,) = emu.live()
    assert ("Order Paid", True) == (entry["event"], entry["bytes"] > 5000)


def test_a_query_above_the_limit_is_rejected(emu, http):
    """And the budget says what is left."""
    params = {"project_id": "1", "from_date": "2026-01-01", "to_date": "2026-01-02"}
    http.get("/api/query/events/names", params=params, auth=AUTH)
    with http.stream("GET", "/live") as stream:
        state = _state(stream)
    assert {"limit": 60, "left": 59, "used": 1} == state["budget"]["queries"]
    assert {"limit": None, "left": None, "used": 0} == state["budget"]["exports"]


def test_queries_without_a_limit_are_counted():
    """Mixpanel has one."""
    with Emulator() as emulator, httpx.Client(base_url=emulator.url) as client:
        for _ in range(2):
            client.get("/api/query/events/names", params={"project_id": "1"}, auth=AUTH)
        with client.stream("GET", "/live") as stream:
            state = _state(stream)
    assert {"limit": None, "left": None, "used": 2} == state["budget"]["queries"]


def _state(stream):
    return next(
        data for chunk in stream.iter_raw() for name, _, data in frames(chunk) if name == "state"
    )


def test_polls_of_unchanged_flags_are_one_entry(emu, http):
    """A client may poll ten times a second."""
    url, headers = "/flags/definitions", {"user-agent": "app"}
    tag = http.get(url, auth=("T", ""), headers=headers).headers["etag"]
    for agent in ("app", "app", "other"):
        http.get(url, auth=("T", ""), headers={"user-agent": agent, "if-none-match": tag})
    assert [("definitions", 3), ("definitions", 0)] == [
        (each["event"], each["tries"]) for each in emu.live()
    ]


def test_the_stream_has_what_arrives(emu, http):
    """As it arrives, and what was there before."""
    http.post("/track", json=[event("Before")])
    with httpx.stream("GET", f"{emu.url}/live?full=1") as stream:
        assert "text/event-stream" == stream.headers["content-type"]
        chunks = stream.iter_raw()
        seen = []
        for chunk in chunks:
            for _, _, data in frames(chunk):
                seen += [each["record"]["event"] for each in data.get("entries", ())]
            if seen == ["Before"]:
                http.post("/track", json=[event("After")])
            if seen == ["Before", "After"]:
                break
    assert ["Before", "After"] == seen


def test_an_open_stream_does_not_keep_the_emulator_from_stopping():
    """Its connection is closed."""
    emulator = Emulator()
    emulator.start()
    with httpx.stream("GET", f"{emulator.url}/live") as response:
        chunks = response.iter_raw()
        next(chunks)
        emulator.stop()
        with pytest.raises(httpx.HTTPError):
            list(chunks)


def test_the_page_is_not_recorded(emu, http):
    """Neither it nor its feed are requests of a client, and faults do not break them."""
    emu.play(Fault.status(500))
    for path in ("/", "/live/page.js", "/live/page.css", "/live/flags", "/live/export"):
        assert 200 == http.get(path).status_code
    assert ([], []) == (emu.requests(), emu.live())


def test_the_page_allows_no_other_source(http):
    """Its policy, and nothing in it that another host serves."""
    page = http.get("/")
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'" in policy
    assert "unsafe" not in policy
    for path in ("/", "/live/page.js", "/live/page.css"):
        text = http.get(path).text
        assert "https://" not in text
        assert "//cdn" not in text
        assert "innerHTML" not in text
        assert "eval(" not in text


@pytest.mark.parametrize(
    ("method", "path"),
    [("POST", "/live/faults"), ("DELETE", "/live/faults"), ("POST", "/live/clear")],
)
def test_changes_need_a_header(emu, http, method, path):
    """Which a page of another site cannot send without being allowed to."""
    http.post("/track", json=[event()])
    refused = http.request(method, path)
    assert 403 == refused.status_code
    assert "X-Live-Page: 1" in refused.json()["error"]
    assert 1 == len(emu.live())


@pytest.mark.parametrize("path", ["/", "/live", "/live/entry?id=1", "/live/export"])
def test_another_name_in_host_is_refused(http, path):
    """It may be another site's, by DNS rebinding."""
    assert 421 == http.get(path, headers={"Host": "evil.example"}).status_code


@pytest.mark.slow
@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/live/entry?id=99999", 404),
        ("/live/entry?id=x", 404),
        ("/live/entry", 404),
        ("/live/person", 400),
        ("/live/flags?flag=a&context=[", 400),
        ("/live/nope", 404),
        ("/live/clear", 405),
    ],
)
def test_a_wrong_request_to_the_page_says_what_is_wrong(http, path, status):
    """As JSON."""
    answer = http.get(path)
    assert status == answer.status_code
    assert answer.json()["error"]


def test_faults_are_scripted_and_removed_from_the_page(emu, http):
    """In the words of `mp emulator --fault`."""
    written = {"fault": "503 on /track 1 times"}
    answer = http.post("/live/faults", json=written, headers=CHANGE)
    (fault,) = answer.json()["faults"]
    assert ("503 on /track 1 times", 1) == (fault["name"], fault["remaining"])
    assert 503 == http.post("/track", json=[event()]).status_code
    assert 200 == http.post("/track", json=[event()]).status_code
    http.post("/live/faults", json={"fault": "reset"}, headers=CHANGE)
    assert [] == http.delete("/live/faults", headers=CHANGE).json()["faults"]
    wrong = http.post("/live/faults", json={"fault": "nonsense"}, headers=CHANGE)
    assert 400 == wrong.status_code
    assert "503 on /track 10%" in wrong.json()["error"]


def test_the_list_is_cleared_without_the_data(emu, http):
    """Or with it."""
    http.post("/track", json=[event()])
    http.post("/live/clear", headers=CHANGE)
    assert (1, []) == (len(emu.events()), emu.live())
    http.post("/live/clear", json={"data": True}, headers=CHANGE)
    assert [] == emu.events()


def test_the_export_has_a_line_for_each_entry(emu, http):
    """With its record."""
    http.post("/track", json=[event("A"), event("B")])
    lines = http.get("/live/export?event=B").text.splitlines()
    assert ["B"] == [json.loads(each)["record"]["event"] for each in lines]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", ["A", "B", "Order Paid"]),
        ("event:a", ["A"]),
        ("-event:a,b", ["Order Paid"]),
        ('event:"order paid"', ["Order Paid"]),
        ("paid", ["Order Paid"]),
        ("verdict:rejected", ["B"]),
        ("status:200 user:u-17", ["A", "B", "Order Paid"]),
        ("constructor:x", []),
        ("problem:too-old", ["B"]),
    ],
)
def test_the_export_takes_the_filter_of_the_page(emu, http, text, found):
    """The same words and fields."""
    old = event("B", time=int(time.time()) - 6 * DAY)
    http.post("/track", json=[event("A"), old, event("Order Paid")])
    lines = http.get("/live/export", params={"q": text}).text.splitlines()
    assert found == [json.loads(each)["event"] for each in lines]


def test_a_person_has_a_profile_and_a_timeline(emu, http):
    """Under each of the ids, and with what was lost."""
    device = "5f1d4a9e-3c6c-4f0e-9d3e-6a0c3d3d8f10"
    http.post("/track", json=[event("Before", distinct_id=f"$device:{device}")])
    http.post("/track", json=[event("Login", **{"$device_id": device, "$user_id": "u-17"})])
    http.post("/engage", json=[{"$token": "T", "$distinct_id": "u-17", "$set": {"plan": "pro"}}])
    http.post("/track", json=[event("Late", time=int(time.time()) - 6 * DAY)])
    for each in ("u-17", f"$device:{device}"):
        person = http.get("/live/person", params={"distinct_id": each}).json()
        assert "u-17" == person["distinct_id"]
        assert [f"$device:{device}"] == person["aliases"]
        assert {"plan": "pro"} == person["profile"]
        assert ["Login", "Before"] == [one["event"] for one in person["timeline"]]
        assert ["Late"] == [one["event"] for one in person["lost"]]


def test_a_person_without_events_is_empty(emu, http):
    """Any id may be looked at."""
    person = http.get("/live/person", params={"distinct_id": "no-one/../?"}).json()
    assert (None, [], []) == (person["profile"], person["timeline"], person["lost"])


@pytest.mark.parametrize("conditions", [{"lane": "nope"}, {"verdict": "good"}])
def test_unknown_conditions_are_refused(emu, conditions):
    """With those that there are."""
    with pytest.raises(ValueError, match="is unknown: choose "):
        emu.live(**conditions)


def test_a_page_of_an_allowed_origin_changes_nothing():
    """It may send events and read."""
    with Emulator(allow_origins=["http://app.example"]) as emulator:
        headers = {**CHANGE, "Origin": "http://app.example"}
        refused = httpx.post(f"{emulator.url}/live/clear", headers=headers)
        assert 403 == refused.status_code


# Waiting


def test_waiting_finds_what_is_there_and_what_comes(emu, http):
    """With these properties among others."""
    http.post("/track", json=[event(amount=1), event(amount=2)])
    assert 2 == emu.wait_for("Order Paid", amount=2)["properties"]["amount"]
    assert 2 == len(emu.wait_for(2))
    assert "u-17" == emu.wait_for("Order Paid", distinct_id="u-17")["properties"]["distinct_id"]


@pytest.mark.slow
def test_waiting_finds_an_event_that_left_the_list(emu, http):
    """It is stored still."""
    http.post("/track", json=[event("First")])
    http.post("/live/clear", headers=CHANGE)
    assert "First" == emu.wait_for("First", timeout=0)["event"]


async def test_waiting_in_async_code_lets_other_tasks_run(anyio_backend, emu):
    """On asyncio and on trio."""
    async with httpx.AsyncClient(base_url=emu.url) as client, anyio.create_task_group() as group:

        async def send():
            await anyio.sleep(0.05)
            await client.post("/track", json=[event("Later")])

        group.start_soon(send)
        assert "Later" == (await emu.wait_for_async("Later"))["event"]


def test_what_does_not_come_is_an_error_that_says_what_did(emu, http):
    """With the reasons for which similar ones were rejected, and the nearest name."""
    old = event("Order Paid", time=int(time.time()) - 6 * DAY)
    http.post("/track", json=[event("Order Paid", amount=1), old, event("Signed Up")])
    with pytest.raises(TimeoutError) as caught:
        emu.wait_for("Order Paid", amount=2, timeout=0)
    text = str(caught.value)
    assert "'Order Paid' with amount=2 did not arrive within 0 s" in text
    assert "one has amount=1" in text
    assert "one was rejected: 'properties.time' is invalid: older than five days" in text
    assert "events     accepted   Signed Up  u-17" in text
    with pytest.raises(TimeoutError, match="did you mean 'Signed Up'"):
        emu.wait_for("Signd Up", timeout=0)


def test_nothing_at_all_points_to_the_address(emu):
    """The most common mistake."""
    with pytest.raises(TimeoutError, match="check that the client sends to this emulator's url"):
        emu.wait_for("Order Paid", timeout=0)


@pytest.mark.slow
@pytest.mark.parametrize("what", ["", None, 1.5, True, b"x"])
def test_waiting_for_something_else_is_refused(emu, what):
    """It can never arrive."""
    with pytest.raises(ValueError, match="neither the name of an event nor a number"):
        emu.wait_for(what, timeout=0)
    with pytest.raises(ValueError, match="lane='x' is unknown"):
        emu.wait_for("A", lane="x")
    with pytest.raises(ValueError, match="has no conditions"):
        emu.wait_for(1, amount=2)


@pytest.mark.parametrize("timeout", [None, "2", float("nan"), True])
def test_a_timeout_that_is_no_number_is_refused(emu, timeout):
    """Instead of waiting for ever."""
    with pytest.raises(ValueError, match="must be a number of seconds"):
        emu.wait_for("A", timeout=timeout)


def test_conditions_are_compared_as_json(emu, http):
    """A datetime is sent as text."""
    day = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    with Mixpanel("T", base_url=emu.url) as mp:
        mp.track("u-17", "Order Paid", {"at": day, "tags": ("a", "b")})
    assert emu.wait_for("Order Paid", at=day, tags=["a", "b"], timeout=0)


def test_a_record_with_very_many_properties_is_cut(emu, http):
    """A browser could not show them."""
    http.post("/track", json=[event(**{f"p{n}": n for n in range(3000)})])
    (entry,) = emu.live()
    shown = http.get(f"/live/entry?id={entry['id']}").json()
    assert "rejected" == shown["verdict"]
    assert (500, 2503) == (len(shown["properties"]), shown["properties_left_out"])


@pytest.mark.parametrize("path", ["/", "/live", "/live/export"])
def test_head_has_no_body_and_ends(http, path):
    """The stream, too."""
    answer = http.head(path)
    assert (200, b"") == (answer.status_code, answer.content)


@pytest.mark.parametrize("path", ["/live", "/live/export"])
def test_an_unknown_lane_or_verdict_is_refused(http, path):
    """A stream that never has anything would look like a program that sends nothing."""
    for condition in ("lane=event", "verdict=accepted,ok"):
        answer = http.get(f"{path}?{condition}")
        assert 400 == answer.status_code
        assert "is unknown: choose" in answer.json()["error"]


def test_waiting_for_a_message_of_a_vendor(emu, http):
    """The lane says where."""
    message = {"type": "track", "event": "E", "userId": "u", "messageId": "m"}
    http.post("/customerio/v1/track", json=message, auth=("KEY", ""))
    assert "m" == emu.wait_for("E", lane="customerio", distinct_id="u")["messageId"]
    with pytest.raises(TimeoutError, match="one arrived at customerio"):
        emu.wait_for("E", lane="events", timeout=0)
