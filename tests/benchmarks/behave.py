"""Put one client into one situation and print what it does; run by the client's own interpreter.

`python behave.py CLIENT SITUATION URL`: see behaviour.py, which runs the server at that URL.
"""

import importlib
import inspect
import json
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from importlib.metadata import metadata
from typing import Any

CALLS = 60  # more than one batch of the official buffer
WAITED = 0.2  # seconds; the server of `blocks` needs 0.25 for each response
AT_EXIT = 230
WORDS = ("sql", "query", "fetch", "export", "stream", "board", "cohort", "lexicon")
CLIENTS = {  # what a program imports first
    "ours": ("mixpanel", "AsyncMixpanel"),
    "ours_cdp": ("mixpanel.cdp", "CustomerIO"),
    "official": ("mixpanel", "Mixpanel"),
    "official_buffered": ("mixpanel", "Mixpanel"),
    "posthog": ("posthog", "Posthog"),
    "htevents": ("hightouch.htevents.client", "Client"),
    "customerio": ("customerio.analytics.client", "Client"),
    "launchdarkly": ("ldclient", "LDClient"),
    "growthbook": ("growthbook", "GrowthBook"),
    "headless": ("mixpanel_headless", "Workspace"),
    "utils": ("mixpanel_utils", "MixpanelUtils"),
}
DISTRIBUTIONS = {
    "ours": "mixpanel-async",
    "official": "mixpanel",
    "htevents": "events-sdk-python",
    "customerio": "customerio-cdp-analytics",
    "launchdarkly": "launchdarkly-server-sdk",
    "headless": "mixpanel-headless",
    "utils": "mixpanel-utils",
}
reports: set[str] = set()  # how a failure was reported: "raised", "callback", "logged"


class Driven:
    """A client with its defaults, behind the few calls that every situation needs."""

    def __init__(self, name: str, url: str) -> None:
        """Construct the client; only its own package is imported."""
        self.name = name
        getattr(self, f"_{name}")(url)

    track: Callable[[int], object]
    flush: Callable[[], object]
    send: Callable[[str, Any, Any], object]  # event, id, value of a property
    add: Callable[[], object] | None = None  # a `$add` to a profile

    def _ours(self, url: str) -> None:
        from mixpanel import AsyncBufferedConsumer, Mixpanel

        mp = Mixpanel("TOKEN", AsyncBufferedConsumer(base_url=url, on_error=noted))
        self.track = lambda n: mp.track("ada", "Order Paid", {"order": f"order-{n}"})
        self.send = lambda event, who, value: mp.track(who, event, {"value": value})
        self.add = lambda: mp.people_increment("ada", {"order-0": 1})
        self.flush = mp.flush

    def _ours_cdp(self, url: str) -> None:
        from mixpanel.cdp import CustomerIO

        cio = CustomerIO("WRITE_KEY", base_url=url, on_error=noted)
        self.track = lambda n: cio.track("ada", "Order Paid", {"order": f"order-{n}"})
        self.send = lambda event, who, value: cio.track(who, event, {"value": value})
        self.flush = cio.flush

    def _official(self, url: str) -> None:
        from mixpanel import Consumer

        self._mixpanel(Consumer(events_url=f"{url}/track", people_url=f"{url}/engage"))
        self.flush = lambda: None

    def _official_buffered(self, url: str) -> None:
        from mixpanel import BufferedConsumer

        consumer = BufferedConsumer(events_url=f"{url}/track", people_url=f"{url}/engage")
        self._mixpanel(consumer)
        self.flush = consumer.flush

    def _mixpanel(self, consumer: Any) -> None:
        from mixpanel import Mixpanel

        mp = Mixpanel("TOKEN", consumer)
        self.track = lambda n: mp.track("ada", "Order Paid", {"order": f"order-{n}"})
        self.send = lambda event, who, value: mp.track(who, event, {"value": value})
        self.add = lambda: mp.people_increment("ada", {"order-0": 1})

    def _posthog(self, url: str) -> None:
        from posthog import Posthog

        client = Posthog("phc_TOKEN", host=url, on_error=noted)
        self.track = lambda n: client.capture(
            "Order Paid", distinct_id="ada", properties={"order": f"order-{n}"}
        )
        self.send = lambda event, who, value: client.capture(
            event, distinct_id=who, properties={"value": value}
        )
        self.flush = client.flush

    def _htevents(self, url: str) -> None:
        from hightouch.htevents.client import Client

        self._segment(Client("WRITE_KEY", host=url, on_error=noted))

    def _customerio(self, url: str) -> None:
        from customerio.analytics.client import Client

        self._segment(Client("WRITE_KEY", host=url, on_error=noted))

    def _segment(self, client: Any) -> None:
        self.track = lambda n: client.track("ada", "Order Paid", {"order": f"order-{n}"})
        self.send = lambda event, who, value: client.track(who, event, {"value": value})
        self.flush = client.flush


def noted(*_: object) -> None:
    reports.add("callback")


class Noted(logging.Handler):
    """Notice that something was logged as a warning or worse."""

    def emit(self, record: logging.LogRecord) -> None:
        if record.levelno >= logging.WARNING and not record.name.startswith(("urllib3", "backoff")):
            reports.add("logged")


def attempt(call: Callable[..., object], *arguments: Any) -> bool:
    """Return True if the call raised."""
    try:
        call(*arguments)
    except Exception:
        reports.add("raised")
        return True
    return False


def without_waits() -> list[float]:
    """Make `time.sleep` short, and return the list into which it puts the wanted seconds."""
    wanted: list[float] = []
    sleep = time.sleep

    def short(seconds: float) -> None:
        wanted.append(seconds)
        sleep(min(seconds, 0.01))

    time.sleep = short
    return wanted


# ---- situations ---------------------------------------------------------------------------------


def starts(name: str, _url: str) -> dict[str, Any]:
    """Time the import of the client's class."""
    module, attribute = CLIENTS[name]
    started = time.perf_counter()
    getattr(importlib.import_module(module), attribute)
    return {"milliseconds": (time.perf_counter() - started) * 1000}


def blocks(name: str, url: str) -> dict[str, Any]:
    """Count the calls that take as long as a response."""
    client, slow = Driven(name, url), 0
    for number in range(CALLS + 1):
        started = time.perf_counter()
        attempt(client.track, number)
        if number:  # the first call may import modules and start a thread
            slow += time.perf_counter() - started > WAITED
    return {"slow": slow}


def exits(name: str, url: str) -> dict[str, Any]:
    """Track, and let the program end without a flush."""
    client = Driven(name, url)
    for number in range(AT_EXIT):
        attempt(client.track, number)
    return {}


def forks(name: str, url: str) -> dict[str, Any]:
    """Track ten, fork, track ten more in the child; both flush and end."""
    client = Driven(name, url)
    for number in range(10):
        client.track(number)
    if child := os.fork():
        _, status = os.waitpid(child, 0)
        client.flush()
        return {"child_hung": os.WIFSIGNALED(status)}
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.alarm(15)  # ends the child if its flush never returns
    for number in range(10, 20):
        client.track(number)
    client.flush()
    sys.exit()


def fails(name: str, url: str) -> dict[str, Any]:
    """Track three at a server that only fails, and flush."""
    client, waits = Driven(name, url), without_waits()
    for number in range(3):
        attempt(client.track, number)
    flushing = threading.Thread(target=attempt, args=(client.flush,), daemon=True)
    flushing.start()
    flushing.join(20)
    return {"waits": sum(waits[-20:]), "gave_up": not flushing.is_alive()}


def loses(name: str, url: str) -> dict[str, Any]:
    """Track one at a server that takes it and drops the connection, once."""
    client = Driven(name, url)
    without_waits()
    attempt(client.track, 0)
    attempt(client.flush)
    return {}


def adds(name: str, url: str) -> dict[str, Any]:
    """The same with a `$add`, which must not be repeated."""
    client = Driven(name, url)
    without_waits()
    if client.add:
        attempt(client.add)
        attempt(client.flush)
    return {"has": client.add is not None}


def stalls(name: str, url: str) -> dict[str, Any]:
    """Track one at a server that never answers; the server sees when the connection is closed."""
    client = Driven(name, url)
    threading.Thread(target=attempt, args=(client.track, 0), daemon=True).start()
    threading.Thread(target=attempt, args=(client.flush,), daemon=True).start()
    time.sleep(45)  # longer than the server holds the request
    return {}


def checks(name: str, url: str) -> dict[str, Any]:
    """Count the wrong messages that the call itself reports."""
    found = 0
    for event, who, value in (
        ("", "ada", 1),
        ("Order Paid", "", 1),
        ("Order Paid", "ada", float("nan")),
        ("Order Paid", "ada", object()),
    ):
        client = Driven(name, url)  # each its own, as a client does not repeat a warning at once
        reports.clear()
        found += attempt(client.send, event, who, value) or bool(reports)
    return {"found": found}


def declares(name: str, _url: str) -> dict[str, Any]:
    """Return the version, and what the names of public methods speak of."""
    module = importlib.import_module(CLIENTS[name][0])
    methods = {
        f"{owner.__name__}.{attribute}": value
        for _, owner in inspect.getmembers(module, inspect.isclass)
        for attribute, value in inspect.getmembers(owner, callable)
        if not attribute.startswith("_")
    }
    coroutines = {
        key.partition(".")[0]
        for key, value in methods.items()
        if inspect.iscoroutinefunction(value)
    }
    names = {key.lower() for key in methods}
    about = metadata(DISTRIBUTIONS.get(name, name))
    return {
        "version": about["Version"],
        "python": about["Requires-Python"] or "-",
        "async": sorted(coroutines),
        "words": {word: sum(word in each for each in names) for word in WORDS},
    }


SITUATIONS = (
    starts, blocks, exits, forks, fails, loses, adds, stalls, checks, declares,
)  # fmt: skip


def main() -> None:
    logging.getLogger().addHandler(Noted())
    name, situation, url = sys.argv[1:]
    found = {each.__name__: each for each in SITUATIONS}[situation](name, url)
    found |= {"reports": sorted(reports), "done_at": time.time()}
    print(json.dumps(found), flush=True)
    if situation not in ("exits", "forks"):
        os._exit(0)


if __name__ == "__main__":
    main()
