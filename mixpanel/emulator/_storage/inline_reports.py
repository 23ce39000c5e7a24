"""Compute inline reports: the parameters of a bookmark in, figures out."""

from collections.abc import Collection, Mapping
from datetime import date
from typing import Any

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

MAX_LIMIT = 50_000


class InlineReports:
    """Reports by the parameters of bookmarks."""

    def __init__(self, reports: EventReports, profiles: Profiles) -> None:
        self._reports = reports
        self._profiles = profiles
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
        metrics = metrics_of(params)
        shown = self._shown(params, today, limit)
        kind = behavior_of(metrics[0]).get("type")
        if kind == "funnel":
            return self._funnel(params, shown, now)
        if kind == "retention":
            result = self.retention(params, today)
            headers = ["$retention", *(name_of(group) for group in shown.groups)]
            found = query_responses.inline_retention(result)
            limit_hit = result.limit_hit
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
        behavior = behavior_of(metrics_of(params)[0])
        if behavior.get("type") != "funnel":
            raise RefusedRequest(400, "the report is not a funnel")
        for name, usual in (("funnelOrder", "loose"), ("exclusions", []), ("aggregateBy", [])):
            if behavior.get(name) not in (None, usual):
                raise RefusedRequest(400, f"{name} is not supported by the emulator")
        today = date.max
        steps = [
            funnel.Step(
                str(each.get("name")), self._event_where(each, today), each.get("renamed") or None
            )
            for each in members_of(behavior)
        ]
        return {
            "steps": steps,
            "window": behavior.get("conversionWindowDuration", 14),
            "window_unit": behavior.get("conversionWindowUnit", "day"),
            "where": self._where(section_of(params, "filter"), today),
        }

    def _funnel(self, params: Any, shown: Shown, now: float) -> dict[str, Any]:
        options = self.funnel_options(params)
        trend = params.get("displayOptions", {}).get("chartType") == "line"
        on = self._single_group(shown)
        unit: Any = shown.unit if trend else None
        result = self._reports.run(
            lambda events, period: funnel.funnel(
                events, period, on=on, unit=unit, limit=min(shown.limit, 10_000), **options
            ),
            shown.days, on, options["where"], options["steps"],
        )  # fmt: skip
        return query_responses.inline(
            query_responses.inline_funnel(result, trend=trend),
            now=now,
            days=shown.days,
            headers=["$funnel", *(name_of(group) for group in shown.groups)],
            limit_hit=result.limit_hit,
        )

    def retention(self, params: Any, today: date) -> RetentionResult:
        """Compute retention.

        :raises RefusedRequest: 400: the parameters are malformed, or of a kind not known here.
        """
        behavior = behavior_of(metrics_of(params)[0])
        if behavior.get("type") != "retention":
            raise RefusedRequest(400, "the report is not retention")
        if behavior.get("retentionAlignmentType", "birth") != "birth":
            raise RefusedRequest(400, "retentionAlignmentType must be birth in the emulator")
        mode = behavior.get("retentionUnboundedMode", "none")
        if mode not in ("none", "carry_back"):
            raise RefusedRequest(400, f"retentionUnboundedMode {mode!r} is not supported")
        if behavior.get("retentionCustomBucketSizes"):
            raise RefusedRequest(400, "retentionCustomBucketSizes are not supported")
        shown = self._shown(params, today, 1000)
        members = members_of(behavior)
        if len(members) != 2:
            raise RefusedRequest(400, "retention has two behaviors: born, and return")
        born, back = members
        unit: Any = behavior.get("retentionUnit", "day")
        conditions = [joined(self._event_where(each, today), shown.where) for each in members]
        on = self._single_group(shown)
        days = (shown.days[1] - shown.days[0]).days
        return self._reports.run(
            lambda events, period: retention.retention(
                events, period, str(born.get("name")), str(back.get("name")),
                born_where=conditions[0], return_where=conditions[1], unit=unit,
                interval_count=max(1, days // {"day": 1, "week": 7}.get(unit, 30)),
                unbounded=mode == "carry_back", on=on, until=self._reports.last_time(),
            ),
            shown.days, on, *conditions,
        )  # fmt: skip

    def flows(self, params: Any, today: date) -> FlowsResult:
        """Compute flows.

        :raises RefusedRequest: 400: the parameters are malformed, or of a kind not known here.
        """
        match params:
            case {"steps": [{"event": str(event)} as step], "date_range": {**days}}:
                pass
            case {"steps": [_, _, *_]}:
                raise RefusedRequest(400, "a flow of several steps is not supported here")
            case _:
                raise RefusedRequest(400, "a flow requires steps and date_range")
        count: Any = params.get("count_type", "unique")
        filters = (params.get("filter_by_event") or {}).get("children")
        if filters:
            raise RefusedRequest(400, "filter_by_event is not supported by the emulator")
        window = params.get("conversion_window") or {"value": 7, "unit": "day"}
        where = step_where(
            step.get("property_filter_params_list"),
            members=self._members_of,
            today=today,
            word=step.get("bool_op", "and"),
        )
        return self._reports.run(
            lambda events, period: flows.flows(
                events, period, event, forward=step.get("forward", 3),
                reverse=step.get("reverse", 0), count_type=count, window=window["value"],
                window_unit=window["unit"], where=where,
                hidden_events=params.get("hidden_events") or (),
                collapse_repeated=bool(params.get("collapse_repeated")),
                events_per_step=params.get("cardinality_threshold", 3),
            ),
            flow_days(days, today), where,
        )  # fmt: skip

    # Parts

    def _shown(self, params: Any, today: date, limit: int) -> Shown:
        days, unit = days_of(section_of(params, "time"), today)
        groups = section_of(params, "group")
        chart = (params.get("displayOptions") or {}).get("chartType", "line")
        where = self._where(section_of(params, "filter"), today)
        return Shown(days, unit, where, groups, chart not in ("bar", "table", "pie"), limit)

    def _single_group(self, shown: Shown) -> str | None:
        if len(shown.groups) > 1:
            raise RefusedRequest(400, "funnels and retention take one group in the emulator")
        return accessor(shown.groups[0]) if shown.groups else None

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
