"""Log in at an emulator without a browser."""

import re
import threading
from html import unescape
from urllib.parse import urlsplit

import anyio
import httpx

from mixpanel._http.proxies import TransportOptions
from mixpanel.data._api.download import StreamingConnections
from mixpanel.data._oauth.login import LoginAttempt, unused_redirect_uri
from mixpanel.data._oauth.server import AuthorizationServer


def decide(url, decision="allow"):
    """Press a button of the page of consent, and return the address that it leads to."""
    with httpx.Client(trust_env=False) as browser:
        page = browser.get(url)
        assert page.status_code == 200, page.text
        inputs = re.findall(r'name="(\w+)" value="([^"]*)">', page.text)
        fields = {name: unescape(value) for name, value in inputs}
        origin = "{0.scheme}://{0.netloc}".format(urlsplit(url))
        form = {**fields, "decision": decision}
        done = browser.post(f"{origin}/oauth/authorize/", data=form)
        assert done.status_code == 302
        return done.headers["location"]


def follow(address):
    """Send a browser to an address, and return its response."""
    with httpx.Client(trust_env=False) as browser:
        return browser.get(address)


def server_of(url, **options):
    return AuthorizationServer(url, StreamingConnections(TransportOptions()), **options)


def log_in(url):
    """Return the tokens of a new login."""

    async def run():
        server = server_of(url)
        attempt = LoginAttempt(server, unused_redirect_uri())
        address = await anyio.to_thread.run_sync(decide, await attempt.begin())
        return await attempt.finish(attempt.code_in(address))

    return anyio.run(run)


class Browser:
    """What `webbrowser.get()` returns: it decides, and follows the redirect."""

    def __init__(self, decision="allow", before=lambda _address: None):
        self.opened = []
        self._decision = decision
        self._before = before
        self.threads = []

    def open(self, url):
        self.opened.append(url)
        thread = threading.Thread(target=self._visit, args=(url,))
        self.threads.append(thread)
        thread.start()
        return True

    def _visit(self, url):
        address = decide(url, self._decision)
        self._before(address)
        follow(address)
