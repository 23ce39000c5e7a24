"""What users did before and after an event."""

from __future__ import annotations

from collections import defaultdict
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Literal

from mixpanel.data.analysis.arguments import (
    check_choice,
    checked_int,
    common_fields,
    event_name,
    event_names,
)
from mixpanel.data.analysis.funnel import MAX_LENGTH, SECONDS, AnyStep, WindowUnit
from mixpanel.data.analysis.layout import block, conditions, with_queries
from mixpanel.data.analysis.query import Query
from mixpanel.data.analysis.sessions import events_in_sessions
from mixpanel.data.analysis.source import Scope
from mixpanel.data.exceptions import ConfigError
from mixpanel.data.query_results import FlowEdge, FlowNode, FlowPath, FlowsResult, FlowStep

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from mixpanel.data.analysis.period import Period
    from mixpanel.data.analysis.source import Condition, EventSource

__all__ = ["DROPOFF", "OTHER", "flows"]

MAX_STEPS = 5  # in each direction; Mixpanel's own limit
MAX_EVENTS = 50  # in a step; likewise
MAX_PATHS = 1_000

DROPOFF = "$dropoff"
OTHER = "$other"

Pairs = dict[tuple[str, str | None], int]


def flows(
    source: EventSource,
    period: Period,
    event: str,
    *,
    forward: int = 3,
    reverse: int = 0,
    count_type: Literal["unique", "total", "session"] = "unique",
    window: int = 7,
    window_unit: WindowUnit = "day",
    where: Condition | None = None,
    hidden_events: Sequence[str] = (),
    collapse_repeated: bool = False,
    events_per_step: int = 10,
    paths: int = 10,
    then: Sequence[AnyStep] = (),
    events_where: Condition | None = None,
) -> Query[FlowsResult]:
    """Count the events that follow (`forward`) and precede (`reverse`) an event, step by step.

    With "unique", each user counts once, by the first `event` in the period; with "total", each
    of them counts; with "session", the first of each session, and only what is in that session.
    `where` filters them. Only events within `window` of it are in a step. If a user did nothing
    more, the step has a `$dropoff`; events that are not among the `events_per_step` most frequent
    ones of a step are `$other`. Events at the same time are in the order of their names. With
    `collapse_repeated`, an event that a user repeats immediately counts once; compared are the
    events of the period and, with `reverse`, those up to `window` before it. `paths` is the number
    of the most frequent sequences to return, in order of time.

    `then` are further steps, each the next such event after the one before: events in between are
    not shown, `forward` counts from the last, and a path without one of them ends before it.
    `events_where` filters all events.

    :raises ConfigError: for invalid arguments.
    """
    event = event_name(event)
    check_choice("count_type", count_type, ["unique", "total", "session"])
    check_choice("window_unit", window_unit, list(SECONDS))
    seconds = (
        checked_int("window", window, 1, MAX_LENGTH // SECONDS[window_unit]) * SECONDS[window_unit]
    )
    checked_int("forward", forward, 0, MAX_STEPS)
    checked_int("reverse", reverse, 0, MAX_STEPS)
    further = [(event_name(step.event, "then"), step.where) for step in then]
    if not forward and not reverse and not further:
        raise ConfigError("forward or reverse must be at least 1: there is no step to show")
    checked_int("events_per_step", events_per_step, 1, MAX_EVENTS)
    checked_int("paths", paths, 0, MAX_PATHS)
    hidden = event_names(hidden_events, "hidden_events") if hidden_events else ()
    if {event, *(name for name, _ in further)} & {*hidden}:
        raise ConfigError(f"event={event!r} is among the hidden_events: nothing would be left")
    scope = Scope(source)
    statement = _statement(
        scope,
        period,
        event,
        where,
        hidden,
        reverse=reverse,
        forward=forward,
        seconds=seconds,
        count_type=count_type,
        collapse=collapse_repeated,
        paths=paths,
        further=further,
        events_where=events_where,
    )
    anchors = len(further)

    def read(rows: Sequence[tuple[Any, ...]]) -> FlowsResult:
        pairs: dict[tuple[int, int], Pairs] = defaultdict(dict)
        sequences = []
        for step, way, name, following, path, n in rows:
            if path is None:
                pairs[step, way][name, following] = n
            else:
                sequences.append(FlowPath(tuple(path), n))
        return FlowsResult(
            None,
            _steps(pairs, event, reverse, anchors + forward, events_per_step, anchors),
            paths=tuple(sequences),
            event=event,
            from_date=str(period.from_date),
            to_date=str(period.to_date),
            count_type=count_type,
            **common_fields(period, query),
        )

    query = Query(statement, scope.parameters, read, (event, *(name for name, _ in further)))
    return query


def _statement(
    scope: Scope,
    period: Period,
    event: str,
    where: Condition | None,
    hidden: Sequence[str],
    *,
    reverse: int,
    forward: int,
    seconds: int,
    count_type: str,
    collapse: bool,
    paths: int,
    further: Sequence[tuple[str, Condition | None]],
    events_where: Condition | None,
) -> str:
    start = period.before(timedelta(seconds=seconds)) if reverse else period.start
    end = period.after(timedelta(seconds=seconds)) if forward or further else period.end
    chosen = ["distinct_id IS NOT NULL"]
    if hidden:
        names = scope.parameter("hidden", list(hidden))
        chosen.append(f"NOT list_contains({names}::VARCHAR[], event)")
    user = "distinct_id"
    if count_type == "session":
        user = "distinct_id, session"
        sessions = events_in_sessions(scope, None, start, end, where=events_where)
        events = f"SELECT *\nFROM {block(sessions)}{conditions(*chosen)}"
    else:
        events = scope.events(None, start, end, where=events_where, extra=chosen)
    anchor = [f"event = {scope.parameter('anchor', event)}"]
    anchor += [f"time >= {scope.parameter('first', period.start)}"]
    anchor += [f"time < {scope.parameter('last', period.end)}"]
    if where is not None:
        anchor.append(scope.condition(where, "where"))
    marks = "".join(
        f", {_matches(scope, name, condition, n)} AS is_step{n}"
        for n, (name, condition) in enumerate(further, start=1)
    )
    sequence = (
        f"SELECT {user}, event, time, {' AND '.join(anchor)} AS is_anchor{marks}\n"
        f"FROM {block(events)}"
    )
    # A total order, so that the same events always give the same flow. Anchors come before equal
    # events that `where` excludes, so that collapsing repeated events keeps the anchor.
    order = f"PARTITION BY {user} ORDER BY time, event, is_anchor DESC"
    if collapse:
        sequence += f"\nQUALIFY event IS DISTINCT FROM lag(event) OVER ({order})"
    around = ", ".join(
        f"{'lag' if n < 0 else 'lead'}({column}, {abs(n)}) OVER moves AS {column}{_suffix(n)}"
        for n in [*range(-reverse, 0), *range(1, forward + 1)]
        for column in ("event", "time")
    )
    # One window over all events instead of a join for each step: every row sees its neighbours, and
    # only the rows of anchors are kept.
    if further:
        around = ", ".join(filter(None, ("row_number() OVER moves AS place", around)))
    moves = f"SELECT *, {around}\nFROM sequence\nWINDOW moves AS ({order})"
    # DuckDB stores what WITH names: only further steps read the window more than once.
    anchors = "moves" if further else block(moves)
    last = f"SELECT *\nFROM {anchors}\nWHERE is_anchor"
    if count_type != "total":
        last += f"\nQUALIFY row_number() OVER (PARTITION BY {user} ORDER BY time, event) = 1"
    columns = [f"{_within(n, seconds)} AS step{_suffix(n)}" for n in range(-reverse, forward + 1)]
    if further:
        last, columns = _further(last, further, user, seconds, reverse, forward)
        forward += len(further)
    steps = [f"step{_suffix(n)}" for n in range(-reverse, forward + 1)]
    counted = f"SELECT {', '.join(columns)}, count(*) AS n\nFROM {block(last)}\nGROUP BY ALL"
    parts = [_pairs(n, reverse, forward) for n in range(-reverse, forward + 1)]
    parts += [_pairs(0, reverse, forward, backwards=True)] if reverse and forward else []
    if paths:
        path = f"[{', '.join(steps)}]"
        parts.append(
            "SELECT 0 AS step, 0 AS way, NULL AS event, NULL AS following, "
            f"list_filter({path}, lambda each: each IS NOT NULL) AS path, n\n"
            f"FROM (FROM paths ORDER BY n DESC, {path} LIMIT {paths})"
        )
    every = block("\nUNION ALL\n".join(parts))
    return with_queries(
        f"SELECT *\nFROM {every}\nORDER BY path IS NULL, step, way, n DESC, path, event, following",
        sequence=sequence,
        **({"moves": moves} if further else {}),
        paths=counted,
    )


def _matches(scope: Scope, name: str, condition: Condition | None, number: int) -> str:
    """Return SQL that is true for the events of a further step."""
    parts = [f"event = {scope.parameter(f'then{number}', name)}"]
    if condition is not None:
        parts.append(scope.condition(condition, f"where of step {number + 1}"))
    return f"({' AND '.join(parts)})"


def _further(
    first: str,
    further: Sequence[tuple[str, Condition | None]],
    user: str,
    seconds: int,
    reverse: int,
    forward: int,
) -> tuple[str, list[str]]:
    """Return the query of anchors with the events of further steps, and the columns of steps."""
    query = f"SELECT *\nFROM {block(first)} AS step0"
    keys = user.split(", ")
    before = "step0"
    for n in range(1, len(further) + 1):
        same = " AND ".join(f"{before}.{key} = then{n}.{key}" for key in keys)
        following = block(f"SELECT *\nFROM moves\nWHERE is_step{n}")
        query += (
            f"\nASOF LEFT JOIN {following} AS then{n} ON {same} AND {before}.place < then{n}.place"
        )
        before = f"then{n}"
    end = f"step0.time + INTERVAL '{seconds} seconds'"
    columns = [f"{_within(n, seconds, 'step0.')} AS step{_suffix(n)}" for n in range(-reverse, 0)]
    columns.append("step0.event AS step0")
    chosen = [*columns]
    chosen += [
        f"CASE WHEN then{n}.time <= {end} THEN then{n}.event END AS step{n}"
        for n in range(1, len(further) + 1)
    ]
    chosen += [
        f"CASE WHEN {before}.time{n} <= {end} THEN {before}.event{n} END AS step{len(further) + n}"
        for n in range(1, forward + 1)
    ]
    steps = [f"step{_suffix(n)}" for n in range(-reverse, len(further) + forward + 1)]
    return query.replace("SELECT *", f"SELECT {', '.join(chosen)}", 1), steps


def _suffix(n: int) -> str:
    """Return the suffix of the columns of a step: `0`, `1`, or `_1` for one step before."""
    return str(n) if n >= 0 else f"_{-n}"


def _within(n: int, seconds: int, of: str = "") -> str:
    if n == 0:
        return f"{of}event"
    suffix, sign = _suffix(n), "<= {0}time +" if n > 0 else ">= {0}time -"
    near = f"{of}time{suffix} {sign.format(of)}"
    return f"CASE WHEN {near} INTERVAL '{seconds} seconds' THEN {of}event{suffix} END"


def _pairs(n: int, reverse: int, forward: int, *, backwards: bool = False) -> str:
    """Return the query that counts pairs of an event in a step and its neighbour further out.

    `way` is 1 forwards, -1 backwards, and 0 if the step is the last one in its direction.
    """
    way = -1 if backwards or n < 0 or not forward else 1
    following = f"step{_suffix(n + way)}" if -reverse <= n + way <= forward else "NULL"
    step = f"step{_suffix(n)}"
    known_way = way if following != "NULL" else 0
    return (
        f"SELECT {n} AS step, {known_way} AS way, {step} AS event, {following} AS following, "
        f"NULL AS path, sum(n)::BIGINT AS n\nFROM paths\nWHERE {step} IS NOT NULL\n"
        f"GROUP BY {step}, {following}"
    )


# ---- nodes and edges ----------------------------------------------------------------------------


def _steps(
    pairs: dict[tuple[int, int], Pairs],
    event: str,
    reverse: int,
    forward: int,
    most: int,
    anchors: int,
) -> tuple[FlowStep, ...]:
    kept = {n: _kept(pairs, n, most) for n in range(-reverse, forward + 1)}
    nodes: dict[int, dict[str, int]] = {n: defaultdict(int) for n in range(-reverse, forward + 1)}
    edges: dict[int, dict[str, dict[tuple[int, str], int]]] = {
        n: defaultdict(lambda: defaultdict(int)) for n in range(-reverse, forward + 1)
    }
    for (step, way), found in pairs.items():
        for (name, following), n in found.items():
            shown = _shown(name, kept[step])
            if step or way != -1 or not forward:
                nodes[step][shown] += n
            if way == 0:
                continue
            target = DROPOFF if following is None else _shown(following, kept[step + way])
            edges[step][shown][step + way, target] += n
            if following is None:
                nodes[step + way][DROPOFF] += n
    if not nodes[0]:
        nodes[0][event] = 0
    return tuple(
        FlowStep(
            step,
            tuple(_node(step, name, n, edges[step][name], anchors) for name, n in _sorted(found)),
        )
        for step, found in nodes.items()
    )


def _kept(pairs: dict[tuple[int, int], Pairs], step: int, most: int) -> set[str]:
    """Return the most frequent events of a step."""
    total: dict[str, int] = defaultdict(int)
    for (at, _), found in pairs.items():
        if at == step:
            for (name, _), n in found.items():
                total[name] += n
    return set(sorted(total, key=lambda name: (-total[name], name))[:most])


def _shown(name: str, kept: set[str]) -> str:
    return name if name in kept else OTHER


def _sorted(found: dict[Any, int]) -> Iterable[tuple[Any, int]]:
    """Return the most frequent first, and `$other` and `$dropoff` last."""
    return sorted(found.items(), key=lambda item: (_type_order(item[0]), -item[1], str(item[0])))


def _type_order(key: Any) -> int:
    name = key[1] if isinstance(key, tuple) else key
    return [OTHER, DROPOFF].index(name) + 1 if name in (OTHER, DROPOFF) else 0


def _node(
    step: int, name: str, n: int, edges: dict[tuple[int, str], int], anchors: int
) -> FlowNode:
    return FlowNode(
        name,
        _type(step, name, anchors),
        n,
        tuple(FlowEdge(to, at, _type(at, to, anchors), each) for (at, to), each in _sorted(edges)),
    )


def _type(step: int, name: str, anchors: int) -> str:
    if name in (DROPOFF, OTHER):
        return {DROPOFF: "DROPOFF", OTHER: "PRUNED"}[name]
    if 0 <= step <= anchors:
        return "ANCHOR"
    return "FORWARD" if step > 0 else "REVERSE"
