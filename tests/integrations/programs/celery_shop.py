"""A Celery application whose broker is a folder; `python celery_shop.py` sends its tasks."""

from pathlib import Path

from celery import Celery

from mixpanel import AsyncBufferedConsumer, Mixpanel, context
from mixpanel.integrations.celery import connect

queue = Path("queue")
queue.mkdir(exist_ok=True)
app = Celery("celery_shop", broker="filesystem://", set_as_current=True)
app.conf.broker_transport_options = {
    "data_folder_in": queue,
    "data_folder_out": queue,
    "polling_interval": 0.05,
}
app.conf.broker_connection_retry_on_startup = True
app.conf.worker_prefetch_multiplier = 1
mp = Mixpanel("t", AsyncBufferedConsumer(flush_after=3600))  # before the pool forks
connect(mp)


@app.task
def order(number):
    """Track an event, and fail: the first task of a process, too."""
    mp.track(None, "Ordered", {"number": number})
    Path(f"done-{number}").touch()
    raise LookupError(number)


if __name__ == "__main__":
    for n in range(8):
        with context(f"u-{n}", plan="team"):
            order.delay(n)
