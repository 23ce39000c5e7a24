"""A template tag for the value of a flag: `{% load mixpanel_flags %}`."""

from __future__ import annotations

from typing import Any

from django import template
from django.template.base import TemplateSyntaxError

from mixpanel.integrations.django.client import get_flags

__all__ = ["flag"]

register: Any = template.Library()


@register.simple_tag(takes_context=True)
def flag(context: Any, key: str, default: Any = None) -> Any:
    """Return the value of a flag, or the default: `{% flag "new-checkout" as new %}`.

    :raises TemplateSyntaxError: if the template is rendered without its request.
    """
    request = context.get("request") or getattr(context, "request", None)
    if request is None:
        raise TemplateSyntaxError(
            "the tag 'flag' needs the request: render the template with it, and add "
            "django.template.context_processors.request to the context processors"
        )
    return get_flags(request).get_variant_value(key, default)
