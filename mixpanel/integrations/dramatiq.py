"""Carry identity and properties into Dramatiq actors, and flush when a worker ends.

mp = Mixpanel("TOKEN", AsyncBufferedConsumer())
broker.add_middleware(MixpanelMiddleware(mp))
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dramatiq import Middleware

from mixpanel._records import context as contexts
from mixpanel.integrations._carried import HEADER, dump_context, load_context
from mixpanel.integrations._serving import checked_client, checked_timeout, flush_client

if TYPE_CHECKING:
    from mixpanel.client import Mixpanel

__all__ = ["MixpanelMiddleware"]


class MixpanelMiddleware(Middleware):
    """Carry the context of each sender into its messages; flush a client when the worker ends.

    They travel in the option `mixpanel_context` of the message, so the broker sees them. A retry
    keeps them, and the messages of one worker share nothing.

    :param client: the client that actors use; without one, only the context is carried.
    :param flush_timeout: seconds for the flush.
    :raises ConfigurationError: for another kind of client.
    """

    def __init__(self, client: Mixpanel | None = None, *, flush_timeout: float = 5.0) -> None:
        self._client = checked_client(client, optional=True, sync=True)
        self._flush_timeout = checked_timeout(flush_timeout, "flush_timeout")
        # One middleware serves all threads of a worker, so the open blocks are kept by message.
        self._entered: dict[str, contexts.entered] = {}  # by message, while it is processed

    def before_enqueue(self, broker: Any, message: Any, delay: Any) -> None:  # noqa: ARG002
        """Add the context to a message."""
        # A retry already has the context of its first sender, which stays.
        if HEADER not in message.options and (carried := dump_context()):
            message.options[HEADER] = carried

    def before_process_message(self, broker: Any, message: Any) -> None:  # noqa: ARG002
        """Enter the context of a message."""
        entered = contexts.entered(load_context(message.options.get(HEADER)))
        self._entered[message.message_id] = entered
        entered.__enter__()

    def after_process_message(
        self,
        broker: Any,  # noqa: ARG002
        message: Any,
        *,
        result: Any = None,  # noqa: ARG002
        exception: BaseException | None = None,  # noqa: ARG002
    ) -> None:
        """Leave the context of a message."""
        entered = self._entered.pop(message.message_id, None)
        if entered is not None:
            entered.__exit__()

    def after_skip_message(self, broker: Any, message: Any) -> None:
        """Leave the context of a message that another middleware has skipped."""
        self.after_process_message(broker, message)

    def after_worker_shutdown(self, broker: Any, worker: Any) -> None:  # noqa: ARG002
        """Send what is buffered."""
        if self._client is not None:
            flush_client(self._client, self._flush_timeout)
