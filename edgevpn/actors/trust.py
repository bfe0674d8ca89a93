"""The trust actor: finds out who holds a key of the trust zone, with --peerguard.

It challenges each connected peer of ours on a stream of its own, answers theirs, and reads what Go nodes say on the
public topic; what follows from all that is decided by edgevpn/ledger/trust.py. The state "trusted" tells the gossip,
host and tun actors whom the gate (--peergate) lets through (trust_link.py).

It is an actor of its own because it alone holds the node's trust zone key, and because what strangers send it should
meet nothing else. Dies: those who watch it keep what it said last; the next one asks everybody again.
"""

from __future__ import annotations

import random
from typing import Any

import trio

from edgevpn.actors.actor_entry import actor_entry
from edgevpn.actors.client import ActorUnavailableError, RefusedError, apply
from edgevpn.actors.host_link import HostLink
from edgevpn.actors.shell import Shell, open_shell
from edgevpn.errors import EdgevpnError, UntrustedDataError
from edgevpn.ledger.leader import leader_of
from edgevpn.ledger.trust import MAX_PEERS, TrustBook
from edgevpn.p2p.host_service import Inbound
from edgevpn.proto import peerguard, trust_challenge
from edgevpn.proto.messages import (
    Announce,
    Body,
    Done,
    Event,
    Gate,
    GossipReceived,
    HostSelf,
    LedgerEntry,
    Open,
    Opened,
    PeerState,
    Publish,
    Published,
    Seal,
    Sealed,
    SetPeergate,
    Trusted,
    Withdraw,
)
from edgevpn.proto.protocols import TRUST
from edgevpn.proto.values import TRUSTZONE, TRUSTZONE_AUTH, TRUSTZONE_VALUE
from edgevpn.tunnels.relay import read_exactly

TIMEOUT = 5.0  # of a challenge
FIRST_WORD = 1.0  # seconds after the start until the first message for Go nodes, and between the first few
PAUSE = 1.0  # seconds between two words of one author
_AT_ONCE = 16
_SIGNED_AT_ONCE = 4


@actor_entry
async def main(ctx: Any, name: str, run_dir: str, config: dict[str, Any], ticket: str) -> None:
    async with open_shell(ctx, name, run_dir, config, ticket) as (shell, nursery):
        try:
            key = (await shell.grant("peergate-key")).decode()
        except RefusedError:
            key = ""  # it judges others, and can prove nothing itself
        actor = TrustActor(shell, nursery, key)
        actor.show()
        await shell.ready()
        nursery.start_soon(actor.follow, "host", "self", actor.me)
        nursery.start_soon(actor.follow, "host", "peers", actor.peers)
        nursery.start_soon(actor.follow, "ledger", "trust", actor.entries)
        nursery.start_soon(actor.serve)
        nursery.start_soon(actor.hear)
        nursery.start_soon(actor.speak)
        await actor.run()


class TrustActor:
    """Keeps the book, and shows it."""

    def __init__(self, shell: Shell, nursery: trio.Nursery, key: str) -> None:
        config = shell.config
        self._shell = shell
        self._nursery = nursery
        self._key = key
        own = [peerguard.public_key_of(key)] if key else []
        self.book = TrustBook(
            [*own, *config.peergate_keys],
            fresh=config.peergate_fresh,
            relaxed=config.peergate_relaxed,
            interval=config.peergate_interval,
        )
        self._enabled = config.peergate
        self._chance = random.Random()  # noqa: S311
        self._link = HostLink(shell.client("host"))
        self.me: dict[str, Body] = {}
        self.peers: dict[str, Body] = {}
        self.entries: dict[str, Body] = {}
        self._zone: set[str] = set()
        self._spoke: dict[str, float] = {}  # authors of words: when, the newest last
        self._missing: dict[str, float] = {}  # of the zone: since when it is not connected
        self._changed = trio.Event()
        self._limit = trio.CapacityLimiter(_AT_ONCE)
        self._signing = trio.CapacityLimiter(_SIGNED_AT_ONCE)
        self._answering: set[str] = set()
        self._state = shell.mailbox.state("trusted")
        shell.mailbox.on_request(SetPeergate, self._set_gate)
        shell.gauges |= {"trusted": lambda: len(self._state.items) - 1, "keys": lambda: len(self.book.keys)}
        shell.namespace |= {"trust": self, "book": self.book}

    async def run(self) -> None:
        """Challenge who is due, and show what is known."""
        while True:
            self._changed = trio.Event()
            now = trio.current_time()
            if self._peer_id:
                for peer in self.book.due(now):
                    self.book.challenge_began(peer, now)
                    self._nursery.start_soon(self._challenge, peer)
            self.show()
            with trio.move_on_at(max(self.book.next_wakeup(now), now + 0.01)):
                await self._changed.wait()

    def show(self) -> None:
        closed = self._enabled and not self.book.is_open
        gate = Gate(closed, self._shell.config.peergate_fresh, self._enabled)
        trusted = self.book.trusted(trio.current_time())
        before = set(self._state.items) - {"gate"}
        self._state.replace({"gate": gate} | {peer: Trusted(how) for peer, how in trusted.items()})
        for peer in sorted(set(trusted) - before):
            self._shell.log.info(f"{peer} is trusted, by {trusted[peer]}")
        for peer in sorted(before - set(trusted)):
            self._shell.log.info(f"{peer} is not trusted any more")

    @property
    def _peer_id(self) -> str:
        host = self.me.get("host")
        return host.peer_id if isinstance(host, HostSelf) else ""

    async def _set_gate(self, request: SetPeergate) -> Body:
        self._enabled = request.enabled
        self.show()
        return Done()

    # --- what others say

    async def follow(self, actor: str, topic: str, items: dict[str, Body]) -> None:
        async with self._shell.client(actor).watch(topic) as updates:
            async for update in updates:
                apply(items, update)
                now = trio.current_time()
                if items is self.peers:
                    ours = [p for p, s in items.items() if isinstance(s, PeerState) and TRUST in s.protocols]
                    self.book.connected(ours, now)
                elif items is self.entries:
                    found = [entry for entry in items.values() if isinstance(entry, LedgerEntry)]
                    auth = {entry.key: entry.value for entry in found if entry.bucket == TRUSTZONE_AUTH}
                    self._zone = {entry.key for entry in found if entry.bucket == TRUSTZONE}
                    self.book.ledger_says(auth, self._zone, now)
                self._changed.set()

    async def hear(self) -> None:
        """The public topic: where Go nodes prove themselves."""
        async with self._shell.client("gossip").watch("public") as events:
            async for event in events:
                if not isinstance(event, Event) or not isinstance(event.body, GossipReceived):
                    continue
                author = event.body.author
                if not self._may_speak(author):
                    self._shell.count("words_too_soon")
                    continue
                try:
                    opened = await self._shell.client("sealer").call(Open(event.body.data), Opened)
                    word = opened.plaintext.decode("utf-8", "replace")
                    new = self.book.message_untrusted(author, word, opened.annotations)
                    if new and author not in self._zone:
                        await self._shell.client("ledger").call(Announce(TRUSTZONE, author, TRUSTZONE_VALUE), Done)
                except UntrustedDataError as exc:
                    self._shell.warn("trust_messages_refused", peer=author, reason=str(exc))
                except (ActorUnavailableError, RefusedError) as exc:
                    self._shell.warn("trust_messages_not_read", peer=author, reason=str(exc))
                self._changed.set()

    def _may_speak(self, author: str) -> bool:
        """One word a second: each is tried with every key."""
        now = trio.current_time()
        if now - self._spoke.get(author, -PAUSE) < PAUSE:
            return False
        self._spoke.pop(author, None)
        self._spoke[author] = now
        if len(self._spoke) > MAX_PEERS:
            del self._spoke[next(iter(self._spoke))]
        return True

    # --- what we say to Go nodes

    async def speak(self) -> None:
        """While we are not in the zone, prove ourselves as the Go program does; and clean up, if we are to."""
        pause = FIRST_WORD
        while True:
            await trio.sleep(pause * self._chance.uniform(0.75, 1.25))
            pause = min(pause * 2, self._shell.config.peergate_interval)
            if self._key and self._peer_id and self._peer_id not in self._zone:
                await self._say_word()
            if self._shell.config.peergate_autoclean:
                await self._clean_up()

    async def _say_word(self) -> None:
        signature = await trio.to_thread.run_sync(peerguard.sign, self._key)
        request = Seal(peerguard.CHALLENGE.encode(), annotations={peerguard.ANNOTATION: signature})
        try:
            sealed = await self._shell.client("sealer").call(request, Sealed)
            await self._shell.client("gossip").call(Publish(sealed.data, public=True), Published)
        except (ActorUnavailableError, RefusedError):
            self._shell.count("words_not_said")

    async def _clean_up(self) -> None:
        """Take those out of the zone that left three intervals ago; one node does it for all."""
        now = trio.current_time()
        gone = {peer for peer in self._zone if peer not in self.peers and peer != self._peer_id}
        self._missing = {peer: self._missing.get(peer, now) for peer in gone}
        if leader_of([self._peer_id, *(peer for peer in self._state.items if peer in self.peers)]) != self._peer_id:
            return
        for peer, since in self._missing.items():
            if now - since >= 3 * self._shell.config.peergate_interval:
                try:
                    await self._shell.client("ledger").call(Withdraw(TRUSTZONE, peer), Done)
                except (ActorUnavailableError, RefusedError) as exc:
                    self._shell.warn("not_cleaned_up", peer=peer, reason=str(exc))

    # --- challenges

    async def _challenge(self, peer: str) -> None:
        async with self._limit:
            challenge = trust_challenge.new_challenge()
            reason = "no answer in time"
            with trio.move_on_after(TIMEOUT):
                try:
                    _, stream = await self._link.dial(peer, (TRUST,))
                    async with stream:
                        await stream.send_all(challenge)
                        answer = await _read_answer_untrusted(stream)
                    key = await trio.to_thread.run_sync(
                        trust_challenge.verify_answer_untrusted, answer, challenge, self.book.keys, self._peer_id, peer
                    )
                except UntrustedDataError as exc:
                    self._shell.warn("challenges_failed", peer=peer, reason=str(exc))
                    self.book.refused(peer, trio.current_time())
                    self._changed.set()
                    return
                except (EdgevpnError, trio.BrokenResourceError, trio.ClosedResourceError) as exc:
                    reason = str(exc) or "the stream ended"
                else:
                    self._shell.count("challenges_answered")
                    self.book.answered(peer, key, trio.current_time())
                    self._changed.set()
                    return
        self._shell.count("challenges_not_answered")
        self._shell.log.debug("gave no proof", peer=peer, reason=reason)
        self.book.silent(peer, trio.current_time())
        self._changed.set()

    async def serve(self) -> None:
        while True:
            async with self._link.serve((TRUST,)) as streams:
                async for inbound in streams:
                    self._nursery.start_soon(self._answer, inbound)
            await trio.sleep(0.01)  # the host went away

    async def _answer(self, inbound: Inbound) -> None:
        """Prove ourselves. Without a key the stream is ended without a word; a peer gets one answer at a time."""
        peer = inbound.peer_id
        if not self._key or not self._peer_id or peer in self._answering:
            await trio.aclose_forcefully(inbound.stream)
            return
        self._answering.add(peer)
        try:
            with trio.move_on_after(TIMEOUT):
                async with inbound.stream as stream:
                    challenge = await read_exactly(stream, trust_challenge.CHALLENGE_SIZE, may_end=True)
                    answer = await trio.to_thread.run_sync(
                        trust_challenge.answer_untrusted,
                        challenge,
                        self._key,
                        peer,
                        self._peer_id,
                        limiter=self._signing,
                    )
                    await stream.send_all(answer)
        except UntrustedDataError as exc:
            self._shell.warn("challenges_refused", peer=peer, reason=str(exc))
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            self._shell.count("challenges_broken")
        finally:
            self._answering.discard(peer)


async def _read_answer_untrusted(stream: trio.abc.ReceiveStream) -> bytes:
    head = await read_exactly(stream, trust_challenge.ANSWER_HEAD.size, may_end=True)
    return head + await read_exactly(stream, trust_challenge.answer_size_untrusted(head))
