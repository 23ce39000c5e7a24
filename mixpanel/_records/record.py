"""Records: messages that are serialized when they are tracked.

The composer completes a message and writes its JSON at once. So later changes to the caller's dict
have no effect, and the server's de-duplication key (event, time, distinct_id, $insert_id) stays the
same, however often a batch is sent.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from datetime import date, datetime
from typing import TYPE_CHECKING, Any, Literal

from mixpanel._records.json_encoding import loads
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
Time = float | date | datetime | str

UNREPEATABLE = ("$add", "$append", "$remove")


class Record:
    """One message, ready to be sent.

    `body` is its JSON. `repeatable` is True if sending it twice does no harm. `auth` authorizes
    `/import` where there is no service account. The buffer sets `enqueued_at` and `sequence`; one
    with a spool also sets the `block` that holds the record on disk, and its `index` there.
    """

    __slots__ = (
        "auth", "block", "body", "endpoint", "enqueued_at", "index", "repeatable", "sequence",
    )  # fmt: skip

    block: Any
    index: int

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
        """Return the message as it is sent; if it cannot be parsed, its first 200 bytes."""
        try:
            message: dict[str, Any] = loads(self.body)
        except (ValueError, RecursionError):
            return {"unreadable": self.body[:200].decode("utf-8", "replace")}
        return message

    def __repr__(self) -> str:
        return f"<Record {self.endpoint} {len(self.body)} bytes>"


def join_bodies(before: bytes, records: Sequence[Record], after: bytes) -> bytes:
    """Return the bodies of records, separated by commas, between a prefix and a suffix.

    >>> join_bodies(b"[", [Record("events", b"1"), Record("events", b"2")], b"]")
    b'[1,2]'
    """
    bodies = [record.body for record in records] or [b""]
    # A single `join` copies the bodies once; each further copy would take longer than all of this.
    bodies[0] = before + bodies[0]
    bodies[-1] += after
    return b",".join(bodies)


def deterministic_id(event_name: str, distinct_id: object, key: str) -> str:
    """Return an `$insert_id`, 36 hexadecimal digits, that depends on the arguments alone."""
    content = f"{event_name}\0{distinct_id}\0{key}".encode("utf-8", "surrogatepass")
    return hashlib.sha256(content).hexdigest()[:36]


def sample_position(user: str) -> float:
    """Return a user's fixed position in [0, 1); below the sample rate they are in the sample."""
    digest = hashlib.blake2b(user.encode("utf-8", "replace"), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64


def checked_text(value: object, name: str) -> str:
    """Return `str(value)`.

    :raises ValidationError: when `str` fails, as for an integer of 5,000 digits.
    """
    try:
        return str(value)
    except Exception as error:
        raise ValidationError([f"{name} cannot be converted to text: {error}"]) from error


def checked_mapping(value: Any, name: str = "properties") -> Properties:
    """Return a mapping unchanged.

    :raises ValidationError: for anything else.
    """
    # `dict` first: the check against the abstract class takes ten times as long.
    if isinstance(value, (dict, Mapping)):
        return value
    raise ValidationError(
        [f"{name} must be a mapping of names to values, not {type(value).__name__}"]
    )


def is_repeatable(update: Mapping[str, Any]) -> bool:
    """Return True if a profile or group update may be applied twice without harm."""
    return not any(operation in update for operation in UNREPEATABLE)
