"""Nothing is left behind; `python -m tests.faults.leaks --clients 10000` is the whole."""

import sys

import pytest

from tests.effort import cases
from tests.faults import leaks

pytestmark = [
    pytest.mark.slow,
    pytest.mark.heavy,
    pytest.mark.skipif(sys.platform != "linux", reason="counts descriptors in /proc"),
]


def test_clients_and_flushes_leave_nothing_behind():
    """No descriptor, thread, task or memory more than after the first ones."""
    found = leaks.run(cases(20, 500), cases(100, 5000))
    assert len(found) == 6
    assert {name: more for name, more in found.items() if not leaks.is_flat(more)} == {}


def test_what_is_left_behind_is_found():
    """Each kind of it."""
    flat = {"descriptors": 0, "threads": 0, "tasks": 0, "bytes": 0}
    assert leaks.is_flat(flat)
    for name in flat:
        assert not leaks.is_flat({**flat, name: leaks.BYTES + 1}), name
