"""A script under gevent; `late` imports this package before gevent patches the modules."""

import sys

if "late" in sys.argv:
    import mixpanel

    mixpanel.AsyncBufferedConsumer  # noqa: B018 - imports it

import gevent.monkey

gevent.monkey.patch_all()

import gevent  # noqa: E402
from clients import CLIENTS, track  # noqa: E402


def work(worker):
    """Track four events."""
    for n in range(4):
        track(worker * 4 + n)
        gevent.sleep(0)


tasks = [gevent.spawn(work, worker) for worker in range(5)]
gevent.joinall(tasks, raise_error=True)
if "close" in sys.argv:
    for client in CLIENTS.values():
        assert client.flush().ok
        client.close()
        client.consumer.flush()
