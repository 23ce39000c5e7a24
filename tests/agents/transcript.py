"""Write the generated parts of docs/agents.md: `python -m tests.agents.transcript`.

They are the table of the tools and a run as an agent makes it, against an emulator.
"""

import json
import re
import tempfile
from pathlib import Path

from mixpanel._agents.errors import ToolFailure
from mixpanel._agents.tools import available
from tests.agents.shop import DAYS, STEPS, opened

PAGE = Path(__file__).parents[2] / "docs" / "agents.md"
VARYING = {
    "today": "2026-02-01",
    "computed_at": "2026-02-01T09:00:00+00:00",
    "fetched_at": "2026-02-01T09:00:00+00:00",
    "duration_seconds": 0.3,
    "bytes": 2900,
    "next_query_in_s": 3598,
    "next_export_in_s": 3598,
}
TABLE = {"table": "events", **DAYS}
RUN = [
    ("What is there?", "overview", {}),
    ("Nothing local yet, so: which events does the project have?", "list_events", {}),
    ("Three days of them, into a table.", "fetch_events", DAYS),
    (
        "How did the orders split over the plans?",
        "sql",
        {
            "query": "SELECT properties->>'$.plan' AS plan, count(*) AS orders, "
            "sum((properties->>'$.amount')::DOUBLE) AS amount FROM events "
            "WHERE event_name = 'Order Payed' GROUP BY ALL ORDER BY 1"
        },
    ),
    ("No rows. How is the event written?", "property_values",
     {"property": "plan", "event": "Order Payed"}),
    (
        "With the right name:",
        "sql",
        {
            "query": "SELECT properties->>'$.plan' AS plan, count(*) AS orders, "
            "sum((properties->>'$.amount')::DOUBLE) AS amount FROM events "
            "WHERE event_name = 'Order Paid' GROUP BY ALL ORDER BY 1"
        },
    ),
    ("And where do users stop?", "query", {"kind": "funnel", "events": list(STEPS), **TABLE}),
]  # fmt: skip


def shown(answer):
    """Return an answer with one field a line, and the same on each day."""
    lines = []
    for name, value in answer.items():
        fixed = _fixed(value) if name not in VARYING else VARYING[name]
        lines.append(f'  "{name}": {json.dumps(fixed, ensure_ascii=False)}')
    return "{\n" + ",\n".join(lines) + "\n}"


def _fixed(value):
    if isinstance(value, dict):
        return {key: VARYING.get(key, _fixed(inner)) for key, inner in value.items()}
    return [_fixed(inner) for inner in value] if isinstance(value, list) else value


def transcript():
    """Make the run, and return it as Markdown."""
    parts = []
    with tempfile.TemporaryDirectory() as folder, opened(Path(folder)) as shop:
        for thought, name, arguments in RUN:
            given = ", ".join(
                f"{key}={json.dumps(each, ensure_ascii=False)}" for key, each in arguments.items()
            )
            try:
                answer = shown(shop.call(name, **arguments))
            except ToolFailure as error:
                answer = str(error)
            parts.append(f"{thought}\n\n```text\n{name}({given})\n\n{answer}\n```\n")
    return "\n".join(parts)


def tools():
    """Return the table of the tools."""
    rows = ["| Tool | What it is for | Arguments |", "|---|---|---|"]
    for each in available(allow_writes=True):
        about = re.split(r"(?<=\.) (?:Example|Next|Use it)", each.description)[0]
        about = about.replace("|", "\\|")
        names = ", ".join(f"`{name}`" for name in each.arguments.model_fields)
        mark = " ¹" if each.writes else ""
        rows.append(f"| `{each.name}`{mark} | {about} | {names or 'none'} |")
    return "\n".join(rows) + "\n"


def generated(page):
    """Return the page with its generated parts made anew."""
    for name, make in (("tools", tools), ("transcript", transcript)):
        begin, end = f"<!-- generated: {name} -->\n", f"<!-- end: {name} -->\n"
        before, rest = page.split(begin)
        _, after = rest.split(end)
        page = f"{before}{begin}\n{make()}\n{end}{after}"
    return page


if __name__ == "__main__":
    PAGE.write_text(generated(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
