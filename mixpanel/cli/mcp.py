"""`mp mcp`: a server for agents, or a single call of one of its tools."""

import asyncio
import json
import os
import secrets
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mixpanel.cli._options.database import (
    AccountOption,
    DatabaseOption,
    database_path,
    display_path,
)
from mixpanel.cli._options.global_options import global_options
from mixpanel.cli._options.live import ViewOption
from mixpanel.cli._options.project import BaseUrlOption
from mixpanel.cli._options.shared import refuse_together, require_with, with_options
from mixpanel.cli._output.format import OutputOptions, output_options, write
from mixpanel.cli._output.terminal import say
from mixpanel.exceptions import MixpanelException

if TYPE_CHECKING:
    from mixpanel._agents.flags import FlagSource
    from mixpanel._agents.tools import Toolbox
    from mixpanel.cli.app import Command
    from mixpanel.data.credentials import AnyCredentials

PORT = 8655
TOKEN_VARIABLE = "MP_MCP_TOKEN"  # noqa: S105 - the name of a variable
EXAMPLES = """
mp mcp                                             # as a client starts it
mp mcp --allow-writes --db shop.db
mp mcp --http --port 8655
mp mcp --tools
mp mcp --call sql --arguments '{"query": "SELECT count(*) FROM events"}'
"""


@with_options(output=output_options)
def mcp(
    *,
    allow_writes: Annotated[
        bool,
        typer.Option(
            "--allow-writes",
            help="Offer tools that fetch events and profiles into the local database, and replace "
            "its tables. Nothing is changed in Mixpanel.",
        ),
    ] = False,
    http: Annotated[
        bool, typer.Option("--http", help="Serve HTTP on this machine instead of stdin and stdout.")
    ] = False,
    port: Annotated[
        int,
        typer.Option(metavar="PORT", min=0, max=65535, help="The port; 0 takes any free one."),
    ] = PORT,
    host: Annotated[
        str, typer.Option(metavar="ADDRESS", help="A loopback address.")
    ] = "127.0.0.1",
    timeout: Annotated[
        float,
        typer.Option(
            "--timeout", metavar="SECONDS", min=0.1, max=3600,
            help="Stop a statement or local report that takes longer.",
        ),
    ] = 30.0,
    max_wait: Annotated[
        float,
        typer.Option(
            "--max-wait", metavar="SECONDS", min=0,
            help="Fail a call instead of waiting longer for the hourly limit.",
        ),
    ] = 20.0,
    flags: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", exists=True, dir_okay=False,
            show_default="fetched, with a service account",
            help="Evaluate the feature flags of this JSON file.",
        ),
    ] = None,
    tools: Annotated[
        bool, typer.Option("--tools", help="Print the tools and the schemas of their arguments.")
    ] = False,
    call: Annotated[
        str | None,
        typer.Option("--call", metavar="TOOL", help="Call one tool, print its result, and exit."),
    ] = None,
    arguments: Annotated[
        str | None,
        typer.Option(metavar="JSON", help="The arguments for --call, as a JSON object."),
    ] = None,
    _account: AccountOption = None,
    db: DatabaseOption = None,
    base_url: BaseUrlOption = None,
    workspace_id: ViewOption = None,
    output: OutputOptions,
) -> None:  # fmt: skip
    """Serve a project and its local tables to agents, over MCP.

    A client of the Model Context Protocol, such as Claude Code, Claude Desktop, Cursor or VS Code,
    starts it and communicates on stdin and stdout: `mp docs agents` has the entries for their
    settings. The tools look at events and properties, run SQL on local tables, compute reports, and
    evaluate flags. They only read, unless --allow-writes lets them fetch.

    --http serves http://127.0.0.1:8655/mcp. Requests need the header Authorization: Bearer TOKEN,
    with the token in MP_MCP_TOKEN, or a random one that is printed.
    """
    refuse_together({"--http": http, "--tools": tools, "--call": call})
    require_with("--arguments", arguments, {"--call": call})
    if tools:
        _print_tools(output, allow_writes=allow_writes)
        return
    passed = _object(arguments)

    def make() -> "Toolbox":
        return _toolbox(
            db, base_url, workspace_id, flags,
            allow_writes=allow_writes, timeout=timeout, max_wait=max_wait,
        )  # fmt: skip

    if call is not None:
        write(asyncio.run(_called(make, call, passed)), output)
        return
    # Loaded here: it needs the extra, and takes more than a second.
    from mixpanel._agents import server

    if http:
        _serve_http(make, server.serve_http, host, port)
        return

    async def serve() -> None:
        await server.serve_stdio(make())

    asyncio.run(serve())


def _print_tools(output: OutputOptions, *, allow_writes: bool) -> None:
    from mixpanel._agents.tools import available

    rows = [
        {"name": each.name, "description": each.description, "arguments": each.schema()}
        for each in available(allow_writes=allow_writes)
    ]
    write(rows, output)


async def _called(
    make: "Callable[[], Toolbox]", name: str, arguments: dict[str, Any]
) -> dict[str, Any]:
    toolbox = make()
    try:
        return await toolbox.call(name, arguments)
    finally:
        await toolbox.aclose()


def _serve_http(
    make: "Callable[[], Toolbox]", serve: Callable[..., Awaitable[None]], host: str, port: int
) -> None:
    token = os.environ.get(TOKEN_VARIABLE, "").strip()
    shown = f"the token of {TOKEN_VARIABLE}" if token else secrets.token_urlsafe(24)
    token = token or shown

    def started(address: str) -> None:
        typer.echo(address)
        say(f"Header of each request: Authorization: Bearer {shown}", "dim")
        say("Press Ctrl-C to stop.", "dim")

    async def run() -> None:
        await serve(make(), host=host, port=port, token=token, started=started)

    try:
        asyncio.run(run())
    except OSError as error:
        reason = error.strerror or str(error)
        raise MixpanelException(
            f"cannot listen on port {port}: {reason}; choose another --port, or 0 for any free one"
        ) from error


def _object(text: str | None) -> dict[str, Any]:
    if text is None:
        return {}
    try:
        found = json.loads(text)
    except ValueError as error:
        raise typer.BadParameter(f"not valid JSON: {error}", param_hint="--arguments") from error
    if not isinstance(found, dict):
        raise typer.BadParameter(
            'must be an object, as {"query": "SELECT 1"}', param_hint="--arguments"
        )
    return found


def _toolbox(
    db: Path | None,
    base_url: str | None,
    workspace_id: int | None,
    flags: Path | None,
    *,
    allow_writes: bool,
    timeout: float,
    max_wait: float,
) -> "Toolbox":
    """Return the tools for the account, or for the local database alone if there is none.

    Without an account the server starts anyway, so that its client can show the reason: an MCP
    client reports only that a server did not start.
    """
    from mixpanel._agents.processes import LocalDatabase
    from mixpanel._agents.tools import Toolbox
    from mixpanel.data.config import Config
    from mixpanel.data.exceptions import ConfigError, MixpanelDataError
    from mixpanel.data.workspace import AsyncWorkspace

    problem: MixpanelDataError | None = None
    credentials: AnyCredentials | None = None
    try:
        credentials = Config().resolve_credentials(global_options.account)
    except ConfigError as error:
        problem = error
        if db is None:
            raise
    path, _ = database_path(db)
    workspace = None
    if credentials is not None:
        workspace = AsyncWorkspace(
            global_options.account,
            path=path,
            base_url=base_url,
            max_wait=max_wait,
            workspace_id=workspace_id,
            memory_limit=global_options.memory_limit,
            threads=global_options.threads,
        )
    database = LocalDatabase(
        path,
        timeout=timeout,
        memory_limit=global_options.memory_limit,
        threads=global_options.threads,
    )
    return Toolbox(
        workspace,
        database,
        allow_writes=allow_writes,
        problem=problem,
        flags=_flags(flags, credentials, base_url),
        shown_path=display_path(path),
    )


def _flags(
    file: Path | None, credentials: "AnyCredentials | None", base_url: str | None
) -> "FlagSource | None":
    """Return the source of flag definitions: a file or a service account; None without one."""
    from mixpanel._agents.flags import FlagSource
    from mixpanel.credentials import ServiceAccountCredentials
    from mixpanel.data.credentials import Credentials

    if file is not None:
        return FlagSource(file=file)
    if not isinstance(credentials, Credentials):
        return None
    secret = credentials.secret.get_secret_value()
    account = ServiceAccountCredentials(credentials.username, secret, credentials.project_id)
    return FlagSource(credentials=account, region=credentials.region, base_url=base_url)


COMMAND: "Command" = ("mcp", mcp, EXAMPLES)
