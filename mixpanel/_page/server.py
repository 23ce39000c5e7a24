"""Serve the live page from a program, with nothing but the standard library."""

from __future__ import annotations

import re
import threading
import time
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, urlsplit

from mixpanel._page.routes import Incoming, Routes
from mixpanel._page.stream import INTERVAL
from mixpanel.settings import is_loopback

if TYPE_CHECKING:
    from mixpanel._page.feed import Feed
    from mixpanel._page.routes import Source
    from mixpanel._page.stream import Stream

__all__ = ["PageServer"]

HOST = re.compile(r"(\[[0-9a-fA-F:.]+\]|[A-Za-z0-9._-]+)(?::\d{1,5})?", re.ASCII)
MAX_BODY = 65_536
READ_TIMEOUT = 10.0  # seconds


class PageServer:
    """A server on a loopback port, or on any free one if that is in use."""

    def __init__(self, feed: Feed, source: Source, port: int) -> None:
        try:
            self._server = _Server(("127.0.0.1", port), _Handler)
        except OSError:
            self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.routes = Routes(feed, source)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.1,), name="mixpanel-page", daemon=True
        )
        self._thread.start()

    def stop(self) -> None:
        """Stop serving, and end open streams."""
        self._server.is_stopping = True
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = True
    routes: Routes
    is_stopping = False

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignore connection errors: browsers close connections at any time."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_version = "mixpanel"
    sys_version = ""
    timeout = READ_TIMEOUT

    def do_GET(self) -> None:
        """Answer a request."""
        self.close_connection = True
        refusal = self._refusal()
        length = self.headers.get("content-length", "0")
        size = int(length) if length.isdecimal() and len(length) < 10 else MAX_BODY + 1
        if refusal is None and size > MAX_BODY:
            refusal = 413, f"the body must have at most {MAX_BODY:,} bytes"
        if refusal is not None:
            self._send(refusal[0], {"content-type": "text/plain"}, refusal[1].encode())
            return
        parts = urlsplit(self.path)
        reply = self._page_server.routes.handle(
            Incoming(
                self.command,
                parts.path.rstrip("/") or "/",
                dict(parse_qsl(parts.query, keep_blank_values=True)),
                {name.lower(): value for name, value in self.headers.items()},
                self.rfile.read(size),
                "",
            )
        )
        if reply.stream is None:
            self._send(reply.status, reply.headers, reply.body)
        else:
            self._stream(reply.headers, reply.stream)

    do_POST = do_DELETE = do_HEAD = do_GET  # noqa: N815 - as `http.server` calls them

    @property
    def _page_server(self) -> _Server:
        assert isinstance(self.server, _Server)
        return self.server

    def _refusal(self) -> tuple[int, str] | None:
        """Return the status and reason if a request comes from another site, else None.

        Checking `Host` protects against DNS rebinding, `Origin` and `Sec-Fetch-Site` against pages
        of other sites.
        """
        hosts = self.headers.get_all("host") or []
        found = HOST.fullmatch(hosts[0]) if len(hosts) == 1 else None
        if found is None or not is_loopback(found[1].strip("[]")):
            return 421, "the Host header must be a loopback name such as 127.0.0.1 or localhost"
        origins = self.headers.get_all("origin") or []
        if origins and origins != [f"http://{hosts[0]}"]:
            return 403, "pages of other sites may not read this"
        site = self.headers.get("sec-fetch-site", "none")
        path = urlsplit(self.path).path
        if site not in ("same-origin", "none") and not (self.command == "GET" and path == "/"):
            return 403, "pages of other sites may not read this"
        return None

    def _send(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self._begin(status, {**headers, "content-length": str(len(body))})
        if self.command != "HEAD":
            self.wfile.write(body)

    def _begin(self, status: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {**headers, "connection": "close"}.items():
            self.send_header(name, value)
        self.end_headers()

    def _stream(self, headers: dict[str, str], stream: Stream) -> None:
        self._begin(200, headers)
        with suppress(OSError):
            while not self._page_server.is_stopping and self.command != "HEAD":
                if data := stream.poll():
                    self.wfile.write(data)
                    self.wfile.flush()
                time.sleep(INTERVAL)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - as in the base class
        """Log nothing: standard error is the program's."""
