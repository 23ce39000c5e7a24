"""Options of the commands that query Mixpanel, and running such a command."""

import asyncio
import csv
import shutil
import sys
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mixpanel.cli._options.database import AccountOption
from mixpanel.cli._options.global_options import global_options
from mixpanel.cli._options.project import BaseUrlOption
from mixpanel.cli._output.format import Format, FormatOption, JqOption, OutputOptions, write
from mixpanel.cli._output.terminal import is_plain, say

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from mixpanel.data.workspace import AsyncWorkspace

MIN_CHART_WIDTH = 40  # columns

MaxWaitOption = Annotated[
    float | None,
    typer.Option(
        "--max-wait", metavar="SECONDS", min=0, show_default="65 minutes",
        help="Fail instead of waiting longer for the hourly limit.",
    ),
]  # fmt: skip
ViewOption = Annotated[
    int | None,
    typer.Option(
        "--workspace-id", metavar="ID", min=1, envvar="MP_WORKSPACE_ID",
        show_default="the whole project", help="The data view to query.",
    ),
]  # fmt: skip


class ChartFormat(StrEnum):
    """The formats of a result that can be drawn."""

    TABLE = "table"
    JSON = "json"
    JSONL = "jsonl"
    CSV = "csv"
    PLAIN = "plain"
    CHART = "chart"


ChartFormatOption = Annotated[
    ChartFormat | None,
    typer.Option(
        "--format", "-f", metavar="FORMAT", show_default="table on a terminal, else json",
        help="table, json, jsonl, csv, plain or chart.",
    ),
]  # fmt: skip
FromOption = Annotated[
    str,
    typer.Option(
        "--from", metavar="DAY",
        help="The first day in the project's timezone: 2026-01-31, today, -7d, -4w or -3m.",
    ),
]  # fmt: skip
ToOption = Annotated[str, typer.Option("--to", metavar="DAY", help="The last day, included.")]
EventOption = Annotated[
    str | None,
    typer.Option("--event", "-e", metavar="EVENT", show_default=False, help="The same as EVENT."),
]
WhereOption = Annotated[
    str | None,
    typer.Option(
        "--where", "-w", metavar="EXPR", show_default=False,
        help="A condition, as 'properties[\"plan\"] == \"team\"'.",
    ),
]  # fmt: skip


@dataclass(frozen=True, slots=True)
class LiveCommand:
    """How a command connects to Mixpanel, and how it prints the result."""

    output: OutputOptions
    base_url: str | None
    max_wait: float | None
    workspace_id: int | None
    chart: bool = False

    def result_of(self, query: "Callable[[AsyncWorkspace], Coroutine[Any, Any, Any]]") -> Any:
        """Run a query and return its result."""
        from mixpanel.data.workspace import AsyncWorkspace

        async def run_query() -> Any:
            async with AsyncWorkspace(
                global_options.account,
                base_url=self.base_url,
                on_wait=lambda _seconds, why: say(why, "dim"),
                max_wait=self.max_wait,
                workspace_id=self.workspace_id,
            ) as workspace:
                return await query(workspace)

        return asyncio.run(run_query())

    def run(self, query: "Callable[[AsyncWorkspace], Coroutine[Any, Any, Any]]") -> None:
        """Run a query and print its result; note on stderr if it is incomplete."""
        result = self.result_of(query)
        self._print(result)
        if getattr(result, "limit_hit", False):
            read_from = getattr(result, "read_from", None)
            if read_from is None:
                say("cut off by the limit: there is more; use a larger --limit", "yellow")
            else:
                last = result.to_date or "today"
                days = f"only the days {read_from} to {last} were read"
                say(f"{days}: for earlier ones, pass an earlier --to", "yellow")
        if getattr(result, "sampling_factor", 1.0) < 1:
            say(f"sampled: {result.sampling_factor:.0%} of the events were counted", "yellow")

    def _print(self, result: Any) -> None:
        if self.chart:
            width = max(MIN_CHART_WIDTH, shutil.get_terminal_size().columns)
            typer.echo(result.chart(width, color=sys.stdout.isatty() and not is_plain()))
        elif self.output.format is Format.CSV and hasattr(result, "to_table_dict"):
            write(result.to_table_dict(), self.output)
        else:
            write(result, self.output)


def live_options(
    *,
    _account: AccountOption = None,
    base_url: BaseUrlOption = None,
    max_wait: MaxWaitOption = None,
    workspace_id: ViewOption = None,
    format: FormatOption = None,
    jq: JqOption = None,
) -> LiveCommand:
    """Return the options shared by the commands that query Mixpanel: see `with_options`."""
    return LiveCommand(OutputOptions(format, jq), base_url, max_wait, workspace_id)


def live_chart_options(
    *,
    _account: AccountOption = None,
    base_url: BaseUrlOption = None,
    max_wait: MaxWaitOption = None,
    workspace_id: ViewOption = None,
    format: ChartFormatOption = None,
    jq: JqOption = None,
) -> LiveCommand:
    """Return the options of a command whose result `--format chart` can draw.

    :raises typer.BadParameter: for a chart with `--jq`.
    """
    is_chart = format is ChartFormat.CHART
    if is_chart and jq is not None:
        raise typer.BadParameter("--jq works on json and jsonl, not on chart")
    requested = None if format is None or is_chart else Format(format.value)
    output = OutputOptions(requested, jq)
    return LiveCommand(output, base_url, max_wait, workspace_id, chart=is_chart)


def required(name: str, argument: Any, option: Any) -> Any:
    """Return a value that may be given as an argument or as an option.

    :raises typer.BadParameter: if it is missing, or both are given and differ.
    """
    if argument is not None and option is not None and argument != option:
        raise typer.BadParameter(f"{name} is given twice, as an argument and as an option")
    if argument is None and option is None:
        raise typer.BadParameter(f"{name} is missing")
    return option if argument is None else argument


def split_names(context: typer.Context, values: list[str] | None) -> list[str] | None:
    """Split names at commas; a name with a comma must be quoted, as in CSV."""
    if not values or context.resilient_parsing:
        return values
    try:
        rows = [next(csv.reader([each], skipinitialspace=True, strict=True), []) for each in values]
    except csv.Error as error:
        raise typer.BadParameter(f"unclosed quote: {', '.join(values)}") from error
    return [name.strip() for row in rows for name in row if name.strip()]
