"""Turn the arguments of a query into its request; nothing is sent here.

Parameters are those of https://developer.mixpanel.com/reference/query-api, where it has the
endpoint. A limit is always sent, because the defaults differ and cut answers without saying so.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Literal

from mixpanel.data._fetch.plan import as_day, today
from mixpanel.data._queries.arguments import (
    Where,
    check_dates,
    event_name,
    event_names,
    identifier,
    identifiers,
    on_text,
    one_of,
    where_text,
    whole,
)
from mixpanel.data.exceptions import ConfigError
from mixpanel.data.inline_queries import TimeRange
from mixpanel.data.query_results import (
    CountType,
    HourDayUnit,
    RetentionType,
    SegmentationUnit,
    TimeUnit,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from mixpanel.data._fetch.plan import Day
    from mixpanel.data.expressions import Expression

__all__ = ["QueryRequest"]

MAX_SEGMENTS = 10_000
MAX_ROWS = 50_000  # of an inline query
MAX_FEED_EVENTS = 15_000
FEED_DAYS = 30  # default of an activity feed, and the days that one page covers
LENGTH_UNITS = ("day", "hour", "minute", "second")
MAX_LENGTH = {"day": 90, "hour": 90 * 24, "minute": 90 * 1440, "second": 90 * 86400}
QUERY_TYPES = ("flows_sankey", "flows_top_paths", "flows")


@dataclass(frozen=True, slots=True)
class QueryRequest:
    """One call of the Query API: the path below `/api/query/`, and what is sent."""

    path: str
    params: Mapping[str, Any] | None = None
    form: Mapping[str, Any] | None = None
    json_body: Mapping[str, Any] | None = None
    method: Literal["GET", "POST"] = "GET"

    @property
    def query(self) -> Mapping[str, Any]:
        """The parameters in the URL."""
        return self.params or {}

    @property
    def days(self) -> TimeRange:
        """The first and last day of the query."""
        return TimeRange(self.query["from_date"], self.query["to_date"])

    def sent(self) -> dict[str, Any]:
        """Return the arguments for `AsyncAPI.query`."""
        return {
            "path": self.path,
            "params": self.params,
            "form": self.form,
            "json_body": self.json_body,
            "method": self.method,
        }


def _range(from_date: Day, to_date: Day) -> dict[str, str]:
    first, last = check_dates(from_date, to_date)
    return {"from_date": str(first), "to_date": str(last)}


# ---- segmentation -------------------------------------------------------------------------------


def segmentation(
    event: str,
    from_date: Day,
    to_date: Day,
    *,
    on: Expression | str | None = None,
    unit: SegmentationUnit = "day",
    where: Where = None,
    type: CountType = "general",
    limit: int = 1000,
) -> QueryRequest:
    """Count an event by date and segment."""
    whole("limit", limit, 1, MAX_SEGMENTS)
    _check_unique(type, unit)
    params = {
        "event": event_name(event),
        **_range(from_date, to_date),
        "on": on_text(on),
        "unit": one_of("unit", unit, SegmentationUnit),
        "where": where_text(where),
        "type": one_of("type", type, CountType),
        "limit": None if on is None else limit,
    }
    return QueryRequest("segmentation", params)


def numeric(
    kind: Literal["numeric", "sum", "average"],
    event: str,
    from_date: Day,
    to_date: Day,
    *,
    on: Expression | str,
    unit: HourDayUnit = "day",
    where: Where = None,
    type: CountType | None = None,
) -> QueryRequest:
    """Count by numeric range, sum or average, by date."""
    value = on_text(on)
    if value is None:
        raise ConfigError("on must be the name of a numeric property, or a numeric expression")
    params = {
        "event": event_name(event),
        **_range(from_date, to_date),
        "on": value,
        "unit": one_of("unit", unit, HourDayUnit),
        "where": where_text(where),
        "type": None if type is None else one_of("type", type, CountType),
    }
    return QueryRequest(f"segmentation/{kind}", params)


def event_counts(
    events: Sequence[str] | str,
    from_date: Day,
    to_date: Day,
    *,
    type: CountType = "general",
    unit: SegmentationUnit = "day",
) -> QueryRequest:
    """Count several events by date."""
    _check_unique(type, unit)
    params = {
        "event": event_names(events),
        **_range(from_date, to_date),
        "type": one_of("type", type, CountType),
        "unit": one_of("unit", unit, SegmentationUnit),
    }
    return QueryRequest("events", params)


def property_counts(
    event: str,
    property_name: str,
    from_date: Day,
    to_date: Day,
    *,
    type: CountType = "general",
    unit: SegmentationUnit = "day",
    values: Sequence[str] | None = None,
    limit: int | None = None,
) -> QueryRequest:
    """Count an event by the values of a property and date."""
    whole("limit", limit, 1, MAX_SEGMENTS)
    _check_unique(type, unit)
    params = {
        "event": event_name(event),
        "name": event_name(property_name, "property_name"),
        **_range(from_date, to_date),
        "type": one_of("type", type, CountType),
        "unit": one_of("unit", unit, SegmentationUnit),
        "values": None if values is None else event_names(values, "values"),
        "limit": limit or 255,
    }
    return QueryRequest("events/properties", params)


def _check_unique(type_: str, unit: str) -> None:
    if type_ == "unique" and unit in ("hour", "minute"):
        raise ConfigError(f"unique users cannot be counted by {unit}: use day, week or month")


# ---- funnels, retention, frequency --------------------------------------------------------------


def funnel(
    funnel_id: int,
    from_date: Day,
    to_date: Day,
    *,
    unit: TimeUnit | None = None,
    interval: int | None = None,
    length: int | None = None,
    length_unit: str | None = None,
    on: Expression | str | None = None,
    where: Where = None,
    limit: int = 1000,
) -> QueryRequest:
    """Compute a saved funnel."""
    first, last = check_dates(from_date, to_date)
    if unit is not None and interval is not None:
        raise ConfigError("pass either unit or interval, not both: an interval is in days")
    whole("interval", interval, 1, 100_000)
    whole("limit", limit, 1, MAX_SEGMENTS)
    if length_unit is not None:
        one_of("length_unit", length_unit, LENGTH_UNITS)
    if length is None and length_unit is not None:
        raise ConfigError("length_unit requires length")
    whole("length", length, 1, MAX_LENGTH[length_unit or "day"])
    if unit is None and interval is None:  # one period, so that no user is counted twice
        interval = (last - first).days + 1
    params = {
        "funnel_id": identifier(funnel_id, "funnel_id"),
        "from_date": str(first),
        "to_date": str(last),
        "unit": None if unit is None else one_of("unit", unit, TimeUnit),
        "interval": interval,
        "length": length,
        "length_unit": length_unit if length_unit or length is None else "day",
        "on": on_text(on),
        "where": where_text(where),
        "limit": None if on is None else limit,
    }
    return QueryRequest("funnels", params)


def retention(
    born: str | None,
    return_: str | None,
    from_date: Day,
    to_date: Day,
    *,
    born_where: Where = None,
    return_where: Where = None,
    interval: int = 1,
    interval_count: int = 10,
    unit: TimeUnit = "day",
    retention_type: RetentionType = "birth",
    unbounded: bool = False,
    on: Expression | str | None = None,
    limit: int = 1000,
) -> QueryRequest:
    """Count users who came back.

    The API takes either a unit or an interval in days.
    """
    one_of("unit", unit, TimeUnit)
    whole("interval", interval, 1, 90)
    whole("interval_count", interval_count, 1, 730)
    whole("limit", limit, 1, MAX_SEGMENTS)
    if interval != 1 and unit != "day":
        raise ConfigError(
            f"unit={unit!r} and interval={interval} exclude each other: an interval is in days; "
            "pass interval alone, as interval=14 for two weeks"
        )
    one_of("retention_type", retention_type, RetentionType)
    if retention_type == "birth" and born is None:
        raise ConfigError(
            "retention needs the first event (born_event), unless retention_type is compounded"
        )
    params = {
        **_range(from_date, to_date),
        "retention_type": retention_type,
        "born_event": None if born is None else event_name(born, "born"),
        "event": None if return_ is None else event_name(return_, "return_"),
        "born_where": where_text(born_where, "born_where"),
        "where": where_text(return_where, "return_where"),
        "interval": interval if interval != 1 else None,
        "unit": unit if interval == 1 else None,
        "interval_count": interval_count,
        "unbounded_retention": True if unbounded else None,
        "on": on_text(on),
        "limit": None if on is None else limit,
    }
    return QueryRequest("retention", params)


def frequency(
    from_date: Day,
    to_date: Day,
    *,
    unit: TimeUnit = "day",
    addiction_unit: HourDayUnit = "hour",
    event: str | None = None,
    where: Where = None,
    on: Expression | str | None = None,
    limit: int = 1000,
) -> QueryRequest:
    """Count the days or hours on which users were active."""
    if unit == addiction_unit:
        raise ConfigError("addiction_unit must be smaller than unit: use hour, or a longer unit")
    whole("limit", limit, 1, MAX_SEGMENTS)
    params = {
        **_range(from_date, to_date),
        "unit": one_of("unit", unit, TimeUnit),
        "addiction_unit": one_of("addiction_unit", addiction_unit, HourDayUnit),
        "event": None if event is None else event_name(event),
        "where": where_text(where),
        "on": on_text(on),
        "limit": None if on is None else limit,
    }
    return QueryRequest("retention/addiction", params)


# ---- saved reports ------------------------------------------------------------------------------


def saved_report(
    bookmark_id: int, kind: str, from_date: Day | None = None, to_date: Day | None = None
) -> QueryRequest:
    """Compute a saved report; `kind` is its type, as `list_bookmarks` returns it."""
    number = identifier(bookmark_id, "bookmark_id")
    if kind == "flows":
        return saved_flows(number)
    if kind == "retention":
        return QueryRequest("retention", {"bookmark_id": number})
    if kind == "funnels" and from_date is not None and to_date is not None:
        return funnel(number, from_date, to_date)
    if from_date is not None or to_date is not None:
        raise ConfigError("from_date and to_date are for saved funnels only: pass both or neither")
    return QueryRequest("insights", {"bookmark_id": number})


def saved_flows(bookmark_id: int, query_type: str = "flows_sankey") -> QueryRequest:
    """Compute a saved flows report."""
    one_of("query_type", query_type, QUERY_TYPES)
    number = identifier(bookmark_id, "bookmark_id")
    return QueryRequest("arb_funnels", {"bookmark_id": number, "query_type": query_type})


# ---- inline queries -----------------------------------------------------------------------------


def inline(bookmark: Mapping[str, Any], project_id: str, limit: int = 3000) -> QueryRequest:
    """Compute a report that is not saved: insights, a funnel or retention."""
    whole("limit", limit, 1, MAX_ROWS)
    body = {
        "bookmark": dict(bookmark),
        "project_id": project_number(project_id),
        "queryLimits": {"limit": limit},
    }
    return QueryRequest("insights", json_body=body, method="POST")


def inline_flows(
    bookmark: Mapping[str, Any], project_id: str, query_type: str = "flows_sankey"
) -> QueryRequest:
    """Compute a flow that is not saved."""
    body = {
        "bookmark": dict(bookmark),
        "project_id": project_number(project_id),
        "query_type": one_of("query_type", query_type, QUERY_TYPES),
    }
    return QueryRequest("arb_funnels", json_body=body, method="POST")


def project_number(project_id: str) -> int | str:
    """Return a project's id in the form of JSON bodies: a number if it is one."""
    return int(project_id) if project_id.isdigit() else project_id


# ---- users --------------------------------------------------------------------------------------


def activity_feed(
    distinct_ids: Sequence[str] | str,
    from_date: Day | None,
    to_date: Day | None,
    *,
    project_id: str,
    workspace_id: int,
    events: Sequence[str] | str | None = None,
    exclude_events: Sequence[str] | str | None = None,
    search: str = "",
    limit: int = 1000,
    sentinel: Any = None,
) -> QueryRequest:
    """List one page of the events of some users; `sentinel` is where the last page ended."""
    if events is not None and exclude_events is not None:
        raise ConfigError("pass either events or exclude_events, not both")
    whole("limit", limit, 1, MAX_FEED_EVENTS)
    if not isinstance(search, str):
        raise ConfigError(f"search={search!r} must be text")
    body: dict[str, Any] = {
        "project_id": project_number(project_id),
        "workspace_id": workspace_id,
        "mode": "raw",
        "distinct_ids": identifiers(distinct_ids, "distinct_ids"),
        "limit": limit,
        "bookmark": {"dateRange": _feed_range(from_date, to_date), "entries": []},
        "paging_window": FEED_DAYS,
        "search": search,
        "sentinel_event": sentinel,
    }
    if events is not None:
        body["include_events"] = event_names(events)
    if exclude_events is not None:
        body["exclude_events"] = event_names(exclude_events, "exclude_events")
    return QueryRequest("stream/bookmark", json_body=body, method="POST")


def _feed_range(from_date: Day | None, to_date: Day | None) -> dict[str, Any]:
    if from_date is None:
        if to_date is not None:
            raise ConfigError("to_date requires from_date")
        return {"type": "relative_after", "window": {"unit": "day", "value": FEED_DAYS}}
    if to_date is None:
        first = as_day(from_date, "from_date")
        check_dates(first, max(first, today()))
        return {"type": "since", "from": str(first)}
    first, last = check_dates(from_date, to_date)
    return {"type": "between", "from": str(first), "to": str(last)}


def legacy_activity_feed(
    distinct_ids: Sequence[str] | str, from_date: Day | None, to_date: Day | None
) -> QueryRequest:
    """List the events of some users by the endpoint that Mixpanel deprecated in June 2026."""
    last = today() if to_date is None else to_date
    first = today() - timedelta(days=FEED_DAYS - 1) if from_date is None else from_date
    params = {"distinct_ids": identifiers(distinct_ids, "distinct_ids"), **_range(first, last)}
    return QueryRequest("stream/query", params)


def engage_stats(
    action: str = "count()",
    *,
    where: Where = None,
    cohort_id: int | None = None,
    segment_by_cohorts: Sequence[int] | None = None,
    group_id: str | None = None,
    as_of_timestamp: int | None = None,
    include_all_users: bool = False,
) -> QueryRequest:
    """Compute an aggregate over profiles."""
    if not isinstance(action, str) or not action.strip():
        raise ConfigError('action must be text, as count() or percentile(properties["age"], 95)')
    if include_all_users and cohort_id is None:
        raise ConfigError("include_all_users requires cohort_id")
    whole("as_of_timestamp", as_of_timestamp, 1, 10**11)
    cohort = None if cohort_id is None else {"id": identifier(cohort_id, "cohort_id")}
    segments = None
    if segment_by_cohorts is not None:
        segments = {
            str(identifier(each, "segment_by_cohorts")): True for each in segment_by_cohorts
        }
    form = {
        "action": action,
        "selector": where_text(where),
        "filter_by_cohort": cohort,
        "include_all_users": None if cohort is None else include_all_users,
        "segment_by_cohorts": segments,
        "data_group_id": group_id,
        "as_of_timestamp": as_of_timestamp,
    }
    return QueryRequest("engage/stats", form=form, method="POST")


def jql(script: str, params: Mapping[str, Any] | None = None) -> QueryRequest:
    """Run a JQL script."""
    if not isinstance(script, str) or not script.strip():
        raise ConfigError("script must be the text of a JQL script, with a function main()")
    return QueryRequest("jql", form={"script": script, "params": dict(params or {})}, method="POST")
