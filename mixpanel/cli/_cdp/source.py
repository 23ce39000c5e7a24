"""Options that choose the vendor and the source, and the client for it."""

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

PANEL = "Destination"
RETRIES = 4  # of one message
FILE_RETRIES = 10  # of a batch of a file, where there is time
MAX_SEND_SECONDS = 60.0  # of one message, retries included


class Vendor(StrEnum):
    """Whose source it is."""

    CUSTOMERIO = "customerio"
    HIGHTOUCH = "hightouch"
    SEGMENT = "segment"
    RUDDERSTACK = "rudderstack"


KEY_VARIABLES = {vendor: f"MP_{vendor.name}_WRITE_KEY" for vendor in Vendor}


@dataclass(frozen=True, slots=True)
class Source:
    """One source, and how to send to it.

    `timeout` is the deadline of one request in seconds; `retries` None takes the default of the
    command.
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
        """Return the vendor's dialect of the Segment spec.

        :raises ConfigurationError: for a `version_at` that is not a path in a message.
        """
        from mixpanel import cdp
        from mixpanel.cdp._customerio.dialect import PERMISSIVE

        if self.vendor is Vendor.CUSTOMERIO:
            return PERMISSIVE if self.permissive else cdp.CUSTOMERIO
        if self.vendor is Vendor.HIGHTOUCH and self.version_at is not None:
            return replace(cdp.HIGHTOUCH, schema_version_path=self.version_at)
        dialect: Dialect = getattr(cdp, self.vendor.name)
        return dialect

    def key(self) -> "WriteKey":
        """Return the write key.

        :raises ConfigurationError: if it is missing or malformed.
        """
        from mixpanel.cdp import WriteKey
        from mixpanel.exceptions import ConfigurationError

        if self.write_key is None:
            raise ConfigurationError(
                f"the write key is missing: give --write-key, or set {KEY_VARIABLES[self.vendor]}"
            )
        return WriteKey(self.write_key.reveal())

    @property
    def origin(self) -> str:
        """Return the address messages are sent to; without a key, that of the default region.

        :raises ConfigurationError: for an unknown region, or a URL that is not safe to send to.
        """
        from mixpanel.cdp import WriteKey

        key = WriteKey("unknown") if self.write_key is None else self.key()
        return self.dialect.origin(key, region=self.region, base_url=self.base_url)

    @property
    def region_in_use(self) -> str | None:
        """Return the region that messages are sent to; None for an address of `--base-url`."""
        hosts, origin = self.dialect.hosts, self.origin
        return next((name for name, host in hosts.items() if host == origin), None)

    @property
    def is_strict(self) -> bool:
        """Return True if the vendor's responses tell whether a message was accepted."""
        return bool(self.dialect.strict_headers)

    def max_message_bytes(self) -> int:
        """Return the largest size of a message that fits alone into a batch."""
        from mixpanel.cdp._segment.batching import batch_capacity

        in_body = self.oauth is not None and self.write_key is not None
        key = self.key().reveal() if in_body else None
        return min(self.dialect.max_message_bytes, batch_capacity(self.dialect, key))

    def composer(
        self,
        validation: "Validation" = "warn",
        on_warning: Callable[[str, str], None] = lambda _kind, _text: None,
    ) -> "SegmentComposer":
        """Return a composer of this vendor's messages, which calls `on_warning` with warnings."""
        from mixpanel._records.ids import new_uuid
        from mixpanel.cdp import CustomerIOComposer, SegmentComposer
        from mixpanel.cdp._customerio.name_advice import advice, advise_foreign_action
        from mixpanel.cdp._segment.client import LIBRARY

        options: dict[str, Any] = {
            "now": time.time, "new_id": new_uuid, "library": LIBRARY,
            "validation": validation, "note": on_warning,
        }  # fmt: skip
        if self.vendor is Vendor.CUSTOMERIO:
            return CustomerIOComposer(self.dialect, advice=advice, **options)
        return SegmentComposer(self.dialect, advice=advise_foreign_action, **options)

    def client(self, **options: Any) -> "SegmentClient":
        """Return a client of this source; `options` are those of `SegmentOptions`.

        With `send_immediately`, a message is retried for a minute at most; else there is no limit.
        It has no spool unless one is given: what is in that of `MP_SPOOL` belongs to programs.

        :raises ConfigurationError: for a key of another region, and for options that cannot work.
        """
        from mixpanel.cdp import CustomerIO, Hightouch, RudderStack, Segment
        from mixpanel.settings import Limits, RetryPolicy

        send_immediately = options.get("send_immediately", False)
        default_retries = RETRIES if send_immediately else FILE_RETRIES
        policy = RetryPolicy(
            attempts=1 + (default_retries if self.retries is None else self.retries),
            first_wait=0.5,
            max_age=MAX_SEND_SECONDS if send_immediately else math.inf,
        )
        options = {
            "region": self.region, "base_url": self.base_url, "gzip": self.gzip,
            "limits": Limits(flush_after=0.5, request_timeout=self.timeout), "retry": policy,
            "spool": False, **options,
        }  # fmt: skip
        key = self.key().reveal()
        if self.vendor is Vendor.HIGHTOUCH:
            if self.version_at is not None:
                options["version_at"] = self.version_at
            return Hightouch(key, oauth=self.oauth, **options)
        if self.vendor is Vendor.SEGMENT:
            return Segment(key, **options)
        if self.vendor is Vendor.RUDDERSTACK:
            return RudderStack(key, **options)
        return CustomerIO(key, strict=not self.permissive, **options)

    def require_customerio(self, command: str) -> None:
        """Refuse a command that other vendors than Customer.io do not have.

        :raises typer.BadParameter: for a source at another vendor.
        """
        if self.vendor is not Vendor.CUSTOMERIO:
            name = self.dialect.name
            raise typer.BadParameter(
                f"mp cdp {command} is for Customer.io only: {name} would store an event without "
                "any effect",
                param_hint="--to",
            )


WriteKeyOption = Annotated[
    str | None,
    typer.Option(
        parser=text_or_file, metavar="KEY|@FILE", rich_help_panel=PANEL,
        show_default="MP_<VENDOR>_WRITE_KEY",
        help="The source's write key.",
    ),
]  # fmt: skip
OAuthClientOption = Annotated[
    str | None,
    typer.Option(
        envvar="MP_HIGHTOUCH_OAUTH_CLIENT_ID", metavar="ID", rich_help_panel=PANEL,
        help="Use OAuth at Hightouch, as this client.",
    ),
]  # fmt: skip
OAuthKeyOption = Annotated[
    str | None,
    typer.Option(
        envvar="MP_HIGHTOUCH_OAUTH_KEY_ID", metavar="ID", rich_help_panel=PANEL,
        help="The id of the OAuth key.",
    ),
]  # fmt: skip
OAuthKeyFileOption = Annotated[
    Path | None,
    typer.Option(
        envvar="MP_HIGHTOUCH_OAUTH_KEY_FILE", metavar="FILE", exists=True, dir_okay=False,
        rich_help_panel=PANEL, help="The private OAuth key, as PEM.",
    ),
]  # fmt: skip
OAuthServerOption = Annotated[
    str | None,
    typer.Option(
        envvar="MP_HIGHTOUCH_OAUTH_SERVER", metavar="URL", rich_help_panel=PANEL,
        show_default="https://oauth2.hightouch.io", help="The OAuth server.",
    ),
]  # fmt: skip
OAuthScopeOption = Annotated[
    str | None,
    typer.Option(
        envvar="MP_HIGHTOUCH_OAUTH_SCOPE", metavar="SCOPE", rich_help_panel=PANEL,
        show_default="tracking_api:write", help="The scope of the access tokens.",
    ),
]  # fmt: skip


def source_options(
    *,
    invoked: typer.Context,
    to: Annotated[
        Vendor | None,
        typer.Option(
            metavar="VENDOR", envvar="MP_CDP_TO", rich_help_panel=PANEL,
            show_default="the one whose key is set",
            help="customerio, hightouch, segment or rudderstack.",
        ),
    ] = None,
    write_key: WriteKeyOption = None,
    region: Annotated[
        str | None,
        typer.Option(
            envvar="MP_CDP_REGION", metavar="REGION", rich_help_panel=PANEL,
            show_default="that of a prefixed key, else the first",
            help="us or eu; for Hightouch us-east-1, eu-west-1 or ap-south-1. RudderStack: none.",
        ),
    ] = None,
    base_url: Annotated[
        str | None,
        typer.Option(
            envvar="MP_CDP_BASE_URL", metavar="URL", rich_help_panel=PANEL,
            show_default="MP_<VENDOR>_BASE_URL",
            help="Send to this address, such as http://127.0.0.1:8650/customerio. For RudderStack "
            "the data plane.",
        ),
    ] = None,
    permissive: Annotated[
        bool,
        typer.Option(
            "--permissive", rich_help_panel=PANEL,
            help="Let Customer.io answer 200 to everything, even to messages it drops.",
        ),
    ] = False,
    oauth_client_id: OAuthClientOption = None,
    oauth_key_id: OAuthKeyOption = None,
    oauth_key_file: OAuthKeyFileOption = None,
    oauth_server: OAuthServerOption = None,
    oauth_scope: OAuthScopeOption = None,
    version_at: Annotated[
        str | None,
        typer.Option(
            envvar="MP_HIGHTOUCH_VERSION_AT", metavar="PATH", rich_help_panel=PANEL,
            show_default="context.protocols.schemaVersion",
            help="Where Hightouch contracts look for the schema version of a message, such as "
            "properties.apiVersion.",
        ),
    ] = None,
    gzip: Annotated[
        bool, typer.Option("--gzip", rich_help_panel=PANEL, help="Compress requests.")
    ] = False,
    timeout: Annotated[
        float,
        typer.Option(
            min=0.1, metavar="SECONDS", rich_help_panel=PANEL, help="Deadline of one request."
        ),
    ] = 10.0,
    retries: Annotated[
        int | None,
        typer.Option(
            min=0, metavar="N", rich_help_panel=PANEL,
            show_default=f"{RETRIES}, or {FILE_RETRIES} with a file",
            help="Retries for transient failures (429, 503, …).",
        ),
    ] = None,
) -> Source:  # fmt: skip
    """Return the source that the options and the environment describe.

    :raises typer.BadParameter: if the vendor is ambiguous, or options contradict each other.
    """
    from mixpanel.credentials import Secret

    vendor = to or _inferred_vendor(write_key)
    write_key = write_key or os.environ.get(KEY_VARIABLES[vendor], "").strip()
    # The plain key does not stay in a local variable, where a crash reporter would find it.
    key, write_key = Secret(write_key) if write_key else None, None
    if permissive and vendor is not Vendor.CUSTOMERIO:
        name = Source(vendor, None).dialect.name
        raise typer.BadParameter(f"--permissive is for Customer.io only: {name} always is")
    if vendor is not Vendor.HIGHTOUCH:
        _refuse_oauth(invoked)
    required = {
        "--oauth-client-id": oauth_client_id, "--oauth-key-file": oauth_key_file,
        "--oauth-key-id": oauth_key_id,
    }  # fmt: skip
    optional = {"server": oauth_server, "scope": oauth_scope}
    return Source(
        vendor,
        key,
        region,
        base_url,
        permissive,
        # Hightouch's variables may be set in the environment of a command for another vendor.
        _oauth(required, optional) if vendor is Vendor.HIGHTOUCH else None,
        gzip,
        timeout,
        retries,
        version_at,
    )


@dataclass(frozen=True, slots=True)
class Keys:
    """Credentials for sources of several vendors: `--write-key`, and those of the environment."""

    write_key: "Secret | None" = field(repr=False)
    oauth_required: dict[str, Any]
    oauth_optional: dict[str, str | None]

    def oauth(self) -> "HightouchOAuth | None":
        """Return the OAuth credentials for Hightouch; None without any.

        :raises typer.BadParameter: if a part of them is missing.
        """
        return _oauth(self.oauth_required, self.oauth_optional)

    def candidates(self, vendor: Vendor) -> "list[Secret]":
        """Return the write keys that may be those of a source of this vendor."""
        from mixpanel.credentials import Secret

        found = [] if self.write_key is None else [self.write_key]
        text = os.environ.get(KEY_VARIABLES[vendor], "").strip()
        return [*found, Secret(text)] if text else found


def keys_options(
    *,
    write_key: WriteKeyOption = None,
    oauth_client_id: OAuthClientOption = None,
    oauth_key_id: OAuthKeyOption = None,
    oauth_key_file: OAuthKeyFileOption = None,
    oauth_server: OAuthServerOption = None,
    oauth_scope: OAuthScopeOption = None,
) -> Keys:
    """Return the credentials that the options and the environment give."""
    from mixpanel.credentials import Secret

    key, write_key = Secret(write_key.strip()) if write_key else None, None
    required = {
        "--oauth-client-id": oauth_client_id, "--oauth-key-file": oauth_key_file,
        "--oauth-key-id": oauth_key_id,
    }  # fmt: skip
    return Keys(key, required, {"server": oauth_server, "scope": oauth_scope})


def _inferred_vendor(write_key: str | None) -> Vendor:
    """Return the vendor that the key belongs to, or whose key alone is in the environment."""
    found = [vendor for vendor, name in KEY_VARIABLES.items() if os.environ.get(name, "").strip()]
    if write_key is not None:
        from mixpanel.cdp import CUSTOMERIO

        if CUSTOMERIO.region_of(write_key.strip()) is not None:
            return Vendor.CUSTOMERIO
        why = "--write-key may belong to any"
    elif len(found) == 1:
        return found[0]
    else:
        why = "the keys of several are set" if found else "no write key is set"
    known = ", ".join(Vendor)
    raise typer.BadParameter(
        f"cannot tell which vendor to use: {why}. Add --to, with one of {known}, or set MP_CDP_TO"
    )


def _refuse_oauth(invoked: typer.Context) -> None:
    """Refuse typed OAuth options for other vendors than Hightouch."""
    for name in ("client_id", "key_id", "key_file", "server", "scope"):
        source: Any = invoked.get_parameter_source(f"oauth_{name}")
        if source is not None and source.name == "COMMANDLINE":
            option = f"--oauth-{name.replace('_', '-')}"
            raise typer.BadParameter("OAuth is for Hightouch only", param_hint=option)


def _oauth(required: dict[str, Any], optional: dict[str, str | None]) -> "HightouchOAuth | None":
    missing = [name for name, value in required.items() if not value]
    if len(missing) == len(required):
        return None
    if missing:
        raise typer.BadParameter(f"OAuth needs {' and '.join(missing)} too")
    from mixpanel.cdp import HightouchOAuth

    client_id, key_file, key_id = required.values()
    given = {name: value for name, value in optional.items() if value}
    return HightouchOAuth(client_id, key_file, key_id, **given)
