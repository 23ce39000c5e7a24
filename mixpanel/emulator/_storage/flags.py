"""Serve feature flags: their definitions unchanged, and their variants for one user.

As on Mixpanel's servers, cohorts are known here and only here. Rollouts that depend on events
(`runtime_event_rule`) include no users.
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
"""Flags as `{"flags": [...]}`, as a list of flags, or as the path of a JSON file."""

MAX_FILE_BYTES = 64 * 1024 * 1024
BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True, slots=True)
class ServedFlags:
    """The response of the definitions endpoint; immutable, replaced as a whole."""

    body: bytes
    cohorts: Mapping[str, Collection[str]]
    _parsed: "dict[frozenset[str], Definitions]" = field(default_factory=dict)

    @property
    def flags(self) -> list[Any]:
        """The flags, as a copy that the caller may change."""
        flags: list[Any] = json.loads(self.body)["flags"]
        return flags

    def decide(self, context: Mapping[str, Any], flag_key: str | None) -> dict[str, Any]:
        """Return the variants for a context, of one flag or of all that include the user."""
        from mixpanel.flags import Snapshot

        user = context["distinct_id"]
        cohorts = frozenset(name for name, members in self.cohorts.items() if user in members)
        if cohorts not in self._parsed:
            self._parsed[cohorts] = self._parse_for(cohorts)
        snapshot = Snapshot(self._parsed[cohorts], context)
        return snapshot.bootstrap(None if flag_key is None else [flag_key])

    def _parse_for(self, cohorts: Collection[str]) -> "Definitions":
        """Parse the flags for a member of these cohorts.

        Rollouts for other cohorts stay in the list, where evaluation skips them: a rollout's index
        is part of its salt.
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
    """The flags of one project; those from a file are reloaded when it changes."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._served = ServedFlags(_encode([]), {})
        self._managed: list[dict[str, Any]] = []
        self._with_managed: tuple[ServedFlags, ServedFlags] | None = None
        self._file: Path | None = None
        self._file_stamp: tuple[int, int] | None = None

    def set(self, source: FlagSource, cohorts: Mapping[str, Collection[str]]) -> None:
        """Replace all flags and cohorts.

        :raises OSError: the file cannot be read.
        :raises ValueError: the source is not a list of flags.
        """
        file = Path(source) if isinstance(source, str | Path) else None
        stamp = None if file is None else _file_stamp(file)
        body = _encode(source) if file is None else _read(file)
        with self._lock:
            self._served = ServedFlags(body, cohorts)
            self._file, self._file_stamp = file, stamp

    def served(self) -> ServedFlags:
        """Return the current flags, after reloading a changed file if it can be read."""
        with self._lock:
            if self._file is not None and (stamp := _file_stamp(self._file)) != self._file_stamp:
                self._file_stamp = stamp
                try:
                    self._served = ServedFlags(_read(self._file), self._served.cohorts)
                except (OSError, ValueError) as error:
                    logger.warning("%s. Keeping the previous flags.", error)
            return self._merged() if self._managed else self._served

    def manage(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Replace the flags that were made through the app API, which are served too."""
        managed = [_definition(row) for row in rows if row.get("status") != "archived"]
        with self._lock:
            if managed != self._managed:
                self._managed, self._with_managed = managed, None

    def _merged(self) -> ServedFlags:
        """Return all flags; of two with one key, the one that was set wins."""
        if self._with_managed is None or self._with_managed[0] is not self._served:
            flags = self._served.flags
            known = {flag.get("key") for flag in flags if isinstance(flag, dict)}
            added = [flag for flag in self._managed if flag["key"] not in known]
            merged = ServedFlags(_encode([*flags, *added]), self._served.cohorts)
            self._with_managed = self._served, merged
        return self._with_managed[1]


def _definition(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a flag of the app API as it is served."""
    ruleset = row.get("ruleset")
    rules = ruleset if isinstance(ruleset, dict) else {}
    return {
        "id": str(row["id"]),
        "name": row.get("name"),
        "key": row.get("key"),
        "status": row.get("status", "disabled"),
        "context": row.get("context", "distinct_id"),
        "experiment_id": row.get("experiment_id"),
        "hash_salt": row.get("hash_salt"),
        "ruleset": {"variants": [], "rollout": [], **rules},
    }


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
        raise RefusedRequest(400, "context requires a distinct_id, as a string")
    return {**context, "device_id": context.get("device_id") or user}


def _rollouts(flag: Any) -> Iterator[dict[str, Any]]:
    match flag:
        case {"ruleset": {"rollout": [*rollouts]}}:
            yield from (each for each in rollouts if isinstance(each, dict))


def _read(file: Path) -> bytes:
    try:
        return _encode(
            from_json(read_at_most(file, MAX_FILE_BYTES).removeprefix(BOM), allow_inf_nan=False)
        )
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from error


def _encode(source: Any) -> bytes:
    payload = dict(source) if isinstance(source, Mapping) else {"flags": source}
    if not isinstance(payload.get("flags"), list | tuple):
        raise ValueError('flags must be {"flags": [...]} or a list')  # noqa: TRY004 - a file's content
    text = json.dumps(payload, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.encode()


def _file_stamp(file: Path) -> tuple[int, int] | None:
    try:
        found = file.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size
