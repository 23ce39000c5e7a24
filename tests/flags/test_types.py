"""Flag types keep the official names and positions, and tolerate unexpected data."""

import copy
import dataclasses
import pickle
import subprocess
import sys

import pytest
from pydantic import ValidationError

from mixpanel import flags
from mixpanel.flags import (
    ExperimentationFlag,
    ExperimentationFlags,
    FallbackReason,
    Flag,
    FlagsConfig,
    LocalFlagsConfig,
    RemoteFlagsConfig,
    SelectedVariant,
    VariantSource,
)

FLAG = {
    "id": "f1",
    "name": "Checkout",
    "key": "checkout",
    "status": "enabled",
    "project_id": 1,
    "context": "distinct_id",
    "hash_salt": "s",
    "ruleset": {
        "variants": [{"key": "on", "value": True, "is_control": False, "split": 1.0}],
        "rollout": [{"rollout_percentage": 1.0, "variant_override": {"key": "on"}}],
        "test": {"users": {"u1": "on"}},
    },
}


def test_a_definition_has_the_official_names():
    """A flag is read by the names that the definitions endpoint uses."""
    flag = ExperimentationFlag.model_validate(FLAG)

    assert (flag.key, flag.context, flag.hash_salt) == ("checkout", "distinct_id", "s")
    assert flag.ruleset.variants[0].split == 1.0
    assert flag.ruleset.rollout[0].variant_override.key == "on"
    assert flag.ruleset.test.users == {"u1": "on"}
    assert ExperimentationFlags.model_validate({"flags": [FLAG]}).flags == [flag]


def test_unknown_keys_are_ignored():
    """A newer server may add keys."""
    ruleset = {**FLAG["ruleset"], "new": 1}

    flag = ExperimentationFlag.model_validate({**FLAG, "workspace_id": 7, "ruleset": ruleset})

    assert flag == ExperimentationFlag.model_validate(FLAG)


def test_fields_that_evaluation_does_not_need_may_be_absent():
    """A definition written by hand needs a key, a context and a ruleset."""
    ruleset = {"variants": [{"key": "on"}], "rollout": [{"rollout_percentage": 1}]}

    flag = ExperimentationFlag.model_validate({"key": "f", "context": "c", "ruleset": ruleset})

    assert (flag.id, flag.name, flag.status, flag.project_id) == ("", "", "", None)
    assert flag.ruleset.variants[0].split == 0.0


def test_null_counts_as_empty():
    """A null split is 0.0; null lists and test users are empty."""
    ruleset = {"variants": [{"key": "on", "split": None}], "rollout": None, "test": {"users": None}}

    flag = ExperimentationFlag.model_validate({**FLAG, "ruleset": ruleset})

    assert flag.ruleset.variants[0].split == 0.0
    assert (flag.ruleset.rollout, flag.ruleset.test.users) == ([], {})


@pytest.mark.parametrize("missing", ["key", "context", "ruleset"])
def test_fields_that_evaluation_needs_are_required(missing):
    """Without its key, context or ruleset a flag is malformed."""
    with pytest.raises(ValidationError, match=missing):
        ExperimentationFlag.model_validate({k: v for k, v in FLAG.items() if k != missing})


def test_selected_variant_has_the_official_attributes_in_order():
    """Code written for mixpanel 5.4 builds and reads selected variants."""
    reason = FallbackReason.missing_context_key("device_id")

    selected = SelectedVariant("v", "k", "e", True, False, VariantSource.REMOTE, reason)

    assert [field.name for field in dataclasses.fields(selected)] == [
        "variant_value",
        "variant_key",
        "experiment_id",
        "is_experiment_active",
        "is_qa_tester",
        "variant_source",
        "fallback_reason",
    ]
    assert selected == SelectedVariant(
        variant_value="v",
        variant_key="k",
        experiment_id="e",
        is_experiment_active=True,
        is_qa_tester=False,
        variant_source="remote",
        fallback_reason=FallbackReason("MISSING_CONTEXT_KEY", "device_id"),
    )
    assert SelectedVariant(variant_value=1) == SelectedVariant(
        1, None, None, None, None, None, None
    )


def test_selected_variant_cannot_be_changed():
    """Evaluations share it, so assignment fails; copies can differ."""
    selected = SelectedVariant("v", "k")

    with pytest.raises(dataclasses.FrozenInstanceError):
        selected.variant_value = "w"
    assert dataclasses.replace(selected, variant_value="w").variant_value == "w"


def test_selected_variant_can_be_copied_and_pickled():
    """As queues and caches do."""
    selected = SelectedVariant({"a": [1]}, "k", fallback_reason=FallbackReason.no_rollout_match())

    assert selected == copy.deepcopy(selected)
    assert selected == pickle.loads(pickle.dumps(selected))


def test_fallback_keeps_the_values_of_the_caller():
    """A fallback is the caller's, marked as one, with the reason."""
    reason = FallbackReason.flag_not_found()
    nothing = SelectedVariant(None, variant_source="fallback", fallback_reason=reason)

    served = nothing.with_fallback(SelectedVariant("mine", "k", "e", True, False))

    assert served == SelectedVariant("mine", "k", "e", True, False, "fallback", reason)


def test_a_selected_variant_ignores_the_fallback():
    """A variant that a rollout served is returned as it is."""
    chosen = SelectedVariant("v", "k", variant_source=VariantSource.LOCAL)

    assert chosen is chosen.with_fallback(SelectedVariant("mine"))


@pytest.mark.parametrize(
    ("reason", "kind", "message"),
    [
        (FallbackReason.flag_not_found(), "FLAG_NOT_FOUND", None),
        (FallbackReason.missing_context_key("k"), "MISSING_CONTEXT_KEY", "k"),
        (FallbackReason.no_rollout_match(), "NO_ROLLOUT_MATCH", None),
        (FallbackReason.backend_error("HTTP 500"), "BACKEND_ERROR", "HTTP 500"),
    ],
)
def test_official_reasons_have_their_kind_and_message(reason, kind, message):
    """The official reasons are made by the official names."""
    assert (reason.kind, reason.message) == (kind, message)


def test_configurations_have_the_official_defaults():
    """Without configuration the behaviour is the official one."""
    local, remote = LocalFlagsConfig(), RemoteFlagsConfig()

    for config in (FlagsConfig(), local, remote):
        assert config.api_host == "api.mixpanel.com"
        assert config.request_timeout_in_seconds == 10
        assert config.exposure_executor is None
    assert (local.enable_polling, local.polling_interval_in_seconds) == (True, 60)
    assert local.rule_engine == "default"


def test_configurations_take_the_official_positions():
    """Positional arguments mean what they mean in mixpanel 5.4; new options are by name."""
    config = LocalFlagsConfig("api-eu.mixpanel.com", 5, None, False, 30, rule_engine="json-logic")

    assert (config.api_host, config.request_timeout_in_seconds) == ("api-eu.mixpanel.com", 5)
    assert (config.enable_polling, config.polling_interval_in_seconds) == (False, 30)
    with pytest.raises(TypeError):
        LocalFlagsConfig("host", 5, None, False, 30, "json-logic")


@pytest.mark.parametrize(
    ("default", "value", "expected"),
    [
        (False, True, True),
        (False, 1, False),
        (7, 5, 5),
        (7, True, 7),
        (7, 5.0, 7),
        (0.5, 0.25, 0.25),
        (0.5, 2, 2.0),
        (0.5, True, 0.5),
        ("a", "b", "b"),
        ("a", None, "a"),
        ({}, {"a": 1}, {"a": 1}),
        ([], [1], [1]),
        ([], {}, []),
    ],
)
def test_a_declared_flag_returns_only_its_own_type(default, value, expected):
    """A value of another type is the default; an integer is a float when one is declared."""
    served = Flag("f", default).accept(value)

    assert expected == served
    assert type(expected) is type(served)


def test_a_declared_flag_reads_its_key_from_a_provider():
    """The key and the default are written once."""

    class Provider:
        def get_variant_value(self, flag_key, fallback_value, context):
            return (flag_key, fallback_value, context) and context.get(flag_key, fallback_value)

    flag = Flag("checkout", default="old")

    assert flag.value(Provider(), {"checkout": "new"}) == "new"
    assert flag.value(Provider(), {}) == "old"


def test_every_public_name_of_flags_exists():
    """`__all__` is sorted and complete."""
    assert sorted(flags.__all__) == flags.__all__
    assert all(hasattr(flags, name) for name in flags.__all__)


@pytest.mark.slow
def test_evaluation_alone_does_not_import_the_http_client():
    """The providers and their error are imported when they are first used."""
    code = (
        "import sys, mixpanel.flags\n"
        "assert 'mixpanel.flags.local_feature_flags' not in sys.modules\n"
        "assert 'httpx' not in sys.modules\n"
        "assert mixpanel.flags.LocalFeatureFlagsProvider.__module__ in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
