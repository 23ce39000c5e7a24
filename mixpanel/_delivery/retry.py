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

from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from enum import Enum
from typing import TYPE_CHECKING, Any

from mixpanel._records.encoding import loads
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

    from mixpanel._delivery.buffer import Fate
    from mixpanel._records.record import Record
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

    `failed` holds the refused records by index, when the server names them. `untouched` is True
    when the server provably applied nothing, `odd` when the answer had no known shape or
    contradicted what was sent.
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
                if not (judged.untouched or repeat_ambiguous):
                    yield from _without_unsafe(part, error)
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
            part = yield from _without_expired(part, clock() - policy.max_age + TICK, error)
            if not part:
                break
            seconds = policy.wait(failures, error.retry_after, random())
            left = max(record.at for record in part) + policy.max_age - clock()
            if policy.attempts is not None and (
                failures >= policy.attempts or (error.retry_after is not None and seconds > left)
            ):
                yield Halt(error)  # whoever waits for us has no time left
                return
            if seconds > left - TICK:
                # None would live to see the next attempt: make one before their patience ends.
                seconds = left - 0.5 if left > 0.99 else max(0.0, left)
            yield Wait(seconds, error)
            part = yield from _without_expired(part, clock() - policy.max_age + TICK, error)


TICK = 0.001  # seconds by which a clock and a sleep may differ
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


def _without_expired(
    part: list[Record], before: float, error: DeliveryError
) -> Generator[Step, Answer | Failure | None, list[Record]]:
    """Settle the records that were accepted at `before` or earlier, and return the others."""
    expired = [record for record in part if record.at <= before]
    if not expired:
        return part
    yield Settle(expired, "dropped", "expired", error)
    return [record for record in part if record.at > before]


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

CONFIGURATION = frozenset({*range(300, 400), 401, 402, 403, 404, 405, 407, 410, 501, 505})
# 460 is a load balancer's word for 408. Any 5xx but those above may be gone the next time.
TRANSIENT = frozenset({408, 425, 429, 460})
# With an error of its own making Mixpanel says by these that it processed nothing. A gateway may
# say 503 although the request had reached the server behind it.
UNPROCESSED = frozenset({429, 503})
COUNTS = ("num_records_imported", "num_good_events")


def judge_answer(reply: Answer | Failure, part: list[Record]) -> Judgement:
    """Return what a reply means for the records that were sent.

    Delivered are only those of a documented success (200), and those that a strict 400 does not
    list as failed, each if its counts agree with what was sent. In any other answer the status
    decides, whatever the body says.
    """
    if not isinstance(reply, Answer) or not (200 <= reply.status < 300 or reply.status == 400):
        return judge_status(reply, part[0].endpoint)
    data = _read(reply.body)
    if reply.status != 400:
        return _judge_success(reply, data, part)
    return _judge_refusal(reply, data, part)


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
            return Judgement(Verdict.FATAL, reply.error, untouched=not reply.maybe_sent)
        verdict = Verdict.AMBIGUOUS if reply.maybe_sent else Verdict.RETRY
        return Judgement(verdict, reply.error)
    status, known = reply.status, _known(endpoint, reply)
    data = _read(reply.body)
    said = _text(endpoint, reply, data) if text is None else text(reply)
    untouched = status < 500 and not _claims_some(data)
    if status == 413:
        too_large = PayloadTooLargeError(said, **known)
        return Judgement(Verdict.REJECTED, too_large, untouched=untouched, too_large=True)
    if status in CONFIGURATION:
        refused = AuthenticationError if status in (401, 402, 403) else ServerError
        return Judgement(Verdict.FATAL, refused(said, **known), untouched=untouched)
    if status in TRANSIENT or 500 <= status < 600:
        known["retry_after"] = retry_after(reply.headers)
        kind = RateLimitError if status == 429 else ServerError
        proven = status in UNPROCESSED and _is_error_of_mixpanel(status, data)
        verdict = Verdict.RETRY if proven else Verdict.AMBIGUOUS
        return Judgement(verdict, kind(said, **known))
    if 400 <= status < 500:
        return Judgement(Verdict.REJECTED, RejectedError(said, **known), untouched=untouched)
    error = ServerError(f"{said}: not the status of an answer to this request", **known)
    return Judgement(Verdict.AMBIGUOUS, error, odd=True)


def _is_error_of_mixpanel(status: int, data: Any) -> bool:
    """Return True if an error body has the shape of Mixpanel's, not that of a gateway.

    `{"code": 429, "error": "…", "status": "Too Many Requests"}` of `/import`, and
    `{"error": "…", "status": "error"}` or `{"error": "…", "status": 0}` of the others.
    """
    if not isinstance(data, dict) or not isinstance(data.get("error"), str) or not data["error"]:
        return False
    if _claims_some(data):
        return False
    code, state = data.get("code"), data.get("status")
    if "code" in data:
        own = type(code) is int and code == status
        return own and (isinstance(state, str) or (type(state) is int and state == 0))
    return state == "error" or (type(state) is int and state == 0)


def _claims_some(data: Any) -> bool:
    """Return True if an error's body counts records as taken, or lists some as failed."""
    return isinstance(data, dict) and (_counts_some(data) or bool(data.get("failed_records")))


def _counts_some(data: Any) -> bool:
    return isinstance(data, dict) and any(data.get(name) not in (None, 0) for name in COUNTS)


def _count(data: dict[str, Any], part: list[Record]) -> int | None:
    """Return how many records an answer says were taken, without a count all that are not listed.

    None stands for a count that is none, or two that contradict each other.
    """
    found = {
        value if type(value) is int and value >= 0 else None
        for value in [data[name] for name in COUNTS if name in data]
    }
    if len(found) > 1:
        return None
    if found:
        return found.pop()
    return len(part) - len(_failed_records(data, part) or ())


def _known(endpoint: str, reply: Answer) -> dict[str, Any]:
    return {"endpoint": endpoint, "status": reply.status}


def _text(endpoint: str, reply: Answer, data: Any) -> str:
    reason = data.get("error") if isinstance(data, dict) else None
    if not isinstance(reason, str):
        return f"{endpoint}: HTTP {reply.status}"
    reason = "".join(c for c in reason[:200] if c.isprintable())
    return f"{endpoint}: HTTP {reply.status}: {reason}"


def _judge_refusal(reply: Answer, data: Any, part: list[Record]) -> Judgement:
    if not isinstance(data, dict):
        return judge_status(reply, part[0].endpoint)
    known, text = _known(part[0].endpoint, reply), _text(part[0].endpoint, reply, data)
    failed, count = _failed_records(data, part), _count(data, part)
    rest = len(part) - len(failed or ())
    if failed and count == rest and data.get("code", 400) == 400:
        # A strict 400 is a partial success: the records it does not name were taken.
        return Judgement(Verdict.DELIVERED, RejectedError(text, **known), failed)
    if _counts_some(data) and count is not None and count >= rest:
        return _odd(_contradiction(text, count, failed, part), known)
    return judge_status(reply, part[0].endpoint)


def _judge_success(reply: Answer, data: Any, part: list[Record]) -> Judgement:
    known, text = _known(part[0].endpoint, reply), _text(part[0].endpoint, reply, data)
    if data is None:
        # A captive portal or a proxy spoke, not Mixpanel.
        error = ServerError(f"{text}: the answer is not from Mixpanel", **known)
        return Judgement(Verdict.AMBIGUOUS, error)
    if not isinstance(data, dict):
        if type(data) is not int:
            return _odd(f"{text}: the answer has no known shape", known)
        data = {"status": data}
    state, code, reason = data.get("status"), data.get("code", 200), data.get("error")
    is_number = type(state) is int
    failed, count = _failed_records(data, part), _count(data, part)
    agrees = failed is not None and count == len(part) - len(failed)
    if failed and agrees and reply.status == 200 and code in (200, 400):
        return Judgement(Verdict.DELIVERED, RejectedError(text, **known), failed)
    if reason and ((is_number and state == 0) or state == "error"):
        # Mixpanel's pages disagree whether 0 means "none was valid" or "not all were".
        return Judgement(Verdict.REJECTED, RejectedError(text, **known))
    if is_number and state == 0 and "code" not in data:
        return Judgement(Verdict.REJECTED, RejectedError(f"{text}: no reason given", **known))
    good = state in ("OK", "ok") or (is_number and state in (0, 1))
    good = good or ("status" not in data and "code" in data)
    if not good or type(code) is not int or code != 200 or reason:
        return _odd(f"{text}: the answer has no known shape", known)
    if failed or not agrees:
        return _odd(_contradiction(text, count, failed, part), known)
    return Judgement(Verdict.DELIVERED)


def _contradiction(
    text: str, count: int | None, failed: Mapping[int, object] | None, part: list[Record]
) -> str:
    if failed is None:
        return f"{text}: it lists failed records that were not sent"
    taken = "an unreadable number" if count is None else f"{count:,}"
    return (
        f"{text}: it counts {taken} of {len(part):,} record(s) as taken, and lists "
        f"{len(failed):,} as failed"
    )


def _odd(text: str, known: dict[str, Any]) -> Judgement:
    return Judgement(Verdict.AMBIGUOUS, ServerError(text, **known), odd=True)


def _read(body: bytes) -> Any:
    try:
        return loads(body)
    except (ValueError, RecursionError):
        return None


def _failed_records(data: dict[str, Any], part: list[Record]) -> dict[int, FailedRecord] | None:
    """Return the records that an answer lists as failed; None when one of them was never sent."""
    listed = data.get("failed_records")
    if listed is None:
        return {}
    if not isinstance(listed, list):
        return None
    failed: dict[int, FailedRecord] = {}
    for entry in listed:
        index = entry.get("index") if isinstance(entry, dict) else None
        if type(index) is not int or not 0 <= index < len(part):
            return None
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
