"""Decide which sinks receive a call: by event, `integrations`, consent and sample.

The functions are pure, so every process decides alike: a person is in a sample in all of them or in
none.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from mixpanel._records.record import checked_mapping, sample_position
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
# A deletion needs no consent, and is sent for people outside of the sample too: they may have been
# inside of an earlier, larger one.
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
    """The parsed `integrations` of a call.

    `sinks` turns single sinks on or off by name and `default` the rest; `for_vendors` is passed on
    in the message.
    """

    sinks: Mapping[str, bool] = field(default_factory=dict)
    default: bool = True
    for_vendors: Properties | None = None


@dataclass(frozen=True, slots=True)
class Call:
    """One call, the same for every sink.

    `arguments` are those of its kind, by the names that a Segment client gives them. Ids and
    timestamp are fixed before the sinks compose their records, so that all send the same; `notes`
    are about what that changed, for each sink's client to count. `event`
    is the stripped event name, also of a page or screen; None for `identify` and `group`.
    `is_action` is True if Customer.io acts on the event, also when it is tracked by its name.
    """

    kind: Kind
    arguments: Mapping[str, Any]
    user_id: str | None
    anonymous_id: str | None
    message_id: str
    timestamp: str
    context: Properties | None = None
    integrations: IntegrationSelection = field(default_factory=IntegrationSelection)
    notes: tuple[str, ...] = ()
    event: str | None = field(init=False)
    is_action: bool = field(init=False)

    def __post_init__(self) -> None:
        """Derive what every sink's rules look at."""
        event = self.arguments.get("event", VIEW_EVENTS.get(self.kind))
        if isinstance(event, SemanticEvent):
            name, acted_on = event.event_name, event.action
        else:
            name, acted_on = event, self.kind == "track" and event.strip() in ACTIONS
        object.__setattr__(self, "event", None if name is None else name.strip())
        object.__setattr__(self, "is_action", acted_on)

    @property
    def is_deletion(self) -> bool:
        """Return True if the call asks a vendor to delete something."""
        return self.is_action and self.event in DELETIONS

    @property
    def sampling_id(self) -> str:
        """Return the id that decides about a sample: of the person, the group or the message."""
        group = self.arguments.get("group_id")
        return self.user_id or self.anonymous_id or group or self.message_id


# ---- rules of a sink ----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class SinkRules:
    """The rules by which one sink receives calls.

    `integrations` may use the sink's own `name` or its `vendor`. `supports_actions` is True if the
    vendor acts on Customer.io's reserved events.
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
        """Return the rules for the options of a `Sink`.

        :raises ConfigurationError: for an invalid option.
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
        theirs: frozenset[Kind] = frozenset(kind for kind in KINDS if kind in kinds)
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
        """Return why this sink does not receive a call; None if it does.

        Deletions pass without consent and sampling, but `integrations` and `calls` still apply.
        """
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
    """Return True for every event."""
    return True


def event_matcher(given: Iterable[str]) -> Callable[[str], bool]:
    """Return a function that tells whether an event matches: `*` is a wildcard, `!` excludes.

    An exclusion always takes precedence. With exclusions only, every other event matches.
    """
    excluded = [each[1:] for each in given if each.startswith("!")]
    included = [each for each in given if not each.startswith("!")] or ["*"]
    include, exclude = _pattern(included), _pattern(excluded)
    return lambda event: bool(include.fullmatch(event)) and not exclude.fullmatch(event)


def _pattern(given: list[str]) -> re.Pattern[str]:
    each = (".*".join(map(re.escape, pattern.split("*"))) for pattern in given)
    return re.compile("|".join(each) or r"(?!)", re.DOTALL)  # (?!) matches nothing


def _as_set(given: str | Iterable[str], what: str) -> frozenset[str]:
    # A lone string would be read as a sequence of letters.
    try:
        listed = frozenset([given] if isinstance(given, str) else given)
    except TypeError:
        listed = frozenset()
    if not listed or not all(isinstance(each, str) and each.strip("! ") for each in listed):
        raise ConfigurationError(f"{what} must be text, or a non-empty list of texts")
    return listed


# ---- options of a call --------------------------------------------------------------------------


def normalize_name(name: str) -> str:
    """Return a name in the form in which names are compared: `Customer.io` is `customerio`."""
    return "".join(filter(str.isalnum, name.casefold()))


def parse_consent(consent: Consent) -> frozenset[str]:
    """Return the purposes that a person agreed to; of a mapping, those that are True.

    :raises ValidationError: for anything but text, texts, or a mapping.
    """
    if isinstance(consent, Mapping):
        consent = [purpose for purpose, given in consent.items() if given is True]
    try:
        agreed = frozenset([consent] if isinstance(consent, str) else consent)
        if all(isinstance(purpose, str) for purpose in agreed):
            return agreed
    except TypeError:
        pass
    raise ValidationError(
        ["consent must be the purposes agreed to, such as {'marketing'} or {'marketing': True}"]
    )


def parse_integrations(integrations: Any, known: frozenset[str]) -> IntegrationSelection:
    """Return what a call's `integrations` select; `known` are the names of sinks and vendors.

    The names of sinks are not passed on. Other names are, together with "All": passed on alone, a
    false "All" would turn off every destination that is set up at the vendor.

    :raises ValidationError: if a sink or "All" is neither True nor False.
    """
    sinks: dict[str, bool] = {}
    all_key: dict[str, Any] = {}
    rest: dict[str, Any] = {}
    for name, value in checked_mapping(integrations, "integrations").items():
        key = normalize_name(str(name))
        if key not in known and key != "all":
            rest[name] = value
            continue
        if not isinstance(value, bool):
            raise ValidationError([f"integrations: {name!r} must be True or False"])
        if key == "all":
            all_key[name] = value
        else:
            sinks[key] = value
    default = all(all_key.values())
    return IntegrationSelection(sinks, default, {**rest, **all_key} if rest else None)
