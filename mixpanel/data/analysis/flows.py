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
from mixpanel.data.analysis.funnel import MAX_LENGTH, SECONDS, WindowUnit
from mixpanel.data.analysis.layout import block, with_queries
from mixpanel.data.analysis.query import Query
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
    count_type: Literal["unique", "total"] = "unique",
    window: int = 7,
    window_unit: WindowUnit = "day",
    where: Condition | None = None,
    hidden_events: Sequence[str] = (),
    collapse_repeated: bool = False,
    events_per_step: int = 10,
    paths: int = 10,
) -> Query[FlowsResult]:
    """Count the events that follow (`forward`) and precede (`reverse`) an event, step by step.

    With "unique", each user counts once, by the first `event` in the period; with "total", each
    `event` counts. `where` filters them. Only events within `window` of it are in a step. If a user
    did nothing more, the step has a `$dropoff`; events that are not among the `events_per_step`
    most frequent ones of a step are `$other`. Events at the same time are in the order of their
    names. With `collapse_repeated`, an event that a user repeats immediately counts once. `paths`
    is the number of the most frequent sequences to return, in order of time.

    :raises ConfigError: for invalid arguments.
    """
    event = event_name(event)
    check_choice("count_type", count_type, ["unique", "total"])
    check_choice("window_unit", window_unit, list(SECONDS))
    seconds = (
        checked_int("window", window, 1, MAX_LENGTH // SECONDS[window_unit]) * SECONDS[window_unit]
    )
    checked_int("forward", forward, 0, MAX_STEPS)
    checked_int("reverse", reverse, 0, MAX_STEPS)
    if not forward and not reverse:
        raise ConfigError("forward or reverse must be at least 1")
    checked_int("events_per_step", events_per_step, 1, MAX_EVENTS)
    checked_int("paths", paths, 0, MAX_PATHS)
    hidden = event_names(hidden_events, "hidden_events") if hidden_events else ()
    if event in hidden:
        raise ConfigError(f"event={event!r} must not be among the hidden_events")
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
        first_only=count_type == "unique",
        collapse=collapse_repeated,
        paths=paths,
    )

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
            _steps(pairs, event, reverse, forward, events_per_step),
            paths=tuple(sequences),
            event=event,
            from_date=str(period.from_date),
            to_date=str(period.to_date),
            count_type=count_type,
            **common_fields(period, query),
        )

    query = Query(statement, scope.parameters, read, (event,))
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
    first_only: bool,
    collapse: bool,
    paths: int,
) -> str:
    start = period.before(timedelta(seconds=seconds)) if reverse else period.start
    end = period.after(timedelta(seconds=seconds)) if forward else period.end
    chosen = ["distinct_id IS NOT NULL"]
    if hidden:
        names = scope.parameter("hidden", list(hidden))
        chosen.append(f"NOT list_contains({names}::VARCHAR[], event)")
    events = scope.events(None, start, end, extra=chosen)
    anchor = [f"event = {scope.parameter('anchor', event)}"]
    anchor += [f"time >= {scope.parameter('first', period.start)}"]
    anchor += [f"time < {scope.parameter('last', period.end)}"]
    if where is not None:
        anchor.append(scope.condition(where, "where"))
    sequence = (
        f"SELECT distinct_id, event, time, {' AND '.join(anchor)} AS is_anchor\n"
        f"FROM {block(events)}"
    )
    # A total order, so that the same events always give the same flow. Anchors come before equal
    # events that `where` excludes, so that collapsing repeated events keeps the anchor.
    order = "PARTITION BY distinct_id ORDER BY time, event, is_anchor DESC"
    if collapse:
        sequence += f"\nQUALIFY event IS DISTINCT FROM lag(event) OVER ({order})"
    around = ", ".join(
        f"{'lag' if n < 0 else 'lead'}({column}, {abs(n)}) OVER moves AS {column}{_suffix(n)}"
        for n in [*range(-reverse, 0), *range(1, forward + 1)]
        for column in ("event", "time")
    )
    # One window over all events instead of a join for each step: every row sees its neighbours, and
    # only the rows of anchors are kept.
    windowed = f"SELECT *, {around}\nFROM sequence\nWINDOW moves AS ({order})"
    last = f"SELECT *\nFROM {block(windowed)}\nWHERE is_anchor"
    if first_only:
        last += "\nQUALIFY row_number() OVER (PARTITION BY distinct_id ORDER BY time, event) = 1"
    columns = [f"{_within(n, seconds)} AS step{_suffix(n)}" for n in range(-reverse, forward + 1)]
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
        paths=counted,
    )


def _suffix(n: int) -> str:
    """Return the suffix of the columns of a step: `0`, `1`, or `_1` for one step before."""
    return str(n) if n >= 0 else f"_{-n}"


def _within(n: int, seconds: int) -> str:
    if n == 0:
        return "event"
    near = f"time{_suffix(n)} <= time +" if n > 0 else f"time{_suffix(n)} >= time -"
    return f"CASE WHEN {near} INTERVAL '{seconds} seconds' THEN event{_suffix(n)} END"


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
    pairs: dict[tuple[int, int], Pairs], event: str, reverse: int, forward: int, most: int
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
        FlowStep(step, tuple(_node(step, name, n, edges[step][name]) for name, n in _sorted(found)))
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


def _node(step: int, name: str, n: int, edges: dict[tuple[int, str], int]) -> FlowNode:
    return FlowNode(
        name,
        _type(step, name),
        n,
        tuple(FlowEdge(to, at, _type(at, to), each) for (at, to), each in _sorted(edges)),
    )


def _type(step: int, name: str) -> str:
    if name in (DROPOFF, OTHER):
        return {DROPOFF: "DROPOFF", OTHER: "PRUNED"}[name]
    return "ANCHOR" if step == 0 else "FORWARD" if step > 0 else "REVERSE"
