"""Kill clients of several packages while they track, side by side, and count what each has lost.

python -m tests.faults.loss                    5 kills of each, with a server that works, and one
                                               that is down until after the kill
python -m tests.faults.loss --kills 20 --rate 200

All track at the same rate into the same server, with their defaults. A message counts as accepted
when the call returned. Clients with a spool are started again after each kill, as a program is; the
others have nothing that a start could deliver. `python -m tests.peers official posthog htevents
customerio` makes the environments of the peers.
"""

import argparse
import gzip
import json
import os
import random
import re
import select
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from tests import peers

DRIVER = Path(__file__).with_name("peer_tracks.py")
ROOT = Path(__file__).parents[2]
MARKER = re.compile(rb"m(\d+)x(\d+)x")
SETTLE = 0.5  # seconds in which requests that were sent before the kill arrive
WAIT = 60.0  # seconds in which a client must have tracked its first message


@dataclass(frozen=True)
class Contestant:
    """A client of a package: `driver` is its function in `peer_tracks.py`."""

    label: str
    driver: str
    peer: str | None = None
    spool: bool = False

    def command(self, url, run, rate, spool):
        interpreter = sys.executable if self.peer is None else peers.python(self.peer)
        more = [spool] if self.spool else []
        return [str(each) for each in (interpreter, DRIVER, self.driver, url, run, rate, *more)]


CONTESTANTS = [
    Contestant("ours, spool, durable=True", "durable", spool=True),
    Contestant("ours, spool", "ours", spool=True),
    Contestant("ours, in memory", "ours"),
    Contestant("official mixpanel, BufferedConsumer", "official", "official"),
    Contestant("PostHog", "posthog", "posthog"),
    Contestant("htevents (Segment's queue)", "htevents", "htevents"),
    Contestant("Customer.io", "customerio", "customerio"),
]


@dataclass
class Loss:
    """What came of all kills of one client."""

    label: str
    is_down: bool
    kills: int = 0
    accepted: int = 0
    arrived: int = 0

    @property
    def lost(self):
        return self.accepted - self.arrived

    @property
    def figures(self):
        return {
            "client": self.label, "server": "down" if self.is_down else "works",
            "kills": self.kills, "accepted": self.accepted, "arrived": self.arrived,
            "lost": self.lost, "lost_per_kill": round(self.lost / max(1, self.kills), 1),
        }  # fmt: skip


class Sink:
    """A server that keeps the markers of all messages, or is down."""

    def __enter__(self):
        self.arrived, self.is_down = set(), False
        sink = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self):
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                if self.headers.get("Content-Encoding") == "gzip":
                    body = gzip.decompress(body)
                if not sink.is_down:
                    sink.arrived.update((int(a), int(b)) for a, b in MARKER.findall(body))
                self._respond(503 if sink.is_down else 200)

            def do_GET(self):
                self._respond(200)

            def _respond(self, status):
                content = json.dumps({"status": 1, "error": None, "success": True}).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_):
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.handle_error = lambda *_: None  # clients are killed
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_):
        self._server.shutdown()
        self._server.server_close()


def kill_one(contestant, sink, run, rate, seconds, spool):
    """Start a client, kill it after some seconds, and return the numbers that it accepted."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT) if contestant.peer is None else ""}
    process = subprocess.Popen(
        contestant.command(sink.url, run, rate, spool), stdout=subprocess.PIPE, env=environment,
        stderr=subprocess.DEVNULL,
    )  # fmt: skip
    output, end, began = b"", None, time.monotonic()
    try:
        while end is None or time.monotonic() < end:
            left = WAIT - (time.monotonic() - began) if end is None else end - time.monotonic()
            if left <= 0:
                break
            if select.select([process.stdout], [], [], left)[0]:
                data = os.read(process.stdout.fileno(), 65536)
                if not data:
                    raise AssertionError(f"{contestant.label} ended by itself")
                output += data
                end = end or time.monotonic() + seconds
    finally:
        process.kill()
        process.wait()
    output += process.stdout.read()
    process.stdout.close()
    if end is None:
        raise AssertionError(f"{contestant.label} did not track")
    time.sleep(SETTLE)
    sink.is_down = False
    if contestant.spool:
        again = contestant.command(sink.url, run, 0, spool)
        subprocess.run(again, env=environment, check=True, timeout=60)
    whole = output[: output.rfind(b"\n")].split(b"\n")
    return {int(line) for line in whole if line != b"!"}


def run(kills, rate, *, contestants=CONTESTANTS, seed=None, shown=lambda _: None):
    """Kill every client so often, with a server that works and with one that is down."""
    losses = []
    with tempfile.TemporaryDirectory() as folder, Sink() as sink:
        number = 0
        for is_down in (False, True):
            found = {each: Loss(each.label, is_down) for each in contestants}
            chance = random.Random(seed)
            for kill in range(kills):
                seconds = chance.uniform(1.0, 4.0)  # the same for each of them
                for contestant, loss in found.items():
                    number += 1
                    sink.is_down = is_down
                    spool = Path(folder) / contestant.driver
                    accepted = kill_one(contestant, sink, number, rate, seconds, spool)
                    sink.is_down = False
                    loss.kills += 1
                    loss.accepted += len(accepted)
                    arrived = {n for of, n in sink.arrived if of == number}
                    loss.arrived += len(accepted & arrived)
                    shown(f"{kill + 1} of {kills}: {contestant.label}")
            losses += found.values()
    return losses


def table(losses):
    """Return the losses as text."""
    lines = []
    for is_down in (False, True):
        state = "is down until after the kill" if is_down else "works"
        lines.append(f"{f'the server {state}':38}{'kills':>6}{'accepted':>10}{'arrived':>10}"
                     f"{'lost':>8}{'per kill':>10}")  # fmt: skip
        lines += [
            f"  {loss.label:36}{loss.kills:>6}{loss.accepted:>10,}{loss.arrived:>10,}"
            f"{loss.lost:>8,}{loss.lost / loss.kills:>10.1f}"
            for loss in losses
            if loss.is_down == is_down
        ]
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(
        prog="python -m tests.faults.loss", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("--kills", type=int, default=5, help="of each client and server (5)")
    parser.add_argument("--rate", type=float, default=200.0, help="messages a second (200)")
    parser.add_argument("--seed", type=int)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there too")
    given = parser.parse_args()
    for each in CONTESTANTS:
        if each.peer is not None:
            peers.ensure(each.peer)

    def shown(text):
        if sys.stderr.isatty():
            print(f"\r{text:60}", end="", file=sys.stderr, flush=True)

    losses = run(given.kills, given.rate, seed=given.seed, shown=shown)
    print(table(losses))
    if given.json:
        given.json.write_text(json.dumps([loss.figures for loss in losses], indent=2) + "\n")
    # The promise is about those that were committed.
    return 1 if any(loss.lost for loss in losses if "durable" in loss.label) else 0


if __name__ == "__main__":
    sys.exit(main())
