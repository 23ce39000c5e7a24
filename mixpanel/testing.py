"""Check in your own tests what was tracked, without sending anything.

    def test_paying_is_tracked(mixpanel_events):
        pay_order("u-17", amount=12.5)
        mixpanel_events.assert_tracked("Order Paid", distinct_id="u-17", amount=12.5)

pytest finds the fixture by itself once the package is installed. In any other framework, give a
`MemoryConsumer` to the client. To test against the wire itself, see `mixpanel.emulator`.
"""

from __future__ import annotations

import difflib
import json
import sys
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from mixpanel.exceptions import ConfigurationError, MixpanelException

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from mixpanel.flags.fixed import FixedFlags
    from mixpanel.flags.overrides import override_flags

__all__ = ["FixedFlags", "MemoryConsumer", "assert_tracked", "capture", "override_flags"]

ENDPOINTS = ("events", "people", "groups", "imports")
ADDED = frozenset({"token", "time", "$insert_id", "mp_lib", "$lib_version", "distinct_id", "ip"})
MOST_LISTED = 20
GZIP = b"\x1f\x8b"

Message = dict[str, Any]


class MemoryConsumer:
    """Keep messages instead of sending them; a consumer for either client.

    >>> consumer = MemoryConsumer()
    >>> mp = Mixpanel("TOKEN", consumer)  # doctest: +SKIP
    >>> mp.track("u-17", "Signed Up")  # doctest: +SKIP
    >>> consumer.assert_tracked("Signed Up", distinct_id="u-17")  # doctest: +SKIP

    Messages are kept as they would travel, decoded: what JSON does to a value has been done.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kept: list[tuple[str, Message]] = []

    def send(
        self,
        endpoint: str,
        json_message: str | bytes,
        api_key: Any = None,  # noqa: ARG002
        api_secret: str | None = None,  # noqa: ARG002
    ) -> None:
        """Keep one message, or each of a JSON array.

        :raises MixpanelException: for an endpoint that does not exist.
        """
        if endpoint not in ENDPOINTS:
            raise MixpanelException(f"no endpoint {endpoint!r}: there are {', '.join(ENDPOINTS)}")
        decoded = json.loads(json_message)
        messages = decoded if isinstance(decoded, list) else [decoded]
        with self._lock:
            self._kept += [(endpoint, message) for message in messages]

    def messages(self, *endpoints: str) -> list[Message]:
        """Return the messages to these endpoints, or all, in the order they were sent."""
        with self._lock:
            return [message for to, message in self._kept if not endpoints or to in endpoints]

    @property
    def events(self) -> list[Message]:
        """Return the events that were tracked, as `{"event": …, "properties": {…}}`."""
        return self.messages("events")

    @property
    def people(self) -> list[Message]:
        """Return the updates of user profiles, such as `{"$distinct_id": …, "$set": {…}}`."""
        return self.messages("people")

    @property
    def groups(self) -> list[Message]:
        """Return the updates of group profiles."""
        return self.messages("groups")

    @property
    def imports(self) -> list[Message]:
        """Return the events for `/import`: those imported, or tracked with that ingestion."""
        return self.messages("imports")

    def clear(self) -> None:
        """Forget everything so far."""
        with self._lock:
            self._kept.clear()

    def assert_tracked(
        self, event: str, *, times: int | None = None, distinct_id: Any = None, **properties: Any
    ) -> list[Message]:
        """Check that an event was tracked with these properties among others, and return it.

        `times` asks for an exact number, 0 for none; without it, one or more will do. For a name
        that is no Python word, write `**{"$os": "iOS"}`.

        :raises AssertionError: showing what was tracked, and how the nearest event differs.
        """
        __tracebackhide__ = True
        wanted = {name: _as_it_travels(value) for name, value in properties.items()}
        if distinct_id is not None:
            wanted["distinct_id"] = str(distinct_id)
        tracked = self.messages("events", "imports")
        namesakes = [each for each in tracked if each.get("event") == event]
        matching = [each for each in namesakes if not _differences(each, wanted)]
        if len(matching) >= 1 if times is None else len(matching) == times:
            return matching
        raise AssertionError(_complaint(event, wanted, times, len(matching), namesakes, tracked))


def __getattr__(name: str) -> Any:
    if name == "FixedFlags":
        from mixpanel.flags.fixed import FixedFlags

        return FixedFlags
    if name == "override_flags":
        from mixpanel.flags.overrides import override_flags

        return override_flags
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


_active: list[MemoryConsumer] = []


def assert_tracked(
    event: str,
    consumer: MemoryConsumer | None = None,
    *,
    times: int | None = None,
    distinct_id: Any = None,
    **properties: Any,
) -> list[Message]:
    """Check that an event was tracked: by this consumer, or by anyone while `capture` holds.

    :raises AssertionError: showing what was tracked, and how the nearest event differs.
    """
    __tracebackhide__ = True
    if consumer is None and not _active:
        raise RuntimeError("give a consumer, or use the fixture mixpanel_events")
    found = consumer if consumer is not None else _active[-1]
    return found.assert_tracked(event, times=times, distinct_id=distinct_id, **properties)


@contextmanager
def capture() -> Iterator[MemoryConsumer]:
    """Keep what every client of this process tracks inside the block, whatever its consumer.

    Nothing is sent; the clients' `stats()` count the messages as delivered. What asks the server
    for an answer (lookup tables) is refused, and so are requests for flags: providers serve their
    fallbacks, unless they ask an emulator on this machine. The pytest fixture `mixpanel_events` is
    this block around a test.
    """
    from mixpanel._wires import Wires
    from mixpanel.client import AsyncMixpanel, Mixpanel, _Client

    kept = MemoryConsumer()
    send = Wires.send
    swaps: list[tuple[type, str, Any]] = [
        (AsyncMixpanel, "_deliver", lambda face, records: _keep_async(kept, face, records)),
        (Mixpanel, "_deliver", lambda face, records: _keep_sync(kept, face, records)),
        (_Client, "_enqueue", lambda face, record: _keep(kept, face, [record])),
        (AsyncMixpanel, "_ours", lambda face, what: _import_into(kept, face, what)),
        (Wires, "send", lambda wires, request, **how: _unless_flags(send, wires, request, **how)),
    ]
    before = [getattr(face, name) for face, name, _ in swaps]
    for face, name, swap in swaps:
        setattr(face, name, swap)
    _active.append(kept)
    try:
        yield kept
    finally:
        _active.remove(kept)
        for (face, name, _), original in zip(swaps, before, strict=True):
            setattr(face, name, original)


if "pytest" in sys.modules:
    import pytest

    @pytest.fixture
    def mixpanel_events() -> Iterator[MemoryConsumer]:
        """Capture what every Mixpanel client tracks during the test, instead of sending it."""
        with capture() as kept:
            yield kept


# ---- what a client does while captured ----------------------------------------------------------


def _keep(kept: MemoryConsumer, face: Any, records: list[Any]) -> None:
    if face._takes_none(len(records)):
        return
    for record in records:
        kept.send(record.endpoint, record.body)
    with face._ledger.lock:
        face._ledger.accepted += len(records)
        face._ledger.delivered += len(records)


def _keep_async(kept: MemoryConsumer, face: Any, records: list[Any]) -> Any:
    from mixpanel._accepting import done

    _keep(kept, face, records)
    return done()


def _keep_sync(kept: MemoryConsumer, face: Any, records: list[Any]) -> None:
    from mixpanel._bridge import refuse_in_async
    from mixpanel._custom import Custom

    if not isinstance(face._via, Custom):
        refuse_in_async("Mixpanel.track")
    _keep(kept, face, records)


def _import_into(kept: MemoryConsumer, face: Any, what: str) -> Any:
    from mixpanel._custom import Custom

    if what != "import_events" or isinstance(face._via, Custom):
        raise ConfigurationError(f"{what} is not captured: test it with mixpanel.emulator")
    return face._via.route, _Wires(kept)


async def _unless_flags(send: Any, wires: Any, request: Any, **how: Any) -> Any:
    from mixpanel._exchange import Failure
    from mixpanel.exceptions import TransportError
    from mixpanel.settings import is_loopback

    url = urlsplit(request.url)
    if "/flags" not in url.path or is_loopback(url.hostname or ""):
        return await send(wires, request, **how)
    told = "flags are not fetched while events are captured: use FixedFlags or override_flags"
    return Failure(TransportError(told), maybe_sent=False)


class _Wires:
    """Take the requests of an import, and answer that all is well."""

    def __init__(self, kept: MemoryConsumer) -> None:
        self._kept = kept

    async def send(self, request: Any, **_: Any) -> Any:
        import gzip

        from mixpanel._exchange import Answer

        content = request.content
        self._kept.send("imports", gzip.decompress(content) if content[:2] == GZIP else content)
        return Answer(200, {}, b'{"code": 200, "status": "OK"}')


# ---- what a failed assertion says ---------------------------------------------------------------


def _as_it_travels(value: Any) -> Any:
    from mixpanel._json import dumps

    body, notes = dumps({"value": value})
    # What JSON cannot say may still compare, such as unittest.mock.ANY.
    return value if notes else json.loads(body)["value"]


def _differences(message: Message, wanted: Mapping[str, Any]) -> dict[str, str]:
    properties = message.get("properties", {})
    return {
        name: repr(properties[name]) if name in properties else "not there"
        for name, value in wanted.items()
        if name not in properties or value != properties[name]
    }


def _complaint(
    event: str,
    wanted: Mapping[str, Any],
    times: int | None,
    found: int,
    namesakes: list[Message],
    tracked: list[Message],
) -> str:
    terms = ", ".join(f"{name}={value!r}" for name, value in wanted.items())
    what = f"{event!r} with {terms}" if terms else repr(event)
    if times is None:
        lines = [f"{what} was not tracked"]
    else:
        lines = [f"{what} was tracked {found} time(s), not {times}"]
    others = [each for each in namesakes if _differences(each, wanted)]
    if others and (times is None or found < times):
        nearest = min(others, key=lambda each: len(_differences(each, wanted)))
        lines.append(f"the nearest of {len(others)} {event!r}:")
        for name, actual in _differences(nearest, wanted).items():
            lines.append(f"    {name}: {actual}, expected {wanted[name]!r}")
    if not namesakes:
        names = {str(each.get("event")) for each in tracked}
        alike = difflib.get_close_matches(event, names, n=1)
        lines += [f"did you mean {alike[0]!r}?"] if alike else []
    lines.append(f"tracked ({len(tracked)}):" if tracked else "nothing was tracked")
    if len(tracked) > MOST_LISTED:
        lines.append(f"    … {len(tracked) - MOST_LISTED} before these")
    lines += [f"    {_line(each)}" for each in tracked[-MOST_LISTED:]]
    return "\n".join(lines)


def _line(message: Message) -> str:
    properties = message.get("properties", {})
    shown = {name: value for name, value in properties.items() if name not in ADDED}
    text = json.dumps(shown, ensure_ascii=False)
    text = text if len(text) <= 100 else text[:99] + "…"
    return f"{message.get('event')}  {properties.get('distinct_id', '')}  {text}"
