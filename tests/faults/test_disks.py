"""The disk fails; `python -m tests.faults.disks --count 500` is the whole."""

import pytest

from tests.effort import cases
from tests.faults import disks

pytestmark = [pytest.mark.slow, pytest.mark.heavy]


@pytest.mark.parametrize("name", disks.SCENARIOS)
def test_each_message_is_delivered_or_counted_whatever_the_disk_does(name):
    """Nothing raises into the caller, and the spool is used again when the disk works."""
    outcome = disks.run(name, count=cases(5, 100), seed=3)
    if outcome.skipped:
        pytest.skip(outcome.skipped)
    assert outcome.ok, str(outcome)
