"""Copies of messages, so that code of the program can change one without changing its own data."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Any

from mixpanel._records.json_encoding import MAX_DEPTH, MAX_VALUES
from mixpanel.exceptions import ValidationError

__all__ = ["deep_copy"]


def deep_copy(properties: dict[str, Any], *, read_iterators: bool = False) -> dict[str, Any]:
    """Return a copy that shares no dict or list, down to the depth that is written as JSON.

    Tuples become lists, and so do iterators with `read_iterators`; other values are shared. An
    object that occurs twice is copied twice, as in JSON; one that contains itself does so in the
    copy.

    :raises ValidationError: for an iterator that raises.
    """
    kinds = (dict, list, tuple, Iterator) if read_iterators else (dict, list, tuple)
    copy: dict[str, Any] = _Copier(kinds).copy(properties, 0)
    return copy


class _Copier:
    """Copies values of these types; of very many, only as many as are written as JSON."""

    def __init__(self, kinds: tuple[type, ...]) -> None:
        self._kinds = kinds
        self._open: dict[int, Any] = {}  # the copies of what contains the current value
        self._read: dict[int, list[Any]] = {}  # of iterators, which have their items once
        self._left = MAX_VALUES

    def copy(self, value: Any, depth: int) -> Any:
        if not isinstance(value, self._kinds) or depth > MAX_DEPTH or self._left <= 0:
            return value
        if id(value) in self._open:
            return self._open[id(value)]
        self._left -= 1
        copy: Any = {} if isinstance(value, dict) else []
        self._open[id(value)] = copy
        if isinstance(value, dict):
            copy.update((name, self.copy(each, depth + 1)) for name, each in value.items())
        else:
            items: Any = self._items(value) if isinstance(value, Iterator) else value
            copy.extend(self.copy(each, depth + 1) for each in items)
        del self._open[id(value)]
        return copy

    def _items(self, iterator: Iterator[Any]) -> list[Any]:
        if id(iterator) not in self._read:
            try:
                self._read[id(iterator)] = list(islice(iterator, MAX_VALUES + 1))
            except Exception as error:
                kind = type(iterator).__name__
                raise ValidationError([f"a {kind} could not be read: {error}"]) from error
        return self._read[id(iterator)]
