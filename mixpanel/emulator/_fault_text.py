"""Read a fault that is written as text: `503 on /track 10%`.

The grammar is `FAULT [on PATH] [COUNT times | PERCENT%]`; without COUNT and PERCENT a fault applies
to every request, and 10% are every tenth.
"""

import re
from collections.abc import Callable
from typing import NamedTuple

from mixpanel.emulator.faults import Fault

EXAMPLE = "503 on /track 10%"
TEXT = re.compile(
    r"(?P<fault>\S.*?)"
    r"(?:\s+on\s+(?P<path>/\S*))?"
    r"(?:\s+(?:(?P<count>\d{1,9})\s+times?|(?P<percent>\d{1,3}(?:\.\d+)?)\s*%))?",
    re.ASCII,
)
STATUS = re.compile(r"([2-5]\d\d)(?:\s+retry-after\s+(\d+(?:\.\d+)?))?", re.ASCII)
SECONDS = re.compile(r"\d+(?:\.\d+)?", re.ASCII)
INDEXES = re.compile(r"\d+(?:,\d+)*", re.ASCII)
PLAIN: dict[str, Callable[[], Fault]] = {
    "reset": Fault.reset,
    "drip": Fault.drip,
    "silence": Fault.silence,
    "html": Fault.html,
    "malformed": Fault.malformed,
    "truncated": lambda: Fault.truncated(at=0.5),
    "terminated-early": Fault.terminated_early,
    **{
        f"reset {when}": lambda when=when: Fault.reset(when)  # type: ignore[misc] # a default
        for when in ("before", "during", "after", "answering")
    },
}


class ReadFault(NamedTuple):
    """A fault, the endpoint that it is limited to, and the share of requests that it applies to."""

    fault: Fault
    path: str | None = None
    share: float = 1.0


def read_fault(text: str) -> ReadFault:
    """Return the fault that a text describes.

    >>> read_fault("503 on /track 10%")[1:]
    ('/track', 0.1)

    :raises ValueError: it describes none.
    """
    found = TEXT.fullmatch(" ".join(text.split()))
    fault = _fault(found["fault"]) if found else None
    if found is None or fault is None:
        kinds = "a status, latency, reset, drip, silence, html, malformed, truncated, partial"
        raise ValueError(
            f"{text!r} is not a fault: write FAULT [on PATH] [COUNT times | PERCENT%], as "
            f'"{EXAMPLE}", where FAULT is {kinds} or terminated-early'
        )
    percent = float(found["percent"] or 100)
    if not 0 < percent <= 100:
        raise ValueError(f"{text!r}: the percentage must be above 0 and at most 100")
    if found["count"] is not None and not int(found["count"]):
        raise ValueError(f"{text!r}: a fault applies at least 1 time")
    fault = fault.forever() if found["count"] is None else fault * int(found["count"])
    path = None if found["path"] is None else found["path"].rstrip("/") or "/"
    return ReadFault(fault, path, percent / 100)


def _fault(text: str) -> Fault | None:
    kind, _, rest = text.partition(" ")
    if made := PLAIN.get(text):
        return made()
    if status := STATUS.fullmatch(text):
        after = None if status[2] is None else float(status[2])
        return Fault.status(int(status[1]), retry_after=after)
    if kind in ("latency", "drip") and SECONDS.fullmatch(rest):
        return Fault.latency(float(rest)) if kind == "latency" else Fault.drip(float(rest))
    if kind == "partial" and INDEXES.fullmatch(rest):
        return Fault.partial([int(each) for each in rest.split(",")])
    return None
