"""`edgevpn peers --traffic`: what each protocol cost since the host started.

Streams are counted by the host as payload. "around streams" is what noise and yamux put around it, with yamux's own
frames (keep-alives, window updates). Datagrams are counted by the tun actor since it began: as packets, and as what
goes beside them. The headers of TCP, UDP and IP, and mDNS, are not in these figures: the kernel's counters of the
interface have them.
"""

from __future__ import annotations

from typing import Any

from edgevpn.cli import output
from edgevpn.proto.messages import Paths, Traffic

AROUND = "around streams"
DATAGRAMS = "datagrams (packets)"
BESIDE = "datagrams (probes, repair)"


def rows_of(traffic: Traffic, paths: Paths | None) -> list[dict[str, Any]]:
    """One object a protocol: name, sent_bytes, received_bytes, and the mean rates in kbit/s."""
    seconds = max(traffic.seconds, 0.001)
    counts = [(name, sent, received) for name, (received, sent) in traffic.by_protocol.items()]
    payload = (sum(count[1] for count in counts), sum(count[2] for count in counts))
    counts.append((AROUND, max(0, traffic.wire[1] - payload[0]), max(0, traffic.wire[0] - payload[1])))
    if paths is not None:
        direct = [path for path in paths.paths if path.kind == "datagram"]
        counts.append((DATAGRAMS, sum(p.sent_bytes for p in direct), sum(p.received_bytes for p in direct)))
        counts.append((BESIDE, paths.beside[1], paths.beside[0]))
    return [
        {
            "protocol": name,
            "sent_bytes": sent,
            "received_bytes": received,
            "sent_kbit_s": round(sent * 8 / 1000 / seconds, 3),
            "received_kbit_s": round(received * 8 / 1000 / seconds, 3),
        }
        for name, sent, received in sorted(counts, key=lambda count: -(count[1] + count[2]))
    ]


def show(traffic: Traffic, paths: Paths | None, as_json: bool) -> str:
    """The text to print."""
    rows = rows_of(traffic, paths)
    if as_json:
        peers = {
            name: {"sent_bytes": sent, "received_bytes": received} for name, (received, sent) in traffic.by_peer.items()
        }
        return output.as_json({"seconds": round(traffic.seconds, 1), "protocols": rows, "peers": peers})
    columns = ("protocol", "sent bytes", "received bytes", "sent kbit/s", "received kbit/s")
    return f"since {output.age(traffic.seconds)}\n" + output.table(columns, [tuple(row.values()) for row in rows])
