"""Classify what came back: are the records that were sent delivered, rejected, to be sent again?"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from enum import Enum
from typing import TYPE_CHECKING, Any

from mixpanel._records.encoding import loads
from mixpanel.exceptions import (
    AuthenticationError,
    DeliveryError,
    FailedRecord,
    PayloadTooLargeError,
    RateLimitError,
    RejectedError,
    ServerError,
)

if TYPE_CHECKING:
    from typing import NoReturn

    from mixpanel._records.record import Record

__all__ = [
    "Classification",
    "Classifier",
    "Response",
    "ResponseOutcome",
    "TransportFailure",
    "classify_response",
    "classify_status",
    "retry_after",
]


@dataclass(frozen=True, slots=True)
class Response:
    """What came back: status, header values by lower-case name, and the (capped) body.

    Its repr shows only the status: a body may hold an access token, or repeat what was sent. So
    `pickle` refuses it.
    """

    status: int
    headers: Mapping[str, str] = field(repr=False)
    body: bytes = field(repr=False)

    def __reduce__(self) -> NoReturn:
        raise TypeError("an answer is not pickled: it may hold an access token")


@dataclass(frozen=True, slots=True)
class TransportFailure:
    """Why nothing came back, and whether the server may have seen the request."""

    error: DeliveryError
    maybe_sent: bool
    hopeless: bool = False


class ResponseOutcome(Enum):
    """What an answer means for the records that were sent."""

    DELIVERED = "delivered"
    REJECTED = "rejected"
    RETRY = "retry"
    AMBIGUOUS = "ambiguous"
    FATAL = "fatal"


@dataclass(slots=True)
class Classification:
    """A verdict with its grounds.

    `failed` holds the refused records by index, when the server names them. `untouched` is True
    when the server provably applied nothing, `odd` when the answer had no known shape or
    contradicted what was sent.
    """

    outcome: ResponseOutcome
    error: DeliveryError | None = None
    failed: dict[int, FailedRecord] = field(default_factory=dict)
    untouched: bool = False
    too_large: bool = False
    odd: bool = False


Classifier = Callable[[Response | TransportFailure, list["Record"]], Classification]


CONFIGURATION = frozenset({*range(300, 400), 401, 402, 403, 404, 405, 407, 410, 501, 505})


# 460 is a load balancer's word for 408. Any 5xx but those above may be gone the next time.
TRANSIENT = frozenset({408, 425, 429, 460})


# With an error of its own making Mixpanel says by these that it processed nothing. A gateway may
# say 503 although the request had reached the server behind it.
UNPROCESSED = frozenset({429, 503})


COUNTS = ("num_records_imported", "num_good_events")


def classify_response(reply: Response | TransportFailure, part: list[Record]) -> Classification:
    """Return what a reply means for the records that were sent.

    Delivered are only those of a documented success (200), and those that a strict 400 does not
    list as failed, each if its counts agree with what was sent. In any other answer the status
    decides, whatever the body says.
    """
    if not isinstance(reply, Response) or not (200 <= reply.status < 300 or reply.status == 400):
        return classify_status(reply, part[0].endpoint)
    data = _read(reply.body)
    if reply.status != 400:
        return _judge_success(reply, data, part)
    return _judge_refusal(reply, data, part)


def classify_status(
    reply: Response | TransportFailure,
    endpoint: str,
    text: Callable[[Response], str] | None = None,
) -> Classification:
    """Return what a failure, or an answer that is not a success, means for the whole request.

    `text` says the answer in words, for servers that do not speak as Mixpanel does.
    """
    if isinstance(reply, TransportFailure):
        reply.error.endpoint = endpoint
        if reply.hopeless:
            return Classification(
                ResponseOutcome.FATAL, reply.error, untouched=not reply.maybe_sent
            )
        outcome = ResponseOutcome.AMBIGUOUS if reply.maybe_sent else ResponseOutcome.RETRY
        return Classification(outcome, reply.error)
    status, known = reply.status, _known(endpoint, reply)
    data = _read(reply.body)
    said = _text(endpoint, reply, data) if text is None else text(reply)
    untouched = status < 500 and not _claims_some(data)
    if status == 413:
        too_large = PayloadTooLargeError(said, **known)
        return Classification(
            ResponseOutcome.REJECTED, too_large, untouched=untouched, too_large=True
        )
    if status in CONFIGURATION:
        refused = AuthenticationError if status in (401, 402, 403) else ServerError
        return Classification(ResponseOutcome.FATAL, refused(said, **known), untouched=untouched)
    if status in TRANSIENT or 500 <= status < 600:
        known["retry_after"] = retry_after(reply.headers)
        kind = RateLimitError if status == 429 else ServerError
        proven = status in UNPROCESSED and _is_error_of_mixpanel(status, data)
        outcome = ResponseOutcome.RETRY if proven else ResponseOutcome.AMBIGUOUS
        return Classification(outcome, kind(said, **known))
    if 400 <= status < 500:
        return Classification(
            ResponseOutcome.REJECTED, RejectedError(said, **known), untouched=untouched
        )
    error = ServerError(f"{said}: not the status of an answer to this request", **known)
    return Classification(ResponseOutcome.AMBIGUOUS, error, odd=True)


def _is_error_of_mixpanel(status: int, data: Any) -> bool:
    """Return True if an error body has the shape of Mixpanel's, not that of a gateway.

    `{"code": 429, "error": "…", "status": "Too Many Requests"}` of `/import`, and
    `{"error": "…", "status": "error"}` or `{"error": "…", "status": 0}` of the others.
    """
    if not isinstance(data, dict) or not isinstance(data.get("error"), str) or not data["error"]:
        return False
    if _claims_some(data):
        return False
    code, state = data.get("code"), data.get("status")
    if "code" in data:
        own = type(code) is int and code == status
        return own and (isinstance(state, str) or (type(state) is int and state == 0))
    return state == "error" or (type(state) is int and state == 0)


def _claims_some(data: Any) -> bool:
    """Return True if an error's body counts records as taken, or lists some as failed."""
    return isinstance(data, dict) and (_counts_some(data) or bool(data.get("failed_records")))


def _counts_some(data: Any) -> bool:
    return isinstance(data, dict) and any(data.get(name) not in (None, 0) for name in COUNTS)


def _count(data: dict[str, Any], part: list[Record]) -> int | None:
    """Return how many records an answer says were taken, without a count all that are not listed.

    None stands for a count that is none, or two that contradict each other.
    """
    found = {
        value if type(value) is int and value >= 0 else None
        for value in [data[name] for name in COUNTS if name in data]
    }
    if len(found) > 1:
        return None
    if found:
        return found.pop()
    return len(part) - len(_failed_records(data, part) or ())


def _known(endpoint: str, reply: Response) -> dict[str, Any]:
    return {"endpoint": endpoint, "status": reply.status}


def _text(endpoint: str, reply: Response, data: Any) -> str:
    reason = data.get("error") if isinstance(data, dict) else None
    if not isinstance(reason, str):
        return f"{endpoint}: HTTP {reply.status}"
    reason = "".join(c for c in reason[:200] if c.isprintable())
    return f"{endpoint}: HTTP {reply.status}: {reason}"


def _judge_refusal(reply: Response, data: Any, part: list[Record]) -> Classification:
    if not isinstance(data, dict):
        return classify_status(reply, part[0].endpoint)
    known, text = _known(part[0].endpoint, reply), _text(part[0].endpoint, reply, data)
    failed, count = _failed_records(data, part), _count(data, part)
    rest = len(part) - len(failed or ())
    if failed and count == rest and data.get("code", 400) == 400:
        # A strict 400 is a partial success: the records it does not name were taken.
        return Classification(ResponseOutcome.DELIVERED, RejectedError(text, **known), failed)
    if _counts_some(data) and count is not None and count >= rest:
        return _odd(_contradiction(text, count, failed, part), known)
    return classify_status(reply, part[0].endpoint)


def _judge_success(reply: Response, data: Any, part: list[Record]) -> Classification:
    known, text = _known(part[0].endpoint, reply), _text(part[0].endpoint, reply, data)
    if data is None:
        # A captive portal or a proxy spoke, not Mixpanel.
        error = ServerError(f"{text}: the answer is not from Mixpanel", **known)
        return Classification(ResponseOutcome.AMBIGUOUS, error)
    if not isinstance(data, dict):
        if type(data) is not int:
            return _odd(f"{text}: the answer has no known shape", known)
        data = {"status": data}
    state, code, reason = data.get("status"), data.get("code", 200), data.get("error")
    is_number = type(state) is int
    failed, count = _failed_records(data, part), _count(data, part)
    agrees = failed is not None and count == len(part) - len(failed)
    if failed and agrees and reply.status == 200 and code in (200, 400):
        return Classification(ResponseOutcome.DELIVERED, RejectedError(text, **known), failed)
    if reason and ((is_number and state == 0) or state == "error"):
        # Mixpanel's pages disagree whether 0 means "none was valid" or "not all were".
        return Classification(ResponseOutcome.REJECTED, RejectedError(text, **known))
    if is_number and state == 0 and "code" not in data:
        return Classification(
            ResponseOutcome.REJECTED, RejectedError(f"{text}: no reason given", **known)
        )
    good = state in ("OK", "ok") or (is_number and state in (0, 1))
    good = good or ("status" not in data and "code" in data)
    if not good or type(code) is not int or code != 200 or reason:
        return _odd(f"{text}: the answer has no known shape", known)
    if failed or not agrees:
        return _odd(_contradiction(text, count, failed, part), known)
    return Classification(ResponseOutcome.DELIVERED)


def _contradiction(
    text: str, count: int | None, failed: Mapping[int, object] | None, part: list[Record]
) -> str:
    if failed is None:
        return f"{text}: it lists failed records that were not sent"
    taken = "an unreadable number" if count is None else f"{count:,}"
    return (
        f"{text}: it counts {taken} of {len(part):,} record(s) as taken, and lists "
        f"{len(failed):,} as failed"
    )


def _odd(text: str, known: dict[str, Any]) -> Classification:
    return Classification(ResponseOutcome.AMBIGUOUS, ServerError(text, **known), odd=True)


def _read(body: bytes) -> Any:
    try:
        return loads(body)
    except (ValueError, RecursionError):
        return None


def _failed_records(data: dict[str, Any], part: list[Record]) -> dict[int, FailedRecord] | None:
    """Return the records that an answer lists as failed; None when one of them was never sent."""
    listed = data.get("failed_records")
    if listed is None:
        return {}
    if not isinstance(listed, list):
        return None
    failed: dict[int, FailedRecord] = {}
    for entry in listed:
        index = entry.get("index") if isinstance(entry, dict) else None
        if type(index) is not int or not 0 <= index < len(part):
            return None
        # The guide spells it "$insert_id", the schema "insert_id".
        insert_id = entry.get("$insert_id", entry.get("insert_id"))
        failed[index] = FailedRecord(
            index,
            str(entry.get("message") or entry.get("error") or "refused")[:500],
            str(entry["field"]) if entry.get("field") else None,
            str(insert_id) if insert_id else None,
        )
    return failed


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Return the seconds that the server asked for; None if it did not, or in no known form.

    A date is read against the answer's own `Date`, so a wrong clock on our side does no harm.
    """
    text = headers.get("retry-after", "").strip()
    if text.isascii() and text.isdigit():
        return float(text[:9])
    try:
        when, sent = parsedate_to_datetime(text), parsedate_to_datetime(headers["date"])
        return max(0.0, (when - sent).total_seconds())
    except (ValueError, TypeError, OverflowError, IndexError, KeyError):
        return None
