"""Compare what a server applied with what the client reports, at every step and at the end.

A `DeliveryAudit` watches one client. From the calls made, the callbacks and the server's record it
finds violations, in four columns:

- `lost`: a message has no outcome: never applied, not counted as rejected or dropped;
- `twice`: the server cannot recognise two copies as one, or `$add` was applied again;
- `stuck`: something is pending when all is healthy, or a new message is not delivered;
- `wrong`: counts that do not add up, a delivery that never happened, a message with two outcomes.
"""

import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from itertools import count

from mixpanel import AmbiguousDeliveryError, PayloadTooLargeError, RejectedError
from tests.faults.server import marker_of

COLUMNS = ("lost", "twice", "stuck", "wrong")
REFUSALS = (RejectedError, PayloadTooLargeError)


@dataclass
class Outcome:
    """The result of one scenario."""

    name: str
    messages: int = 0
    violations: list = field(default_factory=list)  # (column, what)
    seconds: float = 0.0

    @property
    def ok(self):
        return not self.violations

    def count(self, column):
        return sum(1 for found, _ in self.violations if found == column)

    def merged(self, *audits):
        for audit in audits:
            self.messages += len(audit.calls)
            self.violations += audit.violations
        return self

    def __str__(self):
        return "\n".join(f"{self.name}: {column}: {what}" for column, what in self.violations)


class DeliveryAudit:
    """Keep what a client was passed and what it reported; `record` is the server's record."""

    def __init__(self, record, *, ordered=False):
        self.record = record
        self.ordered = ordered
        self.stats = None  # set when the client exists
        self.calls = {}  # marker: place in the order of acceptance
        self.fates = {}  # marker: the losses reported for it
        self.delivered = Counter()  # where a client reports each message, as CDP clients do
        self.reports_delivery = False
        self.violations = []
        self._place = count()
        self._overstated = False
        self._before = (0, 0, 0, 0)
        self._lock = threading.Lock()
        self._stepping = threading.Lock()

    # ---- what the client is passed, and what it reports ----------------------------------------

    def accepted(self, marker):
        """Note a message that the client accepted, or raised a delivery error about."""
        self.calls[marker] = next(self._place)

    def refused(self, marker):
        """Note that the client did not accept a message: it raised at the caller's line."""
        self.calls.pop(marker, None)

    def raised(self, marker, error):
        """Note the error that is a message's outcome: it goes to its caller only."""
        if isinstance(error, REFUSALS):
            self._fate(marker, "rejected")
        else:
            ambiguous = isinstance(error, AmbiguousDeliveryError)
            self._fate(marker, "ambiguous" if ambiguous else "raised")

    def on_error(self, error, messages):
        if isinstance(error, REFUSALS):
            for message in messages:
                self._fate(marker_of(message), "rejected")
        self.step()

    def on_drop(self, reason, messages):
        for message in messages:
            self._fate(marker_of(message), reason)
        self.step()

    def on_delivery(self, delivery):
        if delivery.fate == "delivered":
            with self._lock:
                self.delivered[delivery.message_id] += 1
        self.step()

    def _fate(self, marker, fate):
        with self._lock:
            self.fates.setdefault(marker, []).append(fate)

    def fault(self, column, what):
        with self._lock:
            # It stays wrong at the next check: once is enough.
            if (column, what) not in self.violations and len(self.violations) < 200:
                self.violations.append((column, what))

    # ---- at every step --------------------------------------------------------------------------

    def step(self):
        """Check what must hold at any time."""
        if self.stats is None:
            return
        stats = self.stats()
        applied, lied = len(self.record.applied), len(self.record.lied)
        if not stats.balanced:
            self.fault("wrong", f"does not balance: {stats}")
        overstated = stats.delivered > applied + lied and not self.record.crossing
        if overstated and not self._overstated:
            self._overstated = True
            self.fault("wrong", f"{stats.delivered} delivered, {applied} applied")
        if min(stats.pending, stats.delivered, stats.rejected) < 0:
            self.fault("wrong", f"a count below zero: {stats}")
        self._check_progress()

    def _check_progress(self):
        # A callback may run where others wait for it: never wait here.
        if not self._stepping.acquire(blocking=False):
            return
        try:
            stats = self.stats()
            now = (stats.accepted, stats.delivered, stats.rejected, sum(stats.dropped.values()))
            if any(was > is_ for was, is_ in zip(self._before, now, strict=True)):
                self.fault("wrong", f"a count went back: {self._before} -> {now}")
            self._before = now
        finally:
            self._stepping.release()

    # ---- at the end -----------------------------------------------------------------------------

    def finish(self):
        """Compare the whole audit with what the server applied."""
        self.step()
        stats, record = self.stats(), self.record
        if stats.accepted < len(self.calls):
            self.fault("lost", f"{len(self.calls)} calls, but accepted={stats.accepted}")
        elif stats.accepted > len(self.calls):
            self.fault("wrong", f"{len(self.calls)} calls, but accepted={stats.accepted}")
        if stats.pending:
            self.fault("stuck", f"{stats.pending} pending at the end: {stats}")
        self._check_fates(stats)
        self._check_arrivals(stats)
        if record.followed:
            self.fault("wrong", f"{record.followed} redirect(s) followed")
        for text in record.unreadable:
            self.fault("wrong", f"a request that cannot be read: {text}")

    def _check_fates(self, stats):
        for marker, fates in self.fates.items():
            if len(fates) > 1:
                self.fault("wrong", f"{marker} has several outcomes: {fates}")
            if marker not in self.calls:
                self.fault("wrong", f"{marker} was never accepted, but is reported {fates}")
            if "rejected" in fates and self.record.applied[marker]:
                self.fault("wrong", f"{marker} was reported rejected, and was applied")
        reported = Counter(fate for fates in self.fates.values() for fate in fates)
        counted = Counter({"rejected": stats.rejected}) + Counter(stats.dropped)
        if reported != counted:
            self.fault("wrong", f"reported {dict(reported)}, counted {dict(counted)}")
        if self.reports_delivery:
            twice = [marker for marker, times in self.delivered.items() if times > 1]
            if twice or len(self.delivered) != stats.delivered:
                self.fault("wrong", f"on_delivery: {len(self.delivered)} delivered, {twice} twice")

    def _check_arrivals(self, stats):
        record = self.record
        # Pending messages have no outcome yet, and only the client knows which those are.
        missing = [
            marker for marker in self.calls
            if marker not in self.fates and not record.applied[marker] and marker not in record.lied
        ]  # fmt: skip
        claimed = max(0, stats.delivered - (len(self.calls) - len(self.fates) - len(missing)))
        for marker in missing[stats.pending :][:claimed]:
            self.fault("wrong", f"{marker} counts as delivered, and was never applied")
        for marker in missing[stats.pending + claimed :]:
            self.fault("lost", f"{marker} was accepted, and has no outcome")
        for marker, keys in record.keys.items():
            if len(keys) > 1:
                self.fault("twice", f"{marker} came under {len(keys)} keys")
            if marker in record.unsafe and record.applied[marker] > 1:
                self.fault("twice", f"$add {marker} was applied {record.applied[marker]} times")
            if marker not in self.calls:
                self.fault("wrong", f"{marker} was applied, but never accepted")
        if self.ordered and record.order:
            newest = max(record.order, key=lambda marker: self.calls.get(marker, -1))
            if record.order[-1] != newest:
                self.fault("wrong", f"{record.order[-1]} was applied over the newer {newest}")


class Watch:
    """Check every open audit again and again from a thread, until the block is left."""

    def __init__(self, pause=0.002):
        self._pause = pause
        self._accounts = []
        self._leave = threading.Event()
        self._thread = threading.Thread(target=self._look, name="fault-watch", daemon=True)
        self.looks = 0

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._leave.set()
        self._thread.join(10)

    def over(self, audit):
        self._accounts.append(audit)

    def done(self, *audits):
        for audit in audits:
            self._accounts.remove(audit)

    def _look(self):
        while not self._leave.wait(self._pause):
            for audit in tuple(self._accounts):
                audit.step()
                self.looks += 1


def within(seconds, condition, pause=0.005):
    """Return True if a condition becomes true in time."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(pause)
    return True
