"""The types of flags: definitions, selected variants, fallback reasons and configurations.

Definitions come over the network, so they are pydantic models: unknown keys are ignored, an error
names the field with the wrong type, and a field that decides nothing, such as a name, is ignored.
Selected variants are made on the hot path, where a pydantic model would cost more than the whole
evaluation: they are frozen dataclasses with slots.
Configurations are plain dataclasses whose fields have the order of mixpanel 5.4.
"""

from collections.abc import Mapping
from concurrent.futures import Executor
from dataclasses import dataclass, field, replace
from os import PathLike
from typing import Annotated, Any, ClassVar, Final, Literal, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    ValidationError,
    ValidationInfo,
    ValidatorFunctionWrapHandler,
    WrapValidator,
)

from mixpanel.exceptions import ConfigurationTypeError
from mixpanel.flags._rules.limits import MAX_DEFINITIONS_BYTES
from mixpanel.settings import Region, check_minimum

__all__ = [
    "MIXPANEL_DEFAULT_API_ENDPOINT",
    "NO_FALLBACK",
    "ExperimentationFlag",
    "ExperimentationFlags",
    "FallbackKind",
    "FallbackReason",
    "FlagTestUsers",
    "FlagsConfig",
    "LocalFlagsConfig",
    "RemoteFlagsConfig",
    "RemoteFlagsResponse",
    "Rollout",
    "RuleEngine",
    "RuleSet",
    "SelectedVariant",
    "Variant",
    "VariantOverride",
    "VariantSource",
]

MIXPANEL_DEFAULT_API_ENDPOINT: Final = "api.mixpanel.com"

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
    """Where a selected variant comes from."""

    LOCAL: Final = "local"
    REMOTE: Final = "remote"
    FALLBACK: Final = "fallback"


@dataclass(frozen=True, slots=True)
class FallbackReason:
    """Why the fallback was served.

    The first four kinds are the official ones. The others are ours: `COHORT_ROLLOUT` and
    `RUNTIME_EVENT_ROLLOUT` (only Mixpanel's servers can decide that rollout), `RULE_ERROR` (a rule
    that cannot be compiled or that failed), `PARSE_ERROR` (a malformed definition) and
    `INVALID_CONTEXT` (a context that cannot be read).
    """

    kind: FallbackKind
    message: str | None = None

    @staticmethod
    def flag_not_found() -> "FallbackReason":
        """Return the reason for a flag without a definition."""
        return FallbackReason("FLAG_NOT_FOUND")

    @staticmethod
    def missing_context_key(key: str) -> "FallbackReason":
        """Return the reason for a context whose value under `key` is missing or falsy."""
        return FallbackReason("MISSING_CONTEXT_KEY", key)

    @staticmethod
    def no_rollout_match() -> "FallbackReason":
        """Return the reason for a user whom no rollout includes."""
        return FallbackReason("NO_ROLLOUT_MATCH")

    @staticmethod
    def backend_error(message: str) -> "FallbackReason":
        """Return the reason for a remote evaluation that failed."""
        return FallbackReason("BACKEND_ERROR", message)


@dataclass(frozen=True, slots=True)
class SelectedVariant:
    """The variant that a user gets, or the fallback and its reason.

    It is frozen, because evaluations of the same flag share it: use `dataclasses.replace` to make a
    changed copy.
    """

    variant_value: Any
    variant_key: str | None = None
    experiment_id: str | None = None
    is_experiment_active: bool | None = None
    is_qa_tester: bool | None = None
    variant_source: str | None = None
    fallback_reason: FallbackReason | None = None

    @classmethod
    def from_dict(cls, payload: Mapping[str, Any]) -> "SelectedVariant":
        """Return the variant in the response of a remote evaluation; unknown keys are ignored.

        :raises TypeError: without a `variant_value`.
        """
        return cls(**{name: payload[name] for name in cls.__slots__ if name in payload})

    def as_fallback(self, reason: FallbackReason) -> "SelectedVariant":
        """Return this variant as a fallback that is served for a reason."""
        return replace(self, variant_source=VariantSource.FALLBACK, fallback_reason=reason)

    def with_source(self, source: str) -> "SelectedVariant":
        """Return this variant with another source."""
        return replace(self, variant_source=source)

    def with_fallback(self, fallback: "SelectedVariant | Any") -> "SelectedVariant":
        """Return this variant if it was selected, else the fallback with this one's reason."""
        if self.variant_source != VariantSource.FALLBACK or fallback is NO_FALLBACK:
            return self
        # Fallbacks are rarely needed, so code may have passed a bare value for long unnoticed:
        # better to serve it than to fail now.
        if not isinstance(fallback, SelectedVariant):
            fallback = SelectedVariant(fallback)
        return SelectedVariant(
            fallback.variant_value,
            fallback.variant_key,
            fallback.experiment_id,
            fallback.is_experiment_active,
            fallback.is_qa_tester,
            VariantSource.FALLBACK,
            self.fallback_reason,
        )


NO_FALLBACK: Final = SelectedVariant(None)
"""A fallback without a value: `with_fallback` returns the variant as it is."""


def _null_as(empty: Any) -> BeforeValidator:
    return BeforeValidator(lambda value: empty if value is None else value)


def _ignored_as(default: Any) -> WrapValidator:
    """Replace an invalid value of an informative field by a default, and record the field's name.

    The context of a validation is a list of the names of such fields, or None.
    """

    def validate(value: Any, handler: ValidatorFunctionWrapHandler, info: ValidationInfo) -> Any:
        try:
            return handler(value)
        except ValidationError:
            _note_ignored(info)
            return default

    return WrapValidator(validate)


def _note_ignored(info: ValidationInfo) -> None:
    if isinstance(info.context, list):
        info.context.append(info.field_name)


def _usable_test_users(value: Any, info: ValidationInfo) -> dict[str, str]:
    """Return the test users who have a variant; one whose variant is null or "" has none."""
    if not isinstance(value, Mapping):
        if value is not None:
            _note_ignored(info)
        return {}
    users = {
        user: key for user, key in value.items() if isinstance(user, str) and isinstance(key, str)
    }
    if any(key is not None and user not in users for user, key in value.items()):
        _note_ignored(info)
    return {user: key for user, key in users.items() if key}


def _key_text(value: Any) -> Any:
    """Return the key of a variant, whose type is text, also for one that is a number."""
    return str(value) if isinstance(value, int | float) and not isinstance(value, bool) else value


def _without_a_list(value: Any, info: ValidationInfo) -> Any:
    if value is None or isinstance(value, Mapping):
        return value
    _note_ignored(info)
    return None


class _Definition(BaseModel):
    """A part of the definitions; fields may be passed by position, in the official order."""

    model_config: ClassVar[ConfigDict] = ConfigDict(frozen=True, defer_build=True)

    def __init__(self, *values: Any, **fields: Any) -> None:
        names = list(type(self).model_fields)[: len(values)]
        if len(names) < len(values):
            raise TypeError(
                f"{type(self).__name__} takes {len(names)} values at most, not {len(values)}"
            )
        if both := fields.keys() & set(names):
            raise TypeError(f"{type(self).__name__} got {sorted(both)} by position and by name")
        super().__init__(**dict(zip(names, values, strict=True)), **fields)

    # As in pydantic's own: validation of a response does not call it for each object.
    __init__.__pydantic_base_init__ = True  # type: ignore[attr-defined]

    @classmethod
    def from_dict(cls, payload: Mapping[str, Any]) -> Self:
        """Return the object of a part of the response, as in the official package.

        :raises ValueError: if a field that decides something is missing or of the wrong type.
        """
        return cls.model_validate(payload)


class Variant(_Definition):
    """One variant: its key, its value, and the fraction (0 to 1) of users who get it."""

    key: Annotated[str, BeforeValidator(_key_text)]
    value: Any = None
    is_control: Annotated[bool, _ignored_as(default=False)] = False
    split: Annotated[float, _null_as(0.0)] = 0.0
    is_sticky: Annotated[bool, _null_as(empty=False), _ignored_as(default=False)] = False


class VariantOverride(_Definition):
    """The variant that everyone in a rollout gets."""

    key: str


class Rollout(_Definition):
    """One rollout: which users it includes (a fraction of 0 to 1, rules), and how it splits them.

    Rules are not validated here: each is compiled separately, so that a bad one disables only its
    rollout.
    """

    rollout_percentage: float
    runtime_evaluation_definition: Any = None
    runtime_evaluation_rule: Any = None
    variant_override: VariantOverride | None = None
    variant_splits: Annotated[
        Mapping[str, Annotated[float, _null_as(0.0)]] | None, BeforeValidator(_without_a_list)
    ] = None
    cohort_hash: Any = None
    runtime_event_rule: Any = None


class FlagTestUsers(_Definition):
    """The variant that each test user gets, by distinct_id."""

    users: Annotated[Mapping[str, str], BeforeValidator(_usable_test_users)] = {}


class RuleSet(_Definition):
    """A flag's variants, rollouts and test users."""

    variants: Annotated[list[Variant], _null_as([])]
    rollout: Annotated[list[Rollout], _null_as([])]
    test: Annotated[FlagTestUsers | None, _ignored_as(None)] = None


class ExperimentationFlag(_Definition):
    """One flag; `context` is the assignment key, such as distinct_id or a group key."""

    id: Annotated[str | int, _ignored_as("")] = ""
    name: Annotated[str, _ignored_as("")] = ""
    key: str
    status: Annotated[str, _ignored_as("")] = ""
    project_id: Annotated[int | None, _ignored_as(None)] = None
    ruleset: RuleSet
    context: str
    experiment_id: Annotated[str | None, _ignored_as(None)] = None
    is_experiment_active: Annotated[bool | None, _ignored_as(None)] = None
    hash_salt: str | None = None


class ExperimentationFlags(_Definition):
    """The response of the definitions endpoint."""

    flags: list[ExperimentationFlag]


@dataclass(frozen=True, slots=True)
class RemoteFlagsResponse:
    """The response of a remote evaluation: the variants of the flags that include the user."""

    code: int
    flags: dict[str, SelectedVariant]

    @classmethod
    def from_dict(cls, payload: Mapping[str, Any]) -> "RemoteFlagsResponse":
        """Return the object of a response; `code` is 200 where it is missing."""
        variants = {key: SelectedVariant.from_dict(each) for key, each in payload["flags"].items()}
        return cls(payload.get("code", 200), variants)


@dataclass
class FlagsConfig:
    """Options of local and remote flags.

    - `api_host`: a host or full URL, as in mixpanel 5.x. Prefer `region` or `base_url`; without any
      of the three, the client's region applies.
    - `exposure_executor`: runs the tracker, for one of your own that blocks.
    - `exposure_time_to_live`: seconds during which the exposure of the same user, flag, variant and
      assignment value is not reported again; 0 reports every evaluation. The last
      `remembered_exposures` are remembered.
    """

    api_host: str = MIXPANEL_DEFAULT_API_ENDPOINT
    request_timeout_in_seconds: int = 10
    exposure_executor: Executor | None = None
    region: Region | None = field(default=None, kw_only=True)
    base_url: str | None = field(default=None, kw_only=True)
    exposure_time_to_live: float = field(default=3600.0, kw_only=True)
    remembered_exposures: int = field(default=10_000, kw_only=True)

    def check(self) -> None:
        """Check the values that this class has.

        :raises ConfigurationError: for one that is not a number, or below its minimum.
        """
        executor = self.exposure_executor
        if executor is not None and not callable(getattr(executor, "submit", None)):
            raise ConfigurationTypeError(
                f"exposure_executor must be an Executor, not {type(executor).__name__}"
            )
        check_minimum(self.request_timeout_in_seconds, "request_timeout_in_seconds", above=0)
        check_minimum(self.exposure_time_to_live, "exposure_time_to_live", at_least=0)
        check_minimum(self.remembered_exposures, "remembered_exposures", at_least=1, whole=True)


@dataclass
class LocalFlagsConfig(FlagsConfig):
    """Options of local evaluation.

    - `enable_polling`: False fetches once.
    - `polling_interval_in_seconds`: the time between two fetches.
    - `rule_engine`: "json-logic" evaluates rules as mixpanel-python 5.x does, including its bugs.
    - `bootstrap`: definitions to start with, as a dict or the path of a JSON file: a regular file
      of at most `max_definitions_bytes` that is not writable by everyone.
    - `offline`: never fetch; a bootstrap or a snapshot provides the definitions.
    - `snapshot_path`: save the last good definitions to this file, readable by its owner only. It
      is loaded only if it is a regular file (not a link) that belongs to this process's user or to
      root and that no other user may write to; otherwise a warning says why it is ignored, and the
      next fetch replaces it. For a folder, FIFO or device a `ConfigurationError` is raised.
    - `share_polling`: of all processes with the same `snapshot_path`, one polls for all of them.
      Mixpanel bills each poll.
    - `max_definitions_bytes`: a larger response or bootstrap file is rejected, and the last good
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
    """Options of remote evaluation.

    - `cache_time_to_live`: seconds for which the variants of a context are cached; 0 caches none.
    - `cached_contexts`: how many contexts are cached, the most recent ones.
    """

    cache_time_to_live: float = field(default=0.0, kw_only=True)
    cached_contexts: int = field(default=1000, kw_only=True)

    def check(self) -> None:
        """Check the values.

        :raises ConfigurationError: for one that is not a number, or below its minimum.
        """
        super().check()
        check_minimum(self.cache_time_to_live, "cache_time_to_live", at_least=0)
        check_minimum(self.cached_contexts, "cached_contexts", at_least=1, whole=True)
