"""`mp inspect distribution`, `numeric` and the like: a fetched table of events, without a call."""

import warnings
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mixpanel.cli._options.database import AccountOption, DatabaseOption, open_database
from mixpanel.cli._options.live import EventOption, FromOption, ToOption
from mixpanel.cli._options.shared import argument_or_option, parse_names, with_options
from mixpanel.cli._output.format import Format, FormatOption, JqOption, OutputOptions, write
from mixpanel.cli._output.terminal import say

if TYPE_CHECKING:
    from collections.abc import Callable

    from mixpanel.cli.app import Command
    from mixpanel.data._workspace.local_analysis import LocalAnalysis

DAYS = "--from 2026-01-01 --to 2026-01-31"
DISTRIBUTION = f'mp inspect distribution "Order Paid" plan {DAYS}'
NUMERIC = f'mp inspect numeric "Order Paid" amount {DAYS} --percentiles 50,95'
DAILY = f'mp inspect daily {DAYS} --events "Order Paid"'
ENGAGEMENT = f"mp inspect engagement {DAYS} --buckets 1,5,20"
COVERAGE = f'mp inspect coverage "Order Paid" --properties plan,amount {DAYS}'

Event = Annotated[
    str | None, typer.Argument(metavar="EVENT", show_default=False, help="The event.")
]
Property = Annotated[
    str | None, typer.Argument(metavar="PROPERTY", show_default=False, help="The property.")
]
PropertyOption = Annotated[
    str | None, typer.Option("--property", "-p", metavar="PROPERTY", help="The same as PROPERTY.")
]
TableOption = Annotated[
    str, typer.Option("--table", "-t", metavar="TABLE", help="The table of events.")
]
TimezoneOption = Annotated[
    str | None,
    typer.Option(
        "--timezone", metavar="ZONE", show_default="that of the fetch, else UTC",
        help="The timezone that days are in.",
    ),
]  # fmt: skip
EventsOption = Annotated[
    list[str] | None,
    typer.Option(
        "--events", "-e", metavar="EVENT", callback=parse_names,
        help="Only these events; separated by commas, or repeatable.",
    ),
]  # fmt: skip


def _numbers(context: typer.Context, values: list[str] | None) -> list[str] | None:
    """Split numbers at commas.

    :raises typer.BadParameter: for what is no whole number.
    """
    found = parse_names(context, values)
    if found and not context.resilient_parsing and not all(map(str.isdecimal, found)):
        raise typer.BadParameter("whole numbers are needed, separated by commas")
    return found


class _Local:
    """How a command reads the local database, and how it prints."""

    def __init__(self, db: Any, table: str, timezone: str | None, output: OutputOptions) -> None:
        self._db, self._output = db, output
        self.table: dict[str, Any] = {"table": table, "timezone": timezone}

    def run(self, report: "Callable[[LocalAnalysis], Any]") -> None:
        """Compute a report and print it."""
        from mixpanel.data._workspace.local_analysis import LocalAnalysis
        from mixpanel.data.exceptions import IncompleteTableWarning

        with open_database(self._db) as database, warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", IncompleteTableWarning)
            found = report(LocalAnalysis(database))
        csv = self._output.format is Format.CSV
        write(found.to_table_dict() if csv else found, self._output)
        for warning in caught:
            say(str(warning.message), "yellow")


def local_options(
    *,
    table: TableOption = "events",
    timezone: TimezoneOption = None,
    _account: AccountOption = None,
    db: DatabaseOption = None,
    format: FormatOption = None,
    jq: JqOption = None,
) -> _Local:
    """Return the options that every command of this kind has, see `with_options`."""
    return _Local(db, table, timezone, OutputOptions(format, jq))


@with_options(local=local_options)
def distribution(
    event: Event = None,
    property: Property = None,
    *,
    event_option: EventOption = None,
    property_option: PropertyOption = None,
    from_date: FromOption,
    to_date: ToOption,
    limit: Annotated[
        int, typer.Option("--limit", "-l", metavar="N", min=1, help="At most N values.")
    ] = 20,
    local: _Local,
) -> None:
    """Count the values of a property in a fetched table, the most frequent first."""
    name = argument_or_option("EVENT", event, event_option)
    of = argument_or_option("PROPERTY", property, property_option)
    days: dict[str, Any] = {"from_date": from_date, "to_date": to_date}
    local.run(lambda it: it.property_distribution(name, of, limit=limit, **days, **local.table))


@with_options(local=local_options)
def numeric(
    event: Event = None,
    property: Property = None,
    *,
    event_option: EventOption = None,
    property_option: PropertyOption = None,
    from_date: FromOption,
    to_date: ToOption,
    percentiles: Annotated[
        list[str] | None,
        typer.Option(
            metavar="N", callback=_numbers, show_default="25,50,75,90,95,99",
            help="The percentiles; separated by commas, or repeatable.",
        ),
    ] = None,
    local: _Local,
) -> None:  # fmt: skip
    """Sum up the numbers of a property in a fetched table: count, average, percentiles."""
    name = argument_or_option("EVENT", event, event_option)
    of = argument_or_option("PROPERTY", property, property_option)
    days: dict[str, Any] = {"from_date": from_date, "to_date": to_date}
    wanted = [int(each) for each in percentiles] if percentiles else None
    local.run(lambda it: it.numeric_summary(name, of, percentiles=wanted, **days, **local.table))


@with_options(local=local_options)
def daily(
    *, from_date: FromOption, to_date: ToOption, events: EventsOption = None, local: _Local
) -> None:
    """Count the events of a fetched table by day."""
    days: dict[str, Any] = {"from_date": from_date, "to_date": to_date}
    local.run(lambda it: it.daily_counts(events=events or None, **days, **local.table))


@with_options(local=local_options)
def engagement(
    *,
    from_date: FromOption,
    to_date: ToOption,
    events: EventsOption = None,
    buckets: Annotated[
        list[str] | None,
        typer.Option(
            metavar="N", callback=_numbers, show_default="1,2,5,10,25,50,100",
            help="Where groups begin, in events; separated by commas, or repeatable.",
        ),
    ] = None,
    local: _Local,
) -> None:  # fmt: skip
    """Count the users of a fetched table by how many events they have."""
    days: dict[str, Any] = {"from_date": from_date, "to_date": to_date}
    bounds = [int(each) for each in buckets] if buckets else None
    local.run(
        lambda it: it.engagement_distribution(
            events=events or None, buckets=bounds, **days, **local.table
        )
    )


@with_options(local=local_options)
def coverage(
    event: Event = None,
    *,
    event_option: EventOption = None,
    properties: Annotated[
        list[str],
        typer.Option(
            "--properties", "-p", metavar="PROPERTY", callback=parse_names,
            help="The properties; separated by commas, or repeatable.",
        ),
    ],
    from_date: FromOption,
    to_date: ToOption,
    local: _Local,
) -> None:  # fmt: skip
    """Show how many events of a fetched table have each property."""
    name = argument_or_option("EVENT", event, event_option)
    days: dict[str, Any] = {"from_date": from_date, "to_date": to_date}
    local.run(lambda it: it.property_coverage(name, properties, **days, **local.table))


COMMANDS: "tuple[Command, ...]" = (
    ("distribution", distribution, DISTRIBUTION),
    ("numeric", numeric, NUMERIC),
    ("daily", daily, DAILY),
    ("engagement", engagement, ENGAGEMENT),
    ("coverage", coverage, COVERAGE),
)
