"""Name what flags are made of: definitions, selected variants, reasons and configurations.

Definitions come from strangers, so they are pydantic models: unknown keys are ignored and a wrong
type says where it stands. A selected variant is made on the hot path, where a pydantic model would
cost more than the whole evaluation: it is a frozen, slotted dataclass. Configurations are plain
dataclasses with the positional order of mixpanel 5.4.
"""

from collections.abc import Mapping
from concurrent.futures import Executor
from dataclasses import dataclass, field, fields
from os import PathLike
from typing import Annotated, Any, ClassVar, Final, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict

from mixpanel.flags._rules.limits import MAX_DEFINITIONS_BYTES
from mixpanel.settings import Region

__all__ = [
    "NO_FALLBACK",
    "ExperimentationFlag",
    "ExperimentationFlags",
    "FallbackKind",
    "FallbackReason",
    "FlagTestUsers",
    "FlagsConfig",
    "LocalFlagsConfig",
    "RemoteFlagsConfig",
    "Rollout",
    "RuleEngine",
    "RuleSet",
    "SelectedVariant",
    "Variant",
    "VariantOverride",
    "VariantSource",
]

RuleEngine = Literal["default", "json-logic"]

FallbackKind = Literal[
    "FLAG_NOT_FOUND",
    "MISSING_CONTEXT_KEY",
    "NO_ROLLOUT_MATCH",
    "BACKEND_ERROR",
    "COHORT_ROLLOUT",
    "RUNTIME_EVENT_ROLLOUT",
    "RULE_ERROR",
    "PARSE_ERROR",
    "INVALID_CONTEXT",
]


class VariantSource:
    """Say where a selected variant comes from."""

    LOCAL: Final = "local"
    REMOTE: Final = "remote"
    FALLBACK: Final = "fallback"


@dataclass(frozen=True, slots=True)
class FallbackReason:
    """Say why the fallback was served.

    The first four kinds are the official ones. The others are ours: `COHORT_ROLLOUT` and
    `RUNTIME_EVENT_ROLLOUT` (only Mixpanel's servers can decide that rollout), `RULE_ERROR` (a rule
    that cannot be compiled or that failed), `PARSE_ERROR` (a malformed definition) and
    `INVALID_CONTEXT` (a context that cannot be read).
    """

    kind: FallbackKind
    message: str | None = None

    @staticmethod
    def flag_not_found() -> "FallbackReason":
        """Name a flag without a definition."""
        return FallbackReason("FLAG_NOT_FOUND")

    @staticmethod
    def missing_context_key(key: str) -> "FallbackReason":
        """Name the context key whose value is missing or falsy."""
        return FallbackReason("MISSING_CONTEXT_KEY", key)

    @staticmethod
    def no_rollout_match() -> "FallbackReason":
        """Say that no rollout took this user."""
        return FallbackReason("NO_ROLLOUT_MATCH")

    @staticmethod
    def backend_error(message: str) -> "FallbackReason":
        """Say what remote evaluation answered instead of variants."""
        return FallbackReason("BACKEND_ERROR", message)


@dataclass(frozen=True, slots=True)
class SelectedVariant:
    """Hold the variant that a user gets, or the fallback with its reason.

    Frozen, because evaluations of the same flag share it: use `dataclasses.replace` to change one.
    """

    variant_value: Any
    variant_key: str | None = None
    experiment_id: str | None = None
    is_experiment_active: bool | None = None
    is_qa_tester: bool | None = None
    variant_source: str | None = None
    fallback_reason: FallbackReason | None = None

    def with_fallback(self, fallback: "SelectedVariant | Any") -> "SelectedVariant":
        """Return this variant if a rollout chose it, else the fallback with this one's reason."""
        if self.variant_source != VariantSource.FALLBACK or fallback is NO_FALLBACK:
            return self
        if not isinstance(fallback, SelectedVariant):
            fallback = SelectedVariant(
                fallback
            )  # a bare value must not fail on the day it is needed
        # A frozen dataclass's __init__ costs as much as an evaluation; writing its slots, half.
        made = object.__new__(SelectedVariant)
        _set_value(made, fallback.variant_value)
        _set_key(made, fallback.variant_key)
        _set_experiment(made, fallback.experiment_id)
        _set_active(made, fallback.is_experiment_active)
        _set_tester(made, fallback.is_qa_tester)
        _set_source(made, VariantSource.FALLBACK)
        _set_reason(made, self.fallback_reason)
        return made


_set_value, _set_key, _set_experiment, _set_active, _set_tester, _set_source, _set_reason = (
    getattr(SelectedVariant, each.name).__set__ for each in fields(SelectedVariant)
)

NO_FALLBACK: Final = SelectedVariant(None)
"""A fallback without a value: `or_fallback` has nothing to copy from it."""


def _filled(empty: Any) -> BeforeValidator:
    return BeforeValidator(lambda value: empty if value is None else value)


class _Definition(BaseModel):
    model_config: ClassVar[ConfigDict] = ConfigDict(frozen=True, defer_build=True)


class Variant(_Definition):
    """Describe one variant: its key, its value and its share of 0 to 1."""

    key: str
    value: Any = None
    is_control: bool = False
    is_sticky: Annotated[bool, _filled(empty=False)] = False
    split: Annotated[float, _filled(0.0)] = 0.0


class VariantOverride(_Definition):
    """Name the variant that everyone in a rollout gets."""

    key: str


class Rollout(_Definition):
    """Describe one rollout: who takes part (a share of 0 to 1, rules) and how variants are split.

    The rules stay as they came: each is compiled by itself, so a bad one disables only its rollout.
    """

    rollout_percentage: float
    cohort_hash: Any = None
    runtime_evaluation_rule: Any = None
    runtime_evaluation_definition: Any = None
    runtime_event_rule: Any = None
    variant_override: VariantOverride | None = None
    variant_splits: Mapping[str, Annotated[float, _filled(0.0)]] | None = None


class FlagTestUsers(_Definition):
    """Map a distinct_id to the variant that this tester gets."""

    users: Annotated[Mapping[str, str], _filled({})] = {}


class RuleSet(_Definition):
    """Hold a flag's variants, rollouts and test users."""

    variants: Annotated[list[Variant], _filled([])]
    rollout: Annotated[list[Rollout], _filled([])]
    test: FlagTestUsers | None = None


class ExperimentationFlag(_Definition):
    """Describe one flag; `context` is the assignment key, such as distinct_id or a group key."""

    key: str
    context: str
    ruleset: RuleSet
    id: str | int = ""
    name: str = ""
    status: str = ""
    project_id: int | None = None
    experiment_id: str | None = None
    is_experiment_active: bool | None = None
    hash_salt: str | None = None


class ExperimentationFlags(_Definition):
    """Hold the answer of the definitions endpoint."""

    flags: list[ExperimentationFlag]


@dataclass
class FlagsConfig:
    """Configure what local and remote flags have in common.

    - `api_host`: a host or full URL; `region` or `base_url` are the better way, and without any of
      them the client's own region holds.
    - `exposure_executor`: where a tracker of your own that blocks is called.
    - `exposure_time_to_live`: seconds for which the same flag, variant and assignment value is not
      reported again, among the last `remembered_exposures`; 0 reports every evaluation.
    """

    api_host: str = "api.mixpanel.com"
    request_timeout_in_seconds: int = 10
    exposure_executor: Executor | None = None
    region: Region | None = field(default=None, kw_only=True)
    base_url: str | None = field(default=None, kw_only=True)
    exposure_time_to_live: float = field(default=3600.0, kw_only=True)
    remembered_exposures: int = field(default=10_000, kw_only=True)


@dataclass
class LocalFlagsConfig(FlagsConfig):
    """Configure local evaluation.

    - `enable_polling`: False fetches once.
    - `rule_engine`: "json-logic" decides rules as mixpanel-python 5.x does, bug for bug.
    - `bootstrap`: definitions to start with, as a dict or the path of a JSON file: a regular one of
      at most 64 MiB that not everybody may write to.
    - `offline`: never fetch; needs a bootstrap or a snapshot to serve anything.
    - `snapshot_path`: keep the last good definitions in this file. It is written for its owner
      only, and read only if it is a regular file of at most 64 MiB (not a link) that belongs to
      this process's user or to root, and that nobody else may write to; else a warning says why,
      and the next fetch puts a new file in its place. A folder, FIFO or device is refused with a
      `ConfigurationError`.
    - `share_polling`: of all processes with the same `snapshot_path`, one polls for all. Mixpanel
      bills every poll.
    - `max_definitions_bytes`: a larger answer or bootstrap file is refused, and the last good
      definitions stay.
    """

    enable_polling: bool = True
    polling_interval_in_seconds: float = 60
    rule_engine: RuleEngine = field(default="default", kw_only=True)
    bootstrap: dict[str, Any] | str | PathLike[str] | None = field(default=None, kw_only=True)
    offline: bool = field(default=False, kw_only=True)
    snapshot_path: str | PathLike[str] | None = field(default=None, kw_only=True)
    share_polling: bool = field(default=False, kw_only=True)
    max_definitions_bytes: int = field(default=MAX_DEFINITIONS_BYTES, kw_only=True)


@dataclass
class RemoteFlagsConfig(FlagsConfig):
    """Configure remote evaluation.

    With `cache_time_to_live` seconds above 0, the last `cached_contexts` answers are kept so long.
    """

    cache_time_to_live: float = field(default=0.0, kw_only=True)
    cached_contexts: int = field(default=1000, kw_only=True)
