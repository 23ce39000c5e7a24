"""Calls are counted as Mixpanel counts them."""

import pytest

from mixpanel.data._api.quota import Quota, exceeded_quota, is_counted, quotas_in


@pytest.mark.parametrize(
    ("url", "params", "counted"),
    [
        ("https://mixpanel.com/api/query/segmentation", {}, True),
        ("https://mixpanel.com/api/query/events/names", {}, True),
        ("https://mixpanel.com/api/2.0/events", {}, True),
        ("/api/query/cohorts/list", {}, True),
        ("/api/query/engage", {}, True),
        ("/api/query/engage/", {"page": "0"}, True),
        ("/api/query/engage", {"session_id": "s-1", "page": "1"}, False),
        ("/api/query/engage/aliases", {}, False),
        ("/api/query/engage/stats", {}, True),
        ("/api/query/something-else", {}, False),
        ("/api/app/me", {}, False),
    ],
)
def test_paths_count_by_their_first_segment(url, params, counted):
    """Pages of profiles count only once, for the first."""
    assert is_counted(url, params) is counted


@pytest.mark.parametrize(
    ("headers", "quotas"),
    [
        ({}, []),
        (
            {"ratelimit-policy": '"project";q=60;w=3600', "ratelimit": '"project";r=0'},
            [Quota("project", 60, 3600, 0)],
        ),
        ({"ratelimit": '"project";a=0;t=12'}, [Quota("project", None, None, 0)]),
        (
            {"ratelimit-policy": '"p-concurrency";q=5, "p" ; q=400 ; w=3600'},
            [Quota("p-concurrency", 5, concurrent=True), Quota("p", 400, 3600)],
        ),
        (
            {"ratelimit-policy": '"c";q=5;qu="concurrent-requests"', "ratelimit": '"c";r=0'},
            [Quota("c", 5, remaining=0, concurrent=True)],
        ),
        ({"ratelimit-policy": '"";q=1', "ratelimit": "60, 10;w=1"}, []),
        ({"ratelimit-policy": f'"p";q={"9" * 40};w=1'}, [Quota("p", None, 1)]),
    ],
)
def test_limits_are_read_from_the_headers(headers, quotas):
    """Older forms and malformed values are ignored."""
    assert quotas_in(headers) == quotas


def test_the_limit_that_is_exceeded_is_the_one_with_nothing_left():
    """A 429 may name several limits."""
    project, concurrency = Quota("a", 60, 3600, 12), Quota("b", 5, None, 0, concurrent=True)
    assert exceeded_quota([project, concurrency]) is concurrency
    assert exceeded_quota([project]) is None
