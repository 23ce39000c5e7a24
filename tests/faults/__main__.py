"""Run the faults and print the matrix: `python -m tests.faults`, or with `--quick` a selection."""

import argparse
import os
import sys
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context

from tests.faults import chaos, matrix
from tests.faults.oracle import COLUMNS, Outcome

CHUNK = 120


def _shown(text):
    if sys.stderr.isatty():
        print(f"\r{text:70}", end="", file=sys.stderr, flush=True)


def _wire(scenarios, workers):
    if not scenarios:
        return [], []
    chunks = [scenarios[at::max(1, len(scenarios) // CHUNK)] for at in
              range(max(1, len(scenarios) // CHUNK))]  # fmt: skip
    tried, outcomes = [], []
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as processes:
        running = {processes.submit(matrix.run_quietly, chunk): chunk for chunk in chunks}
        for future in as_completed(running):
            tried += running[future]
            outcomes += future.result()
            _shown(f"{len(tried):,} of {len(scenarios):,} combinations")
    return tried, outcomes


def main():
    """Run what the arguments say; return how the process exits."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a selection, about two minutes")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--kind", help="only kinds of fault whose name holds this")
    parser.add_argument("--face", help="only clients whose name holds this")
    parser.add_argument("--scenario", help="only further scenarios whose name contains this")
    given = parser.parse_args()
    matrix.quiet()
    began = time.monotonic()
    scenarios = matrix.everything()
    if given.kind or given.face:
        scenarios = [
            one for one in scenarios
            if (given.kind or "") in one.kind and (given.face or "") in one.face
        ]  # fmt: skip
    if given.quick:
        scenarios = matrix.pairs(scenarios)
    tried, outcomes = _wire([] if given.scenario else scenarios, given.workers)
    beyond: list[Outcome] = []
    if not (given.kind or given.face):
        further = {
            name: scenario for name, scenario in chaos.SCENARIOS.items()
            if (given.scenario or "") in name
        }  # fmt: skip
        if not further:
            parser.error(
                f"no scenario is named {given.scenario}; there are {list(chaos.SCENARIOS)}"
            )
        for name, scenario in further.items():
            _shown(name)
            beyond.append(chaos.run(name, scenario, small=given.quick))
    _shown("")
    print(f"\n{matrix.table(tried, outcomes)}\n")
    for outcome in beyond:
        counts = "".join(f"{outcome.count(column):>8}" for column in COLUMNS)
        print(f"  {outcome.name:48.48}{'':2}{'ok' if outcome.ok else 'FAILED':>6} {counts}")
    failed = [outcome for outcome in (*outcomes, *beyond) if not outcome.ok]
    for outcome in failed[:40]:
        print("\n".join(str(outcome).splitlines()[:5]))
    messages = sum(outcome.messages for outcome in (*outcomes, *beyond))
    totals = ", ".join(
        f"{sum(one.count(column) for one in (*outcomes, *beyond))} {column}" for column in COLUMNS
    )
    print(
        f"\n{len(tried):,} combinations and {len(beyond)} further scenarios, {messages:,} messages "
        f"in {time.monotonic() - began:.0f} s: {totals}; {len(failed)} failed"
    )
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
