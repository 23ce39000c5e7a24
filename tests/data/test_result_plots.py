"""Plots: that matplotlib draws each result, whatever the names, and says so when it is missing."""

import sys

import pytest

from mixpanel.data.exceptions import ConfigError
from mixpanel.data.query_results import JQLResult
from tests.data.test_result_charts import EMPTY, HOSTILE, RESULTS

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", name="plt")
def _plt():
    """Lend matplotlib, drawing into memory."""
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    yield plt
    plt.close("all")


def drawn(ax):
    """Draw the figure of some axes, without the fonts for what its names are in."""
    import warnings

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph")
        ax.figure.canvas.draw()
    return ax


@pytest.mark.parametrize("result", [*RESULTS.values(), *EMPTY.values()], ids=[*RESULTS, *EMPTY])
def test_every_result_is_drawn(plt, result):
    """On axes of its own, which it returns."""
    ax = drawn(result.plot())
    assert ax.get_title(loc="left")
    plt.close(ax.figure)


def test_axes_may_be_given(plt):
    """As for several plots in one figure."""
    figure, (one, other) = plt.subplots(1, 2)
    assert RESULTS["funnel"].plot(one) is one
    assert RESULTS["retention"].plot(ax=other) is other
    drawn(other)
    plt.close(figure)


def test_a_series_is_a_line_of_its_values(plt):
    """From 0 on, one line a segment."""
    ax = RESULTS["several series"].plot()
    first, second = ax.get_lines()
    assert [day * 100 for day in range(1, 32)] == list(first.get_ydata())
    assert [7] * 31 == list(second.get_ydata())
    assert 0 == ax.get_ylim()[0]
    assert ax.get_ylim()[1] >= 3100
    plt.close(ax.figure)


def test_negative_values_are_seen(plt):
    """The axis goes below 0."""
    ax = RESULTS["negative"].plot()
    assert ax.get_ylim()[0] <= -5.5
    plt.close(ax.figure)


def test_a_retention_map_is_as_large_as_its_cohorts(plt):
    """With a row for the average."""
    ax = RESULTS["retention"].plot()
    assert ["2026-01-01  (120)", "2026-01-02  (98)", "average  (218)"] == [
        label.get_text() for label in ax.get_yticklabels()
    ]
    shares = [text.get_text() for text in ax.texts if text.get_text().endswith("%")]
    assert ["66%", "34%", "0%", "71%", "33%", "69%", "34%", "0%"] == shares
    plt.close(ax.figure)


def test_names_are_no_formulas(plt):
    """A dollar sign is one, and a name may begin with an underscore."""
    ax = RESULTS["parted funnel"].plot()
    names = [text.get_text() for text in ax.get_legend().get_texts()] if ax.get_legend() else []
    for text in [*names, *(label.get_text() for label in ax.get_xticklabels())]:
        assert text.replace(r"\$", "").count("$") == 0
        assert "\x1b" not in text
    plt.close(ax.figure)
    assert "$" in HOSTILE


def test_without_matplotlib_the_error_says_what_to_install(monkeypatch):
    """And what does without."""
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    with pytest.raises(ConfigError, match=r"mixpanel-async\[plot\]"):
        RESULTS["funnel"].plot()


def test_what_has_no_figures_cannot_be_plotted(plt):
    """Rows are offered instead, and no empty figure is left behind."""
    plt.close("all")
    with pytest.raises(ConfigError, match=r"use \.df"):
        JQLResult(({"a": 1},)).plot()
    assert not plt.get_fignums()
