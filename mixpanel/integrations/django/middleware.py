"""Middleware that sets the user and the page of all events of a request."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from asgiref.sync import iscoroutinefunction, markcoroutinefunction, sync_to_async
from django.contrib.auth.signals import user_logged_in, user_logged_out

from mixpanel._records import context as contexts
from mixpanel.integrations._request import call_safely, identity_of, log_failure, mapping_of
from mixpanel.integrations._serving import start_polling
from mixpanel.integrations.django.client import ATTRIBUTE, get_client
from mixpanel.integrations.django.configuration import configuration
from mixpanel.integrations.flags import RequestFlags

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from django.http import HttpRequest
    from django.http.response import HttpResponseBase

__all__ = ["MixpanelMiddleware", "authenticated_user"]


class MixpanelMiddleware:
    """Set the identity and properties of all events of a request, its streamed body included.

    Sync or async as the handler is. In a sync stack the user is looked up at the first event of a
    request, in an async one when the request begins, so put it below `AuthenticationMiddleware`.

    :raises ImproperlyConfigured: for a setting `MIXPANEL` that cannot work.
    """

    sync_capable = True
    async_capable = True

    def __init__(self, get_response: Callable[[HttpRequest], Any]) -> None:
        self.get_response = get_response
        self._configuration = configuration()
        self._request_settings = self._configuration.request
        self._is_async = iscoroutinefunction(get_response)
        if self._is_async:
            markcoroutinefunction(self)
        start_polling(get_client())

    def __call__(self, request: HttpRequest) -> Any:
        """Serve a request."""
        if self._is_async:
            return self._serve_async(request)
        identify = self._configuration.identify
        resolve = None if identify is None else lambda: _identity(identify, request)
        scope = contexts.Scope(properties=self._properties(request), resolve=resolve)
        entered = contexts.entered(scope)
        with entered:
            scope.update({}, self._more_properties(request))
            response: HttpResponseBase = self.get_response(request)
        return _with_context(response, entered)

    async def _serve_async(self, request: HttpRequest) -> HttpResponseBase:
        scope = contexts.Scope(properties=self._properties(request))
        entered = contexts.entered(scope)
        with entered:
            scope.update({}, self._more_properties(request))
            identity = await self._identity_async(request)
            scope.distinct_id, scope.device_id, scope.user_id = identity
            response: HttpResponseBase = await self.get_response(request)
        return _with_context(response, entered)

    def process_view(self, request: HttpRequest, view: Any, *_: Any) -> None:  # noqa: ARG002
        """Look the user up before an async view in a sync stack: it cannot query the database."""
        if not self._is_async and iscoroutinefunction(view):
            scope = contexts.current()
            if scope is not None:
                getattr(scope, "distinct_id")  # noqa: B009 - for its effect

    def _properties(self, request: HttpRequest) -> dict[str, Any]:
        request_flags = RequestFlags(get_client(), self._flag_context(request))
        setattr(request, ATTRIBUTE, request_flags)
        meta = request.META
        return self._request_settings.properties(
            scheme=request.scheme,
            host=meta.get("HTTP_HOST", ""),
            path=request.path,
            referrer=meta.get("HTTP_REFERER", ""),
            peer=meta.get("REMOTE_ADDR"),
            forwarded=meta.get("HTTP_X_FORWARDED_FOR", ""),
        )

    def _flag_context(self, request: HttpRequest) -> Callable[[], Any] | None:
        more = self._configuration.flag_context
        return None if more is None else lambda: more(request)

    def _more_properties(self, request: HttpRequest) -> Any:
        return call_safely(self._configuration.properties, request, convert=mapping_of) or {}

    async def _identity_async(self, request: HttpRequest) -> Any:
        identify = self._configuration.identify
        if identify is None:
            return None, None, None
        try:
            if identify is authenticated_user:
                get_user: Any = getattr(request, "auser", None)
                return identity_of(None if get_user is None else _key_of(await get_user()))
            if iscoroutinefunction(identify):
                return identity_of(await identify(request))
            return identity_of(await sync_to_async(identify)(request))
        except Exception:
            log_failure(identify)
            return None, None, None


def authenticated_user(request: HttpRequest) -> str | None:
    """Return the primary key of the request's user if one is logged in."""
    return _key_of(getattr(request, "user", None))


def _key_of(user: Any) -> str | None:
    return str(user.pk) if getattr(user, "is_authenticated", False) else None


def _identity(identify: Callable[[Any], Any], request: HttpRequest) -> Any:
    return call_safely(identify, request, convert=identity_of)


def _with_context(response: HttpResponseBase, entered: contexts.entered) -> HttpResponseBase:
    """Make the pieces of a streamed body in the context of their request."""
    streaming: Any = response
    if not streaming.streaming or getattr(response, "file_to_stream", None) is not None:
        return response
    if streaming.is_async:
        streaming.streaming_content = _async_pieces(streaming.streaming_content, entered)
    else:
        streaming.streaming_content = _pieces(streaming.streaming_content, entered)
    close = response.close

    def close_in_context() -> None:
        with entered:
            close()

    streaming.close = close_in_context
    return response


def _pieces(body: Any, entered: contexts.entered) -> Iterator[Any]:
    # The context is left between two pieces: the server may do other work in this thread.
    iterator = iter(body)
    while True:
        with entered:
            try:
                piece = next(iterator)
            except StopIteration:
                return
        yield piece


async def _async_pieces(body: Any, entered: contexts.entered) -> AsyncIterator[Any]:
    iterator = aiter(body)
    while True:
        with entered:
            try:
                piece = await anext(iterator)
            except StopAsyncIteration:
                return
        yield piece


def _on_login(sender: Any, user: Any = None, **_: Any) -> None:  # noqa: ARG001
    _set_user(user)


def _on_logout(sender: Any, **_: Any) -> None:  # noqa: ARG001
    _set_user(None)


def _set_user(user: Any) -> None:
    scope = contexts.current()
    if scope is not None and configuration().identify is authenticated_user:
        contexts.update_context(_key_of(user))


user_logged_in.connect(_on_login, dispatch_uid="mixpanel.integrations.django")
user_logged_out.connect(_on_logout, dispatch_uid="mixpanel.integrations.django")
