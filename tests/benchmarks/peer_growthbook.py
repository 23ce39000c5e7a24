"""Drive GrowthBook's SDK; run by the interpreter of its own environment."""

from typing import Any

from decisions import (
    AGE,
    COUNTRY,
    FLAG,
    PLANS,
    SHARE,
    SPLIT,
    VARIANTS,
    confirm,
    flags,
    microseconds_a_user,
)
from growthbook import GrowthBook
from workload import main

CONDITION = {"country": COUNTRY, "plan": {"$in": PLANS}, "age": {"$gte": AGE}}


def feature(key: str, *, ruled: bool) -> dict[str, Any]:
    rule = {
        "key": key,
        "variations": list(VARIANTS),
        "weights": [SPLIT] * len(VARIANTS),
        "coverage": SHARE / 100,
        "hashVersion": 2,
    }
    return {"rules": [{**rule, "condition": CONDITION} if ruled else rule]}


def instance(given: dict[str, bool]) -> GrowthBook:
    """Return an instance with its features; without a client key it fetches nothing."""
    return GrowthBook(features={key: feature(key, ruled=ruled) for key, ruled in given.items()})


def attributes(who: str, what: dict[str, Any]) -> dict[str, Any]:
    return {"id": who, **what}


def flag(_url: str, count: int) -> dict[str, float]:
    """Time a change of user and `eval_feature`, the least that a new user needs."""
    gb = instance(flags(1))

    def decide(user: dict[str, Any]) -> Any:
        gb.set_attributes(user)
        return gb.eval_feature(FLAG)

    confirm(lambda *user: [v for v in [decide(attributes(*user)).value] if v], flags(1))
    return {"microseconds": microseconds_a_user(attributes, decide, count)}


def flags100(_url: str, count: int) -> dict[str, float]:
    given = flags(100)
    gb = instance(given)

    def decide(user: dict[str, Any]) -> Any:
        gb.set_attributes(user)
        return [gb.eval_feature(key) for key in given]

    confirm(lambda *user: [r.value for r in decide(attributes(*user)) if r.value], given)
    return {"microseconds": microseconds_a_user(attributes, decide, count)}


if __name__ == "__main__":
    main({"flag": flag, "flags100": flags100})
