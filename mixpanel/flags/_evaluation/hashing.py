"""Hash users into the hundred buckets of a flag: FNV-1a, 64 bit, over the value and then a salt.

Only the low byte of a state meets the next byte of text; all else is multiplication. So the effect
of a fixed salt on any state is one multiplication and one of 256 offsets, which we keep.
"""

from collections.abc import Callable
from typing import Final, Generic, TypeVar

K = TypeVar("K")
V = TypeVar("V")

OFFSET_BASIS: Final = 0xCBF29CE484222325
PRIME: Final = 0x100000001B3
MASK: Final = 0xFFFFFFFFFFFFFFFF
BUCKETS: Final = 100


def fnv1a(data: bytes, state: int = OFFSET_BASIS) -> int:
    """Hash bytes with FNV-1a (64 bit), from the start or onwards from a state."""
    for byte in data:
        state = (state ^ byte) * 0x100000001B3 & 0xFFFFFFFFFFFFFFFF
    return state


def state_of(value: str) -> int:
    """Hash an assignment value, to be continued with salts.

    :raises UnicodeEncodeError: the value holds a lone surrogate.
    """
    return fnv1a(value.encode())


def bucket(value: str, salt: str) -> int:
    """Return the bucket, 0 to 99, of a value under a salt."""
    return fnv1a(salt.encode(), state_of(value)) % BUCKETS


class Salt(dict[int, int]):
    """Apply one fixed salt to any hash state: `state * power + self[state & 255]`.

    The dict fills with the offset of each low byte as it is first met. A salt that begins with
    another one is made from it and the rest, so that beginnings and endings are hashed only once.
    """

    __slots__ = ("_data", "_parts", "power")

    def __init__(self, text: str) -> None:
        super().__init__()
        self._data = text.encode()
        self._parts: tuple[Salt, Salt] | None = None
        self.power = pow(PRIME, len(self._data), MASK + 1)

    def __add__(self, ending: "Salt") -> "Salt":
        """Return the salt that is this one and then its ending."""
        whole = Salt("")
        whole._parts = (self, ending)
        whole.power = self.power * ending.power & MASK
        return whole

    def __missing__(self, low: int) -> int:
        if self._parts is None:
            hashed = fnv1a(self._data, low)
        else:
            beginning, ending = self._parts
            hashed = ending.after(beginning.after(low))
        offset = self[low] = hashed - low * self.power & MASK
        return offset

    def after(self, state: int) -> int:
        """Return the state after the salt."""
        return state * self.power + self[state & 0xFF] & MASK


class Recent(dict[K, V], Generic[K, V]):
    """Remember the answers for up to `limit` keys, and start again when there are more.

    Reading takes no lock and moves nothing. Two threads may at worst compute the same answer twice.
    """

    __slots__ = ("_answer", "_limit")

    def __init__(self, limit: int, answer: Callable[[K], V]) -> None:
        super().__init__()
        self._limit = limit
        self._answer = answer

    def __missing__(self, key: K) -> V:
        value = self._answer(key)
        if len(self) >= self._limit:
            self.clear()
        self[key] = value
        return value
