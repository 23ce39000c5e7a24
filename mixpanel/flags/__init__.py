"""Evaluate feature flags, locally in microseconds or remotely."""

from mixpanel.flags._evaluation.definitions import Definitions, parse_definitions
from mixpanel.flags._evaluation.evaluate import Snapshot, evaluate
from mixpanel.flags.diagnostics import Diagnostic
from mixpanel.flags.explain import Trace, explain
from mixpanel.flags.flag import Flag
from mixpanel.flags.lint import lint
from mixpanel.flags.types import (
    ExperimentationFlag,
    ExperimentationFlags,
    FallbackReason,
    FlagsConfig,
    FlagTestUsers,
    LocalFlagsConfig,
    RemoteFlagsConfig,
    Rollout,
    RuleSet,
    SelectedVariant,
    Variant,
    VariantOverride,
    VariantSource,
)

__all__ = [
    "Definitions",
    "Diagnostic",
    "ExperimentationFlag",
    "ExperimentationFlags",
    "FallbackReason",
    "Flag",
    "FlagTestUsers",
    "FlagsConfig",
    "LocalFlagsConfig",
    "RemoteFlagsConfig",
    "Rollout",
    "RuleSet",
    "SelectedVariant",
    "Snapshot",
    "Trace",
    "Variant",
    "VariantOverride",
    "VariantSource",
    "evaluate",
    "explain",
    "lint",
    "parse_definitions",
]
