"""Copy and pickle objects that hold locks and connections: by their settings, buffers empty."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Self

__all__ = ["Rebuilt"]


class Rebuilt:
    """A base class whose copies and pickles are made anew from the settings of the original.

    The attributes that a subclass or a program adds are copied and pickled as usual. A copy in the
    same process shares what cannot be copied, such as callbacks, a TLS context or an HTTP client.
    """

    _settings: Callable[[], dict[str, Any]]
    _own: frozenset[str]  # the names of the attributes that are made anew

    def _rebuild(self, settings: dict[str, Any]) -> None:
        """Call the constructor of the class that called `_keep_settings`."""
        raise NotImplementedError

    def _keep_settings(self, **settings: Any) -> None:
        """Keep what the object was made with; called at the end of its constructor."""
        # In a closure, as a `Secret` is: a proxy's password is among them, and no dump of the
        # attributes may show it.
        self._settings = lambda: settings
        self._own = frozenset([*vars(self), "_own"])

    def __getstate__(self) -> tuple[dict[str, Any], dict[str, Any]]:
        added = {name: value for name, value in vars(self).items() if name not in self._own}
        return self._settings(), added

    def __setstate__(self, state: tuple[dict[str, Any], dict[str, Any]]) -> None:
        settings, added = state
        self._rebuild(dict(settings))
        self.__dict__.update(added)

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        new = memo[id(self)] = type(self).__new__(type(self))
        settings, added = self.__getstate__()
        settings = {
            name: copy.deepcopy(value, memo) if name == "consumer" else value
            for name, value in settings.items()
        }
        new.__setstate__((settings, copy.deepcopy(added, memo)))
        return new
