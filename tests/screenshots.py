"""Make pictures of what users see, to look at: `python -m tests.screenshots`.

Every kind of `.plot()`, charts in terminals of 80 and 120 columns with and without colour, and the
stored notebooks, as PNG files in `build/screenshots` or the folder of `--into`. Names choose some
pictures by their beginning, as in `python -m tests.screenshots plot-funnel`. The reports are
those of all flights from New York in 2013, and of the odd results that the tests of charts use.
"""

import argparse
import base64
import io
import json
import re
import textwrap
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import matplotlib as mpl

mpl.use("Agg")

from matplotlib import pyplot as plt
from PIL import Image, ImageDraw, ImageFont

from mixpanel.data import (
    Breakdown,
    Credentials,
    Formula,
    Metric,
    Step,
    Workspace,
    prop,
    user_prop,
)
from mixpanel.data._figures.terminal import columns_of
from mixpanel.emulator import Emulator
from tests.data.test_result_charts import EMPTY, RESULTS
from tests.notebooks import notebooks

FOLDER = Path(__file__).parents[1] / "build" / "screenshots"
ROBOT = Credentials(username="robot", secret="s3cret", project_id="42")
YEAR = {"from_date": "2013-01-01", "to_date": "2013-12-31"}
JULY = {"from_date": "2013-07-01", "to_date": "2013-07-31"}
WIDTHS = (80, 120)  # columns
FONTS = Path(mpl.get_data_path()) / "fonts" / "ttf"
SIZE = 16  # points
INK, PAPER = "#222222", "#ffffff"


def reports() -> Iterator[tuple[str, object]]:
    """Yield a result of each kind, and its name."""
    with Emulator() as emu, Workspace.memory(credentials=ROBOT, base_url=emu.url) as ws:
        emu.load("flights")
        ws.fetch_events(**JULY, progress=False)
        yield from live(emu, ws)
        yield from local(ws)
    yield from (("odd-" + name.replace(" ", "-"), result) for name, result in RESULTS.items())
    yield from (("empty-" + name, result) for name, result in EMPTY.items())


def live(emu, ws):
    """Yield what the Query API answers over the whole year."""
    departed, arrived, cancelled = "Flight Departed", "Flight Arrived", "Flight Cancelled"
    late = prop("delay_minutes") > 60
    yield "days", ws.segmentation(departed, **YEAR)
    yield "months-by-airport", ws.segmentation(departed, **YEAR, unit="month", on="origin")
    yield (
        "weeks-by-airline",
        ws.segmentation(arrived, **YEAR, unit="week", on="airline", where=late),
    )
    yield (
        "hours",
        ws.segmentation(
            departed, from_date="2013-02-08", to_date="2013-02-10", unit="hour", on="origin"
        ),
    )
    one_day = {"from_date": "2013-02-09", "to_date": "2013-02-09"}
    yield "hours-of-a-day", ws.segmentation(cancelled, **one_day, unit="hour")
    yield "one-date", ws.segmentation(cancelled, **one_day, on="carrier")
    yield "ranges", ws.segmentation_numeric(departed, **JULY, on="miles")
    yield "sum", ws.segmentation_sum(arrived, **YEAR, on="minutes_in_the_air")
    yield "average", ws.segmentation_average(departed, **JULY, on="delay_minutes")
    yield "events", ws.event_counts([departed, cancelled], **YEAR, unit="week")
    yield "property", ws.property_counts(cancelled, "carrier", **YEAR, unit="month")
    steps = [departed, Step(arrived, prop("delay_minutes") <= 15, label="Arrived on time")]
    within = {"window": 6, "window_unit": "hour"}
    funnel = emu.add_funnel("On time", steps, **within)
    yield "funnel", ws.funnel(funnel, **YEAR)
    yield "funnel-by-airport", ws.funnel(funnel, **JULY, on="origin")
    yield (
        "funnel-of-five",
        ws.query_funnel(
            [departed, arrived, Step(departed, prop("origin") == "JFK"), arrived, cancelled], **YEAR
        ),
    )
    yield "retention", ws.retention(departed, departed, **YEAR, unit="week", interval_count=12)
    yield "retention-by-day", ws.retention(cancelled, departed, **JULY, interval_count=14)
    yield "retention-by-airport", ws.retention(departed, arrived, **YEAR, unit="month", on="origin")
    yield "frequency", ws.frequency(event=departed, **YEAR, unit="month", addiction_unit="day")
    yield "frequency-by-hour", ws.frequency(event=departed, **JULY, unit="week")
    yield "flows", ws.query_flow(cancelled, forward=3, reverse=2, **YEAR)
    yield "flows-forward", ws.query_flow(departed, forward=4, **JULY)
    yield (
        "insights",
        ws.query([Metric(arrived), Metric(cancelled)], by="origin", unit="month", **YEAR),
    )
    yield "formula", ws.query(
        [Metric(cancelled), Metric(departed)],
        formula=Formula("(A / (A + B)) * 100", label="Cancelled in percent"), unit="week", **YEAR,
    )  # fmt: skip
    yield "insights-of-ranges", ws.query(
        Metric(departed), by=Breakdown("miles", type="number", bucket_size=500), unit="month",
        **YEAR,
    )  # fmt: skip
    yield "by-seats", ws.segmentation(departed, **YEAR, unit="month", on=user_prop("seats"))


def local(ws):
    """Yield the reports that exist for tables only."""
    for name in ("Flight Cancelled", "Flight Departed"):
        found = ws.local.property_distribution(name, "destination", **JULY, limit=25)
        yield f"values-{name.split()[1].lower()}", found
    yield (
        "values-of-long-names",
        ws.local.property_distribution("Flight Cancelled", "airline", **JULY),
    )
    yield "daily", ws.local.daily_counts(**JULY)
    yield "engagement", ws.local.engagement_distribution(**JULY)
    yield (
        "coverage",
        ws.local.property_coverage("Flight Arrived", ["carrier", "delay_minutes", "gate"], **JULY),
    )
    yield "flows-of-a-month", ws.local.flows("Flight Cancelled", **JULY, reverse=1)


# ---- terminals ----------------------------------------------------------------------------------

COLOUR = re.compile(r"\x1b\[([0-9;]*)m")
BASIC = (0, 95, 135, 175, 215, 255)


def rgb(number: int) -> tuple[int, int, int]:
    """Return one of a terminal's 256 colours above the first 16."""
    if number >= 232:
        return (8 + 10 * (number - 232),) * 3
    return tuple(BASIC[(number - 16) // size % 6] for size in (36, 6, 1))


def terminal(text: str, columns: int, *, dark: bool = True) -> Image.Image:
    """Draw text as a terminal of so many columns would; what is wider is cut off."""
    regular = ImageFont.truetype(FONTS / "DejaVuSansMono.ttf", SIZE)
    bold = ImageFont.truetype(FONTS / "DejaVuSansMono-Bold.ttf", SIZE)
    wide, high = round(regular.getlength("0")), SIZE + 5
    plain, paper = ("#d8d8d8", "#16181d") if dark else (INK, PAPER)
    lines = text.split("\n")
    size = (columns * wide + 20, len(lines) * high + 20)
    picture = Image.new("RGB", size, paper)
    draw = ImageDraw.Draw(picture)
    for row, line in enumerate(lines):
        column, ink, ground, font = 0, plain, None, regular
        for number, part in enumerate(COLOUR.split(line)):
            if number % 2:
                codes = [int(code or 0) for code in part.split(";")]
                match codes:
                    case [38, 5, code]:
                        ink = rgb(code)
                    case [48, 5, code]:
                        ground = rgb(code)
                    case [1]:
                        font = bold
                    case _:
                        ink, ground, font = plain, None, regular
                continue
            for letter in part:
                x, y = 10 + column * wide, 10 + row * high
                if ground:
                    draw.rectangle((x, y, x + wide - 1, y + high - 1), fill=ground)
                cell(draw, letter, x, y, wide, high, ink, font)
                column += columns_of(letter)
    return picture


def cell(draw, letter, x, y, wide, high, ink, font):
    """Draw one letter; blocks as terminals do, without gaps between lines."""
    eighths, parts = "▁▂▃▄▅▆▇█", "▏▎▍▌▋▊▉"
    if letter in eighths:
        top = y + high - high * (eighths.index(letter) + 1) / 8
        draw.rectangle((x, top, x + wide - 1, y + high - 1), fill=ink)
    elif letter in parts:
        right = x + wide * (parts.index(letter) + 1) / 8
        draw.rectangle((x, y + 1, max(x, right - 1), y + high - 2), fill=ink)
    else:
        draw.text((x, y), letter, fill=ink, font=font)


# ---- notebooks ----------------------------------------------------------------------------------

PAGE = 100  # characters


def notebook(path: Path) -> Image.Image:
    """Draw a stored notebook from top to bottom, with its pictures."""
    pieces: list[Image.Image] = []
    for part in json.loads(path.read_text())["cells"]:
        source = "".join(part["source"])
        if part["cell_type"] == "markdown":
            pieces.append(page(source, "#ffffff"))
            continue
        pieces.append(page(source, "#eef1f5"))
        for output in part["outputs"]:
            found = output.get("data", {})
            if "image/png" in found:
                png = base64.b64decode("".join(found["image/png"]))
                pieces.append(Image.open(io.BytesIO(png)).convert("RGB"))
            else:
                text = "".join(found.get("text/plain") or output.get("text", ""))
                pieces.append(page(text, "#ffffff", wrap=False))
    width = max(piece.width for piece in pieces)
    whole = Image.new("RGB", (width, sum(piece.height + 6 for piece in pieces)), PAPER)
    top = 0
    for piece in pieces:
        whole.paste(piece, (0, top))
        top += piece.height + 6
    return whole


def page(text: str, color: str, *, wrap: bool = True) -> Image.Image:
    """Draw text of any width on a ground of a colour."""
    lines = text.rstrip("\n").split("\n")
    if wrap:
        lines = [part for line in lines for part in textwrap.wrap(line, PAGE) or [""]]
    font = ImageFont.truetype(FONTS / "DejaVuSansMono.ttf", 14)
    wide = max(round(font.getlength(line)) for line in lines)
    picture = Image.new("RGB", (max(wide + 20, 860), 19 * len(lines) + 12), color)
    draw = ImageDraw.Draw(picture)
    for number, line in enumerate(lines):
        draw.text((10, 6 + 19 * number), line, fill=INK, font=font)
    return picture


# ---- all of them --------------------------------------------------------------------------------


def pictures(chosen: SimpleNamespace) -> Iterator[tuple[str, object]]:
    """Yield the name of each picture, and a function that saves it to a path."""
    for path in notebooks():
        yield f"notebook-{path.stem}", lambda to, path=path: notebook(path).save(to)
    if chosen.names and all(name.startswith("notebook") for name in chosen.names):
        return
    for name, result in reports():
        yield f"plot-{name}", lambda to, result=result: plotted(result, to)
        for columns in WIDTHS:
            for color in (False, True):
                text = result.chart(columns, color=color)
                kind = f"chart-{name}-{columns}{'-colour' if color else ''}"
                yield kind, lambda to, t=text, c=columns: terminal(t, c).save(to)


def plotted(result, to: Path) -> None:
    ax = result.plot()
    ax.figure.savefig(to, dpi=100)
    plt.close(ax.figure)


def main() -> None:
    parser = argparse.ArgumentParser("python -m tests.screenshots", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME")
    parser.add_argument("--into", type=Path, metavar="FOLDER", default=FOLDER)
    chosen = parser.parse_args()
    chosen.into.mkdir(parents=True, exist_ok=True)
    count = 0
    warnings.filterwarnings("ignore", message="Glyph")  # no font here has all letters
    for name, save in pictures(chosen):
        if not chosen.names or name.startswith(tuple(chosen.names)):
            save(chosen.into / f"{name}.png")
            count += 1
    print(f"{count} pictures in {chosen.into}")


if __name__ == "__main__":
    main()
