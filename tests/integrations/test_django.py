"""Django: a project in a process of its own, in a sync and in an async stack, and served."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

PROGRAM = Path(__file__).parent / "programs" / "django_shop.py"
EXPECTED_ERRORS = [
    'a dictionary in the settings, such as {"TOKEN": "..."}',
    "MIXPANEL['TOKEN'] must be the project token",
    "MIXPANEL['TOKEN'] must be the project token",
    "no item 'TOKN' (did you mean 'TOKEN'?)",
    "no item 'token' (did you mean 'TOKEN'?)",
    "MIXPANEL['IDENTIFY']: No module named 'nowhere'",
    "MIXPANEL['PROPERTIES'] must be a function or its dotted path, not int",
    "MIXPANEL['CLIENT_IP']: client_ip='yes' must be True or False",
    "region='moon' is unknown",
    "has no option 'regio' (did you mean 'region'?)",
    "MIXPANEL['OPTIONS'] must be a dictionary",
    "'polling'",
    "MIXPANEL['LOCAL_FLAGS'] must be True, or options",
    "MIXPANEL has CLIENT and TOKEN",
    "MIXPANEL['CLIENT']: TOKEN doesn't look like a module path",
    "MIXPANEL['CLIENT'] must be a Mixpanel, not object",
    "MIXPANEL['FLUSH_ON_SIGNAL'] must be True or False",
]


@pytest.fixture(scope="module")
def shop():
    """Return what the project has tracked."""
    environment = {**os.environ, "PYTHONPATH": str(PROGRAM.parents[3])}
    done = subprocess.run(
        [sys.executable, "-W", "error", PROGRAM],
        env=environment, capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def users(events):
    """Return the name and user of each event."""
    return [(name, properties["distinct_id"]) for name, properties in events]


def test_the_middleware_is_sync_in_a_sync_stack_and_async_in_an_async_one(shop):
    """Otherwise every request would change threads."""
    assert shop["coroutines"] == [False, True]


@pytest.mark.parametrize("stack", ["sync", "async", "served"])
@pytest.mark.parametrize("view", ["page", "async-page", "fail"])
def test_events_have_the_user_who_is_logged_in(shop, stack, view):
    """In sync and async views, whose sessions are in the database, and when a view fails."""
    found = shop[stack][view]
    assert found[0] == (500 if view == "fail" else 200)
    [(name, properties)] = found[-1]
    assert (name, properties["distinct_id"]) == ("Opened", shop["user"])
    assert properties["$current_url"].endswith(f"/{view}")


@pytest.mark.parametrize("view", ["page", "async-page"])
def test_sync_middleware_below_does_not_keep_the_user_from_async_views(shop, view):
    """Django then runs the view in an event loop, where no query is allowed."""
    status, events = shop["async"][f"{view} above sync middleware"]
    assert (status, users(events)) == (200, [("Opened", shop["user"])])


def test_a_login_and_a_logout_change_the_identity(shop):
    """At once, and in async views, too."""
    user = shop["user"]
    assert users(shop["sync"]["login"]) == [("Before", ""), ("After", user), ("Out", "")]
    assert users(shop["async"]["login"]) == [("Before", ""), ("After", user)]


def test_a_request_without_events_does_not_read_the_session(shop):
    """So its response stays cacheable: no `Vary: Cookie`."""
    assert shop["sync"]["quiet"] == [None, []]


def test_query_strings_and_cookies_are_not_in_events(shop):
    """The page has its path only."""
    [(_, properties)] = shop["sync"]["anonymous"]
    assert properties["$current_url"] == "http://shop/page"
    assert "secret" not in str(properties)


def test_streamed_bodies_have_the_context(shop):
    """Each piece, and the end of the body."""
    user = shop["user"]
    body, _, events = shop["sync"]["stream"]
    assert (body, users(events)) == ("ab", [("Piece", user), ("Piece", user), ("End", user)])
    body, events = shop["async"]["stream"]
    assert (body, users(events)) == ("ab", [("Piece", user), ("Piece", user)])
    assert users(shop["served"]["async-stream"][1]) == [("Piece", user), ("Piece", user)]


def test_a_large_body_passes_untouched(shop):
    """Two megabytes, which only the view reads."""
    size, [(_, properties)] = shop["async"]["upload"]
    assert (size, properties["size"]) == ("2000000", 2000000)


def test_identify_may_be_sync_or_async_in_an_async_stack(shop):
    """A sync one may query the database; None looks nobody up; what one raises is logged."""
    [(_, properties)] = shop["async"]["identify"][1]
    assert properties["$device_id"] == "u-7"
    assert users(shop["async"]["identify_async"][1]) == [("Opened", "u-7")]
    assert users(shop["sync"]["no identity"]) == [("Opened", "")]
    for stack in ("sync", "async"):
        status, events = shop[stack]["broken"]
        assert (status, users(events)) == (200, [("Opened", "")])


def test_settings_add_properties_and_the_address(shop):
    """The address that the trusted proxy wrote."""
    [(_, properties)] = shop["sync"]["properties"]
    assert (properties["plan"], properties["ip"]) == ("team", "198.51.100.1")


def test_templates_have_flags_and_report_their_exposures(shop):
    """The tag with its default and the context processor; one exposure in spite of two checks."""
    status, text, events = shop["sync"]["template"]
    assert (status, text) == (200, "new\ngrey None")
    [(name, properties)] = events
    assert (name, properties["distinct_id"]) == ("$experiment_started", shop["user"])


def test_settings_that_cannot_work_are_refused(shop):
    """When the project is set up, with what to do; valid ones make one client."""
    *errors, made = shop["errors"]
    assert len(errors) == len(EXPECTED_ERRORS)
    for error, expected in zip(errors, EXPECTED_ERRORS, strict=True):
        assert expected in error
    assert made == "<AsyncBufferedConsumer to https://api.mixpanel.com> True True"
