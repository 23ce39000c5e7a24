"""What both faces of a fan-out share: its sinks, what each of them gets, and the accounts."""

from __future__ import annotations

import logging
import os
import time
import weakref
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import KW_ONLY, dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from mixpanel._records import context as _context
from mixpanel._records.ids import new_uuid
from mixpanel._runtime.safe_logging import logger
from mixpanel.cdp._fanout.methods import CallOptions, FanOutMethods, own_copy
from mixpanel.cdp._fanout.routing import (
    Call,
    Consent,
    IntegrationSelection,
    SinkRules,
    normalize_name,
    parse_consent,
    parse_integrations,
)
from mixpanel.cdp._fanout.stats import SinkCounters, SinkStats, rejection_reason
from mixpanel.cdp._fanout.translation import MixpanelTranslator, SegmentTranslator, Translator
from mixpanel.cdp._segment.message import KINDS, Kind
from mixpanel.cdp._segment.values import UserId, id_text, now_text, timestamp_text
from mixpanel.client import AsyncMixpanel, Mixpanel
from mixpanel.exceptions import ClosedError, ConfigurationError, ValidationError
from mixpanel.settings import check_options, checked_callback

if TYPE_CHECKING:
    from mixpanel._records.record import Record

__all__ = ["ConsentOf", "Destination", "OnSinkError", "Sink"]

Outcome = TypeVar("Outcome")
Client_co = TypeVar("Client_co", covariant=True)

ConsentOf = Callable[[str | None], Consent]
OnSinkError = Callable[[str, Exception], object]


@dataclass(frozen=True)
class Sink(Generic[Client_co]):
    """A client, and what it is to get.

    - `events`: names of the events it gets, where `*` stands for anything: `["Order *"]`. Those
      with a `!` before it never gets: `["!Order Viewed"]`. Pages are events named "Page Viewed",
      screens "Screen Viewed"; people and groups are no events.
    - `calls`: the kinds of call it gets, such as `["track", "identify"]`; all without.
    - `consent`: the purpose, or all the purposes, that a person must have agreed to. Without
      their word it gets nothing, but for actions that make it forget; tell an opt-out to the client
      itself, as by `cio.unsubscribe`.
    - `sample`: which share of the people it gets, wholly or not at all, in (0, 1]: by user id, else
      by anonymous id, in every process alike. For Mixpanel give the client its `sample_rate`, which
      takes the same people and weighs their events.
    - `group_key`: what Mixpanel calls your groups by, such as "company"; it gets none without.
    - `keep_open`: it serves others too: leaving the fan-out flushes it, and does not close it.
    """

    client: Client_co
    _: KW_ONLY
    events: str | Iterable[str] | None = None
    calls: Collection[Kind] = KINDS
    consent: str | Iterable[str] | None = None
    sample: float = 1.0
    group_key: str | None = None
    keep_open: bool = False


@dataclass(frozen=True, slots=True)
class Destination:
    """A sink at work: `waits` tells that handing it a message may take its time."""

    name: str
    client: Any
    translator: Translator
    rules: SinkRules
    counters: SinkCounters
    may_block: bool
    keep_open: bool


_instances: weakref.WeakSet[_FanOut[Any]] = weakref.WeakSet()


class _FanOut(FanOutMethods[Outcome]):
    """What both faces share: composing for all, accounts, and knowing their sinks."""

    _client_types: tuple[type, ...]

    def __init__(
        self,
        sinks: Mapping[str, Sink[Any]],
        consent: ConsentOf | None,
        on_error: OnSinkError | None,
    ) -> None:
        checked_callback(consent, "consent")
        checked_callback(on_error, "on_error")
        if not sinks:
            raise ConfigurationError(f"{type(self).__name__} needs a sink, as mixpanel=Sink(mp)")
        self._consent = consent
        self._on_error = on_error
        self._destinations = [self._destination(name, sink) for name, sink in sinks.items()]
        if len({id(destination.client) for destination in self._destinations}) < len(
            self._destinations
        ):
            raise ConfigurationError("a client stands behind two sinks: it would say all twice")
        self._needs_consent = any(
            destination.rules.required_consent for destination in self._destinations
        )
        self._known_names = frozenset(
            name for each in self._destinations for name in (each.rules.name, each.rules.vendor)
        )
        self._closed = False
        self._calls = 0
        _instances.add(self)

    def _destination(self, name: str, sink: Sink[Any]) -> Destination:
        if not isinstance(sink, Sink) or not isinstance(sink.client, self._client_types):
            given = sink.client if isinstance(sink, Sink) else sink
            known = " or ".join(kind.__name__ for kind in self._client_types)
            told = f"{type(self).__name__} takes Sink({known}), not {type(given).__name__}"
            raise ConfigurationError(f"{name}: {told}")
        if normalize_name(name) == "all":
            raise ConfigurationError(f"{name}: `integrations` means every sink by this name")
        client: Any = sink.client
        translator: Translator
        if isinstance(client, (AsyncMixpanel, Mixpanel)):
            if sink.sample != 1:
                told = "give the client sample_rate=, which weighs the events that are left"
                raise ConfigurationError(f"{name}: {told}")
            translator = MixpanelTranslator(
                client._composer, client._event_endpoint, sink.group_key
            )
            vendor, supports_actions = "Mixpanel", False
        else:
            if sink.group_key is not None:
                raise ConfigurationError(f"{name}: only Mixpanel has a group_key")
            translator = SegmentTranslator(client._composer)
            vendor, supports_actions = (
                client._composer.dialect.name,
                client._composer.dialect.actions,
            )
        rules = SinkRules.from_options(
            name, vendor, supports_actions=supports_actions, calls=sink.calls, events=sink.events,
            consent=sink.consent, sample=sink.sample,
        )  # fmt: skip
        may_block = self._may_block(client)
        return Destination(
            name, client, translator, rules, SinkCounters(), may_block, sink.keep_open
        )

    @staticmethod
    def _may_block(client: Any) -> bool:
        raise NotImplementedError

    def _now(self) -> float:
        return time.time()

    def _new_call(
        self, kind: Kind, user_id: UserId | None, options: CallOptions, arguments: Mapping[str, Any]
    ) -> Call:
        if self._closed:
            raise ClosedError("the fan-out is closed: nobody got this call")
        if options:
            check_options(kind, options, CallOptions.__optional_keys__)
        user = id_text(user_id, "user_id")
        anonymous = id_text(options.get("anonymous_id"), "anonymous_id")
        scope = _context.current()
        if scope is not None and user is None and anonymous is None:
            named = scope.distinct_id if scope.user_id is None else scope.user_id
            user = id_text(named or None, "user_id")
            anonymous = id_text(scope.device_id or None, "anonymous_id")
        timestamp, context = options.get("timestamp"), options.get("context")
        integrations = options.get("integrations")
        return Call(
            kind,
            arguments,
            user,
            anonymous,
            id_text(options.get("message_id"), "message_id") or new_uuid(),
            now_text(self._now()) if timestamp is None else timestamp_text(timestamp),
            own_copy(context, "context"),
            IntegrationSelection()
            if integrations is None
            else parse_integrations(integrations, self._known_names),
        )

    def _consented(self, call: Call, consent: Consent | None) -> frozenset[str]:
        if consent is not None:
            return parse_consent(consent)
        if self._consent is None or not self._needs_consent:
            return frozenset()
        try:
            return parse_consent(self._consent(call.user_id or call.anonymous_id))
        except Exception:
            # What nobody knows was not agreed to.
            logger.exception("the fan-out's consent function failed")
            return frozenset()

    def _compose_all(
        self, call: Call, consent: Consent | None
    ) -> list[tuple[Destination, list[Record]]]:
        """Compose a call for every sink that it is for, and account for the others.

        :raises ValidationError: when there are some, and none of them would take it.
        """
        agreed = self._consented(call, consent)
        ready, rejected, filtered = [], [], []
        for destination in self._destinations:
            filter_reason = destination.rules.filter_reason(call, agreed)
            if filter_reason is None and destination.translator.is_unsupported(call):
                filter_reason = "unsupported"
            if filter_reason is not None:
                filtered.append((destination, filter_reason))
                continue
            try:
                ready.append((destination, list(destination.translator.records(call))))
            except ValidationError as error:
                rejected.append((destination, error))
        if rejected and not ready:
            raise _merged_error(rejected) from rejected[0][1]
        for destination, filter_reason in filtered:
            destination.counters.add_filtered(filter_reason)
        for destination, invalid in rejected:
            with self._counted(destination):
                raise invalid
        return ready

    @contextmanager
    def _counted(self, destination: Destination) -> Iterator[None]:
        """Account for what is handed to a sink inside, whose errors are nobody else's."""
        counters = destination.counters
        counters.start()
        try:
            yield
        except Exception as error:
            counters.add_rejected(rejection_reason(error))
            self._report(destination, error)
        except BaseException:
            counters.add_rejected("interrupted")
            raise
        else:
            counters.add_accepted()

    def _report(self, destination: Destination, error: Exception) -> None:
        if self._on_error is None:
            text = f"{destination.name} did not take a call: {error}"
            destination.client._stats.say(
                logging.ERROR, text, key=f"refused {rejection_reason(error)}"
            )
            return
        try:
            self._on_error(destination.name, error)
        except (Exception, SystemExit):
            # A callback is not ours; it must never keep a call from the other sinks.
            logger.exception("a fan-out's on_error failed")

    def stats(self) -> dict[str, SinkStats]:
        """Return what became of every call so far, by sink."""
        return {each.name: each.counters.stats(each.client.stats()) for each in self._destinations}

    def __repr__(self) -> str:
        return f"<{type(self).__name__} to {', '.join(each.name for each in self._destinations)}>"


def _merged_error(rejected: list[tuple[Destination, ValidationError]]) -> ValidationError:
    arguments: dict[str, list[str]] = {}
    for destination, error in rejected:
        for problem in error.problems:
            arguments.setdefault(problem, []).append(destination.name)
    return ValidationError([f"{problem} ({', '.join(by)})" for problem, by in arguments.items()])


def _after_fork() -> None:
    for fan_out in list(_instances):
        for destination in fan_out._destinations:
            destination.counters.reset()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
