"""Options of commands that query Mixpanel, declared once, and running such a command."""

import asyncio
import functools
import inspect
import re
import shutil
import sys
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mixpanel.cli._options.database import Account
from mixpanel.cli._options.global_options import asked
from mixpanel.cli._options.project import Base
from mixpanel.cli._output.format import As, Format, Jq, Options, write
from mixpanel.cli._output.terminal import plain, say

if TYPE_CHECKING:
    from mixpanel.data.workspace import AsyncWorkspace

__all__ = ["EventOption", "From", "LiveCommand", "To", "WhereOption", "live", "one", "parse_names"]

# Arguments that errors of the library name, and the options they come from.
OPTIONS = {
    "from_date": "--from", "to_date": "--to", "return_": "--return", "born": "--born",
    "born_where": "--born-where", "return_where": "--return-where", "max_wait": "--max-wait",
    "interval_count": "--intervals", "workspace_id": "--workspace-id", "limit": "--limit",
    "addiction_unit": "--addiction-unit", "unit": "--unit", "interval": "--interval",
    "distinct_ids": "--users", "exclude_events": "--exclude", "property_name": "PROPERTY",
    "entity_type": "--type", "bookmark_type": "--type", "where": "--where", "type": "--type",
    "funnel_id": "ID", "bookmark_id": "ID",
}  # fmt: skip
NAMED = re.compile(rf"\b({'|'.join(OPTIONS)})\b(=?)(?!\()")
NARROWEST = 40  # columns of a chart

MaxWait = Annotated[
    float | None,
    typer.Option(
        "--max-wait", metavar="SECONDS", min=0, show_default="65 minutes",
        help="Fail instead of waiting longer for the hourly budget.",
    ),
]  # fmt: skip
View = Annotated[
    int | None,
    typer.Option(
        "--workspace-id", metavar="N", min=1, envvar="MP_WORKSPACE_ID",
        show_default="the whole project", help="The data view to query.",
    ),
]  # fmt: skip
From = Annotated[
    str,
    typer.Option("--from", metavar="DAY", help="The first day, as 2026-01-31, in project time."),
]
To = Annotated[str, typer.Option("--to", metavar="DAY", help="The last day, included.")]
EventOption = Annotated[
    str | None, typer.Option("--event", "-e", metavar="EVENT", help="The same as EVENT.")
]
WhereOption = Annotated[
    str | None,
    typer.Option(
        "--where", "-w", metavar="EXPR",
        help="Only those for which this holds, as 'properties[\"plan\"] == \"team\"'.",
    ),
]  # fmt: skip
Chart = Annotated[
    bool, typer.Option("--chart", help="Draw a chart for the terminal instead of writing data.")
]


@dataclass(frozen=True, slots=True)
class LiveCommand:
    """How one command reaches Mixpanel, and writes its result."""

    output: Options
    base_url: str | None
    max_wait: float | None
    workspace_id: int | None
    chart: bool = False

    def run(self, query: "Callable[[AsyncWorkspace], Coroutine[Any, Any, Any]]") -> Any:
        """Run a query, write its result, and note on stderr what is missing in it."""
        from mixpanel.data.workspace import AsyncWorkspace

        async def answer() -> Any:
            async with AsyncWorkspace(
                asked.account,
                base_url=self.base_url,
                on_wait=lambda _seconds, why: say(why, "dim"),
                max_wait=self.max_wait,
                workspace_id=self.workspace_id,
            ) as workspace:
                return await query(workspace)

        with _option_names():
            result = asyncio.run(answer())
        self._write(result)
        return result

    def _write(self, result: Any) -> None:
        if self.chart:
            width = max(NARROWEST, shutil.get_terminal_size().columns)
            print(result.chart(width, color=sys.stdout.isatty() and not plain()))
        elif self.output.written is Format.CSV and hasattr(result, "to_table_dict"):
            write(result.to_table_dict(), self.output)
        else:
            write(result, self.output)
        if getattr(result, "limit_hit", False):
            say("a limit cut this off: there is more; give a larger --limit", "yellow")
        if getattr(result, "sampling_factor", 1.0) < 1:
            say(f"sampled: {result.sampling_factor:.0%} of the events were counted", "yellow")


def live(*, chart: bool = False) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Add the options of every live command to a function, which takes them as `live`.

    With `chart`, also the one that draws the result.
    """

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(command)
        def run(**values: Any) -> None:
            values.pop("_account", None)
            made = LiveCommand(
                Options(values.pop("format"), values.pop("jq")),
                values.pop("base_url"),
                values.pop("max_wait"),
                values.pop("workspace_id"),
                values.pop("chart", False),
            )
            command(**values, live=made)

        keyword = inspect.Parameter.KEYWORD_ONLY
        shared: dict[str, Any] = {"chart": Chart} if chart else {}
        shared |= {
            "_account": Account, "base_url": Base, "max_wait": MaxWait, "workspace_id": View,
            "format": As, "jq": Jq,
        }  # fmt: skip
        signature = inspect.signature(command)
        own = [each for name, each in signature.parameters.items() if name != "live"]
        added = [
            inspect.Parameter(
                name, keyword, annotation=kind, default=False if name == "chart" else None
            )
            for name, kind in shared.items()
        ]
        run.__signature__ = signature.replace(parameters=[*own, *added])  # type: ignore[attr-defined]
        run.__annotations__ = {each.name: each.annotation for each in [*own, *added]}
        return run

    return decorate


@contextmanager
def _option_names() -> Iterator[None]:
    """Name in errors the option that was typed, not the argument that it became."""
    from mixpanel.data.exceptions import ConfigError

    try:
        yield
    except ConfigError as error:
        error.message = NAMED.sub(
            lambda found: OPTIONS[found[1]] + (" " if found[2] else ""), error.message
        )
        error.args = (error.message,)
        raise


def one(name: str, argument: Any, option: Any) -> Any:
    """Return the value that was given as an argument or as its option.

    :raises typer.BadParameter: for both, and for neither.
    """
    if argument is not None and option is not None:
        raise typer.BadParameter(f"{name} is given twice, as an argument and as an option")
    if argument is None and option is None:
        raise typer.BadParameter(f"{name} is missing")
    return option if argument is None else argument


def parse_names(context: typer.Context, given: list[str] | None) -> list[str] | None:
    """Divide names at commas; one with a comma in it stands in quotes, as in CSV."""
    import csv

    if not given or context.resilient_parsing:
        return given
    try:
        rows = [next(csv.reader([each], skipinitialspace=True, strict=True), []) for each in given]
    except csv.Error as error:
        raise typer.BadParameter(f"a quote without its end: {', '.join(given)}") from error
    return [name.strip() for row in rows for name in row if name.strip()]
