"""Classify the response to a request: delivered, rejected, or to be sent again."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from enum import Enum
from typing import TYPE_CHECKING, Any

from mixpanel._records.json_encoding import loads
from mixpanel.exceptions import (
    AuthenticationError,
    DeliveryError,
    PayloadTooLargeError,
    RateLimitError,
    RejectedError,
    RejectedRecord,
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
    """An HTTP response: status, header values by lower-case name, and the body, up to a cap.

    The repr shows only the status, and `pickle` refuses a response: its body may hold an access
    token or repeat what was sent.
    """

    status: int
    headers: Mapping[str, str] = field(repr=False)
    body: bytes = field(repr=False)

    def __reduce__(self) -> NoReturn:
        raise TypeError("a Response cannot be pickled: it may hold an access token")


@dataclass(frozen=True, slots=True)
class TransportFailure:
    """Why no response came, and whether the server may have received the request.

    `permanent` is True when trying again cannot help, as with a certificate that is not trusted.
    """

    error: DeliveryError
    may_have_been_sent: bool
    permanent: bool = False


class ResponseOutcome(Enum):
    """What a response means for the records that were sent."""

    DELIVERED = "delivered"
    REJECTED = "rejected"
    RETRY = "retry"
    AMBIGUOUS = "ambiguous"
    FATAL = "fatal"


@dataclass(slots=True)
class Classification:
    """The outcome of a request, and the reasons for it.

    `rejected` holds the rejected records by index, if the server lists them. `not_processed` is
    True when the server provably applied nothing; `unexpected` when the body had an unknown shape
    or contradicted what was sent.
    """

    outcome: ResponseOutcome
    error: DeliveryError | None = None
    rejected: dict[int, RejectedRecord] = field(default_factory=dict)
    not_processed: bool = False
    too_large: bool = False
    unexpected: bool = False


Classifier = Callable[[Response | TransportFailure, list["Record"]], Classification]


# Statuses that a change of configuration has to fix: a URL, a credential, a proxy.
CONFIGURATION = frozenset({*range(300, 400), 401, 402, 403, 404, 405, 407, 410, 501, 505})

# 460 is what AWS load balancers send for 408. All 5xx but those above count as transient, too.
TRANSIENT = frozenset({408, 425, 429, 460})

# With these, Mixpanel's own error body proves that nothing was processed. A gateway's 503 proves
# nothing: the request may have reached the server behind it.
UNPROCESSED = frozenset({429, 503})

# Fields in which `/import` and `/track` count the records that they accepted.
COUNTS = ("num_records_imported", "num_good_events")


def classify_response(
    response: Response | TransportFailure, records: list[Record]
) -> Classification:
    """Return what a response means for the records that were sent.

    Records count as delivered only after a documented success (200), or when a strict 400 does not
    list them as failed, and in both cases only if the counts in the body agree with what was sent.
    For all other responses the status decides, whatever the body says.
    """
    if isinstance(response, Response):
        if 200 <= response.status < 300:
            return _classify_success(response, _parse_body(response.body), records)
        if response.status == 400:
            return _classify_400(response, _parse_body(response.body), records)
    return classify_status(response, records[0].endpoint)


def classify_status(
    response: Response | TransportFailure,
    endpoint: str,
    text: Callable[[Response], str] | None = None,
) -> Classification:
    """Return what a failure, or a status other than success, means for the whole request.

    `text` makes the error message, for servers whose error bodies differ from Mixpanel's.
    """
    if isinstance(response, TransportFailure):
        response.error.endpoint = endpoint
        if response.permanent:
            return Classification(
                ResponseOutcome.FATAL, response.error, not_processed=not response.may_have_been_sent
            )
        outcome = (
            ResponseOutcome.AMBIGUOUS if response.may_have_been_sent else ResponseOutcome.RETRY
        )
        return Classification(outcome, response.error)
    status, fields = response.status, _error_fields(endpoint, response)
    data = _parse_body(response.body)
    message = _error_text(endpoint, response, data) if text is None else text(response)
    not_processed = status < 500 and not _reports_processing(data)
    if status == 413:
        too_large = PayloadTooLargeError(message, **fields)
        return Classification(
            ResponseOutcome.REJECTED, too_large, not_processed=not_processed, too_large=True
        )
    if status in CONFIGURATION:
        refusal = AuthenticationError if status in (401, 402, 403) else ServerError
        return Classification(
            ResponseOutcome.FATAL, refusal(message, **fields), not_processed=not_processed
        )
    if status in TRANSIENT or 500 <= status < 600:
        fields["retry_after"] = retry_after(response.headers)
        kind = RateLimitError if status == 429 else ServerError
        proven = status in UNPROCESSED and _is_error_of_mixpanel(status, data)
        outcome = ResponseOutcome.RETRY if proven else ResponseOutcome.AMBIGUOUS
        return Classification(outcome, kind(message, **fields))
    if 400 <= status < 500:
        return Classification(
            ResponseOutcome.REJECTED, RejectedError(message, **fields), not_processed=not_processed
        )
    error = ServerError(f"{message}: unexpected status for this request", **fields)
    return Classification(ResponseOutcome.AMBIGUOUS, error, unexpected=True)


def _is_error_of_mixpanel(status: int, data: Any) -> bool:
    """Return True if an error body has the shape of Mixpanel's, unlike that of a gateway.

    `/import` sends `{"code": 429, "error": "…", "status": "Too Many Requests"}`; the other
    endpoints send `{"error": "…", "status": "error"}` or `{"error": "…", "status": 0}`.
    """
    if not isinstance(data, dict) or not isinstance(data.get("error"), str) or not data["error"]:
        return False
    if _reports_processing(data):
        return False
    code, status_field = data.get("code"), data.get("status")
    if "code" in data:
        matches = type(code) is int and code == status
        return matches and (
            isinstance(status_field, str) or (type(status_field) is int and status_field == 0)
        )
    return status_field == "error" or (type(status_field) is int and status_field == 0)


def _reports_processing(data: Any) -> bool:
    """Return True if an error body counts records as accepted, or lists some as failed."""
    return isinstance(data, dict) and (_reports_counts(data) or bool(data.get("failed_records")))


def _reports_counts(data: Any) -> bool:
    return isinstance(data, dict) and any(data.get(name) not in (None, 0) for name in COUNTS)


def _accepted_count(data: dict[str, Any], records: list[Record]) -> int | None:
    """Return how many records a body counts as accepted; without a count, all it does not list.

    None means that the count is not a number, or that two counts contradict each other.
    """
    found = {
        value if type(value) is int and value >= 0 else None
        for value in [data[name] for name in COUNTS if name in data]
    }
    if len(found) > 1:
        return None
    if found:
        return found.pop()
    return len(records) - len(_failed_records(data, records) or ())


def _error_fields(endpoint: str, response: Response) -> dict[str, Any]:
    return {"endpoint": endpoint, "status": response.status}


def _error_text(endpoint: str, response: Response, data: Any) -> str:
    reason = data.get("error") if isinstance(data, dict) else None
    if not isinstance(reason, str):
        return f"{endpoint}: HTTP {response.status}"
    reason = "".join(c for c in reason[:200] if c.isprintable())
    return f"{endpoint}: HTTP {response.status}: {reason}"


def _classify_400(response: Response, data: Any, records: list[Record]) -> Classification:
    if not isinstance(data, dict):
        return classify_status(response, records[0].endpoint)
    endpoint = records[0].endpoint
    fields, text = _error_fields(endpoint, response), _error_text(endpoint, response, data)
    failed, count = _failed_records(data, records), _accepted_count(data, records)
    rest = len(records) - len(failed or ())
    if failed and count == rest and data.get("code", 400) == 400:
        # A strict 400 is a partial success: the records it does not list were accepted.
        return Classification(ResponseOutcome.DELIVERED, RejectedError(text, **fields), failed)
    if _reports_counts(data) and count is not None and count >= rest:
        return _unexpected(_contradiction_text(text, count, failed, records), fields)
    return classify_status(response, records[0].endpoint)


def _classify_success(response: Response, data: Any, records: list[Record]) -> Classification:
    endpoint = records[0].endpoint
    fields, text = _error_fields(endpoint, response), _error_text(endpoint, response, data)
    if data is None:
        # As from a captive portal or a proxy.
        error = ServerError(f"{text}: the response is not from Mixpanel", **fields)
        return Classification(ResponseOutcome.AMBIGUOUS, error)
    if not isinstance(data, dict):
        if type(data) is not int:
            return _unexpected(f"{text}: unexpected response body", fields)
        data = {"status": data}
    status_field, code, reason = data.get("status"), data.get("code", 200), data.get("error")
    is_number = type(status_field) is int
    failed, count = _failed_records(data, records), _accepted_count(data, records)
    counts_agree = failed is not None and count == len(records) - len(failed)
    if failed and counts_agree and response.status == 200 and code in (200, 400):
        return Classification(ResponseOutcome.DELIVERED, RejectedError(text, **fields), failed)
    if reason and ((is_number and status_field == 0) or status_field == "error"):
        # Mixpanel's documentation has both: 0 for "none was valid" and for "not all were valid".
        return Classification(ResponseOutcome.REJECTED, RejectedError(text, **fields))
    if is_number and status_field == 0 and "code" not in data:
        return Classification(
            ResponseOutcome.REJECTED, RejectedError(f"{text}: no reason given", **fields)
        )
    succeeded = status_field in ("OK", "ok") or (is_number and status_field in (0, 1))
    succeeded = succeeded or ("status" not in data and "code" in data)
    if not succeeded or type(code) is not int or code != 200 or reason:
        return _unexpected(f"{text}: unexpected response body", fields)
    if failed or not counts_agree:
        return _unexpected(_contradiction_text(text, count, failed, records), fields)
    return Classification(ResponseOutcome.DELIVERED)


def _contradiction_text(
    text: str, count: int | None, failed: Mapping[int, object] | None, records: list[Record]
) -> str:
    if failed is None:
        return f"{text}: the body lists failed records that were not sent"
    accepted = "an unreadable number" if count is None else f"{count:,}"
    return (
        f"{text}: the body counts {accepted} of {len(records):,} record(s) as accepted, and lists "
        f"{len(failed):,} as failed"
    )


def _unexpected(text: str, fields: dict[str, Any]) -> Classification:
    return Classification(ResponseOutcome.AMBIGUOUS, ServerError(text, **fields), unexpected=True)


def _parse_body(body: bytes) -> Any:
    try:
        return loads(body)
    except (ValueError, RecursionError):
        return None


def _failed_records(
    data: dict[str, Any], records: list[Record]
) -> dict[int, RejectedRecord] | None:
    """Return the records that a body lists as failed; None when one of them was never sent."""
    listed = data.get("failed_records")
    if listed is None:
        return {}
    if not isinstance(listed, list):
        return None
    failed: dict[int, RejectedRecord] = {}
    for entry in listed:
        index = entry.get("index") if isinstance(entry, dict) else None
        if type(index) is not int or not 0 <= index < len(records):
            return None
        # Mixpanel's guide spells it "$insert_id", its API schema "insert_id".
        insert_id = entry.get("$insert_id", entry.get("insert_id"))
        failed[index] = RejectedRecord(
            index,
            str(entry.get("message") or entry.get("error") or "rejected")[:500],
            str(entry["field"]) if entry.get("field") else None,
            str(insert_id) if insert_id else None,
        )
    return failed


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Return the seconds in the `Retry-After` header; None if it is missing or malformed.

    A date is compared with the response's own `Date`, so a wrong clock on our side does not matter.
    """
    text = headers.get("retry-after", "").strip()
    if text.isascii() and text.isdigit():
        return float(text[:9])
    try:
        retry_at, sent = parsedate_to_datetime(text), parsedate_to_datetime(headers["date"])
        return max(0.0, (retry_at - sent).total_seconds())
    except (ValueError, TypeError, OverflowError, IndexError, KeyError):
        return None
