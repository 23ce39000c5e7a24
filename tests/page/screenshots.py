"""Make pictures of the page, to look at: `python -m tests.page.screenshots`.

At three widths, in light and dark, as PNG files in `build/screenshots/page` or the folder of
`--into`.
"""

import argparse
from pathlib import Path

from mixpanel.emulator import Emulator, Limits
from tests.page.browsers import running_browser
from tests.page.samples import send_a_bit_of_everything

FOLDER = Path(__file__).parents[2] / "build" / "screenshots" / "page"
SIZES = ((390, 844), (1280, 800), (1920, 1080))
OLD = "older than five days"
PANELS = ("problems", "flags", "faults")


def main() -> None:
    """Start an emulator, fill it, and visit all panels."""
    parser = argparse.ArgumentParser("python -m tests.page.screenshots", description=__doc__)
    parser.add_argument("--into", type=Path, metavar="FOLDER", default=FOLDER)
    folder = parser.parse_args().into
    folder.mkdir(parents=True, exist_ok=True)
    with Emulator(query_limits=Limits.query()) as emu, running_browser() as browser:
        for width, height in SIZES:
            for scheme in ("light", "dark"):
                context = browser.new_context(
                    viewport={"width": width, "height": height}, color_scheme=scheme
                )
                page = context.new_page()
                page.goto(emu.url)
                page.get_by_text("Nothing has arrived yet").wait_for()
                name = f"{width}-{scheme}"
                page.screenshot(path=folder / f"{name}-empty.png")
                send_a_bit_of_everything(emu)
                page.locator(".row:not([hidden])").nth(5).wait_for()
                page.wait_for_timeout(2000)
                page.screenshot(path=folder / f"{name}-list.png")
                for panel in PANELS:
                    page.goto(f"{emu.url}/?panel={panel}")
                    page.locator("#side").wait_for()
                    if panel == "flags":
                        page.get_by_text("Evaluate for …").click()
                        page.get_by_role("button", name="Evaluate").click()
                        page.locator("#side pre.code").first.wait_for()
                    page.wait_for_timeout(300)
                    page.screenshot(path=folder / f"{name}-{panel}.png")
                page.goto(f"{emu.url}/?q=user:u-17")
                rows = page.locator(".row:not([hidden])")
                for row, what in ((rows.first, "entry"), (rows.filter(has_text=OLD), "rejected")):
                    row.click()
                    page.locator(".tabs").wait_for()
                    page.wait_for_timeout(300)
                    page.screenshot(path=folder / f"{name}-{what}.png")
                    if width > 1100:
                        continue
                    page.locator("#close").click()
                page.locator(".row:not([hidden])").first.click()
                page.locator("#side").get_by_role("button", name="u-17").click()
                page.get_by_role("heading", name="Profile").wait_for()
                page.screenshot(path=folder / f"{name}-person.png")
                context.close()
                emu.clear()
    print(f"pictures are in {folder}")


if __name__ == "__main__":
    main()
