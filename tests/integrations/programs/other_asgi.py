"""Quart and Litestar applications; makes requests to one, and stops it: `other_asgi.py quart`."""

import asyncio
import sys

import httpx

from mixpanel import AsyncBufferedConsumer, AsyncMixpanel, update_context
from mixpanel.integrations.asgi import MixpanelMiddleware, lifespan

mp = AsyncMixpanel("t", AsyncBufferedConsumer(flush_after=3600))


def user_of(scope):
    """Return the user that a request names in a header."""
    return dict(scope["headers"]).get(b"x-user", b"").decode() or None


async def pieces():
    """Track from the pieces of a body."""
    for piece in "ab":
        await mp.track(None, "Piece")
        yield piece


def quart():
    """Return an application of Quart, with the middleware around it."""
    from quart import Quart

    app = Quart("shop")
    app.asgi_app = MixpanelMiddleware(app.asgi_app, client=mp, identify=user_of)

    @app.get("/login")
    async def login():
        await mp.track(None, "Before")
        await asyncio.to_thread(update_context, "u-2")
        await mp.track(None, "After")
        return "ok"

    @app.get("/stream")
    async def stream():
        return pieces()

    return app


def litestar(*, inside=False):
    """Return an application of Litestar, with the middleware around or inside it."""
    from litestar import Litestar, get
    from litestar.middleware import DefineMiddleware
    from litestar.response import Stream

    @get("/login")
    async def login() -> str:
        await mp.track(None, "Before")
        await asyncio.to_thread(update_context, "u-2")
        await mp.track(None, "After")
        return "ok"

    @get("/stream")
    async def stream() -> Stream:
        return Stream(pieces())

    handlers = [login, stream]
    if inside:
        middleware = DefineMiddleware(MixpanelMiddleware, client=mp, identify=user_of)
        return Litestar(handlers, middleware=[middleware], lifespan=[lifespan(mp)])
    return MixpanelMiddleware(Litestar(handlers), client=mp, identify=user_of)


async def main(app):
    """Start the application, make requests, and stop it, as a server does."""
    to_app, from_app = asyncio.Queue(), asyncio.Queue()
    scope = {"type": "lifespan", "asgi": {"version": "3.0"}, "state": {}}
    running = asyncio.create_task(app(scope, to_app.get, from_app.put))
    for step in ("startup", "shutdown"):
        await to_app.put({"type": f"lifespan.{step}"})
        assert (await from_app.get())["type"] == f"lifespan.{step}.complete"
        if step == "startup":
            transport = httpx.ASGITransport(app)
            headers = {"x-user": "u-1"}
            async with httpx.AsyncClient(
                transport=transport, base_url="http://shop", headers=headers
            ) as client:
                for path in ("/login", "/stream"):
                    assert (await client.get(path)).status_code == 200
        else:
            assert mp.stats().pending == 0
    await running


APPS = {"quart": quart, "litestar": litestar, "litestar-inside": lambda: litestar(inside=True)}
asyncio.run(main(APPS[sys.argv[1]]()))
