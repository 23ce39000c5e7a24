"""A function as a service: reads a number, tracks it, flushes, and writes that it has responded.

Between two calls the sandbox is frozen, and in the end killed.
"""

import sys

from clients import CLIENTS, track

for line in sys.stdin:
    track(int(line))
    for client in CLIENTS.values():
        assert client.flush(timeout=2).ok
    print("responded", flush=True)
