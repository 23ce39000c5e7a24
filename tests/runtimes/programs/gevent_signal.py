"""A script under gevent that waits, in its hub, for the SIGTERM that it sends itself."""

import gevent.monkey

gevent.monkey.patch_all()

import os  # noqa: E402
import signal  # noqa: E402
import sys  # noqa: E402

import gevent  # noqa: E402
from clients import CLIENTS, track  # noqa: E402

from mixpanel import flush_on_signal  # noqa: E402


def end(signum, frame):
    """Check that everything was sent before this handler, which was there first."""
    pending = {name: client.stats().pending for name, client in CLIENTS.items()}
    print(pending, flush=True)
    os._exit(any(pending.values()))


if "chained" in sys.argv:
    signal.signal(signal.SIGTERM, end)
flush_on_signal()
for n in range(20):
    track(n)
gevent.spawn_later(0.3, os.kill, os.getpid(), signal.SIGTERM)
gevent.sleep(30)
