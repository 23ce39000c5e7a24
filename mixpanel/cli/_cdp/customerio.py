"""`mp cdp` commands of Customer.io: devices, objects, suppressing and deleting people."""

from collections.abc import Callable, Mapping
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from mixpanel.cli._cdp.input import RowsFileOption
from mixpanel.cli._cdp.options import Json, RunOptions, common_fields, json_option, run_options
from mixpanel.cli._cdp.send_file import FileOptions, file_options, refuse_file_options, send_file
from mixpanel.cli._cdp.send_one import send
from mixpanel.cli._cdp.source import Source, source_options
from mixpanel.cli._options.shared import refuse_together, require_with, with_options
from mixpanel.cli._output.terminal import ForceOption, confirm_or_abort

if TYPE_CHECKING:
    from mixpanel.cdp import CustomerIOComposer, Message

DEVICE = """
mp cdp device TOKEN --user-id u-17 --platform ios
mp cdp device TOKEN --user-id u-17 --delete
mp cdp device --file devices.ndjson
"""
OBJECT = """
mp cdp object acme --type 2 --traits '{"plan": "team"}'
mp cdp object acme --type 2 --relate u-17 --relationship '{"role": "admin"}'
mp cdp object acme --type 2 --delete
mp cdp object --file companies.ndjson --type 2
"""
SUPPRESS = """
mp cdp suppress u-17
mp cdp suppress u-17 --undo
mp cdp suppress --file ids.txt --failed failed.ndjson
"""
DELETE = """
mp cdp delete u-17 --force
mp cdp delete --file - --force < ids.txt
"""


class Platform(StrEnum):
    """The platform of a device."""

    IOS = "ios"
    ANDROID = "android"


def _not_a_dash(value: str | None) -> str | None:
    """Refuse `-`, which is stdin in other places, as an id."""
    if value == "-":
        raise typer.BadParameter("- is not an id: to read ids from stdin, use --file -")
    return value


UserId = Annotated[
    str | None,
    typer.Argument(
        metavar="USER_ID", callback=_not_a_dash, show_default=False,
        help="The person's id or email address.",
    ),
]  # fmt: skip
Compose = Callable[["CustomerIOComposer", dict[str, Any], dict[str, Any]], "Message"]


@with_options(fields=common_fields, files=file_options, run=run_options, source=source_options)
def device(
    token: Annotated[
        str | None,
        typer.Argument(
            metavar="TOKEN", callback=_not_a_dash, show_default=False,
            help="The device's push token.",
        ),
    ] = None,
    *,
    user_id: Annotated[
        str | None, typer.Option(metavar="ID", show_default=False, help="The owner's user id.")
    ] = None,
    platform: Annotated[
        Platform | None,
        typer.Option(
            metavar="PLATFORM", show_default=False,
            help="ios or android; required unless --delete.",
        ),
    ] = None,
    attributes: Annotated[Json | None, json_option("Attributes of the device.")] = None,
    delete: Annotated[
        bool, typer.Option("--delete", help="Remove the device; the person stays.")
    ] = False,
    file: RowsFileOption = None,
    fields: dict[str, Any],
    files: FileOptions,
    run: RunOptions,
    source: Source,
) -> None:  # fmt: skip
    """Register, change or remove a device (Customer.io).

    A device receives push messages. Rows of --file: {"token": …, "userId": …, "platform": …,
    "attributes": {…}}. Options are the defaults of fields that a row does not have.
    """
    source.require_customerio("device")
    refuse_together({"--delete": delete, "--platform": platform})
    refuse_together({"--delete": delete, "--attributes": attributes})
    defaults: dict[str, Any] = {"token": token, "userId": user_id}
    if not delete:
        defaults |= {"platform": platform and platform.value, "attributes": attributes}

    def compose(
        composer: "CustomerIOComposer", row: dict[str, Any], options: dict[str, Any]
    ) -> "Message":
        user, device_token = _required(row, "userId"), _required(row, "token")
        if delete:
            return composer.delete_device(user, device_token, **options)
        runs = _required(row, "platform")
        return composer.register_device(user, device_token, runs, row.get("attributes"), **options)

    if file is None:
        _require_argument("TOKEN", token)
        if user_id is None:
            raise typer.BadParameter("it is required without --file", param_hint="--user-id")
        if platform is None and not delete:
            raise typer.BadParameter("it must be ios or android", param_hint="--platform")
    _send(source, run, files, file, defaults, fields, compose)


@with_options(fields=common_fields, files=file_options, run=run_options, source=source_options)
def object_(
    object_id: Annotated[
        str | None,
        typer.Argument(
            metavar="ID", callback=_not_a_dash, show_default=False, help="The object's id."
        ),
    ] = None,
    *,
    object_type_id: Annotated[
        str, typer.Option("--type", metavar="N", help="The number of its object type.")
    ] = "1",
    traits: Annotated[Json | None, json_option("Traits of the object.")] = None,
    relate: Annotated[
        str | None, typer.Option(metavar="USER_ID", help="Relate this person to the object.")
    ] = None,
    relationship: Annotated[
        Json | None,
        json_option("With --relate: relationship attributes, such as the person's role."),
    ] = None,
    unrelate: Annotated[
        str | None,
        typer.Option(metavar="USER_ID", help="Remove this person's relationship to the object."),
    ] = None,
    delete: Annotated[bool, typer.Option("--delete", help="Delete the object.")] = False,
    file: RowsFileOption = None,
    force: ForceOption = False,
    fields: dict[str, Any],
    files: FileOptions,
    run: RunOptions,
    source: Source,
) -> None:  # fmt: skip
    """Create, change, relate or delete an object (Customer.io).

    An object is a company, for instance, and people are related to it. Rows of --file: {"objectId":
    …, "type": …, "traits": {…}}, or {"objectId": …, "relate": USER_ID, "relationship": {…}}, or
    {"objectId": …, "unrelate": USER_ID}. With --delete a row may be just an id. Options are the
    defaults of fields that a row does not have.
    """
    source.require_customerio("object")
    refuse_together(
        {"--relate": relate, "--unrelate": unrelate, "--delete": delete, "--traits": traits}
    )
    if file is None:
        require_with("--relationship", relationship, {"--relate": relate})
        _require_argument("ID", object_id)
    defaults: dict[str, Any] = {"objectId": object_id, "type": object_type_id}
    if not delete:
        defaults |= {
            "traits": traits, "relate": relate, "relationship": relationship, "unrelate": unrelate,
        }  # fmt: skip

    def compose(
        composer: "CustomerIOComposer", row: dict[str, Any], options: dict[str, Any]
    ) -> "Message":
        which, options["object_type_id"] = _required(row, "objectId"), row["type"]
        if delete:
            return composer.delete_object(which, **options)
        if row.get("unrelate") is not None:
            return composer.unrelate(row["unrelate"], which, **options)
        if row.get("relate") is not None:
            return composer.relate(row["relate"], which, row.get("relationship"), **options)
        return composer.set_object(which, row.get("traits"), **options)

    if delete:
        what = f"object {object_id}" if file is None else f"every object in {file}"
        question = f"Delete {what} of type {object_type_id} at {source.origin}?"
        _confirm(question, file, force=force, run=run)
    only = "objectId" if delete else None
    _send(source, run, files, file, defaults, fields, compose, only=only)


@with_options(fields=common_fields, files=file_options, run=run_options, source=source_options)
def suppress(
    user: UserId = None,
    *,
    undo: Annotated[
        bool, typer.Option("--undo", help="Accept the id again; deleted data stays deleted.")
    ] = False,
    file: RowsFileOption = None,
    force: ForceOption = False,
    fields: dict[str, Any],
    files: FileOptions,
    run: RunOptions,
    source: Source,
) -> None:
    """Delete a person AND refuse the id from now on (Customer.io).

    Privacy law may require it. This is not how to stop mailings, which keeps the person: mp cdp
    identify --user-id USER_ID --traits '{"unsubscribed": true}'. To delete a person who may return:
    mp cdp delete.

    Rows of --file: just an id, or {"userId": …}.
    """
    source.require_customerio("suppress")
    _require_argument("USER_ID", user or file)

    def compose(
        composer: "CustomerIOComposer", row: dict[str, Any], options: dict[str, Any]
    ) -> "Message":
        method = composer.unsuppress_person if undo else composer.suppress_person
        return method(_required(row, "userId"), **options)

    if not undo:
        people, ids = (user, "that id") if file is None else (f"everyone in {file}", "their ids")
        question = f"Delete {people} at {source.origin}, and refuse {ids} from now on?"
        _confirm(question, file, force=force, run=run)
    _send(source, run, files, file, {"userId": user}, fields, compose, only="userId")


@with_options(fields=common_fields, files=file_options, run=run_options, source=source_options)
def delete(
    user: UserId = None,
    *,
    file: RowsFileOption = None,
    force: ForceOption = False,
    fields: dict[str, Any],
    files: FileOptions,
    run: RunOptions,
    source: Source,
) -> None:
    """Delete a person (Customer.io).

    The person returns when identified again. To refuse the id too: mp cdp suppress. To keep the
    person and only stop mailings: mp cdp identify --user-id USER_ID --traits '{"unsubscribed":
    true}'.

    Rows of --file: just an id, or {"userId": …}.
    """
    source.require_customerio("delete")
    _require_argument("USER_ID", user or file)

    def compose(
        composer: "CustomerIOComposer", row: dict[str, Any], options: dict[str, Any]
    ) -> "Message":
        return composer.delete_person(_required(row, "userId"), **options)

    people = user if file is None else f"everyone in {file}"
    _confirm(f"Delete {people} at {source.origin}?", file, force=force, run=run)
    _send(source, run, files, file, {"userId": user}, fields, compose, only="userId")


OWN_FIELDS = ("messageId", "timestamp")  # that a row may have for its message


# ---- one, or a file -----------------------------------------------------------------------------


def _require_argument(name: str, value: object) -> None:
    if value is None:
        raise typer.BadParameter(f"{name} is missing: give it, or --file")


def _confirm(question: str, file: Path | None, *, force: bool, run: RunOptions) -> None:
    if str(file) == "-" and not force and not run.dry_run:
        raise typer.BadParameter("confirmation required, but stdin is the file: add --force")
    confirm_or_abort(question, force=force or run.dry_run)


def _required(row: Mapping[str, Any], name: str) -> Any:
    from mixpanel.exceptions import ValidationError

    if row.get(name) is None:
        raise ValidationError([f"{name} is missing"])
    return row[name]


def _send(
    source: Source,
    run: RunOptions,
    files: FileOptions,
    file: Path | None,
    defaults: Mapping[str, Any],
    fields: Mapping[str, Any],
    compose: Compose,
    *,
    only: str | None = None,
) -> None:
    """Send one message of the defaults, or one for each row of a file, which override them.

    `only` is the field that a row is if it is not an object.
    """
    given = {name: value for name, value in defaults.items() if value is not None}
    if file is None:
        refuse_file_options(files)
        send(source, run, lambda composer: compose(cast("Any", composer), given, _options(fields)))
        return
    if given.keys() & {"token", "objectId", only}:
        raise typer.BadParameter("an id and --file cannot be used together")
    if "messageId" in fields:
        raise typer.BadParameter(
            "--message-id and --file cannot be used together: give each row its messageId"
        )
    from mixpanel._records.failed_rows import FailedRecord
    from mixpanel.cdp._segment.message import KINDS

    composer = cast("CustomerIOComposer", source.composer("off"))
    known = {*defaults, *OWN_FIELDS}

    def shape(value: Any) -> Mapping[str, Any]:
        if isinstance(value, FailedRecord) and value.get("type") in KINDS and "messageId" in value:
            return value  # composed before it was rejected
        row = _row(value, known, only)
        own = {name: row.pop(name) for name in OWN_FIELDS if name in row}
        return compose(composer, {**given, **row}, _options({**fields, **own})).decoded()

    send_file(source, run, files, file, shape, words=only is not None)


def _row(value: Any, known: set[str], only: str | None) -> dict[str, Any]:
    from mixpanel._records.record import checked_mapping
    from mixpanel.exceptions import ValidationError

    if only is not None and not isinstance(value, (Mapping, list)):
        return {only: value}
    row = dict(checked_mapping(value, "a row"))
    unknown = [name for name in row if name not in known]
    if unknown:
        names = ", ".join(sorted(known))
        raise ValidationError([f"unknown field {name!r}: a row has {names}" for name in unknown])
    return {name: each for name, each in row.items() if each is not None}


def _options(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of any message by the names of the library's parameters."""
    return {"message_id" if name == "messageId" else name: value for name, value in fields.items()}
