"""Advise on event names: what nearly is a semantic event fires no mapping, and nobody says so."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any, Final

from mixpanel.cdp.semantic import EVENTS

if TYPE_CHECKING:
    from mixpanel.cdp._segment.typed_events import Path, SemanticEvent

__all__ = ["Advice", "advice", "advise_foreign_action", "did_you_mean"]

Advice = Callable[[Mapping[str, Any]], list[str]]

# Names of older pages and other libraries, in plain words.
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
SHORT_WORD = 5  # in words of fewer letters one more or less makes another word


def did_you_mean(name: str) -> str | None:
    """Return the semantic event that a name nearly is; None when it is one, or is far from any.

    >>> did_you_mean("order_complete")
    'Order Completed'

    Near are other capitals and separators, another tense or number, one wrong letter in a long
    word, and the names of older pages. White space around a name does not count: the server takes
    it off.
    """
    if name.strip() in EVENTS or len(name) > 100:
        return None
    words = _words(name)
    former = _FORMER_NAMES.get(" ".join(words))
    if former is not None:
        return former
    for schema, theirs in _EVENT_WORDS.items():
        if len(theirs) == len(words) and all(map(_similar, words, theirs)):
            return schema
    return None


@lru_cache(maxsize=4096)
def advice(event: str | None) -> Advice | None:
    """Return who says, in sentences, what is doubtful about a message of this event.

    None when nobody would: it is the answer for most, so it is remembered by the event's name.
    """
    if event is None:  # only tracked messages have one
        return None
    name = event.strip()
    if name not in EVENTS:
        meant = did_you_mean(event)
        doubt = f"{name!r} is no semantic event: did you mean {meant!r}?"
        return None if meant is None else lambda _message: [doubt]
    kind = EVENTS[name]
    return partial(_problems, kind) if kind.action or _REQUIRED_PATHS[name] else None


@lru_cache(maxsize=4096)
def advise_foreign_action(event: str | None) -> Advice | None:
    """Do as `advice`, for a vendor to whom Customer.io's actions are events as any other."""
    kind = None if event is None else EVENTS.get(event.strip())
    if kind is None or not kind.action:
        return None
    doubt = f"{kind.event_name!r} is an action of Customer.io: it is kept here, and does nothing"
    return lambda _message: [doubt]


def _problems(kind: type[SemanticEvent], message: Mapping[str, Any]) -> list[str]:
    """Say what keeps an event, tracked by its name, from doing what it is for."""
    name, use = kind.event_name, kind.__name__
    doubts = [
        f"{name!r} lacks {' or '.join(map('.'.join, paths))}: use {use}"
        for paths in _REQUIRED_PATHS[name]
        if all(_value_at(message, path) is None for path in paths)
    ]
    if kind.action:
        if kind.needs == "user" and message.get("userId") is None:
            doubts.append(f"{name!r} needs a userId: an anonymous id is not enough")
        doubts += [
            f"{name!r}: {'.'.join(path)} must be {field.rule.description}"
            for field in kind.schema.values()
            for path in field.paths
            if (value := _value_at(message, path)) is not None and not field.rule.accepts(value)
        ]
    return doubts


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
        return True  # one is the other and a letter more
    mine, theirs = one[start:], other[start:]
    swapped = mine[:2] == theirs[1::-1] and mine[2:] == theirs[2:]
    return swapped or mine[1:] == theirs[1:] or mine[1:] == theirs or mine == theirs[1:]


def _value_at(message: Any, path: Path) -> Any:
    for name in path:
        message = message.get(name) if isinstance(message, dict) else None
    return message


_EVENT_WORDS: Final = {name: _words(name) for name in EVENTS}
_REQUIRED_PATHS: Final = {
    name: [field.paths for field in kind.schema.values() if field.required]
    for name, kind in EVENTS.items()
}
