"""Declare a flag once: its key, its type and what to serve without it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar, cast

__all__ = ["Flag", "GivesValues"]

T = TypeVar("T")


class GivesValues(Protocol):
    """Name what a flag is read from: a provider of flags."""

    def get_variant_value(
        self, flag_key: str, fallback_value: Any, context: dict[str, Any]
    ) -> Any: ...


@dataclass(frozen=True, slots=True)
class Flag(Generic[T]):
    """Hold a flag's key and default; the default's type is the flag's type.

        NEW_CHECKOUT = Flag("new-checkout", default=False)
        if NEW_CHECKOUT.value(mp.local_flags, {"distinct_id": "u1"}): ...

    A value of another type is never served: the default is. A float flag takes whole numbers.
    """

    key: str
    default: T

    def value(self, flags: GivesValues, context: Mapping[str, Any]) -> T:
        """Return the flag's value for a context."""
        return self.accept(flags.get_variant_value(self.key, self.default, dict(context)))

    def accept(self, value: Any) -> T:
        """Return the value if it is of the flag's type, else the default."""
        expected = type(self.default)
        if expected is float and type(value) is int:
            return cast("T", float(value))
        return value if type(value) is expected else self.default
