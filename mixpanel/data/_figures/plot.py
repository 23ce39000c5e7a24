"""Draw results with matplotlib, which is imported here only."""

from __future__ import annotations

from datetime import datetime
from textwrap import wrap
from typing import TYPE_CHECKING, Any, Literal

from mixpanel.data._figures.figure import Bars, Flows, Funnel, Lines, ShareTable
from mixpanel.data._figures.numbers import SEPARATOR, duration, percentage, short_number
from mixpanel.data.exceptions import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from matplotlib.axes import Axes

    from mixpanel.data._figures.figure import Figure
    from mixpanel.data._result_items import FunnelStep

__all__ = ["plot"]

MOST_SERIES = 10
MOST_NODES = 12
MOST_FIGURES = 40  # columns of a heat map that have room for figures
FEWEST_BARS = 4  # fewer are no wider
LONGEST_NAME = 32
# Colours that people with any colour vision tell apart (Okabe and Ito), the yellow darkened.
COLORS = (
    "#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00",
    "#56B4E9", "#B8A800", "#7F3C8D", "#555555", "#8C564B",
)  # fmt: skip
QUIET = "#666666"
FAINT = "#DDDDDD"


def plot(figure: Figure, ax: Axes | None) -> Axes:
    """Draw a figure on some axes, by default new ones, and return them.

    :raises ConfigError: without matplotlib.
    """
    try:
        from matplotlib import pyplot as plt
    except ModuleNotFoundError as error:
        raise ConfigError(
            "a plot needs matplotlib: pip install 'mixpanel-async[plot]'; .chart() does without"
        ) from error
    if ax is None:
        _, ax = plt.subplots(figsize=_size(figure), layout="constrained")
    match figure.content:
        case Funnel() as funnel:
            _funnel(funnel, ax)
        case ShareTable() as table:
            _heat_map(table, ax)
        case Flows() as flows:
            _flows(flows, ax)
        case Bars(values):
            _bars(values, ax)
        case Lines(series):
            _lines(series, ax)
    if not _has_data(figure):
        ax.text(0.5, 0.5, "no data", transform=ax.transAxes, ha="center", va="center", color=QUIET)
    _head(figure, ax)
    return ax


def _has_data(figure: Figure) -> bool:
    match figure.content:
        case Funnel(steps) | Flows(steps):
            return bool(steps)
        case ShareTable(rows=rows):
            return bool(rows)
        case Bars(values):
            return bool(values)
        case Lines(series):
            return any(series.values())


def _head(figure: Figure, ax: Axes) -> None:
    """Write the title, and below it the notes on as many lines as they need."""
    inches = ax.bbox.width / ax.figure.dpi
    lines = [""]
    for note in figure.notes:
        longer = f"{lines[-1]}{SEPARATOR}{note}" if lines[-1] else note
        lines = [*lines, note] if len(longer) > 14 * inches else [*lines[:-1], longer]
    ax.set_title(
        _text(figure.title, max(30, int(10 * inches))),
        loc="left", fontweight="bold", pad=10 + 12 * len(lines),
    )  # fmt: skip
    ax.annotate(
        "\n".join(_text(line, 120) for line in lines if line),
        (0, 1),
        xycoords="axes fraction",
        xytext=(0, 7),
        textcoords="offset points",
        color=QUIET,
        fontsize=9,
    )


def _size(figure: Figure) -> tuple[float, float]:
    """Return width and height in inches."""
    match figure.content:
        case ShareTable(rows=rows):
            columns = max((len(row.shares) for row in rows), default=1)
            return (min(16.0, 3.5 + 0.6 * columns), min(14.0, 2.0 + 0.3 * len(rows)))
        case Funnel(steps, segments):
            legend = 2.5 if segments else 0.0
            return (max(7.0 + legend, min(16.0, 1.6 * len(steps) + 2.5 + legend)), 4.5)
        case Flows(steps):
            return (max(7.0, min(16.0, 2.9 * len(steps))), 5.5)
    return (9.0, 4.2)


def _text(text: str, longest: int = LONGEST_NAME) -> str:
    """Return a text that matplotlib takes as it is: no formula, and not hidden from legends.

    Of a text of parts, the longest ones are cut first, so that names stay different.
    """
    parts = "".join(letter if letter.isprintable() else " " for letter in text).split(SEPARATOR)
    while len(SEPARATOR.join(parts)) > longest:
        cut = max(range(len(parts)), key=lambda n: len(parts[n]))
        if len(parts[cut]) < 4:
            break
        parts[cut] = parts[cut].removesuffix("…")[:-1].rstrip() + "…"
    clean = SEPARATOR.join(parts)
    clean = clean.replace("$", r"\$")
    return "\u200b" + clean if clean.startswith("_") else clean


def _bare(ax: Axes, grid: Literal["x", "y"] = "y") -> None:
    ax.spines[["top", "right"]].set_visible(False)
    ax.grid(axis=grid, color=FAINT, linewidth=0.8)
    ax.set_axisbelow(True)


def _figures(ax: Axes, along: Literal["x", "y"] = "y") -> None:
    """Label an axis as charts label theirs, from 0 on where nothing is negative."""
    upward, limits = along == "y", ax.dataLim  # infinite without data
    low, high = (limits.y0, limits.y1) if upward else (limits.x0, limits.x1)
    (ax.yaxis if upward else ax.xaxis).set_major_formatter(lambda value, _: short_number(value))
    if low >= 0:
        (ax.set_ylim if upward else ax.set_xlim)(0, 1.06 * high if 0 < high < float("inf") else 1)


# ---- series -------------------------------------------------------------------------------------


def _lines(series: Mapping[str, Mapping[str, float]], ax: Axes) -> None:
    from matplotlib import dates as untyped

    mdates: Any = untyped
    dates = sorted({date for values in series.values() for date in values})
    if len(dates) < 2 or not all(map(_parsed_date, dates)):
        _bars({name: sum(values.values()) for name, values in series.items()}, ax)
        return
    days = [mdates.date2num(_parsed_date(date)) for date in dates]
    kept = list(series)[:MOST_SERIES]
    for number, name in enumerate(kept):
        ax.plot(
            days,
            [series[name].get(date, 0) for date in dates],
            color=COLORS[number % len(COLORS)],
            linewidth=1.8,
            marker="o" if len(dates) <= 40 else None,
            markersize=3.5,
            label=_text(name),
        )
    ax.margins(x=0.01)  # more would reach the next month, or the next day
    locator = mdates.AutoDateLocator(maxticks=10)
    ax.xaxis.set_major_locator(locator)
    ax.xaxis.set_major_formatter(mdates.ConciseDateFormatter(locator))
    _bare(ax)
    _figures(ax)
    if len(kept) > 1:
        _legend(ax, len(series) - len(kept))


def _legend(ax: Axes, left_out: int) -> None:
    ax.legend(
        loc="upper left",
        bbox_to_anchor=(1.0, 1.0),
        frameon=False,
        title=f"and {left_out} more" if left_out > 0 else None,
    )


def _parsed_date(date: str) -> datetime | None:
    try:
        return datetime.fromisoformat(date).replace(tzinfo=None)
    except ValueError:
        return None


def _bars(totals: Mapping[str, float], ax: Axes) -> None:
    """Draw a bar for each name, from the left to the right if there is room for the names."""
    kept = list(totals)[: 2 * MOST_SERIES]
    heights = [totals[name] for name in kept]
    edge = 0.6 + max(0, FEWEST_BARS - len(kept)) / 2
    ends = (-edge, len(kept) - 1 + edge)
    most = 90 // max(1, len(kept))
    if all(len(name) <= most or wrap(name, most, max_lines=2) == wrap(name, most) for name in kept):
        ax.bar(range(len(kept)), heights, color=COLORS[0], width=0.8)
        ax.set_xlim(*ends)
        _name_bars(ax, kept, most)
        _bare(ax)
        _figures(ax)
        return
    ax.barh(range(len(kept)), heights, color=COLORS[0], height=0.8)
    ax.set_ylim(ends[1], ends[0])
    ax.set_yticks(range(len(kept)), [_text(name) for name in kept], fontsize=9)
    _bare(ax, grid="x")
    _figures(ax, along="x")


def _name_bars(ax: Axes, names: Sequence[str], most: int) -> None:
    """Write names below bars, in lines of at most so many characters."""
    lines = [wrap(name, max(most, 6), max_lines=3, placeholder="…") for name in names]
    ax.set_xticks(range(len(names)), ["\n".join(map(_text, each)) for each in lines])


# ---- funnels ------------------------------------------------------------------------------------


def _funnel(funnel: Funnel, ax: Axes) -> None:
    groups: dict[str, Sequence[FunnelStep]] = {"": funnel.steps}
    if funnel.segments:
        groups = dict(list(funnel.segments.items())[:MOST_SERIES])
    alone, wide = not funnel.segments, 0.8 / len(groups)
    for number, (name, steps) in enumerate(groups.items()):
        places = [n - 0.4 + wide * (number + 0.5) for n in range(len(steps))]
        color = COLORS[number % len(COLORS)]
        rates = [step.overall_conversion_rate for step in steps]
        if alone:
            whole = [steps[0].overall_conversion_rate] * len(steps) if steps else []
            ax.bar(places, whole, width=wide, color=FAINT, hatch="///", edgecolor="white")
        ax.bar(places, rates, width=wide * 0.96, color=color, label=_text(name))
        for n, step in enumerate(steps):
            _label_step(ax, places[n], n, step, alone=alone)
    names = [f"{n}  {step.label or step.event}" for n, step in enumerate(funnel.steps, start=1)]
    _name_bars(ax, names, most=18)
    ax.set_ylim(0, 1.17)
    ax.yaxis.set_major_formatter(lambda value, _: f"{100 * value:.0f}%")
    ax.set_yticks([0, 0.25, 0.5, 0.75, 1])
    _bare(ax)
    if not alone:
        _legend(ax, len(funnel.segments) - len(groups))


def _label_step(ax: Axes, place: float, number: int, step: FunnelStep, *, alone: bool) -> None:
    rate = step.overall_conversion_rate
    if not alone:
        ax.text(place, rate + 0.01, percentage(rate), ha="center", va="bottom", fontsize=8)
        return
    text = f"{short_number(step.count)}\n{percentage(rate)}"
    ax.text(place, rate + 0.01, text, ha="center", va="bottom", fontsize=9)
    if number:
        lines = [f"{percentage(step.conversion_rate)} of step {number}", duration(step.avg_time)]
        inside = rate > 0.2
        ax.text(
            place,
            0.03 if inside else rate + 0.13,
            "\n".join(filter(None, lines)),
            ha="center",
            va="bottom",
            fontsize=8,
            color="white" if inside else QUIET,
        )


# ---- heat maps ----------------------------------------------------------------------------------


def _heat_map(table: ShareTable, ax: Axes) -> None:
    rows = [
        (f"{row.label}  ({short_number(row.size)})", list(row.shares)) for row in table.all_rows
    ]
    _heat(rows, ax, first=table.first_column, set_off_last=table.average is not None)
    ax.set_xlabel(table.axis_label)


def _heat(
    rows: Sequence[tuple[str, list[float]]], ax: Axes, *, first: int, set_off_last: bool
) -> None:
    """Draw a table of shares, darker where higher; a line may set the last row off."""
    wide = max((len(shares) for _, shares in rows), default=0)
    nothing = float("nan")
    cells = [shares + [nothing] * (wide - len(shares)) for _, shares in rows]
    if cells and wide:
        line = 1 if wide <= MOST_FIGURES else 0.2
        ax.pcolormesh(cells, cmap="Blues", vmin=0, vmax=1, edgecolors="white", linewidth=line)
    for row, shares in enumerate(cells):
        for column, rate in enumerate(shares):
            if rate == rate and wide <= MOST_FIGURES:  # noqa: PLR0124 - NaN
                ink = "white" if rate > 0.55 else "#222222"
                ax.text(
                    column + 0.5, row + 0.5, f"{100 * rate:.0f}%",
                    ha="center", va="center", color=ink, fontsize=8,
                )  # fmt: skip
    ax.set_yticks([n + 0.5 for n in range(len(rows))], [name for name, _ in rows], fontsize=8)
    step = max(1, -(-wide // 32))
    ax.set_xticks(
        [n + 0.5 for n in range(0, wide, step)],
        [str(n + first) for n in range(0, wide, step)],
        fontsize=8,
    )
    if set_off_last:
        ax.axhline(len(rows) - 1, color="#444444", linewidth=1.2)
    ax.set_ylim(max(len(rows), 1), 0)
    ax.set_xlim(0, max(wide, 1))
    ax.spines[:].set_visible(False)
    ax.tick_params(length=0)


# ---- flows --------------------------------------------------------------------------------------

GAP = 0.03  # between nodes, as a share of the height
BOX = 0.16  # how wide a node is; a step is 1


def _flows(flows: Flows, ax: Axes) -> None:
    """Draw a column of boxes for each step, and bands between them as high as they are frequent."""
    steps = sorted(flows.steps, key=lambda step: step.step)
    whole = max((sum(node.count for node in step.nodes) for step in steps), default=0) or 1
    colors: dict[str, str] = {}
    boxes: dict[tuple[int, str], tuple[float, float]] = {}  # top and height
    for step in steps:
        nodes = [node for node in step.nodes if node.count][:MOST_NODES]
        top = 1.0
        for node in nodes:
            plain = node.type in ("DROPOFF", "PRUNED")
            color = (
                FAINT if plain else colors.setdefault(node.event, COLORS[len(colors) % len(COLORS)])
            )
            height = node.count / whole
            boxes[step.step, node.event] = (top, height)
            ax.fill_between(
                [step.step, step.step + BOX], top - height, top, color=color, linewidth=0
            )
            ax.text(
                step.step + BOX + 0.02, top - height / 2,
                f"{_text(node.event, 22)}  {short_number(node.count)}",
                va="center", fontsize=8, zorder=3,
            )  # fmt: skip
            top -= max(height, 0.012) + GAP
    _bands(flows, ax, boxes, whole, colors)
    low = min((top - height for top, height in boxes.values()), default=0.0)
    ax.set_ylim(min(0.0, low) - 0.02, 1.03)
    numbers = [step.step for step in steps] or [0]
    ax.set_xlim(numbers[0] - 0.05, numbers[-1] + 0.95)
    ax.set_xticks(
        [number + BOX / 2 for number in numbers],
        ["anchor" if number == 0 else f"{number:+d}" for number in numbers],
    )
    ax.set_yticks([])
    ax.spines[:].set_visible(False)
    ax.tick_params(length=0)


def _bands(
    flows: Flows,
    ax: Axes,
    boxes: dict[tuple[int, str], tuple[float, float]],
    whole: int,
    colors: dict[str, str],
) -> None:
    used: dict[tuple[int, str, int], float] = {}  # of a box, how much of its side is taken
    for step in flows.steps:
        for node in step.nodes:
            start = (step.step, node.event)
            ends = [(edge, (edge.step, edge.event)) for edge in node.edges if edge.count]
            drawn = [(edge, end) for edge, end in ends if start in boxes and end in boxes]
            # From top to bottom, so that bands cross as little as can be.
            for edge, end in sorted(drawn, key=lambda item: -boxes[item[1]][0]):
                left, right = sorted([start, end])
                height = edge.count / whole
                tops = []
                for place, side in ((left, 1), (right, -1)):
                    taken = used.get((*place, side), 0.0)
                    used[*place, side] = taken + height
                    tops.append(boxes[place][0] - taken)
                color = colors.get(edge.event, FAINT)
                _band(ax, left[0] + BOX, right[0], tops[0], tops[1], height, color)


def _band(
    ax: Axes, left: float, right: float, top: float, other_top: float, height: float, color: str
) -> None:
    from matplotlib.patches import PathPatch
    from matplotlib.path import Path

    middle = (left + right) / 2
    corners = [
        (left, top), (middle, top), (middle, other_top), (right, other_top),
        (right, other_top - height), (middle, other_top - height), (middle, top - height),
        (left, top - height), (left, top),
    ]  # fmt: skip
    codes = [
        Path.MOVETO, *[Path.CURVE4] * 3, Path.LINETO, *[Path.CURVE4] * 3, Path.CLOSEPOLY,
    ]  # fmt: skip
    ax.add_patch(PathPatch(Path(corners, codes), facecolor=color, alpha=0.3, linewidth=0))
