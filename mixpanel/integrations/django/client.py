"""The client of a Django project, and the flags of a request."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

from django.core.signals import setting_changed

from mixpanel.exceptions import ConfigurationError
from mixpanel.integrations.django.configuration import configuration
from mixpanel.integrations.flags import RequestFlags

if TYPE_CHECKING:
    from mixpanel.client import Mixpanel

__all__ = ["get_client", "get_flags"]

ATTRIBUTE = "mixpanel_flags"  # of a request

_lock = threading.Lock()
_client: Mixpanel | None = None


def get_client() -> Mixpanel:
    """Return the client of the project; the first call makes it.

    Its calls wait for nothing, in sync and in async views. What is buffered is sent when the
    process exits.

    :raises ImproperlyConfigured: for a setting `MIXPANEL` that cannot work.
    """
    global _client
    if _client is None:
        with _lock:
            if _client is None:
                _client = configuration().make_client()
    return _client


def get_flags(request: Any) -> RequestFlags:
    """Return the flags of the request's user.

    :raises ConfigurationError: without the middleware.
    """
    flags = getattr(request, ATTRIBUTE, None)
    if not isinstance(flags, RequestFlags):
        raise ConfigurationError(
            "no flags in this request: add mixpanel.integrations.django.MixpanelMiddleware to "
            "MIDDLEWARE"
        )
    return flags


def _forget(*, setting: str, **_: Any) -> None:
    global _client
    if setting == "MIXPANEL":  # as in tests, with `override_settings`
        _client = None


setting_changed.connect(_forget, dispatch_uid="mixpanel.client")
