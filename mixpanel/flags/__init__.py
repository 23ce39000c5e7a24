"""Evaluate feature flags, locally in microseconds or on Mixpanel's servers.

A client has the providers, `mp.local_flags` and `mp.remote_flags`. Their classes and errors are
here to annotate with and to catch, beside functions that evaluate definitions without a client.
"""

from typing import TYPE_CHECKING

from mixpanel._lazy import load_lazily
from mixpanel.flags._evaluation.compiled_flag import CompiledFlag
from mixpanel.flags._evaluation.definitions import Definitions, parse_definitions
from mixpanel.flags._evaluation.evaluate import Snapshot, evaluate
from mixpanel.flags._rules.engines import RuleEngineError
from mixpanel.flags.diagnostics import Diagnostic
from mixpanel.flags.explain import ClauseTrace, RolloutTrace, Trace, explain
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
    RemoteFlagsResponse,
    Rollout,
    RuleSet,
    SelectedVariant,
    Variant,
    VariantOverride,
    VariantSource,
)

# Imported on first use: they need the HTTP transports, evaluation alone does not.
if TYPE_CHECKING or not load_lazily(__name__):
    from mixpanel.flags import (
        custom_operators,
        local_feature_flags,
        remote_feature_flags,
        types,
        utils,
    )
    from mixpanel.flags._fetching.requests import FlagsError
    from mixpanel.flags.hybrid import HybridFeatureFlagsProvider
    from mixpanel.flags.local_feature_flags import LocalFeatureFlagsProvider
    from mixpanel.flags.remote_feature_flags import RemoteFeatureFlagsProvider

__all__ = [
    "ClauseTrace",
    "CompiledFlag",
    "Definitions",
    "Diagnostic",
    "ExperimentationFlag",
    "ExperimentationFlags",
    "FallbackReason",
    "Flag",
    "FlagTestUsers",
    "FlagsConfig",
    "FlagsError",
    "HybridFeatureFlagsProvider",
    "LocalFeatureFlagsProvider",
    "LocalFlagsConfig",
    "RemoteFeatureFlagsProvider",
    "RemoteFlagsConfig",
    "RemoteFlagsResponse",
    "Rollout",
    "RolloutTrace",
    "RuleEngineError",
    "RuleSet",
    "SelectedVariant",
    "Snapshot",
    "Trace",
    "Variant",
    "VariantOverride",
    "VariantSource",
    "custom_operators",
    "evaluate",
    "explain",
    "lint",
    "local_feature_flags",
    "parse_definitions",
    "remote_feature_flags",
    "types",
    "utils",
]
