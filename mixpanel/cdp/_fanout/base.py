"""What `AsyncFanOut` and `FanOut` share: sinks, their rules, and composing calls for them."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import KW_ONLY, dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from mixpanel._records import context as _context
from mixpanel._records.ids import new_uuid
from mixpanel._runtime import fork
from mixpanel._runtime.rebuilding import Rebuilt
from mixpanel._runtime.safe_logging import logger
from mixpanel.cdp._fanout.hooked import apply_hook
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
from mixpanel.cdp._segment.composer import _required_id
from mixpanel.cdp._segment.hooks import BeforeSendHook
from mixpanel.cdp._segment.message import KINDS, Kind
from mixpanel.cdp._segment.values import UserId, id_text, now_text, timestamp_text
from mixpanel.client import AsyncMixpanel, Mixpanel
from mixpanel.exceptions import ClosedError, ConfigurationError, ValidationError
from mixpanel.settings import check_options, checked_callback

if TYPE_CHECKING:
    from mixpanel._delivery.health import Health
    from mixpanel._records.record import BeforeSend, Record

__all__ = ["ConsentOf", "Destination", "OnSinkError", "Sink"]

Outcome = TypeVar("Outcome")
Client_co = TypeVar("Client_co", covariant=True)

ConsentOf = Callable[[str | None], Consent]
OnSinkError = Callable[[str, Exception], object]


@dataclass(frozen=True)
class Sink(Generic[Client_co]):
    """A client, and the rules for which calls it receives.

    - `events`: patterns of event names, where `*` matches anything: `["Order *"]`. A pattern after
      `!` excludes events: `["!Order Viewed"]`. A page counts as the event "Page Viewed" and a
      screen as "Screen Viewed"; `identify` and `group` are not filtered by `events`.
    - `calls`: the kinds of call, such as `["track", "identify"]`. Default: all.
    - `consent`: one or more purposes; a person must have agreed to all of them. Without consent the
      sink receives nothing but deletions. Send an opt-out to the client itself, for example with
      `cio.unsubscribe`.
    - `sample`: the share of people in (0, 1], chosen by user id, else anonymous id. All calls about
      a person are in the sample or none, and every process chooses the same people. For Mixpanel
      set `sample_rate` on the client, which chooses the same people and weights their events.
    - `group_key`: the key of your groups at Mixpanel, such as "company". Without it, Mixpanel
      receives no groups.
    - `keep_open`: flush the client when the fan-out closes, but leave it open for other uses.
    """

    client: Client_co
    _: KW_ONLY
    events: str | Iterable[str] | None = None
    calls: Collection[Kind] = KINDS
    consent: str | Iterable[str] | None = None
    sample: float = 1.0
    group_key: str | None = None
    keep_open: bool = False

    def __post_init__(self) -> None:
        """Keep what an iterator yields, which only the first reader would get."""
        for name in ("events", "calls", "consent"):
            given = getattr(self, name)
            if isinstance(given, Iterator):
                object.__setattr__(self, name, tuple(given))


@dataclass(frozen=True, slots=True)
class Destination:
    """A sink in use.

    `may_block` is True if delivering to the client may take time: it sends immediately, or waits
    for space in its buffer.
    """

    name: str
    client: Any
    translator: Translator
    rules: SinkRules
    counters: SinkCounters
    may_block: bool
    keep_open: bool


class _FanOut(FanOutMethods[Outcome], Rebuilt):
    """Sinks and counters, and the composing of a call for every sink."""

    _client_types: tuple[type, ...]
    _copied_deeply = frozenset({"sinks"})

    def __init__(
        self,
        sinks: Mapping[str, Sink[Any]],
        consent: ConsentOf | None,
        on_error: OnSinkError | None,
        before_send: BeforeSend | None,
    ) -> None:
        checked_callback(consent, "consent")
        checked_callback(on_error, "on_error")
        if not sinks:
            raise ConfigurationError(
                f"{type(self).__name__} has no sinks; pass at least one, such as mixpanel=Sink(mp)"
            )
        self._consent = consent
        self._on_error = on_error
        self._before_send = None if before_send is None else BeforeSendHook(before_send)
        self._destinations = [self._destination(name, sink) for name, sink in sinks.items()]
        if len({id(each.client) for each in self._destinations}) < len(self._destinations):
            raise ConfigurationError(
                "two sinks use the same client, so every message would be sent twice; "
                "give each sink a client of its own"
            )
        self._needs_consent = any(each.rules.required_consent for each in self._destinations)
        self._known_names = frozenset(
            name for each in self._destinations for name in (each.rules.name, each.rules.vendor)
        )
        self._closed = False
        self._calls = 0
        self._may_wait = any(each.may_block for each in self._destinations)
        fork.register_instance(fork.Order.CLIENTS, self)
        self._keep_settings(
            sinks=dict(sinks), consent=consent, on_error=on_error, before_send=before_send
        )

    def _rebuild(self, settings: dict[str, Any]) -> None:
        _FanOut.__init__(self, **settings)

    def _destination(self, name: str, sink: Sink[Any]) -> Destination:
        if not isinstance(sink, Sink) or not isinstance(sink.client, self._client_types):
            given = sink.client if isinstance(sink, Sink) else sink
            known = " or ".join(kind.__name__ for kind in self._client_types)
            raise ConfigurationError(
                f"{name}: {type(self).__name__} takes Sink({known}), not {type(given).__name__}"
            )
        if normalize_name(name) == "all":
            raise ConfigurationError(
                f"{name}: reserved name, which means every sink in `integrations`; choose another"
            )
        client: Any = sink.client
        translator: Translator
        if isinstance(client, (AsyncMixpanel, Mixpanel)):
            if sink.sample != 1:
                raise ConfigurationError(
                    f"{name}: sample= is not supported for Mixpanel; pass sample_rate= to its "
                    "client, which weights the remaining events"
                )
            translator = MixpanelTranslator(
                client._composer, client._event_endpoint, sink.group_key
            )
            vendor, supports_actions = "Mixpanel", False
        else:
            if sink.group_key is not None:
                raise ConfigurationError(f"{name}: only a Mixpanel sink takes group_key=")
            translator = SegmentTranslator(client._composer)
            dialect = client._composer.dialect
            vendor, supports_actions = dialect.name, dialect.actions
        rules = SinkRules.from_options(
            name, vendor, supports_actions=supports_actions, calls=sink.calls, events=sink.events,
            consent=sink.consent, sample=sink.sample,
        )  # fmt: skip
        return Destination(
            name, client, translator, rules, SinkCounters(), self._may_block(client), sink.keep_open
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
            raise ClosedError("the fan-out is closed: this call was sent to no sink")
        if options:
            check_options(kind, options, CallOptions.__optional_keys__)
        notes: list[str] = []
        user = id_text(user_id, "user_id", notes.append)
        anonymous = id_text(options.get("anonymous_id"), "anonymous_id", notes.append)
        if kind == "group":
            group = _required_id(arguments["group_id"], "group_id", notes.append)
            arguments = {**arguments, "group_id": group}
        scope = _context.current()
        # The ids of a `mixpanel.context` are used together or not at all: a call with an id of its
        # own is about that person alone.
        if scope is not None and user is None and anonymous is None:
            named = scope.distinct_id if scope.user_id is None else scope.user_id
            user = id_text(named or None, "user_id", notes.append)
            anonymous = id_text(scope.device_id or None, "anonymous_id", notes.append)
        timestamp, context = options.get("timestamp"), options.get("context")
        integrations = options.get("integrations")
        return Call(
            kind,
            arguments,
            user,
            anonymous,
            id_text(options.get("message_id"), "message_id", notes.append) or new_uuid(),
            now_text(self._now()) if timestamp is None else timestamp_text(timestamp),
            own_copy(context, "context"),
            IntegrationSelection()
            if integrations is None
            else parse_integrations(integrations, self._known_names),
            tuple(notes),
        )

    def _consented(self, call: Call, consent: Consent | None) -> frozenset[str]:
        if consent is not None:
            return parse_consent(consent)
        if self._consent is None or not self._needs_consent:
            return frozenset()
        try:
            return parse_consent(self._consent(call.user_id or call.anonymous_id))
        except Exception:
            # Unknown consent counts as none.
            logger.exception("the fan-out's consent function failed")
            return frozenset()

    def _compose_all(
        self, call: Call, consent: Consent | None
    ) -> list[tuple[Destination, list[Record]]]:
        """Compose a call for every sink that receives it, and count it for the others.

        All records are composed before the first is delivered, so that a call that no sink accepts
        raises without having been sent anywhere, and is not counted.

        :raises ValidationError: when the call is invalid for every sink that it was meant for.
        """
        if self._before_send is not None:
            changed = apply_hook(self._before_send, call)
            if isinstance(changed, str):
                for destination in self._destinations:
                    destination.counters.add_filtered(changed)
                return []
            call = changed
        return self._compose_for_sinks(call, consent)

    def _compose_for_sinks(
        self, call: Call, consent: Consent | None
    ) -> list[tuple[Destination, list[Record]]]:
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

    def _check_durable(self, what: str) -> None:
        """Check that all sinks keep messages on disk, or deliver them before a call returns.

        :raises ConfigurationError: naming `what` needs a spool, and the sink without one.
        """
        for destination in self._destinations:
            try:
                destination.client._durable_sender(what)
            except ConfigurationError as error:
                raise ConfigurationError(f"{destination.name}: {error}") from None

    @contextmanager
    def _counted(
        self, destination: Destination, errors: dict[str, Exception] | None = None
    ) -> Iterator[None]:
        """Count the delivery to a sink in this block, and keep its errors from the other sinks.

        The error is added to `errors`, by the name of the sink.
        """
        counters = destination.counters
        counters.start()
        try:
            yield
        except Exception as error:
            counters.add_rejected(rejection_reason(error))
            self._report(destination, error)
            if errors is not None:
                errors[destination.name] = error
        except BaseException:
            counters.add_rejected("interrupted")
            raise
        else:
            counters.add_accepted()

    def _report(self, destination: Destination, error: Exception) -> None:
        if self._on_error is None:
            text = f"{destination.name} rejected a call: {error}"
            destination.client._stats.log_limited(
                logging.ERROR, text, key=f"rejected {rejection_reason(error)}"
            )
            return
        try:
            self._on_error(destination.name, error)
        except (Exception, SystemExit):
            # An error in the user's callback must not keep the call from the other sinks.
            logger.exception("the fan-out's on_error callback failed")

    def stats(self) -> dict[str, SinkStats]:
        """Return the counts of all calls so far, by sink."""
        return {each.name: each.counters.stats(each.client.stats()) for each in self._destinations}

    def health(self) -> dict[str, Health]:
        """Return what each sink's client is doing, by sink."""
        return {each.name: each.client.health() for each in self._destinations}

    def after_fork(self) -> None:
        """Count from zero in a forked child."""
        for destination in self._destinations:
            destination.counters.reset()

    def __repr__(self) -> str:
        # A debugger may show it before `__init__` has returned.
        names = ", ".join(each.name for each in getattr(self, "_destinations", ()))
        return f"<{type(self).__name__} to {names}>"


def _merged_error(rejected: list[tuple[Destination, ValidationError]]) -> ValidationError:
    sinks: dict[str, list[str]] = {}
    for destination, error in rejected:
        for problem in error.problems:
            sinks.setdefault(problem, []).append(destination.name)
    return ValidationError([f"{problem} ({', '.join(names)})" for problem, names in sinks.items()])
