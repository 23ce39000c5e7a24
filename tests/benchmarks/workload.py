"""What every contestant is given to do; imported by the drivers, so it needs nothing installed."""

import json
import sys
import time
from collections.abc import Callable, Iterator
from itertools import cycle, islice
from typing import Any

EVENT = "Order Paid"


def properties(number: int) -> dict[str, Any]:
    """Return a typical event's six properties."""
    return {
        "order_id": f"order-{number}",
        "amount": 12.5 + number % 100,
        "currency": "EUR",
        "items": number % 7,
        "coupon": None,
        "first_order": number % 5 == 0,
    }


def calls(count: int) -> Iterator[tuple[str, dict[str, Any]]]:
    """Return whom and what to track, made beforehand: only the SDK is to be measured."""
    made = [(f"user-{number % 1000}", properties(number)) for number in range(2000)]
    return islice(cycle(made), count)


def microseconds_each(track: Callable[[str, dict[str, Any]], object], count: int) -> float:
    made = calls(count)
    started = time.perf_counter()
    for who, what in made:
        track(who, what)
    return (time.perf_counter() - started) / count * 1e6


def per_second(count: int, started: float) -> float:
    return count / (time.perf_counter() - started)


def main(tasks: dict[str, Callable[..., dict[str, float]]]) -> None:
    """Do the task that the command line names, `TASK URL COUNT [OPTIONS]`, and print its result."""
    name, url, count = sys.argv[1:4]
    options = json.loads(sys.argv[4]) if len(sys.argv) > 4 else {}
    print(json.dumps(tasks[name](url, int(count), **options)))
