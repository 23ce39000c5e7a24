"""What both faces of a fan-out share: its sinks, what each of them gets, and the accounts."""

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
from mixpanel._runtime.safe_logging import logger
from mixpanel.cdp._fanout.methods import CallOptions, FanOutMethods, own
from mixpanel.cdp._fanout.routing import Call, Chosen, Consent, Terms, chosen, plain, purposes
from mixpanel.cdp._fanout.stats import Account, SinkStats, reason
from mixpanel.cdp._fanout.translation import ForMixpanel, ForSegment, Translator
from mixpanel.cdp._segment.dialect import KINDS, Kind
from mixpanel.cdp._segment.values import UserId, id_text, moment_text, now_text
from mixpanel.client import AsyncMixpanel, Mixpanel
from mixpanel.exceptions import ClosedError, ConfigurationError, ValidationError
from mixpanel.settings import check_options, checked_callback

if TYPE_CHECKING:
    from mixpanel._records.record import Record

__all__ = ["ConsentOf", "OnRefusal", "Outlet", "Sink"]

Outcome = TypeVar("Outcome")
Client_co = TypeVar("Client_co", covariant=True)

ConsentOf = Callable[[str | None], Consent]
OnRefusal = Callable[[str, Exception], object]


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
class Outlet:
    """A sink at work: `waits` tells that handing it a message may take its time."""

    name: str
    client: Any
    translator: Translator
    terms: Terms
    account: Account
    waits: bool
    keep_open: bool


class _FanOut(FanOutMethods[Outcome]):
    """What both faces share: composing for all, accounts, and knowing their sinks."""

    _kinds: tuple[type, ...]

    def __init__(
        self,
        sinks: Mapping[str, Sink[Any]],
        consent: ConsentOf | None,
        on_error: OnRefusal | None,
    ) -> None:
        checked_callback(consent, "consent")
        checked_callback(on_error, "on_error")
        if not sinks:
            raise ConfigurationError(f"{type(self).__name__} needs a sink, as mixpanel=Sink(mp)")
        self._consent = consent
        self._on_error = on_error
        self._outlets = [self._outlet(name, sink) for name, sink in sinks.items()]
        if len({id(outlet.client) for outlet in self._outlets}) < len(self._outlets):
            raise ConfigurationError("a client stands behind two sinks: it would say all twice")
        self._asks = any(outlet.terms.needs for outlet in self._outlets)
        self._known = frozenset(
            name for each in self._outlets for name in (each.terms.name, each.terms.vendor)
        )
        self._closed = False
        self._calls = 0
        fork.register_instance(fork.Order.CLIENTS, self)

    def _outlet(self, name: str, sink: Sink[Any]) -> Outlet:
        if not isinstance(sink, Sink) or not isinstance(sink.client, self._kinds):
            given = sink.client if isinstance(sink, Sink) else sink
            known = " or ".join(kind.__name__ for kind in self._kinds)
            told = f"{type(self).__name__} takes Sink({known}), not {type(given).__name__}"
            raise ConfigurationError(f"{name}: {told}")
        if plain(name) == "all":
            raise ConfigurationError(f"{name}: `integrations` means every sink by this name")
        client: Any = sink.client
        translator: Translator
        if isinstance(client, (AsyncMixpanel, Mixpanel)):
            if sink.sample != 1:
                told = "give the client sample_rate=, which weighs the events that are left"
                raise ConfigurationError(f"{name}: {told}")
            translator = ForMixpanel(client._composer, client._event_endpoint, sink.group_key)
            vendor, acts = "Mixpanel", False
        else:
            if sink.group_key is not None:
                raise ConfigurationError(f"{name}: only Mixpanel has a group_key")
            translator = ForSegment(client._composer)
            vendor, acts = client._composer.dialect.name, client._composer.dialect.actions
        terms = Terms.checked(
            name, vendor, acts=acts, calls=sink.calls, events=sink.events,
            consent=sink.consent, sample=sink.sample,
        )  # fmt: skip
        waits = self._waits(client)
        return Outlet(name, client, translator, terms, Account(), waits, sink.keep_open)

    @staticmethod
    def _waits(client: Any) -> bool:
        raise NotImplementedError

    def _now(self) -> float:
        return time.time()

    def _call(
        self, kind: Kind, user_id: UserId | None, options: CallOptions, said: Mapping[str, Any]
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
        moment, context = options.get("timestamp"), options.get("context")
        integrations = options.get("integrations")
        return Call(
            kind,
            said,
            user,
            anonymous,
            id_text(options.get("message_id"), "message_id") or new_uuid(),
            now_text(self._now()) if moment is None else moment_text(moment),
            own(context, "context"),
            Chosen() if integrations is None else chosen(integrations, self._known),
        )

    def _agreed(self, call: Call, consent: Consent | None) -> frozenset[str]:
        if consent is not None:
            return purposes(consent)
        if self._consent is None or not self._asks:
            return frozenset()
        try:
            return purposes(self._consent(call.user_id or call.anonymous_id))
        except Exception:
            # What nobody knows was not agreed to.
            logger.exception("the fan-out's consent function failed")
            return frozenset()

    def _ready(self, call: Call, consent: Consent | None) -> list[tuple[Outlet, list[Record]]]:
        """Compose a call for every sink that it is for, and account for the others.

        :raises ValidationError: when there are some, and none of them would take it.
        """
        agreed = self._agreed(call, consent)
        ready, refused, withheld = [], [], []
        for outlet in self._outlets:
            objection = outlet.terms.objection(call, agreed)
            if objection is None and outlet.translator.lacks(call):
                objection = "unsupported"
            if objection is not None:
                withheld.append((outlet, objection))
                continue
            try:
                ready.append((outlet, list(outlet.translator.records(call))))
            except ValidationError as error:
                refused.append((outlet, error))
        if refused and not ready:
            raise _joined(refused) from refused[0][1]
        for outlet, objection in withheld:
            outlet.account.withhold(objection)
        for outlet, invalid in refused:
            with self._handing(outlet):
                raise invalid
        return ready

    @contextmanager
    def _handing(self, outlet: Outlet) -> Iterator[None]:
        """Account for what is handed to a sink inside, whose errors are nobody else's."""
        account = outlet.account
        account.begin()
        try:
            yield
        except Exception as error:
            account.refuse(reason(error))
            self._tell(outlet, error)
        except BaseException:
            account.refuse("interrupted")
            raise
        else:
            account.take()

    def _tell(self, outlet: Outlet, error: Exception) -> None:
        if self._on_error is None:
            text = f"{outlet.name} did not take a call: {error}"
            outlet.client._stats.say(logging.ERROR, text, key=f"refused {reason(error)}")
            return
        try:
            self._on_error(outlet.name, error)
        except (Exception, SystemExit):
            # A callback is not ours; it must never keep a call from the other sinks.
            logger.exception("a fan-out's on_error failed")

    def stats(self) -> dict[str, SinkStats]:
        """Return what became of every call so far, by sink."""
        return {each.name: each.account.stats(each.client.stats()) for each in self._outlets}

    def after_fork(self) -> None:
        """Count from zero in a forked child."""
        for outlet in self._outlets:
            outlet.account.renew()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} to {', '.join(each.name for each in self._outlets)}>"


def _joined(refused: list[tuple[Outlet, ValidationError]]) -> ValidationError:
    said: dict[str, list[str]] = {}
    for outlet, error in refused:
        for problem in error.problems:
            said.setdefault(problem, []).append(outlet.name)
    return ValidationError([f"{problem} ({', '.join(by)})" for problem, by in said.items()])
