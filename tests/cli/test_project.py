"""`mp project …`: commands made from the table of resources, before an emulator with seeds."""

import shlex
from pathlib import Path

import httpx
import pytest

from mixpanel.cli import project
from mixpanel.data._project.resources import RESOURCES
from mixpanel.emulator import Emulator
from tests.cli.cli_data import environment, fill, runner

SEEDS = Path(__file__).parents[1] / "data" / "project" / "seeds.json"
FILES = {
    "trend.json": '{"sections": {"show": []}}',
    "buyers.json": '{"selector": {"operator": "and", "children": []}, "behaviors": {}}',
    "ruleset.json": '{"variants": [{"key": "on", "value": true, "split": 1}], "rollout": []}',
    "skus.csv": "sku,title\nA1,Green tea\nB2,Black tea\n",
}
COMMANDS = [
    (resource, endpoint, project._example(resource, endpoint))
    for resource in RESOURCES
    for endpoint in resource
]


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
    env = {**environment(emu.url, folder), "MP_PROJECT_ID": "4242", "MP_TOKEN": "T"}
    return runner(env)


@pytest.fixture
def token(monkeypatch):
    """Send a token, as the APIs about people require."""
    monkeypatch.setattr(
        "mixpanel.data.credentials.Credentials.authorization", lambda _self: "Bearer t0ken"
    )


@pytest.mark.parametrize("resource", RESOURCES, ids=lambda each: each.name)
def test_every_example_runs(emu, mp, token, resource):
    """As help shows it, and without anything on stderr but what was done."""
    for endpoint in resource:
        example = project._example(resource, endpoint)
        emu._project.saved.clear()
        emu.seed(SEEDS)
        httpx.put(f"{emu.url}/storage/lookup/1", content=FILES["skus.csv"]).raise_for_status()
        done = mp(*shlex.split(example)[1:])
        assert done.exit_code == 0, (example, done.stderr)
        if endpoint.returns == "nothing":
            assert (done.stdout, done.stderr) == ("", "Done.\n"), example
        else:
            assert done.stdout, example
            assert done.stderr == "", example
