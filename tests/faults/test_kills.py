"""Processes are killed; `python -m tests.faults.kills --count 500` is the whole."""

import pytest

from tests.effort import cases
from tests.faults import kills

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("durability", ["process", "power"])
def test_acknowledged_messages_outlive_the_process(durability):
    """None is lost, none has a second key, no `$add` is applied twice, and no file is damaged."""
    tally = kills.run(cases(5, 60), seed=7, durability=durability)
    assert tally.ok, str(tally)
    assert tally.acknowledged > 50
