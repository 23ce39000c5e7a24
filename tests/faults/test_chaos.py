"""Loops, tasks, forks, threads, signals and callbacks come in the way; nothing is lost by it."""

import gc

import pytest

from tests.faults import chaos


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # loops end under their sockets
@pytest.mark.parametrize("name", chaos.SCENARIOS)
def test_each_message_has_one_fate_whatever_happens_around(name):
    """Nothing lost in silence, applied twice, stuck, or reported wrongly."""
    outcome = chaos.run(name, chaos.SCENARIOS[name], small=True)
    gc.collect()  # while warnings of sockets that a loop ended under are ours to ignore
    assert outcome.ok, str(outcome)
