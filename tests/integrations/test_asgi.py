"""ASGI applications, with real frameworks: Starlette and FastAPI."""

import asyncio
import contextlib
import threading
import warnings
from typing import Annotated

import anyio
import httpx
import pytest
import uvicorn
from fastapi import BackgroundTasks, FastAPI, Request
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse, StreamingResponse
from starlette.routing import Route, WebSocketRoute

from mixpanel import (
    AsyncBufferedConsumer,
    AsyncMixpanel,
    LocalFlagsConfig,
    Mixpanel,
    context,
    update_context,
)
from mixpanel.exceptions import ConfigurationError
from mixpanel.flags import Flag
from mixpanel.integrations import asgi
from mixpanel.integrations.asgi import MixpanelMiddleware, lifespan
from mixpanel.integrations.fastapi import Client, Flags, flag_value
from mixpanel.testing import MemoryConsumer, override_flags
from tests.flags.test_local import flag

with warnings.catch_warnings():  # newer versions prefer httpx2, which is no dependency here
    warnings.simplefilter("ignore")
    from starlette.testclient import TestClient

NEW_CHECKOUT = Flag("new-checkout", default=False)


@pytest.fixture
def mp():
    """Return an async client whose events are in memory."""
    return AsyncMixpanel("t", MemoryConsumer())


def users(mp):
    """Return the name and user of each event."""
    return [(e["event"], e["properties"]["distinct_id"]) for e in mp.consumer.events]


def user_of(scope):
    """Return the user that a request names in a header."""
    return dict(scope["headers"]).get(b"x-user", b"").decode() or None


def get(app, *paths, **headers):
    """Make requests one after the other, in one event loop, and return the last response."""

    async def main():
        transport = httpx.ASGITransport(app, raise_app_exceptions=False, client=("192.0.2.9", 1))
        async with httpx.AsyncClient(transport=transport, base_url="http://shop") as client:
            for path in paths:
                response = await client.get(path, headers=headers)
        return response

    return asyncio.run(main())


def application(mp, endpoint, **options):
    """Return an application with one route, in the middleware."""
    return MixpanelMiddleware(
        Starlette(routes=[Route("/{rest:path}", endpoint)]), mp, **{"identify": user_of, **options}
    )


def test_events_of_a_request_have_its_user_and_page(mp):
    """No query string, neither of the page nor of the referrer."""

    async def page(_):
        await mp.track(None, "Opened")
        return PlainTextResponse("ok")

    app = application(mp, page)
    headers = {"x-user": "u-1", "referer": "https://me:pw@search.example/a?q=secret", "cookie": "c"}
    get(app, "/reports/é?token=secret", **headers)
    [event] = mp.consumer.events
    found = event["properties"]
    assert found["distinct_id"] == "u-1"
    assert found["$current_url"] == "http://shop/reports/%C3%A9"
    assert found["$referrer"] == "https://search.example/a"
    assert found["$referring_domain"] == "search.example"
    assert "secret" not in str(event)
    assert "ip" not in found or found["ip"] == 0


@pytest.mark.parametrize(
    ("options", "forwarded", "expected"),
    [
        ({"client_ip": True}, "198.51.100.1", "192.0.2.9"),
        ({"client_ip": True, "trusted_proxies": 1}, "6.6.6.6, 198.51.100.1", "198.51.100.1"),
        ({"client_ip": True, "trusted_proxies": 2}, "198.51.100.1:80, 10.0.0.1", "198.51.100.1"),
        ({"client_ip": True, "trusted_proxies": 1}, "[2001:db8::1]:80", "2001:db8::1"),
        ({"client_ip": True, "trusted_proxies": 2}, "6.6.6.6", "192.0.2.9"),
        ({"client_ip": True, "trusted_proxies": 1}, "<script>", None),
        ({}, "198.51.100.1", None),
    ],
)
def test_forwarded_addresses_are_trusted_only_when_configured(mp, options, forwarded, expected):
    """The entry of the first trusted proxy counts, not what the client wrote itself."""

    async def page(_):
        await mp.track(None, "Opened")
        return PlainTextResponse("ok")

    get(application(mp, page, **options), "/", **{"x-forwarded-for": forwarded})
    assert mp.consumer.events[0]["properties"].get("ip") in (expected, 0 if not expected else "")


def test_requests_do_not_share_their_context(mp):
    """Neither those at the same time nor those that follow on the same thread."""
    both = anyio.Event()

    async def page(request):
        update_context(path=request.url.path)
        if request.url.path in "/a/b":
            if request.url.path == "/b":
                both.set()
            await both.wait()
        await mp.track(None, request.url.path)
        return PlainTextResponse("ok")

    app = application(mp, page)

    async def main():
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://shop") as client:
            await asyncio.gather(
                client.get("/a", headers={"x-user": "u-a"}),
                client.get("/b", headers={"x-user": "u-b"}),
            )
            await client.get("/c")
            assert mp._composer.event(None, "after").body.count(b"u-") == 0

    with context("outside", leak=True):
        asyncio.run(main())
    assert sorted(users(mp)) == [("/a", "u-a"), ("/b", "u-b"), ("/c", "")]
    for event in mp.consumer.events:
        assert event["properties"]["path"] == event["event"]
        assert "leak" not in event["properties"]


def test_a_request_that_logs_in_has_two_identities(mp):
    """Before the login the anonymous one, afterwards the user's, and never both."""

    async def login(_):
        await mp.track(None, "Before")
        await anyio.to_thread.run_sync(update_context, "u-1")
        await mp.track(None, "After")
        return PlainTextResponse("ok")

    get(application(mp, login, identify=lambda _: "d-1"), "/")
    assert users(mp) == [("Before", "d-1"), ("After", "u-1")]


def test_what_a_callback_raises_is_logged_and_the_request_is_served(mp, caplog):
    """An async callback, too; the events of the request have no user."""

    async def broken(_scope):
        raise LookupError("no such session")

    async def page(_):
        await mp.track(None, "Opened")
        return PlainTextResponse("ok")

    app = application(mp, page, identify=broken, properties=lambda _: ["wrong"])
    assert get(app, "/").status_code == 200
    assert users(mp) == [("Opened", "")]
    assert caplog.text.count("failed: events of its request") == 2
    assert "no such session" in caplog.text


@pytest.mark.parametrize(
    "found", [7, 7.0, float("nan"), {"device_id": "d", "user_id": 7}, {"user": 7}]
)
def test_an_identity_is_an_id_or_a_mapping(mp, found, caplog):
    """A missing one is none. Another key is refused, with the known ones in the log."""

    async def page(_):
        await mp.track(None, "Opened")
        return PlainTextResponse("ok")

    get(application(mp, page, identify=lambda _: found), "/")
    properties = mp.consumer.events[0]["properties"]
    if isinstance(found, (int, float)):
        assert properties["distinct_id"] == ("7" if found == 7 else "")
    elif "device_id" in found:
        assert (properties["$device_id"], properties["$user_id"]) == ("d", "7")
        assert "distinct_id" not in properties
    else:
        assert "distinct_id, device_id, user_id" in caplog.text


def test_receive_and_send_are_passed_on_untouched(mp):
    """So a body is never read, and no message of a disconnect is missed."""
    seen = []

    async def app(scope, receive, send):
        seen.append((scope, receive, send))

    def receive():
        raise AssertionError("the middleware received a message")

    given = {"type": "http", "headers": [], "path": "/"}
    middleware = MixpanelMiddleware(app, mp, identify=user_of)
    for kind in ("http", "websocket", "of-the-future"):
        scope = {**given, "type": kind}
        asyncio.run(middleware(scope, receive, print))
        assert seen.pop() == (scope, receive, print)


def test_streams_websockets_and_background_tasks_have_the_context(mp):
    """The body is made, the socket served and the task run in the context of the request."""

    async def stream(_):
        async def body():
            for piece in (b"a", b"b"):
                await mp.track(None, "Piece")
                yield piece

        return StreamingResponse(body())

    async def socket(websocket):
        await websocket.accept()
        await mp.track(None, "Connected")
        await websocket.close()

    app = FastAPI(routes=[Route("/stream", stream), WebSocketRoute("/socket", socket)])
    app.add_middleware(MixpanelMiddleware, client=mp, identify=user_of)

    async def later():
        await mp.track(None, "In Task")

    @app.get("/task")
    def task(tasks: BackgroundTasks):
        tasks.add_task(later)
        return threading.current_thread() is not threading.main_thread()

    with TestClient(app, headers={"x-user": "u-1"}) as client:
        assert client.get("/stream").text == "ab"
        assert client.get("/task").json()
        with client.websocket_connect("/socket"):
            pass
    assert users(mp) == [(n, "u-1") for n in ("Piece", "Piece", "In Task", "Connected")]


def test_exceptions_pass_through(mp):
    """Also those of the application's own kind, and the context ends with the request."""

    async def page(_):
        await mp.track(None, "Opened")
        raise LookupError

    app = application(mp, page)
    assert get(app, "/", **{"x-user": "u-1"}).status_code == 500
    assert users(mp) == [("Opened", "u-1")]


def test_the_lifespan_opens_and_flushes_the_client(emu):
    """Twice in one process, as tests do; what background tasks track is sent."""
    emu.set_flags([flag("new-checkout")])
    mp = client_of(emu)
    app = FastAPI()
    app.add_middleware(MixpanelMiddleware, client=mp, identify=user_of)

    async def later():
        await mp.track(None, "In Task")

    @app.get("/")
    async def page(tasks: BackgroundTasks):
        tasks.add_task(later)
        return mp.local_flags.are_flags_ready()

    for count in (1, 2):
        with TestClient(app) as client:
            assert client.get("/").json() is True
        assert len(emu.events("In Task")) == count
    asyncio.run(mp.aclose())


def client_of(emu, kind=AsyncMixpanel):
    """Return a client with local flags that sends to the emulator, but not by itself in time."""
    consumer = AsyncBufferedConsumer(flush_after=60, base_url=emu.url)
    return kind("t", consumer, local_flags_config=LocalFlagsConfig())


@pytest.mark.slow
@pytest.mark.parametrize("kind", [AsyncMixpanel, Mixpanel])
def test_a_lifespan_keeps_the_one_inside(emu, kind):
    """With its state; a sync client is flushed without blocking the loop."""
    mp = client_of(emu, kind)

    @contextlib.asynccontextmanager
    async def inner(app):
        yield {"app": app}

    async def main():
        async with lifespan(mp, inner)("the app") as state:
            if kind is Mixpanel:
                mp.track("u-1", "Opened")
            else:
                await mp.track("u-1", "Opened")
        assert state == {"app": "the app"}
        assert len(emu.events("Opened")) == 1

    asyncio.run(main())
    asyncio.run(mp.aclose()) if kind is AsyncMixpanel else mp.close()


def test_flags_of_a_request_are_one_snapshot_with_its_exposures(emu):
    """A dependency; each variant is reported once, with the user of the request."""
    emu.set_flags([flag("new-checkout"), flag("button", value="blue")])
    mp = client_of(emu)
    app = FastAPI()
    app.add_middleware(MixpanelMiddleware, client=mp, identify=user_of)

    @app.get("/")
    async def page(
        flags: Flags,
        again: Flags,
        client: Client,
        new: Annotated[bool, flag_value(NEW_CHECKOUT)],
    ):
        assert flags is again
        assert client is mp
        return [new, flags.value(NEW_CHECKOUT), flags.get_variant_value("missing", "grey")]

    @app.get("/front-end")
    async def front_end(flags: Flags):
        return flags.bootstrap(["button"])

    with TestClient(app, headers={"x-user": "u-1"}) as client:
        assert client.get("/").json() == [True, True, "grey"]
        assert client.get("/front-end").json()["button"]["variant_value"] == "blue"
        with override_flags({"new-checkout": False}):
            assert client.get("/").json()[1] in (True, False)
    [exposure] = emu.events("$experiment_started")
    assert exposure["properties"]["distinct_id"] == "u-1"
    assert exposure["properties"]["Experiment name"] == "new-checkout"
    asyncio.run(mp.aclose())


def test_flags_follow_a_login(emu):
    """After a login the checks are about the user, with the context of `flag_context`."""
    emu.set_flags([flag("new-checkout")])
    mp = client_of(emu)
    seen = []

    def flag_context(scope):
        seen.append(scope["path"])
        return {"custom_properties": {"plan": "team"}}

    async def login(request: Request):
        flags = asgi.get_flags(request)
        flags.is_enabled("new-checkout")
        flags.is_enabled("new-checkout")
        update_context("u-1")
        flags.is_enabled("new-checkout")
        return PlainTextResponse("ok")

    app = Starlette(routes=[Route("/login", login)])
    app.add_middleware(
        MixpanelMiddleware, client=mp, identify=lambda _: "d-1", flag_context=flag_context
    )
    with TestClient(app) as client:
        client.get("/login")
    exposures = [e["properties"]["distinct_id"] for e in emu.events("$experiment_started")]
    assert sorted(exposures) == ["d-1", "u-1"]
    assert seen == ["/login", "/login"]
    asyncio.run(mp.aclose())


def test_flags_arrive_without_a_lifespan(emu):
    """A server may have none: the first request starts to fetch them."""
    emu.set_flags([flag("new-checkout")])
    mp = client_of(emu)

    async def page(_):
        await mp.local_flags.await_until_ready(10)
        return PlainTextResponse(str(mp.local_flags.are_flags_ready()))

    assert get(application(mp, page), "/").text == "True"
    asyncio.run(mp.aclose())


def test_flags_without_the_middleware_are_an_error():
    """It says what to add."""
    with pytest.raises(ConfigurationError, match="add_middleware"):
        asgi.get_flags({"type": "http"})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"client": "TOKEN"}, "an AsyncMixpanel or Mixpanel, not str"),
        ({"identify": "user"}, "identify must be a function, not str"),
        ({"client_ip": 1}, "client_ip=1 must be True or False"),
        ({"client_ip": True, "trusted_proxies": -1}, "trusted_proxies=-1 must be the number"),
        ({"trusted_proxies": 1}, "client_ip=True only"),
        ({"flush_timeout": "5"}, "flush_timeout='5' must be a number of seconds"),
    ],
)
def test_settings_that_cannot_work_are_refused(options, message):
    """When the application is made, with what to do."""
    with pytest.raises(ConfigurationError, match=message):
        MixpanelMiddleware(print, **options)


def test_an_unknown_option_is_named():
    """With the nearest known one."""
    with pytest.raises(TypeError, match="trusted_proxies"):
        MixpanelMiddleware(print, trusted_proxy=1)


@contextlib.contextmanager
def served(app):
    """Serve an application with uvicorn, on a port of its own."""
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="critical"))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            threading.Event().wait(0.01)
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()


def test_uploads_errors_and_disconnects_are_as_without_it(emu):
    """A real server: ten megabytes stream through, and a client that leaves is seen."""
    mp = client_of(emu)
    left = threading.Event()

    async def upload(request):
        size = 0
        async for piece in request.stream():
            size += len(piece)
        await mp.track(None, "Uploaded", {"size": size})
        return PlainTextResponse(str(size))

    async def broken(_):
        await mp.track(None, "Broken")
        raise LookupError

    async def endless(request):
        async def body():
            try:
                while True:
                    yield b"piece"
                    await anyio.sleep(0.01)
            finally:
                await mp.track(None, "Left")
                left.set()

        return StreamingResponse(body())

    app = Starlette(
        routes=[
            Route("/upload", upload, methods=["POST"]),
            Route("/broken", broken),
            Route("/endless", endless),
        ]
    )
    app.add_middleware(MixpanelMiddleware, client=mp, identify=user_of)

    def pieces():
        yield from [b"x" * 65536] * 160

    with served(app) as url, httpx.Client(base_url=url, headers={"x-user": "u-1"}) as client:
        assert client.post("/upload", content=pieces()).text == str(160 * 65536)
        assert client.get("/broken", headers={"connection": "close"}).status_code == 500
        with client.stream("GET", "/endless") as response:
            next(response.iter_raw())
        assert left.wait(10)
    found = {event["event"]: event["properties"]["distinct_id"] for event in emu.events()}
    assert found == {"Uploaded": "u-1", "Broken": "u-1", "Left": "u-1"}
    asyncio.run(mp.aclose())
