"""Jobs of RQ; `python rq_app.py 5` enqueues five of them.

With `slow` as second argument the first one ends only when a file `go` exists.
"""

import os
import sys
import time
from pathlib import Path

import redis
import rq
import rq.worker
from clients import track


class WithoutClientInfo:
    """What a worker lacks where the server does not know `CLIENT INFO`, as fakeredis."""

    def _set_ip_address(self, connection):
        self.ip_address = "127.0.0.1"


class ForkingWorker(WithoutClientInfo, rq.Worker):
    """The default: each job runs in a process that the worker forks."""


if hasattr(rq.worker, "SpawnWorker"):  # not in the first RQ 2

    class SpawningWorker(WithoutClientInfo, rq.worker.SpawnWorker):
        """Each job runs in a new process."""


class SimpleWorker(WithoutClientInfo, rq.SimpleWorker):
    """Jobs run in the worker itself."""


def visit(n):
    """Track an event through each client."""
    track(n)


def visit_slowly(n):
    """Track an event, write the id of the process to `started`, and end when `go` exists."""
    track(n)
    Path("started.new").write_text(str(os.getpid()))
    Path("started.new").rename("started")
    end = time.monotonic() + 30
    while not Path("go").exists() and time.monotonic() < end:
        time.sleep(0.02)


if __name__ == "__main__":
    queue = rq.Queue(connection=redis.Redis.from_url(os.environ["RQ_REDIS_URL"]))
    for number in range(int(sys.argv[1])):
        slow = "slow" in sys.argv and number == 0
        queue.enqueue("rq_app.visit_slowly" if slow else "rq_app.visit", number)
