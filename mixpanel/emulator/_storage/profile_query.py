"""The profile query: select profiles, and return them page by page.

The query runs for page 0, which stores the ids that it found as a session. Later pages, in any
order, are read from that session.
"""

import re
import threading
import uuid
from collections import OrderedDict
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple
from urllib.parse import parse_qsl

from pydantic_core import from_json

from mixpanel.data.analysis.expressions import (
    ExpressionError,
    Names,
    Value,
    compile_expression,
)
from mixpanel.emulator._rules.decode import RefusedRequest
from mixpanel.emulator._rules.raw_cohorts import Counted, RawCohort, read_raw_cohort
from mixpanel.emulator._storage.export import JOIN_PROFILES, read_where
from mixpanel.emulator._storage.export import NAMES as EVENT_NAMES
from mixpanel.emulator._storage.warehouse import Warehouse

MAX_SESSIONS = 100
# With more profiles than this, later pages of `behaviors` require `as_of_timestamp`.
MAX_UNSTABLE_PROFILES = 1000
MILLISECONDS = {"h": 3_600_000, "d": 86_400_000, "w": 7 * 86_400_000, "m": 30 * 86_400_000}
WINDOW = re.compile(r"(\d{1,4})([hdwm])", re.ASCII)

USER_PROFILES = "select distinct_id, properties, last_seen from profiles"
GROUP_PROFILES = (
    "select group_id as distinct_id, properties, last_seen from groups where group_key = $group_key"
)
MEMBERS = (
    " union all select member as distinct_id, '{}', null from (select unnest($cohort) as member)"
    " where member not in (select distinct_id from profiles)"
)
SEEN = "strftime(make_timestamp(p.last_seen * 1000), '%Y-%m-%dT%H:%M:%S')"
SEARCHED = (
    "(contains(lower(p.distinct_id), $search) or contains(lower(p.properties::varchar), $search))"
)
COUNT = (
    "left join (select coalesce(owners.distinct_id, e.distinct_id) as distinct_id,"
    " count(distinct (e.event, e.time, e.distinct_id, coalesce(e.insert_id, e.seq::varchar))) as n"
    " from events e {users} where e.time > {low} and e.time <= {high} and ({chosen}) group by 1"
    ") as {name} on {name}.distinct_id = p.distinct_id"
)


class ProfileQuery(NamedTuple):
    """The profiles that a query requests, as SQL over `people` as `p`."""

    people: str
    joins: str
    condition: str
    parameters: dict[str, Any]
    order: str = "p.distinct_id"


class QuerySession(NamedTuple):
    """The result of page 0: the ids, and the source of the profiles."""

    people: str
    parameters: dict[str, Any]
    ids: list[str]
    total: int
    is_unstable: bool


class Profiles:
    """The cohorts of a project, and the sessions of its profile queries."""

    def __init__(self, warehouse: Warehouse, *, page_size: int) -> None:
        self._warehouse = warehouse
        self._page_size = page_size
        self._sessions: OrderedDict[str, QuerySession] = OrderedDict()
        self._cohorts: dict[str, list[str]] = {}
        self._lock = threading.Lock()

    def set_cohorts(self, cohorts: Mapping[Any, Collection[str]]) -> None:
        """Replace the cohorts."""
        self._cohorts = {str(cohort): sorted(set(ids)) for cohort, ids in cohorts.items()}

    @property
    def cohorts(self) -> dict[str, list[str]]:
        """The distinct_ids in each cohort, by its id."""
        return dict(self._cohorts)

    def selected(self, form: Mapping[str, Any], *, now: float) -> list[dict[str, Any]]:
        """Return the properties of all profiles that a query selects; blocks while DuckDB runs.

        :raises RefusedRequest: 400: parameters are missing or invalid.
        """
        _, session = self._open(form, now)
        return [each["$properties"] for each in self._results(session, session.ids, None)]

    def clear(self) -> None:
        """Forget cohorts and sessions."""
        with self._lock:
            self._sessions.clear()
            self._cohorts.clear()

    def page(self, form: Mapping[str, Any], *, now: float) -> dict[str, Any]:
        """Return one page of a query; blocks while DuckDB runs.

        :raises RefusedRequest: 400: parameters are missing or invalid.
        """
        number = _whole_number(form, "page") or 0
        output = _strings(form, "output_properties")
        total = {}
        if number == 0:
            session_id, session = self._open(form, now)
            total = {"total": session.total}
        else:
            session_id, session = self._find_session(form)
        start = number * self._page_size
        results = self._results(session, session.ids[start : start + self._page_size], output)
        return {
            "page": number,
            "page_size": self._page_size,
            "session_id": session_id,
            "status": "ok",
            **total,
            "results": results,
        }

    def _open(self, form: Mapping[str, Any], now: float) -> tuple[str, QuerySession]:
        query = self._build_query(form, now)
        sql = (
            f"select p.distinct_id from ({query.people}) p {query.joins}"
            f" where {query.condition} order by {query.order}"
        )
        limit = _whole_number(form, "limit")
        try:
            rows = self._warehouse.query(sql, query.parameters)
        except ValueError as error:
            raise RefusedRequest(400, f"where: {error}") from error
        # The session has ids, not profiles: an update between two pages moves no profile to another
        # page, but is visible on the pages that follow.
        ids = [distinct_id for (distinct_id,) in rows[:limit]]
        group_key = query.parameters.get("group_key")
        group = {} if group_key is None else {"group_key": group_key}
        people = GROUP_PROFILES if group else USER_PROFILES
        is_unstable = "behaviors" in form and "as_of_timestamp" not in form
        session_id = f"{round(now * 1000)}-{uuid.uuid4().hex[:12]}"
        session = QuerySession(people, group, ids, len(rows), is_unstable)
        with self._lock:
            self._sessions[session_id] = session
            while len(self._sessions) > MAX_SESSIONS:
                self._sessions.popitem(last=False)
        return session_id, session

    def _find_session(self, form: Mapping[str, Any]) -> tuple[str, QuerySession]:
        session_id = form.get("session_id")
        if not session_id:
            raise RefusedRequest(400, "session_id is required for pages after the first")
        with self._lock:
            session = self._sessions.get(str(session_id))
        if session is None:
            raise RefusedRequest(400, "session_id is not known, or has expired")
        if session.is_unstable and len(session.ids) > MAX_UNSTABLE_PROFILES:
            raise RefusedRequest(400, "request for page in uncached query for params")
        return str(session_id), session

    def _results(
        self, session: QuerySession, ids: Sequence[str], output: list[str] | None
    ) -> list[dict[str, Any]]:
        rows = self._warehouse.query(
            f"select p.distinct_id, p.properties, {SEEN} from ({session.people}) p"
            " where p.distinct_id in (select unnest($ids::varchar[]))",
            {**session.parameters, "ids": list(ids)},
        )
        found = {distinct_id: _properties(text, seen) for distinct_id, text, seen in rows}
        # In the order of page 0; a profile that was deleted since then is empty, not missing, so
        # that pages keep their length.
        chosen = {each: found.get(each, {}) for each in ids}
        if output is not None:
            wanted = frozenset(output)
            chosen = {
                each: {name: value for name, value in properties.items() if name in wanted}
                for each, properties in chosen.items()
            }
        return [
            {"$distinct_id": each, "$properties": properties} for each, properties in chosen.items()
        ]

    def _build_query(self, form: Mapping[str, Any], now: float) -> ProfileQuery:
        people, parameters = USER_PROFILES, dict[str, Any]()
        conditions, raw = ["true"], RawCohort(None, [])
        if form.get("data_group_id"):
            people = GROUP_PROFILES
            parameters["group_key"] = str(form["data_group_id"])
        if "filter_by_cohort" in form:
            if "behaviors" in form:
                raise RefusedRequest(400, "behaviors and filter_by_cohort cannot be combined")
            cohort = read_field(form["filter_by_cohort"], "filter_by_cohort")
            if isinstance(cohort, dict) and "raw_cohort" in cohort:
                raw = read_raw_cohort(cohort["raw_cohort"], members=self.members, now=now)
            else:
                parameters["cohort"] = self._cohort(cohort)
                if _flag(form, "include_all_users", default=True) and people == USER_PROFILES:
                    people += MEMBERS
                conditions.append("p.distinct_id in (select unnest($cohort::varchar[]))")
        ids = _requested(form)
        if ids is not None:
            parameters["distinct_ids"] = [self._warehouse.canonical(each) for each in ids]
            conditions.append("p.distinct_id in (select unnest($distinct_ids::varchar[]))")
        counts, joins = _behaviors(form, now, parameters, raw.counted)
        seen = Value(text=SEEN)
        names = {"$distinct_id": Value(text="p.distinct_id"), "$last_seen": seen}
        profile = Names("p.properties", names)
        scope = {"properties": profile, "user": profile, "behaviors": Names(columns=counts)}
        if search := form.get("search"):
            parameters["search"] = str(search).lower()
            conditions.append(SEARCHED)
        # `selector` is what older clients call it.
        for prefix, where in {"c": raw.where, "x": form.get("where", form.get("selector"))}.items():
            if where:
                compiled = read_where(str(where), scope, prefix=prefix)
                conditions.append(compiled.condition)
                parameters |= compiled.parameters
        order = _order(form, scope, parameters)
        return ProfileQuery(people, " ".join(joins), " and ".join(conditions), parameters, order)

    def members(self, cohort: Any) -> list[str]:
        """Return the distinct_ids in a saved cohort.

        :raises RefusedRequest: 400: it does not exist.
        """
        return self._cohort({"id": cohort})

    def _cohort(self, cohort: Any) -> list[str]:
        if not isinstance(cohort, dict) or not isinstance(cohort.get("id"), (int, str)):
            raise RefusedRequest(400, 'filter_by_cohort must be an object, as {"id": 123}')
        members = self._cohorts.get(str(cohort["id"]))
        if members is None:
            raise RefusedRequest(400, f"cohort {cohort['id']} does not exist")
        return members


def _requested(form: Mapping[str, Any]) -> list[str] | None:
    ids = _strings(form, "distinct_ids")
    if form.get("distinct_id") is not None:
        ids = [*(ids or ()), str(form["distinct_id"])]
    return ids


def _order(form: Mapping[str, Any], scope: Mapping[str, Names], parameters: dict[str, Any]) -> str:
    """Return SQL that sorts by `sort_key`: numbers, then texts, and last what has neither."""
    if not form.get("sort_key"):
        return "p.distinct_id"
    try:
        key = compile_expression(str(form["sort_key"]), scope, prefix="k")
    except ExpressionError as error:
        raise RefusedRequest(400, f"sort_key: {error}") from error
    way = form.get("sort_order", "ascending")
    if way not in ("ascending", "descending"):
        raise RefusedRequest(400, f"sort_order must be ascending or descending, not {way!r}")
    parameters |= key.parameters
    columns = [each for each in (key.value.number, key.value.text) if each is not None]
    word = "desc" if way == "descending" else "asc"
    return ", ".join([*(f"{each} {word} nulls last" for each in columns), "p.distinct_id"])


def read_form(body: bytes, content_type: str) -> dict[str, Any]:
    """Read the fields of a profile query from a form or, though undocumented, from JSON."""
    if content_type.partition(";")[0].strip().lower() == "application/json":
        form = read_field(body.decode(errors="replace") or "{}", "body")
        if not isinstance(form, dict):
            raise RefusedRequest(400, "body must be an object")
        return {name: value for name, value in form.items() if value is not None}
    try:
        return dict(parse_qsl(body.decode(), keep_blank_values=True, errors="strict"))
    except ValueError as error:
        raise RefusedRequest(400, f"form is not valid: {error}") from error


def _behaviors(
    form: Mapping[str, Any],
    now: float,
    parameters: dict[str, Any],
    counted: Sequence[Counted] = (),
) -> tuple[dict[str, Value], list[str]]:
    """Return the value of each `behaviors["name"]`, and the joins that count it.

    `counted` are those of a raw cohort.
    """
    counts: dict[str, Value] = {}
    joins: list[str] = []
    for index, each in enumerate(counted):
        selector = {"event": each.event, "selector": each.where}
        chosen_events = _selected(selector, f"r{index}s", parameters)
        joins.append(_count(f"r{index}", each.low, each.high, chosen_events))
        counts[each.name] = _number(f"r{index}")
    if "behaviors" not in form:
        return counts, joins
    behaviors = read_field(form["behaviors"], "behaviors")
    end = _whole_number(form, "as_of_timestamp")
    high = round(now * 1000) if end is None else end * 1000
    if not isinstance(behaviors, list):
        raise RefusedRequest(400, "behaviors must be a list")
    for index, behavior in enumerate(behaviors):
        match behavior:
            case {"name": str(name), "window": str(window), "event_selectors": [*selectors]}:
                length = WINDOW.fullmatch(window)
            case _:
                raise RefusedRequest(400, "a behavior requires name, window and event_selectors")
        if length is None:
            raise RefusedRequest(400, f"window must be like 30d, not {window!r}")
        low = high - int(length[1]) * MILLISECONDS[length[2]]
        chosen = [
            _selected(selector, f"b{index}s{each}", parameters)
            for each, selector in enumerate(selectors)
        ]
        joined = " or ".join(chosen) or "true"
        joins.append(_count(f"b{index}", low, high, joined))
        counts[name] = _number(f"b{index}")
    return counts, joins


def _count(name: str, low: int, high: int, chosen: str) -> str:
    return COUNT.format(users=JOIN_PROFILES, low=low, high=high, chosen=chosen, name=name)


def _number(name: str) -> Value:
    return Value(number=f"coalesce({name}.n, 0)::double", set_when="true")


def _selected(selector: Any, prefix: str, parameters: dict[str, Any]) -> str:
    if not isinstance(selector, dict) or not isinstance(selector.get("event"), str):
        raise RefusedRequest(400, "an event selector requires an event")
    parameters[prefix] = selector["event"]
    condition = f"e.event = ${prefix}"
    if selector.get("selector"):
        where = read_where(str(selector["selector"]), EVENT_NAMES, prefix=f"{prefix}x")
        parameters |= where.parameters
        condition = f"({condition} and {where.condition})"
    return condition


def _properties(text: str, seen: str | None) -> dict[str, Any]:
    properties: dict[str, Any] = from_json(text)
    return properties if seen is None else {"$last_seen": seen, **properties}


def read_field(form: Any, name: str) -> Any:
    """Return a field: in a form it is JSON text, in a JSON body a value."""
    if not isinstance(form, str):
        return form
    try:
        return from_json(form)
    except ValueError as error:
        raise RefusedRequest(400, f"{name} is not valid JSON") from error


def _strings(form: Mapping[str, Any], name: str) -> list[str] | None:
    if name not in form:
        return None
    strings = read_field(form[name], name)
    if not isinstance(strings, list) or not all(isinstance(each, str) for each in strings):
        raise RefusedRequest(400, f"{name} must be a JSON array of strings")
    return strings


def _whole_number(form: Mapping[str, Any], name: str) -> int | None:
    value = form.get(name)
    if value is None or value == "":
        return None
    try:
        number = int(value)
    except (TypeError, ValueError) as error:
        raise RefusedRequest(400, f"{name} must be an integer, not {value!r}") from error
    if number < 0:
        raise RefusedRequest(400, f"{name} must not be negative")
    return number


def _flag(form: Mapping[str, Any], name: str, *, default: bool) -> bool:
    value = form.get(name, default)
    return value if isinstance(value, bool) else str(value).lower() in ("1", "true")
