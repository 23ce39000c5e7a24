"""Say what an answer of Mixpanel's reading APIs means: one table for all endpoints.

400 403 404 405 422 …   QueryError            what was asked cannot be answered
401                     AuthenticationError   also a 400 that says "Unable to authenticate"
402                     PlanError             not in the project's plan
412                     JQLSyntaxError
429                     RateLimitError        also a 400 about too many exports in progress
408 425 5xx             ServerError           worth another attempt
3xx 407 501 505         ServerError           not worth one
200, but no JSON        ServerError           a proxy spoke, not Mixpanel
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
from mixpanel._records.encoding import loads
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
    from collections.abc import Mapping

    from mixpanel.credentials import Secret

__all__ = [
    "RequestInfo",
    "check_export",
    "error_of",
    "is_export",
    "is_rate_limit",
    "is_success",
    "is_worth_repeating",
    "parsed",
]

MOST_BYTES = 256 * 1024 * 1024  # of one answer that is read into memory, unpacked
EXCERPT = 1000  # characters of a body that an error keeps
NOT_PERSONAL = {
    *("project_id", "workspace_id", "event", "name", "from_date", "to_date", "unit", "interval"),
    *("type", "limit", "page", "session_id", "time_in_ms", "length", "length_unit"),
}
LITERAL = re.compile(r"""((?:properties|user|event|behaviors)\[)?(["'])(.*?)\2""")  # or a name
PLAN = (
    "the project's plan does not include this API (402): Mixpanel's free plan has no Query API, "
    "its Growth and Enterprise plans have"
)
HINTS = {
    401: "Mixpanel refuses the credentials: check user name, secret and region (401)",
    402: PLAN,
    407: "the proxy wants a user name and password (407)",
}


@dataclass(frozen=True, slots=True)
class RequestInfo:
    """What was asked, for the errors; `url` has no query. Its repr shows no parameters."""

    method: str
    url: str
    params: Mapping[str, Any] = field(default_factory=dict, repr=False)
    authorization: Secret | None = field(default=None, repr=False)

    def known(self, answer: Response | None = None) -> dict[str, Any]:
        """Return what every error carries."""
        known: dict[str, Any] = {
            "request_method": self.method,
            "request_url": self.url,
            "request_params": self.params,
        }
        if answer is not None:
            known["status_code"] = answer.status
            known["response_body"] = self.without_secrets(_text(answer)[:EXCERPT])
            known["retry_after"] = retry_after(answer.headers)
        return known

    def without_secrets(self, text: str) -> str:
        """Take out the credentials, should a server or proxy have sent them back."""
        if self.authorization is None:
            return text
        sent = self.authorization.reveal().partition(" ")[2]
        try:
            secret = b64decode(sent).decode().partition(":")[2]
        except ValueError:
            secret = ""
        for known in (sent, secret):
            if known:
                text = text.replace(known, "***")
        return text

    def without_payload(self, text: str) -> str:
        """Take out what was asked for, as filters may hold personal data."""
        personal = {k: v for k, v in self.params.items() if k not in NOT_PERSONAL}
        for word in sorted(_words(personal), key=len, reverse=True):
            text = text.replace(word, "...")
        return self.without_secrets(text)

    def text(self, status: str, reason: str) -> str:
        """Return one line for people."""
        return ": ".join(filter(None, [f"{self.method} {self.url}", status, reason]))


def is_success(answer: Response) -> bool:
    """Tell whether the server did what it was asked."""
    return 200 <= answer.status < 300


def is_rate_limit(answer: Response) -> bool:
    """Tell whether the project's budget is spent."""
    return answer.status == 429 or (
        answer.status == 400 and "too many export requests" in _text(answer).lower()
    )


def is_worth_repeating(reply: Response | TransportFailure, *, idempotent: bool) -> bool:
    """Tell whether the same request may well succeed in a moment."""
    if isinstance(reply, TransportFailure):
        return not reply.permanent and (idempotent or not reply.may_have_been_sent)
    transient = reply.status in (408, 425) or reply.status >= 500
    return transient and idempotent and reply.status not in (501, 505)


def error_of(asked: RequestInfo, reply: Response | TransportFailure) -> APIError:
    """Return the error for what is no success."""
    if isinstance(reply, TransportFailure):
        error = ServerError(asked.text("no answer", str(reply.error)), **asked.known())
        error.__cause__ = reply.error
        return error
    known, status = asked.known(reply), reply.status
    reason = asked.without_payload(_reason(reply))
    line = asked.text(HINTS.get(status, f"HTTP {status}"), reason)
    if is_rate_limit(reply):
        return RateLimitError(line, **known)
    if status == 412:
        return JQLSyntaxError(line, script=str(asked.params.get("script", "")), **known)
    if status == 401 or (status == 400 and "unable to authenticate" in _text(reply).lower()):
        return AuthenticationError(line, **known)
    if status == 402:
        return PlanError(line, **known)
    if 300 <= status < 400:
        line = asked.text(f"HTTP {status}", "redirects are not followed: is base_url right?")
        return ServerError(line, **known)
    if 400 <= status < 500 and status not in (407, 408, 425):
        return QueryError(line, **known)
    return ServerError(line, **known)


def parsed(asked: RequestInfo, answer: Response) -> Any:
    """Return the JSON of a success; None for an empty body.

    :raises ServerError: for anything else than JSON.
    """
    try:
        body = _unpacked(answer)
    except ValueError as error:
        raise not_from_mixpanel(asked, answer, str(error)) from None
    if len(body) > MOST_BYTES:
        raise not_from_mixpanel(asked, answer, "more than 256 MB: ask for less at a time")
    try:
        return loads(body) if body.strip() else None
    except (ValueError, RecursionError):
        page = "an HTML page" if body.lstrip()[:1] == b"<" else "something"
        raise not_from_mixpanel(asked, answer, f"{page} that is not JSON") from None


def not_from_mixpanel(asked: RequestInfo, answer: Response, what: str) -> ServerError:
    """Return the error for a 200 that Mixpanel cannot have meant; the body is in the error."""
    return ServerError(asked.text(f"HTTP {answer.status}", what), **asked.known(answer))


def is_export(head: Response) -> bool:
    """Tell whether a body is worth saving."""
    coding = head.headers.get("content-encoding", "identity").strip().lower()
    html = "html" in head.headers.get("content-type", "").lower()
    return head.status == 200 and not html and coding in ("identity", "gzip", "x-gzip")


def check_export(asked: RequestInfo, answer: Response) -> None:
    """See to it that a success is an export.

    :raises ServerError: when it is not.
    """
    if not is_export(answer):
        raise not_from_mixpanel(asked, answer, "something that is no export")


def _words(value: Any) -> set[str]:
    """Return the texts in parameters, and the literals in those that are expressions."""
    if isinstance(value, dict):
        return {word for inner in value.values() for word in _words(inner)}
    if isinstance(value, (list, tuple, set)):
        return {word for inner in value for word in _words(inner)}
    text = str(value)
    literals = [literal for accessor, _, literal in LITERAL.findall(text) if not accessor]
    return {word for word in (text, *literals) if len(word) > 2}


def _reason(answer: Response) -> str:
    text = _text(answer)
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


def _text(answer: Response) -> str:
    try:
        body = _unpacked(answer, most=64 * 1024, whole=False)
    except ValueError:
        body = b""
    return body.decode("utf-8", "replace")


def _unpacked(answer: Response, *, most: int = MOST_BYTES + 1, whole: bool = True) -> bytes:
    coding = answer.headers.get("content-encoding", "").strip().lower()
    if coding in ("", "identity"):
        return answer.body[:most]
    if coding not in ("gzip", "x-gzip"):
        raise ValueError(f"a body in the coding {coding[:20]!r}, which was not asked for")
    unpacked, rest = bytearray(), answer.body
    try:
        while rest and len(unpacked) < most:
            member = zlib.decompressobj(31)
            unpacked += member.decompress(rest, most - len(unpacked))
            if whole and not member.eof and len(unpacked) < most:
                raise ValueError("a gzip body that is cut short")
            rest = member.unused_data
    except zlib.error as error:
        raise ValueError("a body that is not the gzip it claims to be") from error
    return bytes(unpacked)
