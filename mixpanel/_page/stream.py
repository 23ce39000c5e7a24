"""The live feed as server-sent events for one reader."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

from mixpanel._page.entries import summary

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from mixpanel._page.entries import Entry
    from mixpanel._page.feed import Feed

__all__ = ["INTERVAL", "Stream", "frame", "matches"]

INTERVAL = 0.1  # seconds between two frames: 5,000 events a second must not be 5,000 frames
STATE_INTERVAL = 1.0
HEARTBEAT = 15.0


class Stream:
    """The frames for one reader: all entries of the feed, or those after `last_event_id`.

    `state` returns the content of state frames. `conditions` limit the entries by lane, verdict and
    event; with `full` they have their records.
    """

    def __init__(
        self,
        feed: Feed,
        state: Callable[[], dict[str, Any]],
        *,
        last_event_id: str = "",
        conditions: Mapping[str, Sequence[str]] | None = None,
        full: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._feed = feed
        self._state = state
        self._clock = clock
        self._conditions = conditions or {}
        self._full = full
        self._seq = self._position(last_event_id)
        self._cleared_at = feed.cleared_at
        self._last_state = ""
        self._state_due = 0.0
        self._sent_at = clock()
        self._opened = False

    def poll(self) -> bytes:
        """Return the frames that are due; empty if there are none."""
        frames = []
        now = self._clock()
        if not self._opened:
            self._opened = True
            frames.append(b"retry: 1000\n\n")
            if self._seq == 0:
                frames.append(frame("reset", {}))
        if self._feed.cleared_at != self._cleared_at:
            self._cleared_at = self._feed.cleared_at
            self._state_due = 0.0
            frames.append(frame("reset", {}))
        if entries := self._entries():
            frames.append(entries)
        if now >= self._state_due:
            self._state_due = now + STATE_INTERVAL
            state = json.dumps(self._state(), default=str)
            if state != self._last_state:
                self._last_state = state
                frames.append(f"event: state\ndata: {state}\n\n".encode())
        if frames:
            self._sent_at = now
        elif now - self._sent_at >= HEARTBEAT:
            self._sent_at = now
            return b": still here\n\n"
        return b"".join(frames)

    def _entries(self) -> bytes:
        found, lost = self._feed.after(self._seq)
        if not found:
            return b""
        self._seq = found[-1].seq
        shown = [self._as_json(entry) for entry in found if matches(entry, self._conditions)]
        if not shown and not lost:
            return b""
        return frame(None, {"entries": shown, "lost": lost}, f"{self._feed.name}.{self._seq}")

    def _as_json(self, entry: Entry) -> dict[str, Any]:
        found = summary(entry)
        return {**found, "record": entry.record} if self._full else found

    def _position(self, last_event_id: str) -> int:
        name, _, number = last_event_id.partition(".")
        if name != self._feed.name or not number.isdecimal() or len(number) > 18:
            return 0
        return min(int(number), self._feed.seq)


def matches(entry: Entry, conditions: Mapping[str, Sequence[str]]) -> bool:
    """Return True if each field that has a condition has one of its values."""
    return all(str(getattr(entry, name)) in wanted for name, wanted in conditions.items())


def frame(event: str | None, data: Any, number: str | None = None) -> bytes:
    """Return one server-sent event, as ASCII without line breaks in its data."""
    lines = [] if number is None else [f"id: {number}"]
    lines += [] if event is None else [f"event: {event}"]
    lines.append(f"data: {json.dumps(data, default=str)}")
    return ("\n".join(lines) + "\n\n").encode()
