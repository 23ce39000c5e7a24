"""The examples of `mp project`, and what they need: files, seeds, and who may call."""

from pathlib import Path

import httpx

from mixpanel.cli import project
from mixpanel.data._project.resources import RESOURCES

SEEDS = Path(__file__).parents[1] / "data" / "project" / "seeds.json"
FILES = {
    "trend.json": '{"sections": {"show": []}}',
    "buyers.json": '{"selector": {"operator": "and", "children": []}, "behaviors": {}}',
    "ruleset.json": '{"variants": [{"key": "on", "value": true, "split": 1}], "rollout": []}',
    "skus.csv": "sku,title\nA1,Green tea\nB2,Black tea\n",
}
EXAMPLES = [
    (resource, endpoint, project._example(resource, endpoint))
    for resource in RESOURCES
    for endpoint in resource
]
PROJECT = {"MP_PROJECT_ID": "4242", "MP_TOKEN": "T"}
# The APIs about people take tokens only.
TOKEN = {"MP_USERNAME": None, "MP_SECRET": None, "MP_OAUTH_TOKEN": "t0ken"}


def seed_again(emu):
    """Give an emulator an object of each kind, whatever an example did to them."""
    emu._project.saved.clear()
    emu.seed(SEEDS)
    httpx.put(f"{emu.url}/storage/lookup/1", content=FILES["skus.csv"]).raise_for_status()
