"""Call Mixpanel's reading APIs: within the rate limits, with retries and typed errors."""

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
from mixpanel.data._api import rate_limits, responses
from mixpanel.data._api.download import PartFile, StreamingConnections
from mixpanel.data._api.quota import is_counted, quotas_in
from mixpanel.data._api.responses import RequestInfo
from mixpanel.data._oauth.authorization import authorization_of
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

    from mixpanel.credentials import Secret
    from mixpanel.data._api.rate_limits import ApiRateLimiter, Slot
    from mixpanel.data.credentials import AnyCredentials

    Attempt = Callable[[Slot, Secret], Awaitable[Response | TransportFailure]]

__all__ = ["AsyncAPI", "Downloaded"]

RETRY = RetryPolicy(attempts=5, first_wait=1.0, max_age=3600.0)
CONNECTIONS = 128  # more than the rate limits let run at the same time
EXPORT_HEADERS_TIMEOUT = 300.0  # seconds: Mixpanel collects an export before its first byte
EXPORT_IDLE_TIMEOUT = 60.0  # seconds between two pieces of an export
EXPORT_TIMEOUT = 3600.0  # seconds for one export
TIMEOUTS: dict[Family, float] = {"query": 503.0, "app": 135.0, "export": 600.0}
PARSE_IN_THREAD = 64 * 1024  # bytes of JSON above which parsing would block the event loop
IDEMPOTENT = frozenset({"GET", "HEAD", "PUT", "DELETE"})
HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
RESERVED_HEADERS = frozenset(
    {"authorization", "host", "content-length", "transfer-encoding", "cookie"}
)


@dataclass(frozen=True, slots=True)
class Downloaded:
    """An export that was saved to a file, compressed if `gzip` is True.

    `attempts` is the number of requests; `digest` is the SHA-256 of the file, in hexadecimal.
    """

    path: Path
    bytes: int
    gzip: bool
    attempts: int
    digest: str = ""


class AsyncAPI:
    """Client for Mixpanel's reading APIs; works on any event loop, and on several at once.

    >>> async with AsyncAPI(credentials) as api:  # doctest: +SKIP
    ...     names = await api.query("events/names", params={"type": "general"})

    All processes of this user share the project's rate limits. `on_wait(seconds, why)` is called
    when a call must wait more than four seconds for one; a call that would wait longer than
    `max_wait` seconds raises `RateLimitError`. A 429 makes all calls wait as long as the server
    asks. Transient failures are retried according to `retry`. `timeout` is the limit for one
    attempt in seconds, exports aside; the default is a little longer than Mixpanel's own limit, so
    that its error arrives.

    The server is `base_url`, else the environment's `MP_BASE_URL`, else that of the credentials'
    region.

    :raises ConfigError: for an invalid `base_url` or region.
    """

    def __init__(
        self,
        credentials: AnyCredentials,
        *,
        base_url: str | None = None,
        retry: RetryPolicy | None = None,
        transport: TransportOptions | None = None,
        on_wait: Callable[[float, str], object] | None = None,
        timeout: float | None = None,
        max_wait: float = rate_limits.MAX_WAIT,
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
        shared = rate_limits.shared
        self.export_limiter: rate_limits.ApiRateLimiter = shared("export", origins.export, project)
        self.query_limiter: rate_limits.ApiRateLimiter = shared("query", origins.query, project)
        self._app_limiter: rate_limits.ApiRateLimiter = shared("app", origins.app, project)
        self._retry = retry or RETRY
        self._timeout = timeout
        self._max_wait = max_wait
        self._sleep = sleep
        self._random = random
        transport = transport or TransportOptions()
        connections = max(transport.connections, CONNECTIONS)
        self._connections = StreamingConnections(replace(transport, connections=connections))
        self._authorization = authorization_of(credentials, origins.app, self._connections)
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
        """Close the connections; later calls raise `ClosedError`."""
        self._closed = True
        await self._authorization.settle()
        await self._connections.aclose()

    # ---- calls ----------------------------------------------------------------------------------

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
        """Call the Query API and return its JSON.

        >>> await api.query("events/names", params={"type": "general"})  # doctest: +SKIP

        `path` is relative to `/api/query/`. In `params` and `form`, None is left out, and lists
        and dicts are sent as JSON. The method is GET, or POST with a form or JSON. With
        `repeat=False`, a call that may have cost one of the hourly queries is not repeated.

        :raises APIError: when the call fails; see `mixpanel.data.exceptions` for its subclasses.
        """
        path = "/api/query/" + path.removeprefix("/api/query").lstrip("/")
        method = method or ("GET" if form is None and json_body is None else "POST")
        return await self._send(
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
        """Call any endpoint and return its JSON, for those without a method of their own.

        >>> await api.request("GET", "/api/app/me")  # doctest: +SKIP

        `url` is a path, or a URL on one of Mixpanel's hosts for this region (or on `base_url`):
        credentials are sent nowhere else. `family` selects the host and the rate limit; by default
        the path does. `project_id` is added to query and export calls. A POST to the app API may
        change something, so it is repeated only if it certainly did not arrive.

        :raises ConfigError: for a URL on another host, or a header that cannot be set.
        :raises APIError: when the call fails; see `mixpanel.data.exceptions` for its subclasses.
        """
        return await self._send(
            method, url, params=params, json_body=json_body, form=form,
            headers=headers, timeout=timeout, family=family,
        )  # fmt: skip

    async def _send(
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
            content = urlencode(_encoded(form)).encode()
            outgoing["Content-Type"] = "application/x-www-form-urlencoded"
        elif json_body is not None:
            content = json.dumps(json_body).encode()
            outgoing["Content-Type"] = "application/json"
        sent_params = {**dict(parse_qsl(query)), **(params or {}), **(form or {})}
        if json_body is not None:
            sent_params |= json_body if isinstance(json_body, dict) else {"json_body": json_body}
        info = self._request_info(method, target, sent_params)
        in_body = isinstance(json_body, dict) and "project_id" in json_body
        full = self._with_query(target, query, params, "app" if in_body else family)
        seconds = timeout or self._timeout or TIMEOUTS[family]
        counted = family != "query" or is_counted(target, sent_params)

        async def attempt(_call: Slot, authorization: Secret) -> Response | TransportFailure:
            request = Request(method, full, {**outgoing, "Authorization": authorization}, content)
            return await self._connections.receive(
                request, lambda _head: None, first=seconds, idle=seconds, overall=seconds
            )

        idempotent = repeat and (method in IDEMPOTENT or family != "app")
        response, _ = await self._retry_until_settled(
            info, self._limiter_of(family), attempt, idempotent=idempotent, counted=counted
        )
        if len(response.body) < PARSE_IN_THREAD:
            return responses.parse_json(info, response)
        return await anyio.to_thread.run_sync(responses.parse_json, info, response)

    async def check(self) -> None:
        """Check that Mixpanel accepts the credentials; costs none of the hourly calls.

        :raises AuthenticationError: when it does not.
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
        idle: float = EXPORT_IDLE_TIMEOUT,
        overall: float = EXPORT_TIMEOUT,
    ) -> Downloaded:
        """Save one raw export to a file, byte for byte as Mixpanel sends it, usually gzipped.

        Each attempt begins a new file, and after a failure there is none. `on_bytes` is called
        with the number of bytes of each piece, and with a negative number when an attempt is
        discarded. An attempt may pause for `idle` seconds and take `overall` seconds.

        A complete HTTP response may hold a truncated export: check its last line.

        :raises APIError: when the call fails; see `mixpanel.data.exceptions` for its subclasses.
        """
        target = f"{self._origins.export}/api/2.0/export"
        info = self._request_info("GET", target, params)
        headers = self._headers(None)
        url = self._with_query(target, "", params, "export")
        file = PartFile(path, on_bytes)

        async def attempt(call: Slot, authorization: Secret) -> Response | TransportFailure:
            file.restart()
            request = Request("GET", url, {**headers, "Authorization": authorization})

            def body_writer(head: Response) -> Callable[[bytes], Awaitable[object]] | None:
                if not responses.is_export(head):
                    return None
                call.accepted()
                return file.write

            first = max(self._timeout or 0.0, EXPORT_HEADERS_TIMEOUT)
            return await self._connections.receive(
                request, body_writer, first=first, idle=idle, overall=overall
            )

        try:
            response, attempts = await self._retry_until_settled(info, self.export_limiter, attempt)
            responses.check_export(info, response)
            await file.finish()
        except BaseException:
            file.discard()
            raise
        is_gzip = "gzip" in response.headers.get("content-encoding", "").lower()
        return Downloaded(path, file.bytes, is_gzip, attempts, file.digest)

    # ---- attempts and retries -------------------------------------------------------------------

    async def _retry_until_settled(
        self,
        info: RequestInfo,
        limiter: ApiRateLimiter,
        attempt: Attempt,
        *,
        idempotent: bool = True,
        counted: bool = True,
    ) -> tuple[Response, int]:
        """Repeat an attempt until it succeeds; return the response and the number of attempts.

        A 429 counts as no failure: the rate limiter makes the next attempt wait as long as the
        server asked, or raises when that exceeds `max_wait`. After a 401, the access token of a
        login is renewed once. Everything else follows the retry policy.
        """
        call = limiter.call(on_wait=self.on_wait, max_wait=self._max_wait, counted=counted)
        error: APIError | None = None
        attempts = failures = 0
        first_failed = 0.0
        was_renewed = False
        while True:
            result, authorization = await self._attempt(call, attempt, error)
            attempts += 1
            if isinstance(result, Response) and responses.is_success(result):
                return result, attempts
            error = _without_repeated_url(responses.to_error(info, result))
            if isinstance(error, RateLimitError):
                continue
            if isinstance(error, AuthenticationError):
                if not was_renewed and await self._authorization.renew(authorization):
                    was_renewed = True
                    continue
                raise self._authorization.rejected(error)
            if not responses.is_worth_repeating(result, idempotent=idempotent):
                raise error
            failures += 1
            first_failed = first_failed or time.monotonic()
            wait = self._retry.wait(failures, error.retry_after, self._random())
            too_late = time.monotonic() + wait - first_failed > self._retry.max_age
            if too_late or failures >= (self._retry.attempts or failures + 1):
                raise error
            await self._sleep(wait)

    async def _attempt(
        self,
        call: Slot,
        attempt: Attempt,
        previous: APIError | None,
    ) -> tuple[Response | TransportFailure, Secret]:
        """Make one attempt within the rate limit, and report its outcome to the limiter.

        Return its result and the `Authorization` header that was used.
        When the wait after a 429 would be too long, the server's own error is raised, with the
        time of the next slot: it says more than that of the limiter.
        """
        if self._closed:
            raise ClosedError("the API client is closed; create a new one")
        try:
            async with call:
                authorization = await self._current_authorization(call)
                result = await attempt(call, authorization)
                if isinstance(result, Response):
                    quotas = quotas_in(result.headers)
                    call.update_limits(quotas)
                    if responses.is_rate_limit(result):
                        call.rejected(retry_after(result.headers), quotas)
                    else:
                        call.accepted()
                if _is_free(result):
                    call.uncounted()
        except RateLimitError as error:
            if not isinstance(previous, RateLimitError):
                raise
            previous.retry_after = previous.details["retry_after"] = error.retry_after
            previous.next_slot_at = error.next_slot_at
            previous.details |= {"next_slot_at": error.details.get("next_slot_at")}
            raise previous from error
        return result, authorization

    async def _current_authorization(self, call: Slot) -> Secret:
        try:
            return await self._authorization.current()
        except BaseException:
            call.uncounted()
            raise

    # ---- building requests ----------------------------------------------------------------------

    def _checked_url(self, url: str, family: Family | None) -> tuple[str, Family, str]:
        """Return the URL without its query, the family and the query.

        The URL is put together from one of our own origins, never taken over: the credentials go
        to it, and parsers disagree about odd URLs.

        :raises ConfigError: for a URL on another host, or with characters that none has.
        """
        if any(c.isspace() or ord(c) < 0x20 or c in "\\#" for c in url):
            raise ConfigError(
                "the URL contains white space, a control character, # or a backslash; "
                "percent-encode it"
            )
        if family is not None and family not in get_args(Family):
            raise ConfigError(f"family={family!r} is unknown; use query, export or app")
        target, _, query = url.partition("?")
        if target.startswith("/") and not target.startswith("//"):
            chosen = family or _family_of(target)
            return getattr(self._origins, chosen) + target, chosen, query
        origins = self._origins
        for origin in (origins.query, origins.export, origins.ingestion):
            if target.lower().startswith(origin.lower() + "/"):
                path = target[len(origin) :]
                return origin + path, family or _family_of(path), query
        host = urlsplit(target).netloc.rpartition("@")[2]
        raise ConfigError(
            f"{host or 'the URL'} is not a host of this project: pass a path that begins with a "
            f"slash, or a URL that begins with {origins.query}/"
        )

    def _with_query(
        self, target: str, query: str, params: Mapping[str, Any] | None, family: Family
    ) -> str:
        values = _encoded(params or {})
        if family != "app" and "project_id=" not in query:
            values.setdefault("project_id", self.project_id)
        query = "&".join(filter(None, [query, urlencode(values)]))
        return f"{target}?{query}" if query else target

    def _headers(self, extra: Mapping[str, str] | None) -> dict[str, str | Secret]:
        headers: dict[str, str | Secret] = {"Accept-Encoding": "gzip", "User-Agent": USER_AGENT}
        for name, value in (extra or {}).items():
            if (
                not isinstance(name, str)
                or name.lower() in RESERVED_HEADERS
                or not HEADER_NAME.fullmatch(name)
            ):
                raise ConfigError(f"the header {str(name)[:40]!r} cannot be set here")
            if not isinstance(value, str) or not (value.isascii() and value.isprintable()):
                raise ConfigError(
                    f"the value of the header {name[:40]!r} must be a string of printable ASCII"
                )
            headers[name] = value.strip()
        return headers

    def _request_info(self, method: str, target: str, params: Mapping[str, Any]) -> RequestInfo:
        authorization = self._authorization
        return RequestInfo(
            method, target, dict(params), authorization.secrets, authorization.on_401
        )

    def _limiter_of(self, family: Family) -> ApiRateLimiter:
        limiters = {"query": self.query_limiter, "export": self.export_limiter}
        return limiters.get(family, self._app_limiter)


def _is_free(result: Response | TransportFailure) -> bool:
    """Return True if an attempt did not count towards the rate limits, whatever the call."""
    if isinstance(result, TransportFailure):
        return not result.may_have_been_sent
    return result.status in (401, 402)


def _without_repeated_url(error: APIError) -> APIError:
    """Remove the URL that a failed connection names: the message begins with it already."""
    error.message = error.message.replace(f" ({error.request_url})", "")
    error.args = (error.message,)
    return error


def _family_of(path: str) -> Family:
    if path.startswith("/api/2.0/export"):
        return "export"
    return "query" if path.startswith(("/api/query", "/api/2.0")) else "app"


def _encoded(values: Mapping[str, Any]) -> dict[str, str]:
    """Return values as the APIs expect them: lists, dicts and booleans as JSON, without None."""
    encoded = {}
    for name, value in values.items():
        if isinstance(value, (bool, list, tuple, dict)):
            encoded[name] = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
        elif value is not None:
            encoded[name] = str(value)
    return encoded
