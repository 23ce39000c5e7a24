"""Drive PostHog's SDK; run by the interpreter of its own environment."""

import time
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
from posthog import Posthog
from workload import EVENT, calls, main, microseconds_each, per_second


def cost(url: str, count: int) -> dict[str, float]:
    """Time `capture` into the queue, while no thread takes from it."""
    best = float("inf")
    for _ in range(5):
        client = Posthog("phc_TOKEN", host=url, send=False, max_queue_size=count)

        def capture(who: str, what: dict[str, Any], client: Posthog = client) -> None:
            client.capture(EVENT, distinct_id=who, properties=what)

        best = min(best, microseconds_each(capture, count))
    return {"microseconds": best}


def buffered(url: str, count: int) -> dict[str, float]:
    client = Posthog("phc_TOKEN", host=url, max_queue_size=count)
    client.capture(EVENT, distinct_id="warm")
    client.flush()
    made = calls(count)
    started = time.perf_counter()
    for who, what in made:
        client.capture(EVENT, distinct_id=who, properties=what)
    client.flush(timeout_seconds=120)
    rate = per_second(count, started)
    client.shutdown()
    return {"per_second": rate}


FILTERS = [
    {"key": "country", "type": "person", "operator": "exact", "value": COUNTRY},
    {"key": "plan", "type": "person", "operator": "exact", "value": PLANS},
    {"key": "age", "type": "person", "operator": "gte", "value": AGE},
]


def definition(number: int, key: str, *, ruled: bool) -> dict[str, Any]:
    return {
        "id": number,
        "key": key,
        "active": True,
        "filters": {
            "groups": [{"properties": FILTERS if ruled else [], "rollout_percentage": SHARE}],
            "multivariate": {
                "variants": [{"key": key, "rollout_percentage": SPLIT * 100} for key in VARIANTS]
            },
        },
    }


def deciding(url: str, given: dict[str, bool]) -> Posthog:
    """Return a client with its flags; without a secret key it fetches nothing."""
    client = Posthog("phc_TOKEN", host=url, send=False)
    client.feature_flags = [
        definition(number, key, ruled=ruled) for number, (key, ruled) in enumerate(given.items(), 1)
    ]
    return client


def person(who: str, what: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    return who, what


def flag(url: str, count: int) -> dict[str, float]:
    client = deciding(url, flags(1))

    def decide(user: tuple[str, dict[str, Any]]) -> Any:
        return client.get_feature_flag_result(
            FLAG,
            user[0],
            person_properties=user[1],
            only_evaluate_locally=True,
            send_feature_flag_events=False,
        )

    confirm(lambda *user: [v for v in [decide(user).variant] if v is not None], flags(1))
    return {"microseconds": microseconds_a_user(person, decide, count)}


def flags100(url: str, count: int) -> dict[str, float]:
    given = flags(100)
    client = deciding(url, given)

    def decide(user: tuple[str, dict[str, Any]]) -> Any:
        return client.get_all_flags(user[0], person_properties=user[1], only_evaluate_locally=True)

    confirm(lambda *user: [v for v in decide(user).values() if v is not False], given)
    return {"microseconds": microseconds_a_user(person, decide, count)}


if __name__ == "__main__":
    main({"cost": cost, "buffered": buffered, "flag": flag, "flags100": flags100})
