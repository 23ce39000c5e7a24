"""How many bytes of messages fit into one batch request."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mixpanel.cdp._segment.dialect import SENT_AT

if TYPE_CHECKING:
    from mixpanel.cdp._segment.dialect import Dialect

__all__ = ["SENT_AT", "batch_capacity"]


def batch_capacity(dialect: Dialect, write_key: str | None = None) -> int:
    """Return how many bytes a batch has for its messages and the commas between them.

    :param write_key: given when the key is sent in the body, which then has less capacity.
    """
    before, after = dialect.envelope(SENT_AT, write_key)
    return dialect.max_batch_bytes - len(before) - len(after)
