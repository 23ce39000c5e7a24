"""Loops, tasks, forks, threads, signals and callbacks interfere; no message is lost."""

import gc

import pytest

from tests.faults import chaos

pytestmark = [pytest.mark.slow, pytest.mark.heavy]


# Loops end under their sockets, and a sweep cancels anyio's own tasks before they begin.
@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.filterwarnings("ignore:coroutine .* was never awaited:RuntimeWarning")
@pytest.mark.parametrize("name", chaos.SCENARIOS)
def test_each_message_has_one_outcome_whatever_happens_around_the_client(name):
    """Nothing is silently lost, applied twice, stuck, or reported wrongly."""
    outcome = chaos.run(name, chaos.SCENARIOS[name], small=True)
    gc.collect()  # while warnings of sockets that a loop ended under are ours to ignore
    assert outcome.ok, str(outcome)
