"""Build the requests of a dialect, and classify the responses."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, cast

from mixpanel._http.compression import compress
from mixpanel._http.request import (
    USER_AGENT,
    Request,
)
from mixpanel._http.responses import (
    Classification,
    Response,
    ResponseOutcome,
    classify_status,
)
from mixpanel._records.json_encoding import loads
from mixpanel.cdp._segment.batching import SENT_AT, batch_capacity
from mixpanel.cdp._segment.dialect import basic, error_reasons
from mixpanel.cdp._segment.values import now_text
from mixpanel.exceptions import RejectedError, ServerError

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import NoReturn

    from mixpanel._http.request import Send
    from mixpanel._http.responses import (
        TransportFailure,
    )
    from mixpanel._records.record import Record
    from mixpanel.cdp._segment.dialect import Dialect, WriteKey
    from mixpanel.cdp._segment.message import Message
    from mixpanel.cdp._segment.rate_limit import RateLimitedAuth

__all__ = ["SegmentApi"]

MIN_REDACTED = 8  # characters; a shorter key, as in a test, may be part of an ordinary word
MAX_REASON = 300  # characters of the server's reasons that are repeated in an error
FAILURE_WORDS = (b"error", b"fail", b"success")  # the body is parsed only if it has one of these
BLANK = b" \t\r\n\f\x00\xef\xbb\xbf\xfe\xff"  # white space and byte order marks


@dataclass(frozen=True, slots=True)
class SegmentApi:
    """The requests of one source, as its dialect defines them.

    With `send_immediately`, a single message is sent to the endpoint of its kind; everything else
    is sent to the batch endpoint. `compress` enables gzip, until the source rejects it.
    """

    dialect: Dialect
    origin: str
    key: WriteKey
    now: Callable[[], float]
    guard: RateLimitedAuth | None = None
    send_immediately: bool = False
    compress: bool = False
    capacity: int = field(init=False)
    max_message_bytes: int = field(init=False)

    def __post_init__(self) -> None:
        """Compute the capacity of a batch, and the largest message."""
        object.__setattr__(self, "capacity", batch_capacity(self.dialect, self._key_in_body))
        object.__setattr__(
            self, "max_message_bytes", min(self.dialect.max_message_bytes, self.capacity)
        )

    def request(self, step: Send) -> Request:
        """Return the request for these messages; a header counts the attempts before it."""
        messages = cast("list[Message]", step.records)
        dialect, sent_at = self.dialect, now_text(self.now())
        if self.send_immediately and len(messages) == 1:
            path = dialect.path(messages[0].kind)
            body = dialect.single_body(messages[0], sent_at, self._key_in_body)
        else:
            path = dialect.batch_path
            body = dialect.batch_body(messages, sent_at, self._key_in_body)
        token_source = None if self.guard is None else self.guard.token_source
        headers = {
            **dialect.headers(self.key, None if token_source is None else token_source.token),
            "User-Agent": USER_AGENT,
            "Accept-Encoding": "identity",
        }
        if step.retries:
            headers["X-Retry-Count"] = str(step.retries)
        if step.gzip:
            body = compress(body)
            headers["Content-Encoding"] = "gzip"
        return Request("POST", self.origin + path, headers, body)

    def classify(
        self, response: Response | TransportFailure, records: list[Record]
    ) -> Classification:
        """Classify a response: any 2xx is a success, also with an empty body.

        There are two exceptions. An HTML page comes from a captive portal or a proxy, so the
        request is retried. A body that reports a failure is a rejection: no vendor documents how it
        would name the rejected messages of a batch, so the batch is split until they are found.
        Other statuses are classified as usual; every message may be retried, because the server
        de-duplicates by `messageId`.
        """
        endpoint = records[0].endpoint
        if isinstance(response, Response) and 200 <= response.status < 300:
            if not _is_html(response):
                if not _reports_failure(response.body):
                    return Classification(ResponseOutcome.DELIVERED)
                return Classification(
                    ResponseOutcome.REJECTED,
                    RejectedError(self._text(response), endpoint=endpoint, status=response.status),
                )
            name = self.dialect.name
            error = ServerError(
                f"{name}: HTTP {response.status}: received an HTML page, probably from a captive "
                f"portal or a proxy and not from {name}",
                endpoint=endpoint,
                status=response.status,
            )
            return Classification(ResponseOutcome.RETRY, error)
        return classify_status(response, endpoint, self._text)

    def __reduce__(self) -> NoReturn:
        raise TypeError("SegmentApi cannot be pickled: it holds a write key")

    def takes_gzip(self, endpoint: str) -> bool:  # noqa: ARG002
        """Return True if bodies may be compressed."""
        return self.compress

    def captured_as(self, endpoint: str) -> str:  # noqa: ARG002
        """Return the vendor's name as `mixpanel.testing.capture` uses it, such as `customerio`."""
        return "".join(filter(str.isalnum, self.dialect.name.casefold()))

    def excess_bytes(self, message: Message) -> int:
        """Return by how many bytes a message is too large to be sent; 0 if it is not."""
        size = len(message.body)
        if self.send_immediately:
            size = len(self.dialect.single_body(message, SENT_AT, self._key_in_body))
        return max(0, size - self.max_message_bytes)

    @property
    def _key_in_body(self) -> str | None:
        """The write key if it is sent in the body, because the header holds an access token."""
        in_body = self.guard is not None and self.guard.token_source is not None
        return self.key.reveal() if in_body else None

    def _text(self, reply: Response) -> str:
        reason, key = "; ".join(error_reasons(reply.body)), self.key.reveal()
        token_source = None if self.guard is None else self.guard.token_source
        token = None if token_source is None else token_source.token
        for secret in (basic(key).partition(" ")[2], key, token.reveal() if token else ""):
            if len(secret) >= MIN_REDACTED:
                reason = reason.replace(secret, "***")
        reason = reason[:MAX_REASON]
        return f"{self.dialect.name}: HTTP {reply.status}" + (f": {reason}" if reason else "")


def _is_html(reply: Response) -> bool:
    """Return True if a response is an HTML page.

    The content type is not enough: frameworks also label a bare "OK", or even JSON, as HTML.
    """
    body = reply.body.lstrip(BLANK)
    if body.startswith(b"<"):
        return True
    if "html" not in reply.headers.get("content-type", "").lower() or not body:
        return False
    if body.isascii() and b"<" not in body:
        return False
    try:
        loads(body)
    except (ValueError, RecursionError):
        return True
    return False


def _reports_failure(body: bytes) -> bool:
    """Return True if the JSON of a 2xx response reports a failure."""
    if not any(word in body for word in FAILURE_WORDS):
        return False
    try:
        data = loads(body)
    except (ValueError, RecursionError):
        return False  # plain text is a success
    if not isinstance(data, dict):
        return False
    meta = data.get("meta")
    objects = [data, meta] if isinstance(meta, dict) else [data]
    if any(each.get(name) for each in objects for name in ("error", "errors", "failed_records")):
        return True
    return data.get("success") in (False, "false") or data.get("status") in ("error", "failed")
