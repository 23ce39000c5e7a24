"""The two faces offer the same, documented once."""

import inspect

import pytest

from mixpanel import AsyncMixpanel, Mixpanel
from mixpanel._records.methods import TrackingMethods

RENAMED = {"aclose": "close"}


def public(face):
    return {name for name in dir(face) if not name.startswith("_")}


def test_the_faces_offer_the_same_methods():
    """What one can do the other can; only close has another name."""
    assert {RENAMED.get(name, name) for name in public(AsyncMixpanel)} == public(Mixpanel)


@pytest.mark.parametrize("name", sorted(public(TrackingMethods)))
def test_verbs_are_written_once(name):
    """No face overrides a verb."""
    assert getattr(AsyncMixpanel, name) is getattr(Mixpanel, name) is getattr(TrackingMethods, name)


@pytest.mark.parametrize("name", ["import_events", "lookup_tables", "replace_lookup_table"])
def test_twins_keep_signature_and_documentation(name):
    """Hover help is the same in both worlds."""
    theirs, ours = getattr(AsyncMixpanel, name), getattr(Mixpanel, name)
    assert inspect.signature(ours) == inspect.signature(theirs)
    assert ours.__doc__ == theirs.__doc__
    assert not inspect.iscoroutinefunction(ours)


@pytest.mark.parametrize("face", [AsyncMixpanel, Mixpanel])
def test_every_public_method_says_what_it_does(face):
    """One imperative sentence at least."""
    for name in public(face):
        assert inspect.getdoc(getattr(face, name)), name
