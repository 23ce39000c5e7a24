"""Real programs under gevent, eventlet, servers and task queues deliver every event once."""

import shutil

import pytest

from tests import peers
from tests.runtimes.scenarios import SCENARIOS, play

pytestmark = [pytest.mark.slow, pytest.mark.heavy]

IN_SUITE = [scenario for scenario in SCENARIOS if scenario.in_suite]


@pytest.mark.parametrize("scenario", IN_SUITE, ids=lambda scenario: scenario.name)
def test_every_event_arrives_once(scenario, tmp_path):
    """Whatever the consumer, and however the program ends."""
    if scenario.program and not shutil.which(scenario.program):
        pytest.skip(f"{scenario.program} is not installed (apt-get install {scenario.program})")
    if scenario.peer is not None:
        peers.ensure(scenario.peer)
    outcome = play(scenario, tmp_path)
    assert outcome.is_right(scenario), (outcome, (tmp_path / "log.txt").read_text())
