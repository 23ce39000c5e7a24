"""The calls of the app API, and their results: shared by its parts."""

import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple
from urllib.parse import parse_qsl

from pydantic_core import from_json

from mixpanel.emulator._rules.decode import RefusedRequest, decompress
from mixpanel.emulator._storage.profile_query import read_form
from mixpanel.emulator._storage.request_log import RecordedRequest

CREATED = 201
NO_CONTENT = 204
MAX_BODY = 2**27


class AppResponse(NamedTuple):
    """The results of a call, its status, and whether they come without an envelope."""

    results: Any
    status: int = 200
    bare: bool = False


class Call(NamedTuple):
    """One call: its method, path below the project, parameters and body, and the project."""

    method: str
    path: str
    query: Mapping[str, str]
    body: Mapping[str, Any]
    project_id: str
    names: tuple[str, ...] = ()  # the values of `name[]`, which may be repeated
    address: str = ""  # of this server

    def require(self, *names: str) -> None:
        """Refuse a body without these fields.

        :raises RefusedRequest: 400.
        """
        missing = [each for each in names if self.body.get(each) in (None, "")]
        if missing:
            raise RefusedRequest(400, f"{', '.join(missing)}: required")


Handler = Callable[[Call, list[str]], AppResponse]


def read_body(recorded: RecordedRequest) -> dict[str, Any]:
    """Return the fields of a body: JSON, a form, or none."""
    encoding = recorded.headers.get("content-encoding", "")
    body = decompress(recorded.body, encoding=encoding, max_size=MAX_BODY)
    kind = recorded.headers.get("content-type", "")
    return read_form(body, kind) if body.strip() else {}


def read_names(query: str) -> tuple[str, ...]:
    """Return the names that a list is limited to, from the query of a URL."""
    pairs = parse_qsl(query, keep_blank_values=True)
    found = [value for name, value in pairs if name in ("name", "names", "name[]")]
    if len(found) == 1 and found[0].startswith("["):
        return tuple(map(str, read_json(found[0], "name")))
    return tuple(found)


def read_json(value: Any, name: str) -> Any:
    """Return a value, parsed if it is JSON text.

    :raises RefusedRequest: 400: it is not valid JSON.
    """
    if not isinstance(value, str):
        return value
    try:
        return from_json(value)
    except ValueError as error:
        raise RefusedRequest(400, f"{name} is not valid JSON") from error


def numbers(value: Any, name: str) -> list[Any]:
    """Return the ids in a body.

    :raises RefusedRequest: 400: they are missing.
    """
    found = read_json(value, name) if isinstance(value, str) else value
    if isinstance(found, list):
        return found
    if isinstance(found, int):
        return [found]
    raise RefusedRequest(400, f"{name} is required")


def chosen_ids(query: Mapping[str, str]) -> set[str] | None:
    """Return the ids that a list is limited to, None without a limit."""
    text = query.get("ids")
    return None if text is None else set(re.findall(r"[\w-]+", text))
