"""A script under eventlet; `late` imports this package before eventlet patches the modules."""

import sys

if "late" in sys.argv:
    import mixpanel

    mixpanel.AsyncBufferedConsumer  # noqa: B018 - imports it

import eventlet

eventlet.monkey_patch()

from clients import CLIENTS, track  # noqa: E402


def work(worker):
    """Track four events."""
    for n in range(4):
        track(worker * 4 + n)
        eventlet.sleep(0)


tasks = [eventlet.spawn(work, worker) for worker in range(5)]
for task in tasks:
    task.wait()
if "close" in sys.argv:
    for client in CLIENTS.values():
        assert client.flush().ok
        client.close()
        client.consumer.flush()
