"""`mp docs`: the pages of the documentation, without a network."""

from typing import TYPE_CHECKING, Annotated

import typer

from mixpanel.cli._options.shared import with_options
from mixpanel.cli._output.format import OutputOptions, text_output_options, write

if TYPE_CHECKING:
    from mixpanel.cli.app import Command

EXAMPLES = """
mp docs
mp docs queries
mp docs agents#sql
mp docs llms.txt
"""


@with_options(output=text_output_options)
def docs(
    topic: Annotated[
        str,
        typer.Argument(
            metavar="TOPIC", show_default=False,
            help="A page, a section as page#section, or llms.txt; without it, a list.",
        ),
    ] = "",
    *,
    output: OutputOptions,
) -> None:  # fmt: skip
    """Print a page of the documentation.

    The pages are those of the installed version, and queries#run-a-query is a section of one.
    Without a topic they are listed, as a table on a terminal and else as JSON; llms.txt is the list
    in the form that models know. JSON has the sections of the page, too.
    """
    from mixpanel._agents import documentation

    as_text = output.requested is None and output.jq is None
    if topic.strip() == documentation.INDEX:
        typer.echo(documentation.llms_text(), nl=False)
        return
    if not topic.strip():
        rows = [
            {"topic": page.name, "title": page.title, "about": page.summary}
            for page in documentation.topics().values()
        ]
        write(rows, output)
        return
    page, section = documentation.find(topic)
    text = page.text if section is None else section.text
    if as_text:
        typer.echo(text, nl=False)
        return
    name = page.name if section is None else f"{page.name}#{section.slug}"
    answer = {"topic": name, "title": section.title if section else page.title, "text": text}
    write(answer | {"sections": documentation.outline(page)}, output)


COMMAND: "Command" = ("docs", docs, EXAMPLES)
