"""Clients are killed; `python -m tests.faults.loss` compares ours with those of other packages."""

import pytest

from tests.faults import loss

pytestmark = [pytest.mark.slow, pytest.mark.heavy]


def test_a_spool_keeps_what_was_committed_and_memory_does_not():
    """While the server is down, a client in memory loses all, and the comparison sees it."""
    ours = [each for each in loss.CONTESTANTS if each.peer is None]
    losses = {each.label: each for each in loss.run(1, 200, contestants=ours) if each.is_down}
    assert losses["ours, spool, durable=True"].lost == 0
    assert losses["ours, spool, durable=True"].accepted > 0
    memory = losses["ours, in memory"]
    assert memory.lost == memory.accepted > 0
