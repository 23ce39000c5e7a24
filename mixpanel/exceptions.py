"""The exceptions of this package.

MixpanelException
├── ConfigurationError (ValueError)      a host, region, credential or option that cannot work
│   └── ConfigurationTypeError (TypeError)   a setting of the wrong type
├── ValidationError (ValueError)         a message that Mixpanel would reject, in mode "raise"
├── QueueFullError                       the buffer is full and `when_full="raise"`
├── ClosedError (RuntimeError)           the client was used after it was closed
├── SyncInAsyncError (RuntimeError)      a blocking call on the thread of a running event loop
└── DeliveryError                        a message or batch that did not arrive
    ├── TransportError                   no connection, or it broke
    │   └── RequestTimeoutError          no complete response within `request_timeout`
    ├── AuthenticationError              401, 402 or 403
    ├── RateLimitError                   429
    ├── PayloadTooLargeError             413, for a single record
    ├── RejectedError                    the server rejected the record
    ├── AmbiguousDeliveryError           it may have been processed, and is not safe to repeat
    ├── SpoolError                       the file that keeps messages cannot be written
    ├── ServerError                      any other response that is not a success
    └── ImportInterrupted                a bulk import that could not continue (in `bulk`)

Other modules have `FlagsError` (`mixpanel.flags`: definitions could not be fetched), `WebhookError`
(`mixpanel.cdp.webhooks`: invalid signature or payload) and the tree of `mixpanel.data.exceptions`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

__all__ = [
    "AmbiguousDeliveryError",
    "AuthenticationError",
    "ClosedError",
    "ConfigurationError",
    "ConfigurationTypeError",
    "DeliveryError",
    "MixpanelException",
    "PayloadTooLargeError",
    "QueueFullError",
    "RateLimitError",
    "RejectedError",
    "RejectedRecord",
    "RequestTimeoutError",
    "ServerError",
    "SpoolError",
    "SyncInAsyncError",
    "TransportError",
    "ValidationError",
]


@dataclass(frozen=True, slots=True)
class RejectedRecord:
    """A record that the server rejected, and the reason.

    `index` is the position, from 0, in what the caller passed: in the batch for an error, in the
    whole stream for `import_events`. `record` is the message as it was sent.
    """

    index: int
    message: str
    field: str | None = None
    insert_id: str | None = None
    record: dict[str, Any] | None = None


class MixpanelException(Exception):  # noqa: N818
    """The base class of this package's exceptions."""


class ConfigurationError(MixpanelException, ValueError):
    """A setting is invalid; raised when it is passed."""


class ConfigurationTypeError(ConfigurationError, TypeError):
    """A setting has the wrong type."""


class ValidationError(MixpanelException, ValueError):
    """Mixpanel would reject the message; raised by the call that tracks it.

    `problems` holds one sentence for each rule that the message breaks. `record` is the incomplete
    message where it was made from a row of data.
    """

    record: dict[str, Any] | None = None

    def __init__(self, problems: list[str]) -> None:
        super().__init__("; ".join(problems))
        self.problems = problems


class QueueFullError(MixpanelException):
    """The buffer is full; the message was not accepted.

    Of several messages the first `accepted` were accepted: none with a buffer that sends in the
    background; as many as there was space for with one that sends when it is full.
    """

    accepted = 0


class ClosedError(MixpanelException, RuntimeError):
    """The client or consumer is closed; the message was not accepted."""


class SyncInAsyncError(MixpanelException, RuntimeError):
    """A blocking method was called on the thread of a running event loop; use the async class."""


class DeliveryError(MixpanelException):
    """A message or batch did not arrive.

    `endpoint` is `events`, `people`, `groups`, `imports` or `lookup-tables`; `status` is the HTTP
    status if there was a response; `retry_after` the seconds in its `Retry-After` header;
    `rejected_records` the records that the server rejected. `needs_attention` is True for a failure
    that will hardly end by itself: wrong credentials, an unknown host, a certificate that is not
    trusted, a plan without this feature. The message never contains a payload or a secret.
    """

    needs_attention: bool = False

    def __init__(
        self,
        text: str,
        *,
        endpoint: str | None = None,
        status: int | None = None,
        retry_after: float | None = None,
        rejected_records: tuple[RejectedRecord, ...] = (),
    ) -> None:
        super().__init__(text)
        self.endpoint = endpoint
        self.status = status
        self.retry_after = retry_after
        self.rejected_records = rejected_records


class TransportError(DeliveryError):
    """There was no connection, or it broke before the response was complete."""


class RequestTimeoutError(TransportError):
    """There was no complete response within `request_timeout` seconds."""


class AuthenticationError(DeliveryError):
    """The server rejected the credentials, or the project or plan does not allow the request."""


class RateLimitError(DeliveryError):
    """The project exceeded its rate limit; `retry_after` is the wait in seconds, if known."""


class PayloadTooLargeError(DeliveryError):
    """A single record is larger than the server accepts."""


class RejectedError(DeliveryError):
    """The server rejected the record; sending it again would not help."""


class AmbiguousDeliveryError(DeliveryError):
    """The record may have been processed, and sending it again could apply it twice."""


class ServerError(DeliveryError):
    """The server responded with an error."""


class SpoolError(DeliveryError):
    """The spool could not be written, or is damaged; messages are kept in memory meanwhile."""
