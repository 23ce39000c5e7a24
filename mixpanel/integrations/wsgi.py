"""Middleware for WSGI applications; for Flask and Django see their own modules.

mp = Mixpanel("TOKEN", AsyncBufferedConsumer())
application = MixpanelMiddleware(application, mp, identify=user_of)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Unpack

from mixpanel._records import context as contexts
from mixpanel.exceptions import ConfigurationError
from mixpanel.integrations._request import (
    RequestOptions,
    RequestSettings,
    call_safely,
    checked_callback,
    identity_of,
    mapping_of,
)
from mixpanel.integrations._serving import checked_client
from mixpanel.integrations.flags import RequestFlags
from mixpanel.settings import check_options

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

    from mixpanel.client import Mixpanel
    from mixpanel.integrations._request import IdentityOrId

__all__ = ["MixpanelMiddleware", "get_flags"]

KEY = "mixpanel.flags"  # in the WSGI environment


class MixpanelMiddleware:
    """Set the identity and properties of all events of a request, its response's body included.

    :param client: a `Mixpanel`, for `get_flags`; with an `AsyncBufferedConsumer`, tracking never
        waits. It is sent when the process exits, as any client is.
    :param identify: called with the environment of each request; returns the `distinct_id`, an
        `Identity`, or None. What it raises is logged, and the request is served.
    :param properties: called with the environment; returns more properties.
    :param flag_context: called with the environment at the first check of a flag; returns more of
        the context of flags, such as `{"custom_properties": …}`.
    :param options: see `help(mixpanel.integrations.wsgi.RequestOptions)`.
    :raises ConfigurationError: for settings that cannot work.
    """

    def __init__(
        self,
        app: WSGIApplication,
        client: Mixpanel | None = None,
        *,
        identify: Callable[[WSGIEnvironment], IdentityOrId] | None = None,
        properties: Callable[[WSGIEnvironment], Mapping[str, Any] | None] | None = None,
        flag_context: Callable[[WSGIEnvironment], Mapping[str, Any] | None] | None = None,
        **options: Unpack[RequestOptions],
    ) -> None:
        check_options(type(self).__name__, options, RequestOptions.__optional_keys__)
        self.app = app
        self._client = checked_client(client, optional=True, sync=True)
        self._identify = checked_callback(identify, "identify")
        self._properties = checked_callback(properties, "properties")
        self._flag_context = checked_callback(flag_context, "flag_context")
        self._settings = RequestSettings(**options)

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Serve a request."""
        if self._client is not None:
            more = self._flag_context
            environ[KEY] = RequestFlags(
                self._client, None if more is None else lambda: more(environ)
            )
        inside = contexts.Scope(properties=environ_properties(self._settings, environ))
        request = contexts.entered(inside)
        with request:
            added = call_safely(self._properties, environ, convert=mapping_of)
            identity = call_safely(self._identify, environ, convert=identity_of)
            inside.update({}, added or {})
            if identity is not None:
                inside.distinct_id, inside.device_id, inside.user_id = identity
            # A body that is a generator has not run yet when the block ends: see `_Body`.
            body = self.app(environ, start_response)
        wrapper = environ.get("wsgi.file_wrapper")  # a class, or another callable, as of uWSGI
        if isinstance(body, (list, tuple, wrapper if isinstance(wrapper, type) else list)):
            return body  # runs no code of the application's; a file may be sent by the system
        return _Body(body, request)


def environ_properties(settings: RequestSettings, environ: Mapping[str, Any]) -> dict[str, Any]:
    """Return the properties of a WSGI request."""
    path = environ.get("SCRIPT_NAME", "") + environ.get("PATH_INFO", "")
    return settings.properties(
        scheme=environ.get("wsgi.url_scheme", "http"),
        host=environ.get("HTTP_HOST", ""),
        # WSGI has the path's bytes as text in latin-1 (PEP 3333).
        path=path.encode("latin-1", "replace"),
        referrer=environ.get("HTTP_REFERER", ""),
        peer=environ.get("REMOTE_ADDR"),
        forwarded=environ.get("HTTP_X_FORWARDED_FOR", ""),
    )


class _Body:
    """The body of a response, each piece of which is made in the context of its request."""

    def __init__(self, body: Iterable[bytes], request: contexts.entered) -> None:
        self._body = body
        self._iterator: Iterator[bytes] | None = None
        self._request = request

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        # Between two pieces the server may do other work in this thread, so the context is entered
        # for each piece, not once for the body.
        with self._request:
            if self._iterator is None:
                self._iterator = iter(self._body)
            return next(self._iterator)

    def close(self) -> None:
        """Close the application's body, as a server does at the end of each request."""
        close = getattr(self._body, "close", None)
        if close is not None:
            with self._request:
                close()


def get_flags(environ: WSGIEnvironment) -> RequestFlags:
    """Return the flags of the request's user.

    :raises ConfigurationError: without the middleware, or if it has no client.
    """
    flags = environ.get(KEY)
    if not isinstance(flags, RequestFlags):
        raise ConfigurationError(
            "no client in this request: wrap the application in MixpanelMiddleware(app, client)"
        )
    return flags
