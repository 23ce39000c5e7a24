"""What a client is doing now: how much waits, since when, and why."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["Health", "QueueHealth", "QueueState", "SpoolHealth"]

QueueState = Literal["idle", "gathering", "sending", "waiting", "halted"]


@dataclass(frozen=True, slots=True)
class QueueHealth:
    """The queue of one endpoint.

    - `state`: "idle" (nothing is pending), "gathering" (a batch is not due yet), "sending",
      "waiting" (a failure is retried in `retry_in` seconds) or "halted" (`error` needs a person,
      such as wrong credentials; a request is tried every minute).
    - `pending`: messages without an outcome; `in_flight`: requests.
    - `oldest_age`: seconds since the oldest pending message was accepted, also by an earlier
      process that left it in the spool.
    """

    state: QueueState
    pending: int = 0
    in_flight: int = 0
    oldest_age: float | None = None
    retry_in: float | None = None
    error: str | None = None


@dataclass(frozen=True, slots=True)
class SpoolHealth:
    """The spool of one client.

    - `messages` and `bytes`: what is on disk and not settled; `file_bytes`: the size of its file.
    - `uncommitted`: messages that are not on disk yet, or could not be written.
    - `degraded`: why it cannot be written now, so that messages stay in memory; None if it can.
    - `dead_letters`: rejected and dropped messages that are kept with their reason.
    - `quarantined`: damaged files that this process has set aside.
    """

    folder: str
    durability: str
    messages: int
    bytes: int
    file_bytes: int
    uncommitted: int
    dead_letters: int
    quarantined: int
    degraded: str | None


@dataclass(frozen=True, slots=True)
class Health:
    """The state of a client: see `QueueHealth` and `SpoolHealth`.

    `ok` is False while a queue is halted or the spool is degraded. `last_error` is the error of the
    last attempt, None after a delivery.
    """

    ok: bool
    pending: int
    oldest_age: float | None = None
    last_error: str | None = None
    queues: Mapping[str, QueueHealth] = field(default_factory=dict)
    spool: SpoolHealth | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return the health as dicts, for JSON."""
        return asdict(self)


def error_text(error: BaseException | None) -> str | None:
    """Return the type and text of an error."""
    return None if error is None else f"{type(error).__name__}: {error}"
