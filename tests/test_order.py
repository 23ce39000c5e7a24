"""The order of the tests: each of them once, and each worker begins with some that take long."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from tests import order

ROOT = Path(__file__).parents[1]


def test_the_long_tests_exist():
    """A test that was renamed would lose its place."""
    for name in order.LONG:
        path, _, test = name.partition("::")
        assert not test or f"def {test}(" in (ROOT / path).read_text()
        assert (ROOT / path).exists()


@pytest.mark.parametrize("workers", [1, 2, 4])
def test_each_worker_begins_with_long_tests(workers):
    """Those of a file stay together, so that one worker makes what they share."""
    names = [f"tests/a.py::test[{n}]" for n in range(40)]
    for name in order.LONG:
        names += [f"{name}[{n}]" if "::" in name else f"{name}::test[{n}]" for n in range(3)]
    items = [SimpleNamespace(nodeid=name) for name in names]
    ordered = [item.nodeid for item in order.long_ones_first(items, workers)]
    assert sorted(ordered) == sorted(names)
    sizes, left = [], len(names)
    for at in range(workers):
        sizes.append(left // (workers - at))
        left -= sizes[-1]
    starts = [sum(sizes[:at]) for at in range(workers)]
    assert not any(ordered[start].startswith("tests/a.py") for start in starts)
    for path in [name for name in order.LONG if "::" not in name]:
        places = [at for at, name in enumerate(ordered) if name.startswith(path)]
        assert places == list(range(places[0], places[0] + 3))
