"""What is different under uWSGI, with a module in its place; tests/runtimes has the real one."""

import logging
import sys
import types

import pytest

from mixpanel import AsyncBufferedConsumer, Limits, Mixpanel
from mixpanel._delivery import sender
from mixpanel._runtime import fork, shutdown
from mixpanel.cdp import Hightouch


@pytest.fixture
def uwsgi(monkeypatch):
    """Run inside a worker of uWSGI, with the default options."""
    module = types.ModuleType("uwsgi")
    module.opt = {"http-socket": b":8080", "master": True}
    monkeypatch.setitem(sys.modules, "uwsgi", module)
    monkeypatch.setattr(sender, "_has_warned", False)
    return module


def test_without_threads_messages_are_sent_in_the_request(emu, uwsgi):
    """A background thread would stop at the end of the request."""
    mp = Mixpanel("t", AsyncBufferedConsumer(base_url=emu.url, flush_after=1e-9))
    mp.track("u", "Visit", {"n": 0})
    hightouch = Hightouch("KEY", base_url=emu.hightouch_url, limits=Limits(flush_after=1e-9))
    hightouch.track("u", "Visit")
    delivered = mp.stats().delivered, hightouch.stats().delivered
    mp.consumer._sender.close_sync()
    hightouch.close()
    assert delivered == (1, 1)


def test_the_warning_comes_with_the_first_client(uwsgi, caplog):
    """And not again with the others of the process."""
    with caplog.at_level(logging.WARNING, "mixpanel"):
        for _ in range(2):
            Mixpanel("t", AsyncBufferedConsumer(base_url="http://127.0.0.1:9"))
    assert caplog.text.count("--enable-threads") == 1


@pytest.mark.parametrize("option", ["enable-threads", "threads", "gevent"])
def test_with_threads_messages_are_sent_in_the_background(uwsgi, option):
    """As everywhere else."""
    uwsgi.opt[option] = b"2"
    consumer = AsyncBufferedConsumer(base_url="http://127.0.0.1:9")
    Mixpanel("t", consumer)
    assert consumer._sender.background


def test_hooks_of_the_program_are_kept(uwsgi, monkeypatch):
    """uWSGI has one for each worker's start and one for its end."""
    called = []
    uwsgi.atexit = lambda: called.append("atexit")
    uwsgi.post_fork_hook = lambda: called.append("fork")
    monkeypatch.setattr(shutdown, "drain", lambda: called.append("drain"))
    monkeypatch.setattr(fork, "_run_in_child", lambda: called.append("child"))
    shutdown._register_in_uwsgi(uwsgi)
    fork._register_in_uwsgi(uwsgi)
    uwsgi.atexit()
    uwsgi.post_fork_hook()
    assert called == ["atexit", "drain", "fork", "child"]
