"""The libp2p protocols of a node, and which actor serves each.

The host offers a protocol as long as its actor is enabled, also while that actor is being started again: inbound
streams then wait for it (a Go node tries a meshsub stream five times within a second, then never again on that
connection).
"""

from __future__ import annotations

MESHSUB = ("/meshsub/1.2.0", "/meshsub/1.1.0")
KADEMLIA = "/ipfs/kad/1.0.0"

# Packets between nodes of ours: length-prefixed super-packets (edgevpn/proto/packet_stream.py).
PACKET_STREAM = "/edgevpn-py/packets/1"
# Handshakes for packets in UDP datagrams (edgevpn/proto/datagram_handshake.py).
DATAGRAM = "/edgevpn-py/datagram/1"
# Packets with the Go program: one IP packet a yamux data frame.
EDGEVPN_PACKETS = "/edgevpn/0.1"

SERVED_BY: dict[str, tuple[str, ...]] = {
    "gossip": MESHSUB,
    "discovery": (KADEMLIA,),
    "tun": (PACKET_STREAM, EDGEVPN_PACKETS, DATAGRAM),
}
