"""The page of a program: what its clients composed, queued, sent and got back."""

import json
import os
import socket
import subprocess
import sys
import time
from contextlib import suppress

import anyio
import httpx
import pytest

from mixpanel import AsyncMixpanel, ImportInterrupted, Mixpanel
from mixpanel._page import program
from mixpanel._page.details import details
from mixpanel._page.entries import RequestRecord
from mixpanel.cdp import AsyncCustomerIO, AsyncFanOut, AsyncHightouch, CustomerIO, Sink
from mixpanel.credentials import ServiceAccountCredentials
from mixpanel.emulator import Emulator, Fault
from mixpanel.exceptions import ConfigurationError, MixpanelException, RejectedError
from mixpanel.flags.types import LocalFlagsConfig, RemoteFlagsConfig
from mixpanel.settings import RetryPolicy
from tests.page.samples import FLAG
from tests.page.test_entries import event, exchange
from tests.page.test_feed import frames

AT_ONCE = RetryPolicy(first_wait=0.01, max_wait=0.01)


@pytest.fixture(autouse=True)
def _stopped():
    """Stop the page after each test."""
    yield
    program.stop()


@pytest.fixture
def page():
    """The page of this process, on any port."""
    return program.page_of(True)


def found(page):
    """Return verdict, lane, event, status and reason of each entry."""
    return [
        (each["verdict"], each["lane"], each["event"], each["status"], each["reason"])
        for each in page.feed.summaries()
    ]


async def test_an_async_client_is_shown_from_queue_to_outcome(anyio_backend, emu, page):
    """It sends as without the page."""
    async with AsyncMixpanel("T", base_url=emu.url, debug=True) as mp:
        await mp.track("u-17", "Order Paid", {"amount": 12.5})
        await mp.people_set("u-17", {"plan": "pro"})
        queued = {each["verdict"] for each in page.feed.summaries()}
        await mp.flush()
        assert page.url == mp.debug_page
    assert queued <= {"queued", "accepted"}
    assert {
        ("accepted", "events", "Order Paid", 200, None),
        ("accepted", "profiles", "$set", 200, None),
    } == set(found(page))
    assert 1 == len(emu.events())


def test_a_sync_client_is_shown_too(emu, page):
    """Also one that sends each message at once."""
    with Mixpanel("T", base_url=emu.url, debug=True) as mp:
        mp.track("u-17", "Order Paid")
    (entry,) = page.feed.entries()
    assert ("accepted", 200, 1) == (entry.verdict, entry.status, entry.tries)
    assert f"{emu.url}/track" == entry.exchange.path


def test_a_rejected_message_has_the_server_s_reason(emu, page):
    """And is among the problems."""
    mp = Mixpanel("T", base_url=emu.url, debug=True, validation="off")
    with pytest.raises(RejectedError):
        mp.track("u-17", "Late", {"time": time.time() - 9 * 86400})
    mp.close()
    (entry,) = page.feed.summaries()
    assert ("rejected", ["too-old"]) == (entry["verdict"], entry["problems"])


async def test_retries_are_shown_with_what_failed(anyio_backend, emu, page):
    """And how often it was sent at last."""
    emu.play(Fault.status(503) * 2, Fault.reset("after"))
    async with AsyncMixpanel("T", base_url=emu.url, debug=True, retry=AT_ONCE) as mp:
        await mp.track("u-17", "Order Paid")
        await mp.flush()
    (entry,) = page.feed.summaries()
    assert ("accepted", 4, None) == (entry["verdict"], entry["tries"], entry["reason"])


async def test_a_message_that_is_given_up_is_dropped(anyio_backend, emu, page):
    """With the reason."""
    emu.play(Fault.status(503).forever())
    once = RetryPolicy(first_wait=0.01, max_wait=0.01, max_age=0.05)
    async with AsyncMixpanel("T", base_url=emu.url, debug=True, retry=once) as mp:
        await mp.track("u-17", "Order Paid")
        await mp.flush(timeout=3)
    (entry,) = page.feed.summaries()
    assert ("dropped", ["dropped"]) == (entry["verdict"], entry["problems"])
    assert "given up: it was older than RetryPolicy.max_age" in entry["reason"]
    assert "before: status 503" in entry["reason"]


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"before_send": lambda _endpoint, _message: None}, "before_send returned None"),
        ({"disabled": True}, "the client is disabled: nothing is sent"),
        ({"sample_rate": 1e-9}, "left out by sample_rate"),
    ],
)
def test_a_message_that_is_dropped_on_purpose_says_why(emu, page, options, reason):
    """It is no problem."""
    with Mixpanel("T", base_url=emu.url, debug=True, **options) as mp:
        mp.track("u-17", "Order Paid")
    assert [("dropped", reason)] == [(each[0], each[4]) for each in found(page)]
    assert [] == page.feed.state()["problems"]


async def test_clients_of_other_platforms_are_shown_by_their_name(anyio_backend, emu, page):
    """Async and sync ones."""
    async with AsyncHightouch("KEY", base_url=emu.hightouch_url, debug=True) as client:
        await client.track("u-17", "Order Paid")
        await client.flush()
    assert [("accepted", "hightouch", "Order Paid", 200, None)] == found(page)


def test_sync_clients_of_other_platforms_are_shown(emu, page):
    """By the name of their vendor."""
    with CustomerIO("KEY", base_url=emu.customerio_url, debug=True) as client:
        client.track("u-17", "Order Paid")
    assert ["customerio"] == [each[1] for each in found(page)]


def entry_of(page, number):
    """Return an entry as the page shows it."""
    return details(page.feed.entry(number), "")


# ---- imports, flags, lookup tables, fan-outs -----------------------------------------------------


ACCOUNT = ServiceAccountCredentials("robot", "s3cret", "42")
ROWS = [
    {"event": f"E{n}", "properties": {"time": 1_767_225_600 + n, "distinct_id": "u-17"}}
    for n in range(3)
]


async def test_an_import_is_shown_from_row_to_outcome(anyio_backend, emu, page):
    """Also what the server rejects, and a row that is never sent."""
    emu.play(Fault.status(503), Fault.partial([1]))
    rows = [*ROWS, {"event": "No time", "properties": {}}]
    options = {"base_url": emu.url, "credentials": ACCOUNT, "debug": True}
    async with AsyncMixpanel("T", **options) as mp:
        result = await mp.import_events(rows, retry=AT_ONCE)
    assert (2, 2) == (result.imported, result.rejected)
    shown = {each["event"]: each for each in page.feed.summaries()}
    assert {"imports"} == {each["lane"] for each in shown.values()}
    verdicts = {name: each["verdict"] for name, each in shown.items()}
    rejected = {"E1": "rejected", "No time": "rejected"}
    assert {"E0": "accepted", "E2": "accepted", **rejected} == verdicts
    assert "refused by a fault" in shown["E1"]["reason"]
    assert 3 == page.feed.state()["totals"]["faulted"]  # those of the 503, not of the 400
    assert "an imported event needs its time" in shown["No time"]["reason"]
    assert 2 == shown["E0"]["tries"]
    assert ("/import", 3) == (shown["E0"]["path"][-7:], shown["E0"]["count"])
    assert "s3cret" not in json.dumps(entry_of(page, shown["E0"]["id"]))


async def test_a_row_of_any_form_is_shown(anyio_backend, emu, page):
    """One that refers to itself, is no mapping, or has a thousand levels."""
    itself = {"event": "Itself", "properties": {}}
    itself["properties"]["self"] = itself
    deep = []
    for _ in range(2000):
        deep = [deep]
    rows = [itself, 7, {"event": "Deep", "properties": {"x": deep, ("a", 1): {1}}}, None]
    options = {"base_url": emu.url, "credentials": ACCOUNT, "debug": True}
    async with AsyncMixpanel("T", **options) as mp:
        assert 4 == (await mp.import_events(rows)).rejected
    assert ["rejected"] * 4 == [each[0] for each in found(page)]
    for entry in page.feed.entries():
        json.dumps(entry_of(page, entry.id))


async def test_records_of_an_import_that_stops_are_dropped(anyio_backend, emu, page):
    """With the reason; they are not left as if they were being sent."""
    emu.play(Fault.status(401))
    options = {"base_url": emu.url, "credentials": ACCOUNT, "debug": True}
    async with AsyncMixpanel("T", **options) as mp:
        with pytest.raises(ImportInterrupted):
            await mp.import_events(ROWS)
    assert {"dropped"} == {each[0] for each in found(page)}
    assert {"the import stopped first: it can be resumed; before: status 401"} == {
        each[4] for each in found(page)
    }


async def test_the_rows_of_a_backfill_are_shown(anyio_backend, emu, page):
    """In the lane of the vendor."""
    row = {"type": "track", "event": "E", "userId": "u", "timestamp": "2026-01-01T00:00:00Z"}
    async with AsyncCustomerIO("KEY", base_url=emu.customerio_url, debug=True) as client:
        await client.backfill([row, {"type": "nonsense"}])
    assert {("accepted", "customerio"), ("rejected", "customerio")} == {
        each[:2] for each in found(page)
    }


async def test_requests_for_flags_are_shown(anyio_backend, emu, page):
    """Definitions with polls of unchanged ones as one entry; evaluations with what they chose."""
    emu.set_flags([FLAG])
    local = LocalFlagsConfig(polling_interval_in_seconds=0.05)
    remote = RemoteFlagsConfig()
    options = {"base_url": emu.url, "debug": True}
    async with AsyncMixpanel(
        "T", local_flags_config=local, remote_flags_config=remote, **options
    ) as mp:
        await mp.remote_flags.aget_variant_value("new-checkout", "off", {"distinct_id": "u-1"})
        with anyio.fail_after(10):
            while max(each["tries"] for each in page.feed.summaries()) < 3:
                await anyio.sleep(0.01)
        await mp.flush()
    flags = [each for each in page.feed.summaries() if each["lane"] == "flags"]
    assert {("definitions", 200), ("new-checkout", 200)} == {
        (each["event"], each["status"]) for each in flags
    }
    assert 2 == len(flags)
    (evaluated,) = [each for each in flags if each["event"] == "new-checkout"]
    assert "u-1" == evaluated["distinct_id"]
    assert {"new-checkout"} >= evaluated["record"]["variants"].keys()
    assert f"{emu.url}/flags" == evaluated["path"]
    entry = entry_of(page, evaluated["id"])
    assert "new-checkout" in str(entry["request"]["query"])
    assert "••••" in str(entry["request"]["headers"])


async def test_a_failed_request_for_flags_has_the_reason(anyio_backend, emu, page):
    """Whether the server answers or not."""
    emu.play(Fault.status(503), Fault.reset("before"))
    async with AsyncMixpanel(
        "T", base_url=emu.url, debug=True, remote_flags_config=RemoteFlagsConfig()
    ) as mp:
        for _ in range(2):
            await mp.remote_flags.aget_variant_value("x", "off", {"distinct_id": "u-1"})
    rejected, faulted = found(page)
    assert ("rejected", "flags", "x", 503, "status 503") == rejected
    assert ("faulted", "flags", "x", None) == faulted[:4]
    assert faulted[4]


async def test_lookup_tables_are_shown(anyio_backend, emu, page):
    """A replacement is a request of its own."""
    options = {"base_url": emu.url, "credentials": ACCOUNT, "debug": True}
    async with AsyncMixpanel("T", **options) as mp:
        await mp.lookup_tables()
        with suppress(MixpanelException):
            await mp.replace_lookup_table("no-such-table", [{"id": "1", "name": "a"}])
    assert ["tables", "tables"] == [each[1] for each in found(page)]
    assert "accepted" == found(page)[0][0]


async def test_a_fan_out_is_shown_by_its_clients(anyio_backend, emu, page):
    """Each in its lane."""
    async with AsyncFanOut(
        mixpanel=Sink(AsyncMixpanel("T", base_url=emu.url, debug=True)),
        hightouch=Sink(AsyncHightouch("KEY", base_url=emu.hightouch_url, debug=True)),
    ) as out:
        await out.track("u-17", "Order Paid")
    assert {("accepted", "events"), ("accepted", "hightouch")} == {each[:2] for each in found(page)}


@pytest.mark.slow
async def test_messages_that_the_list_no_longer_has_are_counted(anyio_backend, emu, page):
    """The totals are of all, the list of the newest 1,000."""
    async with AsyncMixpanel("T", base_url=emu.url, debug=True) as mp:
        for n in range(1500):
            await mp.track("u-17", f"E{n}")
        await mp.flush()
    assert 1500 == page.feed.state()["totals"]["accepted"]


class Broken:
    """A consumer of a program's own that takes one message."""

    def __init__(self):
        self.left = 1

    def send(self, endpoint, message, api_key=None, api_secret=None):
        """Take the first, and fail then."""
        self.left -= 1
        if self.left < 0:
            raise OSError("disk full")


def test_a_consumer_of_the_program_s_own_is_shown(page):
    """With what it raised."""
    mp = Mixpanel("T", Broken(), debug=True)
    mp.track("u-17", "A")
    with pytest.raises(OSError, match="disk full"):
        mp.track("u-17", "B")
    assert [("accepted", "A"), ("dropped", "B")] == [(each[0], each[2]) for each in found(page)]


def test_the_environment_switches_it_on(emu, monkeypatch):
    """For programs that are not to be changed."""
    monkeypatch.setenv("MP_DEBUG_PAGE", "1")
    with Mixpanel("T", base_url=emu.url) as mp:
        mp.track("u-17", "Order Paid")
        assert "Order Paid" in httpx.get(f"{mp.debug_page}/live/export").text
    monkeypatch.setenv("MP_DEBUG_PAGE", "0")
    assert Mixpanel("T", base_url=emu.url).debug_page is None


@pytest.mark.parametrize(
    "debug", ["nonsense", "80", "999999", "http://example.com", "https://127.0.0.1:1", "-1"]
)
def test_another_value_is_refused(debug):
    """With those that there are; the messages go to this machine only."""
    with pytest.raises(ConfigurationError, match="the address of an emulator on this machine"):
        Mixpanel("T", debug=debug)


def test_nothing_is_paid_while_it_is_off():
    """No module of the page is loaded, and no method is replaced."""
    source = """
import sys
from mixpanel import AsyncMixpanel, Mixpanel
from mixpanel._delivery.buffer import Buffer
mp = AsyncMixpanel("T")
Mixpanel("T")
assert not {"mixpanel._page.program", "mixpanel._page.feed", "http.server"} & set(sys.modules)
assert mp._delivery.buffer.put.__func__ is Buffer.put
assert mp._delivery.observer is None and mp.debug_page is None
"""
    environment = {name: os.environ[name] for name in os.environ if name != "MP_DEBUG_PAGE"}
    subprocess.run([sys.executable, "-c", source], check=True, env=environment)


def test_watching_never_changes_what_is_delivered(emu, page, monkeypatch, caplog):
    """A bug of the page is logged."""
    monkeypatch.setattr(page.feed, "add", lambda *_, **__: 1 / 0)
    with Mixpanel("T", base_url=emu.url, debug=True) as mp:
        mp.track("u-17", "Order Paid")
    assert 1 == len(emu.events())
    assert "the live page missed a message" in caplog.text


# ---- its server ---------------------------------------------------------------------------------


def test_the_page_is_served_from_the_process(emu, page):
    """The same page, its stream and each entry."""
    with Mixpanel("SECRET-TOKEN", base_url=emu.url, debug=True) as mp:
        mp.track("u-17", "Order Paid")
    with httpx.Client(base_url=page.url) as http:
        assert "script-src 'self'" in http.get("/").headers["content-security-policy"]
        assert 200 == http.get("/live/page.js").status_code
        entry = http.get("/live/entry?id=1").json()
        assert ["••••"] == [
            value for name, value in entry["request"]["headers"] if name == "authorization"
        ] or "authorization" not in dict(entry["request"]["headers"])
        with http.stream("GET", "/live") as stream:
            kinds = []
            for chunk in stream.iter_raw():
                kinds += [each[0] for each in frames(chunk)]
                if "state" in kinds:
                    break
        assert ["reset", None, "state"] == kinds
        assert 403 == http.post("/live/clear").status_code
        assert 200 == http.post("/live/clear", headers={"X-Live-Page": "1"}).status_code
        assert "" == http.get("/live/export").text
        fault = {"fault": "503"}
        refused = http.post("/live/faults", json=fault, headers={"X-Live-Page": "1"})
        assert "only an emulator plays faults" in refused.json()["error"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Host": "evil.example"}, 421),
        ({"Host": "127.0.0.1.evil.example"}, 421),
        ({"Origin": "http://evil.example"}, 403),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Host": "localhost"}, 200),
    ],
)
def test_other_sites_cannot_read_it(page, headers, status):
    """By their origin, or by DNS rebinding."""
    assert status == httpx.get(f"{page.url}/live/export", headers=headers).status_code


def test_a_second_program_gets_another_port(page):
    """The usual one is in use then."""
    other = program.ProgramPage(page.url.rpartition(":")[2])
    assert page.url != other.url
    assert 200 == httpx.get(other.url).status_code
    other.stop()


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_a_forked_child_sends_without_the_page(emu):
    """The page has no thread there."""
    source = f"""
import os
from mixpanel import Mixpanel
mp = Mixpanel("T", base_url={emu.url!r}, debug=True)
mp.track("u-1", "Parent")
child = os.fork()
if not child:
    mp.track("u-2", "Child")
    mp.close()
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
mp.close()
"""
    subprocess.run([sys.executable, "-W", "ignore", "-c", source], check=True, timeout=30)
    assert {"Parent", "Child"} == {each["event"] for each in emu.events()}


# ---- attached to an emulator --------------------------------------------------------------------


def test_a_program_reports_to_a_running_emulator(emu):
    """What it sends to another server is shown there, and is not taken for what arrived."""
    with Emulator() as real:
        with Mixpanel("T", base_url=real.url, debug=emu.url) as mp:
            mp.track("u-17", "Order Paid", {"amount": 12.5})
        program.stop()  # reports what is left
        assert emu.url == mp.debug_page
    (entry,) = emu.live()
    assert ("accepted", "Order Paid", 200) == (entry["verdict"], entry["event"], entry["status"])
    assert str(os.getpid()) in entry["via"]
    assert ([], []) == (emu.events(), emu.requests())
    with pytest.raises(TimeoutError):
        emu.wait_for("Order Paid", timeout=0)
    state = emu._project.live.state()
    assert 0 == state["totals"]["accepted"]


def test_a_long_record_is_reported_by_its_beginning(emu):
    """With its name and ids, and what is wrong with it."""
    with Emulator() as real:
        with Mixpanel("T", base_url=real.url, debug=emu.url, validation="off") as mp:
            mp.track("u-17", "Big", {"text": "x" * 500_000, "many": ["y" * 2000] * 200})
        program.stop()
    (entry,) = emu.live()
    assert ("Big", "u-17", ["too-long"]) == (
        entry["event"], entry["distinct_id"], entry["problems"],
    )  # fmt: skip
    assert len(json.dumps(entry)) < 120_000
    assert entry["bytes"] > 900_000


def test_a_program_attached_to_the_emulator_that_it_sends_to_counts_once(emu):
    """Problems, and what a person lost: the message is in the list twice, with an arrow once."""
    with Mixpanel("T", base_url=emu.url, debug=emu.url, validation="off") as mp:
        mp.track("u-17", "Order Paid", {"note": "x" * 300})
        with suppress(RejectedError):
            mp.track("u-17", "Late", {"time": time.time() - 9 * 86400})
        program.stop()
    assert 4 == len(emu.live())
    problems = emu._project.live.state()["problems"]
    assert {"too-old": 1, "too-long": 1} == {each["kind"]: each["count"] for each in problems}
    person = httpx.get(f"{emu.url}/live/person?distinct_id=u-17").json()
    assert ["Late"] == [each["event"] for each in person["lost"]]


@pytest.mark.slow
def test_a_reader_that_reads_nothing_holds_up_no_one(page):
    """Neither the feed, nor other readers, nor the end."""
    with socket.create_connection(("127.0.0.1", int(page.url.rpartition(":")[2]))) as stuck:
        stuck.sendall(b"GET /live?full=1 HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        for n in range(600):
            record = event(f"E{n}", text="x" * 20_000)
            page.feed.add(exchange(), "events", [RequestRecord(record)], status=200)
        with httpx.stream("GET", f"{page.url}/live", params={"event": "E599"}) as stream:
            data = (data for chunk in stream.iter_raw() for *_, data in frames(chunk))
            (entry,) = next(each["entries"] for each in data if "entries" in each)
        assert "E599" == entry["event"]
        program.stop()


def test_an_emulator_that_is_not_there_loses_nothing(emu):
    """The program sends as usual."""
    with Emulator() as other:
        gone = other.url
    with Mixpanel("T", base_url=emu.url, debug=gone) as mp:
        mp.track("u-17", "Order Paid")
    assert 1 == len(emu.events())


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"program": "p", "entries": [1]},
        {"program": "p", "entries": [{"key": 1, "lane": "nope", "verdict": "accepted"}]},
        {"program": "p", "entries": [{"key": 1, "lane": "events", "verdict": []}]},
        {"program": 7, "entries": []},
    ],
)
def test_a_wrong_report_is_refused(emu, body):
    """With what is wrong."""
    answer = httpx.post(f"{emu.url}/live/report", json=body, headers={"X-Live-Page": "1"})
    assert 400 == answer.status_code
    assert answer.json()["error"]


def test_a_report_of_odd_values_is_kept_within_bounds(emu):
    """Nothing that a program reports breaks the page."""
    entry = {"key": 1, "lane": "events", "verdict": "queued", "record": [[]], "status": "x",
             "headers": [["a"], 7, ["b", 8]], "tries": -1, "path": 9, "reason": "y"}  # fmt: skip
    body = {"program": "p" * 999, "entries": [entry, entry]}
    headers = {"X-Live-Page": "1"}
    assert 200 == httpx.post(f"{emu.url}/live/report", json=body, headers=headers).status_code
    (kept,) = emu.live()
    assert 100 == len(kept["via"])
    shown = httpx.get(f"{emu.url}/live/entry?id={kept['id']}").json()
    assert [["b", "8"]] == shown["request"]["headers"]
