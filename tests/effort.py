"""How many random cases a test tries: some in every run, many with `tox run -e thorough`."""

import os

import hypothesis

THOROUGH = os.environ.get("HYPOTHESIS_PROFILE") == "thorough"
# For tests/faults/mutation.py, which runs a test thousands of times: few cases, always the same.
MUTATION = os.environ.get("HYPOTHESIS_PROFILE") == "mutation"

PHASES = tuple(hypothesis.Phase)


def cases(usual, thorough):
    """Return the number of random cases for this run."""
    return thorough if THOROUGH else min(usual, 25) if MUTATION else usual


def load_profile():
    """Set what all property tests share."""
    # No example has a time limit: machines are shared. None is kept: a run leaves no file behind.
    hypothesis.settings.register_profile(
        "mixpanel",
        deadline=None,
        database=None,
        max_examples=cases(100, 2000),
        derandomize=MUTATION,
        phases=[hypothesis.Phase.explicit, hypothesis.Phase.generate] if MUTATION else PHASES,
    )
    hypothesis.settings.load_profile("mixpanel")
