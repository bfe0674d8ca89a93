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
# What changed in the ledger, and digests of it, between nodes of ours (edgevpn/proto/ledger_frames.py).
LEDGER = "/edgevpn-py/ledger/1"
# Packets with the Go program: one IP packet a yamux data frame.
EDGEVPN_PACKETS = "/edgevpn/0.1"
# Proofs that a node holds a key of the trust zone (edgevpn/proto/trust_challenge.py).
TRUST = "/edgevpn-py/trust/1"

# TCP through a service, a file's bytes, one HTTP request: with the Go program, as it does them.
SERVICE = "/edgevpn/service/0.1"
FILE = "/edgevpn/file/0.1"
EGRESS = "/edgevpn/egress/0.1"
# The same between nodes of ours (edgevpn/proto/tunnel_wire.py, edgevpn/proto/file_wire.py).
TUNNEL = "/edgevpn-py/tunnel/1"
FILES = "/edgevpn-py/file/1"

# Who speaks one of these is of a network such as ours: what they meet for.
OF_A_NETWORK = frozenset((LEDGER, PACKET_STREAM, EDGEVPN_PACKETS))
# Of these streams the host tells how they ended: an end of file must not stand for a connection that broke.
TORN_MATTERS = frozenset((SERVICE, FILE, EGRESS, TUNNEL, FILES))

# By actor; "errand" is the process of a command that is a node for one purpose.
SERVED_BY: dict[str, tuple[str, ...]] = {
    "gossip": MESHSUB,
    "discovery": (KADEMLIA,),
    "ledger": (LEDGER,),
    "tun": (PACKET_STREAM, EDGEVPN_PACKETS, DATAGRAM),
    "tunnels": (TUNNEL, SERVICE, EGRESS),
    "errand": (FILES, FILE),
    "trust": (TRUST,),
}
# What a peer may speak with us before it is trusted (--peergate): what trust is made from, and what finds peers.
BEFORE_TRUST = frozenset((*MESHSUB, KADEMLIA, TRUST))
