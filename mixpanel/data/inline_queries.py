"""Parts of reports that are not saved: metrics, formulas, breakdowns, steps.

`query`, `query_funnel`, `query_retention` and `query_flow` of a workspace take them. The name of an
event is a metric or step without options, and that of a property a breakdown:

>>> from mixpanel.data.expressions import prop
>>> paid = Metric("Order Paid", math="unique", where=prop("plan") == "team")
>>> opened = Metric("Opened App", math="unique")
>>> rate = Formula("(A / B) * 100", label="Buyers in percent")

As in Mixpanel, formulas refer to metrics by letters: A is the first.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

from mixpanel.data._queries.arguments import Where, event_name, one_of, whole
from mixpanel.data._queries.inline_filters import any_or_all, property_entry
from mixpanel.data.exceptions import ConfigError

if TYPE_CHECKING:
    from mixpanel.data.expressions import Expression

__all__ = [
    "Breakdown",
    "Chart",
    "Exclusion",
    "Formula",
    "FunnelMath",
    "InsightsMath",
    "Metric",
    "PerUser",
    "PropertyType",
    "RetentionMath",
    "Step",
    "TimeRange",
    "TimeUnit",
]

InsightsMath = Literal[
    "total", "unique", "dau", "wau", "mau", "sessions", "cumulative_unique",
    "average", "median", "min", "max", "p25", "p75", "p90", "p99", "custom_percentile",
    "histogram", "unique_values", "most_frequent", "first_value", "numeric_summary",
]  # fmt: skip
FunnelMath = Literal[
    "conversion_rate_unique", "conversion_rate_total", "conversion_rate_session",
    "unique", "total", "average", "median", "min", "max", "p25", "p75", "p90", "p99", "histogram",
]  # fmt: skip
RetentionMath = Literal["retention_rate", "unique", "total", "average"]
PerUser = Literal["total", "average", "min", "max", "unique_values"]
PropertyType = Literal["string", "number", "boolean", "datetime", "list"]
TimeUnit = Literal["hour", "day", "week", "month", "quarter"]
Chart = Literal["line", "bar", "table"]
OF_PROPERTY = frozenset(get_args(InsightsMath)) - {
    *("total", "unique", "dau", "wau", "mau", "sessions", "cumulative_unique"),
}
WITHOUT_PER_USER = frozenset({"unique", "dau", "wau", "mau", "cumulative_unique"})


@dataclass(frozen=True, slots=True)
class Metric:
    """A measurement of an event, such as its total or its unique users.

    `math` is the aggregation: "total" events, "unique" users, or one of the numeric `property`,
    which may first be aggregated `per_user`. `percentile` is for "custom_percentile". `where`
    filters this metric only, and may join conditions by `|`. A `hidden` metric is for formulas.

    :raises ConfigError: for options that cannot be combined.
    """

    event: str
    math: InsightsMath = "total"
    property: Expression | str | None = None
    per_user: PerUser | None = None
    percentile: float | None = None
    where: Where = None
    label: str | None = None
    hidden: bool = False

    def __post_init__(self) -> None:
        """Check the combination of options."""
        event_name(self.event)
        one_of("math", self.math, InsightsMath)
        if self.math in OF_PROPERTY and self.property is None:
            raise ConfigError(f"math={self.math!r} requires property=")
        if self.property is not None:
            property_entry(self.property)
        if self.per_user is not None:
            one_of("per_user", self.per_user, PerUser)
            if self.math in WITHOUT_PER_USER:
                raise ConfigError(f"math={self.math!r} already counts users: omit per_user")
        if (self.percentile is not None) != (self.math == "custom_percentile"):
            raise ConfigError('percentile requires math="custom_percentile", and vice versa')
        if self.percentile is not None and not 0 < self.percentile < 100:
            raise ConfigError(f"percentile={self.percentile!r} must be between 0 and 100")
        any_or_all(self.where)


@dataclass(frozen=True, slots=True)
class Formula:
    """A calculation with the metrics A, B, C and so on, as "(A / B) * 100"."""

    definition: str
    label: str | None = None

    def __post_init__(self) -> None:
        """Check the definition.

        :raises ConfigError: for text with anything but letters of metrics, numbers and operators.
        """
        if not isinstance(self.definition, str) or not self.letters():
            raise ConfigError(
                f"formula={self.definition!r} must refer to metrics by letters, as in (A / B) * 100"
            )

    def letters(self) -> set[str]:
        """Return the metrics that the formula uses."""
        return {each for each in self.definition if "A" <= each <= "Z"}


@dataclass(frozen=True, slots=True)
class Breakdown:
    """A property by whose values a report is broken down.

    Numbers may be put into buckets of `bucket_size`, from `least` to `most`.
    """

    property: Expression | str
    type: PropertyType = "string"
    bucket_size: float | None = None
    least: float | None = None
    most: float | None = None

    def __post_init__(self) -> None:
        """Check the combination of options.

        :raises ConfigError: for buckets of anything but a number.
        """
        property_entry(self.property)
        one_of("type", self.type, PropertyType)
        buckets = (self.bucket_size, self.least, self.most)
        if any(each is not None for each in buckets) and self.type != "number":
            raise ConfigError('buckets require type="number"')
        if self.bucket_size is not None and not self.bucket_size > 0:
            raise ConfigError(f"bucket_size={self.bucket_size!r} must be greater than 0")


@dataclass(frozen=True, slots=True)
class Step:
    """A step of a funnel or flow, or one of the two events of retention."""

    event: str
    where: Where = None
    label: str | None = None

    def __post_init__(self) -> None:
        """Check name and condition.

        :raises ConfigError: for an invalid name, or a condition that filters cannot express.
        """
        event_name(self.event)
        any_or_all(self.where)


@dataclass(frozen=True, slots=True)
class Exclusion:
    """An event that ends an attempt when it happens between two steps, numbered from 1."""

    event: str
    from_step: int | None = None
    to_step: int | None = None

    def __post_init__(self) -> None:
        """Check the steps.

        :raises ConfigError: for an invalid range.
        """
        event_name(self.event)
        whole("from_step", self.from_step, 1, 100)
        whole("to_step", self.to_step, 1, 100)


@dataclass(frozen=True, slots=True)
class TimeRange:
    """The dates of a report: from one day to another, both included, or the last `last` units."""

    from_date: str | None = None
    to_date: str | None = None
    last: int | None = None
    last_unit: TimeUnit = "day"
