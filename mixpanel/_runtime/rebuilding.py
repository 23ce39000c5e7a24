"""Copy and pickle objects that hold locks and connections: by their settings, buffers empty."""

from __future__ import annotations

import copy
import dis
from functools import cache
from types import CodeType, FunctionType
from typing import TYPE_CHECKING, Any

from mixpanel._runtime.redaction import hide_arguments

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Self

__all__ = ["Rebuilt"]


class _Hidden:
    """Settings that only a pickle shows: the frames of `copy` hold the state that they pass on."""

    __slots__ = ("reveal",)

    def __init__(self, settings: dict[str, Any]) -> None:
        self.reveal: Callable[[], dict[str, Any]] = lambda: settings

    def __reduce__(self) -> tuple[type[_Hidden], tuple[dict[str, Any]]]:
        return _Hidden, (self.reveal(),)


class Rebuilt:
    """A base class whose copies and pickles are made anew from the settings of the original.

    The attributes that a subclass or a program adds are copied and pickled as usual. A copy in the
    same process shares what cannot be copied, such as callbacks, a TLS context or an HTTP client.
    """

    _copied_deeply: frozenset[str] = frozenset()  # the settings that a deep copy copies too
    _settings: Callable[[], dict[str, Any]]

    def _rebuild(self, settings: dict[str, Any]) -> None:
        """Call the constructor of the class that called `_keep_settings`."""
        raise NotImplementedError

    def _keep_settings(self, **settings: Any) -> None:
        """Keep what the object was made with; called at the end of its constructor."""
        # In a closure, as a `Secret` is: a proxy's password is among them, and no dump of the
        # attributes may show it.
        self._settings = lambda: settings

    def _current_settings(self) -> dict[str, Any]:
        """Return what a copy is made with: the settings kept, and those that changed since."""
        return self._settings()

    def __getstate__(self) -> tuple[_Hidden, dict[str, Any]]:
        cls: Any = type(self)
        own = _own_attributes(cls)
        added = {name: value for name, value in vars(self).items() if name not in own}
        return _Hidden(self._current_settings()), added

    @hide_arguments
    def __setstate__(self, state: tuple[_Hidden, dict[str, Any]]) -> None:
        hidden, added = state
        self._rebuild(dict(hidden.reveal()))
        self.__dict__.update(added)

    @hide_arguments
    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        new = memo[id(self)] = type(self).__new__(type(self))
        settings = {
            name: copy.deepcopy(value, memo) if name in self._copied_deeply else value
            for name, value in self._current_settings().items()
        }
        _, added = self.__getstate__()
        new.__setstate__((_Hidden(settings), copy.deepcopy(added, memo)))
        return new


@cache
def _own_attributes(cls: type) -> frozenset[str]:
    """Return the names of the attributes that `_rebuild` makes anew, or that start empty.

    They are those that the code of its class and of that class's bases assigns. Reading `vars` of
    each new object would find them too, but CPython then keeps its attributes in a dict of its own,
    and every call of a method of the object takes longer.
    """
    rebuilt_by = next(each for each in cls.__mro__ if "_rebuild" in vars(each))
    names: set[str] = set()
    for base in rebuilt_by.__mro__:
        for member in vars(base).values():
            setter = getattr(member, "fset", None)
            for function in (member, getattr(member, "__wrapped__", None), setter):
                if isinstance(function, FunctionType):
                    names.update(_assigned_attributes(function.__code__))
    return frozenset(names)


def _assigned_attributes(code: CodeType) -> Iterator[str]:
    for instruction in dis.get_instructions(code):
        if instruction.opname == "STORE_ATTR":
            yield instruction.argval
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _assigned_attributes(constant)
