"""Write docs/json-output.md: `python -m tests.cli.json_shapes`.

Each command is run with `--format json` against an emulator, and the shape of its result is shown:
the names of fields with the type of their values.
"""

import json
import re
import shlex
import tempfile
from pathlib import Path

from anyio.from_thread import start_blocking_portal

from mixpanel.data._queries import bookmarks
from mixpanel.data.project import DataRequest
from mixpanel.emulator import Emulator
from tests.agents.shop import FLAGS, STEPS, Shop, fill
from tests.agents.shop import events as shop_events
from tests.cli.cli_data import environment, runner
from tests.cli.cli_data import fill as fill_days
from tests.cli.project_examples import EXAMPLES, FILES, PROJECT, TOKEN, seed_again

PAGE = Path(__file__).parents[2] / "docs" / "json-output.md"
DAYS = ("--from", "2026-01-01", "--to", "2026-01-03")
PAID, OPENED = "Order Paid", "Opened App"
CONTEXT = ("--context", '{"distinct_id": "u-17"}')
QUERY = '{"query": "SELECT event_name, count(*) AS n FROM events GROUP BY ALL"}'
SAVED_DAYS = bookmarks.time_range("2026-01-01", "2026-01-03", None)
SEEDS = {
    "reports": [
        {"id": 77, "name": "Checkout", "type": "funnels",
         "params": bookmarks.funnel([OPENED, PAID], SAVED_DAYS)},
        {"id": 78, "name": "Orders", "type": "insights",
         "params": bookmarks.insights(PAID, SAVED_DAYS)},
    ],
    "cohorts": [{"id": 5, "name": "Buyers", "members": ["u-01"]}],
    "schemas": [{"entityType": "event", "name": PAID, "schemaJson": {"description": "Paid"}}],
}  # fmt: skip
# Fields whose objects have names of the data as keys; so have those with a key that is no word.
BY_NAME = ("series", "results", "data", "segments", "sample", "properties", "columns", "events")
WORD = re.compile(r"[a-z_]+")
MARK = "<!-- generated: shapes -->\n"
ABOUT_PROJECT = """\
`mp project` writes objects as Mixpanel returns them, which may have more fields than those of the
emulator below. Commands that are not listed, such as `delete`, write nothing. The objects are those
of [project data](project-data.md).
"""
COMMANDS = {
    "Local database": [
        ("query", "sql", "SELECT event_name, count(*) AS n FROM events GROUP BY ALL"),
        ("query", "sql", "--scalar", "SELECT count(*) FROM events"),
        ("inspect", "info"),
        ("inspect", "tables"),
        ("inspect", "schema", "events", "--sample"),
        ("inspect", "sample", "events"),
        ("inspect", "summarize", "events"),
        ("inspect", "breakdown", "events"),
        ("inspect", "keys", "events"),
        ("inspect", "column", "events", "properties->>'$.amount'"),
        ("inspect", "typed-table", "events"),
        ("inspect", "distribution", PAID, "plan", *DAYS),
        ("inspect", "numeric", PAID, "amount", *DAYS),
        ("inspect", "daily", *DAYS),
        ("inspect", "engagement", *DAYS),
        ("inspect", "reconcile", "events"),
        ("inspect", "coverage", PAID, "--properties", "plan,amount", *DAYS),
        ("schema",),
    ],
    "Fetching": [
        ("fetch", "events", "again", *DAYS),
        ("fetch", "events", "planned", *DAYS, "--dry-run"),
        ("fetch", "profiles", "people"),
        ("fetch", "profiles", "others", "--dry-run"),
    ],
    "What a project has": [
        ("inspect", "events"),
        ("inspect", "properties", PAID),
        ("inspect", "values", "plan", "--event", PAID),
        ("inspect", "funnels"),
        ("inspect", "cohorts"),
        ("inspect", "bookmarks"),
        ("inspect", "top-events"),
        ("inspect", "lexicon-schemas"),
    ],
    "Queries": [
        ("query", "segmentation", PAID, *DAYS, "--on", "plan"),
        ("query", "segmentation-numeric", PAID, *DAYS, "--on", "amount"),
        ("query", "segmentation-sum", PAID, *DAYS, "--on", "amount"),
        ("query", "segmentation-average", PAID, *DAYS, "--on", "amount"),
        ("query", "event-counts", PAID, OPENED, *DAYS),
        ("query", "property-counts", PAID, "plan", *DAYS),
        ("query", "funnel", "77", *DAYS),
        ("query", "retention", OPENED, PAID, *DAYS),
        ("query", "frequency", *DAYS),
        ("query", "activity-feed", "u-05", *DAYS),
        ("query", "saved-report", "78"),
        ("query", "flows", OPENED, *DAYS),
        ("query", "insights", PAID, *DAYS, "--by", "plan"),
    ],
    "Flags": [
        ("flags", "list", "--file", "flags.json"),
        ("flags", "eval", "new-checkout", *CONTEXT, "--file", "flags.json"),
        ("flags", "explain", "new-checkout", *CONTEXT, "--file", "flags.json"),
        ("flags", "lint", "flags.json"),
    ],
    "Accounts": [("auth", "list"), ("auth", "test")],
    "Documentation and tools": [
        ("docs",),
        ("docs", "agents"),
        ("mcp", "--tools"),
    ],
    "Answers of tools": [
        ("mcp", "--call", name, "--arguments", arguments)
        for name, arguments in {
            "overview": "{}",
            "list_events": "{}",
            "list_properties": f'{{"event": "{PAID}"}}',
            "property_values": f'{{"event": "{PAID}", "property": "plan"}}',
            "sql": QUERY,
            "query": json.dumps(
                {"kind": "funnel", "events": list(STEPS), "table": "events",
                 "from_date": "2026-01-01", "to_date": "2026-01-03"}
            ),
            "search_saved": '{"type": "all"}',
            "evaluate_flag": '{"key": "new-checkout", "distinct_id": "u-17"}',
            "explain": '{"topic": "agents#sql"}',
        }.items()
    ],
}  # fmt: skip


def results():
    """Yield each heading, command and result."""
    with (
        tempfile.TemporaryDirectory() as name,
        Emulator() as emu,
        start_blocking_portal() as portal,
    ):
        folder = Path(name)
        fill(emu, shop_events())
        emu.seed(SEEDS)
        (folder / "flags.json").write_text(json.dumps(FLAGS))
        mp = runner(environment(emu.url, folder))
        for command in (["events", *DAYS], ["profiles"]):
            assert 0 == mp("fetch", *command).exit_code
        # What `mp mcp --call` prints, without starting a process for each.
        shop = Shop(emu, portal, folder, allow_writes=False)
        for heading, commands in COMMANDS.items():
            for command in commands:
                if command[:2] == ("mcp", "--call"):
                    yield heading, command, shop.call(command[2], **json.loads(command[4]))
                    continue
                run = [each.replace("flags.json", f"{folder}/flags.json") for each in command]
                done = mp(*run, "--format", "json")
                assert 0 == done.exit_code, (command, done.stderr)
                yield heading, command, json.loads(done.stdout)
        portal.call(shop.toolbox.aclose)
    yield from project_results()


def project_results():
    """Yield the same of each command of `mp project` that has a result."""
    with tempfile.TemporaryDirectory() as name, Emulator() as emu:
        folder = Path(name)
        for file, text in FILES.items():
            (folder / file).write_text(text)
        fill_days(emu, days=1)
        mp = runner({**environment(emu.url, folder), **PROJECT})
        for resource, endpoint, example in EXAMPLES:
            if endpoint.returns == "nothing":
                continue
            seed_again(emu)
            run = example
            for file in FILES:
                run = run.replace(file, f"{folder}/{file}")
            env = TOKEN if resource.model is DataRequest else {}
            done = mp(*shlex.split(run)[1:], "--format", "json", **env)
            assert 0 == done.exit_code, (example, done.stderr)
            yield "Project", tuple(shlex.split(example)[1:]), json.loads(done.stdout)


# ---- shapes -------------------------------------------------------------------------------------


def shape(value, field=""):
    """Return the shape of a value: a set of types, a list with one shape, or a dict of shapes."""
    if field == "arguments":
        return {"JSON Schema"}
    if isinstance(value, dict):
        inner = {key: shape(each, key) for key, each in value.items()}
        if inner and (field in BY_NAME or not all(map(WORD.fullmatch, inner))):
            return {"…": merged(list(inner.values()))}
        return inner
    if isinstance(value, list):
        return [merged([shape(each) for each in value])] if value else []
    types = {bool: "boolean", int: "number", float: "number", str: "text"}
    return {types.get(type(value), "null")}


def merged(shapes):
    """Return the shape that all of them have."""
    if all(isinstance(each, dict) for each in shapes):
        keys = dict.fromkeys(key for each in shapes for key in each)
        return {key: merged([each[key] for each in shapes if key in each]) for key in keys}
    if all(isinstance(each, set) for each in shapes):
        return set().union(*shapes)
    lists = [each for each in shapes if isinstance(each, list)]
    if len(lists) == len(shapes):
        full = [each[0] for each in lists if each]
        return [merged(full)] if full else []
    return {"any"}


def written(found, indent=0):
    """Return a shape as text, on one line if it is short."""
    if isinstance(found, set):
        return " or ".join(sorted(found, key=lambda each: (each == "null", each)))
    if isinstance(found, list):
        return f"[{written(found[0], indent)}]" if found else "[]"
    parts = [f"{_key(key)}: {written(each, indent + 2)}" for key, each in found.items()]
    line = "{" + ", ".join(parts) + "}"
    if len(line) + indent < 90 and "\n" not in line:
        return line
    space = " " * (indent + 2)
    return "{\n" + ",\n".join(space + each for each in parts) + "\n" + " " * indent + "}"


def _key(key):
    return key if key == "…" else json.dumps(key, ensure_ascii=False)


def page():
    """Run the commands, and return the page with its introduction as it is."""
    head, _, _ = PAGE.read_text(encoding="utf-8").partition(MARK)
    parts, last, of_project = [head + MARK], None, {}
    for heading, command, result in results():
        found = written(shape(result))
        if heading == "Project":  # commands with the same shape have one entry
            of_project.setdefault(found, []).append(f"`mp {shlex.join(command)}`")
            continue
        if heading != last:
            parts.append(f"## {heading}\n")
            last = heading
        parts.append(f"`mp {shlex.join(command)}`\n\n```text\n{found}\n```\n")
    parts.append(f"## Project\n\n{ABOUT_PROJECT}")
    for found, commands in of_project.items():
        lines = "\\\n".join(commands)
        parts.append(f"{lines}\n\n```text\n{found}\n```\n")
    return "\n".join(parts)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
