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
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from enum import Enum
from typing import TYPE_CHECKING, Any

from mixpanel._json import loads
from mixpanel.exceptions import (
    AmbiguousDeliveryError,
    AuthenticationError,
    DeliveryError,
    FailedRecord,
    PayloadTooLargeError,
    RateLimitError,
    RejectedError,
    ServerError,
)

if TYPE_CHECKING:
    from typing import NoReturn

    from mixpanel._buffer import Fate
    from mixpanel.messages import Record
    from mixpanel.settings import RetryPolicy

__all__ = [
    "Answer",
    "Failure",
    "Halt",
    "Judge",
    "Judgement",
    "Plain",
    "Send",
    "Settle",
    "Shrink",
    "Step",
    "Verdict",
    "Wait",
    "exchange",
    "judge_answer",
    "judge_status",
    "onward",
]


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back: status, header values by lower-case name, and the (capped) body.

    Its repr shows only the status: a body may hold an access token, or repeat what was sent. So
    `pickle` refuses it.
    """

    status: int
    headers: Mapping[str, str] = field(repr=False)
    body: bytes = field(repr=False)

    def __reduce__(self) -> NoReturn:
        raise TypeError("an answer is not pickled: it may hold an access token")


@dataclass(frozen=True, slots=True)
class Failure:
    """Why nothing came back, and whether the server may have seen the request."""

    error: DeliveryError
    maybe_sent: bool
    hopeless: bool = False


@dataclass(frozen=True, slots=True)
class Send:
    records: list[Record]
    gzip: bool
    retries: int = 0


@dataclass(frozen=True, slots=True)
class Wait:
    seconds: float
    error: DeliveryError


@dataclass(frozen=True, slots=True)
class Settle:
    records: list[Record]
    fate: Fate
    reason: str = ""
    error: DeliveryError | None = None


@dataclass(frozen=True, slots=True)
class Shrink:
    max_bytes: int


@dataclass(frozen=True, slots=True)
class Plain:
    pass


@dataclass(frozen=True, slots=True)
class Halt:
    error: DeliveryError


Step = Send | Wait | Settle | Shrink | Plain | Halt
Steps = Generator[Step, Answer | Failure | None, None]


def onward(
    steps: Steps, reply: Answer | Failure | None, carry_out: Callable[[Step], None]
) -> Send | Wait | None:
    """Carry out steps up to the next one that takes time; return that, or None at the end.

    Of those, a `Send` is for the driver alone; a `Wait` is carried out, and waited by the driver.
    """
    try:
        step = steps.send(reply)
        while not isinstance(step, Send):
            carry_out(step)
            if isinstance(step, Wait):
                break
            step = next(steps)
    except StopIteration:
        return None
    return step


class Verdict(Enum):
    """What an answer means for the records that were sent."""

    DELIVERED = "delivered"
    REJECTED = "rejected"
    RETRY = "retry"
    AMBIGUOUS = "ambiguous"
    FATAL = "fatal"


@dataclass(slots=True)
class Judgement:
    """A verdict with its grounds.

    `failed` holds the refused records by index, when the server names them; `untouched` tells
    that the server provably applied nothing; `odd` that it was a success of no known shape.
    """

    verdict: Verdict
    error: DeliveryError | None = None
    failed: dict[int, FailedRecord] = field(default_factory=dict)
    untouched: bool = False
    too_large: bool = False
    odd: bool = False


def exchange(  # noqa: C901
    records: list[Record],
    *,
    policy: RetryPolicy,
    clock: Callable[[], float],
    random: Callable[[], float],
    gzip: bool | None = False,
    repeat_ambiguous: bool = False,
    judge: Judge | None = None,
) -> Steps:
    """Bring records of one endpoint to the server, or say what became of each.

    `gzip` None means: try it, and fall back when the very first answer is a refusal. `judge` says
    what an answer means, for servers that do not speak as Mixpanel does.
    """
    judge = judge or judge_answer
    parts = [records]
    compress = gzip is not False
    suspects = SUSPECTS
    while parts:
        part = parts.pop()
        failures = odd_answers = 0
        while part:
            reply = yield Send(part, compress, failures)
            assert reply is not None
            judged = judge(reply, part)
            error = judged.error
            if compress and gzip is None:
                refused = judged.verdict is Verdict.REJECTED and judged.untouched
                if refused and not judged.too_large:
                    compress = False
                    yield Plain()
                    continue
                gzip = judged.verdict is Verdict.DELIVERED or None
            if judged.verdict is Verdict.DELIVERED:
                yield from _settled(part, judged)
                break
            assert error is not None
            if judged.verdict is Verdict.FATAL:
                yield Halt(error)
                return
            if judged.verdict is Verdict.REJECTED:
                if judged.too_large and len(part) > 1:
                    size = sum(len(record.body) + 1 for record in part) + 1
                    yield Shrink(max(size // 2, 1024))
                if not judged.untouched and len(part) > 1:
                    part = yield from _without_unsafe(part, error)
                if suspects and not judged.too_large and len(part) > 2 * suspects:
                    part = yield from _interrogated(part, error, suspects, judge, gzip=compress)
                    suspects = 0
                if len(part) > 1:
                    half = len(part) // 2
                    parts.append(part[half:])
                    parts.append(part[:half])
                elif part:
                    yield Settle(part, "rejected", error=_naming(error, part))
                break
            failures += 1
            odd_answers += judged.odd
            if judged.verdict is Verdict.AMBIGUOUS and not repeat_ambiguous:
                part = yield from _without_unsafe(part, error)
                if odd_answers > 1:
                    yield Settle(part, "dropped", "ambiguous", error)
                    break
                if not part:
                    break
            seconds = policy.wait(failures, error.retry_after, random())
            left = part[0].at + policy.max_age - clock()
            if error.retry_after is not None and seconds > left > 0:
                if policy.attempts is not None:
                    yield Halt(error)  # whoever waits for us cannot wait that long
                    return
                if left > 1.0:
                    seconds = left - 0.5  # one more try before patience ends, instead of none
            if seconds > left:
                yield Settle(part, "dropped", "expired", error)
                break
            if policy.attempts is not None and failures >= policy.attempts:
                yield Halt(error)
                return
            yield Wait(seconds, error)


Judge = Callable[[Answer | Failure, list["Record"]], Judgement]

SUSPECTS = 16  # single refusals in the same words that make it a refusal of them all
ORDERED = frozenset({"people", "groups", "batch"})  # what may not be sent out of turn


def _interrogated(
    part: list[Record], error: DeliveryError, suspects: int, judge: Judge, *, gzip: bool
) -> Generator[Step, Answer | Failure | None, list[Record]]:
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
        judged = judge(reply, [record])
        alike = judged.verdict is Verdict.REJECTED and str(judged.error) == str(error)
        if judged.verdict is Verdict.DELIVERED:
            yield from _settled([record], judged)
        elif alike and judged.error is not None:
            yield Settle([record], "rejected", error=_naming(judged.error, [record]))
        else:
            return left
        left = [one for one in left if one is not record]
        if not alike:
            return left
    yield Settle(left, "rejected", error=_naming(error, left))
    return []


def _without_unsafe(
    part: list[Record], error: DeliveryError
) -> Generator[Step, Answer | Failure | None, list[Record]]:
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
    yield Settle(unsafe, "dropped", "ambiguous", doubt)
    return [record for record in part if record.repeatable]


def _settled(part: list[Record], judged: Judgement) -> Generator[Step, None, None]:
    if not judged.failed:
        yield Settle(part, "delivered")
        return
    good = [record for index, record in enumerate(part) if index not in judged.failed]
    bad = [record for index, record in enumerate(part) if index in judged.failed]
    if good:
        yield Settle(good, "delivered")
    failed = tuple(
        FailedRecord(at, one.message, one.field, one.insert_id, part[at].decoded())
        for at, one in sorted(judged.failed.items())
    )
    endpoint = part[0].endpoint
    reasons = "; ".join(sorted({one.message for one in failed})[:3])
    error = RejectedError(
        f"{endpoint}: {len(bad)} of {len(part)} record(s) refused: {reasons}",
        endpoint=endpoint,
        status=judged.error.status if judged.error else 200,
        failed_records=failed,
    )
    yield Settle(bad, "rejected", error=error)


def _naming(error: DeliveryError, part: list[Record]) -> DeliveryError:
    """Name the records that an unspecific refusal was about."""
    error.failed_records = tuple(
        FailedRecord(at, str(error), record=record.decoded()) for at, record in enumerate(part)
    )
    return error


# ---- judging ------------------------------------------------------------------------------------

CONFIGURATION = frozenset(
    {300, 301, 302, 303, 307, 308, 401, 402, 403, 404, 405, 407, 410, 501, 505}
)
# 460 is a load balancer's word for 408. Any 5xx but those above may be gone the next time.
TRANSIENT = frozenset({408, 425, 429, 460})
# RFC 9110 and 6585: these say that the request was not processed. After any other error of a
# server or gateway nobody knows.
UNPROCESSED = frozenset({408, 425, 429, 503})


def judge_answer(reply: Answer | Failure, part: list[Record]) -> Judgement:
    """Return what a reply means for the records that were sent."""
    endpoint = part[0].endpoint
    if isinstance(reply, Answer):
        data = _read(reply.body)
        if 200 <= reply.status < 300:
            return _judge_success(reply, data, part)
        failed = _failed_records(data, part)
        if failed and reply.status not in CONFIGURATION:
            # A strict 400 is a partial success: the records it does not name were taken.
            error = RejectedError(_text(endpoint, reply, data), **_known(endpoint, reply))
            return Judgement(Verdict.DELIVERED, error, failed)
    return judge_status(reply, endpoint)


def judge_status(
    reply: Answer | Failure,
    endpoint: str,
    text: Callable[[Answer], str] | None = None,
) -> Judgement:
    """Return what a failure, or an answer that is not a success, means for the whole request.

    `text` says the answer in words, for servers that do not speak as Mixpanel does.
    """
    if isinstance(reply, Failure):
        reply.error.endpoint = endpoint
        if reply.hopeless:
            return Judgement(Verdict.FATAL, reply.error)
        verdict = Verdict.AMBIGUOUS if reply.maybe_sent else Verdict.RETRY
        return Judgement(verdict, reply.error)
    status, known = reply.status, _known(endpoint, reply)
    said = _text(endpoint, reply, _read(reply.body)) if text is None else text(reply)
    if status == 413:
        too_large = PayloadTooLargeError(said, **known)
        return Judgement(Verdict.REJECTED, too_large, untouched=True, too_large=True)
    if status in CONFIGURATION:
        refused = AuthenticationError if status in (401, 402, 403) else ServerError
        return Judgement(Verdict.FATAL, refused(said, **known))
    if status in TRANSIENT or 500 <= status < 600:
        known["retry_after"] = retry_after(reply.headers)
        kind = RateLimitError if status == 429 else ServerError
        verdict = Verdict.RETRY if status in UNPROCESSED else Verdict.AMBIGUOUS
        return Judgement(verdict, kind(said, **known))
    return Judgement(Verdict.REJECTED, RejectedError(said, **known), untouched=True)


def _known(endpoint: str, reply: Answer) -> dict[str, Any]:
    return {"endpoint": endpoint, "status": reply.status}


def _text(endpoint: str, reply: Answer, data: Any) -> str:
    reason = data.get("error") if isinstance(data, dict) else None
    if not isinstance(reason, str):
        return f"{endpoint}: HTTP {reply.status}"
    reason = "".join(c for c in reason[:200] if c.isprintable())
    return f"{endpoint}: HTTP {reply.status}: {reason}"


def _judge_success(reply: Answer, data: Any, part: list[Record]) -> Judgement:
    known, text = _known(part[0].endpoint, reply), _text(part[0].endpoint, reply, data)
    failed = _failed_records(data, part)
    if failed:
        return Judgement(Verdict.DELIVERED, RejectedError(text, **known), failed)
    state = data.get("status") if isinstance(data, dict) else data
    if state in (1, "OK", "ok") and not isinstance(data, (list, bool)):
        return Judgement(Verdict.DELIVERED)
    if isinstance(data, dict) and state in (0, "error") and data.get("error"):
        # Mixpanel's pages disagree whether 0 means "none was valid" or "not all were".
        return Judgement(Verdict.REJECTED, RejectedError(text, **known))
    if isinstance(data, dict) and data.get("code") == 200:
        return Judgement(Verdict.DELIVERED)
    if state == 0:
        return Judgement(Verdict.REJECTED, RejectedError(f"{text}: no reason given", **known))
    if data is None:
        # A captive portal or a proxy spoke, not Mixpanel.
        error = ServerError(f"{text}: the answer is not from Mixpanel", **known)
        return Judgement(Verdict.AMBIGUOUS, error)
    error = ServerError(f"{text}: the answer has no known shape", **known)
    return Judgement(Verdict.AMBIGUOUS, error, odd=True)


def _read(body: bytes) -> Any:
    try:
        return loads(body)
    except (ValueError, RecursionError):
        return None


def _failed_records(data: Any, part: list[Record]) -> dict[int, FailedRecord]:
    listed = data.get("failed_records") if isinstance(data, dict) else None
    if not isinstance(listed, list):
        return {}
    failed: dict[int, FailedRecord] = {}
    for entry in listed:
        if not isinstance(entry, dict):
            continue
        index = entry.get("index")
        if isinstance(index, bool) or not isinstance(index, int) or not 0 <= index < len(part):
            continue
        # The guide spells it "$insert_id", the schema "insert_id".
        insert_id = entry.get("$insert_id", entry.get("insert_id"))
        failed[index] = FailedRecord(
            index,
            str(entry.get("message") or entry.get("error") or "refused")[:500],
            str(entry["field"]) if entry.get("field") else None,
            str(insert_id) if insert_id else None,
        )
    return failed


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Return the seconds that the server asked for; None if it did not, or in no known form.

    A date is read against the answer's own `Date`, so a wrong clock on our side does no harm.
    """
    text = headers.get("retry-after", "").strip()
    if text.isascii() and text.isdigit():
        return float(text[:9])
    try:
        when, sent = parsedate_to_datetime(text), parsedate_to_datetime(headers["date"])
        return max(0.0, (when - sent).total_seconds())
    except (ValueError, TypeError, OverflowError, IndexError, KeyError):
        return None
