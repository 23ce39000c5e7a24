"""The responses of the endpoints, in the formats that they document.

Two are not documented and chosen here: 413 and 429 on `/track`, `/engage` and `/groups` (like their
401), and their responses with `strict=1` (like those of `/import`, plus `status` as 1 or 0,
`error` and `num_good_events`).
"""

from collections.abc import Sequence
from hashlib import blake2b
from http import HTTPStatus
from typing import Any, Literal

from pydantic_core import to_json
from starlette.responses import PlainTextResponse, Response

from mixpanel.emulator._rules.events import RejectedRecord

PARTIAL = "some data points in the request failed validation"
CLASSES = {2: "Successful", 3: "Redirection", 4: "Client Error", 5: "Server Error"}

PIXEL = bytes.fromhex(
    "47494638396101000100800000000000ffffff21f90401000000002c00000000010001000002024401003b"
)

ErrorShape = Literal["code", "error", "text"]


class Json(Response):
    """A compact JSON response."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        """Return the content as JSON."""
        return to_json(content)


def imported(good: int, rejected: Sequence[RejectedRecord], *, strict: bool) -> Response:
    """Return the response of `/import`: how many were stored and, if `strict`, the rejected."""
    if not strict or not rejected:
        return Json({"code": 200, "num_records_imported": good, "status": "OK"})
    return Json(_partial(good, rejected, status="Bad Request"), 400)


def imported_form(good: int, rejected: Sequence[RejectedRecord], *, strict: bool) -> Response:
    """Return the response of a form-encoded `/import` with `verbose=1`, for the official SDK."""
    if not strict or not rejected:
        return Json({"status": 1, "error": None})
    return Json(_partial(good, rejected, status=0), 400)


def accepted(
    good: int, rejected: Sequence[RejectedRecord], *, strict: bool, verbose: bool, empty: bool
) -> Response:
    """Return the response of `/track`, `/engage` and `/groups`: 1 if any record is valid."""
    status = 0 if empty or (rejected and not good) else 1
    if strict:
        body = {
            "code": 400 if rejected else 200,
            "error": PARTIAL if rejected else None,
            "status": 0 if rejected else status,
            "num_good_events": good,
            "failed_records": [_failed(each) for each in rejected],
        }
        return Json(body, 400 if rejected else 200)
    if verbose:
        reason = rejected[0].message if rejected else "no data"
        return Json({"status": status, "error": None if status else reason})
    return PlainTextResponse(str(status))


def pixel() -> Response:
    """Return an image of one transparent pixel, for `img=1`."""
    return Response(PIXEL, media_type="image/gif")


def script(function: str, response: Response) -> Response:
    """Return a response as a script that calls a function with it, for `callback=` (JSONP)."""
    body = f"{function}({bytes(response.body).decode()});"
    headers = {"x-content-type-options": "nosniff"}
    return Response(body, response.status_code, headers, "text/javascript")


def tagged(body: bytes, *, known: str) -> Response:
    """Return JSON with its strong ETag, or 304 if that is among the `known` ones."""
    tag = f'"{blake2b(body, digest_size=16).hexdigest()}"'
    tags = {each.strip().removeprefix("W/") for each in known.split(",")}
    if tags & {tag, "*"}:
        return Response(status_code=304, headers={"etag": tag})
    return Response(body, media_type=Json.media_type, headers={"etag": tag})


def phrase(status: int) -> str:
    """Return the reason phrase of a status; without one, that of its class (RFC 9110, 15)."""
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return CLASSES.get(status // 100, "Unknown")


def refused(path: str, status: int, message: str) -> Response:
    """Return the response that refuses a whole request, in the format of its endpoint."""
    if path == "/import" or path.startswith("/lookup-tables"):
        reason = "Request Entity Too Large" if status == 413 else phrase(status)
        return Json({"code": status, "error": message, "status": reason}, status)
    if path == "/api/2.0/export":
        return PlainTextResponse(message, status)
    if path.startswith("/api/app/"):
        return Json({"status": "error", "error": message}, status)
    if path.startswith("/customerio/"):
        meta = {"errors": [message]} if status == 400 else {"error": message}
        return Json({"meta": meta}, status)
    if path.startswith("/hightouch/oauth/"):
        return Json({"error": "invalid_request", "error_description": message}, status)
    if path.startswith(("/hightouch/", "/segment/", "/rudderstack/")):
        return refused_by_hightouch(status, message)
    return Json({"error": message, "status": "error"}, status)


def refused_by_hightouch(status: int, message: str, shape: ErrorShape = "code") -> Response:
    """Return the response that refuses a request to Hightouch, in one of three formats."""
    if shape == "text":
        return PlainTextResponse(message, status)
    code = phrase(status).lower().replace(" ", "_")
    if shape == "error":
        return Json({"error": code, "error_description": message}, status)
    return Json({"code": code, "message": message}, status)


def _partial(good: int, rejected: Sequence[RejectedRecord], *, status: str | int) -> dict[str, Any]:
    return {
        "code": 400,
        "error": PARTIAL,
        "status": status,
        "num_records_imported": good,
        "failed_records": [_failed(each) for each in rejected],
    }


def _failed(refusal: RejectedRecord) -> dict[str, Any]:
    return {
        "index": refusal.index,
        "$insert_id": refusal.insert_id,
        "field": refusal.field,
        "message": refusal.message,
    }
