"""A browser for the tests of the page: Debian's Chromium, driven by Playwright."""

import os
import shutil
from contextlib import contextmanager

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome-stable", "google-chrome")


def browser_path():
    """Return the path of a browser of this machine, None without one; `CHROMIUM` names it."""
    return os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)


@contextmanager
def running_browser():
    """Start a browser, or skip the tests with the reason why there is none."""
    api = pytest.importorskip("playwright.sync_api", reason="playwright: `tox run -e page`")
    path = browser_path()
    if path is None:
        pytest.skip("no Chromium on this machine: apt-get install chromium")
    with api.sync_playwright() as playwright:
        # Without a sandbox, which containers do not allow; it opens pages of this test only.
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        try:
            yield browser
        finally:
            browser.close()
