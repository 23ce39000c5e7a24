"""`mp schema`: a project and its local tables, short enough for the context of a model."""

from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mixpanel.cli._options.database import (
    AccountOption,
    DatabaseOption,
    database_path,
    display_path,
    open_database,
)
from mixpanel.cli._options.global_options import global_options
from mixpanel.cli._options.live import MaxWaitOption
from mixpanel.cli._options.project import BaseUrlOption
from mixpanel.cli._options.shared import with_options
from mixpanel.cli._output.format import OutputOptions, text_output_options, write
from mixpanel.cli._output.terminal import say

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mixpanel.cli.app import Command
    from mixpanel.data.credentials import AnyCredentials

LEAST_TOKENS = 500
EXAMPLES = """
mp schema
mp schema --local --format json
"""


@with_options(output=text_output_options)
def schema(
    *,
    local: Annotated[
        bool, typer.Option("--local", help="Only the local tables; sends no request.")
    ] = False,
    max_tokens: Annotated[
        int,
        typer.Option(
            "--tokens", metavar="N", min=LEAST_TOKENS, max=100_000,
            help="How long the text may be, by a high estimate.",
        ),
    ] = 2_000,
    _account: AccountOption = None,
    db: DatabaseOption = None,
    base_url: BaseUrlOption = None,
    max_wait: MaxWaitOption = None,
    output: OutputOptions,
) -> None:  # fmt: skip
    """Print the project and the local tables, short enough for a model.

    Shown are the tables with their columns, events and properties, and the events of the project
    with theirs, which costs one of the 60 queries an hour; the most frequent come first. What does
    not fit into --tokens is counted at the end. Properties are found in up to 20,000 rows of a
    table.
    """
    from mixpanel._agents.local import table_facts
    from mixpanel._agents.overview import overview_of, overview_text

    path, credentials = _found(db)
    head: dict[str, Any] = {}
    project_events: Mapping[str, list[str]] | None = None
    if credentials is not None:
        head = {"project": credentials.project_id, "region": credentials.region}
        if not local:
            head["timezone"], project_events = _of_project(base_url, max_wait)
    head["database"] = display_path(path)
    exists = path.is_file()
    with open_database(path) if exists else nullcontext() as database:
        tables = table_facts(database) if database is not None else []
    answer = overview_of(head, tables, project_events, max_tokens=max_tokens)
    if output.requested is None and output.jq is None:
        typer.echo(overview_text(answer), nl=False)
    else:
        write(answer, output)


def _found(db: Path | None) -> "tuple[Path, AnyCredentials | None]":
    """Return the path of the database, and the credentials if there are any."""
    from mixpanel.data.config import Config
    from mixpanel.data.exceptions import AccountNotFoundError, ConfigError

    path, credentials = database_path(db)
    if credentials is None:
        try:
            credentials = Config().resolve_credentials(global_options.account)
        except AccountNotFoundError:
            raise
        except ConfigError:
            return path, None
    return path, credentials


def _of_project(
    base_url: str | None, max_wait: float | None
) -> "tuple[str, Mapping[str, list[str]] | None]":
    """Return the timezone and the events of the project; without the events if that fails."""
    import asyncio

    from mixpanel.data.exceptions import APIError
    from mixpanel.data.workspace import AsyncWorkspace

    async def ask() -> "tuple[str, Mapping[str, list[str]] | None]":
        async with AsyncWorkspace(
            global_options.account,
            base_url=base_url,
            max_wait=max_wait,
            on_wait=lambda _seconds, why: say(why, "dim"),
        ) as workspace:
            events: Mapping[str, list[str]] | None = None
            try:
                events = await workspace.list_events_with_properties()
            except APIError as error:
                say(f"without the events of the project: {error}", "yellow")
            return await workspace.project_timezone() or "unknown", events

    return asyncio.run(ask())


COMMAND: "Command" = ("schema", schema, EXAMPLES)
