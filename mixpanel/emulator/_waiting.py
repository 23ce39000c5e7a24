"""Wait for events that a program sends in the background: what `Emulator.wait_for` looks at."""

import difflib
import time
from collections.abc import Mapping
from typing import Any, Final

from mixpanel._page.entries import CDP_LANES, Entry
from mixpanel._page.feed import Feed
from mixpanel.emulator._storage.warehouse import Warehouse

POLL_INTERVAL: Final = 0.005  # seconds
EVENT_LANES: Final = ("events", "imports", *CDP_LANES)
MAX_LISTED: Final = 12
STORED: Final = ("accepted", "duplicate")


class WaitForCount:
    """Wait until so many events are stored, without copies."""

    def __init__(self, warehouse: Warehouse, count: int, timeout: float) -> None:
        self._warehouse = warehouse
        self._count = count
        self._timeout = timeout
        self._end = time.monotonic() + timeout

    def look(self) -> list[dict[str, Any]] | None:
        """Return the events if they are stored, None if they may still come.

        :raises TimeoutError: the time is over.
        """
        warehouse = self._warehouse
        # Asked before looking: what comes until the deadline counts.
        is_over = time.monotonic() >= self._end
        if warehouse.copies() >= self._count and warehouse.count() >= self._count:
            return warehouse.events()
        if is_over:
            stored = warehouse.count()
            raise TimeoutError(
                f"{stored} of {self._count} events arrived within {self._timeout:g} s"
            )
        return None


class WaitForEvent:
    """Wait until one event is stored, with these properties among others."""

    def __init__(
        self,
        feed: Feed,
        warehouse: Warehouse,
        event: str,
        timeout: float,
        lane: str | None,
        distinct_id: str | None,
        properties: Mapping[str, Any],
    ) -> None:
        self._feed = feed
        self._warehouse = warehouse
        self._event = event
        self._timeout = timeout
        self._lane = lane
        self._distinct_id = distinct_id
        self._properties = properties
        self._seq = -1
        self._looked_at_store = False
        self._end = time.monotonic() + timeout

    def look(self) -> dict[str, Any] | None:
        """Return the event if it is stored, None if it may still come.

        :raises TimeoutError: the time is over.
        """
        is_over = time.monotonic() >= self._end
        entries, lost = self._feed.after(max(self._seq, 0))
        if entries:
            self._seq = entries[-1].seq
        for entry in entries:
            if self._matches(entry):
                return dict(entry.record)
        if lost or not self._looked_at_store or is_over:
            # Events from before the newest 1,000 entries, or of an earlier run.
            self._looked_at_store = True
            if (found := self._stored()) is not None:
                return found
        if is_over:
            raise TimeoutError(self._text())
        return None

    def _matches(self, entry: Entry) -> bool:
        if entry.event != self._event or entry.lane not in EVENT_LANES or entry.via is not None:
            return False
        is_stored = entry.verdict in STORED or (
            entry.verdict == "faulted" and "stored, but" in (entry.reason or "")
        )
        if not is_stored or (self._lane is not None and entry.lane != self._lane):
            return False
        if self._distinct_id is not None and entry.distinct_id != self._distinct_id:
            return False
        return self._has_properties(entry.properties)

    def _stored(self) -> dict[str, Any] | None:
        if self._lane not in (None, "events", "imports"):
            return None
        for event in self._warehouse.events(self._event, distinct_id=self._distinct_id):
            if self._has_properties(event["properties"]):
                return event
        return None

    def _has_properties(self, found: Mapping[str, Any]) -> bool:
        return all(
            name in found and value == found[name] for name, value in self._properties.items()
        )

    def _text(self) -> str:
        """Return what was awaited, the nearest that came, and what did arrive."""
        conditions = dict(self._properties)
        if self._distinct_id is not None:
            conditions = {"distinct_id": self._distinct_id, **conditions}
        wanted = ", ".join(f"{name}={value!r}" for name, value in conditions.items())
        what = repr(self._event) + (f" with {wanted}" if wanted else "")
        where = f" at {self._lane}" if self._lane else ""
        lines = [f"{what} did not arrive{where} within {self._timeout:g} s"]
        entries = [each for each in self._feed.entries() if each.lane in EVENT_LANES]
        same = [each for each in entries if each.event == self._event]
        lines += [f"    {self._difference(entry)}" for entry in same[-MAX_LISTED:]]
        if not same:
            names = {entry.event for entry in entries if entry.event}
            alike = difflib.get_close_matches(self._event, names, n=1)
            lines += [f"did you mean {alike[0]!r}?"] if alike else []
        others = [each for each in self._feed.entries() if each not in same]
        if not others and not same:
            lines.append("nothing arrived: check that the client sends to this emulator's url")
            return "\n".join(lines)
        if others:
            lines.append(f"arrived besides ({len(others)}):")
            if len(others) > MAX_LISTED:
                lines.append(f"    … {len(others) - MAX_LISTED} before these")
            lines += [f"    {_line(each)}" for each in others[-MAX_LISTED:]]
        return "\n".join(lines)

    def _difference(self, entry: Entry) -> str:
        if entry.verdict in ("rejected", "faulted"):
            return f"one was {entry.verdict}: {entry.reason}"
        if self._lane is not None and entry.lane != self._lane:
            return f"one arrived at {entry.lane}"
        if self._distinct_id is not None and entry.distinct_id != self._distinct_id:
            return f"one is of {entry.distinct_id!r}"
        found = entry.properties
        parts = [
            f"{name}={found[name]!r}" if name in found else f"no {name}"
            for name, value in self._properties.items()
            if name not in found or found[name] != value
        ]
        return f"one has {', '.join(parts)[:500]}"


def _line(entry: Entry) -> str:
    what = entry.event or f"{entry.exchange.method} {entry.exchange.path}"
    parts = [f"{entry.lane:<9}", f"{entry.verdict:<9}", what]
    parts += [entry.distinct_id] if entry.distinct_id else []
    parts += [f"({entry.reason[:200]})"] if entry.reason else []
    return "  ".join(parts)
