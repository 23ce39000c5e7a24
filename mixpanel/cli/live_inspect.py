"""`mp inspect events`, `properties`, `funnels` and the like: list what a project contains."""

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mixpanel.cli._options.live import (
    EventOption,
    LiveCommand,
    live_options,
    required,
)
from mixpanel.cli._options.shared import with_options

if TYPE_CHECKING:
    from mixpanel.cli.app import Command


EVENTS = "mp inspect events --format plain"
PROPERTIES = 'mp inspect properties "Order Paid"'
VALUES = 'mp inspect values plan --event "Order Paid" --limit 20'
FUNNELS = "mp inspect funnels --format table"
COHORTS = "mp inspect cohorts --format table"
BOOKMARKS = "mp inspect bookmarks --type insights --format table"
TOP = "mp inspect top-events --limit 5 --format table"
SCHEMAS = "mp inspect lexicon-schemas --type event"
SCHEMA = 'mp inspect lexicon-schema event "Order Paid"'


class CountType(StrEnum):
    """What is counted."""

    GENERAL = "general"
    UNIQUE = "unique"
    AVERAGE = "average"


class BookmarkType(StrEnum):
    """Kinds of saved reports."""

    INSIGHTS = "insights"
    FUNNELS = "funnels"
    RETENTION = "retention"
    FLOWS = "flows"
    LAUNCH_ANALYSIS = "launch-analysis"


class EntityType(StrEnum):
    """What the lexicon describes."""

    EVENT = "event"
    PROFILE = "profile"


@with_options(live=live_options)
def events(
    *,
    limit: Annotated[
        int, typer.Option("--limit", "-l", metavar="N", min=1, max=5000, help="At most N.")
    ] = 5000,
    live: LiveCommand,
) -> None:
    """List the project's events. Costs one of the hourly queries."""
    live.run(lambda ws: ws.list_events(limit=limit))


@with_options(live=live_options)
def properties(
    event: Annotated[
        str | None, typer.Argument(metavar="EVENT", show_default=False, help="The event.")
    ] = None,
    *,
    option: EventOption = None,
    live: LiveCommand,
) -> None:
    """List the properties of an event. Costs one of the hourly queries."""
    name = required("EVENT", event, option)
    live.run(lambda ws: ws.list_properties(name))


@with_options(live=live_options)
def values(
    property: Annotated[
        str | None, typer.Argument(metavar="PROPERTY", show_default=False, help="The property.")
    ] = None,
    *,
    option: Annotated[
        str | None,
        typer.Option("--property", "-p", metavar="PROPERTY", help="The same as PROPERTY."),
    ] = None,
    event: Annotated[
        str | None,
        typer.Option("--event", "-e", metavar="EVENT", help="Only values in this event."),
    ] = None,
    limit: Annotated[
        int, typer.Option("--limit", "-l", metavar="N", min=1, max=10_000, help="At most N.")
    ] = 100,
    live: LiveCommand,
) -> None:
    """List values of a property, the most frequent first. Costs one of the hourly queries."""
    name = required("PROPERTY", property, option)
    live.run(lambda ws: ws.list_property_values(name, event, limit))


@with_options(live=live_options)
def funnels(*, live: LiveCommand) -> None:
    """List the saved funnels. Costs one of the hourly queries."""
    live.run(lambda ws: ws.list_funnels())


@with_options(live=live_options)
def cohorts(*, live: LiveCommand) -> None:
    """List the saved cohorts. Costs one of the hourly queries."""
    live.run(lambda ws: ws.list_cohorts())


@with_options(live=live_options)
def bookmarks(
    *,
    type: Annotated[
        BookmarkType | None,
        typer.Option(
            "--type",
            "-t",
            metavar="TYPE",
            help="Only insights, funnels, retention, flows or launch-analysis.",
        ),
    ] = None,
    live: LiveCommand,
) -> None:
    """List the saved reports. Costs none of the hourly queries."""
    kind: Any = None if type is None else type.value
    live.run(lambda ws: ws.list_bookmarks(kind))


@with_options(live=live_options)
def top_events(
    *,
    type: Annotated[
        CountType,
        typer.Option("--type", "-t", metavar="TYPE", help="general, unique or average (per user)."),
    ] = CountType.GENERAL,
    limit: Annotated[
        int, typer.Option("--limit", "-l", metavar="N", min=1, max=5000, help="At most N.")
    ] = 10,
    live: LiveCommand,
) -> None:
    """List today's most frequent events. Costs one of the hourly queries."""
    live.run(lambda ws: ws.top_events(type=type.value, limit=limit))


@with_options(live=live_options)
def lexicon_schemas(
    *,
    type: Annotated[
        EntityType | None,
        typer.Option("--type", "-t", metavar="TYPE", help="Only event, or only profile."),
    ] = None,
    live: LiveCommand,
) -> None:
    """List the lexicon's entries. Costs none of the hourly queries."""
    kind: Any = None if type is None else type.value
    live.run(lambda ws: ws.lexicon_schemas(entity_type=kind))


@with_options(live=live_options)
def lexicon_schema(
    type: Annotated[
        EntityType | None,
        typer.Argument(metavar="TYPE", show_default=False, help="event or profile."),
    ] = None,
    name: Annotated[
        str | None, typer.Argument(metavar="NAME", show_default=False, help="The entry's name.")
    ] = None,
    *,
    type_option: Annotated[
        EntityType | None, typer.Option("--type", "-t", metavar="TYPE", help="The same as TYPE.")
    ] = None,
    name_option: Annotated[
        str | None, typer.Option("--name", "-n", metavar="NAME", help="The same as NAME.")
    ] = None,
    live: LiveCommand,
) -> None:
    """Show one of the lexicon's entries. Costs none of the hourly queries."""
    kind, entry = required("TYPE", type, type_option), required("NAME", name, name_option)
    live.run(lambda ws: ws.lexicon_schema(kind.value, entry))


COMMANDS: "tuple[Command, ...]" = (
    ("events", events, EVENTS),
    ("properties", properties, PROPERTIES),
    ("values", values, VALUES),
    ("funnels", funnels, FUNNELS),
    ("cohorts", cohorts, COHORTS),
    ("bookmarks", bookmarks, BOOKMARKS),
    ("top-events", top_events, TOP),
    ("lexicon-schemas", lexicon_schemas, SCHEMAS),
    ("lexicon-schema", lexicon_schema, SCHEMA),
)
