"""The seam of `mixpanel.testing.capture`: where messages go instead of to a server.

Every client delivers through a `Sender`, through a `CustomConsumer` or by `import_rows`. Each of
them looks at `active` before it queues, sends or hands over anything, so a client that is built on
these parts is captured without knowing it. While nothing is captured, that look is one comparison.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Keep", "capturing"]

Keep = Callable[[str, bytes], object]
"""Takes one message: the name under which it is kept (see `Api.captured_as`), and its JSON."""

active: Keep | None = None
"""Takes the messages of all clients of this process while a capture is in progress."""


@contextmanager
def capturing(keep: Keep) -> Iterator[None]:
    """Give every message to `keep` inside the block; an inner block takes over for its length."""
    global active
    outer, active = active, keep
    try:
        yield
    finally:
        active = outer
