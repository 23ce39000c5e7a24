"""What travels: records, frozen and serialised at the caller's line.

The composer adds what every record carries and writes the JSON at once, so later changes to the
caller's dict are not seen and the server's de-duplication key (event, time, distinct_id,
$insert_id) never changes, however often a batch is sent.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal

from mixpanel._records.encoding import loads
from mixpanel.exceptions import ValidationError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mixpanel.credentials import Authority

__all__ = [
    "BeforeSend",
    "Properties",
    "Record",
    "Time",
    "Validation",
    "deterministic_id",
    "join_bodies",
]

Properties = Mapping[str, Any]
Validation = Literal["off", "warn", "raise"]
BeforeSend = Callable[[str, dict[str, Any]], dict[str, Any] | None]
Note = Callable[[str, str], None]
Time = float | datetime

UNREPEATABLE = ("$add", "$append", "$remove")


class Record:
    """One message, ready to travel.

    `body` is its JSON; `repeatable` tells whether sending it twice does no harm; `auth` is what
    `/import` is asked with when there is no service account. `at` and `sequence` are the buffer's.
    """

    __slots__ = ("auth", "body", "endpoint", "enqueued_at", "repeatable", "sequence")

    def __init__(
        self,
        endpoint: str,
        body: bytes,
        *,
        repeatable: bool = True,
        auth: Authority | None = None,
    ) -> None:
        self.endpoint: str = endpoint
        self.body: bytes = body
        self.repeatable: bool = repeatable
        self.auth: Authority | None = auth
        self.enqueued_at: float = 0.0
        self.sequence: int = 0

    def decoded(self) -> dict[str, Any]:
        """Return the message as it travels; of what cannot be read back, how it begins."""
        try:
            message: dict[str, Any] = loads(self.body)
        except (ValueError, RecursionError):
            return {"unreadable": self.body[:200].decode("utf-8", "replace")}
        return message

    def __repr__(self) -> str:
        return f"<Record {self.endpoint} {len(self.body)} bytes>"


def join_bodies(before: bytes, records: Sequence[Record], after: bytes) -> bytes:
    """Return what stands between two brackets, with commas between the records.

    >>> joined(b"[", [Record("events", b"1"), Record("events", b"2")], b"]")
    b'[1,2]'
    """
    bodies = [record.body for record in records] or [b""]
    # So it is copied once: each copy of half a megabyte takes longer than all the rest of this.
    bodies[0] = before + bodies[0]
    bodies[-1] += after
    return b",".join(bodies)


def deterministic_id(event_name: str, distinct_id: object, key: str) -> str:
    """Return an `$insert_id` that is the same whenever its parts are: 36 hexadecimal digits."""
    content = f"{event_name}\0{distinct_id}\0{key}".encode("utf-8", "surrogatepass")
    return hashlib.sha256(content).hexdigest()[:36]


def sample_position(who: str) -> float:
    """Return a person's place in [0, 1), in every process the same; a sample ends at its rate."""
    digest = hashlib.blake2b(who.encode("utf-8", "replace"), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64


def to_api_time(moment: Time) -> float:
    """Return a time as Mixpanel takes it: numbers as they are, datetimes in whole milliseconds."""
    if isinstance(moment, datetime):
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=UTC)
        return round(moment.timestamp() * 1000)
    return moment


def as_text(value: object, what: str) -> str:
    """Return `str(value)`.

    :raises ValidationError: when there is none, as of an integer of 5,000 digits.
    """
    try:
        return str(value)
    except Exception as error:
        raise ValidationError([f"{what} cannot be read as text: {error}"]) from error


def mapping(value: Any, what: str = "properties") -> Properties:
    """Return what is a mapping.

    :raises ValidationError: for anything else.
    """
    # `dict` first: asking the abstract class takes ten times as long.
    if isinstance(value, (dict, Mapping)):
        return value
    raise ValidationError(
        [f"{what} must be a mapping of names to values, not {type(value).__name__}"]
    )


def is_repeatable(update: Mapping[str, Any]) -> bool:
    """Tell whether a profile or group update may be applied twice without harm."""
    return not any(operation in update for operation in UNREPEATABLE)
