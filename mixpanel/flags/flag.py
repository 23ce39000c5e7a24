"""Declare a flag once: its key, its type and its default."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar, cast

__all__ = ["Flag", "ProvidesFlagValues"]

T = TypeVar("T")


class ProvidesFlagValues(Protocol):
    """Anything that a flag's value is read from: a provider, or `FixedFlags` in tests."""

    def get_variant_value(
        self, flag_key: str, fallback_value: Any, context: dict[str, Any]
    ) -> Any: ...


@dataclass(frozen=True, slots=True)
class Flag(Generic[T]):
    """A flag's key and default; the default's type is the flag's type.

        NEW_CHECKOUT = Flag("new-checkout", default=False)
        if NEW_CHECKOUT.value(mp.local_flags, {"distinct_id": "u1"}): ...

    Instead of a value of another type the default is returned. A float flag accepts integers.
    """

    key: str
    default: T

    def value(self, flags: ProvidesFlagValues, context: Mapping[str, Any]) -> T:
        """Return the flag's value for a context."""
        # A provider returns the fallback for what is no mapping.
        given = dict(context) if isinstance(context, Mapping) else context
        return self.accept(flags.get_variant_value(self.key, self.default, given))

    def accept(self, value: Any) -> T:
        """Return the value if it is of the flag's type, else the default."""
        expected = type(self.default)
        if expected is float and type(value) is int:
            return cast("T", float(value))
        return value if type(value) is expected else self.default
