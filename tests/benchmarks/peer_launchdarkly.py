"""Drive LaunchDarkly's SDK; run by the interpreter of its own environment."""

import json
import tempfile
from pathlib import Path
from typing import Any

from decisions import (
    AGE,
    COUNTRY,
    FLAG,
    PLANS,
    SHARE,
    VARIANTS,
    confirm,
    flags,
    microseconds_a_user,
)
from ldclient import Config, Context, LDClient
from ldclient.integrations import Files
from workload import main

CLAUSES = [
    {"attribute": "country", "op": "in", "values": [COUNTRY]},
    {"attribute": "plan", "op": "in", "values": PLANS},
    {"attribute": "age", "op": "greaterThanOrEqual", "values": [AGE]},
]
NOTHING = len(VARIANTS)  # the variation of those who are left out
SPLIT = {
    "variations": [
        *({"variation": index, "weight": SHARE * 500} for index in range(len(VARIANTS))),
        {"variation": NOTHING, "weight": 100_000 - SHARE * 1000},
    ]
}


def definition(key: str, *, ruled: bool) -> dict[str, Any]:
    return {
        "key": key,
        "version": 1,
        "on": True,
        "salt": f"salt of {key}",
        "variations": [*VARIANTS, None],
        "offVariation": NOTHING,
        "rules": [{"id": "rule", "clauses": CLAUSES, "rollout": SPLIT}] if ruled else [],
        "fallthrough": {"variation": NOTHING} if ruled else {"rollout": SPLIT},
    }


def client(given: dict[str, bool]) -> LDClient:
    """Return a client with its flags from a file; it sends no events and fetches nothing."""
    made = {key: definition(key, ruled=ruled) for key, ruled in given.items()}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "flags.json"
        path.write_text(json.dumps({"flags": made}))
        source = Files.new_data_source(paths=[str(path)])
        config = Config("sdk-key", update_processor_class=source, send_events=False)
        ready = LDClient(config)
    assert ready.is_initialized()
    return ready


def context(who: str, what: dict[str, Any]) -> Context:
    builder = Context.builder(who)
    for name, value in what.items():
        builder.set(name, value)
    return builder.build()


def flag(_url: str, count: int, *, making: bool = False) -> dict[str, float]:
    """Time `variation`; with `making`, of the context too, which a new user needs."""
    ld = client(flags(1))

    def decide(user: Context) -> Any:
        return ld.variation(FLAG, user, None)

    def decide_from(user: tuple[str, dict[str, Any]]) -> Any:
        return ld.variation(FLAG, context(*user), None)

    confirm(lambda *user: [v for v in [decide_from(user)] if v is not None], flags(1))
    if making:
        return {"microseconds": microseconds_a_user(lambda *user: user, decide_from, count)}
    return {"microseconds": microseconds_a_user(context, decide, count)}


def flags100(_url: str, count: int) -> dict[str, float]:
    """Time `all_flags_state`, which is quicker than `variation` for each flag."""
    given = flags(100)
    ld = client(given)

    def chosen(*user: Any) -> list[str]:
        decided = ld.all_flags_state(context(*user)).to_values_map()
        return [variant for variant in decided.values() if variant is not None]

    confirm(chosen, given)
    return {"microseconds": microseconds_a_user(context, ld.all_flags_state, count)}


if __name__ == "__main__":
    main({"flag": flag, "flags100": flags100})
