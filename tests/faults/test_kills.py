"""Processes are killed; `python -m tests.faults.kills --count 500` is the whole."""

from importlib import import_module

import pytest

from tests.effort import cases
from tests.faults import kills

pytestmark = [pytest.mark.slow, pytest.mark.heavy]


@pytest.mark.parametrize("durability", ["process", "power"])
def test_acknowledged_messages_outlive_the_process(durability):
    """None is lost, none has a second key, no `$add` is applied twice, and no file is damaged."""
    tally = kills.run(cases(5, 60), seed=7, durability=durability)
    assert tally.ok, str(tally)
    assert tally.acknowledged > 50


@pytest.mark.parametrize("point", kills.POINTS)
def test_each_step_at_which_a_process_is_killed_exists(point):
    """A step that was renamed would be left out until chance chooses it."""
    module, kind, name = kills.POINTS[point]
    assert callable(getattr(getattr(import_module(module), kind), name))
