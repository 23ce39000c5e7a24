"""Create the buffer of a client with a spool; other clients never import SQLite."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

from mixpanel._runtime.import_lock import import_lock
from mixpanel.exceptions import ConfigurationError

if TYPE_CHECKING:
    from mixpanel._delivery.buffer import Buffer
    from mixpanel._delivery.stats import DeliveryStats
    from mixpanel.settings import Limits, RetryPolicy, WhenFull

__all__ = ["SPOOL_MAX_AGE", "Durability", "SpoolSettings", "spool_settings"]

Durability = Literal["process", "power"]

SPOOL_MAX_AGE = 5 * 86400.0  # seconds; `/track` accepts events of the last five days


class SpoolSettings:
    """The folder of a spool, None for the one of `MP_SPOOL`, and its durability."""

    # No dataclass: every client imports this, and making one takes half of that import.
    def __init__(self, folder: Any, durability: Durability) -> None:
        self.folder = folder
        self.durability = durability

    def retry(self, policy: RetryPolicy) -> RetryPolicy:
        """Return a retry policy that retries messages for five days."""
        return replace(policy, max_age=SPOOL_MAX_AGE)

    def buffer(
        self,
        limits: Limits,
        stats: DeliveryStats,
        *,
        service: str,
        identity: tuple[str, ...],
        description: dict[str, str],
        codec: Any = None,
        has_credentials: bool = False,
        repeat_ambiguous: bool = False,
        when_full: WhenFull,
        **settings: Any,
    ) -> Buffer:
        """Return a buffer with this spool.

        :raises ConfigurationError: if the folder cannot be used.
        """
        with import_lock:
            from mixpanel._delivery.spool.blocks import RecordCodec
            from mixpanel._delivery.spool.folder import Destination
            from mixpanel._delivery.spool.options import (
                SpoolOptions,
                checked_durability,
                checked_folder,
            )
            from mixpanel._delivery.spool.spooled_buffer import SpooledBuffer

        destination = Destination(service, identity, description)
        options = SpoolOptions(
            checked_folder(self.folder, destination),
            destination,
            checked_durability(self.durability),
            limits,
            RecordCodec() if codec is None else codec,
            has_credentials,
            repeat_ambiguous,
        )
        return SpooledBuffer(limits, stats, options, when_full=when_full, **settings)


def spool_settings(
    spool: Any, durability: Durability | None, when_full: WhenFull, *, buffered: bool
) -> SpoolSettings | None:
    """Return the settings of a spool; None for a client without one.

    :raises ConfigurationError: for options that do not go together.
    """
    if spool is False or (spool is None and not (buffered and os.environ.get("MP_SPOOL"))):
        if durability is not None:
            raise ConfigurationError("durability= needs spool=: pass it, or set MP_SPOOL")
        return None
    if not buffered:
        raise ConfigurationError(
            "spool= needs a client that buffers: use a buffered consumer, or leave out spool="
        )
    if when_full == "drop_oldest":
        raise ConfigurationError(
            'when_full="drop_oldest" cannot be used with a spool: choose "drop_newest", "wait" or '
            '"raise"'
        )
    return SpoolSettings(spool, durability or "process")
