"""Parts of results that figures draw too: steps, cohorts, and nodes and paths of flows."""

from __future__ import annotations

from dataclasses import dataclass

from mixpanel.data._result import Result

__all__ = ["CohortInfo", "FlowEdge", "FlowNode", "FlowPath", "FlowStep", "FunnelStep"]


@dataclass(frozen=True, slots=True, repr=False)
class FunnelStep(Result):
    """One step of a funnel, and how many users reached it.

    `conversion_rate` is the share of the users of the step before (1.0 for the first), and
    `overall_conversion_rate` the share of those of the first step; 0.0 where there are none.
    `avg_time` is the average time from the step before, and `avg_time_from_start` from the first,
    in seconds; None where it is not known.
    """

    event: str
    count: int
    conversion_rate: float
    overall_conversion_rate: float = 0.0
    avg_time: float | None = None
    avg_time_from_start: float | None = None
    label: str | None = None


@dataclass(frozen=True, slots=True, repr=False)
class CohortInfo(Result):
    """The users who did the first event on one date.

    `counts` are how many of the `size` users came back in each interval after it, `retention` the
    same as shares of `size`; 0.0 for a cohort without users.
    """

    date: str
    size: int
    retention: tuple[float, ...]
    counts: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True, repr=False)
class FlowEdge(Result):
    """How often an event of one step was followed by `event` in step `step`.

    `type` is Mixpanel's: FORWARD, REVERSE, NORMAL, DROPOFF or PRUNED.
    """

    event: str
    step: int
    type: str
    count: int


@dataclass(frozen=True, slots=True, repr=False)
class FlowNode(Result):
    """How often `event` stands in a step; `type` is ANCHOR, or as in `FlowEdge`."""

    event: str
    type: str
    count: int
    edges: tuple[FlowEdge, ...] = ()


@dataclass(frozen=True, slots=True, repr=False)
class FlowStep(Result):
    """The events at one distance from the anchor, which is step 0; steps before it are negative."""

    step: int
    nodes: tuple[FlowNode, ...]


@dataclass(frozen=True, slots=True, repr=False)
class FlowPath(Result):
    """A sequence of events, and how often it happened."""

    events: tuple[str, ...]
    count: int
