"""Classify the responses of Mixpanel's reading APIs: one table for all endpoints.

400 403 404 405 422 …   QueryError            the request is invalid, or names something unknown
401                     AuthenticationError   also a 400 with "Unable to authenticate"
402                     PlanError             not in the project's plan
412                     JQLSyntaxError
429                     RateLimitError        also a 400 about too many exports in progress
408 425 5xx             ServerError           worth another attempt
3xx 407 501 505         ServerError           not worth one
200 without JSON        ServerError           from a proxy, not from Mixpanel
"""

from __future__ import annotations

import re
import zlib
from base64 import b64decode
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from mixpanel._http.responses import (
    Response,
    TransportFailure,
    retry_after,
)
from mixpanel._records.json_encoding import loads
from mixpanel.data.exceptions import (
    APIError,
    AuthenticationError,
    JQLSyntaxError,
    PlanError,
    QueryError,
    RateLimitError,
    ServerError,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from mixpanel.credentials import Secret

__all__ = [
    "RequestInfo",
    "check_export",
    "is_export",
    "is_rate_limit",
    "is_success",
    "is_worth_repeating",
    "parse_json",
    "to_error",
]

MAX_BYTES = 256 * 1024 * 1024  # of a response read into memory, decompressed
EXCERPT = 1000  # characters of a body that an error keeps
NOT_PERSONAL = {
    *("project_id", "workspace_id", "event", "name", "from_date", "to_date", "unit", "interval"),
    *("type", "limit", "page", "session_id", "time_in_ms", "length", "length_unit"),
}
# A quoted text in an expression. Those after an accessor are names of properties, not values.
LITERAL = re.compile(r"""((?:properties|user|event|behaviors)\[)?(["'])(.*?)\2""")
PLAN = (
    "the project's plan does not include this API (402): the Query API needs a Growth or "
    "Enterprise plan"
)
REJECTED = "Mixpanel rejects the credentials (401): check user name, secret and region"
HINTS = {
    402: PLAN,
    407: "the proxy requires a user name and password (407)",
}


@dataclass(frozen=True, slots=True)
class RequestInfo:
    """A request as errors describe it. `url` has no query, and the repr shows no parameters.

    `secrets` returns what no error may show; headers of HTTP Basic also hide what is encoded in
    them. `on_401` is the message for rejected credentials.
    """

    method: str
    url: str
    params: Mapping[str, Any] = field(default_factory=dict, repr=False)
    secrets: Callable[[], Iterable[Secret]] = field(default=tuple, repr=False)
    on_401: str = REJECTED

    def error_fields(self, response: Response | None = None) -> dict[str, Any]:
        """Return the keyword arguments that every `APIError` takes."""
        fields: dict[str, Any] = {
            "request_method": self.method,
            "request_url": self.url,
            "request_params": self.params,
        }
        if response is not None:
            fields["status_code"] = response.status
            fields["response_body"] = self.without_secrets(_text(response)[:EXCERPT])
            fields["retry_after"] = retry_after(response.headers)
        return fields

    def without_secrets(self, text: str) -> str:
        """Return text without the credentials, in case a server or proxy echoes them."""
        for secret in self.secrets():
            for credential in _credentials_in(secret.reveal()):
                text = text.replace(credential, "***")
        return text

    def without_payload(self, text: str) -> str:
        """Return text without parameter values and credentials: filters may hold personal data."""
        personal = {k: v for k, v in self.params.items() if k not in NOT_PERSONAL}
        # The longest first: a value may contain another one.
        for word in sorted(_words(personal), key=len, reverse=True):
            text = text.replace(word, "...")
        return self.without_secrets(text)

    def text(self, status: str, reason: str) -> str:
        """Return the message of an error: one line with the request, the status and the reason."""
        return ": ".join(filter(None, [f"{self.method} {self.url}", status, reason]))


def _credentials_in(sent: str) -> list[str]:
    """Return a secret, and what is encoded in it if it is a header of HTTP Basic or a bearer."""
    scheme, _, value = sent.partition(" ")
    if scheme not in ("Basic", "Bearer"):
        return [sent] if sent else []
    if scheme == "Bearer":
        return [value]
    try:
        password = b64decode(value).decode().partition(":")[2]
    except ValueError:
        password = ""
    return [each for each in (value, password) if each]


def is_success(response: Response) -> bool:
    """Return True for a status of 200 to 299."""
    return 200 <= response.status < 300


def is_rate_limit(response: Response) -> bool:
    """Return True if one of the project's rate limits is exceeded."""
    return response.status == 429 or (
        response.status == 400 and "too many export requests" in _text(response).lower()
    )


def is_worth_repeating(result: Response | TransportFailure, *, idempotent: bool) -> bool:
    """Return True if the same request may succeed when it is repeated."""
    if isinstance(result, TransportFailure):
        return not result.permanent and (idempotent or not result.may_have_been_sent)
    transient = result.status in (408, 425) or result.status >= 500
    return transient and idempotent and result.status not in (501, 505)


def to_error(request: RequestInfo, result: Response | TransportFailure) -> APIError:
    """Return the error for a failed request."""
    if isinstance(result, TransportFailure):
        error = ServerError(
            request.text("no response", str(result.error)), **request.error_fields()
        )
        error.__cause__ = result.error
        return error
    fields, status = request.error_fields(result), result.status
    reason = request.without_payload(_reason(result))
    hint = request.on_401 if status == 401 else HINTS.get(status, f"HTTP {status}")
    message = request.text(hint, reason)
    if is_rate_limit(result):
        return RateLimitError(message, **fields)
    if status == 412:
        return JQLSyntaxError(message, script=str(request.params.get("script", "")), **fields)
    if status == 401 or (status == 400 and "unable to authenticate" in _text(result).lower()):
        return AuthenticationError(message, **fields)
    if status == 402:
        return PlanError(message, **fields)
    if 300 <= status < 400:
        message = request.text(f"HTTP {status}", "redirects are not followed; check base_url")
        return ServerError(message, **fields)
    if 400 <= status < 500 and status not in (407, 408, 425):
        return QueryError(message, **fields)
    return ServerError(message, **fields)


def parse_json(request: RequestInfo, response: Response) -> Any:
    """Return the JSON of a successful response; None for an empty body.

    :raises ServerError: for a body that is not JSON, or too large.
    """
    try:
        body = _decompress(response)
    except ValueError as error:
        raise unexpected_body(request, response, str(error)) from None
    if len(body) > MAX_BYTES:
        raise unexpected_body(request, response, "more than 256 MB: request less at a time")
    try:
        return loads(body) if body.strip() else None
    except (ValueError, RecursionError):
        kind = "an HTML page" if body.lstrip()[:1] == b"<" else "a body"
        raise unexpected_body(request, response, f"{kind} that is not JSON") from None


def unexpected_body(request: RequestInfo, response: Response, reason: str) -> ServerError:
    """Return the error for a successful status with a body that Mixpanel does not send."""
    message = request.text(f"HTTP {response.status}", reason)
    return ServerError(message, **request.error_fields(response))


def is_export(head: Response) -> bool:
    """Return True if the headers are those of an export, so that its body is saved."""
    coding = head.headers.get("content-encoding", "identity").strip().lower()
    html = "html" in head.headers.get("content-type", "").lower()
    return head.status == 200 and not html and coding in ("identity", "gzip", "x-gzip")


def check_export(request: RequestInfo, response: Response) -> None:
    """Check that a successful response is an export.

    :raises ServerError: when it is not.
    """
    if not is_export(response):
        raise unexpected_body(request, response, "a body that is not an export")


def _words(value: Any) -> set[str]:
    """Return the texts in parameters, and the literals in those that are expressions.

    Texts of one or two characters are left out: replacing them would make an error unreadable.
    """
    if isinstance(value, dict):
        return {word for inner in value.values() for word in _words(inner)}
    if isinstance(value, (list, tuple, set)):
        return {word for inner in value for word in _words(inner)}
    text = str(value)
    literals = [literal for accessor, _, literal in LITERAL.findall(text) if not accessor]
    return {word for word in (text, *literals) if len(word) > 2}


def _reason(response: Response) -> str:
    """Return the server's own explanation: one line of up to 300 printable characters."""
    text = _text(response)
    try:
        data = loads(text)
    except (ValueError, RecursionError):
        data = None
    if isinstance(data, dict):
        text = data.get("error") or data.get("detail") or data.get("message") or ""
        if isinstance(text, dict):
            text = text.get("message") or ""
    elif text.lstrip().startswith("<"):
        text = "an HTML page"
    printable = "".join(c if c.isprintable() else " " for c in str(text))
    return " ".join(printable.split())[:300]


def _text(response: Response) -> str:
    """Return the beginning of a body as text, for errors; empty if it cannot be decompressed."""
    try:
        body = _decompress(response, max_bytes=64 * 1024, complete=False)
    except ValueError:
        body = b""
    return body.decode("utf-8", "replace")


def _decompress(
    response: Response, *, max_bytes: int = MAX_BYTES + 1, complete: bool = True
) -> bytes:
    """Return up to `max_bytes` of a body, decompressed.

    :raises ValueError: for another coding than gzip, for a body that is not gzip and, unless
        `complete` is False, for one that is truncated.
    """
    coding = response.headers.get("content-encoding", "").strip().lower()
    if coding in ("", "identity"):
        return response.body[:max_bytes]
    if coding not in ("gzip", "x-gzip"):
        raise ValueError(f"the body has the unexpected content-encoding {coding[:20]!r}")
    decompressed, rest = bytearray(), response.body
    try:
        # A gzip body may have several members. The limit holds while decompressing, so that a
        # small body cannot fill the memory.
        while rest and len(decompressed) < max_bytes:
            member = zlib.decompressobj(31)
            decompressed += member.decompress(rest, max_bytes - len(decompressed))
            if complete and not member.eof and len(decompressed) < max_bytes:
                raise ValueError("the gzip body is truncated")
            rest = member.unused_data
    except zlib.error as error:
        raise ValueError("the body is not gzip, although its content-encoding is") from error
    return bytes(decompressed)
