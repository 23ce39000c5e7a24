"""The calls a project may make, shared by everything in the process."""

import math
import threading

import anyio
import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from mixpanel.data._api import rate_limits
from mixpanel.data._api.rate_limits import ApiRateLimiter
from mixpanel.data._api.rate_windows import RateWindows
from mixpanel.data.exceptions import RateLimitError

WINDOWS = (5, 60.0), (2, 1.0)
GRAIN = 1e-6  # what sums of floats may be off


def run(body):
    """Run on trio with a clock that skips waits, so that hours pass at once."""
    trio.run(body, clock=trio.testing.MockClock(autojump_threshold=0))


def limiter(*windows, concurrent=100):
    return ApiRateLimiter("calls", *windows, concurrent=concurrent, clock=trio.current_time)


def most_within(starts, seconds):
    """Return the largest number of starts in any stretch of so many seconds."""
    return max(sum(1 for s in starts if at <= s < at + seconds - GRAIN) for at in starts)


# ---- the rules ----------------------------------------------------------------------------------


@pytest.mark.slow
@given(st.lists(st.tuples(st.floats(0, 30), st.floats(0, 40), st.booleans()), max_size=60))
def test_no_window_is_ever_exceeded(calls):
    """Not for any order, duration and rejection of calls; and each call starts in the end."""
    rules, now, starts, running = RateWindows(*WINDOWS, concurrent=3), 0.0, [], []
    for pause, lasts, rejected in calls:
        now += pause
        while (next_start := rules.next_start(now)) > now:
            if next_start == math.inf:
                now, start = running.pop(0)
                rules.end(start)
            else:
                now = next_start
            for done in [entry for entry in running if entry[0] <= now]:
                running.remove(done)
                rules.end(done[1])
        starts.append(now)
        start = rules.start(now)
        rules.reject(start, now, None) if rejected else rules.accept(start)
        running.append((now + lasts, start))
        running.sort(key=lambda entry: entry[0])
        assert len(running) <= 3
    for count, seconds in WINDOWS:
        assert not starts or most_within(starts, seconds) <= count


def test_waits_after_rejections_grow_until_a_call_is_accepted():
    """Without `Retry-After`; rejections of calls that ran at the same time count as one."""
    rules, now, waits = RateWindows(concurrent=10), 0.0, []
    together = [rules.start(now), rules.start(now)]
    for _ in range(5):
        for start in together:
            rules.reject(start, now, None)
            rules.end(start)
        waits.append(rules.next_start(now) - now)
        now = rules.next_start(now)
        together = [rules.start(now)]
    assert waits == [5, 20, 80, 320, 600]
    rules.accept(together[0])
    rules.reject(rules.start(now), now, None)
    assert rules.next_start(now) == now + 5


def test_repeated_retry_after_zero_is_waited_for_longer_and_longer():
    """A server that always sends `Retry-After: 0` is not called in a tight loop."""
    rules, now = RateWindows(concurrent=1), 0.0
    for _ in range(8):
        now = rules.next_start(now)
        start = rules.start(now)
        rules.reject(start, now, 0.0)
        rules.end(start)
    assert now > 60


def test_a_retry_after_is_capped_at_an_hour():
    """An absurd value does not stop a process for good."""
    rules = RateWindows(concurrent=1)
    start = rules.start(0.0)
    rules.reject(start, 0.0, 1e9)
    rules.end(start)
    assert rules.next_start(0.0) == 3600.0


# ---- the queue ----------------------------------------------------------------------------------


def test_two_hundred_exports_start_in_order_and_within_the_limits():
    """Calls start in the order of arrival, so none starves."""
    exports, started = ApiRateLimiter.export(clock=trio.current_time), []

    async def export(number):
        async with exports.call() as call:
            started.append((trio.current_time(), number))
            call.accepted()
            await trio.sleep(number % 7)

    async def body():
        async with trio.open_nursery() as nursery:
            for number in range(200):
                nursery.start_soon(export, number)
                await trio.sleep(0.001)

    run(body)
    assert [number for _, number in started] == list(range(200))
    times = [at for at, _ in started]
    assert most_within(times, 3600) == 60
    assert most_within(times, 1.0) == 3
    assert times[-1] - times[0] < 3 * 3600 + 60


def test_five_queries_run_at_a_time():
    """The sixth starts when one has ended."""
    queries, now, most = ApiRateLimiter.query(clock=trio.current_time), 0, 0

    async def query():
        nonlocal now, most
        async with queries.call():
            now, most = now + 1, max(most, now + 1)
            await trio.sleep(10)
            now -= 1

    async def body():
        async with trio.open_nursery() as nursery:
            for _ in range(12):
                nursery.start_soon(query)
        assert trio.current_time() < 1000

    run(body)
    assert most == 5


def test_a_cancelled_call_gives_its_place_to_the_next():
    """Both a call that waits for a time and one that waits for a running call."""
    one = limiter(concurrent=1)

    async def body():
        async with one.call():
            with trio.move_on_after(1) as scope:
                async with one.call():
                    raise AssertionError
            assert scope.cancelled_caught
        one._windows.pause(one._clock(), 50)
        with trio.move_on_after(1):
            async with one.call():
                raise AssertionError
        async with one.call():
            pass
        assert one._queue == []

    run(body)


def test_after_a_429_all_calls_wait_and_one_is_sent_as_a_probe():
    """The first in the queue is sent alone; the others follow when it is accepted."""
    shared, log = limiter(concurrent=10), []

    async def ask(name):
        call, rejected = shared.call(), True
        while rejected:
            async with call:
                began = trio.current_time() - origin
                await trio.sleep(2)
                rejected = began < 60
                call.rejected(30) if rejected else call.accepted()
                log.append((name, began, rejected))
                await trio.sleep(0 if rejected else 5)

    async def body():
        nonlocal origin
        origin = trio.current_time()
        async with trio.open_nursery() as nursery:
            for name in "abc":
                nursery.start_soon(ask, name)
                await trio.sleep(0.1)

    origin = 0.0
    run(body)
    names, began, rejected = zip(*log, strict=True)
    assert "".join(names[:5]) == "abc" + "a" + "a"
    assert set(names[5:]) == {"b", "c"}
    assert rejected == (True, True, True, True, False, False, False)
    assert began[3] >= 2 + 30
    assert began[4] >= began[3] + 2 + 30
    assert began[5] == began[6] == began[4] + 2


def test_a_long_wait_is_reported_once_as_text():
    """`on_wait` also gets the seconds, and an error in it changes nothing."""
    reports = []

    def on_wait(seconds, why):
        reports.append((seconds, why))
        raise RuntimeError

    async def body():
        exports = ApiRateLimiter.export(clock=trio.current_time)
        for _ in range(60):
            async with exports.call(on_wait=on_wait):
                await trio.sleep(48)
        async with exports.call(on_wait=on_wait):
            pass

    run(body)
    [(seconds, why)] = reports
    assert 700 < seconds < 740
    assert why == "the project's limit of 60 exports an hour is used up: waiting 13 min"


def test_waits_for_the_limit_per_second_are_not_reported():
    """When many exports start together; an error names that limit and not the hourly one."""
    reports = []

    async def body():
        exports = ApiRateLimiter.export(clock=trio.current_time)
        for _ in range(12):
            async with exports.call(on_wait=lambda *args: reports.append(args)):
                pass
        for _ in range(3):
            async with exports.call():
                pass
        with pytest.raises(RateLimitError, match="of 3 exports a second is used up; the next"):
            async with exports.call(max_wait=0):
                raise AssertionError

    run(body)
    assert reports == []


def test_a_wait_beyond_max_wait_raises_with_the_time_of_the_next_start():
    """Immediately, although other calls are waiting."""
    exports = ApiRateLimiter.export(clock=trio.current_time)

    async def body():
        exports._windows.pause(exports._clock(), 1200)
        with pytest.raises(RateLimitError, match="the next call may start in 20 min") as reported:
            async with exports.call(max_wait=0):
                raise AssertionError
        assert reported.value.retry_after == 1200
        assert exports._queue == []

    run(body)


@pytest.mark.slow
def test_remaining_is_what_is_left_of_this_hour():
    """It is 0 while Mixpanel rejects calls for the hourly limit."""
    clock = [0.0]
    exports = ApiRateLimiter.export(clock=lambda: clock[0])

    async def body():
        for _ in range(3):
            async with exports.call():
                pass

    trio.run(body)
    assert exports.remaining() == 57
    assert exports.seconds_to_next() == 3602
    clock[0] = 3700
    assert exports.remaining() == 60
    assert exports.seconds_to_next() is None
    exports._windows.pause(exports._clock(), 900)
    assert exports.remaining() == 0
    assert exports.seconds_to_next() == 900
    assert repr(exports) == "<ApiRateLimiter of exports: 0 left>"


def test_event_loops_of_different_threads_and_kinds_share_a_limiter():
    """A call that ends in one loop wakes the next in another."""
    one, running, most, done = ApiRateLimiter("calls", concurrent=1), [], [], []

    async def body():
        async def ask():
            async with one.call():
                running.append(1)
                most.append(len(running))
                await anyio.sleep(0.001)
                running.pop()
            done.append(1)

        async with anyio.create_task_group() as tasks:
            for _ in range(20):
                tasks.start_soon(ask)

    threads = [
        threading.Thread(target=anyio.run, args=(body,), kwargs={"backend": backend})
        for backend in ("asyncio", "trio", "asyncio")
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert len(done) == 60
    assert max(most) == 1


def test_a_project_has_one_limiter_of_each_kind_in_a_process():
    """A forked child keeps the counts, but does not wait for calls of its parent."""
    one = rate_limits.shared("query", "https://a", "1")
    assert one is rate_limits.shared("query", "https://a", "1")
    assert one is not rate_limits.shared("query", "https://a", "2")
    assert one is not rate_limits.shared("export", "https://a", "1")

    async def body():
        call = one.call()
        await call.__aenter__()
        rate_limits._after_fork()
        assert one._windows._free == 5
        assert one.remaining() == 59

    trio.run(body)
    rate_limits._shared.clear()
