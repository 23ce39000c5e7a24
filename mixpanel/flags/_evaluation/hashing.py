"""Hash users into the hundred buckets of a flag: FNV-1a, 64 bit, over a value and then a salt.

Mixpanel puts user `value` into bucket `fnv1a(value + salt) % 100`. FNV-1a takes one byte at a time:

    state = (state ^ byte) * PRIME % 2**64

The hash of the value is kept, and only the salt's bytes follow. Their loop is replaced by one
multiplication and one addition, since `^ byte` changes nothing but the low byte of the state: the
rest of it is only multiplied by PRIME, once for each byte of the salt. So for a fixed salt

    after(state) = state * power + offset[state % 256]  (mod 2**64)

with `power = PRIME ** len(salt)` and one offset for each of the 256 low bytes. For example, with
the salt "new-checkoutrollout":

>>> state = state_of("u-17")
>>> hex(state), hex(state % 256)
('0x884c27e5bc24e4cf', '0xcf')
>>> salt = Salt("new-checkoutrollout")
>>> hex(salt.power), hex(salt[0xCF])
('0xd2bad6fd93ceb16b', '0xd038f653fe96001a')
>>> hex((state * salt.power + salt[0xCF]) % 2**64)
'0x49ab3a151fc6c19f'
>>> (state * salt.power + salt[0xCF]) % 2**64 == fnv1a(b"u-17new-checkoutrollout")
True
>>> bucket("u-17", "new-checkoutrollout")
19
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
    """Hash bytes with FNV-1a (64 bit), from the start or continuing from a state."""
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
    """Continue a hash state with a fixed salt: `state * power + self[state & 255]`.

    The dict holds the offset of each low byte, computed when that byte first occurs. A salt that
    starts with another one is made by adding the two, so that common beginnings and endings are
    hashed only once: `Salt("new-checkout") + Salt("rollout")`.
    """

    __slots__ = ("_data", "_parts", "power")

    def __init__(self, text: str) -> None:
        super().__init__()
        self._data = text.encode()
        self._parts: tuple[Salt, Salt] | None = None
        self.power = pow(PRIME, len(self._data), MASK + 1)

    def __add__(self, ending: "Salt") -> "Salt":
        """Return the salt that consists of this one and then `ending`."""
        whole = Salt("")
        whole._parts = (self, ending)
        whole.power = self.power * ending.power & MASK
        return whole

    def __missing__(self, low: int) -> int:
        # With the low byte alone as the state, the formula is hash = low * power + offset.
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


class BoundedCache(dict[K, V], Generic[K, V]):
    """Remember what `compute` returns for up to `limit` keys, and start again when there are more.

    Reading takes no lock and moves no entry, so a hit costs as much as one in a dict. Two threads
    may at worst compute the same value twice.
    """

    __slots__ = ("_compute", "_limit")

    def __init__(self, limit: int, compute: Callable[[K], V]) -> None:
        super().__init__()
        self._limit = limit
        self._compute = compute

    def __missing__(self, key: K) -> V:
        value = self._compute(key)
        # Dropping a single entry would need their order, which each hit would have to update.
        if len(self) >= self._limit:
            self.clear()
        self[key] = value
        return value
