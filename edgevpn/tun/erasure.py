"""An erasure code over datagrams: up to three rows over a group, any `e` of them bring back any `e` members. Pure.

A member is a *symbol*: its length (2 bytes, little-endian), then its bytes, as one little-endian number, so that
shorter ones are filled with zeros at their end. Bytes are elements of GF(256) modulo x^8 + x^4 + x^3 + x^2 + 1, as
RAID-6 has them (H. P. Anvin, "The mathematics of RAID-6"): of a group of n members d(0) ... d(n-1)

    row r = sum of d(i) * 2^(r * (n - 1 - i))          so row 0 is the XOR; n <= MAX_MEMBERS

which is a Vandermonde matrix whichever rows are taken, and is made without knowing n before: row = row * 2^r + d(i).
A number is multiplied by 2 in all its bytes at once (0.4 us for 1400 bytes); each byte place is a code of its own, so a
part of the rows brings back that part of the members.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Final

from edgevpn.proto.datagram_repair import ROWS

MAX_MEMBERS: Final = 255
_POLYNOMIAL = 0x1D
_LENGTH_BITS = 16


def _powers() -> tuple[list[int], list[int]]:
    exponents, logarithms = [0] * 510, [0] * 256
    value = 1
    for power in range(255):
        exponents[power] = exponents[power + 255] = value
        logarithms[value] = power
        value = (value << 1) ^ (0x100 | _POLYNOMIAL if value & 0x80 else 0)
    return exponents, logarithms


_EXP, _LOG = _powers()


class _Masks:
    """Numbers as long as what is multiplied, and longer."""

    def __init__(self) -> None:
        self.size = 0
        self.low = self.ones = 0
        self.grow(2048)

    def grow(self, size: int) -> None:
        self.size = size
        self.low = int.from_bytes(b"\x7f" * size, "little")
        self.ones = int.from_bytes(b"\x01" * size, "little")


_masks = _Masks()


def double(value: int) -> int:
    """Each byte times 2."""
    return (value & _masks.low) << 1 ^ (value >> 7 & _masks.ones) * _POLYNOMIAL


def symbol(data: bytes | memoryview) -> int:
    if len(data) + 2 > _masks.size:
        _masks.grow(2 * len(data))
    return int.from_bytes(data, "little") << _LENGTH_BITS | len(data)


def data_of(value: int) -> bytes | None:
    """What the symbol stands for; None: it is none."""
    length = value & 0xFFFF
    value >>= _LENGTH_BITS
    return value.to_bytes(length, "little") if value.bit_length() <= 8 * length else None


class Rows:
    """The first `wanted` rows of a group that grows."""

    __slots__ = ("values",)

    def __init__(self, wanted: int) -> None:
        self.values = [0] * wanted

    def add(self, value: int) -> None:
        values = self.values
        values[0] ^= value
        if len(values) > 1:
            values[1] = double(values[1]) ^ value
            if len(values) > 2:
                values[2] = double(double(values[2])) ^ value


def bring_back(rows: Mapping[int, int], members: Sequence[int | None]) -> list[int] | None:
    """The symbols of those members that are None, in their order; None: the rows don't do.

    `rows`: row to value, at least as many as are missing. A part of both (some bytes of all) gives that part.
    """
    count = len(members)
    missing = [place for place, member in enumerate(members) if member is None]
    if not missing or len(missing) > len(rows) or count > MAX_MEMBERS:
        return None
    chosen = sorted(rows)[: len(missing)]
    sums = Rows(chosen[-1] + 1)
    for member in members:
        sums.add(member or 0)
    left = [sums.values[row] ^ rows[row] for row in chosen]
    if len(missing) == 1 and not chosen[0]:
        return left
    matrix = [[_EXP[row * (count - 1 - place) % 255] for place in missing] for row in chosen]
    inverse = _inverted(matrix)
    found = []
    for line in inverse:
        value = 0
        for factor, one in zip(line, left, strict=True):
            value ^= _times(factor, one)
        found.append(value)
    return found


def _times(factor: int, value: int) -> int:
    if factor < 2 or not value:
        return value if factor else 0
    data = value.to_bytes((value.bit_length() + 7) // 8, "little")
    return int.from_bytes(data.translate(_table(factor)), "little")


@lru_cache(256)
def _table(factor: int) -> bytes:
    return bytes([0, *(_EXP[_LOG[factor] + _LOG[value]] for value in range(1, 256))])


def _product(one: int, other: int) -> int:
    return _EXP[_LOG[one] + _LOG[other]] if one and other else 0


def _inverted(matrix: list[list[int]]) -> list[list[int]]:
    """Of a square matrix that has an inverse, by elimination."""
    size = len(matrix)
    work = [row + [int(i == k) for k in range(size)] for i, row in enumerate(matrix)]
    for i in range(size):
        pivot = next(k for k in range(i, size) if work[k][i])
        work[i], work[pivot] = work[pivot], work[i]
        scale = _EXP[255 - _LOG[work[i][i]]]
        work[i] = [_product(scale, value) for value in work[i]]
        for k in range(size):
            if k != i and work[k][i]:
                factor = work[k][i]
                work[k] = [value ^ _product(factor, own) for value, own in zip(work[k], work[i], strict=True)]
    return [row[size:] for row in work]


__all__ = ["MAX_MEMBERS", "ROWS", "Rows", "bring_back", "data_of", "double", "symbol"]
