"""Reports for an agent: check their arguments, and compute them locally or by Mixpanel."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any, Literal

from mixpanel._agents.results import decoded_cursor, page_of
from mixpanel.data._workspace.local_analysis import LocalAnalysis
from mixpanel.data.exceptions import ConfigError, IncompleteTableWarning

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mixpanel.data.query_results import QueryResult
    from mixpanel.data.store import Database
    from mixpanel.data.workspace import AsyncWorkspace

__all__ = ["Kind", "check_report", "live_report", "live_result", "local_report"]

Kind = Literal["segmentation", "funnel", "retention", "frequency", "flows", "saved_report"]
LEAST_EVENTS = {"segmentation": 1, "funnel": 2, "retention": 1, "flows": 1}
MOST_EVENTS = {"segmentation": 20, "funnel": 20, "retention": 2, "frequency": 1, "flows": 1}


# ---- arguments --------------------------------------------------------------------------------


def check_report(
    kind: Kind, given: Mapping[str, Any], table: str | None, report_id: int | None
) -> None:
    """Check that a report has the arguments that it needs, and no others.

    :raises ConfigError: naming an argument that is missing or has no effect.
    """
    events, saved = given["events"], report_id is not None
    if saved:
        _check_saved(kind, events, table)
    elif kind == "saved_report":
        raise ConfigError("saved_report needs report_id: search_saved lists the reports")
    else:
        _check_events(kind, events)
    needs_days = not (saved and kind in ("saved_report", "flows"))
    if needs_days and not (given["from_date"] and given["to_date"]):
        raise ConfigError(f"{kind} needs from_date and to_date")
    for name in _without_effect(kind, len(events), saved=saved):
        if given[name] is not None:
            several = " of several events" if kind == "segmentation" and len(events) > 1 else ""
            raise ConfigError(f"{name} has no effect on {kind}{several}: leave it out")
    if given["unit"] == "hour" and kind != "segmentation":
        raise ConfigError(f"unit='hour' is for segmentation; {kind} takes day, week or month")


def _check_saved(kind: Kind, events: list[str], table: str | None) -> None:
    if kind not in ("saved_report", "funnel", "flows"):
        raise ConfigError("report_id is for saved_report, funnel and flows")
    if table is not None:
        raise ConfigError("a saved report is computed by Mixpanel: leave out table")
    if events:
        raise ConfigError("a saved report has its own events: pass either report_id or events")


def _check_events(kind: Kind, events: list[str]) -> None:
    least, most = LEAST_EVENTS.get(kind, 0), MOST_EVENTS[kind]
    if len(events) < least:
        what = "at least two events, its steps" if least > 1 else "an event"
        raise ConfigError(f"{kind} needs {what}: pass events=[...]")
    if len(events) > most:
        raise ConfigError(f"{kind} takes up to {most} events, not {len(events)}")


def _without_effect(kind: Kind, events: int, *, saved: bool) -> tuple[str, ...]:
    if kind == "saved_report":
        return ("on", "where", "unit", "type", "window", "interval_count")
    if kind == "segmentation":
        return ("window", "interval_count", *(("on", "where") if events > 1 else ()))
    if kind == "funnel":
        return ("type", "interval_count", *(("window",) if saved else ()))
    if kind == "flows":
        own = ("on", "unit", "type", "interval_count")
        return (*own, "from_date", "to_date", "where", "window") if saved else own
    return ("type", "window", *(() if kind == "retention" else ("interval_count",)))


# ---- computing --------------------------------------------------------------------------------


def local_report(
    database: Database,
    kind: Kind,
    *,
    table: str,
    limit: int = 200,
    cursor: str | None = None,
    scope: Mapping[str, Any],
    **arguments: Any,
) -> dict[str, Any]:
    """Compute a report over a local table, and return a page of its rows."""
    offset = decoded_cursor(cursor, scope)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", IncompleteTableWarning)
        result = _compute_locally(LocalAnalysis(database), kind, table, arguments)
    texts = [str(each.message) for each in caught]
    warned = {"warning": "; ".join(texts)} if texts else {}
    source = {"source": f"local table {table}"} | warned
    return source | _result_page(result, scope, offset, limit)


def _compute_locally(
    local: LocalAnalysis, kind: Kind, table: str, given: dict[str, Any]
) -> QueryResult:
    events, days = given.pop("events"), {name: given.pop(name) for name in ("from_date", "to_date")}
    window, interval_count = given.pop("window"), given.pop("interval_count")
    given = {name: value for name, value in given.items() if value is not None} | {"table": table}
    if kind == "segmentation" and len(events) > 1:
        given = {name: value for name, value in given.items() if name not in ("on", "where")}
        return local.event_counts(events, **days, **given)
    if kind == "segmentation":
        return local.segmentation(events[0], **days, **given)
    given.pop("type", None)
    if kind == "funnel":
        return local.funnel(events, **days, window=window or 14, **given)
    if kind == "retention":
        count = {} if interval_count is None else {"interval_count": interval_count}
        return local.retention(events[0], events[-1], **days, **count, **given)
    if kind == "frequency":
        unit = given.pop("unit", "day")
        smaller: Literal["hour", "day"] = "hour" if unit == "day" else "day"
        event = events[0] if events else None
        return local.frequency(event=event, **days, unit=unit, addiction_unit=smaller, **given)
    given.pop("unit", None)
    given.pop("on", None)
    return local.flows(events[0], **days, window=window or 7, **given)


def _result_page(
    result: QueryResult, scope: Mapping[str, Any], offset: int, limit: int
) -> dict[str, Any]:
    """Return the scalar facts of a report, and a page of the rows of its table."""
    rows = result.to_table_dict()
    columns = list(dict.fromkeys(name for row in rows for name in row))
    cells = [[row.get(name) for name in columns] for row in rows]
    page = page_of(cells[offset:], scope, offset=offset, limit=limit, total=len(cells))
    facts = {
        name: value
        for name, value in result.to_dict().items()
        if not isinstance(value, list | dict) and value is not None and name != "sql"
    }
    return {
        "report": facts,
        "columns": columns,
        "rows": page.rows,
        "row_count": len(cells),
        **page.to_dict(),
    }


async def live_report(
    workspace: AsyncWorkspace,
    kind: Kind,
    given: Mapping[str, Any],
) -> QueryResult:
    """Return a report computed by Mixpanel, for one of the hourly queries."""
    events, report_id = given["events"], given["report_id"]
    days = {name: given[name] for name in ("from_date", "to_date")}
    common = {name: given[name] for name in ("on", "where")}
    unit, window = given["unit"], given["window"]
    if kind == "saved_report":
        return await workspace.saved_report(report_id, **days)
    if kind == "segmentation" and len(events) > 1:
        return await workspace.event_counts(
            events, **days, unit=unit or "day", type=given["type"] or "general"
        )
    if kind == "segmentation":
        return await workspace.segmentation(
            events[0], **days, **common, unit=unit or "day", type=given["type"] or "general"
        )
    if kind == "funnel" and report_id is not None:
        return await workspace.funnel(report_id, **days, **common, unit=unit)
    if kind == "funnel":
        trend = {"trend": True, "unit": unit} if unit else {}
        return await workspace.query_funnel(
            events, **days, where=given["where"], by=given["on"], window=window or 14, **trend
        )
    if kind == "retention":
        return await workspace.retention(
            events[0], events[-1], **days,
            unit=unit or "day", interval_count=given["interval_count"] or 10,
            born_where=given["where"], on=given["on"],
        )  # fmt: skip
    if kind == "frequency":
        return await workspace.frequency(
            event=events[0] if events else None, **days, **common,
            unit=unit or "day", addiction_unit="hour" if unit in (None, "day") else "day",
        )  # fmt: skip
    if report_id is not None:
        return await workspace.query_flows(report_id)
    return await workspace.query_flow(events[0], **days, where=given["where"], window=window or 7)


def live_result(
    result: QueryResult, scope: Mapping[str, Any], limit: int, cursor: str | None
) -> dict[str, Any]:
    """Return the facts of a report, and a page of its rows."""
    offset = decoded_cursor(cursor, scope)
    return {"source": "Mixpanel", **_result_page(result, scope, offset, limit)}
