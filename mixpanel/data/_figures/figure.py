"""What a chart shows, as plain data.

A result describes itself as a `Figure`, and the terminal and matplotlib draw figures. So the code
that draws knows no result, and a new kind of result is drawn as soon as it returns a figure.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from mixpanel.data._result_items import FlowPath, FlowStep, FunnelStep

__all__ = ["Bars", "Figure", "Flows", "Funnel", "Lines", "ShareRow", "ShareTable"]


@dataclass(frozen=True, slots=True)
class Lines:
    """A number for each date, for each of several named series."""

    series: Mapping[str, Mapping[str, float]]


@dataclass(frozen=True, slots=True)
class Bars:
    """A number for each name."""

    values: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Funnel:
    """The steps of a funnel for all users, and for each segment."""

    steps: Sequence[FunnelStep]
    segments: Mapping[str, Sequence[FunnelStep]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ShareRow:
    """A group of `size` users, and the share of them in each period (1.0 is all of them)."""

    label: str
    size: int
    shares: Sequence[float]


@dataclass(frozen=True, slots=True)
class ShareTable:
    """A heat map: a row for each group of users, a column for each period.

    `heading` names the rows. Columns are numbered from `first_column`, and `axis_label` says what
    they are. `average`, if any, is a last row that summarises the others.
    """

    heading: str
    axis_label: str
    first_column: int
    rows: Sequence[ShareRow]
    average: ShareRow | None = None
    segments: Mapping[str, Sequence[ShareRow]] = field(default_factory=dict)

    @property
    def all_rows(self) -> list[ShareRow]:
        """The rows and the average."""
        return [*self.rows, *([self.average] if self.average else [])]


@dataclass(frozen=True, slots=True)
class Flows:
    """The events at each distance from an anchor event, and the most frequent paths."""

    steps: Sequence[FlowStep]
    paths: Sequence[FlowPath] = ()


@dataclass(frozen=True, slots=True)
class Figure:
    """A chart with its texts; `notes` are the parts of the subtitle."""

    title: str
    notes: Sequence[str]
    content: Lines | Bars | Funnel | ShareTable | Flows
