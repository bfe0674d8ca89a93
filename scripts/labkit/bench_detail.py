"""What a turn of scripts/bench met: on the wire, in the inner TCP, and in repair. For finding out why it was slow."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from typing import Any

from scripts.labkit.namespaces import Lab, Node
from scripts.labkit.nodes import Vpn
from scripts.labkit.traffic import PingResult

TCP = (
    "TcpRetransSegs", "TCPFastRetrans", "TCPSackRecovery", "TCPLostRetransmit", "TCPTimeouts", "TCPLossProbes",
    "TCPDSACKRecv", "TCPFullUndo", "TCPPartialUndo", "TCPDSACKUndo", "TCPLossUndo",
    "TCPSACKReorder", "TCPTSReorder", "TCPHystartTrainDetect", "TCPHystartDelayDetect",
)  # fmt: skip


def tcp_counters(node: Node) -> dict[str, int]:
    """Of the node's namespace since it was made: netstat(8) and snmp, TcpExt's without the prefix."""
    found: dict[str, int] = {}
    lines = node.run(["cat", "/proc/net/netstat", "/proc/net/snmp"]).stdout.splitlines()
    for names, values in zip(lines[::2], lines[1::2], strict=True):
        prefix = "" if names.startswith("TcpExt:") else names.partition(":")[0]
        found |= {prefix + name: int(value) for name, value in zip(names.split()[1:], values.split()[1:], strict=True)}
    return found


class Detail:
    """Figures from its making to `lines`."""

    def __init__(self, lab: Lab, vpns: Sequence[Vpn]) -> None:
        self._lab, self._vpns = lab, vpns
        self._tcp = tcp_counters(lab.node(2))
        self._repair, self._took = self._counters(), self._took_now()
        lab.wire()

    def _counters(self) -> list[dict[str, int]]:
        return [dict(vpn.json("peers")[0]["repair"]) for vpn in self._vpns]

    def _took_now(self) -> list[list[int]]:
        """How long repair took, of the one session that there is."""
        code = "[s.repair.receiver.took for l in datagrams.engine.links.values() for s in l.sessions][-1]"
        return [json.loads(vpn.ask("repl", "tun", "-c", code).stdout) for vpn in self._vpns]

    def lines(self, name: str, report: dict[str, Any], pings: PingResult) -> list[str]:
        wire = self._lab.wire()
        lines = [f"    {name}:   s   Mbit/s  again  cwnd kB  rtt ms"]
        for interval in report["intervals"]:
            one = interval["streams"][0]
            lines.append(
                f"      {one['end']:10.0f} {one['bits_per_second'] / 1e6:8.1f} {one['retransmits']:6d}"
                f" {one['snd_cwnd'] / 1000:8.0f} {one['rtt'] / 1000:7.1f}"
            )
        for way, port in (("to the receiver", wire.ports[1]), ("back", wire.ports[0])):
            lines.append(f"      wire {way}: {port.frames} frames, {port.by_chance} lost, {port.by_queue} by the queue")
        lines.append(f"      the relay: {wire.unseen} frames unseen, at most {wire.late_us / 1000:.1f} ms late")
        after = tcp_counters(self._lab.node(2))
        changed = {key: after.get(key, 0) - self._tcp.get(key, 0) for key in TCP}
        lines.append("      " + ", ".join(f"{key} {value}" for key, value in changed.items() if value))
        for side, was, now in zip(("receiver", "sender"), self._repair, self._counters(), strict=False):
            gained = {key: value - was.get(key, 0) for key, value in now.items() if value != was.get(key, 0)}
            lines.append(f"      repair at the {side}: " + ", ".join(f"{key} {value}" for key, value in gained.items()))
        for side, was, now in zip(("receiver", "sender"), self._took, self._took_now(), strict=False):
            buckets = [f"{count}" for count in (b - a for a, b in zip(was, now, strict=True))]
            lines.append(f"      holes filled at the {side}, within 1, 2, 4 ... ms: {' '.join(buckets)}")
        lines.append(f"      longest silence of ping: {pings.longest_gap_s * 1000:.0f} ms; by second, median and most:")
        by_second: dict[int, list[float]] = {}
        for at, rtt in zip(pings.times, pings.rtts_ms, strict=True):
            by_second.setdefault(int(at), []).append(rtt)
        shown = [f"{statistics.median(rtts):.0f} {max(rtts):.0f}" for _, rtts in sorted(by_second.items())]
        ordered = sorted(pings.rtts_ms)
        quantiles = [f"{q:g} %: {ordered[int(len(ordered) * q / 100)]:.0f}" for q in (90, 95, 98, 99, 99.5) if ordered]
        lines.append(f"        {', '.join(shown)};  {', '.join(quantiles)}; {pings.sent - pings.received} lost")
        return lines
