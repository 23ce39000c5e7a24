"""Customer.io's own commands, for one or a file of them: devices, objects, the ends of a person."""

from collections.abc import Callable, Mapping
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from mixpanel.cli._cdp.input import RowsFile, unwrapped
from mixpanel.cli._cdp.options import Json, Manner, json_option, of_around, of_manner, sharing
from mixpanel.cli._cdp.send_file import Many, alone, of_many, send_many
from mixpanel.cli._cdp.send_one import send
from mixpanel.cli._cdp.source import Source, of_source
from mixpanel.cli._options.fetching import exclude, need
from mixpanel.cli._output.terminal import sure

if TYPE_CHECKING:
    from mixpanel.cdp import CustomerIOComposer, Message

DEVICE = """Examples:

mp cdp device TOKEN --user-id u-17 --platform ios

mp cdp device TOKEN --user-id u-17 --delete

mp cdp device --file devices.ndjson
"""
OBJECT = """Examples:

mp cdp object acme --type 2 --traits '{"plan": "team"}'

mp cdp object acme --type 2 --relate u-17 --relationship '{"role": "admin"}'

mp cdp object acme --type 2 --delete

mp cdp object --file companies.ndjson --type 2
"""
SUPPRESS = """Examples:

mp cdp suppress u-17

mp cdp suppress u-17 --undo

mp cdp suppress --file ids.txt --failed failed.ndjson
"""
DELETE = """Examples:

mp cdp delete u-17 --yes

mp cdp delete --file - --yes < ids.txt
"""


class Platform(StrEnum):
    """What a device runs."""

    IOS = "ios"
    ANDROID = "android"


def _no_dash(given: str | None) -> str | None:
    """Refuse what elsewhere means stdin."""
    if given == "-":
        raise typer.BadParameter("- is no id: to read from stdin, give --file -")
    return given


User = Annotated[
    str | None,
    typer.Argument(
        metavar="USER_ID", callback=_no_dash, show_default=False, help="The person, by id or email."
    ),
]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask whether it is meant.")]
Compose = Callable[["CustomerIOComposer", dict[str, Any], dict[str, Any]], "Message"]


@sharing(around=of_around, many=of_many, manner=of_manner, source=of_source)
def device(
    token: Annotated[
        str | None,
        typer.Argument(
            metavar="TOKEN", callback=_no_dash, show_default=False, help="The device's push token."
        ),
    ] = None,
    *,
    user_id: Annotated[
        str | None, typer.Option(metavar="ID", show_default=False, help="Whose device it is.")
    ] = None,
    platform: Annotated[
        Platform | None, typer.Option(show_default=False, help="Needed, unless to delete it.")
    ] = None,
    attributes: Annotated[Json | None, json_option("What else is known of the device.")] = None,
    delete: Annotated[
        bool, typer.Option("--delete", help="Send it no more push; the person stays.")
    ] = False,
    file: RowsFile = None,
    around: dict[str, Any],
    many: Many,
    manner: Manner,
    source: Source,
) -> None:  # fmt: skip
    """Register a device for push, change its attributes, or take it away.

    With --file, for each row: {"token": …, "userId": …, "platform": …, "attributes": {…}}; options
    stand in for what a row lacks. For Customer.io.
    """
    source.only_customerio("devices are registered with")
    exclude({"--delete": delete, "--platform": platform})
    exclude({"--delete": delete, "--attributes": attributes})
    given: dict[str, Any] = {"token": token, "userId": user_id}
    if not delete:
        given |= {"platform": platform and platform.value, "attributes": attributes}

    def compose(it: "CustomerIOComposer", row: dict[str, Any], named: dict[str, Any]) -> "Message":
        user, which = _wanted(row, "userId"), _wanted(row, "token")
        if delete:
            return it.delete_device(user, which, **named)
        runs = _wanted(row, "platform")
        return it.register_device(user, which, runs, row.get("attributes"), **named)

    if file is None:
        _argument("TOKEN", token)
        if user_id is None:
            raise typer.BadParameter("whose device is it?", param_hint="--user-id")
        if platform is None and not delete:
            raise typer.BadParameter("say ios or android", param_hint="--platform")
    _send(source, manner, many, file, given, around, compose)


@sharing(around=of_around, many=of_many, manner=of_manner, source=of_source)
def object_(
    object_id: Annotated[
        str | None,
        typer.Argument(
            metavar="ID", callback=_no_dash, show_default=False, help="The object's id."
        ),
    ] = None,
    *,
    type: Annotated[str, typer.Option(metavar="N", help="The number of its type.")] = "1",  # noqa: A002
    traits: Annotated[Json | None, json_option("What is known of it.")] = None,
    relate: Annotated[
        str | None, typer.Option(metavar="USER_ID", help="Put this person into it.")
    ] = None,
    relationship: Annotated[
        Json | None, json_option("With --relate: as what they are in it, as their role.")
    ] = None,
    unrelate: Annotated[
        str | None, typer.Option(metavar="USER_ID", help="Take this person out of it.")
    ] = None,
    delete: Annotated[bool, typer.Option("--delete", help="Delete it.")] = False,
    file: RowsFile = None,
    yes: Yes = False,
    around: dict[str, Any],
    many: Many,
    manner: Manner,
    source: Source,
) -> None:  # fmt: skip
    """Create an object such as a company, change, relate or delete it.

    With --file, for each row: {"objectId": …, "type": …, "traits": {…}}, or {"objectId": …,
    "relate": USER_ID, "relationship": {…}}, or {"objectId": …, "unrelate": USER_ID}; options stand
    in for what a row lacks. With --delete a row may be an id alone. For Customer.io.
    """
    source.only_customerio("objects are kept by")
    exclude({"--relate": relate, "--unrelate": unrelate, "--delete": delete, "--traits": traits})
    if file is None:
        need("--relationship", relationship, {"--relate": relate})
        _argument("ID", object_id)
    given: dict[str, Any] = {"objectId": object_id, "type": type}
    if not delete:
        given |= {
            "traits": traits, "relate": relate, "relationship": relationship, "unrelate": unrelate,
        }  # fmt: skip

    def compose(it: "CustomerIOComposer", row: dict[str, Any], named: dict[str, Any]) -> "Message":
        which, named["object_type_id"] = _wanted(row, "objectId"), row["type"]
        if delete:
            return it.delete_object(which, **named)
        if row.get("unrelate") is not None:
            return it.unrelate(row["unrelate"], which, **named)
        if row.get("relate") is not None:
            return it.relate(row["relate"], which, row.get("relationship"), **named)
        return it.set_object(which, row.get("traits"), **named)

    if delete:
        what = f"object {object_id}" if file is None else f"every object in {file}"
        _sure(f"Delete {what} of type {type} at {source.origin}?", file, yes=yes, manner=manner)
    only = "objectId" if delete else None
    _send(source, manner, many, file, given, around, compose, only=only)


@sharing(around=of_around, many=of_many, manner=of_manner, source=of_source)
def suppress(
    user: User = None,
    *,
    undo: Annotated[
        bool, typer.Option("--undo", help="Let them return; what was forgotten stays forgotten.")
    ] = False,
    file: RowsFile = None,
    yes: Yes = False,
    around: dict[str, Any],
    many: Many,
    manner: Manner,
    source: Source,
) -> None:
    """Forget a person AND refuse their id from now on, as privacy law may ask.

    This is not how to stop mailings. That keeps the person, and is: mp cdp identify --user-id
    USER_ID --traits '{"unsubscribed": true}'. To forget somebody who may return: mp cdp delete.

    With --file, for each row: an id alone, or {"userId": …}. For Customer.io.
    """
    source.only_customerio("people are suppressed by")
    _argument("USER_ID", user or file)

    def compose(it: "CustomerIOComposer", row: dict[str, Any], named: dict[str, Any]) -> "Message":
        verb = it.unsuppress_person if undo else it.suppress_person
        return verb(_wanted(row, "userId"), **named)

    if not undo:
        who, ids = (user, "that id") if file is None else (f"everybody in {file}", "their ids")
        what = f"Forget {who} at {source.origin}, and refuse {ids} from now on?"
        _sure(what, file, yes=yes, manner=manner)
    _send(source, manner, many, file, {"userId": user}, around, compose, only="userId")


@sharing(around=of_around, many=of_many, manner=of_manner, source=of_source)
def delete(
    user: User = None,
    *,
    file: RowsFile = None,
    yes: Yes = False,
    around: dict[str, Any],
    many: Many,
    manner: Manner,
    source: Source,
) -> None:
    """Forget a person. They return when they are identified again.

    To keep them from returning: mp cdp suppress. To keep them, and only stop mailings: mp cdp
    identify --user-id USER_ID --traits '{"unsubscribed": true}'.

    With --file, for each row: an id alone, or {"userId": …}. For Customer.io.
    """
    source.only_customerio("people are deleted by")
    _argument("USER_ID", user or file)

    def compose(it: "CustomerIOComposer", row: dict[str, Any], named: dict[str, Any]) -> "Message":
        return it.delete_person(_wanted(row, "userId"), **named)

    who = user if file is None else f"everybody in {file}"
    _sure(f"Forget {who} at {source.origin}?", file, yes=yes, manner=manner)
    _send(source, manner, many, file, {"userId": user}, around, compose, only="userId")


ITS_OWN = ("messageId", "timestamp")  # what each row may have beside what it is about


# ---- one, or many -------------------------------------------------------------------------------


def _argument(name: str, given: object) -> None:
    if given is None:
        raise typer.BadParameter(f"which {name}? or give --file")


def _sure(question: str, file: Path | None, *, yes: bool, manner: Manner) -> None:
    if str(file) == "-" and not yes and not manner.dry_run:
        raise typer.BadParameter("stdin is what is read, so nobody can be asked: add --yes")
    sure(question, force=yes or manner.dry_run, option="--yes")


def _wanted(row: Mapping[str, Any], name: str) -> Any:
    from mixpanel.exceptions import ValidationError

    if row.get(name) is None:
        raise ValidationError([f"{name} is missing"])
    return row[name]


def _send(
    source: Source,
    manner: Manner,
    many: Many,
    file: Path | None,
    given: Mapping[str, Any],
    around: Mapping[str, Any],
    compose: Compose,
    *,
    only: str | None = None,
) -> None:
    """Send what is composed of what was given, or of each row of a file, which may lack some.

    `only` is what a row is that is no object.
    """
    under = {name: value for name, value in given.items() if value is not None}
    if file is None:
        alone(many)
        send(source, manner, lambda it: compose(cast("Any", it), under, _named(around)))
        return
    if under.keys() & {"token", "objectId", only}:
        raise typer.BadParameter("an id is for one: leave it out, or leave --file out")
    if "messageId" in around:
        raise typer.BadParameter("one --message-id is not for many: give each row its messageId")
    composer = cast("CustomerIOComposer", source.composer("off"))
    known = {*given, *ITS_OWN}

    def shape(value: Any) -> dict[str, Any]:
        row = _row(value, known, only)
        own = {name: row.pop(name) for name in ITS_OWN if name in row}
        return compose(composer, {**under, **row}, _named({**around, **own})).decoded()

    send_many(source, manner, many, file, shape, words=only is not None)


def _row(value: Any, known: set[str], only: str | None) -> dict[str, Any]:
    from mixpanel._records.record import mapping
    from mixpanel.exceptions import ValidationError

    value = unwrapped(value)
    if only is not None and not isinstance(value, (Mapping, list)):
        return {only: value}
    row = dict(mapping(value, "a row"))
    strange = [name for name in row if name not in known]
    if strange:
        names = ", ".join(sorted(known))
        raise ValidationError([f"a row has no {name!r}; it has {names}" for name in strange])
    return {name: given for name, given in row.items() if given is not None}


def _named(around: Mapping[str, Any]) -> dict[str, Any]:
    """Return what stands around a message by the names of the library."""
    return {"message_id" if name == "messageId" else name: it for name, it in around.items()}
