"""The official client and this one, given the same definitions, select the same variants."""

import json
import subprocess

import pytest

from mixpanel import LocalFlagsConfig
from mixpanel.flags.local_feature_flags import LocalFeatureFlagsProvider
from tests import peers

pytestmark = pytest.mark.slow

OFFICIAL = peers.python("official")
USERS = 10_000
COUNTRIES = ("CH", "de", "Fr", "jp")
PLANS = ("Free", "team", "ENTERPRISE")

SCRIPT = """
import json, logging, sys
logging.disable()
from mixpanel import LocalFlagsConfig, Mixpanel
from mixpanel.flags.types import SelectedVariant
url, keys, users = sys.argv[1], json.loads(sys.argv[2]), json.load(sys.stdin)
mp = Mixpanel("T", None, local_flags_config=LocalFlagsConfig(enable_polling=False))
flags = mp.local_flags
flags._sync_client.base_url = url  # it always uses https for its api_host
flags.start_polling_for_definitions()
none = SelectedVariant(None)
print(json.dumps([
    [flags.get_variant(key, none, user, report_exposure=False).variant_key for key in keys]
    for user in users
]))
"""


def flag(key, *rollouts, splits=(0.5, 0.5), **more):
    return {
        "id": key, "name": key, "key": key, "status": "enabled", "project_id": 1,
        "context": "distinct_id",
        "ruleset": {
            "variants": [
                {"key": name, "value": name, "is_control": name == "a", "split": split}
                for name, split in zip("abcdef", splits, strict=False)
            ],
            "rollout": list(rollouts),
            "test": more.pop("test", None),
        },
        **more,
    }  # fmt: skip


def when(percentage, rule, **more):
    return {"rollout_percentage": percentage, "runtime_evaluation_rule": rule, **more}


DEFINITIONS = [
    flag("half", {"rollout_percentage": 0.5}),
    flag("salted", {"rollout_percentage": 0.3}, {"rollout_percentage": 0.5}, hash_salt="abc"),
    flag("empty-salt", {"rollout_percentage": 0.7}, hash_salt=""),
    flag("odd-splits", {"rollout_percentage": 1.0}, splits=(0.01, 0.05, 0.94)),
    flag("short-splits", {"rollout_percentage": 1.0}, splits=(0.2, 0.2)),
    flag("override", {"rollout_percentage": 0.4, "variant_override": {"key": "B"}}),
    flag("resplit", {"rollout_percentage": 1.0, "variant_splits": {"a": 0.9, "b": 0.1}}),
    flag("plan", when(0.8, {"==": [{"var": "plan"}, "Team"]})),
    flag(
        "rules",
        when(
            0.9,
            {
                "and": [
                    {"in": [{"var": "country"}, ["CH", "DE"]]},
                    {">=": [{"var": "age"}, 30]},
                    {"!=": [{"var": "plan"}, "free"]},
                ]
            },
        ),
        {"rollout_percentage": 0.1},
    ),
    flag("between", when(1.0, {"<=": [20, {"var": "age"}, 40]})),
    flag("version", when(1.0, {"semver_compare": [{"var": "version"}, ">=", "1.10.0-rc.2"]})),
    flag("tested", {"rollout_percentage": 0.0}, test={"users": {"user-7": "B", "user-8": "zz"}}),
]


def user(n):
    return {
        "distinct_id": f"user-{n}",
        "custom_properties": {
            "plan": PLANS[n % 3],
            "country": COUNTRIES[n % 4],
            "age": n % 70,
            "version": f"1.{n % 13}.{n % 5}" + ("-rc.1" if n % 7 == 0 else ""),
        },
    }


@pytest.mark.heavy
@pytest.mark.skipif(not OFFICIAL.exists(), reason="python -m tests.peers official makes it")
@pytest.mark.parametrize("rule_engine", ["json-logic", "default"])
def test_ten_thousand_users_get_the_same_variants(emu, rule_engine):
    """Hashes, salts, splits, overrides, test users and rules: every decision is the same."""
    emu.set_flags(DEFINITIONS)
    users = [user(n) for n in range(USERS)]
    keys = [definition["key"] for definition in DEFINITIONS]
    command = [OFFICIAL, "-I", "-c", SCRIPT, emu.url, json.dumps(keys)]
    done = subprocess.run(
        command, input=json.dumps(users), capture_output=True, text=True, check=True
    )
    config = LocalFlagsConfig(base_url=emu.url, enable_polling=False, rule_engine=rule_engine)
    with LocalFeatureFlagsProvider("T", config, "1", lambda *_: None) as flags:
        flags.start_polling_for_definitions()
        ours = []
        for context in users:
            snapshot = flags.snapshot(context)
            ours.append([snapshot.get_variant(key).variant_key for key in keys])
    theirs = json.loads(done.stdout)
    assert {key for row in theirs for key in row} >= {"a", "b", "c", None}
    assert ours == theirs
