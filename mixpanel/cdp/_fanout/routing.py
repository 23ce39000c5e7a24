"""Decide which sinks a call is for: by event, by `integrations`, by consent, by share of people.

Pure, and the same in every process: who is in a sample, or kept out, is so everywhere.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from mixpanel._records.record import mapping, sample_position
from mixpanel.cdp._segment.dialect import KINDS, Kind
from mixpanel.cdp._segment.typed_events import SemanticEvent
from mixpanel.cdp.semantic import EVENTS
from mixpanel.exceptions import ConfigurationError, ValidationError

if TYPE_CHECKING:
    from mixpanel._records.record import Properties

__all__ = ["Call", "Chosen", "Consent", "Terms", "chosen", "plain", "purposes"]

Consent = str | Iterable[str] | Mapping[str, bool]
Withheld = Literal["integrations", "routing", "action", "consent", "sampling", "unsupported"]

VIEWED = {"page": "Page Viewed", "screen": "Screen Viewed"}
ACTIONS = frozenset(name for name, event in EVENTS.items() if event.action)
# To be forgotten takes no consent, and whoever is outside of a sample may have been inside once.
FORGETTING = frozenset(
    [
        "User Deleted",
        "User Suppressed",
        "Device Deleted",
        "Object Deleted",
        "Relationship Deleted",
    ]
)


@dataclass(frozen=True, slots=True)
class Chosen:
    """What a call's `integrations` say of the sinks, and what of it is meant for the vendors."""

    sinks: Mapping[str, bool] = field(default_factory=dict)
    others: bool = True
    passed_on: Properties | None = None


@dataclass(frozen=True, slots=True)
class Call:
    """One call, the same for every sink.

    `said` are its own arguments, by the names that a Segment client knows them by. Ids, id of the
    message and moment are settled, so that all sinks say the same. `event` is its name, without
    space around; a page has one too, a person none. `is_action` tells that Customer.io would act on
    it, also by its mere name.
    """

    kind: Kind
    said: Mapping[str, Any]
    user_id: str | None
    anonymous_id: str | None
    message_id: str
    timestamp: str
    context: Properties | None = None
    chosen: Chosen = field(default_factory=Chosen)
    event: str | None = field(init=False)
    is_action: bool = field(init=False)

    def __post_init__(self) -> None:
        """Work out what every sink asks."""
        event = self.said.get("event", VIEWED.get(self.kind))
        if isinstance(event, SemanticEvent):
            name, acted_on = event.event_name, event.action
        else:
            name, acted_on = event, self.kind == "track" and event.strip() in ACTIONS
        object.__setattr__(self, "event", None if name is None else name.strip())
        object.__setattr__(self, "is_action", acted_on)

    @property
    def forgets(self) -> bool:
        """Tell whether this asks a vendor to forget something."""
        return self.is_action and self.event in FORGETTING

    @property
    def who(self) -> str:
        """Return whom a sample takes or leaves: a person, else the group, else this one message."""
        group = self.said.get("group_id")
        return self.user_id or self.anonymous_id or group or self.message_id


# ---- what a sink asks for -----------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Terms:
    """What one sink asks of a call before it gets it.

    `name` is its own, `vendor` that of its vendor: `integrations` may use either. `acts` tells
    that it acts on Customer.io's reserved events.
    """

    name: str
    vendor: str
    acts: bool
    calls: frozenset[Kind]
    wants: Callable[[str], bool]
    needs: frozenset[str]
    sample: float

    @classmethod
    def checked(
        cls,
        name: str,
        vendor: str,
        *,
        acts: bool,
        calls: Iterable[Kind],
        events: str | Iterable[str] | None,
        consent: str | Iterable[str] | None,
        sample: float,
    ) -> Terms:
        """Make the terms of what a user gave.

        :raises ConfigurationError: for what cannot be meant.
        """
        kinds = _listed(calls, f"{name}: calls")
        if kinds - set(KINDS):
            known = ", ".join(map(repr, KINDS))
            raise ConfigurationError(f"{name}: calls must be some of {known}")
        needs = frozenset() if consent is None else _listed(consent, f"{name}: consent")
        if isinstance(sample, bool) or not isinstance(sample, (int, float)) or not 0 < sample <= 1:
            raise ConfigurationError(f"{name}: sample={sample!r} must lie in (0, 1]")
        wants = everything if events is None else patterns(_listed(events, f"{name}: events"))
        theirs: frozenset[Kind] = frozenset(kind for kind in KINDS if kind in kinds)
        return cls(plain(name), plain(vendor), acts, theirs, wants, needs, sample)

    def objection(self, call: Call, consent: frozenset[str]) -> Withheld | None:
        """Return why this sink does not get a call; None when it does."""
        sinks = call.chosen.sinks
        if not sinks.get(self.name, sinks.get(self.vendor, call.chosen.others)):
            return "integrations"
        if call.kind not in self.calls:
            return "routing"
        if call.is_action:
            if not self.acts:
                return "action"
        elif call.event is not None and not self.wants(call.event):
            return "routing"
        if call.forgets:
            return None
        if not self.needs <= consent:
            return "consent"
        if self.sample < 1 and sample_position(call.who) >= self.sample:
            return "sampling"
        return None


def everything(_event: str) -> bool:
    """Want every event."""
    return True


def patterns(given: Iterable[str]) -> Callable[[str], bool]:
    """Return what tells whether an event is wanted: `*` stands for anything, `!` before for "not".

    A "not" always wins. Where there is nothing but those, every other event is wanted.
    """
    unwanted = [each[1:] for each in given if each.startswith("!")]
    wanted = [each for each in given if not each.startswith("!")] or ["*"]
    yes, no = _matcher(wanted), _matcher(unwanted)
    return lambda event: bool(yes.fullmatch(event)) and not no.fullmatch(event)


def _matcher(given: list[str]) -> re.Pattern[str]:
    each = (".*".join(map(re.escape, pattern.split("*"))) for pattern in given)
    return re.compile("|".join(each) or r"(?!)", re.DOTALL)


def _listed(given: str | Iterable[str], what: str) -> frozenset[str]:
    # A lone string is a sequence of letters; nobody means that.
    try:
        listed = frozenset([given] if isinstance(given, str) else given)
    except TypeError:
        listed = frozenset()
    if not listed or not all(isinstance(each, str) and each.strip("! ") for each in listed):
        raise ConfigurationError(f"{what} must be text, or a list of texts that is not empty")
    return listed


# ---- what a call says ---------------------------------------------------------------------------


def plain(name: str) -> str:
    """Return a name as names are compared: `Customer.io` is `customerio`."""
    return "".join(filter(str.isalnum, name.casefold()))


def purposes(consent: Consent) -> frozenset[str]:
    """Return the purposes that a person agreed to: one, several, or those that are True.

    :raises ValidationError: for what is no such thing.
    """
    if isinstance(consent, Mapping):
        consent = [purpose for purpose, given in consent.items() if given is True]
    try:
        agreed = frozenset([consent] if isinstance(consent, str) else consent)
        if all(isinstance(purpose, str) for purpose in agreed):
            return agreed
    except TypeError:
        pass
    told = "consent must be the purposes agreed to, such as {'marketing'} or {'marketing': True}"
    raise ValidationError([told])


def chosen(integrations: Any, known: frozenset[str]) -> Chosen:
    """Read a call's `integrations`; `known` are the names that sinks go by.

    A sink's own name is for the fan-out alone. Other names are the vendors' to read, and "All"
    goes with them: passed on without any, it would turn off everything behind the vendor.

    :raises ValidationError: unless sinks and "All" are True or False.
    """
    sinks: dict[str, bool] = {}
    everybody: dict[str, Any] = {}
    rest: dict[str, Any] = {}
    for name, value in mapping(integrations, "integrations").items():
        key = plain(str(name))
        if key not in known and key != "all":
            rest[name] = value
            continue
        if not isinstance(value, bool):
            raise ValidationError([f"integrations: {name!r} must be True or False"])
        if key == "all":
            everybody[name] = value
        else:
            sinks[key] = value
    others = all(everybody.values())
    return Chosen(sinks, others, {**rest, **everybody} if rest else None)
