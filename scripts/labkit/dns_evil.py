"""What a hostile member or client sends to a DNS server: patterns, records and packets."""

from __future__ import annotations

import random
import string
import struct

import dns.message
import dns.name

EVIL_PATTERNS = (
    "(x+x+)+y",
    "(a*)*b",
    "(a|a)*b",
    "(a|aa)+$",
    "^(a+)+$",
    "(.*a){30}q",
    "(.*){20}z",
    "(a|b)*a(a|b){12}c",
    "(a?){100}a{100}",
    "[^a]{100}.*.*.*.*x",
    "(?:a|ab|abc|b|bc|c)*$" * 8,
    "(.+)+\\." * 20,
    "x{0,100}" * 3,
    "((a{0,10}){0,10})",
    "(a{1,100}){10}",
    "((((((((((a{1,9})))))))))){9}",
    "(" * 100 + "a" + ")" * 100,
    "(" * 120,
    "[" * 200,
    "\\pL{20}",
    "\\pL" * 80,
    "(?i)[[:alpha:]]{60}\\b\\b\\b",
    "(?s).*",
    "",
    ".",
    "$^",
    "\\",
    "\\x00",
    "(?P<n>a)(?P=n)",
    "(?=a)",
    "a{1000}",
    "a{99999}",
    "\u00e9+",
    "\ud7ff",
    "|" * 250,
    "(|" * 100 + ")" * 100,
    ".*.*.*.*.*.*.*.*.*.*.*.*.*.*.*=.*",
)
_PIECES = (
    "a",
    "b",
    ".",
    "*",
    "+",
    "?",
    "|",
    "(",
    ")",
    "[",
    "]",
    "^",
    "$",
    "{1,9}",
    "{50}",
    "\\",
    "\\pL",
    "[^x]",
    "(?i)",
    "x",
)


def evil_pattern(chance: random.Random) -> str:
    """A pattern that some matcher would choke on."""
    kind = chance.randrange(4)
    if kind == 0:
        return chance.choice(EVIL_PATTERNS)
    if kind == 1:
        base = chance.choice(EVIL_PATTERNS)
        cut = chance.randrange(len(base) + 1)
        return base[:cut] + chance.choice(_PIECES) * chance.randrange(1, 9) + base[cut:]
    if kind == 2:
        return "".join(chance.choice(_PIECES) for _ in range(chance.randrange(60)))
    return "".join(chance.choice(string.printable) for _ in range(chance.randrange(60)))


def evil_name(chance: random.Random) -> dns.name.Name:
    """A name of any bytes, up to the longest there is."""
    labels: list[bytes] = []
    room = chance.choice((20, 100, 254))
    while room > 2:
        size = min(chance.choice((1, 3, 20, 63)), room - 2)
        alphabet = chance.choice((b"a", b"ab", b"xX", bytes(range(256))))
        labels.append(bytes(chance.choice(alphabet) for _ in range(size)))
        room -= size + 1
    return dns.name.Name([*labels, b""])


def evil_packet(chance: random.Random) -> bytes:
    """A packet as no resolver sends it."""
    kind = chance.randrange(9)
    number = chance.randrange(65536)
    if kind == 0:
        return chance.randbytes(chance.randrange(80))
    if kind == 1:  # counts that lie
        return struct.pack("!HHHHHH", number, 0x0100, *(chance.choice((0, 1, 2, 65535)) for _ in range(4))) + (
            chance.randbytes(chance.randrange(60))
        )
    if kind == 2:  # pointers that go round
        offset = chance.choice((12, 13, 14, 0, 0x3FFF))
        return struct.pack("!HHHHHH", number, 0x0100, 1, 0, 0, 0) + struct.pack("!HHH", 0xC000 | offset, 1, 1)
    if kind == 3:  # a chain of pointers
        body = b"".join(
            struct.pack("!BBH", 1, 97, 0xC000 | max(12, 12 + 4 * k - 4)) for k in range(chance.randrange(1, 900))
        )
        return struct.pack("!HHHHHH", number, 0x0100, 1, 0, 0, 0) + body
    message = dns.message.make_query(
        evil_name(chance),
        chance.choice((1, 2, 5, 6, 12, 28, 41, 251, 252, 255, 65535)),
        use_edns=chance.choice((None, 0)),
    )
    message.id = number
    wire = bytearray(message.to_wire())
    if kind == 4:
        return bytes(wire)
    if kind == 5:
        return bytes(wire[: chance.randrange(len(wire))])
    if kind == 6:
        return bytes(wire) + chance.randbytes(chance.choice((1, 100, 4000)))
    if kind == 7:  # records that no query has
        count = chance.choice((1, 3, 300))
        struct.pack_into("!H", wire, chance.choice((6, 8, 10)), count)
        return bytes(wire) + struct.pack("!HHHIH", 0xC00C, 1, 1, 0, 0) * count
    for _ in range(chance.randrange(1, 6)):
        wire[chance.randrange(len(wire))] = chance.randrange(256)
    return bytes(wire)
