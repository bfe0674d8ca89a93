"""The relay's client: places at relays for us, circuits to others through them, circuits of others to us.

libp2p's specs, relay/circuit-v2.md; the service is relay_service.py. A circuit is a stream to the relay that a noise
handshake with the far end is made on, as on a TCP connection; so the relay learns who speaks with whom, how much and
when, and nothing else, and can't stand for anybody.

A circuit to us is taken only from a relay that we have a reservation with. When to want one, and where, is decided in
auto_relay.py.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import trio
from libp2p.abc import INetConn
from libp2p.connection_types import ConnectionType
from libp2p.io.abc import ReadWriteCloser
from libp2p.io.exceptions import ConnectionClosedError
from libp2p.network.connection.raw_connection import RawConnection
from libp2p.transport.exceptions import OpenConnectionError
from multiaddr import Multiaddr  # type: ignore[import-untyped]

from edgevpn.errors import EdgevpnError, UntrustedDataError
from edgevpn.p2p.address_book import parse_addr_untrusted
from edgevpn.p2p.circuit import (
    HOP,
    STOP,
    Hop,
    HopKind,
    Status,
    Stop,
    StopKind,
    read_hop_untrusted,
    read_stop_untrusted,
    status_text,
    write_hop,
    write_stop,
)
from edgevpn.p2p.host import Host
from edgevpn.p2p.host_stream import DialError, HostStream
from edgevpn.p2p.identify import addr_text
from edgevpn.proto.peer_key import peer_id_bytes_untrusted, peer_id_text
from edgevpn.proto.relayed import CIRCUIT

TIMEOUT = 10.0
SHORTEST, LONGEST = 5.0, 86400.0  # seconds that a reservation is taken to last, whatever the clocks say
MAX_ADDRS = 3  # announced of one relay
UNKNOWN_FOR = 2.0  # seconds for which a relay that does not know a peer is not asked for it again by ourselves
MAX_UNKNOWN = 256


class RelayRefusedError(DialError):
    """A relay said no; `status` is its word."""

    def __init__(self, relay: str, status: int) -> None:
        super().__init__(f"the relay {relay} refuses: {status_text(status)}")
        self.status = status


@dataclass(frozen=True)
class Held:
    """A reservation: `addrs` lead to us through the relay; `ttl` seconds from when it was made."""

    addrs: tuple[str, ...]
    ttl: float


class CircuitStream(ReadWriteCloser):
    """A stream to a relay as what a connection is made of."""

    def __init__(self, stream: HostStream) -> None:
        self._stream = stream

    async def read(self, n: int | None = None) -> bytes:
        try:
            return await self._stream.read(n)
        except EdgevpnError as exc:
            raise ConnectionClosedError(str(exc), transport="circuit") from exc

    async def write(self, data: bytes) -> None:
        try:
            await self._stream.write(data)
        except EdgevpnError as exc:
            raise ConnectionClosedError(str(exc), transport="circuit") from exc

    async def close(self) -> None:
        await self._stream.release()

    def get_remote_address(self) -> tuple[str, int] | None:
        return None  # it is the relay that has one


def _raw(stream: HostStream, *, initiator: bool) -> RawConnection:
    stream.hold()
    addrs = [Multiaddr(f"{stream.remote_addr}/p2p/{stream.peer_id}{CIRCUIT}")]
    return RawConnection(CircuitStream(stream), initiator, ConnectionType.RELAYED, addrs)


class RelayClient:
    """On `host`. `held`: the reservations, by relay; who loses one takes it out."""

    def __init__(self, host: Host, count: Callable[[str], None] = lambda _: None, *, allowed: bool = True) -> None:
        """Not `allowed`: every circuit is refused, in either direction."""
        self._allowed = allowed
        self._host = host
        self._count = count
        self.held: dict[str, Held] = {}
        self._unknown: dict[tuple[str, str], float] = {}  # (relay, peer): until when
        host.serve(STOP, self._stop)
        host.dial_relayed_with(self.dial)

    async def reserve(self, relay: str) -> Held:
        """Reserve a place at a relay that we are connected with, or renew it. Raises DialError, RelayRefusedError."""
        stream = await self._host.direct_stream(relay, [HOP], timeout=TIMEOUT)
        try:
            answer = await self._ask(stream, Hop(HopKind.RESERVE))
            if answer.reservation is None:
                raise DialError(f"the relay {relay} does not say until when")
            ttl = min(max(answer.reservation.expire - time.time(), SHORTEST), LONGEST)
            theirs = [text for raw in answer.reservation.addrs if (text := addr_text(raw))]
            # where we reached it is where it is sure to be reached
            here = [f"{stream.remote_addr}/p2p/{relay}"] if stream.dialled_connection else []
            held = self.held[relay] = Held(self._circuits(relay, [*here, *theirs]), ttl)
            return held
        finally:
            with trio.CancelScope(shield=True):
                await stream.release()

    def _circuits(self, relay: str, addrs: list[str]) -> tuple[str, ...]:
        """The addresses that lead to us, of those of the relay that can be dialled."""
        found: dict[str, None] = {}
        for addr in addrs:
            text = f"{addr}{CIRCUIT}"
            try:
                parsed = parse_addr_untrusted(text, self._host.peer_id)
            except UntrustedDataError:
                continue
            if parsed.relay == relay and self._host.book.dialable(parsed, "identify"):
                found[parsed.text] = None
        return tuple(found)[:MAX_ADDRS]

    async def _ask(self, stream: HostStream, request: Hop) -> Hop:
        """The answer OK. Raises DialError, RelayRefusedError."""
        try:
            with trio.fail_after(TIMEOUT):
                await stream.write(write_hop(request))
                answer = read_hop_untrusted(await stream.read_message())
        except trio.TooSlowError as exc:
            raise DialError(f"the relay {stream.peer_id} does not answer") from exc
        except EdgevpnError as exc:
            raise DialError(f"the relay {stream.peer_id}: {exc}") from exc
        if answer.kind is not HopKind.STATUS or answer.status != Status.OK:
            raise RelayRefusedError(stream.peer_id, answer.status)
        return answer

    async def dial(self, addr: Multiaddr) -> INetConn:
        """A connection over `.../p2p/RELAY/p2p-circuit/p2p/PEER`. Raises OpenConnectionError, SwarmException."""
        if not self._allowed:
            raise OpenConnectionError("no circuits: peers are listed by network")
        way, _, peer = str(addr).rpartition(f"{CIRCUIT}/p2p/")
        base, _, relay = way.rpartition("/p2p/")
        try:
            await self._host.connect_directly(relay, [base], timeout=TIMEOUT)
            stream = await self._host.direct_stream(relay, [HOP], timeout=TIMEOUT)
            try:
                await self._ask(stream, Hop(HopKind.CONNECT, peer_id_bytes_untrusted(peer)))
                conn = await self._host.run_circuit(_raw(stream, initiator=True), peer)
            except BaseException:
                with trio.CancelScope(shield=True):
                    await stream.reset()
                raise
        except RelayRefusedError as exc:
            self._unknown.pop((relay, peer), None)
            self._unknown[relay, peer] = trio.current_time() + UNKNOWN_FOR
            if len(self._unknown) > MAX_UNKNOWN:
                del self._unknown[next(iter(self._unknown))]
            raise OpenConnectionError(f"a relay refuses: {status_text(exc.status)}") from exc
        except EdgevpnError as exc:
            raise OpenConnectionError(str(exc)) from exc
        self._count("circuits_dialled")
        return conn

    def may_know(self, relay: str, peer: str) -> bool:
        """Whether a relay is worth asking for a peer: it has not just said no."""
        return self._unknown.get((relay, peer), 0.0) <= trio.current_time()

    async def _stop(self, stream: HostStream) -> None:
        """A relay has somebody for us: serve the circuit until it ends."""
        try:
            with trio.fail_after(TIMEOUT):
                request = read_stop_untrusted(await stream.read_message())
        except trio.TooSlowError as exc:
            raise EdgevpnError("no request came") from exc
        status = Status.OK
        if not self._allowed or stream.relayed or stream.peer_id not in self.held:
            status = Status.PERMISSION_DENIED
        elif request.kind is not StopKind.CONNECT or not request.peer:
            status = Status.UNEXPECTED_MESSAGE
        elif not self._host.welcomes(peer_id_text(request.peer)):
            status = Status.PERMISSION_DENIED
        with trio.fail_after(TIMEOUT):
            await stream.write(write_stop(Stop(StopKind.STATUS, status=status)))
        if status is Status.OK:
            self._count("circuits_taken")
            await self._host.serve_circuit(_raw(stream, initiator=False), stream.peer_id)
