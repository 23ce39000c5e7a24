"""Customer.io's own commands: devices, objects, and the ends of a person."""

from enum import StrEnum
from typing import Annotated, Any

import typer

from mixpanel.cli._cdp_options import Json, Manner, json_option, of_around, of_manner, sharing
from mixpanel.cli._cdp_single import send, sure
from mixpanel.cli._cdp_source import Source, of_source
from mixpanel.cli._fetching import exclude, need

DEVICE = """Examples:

mp cdp device TOKEN --user-id u-17 --platform ios

mp cdp device TOKEN --user-id u-17 --delete
"""
OBJECT = """Examples:

mp cdp object acme --type 2 --traits '{"plan": "team"}'

mp cdp object acme --type 2 --relate u-17 --relationship '{"role": "admin"}'

mp cdp object acme --type 2 --delete
"""
SUPPRESS = """Examples:

mp cdp suppress u-17

mp cdp suppress u-17 --undo
"""
DELETE = "Example: mp cdp delete u-17 --yes"


class Platform(StrEnum):
    """What a device runs."""

    IOS = "ios"
    ANDROID = "android"


User = Annotated[
    str, typer.Argument(metavar="USER_ID", show_default=False, help="The person, by id or email.")
]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask whether it is meant.")]


@sharing(around=of_around, manner=of_manner, source=of_source)
def device(
    token: Annotated[
        str, typer.Argument(metavar="TOKEN", show_default=False, help="The device's push token.")
    ],
    *,
    user_id: Annotated[
        str, typer.Option(metavar="ID", show_default=False, help="Whose device it is.")
    ],
    platform: Annotated[
        Platform | None, typer.Option(show_default=False, help="Needed, unless to delete it.")
    ] = None,
    attributes: Annotated[Json | None, json_option("What else is known of the device.")] = None,
    delete: Annotated[
        bool, typer.Option("--delete", help="Send it no more push; the person stays.")
    ] = False,
    around: dict[str, Any],
    manner: Manner,
    source: Source,
) -> None:  # fmt: skip
    """Register a device for push, change its attributes, or take it away.

    For Customer.io.
    """
    source.only_customerio("devices are registered with")
    exclude({"--delete": delete, "--platform": platform})
    exclude({"--delete": delete, "--attributes": attributes})
    options = _named(around)
    if delete:
        send(source, manner, lambda it: it.delete_device(user_id, token, **options))
        return
    if platform is None:
        raise typer.BadParameter("say ios or android", param_hint="--platform")
    send(
        source,
        manner,
        lambda it: it.register_device(user_id, token, platform.value, attributes, **options),
    )


@sharing(around=of_around, manner=of_manner, source=of_source)
def object_(
    object_id: Annotated[
        str, typer.Argument(metavar="ID", show_default=False, help="The object's id.")
    ],
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
    yes: Yes = False,
    around: dict[str, Any],
    manner: Manner,
    source: Source,
) -> None:  # fmt: skip
    """Create an object such as a company, change, relate or delete it.

    For Customer.io.
    """
    source.only_customerio("objects are kept by")
    exclude({"--relate": relate, "--unrelate": unrelate, "--delete": delete, "--traits": traits})
    need("--relationship", relationship, {"--relate": relate})
    options = _named(around) | {"object_type_id": type}
    if delete:
        what = f"Delete object {object_id} of type {type} at {source.origin}?"
        sure(what, yes=yes or manner.dry_run)
        send(source, manner, lambda it: it.delete_object(object_id, **options))
    elif unrelate is not None:
        send(source, manner, lambda it: it.unrelate(unrelate, object_id, **options))
    elif relate is not None:
        send(source, manner, lambda it: it.relate(relate, object_id, relationship, **options))
    else:
        send(source, manner, lambda it: it.set_object(object_id, traits, **options))


@sharing(around=of_around, manner=of_manner, source=of_source)
def suppress(
    user: User,
    *,
    undo: Annotated[
        bool, typer.Option("--undo", help="Let them return; what was forgotten stays forgotten.")
    ] = False,
    yes: Yes = False,
    around: dict[str, Any],
    manner: Manner,
    source: Source,
) -> None:
    """Forget a person AND refuse their id from now on, as privacy law may ask.

    This is not how to stop mailings. That keeps the person, and is: mp cdp identify --user-id
    USER_ID --traits '{"unsubscribed": true}'. To forget somebody who may return: mp cdp delete.

    For Customer.io.
    """
    source.only_customerio("people are suppressed by")
    options = _named(around)
    if undo:
        send(source, manner, lambda it: it.unsuppress_person(user, **options))
        return
    what = f"Forget {user} at {source.origin}, and refuse that id from now on?"
    sure(what, yes=yes or manner.dry_run)
    send(source, manner, lambda it: it.suppress_person(user, **options))


@sharing(around=of_around, manner=of_manner, source=of_source)
def delete(
    user: User, *, yes: Yes = False, around: dict[str, Any], manner: Manner, source: Source
) -> None:
    """Forget a person. They return when they are identified again.

    To keep them from returning: mp cdp suppress. To keep them, and only stop mailings: mp cdp
    identify --user-id USER_ID --traits '{"unsubscribed": true}'.

    For Customer.io.
    """
    source.only_customerio("people are deleted by")
    sure(f"Forget {user} at {source.origin}?", yes=yes or manner.dry_run)
    send(source, manner, lambda it: it.delete_person(user, **_named(around)))


def _named(around: dict[str, Any]) -> dict[str, Any]:
    """Return what stands around a message by the names of the library."""
    return {"message_id" if name == "messageId" else name: it for name, it in around.items()}
