"""Import any number of events: nothing is lost, every rejection is reported, imports resume."""

import logging
import sqlite3
import threading

import anyio
import pytest

from mixpanel import AsyncMixpanel, ConfigurationError, Mixpanel, RetryPolicy
from mixpanel.bulk import CHUNK_SIZE, ImportInterrupted
from mixpanel.emulator import Fault

TIME = 1_600_000_000
QUICK = RetryPolicy(first_wait=0.02, max_wait=0.05)


def past(count, bad=()):
    for n in range(count):
        yield {
            "event": "Past",
            "properties": {
                "distinct_id": "anonymous" if n in bad else f"u{n % 50}",
                "time": TIME + n,
                "$insert_id": f"id-{n}",
                "n": n,
            },
        }


async def later(events):
    for event in events:
        yield event


def numbers(emu, raw=False):
    return sorted(e["properties"]["n"] for e in emu.events(raw=raw))


@pytest.mark.slow
@pytest.mark.anyio
@pytest.mark.parametrize("as_stream", [list, iter, later], ids=["list", "iterator", "async"])
async def test_every_kind_of_stream_is_imported(emu, anyio_backend, as_stream):
    """Lists, generators and async generators."""
    async with AsyncMixpanel("t", base_url=emu.url) as mp:
        result = await mp.import_events(as_stream(past(4500)))
    assert (result.imported, result.rejected, result.position) == (4500, 0, 4500)
    assert result.ok
    assert result.requests == 3
    assert numbers(emu) == list(range(4500))


@pytest.mark.slow
@pytest.mark.anyio
async def test_rejections_are_mapped_to_positions_in_the_stream(emu, anyio_backend):
    """Rejected by the server or before it: each has its position and reason."""
    bad = {3, 2500, 4499}

    def mixed():
        for n, event in enumerate(past(4500, bad)):
            yield {"oops": n} if n == 100 else event
            if n == 2000:
                yield {"event": "No time", "properties": {}}

    seen = []
    async with AsyncMixpanel("t", base_url=emu.url, validation="off") as mp:
        result = await mp.import_events(mixed(), on_rejected=seen.append)
    assert (result.imported, result.rejected) == (4496, 5)
    assert [f.index for f in result.rejected_records] == [3, 100, 2001, 2501, 4500]
    assert result.rejected_records[0].field
    assert result.rejected_records[0].record["properties"]["n"] == 3
    assert "time" in result.rejected_records[2].message
    assert sum(result.reasons.values()) == len(seen) == 5


@pytest.mark.slow
@pytest.mark.anyio
async def test_429_and_413_and_resets_lose_nothing(emu, anyio_backend):
    """Concurrency and batch size adapt; every event is stored once."""
    emu.play(
        Fault.status(429, retry_after=0),
        Fault.status(413),
        Fault.reset("after"),
        Fault.status(503),
        Fault.status(429),
        path="/import",
    )
    async with AsyncMixpanel("t", base_url=emu.url) as mp:
        result = await mp.import_events(past(9000), retry=QUICK)
    assert result.imported == 9000
    assert result.retried == 4
    assert numbers(emu) == list(range(9000))


@pytest.mark.slow
@pytest.mark.anyio
async def test_a_fatal_response_stops_the_import_and_says_where_to_resume(emu, anyio_backend):
    """Nothing before `position` is missing; resuming there completes the import."""
    emu.play(Fault.latency(0.0) * 2, Fault.status(401).forever(), path="/import")
    async with AsyncMixpanel("t", base_url=emu.url) as mp:
        with pytest.raises(ImportInterrupted) as raised:
            await mp.import_events(past(10_000), concurrency=1, retry=QUICK)
        at = raised.value.result.position
        assert raised.value.status == 401
        assert at == raised.value.result.imported == 4000
        emu.clear_faults()
        result = await mp.import_events(past(10_000), start_at=at)
    assert result.imported == 6000
    assert result.position == 10_000


@pytest.mark.slow
@pytest.mark.anyio
async def test_memory_is_bounded_by_what_is_in_flight(emu, anyio_backend):
    """The stream is not read further ahead than the concurrency allows."""
    read, ahead = 0, 0

    def counted():
        nonlocal read
        for event in past(30_000):
            read += 1
            yield event

    def progress(now):
        nonlocal ahead
        ahead = max(ahead, read - now.imported)

    async with AsyncMixpanel("t", base_url=emu.url) as mp:
        await mp.import_events(counted(), concurrency=3, on_progress=progress)
    # Three batches are under way, one waits, one fills; and what was read with its last event.
    assert ahead <= 2000 * 5 + CHUNK_SIZE


@pytest.mark.anyio
async def test_an_event_without_an_id_gets_the_same_one_each_time(emu, anyio_backend):
    """Importing a file twice creates no duplicates."""
    events = [{"event": "E", "properties": {"distinct_id": "u", "time": TIME, "n": 1}}]
    async with AsyncMixpanel("t", base_url=emu.url) as mp:
        await mp.import_events(events)
        await mp.import_events(events)
    assert len(emu.events(raw=True)) == 2
    assert len(emu.events()) == 1


@pytest.mark.anyio
@pytest.mark.parametrize("as_stream", [iter, later], ids=["iterator", "async"])
async def test_an_error_of_the_source_says_where_to_resume(emu, anyio_backend, as_stream):
    """The rows before it are imported, and the source's exception is the cause."""

    def broken():
        yield from past(10)
        raise OSError("disk")

    async with AsyncMixpanel("t", base_url=emu.url) as mp:
        with pytest.raises(ImportInterrupted, match=r"start_at=10: .*OSError: disk") as raised:
            await mp.import_events(as_stream(broken()))
    assert isinstance(raised.value.__cause__, OSError)
    assert (raised.value.result.position, raised.value.result.imported) == (10, 10)
    assert numbers(emu) == list(range(10))


@pytest.mark.anyio
async def test_an_object_that_is_not_iterable_is_an_error_of_the_source(emu, anyio_backend):
    """It is reported like any other error of the source."""
    async with AsyncMixpanel("t", base_url=emu.url) as mp:
        with pytest.raises(ImportInterrupted, match=r"start_at=0: .*not iterable"):
            await mp.import_events(None)


class Unprintable(str):
    """An id whose `__str__` raises."""

    __slots__ = ()

    def __str__(self):
        raise RuntimeError("no")

    __repr__ = __str__


class Unreadable(dict):
    """An event whose methods raise."""

    def get(self, *_):
        raise RuntimeError("no")

    keys = get


@pytest.mark.slow
@pytest.mark.anyio
@pytest.mark.parametrize(
    "odd",
    [
        {"event": "E", "properties": {"time": TIME, "distinct_id": "u", "n": 10**5000}},
        {"event": "E", "properties": {"time": 10**400, "distinct_id": "u"}},
        {"event": "E", "properties": {"time": TIME, "distinct_id": Unprintable("u")}},
        {"event": "E", "properties": {"time": TIME, "$insert_id": Unprintable("i")}},
        Unreadable(event="E"),
        Unprintable("x"),
        None,
    ],
    ids=["huge integer", "huge time", "distinct_id", "insert_id", "mapping", "value", "none"],
)
async def test_an_odd_row_does_not_affect_its_neighbours(emu, anyio_backend, odd):
    """It is rejected or imported by itself; the rows around it are imported."""
    rows = [*past(2), odd, *list(past(4))[2:]]
    async with AsyncMixpanel("t", base_url=emu.url) as mp:
        result = await mp.import_events(rows)
    assert result.imported + result.rejected == result.position == 5
    assert {f.index for f in result.rejected_records} <= {2}
    assert [e["properties"]["n"] for e in emu.events() if e["event"] == "Past"] == [0, 1, 2, 3]


@pytest.mark.slow
@pytest.mark.anyio
async def test_a_callback_that_raises_does_not_stop_the_import(emu, anyio_backend, caplog):
    """It is logged once."""

    def raising(_):
        raise KeyError("oops")

    with caplog.at_level(logging.ERROR, "mixpanel"):
        async with AsyncMixpanel("t", base_url=emu.url) as mp:
            result = await mp.import_events(
                past(4100, bad={3, 7}), on_progress=raising, on_rejected=raising
            )
    assert (result.imported, result.rejected) == (4098, 2)
    assert [r.message for r in caplog.records] == ["on_progress or on_rejected raised an exception"]


@pytest.mark.anyio
async def test_an_async_callback_is_a_configuration_error(emu, anyio_backend):
    """Before anything is read."""

    async def seen(_):
        raise AssertionError

    async with AsyncMixpanel("t", base_url=emu.url) as mp:
        for options in ({"on_progress": seen}, {"on_rejected": seen}, {"on_rejected": "print"}):
            with pytest.raises(ConfigurationError, match="function"):
                await mp.import_events(past(1), **options)


@pytest.mark.slow
def test_a_sync_callers_source_and_callbacks_run_in_its_thread(emu):
    """A cursor of sqlite3 works in no other."""
    base = sqlite3.connect(":memory:")
    base.execute("create table event (n)")
    base.executemany("insert into event values (?)", [(n,) for n in range(2600)])
    threads = set()

    def seen(_):
        threads.add(threading.get_ident())

    with Mixpanel("t", base_url=emu.url) as mp:
        rows = (
            {"event": "E", "properties": {"time": TIME, "distinct_id": f"u{n}", "n": n}}
            for (n,) in base.execute("select n from event")
        )
        result = mp.import_events([{}], on_rejected=seen)
        assert result.rejected == 1
        result = mp.import_events(rows, on_progress=seen)
    base.close()
    assert result.imported == 2600
    assert threads == {threading.get_ident()}


@pytest.mark.parametrize("stop", [KeyboardInterrupt, SystemExit])
def test_a_source_that_stops_the_program_stops_it(emu, stop):
    """Ctrl-C while reading reaches the caller, and the background loop keeps running."""

    def stopping():
        yield from past(10)
        raise stop

    with Mixpanel("t", base_url=emu.url) as mp:
        with pytest.raises(stop):
            mp.import_events(stopping())
        assert mp.import_events(past(3)).imported == 3


def test_the_sync_client_imports_too(emu):
    """The same method, the same result."""
    with Mixpanel("t", base_url=emu.url) as mp:
        assert mp.import_events(past(100)).imported == 100


@pytest.mark.anyio
async def test_invalid_settings_are_configuration_errors(emu, anyio_backend):
    """Before anything is read."""
    async with AsyncMixpanel("t", base_url=emu.url) as mp:
        for options in ({"concurrency": 0}, {"start_at": -1}):
            with pytest.raises(ConfigurationError):
                await mp.import_events(past(1), **options)


@pytest.mark.slow
@pytest.mark.anyio
async def test_cancelling_an_import_ends_it(emu, anyio_backend):
    """Nothing continues in the background."""
    emu.play(Fault.silence().forever(), path="/import")
    async with AsyncMixpanel("t", base_url=emu.url) as mp:
        with anyio.move_on_after(0.3) as scope:
            await mp.import_events(past(5000))
    assert scope.cancelled_caught
