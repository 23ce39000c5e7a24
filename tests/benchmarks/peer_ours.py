"""Drive our own package, as its users would."""

import asyncio
import time
from collections import Counter
from itertools import islice
from pathlib import Path
from statistics import mean, quantiles
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from decisions import FLAG, confirm, context, definitions, flags, microseconds_a_user, users
from workload import EVENT, calls, main, per_second

from mixpanel import (
    AsyncBufferedConsumer,
    AsyncMixpanel,
    BufferedConsumer,
    Consumer,
    Mixpanel,
    Stats,
)

if TYPE_CHECKING:
    from mixpanel.cdp import HightouchOAuth
    from mixpanel.flags import SelectedVariant
    from mixpanel.flags.local_feature_flags import LocalFeatureFlagsProvider
    from mixpanel.flags.types import RuleEngine


def background(url: str) -> AsyncBufferedConsumer:
    return AsyncBufferedConsumer(base_url=url, when_full="wait")


def cost(url: str, count: int) -> dict[str, float]:
    """Time `await track`; it never yields, so nothing is sent meanwhile."""

    async def once() -> float:
        consumer = background(url)
        mp = AsyncMixpanel("TOKEN", consumer)
        made = calls(count)
        started = time.perf_counter()
        for who, what in made:
            await mp.track(who, EVENT, what)
        spent = time.perf_counter() - started
        await consumer.aclose()
        return spent / count * 1e6

    return {"microseconds": min(asyncio.run(once()) for _ in range(5))}


def buffered(url: str, count: int, durability: str = "") -> dict[str, float]:
    """Time from the first track to the end of flush, in memory or with a spool."""

    async def run(folder: str) -> float:
        consumer = background(url)
        if durability:
            consumer = spooled(url, folder, durability, when_full="wait")
        mp = AsyncMixpanel("TOKEN", consumer)
        await mp.track("warm", EVENT)
        await consumer.flush()
        made = calls(count)
        started = time.perf_counter()
        for who, what in made:
            await mp.track(who, EVENT, what)
        await consumer.flush()
        rate = per_second(count, started)
        await consumer.aclose()
        return rate

    with TemporaryDirectory() as folder:
        return {"per_second": asyncio.run(run(folder))}


def spooled(url: str, folder: str, durability: Any, **options: Any) -> AsyncBufferedConsumer:
    return AsyncBufferedConsumer(base_url=url, spool=folder, durability=durability, **options)


def track_latency(
    url: str, count: int, durability: str = "", rate: int = 5_000
) -> dict[str, float]:
    """Time each `await track` for `count` seconds of a steady rate."""

    async def run(folder: str) -> list[float]:
        consumer = background(url)
        if durability:
            consumer = spooled(url, folder, durability)
        mp = AsyncMixpanel("TOKEN", consumer)
        spent: list[float] = []
        made = calls(rate * count)
        started, number = time.perf_counter(), 0
        while (now := time.perf_counter() - started) < count:
            for who, what in islice(made, max(0, int(now * rate) - number)):
                began = time.perf_counter()
                await mp.track(who, EVENT, what)
                spent.append((time.perf_counter() - began) * 1e6)
                number += 1
            await asyncio.sleep(0.001)
        await consumer.flush()
        assert mp.stats().delivered == number, mp.stats()
        await consumer.aclose()
        return spent

    with TemporaryDirectory() as folder:
        spent = asyncio.run(run(folder))
    cuts = quantiles(spent, n=1000)
    return {"p50": cuts[499], "p99": cuts[989], "p999": cuts[998], "max": max(spent)}


def backlog(url: str, count: int) -> dict[str, float]:
    """Start with a spool of `count` messages, and drain it."""
    from mixpanel._delivery.spool.folder import create_file, destination_folder
    from mixpanel._delivery.spool.store import NewBlock, SpoolStore, block_id

    def fill(folder: str) -> None:
        options: Any = spooled(url, folder, "process")._sender.buffer
        inner = destination_folder(options.options.folder, options.options.destination)
        path, lock = create_file(inner)
        store = SpoolStore(path)
        made, place = calls(count), 0
        while bodies := [
            b'{"event":"%s","properties":{"token":"TOKEN","time":1790000000,"distinct_id":"%s",'
            b'"$insert_id":"%d-%d","text":"%s"}}'
            % (EVENT.encode(), str(who).encode(), place, at, str(what).encode().hex().encode())
            for at, (who, what) in enumerate(islice(made, 500))
        ]:
            place += 1
            store.add(NewBlock(block_id("events", place), time.time(), bodies))
        store.close()
        lock.release()

    async def run(folder: str) -> dict[str, float]:
        resting = resident_megabytes()
        began = time.perf_counter()
        consumer = spooled(url, folder, "process")
        await consumer.commit()
        started = time.perf_counter() - began
        assert consumer.stats().pending == count, consumer.stats()
        peak, began = resting, time.perf_counter()
        flush = asyncio.create_task(consumer.flush(None))
        while not flush.done():
            peak = max(peak, resident_megabytes())
            await asyncio.sleep(0.02)
        rate = per_second(count, began)
        assert consumer.stats().delivered == count, consumer.stats()
        await consumer.aclose()
        return {"start_ms": started * 1e3, "per_second": rate, "grown": peak - resting}

    with TemporaryDirectory() as folder:
        fill(folder)
        return asyncio.run(run(folder))


def segment(url: str, count: int, vendor: str, *, oauth: bool = False) -> dict[str, float]:
    """Do as `buffered` with the client of a customer data platform."""
    from mixpanel.cdp import AsyncCustomerIO, AsyncHightouch

    async def run() -> float:
        access = {"oauth": authorized(url)} if oauth else {}
        made_by = {"customerio": AsyncCustomerIO, "hightouch": AsyncHightouch}[vendor]
        client = made_by("WRITE_KEY", base_url=url, when_full="wait", **access)
        await client.track("warm", EVENT)
        await client.flush()
        made = calls(count)
        started = time.perf_counter()
        for who, what in made:
            await client.track(who, EVENT, what)
        await client.flush()
        rate = per_second(count, started)
        await client.aclose()
        return rate

    return {"per_second": asyncio.run(run())}


def authorized(server: str) -> "HightouchOAuth":
    """Return who asks the sink for tokens, with a key made for it."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import rsa

    from mixpanel.cdp import HightouchOAuth

    pem = rsa.generate_private_key(public_exponent=65537, key_size=2048).private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    return HightouchOAuth("CLIENT", pem.decode(), "KEY", server=server)


def at_once(url: str, count: int) -> dict[str, float]:
    consumer = Consumer(base_url=url)
    mp = Mixpanel("TOKEN", consumer)
    mp.track("warm", EVENT)
    made = calls(count)
    started = time.perf_counter()
    for who, what in made:
        mp.track(who, EVENT, what)
    rate = per_second(count, started)
    consumer.close()
    return {"per_second": rate}


def sync_buffered(url: str, count: int, size: int = 50) -> dict[str, float]:
    consumer = BufferedConsumer(size, base_url=url)
    mp = Mixpanel("TOKEN", consumer)
    mp.track("warm", EVENT)
    consumer.flush()
    made = calls(count)
    started = time.perf_counter()
    for who, what in made:
        mp.track(who, EVENT, what)
    consumer.flush()
    rate = per_second(count, started)
    consumer.close()
    return {"per_second": rate}


async def track_evenly(mp: AsyncMixpanel, rate: int, seconds: float) -> int:
    """Track at a steady rate, some each millisecond as handlers would, and return how many."""
    made = calls(int(rate * seconds))
    started, number = time.perf_counter(), 0
    while (now := time.perf_counter() - started) < seconds:
        for who, what in islice(made, max(0, int(now * rate) - number)):
            await mp.track(who, EVENT, what)
            number += 1
        await asyncio.sleep(0.001)
    return number


def memory(url: str, count: int, rate: int = 10_000) -> dict[str, float]:
    """Sample resident memory each second for `count` seconds of steady tracking."""

    async def run() -> tuple[int, list[float]]:
        samples: list[float] = []

        async def watch() -> None:
            while True:
                await asyncio.sleep(1)
                samples.append(resident_megabytes())

        async with AsyncMixpanel("TOKEN", base_url=url) as mp:
            watcher = asyncio.create_task(watch())
            tracked = await track_evenly(mp, rate, count)
            watcher.cancel()
            await mp.flush()
            assert mp.stats().delivered == tracked, mp.stats()
        return tracked, samples

    tracked, samples = asyncio.run(run())
    quarter = len(samples) // 4
    settled, last = samples[quarter : 2 * quarter], samples[-quarter:]
    grown = sum(last) / len(last) - sum(settled) / len(settled)
    return {"events": tracked, "megabytes": max(samples), "grown": grown}


def resident_megabytes() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096 / 1024 / 1024


def lag(url: str, count: int, rate: int = 10_000) -> dict[str, float]:
    """Measure how late a task that sleeps a millisecond wakes, tracking for `count` seconds.

    The first second, when things are imported and connections opened, counts as `first`.
    `busy` is the most processor time that the loop's thread used meanwhile: of a long wait, what
    is not in it was spent by other threads, or by whatever else this machine is doing.
    """

    late: list[float] = []
    busy: list[float] = []

    async def run() -> tuple[int, float]:
        async def tick() -> None:
            while True:
                started, used = time.perf_counter(), time.thread_time()
                await asyncio.sleep(0.001)
                late.append((time.perf_counter() - started) * 1e3 - 1.0)
                busy.append((time.thread_time() - used) * 1e3)

        async with AsyncMixpanel("TOKEN", base_url=url) as mp:
            ticker = asyncio.create_task(tick())
            tracked = await track_evenly(mp, rate, 1)
            first = max(late)
            late.clear()
            busy.clear()
            tracked += await track_evenly(mp, rate, count)
            ticker.cancel()
        return tracked, first

    tracked, first = asyncio.run(run())
    p99 = quantiles(late, n=100)[98]
    return {"events": tracked, "first": first, "p99": p99, "max": max(late), "busy": max(busy)}


def soak(url: str, count: int, rate: int = 10_000, durability: str = "") -> dict[str, float]:
    """Track for `count` seconds; watch what is dropped, memory, and the lag of the event loop."""
    late: Counter[int] = Counter()  # in hundredths of a millisecond, so as not to grow
    samples: list[float] = []

    async def tick() -> None:
        while True:
            started = time.perf_counter()
            await asyncio.sleep(0.001)
            late[int((time.perf_counter() - started) * 1e5) - 100] += 1

    async def watch() -> None:
        while True:
            samples.append(resident_megabytes())
            await asyncio.sleep(1)

    async def run(folder: str) -> Stats:
        consumer = spooled(url, folder, durability) if durability else background_that_drops(url)
        async with AsyncMixpanel("TOKEN", consumer) as mp:
            await track_evenly(mp, rate, 1)  # imports what is lazy, and opens connections
            tasks = [asyncio.create_task(tick()), asyncio.create_task(watch())]
            await track_evenly(mp, rate, count)
            for task in tasks:
                task.cancel()
            await mp.flush(60)
            await consumer.aclose()
        return mp.stats()

    with TemporaryDirectory() as folder:
        stats = asyncio.run(run(folder))
    size = max(1, len(samples) // 20)
    middle = len(samples) // 2
    return {
        "events": stats.accepted,
        "dropped": sum(stats.dropped.values()) + stats.rejected + stats.pending,
        "start": mean(samples[size : 2 * size]),
        "middle": mean(samples[middle : middle + size]),
        "end": mean(samples[-size:]),
        "peak": max(samples),
        **{f"p{share * 100:g}": percentile(late, share) / 100 for share in (0.5, 0.99, 0.999)},
        "max": max(late) / 100,
    }


def background_that_drops(url: str) -> AsyncBufferedConsumer:
    """Return a consumer as users have it: when its buffer is full, it drops."""
    return AsyncBufferedConsumer(base_url=url)


def percentile(counts: Counter[int], share: float) -> int:
    """Return the value below which a share of counted values is."""
    left = share * counts.total()
    for value in sorted(counts):
        left -= counts[value]
        if left <= 0:
            return value
    return max(counts)


def backlog_bytes(url: str, count: int) -> dict[str, float]:
    """Start with a spool of `count` gigabytes of large messages, and drain it for a minute."""
    from mixpanel._delivery.spool.folder import create_file, destination_folder
    from mixpanel._delivery.spool.store import NewBlock, SpoolStore, block_id

    text = b"x" * 98_000
    each = 20  # messages of a block

    def fill(folder: str) -> int:
        options: Any = spooled(url, folder, "process")._sender.buffer.options
        path, lock = create_file(destination_folder(options.folder, options.destination))
        store = SpoolStore(path)
        place = total = 0
        while total < count * 1e9:
            bodies = [
                b'{"event":"E","properties":{"token":"TOKEN","time":%d,"distinct_id":"u",'
                b'"$insert_id":"%d-%d","text":"%s"}}' % (time.time(), place, at, text)
                for at in range(each)
            ]
            place += 1
            total += sum(map(len, bodies))
            store.add(NewBlock(block_id("events", place), time.time(), bodies))
        store.close()
        lock.release()
        return place * each

    async def run(folder: str, messages: int) -> dict[str, float]:
        resting = peak = resident_megabytes()
        began = time.perf_counter()
        consumer = spooled(url, folder, "process")
        await consumer.commit()
        started = time.perf_counter() - began
        assert consumer.stats().pending == messages, consumer.stats()
        began = time.perf_counter()
        flush = asyncio.create_task(consumer.flush(60))
        while not flush.done():
            peak = max(peak, resident_megabytes())
            await asyncio.sleep(0.02)
        drained = consumer.stats().delivered * len(text) / 1e6
        spent = time.perf_counter() - began
        assert not consumer.stats().dropped, consumer.stats()
        await consumer.aclose(1)
        return {
            "start_ms": started * 1e3, "grown": peak - resting, "messages": messages,
            "drained_mb": drained, "mb_per_second": drained / spent,
        }  # fmt: skip

    with TemporaryDirectory() as folder:
        return asyncio.run(run(folder, fill(folder)))


def provider(
    given: dict[str, bool], rule_engine: "RuleEngine" = "default"
) -> "LocalFeatureFlagsProvider":
    """Return a provider with its flags; imported here, so as not to weigh on `memory`."""
    from mixpanel.flags import LocalFlagsConfig
    from mixpanel.flags.local_feature_flags import LocalFeatureFlagsProvider

    config = LocalFlagsConfig(bootstrap=definitions(given), offline=True, rule_engine=rule_engine)
    return LocalFeatureFlagsProvider("TOKEN", config, "0", lambda *_: None)


def flag(
    _url: str,
    count: int,
    *,
    known: bool = False,
    exposures: bool = False,
    rule_engine: "RuleEngine" = "default",
) -> dict[str, float]:
    """Time `get_variant`; exposures go to a tracker that does nothing."""
    from mixpanel.flags import SelectedVariant

    local, fallback = provider(flags(1), rule_engine), SelectedVariant(None)

    def decide(user: dict[str, Any]) -> "SelectedVariant":
        return local.get_variant(FLAG, fallback, user, report_exposure=exposures)

    def chosen(*user: Any) -> list[str]:
        variant = decide(context(*user)).variant_key
        return [] if variant is None else [variant]

    confirm(chosen, flags(1))
    one = next(user for user in users(count) if chosen(*user)) if known else None
    return {"microseconds": microseconds_a_user(context, decide, count, one)}


def flags100(_url: str, count: int) -> dict[str, float]:
    """Time a new snapshot's `get_all`."""
    local = provider(flags(100))

    def decide(user: dict[str, Any]) -> "dict[str, SelectedVariant]":
        return local.snapshot(user).get_all()

    confirm(lambda *user: [v.variant_key for v in decide(context(*user)).values()], flags(100))
    return {"microseconds": microseconds_a_user(context, decide, count)}


TASKS = [
    cost,
    buffered,
    track_latency,
    backlog,
    segment,
    at_once,
    sync_buffered,
    memory,
    lag,
    soak,
    backlog_bytes,
    flag,
    flags100,
]

if __name__ == "__main__":
    main({task.__name__: task for task in TASKS})
