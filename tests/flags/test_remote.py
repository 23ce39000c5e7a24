"""Remote flags: requests, tolerant parsing, and fallbacks instead of exceptions."""

import json

import anyio
import pytest

from mixpanel import (
    AsyncMixpanel,
    LocalFlagsConfig,
    Mixpanel,
    RemoteFlagsConfig,
    ServiceAccountCredentials,
)
from mixpanel.emulator import Fault
from mixpanel.flags import SelectedVariant
from mixpanel.flags.hybrid import HybridFeatureFlagsProvider
from mixpanel.flags.overrides import override_flags
from mixpanel.flags.remote_feature_flags import RemoteFeatureFlagsProvider
from tests.flags.test_local import flag

USER = {"distinct_id": "u-17", "custom_properties": {"ü": "€ & ="}}
NONE = SelectedVariant("fallback")


def provider(emu, exposures=None, token="t", credentials=None, **config):
    track = (
        (lambda *exposure: exposures.append(exposure)) if exposures is not None else lambda *_: None
    )
    config = RemoteFlagsConfig(base_url=emu.url, **config)
    return RemoteFeatureFlagsProvider(token, config, "1", track, credentials)


def with_both(emu):
    """Return a client with local and remote flags."""
    return AsyncMixpanel(
        "t",
        base_url=emu.url,
        local_flags_config=LocalFlagsConfig(),
        remote_flags_config=RemoteFlagsConfig(),
    )


@pytest.mark.anyio
async def test_remote_flags_evaluate_one_or_all_flags(emu, anyio_backend):
    """One flag, its value, whether it is on, and all of them."""
    emu.set_flags([flag(), flag("text", value="blue")])
    exposures = []
    async with provider(emu, exposures) as flags:
        variant = await flags.aget_variant("checkout", NONE, USER)
        assert (variant.variant_key, variant.variant_value) == ("on", True)
        assert variant.variant_source == "remote"
        assert await flags.aget_variant_value("text", None, USER) == "blue"
        assert await flags.ais_enabled("checkout", USER)
        assert sorted(await flags.aget_all_variants(USER)) == ["checkout", "text"]
        missing = await flags.aget_variant("missing", NONE, USER)
        assert missing.fallback_reason.kind == "FLAG_NOT_FOUND"
        await flags.atrack_exposure_event("checkout", variant, USER)
    assert [properties["Experiment name"] for _, _, properties in exposures] == [
        "checkout",
        "text",
        "checkout",
    ]
    assert exposures[0][2]["Flag evaluation mode"] == "remote"
    assert "Variant fetch start time" in exposures[0][2]
    assert "$experiment_id" not in exposures[0][2]


def test_the_sync_methods_do_the_same(emu):
    """Each runs the async method."""
    emu.set_flags([flag()])
    with provider(emu) as flags:
        assert flags.get_variant("checkout", NONE, USER).variant_value is True
        assert flags.get_variant_value("checkout", None, USER) is True
        assert flags.is_enabled("checkout", USER)
        assert list(flags.get_all_variants(USER)) == ["checkout"]


def test_the_request_has_context_token_and_credentials(emu):
    """Context encoded once, token and library in the query, credentials in the header."""
    emu.set_flags([flag()])
    account = ServiceAccountCredentials("user", "s3cr3t-canary", "42")
    with provider(emu, credentials=account) as flags:
        flags.is_enabled("checkout", USER)
    [request] = emu.requests("/flags")
    assert json.loads(request.query["context"]) == USER
    assert request.query["flag_key"] == "checkout"
    assert request.query["token"] == "t"
    assert request.query["project_id"] == "42"
    assert request.headers["authorization"].startswith("Basic ")
    assert request.headers["traceparent"].startswith("00-")


@pytest.mark.slow
@pytest.mark.parametrize(
    "fault",
    [
        Fault.html(),
        Fault.malformed(),
        Fault.status(200, body={"code": 200}),
        Fault.status(200, body={"flags": [1]}),
        Fault.status(200, body=[]),
        Fault.status(400, body={"error": "bad context"}),
        Fault.status(401),
        Fault.status(500),
        Fault.reset("before"),
        Fault.reset("after"),
        Fault.silence(),
        Fault.drip(0.1),
    ],
    ids=lambda f: f.name,
)
def test_a_failure_is_a_fallback_with_a_reason(emu, fault):
    """No exception; no URL and no token in the message."""
    emu.set_flags([flag()])
    emu.play(fault.forever(), path="/flags")
    with provider(emu, token="tok-canary", request_timeout_in_seconds=0.2) as flags:
        variant = flags.get_variant("checkout", NONE, USER)
        assert flags.get_all_variants(USER) is None
    assert variant.variant_value == "fallback"
    assert variant.fallback_reason.kind == "BACKEND_ERROR"
    assert "canary" not in variant.fallback_reason.message
    assert "http:" not in variant.fallback_reason.message


def test_a_malformed_flag_in_a_remote_response_affects_no_other(emu):
    """Tolerant parsing; `code` may be missing."""
    result = {
        "flags": {"good": {"variant_key": "a", "variant_value": 1, "is_qa_tester": "?"}, "bad": 7}
    }
    emu.play(Fault.status(200, body=result).forever(), path="/flags")
    with provider(emu) as flags:
        assert flags.get_variant("good", NONE, USER).is_qa_tester is None
        assert flags.get_variant("bad", NONE, USER).fallback_reason.kind == "FLAG_NOT_FOUND"


@pytest.mark.slow
@pytest.mark.parametrize("keep", [0, 60])
@pytest.mark.parametrize("context", [{}, {"distinct_id": object()}, None, {"distinct_id": 5}])
def test_hostile_contexts_get_the_fallback(emu, context, keep):
    """Never an exception, with a cache or without."""
    emu.set_flags([flag()])
    with provider(emu, cache_time_to_live=keep) as flags:
        variant = flags.get_variant("checkout", NONE, context)
    assert variant.variant_value in ("fallback", True)


@pytest.mark.anyio
async def test_the_cache_saves_requests_and_shares_pending_ones(emu, anyio_backend):
    """Same context and flag: one request, even for ten evaluations at a time."""
    emu.set_flags([flag()])
    emu.play(Fault.latency(0.05).forever(), path="/flags")
    async with provider(emu, cache_time_to_live=60) as flags:
        async with anyio.create_task_group() as tasks:
            for _ in range(10):
                tasks.start_soon(flags.ais_enabled, "checkout", USER)
        assert await flags.ais_enabled("checkout", USER)
        assert len(emu.requests("/flags")) == 1
        await flags.ais_enabled("checkout", {"distinct_id": "other"})
        assert len(emu.requests("/flags")) == 2


@pytest.mark.slow
@pytest.mark.anyio
@pytest.mark.parametrize("fault", [Fault.silence(), Fault.status(401)], ids=lambda f: f.name)
async def test_callers_that_wait_for_one_request_share_its_failure(emu, anyio_backend, fault):
    """A server that does not respond delays all of them once, not one after the other."""
    emu.set_flags([flag()])
    emu.play(fault.forever(), path="/flags")
    found = []

    async def ask(flags):
        found.append(await flags.aget_variant("checkout", NONE, USER))

    async with provider(emu, cache_time_to_live=60, request_timeout_in_seconds=0.3) as flags:
        async with anyio.create_task_group() as tasks:
            for _ in range(10):
                tasks.start_soon(ask, flags)
        assert len(emu.requests("/flags")) == 1
        assert {variant.fallback_reason.kind for variant in found} == {"BACKEND_ERROR"}
        assert len({variant.fallback_reason.message for variant in found}) == 1
        assert str(flags.last_error) == found[0].fallback_reason.message
        await ask(flags)
        assert len(emu.requests("/flags")) == 2


@pytest.mark.anyio
async def test_a_cancelled_caller_does_not_fail_the_others(emu, anyio_backend):
    """Of those that wait for its request one sends another, and gets the response."""
    emu.set_flags([flag()])
    emu.play(Fault.latency(0.2).forever(), path="/flags")
    found = []

    async def ask(flags):
        found.append(await flags.ais_enabled("checkout", USER))

    async with (
        provider(emu, cache_time_to_live=60) as flags,
        anyio.create_task_group() as tasks,
        anyio.create_task_group() as leaving,
    ):
        leaving.start_soon(flags.ais_enabled, "checkout", USER)
        await anyio.wait_all_tasks_blocked()
        tasks.start_soon(ask, flags)
        await anyio.wait_all_tasks_blocked()
        leaving.cancel_scope.cancel()
    assert found == [True]


@pytest.mark.anyio
async def test_a_hybrid_provider_sends_requests_only_for_undecidable_flags(emu, anyio_backend):
    """A cohort flag takes a request, every other flag none."""
    cohort = flag("cohort")
    cohort["ruleset"]["rollout"][0]["cohort_hash"] = "abc"
    emu.set_flags([flag(), cohort], cohorts={"abc": {"u-17"}})
    async with with_both(emu) as mp:
        flags = HybridFeatureFlagsProvider(mp.local_flags, mp.remote_flags)
        assert await flags.ais_enabled("checkout", USER)
        assert emu.requests("/flags") == []
        variant = await flags.aget_variant("cohort", NONE, USER)
        assert variant.variant_source == "remote"
        assert not await flags.ais_enabled("cohort", {"distinct_id": "outsider"})
        emu.play(Fault.status(500).forever(), path="/flags")
        failed = await flags.aget_variant("cohort", NONE, USER)
        assert failed.fallback_reason.kind == "COHORT_ROLLOUT"


@pytest.mark.anyio
async def test_a_hybrid_provider_keeps_the_order_of_rollouts(emu, anyio_backend):
    """A rollout that only Mixpanel can decide comes before a later one, and not after an earlier.

    The exposure is reported once, of the variant that was served.
    """
    cohort = {"rollout_percentage": 1.0, "cohort_hash": "abc", "variant_override": {"key": "on"}}
    everyone = {"rollout_percentage": 1.0, "variant_override": {"key": "off"}}
    variants = [{"key": key, "value": key == "on", "split": 0.5} for key in ("on", "off")]
    orders = {"cohort first": [cohort, everyone], "everyone first": [everyone, cohort]}
    emu.set_flags(
        [
            flag(key, ruleset={"variants": variants, "rollout": rollouts})
            for key, rollouts in orders.items()
        ],
        cohorts={"abc": {"u-17"}},
    )
    async with with_both(emu) as mp:
        hybrid = HybridFeatureFlagsProvider(mp.local_flags, mp.remote_flags)
        first = await hybrid.aget_variant("everyone first", NONE, USER)
        assert ("off", "local") == (first.variant_key, first.variant_source)
        assert emu.requests("/flags") == []
        for user, key in (("u-17", "on"), ("u-18", "off")):
            served = await hybrid.aget_variant("cohort first", NONE, {"distinct_id": user})
            assert (key, "remote") == (served.variant_key, served.variant_source)
        emu.play(Fault.status(500).forever(), path="/flags")
        failed = await hybrid.aget_variant("cohort first", NONE, USER)
        assert "COHORT_ROLLOUT" == failed.fallback_reason.kind
        assert NONE.variant_value == failed.variant_value
        with override_flags({"cohort first": "mine"}):
            assert "mine" == await hybrid.aget_variant_value("cohort first", None, USER)
    assert [("u-17", "off"), ("u-17", "on"), ("u-18", "off")] == [
        (event["properties"]["distinct_id"], event["properties"]["Variant name"])
        for event in emu.events("$experiment_started")
    ]


@pytest.mark.anyio
async def test_callers_do_not_share_a_cached_value(emu, anyio_backend):
    """Each may change its own."""
    emu.set_flags([flag("limits", value={"hosts": ["a"]})])
    async with provider(emu, cache_time_to_live=60) as flags:
        for _ in range(2):
            value = await flags.aget_variant_value("limits", None, USER)
            everything = (await flags.aget_all_variants(USER))["limits"].variant_value
            assert value == everything == {"hosts": ["a"]}
            for each in (value, everything):
                each["hosts"].append("b")
    assert 2 == len(emu.requests("/flags"))


def test_exposures_are_sent_through_the_client(emu):
    """To the same place as its events."""
    emu.set_flags([flag()])
    with Mixpanel("t", base_url=emu.url, remote_flags_config=RemoteFlagsConfig()) as mp:
        assert mp.remote_flags.is_enabled("checkout", USER)
        with override_flags(checkout=False):
            assert not mp.remote_flags.is_enabled("checkout", USER)
    assert len(emu.events("$experiment_started")) == 1
