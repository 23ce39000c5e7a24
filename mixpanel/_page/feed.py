"""The live feed: the newest entries, counts per second, and problems. Thread-safe."""

from __future__ import annotations

import secrets
import time
from collections import OrderedDict, deque
from typing import TYPE_CHECKING, Any

from mixpanel._page.entries import Entry, describe, summary
from mixpanel._page.problems import Problems
from mixpanel._runtime import native_threads

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Sequence

    from mixpanel._page.entries import Exchange, Lane, RequestRecord, Verdict

__all__ = ["Feed"]

MAX_KEYS = 100_000
MAX_EXAMINED = 200  # accepted records of one request; the others of a batch are similar
SECONDS = 60
TALLIED: tuple[str, ...] = ("accepted", "duplicate", "rejected", "faulted", "bytes")
GROUPS = {"dropped": "rejected", "retrying": "faulted"}


class Feed:
    """The newest entries: at most `size`, and at most `max_bytes` of records.

    `name` distinguishes this feed from that of an earlier process at the same address.
    """

    def __init__(
        self,
        *,
        size: int = 1000,
        max_bytes: int = 32 * 2**20,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.name = secrets.token_hex(3)
        self.seq = 0
        self.cleared_at = 0
        self._size = size
        self._max_bytes = max_bytes
        self._clock = clock
        self._lock = native_threads.new_rlock()
        self._entries: OrderedDict[int, Entry] = OrderedDict()  # by their latest change
        self._bytes = 0
        self._last_id = 0
        self._seen: OrderedDict[Hashable, None] = OrderedDict()
        self._problems = Problems()
        self._totals = dict.fromkeys(TALLIED, 0)
        self._rates: deque[tuple[int, dict[str, int]]] = deque(maxlen=SECONDS)

    def add(
        self,
        exchange: Exchange,
        lane: Lane,
        records: Sequence[RequestRecord],
        *,
        verdict: Verdict | None = None,
        status: int | None = None,
        fault: str | None = None,
        reason: str | None = None,
        stored: bool = True,
        size: int = 0,
        via: str | None = None,
    ) -> list[Entry]:
        """Add the records of a request, in order.

        `verdict` is for all records that were not rejected; without it each is accepted or a
        duplicate. `reason` is for records without their own. A later record with the same `key` is
        a duplicate if this one was `stored`. Return the entries that were added: of a request with
        more records than the feed keeps, the first accepted ones are only counted.
        """
        with self._lock:
            now = self._clock()
            share = size // len(records) if records else 0
            added, examined = [], 0
            counts: dict[str, int] = {}
            too_many = len(records) - self._size
            for index, one in enumerate(records):
                self.seq += 1
                self._last_id += 1
                outcome = self._verdict(one, verdict, stored=stored)
                counts[outcome] = counts.get(outcome, 0) + 1
                if index < too_many and outcome != "rejected":
                    continue
                found = describe(lane, one.record)
                entry = Entry(
                    self._last_id,
                    self.seq,
                    now,
                    lane,
                    outcome,
                    one.record,
                    exchange,
                    found.event,
                    found.distinct_id,
                    found.insert_id,
                    found.properties,
                    one.reason or reason,
                    status,
                    fault,
                    index=index,
                    count=len(records),
                    size=share,
                    via=via,
                )
                if one.note:
                    self._problems.add(entry, "ignored", one.note)
                if outcome == "rejected" or examined < MAX_EXAMINED:
                    examined += outcome != "rejected"
                    self._problems.examine(entry)
                self._entries[entry.id] = entry
                self._bytes += share
                added.append(entry)
            if via is None:
                for name, count in counts.items():
                    self._tally(name, count, share * count)
            self._drop_oldest()
            return added

    def change(self, entry: Entry, **changes: Any) -> None:
        """Change fields of an entry, and count a new verdict; readers get it again.

        An entry that the feed no longer has is counted only.
        """
        with self._lock:
            verdict = entry.verdict
            for name, value in changes.items():
                setattr(entry, name, value)
            if entry.verdict != verdict:
                if entry.via is None:
                    self._tally(entry.verdict, 1, 0)
                if entry.verdict in ("rejected", "dropped"):
                    self._problems.examine(entry)
            if entry.id in self._entries:
                self.seq += 1
                entry.seq = self.seq
                self._entries.move_to_end(entry.id)

    def after(self, seq: int) -> tuple[list[Entry], int]:
        """Return the entries added or changed after `seq`, and how many were removed unread."""
        with self._lock:
            if seq >= self.seq:
                return [], 0
            found = []
            for entry in reversed(self._entries.values()):
                if entry.seq <= seq:
                    break
                found.append(entry)
            found.reverse()
            lost = 0
            if found and len(found) == len(self._entries):
                lost = max(0, found[0].seq - max(seq, self.cleared_at) - 1)
            return found, lost

    def entry(self, number: int) -> Entry | None:
        """Return an entry by its id; None if the feed no longer has it."""
        with self._lock:
            return self._entries.get(number)

    def entries(
        self, *, lane: str | None = None, verdict: str | None = None, event: str | None = None
    ) -> list[Entry]:
        """Return the entries, oldest first: all, or those with a lane, verdict and event."""
        with self._lock:
            found = sorted(self._entries.values(), key=lambda entry: entry.id)
        return [
            entry
            for entry in found
            if lane in (None, entry.lane)
            and verdict in (None, entry.verdict)
            and event in (None, entry.event)
        ]

    def summaries(self, **conditions: str | None) -> list[dict[str, Any]]:
        """Return the entries as in the stream, with their records."""
        return [{**summary(entry), "record": entry.record} for entry in self.entries(**conditions)]

    def state(self) -> dict[str, Any]:
        """Return the totals, the counts of each of the last 60 seconds, and the problems."""
        with self._lock:
            second = int(self._clock())
            by_second = dict(self._rates)
            rates = {
                name: [
                    by_second.get(at, {}).get(name, 0)
                    for at in range(second - SECONDS + 1, second + 1)
                ]
                for name in TALLIED
            }
            return {
                "totals": dict(self._totals),
                "rates": rates,
                "problems": self._problems.summary(),
                "kept": len(self._entries),
            }

    def clear(self) -> None:
        """Forget all entries, counts and problems."""
        with self._lock:
            self.seq += 1
            self.cleared_at = self.seq
            self._entries.clear()
            self._bytes = 0
            self._seen.clear()
            self._problems.clear()
            self._totals = dict.fromkeys(TALLIED, 0)
            self._rates.clear()

    def _verdict(self, one: RequestRecord, verdict: Verdict | None, *, stored: bool) -> Verdict:
        if one.reason is not None:
            return "rejected"
        known = stored and one.key is not None and self._is_known(one.key)
        return verdict or ("duplicate" if known else "accepted")

    def _is_known(self, key: Hashable) -> bool:
        """Return True for a key that was seen before, and remember it."""
        if key in self._seen:
            return True
        self._seen[key] = None
        if len(self._seen) > MAX_KEYS:
            self._seen.popitem(last=False)
        return False

    def _tally(self, verdict: str, count: int, size: int) -> None:
        """Count a verdict; queued messages are counted when they have an outcome."""
        second, name = int(self._clock()), GROUPS.get(verdict, verdict)
        if not self._rates or self._rates[-1][0] != second:
            self._rates.append((second, dict.fromkeys(TALLIED, 0)))
        counts = self._rates[-1][1]
        for tally in (counts, self._totals):
            if name in tally:
                tally[name] += count
            tally["bytes"] += size

    def _drop_oldest(self) -> None:
        while len(self._entries) > self._size or (
            self._bytes > self._max_bytes and len(self._entries) > 1
        ):
            _, dropped = self._entries.popitem(last=False)
            self._bytes -= dropped.size
