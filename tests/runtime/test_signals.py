"""`flush_on_signal` sends what is buffered, and then does what the signal did before."""

import os
import signal
import subprocess
import sys
import threading

import pytest

from mixpanel import ConfigurationError, flush_on_signal

pytestmark = pytest.mark.skipif(os.name != "posix", reason="POSIX signals")

PROGRAM = """
import os, signal, sys, threading, time
from mixpanel import *

mp = Mixpanel("t", {consumer})
{before}
flush_on_signal()
flush_on_signal()  # is not its own predecessor
for n in range(3):
    mp.track("u", "Visit", {{"n": n}})
os.kill(os.getpid(), signal.SIGTERM)
{after}
"""
BUFFERED = "BufferedConsumer()"
IN_BACKGROUND = "AsyncBufferedConsumer(flush_after=60)"
both = pytest.mark.parametrize("consumer", [BUFFERED, IN_BACKGROUND], ids=["sync", "async"])


@pytest.fixture(autouse=True)
def _restore():
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


def run(emu, consumer, before="", after=""):
    """Run a program and return its exit status."""
    source = PROGRAM.format(consumer=consumer, before=before, after=after)
    done = subprocess.run(
        [sys.executable, "-c", source],
        env={**os.environ, "MP_BASE_URL": emu.url},
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert done.stderr == b""
    return done.returncode, sorted(event["properties"]["n"] for event in emu.events())


@pytest.mark.slow
@both
def test_a_signal_still_ends_the_process_when_everything_is_sent(emu, consumer):
    """With the status of the signal: what watches the process sees no difference."""
    assert run(emu, consumer) == (-signal.SIGTERM, [0, 1, 2])


@pytest.mark.slow
@both
def test_a_handler_that_was_there_before_runs_afterwards(emu, consumer):
    """What it tracks is sent, too: a server may serve its last requests for a while."""
    before = """
def end(signum, frame):
    assert mp.stats().delivered == 3, mp.stats()
    mp.track("u", "Visit", {"n": 3})
    end = time.monotonic() + 20
    while mp.stats().pending and time.monotonic() < end:
        time.sleep(0.01)
    os._exit(7)

signal.signal(signal.SIGTERM, end)
"""
    assert run(emu, consumer, before) == (7, [0, 1, 2, 3])


@pytest.mark.slow
def test_a_signal_that_was_ignored_does_not_end_the_process(emu):
    """Its messages are sent all the same."""
    ignored = "signal.signal(signal.SIGTERM, signal.SIG_IGN)"
    assert run(emu, BUFFERED, ignored, "os._exit(7)") == (7, [0, 1, 2])


@pytest.mark.slow
@both
def test_a_signal_may_strike_inside_the_client(emu, consumer):
    """Nothing that was accepted is lost, wherever it comes."""
    after = """
threading.Timer(0.5, os.kill, [os.getpid(), signal.SIGTERM]).start()
n = 3
while True:
    mp.track("u", "Visit", {"n": n})
    print(n := n + 1, flush=True)
"""
    source = PROGRAM.format(consumer=consumer, before="", after=after)
    source = source.replace("os.kill(os.getpid(), signal.SIGTERM)\n", "", 1)
    done = subprocess.run(
        [sys.executable, "-c", source],
        env={**os.environ, "MP_BASE_URL": emu.url},
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (-signal.SIGTERM, b"")
    accepted = int(done.stdout.split()[-1])
    arrived = sorted(event["properties"]["n"] for event in emu.events())
    assert arrived[:accepted] == list(range(accepted))
    assert len(arrived) <= accepted + 1  # one may be accepted, but not printed


def test_other_threads_cannot_install_it():
    """Python runs signal handlers in the main thread alone."""
    errors = []

    def install():
        with pytest.raises(ConfigurationError, match="main thread") as error:
            flush_on_signal()
        errors.append(error)

    thread = threading.Thread(target=install)
    thread.start()
    thread.join()
    assert errors


def test_a_signal_that_cannot_be_handled_is_refused():
    """SIGKILL ends a process whatever it does."""
    with pytest.raises(ConfigurationError, match="cannot be handled"):
        flush_on_signal(signal.SIGKILL)


def test_importing_the_package_installs_no_handler():
    """The program alone decides about its signals."""
    code = "import signal, mixpanel; mixpanel.Mixpanel('t'); mixpanel.flush_on_signal; "
    code += "assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL"
    subprocess.run([sys.executable, "-c", code], timeout=60, check=True)
