"""Answer the profile query: which profiles were asked for, and a page of them.

The ids found for page 0 are its session; later pages are read from them, in any order.
"""

import re
import threading
import uuid
from collections import OrderedDict
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple
from urllib.parse import parse_qsl

from pydantic_core import from_json

from mixpanel.data.analysis.expressions import Names, Value
from mixpanel.emulator._rules.decode import RefusedRequest
from mixpanel.emulator._storage.export import NAMES as EVENT_NAMES
from mixpanel.emulator._storage.export import USERS, read_where
from mixpanel.emulator._storage.warehouse import Warehouse

MOST_SESSIONS = 100
MANY = 1000  # profiles, beyond which pages of `behaviors` need a fixed time
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
COUNT = (
    "left join (select coalesce(owners.distinct_id, e.distinct_id) as distinct_id,"
    " count(distinct (e.event, e.time, e.distinct_id, coalesce(e.insert_id, e.seq::varchar))) as n"
    " from events e {users} where e.time > {low} and e.time <= {high} and ({chosen}) group by 1"
    ") as {name} on {name}.distinct_id = p.distinct_id"
)


class Question(NamedTuple):
    """Which profiles are asked for, as SQL over `people` as `p`, and what of them."""

    people: str
    joins: str
    condition: str
    parameters: dict[str, Any]


class Session(NamedTuple):
    """What page 0 found: the ids, and where the profiles are."""

    people: str
    parameters: dict[str, Any]
    ids: list[str]
    moving: bool


class Profiles:
    """The cohorts of a project and the sessions of those who page through its profiles."""

    def __init__(self, warehouse: Warehouse, *, page_size: int) -> None:
        self._warehouse = warehouse
        self._page_size = page_size
        self._sessions: OrderedDict[str, Session] = OrderedDict()
        self._cohorts: dict[str, list[str]] = {}
        self._lock = threading.Lock()

    def set_cohorts(self, cohorts: Mapping[int | str, Collection[str]]) -> None:
        """Replace the cohorts."""
        self._cohorts = {str(cohort): sorted(set(ids)) for cohort, ids in cohorts.items()}

    def clear(self) -> None:
        """Forget cohorts and sessions."""
        with self._lock:
            self._sessions.clear()
            self._cohorts.clear()

    def page(self, told: Mapping[str, Any], *, now: float) -> dict[str, Any]:
        """Answer one request; blocks while DuckDB works.

        :raises RefusedRequest: with 400, for a question that makes no sense.
        """
        number = _whole(told, "page") or 0
        output = _strings(told, "output_properties")
        total = {}
        if number == 0:
            session_id, session = self._open(told, now)
            total = {"total": len(session.ids)}
        else:
            session_id, session = self._known(told)
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

    def _open(self, told: Mapping[str, Any], now: float) -> tuple[str, Session]:
        question = self._question(told, now)
        sql = (
            f"select p.distinct_id from ({question.people}) p {question.joins}"  # noqa: S608
            f" where {question.condition} order by 1"
        )
        try:
            rows = self._warehouse.query(sql, question.parameters)
        except ValueError as error:
            raise RefusedRequest(400, f"where: {error}") from error
        ids = [distinct_id for (distinct_id,) in rows]
        group_key = question.parameters.get("group_key")
        kept = {} if group_key is None else {"group_key": group_key}
        people = GROUP_PROFILES if kept else USER_PROFILES
        moving = "behaviors" in told and "as_of_timestamp" not in told
        session_id = f"{round(now * 1000)}-{uuid.uuid4().hex[:12]}"
        session = Session(people, kept, ids, moving)
        with self._lock:
            self._sessions[session_id] = session
            while len(self._sessions) > MOST_SESSIONS:
                self._sessions.popitem(last=False)
        return session_id, session

    def _known(self, told: Mapping[str, Any]) -> tuple[str, Session]:
        session_id = told.get("session_id")
        if not session_id:
            raise RefusedRequest(400, "session_id is required for pages after the first")
        with self._lock:
            session = self._sessions.get(str(session_id))
        if session is None:
            raise RefusedRequest(400, "session_id is not known, or has expired")
        if session.moving and len(session.ids) > MANY:
            raise RefusedRequest(400, "request for page in uncached query for params")
        return str(session_id), session

    def _results(
        self, session: Session, ids: Sequence[str], output: list[str] | None
    ) -> list[dict[str, Any]]:
        rows = self._warehouse.query(
            f"select p.distinct_id, p.properties, {SEEN} from ({session.people}) p"  # noqa: S608
            " where p.distinct_id in (select unnest($ids::varchar[]))",
            {**session.parameters, "ids": list(ids)},
        )
        found = {distinct_id: _properties(text, seen) for distinct_id, text, seen in rows}
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

    def _question(self, told: Mapping[str, Any], now: float) -> Question:
        people, parameters = USER_PROFILES, dict[str, Any]()
        conditions = ["true"]
        if told.get("data_group_id"):
            people = GROUP_PROFILES
            parameters["group_key"] = str(told["data_group_id"])
        if "filter_by_cohort" in told:
            if "behaviors" in told:
                raise RefusedRequest(400, "behaviors and filter_by_cohort exclude each other")
            parameters["cohort"] = self._cohort(told["filter_by_cohort"])
            if _flag(told, "include_all_users", default=True) and people == USER_PROFILES:
                people += MEMBERS
            conditions.append("p.distinct_id in (select unnest($cohort::varchar[]))")
        ids = _strings(told, "distinct_ids")
        if told.get("distinct_id") is not None:
            ids = [*(ids or ()), str(told["distinct_id"])]
        if ids is not None:
            parameters["asked"] = [self._warehouse.canonical(each) for each in ids]
            conditions.append("p.distinct_id in (select unnest($asked::varchar[]))")
        counts, joins = _behaviors(told, now, parameters)
        if told.get("where"):
            seen = Value(text=SEEN)
            names = {"$distinct_id": Value(text="p.distinct_id"), "$last_seen": seen}
            profile = Names("p.properties", names)
            scope = {"properties": profile, "user": profile, "behaviors": Names(columns=counts)}
            where = read_where(str(told["where"]), scope)
            conditions.append(where.condition)
            parameters |= where.parameters
        return Question(people, " ".join(joins), " and ".join(conditions), parameters)

    def _cohort(self, told: Any) -> list[str]:
        cohort = _json(told, "filter_by_cohort")
        if not isinstance(cohort, dict) or not isinstance(cohort.get("id"), (int, str)):
            raise RefusedRequest(400, 'filter_by_cohort must be an object, as {"id": 123}')
        members = self._cohorts.get(str(cohort["id"]))
        if members is None:
            raise RefusedRequest(400, f"cohort {cohort['id']} does not exist")
        return members


def read_form(body: bytes, content_type: str) -> dict[str, Any]:
    """Read the fields of a profile query: a form or, undocumented but taken, JSON."""
    if content_type.partition(";")[0].strip().lower() == "application/json":
        told = _json(body.decode(errors="replace") or "{}", "body")
        if not isinstance(told, dict):
            raise RefusedRequest(400, "body must be an object")
        return {name: value for name, value in told.items() if value is not None}
    try:
        return dict(parse_qsl(body.decode(), keep_blank_values=True, errors="strict"))
    except ValueError as error:
        raise RefusedRequest(400, f"form is not valid: {error}") from error


def _behaviors(
    told: Mapping[str, Any], now: float, parameters: dict[str, Any]
) -> tuple[dict[str, Value], list[str]]:
    """Return what `behaviors["name"]` counts, and the joins that count it."""
    if "behaviors" not in told:
        return {}, []
    behaviors = _json(told["behaviors"], "behaviors")
    end = _whole(told, "as_of_timestamp")
    high = round(now * 1000) if end is None else end * 1000
    counts: dict[str, Value] = {}
    joins: list[str] = []
    if not isinstance(behaviors, list):
        raise RefusedRequest(400, "behaviors must be a list")
    for index, behavior in enumerate(behaviors):
        match behavior:
            case {"name": str(name), "window": str(window), "event_selectors": [*selectors]}:
                length = WINDOW.fullmatch(window)
            case _:
                raise RefusedRequest(400, "a behavior has a name, a window and event_selectors")
        if length is None:
            raise RefusedRequest(400, f"window must be like 30d, not {window!r}")
        low = high - int(length[1]) * MILLISECONDS[length[2]]
        chosen = [
            _selected(selector, f"b{index}s{each}", parameters)
            for each, selector in enumerate(selectors)
        ]
        joined = " or ".join(chosen) or "true"
        part = f"b{index}"
        joins.append(COUNT.format(users=USERS, low=low, high=high, chosen=joined, name=part))
        counts[name] = Value(number=f"coalesce({part}.n, 0)::double", set_when="true")
    return counts, joins


def _selected(selector: Any, prefix: str, parameters: dict[str, Any]) -> str:
    if not isinstance(selector, dict) or not isinstance(selector.get("event"), str):
        raise RefusedRequest(400, "an event selector names its event")
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


def _json(told: Any, name: str) -> Any:
    """Return a field that is JSON in a form, and itself in a JSON body."""
    if not isinstance(told, str):
        return told
    try:
        return from_json(told)
    except ValueError as error:
        raise RefusedRequest(400, f"{name} is not valid JSON") from error


def _strings(told: Mapping[str, Any], name: str) -> list[str] | None:
    if name not in told:
        return None
    strings = _json(told[name], name)
    if not isinstance(strings, list) or not all(isinstance(each, str) for each in strings):
        raise RefusedRequest(400, f"{name} must be a JSON array of strings")
    return strings


def _whole(told: Mapping[str, Any], name: str) -> int | None:
    value = told.get(name)
    if value is None or value == "":
        return None
    try:
        number = int(value)
    except (TypeError, ValueError) as error:
        raise RefusedRequest(400, f"{name} must be a whole number, not {value!r}") from error
    if number < 0:
        raise RefusedRequest(400, f"{name} must not be negative")
    return number


def _flag(told: Mapping[str, Any], name: str, *, default: bool) -> bool:
    value = told.get(name, default)
    return value if isinstance(value, bool) else str(value).lower() in ("1", "true")
