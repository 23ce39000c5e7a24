"""Hightouch Events: `AsyncHightouch`, and `Hightouch`, a sync face over the same core.

async with AsyncHightouch("WRITE_KEY", region="eu-west-1") as ht:
    await ht.track("u-17", "Order Paid", {"amount": 12.5}, schema_version="1.2.0")
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Unpack

from mixpanel.cdp._dialect import WriteKey
from mixpanel.cdp._hightouch import HIGHTOUCH
from mixpanel.cdp._segment import AsyncSegmentClient, SegmentClient

if TYPE_CHECKING:
    from mixpanel.cdp._auth import AccessTokens, HightouchOAuth
    from mixpanel.cdp._segment_options import SegmentOptions

__all__ = ["AsyncHightouch", "Hightouch"]


class AsyncHightouch(AsyncSegmentClient):
    """Send to a Hightouch Events source from async code, on asyncio or trio.

    :param write_key: of the source.
    :param oauth: who asks for access tokens, for sources that require them.
    """

    def __init__(
        self,
        write_key: str,
        *,
        oauth: HightouchOAuth | None = None,
        **options: Unpack[SegmentOptions],
    ) -> None:
        super().__init__(WriteKey(write_key), HIGHTOUCH, access=_access(oauth), **options)


class Hightouch(SegmentClient):
    """Send to a Hightouch Events source from sync code; see `AsyncHightouch`."""

    def __init__(
        self,
        write_key: str,
        *,
        oauth: HightouchOAuth | None = None,
        **options: Unpack[SegmentOptions],
    ) -> None:
        super().__init__(WriteKey(write_key), HIGHTOUCH, access=_access(oauth), **options)


def _access(oauth: HightouchOAuth | None) -> AccessTokens | None:
    if oauth is None:
        return None
    from mixpanel.cdp._auth import AccessTokens

    return AccessTokens(oauth)
