"""Carry identity and properties into RQ jobs, and flush at the end of each.

    queue.enqueue(send_invoice, 17, meta=job_meta())

    rq worker --job-class mixpanel.integrations.rq.MixpanelJob

RQ ends the process of each job in a way that runs no exit handlers, so without this a buffered
client loses its events there.
"""

from __future__ import annotations

from typing import Any

from rq.job import Job

from mixpanel._records import context as contexts
from mixpanel.integrations._carried import HEADER, dump_context, load_context
from mixpanel.integrations._serving import flush_all

__all__ = ["MixpanelJob", "job_meta"]

FLUSH_TIMEOUT = 5.0  # seconds, for all clients together


class MixpanelJob(Job):
    """A job that runs in the context of its sender, and then sends what all clients have buffered.

    Sending takes five seconds at most, for all clients together.
    """

    def perform(self) -> Any:
        """Run the job."""
        try:
            with contexts.entered(load_context(self.meta.get(HEADER))):
                return super().perform()
        finally:
            flush_all(FLUSH_TIMEOUT)


def job_meta(**meta: Any) -> dict[str, Any]:
    """Return the meta data for a job, with the current identity and properties of events."""
    carried = dump_context()
    return meta if carried is None else {**meta, HEADER: carried}
