"""Import any number of events: nothing lost, everything said, and a way to resume."""

import anyio
import pytest

from mixpanel import AsyncMixpanel, ConfigurationError, Mixpanel, RetryPolicy
from mixpanel.bulk import ImportInterrupted
from mixpanel.emulator import Fault

TIME = 1_600_000_000
QUICK = RetryPolicy(first_wait=0.02, longest_wait=0.05)


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


@pytest.mark.anyio
@pytest.mark.parametrize("as_stream", [list, iter, later], ids=["list", "iterator", "async"])
async def test_every_kind_of_stream_is_imported(emu, anyio_backend, as_stream):
    """Lists, generators and async generators."""
    async with AsyncMixpanel("t", base_url=emu.url) as mp:
        result = await mp.import_events(as_stream(past(4500)))
    assert (result.imported, result.failed, result.position) == (4500, 0, 4500)
    assert result.ok
    assert result.requests == 3
    assert numbers(emu) == list(range(4500))


@pytest.mark.anyio
async def test_failures_are_mapped_to_positions_in_the_stream(emu, anyio_backend):
    """Refused by the server or unusable before it: each has its position and reason."""
    bad = {3, 2500, 4499}

    def mixed():
        for n, event in enumerate(past(4500, bad)):
            yield {"oops": n} if n == 100 else event
            if n == 2000:
                yield {"event": "No time", "properties": {}}

    told = []
    async with AsyncMixpanel("t", base_url=emu.url, validation="off") as mp:
        result = await mp.import_events(mixed(), on_failed=told.append)
    assert (result.imported, result.failed) == (4496, 5)
    assert [f.index for f in result.failed_records] == [3, 100, 2001, 2501, 4500]
    assert result.failed_records[0].field
    assert result.failed_records[0].record["properties"]["n"] == 3
    assert "time" in result.failed_records[2].message
    assert sum(result.reasons.values()) == len(told) == 5


@pytest.mark.anyio
async def test_429_and_413_and_resets_lose_nothing(emu, anyio_backend):
    """The width and the batch adapt; every event is there once."""
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


@pytest.mark.anyio
async def test_a_fatal_answer_stops_and_says_where_to_resume(emu, anyio_backend):
    """Nothing before `position` is missing; resuming there makes it whole."""
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


@pytest.mark.anyio
async def test_memory_is_bounded_by_what_is_in_flight(emu, anyio_backend):
    """The stream is not read further ahead than the width allows."""
    read, ahead = 0, 0

    def counted():
        nonlocal read
        for event in past(30_000):
            read += 1
            yield event

    def progress(now):
        nonlocal ahead
        ahead = max(ahead, read - now.position)

    async with AsyncMixpanel("t", base_url=emu.url) as mp:
        await mp.import_events(counted(), concurrency=3, on_progress=progress)
    assert ahead <= 2000 * 5


@pytest.mark.anyio
async def test_an_event_without_an_id_gets_the_same_one_each_time(emu, anyio_backend):
    """Importing a file twice makes no copies."""
    events = [{"event": "E", "properties": {"distinct_id": "u", "time": TIME, "n": 1}}]
    async with AsyncMixpanel("t", base_url=emu.url) as mp:
        await mp.import_events(events)
        await mp.import_events(events)
    assert len(emu.events(raw=True)) == 2
    assert len(emu.events()) == 1


@pytest.mark.anyio
async def test_an_error_of_the_source_is_the_callers_own(emu, anyio_backend):
    """Not wrapped in a group."""

    def broken():
        yield from past(10)
        raise OSError("disk")

    async with AsyncMixpanel("t", base_url=emu.url) as mp:
        with pytest.raises(OSError, match="disk"):
            await mp.import_events(broken())


def test_the_sync_face_imports_too(emu):
    """Same method, same result."""
    with Mixpanel("t", base_url=emu.url) as mp:
        assert mp.import_events(past(100)).imported == 100


@pytest.mark.anyio
async def test_settings_that_make_no_sense_are_refused(emu, anyio_backend):
    """Before anything is read."""
    async with AsyncMixpanel("t", base_url=emu.url) as mp:
        for options in ({"concurrency": 0}, {"start_at": -1}):
            with pytest.raises(ConfigurationError):
                await mp.import_events(past(1), **options)


@pytest.mark.anyio
async def test_cancelling_an_import_ends_it(emu, anyio_backend):
    """Nothing goes on behind the caller's back."""
    emu.play(Fault.silence().forever(), path="/import")
    async with AsyncMixpanel("t", base_url=emu.url) as mp:
        with anyio.move_on_after(0.3) as scope:
            await mp.import_events(past(5000))
    assert scope.cancelled_caught
