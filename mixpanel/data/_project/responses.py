"""Read the responses of the app API, whichever of the known envelopes they come in. Pure."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, TypeVar

from mixpanel.data.exceptions import (
    ConflictError,
    ObjectNotFoundError,
    PermissionDeniedError,
    QueryError,
    ServerError,
)
from mixpanel.data.project import Items, ProjectObject

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from mixpanel.data._api.responses import RequestInfo
    from mixpanel.data._project.table import Endpoint, Resource

__all__ = ["check_error", "explained", "next_cursor", "read_list", "read_object", "results_of"]

Model = TypeVar("Model", bound=ProjectObject)
# What may stand beside `results`. Anything else means that `results` is a field of the object.
ENVELOPE = frozenset({"status", "results", "pagination", "code", "count", "page", "error"})


def check_error(response: Any, sent: RequestInfo) -> None:
    """Refuse an error that came with a successful status.

    :raises QueryError: with Mixpanel's reason.
    """
    if not isinstance(response, dict):
        return
    reason = response.get("error")
    if response.get("status") != "error" and not (reason and response.keys() <= ENVELOPE):
        return
    if response.get("results") is not None and response.get("status") != "error":
        return
    if isinstance(reason, dict):
        reason = reason.get("message") or reason.get("error") or ""
    text = sent.without_payload(" ".join(str(reason or "an error without a reason").split()))[:300]
    raise QueryError(sent.text("HTTP 200", text), **{**sent.error_fields(), "status_code": 200})


def results_of(response: Any, inside: Sequence[str] = ()) -> Any:
    """Return what a response is about, without its envelope, at these keys of it."""
    found = response
    if isinstance(found, dict) and "results" in found and found.keys() <= ENVELOPE:
        found = found["results"]
    for name in inside:
        if isinstance(found, dict) and name in found:
            found = found[name]
    return found


def next_cursor(response: Any) -> str | None:
    """Return where the next page of a list begins; None on the last."""
    for _ in range(2):
        if not isinstance(response, dict):
            return None
        pagination = response.get("pagination")
        if isinstance(pagination, dict) and pagination.get("next_cursor"):
            return str(pagination["next_cursor"])
        response = response.get("results")
    return None


def rows_of(found: Any, what: str) -> list[dict[str, Any]]:
    """Return objects that came as a list, as a second envelope, or as a mapping by id.

    :raises ServerError: for anything else.
    """
    if isinstance(found, dict) and isinstance(found.get("results"), list | dict):
        found = found["results"]
    if found is None:
        return []
    if isinstance(found, dict) and all(isinstance(each, dict) for each in found.values()):
        # A name is a better id than none; an id of the object's own is the best.
        found = [{"id": _id(key), **each} for key, each in found.items()]
    if isinstance(found, list) and found and isinstance(found[0], list):
        found = found[0]  # what follows says when it was computed
    if not isinstance(found, list):
        raise _unexpected(what)
    return [each if isinstance(each, dict) else {"value": each} for each in found]


def read_list(model: type[Model], found: Any, what: str) -> Items[Model]:
    """Return a list of objects.

    :raises ServerError: for a response of another shape.
    """
    return Items(model.read(each) for each in rows_of(found, what))


def read_object(
    model: type[Model], found: Any, what: str, known: Mapping[str, Any] | None = None
) -> Model:
    """Return one object; `known` are fields that a response may lack, such as its id.

    :raises ServerError: for a response of another shape.
    """
    if isinstance(found, list) and len(found) == 1:
        found = found[0]
    if isinstance(found, dict) and len(found) == 1:
        # Under its id, as saved metrics are.
        key, inner = next(iter(found.items()))
        if isinstance(inner, dict) and (key.isdecimal() or "id" in inner):
            found = {"id": _id(key), **inner} if key.isdecimal() else inner
    if isinstance(found, str | int) and not isinstance(found, bool):
        found = {"id": found}
    if not isinstance(found, dict):
        raise _unexpected(what)
    return model.read({**(known or {}), **found})


def _id(key: str) -> int | str:
    return int(key) if key.isdecimal() else key


def _unexpected(what: str) -> ServerError:
    return ServerError(f"Mixpanel's response to {what} has no known shape", status_code=200)


def explained(
    error: QueryError, resource: Resource, endpoint: Endpoint, given: Mapping[str, Any]
) -> QueryError:
    """Return the error of a refused call as the class that says what to do about it."""
    fields: dict[str, Any] = {
        "status_code": error.status_code,
        "response_body": error.response_body,
        "request_method": error.request_method,
        "request_url": error.request_url,
        "request_params": error.request_params,
        "retry_after": error.retry_after,
    }
    if error.status_code == 403:
        hint = "; the credentials lack a permission for this, or the plan does"
        return PermissionDeniedError(error.message + hint, **fields)
    if error.status_code == 409:
        hint = f"; there may be a {resource.singular} of that name already"
        return ConflictError(error.message + hint, **fields)
    in_path = [each.name for each in endpoint.arguments if each.positional]
    if error.status_code == 404 and in_path and in_path[0] in given:
        number = given[in_path[0]]
        return ObjectNotFoundError(resource.name, resource.singular, number, **fields)
    place = _place(error.response_body)
    if place:
        error.message += f" (at {place})"
        error.args = (error.message,)
    return error


def _place(body: str | None) -> str:
    """Return the field that a JSON schema refused: its path comes with the last key first."""
    try:
        details = json.loads(body or "").get("details") or {}
        return ".".join(str(each) for each in reversed(details["path"]))
    except (ValueError, TypeError, KeyError, AttributeError):
        return ""
