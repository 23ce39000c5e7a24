"""Make requests of a dialect's messages, and judge what comes back."""

from __future__ import annotations

import gzip
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, cast

from mixpanel._http.ingestion import (
    COMPRESSION,
)
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
from mixpanel._records.encoding import loads
from mixpanel.cdp._segment.batching import SENT_AT, room
from mixpanel.cdp._segment.dialect import basic, reasons
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
    from mixpanel.cdp._segment.composer import Message
    from mixpanel.cdp._segment.dialect import Dialect, WriteKey
    from mixpanel.cdp._segment.rate_limit import RateLimitedAuth

__all__ = ["SegmentApi"]

SECRET = 8  # characters; a shorter key, as in a test, may well be part of a word
MOST_WORDS = 300  # characters of a server's reasons that an error repeats
FAILURE_WORDS = (b"error", b"fail", b"success")  # without any of these no JSON need be read
BLANK = b" \t\r\n\f\x00\xef\xbb\xbf\xfe\xff"  # white space, and the marks that open a Unicode text


@dataclass(frozen=True, slots=True)
class SegmentApi:
    """Bring the messages of one source to where its dialect says.

    With `direct`, a message that goes alone goes to its own endpoint; everything else goes to the
    batch endpoint. `compress` offers gzip: a source that refuses it is asked without.
    """

    dialect: Dialect
    origin: str
    key: WriteKey
    now: Callable[[], float]
    guard: RateLimitedAuth | None = None
    direct: bool = False
    compress: bool = False
    room: int = field(init=False)
    largest: int = field(init=False)

    def __post_init__(self) -> None:
        """Work out what a batch has room for, and how large one message may be."""
        object.__setattr__(self, "room", room(self.dialect, self._told_key))
        object.__setattr__(self, "largest", min(self.dialect.max_message_bytes, self.room))

    def request(self, step: Send) -> Request:
        """Return the request that carries these messages; it says how often they came before."""
        messages = cast("list[Message]", step.records)
        dialect, sent_at = self.dialect, now_text(self.now())
        if self.direct and len(messages) == 1:
            path = dialect.path(messages[0].kind)
            body = dialect.alone(messages[0], sent_at, self._told_key)
        else:
            path = dialect.batch_path
            body = dialect.body(messages, sent_at, self._told_key)
        access = None if self.guard is None else self.guard.access
        headers = {
            **dialect.headers(self.key, None if access is None else access.token),
            "User-Agent": USER_AGENT,
            "Accept-Encoding": "identity",
        }
        if step.retries:
            headers["X-Retry-Count"] = str(step.retries)
        if step.gzip:
            body = gzip.compress(body, COMPRESSION, mtime=0)
            headers["Content-Encoding"] = "gzip"
        return Request("POST", self.origin + path, headers, body)

    def classify(
        self, response: Response | TransportFailure, records: list[Record]
    ) -> Classification:
        """Return what a response means: any 2xx is a success, whether or not it says anything.

        Unless it is a web page: then a captive portal or a proxy spoke. And unless it says that
        something failed, in whatever words: no vendor documents how it would name the messages of
        a batch, so smaller batches show which they are. All else means what it means everywhere;
        every message may be sent again, as the server knows it by its `messageId`.
        """
        endpoint = records[0].endpoint
        if isinstance(response, Response) and 200 <= response.status < 300:
            if not _is_page(response):
                if not _admits_failure(response.body):
                    return Classification(ResponseOutcome.DELIVERED)
                return Classification(
                    ResponseOutcome.REJECTED,
                    RejectedError(self._text(response), endpoint=endpoint, status=response.status),
                )
            name = self.dialect.name
            error = ServerError(
                f"{name}: HTTP {response.status}: a web page came back, as from a captive portal "
                f"or a proxy: it is not from {name}",
                endpoint=endpoint,
                status=response.status,
            )
            return Classification(ResponseOutcome.RETRY, error)
        return classify_status(response, endpoint, self._text)

    def __reduce__(self) -> NoReturn:
        raise TypeError("a route is not pickled: it holds a write key")

    def takes_gzip(self, endpoint: str) -> bool:  # noqa: ARG002
        """Tell whether bodies may be compressed."""
        return self.compress

    def captured_as(self, endpoint: str) -> str:  # noqa: ARG002
        """Return the vendor's name as `mixpanel.testing.capture` knows it, such as `customerio`."""
        return "".join(filter(str.isalnum, self.dialect.name.casefold()))

    def excess(self, message: Message) -> int:
        """Return by how many bytes a message is too large to be sent; 0 when it fits."""
        size = len(message.body)
        if self.direct:
            size = len(self.dialect.alone(message, SENT_AT, self._told_key))
        return max(0, size - self.largest)

    @property
    def _told_key(self) -> str | None:
        """The write key, where it stands in the body because the header holds a token."""
        is_told = self.guard is not None and self.guard.access is not None
        return self.key.reveal() if is_told else None

    def _text(self, reply: Response) -> str:
        said, key = "; ".join(reasons(reply.body)), self.key.reveal()
        access = None if self.guard is None else self.guard.access
        token = None if access is None else access.token
        for secret in (basic(key).partition(" ")[2], key, token.reveal() if token else ""):
            if len(secret) >= SECRET:
                said = said.replace(secret, "***")
        said = said[:MOST_WORDS]
        return f"{self.dialect.name}: HTTP {reply.status}" + (f": {said}" if said else "")


def _is_page(reply: Response) -> bool:
    """Tell whether an answer is HTML; frameworks call a bare "OK", or even JSON, that too."""
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


def _admits_failure(body: bytes) -> bool:
    """Return True if the JSON of a success says that not all went well."""
    if not any(word in body for word in FAILURE_WORDS):
        return False
    try:
        data = loads(body)
    except (ValueError, RecursionError):
        return False  # text of any kind is a success
    if not isinstance(data, dict):
        return False
    meta = data.get("meta")
    told = [data, meta] if isinstance(meta, dict) else [data]
    if any(each.get(name) for each in told for name in ("error", "errors", "failed_records")):
        return True
    return data.get("success") in (False, "false") or data.get("status") in ("error", "failed")
