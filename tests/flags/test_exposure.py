"""Exposures have the official properties, and are not reported for every evaluation."""

import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime

import pytest

from mixpanel.flags._exposures.exposure import (
    EXPOSURE_EVENT,
    RecentExposures,
    exposed_distinct_id,
    exposure_properties,
)
from mixpanel.flags.local_feature_flags import LocalFeatureFlagsProvider
from mixpanel.flags.types import FallbackReason, LocalFlagsConfig, SelectedVariant

CHOSEN = SelectedVariant("blue", "treatment", "e1", True, None, "local")


def test_event_has_the_official_name():
    """Reports find exposures by this name."""
    assert EXPOSURE_EVENT == "$experiment_started"


def test_local_exposure_has_the_official_properties():
    """An automatic local exposure has the experiment and the latency."""
    assert exposure_properties("checkout", CHOSEN, latency_in_seconds=0.25) == {
        "Experiment name": "checkout",
        "Variant name": "treatment",
        "$experiment_type": "feature_flag",
        "Flag evaluation mode": "local",
        "$experiment_id": "e1",
        "$is_experiment_active": True,
        "$is_qa_tester": None,
        "Variant fetch latency (ms)": 250.0,
    }


def test_manual_exposure_has_no_latency():
    """A manually reported exposure has no evaluation to measure."""
    properties = exposure_properties("checkout", SelectedVariant("blue", "treatment"))

    assert "Variant fetch latency (ms)" not in properties
    assert properties["$experiment_id"] is None


def test_remote_exposure_has_times_and_no_experiment():
    """A remote exposure has the times of the request, and no experiment."""
    started, completed = datetime(2026, 11, 20, 10), datetime(2026, 11, 20, 10, 0, 0, 500_000)

    properties = exposure_properties(
        "checkout",
        CHOSEN,
        mode="remote",
        latency_in_seconds=0.5,
        started=started,
        completed=completed,
    )

    assert properties == {
        "Experiment name": "checkout",
        "Variant name": "treatment",
        "$experiment_type": "feature_flag",
        "Flag evaluation mode": "remote",
        "Variant fetch start time": "2026-11-20T10:00:00",
        "Variant fetch complete time": "2026-11-20T10:00:00.500000",
        "Variant fetch latency (ms)": 500.0,
    }


def test_fallbacks_and_contexts_without_a_user_are_not_exposed():
    """A fallback is not a variant, and an exposure needs a distinct_id."""
    reason = FallbackReason.no_rollout_match()
    nothing = SelectedVariant(None, variant_source="fallback", fallback_reason=reason)

    assert exposed_distinct_id(CHOSEN, {"distinct_id": "u1"}) == "u1"
    assert exposed_distinct_id(nothing, {"distinct_id": "u1"}) is None
    assert exposed_distinct_id(CHOSEN, {"device_id": "d1"}) is None
    assert exposed_distinct_id(CHOSEN, {"distinct_id": ""}) is None


def test_an_exposure_is_new_once():
    """The second evaluation of the same flag, variant and user reports nothing."""
    exposures = RecentExposures()

    assert [exposures.is_new(("f", "on", "u1"), now=t) for t in (0, 1, 2)] == [True, False, False]


def test_exposures_differ_by_flag_variant_and_assignment():
    """Another flag, variant or user is another exposure."""
    exposures = RecentExposures()
    checks = [("f", "on", "u1"), ("g", "on", "u1"), ("f", "off", "u1"), ("f", "on", "u2")]

    assert all(exposures.is_new(each, now=0) for each in checks)
    assert len(exposures) == 4


def test_an_exposure_is_new_again_after_the_time_to_live():
    """The time counts from the report, not from the last evaluation."""
    exposures = RecentExposures(time_to_live=60)

    answers = [exposures.is_new(("f", "on", "u1"), now=t) for t in (0, 59, 60, 119, 120)]

    assert answers == [True, False, True, False, True]


def test_the_least_recently_seen_exposure_is_forgotten_first():
    """Memory is bounded, and returning users stay remembered."""
    exposures = RecentExposures(limit=2)
    exposures.is_new(("f", "on", "u1"), now=0)
    exposures.is_new(("f", "on", "u2"), now=1)
    exposures.is_new(("f", "on", "u1"), now=2)
    exposures.is_new(("f", "on", "u3"), now=3)

    assert len(exposures) == 2
    assert not exposures.is_new(("f", "on", "u1"), now=4)
    assert exposures.is_new(("f", "on", "u2"), now=5)


def test_clearing_makes_all_exposures_new():
    """A test, or a changed definition, can start again."""
    exposures = RecentExposures()
    exposures.is_new(("f", "on", "u1"), now=0)

    exposures.clear()

    assert exposures.is_new(("f", "on", "u1"), now=0)


def test_threads_report_each_exposure_once():
    """Eight threads that evaluate for the same thousand users report a thousand exposures."""
    exposures = RecentExposures()
    start, reported = threading.Barrier(8), []

    def check():
        start.wait()
        reported.extend(u for u in range(1000) if exposures.is_new(("f", "on", u), now=0))

    threads = [threading.Thread(target=check) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sorted(reported) == list(range(1000))


def flags_with(tracker, **config):
    """Return a provider of the flag "f" of a company, with a tracker."""
    rules = {"variants": [{"key": "on", "value": True}], "rollout": [{"rollout_percentage": 1}]}
    definition = {"key": "f", "context": "company", "ruleset": rules}
    config = LocalFlagsConfig(bootstrap={"flags": [definition]}, offline=True, **config)
    return LocalFeatureFlagsProvider("t", config, "1", tracker)


def test_each_user_of_a_company_is_exposed_once():
    """By user and company; an evaluation without a user exposes nobody."""
    reported = []
    with flags_with(lambda user, *_: reported.append(user)) as flags:
        for user, company in (
            (None, "acme"), ("u1", "acme"), ("u2", "acme"), ("u1", "acme"), ("u1", "globex"),
        ):  # fmt: skip
            assert flags.is_enabled("f", {"distinct_id": user, "company": company})
    assert ["u1", "u2", "u1"] == reported


@pytest.mark.parametrize("executor", [None, ThreadPoolExecutor])
def test_an_exposure_that_the_tracker_failed_on_is_reported_again(executor, caplog):
    """By the next evaluation."""
    reported = []

    def track(user, *_):
        reported.append(user)
        if len(reported) == 1:
            raise LookupError

    threads = executor and executor(1)
    with flags_with(track, exposure_executor=threads) as flags:
        for _ in range(3):
            assert flags.is_enabled("f", {"distinct_id": "u1", "company": "acme"})
            if threads:
                threads.submit(int).result()  # the exposure before it was handled
    if threads:
        threads.shutdown()
    assert ["u1", "u1"] == reported
    assert "exposure not reported" in caplog.text


PROGRAM = """
import sys, time
from mixpanel import LocalFlagsConfig, Mixpanel

class Consumer:
    def send(self, endpoint, json_message, *_):
        time.sleep(float(sys.argv[1]))
        print("sent", endpoint, flush=True)

flag = {"key": "f", "context": "distinct_id", "ruleset": {
    "variants": [{"key": "on", "value": True}], "rollout": [{"rollout_percentage": 1}]}}
config = LocalFlagsConfig(bootstrap={"flags": [flag]}, offline=True)
mp = Mixpanel("t", Consumer(), local_flags_config=config)
assert mp.local_flags.is_enabled("f", {"distinct_id": "u-17"})
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("takes", "printed", "stderr"),
    [(0.2, "sent events\n", ""), (60, "", "1 message(s) dropped: exit")],
)
def test_exposures_through_a_custom_consumer_are_awaited_at_exit(takes, printed, stderr):
    """A program that ends waits for them briefly, and logs what it could not deliver."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(takes)],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert done.stdout == printed
    assert done.stderr.strip() == stderr
