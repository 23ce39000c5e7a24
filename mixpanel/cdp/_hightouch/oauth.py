"""The OAuth client of a Hightouch source."""

from __future__ import annotations

from dataclasses import dataclass

from mixpanel._runtime.redaction import hide_init_arguments
from mixpanel.cdp._segment.oauth import OAuth

__all__ = ["HightouchOAuth"]


@hide_init_arguments
@dataclass(frozen=True, slots=True)
class HightouchOAuth(OAuth):
    """The OAuth client of a Hightouch source; see `OAuth`."""

    server: str = "https://oauth2.hightouch.io"
