"""Options of the clients of the Segment spec, and what they report for each message."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Literal, NamedTuple, TypedDict

if TYPE_CHECKING:
    import os
    import ssl

    import httpx

    from mixpanel._delivery.spool_settings import Durability
    from mixpanel._delivery.stats import OnDrop, OnError
    from mixpanel._records.record import BeforeSend, Properties, Validation
    from mixpanel.cdp._segment.message import Kind
    from mixpanel.settings import Limits, RetryPolicy, WhenFull

__all__ = ["Delivery", "OnDelivery", "SegmentOptions"]


class Delivery(NamedTuple):
    """The outcome of one message, with the reason if it was rejected or dropped."""

    message_id: str
    kind: Kind
    fate: Literal["delivered", "rejected", "dropped"]
    reason: str = ""


OnDelivery = Callable[[Delivery], object]


class SegmentOptions(TypedDict, total=False):
    """Keyword options of all clients.

    - `region`: the region of the source. A message sent to the wrong region is answered with 200
      and not stored.
    - `base_url`: one origin for all calls, such as the emulator or your own proxy. Default:
      `MP_CUSTOMERIO_BASE_URL` or that of the vendor, else the region's host.
    - `send_immediately`: send each message at once to the endpoint of its kind and raise errors,
      instead of sending batches in the background.
    - `ordered`: send one request at a time (default), so that no `track` arrives before the
      `identify` that precedes it. If False, send up to `limits.concurrency` requests at a time.
    - `limits`, `retry`: see `Limits` and `RetryPolicy`; limits above the vendor's are lowered. In
      an outage up to `limits.max_queue_size` messages are kept, each for `retry.max_age` seconds.
    - `max_message_bytes`: the largest message, if the vendor has raised this limit for you.
    - `when_full`: what to do with a message when the buffer is full.
    - `on_delivery(delivery)`: called once for each message with its outcome.
    - `on_error(error, messages)`, `on_drop(reason, messages)`: called for each failure and each
      loss. A failure that only a person can mend (`error.needs_attention`) is logged as well.
      Messages that expire after their retries are passed to both. To store dead letters once, take
      all messages of `on_drop`, and those of `on_error` only with a `RejectedError` or
      `PayloadTooLargeError`. Exceptions raised by a callback are logged.
    - `before_send(kind, message)`: returns the message, changed or not, or None to drop it. It gets
      the message of the spec as it is sent, before fields that only this vendor has are added.
    - `default_context`: defaults for the `context` of every call.
    - `validation`: "off", "warn" (default: count and log problems, and send anyway) or "raise".
    - `disabled`: compose and validate, but send nothing.
    - `gzip`: compress bodies. If the source rejects that, they are sent uncompressed.
    - `debug`: show on a live page what the client composed, queued, sent and got back, as for
      Mixpanel's clients; `MP_DEBUG_PAGE` if it is None.
    - `spool`: a folder on a local disk in which messages are kept until they are delivered, so that
      they outlive the process; `MP_SPOOL` if it is None, and False for none. Not together with
      `send_immediately`.
    - `durability`: what committed messages outlive: "process" (default: a killed process) or
      "power" (a power failure too; each commit waits for the disk).
    - `http_client`: your own `httpx.AsyncClient`; it is not closed.
    - `proxy`, `ssl_context`: used by the HTTP client that is created otherwise.
    """

    region: str | None
    base_url: str | None
    send_immediately: bool
    ordered: bool
    limits: Limits | None
    retry: RetryPolicy | None
    max_message_bytes: int | None
    when_full: WhenFull
    on_delivery: OnDelivery | None
    on_error: OnError | None
    on_drop: OnDrop | None
    before_send: BeforeSend | None
    default_context: Properties | None
    validation: Validation
    disabled: bool
    debug: bool | int | str | None
    gzip: bool
    spool: str | os.PathLike[str] | Literal[False] | None
    durability: Durability
    http_client: httpx.AsyncClient | None
    proxy: str | None
    ssl_context: ssl.SSLContext | None
