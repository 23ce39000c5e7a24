"""Read a JSON text piece by piece: the items of an array, or the members of an object."""

import json
import re
from codecs import getincrementaldecoder
from collections.abc import Callable, Iterator
from typing import Any

SPACE = re.compile(r"[ \t\r\n]*")
CHUNK_BYTES = 1 << 16


class JSONStream:
    """A tokenizer over bytes that arrive in chunks; it holds one value at a time.

    `head` is the beginning of the text, and `read` returns up to that many bytes more, none at the
    end. With `max_value_chars`, a longer value is an error, so that a missing quote does not read
    the rest of a large file into memory.

    Errors are `ValueError`, of which `UnicodeDecodeError` and `json.JSONDecodeError` are kinds, or
    `RecursionError` for what is nested too deeply.
    """

    def __init__(
        self,
        head: bytes,
        read: Callable[[int], bytes] = lambda _count: b"",
        *,
        max_value_chars: int | None = None,
        decoder: json.JSONDecoder | None = None,
    ) -> None:
        self._decode = getincrementaldecoder("utf-8")().decode
        self._text = self._decode(head)
        self._read = read
        self._at = 0  # all before it was taken
        self._max_value_chars = max_value_chars
        self._decoder = decoder or json.JSONDecoder()

    def peek(self) -> str:
        """Return the next character that is not a space, and "" at the end."""
        while True:
            space = SPACE.match(self._text, self._at)
            self._at = space.end() if space else self._at
            if self._at < len(self._text):
                return self._text[self._at]
            if not self._read_more():
                return ""

    def take(self, expected: str) -> None:
        """Consume one character.

        :raises ValueError: if it is another one.
        """
        found = self.peek()
        if found != expected:
            raise ValueError(f"{expected} expected, not {found or 'the end'}")
        self._at += 1

    def value(self) -> Any:
        """Consume and return one value."""
        value, self._at = self._next_value()
        return value

    def sized_value(self) -> tuple[Any, int]:
        """Consume one value; return it and its size in bytes, as it was written."""
        value, end = self._next_value()
        size = len(self._text[self._at : end].encode())
        self._at = end
        return value, size

    def _next_value(self) -> tuple[Any, int]:
        self.peek()
        while True:
            try:
                value, end = self._decoder.raw_decode(self._text, self._at)
            except ValueError:
                # The rest of it may not have been read yet.
                length = len(self._text) - self._at
                is_too_long = self._max_value_chars is not None and length > self._max_value_chars
                if is_too_long or not self._read_more():
                    raise
                continue
            # A number at the end of the text may go on in the next chunk: 1, 1. and 1e+ of 1e+5.
            rest = self._text[end : end + 3]
            may_go_on = not rest or (len(rest) < 3 and rest[0] in ".eE")
            if not may_go_on or not self._read_more():
                return value, end

    def members(self, opening: str, closing: str) -> Iterator[None]:
        """Consume an array or an object: at each step the caller consumes one member."""
        self.take(opening)
        if self.peek() != closing:
            yield
            while self.peek() == ",":
                self._at += 1
                yield
        self.take(closing)

    def _read_more(self) -> bool:
        chunk = self._read(CHUNK_BYTES)
        # At the end, bytes of an incomplete character are an error.
        more = self._decode(chunk, not chunk)
        self._text = self._text[self._at :] + more
        self._at = 0
        return bool(chunk)
