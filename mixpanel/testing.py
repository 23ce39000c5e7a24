"""Check in your own tests what was tracked, without sending anything.

    def test_paying_is_tracked(mixpanel_events):
        pay_order("u-17", amount=12.5)
        mixpanel_events.assert_tracked("Order Paid", distinct_id="u-17", amount=12.5)

The clients of Customer.io and Hightouch, and fan-outs, are captured too:

    def test_paying_reaches_customerio(mixpanel_events):
        pay_order("u-17", amount=12.5)
        mixpanel_events.assert_tracked_at("customerio", "Order Paid", user_id="u-17", amount=12.5)
        assert mixpanel_events.hightouch[0]["type"] == "identify"

pytest finds the fixture once the package is installed. In any other framework, use `capture`, or
pass a `MemoryConsumer` to the client. To test the requests themselves, see `mixpanel.emulator`.
"""

from __future__ import annotations

import difflib
import json
import sys
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from mixpanel._lazy import load_lazily
from mixpanel._runtime import native_threads
from mixpanel.exceptions import MixpanelException

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

if TYPE_CHECKING or not load_lazily(__name__):
    from mixpanel.flags.fixed import FixedFlags
    from mixpanel.flags.overrides import override_flags

__all__ = [
    "Captured",
    "FixedFlags",
    "MemoryConsumer",
    "assert_tracked",
    "capture",
    "override_flags",
]

ENDPOINTS = ("events", "people", "groups", "imports")
ADDED_PROPERTIES = frozenset(
    {"token", "time", "$insert_id", "mp_lib", "$lib_version", "distinct_id", "ip", "userId"}
)
MAX_LISTED = 20
POLL_INTERVAL = 0.005  # seconds

Message = dict[str, Any]


class MemoryConsumer:
    """A consumer for either client that keeps messages in memory instead of sending them.

    >>> consumer = MemoryConsumer()
    >>> mp = Mixpanel("TOKEN", consumer)  # doctest: +SKIP
    >>> mp.track("u-17", "Signed Up")  # doctest: +SKIP
    >>> consumer.assert_tracked("Signed Up", distinct_id="u-17")  # doctest: +SKIP

    Messages are kept as they would be sent, decoded from JSON: a datetime has become a string.
    """

    def __init__(self) -> None:
        self._lock = native_threads.new_rlock()
        self._messages: list[tuple[str, Message]] = []

    def send(
        self,
        endpoint: str,
        json_message: str | bytes,
        api_key: Any = None,  # noqa: ARG002
        api_secret: str | None = None,  # noqa: ARG002
    ) -> None:
        """Keep one message, or each of a JSON array.

        :raises MixpanelException: for an unknown endpoint.
        """
        if endpoint not in ENDPOINTS:
            raise MixpanelException(
                f"unknown endpoint {endpoint!r}: use one of {', '.join(ENDPOINTS)}"
            )
        decoded = json.loads(json_message)
        self._add(endpoint, decoded if isinstance(decoded, list) else [decoded])

    def _add(self, endpoint: str, messages: list[Message]) -> None:
        with self._lock:
            self._messages += [(endpoint, message) for message in messages]

    def messages(self, *endpoints: str) -> list[Message]:
        """Return the messages to these endpoints, or all, in the order they were sent."""
        with self._lock:
            return [message for to, message in self._messages if not endpoints or to in endpoints]

    @property
    def events(self) -> list[Message]:
        """Return the tracked events, as `{"event": …, "properties": {…}}`."""
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
        """Return the events for `/import`: imported, or tracked with `ingestion="import"`."""
        return self.messages("imports")

    def clear(self) -> None:
        """Discard all messages so far."""
        with self._lock:
            self._messages.clear()

    def assert_tracked(
        self, event: str, *, times: int | None = None, distinct_id: Any = None, **properties: Any
    ) -> list[Message]:
        """Check that an event was tracked with these properties among others; return the matches.

        `times` is an exact number, 0 for never; without it, one or more match. For a name that is
        not a Python identifier, write `**{"$os": "iOS"}`.

        :raises AssertionError: showing what was tracked, and how the nearest event differs.
        """
        __tracebackhide__ = True
        if distinct_id is not None:
            properties["distinct_id"] = str(distinct_id)
        return _matching(event, properties, times, self.messages("events", "imports"))

    def wait_for(
        self, event: str, *, timeout: float = 5.0, distinct_id: Any = None, **properties: Any
    ) -> Message:
        """Wait until an event was tracked with these properties among others, and return it.

        For events that a thread or a background task tracks. An event that was tracked already is
        found, too. Blocks the thread: in async code, use `wait_for_async`.

        :raises TimeoutError: showing what was tracked, and how the nearest event differs.
        """
        end = time.monotonic() + timeout
        while (found := self._look(event, end, timeout, distinct_id, properties)) is None:
            time.sleep(POLL_INTERVAL)
        return found

    async def wait_for_async(
        self, event: str, *, timeout: float = 5.0, distinct_id: Any = None, **properties: Any
    ) -> Message:
        """Wait like `wait_for`, without blocking the event loop (asyncio or trio).

        :raises TimeoutError: it was not tracked in time.
        """
        import anyio

        end = time.monotonic() + timeout
        while (  # noqa: ASYNC110 - other threads track, too
            found := self._look(event, end, timeout, distinct_id, properties)
        ) is None:
            await anyio.sleep(POLL_INTERVAL)
        return found

    def _look(
        self,
        event: str,
        end: float,
        timeout: float,
        distinct_id: Any,
        properties: Mapping[str, Any],
    ) -> Message | None:
        """Return the event if it was tracked, None if it may still come."""
        is_over = time.monotonic() >= end
        wanted = dict(properties)
        if distinct_id is not None:
            wanted["distinct_id"] = str(distinct_id)
        expected = {name: _as_json_value(value) for name, value in wanted.items()}
        tracked = self.messages("events", "imports")
        same_name = [each for each in tracked if each.get("event") == event]
        for message in same_name:
            if not _differences(message, expected):
                return message
        if is_over:
            text = _failure_text(event, expected, None, 0, same_name, tracked)
            raise TimeoutError(f"within {timeout:g} s, {text}")
        return None


class Captured(MemoryConsumer):
    """The messages that `capture` kept: of Mixpanel's clients, and of those of other platforms.

    A message to a customer data platform is kept as it would be sent in a batch, such as
    `{"type": "track", "userId": …, "event": …, "properties": {…}}`; `messages("customerio")`,
    "hightouch", "segment" or "rudderstack" returns those, too.
    """

    def _keep_json(self, name: str, body: bytes) -> None:
        self._add(name, [json.loads(body)])

    @property
    def customerio(self) -> list[Message]:
        """Return the messages for Customer.io, in the order they were sent."""
        return self.messages("customerio")

    @property
    def hightouch(self) -> list[Message]:
        """Return the messages for Hightouch, in the order they were sent."""
        return self.messages("hightouch")

    def assert_tracked_at(
        self,
        vendor: str,
        event: str,
        /,
        *,
        times: int | None = None,
        user_id: Any = None,
        **properties: Any,
    ) -> list[Message]:
        """Like `assert_tracked`, for "customerio", "hightouch", "segment" or "rudderstack".

        :raises AssertionError: showing what was tracked there, and how the nearest event differs.
        """
        __tracebackhide__ = True
        if user_id is not None:
            properties["userId"] = str(user_id)
        tracked = [each for each in self.messages(vendor) if each["type"] == "track"]
        return _matching(event, properties, times, tracked)


_active: list[Captured] = []


def assert_tracked(
    event: str,
    consumer: MemoryConsumer | None = None,
    *,
    times: int | None = None,
    distinct_id: Any = None,
    **properties: Any,
) -> list[Message]:
    """Check that an event was tracked: in this consumer, or in the innermost `capture`.

    :raises AssertionError: showing what was tracked, and how the nearest event differs.
    :raises RuntimeError: without a consumer and outside of a `capture`.
    """
    __tracebackhide__ = True
    if consumer is None and not _active:
        raise RuntimeError("pass a consumer, or use the fixture mixpanel_events")
    found = consumer if consumer is not None else _active[-1]
    return found.assert_tracked(event, times=times, distinct_id=distinct_id, **properties)


@contextmanager
def capture() -> Iterator[Captured]:
    """Keep what every client of this process tracks inside the block, whatever its consumer.

    That includes the clients of Customer.io and Hightouch, alone or in a fan-out, and imports.
    Nothing is sent; the clients' `stats()` count the messages as delivered, and `on_delivery` is
    called. Lookup tables raise `ConfigurationError`, as a response cannot be captured. Flags are
    not fetched: providers return their fallbacks, unless they use an emulator on this machine. The
    pytest fixture `mixpanel_events` is this block around a test.
    """
    from mixpanel._delivery.capture import capturing

    kept = Captured()
    with capturing(kept._keep_json):
        _active.append(kept)
        try:
            yield kept
        finally:
            _active.remove(kept)


if "pytest" in sys.modules:
    import pytest

    @pytest.fixture
    def mixpanel_events() -> Iterator[Captured]:
        """Capture what every client tracks during the test, instead of sending it."""
        with capture() as kept:
            yield kept


# ---- the text of a failed assertion -------------------------------------------------------------


def _matching(
    event: str, properties: Mapping[str, Any], times: int | None, tracked: list[Message]
) -> list[Message]:
    __tracebackhide__ = True
    expected = {name: _as_json_value(value) for name, value in properties.items()}
    same_name = [each for each in tracked if each.get("event") == event]
    matching = [each for each in same_name if not _differences(each, expected)]
    if len(matching) >= 1 if times is None else len(matching) == times:
        return matching
    raise AssertionError(_failure_text(event, expected, times, len(matching), same_name, tracked))


def _as_json_value(value: Any) -> Any:
    from mixpanel._records.json_encoding import dumps

    body, notes = dumps({"value": value})
    # A value without a JSON form may still compare equal, such as unittest.mock.ANY.
    return value if notes else json.loads(body)["value"]


def _differences(message: Message, expected: Mapping[str, Any]) -> dict[str, str]:
    properties = _properties(message)
    return {
        name: repr(properties[name]) if name in properties else "not there"
        for name, value in expected.items()
        if name not in properties or value != properties[name]
    }


def _properties(message: Message) -> dict[str, Any]:
    """Return the properties of an event, with the user id that other platforms keep beside them."""
    properties: dict[str, Any] = message.get("properties") or {}
    return {**properties, "userId": message["userId"]} if "userId" in message else properties


def _failure_text(
    event: str,
    expected: Mapping[str, Any],
    times: int | None,
    found: int,
    same_name: list[Message],
    tracked: list[Message],
) -> str:
    conditions = ", ".join(f"{name}={value!r}" for name, value in expected.items())
    what = f"{event!r} with {conditions}" if conditions else repr(event)
    if times is None:
        lines = [f"{what} was not tracked"]
    else:
        lines = [f"{what} was tracked {found} time(s), not {times}"]
    others = [each for each in same_name if _differences(each, expected)]
    if others and (times is None or found < times):
        nearest = min(others, key=lambda each: len(_differences(each, expected)))
        lines.append(f"the nearest of {len(others)} {event!r}:")
        for name, actual in _differences(nearest, expected).items():
            lines.append(f"    {name}: {actual}, expected {expected[name]!r}")
    if not same_name:
        names = {str(each.get("event")) for each in tracked}
        alike = difflib.get_close_matches(event, names, n=1)
        lines += [f"did you mean {alike[0]!r}?"] if alike else []
    lines.append(f"tracked ({len(tracked)}):" if tracked else "nothing was tracked")
    if len(tracked) > MAX_LISTED:
        lines.append(f"    … {len(tracked) - MAX_LISTED} before these")
    lines += [f"    {_line(each)}" for each in tracked[-MAX_LISTED:]]
    return "\n".join(lines)


def _line(message: Message) -> str:
    properties = _properties(message)
    shown = {name: value for name, value in properties.items() if name not in ADDED_PROPERTIES}
    text = json.dumps(shown, ensure_ascii=False)
    text = text if len(text) <= 100 else text[:99] + "…"
    user = properties.get("distinct_id", properties.get("userId", ""))
    return f"{message.get('event')}  {user}  {text}"
