"""An extension for Flask.

mp = Mixpanel("TOKEN", AsyncBufferedConsumer())
MixpanelFlask(app, mp, identify=lambda: session.get("user"))
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Unpack

from flask import current_app, has_request_context, request

from mixpanel._records import context as contexts
from mixpanel.exceptions import ConfigurationError
from mixpanel.integrations import wsgi
from mixpanel.integrations._request import (
    RequestOptions,
    call_safely,
    checked_callback,
    identity_of,
    mapping_of,
)
from mixpanel.integrations._serving import checked_client

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from flask import Flask, Response

    from mixpanel.client import Mixpanel
    from mixpanel.integrations._request import IdentityOrId
    from mixpanel.integrations.flags import RequestFlags

__all__ = ["MixpanelFlask", "get_client", "get_flags"]

EXTENSION = "mixpanel"


class MixpanelFlask:
    """Set the identity and properties of all events of a request; `flags` is set in templates.

    The callbacks are called in the request's context and without arguments, so they may use
    `flask.request`, `flask.session` or `current_user`. What they raise is logged.

    :param app: the application, or None to call `init_app` later.
    :param client: a `Mixpanel`; with an `AsyncBufferedConsumer`, tracking never waits.
    :param identify: returns the `distinct_id`, an `Identity`, or None; called at the first event.
    :param properties: returns more properties; called before the view.
    :param flag_context: returns more of the context of flags; called at the first check of one.
    :param options: see `help(mixpanel.integrations.flask.RequestOptions)`.
    :raises ConfigurationError: for settings that cannot work.
    """

    def __init__(
        self,
        app: Flask | None = None,
        client: Mixpanel | None = None,
        *,
        identify: Callable[[], IdentityOrId] | None = None,
        properties: Callable[[], Mapping[str, Any] | None] | None = None,
        flag_context: Callable[[], Mapping[str, Any] | None] | None = None,
        **options: Unpack[RequestOptions],
    ) -> None:
        self.client: Mixpanel = checked_client(client, sync=True)
        self._identify = checked_callback(identify, "identify")
        self._properties = checked_callback(properties, "properties")
        self._flag_context = checked_callback(flag_context, "flag_context")
        self._options = options
        wsgi.MixpanelMiddleware(_no_app, self.client, **options)  # checks the options
        if app is not None:
            self.init_app(app)

    def init_app(self, app: Flask) -> None:
        """Add the extension to an application.

        :raises ConfigurationError: if the application has it already.
        """
        if EXTENSION in app.extensions:
            raise ConfigurationError("this application has the extension already: add it once")
        app.extensions[EXTENSION] = self
        more = self._flag_context
        app.wsgi_app = wsgi.MixpanelMiddleware(  # type: ignore[method-assign]
            app.wsgi_app,
            self.client,
            flag_context=None if more is None else lambda _environ: more(),
            **self._options,
        )
        # The first of all: other functions may track events, or end the request.
        app.before_request_funcs.setdefault(None, []).insert(0, self._before_request)
        app.after_request(self._after_request)
        app.context_processor(_template_context)

    def _before_request(self) -> None:
        scope = contexts.current()
        if scope is not None:
            scope.update({}, call_safely(self._properties, convert=mapping_of) or {})
            if self._identify is not None:
                # Not now: a later function, as of a login extension, may find out who the user is.
                scope.resolve_later(self._resolve)

    def _resolve(self) -> tuple[str | None, str | None, str | None] | None:
        identity: tuple[str | None, str | None, str | None] | None = call_safely(
            self._identify, convert=identity_of
        )
        return identity

    def _after_request(self, response: Response) -> Response:
        scope = contexts.current()
        if response.is_streamed and scope is not None:  # the body may outlive Flask's own context
            getattr(scope, "distinct_id")  # noqa: B009 - for its effect
        return response


def get_client() -> Mixpanel:
    """Return the client of the current application.

    :raises ConfigurationError: without the extension.
    """
    extension = current_app.extensions.get(EXTENSION)
    if not isinstance(extension, MixpanelFlask):
        raise ConfigurationError("MixpanelFlask is missing: MixpanelFlask(app, client)")
    return extension.client


def get_flags() -> RequestFlags:
    """Return the flags of the request's user.

    :raises ConfigurationError: without the extension.
    """
    return wsgi.get_flags(request.environ)


def _template_context() -> dict[str, Any]:
    return {"flags": get_flags()} if has_request_context() else {}


def _no_app(*_: Any) -> Any:
    raise AssertionError
