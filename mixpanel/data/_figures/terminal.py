"""Draw results as text for a terminal: no more columns than it has, and readable without colour."""

from __future__ import annotations

import unicodedata
from itertools import zip_longest
from statistics import fmean
from typing import TYPE_CHECKING

from mixpanel.data._figures.figure import Bars, Flows, Funnel, Lines, ShareTable
from mixpanel.data._figures.numbers import SEPARATOR, duration, percentage, short_number
from mixpanel.data.exceptions import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from mixpanel.data._figures.figure import Figure, ShareRow
    from mixpanel.data._result_items import FlowStep, FunnelStep

__all__ = ["chart"]

NARROWEST = 40
HEIGHT, BAND = 10, 3  # lines of one series, and of each of several
MOST_SERIES, MOST_ROWS, MOST_NODES = 12, 40, 12
MOST_BARS = 20
NARROWEST_STEP, WIDEST_STEP = 18, 30
SHORTEST_BAR = 8
LONGEST_NAME = 28
LONGEST_AVERAGE = 5  # characters of most averages of shorter numbers

EIGHTHS = " ▁▂▃▄▅▆▇█"
PARTS = " ▏▎▍▌▋▊▉█"
SHADES = " ░▒▓█"
# Colours of the 256 that differ clearly on dark and on light backgrounds.
PALETTE = (33, 208, 35, 162, 99, 178, 44, 160)
HEAT = (254, 195, 159, 117, 75, 69, 27, 19)
VARIATIONS = "\ufe0e\ufe0f"  # choose between text and emoji


def chart(figure: Figure, width: int, *, color: bool) -> str:
    """Return a chart, none of whose lines is wider than `width` columns.

    :raises ConfigError: for a width below 40.
    """
    if isinstance(width, bool) or not isinstance(width, int) or width < NARROWEST:
        raise ConfigError(f"width={width!r} must be a whole number of at least {NARROWEST} columns")
    pen = _Pen(width, color=color)
    match figure.content:
        case Funnel() as funnel:
            lines = _funnel(funnel, pen)
        case ShareTable() as table:
            lines = _share_table(table, pen)
        case Flows() as flows:
            lines = _flows(flows, pen)
        case Bars(values):
            lines = _bars(values, pen)
        case Lines(series):
            lines = _lines(series, pen)
    head = [pen.bold(fitted(figure.title, width)), *_wrapped(figure.notes, width), ""]
    return "\n".join(line.rstrip() for line in [*head, *lines])


class _Pen:
    """Writes with colour, or without."""

    def __init__(self, width: int, *, color: bool) -> None:
        self.width, self.color = width, color

    def paint(self, text: str, number: int) -> str:
        """Colour a text with one of the palette's colours."""
        if not self.color or not text.strip():
            return text
        return f"\x1b[38;5;{PALETTE[number % len(PALETTE)]}m{text}\x1b[0m"

    def heat(self, text: str, rate: float) -> str:
        """Lay a text on a background that is darker the higher the rate is."""
        if not self.color:
            return text
        step = min(len(HEAT) - 1, max(0, int(rate * len(HEAT))))
        ink = 16 if step < len(HEAT) - 3 else 231
        return f"\x1b[38;5;{ink}m\x1b[48;5;{HEAT[step]}m{text}\x1b[0m"

    def bold(self, text: str) -> str:
        return f"\x1b[1m{text}\x1b[0m" if self.color else text


def _wrapped(parts: Iterable[str], width: int) -> list[str]:
    """Return the parts joined, as many on each line as fit."""
    lines: list[str] = []
    for part in parts:
        if lines and columns_of(lines[-1] + SEPARATOR + part) <= width:
            lines[-1] += SEPARATOR + part
        else:
            lines.append(fitted(part, width))
    return lines or [""]


# ---- text in columns ----------------------------------------------------------------------------


def columns_of(text: str) -> int:
    """Return how many columns of a terminal a text takes."""
    return sum(map(_columns, text))


def _columns(letter: str) -> int:
    if unicodedata.category(letter) in ("Mn", "Me"):
        return 0
    return 2 if unicodedata.east_asian_width(letter) in "WF" else 1


def _visible(text: str) -> str:
    """Return a text without what a terminal would obey: escaped, or left out if invisible."""
    return "".join(map(_shown_letter, text))


def _shown_letter(letter: str) -> str:
    category = unicodedata.category(letter)
    if category in ("Cc", "Cs", "Zl", "Zp"):
        return repr(letter)[1:-1]
    return "" if category == "Cf" or letter in VARIATIONS else letter


def fitted(text: str, width: int) -> str:
    """Return a text that takes at most so many columns, cut with an ellipsis."""
    clean = _visible(text)
    if columns_of(clean) <= width:
        return clean
    kept, room = "", width - 1
    for letter in clean:
        room -= _columns(letter)
        if room < 0:
            break
        kept += letter
    return kept + "…"


def left(text: str, width: int) -> str:
    """Return a text of exactly so many columns, its end cut or padded."""
    text = fitted(text, width)
    return text + " " * (width - columns_of(text))


def right(text: str, width: int) -> str:
    """Return a text of exactly so many columns, padded before it."""
    text = fitted(text, width)
    return " " * (width - columns_of(text)) + text


def _name_width(names: Iterable[str], width: int) -> int:
    longest = max((columns_of(name) for name in names), default=0)
    return min(longest, LONGEST_NAME, width // 3)


def _bar(rate: float, width: int) -> str:
    """Return a bar of exactly `width` columns, filled by a share; what is not 0 can be seen."""
    eighths = round(max(0.0, min(1.0, rate)) * width * 8)
    if rate > 0:
        eighths = max(1, eighths)
    whole, part = divmod(eighths, 8)
    bar = "█" * whole + (PARTS[part] if part else "")
    return bar.ljust(width)


# ---- series -------------------------------------------------------------------------------------


def _lines(series: Mapping[str, Mapping[str, float]], pen: _Pen) -> list[str]:
    if not series or not any(series.values()):
        return ["no data"]
    dates = list(dict.fromkeys(date for values in series.values() for date in values))
    if len(dates) == 1:
        return _bars({name: sum(values.values()) for name, values in series.items()}, pen)
    names = list(series)[:MOST_SERIES]
    given = {name: [series[name].get(date, 0) for date in sorted(dates)] for name in names}
    longest = max(len(short_number(value)) for values in given.values() for value in values)
    gutter = max(longest, LONGEST_AVERAGE if len(dates) > pen.width // 2 else 1) + 1
    wide, merged = _layout(len(dates), pen.width - gutter - 1)
    chosen = {name: _merged(values, merged) for name, values in given.items()}
    high = max(max(values) for values in chosen.values())
    low = min(0, *(min(values) for values in chosen.values()))
    single = len(chosen) == 1
    lines: list[str] = []
    for number, (name, values) in enumerate(chosen.items()):
        if not single:
            facts = f"max {short_number(max(given[name]))}  last {short_number(given[name][-1])}"
            named = fitted(name, pen.width - columns_of(facts) - 3)
            gap = " " * (pen.width - columns_of(named) - columns_of(facts))
            lines.append(pen.paint(named, number) + gap + facts)
        lines += _columns_chart(
            values,
            low,
            high,
            wide,
            gutter,
            HEIGHT if single else BAND,
            pen,
            number,
        )
    lines.append(_axis(sorted(dates)[::merged], wide, gutter, pen.width))
    if merged > 1:
        lines.append(f"each column is the average of {merged} values")
    return lines + _left_out(len(series), len(names), "series")


def _layout(count: int, room: int) -> tuple[int, int]:
    """Return how wide a bar is, and how many values it stands for."""
    if count <= room:
        return min(8, room // count), 1
    return 1, -(-count // room)


def _merged(values: Sequence[float], size: int) -> list[float]:
    return [fmean(values[n : n + size]) for n in range(0, len(values), size)]


def _columns_chart(
    values: Sequence[float],
    low: float,
    high: float,
    wide: int,
    gutter: int,
    height: int,
    pen: _Pen,
    number: int,
) -> list[str]:
    span = high - low or 1
    levels = [round((value - low) / span * height * 8) for value in values]
    levels = [
        max(level, 1) if value > low else level for level, value in zip(levels, values, strict=True)
    ]
    ink = wide - 1 if wide > 2 else wide
    lines = []
    for row in range(height - 1, -1, -1):
        cells = "".join(
            EIGHTHS[max(0, min(8, level - row * 8))] * ink + " " * (wide - ink) for level in levels
        )
        mark = short_number(high) if row == height - 1 else short_number(low) if row == 0 else ""
        edge = "┤" if mark else "│"
        lines.append(right(mark, gutter - 1) + edge + pen.paint(cells, number))
    return lines


def _axis(dates: Sequence[str], wide: int, gutter: int, width: int) -> str:
    """Return a line of dates, each below the first column of its bar, as many as have room."""
    times = [_short_date(date, dates) for date in dates]
    line, free = " " * gutter, gutter
    for number, text in enumerate(times):
        place = gutter + number * wide
        if place >= free and place + len(text) <= width:
            line = line.ljust(place) + text
            free = place + len(text) + 2
    return line


def _short_date(date: str, dates: Sequence[str]) -> str:
    day, clock = date[:10], date[11:16]
    if clock and len({each[:10] for each in dates}) == 1:
        return clock
    same_year = len({each[:4] for each in dates}) == 1
    return (day[5:] if same_year else day) + (f" {clock}" if clock and clock != "00:00" else "")


def _left_out(count: int, kept: int, things: str) -> list[str]:
    more = count - kept
    one = "series" if things == "series" else things.removesuffix("s")
    return [f"… {more:,} more {one if more == 1 else things}"] if more > 0 else []


def _bars(totals: Mapping[str, float], pen: _Pen) -> list[str]:
    """Return a bar for each name."""
    if not totals:
        return ["no data"]
    kept = dict(list(totals.items())[:MOST_BARS])
    name_width = _name_width(kept, pen.width)
    figures = {name: short_number(value) for name, value in kept.items()}
    most = max(map(len, figures.values()))
    room = pen.width - name_width - most - 4
    high = max(kept.values()) or 1
    bars = {name: pen.paint(_bar(value / high, room), 0) for name, value in kept.items()}
    lines = [
        f"{left(name, name_width)}  {bar}  {right(figures[name], most)}"
        for name, bar in bars.items()
    ]
    return lines + _left_out(len(totals), len(kept), "bars")


# ---- funnels ------------------------------------------------------------------------------------


def _funnel(funnel: Funnel, pen: _Pen) -> list[str]:
    segments = dict(list(funnel.segments.items())[:MOST_SERIES])
    groups = [funnel.steps, *segments.values()]
    # All bars have the same scale, so that segments can be compared.
    facts = [_facts(step, number) for steps in groups for number, step in enumerate(steps)]
    widths = [max(map(columns_of, column)) for column in zip(*facts, strict=True)]
    name_width = _name_width((_step_name(*step) for step in enumerate(funnel.steps)), pen.width)
    while (room := pen.width - name_width - sum(widths) - 2 * len(widths) - 2) < SHORTEST_BAR:
        widths.pop()  # the time goes first
    lines: list[str] = []
    for color, (heading, steps) in enumerate(zip(["", *segments], groups, strict=True)):
        lines += ["", pen.bold(fitted(heading, pen.width))] if color else []
        for number, step in enumerate(steps):
            name = left(_step_name(number, step), name_width)
            bar = pen.paint(_bar(step.overall_conversion_rate, room), color)
            known = zip(_facts(step, number), widths, strict=False)
            lines.append("  ".join([name, bar, *(right(fact, width) for fact, width in known)]))
    return lines + _left_out(len(funnel.segments), MOST_SERIES, "segments")


def _step_name(number: int, step: FunnelStep) -> str:
    return f"{number + 1} {step.label or step.event}"


def _facts(step: FunnelStep, number: int) -> tuple[str, ...]:
    """Return the figures beside a step's bar."""
    return (
        short_number(step.count),
        percentage(step.overall_conversion_rate),
        *_from_before(number, step),
    )


def _from_before(number: int, step: FunnelStep) -> tuple[str, str]:
    if not number:
        return "", ""
    return f"↳ {percentage(step.conversion_rate)}", duration(step.avg_time)


# ---- tables of shares ---------------------------------------------------------------------------


def _share_table(table: ShareTable, pen: _Pen) -> list[str]:
    lines = _share_rows(table, table.all_rows, pen)
    for name, rows in list(table.segments.items())[:MOST_SERIES]:
        lines += ["", pen.bold(fitted(name, pen.width)), *_share_rows(table, rows, pen)]
    return lines + _left_out(len(table.segments), MOST_SERIES, "segments")


def _share_rows(table: ShareTable, rows: Sequence[ShareRow], pen: _Pen) -> list[str]:
    """Return a table of shares, darker where they are higher."""
    kept = rows if len(rows) <= MOST_ROWS else [*rows[: MOST_ROWS - 1], rows[-1]]
    sizes = [short_number(row.size) for row in kept]
    size_width = max(map(len, ["users", *sizes]))
    label_width = max([len(table.heading), *(columns_of(row.label) for row in kept)])
    cell = 6
    most = max((len(row.shares) for row in kept), default=0)
    fits = min(most, (pen.width - label_width - size_width - 3) // cell)
    first = table.first_column
    numbers = "".join(right(str(n), cell) for n in range(first, first + fits))
    lines = [f"{left(table.heading, label_width)}  {right('users', size_width)} {numbers}"]
    for row, size in zip(kept, sizes, strict=True):
        cells = "".join(
            pen.heat(_cell(rate, cell, color=pen.color), rate) for rate in row.shares[:fits]
        )
        lines.append(f"{left(row.label, label_width)}  {right(size, size_width)} {cells}")
    lines += _left_out(len(rows), len(kept), "rows")
    return lines + _left_out(most, fits, "columns")


def _cell(rate: float, width: int, *, color: bool) -> str:
    text = f"{100 * rate:.0f}%"
    if color:
        return right(text, width - 1) + " "
    shade = SHADES[min(4, int(rate * 4) + (rate > 0))] if rate > 0 else " "
    return right(text, width - 1) + shade


# ---- flows --------------------------------------------------------------------------------------


def _flows(flows: Flows, pen: _Pen) -> list[str]:
    if not flows.steps:
        return ["no data"]
    anchors = sum(n.count for step in flows.steps if not step.step for n in step.nodes) or 1
    nodes = [node for step in flows.steps for node in step.nodes]
    colors = {event: number for number, event in enumerate(dict.fromkeys(n.event for n in nodes))}
    labels = (columns_of(f"{node.event} {short_number(node.count)}") for node in nodes)
    needed = min(max(labels, default=NARROWEST_STEP), WIDEST_STEP)
    per_row = max(1, min(len(flows.steps), (pen.width + 2) // (max(needed, NARROWEST_STEP) + 2)))
    per_row = -(-len(flows.steps) // -(-len(flows.steps) // per_row))  # as many in each row
    wide = (pen.width + 2) // per_row - 2
    lines: list[str] = []
    for start in range(0, len(flows.steps), per_row):
        steps = flows.steps[start : start + per_row]
        columns = [_flow_column(step, wide, anchors, colors, pen) for step in steps]
        rows = zip_longest(*columns, fillvalue=" " * wide)
        lines += ["  ".join(cells) for cells in rows]
        lines.append("")
    if flows.paths:
        lines.append("most frequent paths")
        most = max(len(short_number(path.count)) for path in flows.paths)
        for path in flows.paths:
            text = fitted(" → ".join(path.events), pen.width - most - 2)
            lines.append(f"{right(short_number(path.count), most)}  {text}")
    return lines


def _flow_column(
    step: FlowStep, wide: int, anchors: int, colors: dict[str, int], pen: _Pen
) -> list[str]:
    lines = [left("anchor" if not step.step else f"{step.step:+d}", wide)]
    for node in step.nodes[:MOST_NODES]:
        count = short_number(node.count)
        lines.append(f"{left(node.event, wide - len(count) - 1)} {count}")
        lines.append(pen.paint(_bar(node.count / anchors, wide), colors[node.event]))
    more = _left_out(len(step.nodes), MOST_NODES, "events")
    return [*lines, *(left(line, wide) for line in more)]
