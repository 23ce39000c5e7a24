"""`mp flags`: feature flags from the shell."""

import json
import logging
import sys
import time
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mixpanel._runtime.checked_files import read_at_most
from mixpanel.cli._options.project import (
    CREDENTIALS_HINT,
    BaseUrlOption,
    Region,
    RegionOption,
    TokenOption,
    service_account,
)
from mixpanel.cli._options.shared import argument_or_option, with_options
from mixpanel.cli._output.exit_codes import ExitCode, exit_code
from mixpanel.cli._output.format import Format, OutputOptions, TableView, output_options, write
from mixpanel.cli._output.terminal import complain, escape_controls, say
from mixpanel.exceptions import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mixpanel.cli.app import Command
    from mixpanel.credentials import ServiceAccountCredentials
    from mixpanel.flags.local_feature_flags import LocalFeatureFlagsProvider
    from mixpanel.flags.types import FallbackReason, FlagsConfig, SelectedVariant

HELP = """
Definitions are read from a --file, or fetched from Mixpanel. Fetching needs --token, or a service
account in MP_USERNAME, MP_SECRET and MP_PROJECT_ID, or mp --account NAME; the default account is
not used. Mixpanel bills each fetch as a flag request. No command here reports an exposure.
"""
EXAMPLE = 'mp flags explain new-checkout --context \'{"distinct_id": "u-17"}\''
EVALUATE = """
mp flags eval new-checkout --context '{"distinct_id": "u-17", "custom_properties": {"plan": "pro"}}'
mp flags eval new-checkout --context @user.json --file flags.json
"""
MAX_FILE_BYTES = 64 * 1024 * 1024

FileOption = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE", exists=True, dir_okay=False,
        help='Read the definitions from this JSON file, {"flags": [...]} or a list.',
    ),
]  # fmt: skip
ContextOption = Annotated[
    str,
    typer.Option(
        "--context", metavar="JSON|@FILE", show_default=False, help="The evaluation context."
    ),
]
Key = Annotated[str, typer.Argument(metavar="KEY", show_default=False, help="The flag's key.")]


@with_options(output=output_options)
def list_(
    *,
    token: TokenOption = None,
    region: RegionOption = Region.US,
    base_url: BaseUrlOption = None,
    file: FileOption = None,
    output: OutputOptions,
) -> None:
    """List the flags of a project or a file."""
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
    problems = [str(each) for each in found.diagnostics]
    shown = [row | {"variants": ", ".join(row["variants"])} for row in rows]
    write(TableView({"flags": rows, "problems": problems}, shown), output, empty=None)
    if not rows:
        say("no flags", "dim")
    for each in problems:
        say(each, "yellow")


@with_options(output=output_options)
def evaluate(
    key: Key,
    context: ContextOption,
    *,
    remote: Annotated[
        bool, typer.Option("--remote", help="Let Mixpanel evaluate the flag, not this process.")
    ] = False,
    token: TokenOption = None,
    region: RegionOption = Region.US,
    base_url: BaseUrlOption = None,
    file: FileOption = None,
    output: OutputOptions,
) -> None:
    """Evaluate a flag for a context.

    Without a variant, the reason is on stderr too; the command ends with 4 if there is no such
    flag.
    """
    user = _context(context)
    if remote and file is not None:
        raise ConfigurationError(
            "--remote and --file cannot be used together: Mixpanel evaluates its own definitions"
        )
    failure: Exception | None = None
    if remote:
        selected, failure = _evaluate_remotely(key, user, token, region, base_url)
    else:
        with _provider(token, region, base_url, file) as provider:
            selected = provider.snapshot(user).get_variant(key)
    reason = selected.fallback_reason
    if failure is None:
        result = {
            "flag": key,
            "variant": selected.variant_key,
            "value": selected.variant_value,
            "source": selected.variant_source,
            "reason": None if reason is None else reason.kind,
            "message": None if reason is None else reason.message,
        }
        write(result, output)
    if reason is not None:
        say(f"no variant: {_describe(reason)}")
    if reason is not None and reason.kind == "FLAG_NOT_FOUND":
        raise typer.Exit(ExitCode.NOT_FOUND)
    if failure is not None:
        raise typer.Exit(exit_code(failure))


@with_options(output=output_options)
def explain(
    key: Key,
    context: ContextOption,
    *,
    token: TokenOption = None,
    region: RegionOption = Region.US,
    base_url: BaseUrlOption = None,
    file: FileOption = None,
    output: OutputOptions,
) -> None:
    """Explain the evaluation of a flag, rollout by rollout.

    A rollout shows the user's bucket, its threshold, and the clauses of its rule.
    """
    user = _context(context)
    with _provider(token, region, base_url, file) as provider:
        if key not in provider.definitions.flags and key not in provider.definitions.unusable:
            complain(f"mp: there is no flag {key!r}")
            raise typer.Exit(ExitCode.NOT_FOUND)
        trace = provider.explain(key, user)
    if output.format in (Format.TABLE, Format.PLAIN):
        typer.echo(escape_controls(str(trace)))
    else:
        write(asdict(trace), output)


@with_options(output=output_options)
def lint(
    path: Annotated[
        Path | None,
        typer.Argument(
            exists=True, dir_okay=False, metavar="FILE", show_default=False,
            help='Definitions as JSON, {"flags": [...]} or a list.',
        ),
    ] = None,
    *,
    file: Annotated[
        Path | None,
        typer.Option(metavar="FILE", exists=True, dir_okay=False, help="The same as FILE."),
    ] = None,
    output: OutputOptions,
) -> None:  # fmt: skip
    """List flags that cannot be evaluated locally, and mistakes.

    Reported are rollouts by cohort or by past events, sticky variants, rollouts that no user can
    reach, splits that do not sum to one, unknown operators, and overrides and test users without a
    variant. Ends with 6 if there is anything to report.
    """
    from mixpanel.flags.lint import lint as find_problems

    problems = [
        {
            "kind": each.kind,
            "flag": each.flag_key,
            "rollout": each.rollout,
            "message": each.message,
        }
        for each in find_problems(_definitions(argument_or_option("FILE", path, file)))
    ]
    write(TableView({"problems": problems}, problems), output, empty=None)
    say(f"{len(problems)} to report" if problems else "nothing to report", "dim")
    if problems:
        raise typer.Exit(ExitCode.PARTIAL)


@with_options(output=output_options)
def watch(
    *,
    token: TokenOption = None,
    region: RegionOption = Region.US,
    base_url: BaseUrlOption = None,
    interval: Annotated[
        float,
        typer.Option(metavar="SECONDS", min=0.1, help="Time between fetches; each is billed."),
    ] = 60.0,
    seconds: Annotated[
        float | None,
        typer.Option(metavar="SECONDS", min=0, show_default="at Ctrl-C", help="When to stop."),
    ] = None,
    output: OutputOptions,
) -> None:
    """Print changes of flags as they happen, until Ctrl-C.

    Each change is a line: JSON in a pipe, text on a terminal and with --format plain.
    """
    lines = output.for_stream()
    if lines.format in (Format.JSON, Format.CSV):
        raise typer.BadParameter("changes are lines: use --format jsonl, table or plain")
    end = None if seconds is None else time.monotonic() + seconds
    with _provider(token, region, base_url, None, interval=interval) as provider:
        before = provider.definitions.flags
        count = "1 flag" if len(before) == 1 else f"{len(before)} flags"
        say(f"watching {count}, Ctrl-C stops", "dim")

        def changed(keys: frozenset[str]) -> None:
            nonlocal before
            now = provider.definitions.flags
            for key in sorted(keys):
                change = "removed" if key not in now else "changed" if key in before else "added"
                _write_change({"time": time.strftime("%X"), "change": change, "flag": key}, lines)
            before = now

        provider.add_listener(changed)
        while end is None or time.monotonic() < end:
            time.sleep(0.1)


def _write_change(row: dict[str, str], output: OutputOptions) -> None:
    if output.format is Format.JSONL:
        write([row], output)
    else:
        print(escape_controls(f"{row['time']}  {row['change']:<8}{row['flag']}"))
    sys.stdout.flush()  # a pipe would hold it back until there is more


COMMANDS: "tuple[Command, ...]" = (
    ("list", list_, "mp flags list --file flags.json"),
    ("eval", evaluate, EVALUATE),
    ("explain", explain, EXAMPLE),
    ("lint", lint, "mp flags lint flags.json"),
    ("watch", watch, "mp flags watch --interval 10"),
)


# ---- providers ----------------------------------------------------------------------------------


@contextmanager
def _provider(
    token: str | None,
    region: Region,
    base_url: str | None,
    file: Path | None,
    *,
    interval: float = 0.0,
) -> "Iterator[LocalFeatureFlagsProvider]":
    """Open a provider and load its definitions.

    :raises FlagsError: if they cannot be fetched.
    """
    from mixpanel import __version__
    from mixpanel.flags import FlagsError
    from mixpanel.flags.local_feature_flags import LocalFeatureFlagsProvider
    from mixpanel.flags.types import LocalFlagsConfig

    config = LocalFlagsConfig(enable_polling=False)
    credentials = None
    if file is not None:
        config.bootstrap, config.offline = _definitions(file), True
    else:
        token, credentials = _configure(config, token, region, base_url)
    if interval:
        config.enable_polling, config.polling_interval_in_seconds = True, interval
    provider = LocalFeatureFlagsProvider(
        token or "none: from a file", config, __version__, lambda *_: None, credentials
    )
    with provider:
        with _without_log():
            provider.start_polling_for_definitions()
        if not provider.are_flags_ready():
            error = provider.last_error
            why = f"{provider._api.origin}: {error or 'no response in time'}"
            raise FlagsError(why, getattr(error, "status", None)) from error
        yield provider


@contextmanager
def _without_log() -> "Iterator[None]":
    """Keep the package's log off stderr: the command reports the error itself."""
    logger, handler = logging.getLogger("mixpanel"), logging.NullHandler()
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)


def _evaluate_remotely(
    key: str, context: dict[str, Any], token: str | None, region: Region, base_url: str | None
) -> "tuple[SelectedVariant, Exception | None]":
    """Return the variant that Mixpanel selects, and the error if the request failed."""
    from mixpanel import __version__
    from mixpanel.flags.remote_feature_flags import RemoteFeatureFlagsProvider
    from mixpanel.flags.types import RemoteFlagsConfig, SelectedVariant

    config = RemoteFlagsConfig()
    token, credentials = _configure(config, token, region, base_url)
    with RemoteFeatureFlagsProvider(
        token, config, __version__, lambda *_: None, credentials
    ) as provider:
        selected = provider.get_variant(key, SelectedVariant(None), context, False)
        reason = selected.fallback_reason
        if reason is None or reason.kind != "BACKEND_ERROR":
            return selected, None
        reason = replace(reason, message=f"{provider._api.origin}: {reason.message}")
        return replace(selected, fallback_reason=reason), provider.last_error


def _configure(
    config: "FlagsConfig", token: str | None, region: Region, base_url: str | None
) -> "tuple[str, ServiceAccountCredentials | None]":
    """Set the address in `config`; return the token and the credentials to use."""
    config.region, config.base_url = region.value, base_url
    credentials = service_account()
    if credentials is not None:
        # A provider needs a token, but with a service account it is not sent.
        return token or credentials.project_id, credentials
    if not token:
        raise ConfigurationError(
            f"the project is missing: give --file or --token, or {CREDENTIALS_HINT}"
        )
    return token, None


def _describe(reason: "FallbackReason") -> str:
    if reason.kind == "MISSING_CONTEXT_KEY":
        return f"the context has no {reason.message}, which this flag needs ({reason.kind})"
    return f"{reason.kind} ({reason.message})" if reason.message else reason.kind


# ---- JSON of the user ---------------------------------------------------------------------------


def _context(text: str) -> dict[str, Any]:
    source = _read(Path(text[1:])) if text.startswith("@") else text
    try:
        context = json.loads(source)
    except ValueError as error:
        raise ConfigurationError(f"--context is not valid JSON: {error}") from error
    if not isinstance(context, dict):
        raise ConfigurationError('--context must be an object, such as {"distinct_id": "u-17"}')
    return context


def _definitions(file: Path) -> dict[str, Any]:
    try:
        found = json.loads(_read(file))
    except ValueError as error:
        raise ConfigurationError(f"{file} is not valid JSON: {error}") from error
    payload = {"flags": found} if isinstance(found, list) else found
    if not isinstance(payload, dict) or not isinstance(payload.get("flags"), list):
        raise ConfigurationError(f'{file} must hold {{"flags": [...]}} or a list of flags')
    return payload


def _read(file: Path) -> str:
    try:
        # A FIFO may be read here, but not an endless device.
        return read_at_most(file, MAX_FILE_BYTES).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigurationError(f"cannot read {file}: it is not UTF-8") from error
    except OSError as error:
        raise ConfigurationError(f"cannot read {file}: {error.strerror}") from error
