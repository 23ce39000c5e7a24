"""Let contestants compete: in turns, each in a fresh process, the best of several rounds."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from tests import peers
from tests.benchmarks.sink import Sink

HERE = Path(__file__).parent
TIMEOUT = 900


@dataclass(frozen=True)
class Contestant:
    """Who does what, how often: a task of `peer_<who>.py` with `count` events, calls or seconds."""

    label: str
    who: str
    task: str
    count: int
    options: dict[str, Any] = field(default_factory=dict)

    def run(self, sink: Sink) -> dict[str, float]:
        """Run once, in a process of its own, and check with the sink that all of it arrived."""
        sink.counts()
        command = [interpreter(self.who), HERE / f"peer_{self.who}.py", self.task, sink.url]
        measured = run_json([*command, str(self.count), json.dumps(self.options)], self.who)
        return measured | {"arrived": sink.counts()["events"]}


def interpreter(who: str) -> str:
    return sys.executable if who == "ours" else str(peers.ensure(who))


def run_json(command: list[Any], who: str) -> dict[str, float]:
    """Run a driver and read its one line; peers must not find our package on PYTHONPATH."""
    environment = dict(os.environ)
    if who != "ours":
        environment.pop("PYTHONPATH", None)
    done = subprocess.run(
        command, env=environment, stdout=subprocess.PIPE, text=True, check=True, timeout=TIMEOUT
    )
    return json.loads(done.stdout)


@dataclass
class Result:
    """The figures of one contestant, of all rounds."""

    label: str
    figures: list[float]
    unit: str
    more_is_better: bool
    notes: dict[str, Any] = field(default_factory=dict)

    @property
    def best(self) -> float:
        return (max if self.more_is_better else min)(self.figures)

    @property
    def median(self) -> float:
        return median(self.figures)

    def better_than(self, other: "Result") -> float:
        """Return how many times better this one's best is."""
        one, two = self.best, other.best
        return one / two if self.more_is_better else two / one


def compete(
    contestants: list[Contestant], figure: str, *, latency: int = 0, rounds: int = 5
) -> list[Result]:
    """Take turns for some rounds, and return a result for each contestant."""
    unit = {"per_second": "/s", "microseconds": "us"}[figure]
    results = [Result(c.label, [], unit, figure == "per_second") for c in contestants]
    with Sink(latency) as sink:
        for _ in range(rounds):
            for contestant, result in zip(contestants, results, strict=True):
                measured = contestant.run(sink)
                result.figures.append(measured[figure])
                if figure == "per_second":
                    warm = 1  # one more, to import what is lazy and open the connection
                    lost = contestant.count + warm - measured["arrived"]
                    result.notes["lost"] = result.notes.get("lost", 0) + int(lost)
    return results
