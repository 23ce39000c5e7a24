"""What can go wrong, in one tree.

MixpanelException
├── ConfigurationError (ValueError)      a host, region, credential or option that cannot work
│   └── ConfigurationTypeError (TypeError)   a setting of the wrong type
├── ValidationError (ValueError)         a message that Mixpanel would refuse, in mode "raise"
├── QueueFullError                       the buffer is full and `when_full="raise"`
├── ClosedError (RuntimeError)           the client was used after it was closed
├── SyncInAsyncError (RuntimeError)      a blocking call on the thread of a running event loop
└── DeliveryError                        a message or batch that did not arrive
    ├── TransportError                   no connection, or it broke
    │   └── RequestTimeoutError          no complete response within `request_timeout`
    ├── AuthenticationError              401, 402 or 403
    ├── RateLimitError                   429
    ├── PayloadTooLargeError             413, for a single record
    ├── RejectedError                    the server looked at the record and refused it
    ├── AmbiguousDeliveryError           sent without a trustworthy answer, and not safe to repeat
    ├── ServerError                      any other answer that is not a success
    └── ImportInterrupted                a bulk import that could not go on (in `bulk`)

Beside them stand `FlagsError` (in `flags.wire`): flag definitions that could not be fetched; and
`WebhookError` (in `cdp.webhooks`): a webhook that is not to be believed or understood.
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
    "SyncInAsyncError",
    "TransportError",
    "ValidationError",
]


@dataclass(frozen=True, slots=True)
class RejectedRecord:
    """Say which record was refused and why.

    `index` counts from 0 within what the caller handed over: the batch for an error, the whole
    stream for `import_events`. `record` is the message as it was sent.
    """

    index: int
    message: str
    field: str | None = None
    insert_id: str | None = None
    record: dict[str, Any] | None = None


class MixpanelException(Exception):  # noqa: N818
    """Any error of this package."""


class ConfigurationError(MixpanelException, ValueError):
    """A setting that cannot work; raised where it is given."""


class ConfigurationTypeError(ConfigurationError, TypeError):
    """A setting of the wrong type."""


class ValidationError(MixpanelException, ValueError):
    """A message that Mixpanel would refuse, raised at the caller's line.

    `problems` holds one sentence for each rule that the message breaks; `record` the message as far
    as it was made, where a row was to become one.
    """

    record: dict[str, Any] | None = None

    def __init__(self, problems: list[str]) -> None:
        super().__init__("; ".join(problems))
        self.problems = problems


class QueueFullError(MixpanelException):
    """The buffer holds as much as it may; the message was not accepted.

    Of a batch, the first `accepted` messages were: with a buffer that sends in the background
    none, with one that sends when it is full as many as it had room for.
    """

    accepted = 0


class ClosedError(MixpanelException, RuntimeError):
    """The client or consumer was closed; the message was not accepted."""


class SyncInAsyncError(MixpanelException, RuntimeError):
    """A blocking call on the thread of a running event loop; use the async class there."""


class DeliveryError(MixpanelException):
    """A message or batch did not arrive.

    `endpoint` is `events`, `people`, `groups`, `imports` or `lookup-tables`; `status` the HTTP
    status if there was an answer; `retry_after` the seconds that the server asked for;
    `rejected_records` what it rejected. The text of the error never holds a payload or a secret.
    """

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
    """There was no connection, or it broke before an answer came."""


class RequestTimeoutError(TransportError):
    """There was no complete answer within the deadline of one attempt."""


class AuthenticationError(DeliveryError):
    """The server does not accept these credentials, or not for this project or plan."""


class RateLimitError(DeliveryError):
    """The project has exceeded its rate limit; `retry_after` says for how long, if known."""


class PayloadTooLargeError(DeliveryError):
    """A single record is larger than the server takes."""


class RejectedError(DeliveryError):
    """The server looked at the record and refused it; sending it again would not help."""


class AmbiguousDeliveryError(DeliveryError):
    """The record was sent without a trustworthy answer, and repeating it could apply it twice."""


class ServerError(DeliveryError):
    """The server answered with something that is not a success."""
