"""Receive Customer.io's reporting webhooks: see who signed them, keep them, and answer at once.

    pip install starlette uvicorn
    CUSTOMERIO_SIGNING_KEY=... uvicorn webhooks_asgi:app --app-dir examples

Customer.io waits 4 seconds, repeats what was not answered with 2xx, and holds back what comes
after. So an event is only written to a file here, once however often it comes; what is to be done
about it is done afterwards, and again after a crash. Logs name events, never people. Run it as
one process: each would handle all that waits.
"""

import logging
import os
import sqlite3
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import TypeVar

import anyio
import anyio.to_thread
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from mixpanel.cdp import webhooks
from mixpanel.cdp.webhooks import DeliveryEvent, PayloadError, PersonEvent, SignatureError

logger = logging.getLogger("webhooks")

LARGEST = 1_000_000  # bytes of a request
# Repetitions come for a week, and nobody says whether with a new timestamp. Since each event is
# kept once, an old copy does no harm.
TOLERANCE = 8 * 86_400.0
TRIES = 5
REST = 10.0  # seconds before what failed is tried again

T = TypeVar("T")


async def handle(event: webhooks.WebhookEvent) -> None:
    """Do what is to be done about an event: put your own code here.

    After a crash, or when it raises, it is called again for the same event.
    """
    match event:
        case DeliveryEvent(metric="bounced" | "spammed"):
            logger.info("no more mail: %s %s", event.name, event.event_id)
        case PersonEvent(metric="unsubscribed"):
            logger.info("the shop's own list, too: %s %s", event.name, event.event_id)
        case _:
            logger.info("noted: %s %s", event.name, event.event_id)


class Inbox:
    """A file that holds each event once, until it was handled; of that, only the id is kept."""

    def __init__(self, path: str) -> None:
        Path(path).touch(mode=0o600)  # it holds what is said of people
        self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        self._db.execute("pragma journal_mode = wal")
        self._db.execute("pragma secure_delete = on")  # what is forgotten is overwritten, too
        self._db.execute(
            "create table if not exists events (event_id text primary key, body blob,"
            " kept_at real not null, tries integer not null default 0)"
        )
        forgotten = time.time() - TOLERANCE
        self._db.execute("delete from events where body is null and kept_at < ?", [forgotten])
        self._one = anyio.CapacityLimiter(1)  # a connection serves one thread at a time
        self.news = anyio.Event()

    async def keep(self, event_id: str, body: bytes) -> None:
        """Keep an event, unless it came before."""
        row = (event_id, body, time.time())
        statement = "insert or ignore into events (event_id, body, kept_at) values (?, ?, ?)"
        if await self._do(lambda: self._db.execute(statement, row).rowcount):
            self.news.set()

    async def waiting(self) -> list[bytes]:
        """Return what is still to be handled, and has not failed too often."""
        statement = "select body from events where body is not null and tries < ? order by kept_at"
        rows = await self._do(lambda: self._db.execute(statement, [TRIES]).fetchall())
        return [body for (body,) in rows]

    async def settle(self, event_id: str, *, handled: bool) -> None:
        """Forget what an event said, or count that it failed once more."""
        change = "body = null" if handled else "tries = tries + 1"
        statement = f"update events set {change} where event_id = ?"  # noqa: S608 # our own words
        await self._do(lambda: self._db.execute(statement, [event_id]))

    def close(self) -> None:
        """Let go of the file."""
        self._db.close()

    async def _do(self, work: Callable[[], T]) -> T:
        return await anyio.to_thread.run_sync(work, limiter=self._one)


async def work(inbox: Inbox) -> None:
    """Handle what waits, for ever; what fails is tried again later."""
    while True:
        inbox.news = anyio.Event()
        for body in await inbox.waiting():
            event = webhooks.parse(body)
            handled = True
            try:
                await handle(event)
            except Exception as error:
                # Its words may name a person.
                logger.error("%s %s: %s", event.name, event.event_id, type(error).__name__)  # noqa: TRY400
                handled = False
            await inbox.settle(event.event_id, handled=handled)
        with anyio.move_on_after(REST):
            await inbox.news.wait()


async def receive(request: Request) -> Response:
    """Keep one event, and answer: 401 to strangers, 200 to whatever Customer.io has signed."""
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > LARGEST:
            return Response(status_code=413)
    try:
        event = webhooks.receive(
            body, request.headers, request.app.state.keys, now=time.time(), tolerance=TOLERANCE
        )
    except SignatureError as error:
        logger.warning("refused: %s", error)
        return Response(status_code=401)
    except PayloadError as error:
        logger.warning("signed, but no event that we know: %s", error)
        return Response(status_code=200)
    await request.app.state.inbox.keep(event.event_id, body)
    return Response(status_code=200)


@asynccontextmanager
async def lifespan(app: Starlette) -> AsyncIterator[None]:
    """Open the inbox, and work beside the server until it ends."""
    app.state.keys = os.environ.get("CUSTOMERIO_SIGNING_KEY", "").split()  # two, to replace one
    if not app.state.keys:
        raise RuntimeError("set CUSTOMERIO_SIGNING_KEY: it stands in the webhook's settings")
    logging.basicConfig(level=logging.INFO)
    path = os.environ.get("WEBHOOKS_FILE", "webhooks.db")
    with closing(Inbox(path)) as app.state.inbox:
        async with anyio.create_task_group() as beside:
            beside.start_soon(work, app.state.inbox)
            yield
            beside.cancel_scope.cancel()


app = Starlette(routes=[Route("/customerio", receive, methods=["POST"])], lifespan=lifespan)
