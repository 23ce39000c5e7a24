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


def allowance(path, calls=60, concurrent=5):
    return SharedRateWindows(path, (calls, HOUR), concurrent=concurrent)


# ---- several at once ----------------------------------------------------------------------------

CALLERS = textwrap.dedent("""
    import json, sys, time
    from pathlib import Path
    import anyio
    from mixpanel.data._api.rate_limits import ApiRateLimiter

    path, seconds, callers = Path(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3])
    budget = ApiRateLimiter("queries", (60, seconds), concurrent=5, shared_in=path)
    starts, waits = [], []

    async def caller():
        async with budget.call(on_wait=lambda *told: waits.append(told)) as call:
            starts.append(call._start.at)

    async def body():
        async with anyio.create_task_group() as tasks:
            for _ in range(callers):
                tasks.start_soon(caller)

    anyio.run(body)
    print(json.dumps([starts, len(waits)]))
""")


def test_two_hundred_callers_in_four_processes_stay_within_the_limit(path):
    """Never more than 60 in a window, wherever it begins; and all of them are served."""
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


def test_each_of_two_hundred_callers_is_given_the_length_of_its_wait(path):
    """By its place in line: the first 60 wait for nothing, the last 20 for three hours."""
    waits, clock = [], Clock()

    async def body():
        budget = ApiRateLimiter("queries", (60, HOUR), concurrent=500, clock=clock, shared_in=path)

        async def caller():
            async with budget.call(on_wait=lambda seconds, _: waits.append(seconds)):
                pass

        with trio.move_on_after(1):
            async with trio.open_nursery() as tasks:
                for _ in range(200):
                    tasks.start_soon(caller)
                await trio.testing.wait_all_tasks_blocked()
                tasks.cancel_scope.cancel()

    trio.run(body)
    assert sorted(waits) == [HOUR] * 60 + [2 * HOUR] * 60 + [3 * HOUR] * 20


def test_what_one_process_starts_another_sees(path):
    """Calls of the hour, calls under way, and a pause after a refusal."""
    one, other = allowance(path, calls=2, concurrent=2), allowance(path, calls=2, concurrent=2)
    first = one.try_start(100.0)
    other.try_start(200.0)
    assert one.opens(300.0) == math.inf
    one.end(first)
    assert other.opens(300.0) == 100.0 + HOUR
    assert other.remaining(300.0) == 0
    one.refuse(first, 300.0, 1800.0)
    assert other.opens(3750.0) == math.inf or other.opens(300.0) >= 2100.0


def test_two_processes_cannot_take_the_last_call_both(path):
    """Looking and taking are one step."""
    several = [allowance(path, calls=10, concurrent=1000) for _ in range(4)]
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


def test_the_calls_of_a_process_that_died_are_not_under_way(path):
    """They stay counted, as the server may have seen them."""
    script = f"""
import os, pathlib
from mixpanel.data._api.shared_rate_windows import SharedRateWindows
one = SharedRateWindows(pathlib.Path({str(path)!r}), (60, 3600.0), concurrent=1)
one.try_start(100.0)
os._exit(0)
"""
    subprocess.run([sys.executable, "-c", script], check=True)
    left = allowance(path, concurrent=1)
    assert left.opens(101.0) == 101.0
    assert left.remaining(101.0) == 59


def test_a_call_that_ended_without_the_file_is_not_under_way_for_ever(path):
    """As when the disk was full, or another process held the lock, at its end."""
    mine = allowance(path, concurrent=1)
    start = mine.try_start(100.0)
    mine._alone_until = math.inf
    mine.end(start)
    mine._alone_until = -math.inf
    assert mine.opens(101.0) == 101.0
    assert allowance(path, concurrent=1).opens(101.0) == 101.0
    assert mine.remaining(101.0) == 59


def test_a_forked_child_shares_the_budget(path):
    """What it starts is counted, and what its parent has under way is not taken for its own."""
    script = f"""
import os, pathlib
from mixpanel.data._api.rate_limits import HOUR, ApiRateLimiter
import anyio

path = pathlib.Path({str(path)!r})
budget = ApiRateLimiter("queries", (60, HOUR), concurrent=2, shared_in=path)

async def one():
    async with budget.call():
        pass

async def held():
    async with budget.call():
        child = os.fork()
        if not child:
            budget._after_fork()
            assert budget._windows_state._depth == 0
            assert budget.remaining() == 59
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0

anyio.run(held)
child = os.fork()
if not child:
    budget._after_fork()
    anyio.run(one)
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
assert budget.remaining() == 58
"""
    command = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", script]
    subprocess.run(command, check=True, timeout=120)


# ---- what counts --------------------------------------------------------------------------------


def test_a_refused_query_is_free(path):
    """Mixpanel counts no 429; the pause after it is kept."""
    clock = Clock()

    async def body():
        budget = ApiRateLimiter(
            "queries", (60, HOUR), concurrent=5, clock=clock, free_refusals=True, shared_in=path
        )
        async with budget.call() as call:
            call.rejected(30.0)
        assert budget._windows_state.used(clock.now, HOUR) == 0
        with pytest.raises(RateLimitError, match="too many queries"):
            await budget.call(max_wait=0).__aenter__()

    anyio.run(body)


def test_pages_of_profiles_pass_a_spent_budget(path):
    """They are not counted, so they neither wait for the hour nor behind those who do."""
    clock = Clock()

    async def body():
        budget = ApiRateLimiter("queries", (1, HOUR), concurrent=5, clock=clock, shared_in=path)
        async with budget.call():
            pass
        async with anyio.create_task_group() as tasks:

            async def waiting():
                async with budget.call():
                    raise AssertionError

            tasks.start_soon(waiting)
            await anyio.wait_all_tasks_blocked()
            async with budget.call(counted=False, max_wait=0) as call:
                call.accepted()
            tasks.cancel_scope.cancel()
        assert budget._windows_state.used(clock.now, HOUR) == 1

    anyio.run(body)


def test_a_call_held_back_says_when_the_next_may_start(path):
    """As data: not sent, at which time, of how many."""
    clock = Clock()

    async def body():
        budget = ApiRateLimiter("queries", (1, HOUR), concurrent=5, clock=clock, shared_in=path)
        async with budget.call():
            pass
        clock.now += 600
        with pytest.raises(RateLimitError, match="opens again in 50 min") as error:
            await budget.call(max_wait=0).__aenter__()
        return error.value

    error = anyio.run(body)
    assert error.sent is False
    assert error.retry_after == 3000
    assert error.next_slot_at.tzinfo is not None
    assert (error.limit, error.used, error.window_seconds) == (1, 1, 3600)
    details = {"sent": False, "limit": 1, "used": 1, "window_seconds": 3600}
    assert details.items() <= error.to_dict()["details"].items()


def test_too_many_at_once_is_no_spent_hour(path):
    """Where the server names that limit, a second's wait does."""
    mine = allowance(path)
    start = mine.try_start(100.0)
    mine.crowd(100.0, None)
    mine.end(start)
    assert mine.opens(100.0) == 101.0
    mine.crowd(101.0, None)
    assert mine.opens(101.0) == 103.0
    assert mine.opens(101.0, counted=False) == 103.0
    assert mine.remaining(101.0) == 59


# ---- what is learnt -----------------------------------------------------------------------------


def test_a_raised_limit_is_learnt_by_all_for_a_week(path):
    """From the headers of an answer; later the usual limit counts again."""
    one, other = allowance(path), allowance(path)
    one.learn(1000.0, [Quota("project", 400, 3600), Quota("c", 20, concurrent=True)])
    assert other.remaining(2000.0) == 400
    assert other._concurrent == 20
    week = 7 * 24 * HOUR
    assert other.remaining(1000.0 + week - 1) == 400
    assert other.remaining(1000.0 + week + 1) == 60
    assert other._concurrent == 5


def test_the_limit_may_be_set_by_the_environment(monkeypatch):
    """For a project whose limit was raised, before the server has ever refused."""
    monkeypatch.setenv("MP_QUERY_LIMIT", "400")
    assert ApiRateLimiter.query().remaining() == 400
    for nonsense in ("", "0", "-1", "many", "1e3"):
        monkeypatch.setenv("MP_QUERY_LIMIT", nonsense)
        assert ApiRateLimiter.query().remaining() == 60


# ---- the file -----------------------------------------------------------------------------------


def test_the_file_is_for_its_owner_alone(path):
    """As are its folders: it names projects."""
    os.umask(os.umask(0))
    allowance(path).try_start(1.0)
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
def test_a_damaged_file_is_begun_anew(path, content):
    """A query never fails for it."""
    path.parent.mkdir()
    path.write_bytes(content)
    assert allowance(path).remaining(101.0) == 60
    mine = allowance(path)
    mine.end(mine.try_start(101.0))
    assert allowance(path).remaining(102.0) == 59


def test_a_clock_that_was_put_back_delays_nobody_for_long(path):
    """What lies in the future counts as now."""
    mine = allowance(path, calls=1)
    mine.end(mine.try_start(1_000_000.0))
    mine.hold(1_000_000.0, 3000)
    assert mine.opens(1000.0) <= 1000.0 + HOUR


def test_without_a_usable_file_each_process_counts_for_itself(path, caplog):
    """With one warning; here the folder is a file."""
    path.parent.write_text("in the way")
    mine = allowance(path, calls=1)
    with caplog.at_level(logging.WARNING, "mixpanel"):
        start = mine.try_start(100.0)
        mine.end(start)
        assert mine.try_start(101.0) == 100.0 + HOUR
    assert caplog.text.count("counts its calls to Mixpanel for itself") == 1


def test_a_file_that_others_may_write_to_is_not_used(path, caplog):
    """They could keep a process from Mixpanel for an hour."""
    mine = allowance(path)
    mine.end(mine.try_start(100.0))
    path.chmod(0o666)
    other = allowance(path)
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
def test_the_file_lies_where_the_environment_says(monkeypatch, tmp_path, origin, named, expected):
    """One for each host and project; a server on this machine is not remembered by default."""
    monkeypatch.delenv("MP_LIMITS_DIR")
    if named is not None:
        monkeypatch.setenv("MP_LIMITS_DIR", named.replace("DIR", str(tmp_path)))
    wanted = None if expected is None else tmp_path / expected
    assert shared_file(origin, "42", "query") == wanted


def test_by_default_it_lies_in_the_home_folder(monkeypatch, tmp_path):
    """Beside the accounts and the data."""
    monkeypatch.delenv("MP_LIMITS_DIR")
    monkeypatch.setenv("HOME", str(tmp_path))
    expected = tmp_path / ".mp/limits/mixpanel.com/42-export.json"
    assert shared_file("https://mixpanel.com", "42", "export") == expected


def test_a_project_shares_its_budgets_but_not_its_app_calls(monkeypatch, tmp_path):
    """For those Mixpanel publishes no limit."""
    monkeypatch.setenv("MP_LIMITS_DIR", str(tmp_path))
    kinds = {
        family: rate_limits.shared(family, "https://mixpanel.com", "42")._windows_state.is_shared
        for family in ("query", "export", "app")
    }
    assert kinds == {"query": True, "export": True, "app": False}
