"""A Celery application whose broker is a folder; `python celery_app.py` sends twenty tasks."""

from pathlib import Path

from celery import Celery
from clients import track

queue = Path("queue")
queue.mkdir(exist_ok=True)
app = Celery("celery_app", broker="filesystem://", set_as_current=True)
app.conf.broker_transport_options = {"data_folder_in": queue, "data_folder_out": queue}
app.conf.broker_connection_retry_on_startup = True
app.conf.worker_prefetch_multiplier = 1


@app.task
def visit(n):
    """Track an event through each client."""
    track(n)


if __name__ == "__main__":
    for number in range(20):
        visit.delay(number)
