"""Serve feature flags: their definitions as they are, and what they decide for one user.

Cohorts are known here alone, as on Mixpanel's servers. Rollouts that wait for an event
(`runtime_event_rule`) stay closed.
"""

import json
import logging
import threading
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic_core import from_json

from mixpanel._runtime.checked_files import read_at_most
from mixpanel.emulator._rules.decode import RefusedRequest

if TYPE_CHECKING:
    from mixpanel.flags import Definitions

logger = logging.getLogger("mixpanel.emulator")

FlagSource = Mapping[str, Any] | Sequence[Any] | str | Path
"""What flags come from: `{"flags": [...]}`, a list of flags, or the path of a JSON file."""

MOST_BYTES = 64 * 1024 * 1024  # of a file of flags
BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True, slots=True)
class Served:
    """The answer of the definitions endpoint, never edited, only replaced."""

    body: bytes
    cohorts: Mapping[str, Collection[str]]
    _parsed: "dict[frozenset[str], Definitions]" = field(default_factory=dict)

    @property
    def flags(self) -> list[Any]:
        """Return the flags, as a copy of one's own."""
        flags: list[Any] = json.loads(self.body)["flags"]
        return flags

    def decide(self, context: Mapping[str, Any], flag_key: str | None) -> dict[str, Any]:
        """Return the variants that a context is enrolled in, of one flag or of all."""
        from mixpanel.flags import Snapshot

        user = context["distinct_id"]
        cohorts = frozenset(name for name, members in self.cohorts.items() if user in members)
        if cohorts not in self._parsed:
            self._parsed[cohorts] = self._as_seen_from(cohorts)
        snapshot = Snapshot(self._parsed[cohorts], context)
        return snapshot.bootstrap(None if flag_key is None else [flag_key])

    def _as_seen_from(self, cohorts: Collection[str]) -> "Definitions":
        """Parse the flags for a member of these cohorts.

        Rollouts for other cohorts stay in the list, where evaluation passes over them: a rollout's
        index is part of its salt.
        """
        from mixpanel.flags import parse_definitions

        flags = self.flags
        for flag in flags:
            for rollout in _rollouts(flag):
                cohort = rollout.get("cohort_hash")
                if isinstance(cohort, str) and cohort in cohorts:
                    del rollout["cohort_hash"]
        return parse_definitions({"flags": flags})


class Flags:
    """The flags of one project; those from a file follow it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._served = Served(_written([]), {})
        self._file: Path | None = None
        self._stamp: tuple[int, int] | None = None

    def set(self, source: FlagSource, cohorts: Mapping[str, Collection[str]]) -> None:
        """Replace all flags and cohorts.

        :raises OSError: when the file cannot be read.
        :raises ValueError: for what is no list of flags.
        """
        file = Path(source) if isinstance(source, str | Path) else None
        stamp = None if file is None else _stamp(file)
        body = _written(source) if file is None else _read(file)
        with self._lock:
            self._served = Served(body, cohorts)
            self._file, self._stamp = file, stamp

    def served(self) -> Served:
        """Return what is served now, from the file as it is now if it can be read."""
        with self._lock:
            if self._file is not None and (stamp := _stamp(self._file)) != self._stamp:
                self._stamp = stamp
                try:
                    self._served = Served(_read(self._file), self._served.cohorts)
                except (OSError, ValueError) as error:
                    logger.warning("%s; the flags stay as they were", error)
            return self._served


def read_context(text: str | None) -> dict[str, Any]:
    """Read the `context` of a remote evaluation; its `device_id` defaults to its `distinct_id`."""
    try:
        context = from_json(text or "", allow_inf_nan=False)
    except ValueError as error:
        raise RefusedRequest(400, f"context is not JSON, percent-encoded once: {error}") from error
    if not isinstance(context, dict):
        raise RefusedRequest(400, "context is not a JSON object")
    user = context.get("distinct_id")
    if not isinstance(user, str) or not user:
        raise RefusedRequest(400, "context needs a distinct_id, as a string")
    return {**context, "device_id": context.get("device_id") or user}


def _rollouts(flag: Any) -> Iterator[dict[str, Any]]:
    match flag:
        case {"ruleset": {"rollout": [*rollouts]}}:
            yield from (each for each in rollouts if isinstance(each, dict))


def _read(file: Path) -> bytes:
    try:
        return _written(
            from_json(read_at_most(file, MOST_BYTES).removeprefix(BOM), allow_inf_nan=False)
        )
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from error


def _written(source: Any) -> bytes:
    payload = dict(source) if isinstance(source, Mapping) else {"flags": source}
    if not isinstance(payload.get("flags"), list | tuple):
        raise ValueError('flags are {"flags": [...]} or a list')  # noqa: TRY004 - a file's content
    text = json.dumps(payload, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.encode()


def _stamp(file: Path) -> tuple[int, int] | None:
    try:
        found = file.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size
