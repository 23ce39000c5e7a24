"""Look at feature flags from the shell: list, evaluate, explain, lint, watch."""

import json
import logging
import time
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from mixpanel._runtime.checked_files import read_at_most
from mixpanel.cli._options.project import WHOSE, Base, Region, Token, Where, Write, account
from mixpanel.cli._output.exit_codes import ExitCode, exit_code
from mixpanel.cli._output.terminal import Format, as_json, complain, out, say, visible
from mixpanel.exceptions import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mixpanel.credentials import ServiceAccountCredentials
    from mixpanel.flags.local_feature_flags import LocalFeatureFlagsProvider
    from mixpanel.flags.types import FallbackReason, FlagsConfig, SelectedVariant

EXAMPLE = 'Example: mp flags explain new-checkout --context \'{"distinct_id": "u-17"}\''
LIST = "Example: mp flags list --file flags.json"
EVALUATE = (
    "Example: mp flags eval new-checkout --context "
    '\'{"distinct_id": "u-17", "custom_properties": {"plan": "team"}}\''
)
LINT = "Example: mp flags lint flags.json"
MOST_BYTES = 64 * 1024 * 1024  # of a file of definitions
WATCH = "Example: mp flags watch --interval 10"

File = Annotated[
    Path | None,
    typer.Option(
        exists=True,
        dir_okay=False,
        help='Take the definitions from this JSON file, {"flags": [...]} or a list.',
    ),
]
ContextJson = Annotated[
    str, typer.Option("--context", help="Who asks, as JSON, or @FILE.", show_default=False)
]
Key = Annotated[str, typer.Argument(show_default=False, help="The flag's key.")]


def flags() -> None:
    """Look at feature flags: what is defined, who gets what and why, and what is wrong.

    Definitions come from a --file, or from Mixpanel: for that it needs the project's --token, or a
    service account, from the environment, MP_USERNAME, MP_SECRET and MP_PROJECT_ID, or
    mp --account NAME; the default account is not used. Mixpanel bills each fetch as a flag
    request. Nothing here reports an exposure.
    """


def list_(
    *,
    token: Token = None,
    region: Where = Region.US,
    base_url: Base = None,
    file: File = None,
    format: Write = Format.TEXT,  # noqa: A002
) -> None:
    """List the flags that are defined."""
    with _provider(token, region, base_url, file) as provider:
        found = provider.definitions
    rows: list[dict[str, Any]] = [
        {
            "key": flag.key,
            "context": flag.context_key,
            "variants": [variant.key for variant in flag.definition.ruleset.variants],
            "rollouts": len(flag.rollouts),
            "name": flag.definition.name,
        }
        for flag in found.flags.values()
    ]
    if format is Format.JSON:
        as_json({"flags": rows, "problems": [str(one) for one in found.diagnostics]})
        return
    table = Table(box=None, pad_edge=False, header_style="dim")
    for column in ("flag", "by", "variants", "rollouts", "name"):
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(
            Text(visible(row["key"])), Text(visible(row["context"])),
            Text(visible(", ".join(row["variants"]))), str(row["rollouts"]),
            Text(visible(row["name"])),
        )  # fmt: skip
    out().print(table if rows else "no flags")
    for one in found.diagnostics:
        say(str(one), "yellow")


def evaluate(
    key: Key,
    context: ContextJson,
    *,
    remote: Annotated[
        bool, typer.Option("--remote", help="Let Mixpanel decide instead of deciding here.")
    ] = False,
    token: Token = None,
    region: Where = Region.US,
    base_url: Base = None,
    file: File = None,
    format: Write = Format.TEXT,  # noqa: A002
) -> None:
    """Say which variant of a flag somebody gets."""
    asked = _context(context)
    if remote and file is not None:
        raise ConfigurationError("--remote asks Mixpanel, --file decides here: give one of the two")
    failed: Exception | None = None
    if remote:
        selected, failed = _remotely(key, asked, token, region, base_url)
    else:
        with _provider(token, region, base_url, file) as provider:
            selected = provider.snapshot(asked).get_variant(key)
    reason = selected.fallback_reason
    if format is Format.JSON:
        as_json(
            {
                "flag": key,
                "variant": selected.variant_key,
                "value": selected.variant_value,
                "source": selected.variant_source,
                "reason": None if reason is None else reason.kind,
                "message": None if reason is None else reason.message,
            }
        )
    elif reason is None:
        value = json.dumps(selected.variant_value, ensure_ascii=False)
        out().print(Text(visible(f"{selected.variant_key} = {value}")))
    else:
        say(f"no variant: {_in_words(reason)}")
    if reason is not None and reason.kind == "FLAG_NOT_FOUND":
        raise typer.Exit(ExitCode.NOT_FOUND)
    if failed is not None:
        raise typer.Exit(exit_code(failed))


def explain(
    key: Key,
    context: ContextJson,
    *,
    token: Token = None,
    region: Where = Region.US,
    base_url: Base = None,
    file: File = None,
) -> None:
    """Say why somebody gets a variant: rollout by rollout, with buckets and clauses."""
    asked = _context(context)
    with _provider(token, region, base_url, file) as provider:
        if key not in provider.definitions.flags and key not in provider.definitions.unusable:
            complain(f"mp: there is no flag {key!r}")
            raise typer.Exit(ExitCode.NOT_FOUND)
        out().print(Text(visible(str(provider.explain(key, asked)))), soft_wrap=True)


def lint(
    file: Annotated[
        Path,
        typer.Argument(
            exists=True,
            dir_okay=False,
            metavar="FILE",
            help='Definitions as JSON, {"flags": [...]} or a list.',
        ),
    ],
    *,
    format: Write = Format.TEXT,  # noqa: A002
) -> None:
    """Report what cannot be decided locally, and what can hardly be meant.

    Rollouts by cohort or past events, sticky variants, rollouts that nobody reaches, splits that do
    not sum to one, unknown operators, overrides and test users without a variant. Ends with 6 when
    there is something to report.
    """
    from mixpanel.flags.lint import lint as linted

    found = linted(_definitions(file))
    if format is Format.JSON:
        as_json(
            {
                "problems": [
                    {
                        "kind": one.kind,
                        "flag": one.flag_key,
                        "rollout": one.rollout,
                        "message": one.message,
                    }
                    for one in found
                ]
            }
        )
    else:
        for one in found:
            out().print(Text(visible(str(one))), soft_wrap=True)
        say(f"{len(found)} to look at" if found else "nothing to report", "dim")
    if found:
        raise typer.Exit(ExitCode.PARTIAL)


def watch(
    *,
    token: Token = None,
    region: Where = Region.US,
    base_url: Base = None,
    interval: Annotated[
        float, typer.Option(min=0.1, help="Seconds between two fetches; each is billed.")
    ] = 60.0,
    seconds: Annotated[
        float | None, typer.Option(min=0, help="Stop after so long; else at Ctrl-C.")
    ] = None,
) -> None:
    """Show changes of flags as they happen, until Ctrl-C."""
    end = None if seconds is None else time.monotonic() + seconds
    with _provider(token, region, base_url, None, interval=interval) as provider:
        before = provider.definitions.flags
        many = "1 flag" if len(before) == 1 else f"{len(before)} flags"
        say(f"{many}; watching, Ctrl-C stops", "dim")

        def changed(keys: frozenset[str]) -> None:
            nonlocal before
            now = provider.definitions.flags
            for key in sorted(keys):
                what = "changed" if key in now and key in before else "new"
                what = what if key in now else "gone"
                out().print(Text(visible(f"{time.strftime('%H:%M:%S')}  {what:<8}{key}")))
            before = now

        provider.add_listener(changed)
        while end is None or time.monotonic() < end:
            time.sleep(0.1)


@contextmanager
def _provider(
    token: str | None,
    region: Region,
    base_url: str | None,
    file: Path | None,
    *,
    interval: float = 0.0,
) -> "Iterator[LocalFeatureFlagsProvider]":
    """Open a provider that has its definitions, or say why it has none."""
    from mixpanel import __version__
    from mixpanel.flags import FlagsError
    from mixpanel.flags.local_feature_flags import LocalFeatureFlagsProvider
    from mixpanel.flags.types import LocalFlagsConfig

    config = LocalFlagsConfig(enable_polling=False)
    credentials = None
    if file is not None:
        config.bootstrap, config.offline = _definitions(file), True
    else:
        token, credentials = _point(config, token, region, base_url)
    if interval:
        config.enable_polling, config.polling_interval_in_seconds = True, interval
    provider = LocalFeatureFlagsProvider(
        token or "none: from a file", config, __version__, lambda *_: None, credentials
    )
    with provider:
        with _unlogged():
            provider.start_polling_for_definitions()
        if not provider.are_flags_ready():
            error = provider.last_error
            why = f"{provider._api.origin}: {error or 'no answer in time'}"
            raise FlagsError(why, getattr(error, "status", None)) from error
        yield provider


@contextmanager
def _unlogged() -> "Iterator[None]":
    """Keep the package's log off the terminal while the command itself says what went wrong."""
    logger, nowhere = logging.getLogger("mixpanel"), logging.NullHandler()
    logger.addHandler(nowhere)
    try:
        yield
    finally:
        logger.removeHandler(nowhere)


def _remotely(
    key: str, context: dict[str, Any], token: str | None, region: Region, base_url: str | None
) -> "tuple[SelectedVariant, Exception | None]":
    """Return what Mixpanel decides, and why it could not if so."""
    from mixpanel import __version__
    from mixpanel.flags.remote_feature_flags import RemoteFeatureFlagsProvider
    from mixpanel.flags.types import RemoteFlagsConfig, SelectedVariant

    config = RemoteFlagsConfig()
    token, credentials = _point(config, token, region, base_url)
    with RemoteFeatureFlagsProvider(
        token, config, __version__, lambda *_: None, credentials
    ) as provider:
        selected = provider.get_variant(key, SelectedVariant(None), context, False)
        reason = selected.fallback_reason
        if reason is None or reason.kind != "BACKEND_ERROR":
            return selected, None
        told = replace(reason, message=f"{provider._api.origin}: {reason.message}")
        return replace(selected, fallback_reason=told), provider.last_error


def _point(
    config: "FlagsConfig", token: str | None, region: Region, base_url: str | None
) -> "tuple[str, ServiceAccountCredentials | None]":
    """Say where to ask; return the token and the account to ask with."""
    config.region, config.base_url = region.value, base_url
    credentials = account()
    if credentials is not None:
        # With a service account the token says nothing more, but a provider has one.
        return token or credentials.project_id, credentials
    if not token:
        raise ConfigurationError(f"which project? give a --file, --token, or {WHOSE}")
    return token, None


def _context(text: str) -> dict[str, Any]:
    source = _text(Path(text[1:])) if text.startswith("@") else text
    try:
        context = json.loads(source)
    except ValueError as error:
        raise ConfigurationError(f"--context is no JSON: {error}") from error
    if not isinstance(context, dict):
        raise ConfigurationError('--context must be an object, such as {"distinct_id": "u-17"}')
    return context


def _in_words(reason: "FallbackReason") -> str:
    if reason.kind == "MISSING_CONTEXT_KEY":
        return f"the context lacks {reason.message}, by which this flag is decided ({reason.kind})"
    return f"{reason.kind} ({reason.message})" if reason.message else reason.kind


def _definitions(file: Path) -> dict[str, Any]:
    found = _read(file)
    payload = {"flags": found} if isinstance(found, list) else found
    if not isinstance(payload, dict) or not isinstance(payload.get("flags"), list):
        raise ConfigurationError(f'{file}: flags are {{"flags": [...]}} or a list')
    return payload


def _read(file: Path) -> Any:
    try:
        return json.loads(_text(file))
    except ValueError as error:
        raise ConfigurationError(f"{file} is no JSON: {error}") from error


def _text(file: Path) -> str:
    try:
        # A FIFO is fine here, what never ends is not.
        return read_at_most(file, MOST_BYTES).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigurationError(f"cannot read {file}: it is no UTF-8") from error
    except OSError as error:
        raise ConfigurationError(f"cannot read {file}: {error.strerror}") from error
