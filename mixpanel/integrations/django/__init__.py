"""Middleware, settings, template tag and context processor for Django.

INSTALLED_APPS = [..., "mixpanel.integrations.django"]
MIDDLEWARE = [..., "django.contrib.auth.middleware.AuthenticationMiddleware",
              "mixpanel.integrations.django.MixpanelMiddleware"]
MIXPANEL = {"TOKEN": "..."}

from mixpanel.integrations.django import get_client

get_client().track(None, "Opened Report")  # the user of the request
"""

from typing import TYPE_CHECKING

from mixpanel._lazy import load_lazily

if TYPE_CHECKING or not load_lazily(__name__):
    from mixpanel.integrations.django.client import get_client, get_flags
    from mixpanel.integrations.django.middleware import MixpanelMiddleware

__all__ = ["MixpanelMiddleware", "get_client", "get_flags"]
