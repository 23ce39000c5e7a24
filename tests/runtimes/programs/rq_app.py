"""Jobs of RQ; `python rq_app.py 5` enqueues five of them."""

import os
import sys

import redis
import rq
import rq.worker
from clients import track


class WithoutClientInfo:
    """What a worker lacks where the server does not know `CLIENT INFO`."""

    def _set_ip_address(self, connection):
        self.ip_address = "127.0.0.1"


class ForkingWorker(WithoutClientInfo, rq.Worker):
    """The default: each job runs in a process that the worker forks."""


class SpawningWorker(WithoutClientInfo, rq.worker.SpawnWorker):
    """Each job runs in a new process."""


class SimpleWorker(WithoutClientInfo, rq.SimpleWorker):
    """Jobs run in the worker itself."""


def visit(n):
    """Track an event through each client."""
    track(n)


if __name__ == "__main__":
    queue = rq.Queue(connection=redis.Redis.from_url(os.environ["RQ_REDIS_URL"]))
    for number in range(int(sys.argv[1])):
        queue.enqueue("rq_app.visit", number)
