"""Whatever the network does, to any client on any runtime, each message has one outcome."""

import gc

import pytest

from tests.faults import matrix
from tests.faults.kinds import KINDS
from tests.faults.server import FaultProxy, FaultServer

pytestmark = [pytest.mark.slow, pytest.mark.heavy]

EVERYTHING = matrix.everything()
SELECTED = matrix.pairs(EVERYTHING)


def test_the_selection_contains_each_pair():
    """Each kind meets each endpoint; each client runs on each of its runtimes."""
    assert len(KINDS) >= 45
    for first, second in [("kind", "endpoint"), ("kind", "face"), ("kind", "runtime")]:
        whole = {(getattr(one, first), getattr(one, second)) for one in EVERYTHING}
        assert {(getattr(one, first), getattr(one, second)) for one in SELECTED} == whole
    whole = {(one.endpoint, one.runtime, one.face) for one in EVERYTHING}
    assert {(one.endpoint, one.runtime, one.face) for one in SELECTED} == whole


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # loops end under their sockets
@pytest.mark.parametrize("endpoint", matrix.ENDPOINTS)
def test_each_message_has_one_outcome_whatever_the_network_does(endpoint):
    """Nothing is silently lost, applied twice, stuck, or reported wrongly."""
    scenarios = [one for one in SELECTED if one.endpoint == endpoint]
    outcomes = matrix.run(scenarios, parallel=14, limit=240)
    gc.collect()  # while warnings of sockets that a loop ended under are ours to ignore
    failed = [str(outcome).splitlines()[0] for outcome in outcomes if not outcome.ok]
    assert not failed, "\n".join(failed)
    assert sum(outcome.messages for outcome in outcomes) > 8 * len(scenarios)


CUTS = [("up", 1), ("up", 150), ("up", 400), ("down", 1), ("down", 40), ("down", 200), ("slow", 7)]


@pytest.mark.parametrize("cut", CUTS, ids=lambda cut: f"{cut[0]}-{cut[1]}")
def test_a_connection_that_is_cut_anywhere_loses_nothing(cut):
    """A proxy cuts each of the first connections after some bytes; then all is delivered once."""
    from mixpanel import BufferedConsumer, Mixpanel

    with FaultServer() as server, FaultProxy(server.url, [cut, cut]) as proxy:
        consumer = BufferedConsumer(base_url=proxy.url, retry=matrix.CALLER)
        mp = Mixpanel("t", consumer)
        for n in range(30):
            mp.track("u", "Visit", {"m": n})
        assert mp.flush(20).ok
        consumer.close()
        assert sorted(server.record.applied) == list(range(30))
        assert {len(keys) for keys in server.record.keys.values()} == {1}
        assert not proxy.limits or cut[0] in ("slow", "down")
