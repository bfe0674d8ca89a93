"""Direct connections through NATs, agreed on over a relayed one (libp2p's specs, relay/DCUtR.md).

Who was dialled through a relay begins: it tries the addresses that the peer names; then both tell each other where they
may be seen (CONNECT), and at one moment (SYNC, half a round trip) both dial from their listening port. SYNs that cross
open both NATs. Of the connection that comes of it the side that dialled the relay is the client.

Where we are seen: the address that peers beyond the NAT see us at, with our listening port. NATs that keep the port of
who is behind them if they can (most do) make that right; then the addresses of our own interfaces, for a peer behind
the same NAT. Three tries, as the specification has it, then again after pauses that grow.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence

import trio
from libp2p.peer.id import ID
from multiaddr import Multiaddr  # type: ignore[import-untyped]

from edgevpn.errors import EdgevpnError, UntrustedDataError
from edgevpn.p2p.address_book import DialAddr, parse_addr_untrusted
from edgevpn.p2p.auto_relay import ip_of, observed_ips
from edgevpn.p2p.circuit import DCUTR, Punch, PunchKind, read_punch_untrusted, write_punch
from edgevpn.p2p.host import Host
from edgevpn.p2p.host_stream import HostStream
from edgevpn.p2p.identify import addr_text
from edgevpn.proto.relayed import without_relayed

TIMEOUT = 10.0
DIRECT_TIMEOUT = 2.0
DIAL_FOR = 4.0  # seconds that both go on dialling
DIAL_AGAIN = 0.2
TRIES = 3
AGREE_AGAIN = 3.0  # a Go node answers up to 5 s after it was told where it is seen
PAUSES = (300.0, 900.0, 3600.0)  # after so many tries in vain
MOST = 8  # addresses
MAX_ASKED, ASKED_WITHIN = 6, 300.0  # so often a peer may have us dial
MAX_PEERS = 256
MAX_RTT = 4.0


class HolePunch:
    """On `host`. `run_for` is for the side that was dialled; the other answers by itself."""

    def __init__(self, host: Host, count: Callable[[str], None] = lambda _: None) -> None:
        self._host = host
        self._count = count
        self._asked: OrderedDict[str, list[float]] = OrderedDict()  # when each peer had us dial
        host.serve(DCUTR, self._answer)

    def _own(self) -> list[bytes]:
        """Where the peer may find us, as binary multiaddrs."""
        seen = observed_ips(self._host.sights(), self._host.own_ips())
        ports = {parts[1]: parts[4] for addr in self._host.bound_addrs() if len(parts := addr.split("/")) == 5}
        found = []
        for ip in seen:
            kind = "ip6" if ":" in ip else "ip4"
            if kind in ports:
                found.append(f"/{kind}/{ip}/tcp/{ports[kind]}")
        found += without_relayed(self._host.listen_addrs())
        return [Multiaddr(addr).to_bytes() for addr in list(dict.fromkeys(found))[:MOST]]

    def _theirs(self, addrs: Sequence[bytes], peer_id: str) -> list[DialAddr]:
        found = []
        for raw in addrs:
            try:
                addr = parse_addr_untrusted(addr_text(raw), peer_id)
            except UntrustedDataError:
                continue
            if addr.relay is None and ip_of(addr.text) and self._host.book.dialable(addr, "gossip"):
                found.append(addr)
        return found[:MOST]

    async def run_for(self, peer_id: str) -> None:
        """Try to become directly connected with a peer that has dialled us through a relay, as long as it is there."""
        for pause in (*PAUSES, None):
            for attempt in range(TRIES):
                if not self._host.is_relayed(peer_id):
                    return
                try:
                    if attempt == 0:
                        await self._host.connect_directly(peer_id, timeout=DIRECT_TIMEOUT)
                        return
                except EdgevpnError:
                    pass  # the usual case
                try:
                    # Go nodes of before 2025 have the roles the other way round: the last try is theirs
                    await self._begin(peer_id, client=attempt == TRIES - 1)
                except EdgevpnError:
                    self._count("holes_not_agreed_on")
                    if attempt < TRIES - 1:
                        await trio.sleep(AGREE_AGAIN)
            if not self._host.is_relayed(peer_id):
                return
            self._count("holes_not_punched")
            if pause is None:
                return
            await trio.sleep(pause)

    async def _begin(self, peer_id: str, *, client: bool) -> None:
        # where both have dialled there are two, and on that of ours it is not for us to begin
        stream = await self._host.relayed_stream(peer_id, [DCUTR], timeout=TIMEOUT, received=True)
        try:
            with trio.fail_after(TIMEOUT):
                began = trio.current_time()
                await stream.write(write_punch(Punch(PunchKind.CONNECT, tuple(self._own()))))
                answer = read_punch_untrusted(await stream.read_message())
                rtt = trio.current_time() - began
                addrs = self._theirs(answer.addrs, peer_id)
                if answer.kind is not PunchKind.CONNECT or not addrs:
                    raise UntrustedDataError("dcutr: no address that can be dialled")
                await stream.write(write_punch(Punch(PunchKind.SYNC)))
        except trio.TooSlowError as exc:
            raise EdgevpnError("the peer takes too long") from exc
        finally:
            with trio.CancelScope(shield=True):
                await stream.release()
        await trio.sleep(min(rtt / 2, MAX_RTT))
        await self._dial(peer_id, addrs, client=client)

    async def _answer(self, stream: HostStream) -> None:
        """The other side begins."""
        if not stream.relayed or not stream.dialled_connection or stream.peer_id in self._host.punching:
            raise UntrustedDataError("dcutr: it is not for the peer to begin")
        if not self._may_ask(stream.peer_id, trio.current_time()):
            raise UntrustedDataError("dcutr: the peer asks too often")
        try:
            with trio.fail_after(TIMEOUT):
                offer = read_punch_untrusted(await stream.read_message())
                addrs = self._theirs(offer.addrs, stream.peer_id)
                if offer.kind is not PunchKind.CONNECT or not addrs:
                    raise UntrustedDataError("dcutr: no address that can be dialled")
                await stream.write(write_punch(Punch(PunchKind.CONNECT, tuple(self._own()))))
                if read_punch_untrusted(await stream.read_message()).kind is not PunchKind.SYNC:
                    raise UntrustedDataError("dcutr: something else than SYNC")
        except trio.TooSlowError as exc:
            raise EdgevpnError("the peer takes too long") from exc
        await stream.release()
        await self._dial(stream.peer_id, addrs, client=True)

    def _may_ask(self, peer_id: str, now: float) -> bool:
        """A peer names the addresses that we dial then: it must not do so again and again."""
        asked = [at for at in self._asked.pop(peer_id, ()) if now - at < ASKED_WITHIN]
        self._asked[peer_id] = asked
        if len(self._asked) > MAX_PEERS:
            self._asked.popitem(last=False)
        if len(asked) >= MAX_ASKED:
            return False
        asked.append(now)
        return True

    async def _dial(self, peer_id: str, addrs: Sequence[DialAddr], *, client: bool) -> None:
        """Dial all of them, again and again, until there is a direct connection, whoever made it, or time is over."""
        self._host.punching.add(peer_id)
        try:
            with trio.move_on_after(DIAL_FOR):
                async with trio.open_nursery() as nursery:
                    for addr in addrs:
                        nursery.start_soon(self._knock, peer_id, addr, client)
                    while not self._host.is_direct(peer_id):  # noqa: ASYNC110 - the other side may have made it
                        await trio.sleep(0.05)
                    nursery.cancel_scope.cancel()
            if self._host.is_direct(peer_id):
                self._count("holes_punched")
        finally:
            self._host.punching.discard(peer_id)

    async def _knock(self, peer_id: str, addr: DialAddr, client: bool) -> None:
        while not self._host.is_direct(peer_id):
            try:
                await self._host.punch(ID.from_string(peer_id), addr, client=client)
                return
            except Exception:  # noqa: BLE001 - whatever went wrong, it went wrong with this address
                await trio.sleep(DIAL_AGAIN)
