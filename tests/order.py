"""Which test files a run needs, and the order of the tests for workers that run at the same time.

`--dist worksteal` gives each worker a part of the list, without a gap, and a worker that has run
its part gets half of what is left at the end of another's. So what stands at the beginning of a
part is run first and by one worker: a fixture that all tests of a file share is made once.
"""

import re
from itertools import groupby

# Files that share a fixture, and single tests; with their seconds, roughly, where these are many.
LONG = {
    "tests/examples/test_notebooks.py": 50,
    "tests/runtimes/test_runtimes.py::test_every_event_arrives_once": 10,
    "tests/emulator/test_flights.py": 12,
    "tests/data/test_docs_local_reports.py": 11,
    "tests/cli/test_walk.py": 9,
    "tests/data/readers/test_bad_input.py::test_ten_thousand_columns_are_read": 5,
}


# The marks that all tests of a file have.
OF_ALL = re.compile(r"^pytestmark = (?:pytest\.mark\.\w+$|\[.*?\]$)", re.MULTILINE | re.DOTALL)


def has_none(text, chosen):
    """Return True if `-m chosen` selects no test of a file with this text, as far as that is clear.

    It is for a single mark: `heavy` needs a test with it, `not heavy` one that is without.
    """
    name = chosen.removeprefix("not ")
    if not name.isidentifier():
        return False
    mark = re.compile(rf"\bpytest\.mark\.{name}\b")
    if name == chosen:
        return not mark.search(text)
    of_all = OF_ALL.search(text)
    return bool(of_all and mark.search(of_all[0]))


def seconds(name):
    """Return how long a file, or a test with any parameters, takes; 0 if that is not long."""
    return LONG.get(name.partition("[")[0], 0)


def long_ones_first(items, workers):
    """Return tests in an order in which each worker begins with its share of the long ones."""
    units, others = [], []
    for path, tests in groupby(items, key=lambda item: item.nodeid.partition("::")[0]):
        if seconds(path):
            units.append((seconds(path), list(tests)))
            continue
        for item in tests:
            if seconds(item.nodeid):
                units.append((seconds(item.nodeid), [item]))
            else:
                others.append(item)
    parts, loads = [[] for _ in range(workers)], [0] * workers
    for cost, tests in sorted(units, key=lambda unit: -unit[0]):
        least = loads.index(min(loads))
        parts[least] += tests
        loads[least] += cost
    ordered = []
    for at, part in enumerate(parts):
        # As many as the worker will get: an equal share of what earlier ones have left.
        size = (len(items) - len(ordered)) // (workers - at)
        missing = max(0, size - len(part))
        ordered += part + others[:missing]
        del others[:missing]
    return ordered + others
