"""Compute inline reports: the parameters of a bookmark in, figures out."""

from collections.abc import Collection, Mapping
from datetime import date
from functools import partial
from typing import Any, NamedTuple

from mixpanel.data.analysis import flows, funnel, retention
from mixpanel.data.query_results import FlowsResult, RetentionResult
from mixpanel.emulator._rules import query_responses
from mixpanel.emulator._rules.bookmark_parts import (
    behavior_of,
    days_of,
    flow_days,
    members_of,
    metrics_of,
    name_of,
    section_of,
)
from mixpanel.emulator._rules.decode import RefusedRequest
from mixpanel.emulator._rules.inline_filters import accessor, joined, step_where, where_of
from mixpanel.emulator._storage.event_reports import EventReports
from mixpanel.emulator._storage.inline_metrics import InlineMetrics, Shown
from mixpanel.emulator._storage.profile_query import Profiles
from mixpanel.emulator._storage.saved_reports import SavedReports

MAX_LIMIT = 50_000
MOST_PATHS = 1_000  # of which a tree is made
FUNNEL_MATHS = ("conversion_rate_unique", "conversion_rate_session", "unique")


class Exclusion(NamedTuple):
    """An event that ends a funnel between two steps, counted from 1."""

    event: str
    from_step: int | None
    to_step: int | None


class InlineReports:
    """Reports by the parameters of bookmarks, which may name saved metrics and behaviors."""

    def __init__(self, reports: EventReports, profiles: Profiles, saved: SavedReports) -> None:
        self._reports = reports
        self._profiles = profiles
        self._saved = saved
        self._metrics = InlineMetrics(reports, self._where, self._members_of)

    def respond(self, params: Any, today: date, *, now: float, limit: Any) -> dict[str, Any]:
        """Return the answer of the insights endpoint: insights, a funnel or retention.

        :raises RefusedRequest: 400: the parameters are malformed, or of a kind not known here.
        """
        if isinstance(limit, bool) or not isinstance(limit, int) or limit < 1:
            raise RefusedRequest(400, f"queryLimits.limit must be at least 1, not {limit!r}")
        if limit > MAX_LIMIT:
            message = f"Query limit exceeds max limit of {MAX_LIMIT} ({limit} was given)"
            raise RefusedRequest(400, message)
        params = self._resolved(params)
        metrics = metrics_of(params)
        shown = self._shown(params, today, limit)
        kind = behavior_of(metrics[0]).get("type")
        if kind == "funnel":
            return self._funnel(params, shown, now)
        if kind == "retention":
            results = self.retention(params, today)
            headers = ["$retention", *(name_of(group) for group in shown.groups)]
            found = query_responses.inline_retention(results)
            limit_hit = any(result.limit_hit for result in results)
        else:
            headers = ["$metric", *(name_of(group) for group in shown.groups)]
            if any((each.get("measurement") or {}).get("math") == "histogram" for each in metrics):
                headers.append("$histogram")
            display = params.get("displayOptions") or {}
            found, limit_hit = self._metrics.series(metrics, shown, today, display)
        return query_responses.inline(
            found, now=now, days=shown.days, headers=headers, limit_hit=limit_hit
        )

    # Funnels and retention

    def funnel_options(self, params: Any) -> dict[str, Any]:
        """Return the steps, the window and the condition of a funnel, for the local report.

        :raises RefusedRequest: 400: the parameters are not those of a funnel.
        """
        params = self._resolved(params)
        behavior = behavior_of(metrics_of(params)[0])
        if behavior.get("type") != "funnel":
            raise RefusedRequest(400, "the report is not a funnel")
        measurement = metrics_of(params)[0].get("measurement") or {}
        math = measurement.get("math", "conversion_rate_unique")
        if math not in FUNNEL_MATHS:
            raise RefusedRequest(400, f"math {math!r} of a funnel is not computed by the emulator")
        if behavior.get("funnelReentryMode") not in (None, "default"):
            raise RefusedRequest(400, "funnelReentryMode is not computed by the emulator")
        orders = {each.get("funnelOrder") for each in members_of(behavior)} - {None}
        orders.add(behavior.get("funnelOrder") or "loose")
        if orders not in ({"loose"}, {"any"}):
            raise RefusedRequest(400, "funnelOrder must be loose or any, the same in all steps")
        window = behavior.get("conversionWindowUnit", "day")
        length = behavior.get("conversionWindowDuration", 14)
        if window == "session" and length != 1:
            raise RefusedRequest(400, "a funnel over several sessions is not computed here")
        today = date.max
        steps = [
            funnel.Step(
                str(each.get("name")), self._event_where(each, today), each.get("renamed") or None
            )
            for each in members_of(behavior)
        ]
        return {
            "steps": steps,
            "window": length,
            "window_unit": "day" if window == "session" else window,
            "within": "session" if window == "session" else "window",
            "counted": "sessions" if math == "conversion_rate_session" else "users",
            "order": orders.pop(),
            "exclude": [_exclusion(each) for each in behavior.get("exclusions") or ()],
            "hold": [accessor(each) for each in behavior.get("aggregateBy") or ()],
            "where": self._where(section_of(params, "filter"), today),
        }

    def _funnel(self, params: Any, shown: Shown, now: float) -> dict[str, Any]:
        options = self.funnel_options(params)
        display = params.get("displayOptions") or {}
        _check_comparison(display)
        trend = display.get("chartType") == "line"
        unit: Any = shown.unit if trend else None
        limit = min(shown.limit, 10_000)
        results = []
        for on in _groupings(shown):
            report = partial(funnel.funnel, on=on, unit=unit, limit=limit, **options)
            texts = (on, options["where"], options["steps"], options["hold"])
            results.append(self._reports.run(report, shown.days, *texts))
        result = results[-1]
        return query_responses.inline(
            query_responses.inline_funnel(results, trend=trend),
            now=now,
            days=shown.days,
            headers=["$funnel", *(name_of(group) for group in shown.groups)],
            limit_hit=result.limit_hit,
        )

    def retention(self, params: Any, today: date) -> list[RetentionResult]:
        """Compute retention: without groups or by one, and then by one group more each time.

        :raises RefusedRequest: 400: the parameters are malformed, or of a kind not known here.
        """
        params = self._resolved(params)
        behavior = behavior_of(metrics_of(params)[0])
        if behavior.get("type") != "retention":
            raise RefusedRequest(400, "the report is not retention")
        measurement = metrics_of(params)[0].get("measurement") or {}
        if measurement.get("math", "retention_rate") not in ("retention_rate", "unique"):
            message = f"math {measurement['math']!r} of retention is not computed by the emulator"
            raise RefusedRequest(400, message)
        _check_comparison(params.get("displayOptions") or {})
        mode: Any = behavior.get("retentionUnboundedMode") or "none"
        if measurement.get("retentionCumulative"):
            mode = "carry_forward"
        alignment = behavior.get("retentionAlignmentType") or "birth"
        buckets = behavior.get("retentionCustomBucketSizes") or ()
        shown = self._shown(params, today, 1000)
        members = members_of(behavior)
        if len(members) != 2:
            raise RefusedRequest(400, "retention has two behaviors: born, and return")
        born, back = members
        unit: Any = behavior.get("retentionUnit", "day")
        conditions = [joined(self._event_where(each, today), shown.where) for each in members]
        days = (shown.days[1] - shown.days[0]).days
        results = []
        for on in _groupings(shown):
            report = partial(
                retention.retention,
                born_event=str(born.get("name")), return_event=str(back.get("name")),
                born_where=conditions[0], return_where=conditions[1], unit=unit,
                interval_count=max(1, days // {"day": 1, "week": 7}.get(unit, 30)),
                mode=mode, buckets=buckets, on=on, until=self._reports.last_time(),
                alignment="birth" if alignment == "birth" else "calendar",
            )  # fmt: skip
            results.append(self._reports.run(report, shown.days, on, *conditions))
        return results

    def flows(self, params: Any, today: date) -> FlowsResult:
        """Compute flows.

        :raises RefusedRequest: 400: the parameters are malformed, or of a kind not known here.
        """
        match params:
            case {"steps": [{"event": str(event)} as step, *more], "date_range": {**days}}:
                pass
            case _:
                raise RefusedRequest(400, "a flow requires steps and date_range")
        count: Any = params.get("count_type", "unique")
        if unknown := [each for each in ("exclusions", "segments") if params.get(each)]:
            message = f"{' and '.join(unknown)} of a flow are not computed by the emulator"
            raise RefusedRequest(400, message)
        window = params.get("conversion_window") or {"value": 7, "unit": "day"}
        if "session" in (window["unit"], count):
            if (window["unit"], window["value"], count) != ("session", 1, "session"):
                raise RefusedRequest(400, "a flow is of sessions in one session, or of neither")
            window = {"value": 1, "unit": "day"}
        first, *others = [self._flow_step(each, today) for each in (step, *more)]
        where = self._flow_where(params, today)
        forward = (more[-1] if more else step).get("forward", 3)
        report = partial(
            flows.flows,
            event=event, where=first.where, then=others, events_where=where, forward=forward,
            reverse=step.get("reverse", 0), count_type=count, window=window["value"],
            window_unit=window["unit"], hidden_events=params.get("hidden_events") or (),
            collapse_repeated=bool(params.get("collapse_repeated")),
            events_per_step=params.get("cardinality_threshold", 3),
            paths=MOST_PATHS if params.get("flows_merge_type") == "tree" else 10,
        )  # fmt: skip
        texts = (where, first.where, *(each.where for each in others))
        return self._reports.run(report, flow_days(days, today), *texts)

    def _flow_step(self, step: Any, today: date) -> funnel.Step:
        if not isinstance(step, Mapping) or not isinstance(step.get("event"), str):
            raise RefusedRequest(400, "a step of a flow requires an event")
        where = step_where(
            step.get("property_filter_params_list"),
            members=self._members_of,
            today=today,
            word=step.get("bool_op", "and"),
        )
        return funnel.Step(step["event"], where)

    def _flow_where(self, params: Mapping[str, Any], today: date) -> str | None:
        """Return the condition that all events of a flow meet."""
        filters = params.get("filter_by_event") or {}
        entries = [
            {"value": each.get("propertyName"), **each} for each in filters.get("children") or ()
        ]
        if cohort := params.get("filter_by_cohort"):
            of = {"value": "$cohorts", "filterOperator": "contains"}
            entries.append({**of, "filterValue": [{"cohort": cohort}]})
        determiner = "any" if filters.get("operator") == "or" else "all"
        return self._where(entries, today, determiner)

    # Parts

    def _resolved(self, params: Any) -> Any:
        """Return parameters with the definitions of the saved metrics and behaviors they name."""
        show = [self._with_definition(entry) for entry in metrics_of(params)]
        return {**params, "sections": {**params["sections"], "show": show}}

    def _with_definition(self, entry: Mapping[str, Any]) -> dict[str, Any]:
        found = dict(entry)
        if "behavior" not in entry and entry.get("id") is not None:
            definition = self._saved.get("metrics", entry["id"])["definition"]
            if not isinstance(definition, Mapping) or "behavior" not in definition:
                raise RefusedRequest(400, f"saved metric {entry['id']} has no behavior")
            found = {"type": "metric", **definition}
            for name, value in (entry.get("overrides") or {}).items():
                found[name] = {**(found.get(name) or {}), **value}
        behavior = behavior_of(found)
        if behavior.get("id") is not None and behavior.get("type") != "cohort":
            definition = self._saved.get("behaviors", behavior["id"])["definition"]
            found["behavior"] = definition.get("behavior", definition)
        return found

    def _shown(self, params: Any, today: date, limit: int) -> Shown:
        days, unit = days_of(section_of(params, "time"), today)
        groups = section_of(params, "group")
        chart = (params.get("displayOptions") or {}).get("chartType", "line")
        where = self._where(section_of(params, "filter"), today)
        return Shown(days, unit, where, groups, chart not in ("bar", "table", "pie"), limit)

    def _event_where(self, event: Mapping[str, Any], today: date) -> str | None:
        determiner = event.get("filtersDeterminer") or "all"
        return self._where(event.get("filters"), today, determiner)

    def _where(self, filters: Any, today: date, determiner: str = "all") -> str | None:
        return where_of(filters, members=self._members_of, today=today, determiner=determiner)

    def _members_of(self, cohort: Any) -> Collection[str]:
        members = self._profiles.cohorts.get(str(cohort))
        if members is None:
            raise RefusedRequest(400, f"cohort {cohort} does not exist")
        return members


def _exclusion(entry: Mapping[str, Any]) -> Exclusion:
    steps = entry.get("steps") or {}
    return Exclusion(str(entry.get("event")), steps.get("from"), steps.get("to"))


def _groupings(shown: Shown) -> list[Any]:
    """Return what a report is parted by, a group more each time; None without groups."""
    if any({"cohorts", "behavior", "customBucket"} & each.keys() for each in shown.groups):
        raise RefusedRequest(400, "funnels and retention are grouped by properties only here")
    found = [accessor(each) for each in shown.groups]
    if len(found) < 2:
        return [found[0] if found else None]
    return [found[0], *(tuple(found[:n]) for n in range(2, len(found) + 1))]


def _check_comparison(display: Mapping[str, Any]) -> None:
    if display.get("timeComparison"):
        raise RefusedRequest(400, "timeComparison is not computed by the emulator")
