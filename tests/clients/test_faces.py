"""The async and the sync classes offer the same, documented once."""

import inspect
import re
from collections.abc import Coroutine
from typing import Any

import pytest

from mixpanel import AsyncMixpanel, Mixpanel
from mixpanel._records.methods import TrackingMethods
from mixpanel.cdp import (
    AsyncCustomerIO,
    AsyncFanOut,
    AsyncHightouch,
    CustomerIO,
    FanOut,
    Hightouch,
)

RENAMED = {"aclose": "close"}


def public(face):
    return {name for name in dir(face) if not name.startswith("_")}


def test_both_clients_offer_the_same_methods():
    """Only close has another name."""
    assert {RENAMED.get(name, name) for name in public(AsyncMixpanel)} == public(Mixpanel)


@pytest.mark.parametrize("name", sorted(public(TrackingMethods)))
def test_tracking_methods_are_written_once(name):
    """Both clients run the code of the mix-in."""
    code = getattr(TrackingMethods, name).__code__
    assert getattr(AsyncMixpanel, name).__code__ is getattr(Mixpanel, name).__code__ is code


@pytest.mark.parametrize("name", ["import_events", "lookup_tables", "replace_lookup_table"])
def test_sync_methods_keep_signature_and_documentation(name):
    """Help is the same in both clients, but for `await`."""
    theirs, ours = getattr(AsyncMixpanel, name), getattr(Mixpanel, name)
    assert inspect.signature(ours) == inspect.signature(theirs)
    assert ours.__doc__ == theirs.__doc__.replace("= await ", "= ")
    assert not inspect.iscoroutinefunction(ours)


FACES = [
    (AsyncMixpanel, Mixpanel),
    (AsyncCustomerIO, CustomerIO),
    (AsyncHightouch, Hightouch),
    (AsyncFanOut, FanOut),
]
FIRE_AND_FORGET = {
    "track", "people_set", "group_set", "track_batch", "import_data", "identify", "page", "screen",
    "group", "alias", "batch", "unsubscribe", "delete_person", "report_content",
}  # fmt: skip


@pytest.mark.parametrize(("async_face", "sync_face"), FACES)
def test_help_shows_what_a_call_returns(async_face, sync_face):
    """A coroutine, or None; the parameters are the same."""
    names = FIRE_AND_FORGET & public(async_face)
    assert len(names) >= 5
    for name in names:
        there, here = (inspect.signature(getattr(face, name)) for face in (async_face, sync_face))
        assert Coroutine[Any, Any, None] == there.return_annotation, name
        assert here.return_annotation is None, name
        assert here.replace(return_annotation=None) == there.replace(return_annotation=None)


@pytest.mark.parametrize(("async_face", "sync_face"), FACES)
def test_a_sync_class_shows_no_await_in_an_example(async_face, sync_face):
    """There are as many examples as in the async class."""
    assert len(examples(async_face)) == len(examples(sync_face))
    assert [] == [line for line in examples(sync_face) if re.search(r"\b(await|async)\b", line)]


def examples(face):
    docs = [inspect.getdoc(getattr(face, name)) or "" for name in public(face)]
    return [line for doc in docs for line in doc.splitlines() if line.startswith((">>>", "..."))]


def test_a_method_shown_for_a_class_runs_the_code_of_the_mix_in():
    """No call is added between the caller and that code."""
    assert "Mixpanel.track" == Mixpanel.track.__qualname__
    assert Mixpanel.track.__kwdefaults__ == TrackingMethods.track.__kwdefaults__
    assert Mixpanel.track.__globals__ is TrackingMethods.track.__globals__


@pytest.mark.parametrize("face", [AsyncMixpanel, Mixpanel])
def test_every_public_method_has_a_docstring(face):
    """At least one sentence."""
    for name in public(face):
        assert inspect.getdoc(getattr(face, name)), name
