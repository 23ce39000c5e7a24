"""Open and close clients, and flush, thousands of times; count what is left behind.

python -m tests.faults.leaks                   100 clients of each kind, 1,000 flushes
python -m tests.faults.leaks --clients 10000 --flushes 100000
"""

import argparse
import asyncio
import gc
import logging
import os
import sys
import tempfile
import threading
import time
import tracemalloc
from pathlib import Path

from mixpanel import AsyncBufferedConsumer, AsyncMixpanel, BufferedConsumer, Mixpanel
from tests.faults.server import FaultServer

WARM = 20  # rounds after which imports, pools and caches are complete
BYTES = 200_000  # that may be held more at the end: caches of the interpreter, and the server's


def held():
    """Return what this process has open: descriptors, threads, and allocated bytes."""
    gc.collect()
    return {
        "descriptors": len(os.listdir("/proc/self/fd")),  # noqa: PTH208 - names are all
        "threads": threading.active_count(),
        "bytes": tracemalloc.get_traced_memory()[0],
    }


async def one_async(url, spool):
    async with AsyncMixpanel("t", AsyncBufferedConsumer(base_url=url, spool=spool)) as mp:
        await mp.track("u", "Visit")
        await mp.flush(10)
        await mp.consumer.aclose()
        return len(asyncio.all_tasks())


def one_sync(url, spool):
    consumer = BufferedConsumer(base_url=url, spool=spool)
    Mixpanel("t", consumer).track("u", "Visit")
    consumer.flush()
    consumer.close()
    return 1


def clients(server, count, spool, *, is_async):
    """Open and close clients; return what more is held at the end, and the tasks left."""
    tasks = 0

    async def rounds(number):
        nonlocal tasks
        for _ in range(number):
            left = await one_async(server.url, spool) if is_async else one_sync(server.url, spool)
            tasks = max(tasks, left - 1)
            server.record.__init__()

    async def measured():
        await rounds(WARM)
        await asyncio.sleep(0.2)
        before = held()
        await rounds(count)
        await asyncio.sleep(0.2)
        return before, held()

    if is_async:
        before, after = asyncio.run(measured())
    else:
        # The server, in a thread of this process, closes its end of a connection a little later.
        for _ in range(WARM):
            one_sync(server.url, spool)
        time.sleep(0.2)
        before = held()
        for _ in range(count):
            one_sync(server.url, spool)
            server.record.__init__()
        time.sleep(0.2)
        after = held()
    return {**{name: after[name] - before[name] for name in before}, "tasks": tasks}


def flushes(server, count, spool):
    """Flush one client many times; return what more is held at the end."""

    async def main():
        consumer = AsyncBufferedConsumer(base_url=server.url, spool=spool)
        async with AsyncMixpanel("t", consumer) as mp:
            for _ in range(WARM):
                await mp.track("u", "Visit")
                await mp.flush(10)
            tasks, before = len(asyncio.all_tasks()), held()
            for _ in range(count):
                await mp.track("u", "Visit")
                await mp.flush(10)
                server.record.__init__()
            more = {name: value - before[name] for name, value in held().items()}
            more["tasks"] = len(asyncio.all_tasks()) - tasks
            await consumer.aclose()
            return more

    return asyncio.run(main())


def run(clients_count, flush_count):
    """Return what each kind of loop left behind, and whether all is as it was."""
    tracemalloc.start()
    found = {}
    try:
        with tempfile.TemporaryDirectory() as folder, FaultServer() as server:
            for name, spool in [("in memory", False), ("with a spool", Path(folder) / "spool")]:
                for kind in ("async", "sync"):
                    found[f"{clients_count:,} {kind} clients {name}"] = clients(
                        server, clients_count, spool, is_async=kind == "async"
                    )
                found[f"{flush_count:,} flushes {name}"] = flushes(server, flush_count, spool)
    finally:
        tracemalloc.stop()
    return found


def is_flat(more):
    return (
        more["descriptors"] <= 0
        and more["threads"] <= 0
        and more["tasks"] <= 0
        and more["bytes"] <= BYTES
    )


def main():
    parser = argparse.ArgumentParser(
        prog="python -m tests.faults.leaks", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("--clients", type=int, default=100)
    parser.add_argument("--flushes", type=int, default=1000)
    given = parser.parse_args()
    logging.disable()
    found = run(given.clients, given.flushes)
    for name, more in found.items():
        state = "ok" if is_flat(more) else "FAILED"
        print(f"{name:36} {state:>6}  " + ", ".join(f"{k} {v:+,}" for k, v in more.items()))
    return 0 if all(map(is_flat, found.values())) else 1


if __name__ == "__main__":
    sys.exit(main())
