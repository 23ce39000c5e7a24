"""`mp project …`: commands made from the table of resources, before an emulator with seeds."""

import json
import shlex

import pytest

from mixpanel.cli import project
from mixpanel.cli.app import Subgroup
from mixpanel.data._project.resources import RESOURCES
from mixpanel.data.project import DataRequest
from mixpanel.emulator import Emulator, Fault
from tests.cli.cli_data import environment, fill, runner
from tests.cli.project_examples import FILES, PROJECT, SEEDS, TOKEN, seed_again


@pytest.fixture
def emu():
    """A server with an object of each kind."""
    with Emulator() as emulator:
        yield emulator


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("project")
    for name, text in FILES.items():
        (folder / name).write_text(text)
    return folder


@pytest.fixture
def mp(emu, folder, monkeypatch):
    """Run `mp project` before the seeded server."""
    emu.clear()
    fill(emu, days=1)
    emu.seed(SEEDS)
    monkeypatch.chdir(folder)
    env = {**environment(emu.url, folder), **PROJECT}
    return runner(env)


@pytest.mark.slow
@pytest.mark.parametrize("resource", RESOURCES, ids=lambda each: each.name)
def test_every_example_runs(emu, mp, resource):
    """As help shows it, and without anything on stderr but what was done."""
    env = TOKEN if resource.model is DataRequest else {}
    for endpoint in resource:
        example = project._example(resource, endpoint)
        seed_again(emu)
        done = mp(*shlex.split(example)[1:], **env)
        assert done.exit_code == 0, (example, done.stderr)
        if endpoint.returns == "nothing":
            assert (done.stdout, done.stderr) == ("", "Done.\n"), example
        else:
            assert done.stdout, example
            assert done.stderr == "", example


@pytest.mark.slow
def test_what_cannot_be_undone_asks(emu, mp):
    """Nothing is sent without a yes; scripts pass --yes, and --dry-run sends nothing at all."""
    deleting = ("project", "dashboards", "delete", "1002")
    asked = mp(*deleting, given="n\n")
    assert (1, "") == (asked.exit_code, asked.stdout)
    assert "dashboard 1002: delete a board; its reports stay." in asked.stderr
    silent = mp(*deleting)
    assert silent.exit_code == 3
    assert "add --yes" in silent.stderr
    plan = mp(*deleting, "--dry-run")
    assert "/api/app/projects/4242/dashboards/1002" == json.loads(plan.stdout)["path"]
    assert not [each for each in emu.requests() if each.method == "DELETE"]
    assert 0 == mp(*deleting, given="y\n").exit_code
    assert 4 == mp("project", "dashboards", "get", "1002").exit_code


def test_what_is_dangerous_only_with_an_option_asks_then(mp):
    """As discarding an event."""
    kept = mp("project", "events", "update", "Order Paid", "--no-dropped")
    assert kept.exit_code == 0, kept.stderr
    dropped = mp("project", "events", "update", "Order Paid", "--dropped")
    assert (3, True) == (dropped.exit_code, "add --yes" in dropped.stderr)


def test_passwords_come_from_json_and_are_shown_nowhere(mp, folder):
    """Neither in a dry run nor in what was created."""
    (folder / "hook.json").write_text(
        '{"name": "Sync", "url": "https://example.org", "password": "pa55", "brand_new": 1}'
    )
    creating = ("project", "webhooks", "create", "--json", "@hook.json")
    plan = mp(*creating, "--dry-run")
    assert {"name": "Sync", "url": "https://example.org", "password": "***", "brand_new": 1} == (
        json.loads(plan.stdout)["body"]
    )
    made = mp(*creating, "--password", "-", given="pa55\n")
    assert (0, 1) == (made.exit_code, json.loads(made.stdout)["brand_new"])
    assert "pa55" not in made.stdout + made.stderr


@pytest.mark.slow
def test_lists_are_written_in_every_format(mp):
    """A table has the short fields, CSV and JSON have all."""
    listing = ("project", "reports", "list")
    assert ["Trend"] == mp(*listing, "-f", "plain").stdout.splitlines()
    head, *rows = mp(*listing, "-f", "csv").stdout.splitlines()
    assert ({"id", "name", "params"} <= set(head.split(",")), 1) == (True, len(rows))
    table = mp(*listing, "-f", "table").stdout.splitlines()
    assert ["id", "name", "type"] == table[0].split()[:3]
    assert '"Trend"' == mp(*listing, "--jq", ".[0].name").stdout.strip()
    assert 1 == len(mp(*listing, "-f", "jsonl").stdout.splitlines())


WRONG = [
    (("dashboards", "create"), 3, "needs --title"),
    (("dashboards", "get", "9"), 4, "there is no dashboard 9"),
    (
        ("reports", "create", "--name", "x", "--type", "chart", "--params", "{}"),
        3,
        "choose insights",
    ),
    (("reports", "create", "--name", "x", "--type", "flows", "--params", "{"), 3, "not valid JSON"),
    (("reports", "create", "--name", "x", "--type", "flows", "--params", "@no.json"), 4, "no.json"),
    (("dashboards", "update", "1002", "--json", "[]"), 3, "--json must be a JSON object"),
    (("annotations", "list", "--from", "tomorrow"), 3, "must be a day"),
    (("metrics", "create", "--name", "Paid", "--definition", "{}"), 1, "of that name already"),
    (("dashboards", "remove", "7"), 3, "No such command"),
    (("webhooks", "update", "1005", "--password", "pa55word"), 3, "as @FILE, or as - for stdin"),
]


@pytest.mark.slow
@pytest.mark.parametrize(("arguments", "code", "text"), WRONG, ids=[each[2] for each in WRONG])
def test_mistakes_are_said_in_the_words_of_the_shell(mp, arguments, code, text):
    """With an exit code of their kind."""
    done = mp("project", *arguments)
    assert (code, "") == (done.exit_code, done.stdout)
    assert text in done.stderr


def test_a_refused_permission_has_the_exit_code_of_credentials(emu, mp):
    """403, as for 401 and 402."""
    emu.play(Fault.status(403).forever(), path="/api/app/projects/4242/dashboards")
    done = mp("project", "dashboards", "list")
    assert (2, True) == (done.exit_code, "lack a permission" in done.stderr)


def test_every_method_of_the_library_has_a_command():
    """Under its name with hyphens."""
    groups = {each.name: each for each in project.COMMANDS if isinstance(each, Subgroup)}
    assert {each.command for each in RESOURCES} == set(groups)
    for resource in RESOURCES:
        names = [name for name, _, _ in groups[resource.command].commands()]
        assert names == [each.name.replace("_", "-") for each in resource]
