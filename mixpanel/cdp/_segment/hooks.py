"""The user's `before_send`: it changes a message, or drops it."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

from mixpanel._runtime.safe_logging import logger
from mixpanel.settings import checked_callback

if TYPE_CHECKING:
    from mixpanel._records.record import BeforeSend

__all__ = ["BeforeSendHook"]


class BeforeSendHook:
    """Call `before_send`; a message that it fails on is dropped, since it may hold private data.

    :raises ConfigurationError: if it is not a plain function.
    """

    def __init__(self, before_send: BeforeSend) -> None:
        checked_callback(before_send, "before_send")
        self._before_send = before_send
        self._running: set[int] = set()  # threads, or greenlets where gevent has patched them

    def __call__(self, kind: str, message: dict[str, Any]) -> tuple[dict[str, Any] | None, str]:
        """Return the message that the hook returned; None with the reason if it is dropped."""
        # What the hook itself sends is not passed to it, or it would never return.
        thread = threading.get_ident()
        if thread in self._running:
            return message, ""
        self._running.add(thread)
        try:
            changed: object = self._before_send(kind, message)
        except Exception:
            logger.exception("before_send raised an exception; the message was dropped")
            return None, "before_send_error"
        finally:
            self._running.discard(thread)
        if changed is None:
            return None, "before_send"
        if not isinstance(changed, dict):
            logger.error("before_send must return a dict or None; the message was dropped")
            return None, "before_send_error"
        return changed, ""
