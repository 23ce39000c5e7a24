"""The context of events: blocks, updates, and identity that is resolved when it is needed."""

import copy
import threading

import pytest

from mixpanel import Mixpanel, context, update_context
from mixpanel._records import context as contexts
from mixpanel.exceptions import MixpanelException
from mixpanel.testing import MemoryConsumer


@pytest.fixture
def mp():
    """Return a client whose events are in memory."""
    return Mixpanel("t", MemoryConsumer())


def last(mp):
    """Return the properties of the last event."""
    mp.track(None, "E")
    return mp.consumer.events[-1]["properties"]


def test_a_fresh_block_inherits_nothing(mp):
    """Neither identity nor properties."""
    with context("u-1", plan="team"), context(device_id="d-1", fresh=True):
        assert last(mp)["$device_id"] == "d-1"
        assert "plan" not in last(mp)
        assert "distinct_id" not in last(mp)


def test_an_update_holds_for_the_rest_of_the_surrounding_blocks(mp):
    """After the inner block has ended, too, and up to the fresh one."""
    with context("outside"):
        with context("anonymous", fresh=True):
            with context(page="login"):
                update_context("u-1", plan="team")
                assert (last(mp)["distinct_id"], last(mp)["page"]) == ("u-1", "login")
            assert (last(mp)["distinct_id"], last(mp)["plan"]) == ("u-1", "team")
        assert last(mp)["distinct_id"] == "outside"
        assert "plan" not in last(mp)


def test_an_update_with_none_removes_the_identity(mp):
    """As after a logout; what is not named stays."""
    with context(device_id="d-1", user_id="u-1"):
        update_context(user_id=None)
        assert last(mp)["$device_id"] == "d-1"
        assert "$user_id" not in last(mp)


def test_an_update_in_another_thread_holds_for_the_request(mp):
    """A framework may run a login in a worker thread, with a copy of the context."""
    import contextvars

    with context("anonymous"):
        copied = contextvars.copy_context()
        thread = threading.Thread(target=copied.run, args=(update_context, "u-1"))
        thread.start()
        thread.join()
        assert last(mp)["distinct_id"] == "u-1"


def test_an_update_outside_of_a_block_is_an_error():
    """It says where it works."""
    with pytest.raises(MixpanelException, match="inside a block of context"):
        update_context("u-1")


def test_identity_is_resolved_once_and_only_if_it_is_needed(mp):
    """Resolving it may cost a query; events that it tracks itself have no user yet."""
    calls = []

    def resolve():
        calls.append(last(mp)["distinct_id"])
        return "u-1", None, None

    with contexts.entered(contexts.Scope(resolve=resolve)):
        assert calls == []
        assert last(mp)["distinct_id"] == last(mp)["distinct_id"] == "u-1"
    assert calls == [""]


def test_identity_that_could_not_be_resolved_is_tried_again(mp):
    """At the next event, which may be where it can."""
    found = [None, ("u-1", None, None)]
    with contexts.entered(contexts.Scope(resolve=lambda: found.pop(0))):
        users = [last(mp)["distinct_id"] for _ in range(3)]
    assert users == ["", "u-1", "u-1"]


def test_an_update_replaces_an_identity_that_could_not_be_resolved(mp):
    """The parts that the update does not name are absent."""
    with contexts.entered(contexts.Scope(resolve=lambda: None)):
        update_context(device_id="d-1")
        assert last(mp)["$device_id"] == "d-1"
        assert "$user_id" not in last(mp)


def test_a_scope_can_be_copied(mp):
    """Though its identity may not be resolved yet."""
    scope = copy.copy(contexts.Scope(("u-1", None, None), {"plan": "team"}))
    assert (scope.distinct_id, scope.properties) == ("u-1", {"plan": "team"})
    with pytest.raises(AttributeError):
        _ = scope.nonsense


def test_an_update_while_identity_is_resolved_wins(mp):
    """What resolves it may log somebody in."""

    def resolve():
        update_context("new")
        return "old", None, None

    with contexts.entered(contexts.Scope(resolve=resolve)):
        assert last(mp)["distinct_id"] == "new"


def test_parts_of_a_request_continue_where_the_last_one_ended(mp):
    """A block that is open between two parts, as in a generator, does not leak outside."""
    request = contexts.entered(contexts.Scope(("u-1", None, None)))

    def pieces():
        with context(piece=1):
            yield
            yield

    body = pieces()
    for _ in range(2):
        with request:
            next(body)
            assert last(mp)["piece"] == 1
        assert contexts.current() is None
    with request:
        body.close()
        assert (last(mp)["distinct_id"], "piece" in last(mp)) == ("u-1", False)


# ---- another user than the block's --------------------------------------------------------------

ADMIN = {"device_id": "d-1", "user_id": "admin"}


def ids(mp, *call, **options):
    """Return distinct_id, device and user of an event that is tracked."""
    mp.track(*call, **options)
    sent = mp.consumer.events[-1]["properties"]
    return sent.get("distinct_id"), sent.get("$device_id"), sent.get("$user_id")


def test_an_event_of_another_user_has_no_ids_of_the_block(mp):
    """Mixpanel would count it for the block's user: $user_id decides, not distinct_id."""
    with context("admin", **ADMIN):
        assert ("admin", "d-1", "admin") == ids(mp, None, "E") == ids(mp, "admin", "E")
        assert ("u-17", None, None) == ids(mp, "u-17", "E")
        assert ("u-17", None, "u-17") == ids(mp, "u-17", "E", user_id="u-17")
        assert ("u-17", "d-2", None) == ids(mp, "u-17", "E", {"$device_id": "d-2"})
        with context("u-17"):
            assert ("u-17", None, None) == ids(mp, None, "E")
        with context(plan="team"):
            assert ("admin", "d-1", "admin") == ids(mp, None, "E")
        update_context("u-17")
        assert ("u-17", None, None) == ids(mp, None, "E")


@pytest.mark.parametrize("before", [None, "anonymous", "d-1", "$device:d-1"])
def test_a_device_without_a_user_id_may_be_of_any_user(mp, before):
    """As in the request that logs in."""
    with context(before, device_id="d-1"):
        assert ("u-17", "d-1", None) == ids(mp, "u-17", "E")
        update_context("u-17", user_id="u-17")
        assert ("u-17", "d-1", "u-17") == ids(mp, None, "E")
        assert ("17", None, None) == ids(mp, 17, "E")
        update_context(17, user_id=17)
        assert ("17", 17) == ids(mp, "17", "E")[::2]
