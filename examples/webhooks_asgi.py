"""Receive Customer.io's reporting webhooks: verify, store and acknowledge them at once.

    pip install starlette uvicorn
    CUSTOMERIO_SIGNING_KEY=... uvicorn webhooks_asgi:app --app-dir examples

Customer.io waits 4 seconds for a response, retries without a 2xx, and holds back later events. So
the server only stores the event, once even if it is delivered repeatedly, and handles it
afterwards, also after a crash. The logs contain events but no personal data. Run a single process:
each process would handle all pending events.
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

MAX_BYTES = 1_000_000  # of a request
# Customer.io retries for a week, and does not document whether with a new timestamp. Old requests
# are safe here, because each event is stored once.
TOLERANCE = 8 * 86_400.0
MAX_ATTEMPTS = 5
RETRY_DELAY = 10.0  # seconds

T = TypeVar("T")


async def handle(event: webhooks.WebhookEvent) -> None:
    """Handle an event: put your own code here.

    After a crash or an exception, it is called again with the same event.
    """
    match event:
        case DeliveryEvent(metric="bounced" | "spammed"):
            logger.info("stop mailing this address: %s %s", event.name, event.event_id)
        case PersonEvent(metric="unsubscribed"):
            logger.info("unsubscribe in the shop as well: %s %s", event.name, event.event_id)
        case _:
            logger.info("nothing to do: %s %s", event.name, event.event_id)


class Inbox:
    """A file that stores each event once; after an event was handled, only its id is kept."""

    def __init__(self, path: str) -> None:
        Path(path).touch(mode=0o600)  # it contains personal data
        self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        self._db.execute("pragma journal_mode = wal")
        self._db.execute("pragma secure_delete = on")  # overwrites deleted data
        self._db.execute(
            "create table if not exists events (event_id text primary key, body blob,"
            " kept_at real not null, tries integer not null default 0)"
        )
        oldest = time.time() - TOLERANCE
        self._db.execute("delete from events where body is null and kept_at < ?", [oldest])
        self._limiter = anyio.CapacityLimiter(1)  # one thread at a time may use the connection
        self.received = anyio.Event()

    async def keep(self, event_id: str, body: bytes) -> None:
        """Store an event, unless it was stored before."""
        row = (event_id, body, time.time())
        statement = "insert or ignore into events (event_id, body, kept_at) values (?, ?, ?)"
        if await self._do(lambda: self._db.execute(statement, row).rowcount):
            self.received.set()

    async def pending(self) -> list[bytes]:
        """Return the events to handle, without those that failed too often."""
        statement = "select body from events where body is not null and tries < ? order by kept_at"
        rows = await self._do(lambda: self._db.execute(statement, [MAX_ATTEMPTS]).fetchall())
        return [body for (body,) in rows]

    async def settle(self, event_id: str, *, handled: bool) -> None:
        """Delete the body of a handled event, or count a failed attempt."""
        change = "body = null" if handled else "tries = tries + 1"
        statement = f"update events set {change} where event_id = ?"  # noqa: S608 # no user input
        await self._do(lambda: self._db.execute(statement, [event_id]))

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    async def _do(self, work: Callable[[], T]) -> T:
        return await anyio.to_thread.run_sync(work, limiter=self._limiter)


async def work(inbox: Inbox) -> None:
    """Handle pending events until cancelled; retry those that fail."""
    while True:
        inbox.received = anyio.Event()
        for body in await inbox.pending():
            event = webhooks.parse(body)
            handled = True
            try:
                await handle(event)
            except Exception as error:
                # Without the error's message, which may contain personal data.
                logger.error("%s %s: %s", event.name, event.event_id, type(error).__name__)  # noqa: TRY400
                handled = False
            await inbox.settle(event.event_id, handled=handled)
        with anyio.move_on_after(RETRY_DELAY):
            await inbox.received.wait()


async def receive(request: Request) -> Response:
    """Store one event; respond with 401 to an invalid signature, and with 200 to a valid one."""
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_BYTES:
            return Response(status_code=413)
    try:
        event = webhooks.receive(
            body, request.headers, request.app.state.keys, now=time.time(), tolerance=TOLERANCE
        )
    except SignatureError as error:
        logger.warning("rejected: %s", error)
        return Response(status_code=401)
    except PayloadError as error:
        logger.warning("valid signature, but not a reporting event: %s", error)
        return Response(status_code=200)
    await request.app.state.inbox.keep(event.event_id, body)
    return Response(status_code=200)


@asynccontextmanager
async def lifespan(app: Starlette) -> AsyncIterator[None]:
    """Open the inbox, and handle its events while the server runs."""
    app.state.keys = os.environ.get("CUSTOMERIO_SIGNING_KEY", "").split()  # two during rotation
    if not app.state.keys:
        raise RuntimeError(
            "CUSTOMERIO_SIGNING_KEY is not set: copy the key from the webhook's settings"
        )
    logging.basicConfig(level=logging.INFO)
    path = os.environ.get("WEBHOOKS_FILE", "webhooks.db")
    with closing(Inbox(path)) as app.state.inbox:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(work, app.state.inbox)
            yield
            tasks.cancel_scope.cancel()


app = Starlette(routes=[Route("/customerio", receive, methods=["POST"])], lifespan=lifespan)
