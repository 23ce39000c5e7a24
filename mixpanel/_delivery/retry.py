"""Send, judge, wait, send again: the flow of one batch, as a generator of steps.

It does no I/O and reads no clock of its own, so every path is tested without a socket. A driver
carries out the steps:

    Send(records)      put them on the wire; answer with an `Answer` or a `Failure`
    Wait(seconds)      hold the whole lane back that long
    Settle(records, …) close the books on them
    Shrink(max_bytes)  remember that the server takes no more in one request
    Plain()            remember that the server takes no gzip
    Halt(error)        only a human can help, or our patience ended: stop, keep what is open

Each answer is one of five verdicts: delivered, rejected, retry, ambiguous, fatal.

An update that is not safe to repeat (`$add`, `$append`, `$remove`) is sent again only when the
attempt before provably changed nothing:

| what happened | proven |
|---|---|
| no DNS answer, refused connection, TLS or proxy failure: any failure before the first byte | yes |
| 429 or 503 with an error body of Mixpanel's own: JSON with its `error` and `status` | yes |
| 413, or any other 4xx but 408, 425, 460, that neither counts nor lists records | yes |
| 3xx | yes |
| 408, 425, 460; 429 or 503 with any other body, as from a gateway | no |
| any other 5xx | no |
| the connection broke, or no answer came, after the first byte had left | no |
| 2xx of an unknown shape, or whose counts contradict what was sent | no |

What is not proven is *ambiguous*: such updates are dropped and counted as that, everything else
(events, by their four-part key; `$set` and its like) is sent again.
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
    "exchange",
]


@dataclass(frozen=True, slots=True)
class Wait:
    seconds: float
    error: DeliveryError


@dataclass(frozen=True, slots=True)
class Resolve:
    records: list[Record]
    fate: Fate
    reason: str = ""
    error: DeliveryError | None = None


@dataclass(frozen=True, slots=True)
class ReduceBatchBytes:
    max_bytes: int


@dataclass(frozen=True, slots=True)
class DisableGzip:
    pass


@dataclass(frozen=True, slots=True)
class Stop:
    error: DeliveryError


Step = Send | Wait | Resolve | ReduceBatchBytes | DisableGzip | Stop
Steps = Generator[Step, Response | TransportFailure | None, None]


def advance(
    steps: Steps, reply: Response | TransportFailure | None, apply: Callable[[Step], None]
) -> Send | Wait | None:
    """Carry out steps up to the next one that takes time; return that, or None at the end.

    Of those, a `Send` is for the driver alone; a `Wait` is carried out, and waited by the driver.
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


def exchange(  # noqa: C901
    records: list[Record],
    *,
    policy: RetryPolicy,
    clock: Callable[[], float],
    random: Callable[[], float],
    gzip: bool | None = False,
    repeat_ambiguous: bool = False,
    classify: Classifier | None = None,
) -> Steps:
    """Bring records of one endpoint to the server, or say what became of each.

    `gzip` None means: try it, and fall back when the very first answer is a refusal. `judge` says
    what an answer means, for servers that do not speak as Mixpanel does.
    """
    classify = classify or classify_response
    parts = [records]
    compress = gzip is not False
    suspects = PROBE_SIZE
    while parts:
        part = parts.pop()
        failures = odd_answers = 0
        while part:
            reply = yield Send(part, compress, failures)
            assert reply is not None
            judged = classify(reply, part)
            error = judged.error
            if compress and gzip is None:
                refused = judged.outcome is ResponseOutcome.REJECTED and judged.not_processed
                if refused and not judged.too_large:
                    compress = False
                    yield DisableGzip()
                    continue
                gzip = judged.outcome is ResponseOutcome.DELIVERED or None
            if judged.outcome is ResponseOutcome.DELIVERED:
                yield from _settled(part, judged)
                break
            assert error is not None
            if judged.outcome is ResponseOutcome.FATAL:
                if not (judged.not_processed or repeat_ambiguous):
                    yield from _without_unsafe(part, error)
                yield Stop(error)
                return
            if judged.outcome is ResponseOutcome.REJECTED:
                if judged.too_large and len(part) > 1:
                    size = sum(len(record.body) + 1 for record in part) + 1
                    yield ReduceBatchBytes(max(size // 2, 1024))
                if not judged.not_processed and len(part) > 1:
                    part = yield from _without_unsafe(part, error)
                if suspects and not judged.too_large and len(part) > 2 * suspects:
                    part = yield from _probe_batch(part, error, suspects, classify, gzip=compress)
                    suspects = 0
                if len(part) > 1:
                    half = len(part) // 2
                    parts.append(part[half:])
                    parts.append(part[:half])
                elif part:
                    yield Resolve(part, "rejected", error=_naming(error, part))
                break
            failures += 1
            odd_answers += judged.unexpected
            if judged.outcome is ResponseOutcome.AMBIGUOUS and not repeat_ambiguous:
                part = yield from _without_unsafe(part, error)
                if odd_answers > 1:
                    yield Resolve(part, "dropped", "ambiguous", error)
                    break
                if not part:
                    break
            part = yield from _without_expired(part, clock() - policy.max_age + TICK, error)
            if not part:
                break
            seconds = policy.wait(failures, error.retry_after, random())
            left = max(record.enqueued_at for record in part) + policy.max_age - clock()
            if policy.attempts is not None and (
                failures >= policy.attempts or (error.retry_after is not None and seconds > left)
            ):
                yield Stop(error)  # whoever waits for us has no time left
                return
            if seconds > left - TICK:
                # None would live to see the next attempt: make one before their patience ends.
                seconds = left - 0.5 if left > 0.99 else max(0.0, left)
            yield Wait(seconds, error)
            part = yield from _without_expired(part, clock() - policy.max_age + TICK, error)


TICK = 0.001  # seconds by which a clock and a sleep may differ

PROBE_SIZE = 16  # single refusals in the same words that make it a refusal of them all
ORDERED = frozenset({"people", "groups", "batch"})  # what may not be sent out of turn


def _probe_batch(
    part: list[Record], error: DeliveryError, suspects: int, classify: Classifier, *, gzip: bool
) -> Generator[Step, Response | TransportFailure | None, list[Record]]:
    """Settle a whole batch that is refused for what its records share, as a wrong token.

    Records from all over the batch are sent alone, until one fares otherwise; if none does, so
    stands it with the rest. Return what is left to be bisected.
    """
    if part[0].endpoint in ORDERED:
        return part
    asked = [part[at * (len(part) - 1) // (suspects - 1)] for at in range(suspects)]
    left = part
    for record in asked:
        reply = yield Send([record], gzip)
        assert reply is not None
        judged = classify(reply, [record])
        alike = judged.outcome is ResponseOutcome.REJECTED and str(judged.error) == str(error)
        if judged.outcome is ResponseOutcome.DELIVERED:
            yield from _settled([record], judged)
        elif alike and judged.error is not None:
            yield Resolve([record], "rejected", error=_naming(judged.error, [record]))
        else:
            return left
        left = [one for one in left if one is not record]
        if not alike:
            return left
    yield Resolve(left, "rejected", error=_naming(error, left))
    return []


def _without_unsafe(
    part: list[Record], error: DeliveryError
) -> Generator[Step, Response | TransportFailure | None, list[Record]]:
    """Settle the records that must not be sent twice, and return the others."""
    unsafe = [record for record in part if not record.repeatable]
    if not unsafe:
        return part
    doubt = AmbiguousDeliveryError(
        f"{error}; {len(unsafe)} update(s) may have been applied and are not safe to repeat",
        endpoint=unsafe[0].endpoint,
        status=error.status,
    )
    doubt.__cause__ = error
    yield Resolve(unsafe, "dropped", "ambiguous", doubt)
    return [record for record in part if record.repeatable]


def _without_expired(
    part: list[Record], before: float, error: DeliveryError
) -> Generator[Step, Response | TransportFailure | None, list[Record]]:
    """Settle the records that were accepted at `before` or earlier, and return the others."""
    expired = [record for record in part if record.enqueued_at <= before]
    if not expired:
        return part
    yield Resolve(expired, "dropped", "expired", error)
    return [record for record in part if record.enqueued_at > before]


def _settled(part: list[Record], judged: Classification) -> Steps:
    if not judged.failed:
        yield Resolve(part, "delivered")
        return
    good = [record for index, record in enumerate(part) if index not in judged.failed]
    bad = [record for index, record in enumerate(part) if index in judged.failed]
    if good:
        yield Resolve(good, "delivered")
    failed = tuple(
        RejectedRecord(at, one.message, one.field, one.insert_id, part[at].decoded())
        for at, one in sorted(judged.failed.items())
    )
    endpoint = part[0].endpoint
    reasons = "; ".join(sorted({one.message for one in failed})[:3])
    error = RejectedError(
        f"{endpoint}: {len(bad)} of {len(part)} record(s) refused: {reasons}",
        endpoint=endpoint,
        status=judged.error.status if judged.error else 200,
        rejected_records=failed,
    )
    yield Resolve(bad, "rejected", error=error)


def _naming(error: DeliveryError, part: list[Record]) -> DeliveryError:
    """Name the records that an unspecific refusal was about."""
    error.rejected_records = tuple(
        RejectedRecord(at, str(error), record=record.decoded()) for at, record in enumerate(part)
    )
    return error


# ---- judging ------------------------------------------------------------------------------------
