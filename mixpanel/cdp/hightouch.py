"""Send to Hightouch Events: `AsyncHightouch`, and `Hightouch` for sync code.

async with AsyncHightouch("WRITE_KEY", region="eu-west-1") as ht:
    await ht.track("u-17", "Order Paid", {"amount": 12.5}, schema_version="1.2.0")
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Unpack

from mixpanel._runtime.redaction import hide_init_arguments
from mixpanel.cdp._customerio.name_advice import advise_foreign_action
from mixpanel.cdp._hightouch.dialect import HIGHTOUCH, SCHEMA_VERSION_PATH
from mixpanel.cdp._segment.client import AsyncSegmentClient, SegmentClient
from mixpanel.cdp._segment.dialect import WriteKey

if TYPE_CHECKING:
    from mixpanel.cdp._hightouch.oauth import HightouchOAuth
    from mixpanel.cdp._segment.options import SegmentOptions

__all__ = ["AsyncHightouch", "Hightouch"]


@hide_init_arguments
class AsyncHightouch(AsyncSegmentClient):
    """Send to a Hightouch Events source from async code, on asyncio or trio.

    >>> async with AsyncHightouch("WRITE_KEY", region="eu-west-1") as ht:  # doctest: +SKIP
    ...     await ht.track("u-17", "Order Paid", {"amount": 12.5}, schema_version="1.2.0")

    :param write_key: the write key of the source.
    :param oauth: the OAuth client, for sources that require access tokens.
    :param version_at: the path at which your contracts expect the schema version, such as
        "properties.apiVersion"; in identify and group messages `traits` replaces `properties`.
    :param options: see `help(mixpanel.cdp.SegmentOptions)`.
    """

    def __init__(
        self,
        write_key: str,
        *,
        oauth: HightouchOAuth | None = None,
        version_at: str = SCHEMA_VERSION_PATH,
        **options: Unpack[SegmentOptions],
    ) -> None:
        super().__init__(WriteKey(write_key), **_client_options(version_at, oauth), **options)


@hide_init_arguments
class Hightouch(SegmentClient):
    """Send to a Hightouch Events source from sync code; see `AsyncHightouch`.

    >>> with Hightouch("WRITE_KEY", region="eu-west-1") as ht:  # doctest: +SKIP
    ...     ht.track("u-17", "Order Paid", {"amount": 12.5}, schema_version="1.2.0")
    """

    def __init__(
        self,
        write_key: str,
        *,
        oauth: HightouchOAuth | None = None,
        version_at: str = SCHEMA_VERSION_PATH,
        **options: Unpack[SegmentOptions],
    ) -> None:
        super().__init__(WriteKey(write_key), **_client_options(version_at, oauth), **options)


def _client_options(version_at: str, oauth: HightouchOAuth | None) -> dict[str, Any]:
    dialect = (
        HIGHTOUCH
        if version_at == SCHEMA_VERSION_PATH
        else replace(HIGHTOUCH, schema_version_path=version_at)
    )
    return {"dialect": dialect, "advice": advise_foreign_action, "oauth": oauth}
