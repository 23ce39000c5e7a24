"""The Query API: segmentation, events, funnels, retention, activity, saved and inline reports.

Each endpoint is at `/api/query/...` and `/api/2.0/...`.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from functools import partial
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mixpanel.data._api.quota import is_counted
from mixpanel.data.analysis import funnel, numeric, retention, segmentation
from mixpanel.emulator._rules import query_parameters, query_responses
from mixpanel.emulator._rules.decode import RefusedRequest, decompress
from mixpanel.emulator._rules.query_parameters import (
    COUNT_TYPES,
    HOUR_DAY,
    MAX_LIMIT,
    SEGMENTATION_UNITS,
    TIME_UNITS,
    Parameters,
)
from mixpanel.emulator._rules.rate_limits import CallLimiter
from mixpanel.emulator._server import responses
from mixpanel.emulator._server.project import Project
from mixpanel.emulator._storage.event_reports import EventReports
from mixpanel.emulator._storage.inline_reports import InlineReports
from mixpanel.emulator._storage.profile_query import read_form
from mixpanel.emulator._storage.profile_statistics import profile_statistics
from mixpanel.emulator._storage.request_log import RecordedRequest

LONGEST_LENGTH = 90  # days of a funnel's window
MAX_FEED = 15_000
FEED_DAYS = 30
DAY_MS = 24 * 3600 * 1000
DEFAULT_DAYS = 31
FLOW_MERGES = {"flows_sankey": "graph", "flows_top_paths": "list", "flows": "tree"}
FREE_STATUSES = (401, 402, 429)  # these responses do not count against the hourly quota
JQL_GONE = (
    "JQL is not available here: it is in maintenance mode at Mixpanel. Use POST /api/query/insights"
    " for a report, or export the events"
)

Handler = Callable[["QueryEndpoints", Parameters], Any]


def query_routes(project: Project, engage: Callable[[Request], Any]) -> list[Route]:
    """Return the routes of the Query API; `engage` is the endpoint of profile queries."""
    endpoints = QueryEndpoints(project)
    limits = [Middleware(QueryBudget, limiter=project.queries, now=project.now)]
    routes = [
        Route(f"/api/{base}/engage", engage, methods=["GET", "POST"], middleware=limits)
        for base in ("query", "2.0")
    ]
    return routes + [
        Route(
            f"/api/{base}/{{path:path}}",
            endpoints.respond,
            methods=["GET", "POST"],
            middleware=limits,
        )
        for base in ("query", "2.0")
    ]


class QueryBudget:
    """Respond 429 to calls above the limits, and count as Mixpanel does.

    Free are responses with 401, 402 and 429, pages of profiles after the first, and requests
    without a project_id.
    """

    def __init__(self, app: ASGIApp, limiter: CallLimiter, now: Callable[[], float]) -> None:
        self._app = app
        self._limiter = limiter
        self._now = now

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass one call on, or refuse it."""
        recorded: RecordedRequest = scope["state"]["recorded"]
        counted = _is_counted(recorded)
        wait = self._limiter.enter(self._now(), counted=counted)
        if wait is not None:
            message = "too many requests for this project; see Retry-After"
            response = responses.refused(scope["path"], 429, message)
            response.headers["retry-after"] = str(max(1, math.ceil(wait)))
            response.headers.update(self._limiter.headers(self._now()))
            await response(scope, receive, send)
            return

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                if counted and message["status"] in FREE_STATUSES:
                    self._limiter.refund()
                headers = self._limiter.headers(self._now())
                sent = [(name.encode(), value.encode()) for name, value in headers.items()]
                message = {**message, "headers": [*message["headers"], *sent]}
            await send(message)

        try:
            await self._app(scope, receive, with_headers)
        finally:
            self._limiter.leave()


def _is_counted(recorded: RecordedRequest) -> bool:
    fields = _fields(recorded)
    return bool(fields.get("project_id")) and is_counted(recorded.path, fields)


def _fields(recorded: RecordedRequest) -> dict[str, Any]:
    """Return the parameters of the URL and the body; those of the body win."""
    try:
        body = decompress(
            recorded.body, encoding=recorded.headers.get("content-encoding", ""), max_size=2**24
        )
        form = read_form(body, recorded.headers.get("content-type", ""))
    except RefusedRequest:
        form = {}
    return {**recorded.query, **form}


@dataclass(frozen=True, slots=True)
class Csv:
    """An answer that is a table as text."""

    text: str


class QueryEndpoints:
    """The endpoints of the Query API, over one project's events and profiles."""

    def __init__(self, project: Project) -> None:
        self._project = project
        self._reports = EventReports(project.warehouse)
        self._inline = InlineReports(self._reports, project.profiles, project.saved)

    async def respond(self, request: Request) -> Response:
        """Respond to one query.

        :raises RefusedRequest: what is documented for wrong credentials and parameters.
        """
        recorded: RecordedRequest = request.state.recorded
        path = request.path_params["path"]
        methods, handler = ENDPOINTS.get(path, ((), None))
        if handler is None:
            raise RefusedRequest(404, f"there is no endpoint {recorded.path}")
        if recorded.method not in (*methods, "HEAD"):
            raise HTTPException(405)
        saved = self._project.saved
        fields = self._checked(recorded)
        if not saved.restrictions.has_query_api:
            raise RefusedRequest(402, "This project's plan does not include the Query API")
        now = self._project.now()
        parameters = Parameters(fields, today=datetime.fromtimestamp(now, UTC).date())
        try:
            answer = await run_in_threadpool(_checked_call, handler, self, parameters)
        except RefusedRequest as refused:
            if saved.restrictions.errors_as_200 and path in ("insights", "arb_funnels"):
                return responses.Json({"error": refused.message})
            raise
        if isinstance(answer, Csv):
            return PlainTextResponse(answer.text, media_type="text/csv")
        response = responses.Json(answer)
        if path == "stream/query":
            response.headers["deprecation"] = "true"
        return response

    def _checked(self, recorded: RecordedRequest) -> dict[str, Any]:
        """Return the parameters of a request with valid credentials."""
        project, fields = self._project, _fields(recorded)
        project_id = str(fields.get("project_id", ""))
        header = recorded.headers.get("authorization", "")
        if not project.accepts_bearer(header) and not project.access.accepts_header(
            header, project_id=project_id, token=False
        ):
            raise RefusedRequest(401, "Invalid credentials")
        project.saved.add_project(project_id)
        if recorded.headers.get("content-type", "").startswith("application/json"):
            read_form(recorded.body, "application/json")  # refuses what is not JSON
        return fields

    def _days(self, parameters: Parameters, **options: Any) -> tuple[date, date]:
        """Return the days of a report, which the plan may limit."""
        days = parameters.dates(**options)
        allowed = self._project.saved.restrictions.history_days
        if allowed is not None and (parameters.today - days[0]).days > allowed:
            raise RefusedRequest(403, f"Date range exceeds {allowed} days into the past")
        return days

    # Segmentation

    def segmentation(self, p: Parameters) -> Any:
        """GET segmentation: an event by date, and by the values of `on`."""
        event, on, where = p.required("event"), p.text("on"), p.text("where")
        kind: Any = p.choice("type", COUNT_TYPES, "general")
        unit: Any = p.choice("unit", SEGMENTATION_UNITS, "day")
        _check_unique(kind, unit)
        limit = p.whole("limit", 1, MAX_LIMIT, 60)
        report = partial(
            segmentation.segmentation, event=event, on=on, unit=unit, type=kind, where=where,
            limit=limit,
        )  # fmt: skip
        result = self._reports.run(report, self._days(p, interval=True), on, where)
        size = len(result.series) + result.limit_hit
        return _counts(p, result.series, legend_size=size)

    def numeric(self, p: Parameters) -> Any:
        """GET segmentation/numeric: an event by date and ranges of a number."""
        event, on, where = p.required("event"), p.required("on"), p.text("where")
        unit: Any = p.choice("unit", HOUR_DAY, "day")
        kind: Any = p.choice("type", COUNT_TYPES, "general")
        report = partial(
            numeric.segmentation_numeric, event=event, on=on, unit=unit, type=kind, where=where
        )
        return _counts(p, self._reports.run(report, self._days(p), on, where).series)

    def sum(self, p: Parameters) -> Any:
        """GET segmentation/sum: a number added up by date."""
        return self._by_date(p, numeric.segmentation_sum, computed=True)

    def average(self, p: Parameters) -> Any:
        """GET segmentation/average: the average of a number by date."""
        return self._by_date(p, numeric.segmentation_average, computed=False)

    def _by_date(self, p: Parameters, report: Callable[..., Any], *, computed: bool) -> Any:
        event, on, where = p.required("event"), p.required("on"), p.text("where")
        unit = p.choice("unit", HOUR_DAY, "day")
        made = partial(report, event=event, on=on, unit=unit, where=where)
        result = self._reports.run(made, self._days(p), on, where)
        at = {"computed_at": query_responses.computed_at(self._project.now())}
        return {"status": "ok", **(at if computed else {}), "results": result.results}

    # Events

    def events(self, p: Parameters) -> Any:
        """GET events: several events by date."""
        names = p.names("event")
        kind: Any = p.choice("type", COUNT_TYPES, "general")
        unit: Any = p.choice("unit", SEGMENTATION_UNITS, "day")
        _check_unique(kind, unit)
        report = partial(segmentation.event_counts, events=names, unit=unit, type=kind)
        return _counts(p, self._reports.run(report, self._days(p, interval=True)).series)

    def event_names(self, p: Parameters) -> Any:
        """GET events/names: the names of events, the most common first."""
        p.choice("type", COUNT_TYPES, "general")
        limit = min(p.whole("limit", 1, 10**9, 255), 5000)
        return self._reports.event_names(self._days(p, default=DEFAULT_DAYS), limit)

    def top_events(self, p: Parameters) -> Any:
        """GET events/top: today's most frequent events, and how they changed since yesterday."""
        kind = p.choice("type", COUNT_TYPES, "general")
        limit = p.whole("limit", 1, MAX_LIMIT, 100)
        return {"type": kind, "events": self._reports.top_events(p.today, kind, limit)}

    def property_counts(self, p: Parameters) -> Any:
        """GET events/properties: an event by date and the values of a property."""
        event, name = p.required("event"), p.required("name")
        kind: Any = p.choice("type", COUNT_TYPES, "general")
        unit: Any = p.choice("unit", SEGMENTATION_UNITS, "day")
        _check_unique(kind, unit)
        report = partial(
            segmentation.property_counts, event=event, property_name=name, unit=unit, type=kind,
            values=p.names("values") if "values" in p else None,
            limit=p.whole("limit", 1, MAX_LIMIT, 255),
        )  # fmt: skip
        result = self._reports.run(report, self._days(p, interval=True))
        return _counts(p, result.series, legend_size=len(result.series) + result.limit_hit)

    def property_names(self, p: Parameters) -> Any:
        """GET events/properties/top: the most frequent properties of an event."""
        event = p.required("event")
        found = self._reports.property_names(event).get(event, {})
        chosen = list(found.items())[: p.whole("limit", 1, MAX_LIMIT, 10)]
        return {name: {"count": count} for name, count in chosen}

    def property_values(self, p: Parameters) -> Any:
        """GET events/properties/values: the most frequent values of a property."""
        limit = p.whole("limit", 1, MAX_LIMIT, 255)
        return self._reports.property_values(p.required("name"), p.text("event"), limit)

    def definitions(self, p: Parameters) -> Any:
        """GET data_definitions/events: all events, with their properties if requested."""
        rows: list[dict[str, Any]] = []
        each = p.flag("fetch_per_event_properties")
        for event, properties in self._reports.property_names().items():
            names = [{"name": name} for name in sorted(properties)]
            known = self._project.saved.definition("events", event)
            rows.append({"name": event, **known, **({"properties": names} if each else {})})
        return {"results": rows}

    # Funnels, retention, frequency

    def funnels(self, _: Parameters) -> Any:
        """GET funnels/list: the saved funnels."""
        return [
            {"funnel_id": row["id"], "name": row["name"]}
            for row in self._project.saved.rows("bookmarks")
            if row["type"] == "funnels"
        ]

    def funnel(self, p: Parameters) -> Any:
        """GET funnels: a saved funnel by date."""
        number = p.whole("funnel_id", 1, 10**15, 0)
        row = self._bookmark(number, "funnels")
        days, on, where = self._days(p), p.text("on"), p.text("where")
        options = self._inline.funnel_options(row["params"])
        if "length" in p:
            unit = p.choice("length_unit", ("day", "hour", "minute", "second"), "day")
            longest = LONGEST_LENGTH * 86_400 // funnel.SECONDS[unit]
            options |= {"window": p.whole("length", 1, longest, 1), "window_unit": unit}
        unit_ = p.choice("unit", TIME_UNITS) if "unit" in p else None
        if unit_ is not None and "interval" in p:
            raise RefusedRequest(400, "unit and interval exclude each other")
        interval = p.whole("interval", 1, 100_000, 1)
        options["limit"] = p.whole("limit", 1, MAX_LIMIT, 255)
        found = []
        filters = " and ".join(f"({each})" for each in (options.pop("where"), where) if each)
        for part in query_parameters.periods(*days, unit=unit_, interval=interval):
            report = partial(funnel.funnel, on=on, where=filters or None, **options)
            found.append((part[0], self._reports.run(report, part, on, filters, options["steps"])))
        limit_hit = any(result.limit_hit for _, result in found)
        return query_responses.funnel(found, segmented=on is not None, limit_hit=limit_hit)

    def retention(self, p: Parameters) -> Any:
        """GET retention: how many users came back; of a saved report by `bookmark_id`."""
        if "bookmark_id" in p:
            row = self._bookmark(p.whole("bookmark_id", 1, 10**15, 0), "retention")
            result = self._inline.retention(row["params"], p.today)
            if len(result) > 1:
                raise RefusedRequest(400, "a saved report by several groups: query it inline")
            return query_responses.retention(result[0], rates=True)
        if "unit" in p and "interval" in p:
            raise RefusedRequest(400, "unit and interval exclude each other")
        kind: Any = p.choice("retention_type", ("birth", "compounded"), "birth")
        if kind == "birth":
            p.required("born_event")
        texts = {name: p.text(name) for name in ("born_where", "where", "on")}
        report = partial(
            retention.retention,
            born_event=p.text("born_event") if kind == "birth" else None,
            return_event=p.text("event"),
            born_where=texts["born_where"] if kind == "birth" else None,
            return_where=texts["where"],
            unit=p.choice("unit", TIME_UNITS, "day"),  # type: ignore[arg-type] # is one of them
            interval=p.whole("interval", 1, LONGEST_LENGTH, 1),
            interval_count=p.whole("interval_count", 1, 730, 1),
            retention_type=kind,
            unbounded=p.flag("unbounded_retention"),
            on=texts["on"],
            limit=p.whole("limit", 1, MAX_LIMIT, 255),
            until=self._reports.last_time(),
        )
        return query_responses.retention(self._reports.run(report, self._days(p), *texts.values()))

    def frequency(self, p: Parameters) -> Any:
        """GET retention/addiction: how many users were active how often."""
        on, where = p.text("on"), p.text("where")
        report = partial(
            retention.frequency,
            event=p.text("event"),
            unit=p.choice("unit", TIME_UNITS),  # type: ignore[arg-type] # is one of them
            addiction_unit=p.choice("addiction_unit", HOUR_DAY),  # type: ignore[arg-type]
            where=where,
            on=on,
            limit=p.whole("limit", 1, MAX_LIMIT, 255),
        )
        return query_responses.frequency(self._reports.run(report, self._days(p), on, where))

    # Cohorts and users

    def cohorts(self, p: Parameters) -> Any:
        """POST cohorts/list: the saved cohorts."""
        project_id = p.text("project_id") or ""
        return [
            {
                "id": row["id"],
                "name": row["name"],
                "count": row["count"],
                "description": row.get("description", ""),
                "created": row["created"],
                "is_visible": 1,
                "project_id": int(project_id) if project_id.isdecimal() else project_id,
            }
            for row in self._project.cohort_rows()
        ]

    def engage_stats(self, p: Parameters) -> Any:
        """POST engage/stats: one figure over profiles."""
        project = self._project
        results = profile_statistics(project.profiles, p.fields, now=project.now())
        at = query_responses.computed_at(project.now())
        return {"status": "ok", "computed_at": at, "results": results}

    def stream_query(self, p: Parameters) -> Any:
        """GET stream/query: the events of some users; deprecated."""
        ids, days = p.names("distinct_ids"), self._days(p)
        found = self._reports.feed(ids, *_milliseconds(days), limit=MAX_FEED)
        warning = "stream/query is deprecated: use POST stream/bookmark"
        return {
            "status": "ok",
            "results": {"events": [event for _, _, event in found]},
            "warning": warning,
        }

    def stream_bookmark(self, p: Parameters) -> Any:
        """POST stream/bookmark: a page of the events of some users, the latest page first."""
        p.required("workspace_id")
        if "include_events" in p and "exclude_events" in p:
            raise RefusedRequest(400, "include_events and exclude_events exclude each other")
        bookmark = p.json("bookmark")
        range_ = bookmark.get("dateRange") if isinstance(bookmark, dict) else None
        days = _feed_days(range_, p.today)
        limit = p.whole("limit", 1, MAX_FEED, 100)
        window = p.whole("paging_window", 1, FEED_DAYS, FEED_DAYS)
        low, high = _milliseconds(days)
        sentinel = p.fields.get("sentinel_event")
        before = _cursor(sentinel)
        if before is not None:
            high = min(high, before[0] + 1)
        start = max(low, high - window * DAY_MS)
        found = self._reports.feed(
            p.names("distinct_ids"), start, high,
            include=p.names("include_events") if "include_events" in p else None,
            exclude=p.names("exclude_events") if "exclude_events" in p else (),
            search=p.text("search") or "", limit=limit, before=before,
        )  # fmt: skip
        following = None
        if len(found) == limit:
            following = {**found[0][2], "cursor": [found[0][0], found[0][1]]}
        elif start > low:
            following = {"event": None, "properties": {}, "cursor": [start, 0]}
        events = [event for _, _, event in found]
        return {"results": {"events": events, "sentinel_event": following}}

    def jql(self, _: Parameters) -> Any:
        """POST jql: gone.

        :raises RefusedRequest: 410, always.
        """
        raise RefusedRequest(410, JQL_GONE)

    # Saved and inline reports

    def insights(self, p: Parameters) -> Any:
        """GET insights: a saved report; POST insights: an inline one."""
        limit = 3000
        if "bookmark_id" in p:
            params = self._bookmark(p.whole("bookmark_id", 1, 10**15, 0))["params"]
        else:
            params = p.json("bookmark")
            limits = p.fields.get("queryLimits")
            limit = limits.get("limit", limit) if isinstance(limits, Mapping) else limit
        now = self._project.now()
        return self._inline.respond(params, p.today, now=now, limit=limit)

    def flows(self, p: Parameters) -> Any:
        """GET arb_funnels: a saved flow; POST arb_funnels: an inline one."""
        kind = p.choice("query_type", tuple(FLOW_MERGES), "flows_sankey")
        if "bookmark_id" in p:
            params = self._bookmark(p.whole("bookmark_id", 1, 10**15, 0), "flows")["params"]
        else:
            params = p.json("bookmark")
        if isinstance(params, Mapping):
            params = {**params, "flows_merge_type": FLOW_MERGES[kind]}
        result = self._inline.flows(params, p.today)
        return query_responses.flows(result, now=self._project.now(), tree=kind == "flows")

    def _bookmark(self, number: int, kind: str | None = None) -> dict[str, Any]:
        row = self._project.saved.get("bookmarks", number)
        if kind is not None and row["type"] != kind:
            raise RefusedRequest(400, f"report {number} is of type {row['type']}, not {kind}")
        return row


def _checked_call(handler: Handler, endpoints: QueryEndpoints, parameters: Parameters) -> Any:
    """Call an endpoint; parameters of a bookmark have too many shapes to be checked one by one.

    :raises RefusedRequest: 400: a value has the wrong type.
    """
    try:
        return handler(endpoints, parameters)
    except OverflowError as error:
        raise RefusedRequest(400, "the dates are beyond what can be computed") from error
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        if "bookmark" not in parameters and "bookmark_id" not in parameters:
            raise
        raise RefusedRequest(400, f"bookmark is malformed: {error}") from error


def _check_unique(kind: str, unit: str) -> None:
    if kind == "unique" and unit in ("minute", "hour"):
        raise RefusedRequest(400, f"unique users are not counted by {unit}: use day, week or month")


def _counts(p: Parameters, found: Any, *, legend_size: int | None = None) -> Any:
    if p.choice("format", ("json", "csv"), "json") == "csv":
        return Csv(query_responses.csv(found))
    return query_responses.series(found, legend_size=legend_size)


def _milliseconds(days: tuple[date, date]) -> tuple[int, int]:
    epoch = date(1970, 1, 1)
    return (days[0] - epoch).days * DAY_MS, ((days[1] - epoch).days + 1) * DAY_MS


def _feed_days(given: Any, today: date) -> tuple[date, date]:
    match given:
        case {"type": "between", "from": first, "to": last}:
            return query_parameters.read_day(first, "from"), query_parameters.read_day(last, "to")
        case {"type": "since", "from": first}:
            return query_parameters.read_day(first, "from"), today
        case {"type": "relative_after", "window": {"unit": "day", "value": int(days)}}:
            return today - timedelta(days=days - 1), today
        case _:
            raise RefusedRequest(400, "bookmark.dateRange must be between, since or relative_after")


def _cursor(sentinel: Any) -> tuple[int, int] | None:
    match sentinel:
        case None:
            return None
        case {"cursor": [int(time), int(seq)]}:
            return time, seq
        case _:
            raise RefusedRequest(400, "sentinel_event must be that of the page before")


GET, POST, BOTH = ("GET",), ("POST",), ("GET", "POST")
ENDPOINTS: dict[str, tuple[tuple[str, ...], Handler]] = {
    "segmentation": (BOTH, QueryEndpoints.segmentation),
    "segmentation/numeric": (BOTH, QueryEndpoints.numeric),
    "segmentation/sum": (BOTH, QueryEndpoints.sum),
    "segmentation/average": (BOTH, QueryEndpoints.average),
    "events": (BOTH, QueryEndpoints.events),
    "events/names": (BOTH, QueryEndpoints.event_names),
    "events/top": (BOTH, QueryEndpoints.top_events),
    "events/properties": (BOTH, QueryEndpoints.property_counts),
    "events/properties/top": (BOTH, QueryEndpoints.property_names),
    "events/properties/values": (BOTH, QueryEndpoints.property_values),
    "data_definitions/events": (GET, QueryEndpoints.definitions),
    "funnels/list": (GET, QueryEndpoints.funnels),
    "funnels": (GET, QueryEndpoints.funnel),
    "retention": (GET, QueryEndpoints.retention),
    "retention/addiction": (GET, QueryEndpoints.frequency),
    "cohorts/list": (BOTH, QueryEndpoints.cohorts),
    "engage/stats": (POST, QueryEndpoints.engage_stats),
    "stream/query": (GET, QueryEndpoints.stream_query),
    "stream/bookmark": (POST, QueryEndpoints.stream_bookmark),
    "jql": (BOTH, QueryEndpoints.jql),
    "insights": (BOTH, QueryEndpoints.insights),
    "arb_funnels": (BOTH, QueryEndpoints.flows),
}
