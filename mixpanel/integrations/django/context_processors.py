"""A context processor for templates: `mixpanel.integrations.django.context_processors.flags`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mixpanel.integrations.django.client import get_flags

if TYPE_CHECKING:
    from django.http import HttpRequest

__all__ = ["flags"]


class _Flags:
    """Values of flags by key: `{{ flags.new_checkout }}`."""

    def __init__(self, request: HttpRequest) -> None:
        self._request = request

    def __getitem__(self, key: str) -> Any:
        return get_flags(self._request).get_variant_value(key, None)


def flags(request: HttpRequest) -> dict[str, Any]:
    """Set `flags` in templates: the value of each flag by its key, or None."""
    return {"flags": _Flags(request)}
