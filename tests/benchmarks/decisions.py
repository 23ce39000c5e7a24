"""What every contestant is given to decide; imported by the drivers, so it needs nothing installed.

A flag splits 90 % of the users evenly between two variants. One in five, the first among them, has
a rule of three clauses; the users have five properties and each rule takes all of them, so that
no contestant is done after the first clause.
"""

import time
from collections import Counter
from collections.abc import Callable, Collection
from typing import Any

VARIANTS = ("control", "treatment")
SHARE = 90  # percent of the users
SPLIT = 1 / len(VARIANTS)
COUNTRY, PLANS, AGE = "DE", ["Pro", "Team"], 18  # the rule: ==, in, >=


def flags(count: int) -> dict[str, bool]:
    """Return the flags' keys, and whether they have the rule."""
    return {f"flag-{number:03}": number % 5 == 0 for number in range(count)}


FLAG = next(iter(flags(1)))


def properties(number: int) -> dict[str, Any]:
    """Return a typical user's five properties."""
    return {
        "country": COUNTRY,
        "plan": PLANS[number % len(PLANS)],
        "age": AGE + number % 50,
        "language": "de",
        "visits": number % 30,
    }


def users(count: int, kind: str = "user") -> list[tuple[str, dict[str, Any]]]:
    """Return different users, whose ids have ten characters."""
    return [(f"{kind}-{number:05}", properties(number)) for number in range(count)]


RULE = {
    "and": [
        {"==": [{"var": "country"}, COUNTRY]},
        {"in": [{"var": "plan"}, PLANS]},
        {">=": [{"var": "age"}, AGE]},
    ]
}


def definitions(given: dict[str, bool]) -> dict[str, Any]:
    """Return the flags as Mixpanel's servers would, for the official SDK and ours."""
    return {"flags": [_definition(key, ruled=ruled) for key, ruled in given.items()]}


def _definition(key: str, *, ruled: bool) -> dict[str, Any]:
    rule = {"runtime_evaluation_rule": RULE} if ruled else {}
    return {
        "id": key,
        "name": key,
        "key": key,
        "status": "enabled",
        "project_id": 1,
        "context": "distinct_id",
        "hash_salt": f"salt of {key}",
        "ruleset": {
            "variants": [
                {"key": variant, "value": variant, "is_control": not index, "split": SPLIT}
                for index, variant in enumerate(VARIANTS)
            ],
            "rollout": [{"rollout_percentage": SHARE / 100, **rule}],
        },
    }


def context(who: str, what: dict[str, Any]) -> dict[str, Any]:
    """Return a user's context, in the form that the official SDK and this one accept."""
    return {"distinct_id": who, "custom_properties": what}


def microseconds_a_user(
    context: Callable[[str, dict[str, Any]], Any],
    decide: Callable[[Any], object],
    count: int,
    known: tuple[str, dict[str, Any]] | None = None,
) -> float:
    """Return the time of `decide` for each of many users, or for a `known` one: the best round.

    Contexts are made beforehand. There must be more users than an SDK caches (this one caches
    1,024), because later rounds see the same users again.
    """
    made = [context(*user) for user in users(count)] if known is None else [context(*known)] * count
    best = float("inf")
    for _ in range(5):
        started = time.perf_counter()
        for one in made:
            decide(one)
        best = min(best, time.perf_counter() - started)
    return best / count * 1e6


def confirm(
    chosen: Callable[[str, dict[str, Any]], Collection[str]], given: dict[str, bool]
) -> None:
    """Make sure that a contestant's flags mean what everyone's do.

    `chosen` returns the variants of those flags that take a user. It is asked about users who are
    not timed.
    """
    some = users(500, "seen")
    seen = Counter(variant for user in some for variant in chosen(*user))
    expected = len(some) * len(given) * SHARE / 100
    assert set(seen) == set(VARIANTS), seen
    assert all(abs(seen[variant] * 2 / expected - 1) < 0.15 for variant in VARIANTS), seen
    unruled = len(given) - sum(given.values())
    for other in ({"country": "FR"}, {"plan": "Free"}, {"age": AGE - 1}):
        taken = sum(len(chosen(who, {**what, **other})) for who, what in some)
        expected = len(some) * unruled * SHARE / 100
        assert abs(taken - expected) <= expected * 0.1, (other, taken, expected)
