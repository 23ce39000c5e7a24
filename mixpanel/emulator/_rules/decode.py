"""Decode request bodies: JSON, NDJSON, form fields, base64 as old SDKs send it, gzip.

Does no I/O.
"""

import base64
import binascii
import zlib
from typing import Any, NamedTuple
from urllib.parse import parse_qsl

from pydantic_core import from_json

GZIP = 31  # the window bits that make zlib read a gzip header


class RefusedRequest(Exception):  # noqa: N818 - a response, not an error of the emulator
    """A whole request is refused, with a status and a message."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(status, message)
        self.status = status
        self.message = message


class Payload(NamedTuple):
    """A decoded body: the JSON text, and the form fields if it was a form.

    `lines` is True for NDJSON.
    """

    text: bytes
    form: dict[str, str] | None = None
    lines: bool = False


def decompress(body: bytes, *, encoding: str, max_size: int) -> bytes:
    """Decode the `Content-Encoding`; return at most one byte more than `max_size`."""
    encoding = encoding.strip().lower()
    if encoding in ("", "identity"):
        return body
    if encoding != "gzip":
        raise RefusedRequest(415, f"Content-Encoding {encoding!r} is not supported")
    parts: list[bytes] = []
    remaining = max_size + 1
    while body and remaining > 0:
        member = zlib.decompressobj(GZIP)
        try:
            parts.append(member.decompress(body, remaining))
        except zlib.error as error:
            raise RefusedRequest(400, f"body is not valid gzip: {error}") from error
        remaining -= len(parts[-1])
        if not member.eof and remaining > 0:
            raise RefusedRequest(400, "body is not valid gzip: it is truncated")
        body = member.unused_data
    return b"".join(parts)


def too_large(limit: int) -> RefusedRequest:
    """Return the error for a body that is too large, with the documented message."""
    return RefusedRequest(413, f"request exceeds max limit of {limit} bytes")


def payload(body: bytes, content_type: str) -> Payload:
    """Return the JSON in a body: the body itself, or its form field `data`."""
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
    """Parse the records; a single object becomes a list of one."""
    if payload.lines:
        return [_json(line) for line in payload.text.split(b"\n") if line.strip()]
    value = _json(payload.text)
    return value if isinstance(value, list) else [value]


def _json(text: bytes) -> Any:
    try:
        return from_json(text, allow_inf_nan=False, cache_strings="keys")
    except ValueError as error:
        raise RefusedRequest(400, f"invalid JSON: {error}") from error


def decode_records(body: bytes, headers: dict[str, str], *, max_size: int = 1 << 30) -> list[Any]:
    """Decode the records of a recorded request; return none if they cannot be decoded."""
    try:
        text = decompress(body, encoding=headers.get("content-encoding", ""), max_size=max_size)
        return records(payload(text, headers.get("content-type", "")))
    except RefusedRequest:
        return []
