"""The `dns` bucket: patterns that any member may write, and the records that names matching them get.

As in the Go program a pattern is a regular expression, searched (not anchored) in the full name with its last dot,
"web.example.": `^web\\.example\\.$` is that name alone, `example` everything that contains it. Ours ignores case, as
names do. Of several patterns that match the most specific one with a record of the asked type answers: the one with
the most literal characters, then with the most anchors, then the shortest. (Go takes any, in the map's order.)

Patterns come from peers, so they are never given to a backtracking engine. google-re2 takes time linear in name and
program; its memory for each pattern, the program's size, and all programs together are bounded, so that a name costs
at most a few milliseconds against all patterns there can be. What is over a bound is left out and counted; the order
in which patterns are taken (edgevpn/ledger/dns_entries.py) gives each owner its turn.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import dns.exception
import dns.name
import dns.rdata
import dns.rdataclass
import dns.rdatatype
import dns.rrset
import re2  # type: ignore[import-untyped]

from edgevpn.errors import UntrustedDataError
from edgevpn.names.wire import UNREADABLE, Answer
from edgevpn.proto.values import dns_untrusted

MAX_PATTERN: Final = 255  # characters
MAX_PATTERNS: Final = 512
MAX_PROGRAM: Final = 512  # instructions of one pattern
MAX_PROGRAMS: Final = 8192  # and of all
TTL: Final = 60  # seconds; Go says an hour, though an entry may change at once

TYPES: Final = frozenset(
    dns.rdatatype.RdataType.make(name)
    for name in ("A", "AAAA", "CNAME", "TXT", "MX", "SRV", "PTR", "NS", "CAA", "SPF", "NAPTR", "SVCB", "HTTPS", "URI")
)
_MEMORY: Final = 1 << 15  # bytes of a pattern's program and automaton
_MAX_REMEMBERED: Final = 1024  # names whose patterns are known


def _options() -> Any:
    options = re2.Options()
    options.max_mem = _MEMORY
    options.encoding = re2.Options.Encoding.LATIN1
    options.never_capture = True
    options.log_errors = False
    options.case_sensitive = False
    return options


_OPTIONS: Final = _options()


@dataclass(frozen=True, slots=True)
class Pattern:
    """One pattern. `rank` sorts the most specific first; `size` is the program's."""

    text: str
    regex: Any
    size: int
    rank: tuple[int, int, int, str]
    records: Mapping[int, dns.rdata.Rdata]


def compile_untrusted(text: str) -> Any:
    """The automaton of a pattern. Raises UntrustedDataError."""
    if len(text) > MAX_PATTERN:
        raise UntrustedDataError(f"a pattern of {len(text)} characters: at most {MAX_PATTERN} are taken")
    if "\\p" in text.lower():
        raise UntrustedDataError("a pattern has a Unicode class (\\p): names are ASCII")  # 12 ms each, to fold its case
    try:
        regex = re2.compile(text.encode("utf-8", "surrogatepass"), _OPTIONS)  # it keeps the last 128
    except re2.error as exc:
        raise UntrustedDataError(f"no regular expression: {_one_line(exc)}") from None
    if regex.programsize > MAX_PROGRAM:
        raise UntrustedDataError(f"a pattern of {regex.programsize} steps: at most {MAX_PROGRAM} are taken")
    return regex


def _one_line(exc: Exception) -> str:
    reason = exc.args[0] if exc.args else ""
    text = reason.decode("utf-8", "replace") if isinstance(reason, bytes) else str(reason)
    return " ".join(text.split())[:120]


def record_untrusted(rdtype: int, text: str) -> dns.rdata.Rdata:
    """A record from its presentation form, as in a zone file. Raises UntrustedDataError."""
    kind = dns.rdatatype.RdataType(rdtype)
    type_name = dns.rdatatype.to_text(kind)
    if kind not in TYPES:
        raise UntrustedDataError(f"records of the type {type_name} are not served")
    if "\n" in text or "\\#" in text:
        raise UntrustedDataError("a record has a line break or is in the generic form")
    try:
        return dns.rdata.from_text(dns.rdataclass.IN, kind, text, origin=dns.name.root, relativize=False)
    except UNREADABLE as exc:
        raise UntrustedDataError(f"no {type_name} record: {exc}") from None


def pattern_untrusted(text: str, value: str) -> Pattern:
    """A pattern from its entry in the ledger; records that can't be read are left out. Raises UntrustedDataError."""
    records = {}
    for rdtype, record in dns_untrusted(value).items():
        try:
            records[rdtype] = record_untrusted(rdtype, record)
        except UntrustedDataError:
            continue
    if not records:
        raise UntrustedDataError("a pattern has no record that can be served")
    regex = compile_untrusted(text)
    return Pattern(text, regex, regex.programsize, specificity(text), records)


def specificity(text: str) -> tuple[int, int, int, str]:
    """A key that sorts the more specific pattern first: (-literals, -anchors, length, text)."""
    literals = anchors = 0
    index = 0
    while index < len(text):
        letter = text[index]
        if letter == "\\" and index + 1 < len(text):
            following = text[index + 1]
            if not following.isalnum():
                literals += 1
            elif following in "Az":
                anchors += 1
            index += 1
        elif letter == "[":
            end = text.find("]", index + 2)
            index = end if end > 0 else len(text)
        elif letter == "{":
            end = text.find("}", index)
            index = end if end > 0 else len(text)
        elif letter in "*?":
            literals -= 1 if literals else 0  # what stands before it may be absent
        elif letter in "^$":
            anchors += 1
        elif letter not in ".+()|":
            literals += 1
        index += 1
    return -literals, -anchors, len(text), text


class PatternTable:
    """The patterns that are in force. `candidates` in the order in which they are taken; what is over is left out."""

    def __init__(self, candidates: list[Pattern]) -> None:
        taken: list[Pattern] = []
        room = MAX_PROGRAMS
        for pattern in candidates:
            if len(taken) == MAX_PATTERNS:
                break
            if pattern.size <= room:
                room -= pattern.size
                taken.append(pattern)
        self._patterns = sorted(taken, key=lambda pattern: pattern.rank)
        self.left_out: Final = len(candidates) - len(taken)
        self._remembered: dict[bytes, tuple[Pattern, ...]] = {}

    def __len__(self) -> int:
        return len(self._patterns)

    def texts(self) -> list[str]:
        """The patterns, the most specific first."""
        return [pattern.text for pattern in self._patterns]

    def matching(self, name: dns.name.Name) -> tuple[Pattern, ...]:
        """The patterns that match a name, the most specific first."""
        text = name.to_text().lower().encode()
        found = self._remembered.get(text)
        if found is None:
            found = tuple(pattern for pattern in self._patterns if pattern.regex.search(text) is not None)
            if len(self._remembered) >= _MAX_REMEMBERED:
                self._remembered.clear()
            self._remembered[text] = found
        return found

    def lookup(self, name: dns.name.Name, rdtype: int) -> Answer | None:
        """The answer for a name; None when no pattern matches it; without records when none has the type.

        A CNAME answers for every type; its target is `chase`.
        """
        matching = self.matching(name)
        if not matching:
            return None
        for wanted in (rdtype, dns.rdatatype.CNAME):
            for pattern in matching:
                record = pattern.records.get(wanted)
                if record is None and rdtype == dns.rdatatype.ANY:
                    record = next(iter(pattern.records.values()))  # RFC 8482: one is enough
                if record is not None:
                    is_alias = record.rdtype == dns.rdatatype.CNAME and rdtype != dns.rdatatype.CNAME
                    target: dns.name.Name | None = getattr(record, "target", None) if is_alias else None
                    return Answer(0, (dns.rrset.from_rdata(name, TTL, record),), authoritative=True, chase=target)
        return Answer(authoritative=True)
