"""Run the scenarios and print a table: `python -m tests.runtimes`, or with parts of their names."""

import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests import peers
from tests.runtimes.scenarios import SCENARIOS, THREE, Outcome, Scenario, play


def main(*chosen: str) -> int:
    """Print a line for each scenario; return how many went wrong."""
    wrong = 0
    print(f"{'':46}{'Consumer':>10}{'Buffered':>10}{'AsyncBuf.':>10}{'twice':>7}{'seconds':>9}")
    for scenario in SCENARIOS:
        if chosen and not any(part in scenario.name for part in chosen):
            continue
        if not is_installed(scenario.peer):
            print(f"{scenario.name:46}{scenario.peer} cannot be installed here")
            continue
        if scenario.program and not shutil.which(scenario.program):
            print(f"{scenario.name:46}{scenario.program} is not installed")
            continue
        started = time.monotonic()
        with tempfile.TemporaryDirectory() as folder:
            try:
                outcome = play(scenario, Path(folder))
            except AssertionError as error:
                outcome, problem = Outcome({}, 0), str(error)
            else:
                problem = "" if outcome.is_right(scenario) else log_of(Path(folder))
        wrong += not outcome.is_right(scenario)
        print(line(scenario, outcome, time.monotonic() - started), flush=True)
        if problem:
            print(problem)
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    ours = resource.getrusage(resource.RUSAGE_SELF)
    cpu = used.ru_utime + used.ru_stime + ours.ru_utime + ours.ru_stime
    print(f"{wrong} wrong; {cpu:.0f} s of CPU time")
    return wrong


def is_installed(peer: str | None) -> bool:
    """Install what a scenario needs; return False if that fails, as without a C compiler."""
    try:
        if peer is not None:
            peers.ensure(peer)
    except subprocess.CalledProcessError:
        return False
    return True


def line(scenario: Scenario, outcome: Outcome, seconds: float) -> str:
    """Return a line of the table: of each consumer how many events arrived, of how many."""
    cells = ""
    for via in THREE:
        count = scenario.expected.get(via)
        arrived = f"{outcome.arrived.get(via, 0)}/{count}"
        cells += f"{'' if count is None else arrived:>10}"
    mark = "" if outcome.is_right(scenario) else "  WRONG"
    lost = "  lost, as documented" if scenario.lost and not mark else ""
    return f"{scenario.name:46}{cells}{outcome.duplicates:>7}{seconds:>9.1f}{mark}{lost}"


def log_of(folder: Path) -> str:
    """Return what the program wrote."""
    return (folder / "log.txt").read_text(encoding="utf-8", errors="replace")[-4000:]


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
