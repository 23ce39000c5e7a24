"""`mp query segmentation`, `funnel` and the like: queries that Mixpanel computes."""

import json
import sys
import warnings
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mixpanel.cli._options.live import (
    EventOption,
    FromOption,
    LiveCommand,
    ToOption,
    WhereOption,
    live_chart_options,
    live_options,
    required,
    split_names,
)
from mixpanel.cli._options.shared import with_options

if TYPE_CHECKING:
    from mixpanel.cli.app import Command


SEGMENTATION = """
mp query segmentation "Order Paid" --from 2026-01-01 --to 2026-01-31
mp query segmentation "Order Paid" --from 2026-01-01 --to 2026-01-31 --on plan --format chart
"""
NUMERIC = 'mp query segmentation-numeric "Order Paid" --on amount --from 2026-01-01 --to 2026-01-31'
SUM = 'mp query segmentation-sum "Order Paid" --on amount --from 2026-01-01 --to 2026-01-31'
AVERAGE = 'mp query segmentation-average "Order Paid" --on amount --from 2026-01-01 --to 2026-01-31'
COUNTS = 'mp query event-counts -e "Order Paid" -e "Opened App" --from 2026-01-01 --to 2026-01-31'
PROPERTIES = 'mp query property-counts "Order Paid" plan --from 2026-01-01 --to 2026-01-31'
FUNNEL = "mp query funnel 77 --from 2026-01-01 --to 2026-01-31 --on plan --format table"
RETENTION = 'mp query retention --born "Opened App" --return "Order Paid" --from 2026-01-01 --to 2026-01-31 --unit week'  # noqa: E501 - a command
FREQUENCY = 'mp query frequency --event "Opened App" --from 2026-01-01 --to 2026-01-31 --unit week --addiction-unit day'  # noqa: E501 - a command
FEED = "mp query activity-feed u-17 --from 2026-01-01 --format jsonl"
REPORT = "mp query saved-report 4711 --format table"
FLOWS = """
mp query flows 4712
mp query flows "Opened App" --from 2026-01-01 --to 2026-01-31 --direction both --format chart
"""
JQL = "mp query jql top.js --param event='Order Paid'"
INSIGHTS = """
mp query insights "Order Paid" --last 30 --math unique --by plan
mp query insights "Order Paid" "Opened App" --formula "(A / B) * 100" --last 12 --unit week
"""


class CountType(StrEnum):
    """What is counted."""

    GENERAL = "general"
    UNIQUE = "unique"
    AVERAGE = "average"


class SegmentationUnit(StrEnum):
    """The length of a period."""

    MINUTE = "minute"
    HOUR = "hour"
    DAY = "day"
    WEEK = "week"
    MONTH = "month"


class Unit(StrEnum):
    """The length of a period of days."""

    DAY = "day"
    WEEK = "week"
    MONTH = "month"


class ShortUnit(StrEnum):
    """The length of a period of up to a day."""

    HOUR = "hour"
    DAY = "day"


class Direction(StrEnum):
    """Which side of the event a flow shows."""

    BEFORE = "before"
    AFTER = "after"
    BOTH = "both"


Event = Annotated[
    str | None, typer.Argument(metavar="EVENT", show_default=False, help="The name of the event.")
]
On = Annotated[
    str | None,
    typer.Option(
        "--on", "-o", metavar="PROPERTY", help="Break down by this property, or expression."
    ),
]
Number = Annotated[
    str, typer.Option("--on", "-o", metavar="PROPERTY", help="A numeric property, or expression.")
]
Type = Annotated[
    CountType,
    typer.Option(
        "--type",
        "-t",
        metavar="TYPE",
        help="general counts events, unique users, average events per user.",
    ),
]
Periods = Annotated[
    SegmentationUnit,
    typer.Option("--unit", "-u", metavar="UNIT", help="minute, hour, day, week or month."),
]
Days = Annotated[Unit, typer.Option("--unit", "-u", metavar="UNIT", help="day, week or month.")]
Hours = Annotated[ShortUnit, typer.Option("--unit", "-u", metavar="UNIT", help="hour or day.")]
Limit = Annotated[
    int, typer.Option("--limit", "-l", metavar="N", min=1, max=10_000, help="At most N segments.")
]
Id = Annotated[int, typer.Argument(metavar="ID", show_default=False, help="Its id.")]


@with_options(live=live_chart_options)
def segmentation(
    event: Event = None,
    *,
    from_date: FromOption,
    to_date: ToOption,
    option: EventOption = None,
    on: On = None,
    unit: Periods = SegmentationUnit.DAY,
    type: Type = CountType.GENERAL,
    where: WhereOption = None,
    limit: Limit = 1000,
    live: LiveCommand,
) -> None:
    """Count an event by date, and by the values of a property."""
    name = required("EVENT", event, option)
    live.run(
        lambda ws: ws.segmentation(
            name, from_date=from_date, to_date=to_date,
            on=on, unit=unit.value, type=type.value, where=where, limit=limit,
        )
    )  # fmt: skip


@with_options(live=live_chart_options)
def segmentation_numeric(
    event: Event = None,
    *,
    from_date: FromOption,
    to_date: ToOption,
    on: Number,
    option: EventOption = None,
    unit: Hours = ShortUnit.DAY,
    type: Type = CountType.GENERAL,
    where: WhereOption = None,
    live: LiveCommand,
) -> None:
    """Count an event by ranges of a numeric property, and by date."""
    name = required("EVENT", event, option)
    live.run(
        lambda ws: ws.segmentation_numeric(
            name, from_date=from_date, to_date=to_date,
            on=on, unit=unit.value, type=type.value, where=where,
        )
    )  # fmt: skip


@with_options(live=live_chart_options)
def segmentation_sum(
    event: Event = None,
    *,
    from_date: FromOption,
    to_date: ToOption,
    on: Number,
    option: EventOption = None,
    unit: Hours = ShortUnit.DAY,
    where: WhereOption = None,
    live: LiveCommand,
) -> None:
    """Sum a numeric property of an event, by date."""
    name = required("EVENT", event, option)
    live.run(
        lambda ws: ws.segmentation_sum(
            name, from_date=from_date, to_date=to_date, on=on, unit=unit.value, where=where
        )
    )


@with_options(live=live_chart_options)
def segmentation_average(
    event: Event = None,
    *,
    from_date: FromOption,
    to_date: ToOption,
    on: Number,
    option: EventOption = None,
    unit: Hours = ShortUnit.DAY,
    where: WhereOption = None,
    live: LiveCommand,
) -> None:
    """Average a numeric property of an event, by date."""
    name = required("EVENT", event, option)
    live.run(
        lambda ws: ws.segmentation_average(
            name, from_date=from_date, to_date=to_date, on=on, unit=unit.value, where=where
        )
    )


@with_options(live=live_chart_options)
def event_counts(
    events: Annotated[
        list[str] | None, typer.Argument(metavar="EVENT", show_default=False, help="The events.")
    ] = None,
    *,
    from_date: FromOption,
    to_date: ToOption,
    option: Annotated[
        list[str] | None,
        typer.Option(
            "--events", "-e", metavar="EVENT", callback=split_names,
            help="The same as EVENT; repeat it, or separate names with commas.",
        ),
    ] = None,
    type: Type = CountType.GENERAL,
    unit: Periods = SegmentationUnit.DAY,
    live: LiveCommand,
) -> None:  # fmt: skip
    """Count several events by date, in one query."""
    names = required("EVENT", events or None, option or None)
    live.run(
        lambda ws: ws.event_counts(
            names, from_date=from_date, to_date=to_date, type=type.value, unit=unit.value
        )
    )


@with_options(live=live_chart_options)
def property_counts(
    event: Event = None,
    property: Annotated[
        str | None,
        typer.Argument(metavar="PROPERTY", show_default=False, help="The name of the property."),
    ] = None,
    *,
    from_date: FromOption,
    to_date: ToOption,
    option: EventOption = None,
    property_option: Annotated[
        str | None,
        typer.Option("--property", "-p", metavar="PROPERTY", help="The same as PROPERTY."),
    ] = None,
    type: Type = CountType.GENERAL,
    unit: Periods = SegmentationUnit.DAY,
    limit: Limit = 10,
    live: LiveCommand,
) -> None:
    """Count an event by the values of a property."""
    if option is not None and property is None and property_option is None:
        event, property = None, event  # noqa: A001 - `--event E PROPERTY`
    name, of = required("EVENT", event, option), required("PROPERTY", property, property_option)
    live.run(
        lambda ws: ws.property_counts(
            name, of, from_date=from_date, to_date=to_date,
            type=type.value, unit=unit.value, limit=limit,
        )
    )  # fmt: skip


@with_options(live=live_chart_options)
def funnel(
    funnel_id: Id,
    *,
    from_date: FromOption,
    to_date: ToOption,
    unit: Annotated[
        Unit | None,
        typer.Option(
            "--unit",
            "-u",
            metavar="UNIT",
            show_default="one period",
            help="Compute the steps of each day, week or month.",
        ),
    ] = None,
    on: On = None,
    where: WhereOption = None,
    limit: Limit = 1000,
    live: LiveCommand,
) -> None:
    """Compute a saved funnel. `mp inspect funnels` lists them."""
    live.run(
        lambda ws: ws.funnel(
            funnel_id, from_date=from_date, to_date=to_date,
            unit=None if unit is None else unit.value, on=on, where=where, limit=limit,
        )
    )  # fmt: skip


@with_options(live=live_chart_options)
def retention(
    born: Annotated[
        str | None,
        typer.Argument(metavar="BORN", show_default=False, help="The first event."),
    ] = None,
    return_: Annotated[
        str | None,
        typer.Argument(
            metavar="RETURN", show_default=False, help="The event that counts as a return."
        ),
    ] = None,
    *,
    from_date: FromOption,
    to_date: ToOption,
    born_option: Annotated[
        str | None, typer.Option("--born", "-b", metavar="EVENT", help="The same as BORN.")
    ] = None,
    return_option: Annotated[
        str | None, typer.Option("--return", "-r", metavar="EVENT", help="The same as RETURN.")
    ] = None,
    born_where: Annotated[
        str | None, typer.Option(metavar="EXPR", help="A condition for BORN events.")
    ] = None,
    return_where: Annotated[
        str | None, typer.Option(metavar="EXPR", help="A condition for RETURN events.")
    ] = None,
    interval: Annotated[
        int,
        typer.Option(
            "--interval",
            "-i",
            metavar="N",
            min=1,
            max=90,
            help="Length of an interval, in units of --unit.",
        ),
    ] = 1,
    intervals: Annotated[
        int,
        typer.Option("--intervals", "-n", metavar="N", min=1, max=730, help="Number of intervals."),
    ] = 10,
    unit: Days = Unit.DAY,
    on: On = None,
    live: LiveCommand,
) -> None:
    """Count users who came back after a first event.

    Without RETURN any event counts.
    """
    first = required("BORN", born, born_option)
    if return_ is not None and return_option is not None:
        raise typer.BadParameter("RETURN is given twice, as an argument and as an option")
    live.run(
        lambda ws: ws.retention(
            first, return_ or return_option, from_date=from_date, to_date=to_date,
            born_where=born_where, return_where=return_where, interval=interval,
            interval_count=intervals, unit=unit.value, on=on,
        )
    )  # fmt: skip


@with_options(live=live_chart_options)
def frequency(
    *,
    from_date: FromOption,
    to_date: ToOption,
    event: Annotated[
        str | None,
        typer.Option("--event", "-e", metavar="EVENT", show_default="any", help="The event."),
    ] = None,
    unit: Days = Unit.DAY,
    addiction_unit: Annotated[
        ShortUnit, typer.Option("--addiction-unit", metavar="UNIT", help="hour or day.")
    ] = ShortUnit.HOUR,
    where: WhereOption = None,
    on: On = None,
    live: LiveCommand,
) -> None:
    """Count on how many days of each period users were active, or in how many hours.

    Mixpanel calls this the addiction report.
    """
    live.run(
        lambda ws: ws.frequency(
            from_date=from_date, to_date=to_date,
            event=event, unit=unit.value, addiction_unit=addiction_unit.value, where=where, on=on,
        )
    )  # fmt: skip


@with_options(live=live_options)
def activity_feed(
    users: Annotated[
        list[str] | None,
        typer.Argument(metavar="USER", show_default=False, help="Distinct ids of users."),
    ] = None,
    *,
    option: Annotated[
        list[str] | None,
        typer.Option(
            "--users", "-U", metavar="USER", callback=split_names,
            help="The same as USER; repeat it, or separate ids with commas.",
        ),
    ] = None,
    from_date: Annotated[
        str | None,
        typer.Option(
            "--from", metavar="DAY", show_default="30 days ago",
            help="The first day, as 2026-01-31 or -7d.",
        ),
    ] = None,
    to_date: Annotated[
        str | None,
        typer.Option("--to", metavar="DAY", show_default="today", help="The last day, included."),
    ] = None,
    events: Annotated[
        list[str] | None,
        typer.Option(
            "--events", "-e", metavar="EVENT", callback=split_names, show_default="all",
            help="Only these events; repeat it, or separate names with commas.",
        ),
    ] = None,
    limit: Annotated[
        int, typer.Option("--limit", "-l", metavar="N", min=1, help="The latest N events.")
    ] = 1000,
    live: LiveCommand,
) -> None:  # fmt: skip
    """Show the events of some users, in order of time."""
    ids = required("USER", users or None, option or None)
    live.run(
        lambda ws: ws.activity_feed(
            ids, from_date=from_date, to_date=to_date, events=events or None, limit=limit
        )
    )


@with_options(live=live_chart_options)
def saved_report(bookmark_id: Id, *, live: LiveCommand) -> None:
    """Compute a saved report. `mp inspect bookmarks` lists them."""
    live.run(lambda ws: ws.saved_report(bookmark_id))


@with_options(live=live_chart_options)
def flows(
    of: Annotated[
        str,
        typer.Argument(
            metavar="EVENT_OR_ID", show_default=False, help="An event, or the id of a saved report."
        ),
    ],
    *,
    from_date: Annotated[
        str | None,
        typer.Option(
            "--from", metavar="DAY", help="With an event: the first day, as 2026-01-31 or -7d."
        ),
    ] = None,
    to_date: Annotated[
        str | None,
        typer.Option("--to", metavar="DAY", help="With an event: the last day, included."),
    ] = None,
    direction: Annotated[
        Direction | None,
        typer.Option(
            "--direction",
            metavar="DIRECTION",
            show_default="after",
            help="before, after or both.",
        ),
    ] = None,
    steps: Annotated[
        int | None,
        typer.Option(
            "--steps", metavar="N", min=1, max=5, show_default="3", help="Number of steps."
        ),
    ] = None,
    where: WhereOption = None,
    live: LiveCommand,
) -> None:
    """Compute what users do before or after an event.

    With an id, compute that saved flows report.
    """
    if of.isascii() and of.isdigit():
        given: dict[str, Any] = {"--from": from_date, "--to": to_date, "--direction": direction}
        given |= {"--steps": steps, "--where": where}
        extra = [name for name, value in given.items() if value is not None]
        if extra:
            raise typer.BadParameter(
                f"a saved report has its own settings: leave out {', '.join(extra)}"
            )
        live.run(lambda ws: ws.query_flows(int(of)))
        return
    distance = steps or 3
    chosen = direction or Direction.AFTER
    live.run(
        lambda ws: ws.query_flow(
            of, from_date=from_date, to_date=to_date, where=where,
            forward=0 if chosen is Direction.BEFORE else distance,
            reverse=0 if chosen is Direction.AFTER else distance,
        )
    )  # fmt: skip


@with_options(live=live_options)
def jql(
    file: Annotated[
        str | None,
        typer.Argument(metavar="FILE", show_default=False, help="The script; - is stdin."),
    ] = None,
    *,
    script: Annotated[
        str | None, typer.Option("--script", "-c", metavar="JS", help="The script as text.")
    ] = None,
    param: Annotated[
        list[str] | None,
        typer.Option("--param", "-P", metavar="NAME=VALUE", help="A parameter; repeat it."),
    ] = None,
    params: Annotated[
        str | None, typer.Option("--params", metavar="JSON", help="All parameters, as JSON.")
    ] = None,
    live: LiveCommand,
) -> None:
    """Run a JQL script. Mixpanel keeps JQL in maintenance mode: prefer the other commands."""
    text = _script(file, script)
    values = _parameters(param, params)
    with warnings.catch_warnings():
        from mixpanel.data.exceptions import JQLDeprecationWarning

        warnings.simplefilter("ignore", JQLDeprecationWarning)
        live.run(lambda ws: ws.jql(text, values))


@with_options(live=live_chart_options)
def insights(
    events: Annotated[
        list[str], typer.Argument(metavar="EVENT", show_default=False, help="One or more events.")
    ],
    *,
    from_date: Annotated[
        str | None,
        typer.Option("--from", metavar="DAY", help="The first day, as 2026-01-31 or -7d."),
    ] = None,
    to_date: Annotated[
        str | None, typer.Option("--to", metavar="DAY", help="The last day, included.")
    ] = None,
    last: Annotated[
        int | None,
        typer.Option("--last", metavar="N", min=1, show_default="30", help="The last N days."),
    ] = None,
    unit: Annotated[
        str, typer.Option("--unit", "-u", metavar="UNIT", help="hour, day, week, month, quarter.")
    ] = "day",
    math: Annotated[
        str,
        typer.Option(
            "--math", "-m", metavar="MATH", help="For example total, unique, average, p90."
        ),
    ] = "total",
    property: Annotated[
        str | None,
        typer.Option(
            "--property", "-p", metavar="PROPERTY", help="The numeric property to aggregate."
        ),
    ] = None,
    by: Annotated[
        list[str] | None,
        typer.Option("--by", "-b", metavar="PROPERTY", help="Break down by it; repeat it."),
    ] = None,
    where: WhereOption = None,
    formula: Annotated[
        str | None,
        typer.Option(
            "--formula", metavar="FORMULA", help="A formula of the events A, B, …, as A / B."
        ),
    ] = None,
    total: Annotated[
        bool, typer.Option("--total", help="One figure for all dates, not one for each.")
    ] = False,
    limit: Annotated[
        int, typer.Option("--limit", "-l", metavar="N", min=1, max=50_000, help="At most N rows.")
    ] = 3000,
    live: LiveCommand,
) -> None:
    """Compute an insights report that is not saved."""
    from mixpanel.data.inline_queries import Metric

    def query(ws: Any) -> Any:
        metrics = [Metric(event, math, property=property) for event in events]  # type: ignore[arg-type]  # checked there
        return ws.query(
            metrics, from_date=from_date, to_date=to_date, last=last, last_unit=unit, unit=unit,
            by=by, where=where, formula=formula, chart="bar" if total else "line", limit=limit,
        )  # fmt: skip

    live.run(query)


COMMANDS: "tuple[Command, ...]" = (
    ("segmentation", segmentation, SEGMENTATION),
    ("segmentation-numeric", segmentation_numeric, NUMERIC),
    ("segmentation-sum", segmentation_sum, SUM),
    ("segmentation-average", segmentation_average, AVERAGE),
    ("event-counts", event_counts, COUNTS),
    ("property-counts", property_counts, PROPERTIES),
    ("funnel", funnel, FUNNEL),
    ("retention", retention, RETENTION),
    ("frequency", frequency, FREQUENCY),
    ("activity-feed", activity_feed, FEED),
    ("saved-report", saved_report, REPORT),
    ("flows", flows, FLOWS),
    ("insights", insights, INSIGHTS),
    ("jql", jql, JQL),
)


def _script(file: str | None, script: str | None) -> str:
    if (file is None) == (script is None):
        raise typer.BadParameter("pass the script either as FILE or with --script")
    if script is not None:
        return script
    if file == "-":
        return sys.stdin.read()
    from mixpanel.data._paths import expand_home
    from mixpanel.data.exceptions import MixpanelDataError

    try:
        return expand_home(Path(str(file))).read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise typer.BadParameter(f"{file} is not UTF-8 text") from None
    except OSError as error:
        kind = "FILE_NOT_FOUND" if isinstance(error, FileNotFoundError) else "FILE_UNREADABLE"
        raise MixpanelDataError(f"{file}: {error.strerror}", code=kind) from error


def _parameters(param: list[str] | None, params: str | None) -> dict[str, Any]:
    values: dict[str, Any] = {}
    if params is not None:
        try:
            values = json.loads(params)
        except ValueError as error:
            raise typer.BadParameter(f"--params is not JSON: {error}") from error
        if not isinstance(values, dict):
            raise typer.BadParameter("--params must be a JSON object")
    for each in param or ():
        name, sign, value = each.partition("=")
        if not sign or not name:
            raise typer.BadParameter(f"--param {each!r} must be NAME=VALUE")
        values[name] = value
    return values
