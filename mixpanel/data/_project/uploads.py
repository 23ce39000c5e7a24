"""Send and fetch the CSV of lookup tables, at addresses that work without credentials."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import anyio

from mixpanel._http.request import USER_AGENT, Request
from mixpanel._http.responses import TransportFailure
from mixpanel.data._project import responses
from mixpanel.data.exceptions import ConfigError, ServerError
from mixpanel.data.project import LookupTable

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mixpanel.data._project.calls import ProjectCalls
    from mixpanel.data._project.table import Endpoint, Resource

__all__ = ["download", "upload"]

TIMEOUT = 600.0  # seconds for one file
POLLS = 300  # one a second
MAX_BYTES = 100_000_000
DONE, FAILED = ("SUCCESS",), ("FAILURE", "REVOKED", "NOT_FOUND")


async def upload(
    calls: ProjectCalls, resource: Resource, endpoint: Endpoint, given: Mapping[str, Any]
) -> LookupTable:
    """Send CSV to an address that Mixpanel gives out, and make a table of it.

    :raises ConfigError: for CSV that is too large.
    :raises APIError: when Mixpanel refuses.
    """
    content = given["csv"].encode()
    if len(content) > MAX_BYTES:
        raise ConfigError("a lookup table has at most 100 MB: leave out rows or columns")
    address = await calls.call(resource, _of(resource, "upload_url"))
    await _transfer(calls, "PUT", address.url, content)
    named = {"name": given["name"], "path": address.path, "key": address.key}
    prepared = await calls._prepared(
        resource,
        _of(resource, "register"),
        {**named, "id": given.get("id")} if "id" in given else named,
    )
    found = responses.results_of(await calls.send(prepared))
    if isinstance(found, dict) and found.get("uploadId"):
        found = await _finished(calls, resource, str(found["uploadId"]))
    known = {"name": given["name"], **({"id": given["id"]} if "id" in given else {})}
    return responses.read_object(LookupTable, found, f"{resource.name}.{endpoint.name}", known)


async def _finished(calls: ProjectCalls, resource: Resource, upload_id: str) -> Any:
    """Wait until a large file is processed.

    :raises ServerError: when that fails, or takes more than five minutes.
    """
    for _ in range(POLLS):
        state = await calls.call(resource, _of(resource, "upload_status"), (upload_id,))
        status = state.get("uploadStatus") if isinstance(state, dict) else None
        if status in DONE:
            result = state.get("result")
            return result if isinstance(result, dict) else {}
        if status in FAILED:
            raise ServerError(f"Mixpanel could not read the lookup table: {status}")
        await anyio.sleep(1)
    raise ServerError(
        f"Mixpanel is still reading the lookup table: ask for upload_status({upload_id!r}) later"
    )


async def download(
    calls: ProjectCalls, resource: Resource, endpoint: Endpoint, given: Mapping[str, Any]
) -> str:
    """Return the CSV of a table.

    :raises APIError: when Mixpanel refuses.
    """
    prepared = await calls._prepared(resource, endpoint, given)
    found = responses.results_of(await calls.send(prepared))
    if isinstance(found, dict):
        found = found.get("url") or found.get("download_url")
    if not isinstance(found, str) or not found:
        raise ServerError("Mixpanel's response has no address to download from", status_code=200)
    return (await _transfer(calls, "GET", found)).decode("utf-8-sig", "replace")


async def _transfer(
    calls: ProjectCalls, method: str, url: str | None, content: bytes = b""
) -> bytes:
    """Send or fetch a file at a signed address; it is never in an error.

    :raises ServerError: when that fails.
    """
    api = calls.api
    what = "fetching" if method == "GET" else "sending"
    target = urlsplit(url or "")
    ours = urlsplit(api.app_origin)
    is_ours = (target.scheme, target.netloc) == (ours.scheme, ours.netloc)
    if not target.netloc or not (target.scheme == "https" or is_ours):
        raise ServerError(f"{what} the CSV: Mixpanel gave out an address that is not https")
    headers = {"User-Agent": USER_AGENT}
    if method == "PUT":
        headers["Content-Type"] = "text/csv"
    request = Request(method, str(url), headers, content)
    result = await api._connections.receive(
        request, lambda _head: None, first=TIMEOUT, idle=TIMEOUT, overall=TIMEOUT
    )
    if isinstance(result, TransportFailure):
        raise ServerError(f"{what} the CSV: no response: {type(result.error).__name__}")
    if not 200 <= result.status < 300:
        raise ServerError(
            f"{what} the CSV: HTTP {result.status} from {target.hostname}",
            status_code=result.status,
        )
    return result.body


def _of(resource: Resource, name: str) -> Endpoint:
    found = resource.find(name)
    assert found is not None
    return found
