"""Deliver one batch: send, classify the response, wait, send again, as a generator of steps.

It does no I/O and reads the clock only through its arguments, so every path is tested without a
socket. A driver, async or blocking, carries out the steps:

    Send(records)            send them in one request; send back a `Response` or `TransportFailure`
    Wait(seconds, error)     send nothing from this endpoint's queue for that long
    Resolve(records, fate)   count the outcome of these records: it is final
    ReduceBatchBytes(bytes)  remember that the server takes no more in one request
    DisableGzip()            remember that the server takes no gzip
    Stop(error)              stop here; records that are not resolved stay in the queue

A response is classified as one of five outcomes: delivered, rejected, retry, ambiguous, fatal.

An update that is not safe to repeat (`$add`, `$append`, `$remove`) is sent again only when the
previous attempt provably changed nothing:

| what happened | proof |
|---|---|
| no DNS answer, refused connection, TLS or proxy failure: any failure before the first byte | yes |
| 429 or 503 with an error body of Mixpanel's own: JSON with its `error` and `status` | yes |
| 413, or any other 4xx but 408, 425, 460, that neither counts nor lists records | yes |
| 3xx | yes |
| 408, 425, 460; 429 or 503 with any other body, as from a gateway | no |
| any other 5xx | no |
| the connection broke, or no response came, after the first byte was sent | no |
| 2xx of an unknown shape, or whose counts contradict what was sent | no |

Without a proof the delivery is *ambiguous*: such updates are dropped and counted as that. All other
records (events, by their four-part key; `$set` and its like) are sent again.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mixpanel._http.request import Send
from mixpanel._http.responses import (
    Classification,
    Classifier,
    Response,
    ResponseOutcome,
    TransportFailure,
    classify_response,
)
from mixpanel.exceptions import (
    AmbiguousDeliveryError,
    DeliveryError,
    RejectedError,
    RejectedRecord,
)

if TYPE_CHECKING:
    from mixpanel._delivery.buffer import Fate
    from mixpanel._records.record import Record
    from mixpanel.settings import RetryPolicy

__all__ = [
    "DisableGzip",
    "ReduceBatchBytes",
    "Resolve",
    "Step",
    "Stop",
    "Wait",
    "advance",
    "delivery_steps",
]


@dataclass(frozen=True, slots=True)
class Wait:
    """Send nothing from this endpoint's queue for some seconds, because of an error."""

    seconds: float
    error: DeliveryError


@dataclass(frozen=True, slots=True)
class Resolve:
    """Count the final outcome of some records."""

    records: list[Record]
    fate: Fate
    reason: str = ""
    error: DeliveryError | None = None


@dataclass(frozen=True, slots=True)
class ReduceBatchBytes:
    """Remember that the server takes no more than this in one request."""

    max_bytes: int


@dataclass(frozen=True, slots=True)
class DisableGzip:
    """Remember that the server takes no gzip."""


@dataclass(frozen=True, slots=True)
class Stop:
    """Stop here: only a human can help, or no attempt is left."""

    error: DeliveryError


Step = Send | Wait | Resolve | ReduceBatchBytes | DisableGzip | Stop
Steps = Generator[Step, Response | TransportFailure | None, None]


def advance(
    steps: Steps, reply: Response | TransportFailure | None, apply: Callable[[Step], None]
) -> Send | Wait | None:
    """Send a reply to the generator, apply the steps that take no time, and return the next other.

    That is a `Send`, which the driver carries out, or a `Wait`, which is applied here and slept by
    the driver; None at the end.
    """
    try:
        step = steps.send(reply)
        while not isinstance(step, Send):
            apply(step)
            if isinstance(step, Wait):
                break
            step = next(steps)
    except StopIteration:
        return None
    return step


def delivery_steps(  # noqa: C901
    records: list[Record],
    *,
    policy: RetryPolicy,
    clock: Callable[[], float],
    random: Callable[[], float],
    gzip: bool | None = False,
    repeat_ambiguous: bool = False,
    classify: Classifier | None = None,
) -> Steps:
    """Yield the steps that deliver records of one endpoint, until each has a final outcome.

    `gzip` None tries compression, and disables it when the very first response is a rejection.
    `classify` decides what a response means, for servers other than Mixpanel's.
    """
    classify = classify or classify_response
    parts = [records]  # still to be sent, first ones last; a rejected batch is split in halves
    compress = gzip is not False
    probes = PROBE_SIZE
    while parts:
        part = parts.pop()
        failures = odd_responses = 0
        while part:
            reply = yield Send(part, compress, failures)
            assert reply is not None
            found = classify(reply, part)
            error = found.error
            if compress and gzip is None:
                # It is not known yet whether this server takes gzip: a rejection may mean that.
                refused = found.outcome is ResponseOutcome.REJECTED and found.not_processed
                if refused and not found.too_large:
                    compress = False
                    yield DisableGzip()
                    continue
                gzip = found.outcome is ResponseOutcome.DELIVERED or None
            if found.outcome is ResponseOutcome.DELIVERED:
                yield from _resolve_listed(part, found)
                break
            assert error is not None
            if found.outcome is ResponseOutcome.FATAL:
                error.needs_attention = True
                if not (found.not_processed or repeat_ambiguous):
                    yield from _without_unrepeatable(part, error)
                yield Stop(error)  # what is repeatable stays queued, until the settings are mended
                return
            if found.outcome is ResponseOutcome.REJECTED:
                # The server does not say which record it rejects: bisect until one is alone.
                if found.too_large and len(part) > 1:
                    # The brackets and commas count: this is the size of the request's body.
                    size = sum(len(record.body) + 1 for record in part) + 1
                    yield ReduceBatchBytes(max(size // 2, 1024))
                if not found.not_processed and len(part) > 1:
                    # It may have applied some of them: halves are sent again, updates must not be.
                    part = yield from _without_unrepeatable(part, error)
                if probes and not found.too_large and len(part) > 2 * probes:
                    # Once per batch, before bisecting it: a wrong token rejects every record, and
                    # 2,000 of them would take 4,000 requests.
                    part = yield from _probe_batch(part, error, probes, classify, gzip=compress)
                    probes = 0
                if len(part) > 1:
                    half = len(part) // 2
                    parts.append(part[half:])
                    parts.append(part[:half])
                elif part:
                    yield Resolve(part, "rejected", error=_with_records(error, part))
                break
            failures += 1
            odd_responses += found.unexpected
            if found.outcome is ResponseOutcome.AMBIGUOUS and not repeat_ambiguous:
                part = yield from _without_unrepeatable(part, error)
                if not part:
                    break
                if odd_responses > 1:
                    # Twice a response that cannot be understood: a third would be no better.
                    what = f"{len(part)} message(s) may have been processed"
                    yield Resolve(part, "dropped", "ambiguous", _ambiguous(error, part, what))
                    break
            # Each record expires by its own age, whatever the age of others in its batch.
            part = yield from _without_expired(part, clock() - policy.max_age + TICK, error)
            if not part:
                break
            seconds = policy.wait(failures, error.retry_after, random())
            left = max(record.enqueued_at for record in part) + policy.max_age - clock()
            if policy.attempts is not None and (
                failures >= policy.attempts or (error.retry_after is not None and seconds > left)
            ):
                yield Stop(error)  # a caller is waiting: no attempt, or no time, is left
                return
            if seconds > left - TICK:
                # All would expire during this wait: shorten it for one more attempt.
                seconds = left - 0.5 if left > 0.99 else max(0.0, left)
            yield Wait(seconds, error)
            part = yield from _without_expired(part, clock() - policy.max_age + TICK, error)


TICK = 0.001  # seconds by which a clock and a sleep may differ

PROBE_SIZE = 16  # records that are sent alone; if all are rejected alike, so is the whole batch
ORDERED = frozenset({"people", "groups", "batch"})  # endpoints whose records keep their order


def _probe_batch(
    part: list[Record], error: DeliveryError, probes: int, classify: Classifier, *, gzip: bool
) -> Generator[Step, Response | TransportFailure | None, list[Record]]:
    """Resolve a whole batch that is rejected for what its records share, such as a wrong token.

    Records spread over the batch are sent alone, until one has another outcome. If all are rejected
    with the same error, so are the rest. Return the records that are left to be bisected.
    """
    if part[0].endpoint in ORDERED:
        return part
    probed = [part[at * (len(part) - 1) // (probes - 1)] for at in range(probes)]
    left = part
    for record in probed:
        reply = yield Send([record], gzip)
        assert reply is not None
        found = classify(reply, [record])
        alike = found.outcome is ResponseOutcome.REJECTED and str(found.error) == str(error)
        if found.outcome is ResponseOutcome.DELIVERED:
            yield from _resolve_listed([record], found)
        elif alike and found.error is not None:
            yield Resolve([record], "rejected", error=_with_records(found.error, [record]))
        else:
            return left
        left = [one for one in left if one is not record]
        if not alike:
            return left
    yield Resolve(left, "rejected", error=_with_records(error, left))
    return []


def _without_unrepeatable(
    part: list[Record], error: DeliveryError
) -> Generator[Step, Response | TransportFailure | None, list[Record]]:
    """Drop the records that must not be sent twice as ambiguous, and return the others."""
    unsafe = [record for record in part if not record.repeatable]
    if not unsafe:
        return part
    what = f"{len(unsafe)} update(s) may have been applied and are not safe to repeat"
    yield Resolve(unsafe, "dropped", "ambiguous", _ambiguous(error, unsafe, what))
    return [record for record in part if record.repeatable]


def _ambiguous(error: DeliveryError, records: list[Record], what: str) -> AmbiguousDeliveryError:
    ambiguous = AmbiguousDeliveryError(
        f"{error}; {what}", endpoint=records[0].endpoint, status=error.status
    )
    ambiguous.__cause__ = error
    return ambiguous


def _without_expired(
    part: list[Record], before: float, error: DeliveryError
) -> Generator[Step, Response | TransportFailure | None, list[Record]]:
    """Drop the records that were enqueued at `before` or earlier, and return the others."""
    expired = [record for record in part if record.enqueued_at <= before]
    if not expired:
        return part
    yield Resolve(expired, "dropped", "expired", error)
    return [record for record in part if record.enqueued_at > before]


def _resolve_listed(part: list[Record], found: Classification) -> Steps:
    """Resolve a delivered batch: as delivered, but for the records that the response rejects."""
    if not found.rejected:
        yield Resolve(part, "delivered")
        return
    delivered = [record for index, record in enumerate(part) if index not in found.rejected]
    rejected = [record for index, record in enumerate(part) if index in found.rejected]
    if delivered:
        yield Resolve(delivered, "delivered")
    listed = tuple(
        RejectedRecord(at, one.message, one.field, one.insert_id, part[at].decoded())
        for at, one in sorted(found.rejected.items())
    )
    endpoint = part[0].endpoint
    reasons = "; ".join(sorted({one.message for one in listed})[:3])
    error = RejectedError(
        f"{endpoint}: {len(rejected)} of {len(part)} record(s) rejected: {reasons}",
        endpoint=endpoint,
        status=found.error.status if found.error else 200,
        rejected_records=listed,
    )
    yield Resolve(rejected, "rejected", error=error)


def _with_records(error: DeliveryError, part: list[Record]) -> DeliveryError:
    """Attach the records to the error that rejected them without naming any."""
    error.rejected_records = tuple(
        RejectedRecord(at, str(error), record=record.decoded()) for at, record in enumerate(part)
    )
    return error
