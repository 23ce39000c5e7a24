"""Starting, stopping and reading the emulator."""

import gc
import gzip
import json
import os
import socket
import subprocess
import sys
import threading
import time
from signal import SIGINT, SIGTERM

import anyio
import duckdb
import httpx
import pytest

from mixpanel.emulator import Emulator, serve
from mixpanel.emulator._storage.database import _memory

NOW = 1_764_000_000


@pytest.fixture
def emu():
    """An emulator whose clock stands still."""
    with Emulator(now=lambda: NOW) as emulator:
        yield emulator


@pytest.fixture
def http(emu):
    """A client that sends to the emulator."""
    with httpx.Client(base_url=emu.url) as client:
        yield client


def event(name="Order Paid", *, insert_id="a-1", **properties):
    body = {"token": "T", "time": NOW, "distinct_id": "u1", "$insert_id": insert_id}
    return {"event": name, "properties": {**body, **properties}}


# Running


def test_the_address_is_served_only_between_start_and_stop():
    """A stopped emulator leaves no port and no thread open."""
    threads = set(threading.enumerate())
    emulator = Emulator()
    emulator.start()
    address = ("127.0.0.1", emulator.port)
    with socket.create_connection(address):
        pass
    emulator.stop()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(address)
    assert set() == set(threading.enumerate()) - threads


def test_data_can_be_read_after_the_block():
    """The server is closed, its memory is not."""
    with Emulator(now=lambda: NOW) as emulator:
        httpx.post(f"{emulator.url}/track", json=[event()])
    assert ["Order Paid"] == [each["event"] for each in emulator.events()]


def test_a_restarted_emulator_has_the_same_address():
    """Stop and start again: same url, same data."""
    emulator = Emulator(now=lambda: NOW)
    with emulator:
        before = emulator.url
        httpx.post(f"{before}/track", json=[event(insert_id="a")])
    with emulator:
        httpx.post(f"{before}/track", json=[event(insert_id="b")])
        assert (before, 2) == (emulator.url, len(emulator.events()))


def test_a_second_start_is_an_error(emu):
    """Without a stop in between."""
    with pytest.raises(RuntimeError, match="already"):
        emu.start()


def test_a_port_in_use_is_an_error_at_start(emu):
    """Rather than requests to another server."""
    with pytest.raises(OSError, match="in use"):
        Emulator(port=emu.port).start()


@pytest.mark.parametrize("host", ["0.0.0.0", "192.168.1.1", "example.org", ""])
def test_only_loopback_addresses_are_served(host):
    """An address that other machines can reach is rejected."""
    with pytest.raises(ValueError, match="loopback"):
        Emulator(host=host)


def kept_in_memory():
    gc.collect()
    return _memory().execute("show databases").fetchall()


def test_emulators_in_memory_are_separate():
    """They share one DuckDB, and leave nothing in it when they are garbage-collected."""
    before = kept_in_memory()
    with Emulator(now=lambda: NOW) as one, Emulator(now=lambda: NOW) as other:
        httpx.post(f"{one.url}/track", json=[event()])
        httpx.post(f"{other.url}/track", json=[event(), event(insert_id="a-2")])
        assert (1, 2) == (len(one.events()), len(other.events()))
        one.clear()
        assert (0, 2) == (len(one.events()), len(other.events()))
        assert len(before) + 2 == len(kept_in_memory())
    del one, other
    assert before == kept_in_memory()


PARENT = """
import gc, os, sys
from mixpanel.emulator import Emulator
with Emulator() as emulator:
    emulator.events()
del emulator
gc.collect()
child = os.fork()
if not child:
    with Emulator() as emulator:
        sys.exit(len(emulator.events()))
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
@pytest.mark.skipif(
    duckdb.__version__ < "2", reason="before 2.0 DuckDB by itself aborts in such a child"
)
def test_a_forked_child_of_a_process_with_an_emulator_exits_cleanly():
    """And it may have an emulator of its own."""
    body = subprocess.run(
        [sys.executable, "-c", PARENT], check=True, capture_output=True, text=True, timeout=120
    )
    assert "0\n" == body.stdout


def test_a_database_that_was_written_while_it_was_opened_is_opened_again(tmp_path, monkeypatch):
    """DuckDB 2.0 may have read its header before that, and would lose what was written."""
    path, connect, opened = tmp_path / "kept.duckdb", duckdb.connect, []
    Emulator(db=path).events()

    def slow(*args, **kwargs):
        if len(opened) < written:
            os.utime(path, ns=(1, len(opened) + 1))
        opened.append(connect(*args, **kwargs))
        return opened[-1]

    monkeypatch.setattr(duckdb, "connect", slow)
    written = 1
    assert ([], 2) == (Emulator(db=path).events(), len(opened))
    written = 100  # by another emulator of this process
    assert ([], 7) == (Emulator(db=path).events(), len(opened))


@pytest.mark.slow
def test_a_file_keeps_the_data(tmp_path):
    """The next emulator finds the data of the last one, including aliases."""
    db = tmp_path / "shop.duckdb"
    alias = {"event": "$create_alias", "properties": {"distinct_id": "u1", "alias": "a1"}}
    alias["properties"]["token"] = "T"
    update = {"$token": "T", "$distinct_id": "a1", "$set": {"plan": "team"}}
    with Emulator(db=db, now=lambda: NOW) as first:
        httpx.post(f"{first.url}/track", json=[event(), alias])
    with Emulator(db=db, now=lambda: NOW) as second:
        httpx.post(f"{second.url}/track", json=[event(insert_id="a-2")])
        httpx.post(f"{second.url}/engage", json=[update])
        assert 3 == len(second.events())
        assert {"u1": {"plan": "team"}} == second.profiles()


def test_a_file_that_is_not_a_database_is_an_error_at_start(tmp_path):
    """Rather than at the first request."""
    db = tmp_path / "notes.txt"
    db.write_text("hello")
    with pytest.raises(OSError, match="not a valid DuckDB"):
        Emulator(db=db).start()


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_the_emulator_is_an_async_context_manager(backend):
    """On asyncio and on trio."""

    async def body():
        async with Emulator(now=lambda: NOW) as emulator:
            async with httpx.AsyncClient(base_url=emulator.url) as http:
                await http.post("/track", json=[event()])
            return await anyio.to_thread.run_sync(emulator.wait_for, 1)

    assert [event()] == anyio.run(body, backend=backend)


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_the_emulator_stops_when_its_block_is_cancelled(backend):
    """A cancelled scope leaves no server running."""

    async def body():
        with anyio.move_on_after(0.05):
            async with Emulator() as emulator:
                port = emulator.port
                await anyio.sleep_forever()
        return port

    port = anyio.run(body, backend=backend)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port))


def test_stop_does_not_wait_for_clients(emu):
    """Open keep-alive connections and half-sent requests are aborted."""
    address = ("127.0.0.1", emu.port)
    with socket.create_connection(address), socket.create_connection(address) as half:
        half.sendall(b"POST /track HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n[")
        began = time.monotonic()
        emu.stop()
        assert time.monotonic() - began < 5


@pytest.mark.slow
@pytest.mark.parametrize("signal", [SIGINT, SIGTERM])
@pytest.mark.skipif(sys.platform == "win32", reason="signals are sent differently there")
def test_serve_ends_cleanly_on_a_signal(signal, tmp_path):
    """Ctrl-C and SIGTERM stop the server and keep its data."""
    script = (
        "from mixpanel.emulator import serve;"
        "serve(0, 'kept.duckdb', now=lambda: 1_764_000_000,"
        " started=lambda emu: print(emu.url, flush=True))"
    )
    command = [sys.executable, "-W", "error", "-c", script]
    with subprocess.Popen(
        command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        url = process.stdout.readline().strip()
        httpx.post(f"{url}/track", json=[event()])
        process.send_signal(signal)
        _, complaints = process.communicate(timeout=120)
    assert (0, "") == (process.returncode, complaints)
    assert [event()] == Emulator(db=tmp_path / "kept.duckdb").events()


def test_serve_works_outside_the_main_thread():
    """Only the main thread can handle signals."""
    heard: list[Emulator] = []
    ready = threading.Event()

    def started(emulator):
        heard.append(emulator)
        ready.set()
        raise KeyboardInterrupt

    thread = threading.Thread(target=lambda: serve(started=started))
    thread.start()
    assert ready.wait(5)
    thread.join(5)
    assert not thread.is_alive()
    assert heard[0].port


# Reading


def test_the_latest_of_equal_keys_wins_in_the_place_of_the_first(emu, http):
    """Four equal fields are one event; `raw` still returns every copy."""
    http.post("/track", json=[event(plan="free"), event(insert_id="a-2")])
    http.post("/track", json=[event(plan="team")])
    assert [event(plan="team"), event(insert_id="a-2")] == emu.events()
    assert 3 == len(emu.events(raw=True))


@pytest.mark.slow
@pytest.mark.parametrize(
    "other",
    [
        event("Other"),
        event(time=NOW - 1),
        event(distinct_id="u2"),
        event(insert_id="a-2"),
    ],
)
def test_every_part_of_the_key_counts(emu, http, other):
    """A difference in one field makes two events."""
    http.post("/track", json=[event(), other])
    assert 2 == len(emu.events())


def test_seconds_and_milliseconds_are_the_same_time(emu, http):
    """Times are compared, not their notation."""
    http.post("/track", json=[event(time=NOW), event(time=NOW * 1000)])
    assert 1 == len(emu.events())


def test_events_can_be_filtered(emu, http):
    """By name, by distinct_id, by both."""
    http.post("/track", json=[event("A"), event("B"), event("B", distinct_id="u2")])
    assert (1, 2, 2, 1) == (
        len(emu.events("A")),
        len(emu.events("B")),
        len(emu.events(distinct_id="u1")),
        len(emu.events("B", distinct_id="u2")),
    )


def test_unusual_text_is_stored_unchanged(emu, http):
    """Line separators, NUL, quotes and numbers beyond 64 bits."""
    odd = {"text": "a\u2028b\x85\"'\\", "nul": "\x00", "big": 2**80, "emoji": "🐙"}
    http.post("/track", json=[event("näme\x00'\"", **odd)])
    assert [event("näme\x00'\"", **odd)] == emu.events()


@pytest.mark.slow
def test_reads_include_pending_events(emu, http):
    """However many are waiting to be written."""
    for batch in range(4):
        names = [f"{batch}-{number}" for number in range(2000)]
        http.post("/track", json=[event(insert_id=name) for name in names])
    stored = [each["properties"]["$insert_id"] for each in emu.events()]
    assert [f"{batch}-{number}" for batch in range(4) for number in range(2000)] == stored


def test_requests_are_recorded_as_received(emu, http):
    """Method, path, query, headers, the bytes, the records in them, the response."""
    body = gzip.compress(json.dumps([event()]).encode())
    http.post("/track?ip=0", content=body, headers={"Content-Encoding": "gzip", "X-Odd": "1"})
    http.get("/nowhere")
    (request,) = emu.requests("/track")
    assert ("POST", "/track", {"ip": "0"}) == (request.method, request.path, request.query)
    assert (body, [event()], 200) == (request.body, request.records, request.status)
    assert ("1", NOW) == (request.headers["x-odd"], request.received_at)
    assert [200, 404] == [each.status for each in emu.requests()]


def test_wait_for_returns_when_enough_events_arrived(emu):
    """Whichever thread sends them."""
    body = [event(insert_id="a"), event(insert_id="b")]
    sender = threading.Timer(0.05, lambda: httpx.post(f"{emu.url}/track", json=body))
    sender.start()
    assert body == emu.wait_for(2)
    sender.join()


def test_wait_for_reports_how_many_events_arrived(emu, http):
    """In its TimeoutError."""
    http.post("/track", json=[event()])
    with pytest.raises(TimeoutError, match="1 of 2"):
        emu.wait_for(2, timeout=0.02)


def test_clear_removes_everything(emu, http):
    """After clear it is as new."""
    http.post("/track", json=[event()])
    http.post("/engage", json=[{"$token": "T", "$distinct_id": "u1", "$set": {"a": 1}}])
    emu.create_lookup_table("t", "T")
    emu.clear()
    left = (emu.events(raw=True), emu.profiles(), emu.groups(), emu.lookup_tables, emu.requests())
    assert ([], {}, {}, {}, []) == left


# Other paths


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/api/2.0/export"),
        ("POST", "/api/query/engage"),
        ("GET", "/api/2.0/engage"),
        ("GET", "/api/query/events/names"),
        ("GET", "/api/app/me"),
        ("GET", "/api/app/projects/42/bookmarks"),
        ("POST", "/track"),
        ("GET", "/lookup-tables"),
        ("GET", "/flags/definitions"),
        ("POST", "/customerio/v1/track"),
    ],
)
def test_a_slash_at_the_end_is_answered_as_without(method, path):
    """No redirect, which not every client follows."""
    with Emulator() as emulator, httpx.Client(base_url=emulator.url, auth=("a", "b")) as http:
        found = [
            http.request(method, each, params={"project_id": "42"}).status_code
            for each in (path, f"{path}/")
        ]
        recorded = emulator.requests(path)
    assert found[0] in (200, 400)
    assert found[0] == found[1]
    assert 2 == len(recorded)


def test_each_request_is_reported_after_its_response():
    """With its status, also when a fault breaks it."""
    seen = []
    with Emulator(on_request=lambda each: seen.append((each.path, each.status))) as emulator:
        httpx.post(f"{emulator.url}/track", json=[])
        emulator.play("503 1 time", "reset before 1 time")
        httpx.post(f"{emulator.url}/import", json=[])
        with pytest.raises(httpx.TransportError):
            httpx.post(f"{emulator.url}/engage", json=[])
    assert [("/track", 200), ("/import", 503), ("/engage", None)] == seen
