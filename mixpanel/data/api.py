"""Ask Mixpanel's reading APIs: within the project's budget, with retries and typed errors."""

from __future__ import annotations

import json
import random as _random
import re
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, get_args
from urllib.parse import parse_qsl, urlencode, urlsplit

import anyio
import anyio.to_thread

from mixpanel._http.proxies import (
    TransportOptions,
)
from mixpanel._http.request import (
    USER_AGENT,
    Request,
)
from mixpanel._http.responses import (
    Response,
    TransportFailure,
    retry_after,
)
from mixpanel.credentials import Secret
from mixpanel.data._api import rate_limits, responses
from mixpanel.data._api.download import Part, StreamingConnections
from mixpanel.data._api.quota import is_counted, quotas_in
from mixpanel.data._api.responses import RequestInfo
from mixpanel.data.exceptions import (
    APIError,
    AuthenticationError,
    ConfigError,
    QueryError,
    RateLimitError,
)
from mixpanel.exceptions import ClosedError, ConfigurationError
from mixpanel.settings import Family, Origins, Region, RetryPolicy

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping
    from pathlib import Path
    from typing import Self

    from mixpanel.data._api.rate_limits import Budget, Call
    from mixpanel.data.config import Credentials

__all__ = ["AsyncAPI", "Downloaded"]

RETRY = RetryPolicy(attempts=5, first_wait=1.0, max_age=3600.0)
CONNECTIONS = 128  # above what all budgets together let be under way
EXPORT_STARTS = 300.0  # seconds until an export's first byte: Mixpanel gathers it first
IDLE = 60.0  # seconds between two chunks of an export
DEADLINES: dict[Family, float] = {"query": 503.0, "app": 135.0, "export": 600.0}
OVERALL = 3600.0  # seconds for one export
IN_A_THREAD = 64 * 1024  # bytes above which reading JSON would be felt by the loop
REPEATABLE = frozenset({"GET", "HEAD", "PUT", "DELETE"})
NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")  # of a header
OURS = frozenset({"authorization", "host", "content-length", "transfer-encoding", "cookie"})


@dataclass(frozen=True, slots=True)
class Downloaded:
    """An export in a file; with `gzip` its bytes are packed.

    `attempts` counts requests; `digest` is the SHA-256 of the file, in hexadecimal.
    """

    path: Path
    bytes: int
    gzip: bool
    attempts: int
    digest: str = ""


class AsyncAPI:
    """Ask for a project's data; works in any event loop, and in several.

    All calls of this user's processes share the project's budget: `on_wait(seconds, why)` is called
    when one must wait over four seconds for it. A 429 makes all wait, for as long as the server
    says. What would have to wait longer than `patience` seconds raises `RateLimitError`. Transient
    failures are repeated as `retry` says. `timeout` bounds one attempt in seconds, exports aside;
    by default it is a little longer than Mixpanel's own, so that its error arrives.

    Without `base_url`, the environment's `MP_BASE_URL` counts, then the credentials' region.

    :raises ConfigError: for a `base_url` or region that cannot work.
    """

    def __init__(
        self,
        credentials: Credentials,
        *,
        base_url: str | None = None,
        retry: RetryPolicy | None = None,
        transport: TransportOptions | None = None,
        on_wait: Callable[[float, str], object] | None = None,
        timeout: float | None = None,
        patience: float = rate_limits.PATIENCE,
        sleep: Callable[[float], Awaitable[object]] = anyio.sleep,
        random: Callable[[], float] = _random.random,
    ) -> None:
        try:
            self._origins = Origins.resolve(region=credentials.region, base_url=base_url)
        except ConfigurationError as error:
            raise ConfigError(str(error)) from None
        self.project_id: str = credentials.project_id
        self.region: Region = credentials.region
        self.on_wait = on_wait
        origins, project = self._origins, self.project_id
        budget = rate_limits.shared
        self.export_budget: rate_limits.Budget = budget("export", origins.export, project)
        self.query_budget: rate_limits.Budget = budget("query", origins.query, project)
        self._app_budget: rate_limits.Budget = budget("app", origins.app, project)
        self._credentials = credentials
        self._retry = retry or RETRY
        self._timeout = timeout
        self._patience = patience
        self._sleep = sleep
        self._random = random
        transport = transport or TransportOptions()
        connections = max(transport.connections, CONNECTIONS)
        self._connections = StreamingConnections(replace(transport, connections=connections))
        self._closed = False

    def __repr__(self) -> str:
        return f"<AsyncAPI of project {self.project_id} in {self.region!r}>"

    @property
    def app_origin(self) -> str:
        """The scheme and host of Mixpanel's web application and its app API."""
        return self._origins.app

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_exc: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the connections."""
        self._closed = True
        await self._connections.aclose()

    # ---- asking ---------------------------------------------------------------------------------

    async def query(
        self,
        path: str,
        *,
        params: Mapping[str, Any] | None = None,
        form: Mapping[str, Any] | None = None,
        json_body: Any = None,
        method: str | None = None,
        repeat: bool = True,
    ) -> Any:
        """Ask the Query API; `path` is what follows `/api/query/`, as in "events/names".

        None is left out of `params` and `form`, lists and dicts are sent as JSON. The method is
        GET, or POST with a form or JSON. Without `repeat`, a call that may have cost one of the
        hourly queries is not made again.

        :raises APIError: of the kind that fits.
        """
        path = "/api/query/" + path.removeprefix("/api/query").lstrip("/")
        method = method or ("GET" if form is None and json_body is None else "POST")
        return await self._requested(
            method,
            path,
            params=params,
            form=form,
            json_body=json_body,
            family="query",
            repeat=repeat,
        )

    async def request(
        self,
        method: str,
        url: str,
        *,
        params: Mapping[str, Any] | None = None,
        json_body: Any = None,
        form: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
        timeout: float | None = None,
        family: Family | None = None,
    ) -> Any:
        """Ask anything, and return its JSON: for endpoints that have no method of their own here.

        `url` is a path such as "/api/app/me", or absolute and on one of Mixpanel's hosts of this
        region (or on `base_url`): credentials go nowhere else. `family` chooses host and budget;
        by default the path does. Query and export calls are given the `project_id`. A POST to
        the app API may change something, so it is repeated only if it surely did not arrive.

        :raises ConfigError: for a URL or header that would carry credentials elsewhere.
        :raises APIError: of the kind that fits.
        """
        return await self._requested(
            method, url, params=params, json_body=json_body, form=form,
            headers=headers, timeout=timeout, family=family,
        )  # fmt: skip

    async def _requested(
        self,
        method: str,
        url: str,
        *,
        params: Mapping[str, Any] | None = None,
        json_body: Any = None,
        form: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
        timeout: float | None = None,
        family: Family | None = None,
        repeat: bool = True,
    ) -> Any:
        method = method.upper()
        target, family, query = self._checked_url(url, family)
        outgoing, content = self._headers(headers), b""
        if form is not None:
            content = urlencode(_plain(form)).encode()
            outgoing["Content-Type"] = "application/x-www-form-urlencoded"
        elif json_body is not None:
            content = json.dumps(json_body).encode()
            outgoing["Content-Type"] = "application/json"
        asked_for = {**dict(parse_qsl(query)), **(params or {}), **(form or {})}
        if json_body is not None:
            asked_for |= json_body if isinstance(json_body, dict) else {"json_body": json_body}
        asked = self._asked(method, target, asked_for)
        in_body = isinstance(json_body, dict) and "project_id" in json_body
        full = self._with_query(target, query, params, "app" if in_body else family)
        request = Request(method, full, outgoing, content)
        seconds = timeout or self._timeout or DEADLINES[family]
        counted = family == "export" or is_counted(target, asked_for)

        async def attempt(_call: Call) -> Response | TransportFailure:
            return await self._connections.receive(
                request, lambda _head: None, first=seconds, idle=seconds, overall=seconds
            )

        idempotent = repeat and (method in REPEATABLE or family != "app")
        answer, _ = await self._settle(
            asked, self._budget_of(family), attempt, idempotent=idempotent, counted=counted
        )
        if len(answer.body) < IN_A_THREAD:
            return responses.parsed(asked, answer)
        return await anyio.to_thread.run_sync(responses.parsed, asked, answer)

    async def check(self) -> None:
        """Find out whether the credentials are accepted, at no cost to the budgets.

        :raises AuthenticationError: when they are not.
        """
        try:
            await self.request("GET", "/api/app/me", family="app")
        except QueryError as error:
            if error.status_code != 403:
                raise
            raise AuthenticationError(
                error.message,
                status_code=403,
                response_body=error.response_body,
                request_method=error.request_method,
                request_url=error.request_url,
            ) from error

    async def download(
        self,
        path: Path,
        params: Mapping[str, Any],
        *,
        on_bytes: Callable[[int], object] | None = None,
        idle: float = IDLE,
        overall: float = OVERALL,
    ) -> Downloaded:
        """Save one raw export, byte for byte as Mixpanel sends it, mostly gzipped.

        A failed attempt leaves nothing: each starts the file anew, and without success there is
        no file. `on_bytes` is told how many bytes came; a negative number takes back those of a
        failed attempt. Each attempt may pause for `idle` and take `overall` seconds.

        That the answer was complete as HTTP does not say that the export was: see its last line.

        :raises APIError: of the kind that fits.
        """
        target = f"{self._origins.export}/api/2.0/export"
        asked = self._asked("GET", target, params)
        headers = self._headers(None)
        request = Request("GET", self._with_query(target, "", params, "export"), headers)
        part = Part(path, on_bytes)

        async def attempt(call: Call) -> Response | TransportFailure:
            part.restart()

            def into(head: Response) -> Callable[[bytes], Awaitable[object]] | None:
                if not responses.is_export(head):
                    return None
                call.accepted()
                return part.write

            first = max(self._timeout or 0.0, EXPORT_STARTS)
            return await self._connections.receive(
                request, into, first=first, idle=idle, overall=overall
            )

        try:
            answer, attempts = await self._settle(asked, self.export_budget, attempt)
            responses.check_export(asked, answer)
            await part.finish()
        except BaseException:
            part.discard()
            raise
        packed = "gzip" in answer.headers.get("content-encoding", "").lower()
        return Downloaded(path, part.bytes, packed, attempts, part.digest)

    # ---- one request, until it is settled -------------------------------------------------------

    async def _settle(
        self,
        asked: RequestInfo,
        budget: Budget,
        attempt: Callable[[Call], Awaitable[Response | TransportFailure]],
        *,
        idempotent: bool = True,
        counted: bool = True,
    ) -> tuple[Response, int]:
        """Repeat an attempt until it succeeds; return its answer and the number of attempts."""
        call = budget.call(on_wait=self.on_wait, patience=self._patience, counted=counted)
        error: APIError | None = None
        attempts = failures = 0
        first_failed = 0.0
        while True:
            reply = await self._attempted(call, attempt, error)
            attempts += 1
            if isinstance(reply, Response) and responses.is_success(reply):
                return reply, attempts
            error = _naming_once(responses.error_of(asked, reply))
            if isinstance(error, RateLimitError):
                continue  # the budget knows for how long
            if not responses.is_worth_repeating(reply, idempotent=idempotent):
                raise error
            failures += 1
            first_failed = first_failed or time.monotonic()
            wait = self._retry.wait(failures, error.retry_after, self._random())
            late = time.monotonic() + wait - first_failed > self._retry.max_age
            if late or failures >= (self._retry.attempts or failures + 1):
                raise error
            await self._sleep(wait)

    async def _attempted(
        self,
        call: Call,
        attempt: Callable[[Call], Awaitable[Response | TransportFailure]],
        refused: APIError | None,
    ) -> Response | TransportFailure:
        if self._closed:
            raise ClosedError("the API was closed; make a new one")
        try:
            async with call:
                reply = await attempt(call)
                if isinstance(reply, Response):
                    quotas = quotas_in(reply.headers)
                    call.learn(quotas)
                    if responses.is_rate_limit(reply):
                        call.refused(retry_after(reply.headers), quotas)
                    else:
                        call.accepted()
                if _is_free(reply):
                    call.uncounted()
        except RateLimitError as spent:
            if not isinstance(refused, RateLimitError):
                raise
            refused.retry_after = refused.details["retry_after"] = spent.retry_after
            refused.next_slot_at = spent.next_slot_at
            refused.details |= {"next_slot_at": spent.details.get("next_slot_at")}
            raise refused from spent
        return reply

    # ---- what is sent, and where ----------------------------------------------------------------

    def _checked_url(self, url: str, family: Family | None) -> tuple[str, Family, str]:
        """Return the URL without its query, put together from one of our own origins."""
        if any(c.isspace() or ord(c) < 0x20 or c in "\\#" for c in url):
            raise ConfigError("the URL holds white space, a control character, # or a backslash")
        if family is not None and family not in get_args(Family):
            raise ConfigError(f"family={family!r} is unknown; choose query, export or app")
        target, _, query = url.partition("?")
        if target.startswith("/") and not target.startswith("//"):
            chosen = family or _family_of(target)
            return getattr(self._origins, chosen) + target, chosen, query
        origins = self._origins
        for origin in (origins.query, origins.export, origins.ingestion):
            if target.lower().startswith(origin.lower() + "/"):
                path = target[len(origin) :]
                return origin + path, family or _family_of(path), query
        elsewhere = urlsplit(target).netloc.rpartition("@")[2]
        raise ConfigError(
            f"{elsewhere or 'the URL'} is no host of this project: give a path that begins with "
            f"a slash, or a URL that begins with {origins.query}/"
        )

    def _with_query(
        self, target: str, query: str, params: Mapping[str, Any] | None, family: Family
    ) -> str:
        values = _plain(params or {})
        if family != "app" and "project_id=" not in query:
            values.setdefault("project_id", self.project_id)
        query = "&".join(filter(None, [query, urlencode(values)]))
        return f"{target}?{query}" if query else target

    def _headers(self, extra: Mapping[str, str] | None) -> dict[str, str | Secret]:
        headers: dict[str, str | Secret] = {"Accept-Encoding": "gzip", "User-Agent": USER_AGENT}
        for name, value in (extra or {}).items():
            if not isinstance(name, str) or name.lower() in OURS or not NAME.fullmatch(name):
                raise ConfigError(f"the header {str(name)[:40]!r} cannot be set here")
            if not isinstance(value, str) or not (value.isascii() and value.isprintable()):
                raise ConfigError(
                    f"the value of the header {name[:40]!r} must be a string of printable ASCII"
                )
            headers[name] = value.strip()
        return headers | {"Authorization": Secret(self._credentials.authorization())}

    def _asked(self, method: str, target: str, params: Mapping[str, Any]) -> RequestInfo:
        return RequestInfo(method, target, dict(params), Secret(self._credentials.authorization()))

    def _budget_of(self, family: Family) -> Budget:
        budgets = {"query": self.query_budget, "export": self.export_budget}
        return budgets.get(family, self._app_budget)


def _is_free(reply: Response | TransportFailure) -> bool:
    """Return True if an attempt cost nothing, whatever the kind of call."""
    if isinstance(reply, TransportFailure):
        return not reply.may_have_been_sent
    return reply.status in (401, 402)


def _naming_once(error: APIError) -> APIError:
    """Leave out the URL that a failed connection names: the error begins with it."""
    error.message = error.message.replace(f" ({error.request_url})", "")
    error.args = (error.message,)
    return error


def _family_of(path: str) -> Family:
    if path.startswith("/api/2.0/export"):
        return "export"
    return "query" if path.startswith(("/api/query", "/api/2.0")) else "app"


def _plain(values: Mapping[str, Any]) -> dict[str, str]:
    """Return values as the APIs read them: lists and dicts as JSON, truth in lower case."""
    plain = {}
    for name, value in values.items():
        if isinstance(value, (bool, list, tuple, dict)):
            plain[name] = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
        elif value is not None:
            plain[name] = str(value)
    return plain
