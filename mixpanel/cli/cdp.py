"""Send to Customer.io and Hightouch from the shell."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mixpanel.cli._cdp import backfill, check, customerio
from mixpanel.cli._cdp.input import MessagesFile, RowsFile, unwrapped
from mixpanel.cli._cdp.options import (
    AnonymousId,
    Json,
    Manner,
    UserId,
    json_option,
    of_around,
    of_manner,
    sharing,
)
from mixpanel.cli._cdp.send_file import Many, alone, of_many, send_many
from mixpanel.cli._cdp.send_one import send
from mixpanel.cli._cdp.source import Source, of_source

if TYPE_CHECKING:
    from mixpanel.cdp._segment.message import Kind

EXAMPLE = 'Example: mp cdp track "Order Paid" --user-id u-17 --properties \'{"amount": 12.5}\''
IDENTIFY = """Examples:

mp cdp identify --user-id u-17 --traits '{"email": "ada@example.com", "plan": "team"}'

mp cdp identify --file people.ndjson --failed failed.ndjson
"""
TRACK = """Examples:

mp cdp track "Order Paid" --user-id u-17 --properties '{"amount": 12.5}'

mp cdp track "Order Paid" --file orders.ndjson
"""
PAGE = "Example: mp cdp page Pricing --user-id u-17 --category Docs"
SCREEN = "Example: mp cdp screen Home --anonymous-id a-4"
GROUP = 'Example: mp cdp group acme --user-id u-17 --traits \'{"plan": "team"}\''
ALIAS = "Example: mp cdp alias anonymous-4 u-17"
BATCH = """Examples:

mp cdp batch messages.ndjson --failed failed.ndjson

jq -c '.[]' dump.json | mp cdp batch - --to hightouch
"""
REPLAY = """Examples:

mp cdp replay failed.ndjson --failed still-failed.ndjson

jq -c 'select(.record.event == "Order Paid")' failed.ndjson | mp cdp replay -
"""

Traits = Annotated[Json | None, json_option("What is known of them.")]
PropertiesJson = Annotated[Json | None, json_option("What else is known of it.")]
SchemaVersion = Annotated[
    str | None, typer.Option(metavar="TEXT", help="The version of its contract, for Hightouch.")
]
Category = Annotated[str | None, typer.Option(metavar="TEXT", help="Its category.")]


def cdp() -> None:
    """Send to Customer.io Data Pipelines and Hightouch Events: one message, or files of them.

    Say whose source it is with --to, or MP_CDP_TO, and give its key, best in the environment:
    MP_CUSTOMERIO_WRITE_KEY or MP_HIGHTOUCH_WRITE_KEY. One message is sent at once, and the server's
    answer is how the command ends. A file goes in batches and in order, any number of messages.
    """


def _send(
    kind: "Kind",
    fields: Mapping[str, Any],
    source: Source,
    manner: Manner,
    file: Path | None,
    many: Many,
    schema_version: str | None = None,
) -> None:
    """Send one message of the fields, or one for each row of a file, which may lack some."""
    given = {name: value for name, value in fields.items() if value is not None}
    if schema_version is not None:
        _place_version(kind, given, schema_version, source)
    if file is None:
        alone(many)
        send(source, manner, lambda composer: composer.from_dict({"type": kind, **given}))
        return
    if "messageId" in given:
        raise typer.BadParameter("one --message-id is not for many: give each row its messageId")

    def shape(row: Any) -> Mapping[str, Any]:
        from mixpanel._records.record import mapping
        from mixpanel.exceptions import ValidationError

        told = mapping(row, "a row")
        if told.get("type", kind) != kind:
            raise ValidationError([f"this is no {kind}, but {told['type']!r}: use mp cdp batch"])
        under = {name: _under(told.get(name), value) for name, value in given.items()}
        return {"type": kind, **told, **under}

    send_many(source, manner, many, file, shape)


def _place_version(kind: "Kind", fields: dict[str, Any], version: str, source: Source) -> None:
    from mixpanel.cdp._segment.typed_events import set_path

    path = source.dialect.version_path(kind)
    if path is None:
        name = source.dialect.name
        raise typer.BadParameter(f"{name} knows no contracts", param_hint="--schema-version")
    set_path(fields, path, version)


def _under(own: Any, value: Any) -> Any:
    """Return what a row has, or else what was given; of objects, name by name."""
    if isinstance(own, Mapping) and isinstance(value, Mapping):
        return {**value, **own}
    return value if own is None else own


def _wanted(what: str, value: str | None, file: Path | None) -> None:
    if value is None and file is None:
        raise typer.BadParameter(f"which {what}? or give --file")


@sharing(around=of_around, many=of_many, manner=of_manner, source=of_source)
def identify(
    *,
    user_id: UserId = None,
    anonymous_id: AnonymousId = None,
    traits: Traits = None,
    schema_version: SchemaVersion = None,
    file: RowsFile = None,
    around: dict[str, Any],
    many: Many,
    manner: Manner,
    source: Source,
) -> None:
    """Say who a person is, and what is known of them.

    With --file, for each row: {"userId": …, "traits": {…}}; options stand in for what a row lacks.
    """
    fields = {"userId": user_id, "anonymousId": anonymous_id, "traits": traits, **around}
    _send("identify", fields, source, manner, file, many, schema_version)


@sharing(around=of_around, many=of_many, manner=of_manner, source=of_source)
def track(
    event: Annotated[
        str | None,
        typer.Argument(metavar="EVENT", show_default=False, help="What they did."),
    ] = None,
    *,
    user_id: UserId = None,
    anonymous_id: AnonymousId = None,
    properties: PropertiesJson = None,
    group_id: Annotated[
        str | None, typer.Option(metavar="ID", help="The group or object that it is about.")
    ] = None,
    schema_version: SchemaVersion = None,
    file: RowsFile = None,
    around: dict[str, Any],
    many: Many,
    manner: Manner,
    source: Source,
) -> None:
    """Say that a person did something.

    With --file, for each row: {"userId": …, "event": …, "properties": {…}}; EVENT and options stand
    in for what a row lacks.
    """
    _wanted("EVENT", event, file)
    fields = {
        "userId": user_id, "anonymousId": anonymous_id, "event": event, "properties": properties,
        "groupId": group_id, **around,
    }  # fmt: skip
    _send("track", fields, source, manner, file, many, schema_version)


@sharing(around=of_around, many=of_many, manner=of_manner, source=of_source)
def page(
    name: Annotated[
        str | None, typer.Argument(metavar="NAME", show_default=False, help="The page's name.")
    ] = None,
    *,
    user_id: UserId = None,
    anonymous_id: AnonymousId = None,
    category: Category = None,
    properties: PropertiesJson = None,
    schema_version: SchemaVersion = None,
    file: RowsFile = None,
    around: dict[str, Any],
    many: Many,
    manner: Manner,
    source: Source,
) -> None:
    """Say that a person looked at a page.

    With --file, for each row: {"userId": …, "name": …, "properties": {…}}; NAME and options stand
    in for what a row lacks.
    """
    fields = {
        "userId": user_id, "anonymousId": anonymous_id, "name": name, "category": category,
        "properties": properties, **around,
    }  # fmt: skip
    _send("page", fields, source, manner, file, many, schema_version)


@sharing(around=of_around, many=of_many, manner=of_manner, source=of_source)
def screen(
    name: Annotated[
        str | None, typer.Argument(metavar="NAME", show_default=False, help="The screen's name.")
    ] = None,
    *,
    user_id: UserId = None,
    anonymous_id: AnonymousId = None,
    category: Category = None,
    properties: PropertiesJson = None,
    schema_version: SchemaVersion = None,
    file: RowsFile = None,
    around: dict[str, Any],
    many: Many,
    manner: Manner,
    source: Source,
) -> None:
    """Say that a person looked at a screen of an app.

    With --file, for each row: {"userId": …, "name": …, "properties": {…}}; NAME and options stand
    in for what a row lacks.
    """
    fields = {
        "userId": user_id, "anonymousId": anonymous_id, "name": name, "category": category,
        "properties": properties, **around,
    }  # fmt: skip
    _send("screen", fields, source, manner, file, many, schema_version)


@sharing(around=of_around, many=of_many, manner=of_manner, source=of_source)
def group(
    group_id: Annotated[
        str | None, typer.Argument(metavar="GROUP_ID", show_default=False, help="The group's id.")
    ] = None,
    *,
    user_id: UserId = None,
    anonymous_id: AnonymousId = None,
    traits: Annotated[Json | None, json_option("What is known of the group.")] = None,
    schema_version: SchemaVersion = None,
    file: RowsFile = None,
    around: dict[str, Any],
    many: Many,
    manner: Manner,
    source: Source,
) -> None:
    """Say that a person belongs to a group, and what is known of the group.

    Customer.io takes a group without a person too. With --file, for each row: {"userId": …,
    "groupId": …, "traits": {…}}; GROUP_ID and options stand in for what a row lacks.
    """
    _wanted("GROUP_ID", group_id, file)
    fields = {
        "userId": user_id, "anonymousId": anonymous_id, "groupId": group_id, "traits": traits,
        **around,
    }  # fmt: skip
    _send("group", fields, source, manner, file, many, schema_version)


@sharing(around=of_around, many=of_many, manner=of_manner, source=of_source)
def alias(
    previous_id: Annotated[
        str | None,
        typer.Argument(metavar="PREVIOUS_ID", show_default=False, help="Who is merged away."),
    ] = None,
    user_id: Annotated[
        str | None, typer.Argument(metavar="USER_ID", show_default=False, help="Who stays.")
    ] = None,
    *,
    file: RowsFile = None,
    around: dict[str, Any],
    many: Many,
    manner: Manner,
    source: Source,
) -> None:
    """Merge a person, by user or anonymous id, into another; there is no way back.

    With --file, for each row: {"previousId": …, "userId": …}.
    """
    _wanted("PREVIOUS_ID and USER_ID", user_id, file)
    fields = {"previousId": previous_id, "userId": user_id, **around}
    _send("alias", fields, source, manner, file, many)


@sharing(many=of_many, manner=of_manner, source=of_source)
def batch(file: MessagesFile, *, many: Many, manner: Manner, source: Source) -> None:
    """Send a file of messages of any kind, in order: {"type": "track", "userId": …}.

    Id, time and context are added where they are missing. A message that has its timestamp, but no
    messageId, gets an id made of its content: sending the file again makes no copies of it. Refused
    messages do not hold up the others; the command then ends with 6. Memory is bounded.
    """
    send_many(source, manner, many, file)


@sharing(many=of_many, manner=of_manner, source=of_source)
def replay(file: MessagesFile, *, many: Many, manner: Manner, source: Source) -> None:
    """Send again what was refused before, from a file that --failed wrote.

    Messages keep their ids, so that what arrived the first time is not counted twice. Lines may
    also be bare messages, as `batch` takes them.
    """
    send_many(source, manner, many, file, unwrapped)


COMMANDS: tuple[tuple[str, Callable[..., None], str], ...] = (
    ("identify", identify, IDENTIFY),
    ("track", track, TRACK),
    ("page", page, PAGE),
    ("screen", screen, SCREEN),
    ("group", group, GROUP),
    ("alias", alias, ALIAS),
    ("batch", batch, BATCH),
    ("device", customerio.device, customerio.DEVICE),
    ("object", customerio.object_, customerio.OBJECT),
    ("suppress", customerio.suppress, customerio.SUPPRESS),
    ("delete", customerio.delete, customerio.DELETE),
    ("replay", replay, REPLAY),
    ("backfill", backfill.backfill, backfill.EXAMPLE),
    ("validate", check.validate, check.VALIDATE),
    ("ping", check.ping, check.PING),
)
