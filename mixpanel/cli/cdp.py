"""`mp cdp`: Customer.io Data Pipelines, Hightouch Events, Segment and RudderStack."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mixpanel.cli._cdp import backfill, check, customerio
from mixpanel.cli._cdp.input import MessagesFile, RowsFileOption
from mixpanel.cli._cdp.options import (
    AnonymousIdOption,
    Json,
    RunOptions,
    UserIdOption,
    common_fields,
    json_option,
    run_options,
)
from mixpanel.cli._cdp.send_file import FileOptions, file_options, refuse_file_options, send_file
from mixpanel.cli._cdp.send_one import send
from mixpanel.cli._cdp.source import Source, source_options
from mixpanel.cli._options.shared import with_options

if TYPE_CHECKING:
    from mixpanel.cdp._segment.message import Kind
    from mixpanel.cli.app import Command

HELP = """
Choose the vendor with --to or MP_CDP_TO, and set the source's write key in the environment:
MP_CUSTOMERIO_WRITE_KEY, MP_HIGHTOUCH_WRITE_KEY, MP_SEGMENT_WRITE_KEY or
MP_RUDDERSTACK_WRITE_KEY. A single message is sent at once, and the server's response decides the
exit code. A file of any size is sent in order and in batches.
"""
EXAMPLE = 'mp cdp track "Order Paid" --user-id u-17 --properties \'{"amount": 12.5}\''
IDENTIFY = """
mp cdp identify --user-id u-17 --traits '{"email": "ada@example.com", "plan": "team"}'
mp cdp identify --file people.ndjson --failed failed.ndjson
"""
TRACK = """
mp cdp track "Order Paid" --user-id u-17 --properties '{"amount": 12.5}'
mp cdp track "Order Paid" --file orders.ndjson
"""
BATCH = """
mp cdp batch messages.ndjson --failed failed.ndjson
jq -c '.[]' dump.json | mp cdp batch - --to hightouch
"""
REPLAY = """
mp cdp replay failed.ndjson --failed still-failed.ndjson
jq -c 'select(.record.event == "Order Paid")' failed.ndjson | mp cdp replay -
"""

TraitsOption = Annotated[Json | None, json_option("Traits of the person.")]
PropertiesOption = Annotated[Json | None, json_option("Properties of the message.")]
SchemaVersionOption = Annotated[
    str | None,
    typer.Option(metavar="VERSION", help="The version of its contract, for Hightouch."),
]
CategoryOption = Annotated[str | None, typer.Option(metavar="TEXT", help="The category.")]


def _send(
    kind: "Kind",
    fields: Mapping[str, Any],
    source: Source,
    run: RunOptions,
    file: Path | None,
    files: FileOptions,
    schema_version: str | None = None,
) -> None:
    """Send one message of the fields, or one for each row of a file, which override them."""
    given = {name: value for name, value in fields.items() if value is not None}
    if schema_version is not None:
        _set_schema_version(kind, given, schema_version, source)
    if file is None:
        refuse_file_options(files)
        send(source, run, lambda composer: composer.from_dict({"type": kind, **given}))
        return
    if "messageId" in given:
        raise typer.BadParameter(
            "--message-id and --file cannot be used together: give each row its messageId"
        )

    def shape(row: Any) -> Mapping[str, Any]:
        from mixpanel._records.record import checked_mapping
        from mixpanel.exceptions import ValidationError

        values = checked_mapping(row, "a row")
        if values.get("type", kind) != kind:
            raise ValidationError(
                [f"the row's type is {values['type']!r}, not {kind!r}: use mp cdp batch"]
            )
        merged = {name: _merged(values.get(name), value) for name, value in given.items()}
        return {"type": kind, **values, **merged}

    send_file(source, run, files, file, shape)


def _set_schema_version(kind: "Kind", fields: dict[str, Any], version: str, source: Source) -> None:
    from mixpanel.cdp._segment.typed_events import set_path

    path = source.dialect.version_path(kind)
    if path is None:
        name = source.dialect.name
        raise typer.BadParameter(f"{name} has no contracts", param_hint="--schema-version")
    set_path(fields, path, version)


def _merged(own: Any, default: Any) -> Any:
    """Return the value of a row, or the default; objects are merged name by name."""
    if isinstance(own, Mapping) and isinstance(default, Mapping):
        return {**default, **own}
    return default if own is None else own


def _require(argument: str, value: str | None, file: Path | None) -> None:
    if value is None and file is None:
        verb = "are" if " and " in argument else "is"
        raise typer.BadParameter(f"{argument} {verb} missing: give it, or --file")


@with_options(fields=common_fields, files=file_options, run=run_options, source=source_options)
def identify(
    *,
    user_id: UserIdOption = None,
    anonymous_id: AnonymousIdOption = None,
    traits: TraitsOption = None,
    schema_version: SchemaVersionOption = None,
    file: RowsFileOption = None,
    fields: dict[str, Any],
    files: FileOptions,
    run: RunOptions,
    source: Source,
) -> None:
    """Identify a person and set traits.

    Rows of --file: {"userId": …, "traits": {…}}. Options are the defaults of fields that a row does
    not have.
    """
    fields = {"userId": user_id, "anonymousId": anonymous_id, "traits": traits, **fields}
    _send("identify", fields, source, run, file, files, schema_version)


@with_options(fields=common_fields, files=file_options, run=run_options, source=source_options)
def track(
    event: Annotated[
        str | None,
        typer.Argument(metavar="EVENT", show_default=False, help="The event name."),
    ] = None,
    *,
    user_id: UserIdOption = None,
    anonymous_id: AnonymousIdOption = None,
    properties: PropertiesOption = None,
    group_id: Annotated[
        str | None, typer.Option(metavar="ID", help="The group or object the event is about.")
    ] = None,
    schema_version: SchemaVersionOption = None,
    file: RowsFileOption = None,
    fields: dict[str, Any],
    files: FileOptions,
    run: RunOptions,
    source: Source,
) -> None:
    """Track an event of a person.

    Rows of --file: {"userId": …, "event": …, "properties": {…}}. EVENT and options are the defaults
    of fields that a row does not have.
    """
    _require("EVENT", event, file)
    fields = {
        "userId": user_id, "anonymousId": anonymous_id, "event": event, "properties": properties,
        "groupId": group_id, **fields,
    }  # fmt: skip
    _send("track", fields, source, run, file, files, schema_version)


@with_options(fields=common_fields, files=file_options, run=run_options, source=source_options)
def page(
    name: Annotated[
        str | None, typer.Argument(metavar="NAME", show_default=False, help="The page's name.")
    ] = None,
    *,
    user_id: UserIdOption = None,
    anonymous_id: AnonymousIdOption = None,
    category: CategoryOption = None,
    properties: PropertiesOption = None,
    schema_version: SchemaVersionOption = None,
    file: RowsFileOption = None,
    fields: dict[str, Any],
    files: FileOptions,
    run: RunOptions,
    source: Source,
) -> None:
    """Track a page view of a person.

    Rows of --file: {"userId": …, "name": …, "properties": {…}}. NAME and options are the defaults
    of fields that a row does not have.
    """
    fields = {
        "userId": user_id, "anonymousId": anonymous_id, "name": name, "category": category,
        "properties": properties, **fields,
    }  # fmt: skip
    _send("page", fields, source, run, file, files, schema_version)


@with_options(fields=common_fields, files=file_options, run=run_options, source=source_options)
def screen(
    name: Annotated[
        str | None, typer.Argument(metavar="NAME", show_default=False, help="The screen's name.")
    ] = None,
    *,
    user_id: UserIdOption = None,
    anonymous_id: AnonymousIdOption = None,
    category: CategoryOption = None,
    properties: PropertiesOption = None,
    schema_version: SchemaVersionOption = None,
    file: RowsFileOption = None,
    fields: dict[str, Any],
    files: FileOptions,
    run: RunOptions,
    source: Source,
) -> None:
    """Track a screen view of a person in an app.

    Rows of --file: {"userId": …, "name": …, "properties": {…}}. NAME and options are the defaults
    of fields that a row does not have.
    """
    fields = {
        "userId": user_id, "anonymousId": anonymous_id, "name": name, "category": category,
        "properties": properties, **fields,
    }  # fmt: skip
    _send("screen", fields, source, run, file, files, schema_version)


@with_options(fields=common_fields, files=file_options, run=run_options, source=source_options)
def group(
    group_id: Annotated[
        str | None, typer.Argument(metavar="GROUP_ID", show_default=False, help="The group's id.")
    ] = None,
    *,
    user_id: UserIdOption = None,
    anonymous_id: AnonymousIdOption = None,
    traits: Annotated[Json | None, json_option("Traits of the group.")] = None,
    schema_version: SchemaVersionOption = None,
    file: RowsFileOption = None,
    fields: dict[str, Any],
    files: FileOptions,
    run: RunOptions,
    source: Source,
) -> None:
    """Put a person into a group and set the group's traits.

    Customer.io accepts a group without a person too. Rows of --file: {"userId": …, "groupId": …,
    "traits": {…}}. GROUP_ID and options are the defaults of fields that a row does not have.
    """
    _require("GROUP_ID", group_id, file)
    fields = {
        "userId": user_id, "anonymousId": anonymous_id, "groupId": group_id, "traits": traits,
        **fields,
    }  # fmt: skip
    _send("group", fields, source, run, file, files, schema_version)


@with_options(fields=common_fields, files=file_options, run=run_options, source=source_options)
def alias(
    previous_id: Annotated[
        str | None,
        typer.Argument(
            metavar="PREVIOUS_ID", show_default=False, help="The user or anonymous id to merge."
        ),
    ] = None,
    user_id: Annotated[
        str | None,
        typer.Argument(metavar="USER_ID", show_default=False, help="The user id that stays."),
    ] = None,
    *,
    file: RowsFileOption = None,
    fields: dict[str, Any],
    files: FileOptions,
    run: RunOptions,
    source: Source,
) -> None:
    """Merge a person into another one; this cannot be undone.

    Rows of --file: {"previousId": …, "userId": …}.
    """
    _require("PREVIOUS_ID and USER_ID", user_id, file)
    fields = {"previousId": previous_id, "userId": user_id, **fields}
    _send("alias", fields, source, run, file, files)


@with_options(files=file_options, run=run_options, source=source_options)
def batch(file: MessagesFile, *, files: FileOptions, run: RunOptions, source: Source) -> None:
    """Send a file of messages of any type, in order.

    A row is a message with its type: {"type": "track", "userId": …, "event": …}. Missing ids, times
    and contexts are added. A message with a timestamp but without a messageId gets an id derived
    from its content, so that sending the file again makes no duplicates. Rejected messages do not
    stop the others; the command then ends with 6.
    """
    send_file(source, run, files, file)


@with_options(files=file_options, run=run_options, source=source_options)
def replay(file: MessagesFile, *, files: FileOptions, run: RunOptions, source: Source) -> None:
    """Send rejected messages again, from a file that --failed wrote.

    Messages keep their ids, so that one that arrived the first time is not counted twice. Rows may
    also be messages themselves, as `batch` takes them. Failed rows of a table are read by
    `backfill`, with the options of the run that wrote them.
    """
    send_file(source, run, files, file)


COMMANDS: "tuple[Command, ...]" = (
    ("identify", identify, IDENTIFY),
    ("track", track, TRACK),
    ("page", page, "mp cdp page Pricing --user-id u-17 --category Docs"),
    ("screen", screen, "mp cdp screen Home --anonymous-id a-4"),
    ("group", group, 'mp cdp group acme --user-id u-17 --traits \'{"plan": "team"}\''),
    ("alias", alias, "mp cdp alias anonymous-4 u-17"),
    ("batch", batch, BATCH),
    ("device", customerio.device, customerio.DEVICE),
    ("object", customerio.object_, customerio.OBJECT),
    ("suppress", customerio.suppress, customerio.SUPPRESS),
    ("delete", customerio.delete, customerio.DELETE),
    ("replay", replay, REPLAY),
    ("backfill", backfill.backfill, backfill.EXAMPLES),
    ("validate", check.validate, check.VALIDATE),
    ("ping", check.ping, check.PING),
)
