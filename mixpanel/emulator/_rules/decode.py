"""Read what clients send: JSON, NDJSON, form fields, old base64, gzip - and nothing too large.

A room without I/O.
"""

import base64
import binascii
import zlib
from typing import Any, NamedTuple
from urllib.parse import parse_qsl

from pydantic_core import from_json

GZIP = 31  # the window bits that make zlib read a gzip header


class RefusedRequest(Exception):  # noqa: N818  # an answer, not a failure of ours
    """Refuse a whole request with a status and a reason."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(status, message)
        self.status = status
        self.message = message


class Payload(NamedTuple):
    """What a request's body holds. `form` are its form fields, `text` the JSON to be read."""

    text: bytes
    form: dict[str, str] | None = None
    lines: bool = False


def unzipped(body: bytes, *, encoding: str, room: int) -> bytes:
    """Undo the `Content-Encoding`, and stop one byte past the `room` there is."""
    encoding = encoding.strip().lower()
    if encoding in ("", "identity"):
        return body
    if encoding != "gzip":
        raise RefusedRequest(415, f"Content-Encoding {encoding!r} is not supported")
    parts: list[bytes] = []
    left = room + 1
    while body and left > 0:
        member = zlib.decompressobj(GZIP)
        try:
            parts.append(member.decompress(body, left))
        except zlib.error as error:
            raise RefusedRequest(400, f"body is not valid gzip: {error}") from error
        left -= len(parts[-1])
        if not member.eof and left > 0:
            raise RefusedRequest(400, "body is not valid gzip: it ends early")
        body = member.unused_data
    return b"".join(parts)


def too_large(limit: int) -> RefusedRequest:
    """Refuse a body for its size, in the documented words."""
    return RefusedRequest(413, f"request exceeds max limit of {limit} bytes")


def payload(body: bytes, content_type: str) -> Payload:
    """Find the JSON in a body: it is the body, or its form field `data`."""
    kind = content_type.partition(";")[0].strip().lower()
    if kind in ("application/x-ndjson", "application/ndjson", "application/jsonl"):
        return Payload(body, lines=True)
    if kind == "application/x-www-form-urlencoded" or body.startswith(b"data="):
        try:
            form = dict(parse_qsl(body.decode(), keep_blank_values=True, errors="strict"))
        except ValueError as error:
            raise RefusedRequest(400, f"form is not valid: {error}") from error
        return Payload(_data(form.get("data", "")), form)
    return Payload(body)


def _data(field: str) -> bytes:
    text = field.strip()
    if text.startswith(("[", "{")):
        return text.encode()
    try:
        # A form turns an unescaped + into a space.
        return base64.b64decode(text.replace(" ", "+"), validate=True)
    except (binascii.Error, ValueError):
        return text.encode()


def records(payload: Payload) -> list[Any]:
    """Parse the records; a single object is a list of one."""
    if payload.lines:
        return [_json(line) for line in payload.text.split(b"\n") if line.strip()]
    value = _json(payload.text)
    return value if isinstance(value, list) else [value]


def _json(text: bytes) -> Any:
    try:
        return from_json(text, allow_inf_nan=False, cache_strings="keys")
    except ValueError as error:
        raise RefusedRequest(400, f"invalid JSON: {error}") from error


def decoded(body: bytes, headers: dict[str, str], *, room: int = 1 << 30) -> list[Any]:
    """Read a recorded request's records, or none when they cannot be read."""
    try:
        text = unzipped(body, encoding=headers.get("content-encoding", ""), room=room)
        return records(payload(text, headers.get("content-type", "")))
    except RefusedRequest:
        return []
