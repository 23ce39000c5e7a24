"""Observe what clients do when something goes wrong, and print it as the table of a page.

python -m tests.benchmarks.behaviour                  all
python -m tests.benchmarks.behaviour ours posthog     some

Each client has its own environment (tests/peers.py), its own process and server, and its default
settings. The server here plays one fault: it is slow, refuses, drops a connection, or never
answers. It speaks TLS, as several clients retry over https only. Waits between retries are cut
short, but for this package, whose waits are not those of `time.sleep`. What a row says is in the
docstrings of behave.py. Nothing here can fail a build.
"""

import argparse
import atexit
import contextlib
import gzip
import json
import os
import re
import ssl
import subprocess
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import trustme

from tests.benchmarks.ring import interpreter

DRIVER = Path(__file__).with_name("behave.py")
AUTHORITY = trustme.CA()
HELD = 40  # seconds for which the server holds a request that it never answers
PATIENCE = 60  # seconds for one situation
SENDERS = {
    "ours": "this package",
    "official": "official `Consumer`",
    "official_buffered": "official `BufferedConsumer`",
    "posthog": "PostHog",
    "ours_cdp": "this package, `CustomerIO`",
    "htevents": "`htevents`",
    "customerio": "`customerio-cdp-analytics`",
}
PEERS = {"ours_cdp": "ours", "official_buffered": "official"}
OTHERS = {
    "ours": "this package",
    "official": "official",
    "posthog": "PostHog",
    "htevents": "`htevents`",
    "customerio": "`customerio-cdp-analytics`",
    "launchdarkly": "LaunchDarkly",
    "growthbook": "GrowthBook",
    "headless": "`mixpanel-headless`",
    "utils": "`mixpanel-utils`",
}


@dataclass
class Fault:
    """How the server answers: after `delay` seconds, with `status`; `drops` first connections."""

    delay: float = 0
    status: int = 200
    drops: int = 0
    stalls: bool = False


@dataclass
class Seen:
    """What the server received."""

    requests: int = 0
    orders: Counter[str] = field(default_factory=Counter)
    held: list[float] = field(default_factory=list)  # seconds until a client closed


class Server(ThreadingHTTPServer):
    """A server on a random port that plays one fault and remembers what came."""

    daemon_threads = True
    block_on_close = False

    def __init__(self, fault: Fault) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.fault, self.seen, self.lock = fault, Seen(), threading.Lock()
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        AUTHORITY.issue_cert("127.0.0.1").configure_cert(context)
        self.socket = context.wrap_socket(
            self.socket, server_side=True, do_handshake_on_connect=False
        )
        self.url = f"https://127.0.0.1:{self.server_address[1]}"

    def handle_error(self, *_: Any) -> None:
        """Stay silent: clients that end in the middle are what is observed."""


class Handler(BaseHTTPRequestHandler):
    """One connection."""

    server: Server
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        """Stay silent."""

    def do_GET(self) -> None:
        self.answer(200)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        fault, seen = self.server.fault, self.server.seen
        with self.server.lock:
            seen.requests += 1
            drops = seen.requests <= fault.drops
            seen.orders.update(orders(self.headers, body))
        if drops:
            self.close_connection = True
            return
        if fault.stalls:
            self.stall()
            return
        time.sleep(fault.delay)
        self.answer(fault.status)

    def stall(self) -> None:
        """Never answer, and measure how long the client waits."""
        started = time.monotonic()
        self.connection.settimeout(HELD)
        self.close_connection = True
        with contextlib.suppress(OSError):  # a timeout here, or a reset of the client
            self.connection.recv(1)
        with self.server.lock:
            self.server.seen.held.append(time.monotonic() - started)

    def answer(self, status: int) -> None:
        body = json.dumps({"status": int(status < 300), "code": status, "message": "x"}).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def orders(headers: Any, body: bytes) -> list[str]:
    """Return the numbers of the orders in a body, however it is encoded."""
    if headers.get("Content-Encoding") == "gzip":
        body = gzip.decompress(body)
    if "x-www-form-urlencoded" in headers.get("Content-Type", ""):
        body = b" ".join(parse_qs(body)[b"data"])
    return re.findall(r"order-(\d+)", body.decode())


@dataclass
class Observation:
    """One client in one situation: what it printed, what the server saw, and when it ended."""

    printed: dict[str, Any]
    seen: Seen
    ended_at: float | None


@cache
def trusted() -> str:
    """Return the path of the certificate that clients are to trust."""
    folder = tempfile.TemporaryDirectory()
    atexit.register(folder.cleanup)
    path = Path(folder.name) / "authority.pem"
    AUTHORITY.cert_pem.write_to_path(path)
    return str(path)


def observe(name: str, situation: str, fault: Fault | None = None) -> Observation:
    """Run the driver against a server of its own."""
    environment = dict(os.environ)
    python = interpreter(PEERS.get(name, name))
    if PEERS.get(name, name) != "ours":
        environment.pop("PYTHONPATH", None)
    environment |= {"SSL_CERT_FILE": trusted(), "REQUESTS_CA_BUNDLE": trusted()}
    server = Server(fault or Fault())
    threading.Thread(target=server.serve_forever, daemon=True).start()
    process = subprocess.Popen(
        [python, DRIVER, name, situation, server.url],
        env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        output, errors = process.communicate(timeout=PATIENCE)
        ended_at = time.time()
    except subprocess.TimeoutExpired:
        process.kill()
        output, errors = process.communicate()
        ended_at = None
    server.shutdown()
    server.server_close()
    line = next((line for line in output.splitlines() if line.startswith("{")), None)
    if line is None and ended_at:
        raise RuntimeError(f"{name} {situation} printed no result\n{errors[-2000:]}")
    return Observation(json.loads(line or "{}"), server.seen, ended_at)


# ---- the rows -----------------------------------------------------------------------------------


def starts(name: str) -> str:
    figures = [observe(name, "starts").printed["milliseconds"] for _ in range(5)]
    return f"{min(figures):.0f} ms"


def blocks(name: str) -> str:
    return str(observe(name, "blocks", Fault(delay=0.25)).printed["slow"])


def exits(name: str) -> str:
    found = observe(name, "exits", Fault(delay=0.1))
    return f"{len(found.seen.orders)}"


def ends(name: str) -> str:
    """Return the seconds from the end of the program to that of its process."""
    found = observe(name, "exits", Fault(stalls=True))
    if found.ended_at is None:
        return f"not within {PATIENCE} s"
    return f"{found.ended_at - found.printed['done_at']:.1f} s"


def forks(name: str) -> str:
    found = observe(name, "forks")
    twice = sum(count > 1 for count in found.seen.orders.values())
    hung = ", child hangs" if found.printed.get("child_hung") else ""
    return f"{len(found.seen.orders)}, {twice} twice{hung}"


def reported(found: Observation) -> str:
    return " + ".join(found.printed["reports"]) or "no report"


def refused(name: str) -> str:
    found = observe(name, "fails", Fault(status=401))
    return f"{found.seen.requests}; {reported(found)}"


def unavailable(name: str) -> str:
    """Return the attempts; those of a client that has not given up are of 20 seconds."""
    found = observe(name, "fails", Fault(status=503))
    if not found.printed["gave_up"]:
        return f"{found.seen.requests} in 20 s, still trying; {reported(found)}"
    return f"{found.seen.requests}; {reported(found)}"


def loses(name: str) -> str:
    found = observe(name, "loses", Fault(drops=1))
    return str(found.seen.orders["0"])


def adds(name: str) -> str:
    found = observe(name, "adds", Fault(drops=1))
    return str(found.seen.orders["0"]) if found.printed["has"] else ""


def stalls(name: str) -> str:
    found = observe(name, "stalls", Fault(stalls=True))
    held = next(iter(found.seen.held), HELD)  # a repeated request does not count
    return f"{held:.0f} s" if held < HELD else f"over {HELD} s"


def checks(name: str) -> str:
    return f"{observe(name, 'checks').printed['found']} of 4"


ROWS: dict[str, Callable[[str], str]] = {
    "import": starts,
    "calls of 60 that wait for a server that takes 0.25 s": blocks,
    "the program ends without a flush: events of 230 that arrive": exits,
    "the same at a server that never answers: the process ends after": ends,
    "fork, ten events before and ten in the child: how many of 20 arrive": forks,
    "401: requests for three events; how you learn of it": refused,
    "503: requests for three events; how you learn of it": unavailable,
    "response lost: copies of an event that are sent": loses,
    "response lost: copies of a `$add` that are sent": adds,
    "the server never answers: one request ends after": stalls,
    "wrong messages that the call reports": checks,
}


def table(names: dict[str, str]) -> str:
    """Return the rows; clients take turns in threads, as they mostly wait."""
    lines = ["| | " + " | ".join(names.values()) + " |", "|---" * (len(names) + 1) + "|"]
    for title, row in ROWS.items():
        with ThreadPoolExecutor(1 if row in (starts, ends) else len(names)) as pool:
            lines.append(f"| {title} | " + " | ".join(pool.map(row, names)) + " |")
        print(title, flush=True)
    return "\n".join(lines)


def declared(names: dict[str, str]) -> str:
    """Return what the packages have: version, Python, async classes, what method names speak of."""
    lines = ["| | version | Python | classes with async methods | methods that speak of |"]
    lines.append("|---" * 5 + "|")
    for name, label in names.items():
        found = observe(name, "declares").printed
        words = ", ".join(f"{word} {count}" for word, count in found["words"].items() if count)
        lines.append(
            f"| {label} | {found['version']} | {found['python']} "
            f"| {', '.join(found['async'][:4]) or 'none'} | {words or 'none'} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        "python -m tests.benchmarks.behaviour",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("names", nargs="*", metavar="client", help=", ".join(SENDERS | OTHERS))
    chosen = parser.parse_args().names
    if unknown := set(chosen) - (SENDERS | OTHERS).keys():
        parser.error(f"no client named {', '.join(sorted(unknown))}")

    def wanted(known: dict[str, str]) -> dict[str, str]:
        return {name: label for name, label in known.items() if not chosen or name in chosen}

    if senders := wanted(SENDERS):
        print("\n" + table(senders))
    if others := wanted(OTHERS):
        print("\n" + declared(others))


if __name__ == "__main__":
    main()
