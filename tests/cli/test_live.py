"""`mp query …` and `mp inspect …` for what Mixpanel computes, with a server of the tests."""

import itertools
import json
import re
import shlex
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest

from mixpanel.cli import live_inspect, live_query
from mixpanel.cli._output.exit_codes import ExitCode
from tests.cli.cli_data import environment, runner
from tests.data.queries.fake_mixpanel import FakeMixpanel
from tests.data.queries.test_inline import FIGURES, insights
from tests.data.queries.test_live import BOOKMARKS, COHORTS, FLOWS, event, feed, series, steps

DAYS = ("--from", "2026-01-01", "--to", "2026-01-03")
PAID = {"2026-01-03": 40, "2026-01-01": 31}


class Handler(BaseHTTPRequestHandler):
    """Pass each request to the fake, and send its response."""

    def do_GET(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        url = f"http://localhost{self.path}"
        request = httpx.Request(self.command, url, headers=dict(self.headers), content=body)
        response = self.server.fake(request)
        self.send_response(response.status_code)
        self.send_header("Content-Length", str(len(response.content)))
        for name in {"Retry-After"} & {name.title() for name in response.headers}:
            self.send_header(name, response.headers[name])
        self.end_headers()
        self.wfile.write(response.content)

    do_POST = do_GET  # noqa: N815 - the name that the standard library calls

    def log_message(self, *_):
        """Keep quiet."""


@pytest.fixture
def server():
    """A fake Mixpanel with responses for every command; its project is 42."""
    fake = FakeMixpanel()
    project = "/api/app/projects/42"
    fake["/api/app/me"] = {"results": {"projects": {"42": {"timezone": "Europe/Oslo"}}}}
    fake[f"{project}/workspaces/public"] = {"results": [{"id": 77, "is_global": True}]}
    fake[f"{project}/bookmarks"] = BOOKMARKS
    rows = [{"entityType": "event", "name": "Order Paid", "schemaJson": {"description": "Paid"}}]
    fake[f"{project}/schemas"] = fake[f"{project}/schemas/event"] = {"results": rows}
    fake[f"{project}/schemas/event/Order Paid"] = {"results": rows[0]["schemaJson"]}
    fake["segmentation"] = series(Order_Paid=PAID)
    fake["segmentation/numeric"] = series(**{"10_-_20": PAID})
    fake["segmentation/sum"] = fake["segmentation/average"] = {"results": PAID}
    fake["events"] = series(Order_Paid=PAID, Opened_App=PAID)
    fake["events/properties"] = series(team=PAID)
    fake["events/properties/top"] = {"plan": {"count": 1}, "amount": {"count": 1}}
    fake["events/properties/values"] = ["team", "free"]
    fake["events/top"] = {"events": [{"event": "Order Paid", "amount": 3, "percent_change": 0.5}]}
    fake["funnels/list"] = [{"funnel_id": 77, "name": "Checkout"}]
    fake["cohorts/list"] = [{"id": 5, "name": "Power", "count": 8}]
    both = {"$overall": steps(4, 2), "team": steps(3, 2)}
    fake["funnels"] = lambda sent: {
        "data": {"2026-01-01": both if "on" in sent.query else {"steps": steps(4, 2)}}
    }
    fake["retention"] = COHORTS
    fake["retention/addiction"] = {"data": {"2026-01-01": [3, 1]}}
    fake["insights"] = insights({"Order Paid": {"2026-01-01T00:00:00": 31}})
    fake["arb_funnels"] = FLOWS
    fake["stream/bookmark"] = feed(event("Order Paid", 10, amount=5))
    fake["jql"] = [{"key": ["team"], "value": 3}]
    return fake


@pytest.fixture
def mp(server, tmp_path):
    """Run `mp` with this server."""
    listening = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    listening.fake = server
    listening.daemon_threads = True
    thread = threading.Thread(target=listening.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        env = environment(f"http://127.0.0.1:{listening.server_port}", tmp_path)
        yield runner({**env, "MP_LIMITS_DIR": "off"})
    finally:
        listening.shutdown()
        thread.join()
        listening.server_close()


def rows(done):
    """Return the rows of CSV output."""
    assert done.exit_code == 0, done.stderr
    head, *lines = done.stdout.splitlines()
    return [dict(zip(head.split(","), line.split(","), strict=True)) for line in lines]


QUERIES = [
    (("segmentation", "Order Paid", *DAYS), "segmentation"),
    (("segmentation", "--event", "Order Paid", "--on", "plan", *DAYS), "segmentation"),
    (("segmentation-numeric", "Order Paid", "--on", "amount", *DAYS), "segmentation/numeric"),
    (("segmentation-sum", "-e", "Order Paid", "-o", "amount", *DAYS), "segmentation/sum"),
    (("segmentation-average", "Order Paid", "-o", "amount", *DAYS), "segmentation/average"),
    (("event-counts", "Order Paid", "Opened App", *DAYS), "events"),
    (("event-counts", "-e", "Order Paid,Opened App", *DAYS), "events"),
    (("property-counts", "Order Paid", "plan", *DAYS), "events/properties"),
    (("property-counts", "-e", "Order Paid", "-p", "plan", *DAYS), "events/properties"),
    (("property-counts", "-e", "Order Paid", "plan", *DAYS), "events/properties"),
    (("funnel", "77", *DAYS, "--unit", "day"), "funnels"),
    (("retention", "Opened App", "Order Paid", *DAYS), "retention"),
    (("retention", "-b", "Opened App", "-r", "Order Paid", "-n", "3", *DAYS), "retention"),
    (("frequency", "-e", "Opened App", *DAYS), "retention/addiction"),
    (("activity-feed", "u-17"), "stream/bookmark"),
    (("activity-feed", "-U", "u-17,u-18", "--from", "2026-01-01"), "stream/bookmark"),
    (("saved-report", "1"), "insights"),
    (("flows", "4"), "arb_funnels"),
    (("flows", "Opened App", *DAYS, "--direction", "both"), "arb_funnels"),
    (("insights", "Order Paid", "--last", "7", "--by", "plan"), "insights"),
    (("insights", "Order Paid", "Opened App", "--formula", "A / B", *DAYS), "insights"),
    (("jql", "-c", "function main() {}", "-P", "a=1"), "jql"),
]


@pytest.mark.slow
@pytest.mark.parametrize(("arguments", "path"), QUERIES, ids=lambda value: str(value)[:60])
@pytest.mark.parametrize("form", ["json", "csv", "table"])
def test_every_query_writes_every_format(mp, server, arguments, path, form):
    """With one query, the result on stdout and nothing on stderr."""
    done = mp("query", *arguments, "--format", form)
    assert done.exit_code == 0, done.stderr
    assert done.stderr == ""
    assert server.last.path == f"/api/query/{path}"
    assert len(server.queries) == 1
    if form == "json":
        assert isinstance(json.loads(done.stdout), dict)
    else:
        assert len(done.stdout.splitlines()) > 1


LISTS = [
    (("events",), ["Opened App", "Order Paid", "Signed Up"]),
    (("properties", "Order Paid"), ["amount", "plan"]),
    (("properties", "-e", "Order Paid"), ["amount", "plan"]),
    (("values", "plan", "-e", "Order Paid"), ["team", "free"]),
    (("values", "--property", "plan"), ["team", "free"]),
    (("funnels",), ["Checkout"]),
    (("cohorts",), ["Power"]),
    (("bookmarks", "-t", "flows"), ["Checkout", "Come back", "Paths", "Trend"]),
    (("top-events",), ["Order Paid"]),
    (("lexicon-schemas", "-t", "event"), ["Order Paid"]),
    (("lexicon-schema", "event", "Order Paid"), ["Order Paid"]),
    (("lexicon-schema", "-t", "event", "-n", "Order Paid"), ["Order Paid"]),
]


@pytest.mark.slow
@pytest.mark.parametrize(("arguments", "expected"), LISTS, ids=lambda value: str(value)[:60])
def test_lists_in_plain_format_have_one_name_per_line(mp, arguments, expected):
    """For other programs."""
    done = mp("inspect", *arguments, "--format", "plain")
    assert done.exit_code == 0, done.stderr
    assert done.stdout.splitlines() == expected


PAGE = (Path(__file__).parents[2] / "docs" / "queries.md").read_text()
EXAMPLES = [
    *re.findall(r"^\$ (mp .+)$", PAGE, re.MULTILINE),
    *(
        line
        for _, _, examples in (*live_query.COMMANDS, *live_inspect.COMMANDS)
        for line in examples.strip().splitlines()
    ),
]


@pytest.mark.slow
@pytest.mark.parametrize("line", EXAMPLES)
def test_every_example_of_help_and_documentation_runs(mp, tmp_path, monkeypatch, line):
    """Unchanged."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "top.js").write_text("function main() { return [] }")
    done = mp(*shlex.split(line)[1:])
    assert done.exit_code == 0, done.stderr
    assert done.stdout


def test_every_live_command_is_covered_here():
    """A new command must be added to these tests."""
    assert {each[0][0] for each in QUERIES} == {name for name, _, _ in live_query.COMMANDS}
    assert {each[0][0] for each in LISTS} == {name for name, _, _ in live_inspect.COMMANDS}


def test_csv_has_a_row_for_each_figure(mp):
    """Like the table, and not one row of JSON."""
    found = rows(mp("query", "segmentation", "Order Paid", *DAYS, "-f", "csv"))
    assert found[0] == {"date": "2026-01-01", "segment": "Order Paid", "count": "31"}
    assert len(found) == 3


def test_jq_filters_the_json_of_a_result(mp):
    """The filter gets the whole result."""
    done = mp("query", "segmentation", "Order Paid", *DAYS, "--jq", ".total")
    assert done.stdout == "71\n"


@pytest.mark.slow
@pytest.mark.parametrize("width", ["80", "120"])
@pytest.mark.parametrize(
    "arguments",
    [
        ("segmentation", "Order Paid", *DAYS), ("funnel", "77", *DAYS),
        ("retention", "Opened App", "Order Paid", *DAYS), ("flows", "4"), ("saved-report", "1"),
    ],
)  # fmt: skip
def test_a_chart_fits_the_terminal(mp, arguments, width):
    """Without colours if stdout is not a terminal."""
    done = mp("query", *arguments, "--format", "chart", COLUMNS=width)
    assert done.exit_code == 0, done.stderr
    assert done.stdout
    assert max(map(len, done.stdout.splitlines())) <= int(width)
    assert "\x1b" not in done.stdout


def test_a_chart_cannot_be_combined_with_jq(mp):
    """And lists of names have no chart."""
    for command in (("query", "funnel", "77", *DAYS, "--jq", "."), ("inspect", "events")):
        done = mp(*command, "--format", "chart")
        assert done.exit_code == ExitCode.USAGE


def test_a_truncated_result_is_noted_on_stderr(mp, server):
    """The result itself is written as usual."""
    done = mp("query", "segmentation", "Order Paid", "--on", "plan", "--limit", "1", *DAYS)
    assert "cut off by the limit" in done.stderr
    assert json.loads(done.stdout)["total"] is None
    done = mp("inspect", "events", "--limit", "3")
    assert "cut off by the limit" in done.stderr
    server["insights"] = insights({"a": {"all": 1}}, meta={"min_sampling_factor": 0.1})
    done = mp("query", "insights", "Order Paid", "--total", *DAYS)
    assert "10% of the events" in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "code", "about"),
    [
        (("segmentation", *DAYS), ExitCode.USAGE, "EVENT is missing"),
        (("segmentation", "a", "-e", "b", *DAYS), ExitCode.USAGE, "EVENT is given twice"),
        (("segmentation", "a", "--from", "x", "--to", "2026-01-01"), ExitCode.USAGE,
         "--from 'x' is not a date"),
        (("segmentation", "a", "--from", "2026-01-03", "--to", "2026-01-01"), ExitCode.USAGE,
         "--from 2026-01-03 is later than --to 2026-01-01"),
        (("segmentation", "Order Paid", *DAYS, "-w", "plan = 1"), ExitCode.USAGE,
         "at character 6"),
        (("segmentation", "a", *DAYS, "--unit", "year"), ExitCode.USAGE, "year"),
        (("retention", "a", "b", *DAYS, "-i", "2", "-u", "week"), ExitCode.USAGE,
         "exclude each other"),
        (("flows", "4", "--direction", "both"), ExitCode.USAGE, "leave out --direction"),
        (("insights", "a", "--math", "p91"), ExitCode.USAGE, "is unknown"),
        (("insights", "a", "--formula", "A / B"), ExitCode.USAGE, "the formula uses B"),
        (("jql",), ExitCode.USAGE, "FILE or with --script"),
        (("jql", "none.js"), ExitCode.NOT_FOUND, "No such file"),
        (("jql", "-c", "x", "--params", "["), ExitCode.USAGE, "not JSON"),
        (("jql", "-c", "x", "-P", "a"), ExitCode.USAGE, "NAME=VALUE"),
        (("saved-report", "99"), ExitCode.NOT_FOUND, "there is no report 99"),
        (("funnel", "78", *DAYS), ExitCode.NOT_FOUND, "there are 77 (Checkout)"),
        (("segmentation", "order paid", *DAYS), ExitCode.NOT_FOUND, "did you mean Order Paid"),
    ],
)  # fmt: skip
def test_errors_of_live_commands_are_one_line_with_an_exit_code(mp, server, arguments, code, about):
    """They name the options of the command line."""
    if "78" in arguments or "99" in arguments:
        server["funnels"] = server["insights"] = (400, {"error": "not there"})
    if "order paid" in arguments:
        server["segmentation"] = series()
    done = mp("query", *arguments)
    assert done.exit_code == code, done.stderr
    assert about in " ".join(done.stderr.replace("│", " ").split())
    assert done.stdout == ""
    assert "Traceback" not in done.stderr


def test_errors_of_live_commands_may_be_json(mp, server):
    """With the code and the fields of the error."""
    server["segmentation"] = (402, "pay")
    done = mp("--error-format", "json", "query", "segmentation", "Order Paid", *DAYS)
    assert done.exit_code == ExitCode.AUTHENTICATION
    assert json.loads(done.stderr)["code"] == "PLAN_LIMIT"


def test_max_wait_zero_fails_without_waiting(mp, server):
    """With the exit code for rate limits, and the time of the next start."""
    server["segmentation"] = httpx.Response(429, json={}, headers={"Retry-After": "1800"})
    done = mp("query", "segmentation", "Order Paid", *DAYS, "--max-wait", "5")
    assert done.exit_code == ExitCode.RATE_LIMITED
    assert len(server.queries) == 1


def test_a_jql_script_may_come_from_a_file(mp, server, tmp_path):
    """With parameters as JSON and one by one."""
    script = tmp_path / "top.js"
    script.write_text("function main() { return [] }")
    done = mp("query", "jql", script, "--params", '{"a": 1}', "-P", "b=x y")
    assert done.exit_code == 0, done.stderr
    assert server.last.form == {
        "script": "function main() { return [] }", "params": '{"a":1,"b":"x y"}',
    }  # fmt: skip
    done = mp("query", "jql", "-", given="function main() {}")
    assert server.last.form["script"] == "function main() {}"


def test_a_long_activity_feed_says_which_days_were_read(mp, server):
    """And not that a larger --limit would help."""
    pages = itertools.count()
    server["stream/bookmark"] = lambda _: {
        "results": {"events": [], "sentinel_event": {"x": next(pages)}}
    }
    days = ("--from", "2013-02-09", "--to", "2025-12-31")
    done = mp("query", "activity-feed", "u-17", *days)
    assert "only the days 2025-01-06 to 2025-12-31 were read" in done.stderr
    assert "--limit" not in done.stderr


def test_a_data_view_may_be_selected(mp, server):
    """It is sent with queries that accept it."""
    mp("query", "activity-feed", "u-17", "--workspace-id", "12")
    assert server.last.json["workspace_id"] == 12


def test_a_saved_funnel_report_has_a_chart(mp, server):
    """Its steps by number."""
    server["insights"] = {"headers": ["$funnel"]} | insights({"a": FIGURES}, headers=["$funnel"])
    done = mp("query", "saved-report", "2", "--format", "chart")
    assert "Opened App" in done.stdout
