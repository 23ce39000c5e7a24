"""Drive PostHog's SDK; run by the interpreter of its own environment."""

import time
from typing import Any

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


if __name__ == "__main__":
    main({"cost": cost, "buffered": buffered})
