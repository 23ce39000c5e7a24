"""Plots: that matplotlib draws each result, whatever the names, and says so when it is missing."""

import sys
from dataclasses import replace

import pytest

from mixpanel.data.exceptions import ConfigError
from mixpanel.data.query_results import InsightsResult, JQLResult
from tests.data.test_result_charts import EMPTY, FIRST, HOSTILE, LAST, MONTH, RESULTS

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
def test_every_result_can_be_plotted(plt, result):
    """On axes of its own, which are returned."""
    ax = drawn(result.plot())
    assert ax.get_title(loc="left")
    plt.close(ax.figure)


def test_a_plot_may_be_drawn_on_given_axes(plt):
    """For several plots in one matplotlib figure."""
    figure, (one, other) = plt.subplots(1, 2)
    assert RESULTS["funnel"].plot(one) is one
    assert RESULTS["retention"].plot(ax=other) is other
    drawn(other)
    plt.close(figure)


def test_a_series_is_plotted_as_a_line(plt):
    """The axis begins at 0, with one line for each segment."""
    ax = RESULTS["several series"].plot()
    first, second = ax.get_lines()
    assert [day * 100 for day in range(1, 32)] == list(first.get_ydata())
    assert [7] * 31 == list(second.get_ydata())
    assert 0 == ax.get_ylim()[0]
    assert ax.get_ylim()[1] >= 3100
    plt.close(ax.figure)


def test_long_names_stand_beside_their_bars(plt):
    """Short ones below."""
    names = ["ExpressJet Airlines Inc.", "Endeavor Air Inc."] * 5
    totals = {f"{name} {n}": 10 - n for n, name in enumerate(names)}
    result = RESULTS["one date"]
    long = replace(result, series={name: {"2026-01-01": n} for name, n in totals.items()}).plot()
    assert list(totals) == [label.get_text() for label in long.get_yticklabels()]
    assert [10, 1] == [long.patches[0].get_width(), long.patches[-1].get_width()]
    short = replace(result, series={f"n{n}": {"2026-01-01": n} for n in range(10)}).plot()
    assert [f"n{n}" for n in range(10)] == [label.get_text() for label in short.get_xticklabels()]
    plt.close("all")


def test_the_axis_ends_with_the_dates(plt):
    """No tick of the next month gives the axis its name."""
    ax = drawn(RESULTS["one series"].plot())
    assert "2026-Jan" == ax.xaxis.get_offset_text().get_text()
    plt.close(ax.figure)


def test_names_of_several_parts_stay_different(plt):
    """The longest part is cut."""
    groups = {"EWR": MONTH, "JFK": MONTH}
    metrics = {f"Flight {what} [Total Events]": groups for what in ("Departed", "Cancelled")}
    ax = InsightsResult(FIRST, LAST, ("$metric", "origin"), metrics).plot()
    labels = [text.get_text() for text in ax.get_legend().get_texts()]
    assert 4 == len(set(labels))
    assert all(label.endswith((" · EWR", " · JFK")) and len(label) <= 32 for label in labels)
    plt.close(ax.figure)


@pytest.mark.parametrize("name", sorted(set(EMPTY) - {"zeros"}))
def test_an_empty_plot_says_no_data(plt, name):
    """An empty figure would look like a mistake."""
    ax = drawn(EMPTY[name].plot())
    assert "no data" in [text.get_text() for text in ax.texts]
    plt.close(ax.figure)


def test_a_long_subtitle_has_several_lines(plt):
    """On narrow figures, nothing of it is cut off."""
    result = replace(RESULTS["retention"], sampling_factor=0.1, limit_hit=True)
    ax = drawn(result.plot())
    (lines,) = [text for text in ax.texts if "sampled" in text.get_text()]
    assert "there are more than the limit" in lines.get_text()
    box = lines.get_window_extent()
    assert box.x1 <= ax.figure.bbox.x1
    assert box.y1 <= ax._left_title.get_window_extent().y0 + 1
    plt.close(ax.figure)


def test_negative_values_are_visible(plt):
    """The axis extends below 0."""
    ax = RESULTS["negative"].plot()
    assert ax.get_ylim()[0] <= -5.5
    plt.close(ax.figure)


def test_a_retention_plot_has_a_row_for_each_cohort(plt):
    """And one for the average."""
    ax = RESULTS["retention"].plot()
    assert ["2026-01-01  (120)", "2026-01-02  (98)", "average  (218)"] == [
        label.get_text() for label in ax.get_yticklabels()
    ]
    shares = [text.get_text() for text in ax.texts if text.get_text().endswith("%")]
    assert ["66%", "34%", "0%", "71%", "33%", "69%", "34%", "0%"] == shares
    plt.close(ax.figure)


def test_names_in_plots_are_not_formulas(plt):
    """A dollar sign would begin one, and legends hide names that begin with an underscore."""
    ax = RESULTS["parted funnel"].plot()
    names = [text.get_text() for text in ax.get_legend().get_texts()] if ax.get_legend() else []
    for text in [*names, *(label.get_text() for label in ax.get_xticklabels())]:
        assert text.replace(r"\$", "").count("$") == 0
        assert "\x1b" not in text
    plt.close(ax.figure)
    assert "$" in HOSTILE


def test_without_matplotlib_the_error_says_what_to_install(monkeypatch):
    """And that `.chart()` works without it."""
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    with pytest.raises(ConfigError, match=r"mixpanel-async\[plot\]"):
        RESULTS["funnel"].plot()


def test_plotting_a_result_without_a_figure_raises(plt):
    """The error suggests `.df`, and no empty matplotlib figure stays open."""
    plt.close("all")
    with pytest.raises(ConfigError, match=r"use \.df"):
        JQLResult(({"a": 1},)).plot()
    assert not plt.get_fignums()
