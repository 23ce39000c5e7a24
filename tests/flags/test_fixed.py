"""Flags for users' own tests."""

import anyio
import pytest

from mixpanel import LocalFlagsConfig, Mixpanel
from mixpanel.flags import Flag, SelectedVariant
from mixpanel.testing import FixedFlags, override_flags
from tests.flags.test_local import flag

USER = {"distinct_id": "u"}


def test_fixed_flags_stand_in_for_any_provider():
    """Sync, async, typed; exposures are recorded."""
    flags = FixedFlags({"on": True, "text": "blue", "own": SelectedVariant(7, "seven")})
    assert flags.is_enabled("on", USER)
    assert flags.get_variant("own", SelectedVariant(None), USER).variant_key == "seven"
    assert flags.get_variant_value("missing", "fallback", USER) == "fallback"
    assert sorted(flags.get_all_variants(USER)) == ["on", "own", "text"]
    assert Flag("text", default="red").value(flags, USER) == "blue"
    assert Flag("on", default=0).value(flags, USER) == 0
    assert anyio.run(flags.aget_variant_value, "text", None, USER) == "blue"
    assert anyio.run(flags.ais_enabled, "on", USER)
    assert flags.exposures[0] == ("on", "True", "u")


def test_the_default_of_a_flag_is_served_for_an_invalid_context():
    """As by the provider's own methods."""
    config = LocalFlagsConfig(bootstrap={"flags": [flag()]}, offline=True)
    with Mixpanel("t", local_flags_config=config) as mp:
        for context in (None, "u", 5, [("distinct_id", "u")]):
            assert Flag("checkout", default=False).value(mp.local_flags, context) is False


def test_strict_fixed_flags_fail_for_a_flag_without_a_value():
    """A flag that the test did not expect is a finding."""
    with pytest.raises(AssertionError, match="missing"):
        FixedFlags(strict=True).is_enabled("missing", USER)


def test_captured_clients_send_no_exposures(mixpanel_events):
    """The fixture captures them like any event; overridden flags report none."""
    config = LocalFlagsConfig(bootstrap={"flags": [flag()]}, offline=True)
    mp = Mixpanel("t", local_flags_config=config)
    assert mp.local_flags.is_enabled("checkout", USER)
    mixpanel_events.assert_tracked("$experiment_started", times=1, distinct_id="u")
    with override_flags(checkout=False):
        assert not mp.local_flags.is_enabled("checkout", USER)
    assert mp.stats().balanced
