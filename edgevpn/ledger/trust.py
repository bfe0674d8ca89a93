"""Who is trusted, when --peerguard says that a token is not enough.

The trust zone's keys are the public keys in the ledger's bucket `trustzoneAuth` under names with "ecdsa" in them, and
the node's own: its private key's, and those it was told. A peer is trusted

    challenge   for three intervals after it answered a fresh challenge with one of the keys (a node of ours)
    message     while a key is known that signed its message on the public topic (a Go node: such a message can be
                repeated by whoever saw it, so a signature counts for the first author that it was seen from only)
    zone        while the ledger's bucket `trustzone` names it (a Go node that others have admitted)

and only by a challenge if it can be asked for one, or with `fresh` anyway. A key that goes takes along whom it let in.

Relaxed, everybody is admitted while no key of the ledger is known: so the first key can be told to all. (The Go program
admits everybody while nobody is in the zone; that would let in whom a first challenge turned away.)

Pure. `clock`: seconds of any clock that never jumps.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Final

from edgevpn.errors import UntrustedDataError
from edgevpn.proto.peerguard import ANNOTATION, authenticate_untrusted
from edgevpn.proto.trust_challenge import key_id_untrusted

VALID: Final = 3  # intervals that an answer is good for
RETRY: Final = 2.0  # seconds before a peer that did not answer is asked again, doubled up to the interval
MAX_KEYS: Final = 256
MAX_PEERS: Final = 4096
MAX_SIGNATURES: Final = 4096

CHALLENGE, MESSAGE, ZONE = "challenge", "message", "zone"


@dataclass
class _Asked:
    """A peer that we ask: when next, and the pause after that."""

    next: float
    pause: float = RETRY


@dataclass(frozen=True)
class _Proof:
    key: bytes
    until: float


class TrustBook:
    """What is known of keys and peers."""

    def __init__(self, own_keys: Iterable[str], *, fresh: bool, relaxed: bool, interval: float) -> None:
        """`own_keys`: texts of public keys. `interval`: seconds between two challenges of a peer."""
        self._own = _by_id(own_keys)
        self._fresh = fresh
        self._relaxed = relaxed
        self._interval = interval
        self._told: dict[bytes, str] = {}
        self._names: dict[str, str] = {}  # bucket trustzoneAuth, name to JSON value
        self._zone: frozenset[str] = frozenset()
        self._ours: set[str] = set()  # connected peers that can be asked
        self._asked: dict[str, _Asked] = {}
        self._answered: dict[str, _Proof] = {}
        self._wrote: dict[str, bytes] = {}  # Go nodes: by which key
        self._seen: dict[bytes, str] = {}  # signatures: their first author
        self.keys: Mapping[bytes, str] = dict(self._own)

    # --- what is told

    def ledger_says(self, auth: Mapping[str, str], zone: Iterable[str], clock: float) -> None:
        """The buckets `trustzoneAuth` (name to JSON value) and `trustzone` (its keys)."""
        self._zone = frozenset(zone)
        if dict(auth) == self._names:
            return
        self._names = dict(auth)
        before = set(self.keys)
        self._told = _by_id(_texts(self._names))
        self.keys = {**self._told, **self._own}
        self._answered = {peer: proof for peer, proof in self._answered.items() if proof.key in self.keys}
        self._wrote = {peer: key for peer, key in self._wrote.items() if key in self.keys}
        if set(self.keys) - before:  # who was turned away may be known now
            for peer, asked in self._asked.items():
                if peer not in self._answered:
                    asked.next, asked.pause = clock, RETRY

    def connected(self, peers: Iterable[str], clock: float) -> None:
        """The connected peers that can be challenged."""
        self._ours = set(peers)
        self._asked = {peer: asked for peer, asked in self._asked.items() if peer in self._ours}
        for peer in self._ours:
            self._asked.setdefault(peer, _Asked(clock))

    def answered(self, peer: str, key: bytes, clock: float) -> None:
        """A peer answered a challenge."""
        if key in self.keys:
            self._answered[peer] = _Proof(key, clock + VALID * self._interval)
            self._trim(self._answered)
        if peer in self._asked:
            self._asked[peer] = _Asked(clock + self._interval)

    def refused(self, peer: str, clock: float) -> None:
        """A peer gave a wrong answer: it has no key any more."""
        self._answered.pop(peer, None)
        self.silent(peer, clock)

    def silent(self, peer: str, clock: float) -> None:
        """A peer gave no answer; what it proved before is good for a while yet."""
        asked = self._asked.get(peer)
        if asked is not None:
            asked.next = clock + asked.pause
            asked.pause = min(asked.pause * 2, self._interval)

    def message_untrusted(self, author: str, word: str, annotations: Mapping[str, str]) -> bool:
        """A message on the public topic; whether it admits its author anew. Raises UntrustedDataError."""
        keys = dict(self._names) | {f"ecdsa own {n}": json.dumps(text) for n, text in enumerate(self._own.values())}
        name = authenticate_untrusted(annotations, word, keys)
        mark = sha256(annotations[ANNOTATION].encode()).digest()
        if self._seen.setdefault(mark, author) != author:
            raise UntrustedDataError("a trust zone message repeats another node's signature")
        if len(self._seen) > MAX_SIGNATURES:
            del self._seen[next(iter(self._seen))]
        if self._fresh or author in self._ours:
            return False
        new = author not in self._wrote
        self._wrote[author] = key_id_untrusted(json.loads(keys[name]))
        self._trim(self._wrote)
        return new

    # --- what follows

    def due(self, clock: float) -> list[str]:
        """Who is to be challenged now."""
        return [peer for peer, asked in self._asked.items() if asked.next <= clock]

    def challenge_began(self, peer: str, clock: float) -> None:
        if peer in self._asked:
            self._asked[peer].next = clock + self._interval

    def next_wakeup(self, clock: float) -> float:
        """When somebody is due, or an answer grows too old."""
        times = [asked.next for asked in self._asked.values()] + [proof.until for proof in self._answered.values()]
        return min(times, default=clock + self._interval)

    def trusted(self, clock: float) -> dict[str, str]:
        """Who is trusted, and by what."""
        self._answered = {peer: proof for peer, proof in self._answered.items() if proof.until > clock}
        found = dict.fromkeys(self._answered, CHALLENGE)
        if not self._fresh:
            for peer in self._wrote:
                if peer not in self._ours:
                    found.setdefault(peer, MESSAGE)
            for peer in self._zone:
                if peer not in self._ours:
                    found.setdefault(peer, ZONE)
        return found

    @property
    def is_open(self) -> bool:
        """Whether everybody is admitted, because no key is known yet."""
        return self._relaxed and not self._told

    @staticmethod
    def _trim(known: dict[str, _Proof] | dict[str, bytes]) -> None:
        while len(known) > MAX_PEERS:
            del known[next(iter(known))]


def _texts(names: Mapping[str, str]) -> Iterable[str]:
    for name in sorted(name for name in names if "ecdsa" in name)[:MAX_KEYS]:
        try:
            text = json.loads(names[name])
        except (ValueError, RecursionError):
            continue
        if isinstance(text, str):
            yield text


def _by_id(texts: Iterable[str]) -> dict[bytes, str]:
    found = {}
    for text in texts:
        try:
            found[key_id_untrusted(text)] = text
        except UntrustedDataError:
            continue  # anybody can write one; it lets nobody in
    return found
