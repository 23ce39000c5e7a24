"""List the lookup tables of a project, or replace one as a whole."""

from __future__ import annotations

import csv
import gzip
import io
import random
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlencode

import anyio

from mixpanel._delivery import capture
from mixpanel._http.request import USER_AGENT, Request
from mixpanel._http.responses import (
    Response,
    ResponseOutcome,
    classify_status,
)
from mixpanel._records.json_encoding import loads
from mixpanel.exceptions import (
    ConfigurationError,
    DeliveryError,
    RejectedError,
    RejectedRecord,
    ServerError,
)
from mixpanel.settings import RetryPolicy

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from mixpanel._delivery.observer import Observer
    from mixpanel._http.connections import LoopConnections
    from mixpanel._http.ingestion import (
        IngestionApi,
    )
    from mixpanel.credentials import Secret

__all__ = ["LookupTable", "list_tables", "replace_table"]

RETRY = RetryPolicy(attempts=5, first_wait=0.5)
NAME = "lookup-tables"


@dataclass(frozen=True, slots=True)
class LookupTable:
    """A table that adds columns to an id in your events; created in Mixpanel's web interface."""

    id: str
    name: str


async def list_tables(
    api: IngestionApi, connections: LoopConnections, *, observer: Observer | None = None
) -> list[LookupTable]:
    """List the project's lookup tables."""
    data = await _request(api, connections, "GET", "", observer=observer)
    results = data.get("results") if isinstance(data, dict) else None
    return [
        LookupTable(str(row.get("id", "")), str(row.get("name", "")))
        for row in results or ()
        if isinstance(row, dict)
    ]


async def replace_table(
    api: IngestionApi,
    connections: LoopConnections,
    table_id: str,
    rows: str | bytes | Iterable[Mapping[str, Any]],
    *,
    observer: Observer | None = None,
) -> None:
    """Replace one table with CSV or rows."""
    named = isinstance(table_id, str) and table_id.isprintable() and table_id.strip(". ")
    if not named or "/" in table_id:
        raise ConfigurationError(
            f"table_id={table_id!r} is not the id of a lookup table: lookup_tables() lists them"
        )
    if not isinstance(rows, (str, bytes)):
        rows = as_csv(rows)
    content = rows.encode() if isinstance(rows, str) else rows
    path = f"/{quote(table_id, safe='')}"
    await _request(api, connections, "PUT", path, content, observer=observer)


def as_csv(rows: Iterable[Mapping[str, Any]]) -> str:
    """Return rows as the CSV that Mixpanel reads; the first row's keys are the columns."""
    text = io.StringIO()
    writer: csv.DictWriter[str] | None = None
    for row in rows:
        if writer is None:
            writer = csv.DictWriter(text, list(row), lineterminator="\r\n")
            writer.writeheader()
        try:
            writer.writerow(dict(row))
        except ValueError as error:
            raise ConfigurationError(
                f"every row needs the columns of the first: {error}"
            ) from error
    if writer is None:
        raise ConfigurationError("a lookup table needs at least one row")
    return text.getvalue()


async def _request(
    api: IngestionApi,
    connections: LoopConnections,
    method: str,
    path: str,
    content: bytes = b"",
    *,
    observer: Observer | None,
) -> Any:
    if capture.active is not None:
        raise ConfigurationError(
            "lookup tables cannot be captured: test them with mixpanel.emulator"
        )
    if api.credentials is None:
        raise ConfigurationError("lookup tables need credentials=ServiceAccountCredentials(...)")
    query: dict[str, str] = {}
    headers: dict[str, str | Secret] = {
        "Authorization": api.authorize(query) or "",
        "User-Agent": USER_AGENT,
        "Accept-Encoding": "identity",
    }
    if content:
        headers |= {"Content-Type": "text/csv", "Content-Encoding": "gzip"}
        content = gzip.compress(content, mtime=0)
    url = f"{api.endpoints.origin}/{NAME}{path}?{urlencode(query)}"
    failures = 0
    while True:
        request = Request(method, url, headers, content)
        reply = await connections.send(request)
        if observer is not None:
            observer.requested(request, reply)
        if isinstance(reply, Response) and 200 <= reply.status < 300:
            data = _read_json(reply.body)
            if data is not None and not _reports_failure(data):
                return data
            error, permanent = _failure_in_success(reply, data), data is not None
        else:
            classification = classify_status(reply, NAME)
            assert classification.error is not None
            error = classification.error
            permanent = classification.outcome not in (
                ResponseOutcome.RETRY,
                ResponseOutcome.AMBIGUOUS,
            )
        failures += 1
        if permanent or failures >= (RETRY.attempts or 1):
            raise _with_rejected_rows(error, reply if isinstance(reply, Response) else None)
        await anyio.sleep(RETRY.wait(failures, error.retry_after, random.random()))


def _read_json(body: bytes) -> dict[str, Any] | None:
    try:
        data = loads(body)
    except (ValueError, RecursionError):
        return None
    return data if isinstance(data, dict) else None


def _reports_failure(data: dict[str, Any]) -> bool:
    """Return True if the JSON of a success reports an error or rejected rows."""
    return bool(data.get("error") or data.get("failed_records")) or data.get("code", 200) != 200


def _failure_in_success(reply: Response, data: dict[str, Any] | None) -> DeliveryError:
    text = f"{NAME}: HTTP {reply.status}"
    if data is None:
        text += ": the response is not from Mixpanel"
        return ServerError(text, endpoint=NAME, status=reply.status)
    reason = "".join(c for c in str(data.get("error") or "")[:200] if c.isprintable())
    text += f": {reason or 'the response reports a failure without a reason'}"
    return RejectedError(text, endpoint=NAME, status=reply.status)


def _with_rejected_rows(error: DeliveryError, reply: Response | None) -> DeliveryError:
    if reply is None or not isinstance(error, RejectedError):
        return error
    try:
        listed = loads(reply.body).get("failed_records") or []
        error.rejected_records = tuple(
            RejectedRecord(int(row.get("index", -1)), str(row.get("message", "rejected")))
            for row in listed
        )
    except (ValueError, AttributeError, TypeError):
        return error
    return error
