"""Options of the commands that query Mixpanel, and running such a command."""

import shutil
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mixpanel.cli._options.database import AccountOption
from mixpanel.cli._options.global_options import global_options
from mixpanel.cli._options.project import BaseUrlOption
from mixpanel.cli._options.shared import with_options
from mixpanel.cli._output.format import Format, FormatOption, JqOption, OutputOptions, write
from mixpanel.cli._output.terminal import is_plain, say

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from mixpanel.data.workspace import AsyncWorkspace

# Arguments of the library that no parameter of a command is called after.
OPTION_NAMES = {
    "return_": "--return", "interval_count": "--intervals", "distinct_ids": "--users",
    "exclude_events": "--exclude", "property_name": "PROPERTY", "entity_type": "--type",
    "bookmark_type": "--type", "funnel_id": "ID", "bookmark_id": "ID",
}  # fmt: skip
MIN_CHART_WIDTH = 40  # columns

MaxWaitOption = Annotated[
    float | None,
    typer.Option(
        "--max-wait", metavar="SECONDS", min=0, show_default="65 minutes",
        help="Fail instead of waiting longer for the hourly limit.",
    ),
]  # fmt: skip
WorkspaceIdOption = Annotated[
    int | None,
    typer.Option(
        "--workspace-id", metavar="ID", min=1, envvar="MP_WORKSPACE_ID",
        show_default="the whole project", help="The data view to query.",
    ),
]  # fmt: skip
FromOption = Annotated[
    str,
    typer.Option("--from", metavar="DAY", help="The first day, as 2026-01-31, in project time."),
]
ToOption = Annotated[str, typer.Option("--to", metavar="DAY", help="The last day, inclusive.")]
EventOption = Annotated[
    str | None, typer.Option("--event", "-e", metavar="EVENT", help="The same as EVENT.")
]
WhereOption = Annotated[
    str | None,
    typer.Option(
        "--where", "-w", metavar="EXPR",
        help="Only events that match, such as 'properties[\"plan\"] == \"team\"'.",
    ),
]  # fmt: skip
ChartOption = Annotated[
    bool, typer.Option("--chart", help="Draw a chart in the terminal instead of writing data.")
]


@dataclass(frozen=True, slots=True)
class LiveCommand:
    """How a command queries Mixpanel, and how it writes its result."""

    output: OutputOptions
    base_url: str | None
    max_wait: float | None
    workspace_id: int | None
    chart: bool = False

    def run(self, query: "Callable[[AsyncWorkspace], Coroutine[Any, Any, Any]]") -> Any:
        """Run a query and write its result; what is missing in it is noted on stderr."""
        import asyncio

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

        global_options.option_names = {**OPTION_NAMES, **global_options.option_names}
        result = asyncio.run(run_query())
        self._write(result)
        return result

    def _write(self, result: Any) -> None:
        if self.chart:
            width = max(MIN_CHART_WIDTH, shutil.get_terminal_size().columns)
            print(result.chart(width, color=sys.stdout.isatty() and not is_plain()))
        elif self.output.format is Format.CSV and hasattr(result, "to_table_dict"):
            write(result.to_table_dict(), self.output)
        else:
            write(result, self.output)
        if getattr(result, "limit_hit", False):
            say("a limit cut this off: there is more; give a larger --limit", "yellow")
        if getattr(result, "sampling_factor", 1.0) < 1:
            say(f"sampled: {result.sampling_factor:.0%} of the events were counted", "yellow")


def live(*, chart: bool = False) -> "Callable[[Callable[..., None]], Callable[..., None]]":
    """Add the options of a query to a command, which takes them as `live`.

    With `chart`, also the option that draws the result.
    """
    return with_options(live=_live_options_with_chart if chart else _live_options)


def _live_options(
    *,
    _account: AccountOption = None,
    base_url: BaseUrlOption = None,
    max_wait: MaxWaitOption = None,
    workspace_id: WorkspaceIdOption = None,
    format: FormatOption = None,  # noqa: A002
    jq: JqOption = None,
) -> LiveCommand:
    return LiveCommand(OutputOptions(format, jq), base_url, max_wait, workspace_id)


def _live_options_with_chart(
    *,
    chart: ChartOption = False,
    _account: AccountOption = None,
    base_url: BaseUrlOption = None,
    max_wait: MaxWaitOption = None,
    workspace_id: WorkspaceIdOption = None,
    format: FormatOption = None,  # noqa: A002
    jq: JqOption = None,
) -> LiveCommand:
    return LiveCommand(OutputOptions(format, jq), base_url, max_wait, workspace_id, chart)
