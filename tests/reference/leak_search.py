"""Searching bytes for planted things in every form in which they might have been written down.

A `LeakSearch` takes patterns of at least eight bytes, each belonging to a `Thing`, and finds all of them in one pass:
the three first bytes at every offset are looked up in a table, and what remains is compared in full.
"""

from __future__ import annotations

import base64
import hashlib
import itertools
import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

SHORTEST = 8
_CHUNK = 1 << 22

Forms = Iterator[tuple[str, bytes]]


@dataclass(frozen=True)
class Thing:
    """Something that may lie with its owners only. kind: 'id', 'value', ...; what: for the reader of a failure."""

    kind: str
    what: str
    owners: frozenset[str]


@dataclass(frozen=True)
class Found:
    """A thing that was found, and in which form."""

    thing: Thing
    form: str


class LeakSearch:
    """Patterns to look for, and the search for all of them at once."""

    def __init__(self) -> None:
        self._by_prefix: dict[bytes, dict[bytes, list[Found]]] = {}
        self._table: NDArray[np.bool_] = np.zeros(1 << 24, dtype=np.bool_)
        self.longest = SHORTEST

    def add(self, thing: Thing, forms: Iterable[tuple[str, bytes]]) -> None:
        """Look for `thing` in these forms.

        Raises: ValueError: a pattern is so short that chance would find it.
        """
        for form, pattern in forms:
            if len(pattern) < SHORTEST:
                raise ValueError(f"{thing.what} as {form} has fewer than {SHORTEST} bytes")
            found = self._by_prefix.setdefault(pattern[:SHORTEST], {}).setdefault(pattern, [])
            found.append(Found(thing, form))
            self._table[pattern[0] | pattern[1] << 8 | pattern[2] << 16] = True
            self.longest = max(self.longest, len(pattern))

    def find(self, data: bytes) -> set[Found]:
        """Everything that occurs in `data`, at whatever offset."""
        found: set[Found] = set()
        for start in range(0, len(data), _CHUNK):
            chunk = np.frombuffer(data, dtype=np.uint8, offset=start, count=min(_CHUNK + 2, len(data) - start))
            if len(chunk) < 3:
                break
            triples = chunk[:-2].astype(np.uint32)
            triples |= chunk[1:-1].astype(np.uint32) << 8
            triples |= chunk[2:].astype(np.uint32) << 16
            for at in (np.flatnonzero(self._table[triples]) + start).tolist():
                for pattern, things in self._by_prefix.get(data[at : at + SHORTEST], {}).items():
                    if data.startswith(pattern, at):
                        found.update(things)
        return found


def written(name: str, raw: bytes) -> Forms:
    """`raw` itself, in hexadecimal of both cases, in base64 at each of the three alignments and in both alphabets."""
    yield name, raw
    yield f"{name} in hex", raw.hex().encode()
    yield f"{name} in HEX", raw.hex().upper().encode()
    for shift in range(3):
        code = base64.b64encode(bytes(shift) + raw)[(0, 2, 3)[shift] : 8 * (shift + len(raw)) // 6]
        yield f"{name} in base64, shifted by {shift}", code
        url_safe = code.replace(b"+", b"-").replace(b"/", b"_")
        if url_safe != code:
            yield f"{name} in URL-safe base64, shifted by {shift}", url_safe


def text_forms(text: str) -> Forms:
    """A text in UTF-8 and UTF-16, plain and encoded."""
    yield from written("UTF-8", text.encode())
    yield "UTF-16LE", text.encode("utf-16-le")
    yield "UTF-16BE", text.encode("utf-16-be")


def id_forms(text: str) -> Forms:
    """An id as text in either case, as an integer if it is one, and under hashes that anybody could repeat."""
    yield from text_forms(text)
    if text.lower() != text:
        yield "small letters", text.lower().encode()
    if text.isdigit():
        yield from integer_forms(int(text))
    for name in ("md5", "sha1", "sha256", "sha512"):
        yield from written(name, hashlib.new(name, text.encode()).digest()[:16])


def number_forms(value: float) -> Forms:
    """A number as it stands in a file and as the eight bytes of a double."""
    yield from text_forms(repr(value))
    yield from written("double LE", struct.pack("<d", value))
    yield "double BE", struct.pack(">d", value)


def integer_forms(value: int) -> Forms:
    """An integer as eight bytes and, as it stands in a file, as text."""
    yield from text_forms(str(value))
    yield from written("int64 LE", struct.pack("<q", value))
    yield "int64 BE", struct.pack(">q", value)


def sequence_forms(values: Sequence[float], length: int, starts: Iterable[int]) -> Forms:
    """Runs of `length` consecutive values, from each of `starts`: as arrays of the usual types, as lists in text."""
    whole = all(float(value).is_integer() for value in values)
    types = ["<f4", ">f4", "<f8", ">f8"]
    if whole:
        largest = max(abs(value) for value in values)
        types += [code for code, most in _INTEGERS if largest < most]
    for start in starts:
        run = np.array(values[start : start + length])
        for code in types:
            raw = run.astype(code).tobytes()
            if len(raw) >= SHORTEST:
                yield f"array {code}", raw
        words = [str(int(value)) if whole else repr(float(value)) for value in run]
        for separator in (",", ", ", " ", "\n", ",\n", ""):
            text = separator.join(words).encode()
            if len(text) >= 2 * SHORTEST:
                yield f"list with {separator!r}", text


def bit_forms(bits: Sequence[int], length: int, starts: Iterable[int]) -> Forms:
    """Runs of `length` bits (a multiple of 8), packed from the front or the back of each byte, plain and encoded."""
    for start, order in itertools.product(starts, ("big", "little")):
        raw = np.packbits(np.array(bits[start : start + length], dtype=np.uint8), bitorder=_order(order)).tobytes()
        yield from written(f"packed bits, {order}", raw)


def secret_forms(secret: bytes) -> Forms:
    """The first and the last 16 bytes of a secret, in both byte orders."""
    for name, part in (("first half", secret[:16]), ("last half", secret[-16:])):
        yield from written(name, part)
        yield from written(f"{name}, reversed", part[::-1])


def big_integer_forms(value: int) -> Forms:
    """A large integer in both byte orders, and as digits."""
    yield from secret_forms(value.to_bytes((value.bit_length() + 7) // 8, "little"))
    yield "decimal digits", str(value)[:40].encode()
    yield "last decimal digits", str(value)[-40:].encode()


_INTEGERS = (("u1", 1 << 8), ("<u2", 1 << 16), (">u2", 1 << 16), ("<i4", 1 << 31), (">i4", 1 << 31), ("<i8", 1 << 63))


def _order(name: str) -> Any:
    return name
