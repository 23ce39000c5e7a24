"""The table of faults: what a server, or something between, may do to one request."""

import asyncio
import gzip
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from tests.faults.server import CDP, head, ok, ok_body, response

ANY_ENDPOINT = frozenset({"events", "imports", "people", "groups", *CDP})
MIXPANEL = ANY_ENDPOINT - CDP
NO_ENDPOINT: frozenset[str] = frozenset()
HTML_PAGE = b"<!DOCTYPE html><html><body>Sign in to this network</body></html>"
OWN_503 = b'{"code": 503, "error": "service unavailable, try again", "status": "error"}'
OWN_429 = b'{"code": 429, "error": "rate limit exceeded", "status": "Too Many Requests"}'


@dataclass(frozen=True)
class Kind:
    """One way to misbehave.

    `reads` is how much of the request is read before acting; `applied` whether its messages took
    effect first. `lies` names the endpoints where the response is a success by the vendor's own
    rules although nothing was applied: no client can know better. `only` are the endpoints that it
    makes sense for; `ends` closes the connection afterwards.
    """

    name: str
    act: Callable[[Any, Any], Awaitable[None]]
    reads: str = "whole"
    applied: bool = False
    lies: frozenset[str] = NO_ENDPOINT
    only: frozenset[str] = ANY_ENDPOINT
    ends: bool = True


KINDS: dict[str, Kind] = {}


def kind(name, act, **options):
    assert name not in KINDS, name
    KINDS[name] = Kind(name, act, **options)


def sends(data):
    """Act by sending some bytes, always the same or made for the request."""

    async def act(connection, request):
        await connection.send(data(request) if callable(data) else data)

    return act


def status(line, body=b"", **options):
    return sends(response(line, body, **options))


async def close(connection, request):
    connection.close()


async def reset(connection, request):
    connection.reset()


def then_reset(data):
    async def act(connection, request):
        await connection.send(data(request) if callable(data) else data)
        await asyncio.sleep(0.01)  # a reset overtakes what is still on its way
        connection.reset()

    return act


async def stall(connection, request):
    await connection.until_gone()


def then_stall(data):
    async def act(connection, request):
        await connection.send(data(request) if callable(data) else data)
        await connection.until_gone()

    return act


def drip(pieces):
    """Send some bytes, then one at a time for longer than `request_timeout`."""

    async def act(connection, request):
        data = ok(request)
        await connection.send(data[:pieces])
        for at in range(pieces, len(data)):
            await asyncio.sleep(connection.server.deadline / 8)
            await connection.send(data[at : at + 1])

    return act


async def respond_slowly(connection, request):
    await asyncio.sleep(connection.server.deadline / 3)
    await connection.send(ok(request))


async def respond_late(connection, request):
    await asyncio.sleep(connection.server.deadline * 1.5)
    await connection.send(ok(request))


def surplus(gap, extra=ok):
    """Respond properly, then once more; the next request on this connection is never applied."""

    async def act(connection, request):
        more = extra(request) if callable(extra) else extra
        if gap is None:
            await connection.send(ok(request) + more)
        else:
            await connection.send(ok(request))
            await asyncio.sleep(gap)
            # To a client that has sent its next request by now, this looks like its response.
            connection.misleads = await connection.send_late(more)
        connection.swallow = True

    return act


def partial_failure(line="400 Bad Request"):
    """Refuse every third record by name, and take the others."""

    async def act(connection, request):
        count = len(request.messages)
        bad = set(range(0, count, 3))
        good = [m for at, m in enumerate(request.messages) if at not in bad]
        connection.server.record.apply(request.endpoint, good)
        failed = [{"index": at, "field": "properties.time", "message": "bad"} for at in sorted(bad)]
        body = {"code": 400, "error": "some data points are not valid", "status": "Bad Request"}
        await connection.send(response(line, _json(body | {
            "num_records_imported": len(good), "failed_records": failed,
        })))  # fmt: skip

    return act


def names_failures(line):
    """List one rejected record in a response that says that none was accepted."""
    failed = [{"index": 0, "field": "properties", "message": "too large"}]
    return status(line, _json({"error": "nothing was imported", "failed_records": failed}))


async def flood_1xx(connection, request):
    while True:
        await connection.send(b"HTTP/1.1 102 Processing\r\n\r\n" * 50)
        await asyncio.sleep(0.01)


async def endless_chunks(connection, request):
    await connection.send(head("200 OK", headers=["Transfer-Encoding: chunked"], length=""))
    while True:
        await connection.send(b"4\r\n    \r\n")
        await asyncio.sleep(0.005)


async def huge_body(connection, request):
    size = 4 * 1024 * 1024
    await connection.send(head("200 OK", length=size))
    for _ in range(64):
        await connection.send(b" " * 65536)


async def close_after_response(connection, request):
    """Respond, keep the connection briefly, close it just when the next request may come."""
    await connection.send(ok(request))
    await asyncio.sleep(0.005)


def _json(data):
    return json.dumps(data).encode()


def chunked(*pieces, end=b"0\r\n\r\n"):
    body = b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces)
    return head("200 OK", headers=["Transfer-Encoding: chunked"], length="") + body + end


def gzipped(request):
    body = gzip.compress(ok_body(request))
    return response("200 OK", body, headers=["Content-Encoding: gzip"])


HALF_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: appl"
UNFINISHED = head("200 OK", length=400) + b'{"status": 1'

# ---- before the response ------------------------------------------------------------------------
kind("close on accept", close, reads="nothing")
kind("reset on accept", reset, reads="nothing")
kind("close at first byte", close, reads="byte")
kind("reset at first byte", reset, reads="byte")
kind("close after headers", close, reads="head")
kind("reset after headers", reset, reads="head")
kind("close mid-body", close, reads="half")
kind("reset mid-body", reset, reads="half")
kind("close after request", close)
kind("reset after request", reset)
kind("close after request, applied", close, applied=True)
kind("reset after request, applied", reset, applied=True)
kind("stall before reading", stall, reads="byte")
kind("stall after request", stall)
kind("stall after request, applied", stall, applied=True)
kind("response after the deadline", respond_late)
kind("response after the deadline, applied", respond_late, applied=True)

kind("late but in time", respond_slowly, applied=True, ends=False)

# ---- half a response ----------------------------------------------------------------------------
kind("cut in status line", sends(b"HTTP/1.1 20"), applied=True)
kind("cut in headers", sends(HALF_HEAD), applied=True)
kind("cut after headers", sends(head("200 OK", length=30)), applied=True)
kind("cut in body", sends(UNFINISHED), applied=True)
kind("cut in body, not applied", sends(UNFINISHED))
kind("reset in status line", then_reset(b"HTTP/1.1 20"))
kind("reset in headers", then_reset(HALF_HEAD), applied=True)
kind("reset in body", then_reset(UNFINISHED), applied=True)
kind("reset after response", then_reset(ok), applied=True)
kind("stall in status line", then_stall(b"HTT"))
kind("stall in headers", then_stall(HALF_HEAD), applied=True)
kind("stall in body", then_stall(UNFINISHED), applied=True)
kind("drip from the start", drip(0), applied=True)
kind("drip the body", drip(60), applied=True)
kind("chunks without end", endless_chunks, applied=True)
kind("chunks cut", sends(lambda r: chunked(ok_body(r), end=b"")), applied=True)
kind("chunks then stall", then_stall(lambda r: chunked(ok_body(r), end=b"")), applied=True)

# ---- more than one response ---------------------------------------------------------------------
kind("surplus in one segment", surplus(None), applied=True, ends=False)
kind("surplus at once", surplus(0.0), applied=True, ends=False)
kind("surplus later", surplus(0.03), applied=True, ends=False)
kind("surplus half response", surplus(None, HALF_HEAD), applied=True, ends=False)
kind("surplus garbage", surplus(None, b"\x00\xffgarbage\r\n\r\n"), applied=True, ends=False)
kind(
    "surplus of another shape", surplus(None, response("204 No Content")), applied=True, ends=False
)
kind("response before reading", sends(response("503 Busy", OWN_503)), reads="byte")

# ---- not HTTP, or barely ------------------------------------------------------------------------
kind("garbage status line", sends(b"\x16\x03\x01\x02\x00 what\r\n\r\n"), applied=True)
kind("another protocol", sends(b"SSH-2.0-OpenSSH_9.2\r\n"), applied=True)
kind("status 999", status("999 What"), applied=True)
kind("status 000", status("000 Nothing"), applied=True)
kind("status in words", status("OK OK"), applied=True)
kind("HTTP/9.9", sends(lambda r: ok(r, version="HTTP/9.9")), applied=True)
kind("garbage chunks", sends(lambda r: chunked(end=b"zz\r\nnonsense\r\n")), applied=True)
kind("chunk size overflow", sends(lambda r: chunked(end=b"f" * 40 + b"\r\n")), applied=True)
kind("header without colon", sends(b"HTTP/1.1 200 OK\r\nnonsense\r\n\r\n"), applied=True)
kind("huge headers", sends(response("200 OK", b"{}", headers=["X-Fill: " + "x" * 200_000])),
     applied=True)  # fmt: skip
kind("huge body", huge_body, applied=True)
kind("1xx without end", flood_1xx)
kind("1xx, then an response", sends(lambda r: b"HTTP/1.1 103 Early Hints\r\n\r\n" * 20 + ok(r)),
     applied=True, ends=False)  # fmt: skip
kind("100 Continue, then close", sends(b"HTTP/1.1 100 Continue\r\n\r\n"), applied=True)

# ---- lengths ------------------------------------------------------------------------------------
kind("content-length too short", sends(lambda r: head("200 OK", length=5) + ok_body(r)),
     applied=True)  # fmt: skip
kind("content-length too long", then_stall(lambda r: head("200 OK", length=999) + ok_body(r)),
     applied=True)  # fmt: skip
kind("content-length negative", sends(lambda r: head("200 OK", length=-3) + ok_body(r)),
     applied=True)  # fmt: skip
kind("content-length twice", sends(lambda r: ok(r, headers=["Content-Length: 3"])), applied=True)
kind("content-length junk", sends(lambda r: head("200 OK", length="many") + ok_body(r)),
     applied=True)  # fmt: skip

# ---- odd, but proper ----------------------------------------------------------------------------
kind("HTTP/1.0 without length", sends(lambda r: ok(r, version="HTTP/1.0", length="")), applied=True)
kind("connection: close", sends(lambda r: ok(r, headers=["Connection: close"])), applied=True)
kind("close behind the response", close_after_response, applied=True)
kind("chunked response", sends(lambda r: chunked(ok_body(r)[:4], ok_body(r)[4:])), applied=True,
     ends=False)  # fmt: skip
kind("gzip response, unasked", sends(gzipped), applied=True, ends=False)
kind("gzip label on plain text", sends(lambda r: ok(r, headers=["Content-Encoding: gzip"])),
     applied=True, ends=False)  # fmt: skip

# ---- a success that is none ---------------------------------------------------------------------
kind("200 captive portal", status("200 OK", HTML_PAGE))
kind("200 captive portal as text/html",
     sends(b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: %d\r\n\r\n"
           % len(HTML_PAGE) + HTML_PAGE), ends=False)  # fmt: skip
kind("200 empty", status("200 OK"), lies=CDP)
kind("200 null", status("200 OK", b"null"), lies=CDP)
kind("200 list", status("200 OK", b"[1]"), lies=CDP)
kind("200 odd object", status("200 OK", b'{"hello": {"status": 1}}'), lies=CDP)
kind("200 truncated JSON", status("200 OK", b'{"status": 1, "err'), lies=CDP)
kind("200 not UTF-8", status("200 OK", b'{"status": "\xff\xfe'), lies=CDP)
kind("200 status 0", status("200 OK", b'{"status": 0, "error": "no"}'), lies=CDP)
kind("200 none imported", status("200 OK", b'{"code": 200, "num_records_imported": 0, '
     b'"status": "OK"}'), only=frozenset({"imports"}))  # fmt: skip
kind("200 none imported, no code", status("200 OK", b'{"num_records_imported": 0, '
     b'"status": "OK"}'), only=frozenset({"imports"}))  # fmt: skip
kind("202 queued", status("202 Accepted", b'{"queued": true}'), lies=CDP)
kind("204 with body", status("204 No Content", b"surplus"), lies=CDP)
kind("206 part", status("206 Partial Content", b"[]"), lies=CDP)

# ---- refusals -----------------------------------------------------------------------------------
kind("301", status("301 Moved", headers=["Location: /elsewhere"]))
kind("302", status("302 Found", headers=["Location: /elsewhere"]), ends=False)
kind("307", status("307 Temporary Redirect", headers=["Location: /elsewhere"]))
kind("308 to nowhere", status("308 Permanent Redirect", headers=["Location: http://[::bad"]))
kind("400", status("400 Bad Request", b'{"status": 0, "error": "bad"}'), ends=False)
kind("400 of a gateway", status("400 Bad Request", HTML_PAGE))
kind("400 partial failure", partial_failure(), only=MIXPANEL, ends=False)
kind("200 partial failure", partial_failure("200 OK"), only=MIXPANEL, ends=False)
kind("401", status("401 Unauthorized", b'{"error": "who?"}'), ends=False)
kind("403 HTML", status("403 Forbidden", HTML_PAGE))
kind("404", status("404 Not Found"))
kind("407", status("407 Proxy Authentication Required"))
kind("408", status("408 Request Timeout"))
kind("408, applied", status("408 Request Timeout"), applied=True)
kind("413", status("413 Payload Too Large", b'{"error": "too large"}'), ends=False)
kind("413 mid-body", status("413 Payload Too Large"), reads="half")
kind("413 naming a record", names_failures("413 Payload Too Large"))
kind("422 naming a record", names_failures("422 Unprocessable"), only=MIXPANEL)
kind("425", status("425 Too Early"))
kind("429", status("429 Too Many Requests", OWN_429), ends=False)
kind("429 Retry-After 0", status("429 Slow", OWN_429, headers=["Retry-After: 0"]), ends=False)
kind("429 Retry-After junk", status("429 Slow", OWN_429, headers=["Retry-After: soon"]))
kind("429 Retry-After huge", status("429 Slow", OWN_429, headers=["Retry-After: 99999999999"]))
kind("429 Retry-After negative", status("429 Slow", OWN_429, headers=["Retry-After: -5"]))
kind("429 Retry-After NaN", status("429 Slow", OWN_429, headers=["Retry-After: nan"]))
FAR = ["Date: Sun, 29 Nov 2026 10:00:00 GMT", "Retry-After: Fri, 31 Dec 9999 23:59:59 GMT"]
kind("429 Retry-After date", status("429 Slow", OWN_429, headers=FAR))

# ---- a server or gateway in trouble -------------------------------------------------------------
kind("500", status("500 Internal Server Error", b'{"error": "oops"}'), ends=False)
kind("500, applied", status("500 Internal Server Error"), applied=True)
kind("500 naming a record", names_failures("500 Internal Server Error"))
kind("501", status("501 Not Implemented"))
kind("502 HTML", status("502 Bad Gateway", HTML_PAGE))
kind("502 HTML, applied", status("502 Bad Gateway", HTML_PAGE), applied=True)
kind("503 own", status("503 Service Unavailable", OWN_503), ends=False)
kind("503 HTML", status("503 Service Unavailable", HTML_PAGE))
kind("503 HTML, applied", status("503 Service Unavailable", HTML_PAGE), applied=True)
kind("503 empty, applied", status("503 Service Unavailable"), applied=True)
kind("504", status("504 Gateway Timeout", HTML_PAGE))
kind("504, applied", status("504 Gateway Timeout"), applied=True)
kind("520, applied", status("520 Web Server Returned an Unknown Error", HTML_PAGE), applied=True)
kind("599", status("599 Network"))
