"""What clients of the Segment spec may be told, and what they tell of each message."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Literal, NamedTuple, TypedDict

if TYPE_CHECKING:
    import ssl

    import httpx

    from mixpanel._delivery.stats import OnDrop, OnError
    from mixpanel._records.record import Properties, Validation
    from mixpanel.cdp._segment.dialect import Kind
    from mixpanel.settings import Limits, RetryPolicy, WhenFull

__all__ = ["Delivery", "OnDelivery", "SegmentOptions"]


class Delivery(NamedTuple):
    """What became of one message, and why when it is lost."""

    message_id: str
    kind: Kind
    fate: Literal["delivered", "rejected", "dropped"]
    reason: str = ""


OnDelivery = Callable[[Delivery], object]


class SegmentOptions(TypedDict, total=False):
    """Keyword options of all clients.

    - `region`: of the source; the wrong one is answered with 200 and keeps nothing.
    - `base_url`: one origin for every call, such as the emulator or a proxy of your own; else
      what `MP_CUSTOMERIO_BASE_URL` or `MP_HIGHTOUCH_BASE_URL` says, above the region.
    - `direct`: send each message at once to the endpoint of its kind and raise what goes wrong,
      instead of in the background and in batches.
    - `in_order` (default): keep the order of calls, one request at a time, so that no `track`
      overtakes the `identify` before it. Else as many as `limits.concurrency`.
    - `limits`, `retry`: see `Limits` and `RetryPolicy`; limits above the vendor's are lowered.
    - `max_message_bytes`: how large one message may be, when the vendor has raised that for you.
    - `when_full`: what happens to a message that finds the buffer full.
    - `on_delivery(delivery)`: told what became of each message, once.
    - `on_error(error, messages)`, `on_drop(reason, messages)`: told of each failure and loss. What
      is given up after trying ("expired") is told to both. So that no dead letter is kept twice,
      take those of `on_drop`, and from `on_error` the refused alone, with a `RejectedError` or
      `PayloadTooLargeError`. Any exception that a callback raises is logged.
    - `default_context`: stands under the `context` of every call.
    - `validation`: "off", "warn" (default: count, log now and then, send all the same) or "raise".
    - `disabled`: compose and check, but send nothing.
    - `gzip`: compress bodies; a source that refuses them is asked without.
    - `http_client`: an `httpx.AsyncClient` of your own, never closed by us.
    - `proxy`, `ssl_context`: for the client that we make.
    """

    region: str | None
    base_url: str | None
    direct: bool
    in_order: bool
    limits: Limits | None
    retry: RetryPolicy | None
    max_message_bytes: int | None
    when_full: WhenFull
    on_delivery: OnDelivery | None
    on_error: OnError | None
    on_drop: OnDrop | None
    default_context: Properties | None
    validation: Validation
    disabled: bool
    gzip: bool
    http_client: httpx.AsyncClient | None
    proxy: str | None
    ssl_context: ssl.SSLContext | None
