"""Decide whether a client is shown on a live page, and import the page only then."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mixpanel._delivery.custom_consumer import CustomConsumer
    from mixpanel._delivery.sender import Sender

__all__ = ["watch_if_enabled"]

OFF = frozenset({"", "0", "false", "no", "off", "none"})


def watch_if_enabled(delivery: Sender[Any] | CustomConsumer, debug: object) -> str | None:
    """Show what a client delivers if `debug` says so, else `MP_DEBUG_PAGE`; return the address.

    :raises ConfigurationError: unless it is a switch, a port or the address of an emulator.
    """
    wanted = os.environ.get("MP_DEBUG_PAGE") if debug is None else debug
    if wanted is None or str(wanted).strip().lower() in OFF:
        return None
    from mixpanel._page.program import watch

    return watch(delivery, wanted).url
