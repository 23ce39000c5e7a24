"""Open a page in the browser of this machine."""

import os


def open_in_browser(url: str) -> bool:
    """Open a link in the browser, and return False if there is none."""
    import webbrowser

    try:
        browser = webbrowser.get()
        # Without a display, Python finds those for the terminal. They would take it over, and most
        # cannot show pages such as a login.
        for_terminal = type(browser) is webbrowser.GenericBrowser and "BROWSER" not in os.environ
        return not for_terminal and browser.open(url)
    except (webbrowser.Error, OSError):
        return False
