"""The vendors' own clients against the emulator: `python -m tests.vendor_clients` has the table."""

import pytest

from tests import peers
from tests.vendor_clients import comparison, report
from tests.vendor_clients.report import Method, Table

pytestmark = pytest.mark.slow


def needs(peer):
    """Skip without the client's environment."""
    return pytest.mark.skipif(
        not peers.python(peer).exists(), reason=f"python -m tests.peers {peer} makes it"
    )


@needs("headless")
def test_headless_is_answered_and_agrees():
    """At least 200 of its methods, and each figure that can be compared is ours too."""
    table = report.headless(peers.python("headless"))
    assert [] == table.stopped
    assert report.LEAST_ANSWERED <= len(table.good)
    differing = {each.name: each.differences for each in table.methods if each.differences}
    assert {} == differing
    uncalled = {each.name for each in table.methods if not each.calls}
    assert set() == uncalled


@needs("utils")
def test_utils_is_answered_or_refused_as_by_mixpanel():
    """All of its methods but those that read from another service."""
    table = report.utils(peers.python("utils"))
    assert [] == table.stopped
    problems = {each.name: each.problems for each in table.methods if each.problems}
    assert problems.keys() <= report.LEFT_OUT.keys()
    assert {} == {each.name: each.differences for each in table.methods if each.differences}


def test_figures_are_compared_whatever_their_labels_are():
    """Offsets and number types do not differ, figures and missing dates do."""
    theirs = {"A": {"2026-01-01T00:00:00+00:00": 2.0, "2026-01-01T13:00:00+00:00": 1}}
    assert comparison.figures(theirs) == comparison.figures(
        {"A": {"2026-01-01": 2, "2026-01-01T13:00:00+00:00": 1.0}}
    )
    assert comparison.figures(theirs) != comparison.figures({"A": {"2026-01-01": 2}})
    assert comparison.figures([1]) != comparison.figures([2])


def test_a_method_counts_if_all_its_calls_are_right():
    """One failed call or one other figure is enough to leave it out."""
    found = [
        Method("yes", requests=2, calls=2, compared=1),
        Method("part", requests=2, calls=2, problems=["where: QueryError"]),
        Method("differs", requests=1, calls=1, compared=1, differences=["ours 1 theirs 2"]),
        Method("local", calls=1),
        Method("refused", requests=1, calls=1, refusals=["410 gone"]),
        Method("uncalled"),
    ]
    table = Table("a client", found, [], least=2)
    assert ["yes", "refused"] == [each.name for each in table.good]
    assert table.is_enough
    assert "2 of 4 methods that send requests" in table.text()
    assert not Table("a client", found, ["an area"], least=2).is_enough
