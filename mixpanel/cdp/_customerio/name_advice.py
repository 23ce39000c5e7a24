"""Warn about event names that are probably misspelt.

A misspelt name of a semantic event is stored as an ordinary event, and the vendor reports nothing.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any, Final

from mixpanel.cdp.semantic import EVENTS

if TYPE_CHECKING:
    from mixpanel.cdp._segment.typed_events import Path, Rule, SemanticEvent

__all__ = ["Advice", "advice", "advise_foreign_action", "did_you_mean"]

Advice = Callable[[Mapping[str, Any]], list[str]]

# Names in older documentation and in other libraries, as lower-case words.
_FORMER_NAMES: Final = {
    "create device": "Device Created or Updated",
    "update device": "Device Created or Updated",
    "device created": "Device Created or Updated",
    "device updated": "Device Created or Updated",
    "delete device": "Device Deleted",
    "delete user": "User Deleted",
    "suppress user": "User Suppressed",
    "unsuppress user": "User Unsuppressed",
    "group deleted": "Object Deleted",
    "email clicked": "Email Link Clicked",
    "payment info updated": "Payment Info Entered",
    "video started": "Video Playback Started",
    "video paused": "Video Playback Paused",
    "video resumed": "Video Playback Resumed",
    "video completed": "Video Playback Completed",
    "video seek": "Video Playback Seek Started",
}
_ABBREVIATIONS: Final[dict[str, str]] = {"app": "application"}
_WORD: Final = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")
_SUFFIX: Final = re.compile(r"(?:ing|ed|es|(?<!s)s|d|e)$")
SHORT_WORD = 5  # in words of fewer letters a different letter usually makes a different word


def did_you_mean(name: str) -> str | None:
    """Return the semantic event that a name resembles; None if it is one, or resembles none.

    >>> did_you_mean("order_complete")
    'Order Completed'

    A name resembles an event if it differs in case, separators, tense or number, or in one letter
    of a long word, or if older documentation uses it. Surrounding white space is ignored, as the
    server does.
    """
    if name.strip() in EVENTS or len(name) > 100:
        return None
    words = _words(name)
    former = _FORMER_NAMES.get(" ".join(words))
    if former is not None:
        return former
    for event, event_words in _EVENT_WORDS.items():
        if len(event_words) == len(words) and all(map(_similar, words, event_words)):
            return event
    return None


@lru_cache(maxsize=4096)
def advice(event: str | None) -> Advice | None:
    """Return a function that lists the likely mistakes in a message of this event.

    None if there is nothing to check, as for most events; so the result is cached by event name.
    """
    if event is None:  # only track messages have one
        return None
    name = event.strip()
    if name not in EVENTS:
        meant = did_you_mean(event)
        problem = f"{name!r} is not a semantic event; did you mean {meant!r}?"
        return None if meant is None else lambda _message: [problem]
    kind = EVENTS[name]
    return partial(_problems, kind) if kind.action or _REQUIRED_PATHS[name] else None


@lru_cache(maxsize=4096)
def advise_foreign_action(event: str | None) -> Advice | None:
    """Return `advice` for a vendor that stores Customer.io's actions as ordinary events."""
    kind = None if event is None else EVENTS.get(event.strip())
    if kind is None or not kind.action:
        return None
    problem = f"{kind.event_name!r} is an action of Customer.io; here it is only stored as an event"
    return lambda _message: [problem]


def _problems(kind: type[SemanticEvent], message: Mapping[str, Any]) -> list[str]:
    """Return what is missing or wrong in a semantic event that is tracked by its name."""
    name, use = kind.event_name, kind.__name__
    problems = [
        f"{name!r} lacks {' or '.join(map('.'.join, paths))}: use {use}"
        for paths in _REQUIRED_PATHS[name]
        if all(_value_at(message, path) is None for path in paths)
    ]
    if kind.action:
        if kind.needs == "user" and message.get("userId") is None:
            problems.append(f"{name!r} requires a userId: an anonymous id is not enough")
        problems += [
            f"{name!r}: {'.'.join(path)} must be {field.rule.description}"
            for field in kind.schema.values()
            for path in field.paths
            if not _is_sent_well(_value_at(message, path), field.rule)
        ]
    return problems


def _is_sent_well(value: Any, rule: Rule) -> bool:
    """Return True if a vendor reads a value that is sent as it is."""
    # Only a typed event converts the digits of a number.
    is_digits = isinstance(value, str) and rule.convert is int
    return value is None or (rule.accepts(value) and not is_digits)


def _words(name: str) -> list[str]:
    words: list[str] = [word.lower() for word in _WORD.findall(name)]
    return [_ABBREVIATIONS.get(word, word) for word in words]


def _similar(one: str, other: str) -> bool:
    if one == other or _SUFFIX.sub("", one) == _SUFFIX.sub("", other):
        return True
    if min(len(one), len(other)) < SHORT_WORD or abs(len(one) - len(other)) > 1:
        return False
    start = next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), None)
    if start is None:
        return True  # one has an additional letter at the end
    rest, other_rest = one[start:], other[start:]
    swapped = rest[:2] == other_rest[1::-1] and rest[2:] == other_rest[2:]
    replaced = rest[1:] == other_rest[1:]
    return swapped or replaced or rest[1:] == other_rest or rest == other_rest[1:]


def _value_at(message: Any, path: Path) -> Any:
    for name in path:
        message = message.get(name) if isinstance(message, dict) else None
    return message


_EVENT_WORDS: Final = {name: _words(name) for name in EVENTS}
_REQUIRED_PATHS: Final = {
    name: [field.paths for field in kind.schema.values() if field.required]
    for name, kind in EVENTS.items()
}
