"""Problems of the records in the feed: rejections, and what no server rejects.

Does no I/O. `Problems.examine` checks one entry at a time and remembers what it needs to compare
entries: the types of properties, the names of events. All of that is bounded.
"""

from __future__ import annotations

import difflib
import re
from collections import OrderedDict
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from mixpanel._page.entries import BY_CHOICE, CDP_LANES, json_type

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mixpanel._page.entries import Entry

__all__ = ["BANNED_IDS", "KINDS", "Kind", "Problems"]

Severity = Literal["error", "warning"]


class Kind(NamedTuple):
    """A kind of problem: what it means, and what to do."""

    title: str
    severity: Severity
    meaning: str
    remedy: str


KINDS: dict[str, Kind] = {
    "credentials": Kind(
        "Wrong token or credentials", "error",
        "The whole request was refused, so nothing of it is stored.",
        "Compare the project token, the service account and the project id with those in use here.",
    ),
    "banned-id": Kind(
        "Placeholder as a user id", "error",
        "Ids such as undefined, null or 0 would merge unrelated users into one.",
        "Send the real id, or none at all for an anonymous event.",
    ),
    "too-old": Kind(
        "Too old for /track", "error",
        "/track takes events of the last five days only, and responds 200 to older ones.",
        "Send them to /import, as import_events() and ingestion='import' do.",
    ),
    "future": Kind(
        "In the future", "error",
        "The time is more than an hour ahead of the server's clock.",
        "Check the clock of the sender, and that the time is in UTC.",
    ),
    "time-unit": Kind(
        "Seconds and milliseconds", "error",
        "A time is far from today, or one property has seconds in some events and milliseconds in "
        "others.",
        "Send `time` as seconds since 1970 in UTC, and dates in properties as ISO 8601 text.",
    ),
    "unreadable": Kind(
        "Request that cannot be read", "error",
        "The body is not the JSON that the endpoint takes.",
        "Open the entry: the request and the error of the parser are shown.",
    ),
    "too-large": Kind(
        "Request that is too large", "error",
        "The request has more bytes or records than the endpoint takes.",
        "Send smaller batches.",
    ),
    "rate": Kind(
        "Too many requests", "warning",
        "The endpoint responded with 429.",
        "Wait as long as Retry-After says, then send the same request again.",
    ),
    "rejected": Kind(
        "Rejected for another reason", "error",
        "The record breaks a rule of its endpoint.",
        "The reason is in the entry.",
    ),
    "dropped": Kind(
        "Dropped by the program", "error",
        "The client gave up sending the message. The server may not have received it.",
        "The reason is in the entry; the errors before it are in the log.",
    ),
    "mixed-types": Kind(
        "One property with several types", "warning",
        "Reports read a property as one type, and leave out the values of others.",
        "Always send the same type: a number without quotes, true instead of 'true'.",
    ),
    "similar-names": Kind(
        "Event names that are nearly the same", "warning",
        "Each spelling is an event of its own in every report.",
        "Choose one spelling, in one place of the program.",
    ),
    "insert-id": Kind(
        "No $insert_id", "warning",
        "If the request is sent again, the event is counted twice.",
        "Send a unique $insert_id with each event, as the clients of this package do.",
    ),
    "too-long": Kind(
        "Text over 255 characters", "warning",
        "Longer text is cut off when it is stored.",
        "Send shorter text, or an id with which the full text can be found.",
    ),
    "ignored": Kind(
        "$ignore is set", "warning",
        "The event counts as accepted, and is not stored.",
        "Remove $ignore to keep it.",
    ),
}  # fmt: skip

BANNED_IDS = frozenset(
    {
        *("anon", "anonymous", "nil", "none", "null", "n/a", "na", "undefined", "unknown", "<nil>"),
        *("0", "-1", "true", "false", "[]", "{}", "00000000-0000-0000-0000-000000000000"),
        *("nan", "[object object]"),
    }
)
REASONS: tuple[tuple[str, str], ...] = (
    # Parts of the reasons of the emulator and of the clients, and the kinds that they belong to.
    ("older than five days", "too-old"),
    ("in the future", "future"),
    ("seconds or milliseconds", "time-unit"),
    ("before 1971", "time-unit"),
    ("is not allowed as an id", "banned-id"),
    ("'properties.token' is missing or invalid", "credentials"),
    ("'$token' is missing or invalid", "credentials"),
    ("write key is", "credentials"),
)
BY_STATUS = {401: "credentials", 402: "credentials", 403: "credentials", 413: "too-large",
             429: "rate"}  # fmt: skip
MAX_STRING = 255
MAX_NAMES = 1000
MAX_COMPARED = 200
MAX_PROPERTIES = 2000
MAX_EXAMPLES = 5
MAX_COUNTED = 20_000
MAX_HASHED = 100_000  # bytes
LATEST_UNIT = 1e14  # larger numbers are not milliseconds
SECONDS = (1e8, 1e11)
MILLISECONDS = (1e11, 1e14)
EARLIEST = 946_684_800  # 2000-01-01
MAX_AGE = 5 * 86_400  # seconds, of events sent to /track
SIMILAR = 0.9
SHORTEST_COMPARED = 8  # characters of an event's name, for misspellings
TIME_NAME = re.compile(
    r"(?:^|_|\s)(?:time|timestamp|date|at|on)$|(?:At|Time|Date|On)$|timestamp", re.ASCII
)
SEPARATORS = re.compile(r"[\W_]+")
DIGITS = re.compile(r"\d+")


@dataclass(slots=True)
class _Found:
    count: int = 0
    examples: OrderedDict[str, int] = field(default_factory=OrderedDict)
    """Texts of the problem, each with the id of the latest entry that has it."""


class Problems:
    """The problems found so far, by kind."""

    def __init__(self) -> None:
        self._found: dict[str, _Found] = {}
        self._types: dict[tuple[str, str], dict[str, int]] = {}
        self._units: dict[tuple[str, str], str] = {}
        self._names: dict[str, str] = {}
        self._similar: dict[str, str] = {}
        # By kind and message: how often it arrived, and how often a program reported it.
        self._counted: OrderedDict[tuple[Any, ...], list[int]] = OrderedDict()

    def clear(self) -> None:
        """Forget everything."""
        self.__init__()  # type: ignore[misc] # of this very class

    def examine(self, entry: Entry) -> None:
        """Add the problems of an entry to its notes, and to the summary."""
        is_lost = entry.verdict == "dropped" and entry.reason not in BY_CHOICE.values()
        if entry.verdict == "rejected" or is_lost:
            self.add(entry, self._kind_of_rejection(entry), entry.reason or "")
        if entry.lane in ("tables", "queries", "flags"):
            return
        properties = entry.properties
        if entry.lane in ("events", "imports"):
            self._examine_event(entry, properties)
        elif entry.lane in CDP_LANES:
            self._examine_message(entry)
        self._examine_values(entry, properties)

    def summary(self) -> list[dict[str, Any]]:
        """Return the kinds that were found, errors first, with counts and examples."""
        return [
            {
                "kind": name,
                "title": kind.title,
                "severity": kind.severity,
                "meaning": kind.meaning,
                "remedy": kind.remedy,
                "count": found.count,
                "examples": [
                    {"text": text, "id": number}
                    for text, number in reversed(found.examples.items())
                ],
            }
            for name, kind in KINDS.items()
            if (found := self._found.get(name)) is not None
        ]

    def add(self, entry: Entry, kind: str, text: str) -> None:
        """Add a problem to an entry and to the summary, once for each kind.

        A message that a program reports and that arrives here, too, is counted once.
        """
        if any(known == kind for known, _ in entry.notes):
            return
        entry.notes.append((kind, text))
        found = self._found.setdefault(kind, _Found())
        found.count += self._is_new(entry, kind)
        shown = text[:200]
        found.examples.pop(shown, None)
        found.examples[shown] = entry.id
        if len(found.examples) > MAX_EXAMPLES:
            found.examples.popitem(last=False)

    def _is_new(self, entry: Entry, kind: str) -> bool:
        """Return False for the second of an entry that arrived and the report of sending it."""
        message: Any = entry.insert_id
        if message is None:
            message = hash(repr(entry.record)) if entry.size <= MAX_HASHED else entry.event
        key = kind, entry.lane, message
        counts = self._counted.setdefault(key, [0, 0])
        if len(self._counted) > MAX_COUNTED:
            self._counted.popitem(last=False)
        side = entry.via is not None
        counts[side] += 1
        return counts[side] > counts[not side]

    def _kind_of_rejection(self, entry: Entry) -> str:
        reason = entry.reason or ""
        for part, kind in REASONS:
            if part in reason:
                return kind
        if kind_of_status := BY_STATUS.get(entry.status or 0):
            return kind_of_status
        if entry.verdict == "dropped":
            return "dropped"
        return "unreadable" if entry.record is None else "rejected"

    def _examine_event(self, entry: Entry, properties: Mapping[str, Any]) -> None:
        name = entry.event
        if name is not None and not name.startswith("$"):
            if (other := self._similar_name(name)) is not None:
                self.add(entry, "similar-names", f"{name!r} and {other!r}")
            if entry.insert_id is None and entry.verdict != "rejected":
                self.add(entry, "insert-id", f"{name!r} without $insert_id")
        if entry.verdict != "rejected":
            self._examine_ids(entry, entry.distinct_id)
        time = properties.get("time")
        if isinstance(time, int | float) and not isinstance(time, bool):
            seconds = time / 1000 if abs(time) >= MILLISECONDS[0] else time
            if abs(time) >= LATEST_UNIT:
                self.add(entry, "time-unit", f"time {time} is neither seconds nor milliseconds")
            elif 0 <= seconds < EARLIEST:
                day = datetime.fromtimestamp(seconds, UTC).date()
                self.add(entry, "time-unit", f"time {time} is a day of {day:%Y}, {day}")
            elif entry.lane == "events" and entry.exchange.received_at - seconds > MAX_AGE:
                # Mixpanel accepts such an event and discards it.
                days = (entry.exchange.received_at - seconds) / 86_400
                self.add(entry, "too-old", f"{name!r} happened {days:,.0f} days before it was sent")

    def _examine_message(self, entry: Entry) -> None:
        record = entry.record if isinstance(entry.record, dict) else {}
        self._examine_ids(entry, record.get("userId"))
        if entry.insert_id is None and entry.verdict != "rejected":
            self.add(entry, "insert-id", f"{entry.event or 'message'!r} without messageId")
        stamp = record.get("timestamp")
        if json_type(stamp) == "number":
            self.add(entry, "time-unit", f"timestamp is the number {stamp}, not ISO 8601 text")

    def _examine_ids(self, entry: Entry, user: Any) -> None:
        if isinstance(user, str) and user.lower() in BANNED_IDS:
            self.add(entry, "banned-id", f"user id {user!r}")

    def _examine_values(self, entry: Entry, properties: Mapping[str, Any]) -> None:
        group = "events" if entry.lane == "imports" else entry.lane
        for name, value in properties.items():
            if name in ("time", "token"):
                continue
            if isinstance(value, str):
                if len(value) > MAX_STRING:
                    text = f"{name[:60]} has {len(value):,} characters"
                    self.add(entry, "too-long", text)
            elif isinstance(value, int | float) and not isinstance(value, bool):
                self._examine_unit(entry, group, name, value)
            self._examine_type(entry, group, name, value)

    def _examine_type(self, entry: Entry, group: str, name: str, value: Any) -> None:
        kind = json_type(value)
        if kind is None:
            return
        types = self._types.get((group, name))
        if types is None:
            if len(self._types) < MAX_PROPERTIES:
                self._types[group, name] = {kind: 1}
            return
        types[kind] = types.get(kind, 0) + 1
        if len(types) > 1:
            usual = max(types, key=types.__getitem__)
            if usual == kind:  # the others are the exceptions, and were reported
                return
            text = f"{name[:60]} is a {kind} here and a {usual} in others"
            self.add(entry, "mixed-types", text)

    def _examine_unit(self, entry: Entry, group: str, name: str, value: float) -> None:
        if not TIME_NAME.search(name):
            return
        unit = next(
            (
                unit
                for unit, (least, most) in (("seconds", SECONDS), ("milliseconds", MILLISECONDS))
                if least <= abs(value) < most
            ),
            None,
        )
        if unit is None or len(self._units) >= MAX_PROPERTIES:
            return
        known = self._units.setdefault((group, name), unit)
        if known != unit:
            self.add(entry, "time-unit", f"{name[:60]} has {unit} here and {known} in others")

    def _similar_name(self, name: str) -> str | None:
        """Return an earlier name that differs from this one by its spelling only."""
        if name in self._similar:
            return self._similar[name]
        plain = SEPARATORS.sub("", name.casefold())
        known = self._names.get(plain)
        if known == name:
            return None
        if known is None:
            known = self._misspelt(name, plain)
        if known is None:
            if len(self._names) < MAX_NAMES:
                self._names[plain] = name
            return None
        if len(self._similar) < MAX_NAMES:
            self._similar[name] = known
        return known

    def _misspelt(self, name: str, plain: str) -> str | None:
        if len(name) < SHORTEST_COMPARED:
            return None
        for other, shown in list(self._names.items())[-MAX_COMPARED:]:
            if DIGITS.sub("", other) == DIGITS.sub("", plain) or len(other) < SHORTEST_COMPARED:
                continue  # "Step 1" and "Step 2" differ on purpose
            matcher = difflib.SequenceMatcher(None, other, plain, autojunk=False)
            if matcher.quick_ratio() >= SIMILAR and matcher.ratio() >= SIMILAR:
                return shown
        return None
