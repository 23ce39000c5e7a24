"""Processes share the calls of a project through a file."""

import json
import logging
import math
import os
import subprocess
import sys
import textwrap
import threading

import anyio
import pytest
import trio
import trio.testing

from mixpanel.data._api import rate_limits
from mixpanel.data._api.quota import Quota
from mixpanel.data._api.rate_limits import ApiRateLimiter
from mixpanel.data._api.rate_windows import Start
from mixpanel.data._api.shared_rate_windows import SharedRateWindows, shared_file
from mixpanel.data.exceptions import RateLimitError

pytestmark = pytest.mark.slow

HOUR = 3600.0


class Clock:
    """The time of day, which only a test changes."""

    def __init__(self):
        self.now = 1_800_000_000.0

    def __call__(self):
        return self.now


@pytest.fixture
def path(tmp_path):
    return tmp_path / "limits" / "42-query.json"


def rate_windows(path, calls=60, concurrent=5):
    return SharedRateWindows(path, (calls, HOUR), concurrent=concurrent)


# ---- several processes -------------------------------------------------------------------------

CALLERS = textwrap.dedent("""
    import json, sys, time
    from pathlib import Path
    import anyio
    from mixpanel.data._api.rate_limits import ApiRateLimiter

    path, seconds, callers = Path(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3])
    limiter = ApiRateLimiter("queries", (60, seconds), concurrent=5, shared_in=path)
    starts, waits = [], []

    async def caller():
        async with limiter.call(on_wait=lambda *args: waits.append(args)) as call:
            starts.append(call._start.at)

    async def body():
        async with anyio.create_task_group() as tasks:
            for _ in range(callers):
                tasks.start_soon(caller)

    anyio.run(body)
    print(json.dumps([starts, len(waits)]))
""")


def test_two_hundred_callers_in_four_processes_stay_within_the_limit(path):
    """No more than 60 start in any stretch of a window, and all of them do start."""
    seconds, arguments = 1.5, [str(path), "1.5", "50"]
    running = [
        subprocess.Popen(
            [sys.executable, "-c", CALLERS, *arguments], stdout=subprocess.PIPE, text=True
        )
        for _ in range(4)
    ]
    answers = [json.loads(process.communicate(timeout=120)[0]) for process in running]
    starts = sorted(at for each, _ in answers for at in each)
    assert len(starts) == 200
    most = max(sum(1 for at in starts if first <= at < first + seconds) for first in starts)
    assert most <= 60


def test_each_of_two_hundred_calls_reports_its_own_wait(path):
    """By its place in the queue: the first 60 do not wait, the last 20 wait for three hours."""
    waits, clock = [], Clock()

    async def body():
        limiter = ApiRateLimiter("queries", (60, HOUR), concurrent=500, clock=clock, shared_in=path)

        async def caller():
            async with limiter.call(on_wait=lambda seconds, _: waits.append(seconds)):
                pass

        with trio.move_on_after(1):
            async with trio.open_nursery() as tasks:
                for _ in range(200):
                    tasks.start_soon(caller)
                await trio.testing.wait_all_tasks_blocked()
                tasks.cancel_scope.cancel()

    trio.run(body)
    assert sorted(waits) == [HOUR] * 60 + [2 * HOUR] * 60 + [3 * HOUR] * 20


def test_processes_see_the_calls_and_pauses_of_each_other(path):
    """Calls of the last hour, running calls, and a pause after a 429."""
    one, other = (rate_windows(path, calls=2, concurrent=2) for _ in range(2))
    first = one.try_start(100.0)
    other.try_start(200.0)
    assert one.next_start(300.0) == math.inf
    one.end(first)
    assert other.next_start(300.0) == 100.0 + HOUR
    assert other.remaining(300.0) == 0
    one.reject(first, 300.0, 1800.0)
    assert other.next_start(3750.0) == math.inf or other.next_start(300.0) >= 2100.0


def test_two_processes_cannot_both_take_the_last_call(path):
    """Checking and counting are one transaction."""
    several = [rate_windows(path, calls=10, concurrent=1000) for _ in range(4)]
    taken, gate = [], threading.Barrier(4)

    def take(mine):
        gate.wait(10)
        for _ in range(10):
            started = mine.try_start(100.0)
            taken.append(isinstance(started, Start))

    threads = [threading.Thread(target=take, args=(mine,)) for mine in several]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sum(taken) == 10
    assert len(taken) == 40


def test_calls_of_a_process_that_died_no_longer_run(path):
    """They stay counted, as the server may have seen them."""
    script = f"""
import os, pathlib
from mixpanel.data._api.shared_rate_windows import SharedRateWindows
one = SharedRateWindows(pathlib.Path({str(path)!r}), (60, 3600.0), concurrent=1)
one.try_start(100.0)
os._exit(0)
"""
    subprocess.run([sys.executable, "-c", script], check=True)
    left = rate_windows(path, concurrent=1)
    assert left.next_start(101.0) == 101.0
    assert left.remaining(101.0) == 59


def test_a_call_whose_end_could_not_be_written_no_longer_runs(path):
    """The disk may be full, or another process may hold the lock, when it ends."""
    mine = rate_windows(path, concurrent=1)
    start = mine.try_start(100.0)
    mine._unshared_until = math.inf
    mine.end(start)
    mine._unshared_until = -math.inf
    assert mine.next_start(101.0) == 101.0
    assert rate_windows(path, concurrent=1).next_start(101.0) == 101.0
    assert mine.remaining(101.0) == 59


def test_a_forked_child_shares_the_limits(path):
    """Its calls are counted, and the running calls of its parent are not taken for its own."""
    script = f"""
import os, pathlib
from mixpanel.data._api.rate_limits import HOUR, ApiRateLimiter
import anyio

path = pathlib.Path({str(path)!r})
limiter = ApiRateLimiter("queries", (60, HOUR), concurrent=2, shared_in=path)

async def one():
    async with limiter.call():
        pass

async def held():
    async with limiter.call():
        child = os.fork()
        if not child:
            limiter._after_fork()
            assert limiter._windows._depth == 0
            assert limiter.remaining() == 59
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0

anyio.run(held)
child = os.fork()
if not child:
    limiter._after_fork()
    anyio.run(one)
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
assert limiter.remaining() == 58
"""
    command = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", script]
    subprocess.run(command, check=True, timeout=120)


# ---- what counts --------------------------------------------------------------------------------


def test_a_rejected_query_does_not_count(path):
    """Mixpanel does not count a 429 either; the pause after it is kept."""
    clock = Clock()

    async def body():
        limiter = ApiRateLimiter(
            "queries",
            (60, HOUR),
            concurrent=5,
            clock=clock,
            rejections_are_free=True,
            shared_in=path,
        )
        async with limiter.call() as call:
            call.rejected(30.0)
        assert limiter._windows.used(clock.now, HOUR) == 0
        with pytest.raises(RateLimitError, match="too many queries"):
            await limiter.call(max_wait=0).__aenter__()

    anyio.run(body)


def test_pages_of_profiles_do_not_wait_for_the_hourly_limit(path):
    """They are not counted, so they overtake the calls that wait for it."""
    clock = Clock()

    async def body():
        limiter = ApiRateLimiter("queries", (1, HOUR), concurrent=5, clock=clock, shared_in=path)
        async with limiter.call():
            pass
        async with anyio.create_task_group() as tasks:

            async def waiting():
                async with limiter.call():
                    raise AssertionError

            tasks.start_soon(waiting)
            await anyio.wait_all_tasks_blocked()
            async with limiter.call(counted=False, max_wait=0) as call:
                call.accepted()
            tasks.cancel_scope.cancel()
        assert limiter._windows.used(clock.now, HOUR) == 1

    anyio.run(body)


def test_the_error_of_a_call_that_may_not_wait_has_the_time_and_the_limit(path):
    """As data: that it was not sent, when the next may start, and the limit."""
    clock = Clock()

    async def body():
        limiter = ApiRateLimiter("queries", (1, HOUR), concurrent=5, clock=clock, shared_in=path)
        async with limiter.call():
            pass
        clock.now += 600
        with pytest.raises(RateLimitError, match="the next call may start in 50 min") as error:
            await limiter.call(max_wait=0).__aenter__()
        return error.value

    error = anyio.run(body)
    assert error.sent is False
    assert error.retry_after == 3000
    assert error.next_slot_at.tzinfo is not None
    assert (error.limit, error.used, error.window_seconds) == (1, 1, 3600)
    details = {"sent": False, "limit": 1, "used": 1, "window_seconds": 3600}
    assert details.items() <= error.to_dict()["details"].items()


def test_a_429_for_concurrency_pauses_for_a_second_only(path):
    """When the server names that limit in its headers."""
    mine = rate_windows(path)
    start = mine.try_start(100.0)
    mine.reject_for_concurrency(100.0, None)
    mine.end(start)
    assert mine.next_start(100.0) == 101.0
    mine.reject_for_concurrency(101.0, None)
    assert mine.next_start(101.0) == 103.0
    assert mine.next_start(101.0, counted=False) == 103.0
    assert mine.remaining(101.0) == 59


# ---- limits of the server ----------------------------------------------------------------------


def test_a_limit_named_by_the_server_is_shared_for_a_week(path):
    """From the headers of a response; later the default limit applies again."""
    one, other = rate_windows(path), rate_windows(path)
    one.update_limits(1000.0, [Quota("project", 400, 3600), Quota("c", 20, concurrent=True)])
    assert other.remaining(2000.0) == 400
    assert other._concurrent == 20
    week = 7 * 24 * HOUR
    assert other.remaining(1000.0 + week - 1) == 400
    assert other.remaining(1000.0 + week + 1) == 60
    assert other._concurrent == 5


def test_the_environment_may_set_the_hourly_limit(monkeypatch):
    """For a project whose limit was raised, before a response has named it."""
    monkeypatch.setenv("MP_QUERY_LIMIT", "400")
    assert ApiRateLimiter.query().remaining() == 400
    for nonsense in ("", "0", "-1", "many", "1e3"):
        monkeypatch.setenv("MP_QUERY_LIMIT", nonsense)
        assert ApiRateLimiter.query().remaining() == 60


# ---- the file -----------------------------------------------------------------------------------


def test_the_file_and_its_folders_are_private(path):
    """Only their owner may read them, as their names contain the project."""
    os.umask(os.umask(0))
    rate_windows(path).try_start(1.0)
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize(
    "content",
    [
        b"", b"{", b"[]", b"\xff", b'{"version": 99}',
        b'{"version": 1, "starts": 5}',
        b'{"version": 1, "starts": [["k", "x"]]}',
        b'{"version": 1, "running": {"k": [1]}}',
        b'{"version": 1, "learnt": {"at": 100}}',
        b'{"version": 1, "refusals": []}',
    ],
)  # fmt: skip
def test_a_damaged_file_is_replaced(path, content):
    """A query never fails because of it."""
    path.parent.mkdir()
    path.write_bytes(content)
    assert rate_windows(path).remaining(101.0) == 60
    mine = rate_windows(path)
    mine.end(mine.try_start(101.0))
    assert rate_windows(path).remaining(102.0) == 59


def test_a_clock_that_was_set_back_delays_calls_by_an_hour_at_most(path):
    """Times in the future count as now."""
    mine = rate_windows(path, calls=1)
    mine.end(mine.try_start(1_000_000.0))
    mine.pause(1_000_000.0, 3000)
    assert mine.next_start(1000.0) <= 1000.0 + HOUR


def test_without_a_usable_file_each_process_counts_for_itself(path, caplog):
    """With one warning; here the folder is a file."""
    path.parent.write_text("in the way")
    mine = rate_windows(path, calls=1)
    with caplog.at_level(logging.WARNING, "mixpanel"):
        start = mine.try_start(100.0)
        mine.end(start)
        assert mine.try_start(101.0) == 100.0 + HOUR
    assert caplog.text.count("counts only its own calls to Mixpanel") == 1


def test_a_file_that_others_may_write_to_is_not_used(path, caplog):
    """Another user could otherwise block all calls for an hour."""
    mine = rate_windows(path)
    mine.end(mine.try_start(100.0))
    path.chmod(0o666)
    other = rate_windows(path)
    with caplog.at_level(logging.WARNING, "mixpanel"):
        assert other.remaining(101.0) == 60
    assert "other users may write to it" in caplog.text


@pytest.mark.parametrize(
    ("origin", "named", "expected"),
    [
        ("https://mixpanel.com", "DIR", "mixpanel.com/42-query.json"),
        ("http://127.0.0.1:80", "DIR", "127.0.0.1_80/42-query.json"),
        ("http://127.0.0.1:80", None, None),
        ("http://localhost:80", "", None),
        ("https://mixpanel.com", "off", None),
        ("https://mixpanel.com", "OFF", None),
    ],
)
def test_the_environment_names_the_folder(monkeypatch, tmp_path, origin, named, expected):
    """One file for each host and project; none for a server on this machine by default."""
    monkeypatch.delenv("MP_LIMITS_DIR")
    if named is not None:
        monkeypatch.setenv("MP_LIMITS_DIR", named.replace("DIR", str(tmp_path)))
    wanted = None if expected is None else tmp_path / expected
    assert shared_file(origin, "42", "query") == wanted


def test_the_default_folder_is_in_the_home_directory(monkeypatch, tmp_path):
    """Next to the accounts and the data."""
    monkeypatch.delenv("MP_LIMITS_DIR")
    monkeypatch.setenv("HOME", str(tmp_path))
    expected = tmp_path / ".mp/limits/mixpanel.com/42-export.json"
    assert shared_file("https://mixpanel.com", "42", "export") == expected


def test_calls_of_the_app_api_are_not_shared(monkeypatch, tmp_path):
    """Mixpanel publishes no limit for them."""
    monkeypatch.setenv("MP_LIMITS_DIR", str(tmp_path))
    kinds = {
        family: rate_limits.shared(family, "https://mixpanel.com", "42")._windows.is_shared
        for family in ("query", "export", "app")
    }
    assert kinds == {"query": True, "export": True, "app": False}
