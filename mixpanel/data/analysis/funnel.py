"""Funnels: how many users did a sequence of events, in order and within a time window."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Literal, Protocol, get_args

from mixpanel.data.analysis.arguments import (
    MAX_SEGMENTS,
    check_choice,
    checked_int,
    common_fields,
    event_name,
    segment_name,
)
from mixpanel.data.analysis.layout import block, conditions, with_queries
from mixpanel.data.analysis.period import label
from mixpanel.data.analysis.query import Query
from mixpanel.data.analysis.sessions import LONGEST_SESSION, events_in_sessions
from mixpanel.data.analysis.source import Scope
from mixpanel.data.exceptions import ConfigError
from mixpanel.data.query_results import FunnelResult, FunnelStep, TimeUnit

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from mixpanel.data.analysis.period import Period
    from mixpanel.data.analysis.source import Condition, EventSource

__all__ = ["AnyStep", "Step", "WindowUnit", "funnel"]

WindowUnit = Literal["second", "minute", "hour", "day", "week", "month"]

UNITS = get_args(TimeUnit)
MAX_STEPS = 100  # Mixpanel's own limit
SECONDS = {
    "second": 1,
    "minute": 60,
    "hour": 3600,
    "day": 86_400,
    "week": 7 * 86_400,
    "month": 30 * 86_400,
}
MAX_LENGTH = 367 * 86_400  # seconds; Mixpanel's own limit
DATES, SEGMENTS, ALL = "date", "segment", "all"


class AnyStep(Protocol):
    """A step of a funnel, such as a `mixpanel.data.Step`."""

    @property
    def event(self) -> str:
        """The name of the event."""
        ...

    @property
    def where(self) -> Condition | None:
        """The condition for occurrences that count."""
        ...

    @property
    def label(self) -> str | None:
        """The name of the step in results."""
        ...


@dataclass(frozen=True, slots=True)
class Step:
    """A step of a funnel: an event, and a condition for occurrences that count."""

    event: str
    where: Condition | None = None
    label: str | None = None


class AnyExclusion(Protocol):
    """An event that ends an attempt, as `mixpanel.data.Exclusion` is one."""

    @property
    def event(self) -> str:
        """The name of the event."""
        ...

    @property
    def from_step(self) -> int | None:
        """The step after which it counts, from 1; None for the first."""
        ...

    @property
    def to_step(self) -> int | None:
        """The step before which it counts; None for the last."""
        ...


@dataclass(frozen=True, slots=True)
class _Rules:
    """What makes an attempt."""

    seconds: int
    order: Literal["loose", "any"]
    exclude: tuple[AnyExclusion, ...]
    hold: tuple[Condition, ...]
    within: Literal["window", "session"]
    counted: Literal["users", "sessions"]

    @property
    def held(self) -> list[str]:
        """The columns whose values must be the same in all steps."""
        session = ["session"] if self.within == "session" else []
        return ["distinct_id", *session, *(f"held{n}" for n in range(len(self.hold)))]

    @property
    def users(self) -> str:
        """The columns of what is counted."""
        return "distinct_id, session" if self.counted == "sessions" else "distinct_id"


def funnel(
    source: EventSource,
    period: Period,
    steps: Sequence[str | AnyStep],
    *,
    window: int = 14,
    window_unit: WindowUnit = "day",
    on: Condition | tuple[Condition, ...] | None = None,
    where: Condition | None = None,
    unit: TimeUnit | None = None,
    limit: int = 1000,
    name: str = "",
    order: Literal["loose", "any"] = "loose",
    exclude: Sequence[AnyExclusion] = (),
    hold: Sequence[Condition] = (),
    within: Literal["window", "session"] = "window",
    counted: Literal["users", "sessions"] = "users",
) -> Query[FunnelResult]:
    """Count the users who went through the steps in order, with anything in between.

    A user enters with each first event in the period, and then has `window` (in `window_unit`s; a
    month is 30 days) for the other steps, even after the end of the period. For each user, the
    attempt that reached furthest counts; of equal ones, the earliest. Steps may happen at the same
    time. But one event is not two steps: if a step has the same event as an earlier one, it must
    happen later than the step before it.

    `on` segments users by their first event, and `unit` by the time they entered; in each of them
    the best attempt of a user counts. `where` applies to the events of all steps.

    With the `order` "any", a user enters with each first event of any step, and each further step
    that is done within the window is one more, whichever it is. An event of `exclude` between two
    steps (the first and the last, unless it says otherwise) ends an attempt. The values of `hold`
    must be the same in all steps. `within` a "session", the steps must be in one session, whatever
    the window; `counted` are users, or the sessions of their attempts.

    :raises ConfigError: for invalid arguments.
    """
    known = _checked(steps)
    check_choice("window_unit", window_unit, list(SECONDS))
    seconds = (
        checked_int("window", window, 1, MAX_LENGTH // SECONDS[window_unit]) * SECONDS[window_unit]
    )
    if unit is not None:
        check_choice("unit", unit, UNITS)
    checked_int("limit", limit, 1, MAX_SEGMENTS)
    check_choice("order", order, ["loose", "any"])
    if order == "any" and len({step.event for step in known}) < len(known):
        raise ConfigError("in any order, the steps must be different events")
    scope = Scope(source)
    rules = _Rules(seconds, order, tuple(exclude), tuple(hold), within, counted)
    if within == "session":
        rules = replace(rules, seconds=round(LONGEST_SESSION.total_seconds()))
    statement = _statement(scope, period, known, rules, on, where, unit, limit)

    def read(rows: Sequence[tuple[Any, ...]]) -> FunnelResult:
        found: dict[str, dict[Any, tuple[FunnelStep, ...]]] = defaultdict(dict)
        limit_hit = False
        for kind, segment, bucket, counts, times, times_from_start in rows:
            if kind == SEGMENTS and len(found[kind]) == limit:
                limit_hit = True
                continue
            place = label(bucket) if kind == DATES else segment
            found[kind][place] = _steps(known, counts, times, times_from_start)
        nothing = _steps(known, [0] * len(known), [None] * len(known), [None] * len(known))
        total = found[ALL].get(None, nothing)
        dates = {} if unit is None else dict.fromkeys(period.buckets(unit), nothing)
        return FunnelResult(
            None,
            name,
            str(period.from_date),
            str(period.to_date),
            total[-1].overall_conversion_rate,
            total,
            None if on is None else segment_name(on),
            found[SEGMENTS],
            dates | found[DATES],
            window,
            window_unit,
            limit_hit=limit_hit,
            **common_fields(period, query),
        )

    query = Query(statement, scope.parameters, read, tuple(step.event for step in known))
    return query


def _checked(steps: Sequence[str | AnyStep]) -> tuple[AnyStep, ...]:
    if isinstance(steps, str) or not hasattr(steps, "__iter__"):
        raise ConfigError(f"steps={steps!r} must be a list of events in order")
    known = tuple(_step(each) for each in steps)
    if not 1 <= len(known) <= MAX_STEPS:
        raise ConfigError(f"a funnel has 1 to {MAX_STEPS} steps, not {len(known)}")
    for step in known:
        event_name(step.event, "steps")
    return known


def _step(given: str | AnyStep) -> AnyStep:
    if isinstance(given, str) or not hasattr(given, "event"):
        return Step(event_name(given, "steps"))
    return given


def _statement(
    scope: Scope,
    period: Period,
    steps: Sequence[AnyStep],
    rules: _Rules,
    on: Condition | tuple[Condition, ...] | None,
    where: Condition | None,
    unit: TimeUnit | None,
    limit: int,
) -> str:
    ctes = {}
    later = period.after(timedelta(seconds=rules.seconds))
    any_order = rules.order == "any"
    for number, step in enumerate(steps, start=1):
        end = period.end if number == 1 and not any_order else later
        events = _events(scope, step, number, period, end, where, rules)
        columns = f"{', '.join(rules.held)}, time AS time{number}"
        if on is not None and (number == 1 or any_order):
            events = scope.segmented(events, on)
            columns += ", segment"
        ctes[f"step{number}"] = f"SELECT {columns}\nFROM {block(events)}"
    attempts = _any_order if any_order else _attempts
    ctes["attempts"] = attempts(scope, period, steps, rules, unit, has_segments=on is not None)
    for number, exclusion in enumerate(rules.exclude):
        excluded = scope.events([exclusion.event], period.start, later)
        ctes[f"excluded{number}"] = f"SELECT distinct_id, time AS ended\nFROM {block(excluded)}"
        ctes[f"attempts{number}"] = ctes.pop("attempts")
        ctes["attempts"] = _ended(exclusion, number, len(steps))
    parts = [_counted(ALL, None, len(steps), rules.users)]
    if on is not None:
        segments = _counted(SEGMENTS, "segment", len(steps), rules.users)
        best = f"{segments}\nORDER BY counts[1] DESC, segment"
        parts.append(f"SELECT *\nFROM {block(f'{best}{chr(10)}LIMIT {limit + 1}')}")
    if unit is not None:
        parts.append(_counted(DATES, "bucket", len(steps), rules.users))
    every = block("\nUNION ALL\n".join(parts))
    last = f"SELECT *\nFROM {every}\nORDER BY kind, counts[1] DESC, segment, bucket"
    return with_queries(last, **ctes)


def _events(
    scope: Scope,
    step: AnyStep,
    number: int,
    period: Period,
    end: datetime,
    where: Condition | None,
    rules: _Rules,
) -> str:
    """Return the query of the events of a step, with the columns that are held."""
    own = [] if step.where is None else [scope.condition(step.where, f"where of step {number}")]
    if rules.within == "session":
        events = events_in_sessions(scope, [step.event], period.start, end, where=where)
        if own:
            events = f"SELECT *\nFROM {block(events)}{conditions(*own)}"
    else:
        chosen = ["distinct_id IS NOT NULL", *own]
        events = scope.events([step.event], period.start, end, where=where, extra=chosen)
    if not rules.hold:
        return events
    held = [
        f"coalesce({scope.json(each, 'hold')}::VARCHAR, 'undefined') AS held{n}"
        for n, each in enumerate(rules.hold)
    ]
    return f"SELECT *, {', '.join(held)}\nFROM {block(events)}"


def _ended(exclusion: AnyExclusion, number: int, steps: int) -> str:
    """Return the query of attempts that end with the first event of an exclusion."""
    first, last = exclusion.from_step or 1, exclusion.to_step or steps
    if not 1 <= first < last <= steps:
        raise ConfigError(
            f"{exclusion.event!r} is excluded between steps {first} and {last}: there are {steps}"
        )
    before = f"len(list_filter(times[1:{last}], lambda each: each <= ended))"
    reached = (
        f"CASE WHEN reached <= {first} OR ended IS NULL OR coalesce(times[{last}] <= ended, false)"
        f" THEN reached ELSE least(reached, greatest({first}, {before})) END"
    )
    return (
        f"SELECT attempts{number}.* REPLACE ({reached} AS reached)\n"
        f"FROM attempts{number} ASOF LEFT JOIN excluded{number}"
        f" ON attempts{number}.distinct_id = excluded{number}.distinct_id"
        f" AND times[{first}] < ended"
    )


def _any_order(
    scope: Scope,
    period: Period,
    steps: Sequence[AnyStep],
    rules: _Rules,
    unit: TimeUnit | None,
    *,
    has_segments: bool,
) -> str:
    """Return the query of each entry by any step: the times of all steps, in their order."""
    held = [*rules.held, *(["segment"] if has_segments else [])]
    end = scope.parameter("last", period.end)
    entries = "\nUNION ALL\n".join(
        f"SELECT {', '.join(held)}, time{number} AS entry\nFROM step{number}"
        f"\nWHERE time{number} < {end}"
        for number in range(1, len(steps) + 1)
    )
    joins = "".join(
        f"\nASOF LEFT JOIN step{number} ON {_same(rules, 'entries', f'step{number}')}"
        f" AND entry <= time{number}"
        for number in range(1, len(steps) + 1)
    )
    times = ", ".join(f"time{number}" for number in range(1, len(steps) + 1))
    within = f"entry + INTERVAL '{rules.seconds} seconds'"
    done = f"list_sort(list_filter([{times}], lambda each: each <= {within}))"
    columns = [f"entries.{column}" for column in held]
    columns.append(f"list_resize({done}, {len(steps)}) AS times, len({done}) AS reached")
    if unit is not None:
        columns.append(f"{period.bucket('entry', unit)} AS bucket")
    return f"SELECT {', '.join(columns)}\nFROM {block(entries)} AS entries{joins}"


def _same(rules: _Rules, one: str, other: str) -> str:
    return " AND ".join(f"{one}.{column} = {other}.{column}" for column in rules.held)


def _attempts(
    _scope: Scope,
    period: Period,
    steps: Sequence[AnyStep],
    rules: _Rules,
    unit: TimeUnit | None,
    *,
    has_segments: bool,
) -> str:
    """Return the query of all attempts: the time of each step, and the number of steps in time."""
    # An ASOF join finds the nearest later event of a step in one pass over sorted rows. Taking the
    # nearest is enough: a later one could only leave less time for the steps that follow.
    joins, times, reached = "", ["time1"], "1"
    for number in range(2, len(steps) + 1):
        before = number - 1
        again = steps[number - 1].event in {step.event for step in steps[: number - 1]}
        joins += (
            f"\nASOF LEFT JOIN step{number} ON {_same(rules, f'step{before}', f'step{number}')}"
            f" AND time{before} {'<' if again else '<='} time{number}"
        )
        times.append(f"time{number}")
    whens = [
        f"WHEN time{number} <= time1 + INTERVAL '{rules.seconds} seconds' THEN {number}"
        for number in range(len(steps), 1, -1)
    ]
    if whens:
        reached = f"CASE {' '.join(whens)} ELSE 1 END"
    columns = [
        *(f"step1.{each}" for each in rules.held),
        f"[{', '.join(times)}] AS times",
        f"{reached} AS reached",
    ]
    if has_segments:
        columns.append("segment")
    if unit is not None:
        columns.append(f"{period.bucket('time1', unit)} AS bucket")
    return f"SELECT {', '.join(columns)}\nFROM step1{joins}"


def _counted(kind: str, column: Literal["segment", "bucket"] | None, steps: int, users: str) -> str:
    """Return the query of the counts and average times of each group of users."""
    # One number orders attempts by steps reached, then by earliest start: milliseconds since 1970
    # have at most 15 digits, so they never carry over into the steps.
    best = "arg_max(times, reached * 1_000_000_000_000_000 - epoch_ms(times[1]))"
    counts = ", ".join(f"count(*) FILTER (reached >= {number})" for number in range(1, steps + 1))
    gaps, totals = ["NULL"], ["NULL"]
    for number in range(2, steps + 1):
        far = f"FILTER (reached >= {number})"
        gaps.append(f"avg(epoch(times[{number}] - times[{number - 1}])) {far}")
        totals.append(f"avg(epoch(times[{number}] - times[1])) {far}")
    key = users if column is None else f"{column}, {users}"
    users = f"SELECT {key}, max(reached) AS reached, {best} AS times\nFROM attempts\nGROUP BY {key}"
    names = [
        f"'{kind}' AS kind",
        "segment" if column == "segment" else "NULL::VARCHAR AS segment",
        "bucket" if column == "bucket" else "NULL::TIMESTAMP AS bucket",
        f"[{counts}] AS counts",
        f"[{', '.join(gaps)}]::DOUBLE[] AS times",
        f"[{', '.join(totals)}]::DOUBLE[] AS times_from_start",
    ]
    query = f"SELECT {', '.join(names)}\nFROM {block(users)}"
    return query if column is None else f"{query}\nGROUP BY {column}"


def _steps(
    known: Sequence[AnyStep],
    counts: Sequence[int],
    times: Sequence[float | None],
    times_from_start: Sequence[float | None],
) -> tuple[FunnelStep, ...]:
    before = [counts[0], *counts]
    return tuple(
        FunnelStep(
            step.event,
            counts[n],
            1.0 if n == 0 else _share(counts[n], before[n]),
            _share(counts[n], counts[0]),
            times[n],
            times_from_start[n],
            step.label,
        )
        for n, step in enumerate(known)
    )


def _share(part: int, whole: int) -> float:
    return part / whole if whole else 0.0
