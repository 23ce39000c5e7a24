"""A Celery application whose broker is a folder; `python celery_app.py` sends twenty tasks.

With `CONNECT` each task has the identity of its sender, and no other way to know its user.
"""

import os
from pathlib import Path

from celery import Celery
from clients import CLIENTS, track

from mixpanel import context
from mixpanel.integrations.celery import connect

queue = Path("queue")
queue.mkdir(exist_ok=True)
app = Celery("celery_app", broker="filesystem://", set_as_current=True)
app.conf.broker_transport_options = {
    "data_folder_in": queue,
    "data_folder_out": queue,
    "polling_interval": 0.05,
}
app.conf.broker_connection_retry_on_startup = True
app.conf.worker_prefetch_multiplier = 1
is_connected = "CONNECT" in os.environ
if is_connected:
    for client in CLIENTS.values():
        connect(client)


@app.task
def visit(n):
    """Track an event through each client."""
    track(n, user=None if is_connected else f"u-{n}")


if __name__ == "__main__":
    for number in range(20):
        with context(f"u-{number}"):
            visit.delay(number)
