"""Middleware for ASGI applications: Starlette, FastAPI, Litestar, Quart and others.

mp = AsyncMixpanel("TOKEN")
app.add_middleware(MixpanelMiddleware, client=mp, identify=lambda scope: user_of(scope))

@app.get("/reports/{name}")
async def report(name: str):
    await mp.track(None, "Opened Report", {"name": name})  # the user of the request
"""

from __future__ import annotations

import inspect
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Unpack

from mixpanel._records import context as contexts
from mixpanel.exceptions import ConfigurationError
from mixpanel.integrations import _serving
from mixpanel.integrations._request import (
    RequestOptions,
    RequestSettings,
    checked_callback,
    identity_of,
    log_failure,
    mapping_of,
)
from mixpanel.integrations.flags import RequestFlags
from mixpanel.settings import check_options

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, MutableMapping
    from contextlib import AbstractAsyncContextManager
    from typing import TypeAlias

    from mixpanel.client import AsyncMixpanel, Mixpanel
    from mixpanel.integrations._request import IdentityOrId

    Scope: TypeAlias = MutableMapping[str, Any]
    Message: TypeAlias = MutableMapping[str, Any]
    Receive: TypeAlias = Callable[[], Awaitable[Message]]
    Send: TypeAlias = Callable[[Message], Awaitable[None]]
    ASGIApp: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]

__all__ = ["MixpanelMiddleware", "get_client", "get_flags", "lifespan"]

KEY = "mixpanel"  # in the ASGI scope


class MixpanelMiddleware:
    """Set the identity and properties of all events of a request or WebSocket connection.

    `receive` and `send` of a request are passed on untouched, and so are exceptions. Around the
    application's lifespan, the client is opened before the first request, and flushed after the
    last one, background tasks included. It stays open, so an application may start again.

    :param client: opened and flushed; `get_client` and `get_flags` return it and its flags.
    :param identify: called with the ASGI scope of each request, sync or async; returns the
        `distinct_id`, an `Identity`, or None. What it raises is logged, and the request is served.
    :param properties: called in the same way; returns more properties.
    :param flag_context: called with the scope at the first check of a flag; returns more of the
        context of flags, such as `{"custom_properties": …}`.
    :param flush_timeout: seconds for the flush when the server stops.
    :param options: see `help(mixpanel.integrations.asgi.RequestOptions)`.
    :raises ConfigurationError: for settings that cannot work.
    """

    def __init__(
        self,
        app: ASGIApp,
        client: AsyncMixpanel | Mixpanel | None = None,
        *,
        identify: Callable[[Any], IdentityOrId | Awaitable[IdentityOrId]] | None = None,
        properties: Callable[[Any], Any] | None = None,
        flag_context: Callable[[Any], Mapping[str, Any] | None] | None = None,
        flush_timeout: float = 5.0,
        **options: Unpack[RequestOptions],
    ) -> None:
        check_options(type(self).__name__, options, RequestOptions.__optional_keys__)
        self.app = app
        self._client = _serving.checked_client(client, optional=True)
        self._identify = checked_callback(identify, "identify")
        self._properties = checked_callback(properties, "properties")
        self._flag_context = checked_callback(flag_context, "flag_context")
        self._flush_timeout = _serving.checked_timeout(flush_timeout, "flush_timeout")
        self._settings = RequestSettings(**options)
        self._started = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request, a WebSocket connection or the lifespan."""
        if scope["type"] == "lifespan":
            await self._serve_lifespan(scope, receive, send)
        elif scope["type"] in ("http", "websocket"):
            flags = None
            if self._client is not None:
                if not self._started:  # a server, or an application, without a lifespan
                    self._started = True
                    _serving.start_polling(self._client)
                more = self._flag_context
                flags = RequestFlags(self._client, None if more is None else lambda: more(scope))
            scope[KEY] = self._client, flags
            with contexts.entered(await self._context(scope)):
                await self.app(scope, receive, send)
        else:
            await self.app(scope, receive, send)

    async def _context(self, scope: Scope) -> contexts.Scope:
        inside = contexts.Scope(properties=self._request_properties(scope))
        with contexts.entered(inside):  # what the callbacks track belongs to the request, too
            if self._properties is not None:
                more = await _call(self._properties, scope, convert=mapping_of)
                inside.update({}, more or {})
            if self._identify is not None:
                identity = await _call(self._identify, scope, convert=identity_of)
                inside.distinct_id, inside.device_id, inside.user_id = identity or (None,) * 3
        return inside

    def _request_properties(self, scope: Scope) -> dict[str, Any]:
        headers: dict[bytes, str] = {}
        for name, value in scope.get("headers", ()):
            if name in (b"host", b"referer"):
                headers[name] = value.decode("latin-1")
            elif name == b"x-forwarded-for":
                # Several headers of one name mean one list; the last entries are those of your
                # proxies.
                before = f"{headers[name]}," if name in headers else ""
                headers[name] = before + value.decode("latin-1")
        client = scope.get("client")
        return self._settings.properties(
            scheme=scope.get("scheme", "http"),
            host=headers.get(b"host", ""),
            path=scope.get("path", ""),
            referrer=headers.get(b"referer", ""),
            peer=client[0] if client else None,
            forwarded=headers.get(b"x-forwarded-for", ""),
        )

    async def _serve_lifespan(self, scope: Scope, receive: Receive, send: Send) -> None:
        client = self._client
        if client is None:
            await self.app(scope, receive, send)
            return

        async def send_between(message: Message) -> None:
            # The application has started, and the server does not know yet: the client is open
            # before the first request. At the end the application has run its own shutdown, whose
            # events are sent.
            if message["type"] == "lifespan.startup.complete":
                # Set first: requests that do come meanwhile must not start the polling, too.
                self._started = True
                await _serving.start(client)
            elif message["type"].startswith("lifespan.shutdown."):
                await _serving.stop(client, self._flush_timeout)
            await send(message)

        await self.app(scope, receive, send_between)


async def _call(callback: Callable[..., Any], scope: Scope, *, convert: Callable[..., Any]) -> Any:
    try:
        found = callback(scope)
        return convert(await found if inspect.isawaitable(found) else found)
    except Exception:
        log_failure(callback)
        return None


def lifespan(
    client: AsyncMixpanel | Mixpanel,
    inner: Callable[[Any], AbstractAsyncContextManager[Any]] | None = None,
    *,
    flush_timeout: float = 5.0,
) -> Callable[[Any], AbstractAsyncContextManager[Any]]:
    """Return a lifespan that opens a client when the server starts, and flushes it at the end.

    For applications whose lifespan does not pass through middleware, as Litestar's:
    `Litestar(…, lifespan=[lifespan(mp)])`, or with a lifespan of your own inside:
    `FastAPI(lifespan=lifespan(mp, my_lifespan))`.

    :raises ConfigurationError: for another kind of client.
    """
    _serving.checked_client(client)
    seconds = _serving.checked_timeout(flush_timeout, "flush_timeout")

    @asynccontextmanager
    async def run(app: Any = None) -> AsyncIterator[Any]:
        await _serving.start(client)
        try:
            if inner is None:
                yield
            else:
                async with inner(app) as state:
                    yield state
        finally:
            await _serving.stop(client, seconds)

    return run


def get_client(request: Any) -> AsyncMixpanel | Mixpanel:
    """Return the client of a request: an ASGI scope, or an object that has one as `scope`.

    :raises ConfigurationError: without the middleware, or if it has no client.
    """
    client: AsyncMixpanel | Mixpanel = _found(request)[0]
    return client


def get_flags(request: Any) -> RequestFlags:
    """Return the flags of a request's user: an ASGI scope, or an object that has one as `scope`.

    :raises ConfigurationError: without the middleware, or if it has no client.
    """
    flags: RequestFlags = _found(request)[1]
    return flags


def _found(request: Any) -> tuple[Any, Any]:
    scope = getattr(request, "scope", request)
    client, flags = scope.get(KEY, (None, None))
    if client is None:
        raise ConfigurationError(
            "no client in this request: app.add_middleware(MixpanelMiddleware, client=...)"
        )
    return client, flags
