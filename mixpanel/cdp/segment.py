"""Send to Segment: its dialect, `AsyncSegment`, and `Segment` for sync code.

    async with AsyncSegment("WRITE_KEY", region="eu") as segment:
        await segment.track("u-17", "Order Paid", {"amount": 12.5})

Source: Segment's reference of its HTTP Tracking API, and "Regional Segment" for the hosts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Unpack

from mixpanel._runtime.redaction import hide_init_arguments
from mixpanel.cdp._customerio.name_advice import advise_foreign_action
from mixpanel.cdp._segment.client import AsyncSegmentClient, SegmentClient
from mixpanel.cdp._segment.dialect import Dialect, WriteKey, key_in_body
from mixpanel.cdp._segment.oauth import OAuth

if TYPE_CHECKING:
    from mixpanel.cdp._segment.options import SegmentOptions

__all__ = ["SEGMENT", "AsyncSegment", "Segment", "SegmentOAuth"]

SEGMENT = Dialect(
    name="Segment",
    hosts={"us": "https://api.segment.io", "eu": "https://events.eu1.segmentapis.com"},
    base_url_variable="MP_SEGMENT_BASE_URL",
    envelope=key_in_body,
)


@hide_init_arguments
@dataclass(frozen=True, slots=True)
class SegmentOAuth(OAuth):
    """The OAuth client of a Segment source; see `OAuth`. In the EU pass `server`."""

    server: str = "https://oauth2.segment.io"


@hide_init_arguments
class AsyncSegment(AsyncSegmentClient):
    """Send to a Segment source from async code, on asyncio or trio.

    >>> async with AsyncSegment("WRITE_KEY") as segment:  # doctest: +SKIP
    ...     await segment.track("u-17", "Order Paid", {"amount": 12.5})

    :param write_key: the write key of the source.
    :param oauth: the OAuth client, for sources that require access tokens.
    :param options: see `help(mixpanel.cdp.SegmentOptions)`.
    """

    def __init__(
        self, write_key: str, *, oauth: OAuth | None = None, **options: Unpack[SegmentOptions]
    ) -> None:
        super().__init__(
            WriteKey(write_key), SEGMENT, oauth=oauth, advice=advise_foreign_action, **options
        )


@hide_init_arguments
class Segment(SegmentClient):
    """Send to a Segment source from sync code; see `AsyncSegment`.

    >>> with Segment("WRITE_KEY") as segment:  # doctest: +SKIP
    ...     segment.track("u-17", "Order Paid", {"amount": 12.5})
    """

    def __init__(
        self, write_key: str, *, oauth: OAuth | None = None, **options: Unpack[SegmentOptions]
    ) -> None:
        super().__init__(
            WriteKey(write_key), SEGMENT, oauth=oauth, advice=advise_foreign_action, **options
        )
