"""Send to RudderStack: its dialect, `AsyncRudderStack`, and `RudderStack` for sync code.

    async with AsyncRudderStack("WRITE_KEY", base_url="https://acme.dataplane.example") as rudder:
        await rudder.track("u-17", "Order Paid", {"amount": 12.5})

RudderStack has no common host: pass the URL of your data plane, or set `MP_RUDDERSTACK_BASE_URL`.

Source: RudderStack's HTTP API specification. A kilobyte and a megabyte are taken as powers of ten.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Unpack

from mixpanel._runtime.redaction import hide_init_arguments
from mixpanel.cdp._customerio.name_advice import advise_foreign_action
from mixpanel.cdp._segment.client import AsyncSegmentClient, SegmentClient
from mixpanel.cdp._segment.dialect import Dialect, WriteKey

if TYPE_CHECKING:
    from mixpanel.cdp._segment.options import SegmentOptions

__all__ = ["RUDDERSTACK", "AsyncRudderStack", "RudderStack"]


def prepare(message: dict[str, Any]) -> dict[str, Any]:
    """Return a message with its channel; the traits of a person are read in the context."""
    message["channel"] = "server"
    if message["type"] == "identify" and "traits" in message:
        message["context"] = {**message["context"], "traits": message.pop("traits")}
    return message


RUDDERSTACK = Dialect(
    name="RudderStack",
    hosts={},
    base_url_variable="MP_RUDDERSTACK_BASE_URL",
    max_batch_bytes=4_000_000,
    timestamp_fields=("timestamp", "originalTimestamp"),
    prepare=prepare,
    own_fields=frozenset({"channel"}),
)


@hide_init_arguments
class AsyncRudderStack(AsyncSegmentClient):
    """Send to a RudderStack source from async code, on asyncio or trio.

    >>> async with AsyncRudderStack("WRITE_KEY", base_url=URL) as rudder:  # doctest: +SKIP
    ...     await rudder.track("u-17", "Order Paid", {"amount": 12.5})

    :param write_key: the write key of the source.
    :param options: see `help(mixpanel.cdp.SegmentOptions)`; `base_url` is your data plane.
    """

    def __init__(self, write_key: str, **options: Unpack[SegmentOptions]) -> None:
        super().__init__(WriteKey(write_key), RUDDERSTACK, advice=advise_foreign_action, **options)


@hide_init_arguments
class RudderStack(SegmentClient):
    """Send to a RudderStack source from sync code; see `AsyncRudderStack`.

    >>> with RudderStack("WRITE_KEY", base_url=URL) as rudder:  # doctest: +SKIP
    ...     rudder.track("u-17", "Order Paid", {"amount": 12.5})
    """

    def __init__(self, write_key: str, **options: Unpack[SegmentOptions]) -> None:
        super().__init__(WriteKey(write_key), RUDDERSTACK, advice=advise_foreign_action, **options)
