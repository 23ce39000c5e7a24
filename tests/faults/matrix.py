"""Combine kinds of fault, endpoints, runtimes and clients, and run each combination.

A scenario makes one client and one server that responds wrongly to the first requests. Messages are
sent, the fault happens, and every one must have an outcome. Then a new message must be delivered.
"""

import logging
import random
import threading
import time
from collections import Counter
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import count
from queue import Empty, SimpleQueue

import anyio

from mixpanel import (
    AsyncBufferedConsumer,
    AsyncConsumer,
    AsyncMixpanel,
    BufferedConsumer,
    Consumer,
    DeliveryError,
    Limits,
    Mixpanel,
    RejectedError,
    RetryPolicy,
    ServiceAccountCredentials,
    Stats,
)
from mixpanel.bulk import ImportInterrupted
from mixpanel.cdp import (
    AsyncCustomerIO,
    AsyncFanOut,
    AsyncHightouch,
    CustomerIO,
    FanOut,
    Hightouch,
    Sink,
)
from tests.faults.kinds import KINDS
from tests.faults.oracle import COLUMNS, DeliveryAudit, Outcome, Watch
from tests.faults.server import CDP, FaultServer

DEADLINE = 0.3  # request_timeout, in seconds
TIMEOUT = 20.0  # seconds within which all must be settled, and a new message delivered
TIMES = 2  # how many requests meet the fault
BATCH = 10
SHORT_WAITS = {"first_wait": 0.01, "max_wait": 0.05, "max_retry_after": 0.1, "max_age": 60.0}
BACKGROUND = RetryPolicy(**SHORT_WAITS)
CALLER = RetryPolicy(attempts=6, **SHORT_WAITS)
ACCOUNT = ServiceAccountCredentials("user", "secret", "42")

ENDPOINTS = ("events", "imports", "people $set", "people $add", "groups", "customerio", "hightouch")
RUNTIMES = ("asyncio", "uvloop", "trio", "threads")
MIXPANEL_FACES = {
    "asyncio": ("AsyncBufferedConsumer", "AsyncConsumer"),
    "threads": ("BufferedConsumer", "Consumer", "AsyncBufferedConsumer"),
}
BACKENDS = {
    "asyncio": {"backend": "asyncio"},
    "uvloop": {"backend": "asyncio", "backend_options": {"use_uvloop": True}},
    "trio": {"backend": "trio"},
}
CONSUMERS = {
    each.__name__: each
    for each in (AsyncBufferedConsumer, AsyncConsumer, BufferedConsumer, Consumer)
}
CLIENTS = {
    "customerio": (AsyncCustomerIO, CustomerIO, "/cio"),
    "hightouch": (AsyncHightouch, Hightouch, "/ht"),
}


def faces(endpoint, runtime):
    """Return the clients that make sense for an endpoint on a runtime."""
    if endpoint in CDP:
        return ("CDP buffered", "CDP direct", "fan-out")
    found = MIXPANEL_FACES["threads" if runtime == "threads" else "asyncio"]
    if endpoint == "imports":
        found += ("import_events",)
    if endpoint in ("events", "imports", "people $set"):
        found += ("fan-out",)
    return found


@dataclass(frozen=True)
class Scenario:
    """One combination."""

    kind: str
    endpoint: str
    runtime: str
    face: str

    def __str__(self):
        return f"{self.kind} | {self.endpoint} | {self.runtime} | {self.face}"

    @property
    def target(self):
        """The endpoint as the server knows it."""
        return self.endpoint.partition(" ")[0]


def everything():
    """Return each combination that makes sense."""
    return [
        Scenario(kind.name, endpoint, runtime, face)
        for kind in KINDS.values()
        for endpoint in ENDPOINTS
        if endpoint.partition(" ")[0] in kind.only
        for runtime in RUNTIMES
        for face in faces(endpoint, runtime)
    ]


def pairs(whole, seed=12):
    """Return a selection in which each pair of a kind and an endpoint occurs at least once.

    So does each pair of a kind and a runtime, of a kind and a face that it meets at all, and of an
    endpoint, a runtime and a face.
    """

    def holds(one):
        return (
            (one.kind, one.endpoint), (one.kind, one.runtime), (one.kind, one.face),
            (one.endpoint, one.runtime, one.face),
        )  # fmt: skip

    chance = random.Random(seed)
    shuffled = chance.sample(whole, len(whole))
    chosen, seen = [], set()
    for wanted in (4, 3, 2, 1):
        for one in shuffled:
            if sum(pair not in seen for pair in holds(one)) >= wanted:
                chosen.append(one)
                seen.update(holds(one))
    return chosen


# ---- one scenario -------------------------------------------------------------------------------

_names = count()


class Play:
    """One scenario under way."""

    def __init__(self, scenario, watch):
        self.scenario = scenario
        self.outcome = Outcome(str(scenario))
        self.watch = watch
        self.stack = ExitStack()
        self.run_name = f"r{next(_names)}"
        self.send_immediately = scenario.face in ("AsyncConsumer", "Consumer", "CDP direct")
        self.count = 8 if self.send_immediately else 24
        self.faulty = self.stack.enter_context(
            FaultServer([KINDS[scenario.kind]] * TIMES, deadline=DEADLINE)
        )
        self.audit = self._audit(self.faulty, main=True)
        self.others = []

    def _audit(self, server, *, main=False):
        scenario = self.scenario
        background = scenario.runtime != "threads" and not self.send_immediately
        ordered = scenario.endpoint in ("people $set", "groups", *CDP)
        return DeliveryAudit(server.record, ordered=main and background and ordered)

    def marker(self, n):
        return f"{self.run_name}-{n}"

    def options(self, audit, *, send_immediately=False):
        return {
            "limits": Limits(request_timeout=DEADLINE, flush_after=0.02, max_batch_size=BATCH),
            "retry": CALLER
            if send_immediately or self.scenario.runtime == "threads"
            else BACKGROUND,
            "on_error": audit.on_error,
            "on_drop": audit.on_drop,
        }

    # ---- clients ---------------------------------------------------------------------------------

    def mixpanel(self, server, audit, face, endpoint):
        """Make a client of Mixpanel's, and note where its statistics are."""
        options = self.options(audit, send_immediately=self.send_immediately)
        if face in ("BufferedConsumer", "Consumer"):
            limits = Limits(request_timeout=DEADLINE, flush_after=None)
            options |= {"limits": limits}
        sized = {"max_size": BATCH} if face == "BufferedConsumer" else {}
        if face == "AsyncBufferedConsumer":
            options["retry"] = BACKGROUND
        consumer = CONSUMERS[face](base_url=server.url, credentials=ACCOUNT, **sized, **options)
        client = (Mixpanel if self.scenario.runtime == "threads" else AsyncMixpanel)(
            "t", consumer, ingestion="import" if endpoint == "imports" else "track"
        )
        audit.stats = client.stats
        self.watch.over(audit)
        return client

    def cdp(self, server, audit, vendor, *, send_immediately=False):
        asynchronous, synchronous, path = CLIENTS[vendor]
        made = synchronous if self.scenario.runtime == "threads" else asynchronous
        client = made(
            "k", base_url=server.url + path, send_immediately=send_immediately,
            on_delivery=audit.on_delivery,
            **self.options(audit, send_immediately=send_immediately),
        )  # fmt: skip
        audit.stats = client.stats
        audit.reports_delivery = True
        self.watch.over(audit)
        return client

    def client(self):
        scenario, face = self.scenario, self.scenario.face
        if face == "fan-out":
            return self._fan_out()
        if scenario.endpoint in CDP:
            return self.cdp(
                self.faulty, self.audit, scenario.endpoint, send_immediately=self.send_immediately
            )
        if face == "import_events":
            face = "Consumer" if scenario.runtime == "threads" else "AsyncConsumer"
        return self.mixpanel(self.faulty, self.audit, face, scenario.endpoint)

    def _fan_out(self):
        """Make a client of three sinks, of which one meets the fault."""
        endpoint, healthy = self.scenario.endpoint, self.stack.enter_context(FaultServer())
        threads = self.scenario.runtime == "threads"
        sinks = {}
        for name in ("mixpanel", *CLIENTS):
            hit = name == endpoint or (name == "mixpanel" and endpoint not in CDP)
            server = self.faulty if hit else healthy
            # Two sinks of one server have an account each, of the messages on their own endpoint.
            if not hit and self.others:
                server = self.stack.enter_context(FaultServer())
            audit = self.audit if hit else self._audit(server)
            if not hit:
                self.others.append(audit)
            if name == "mixpanel":
                face = "BufferedConsumer" if threads else "AsyncBufferedConsumer"
                client = self.mixpanel(server, audit, face, endpoint)
            else:
                client = self.cdp(server, audit, name)
            sinks[name] = Sink(client)
        return (FanOut if threads else AsyncFanOut)(**sinks)

    # ---- messages --------------------------------------------------------------------------------

    def send(self, client, n):
        """Make one call; return what the client returns, for async code to await."""
        marker = self.marker(n)
        for audit in (self.audit, *self.others):
            audit.accepted(marker)
        endpoint, face = self.scenario.endpoint, self.scenario.face
        if face == "fan-out" and endpoint == "people $set":
            return client.identify("u", {"m": marker})
        if endpoint in (*CDP, "events", "imports"):
            return client.track("u", "Visit", {"m": marker})
        if endpoint == "people $set":
            return client.people_set("u", {"m": marker})
        if endpoint == "people $add":
            return client.people_increment("u", {marker: 1})
        return client.group_set("company", "acme", {"m": marker})

    def rows(self):
        for n in range(self.count):
            self.audit.accepted(self.marker(n))
            yield {
                "event": "Visit",
                "properties": {
                    "distinct_id": "u", "time": 1_790_000_000 + n, "m": self.marker(n),
                    "$insert_id": self.marker(n),
                },
            }  # fmt: skip

    def pending(self):
        return sum(audit.stats().pending for audit in (self.audit, *self.others))

    def arrived(self, n):
        marker = self.marker(n)
        records = [audit.record for audit in (self.audit, *self.others)]
        return all(marker in record.applied or marker in record.lied for record in records)

    def check_flush(self, results):
        """Compare a flush's result with the statistics, when nothing else is in progress."""
        results = list(results.values()) if isinstance(results, dict) else [results]
        for result in results:
            if result.ok and (result.rejected or result.pending or result.dropped):
                self.audit.fault("wrong", f"ok, but {result}")
            if result.delivered < 0 or result.rejected < 0:
                self.audit.fault("wrong", f"a flush with a count below zero: {result}")
        # While something waits, requests may still be under way; when nothing does, nothing is.
        if not sum(result.pending for result in results) and self.pending():
            self.audit.fault("wrong", f"flush returned {results}, but {self.pending()} pending")

    def end(self):
        audits = (self.audit, *self.others)
        for audit in audits:
            audit.finish()
        self.outcome.merged(*audits)

    def close(self):
        audits = [a for a in (self.audit, *self.others) if a in self.watch._accounts]
        self.watch.done(*audits)
        self.stack.close()

    # ---- async -----------------------------------------------------------------------------------

    async def run_async(self):
        with anyio.move_on_after(3 * TIMEOUT) as scope:
            client = self.client()
            if self.scenario.face == "import_events":
                await self._import(client)
            elif self.send_immediately:
                await self._directly(client)
            else:
                await self._buffered(client)
        if scope.cancelled_caught:
            self.audit.fault("stuck", f"not over after {3 * TIMEOUT:g} s")

    async def _buffered(self, client):
        for n in range(self.count):
            await self.send(client, n)
            if n % 8 == 7:
                await anyio.sleep(0.001)
        end = time.monotonic() + TIMEOUT
        while True:
            self.check_flush(await client.flush(5))
            if not self.pending() or time.monotonic() > end:
                break
        probe = self.count
        while True:  # an update that is not safe to repeat may meet one more broken connection
            await self.send(client, probe)
            self.check_flush(await client.flush(TIMEOUT))
            with anyio.move_on_after(1.0):  # it may come before the server records it
                while not self.arrived(probe):
                    await anyio.sleep(0.01)
            if self.arrived(probe) or probe >= self.count + 3 or time.monotonic() > end:
                break
            probe += 1
        if not self.arrived(probe):
            self.audit.fault("stuck", "a fresh message does not arrive")
        await _close(client)

    async def _directly(self, client):
        async def call(n):
            try:
                await self.send(client, n)
            except DeliveryError as error:
                self.audit.raised(self.marker(n), error)

        async with anyio.create_task_group() as tasks:
            for n in range(0, self.count, 2):
                tasks.start_soon(call, n)
            for n in range(1, self.count, 2):
                await call(n)
        end, n = time.monotonic() + TIMEOUT, self.count
        await call(n)
        while not self.arrived(n) and time.monotonic() < end:
            n += 1
            await call(n)
        if not self.arrived(n):
            self.audit.fault("stuck", "a fresh message does not arrive")
        await _close(client)

    async def _import(self, client):
        counts = self._import_counts()
        while (start := counts.start_at) is not None:
            with counts.noting():
                counts.note(await client.import_events(
                    self.rows(), start_at=start, retry=CALLER, on_rejected=counts.failed
                ))  # fmt: skip
        counts.check()
        await _close(client)

    def _import_counts(self):
        counts = ImportCounts(self.audit)
        self.watch.done(self.audit)  # nothing here goes through the client's own counts
        self.audit.stats = counts.stats
        return counts

    # ---- sync ------------------------------------------------------------------------------------

    def run_threads(self):
        client = self.client()
        if self.scenario.face == "import_events":
            self._import_sync(client)
        else:
            self._call_sync(client)

    def _call_sync(self, client):
        def call(n):
            try:
                self.send(client, n)
            except DeliveryError as error:
                self.audit.raised(self.marker(n), error)

        def work(first):
            for n in range(first, self.count, 3):
                call(n)

        threads = [threading.Thread(target=work, args=(n,), daemon=True) for n in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(3 * TIMEOUT)
            if thread.is_alive():
                self.audit.fault("stuck", "a thread does not come back")
                return
        end, n = time.monotonic() + TIMEOUT, self.count
        while not self.send_immediately:
            self.check_flush(client.flush(5))
            if not self.pending() or time.monotonic() > end:
                break
        while True:
            call(n)
            if not self.send_immediately:
                self.check_flush(client.flush(TIMEOUT))
            if self.arrived(n) or time.monotonic() > end:
                break
            n += 1
        if not self.arrived(n):
            self.audit.fault("stuck", "a fresh message does not arrive")
        _close_sync(client)

    def _import_sync(self, client):
        counts = self._import_counts()
        while (start := counts.start_at) is not None:
            with counts.noting():
                counts.note(client.import_events(
                    self.rows(), start_at=start, retry=CALLER, on_rejected=counts.failed
                ))  # fmt: skip
        counts.check()
        _close_sync(client)


class ImportCounts:
    """Read the results of an import, and of those that resume it, as statistics of a client."""

    def __init__(self, audit):
        self.audit = audit
        self.imported = 0
        self.start_at = 0  # None when all is done
        self.interrupted = 0

    @contextmanager
    def noting(self):
        try:
            yield
        except ImportInterrupted as error:
            self.interrupted += 1
            self.note(error.result)
            self.start_at = error.result.position if self.interrupted < 10 else None

    def note(self, result):
        self.imported += result.imported
        self.start_at = None

    def failed(self, record):
        self.audit.on_error(RejectedError(record.message), [record.record or {}])

    def stats(self):
        calls, rejected = len(self.audit.calls), len(self.audit.fates)
        if self.start_at is not None:
            return Stats(accepted=calls, rejected=rejected, pending=calls - rejected)
        return Stats(accepted=calls, rejected=rejected, delivered=calls - rejected)

    def check(self):
        calls, rejected = len(self.audit.calls), len(self.audit.fates)
        if self.interrupted >= 10:
            self.audit.fault("stuck", "ten imports were interrupted")
        # What an interrupted import sent beyond its position, the next one sends again.
        if not self.interrupted and self.imported + rejected != calls:
            self.audit.fault("wrong", f"{self.imported} and {rejected} of {calls} rows")


async def _close(client):
    if isinstance(client, AsyncMixpanel):
        await client.consumer.aclose()
    else:
        await client.aclose()


def _close_sync(client):
    client.close()
    if isinstance(client, Mixpanel):
        consumer = client.consumer
        if isinstance(consumer, AsyncBufferedConsumer):
            from mixpanel._runtime import background_loop

            background_loop.run(consumer.aclose)
        else:
            consumer.close()


def play(scenario, watch):
    """Run one scenario and return its outcome."""
    began = time.monotonic()
    one = Play(scenario, watch)
    try:
        if scenario.runtime == "threads":
            one.run_threads()
        else:
            anyio.run(one.run_async, **BACKENDS[scenario.runtime])
        one.end()
    except Exception as error:
        one.audit.fault("wrong", f"{type(error).__name__}: {error}")
        one.outcome.merged(one.audit)
    finally:
        one.close()
    one.outcome.seconds = time.monotonic() - began
    return one.outcome


def run(scenarios, *, parallel=6, finished=lambda outcome: None, limit=600.0):
    """Run scenarios on some threads, and return an outcome for each.

    One that does not end within three minutes counts as stuck, and its thread is left to itself.
    """
    waiting, done = SimpleQueue(), SimpleQueue()
    for scenario in scenarios:
        waiting.put(scenario)
    begun = {}

    def work(watch):
        while True:
            try:
                scenario = waiting.get_nowait()
            except Empty:
                return
            begun[scenario] = time.monotonic()
            done.put((scenario, play(scenario, watch)))

    outcomes = {}
    with Watch() as watch:
        threads = [
            threading.Thread(target=work, args=(watch,), name=f"fault-play-{n}", daemon=True)
            for n in range(parallel)
        ]
        for thread in threads:
            thread.start()
        end = time.monotonic() + limit
        while len(outcomes) < len(scenarios) and time.monotonic() < end:
            try:
                scenario, outcome = done.get(timeout=1.0)
            except Empty:
                now = time.monotonic()
                stuck = [s for s, at in begun.items() if s not in outcomes and now - at > 180]
                for scenario in stuck:
                    outcomes[scenario] = Outcome(str(scenario), 0, [("stuck", "it does not end")])
                    finished(outcomes[scenario])
                continue
            if scenario not in outcomes:
                outcomes[scenario] = outcome
                finished(outcome)
        for scenario in scenarios:
            if scenario not in outcomes:
                outcomes[scenario] = Outcome(str(scenario), 0, [("stuck", "out of time")])
        for thread in threads:
            thread.join(0.5)
        return [outcomes[scenario] for scenario in scenarios]


def quiet():
    """Keep the client's log to itself."""
    logging.getLogger("mixpanel").addHandler(logging.NullHandler())
    logging.getLogger("mixpanel").propagate = False


def run_quietly(scenarios):
    """Run scenarios in a process of their own; most of a scenario is waiting."""
    quiet()
    return run(scenarios, parallel=12)


def table(scenarios, outcomes):
    """Return the matrix as text: a row for each value of each dimension."""
    lines = [f"{'':34}{'tried':>8}{'survived':>10}" + "".join(f"{c:>8}" for c in COLUMNS)]
    for dimension in ("kind", "endpoint", "runtime", "face"):
        lines.append(f"{dimension.upper()}")
        tried, survived, found = Counter(), Counter(), {column: Counter() for column in COLUMNS}
        for scenario, outcome in zip(scenarios, outcomes, strict=True):
            value = getattr(scenario, dimension)
            tried[value] += 1
            survived[value] += outcome.ok
            for column in COLUMNS:
                found[column][value] += outcome.count(column)
        for value in tried:
            counts = "".join(f"{found[column][value]:>8}" for column in COLUMNS)
            lines.append(f"  {value:32}{tried[value]:>8}{survived[value]:>10}{counts}")
    return "\n".join(lines)
