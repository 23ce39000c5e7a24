"""Decide which sinks a call is for: by event, by `integrations`, by consent, by share of people.

Pure, and the same in every process: who is in a sample, or kept out, is so everywhere.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from mixpanel._records.record import mapping, sample_position
from mixpanel.cdp._segment.message import KINDS, Kind
from mixpanel.cdp._segment.typed_events import SemanticEvent
from mixpanel.cdp.semantic import EVENTS
from mixpanel.exceptions import ConfigurationError, ValidationError

if TYPE_CHECKING:
    from mixpanel._records.record import Properties

__all__ = [
    "Call",
    "Consent",
    "IntegrationSelection",
    "SinkRules",
    "normalize_name",
    "parse_consent",
    "parse_integrations",
]

Consent = str | Iterable[str] | Mapping[str, bool]
FilterReason = Literal["integrations", "routing", "action", "consent", "sampling", "unsupported"]

VIEW_EVENTS = {"page": "Page Viewed", "screen": "Screen Viewed"}
ACTIONS = frozenset(name for name, event in EVENTS.items() if event.action)
# To be forgotten takes no consent, and whoever is outside of a sample may have been inside once.
DELETIONS = frozenset(
    [
        "User Deleted",
        "User Suppressed",
        "Device Deleted",
        "Object Deleted",
        "Relationship Deleted",
    ]
)


@dataclass(frozen=True, slots=True)
class IntegrationSelection:
    """What a call's `integrations` say of the sinks, and what of it is meant for the vendors."""

    sinks: Mapping[str, bool] = field(default_factory=dict)
    default: bool = True
    for_vendors: Properties | None = None


@dataclass(frozen=True, slots=True)
class Call:
    """One call, the same for every sink.

    `said` are its own arguments, by the names that a Segment client knows them by. Ids, id of the
    message and moment are settled, so that all sinks say the same. `event` is its name, without
    space around; a page has one too, a person none. `is_action` tells that Customer.io would act on
    it, also by its mere name.
    """

    kind: Kind
    arguments: Mapping[str, Any]
    user_id: str | None
    anonymous_id: str | None
    message_id: str
    timestamp: str
    context: Properties | None = None
    integrations: IntegrationSelection = field(default_factory=IntegrationSelection)
    event: str | None = field(init=False)
    is_action: bool = field(init=False)

    def __post_init__(self) -> None:
        """Work out what every sink asks."""
        event = self.arguments.get("event", VIEW_EVENTS.get(self.kind))
        if isinstance(event, SemanticEvent):
            name, acted_on = event.event_name, event.action
        else:
            name, acted_on = event, self.kind == "track" and event.strip() in ACTIONS
        object.__setattr__(self, "event", None if name is None else name.strip())
        object.__setattr__(self, "is_action", acted_on)

    @property
    def is_deletion(self) -> bool:
        """Tell whether this asks a vendor to forget something."""
        return self.is_action and self.event in DELETIONS

    @property
    def sampling_id(self) -> str:
        """Return whom a sample takes or leaves: a person, else the group, else this one message."""
        group = self.arguments.get("group_id")
        return self.user_id or self.anonymous_id or group or self.message_id


# ---- what a sink asks for -----------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class SinkRules:
    """What one sink asks of a call before it gets it.

    `name` is its own, `vendor` that of its vendor: `integrations` may use either. `acts` tells
    that it acts on Customer.io's reserved events.
    """

    name: str
    vendor: str
    supports_actions: bool
    calls: frozenset[Kind]
    matches_event: Callable[[str], bool]
    required_consent: frozenset[str]
    sample: float

    @classmethod
    def from_options(
        cls,
        name: str,
        vendor: str,
        *,
        supports_actions: bool,
        calls: Iterable[Kind],
        events: str | Iterable[str] | None,
        consent: str | Iterable[str] | None,
        sample: float,
    ) -> SinkRules:
        """Make the terms of what a user gave.

        :raises ConfigurationError: for what cannot be meant.
        """
        kinds = _as_set(calls, f"{name}: calls")
        if kinds - set(KINDS):
            known = ", ".join(map(repr, KINDS))
            raise ConfigurationError(f"{name}: calls must be some of {known}")
        required_consent = frozenset() if consent is None else _as_set(consent, f"{name}: consent")
        if isinstance(sample, bool) or not isinstance(sample, (int, float)) or not 0 < sample <= 1:
            raise ConfigurationError(f"{name}: sample={sample!r} must lie in (0, 1]")
        matches_event = (
            match_all if events is None else event_matcher(_as_set(events, f"{name}: events"))
        )
        theirs = frozenset(kind for kind in KINDS if kind in kinds)
        return cls(
            normalize_name(name),
            normalize_name(vendor),
            supports_actions,
            theirs,
            matches_event,
            required_consent,
            sample,
        )

    def filter_reason(self, call: Call, consent: frozenset[str]) -> FilterReason | None:
        """Return why this sink does not get a call; None when it does."""
        sinks = call.integrations.sinks
        if not sinks.get(self.name, sinks.get(self.vendor, call.integrations.default)):
            return "integrations"
        if call.kind not in self.calls:
            return "routing"
        if call.is_action:
            if not self.supports_actions:
                return "action"
        elif call.event is not None and not self.matches_event(call.event):
            return "routing"
        if call.is_deletion:
            return None
        if not self.required_consent <= consent:
            return "consent"
        if self.sample < 1 and sample_position(call.sampling_id) >= self.sample:
            return "sampling"
        return None


def match_all(_event: str) -> bool:
    """Want every event."""
    return True


def event_matcher(given: Iterable[str]) -> Callable[[str], bool]:
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


def _as_set(given: str | Iterable[str], what: str) -> frozenset[str]:
    # A lone string is a sequence of letters; nobody means that.
    try:
        listed = frozenset([given] if isinstance(given, str) else given)
    except TypeError:
        listed = frozenset()
    if not listed or not all(isinstance(each, str) and each.strip("! ") for each in listed):
        raise ConfigurationError(f"{what} must be text, or a list of texts that is not empty")
    return listed


# ---- what a call says ---------------------------------------------------------------------------


def normalize_name(name: str) -> str:
    """Return a name as names are compared: `Customer.io` is `customerio`."""
    return "".join(filter(str.isalnum, name.casefold()))


def parse_consent(consent: Consent) -> frozenset[str]:
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


def parse_integrations(integrations: Any, known: frozenset[str]) -> IntegrationSelection:
    """Read a call's `integrations`; `known` are the names that sinks go by.

    A sink's own name is for the fan-out alone. Other names are the vendors' to read, and "All"
    goes with them: passed on without any, it would turn off everything behind the vendor.

    :raises ValidationError: unless sinks and "All" are True or False.
    """
    sinks: dict[str, bool] = {}
    everybody: dict[str, Any] = {}
    rest: dict[str, Any] = {}
    for name, value in mapping(integrations, "integrations").items():
        key = normalize_name(str(name))
        if key not in known and key != "all":
            rest[name] = value
            continue
        if not isinstance(value, bool):
            raise ValidationError([f"integrations: {name!r} must be True or False"])
        if key == "all":
            everybody[name] = value
        else:
            sinks[key] = value
    default = all(everybody.values())
    return IntegrationSelection(sinks, default, {**rest, **everybody} if rest else None)
