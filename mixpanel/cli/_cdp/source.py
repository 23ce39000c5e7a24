"""Say which source of Customer.io or Hightouch a command is about, and make its client."""

import math
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mixpanel.cli._cdp.options import text_or_file

if TYPE_CHECKING:
    from mixpanel._records.record import Validation
    from mixpanel.cdp import Dialect, HightouchOAuth, SegmentClient, SegmentComposer, WriteKey
    from mixpanel.credentials import Secret

PANEL = "Where to"
AGAIN = 10  # times that many messages are tried again, when nobody says how often


class Vendor(StrEnum):
    """Whose source it is."""

    CUSTOMERIO = "customerio"
    HIGHTOUCH = "hightouch"


KEYS = {
    Vendor.CUSTOMERIO: "MP_CUSTOMERIO_WRITE_KEY",
    Vendor.HIGHTOUCH: "MP_HIGHTOUCH_WRITE_KEY",
}


@dataclass(frozen=True, slots=True)
class Source:
    """One source, and how to send to it.

    `timeout` is the deadline of one attempt in seconds; `retries` how often what may come right is
    tried again, None for what suits.
    """

    vendor: Vendor
    write_key: "Secret | None" = field(repr=False)
    region: str | None = None
    base_url: str | None = None
    permissive: bool = False
    oauth: "HightouchOAuth | None" = None
    gzip: bool = False
    timeout: float = 10.0
    retries: int | None = None
    version_at: str | None = None

    @property
    def dialect(self) -> "Dialect":
        """Return the vendor's way of speaking the Segment spec.

        :raises ConfigurationError: for a `version_at` that is no place in a message.
        """
        from mixpanel.cdp import HIGHTOUCH
        from mixpanel.cdp._customerio.dialect import CUSTOMERIO, PERMISSIVE

        if self.vendor is Vendor.HIGHTOUCH:
            at = self.version_at
            return HIGHTOUCH if at is None else replace(HIGHTOUCH, schema_version_path=at)
        return PERMISSIVE if self.permissive else CUSTOMERIO

    def key(self) -> "WriteKey":
        """Return the write key.

        :raises ConfigurationError: when there is none, or it cannot be one.
        """
        from mixpanel.cdp import WriteKey
        from mixpanel.exceptions import ConfigurationError

        if self.write_key is None:
            name = KEYS[self.vendor]
            raise ConfigurationError(f"which source? give --write-key, or {name}")
        return WriteKey(self.write_key.reveal())

    @property
    def origin(self) -> str:
        """Return where messages go; without a key, to the region that is said or the first one.

        :raises ConfigurationError: for an unknown region, or a URL that is not safe to send to.
        """
        from mixpanel.cdp import WriteKey

        key = WriteKey("unknown") if self.write_key is None else self.key()
        return self.dialect.origin(key, region=self.region, base_url=self.base_url)

    @property
    def said_region(self) -> str | None:
        """Return the region that messages go to; None when an address was given instead."""
        hosts, origin = self.dialect.hosts, self.origin
        return next((name for name, host in hosts.items() if host == origin), None)

    @property
    def is_strict(self) -> bool:
        """Tell whether the vendor answers truly for what it is sent."""
        return bool(self.dialect.strict_headers)

    def room(self) -> int:
        """Return how many bytes a message may have, alone in the envelope of a batch."""
        from mixpanel.cdp._segment.batching import batch_capacity

        in_body = self.oauth is not None and self.write_key is not None
        key = self.key().reveal() if in_body else None
        return min(self.dialect.max_message_bytes, batch_capacity(self.dialect, key))

    def composer(
        self,
        validation: "Validation" = "warn",
        note: Callable[[str, str], None] = lambda _kind, _text: None,
    ) -> "SegmentComposer":
        """Return what makes this vendor's messages; `note` hears what is doubtful or lossy."""
        from mixpanel._records.ids import new_uuid
        from mixpanel.cdp import CustomerIOComposer, SegmentComposer
        from mixpanel.cdp._customerio.name_advice import advice, advise_foreign_action
        from mixpanel.cdp._segment.client import LIBRARY

        options: dict[str, Any] = {
            "now": time.time, "new_id": new_uuid, "library": LIBRARY,
            "validation": validation, "note": note,
        }  # fmt: skip
        if self.vendor is Vendor.HIGHTOUCH:
            return SegmentComposer(self.dialect, advice=advise_foreign_action, **options)
        return CustomerIOComposer(self.dialect, advice=advice, **options)

    def client(self, **options: Any) -> "SegmentClient":
        """Return a client of this source; `options` are those of `SegmentOptions`.

        What it sends directly is tried for a minute at the most, anything else without such an end.

        :raises ConfigurationError: for a key of another region, and for what cannot work.
        """
        from mixpanel.cdp import CustomerIO, Hightouch
        from mixpanel.settings import Limits, RetryPolicy

        send_immediately = options.get("send_immediately", False)
        policy = RetryPolicy(
            attempts=1
            + (self.retries if self.retries is not None else 4 if send_immediately else AGAIN),
            first_wait=0.5,
            max_age=60.0 if send_immediately else math.inf,
        )
        options = {
            "region": self.region, "base_url": self.base_url, "gzip": self.gzip,
            "limits": Limits(flush_after=0.5, request_timeout=self.timeout), "retry": policy,
            **options,
        }  # fmt: skip
        key = self.key().reveal()
        if self.vendor is Vendor.HIGHTOUCH:
            if self.version_at is not None:
                options["version_at"] = self.version_at
            return Hightouch(key, oauth=self.oauth, **options)
        return CustomerIO(key, strict=not self.permissive, **options)

    def only_customerio(self, what: str) -> None:
        """Refuse what Hightouch has not."""
        if self.vendor is Vendor.HIGHTOUCH:
            raise typer.BadParameter(
                f"{what} Customer.io alone: Hightouch would keep it as any event and do nothing",
                param_hint="--to",
            )


def of_source(
    *,
    invoked: typer.Context,
    to: Annotated[
        Vendor | None,
        typer.Option(
            envvar="MP_CDP_TO", rich_help_panel=PANEL, show_default="the one whose key is set",
            help="Whose source it is.",
        ),
    ] = None,
    write_key: Annotated[
        str | None,
        typer.Option(
            parser=text_or_file, metavar="KEY|@FILE", rich_help_panel=PANEL,
            help=f"The source's. [dim]\\[env: {', '.join(KEYS.values())}][/]",
        ),
    ] = None,
    region: Annotated[
        str | None,
        typer.Option(
            envvar="MP_CDP_REGION", metavar="REGION", rich_help_panel=PANEL,
            help="The source's: us or eu; of Hightouch us-east-1, eu-west-1 or ap-south-1. "
            "[dim]Else what a prefixed key says, else the first[/]",
        ),
    ] = None,
    base_url: Annotated[
        str | None,
        typer.Option(
            envvar="MP_CDP_BASE_URL", metavar="URL", rich_help_panel=PANEL,
            help="Go to this address instead, such as http://127.0.0.1:8650/customerio of "
            "`mp emulator`. [dim]\\[else: MP_CUSTOMERIO_BASE_URL, MP_HIGHTOUCH_BASE_URL][/]",
        ),
    ] = None,
    permissive: Annotated[
        bool,
        typer.Option(
            "--permissive", rich_help_panel=PANEL,
            help="Let Customer.io answer 200 to everything, also to what it drops.",
        ),
    ] = False,
    oauth_client_id: Annotated[
        str | None,
        typer.Option(
            envvar="MP_HIGHTOUCH_OAUTH_CLIENT_ID", metavar="ID", rich_help_panel=PANEL,
            help="Ask Hightouch for access tokens as this client.",
        ),
    ] = None,
    oauth_key_id: Annotated[
        str | None,
        typer.Option(
            envvar="MP_HIGHTOUCH_OAUTH_KEY_ID", metavar="ID", rich_help_panel=PANEL,
            help="The id of its key.",
        ),
    ] = None,
    oauth_key_file: Annotated[
        Path | None,
        typer.Option(
            envvar="MP_HIGHTOUCH_OAUTH_KEY_FILE", metavar="FILE", exists=True, dir_okay=False,
            rich_help_panel=PANEL, help="The private key, as PEM.",
        ),
    ] = None,
    oauth_server: Annotated[
        str | None,
        typer.Option(
            envvar="MP_HIGHTOUCH_OAUTH_SERVER", metavar="URL", rich_help_panel=PANEL,
            show_default="https://oauth2.hightouch.io", help="Who hands out the tokens.",
        ),
    ] = None,
    oauth_scope: Annotated[
        str | None,
        typer.Option(
            envvar="MP_HIGHTOUCH_OAUTH_SCOPE", metavar="SCOPE", rich_help_panel=PANEL,
            show_default="tracking_api:write", help="What the tokens are for.",
        ),
    ] = None,
    version_at: Annotated[
        str | None,
        typer.Option(
            envvar="MP_HIGHTOUCH_VERSION_AT", metavar="PATH", rich_help_panel=PANEL,
            show_default="context.protocols.schemaVersion",
            help="Where contracts of Hightouch look for their version, as properties.apiVersion.",
        ),
    ] = None,
    gzip: Annotated[
        bool, typer.Option("--gzip", rich_help_panel=PANEL, help="Compress what is sent.")
    ] = False,
    timeout: Annotated[
        float,
        typer.Option(min=0.1, metavar="SECONDS", rich_help_panel=PANEL, help="For one attempt."),
    ] = 10.0,
    retries: Annotated[
        int | None,
        typer.Option(
            min=0, metavar="N", rich_help_panel=PANEL, show_default=f"4, or {AGAIN} for many",
            help="Try so often again what may come right, as after 429 and 503.",
        ),
    ] = None,
) -> Source:  # fmt: skip
    """Return the source that the options and the environment say.

    :raises typer.BadParameter: when they leave open whose it is, or contradict themselves.
    """
    from mixpanel.credentials import Secret

    vendor = to or _inferred(write_key)
    write_key = write_key or os.environ.get(KEYS[vendor], "").strip()
    key, write_key = Secret(write_key) if write_key else None, None
    if permissive and vendor is Vendor.HIGHTOUCH:
        raise typer.BadParameter("only Customer.io can be --permissive: Hightouch always is")
    if vendor is Vendor.CUSTOMERIO:
        _refuse_oauth(invoked)
    oauth = {
        "--oauth-client-id": oauth_client_id, "--oauth-key-file": oauth_key_file,
        "--oauth-key-id": oauth_key_id,
    }  # fmt: skip
    more = {"server": oauth_server, "scope": oauth_scope}
    return Source(
        vendor,
        key,
        region,
        base_url,
        permissive,
        # What the environment says of Hightouch is no matter of Customer.io's.
        _oauth(oauth, more) if vendor is Vendor.HIGHTOUCH else None,
        gzip,
        timeout,
        retries,
        version_at,
    )


def _inferred(write_key: str | None) -> Vendor:
    """Return the vendor whose key is in the environment, if just one is, or whose it looks like."""
    there = [vendor for vendor, name in KEYS.items() if os.environ.get(name, "").strip()]
    if write_key is not None:
        from mixpanel.cdp import CUSTOMERIO

        if CUSTOMERIO.region_of(write_key.strip()) is not None:
            return Vendor.CUSTOMERIO
        why = "this --write-key does not tell"
    elif len(there) == 1:
        return there[0]
    else:
        why = "the environment has the keys of both" if there else "no key is in the environment"
    raise typer.BadParameter(
        f"whose source? {why}: add --to customerio or --to hightouch, or set MP_CDP_TO"
    )


def _refuse_oauth(invoked: typer.Context) -> None:
    """Refuse what is typed of OAuth, which Customer.io has not."""
    for name in ("client_id", "key_id", "key_file", "server", "scope"):
        source: Any = invoked.get_parameter_source(f"oauth_{name}")
        if source is not None and source.name == "COMMANDLINE":
            option = f"--oauth-{name.replace('_', '-')}"
            raise typer.BadParameter("only Hightouch hands out access tokens", param_hint=option)


def _oauth(needed: dict[str, Any], more: dict[str, str | None]) -> "HightouchOAuth | None":
    missing = [name for name, value in needed.items() if not value]
    if len(missing) == len(needed):
        return None
    if missing:
        raise typer.BadParameter(f"OAuth needs {' and '.join(missing)} too")
    from mixpanel.cdp import HightouchOAuth

    client_id, key_file, key_id = needed.values()
    given = {name: value for name, value in more.items() if value}
    return HightouchOAuth(client_id, key_file, key_id, **given)
