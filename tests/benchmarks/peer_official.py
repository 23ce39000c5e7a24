"""Drive the official SDK; run by the interpreter of its own environment."""

import time
from typing import Any

from workload import EVENT, calls, main, microseconds_each, per_second

from mixpanel import BufferedConsumer, Consumer, Mixpanel


def urls(url: str) -> dict[str, str]:
    return {"events_url": f"{url}/track", "people_url": f"{url}/engage"}


def cost(url: str, count: int, *, sending: bool = False) -> dict[str, float]:
    """Time `track` into the buffer; unless `sending`, the batches it fills go nowhere."""
    consumer = BufferedConsumer(**urls(url))
    if not sending:
        consumer._consumer.send = lambda *_args, **_options: None
    mp = Mixpanel("TOKEN", consumer)

    def track(who: str, what: dict[str, Any]) -> None:
        mp.track(who, EVENT, what)

    return {"microseconds": min(microseconds_each(track, count) for _ in range(5))}


def buffered(url: str, count: int) -> dict[str, float]:
    consumer = BufferedConsumer(**urls(url))
    mp = Mixpanel("TOKEN", consumer)
    mp.track("warm", EVENT)
    consumer.flush()
    made = calls(count)
    started = time.perf_counter()
    for who, what in made:
        mp.track(who, EVENT, what)
    consumer.flush()
    return {"per_second": per_second(count, started)}


def at_once(url: str, count: int) -> dict[str, float]:
    mp = Mixpanel("TOKEN", Consumer(**urls(url)))
    mp.track("warm", EVENT)
    made = calls(count)
    started = time.perf_counter()
    for who, what in made:
        mp.track(who, EVENT, what)
    return {"per_second": per_second(count, started)}


if __name__ == "__main__":
    main({"cost": cost, "buffered": buffered, "at_once": at_once})
