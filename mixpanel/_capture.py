"""Divert what every client of this process would send, for `mixpanel.testing.capture`."""

from __future__ import annotations

import gzip
import json
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from mixpanel._delivery.awaitables import done
from mixpanel._delivery.custom_consumer import CustomConsumer
from mixpanel._http.connections import LoopConnections
from mixpanel._http.responses import (
    Response,
    TransportFailure,
)
from mixpanel._runtime.background_loop import refuse_in_async
from mixpanel.cdp._fanout.routing import normalize_name
from mixpanel.cdp._segment.backfill import AsyncBackfill
from mixpanel.cdp._segment.client import AsyncSegmentClient, SegmentClient
from mixpanel.client import AsyncMixpanel, Mixpanel, _Client
from mixpanel.exceptions import ConfigurationError, TransportError
from mixpanel.settings import is_loopback

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from mixpanel.testing import Captured

__all__ = ["diverted"]

GZIP = b"\x1f\x8b"


@contextmanager
def diverted(kept: Captured) -> Iterator[None]:
    """Put into `kept`, inside the block, what clients of any kind would send."""
    send = LoopConnections.send
    swaps: list[tuple[type, str, Any]] = [
        (AsyncMixpanel, "_deliver", lambda face, records: _keep_async(kept, face, records)),
        (Mixpanel, "_deliver", lambda face, records: _keep_sync(kept, face, records)),
        (AsyncMixpanel, "_deliver_one", lambda face, record: face._deliver([record])),
        (_Client, "_enqueue", lambda face, record: _keep(kept, face, [record])),
        (AsyncMixpanel, "_ours", lambda face, what: _import_into(kept, face, what)),
        (AsyncSegmentClient, "_deliver", lambda face, said: _keep_said_async(kept, face, said)),
        (SegmentClient, "_deliver", lambda face, said: _keep_said_sync(kept, face, said)),
        (AsyncSegmentClient, "_deliver_one", lambda face, said: face._deliver([said])),
        (SegmentClient, "_deliver_one", lambda face, said: face._deliver([said])),
        (AsyncBackfill, "_backfill_target", lambda face: _backfill_into(kept, face)),
        (
            LoopConnections,
            "send",
            lambda connections, request, **how: _unless_flags(send, connections, request, **how),
        ),
    ]
    before = [getattr(face, name) for face, name, _ in swaps]
    for face, name, swap in swaps:
        setattr(face, name, swap)
    try:
        yield
    finally:
        for (face, name, _), original in zip(swaps, before, strict=True):
            setattr(face, name, original)


def _keep(kept: Captured, face: Any, records: list[Any]) -> None:
    if face._takes_none(len(records)):
        return
    for record in records:
        kept.send(record.endpoint, record.body)
    with face._stats.lock:
        face._stats.accepted += len(records)
        face._stats.delivered += len(records)


def _keep_async(kept: Captured, face: Any, records: list[Any]) -> Any:
    _keep(kept, face, records)
    return done()


def _keep_sync(kept: Captured, face: Any, records: list[Any]) -> None:
    if not isinstance(face._delivery, CustomConsumer):
        refuse_in_async("Mixpanel.track", unless_ours=True)
    _keep(kept, face, records)


def _import_into(kept: Captured, face: Any, what: str) -> Any:
    if what != "import_events" or isinstance(face._delivery, CustomConsumer):
        raise ConfigurationError(f"{what} is not captured: test it with mixpanel.emulator")
    return face._delivery.api, _LoopConnections(lambda body: kept.send("imports", body))


def _vendor(face: Any) -> str:
    return normalize_name(face._api.dialect.name)


def _keep_said(kept: Captured, face: Any, messages: list[Any]) -> None:
    admitted = face._admitted(messages)
    kept._keep(_vendor(face), [json.loads(message.body) for message in admitted])
    with face._stats.lock:
        face._stats.accepted += len(admitted)
        face._stats.delivered += len(admitted)
    if face._on_delivery is not None:
        face._report_delivery(admitted, "delivered", "")


def _keep_said_async(kept: Captured, face: Any, messages: list[Any]) -> Any:
    _keep_said(kept, face, messages)
    return done()


def _keep_said_sync(kept: Captured, face: Any, messages: list[Any]) -> None:
    if face._send_immediately or face._sender.buffer.when_full == "wait":
        refuse_in_async(type(face).__name__, unless_ours=True)
    _keep_said(kept, face, messages)


def _backfill_into(kept: Captured, face: Any) -> Any:
    vendor = _vendor(face)
    # Without a gate: nobody is asked for an access token.
    api = replace(face._api, send_immediately=False, guard=None)
    return api, _LoopConnections(lambda body: kept._keep(vendor, json.loads(body)["batch"]))


async def _unless_flags(send: Any, connections: Any, request: Any, **how: Any) -> Any:
    url = urlsplit(request.url)
    if "/flags" not in url.path or is_loopback(url.hostname or ""):
        return await send(connections, request, **how)
    told = "flags are not fetched while events are captured: use FixedFlags or override_flags"
    return TransportFailure(TransportError(told), maybe_sent=False)


class _LoopConnections:
    """Take the requests of an import, and answer that all is well."""

    def __init__(self, keep: Callable[[bytes], None]) -> None:
        self._keep = keep

    async def attempt(self, request: Any, **_: Any) -> Any:
        content = request.content
        self._keep(gzip.decompress(content) if content[:2] == GZIP else content)
        return Response(200, {}, b'{"code": 200, "status": "OK"}')
