"""Problems in flag definitions, and rollouts that cannot be decided locally."""

from dataclasses import dataclass
from typing import Literal

__all__ = ["Diagnostic", "DiagnosticKind"]

DiagnosticKind = Literal[
    "payload",
    "malformed",
    "too_large",
    "duplicate_key",
    "no_variants",
    "rule",
    "cohort",
    "runtime_event",
    "sticky",
    "ignored_field",
    "no_value",
    "unreachable",
    "splits",
    "rounding",
    "legacy_key",
    "override",
    "test_user",
    "json_logic_only",
    "default_only",
]


@dataclass(frozen=True, slots=True)
class Diagnostic:
    """A problem in a flag's definition, or a rollout that cannot be decided locally."""

    kind: DiagnosticKind
    flag_key: str | None
    message: str
    rollout: int | None = None

    def __str__(self) -> str:
        """Return one line: flag, rollout and message."""
        place = "definitions" if self.flag_key is None else f"flag {self.flag_key!r}"
        rollout = "" if self.rollout is None else f", rollout {self.rollout}"
        return f"{place}{rollout}: {self.message}"
