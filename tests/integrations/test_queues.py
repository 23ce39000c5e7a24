"""Dramatiq and RQ, with their own brokers for tests; and notebooks."""

import dramatiq
import fakeredis
import pytest
import rq
from dramatiq import Worker
from dramatiq.brokers.stub import StubBroker
from dramatiq.middleware import Retries

from mixpanel import AsyncBufferedConsumer, AsyncMixpanel, Mixpanel, context, update_context
from mixpanel.exceptions import ConfigurationError
from mixpanel.integrations.dramatiq import MixpanelMiddleware
from mixpanel.integrations.rq import MixpanelJob, job_meta

pytestmark = pytest.mark.slow


@pytest.fixture
def mp(emu, monkeypatch):
    """Return a client that does not send by itself in time."""
    client = Mixpanel("t", AsyncBufferedConsumer(flush_after=3600, base_url=emu.url))
    monkeypatch.setattr(f"{__name__}.shared", client)
    yield client
    client.close()
    client.consumer._sender.close_sync()


shared = None  # the client of the jobs of RQ, which are found by their names


def users(emu):
    """Return the name and user of each event."""
    return {(e["event"], e["properties"].get("distinct_id", "")) for e in emu.events()}


def test_dramatiq_carries_the_context_and_flushes_at_the_end(emu, mp):
    """Also into a retry and a message that an actor sends, and nothing into the next one."""
    broker = StubBroker(middleware=[Retries(max_retries=1, min_backoff=1, max_backoff=1)])
    broker.add_middleware(MixpanelMiddleware(mp))
    tries = []

    @dramatiq.actor(broker=broker)
    def visit(name, user=None):
        if user is not None:
            update_context(user)
        mp.track(None, name)

    @dramatiq.actor(broker=broker)
    def fail():
        tries.append(1)
        mp.track(None, f"Try {len(tries)}")
        visit.send("Inner")
        if len(tries) == 1:
            raise LookupError

    worker = Worker(broker, worker_timeout=10, worker_threads=1)
    worker.start()
    with context("u-1"):
        fail.send()
        visit.send("Login", user="u-2")
    visit.send("Without")
    broker.join("default", timeout=20_000)
    worker.join()
    assert emu.events() == []
    worker.stop()
    broker.close()
    assert users(emu) == {
        ("Try 1", "u-1"),
        ("Try 2", "u-1"),
        ("Inner", "u-1"),
        ("Login", "u-2"),
        ("Without", ""),
    }


def test_an_async_client_is_refused():
    """Actors are sync code."""
    with pytest.raises(ConfigurationError, match="AsyncBufferedConsumer"):
        MixpanelMiddleware(AsyncMixpanel("t"))


def visit(name):
    """Track in a job."""
    shared.track(None, name)
    if name == "Failed":
        raise LookupError


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of fakeredis and rq
def test_rq_jobs_have_the_context_and_flush_at_their_end(emu, mp):
    """Each job, before its process ends without exit handlers; a failing one, too."""
    with fakeredis.FakeStrictRedis() as connection:
        queue = rq.Queue(connection=connection, job_class=MixpanelJob, is_async=False)
        with context("u-1", plan="team"):
            meta = job_meta(mine=7)
            job = queue.enqueue(visit, "Sent", meta=meta)
            queue.enqueue(visit, "Failed", meta=job_meta())
        queue.enqueue(visit, "Without", meta=job_meta())
        assert job.meta["mine"] == 7
        assert users(emu) == {("Sent", "u-1"), ("Failed", "u-1"), ("Without", "")}


def test_cells_of_a_notebook_are_flushed(emu, mp, shell):
    """After each cell; not any more once the extension is unloaded."""
    shell.user_ns["mp"] = mp
    shell.run_line_magic("load_ext", "mixpanel.integrations.ipython")
    assert shell.run_cell("mp.track('u-1', 'Cell')").success
    assert users(emu) == {("Cell", "u-1")}
    shell.run_line_magic("unload_ext", "mixpanel.integrations.ipython")
    assert shell.run_cell("mp.track('u-1', 'Later')").success
    assert users(emu) == {("Cell", "u-1")}
