"""`/metrics`: the node's state in Prometheus' text format, by prometheus-client and with a registry of its own.

A scrape asks the actors; one that is away is left out, and `edgevpn_actor_up` says so. Names follow
https://prometheus.io/docs/practices/naming/. Series are bounded by the number of connected peers, actors and buckets.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

import trio
from prometheus_client import CollectorRegistry, Counter, disable_created_metrics, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric

from edgevpn.errors import EdgevpnError
from edgevpn.proto.messages import ActorStatus, LedgerEntry, NodeStatus, PathState, QueueStatus
from edgevpn.web.source import Metered, Source

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
PATIENCE = 2.0  # seconds for each actor
STATES = ("starting", "joining", "up", "stopping")
MAX_BUCKETS = 100
T = TypeVar("T")


class Requests:
    """What the API itself was asked, by route (never by path: those are endless)."""

    def __init__(self) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]  # twice the series, for what nobody asks
        self.registry = CollectorRegistry(auto_describe=False)
        self._answered = Counter(
            "edgevpn_api_requests", "Requests answered", ("route", "method", "status"), registry=self.registry
        )
        self._refused = Counter("edgevpn_api_refused", "Requests refused", ("reason",), registry=self.registry)
        self.node = _NodeCollector()
        self.registry.register(self.node)

    def count(self, route: str, method: str, status: int) -> None:
        self._answered.labels(route, method, str(status)).inc()

    def refused(self, reason: str) -> None:
        self._refused.labels(reason).inc()


@dataclass
class _Found:
    """What a scrape got; None of what did not answer."""

    status: NodeStatus | None = None
    actors: list[ActorStatus] = field(default_factory=list)
    queues: Mapping[str, Any] = field(default_factory=dict)
    paths: list[PathState] = field(default_factory=list)
    entries: list[LedgerEntry] = field(default_factory=list)
    metered: Metered | None = None
    connected: int = 0
    members: int = 0
    watchers: int = 0


async def scrape(source: Source, requests: Requests) -> bytes:
    found = _Found(connected=len(source.peers), members=len(source.members), watchers=source.hub.watched)

    async def get(name: str, ask: Callable[[], Coroutine[Any, Any, Any]]) -> None:
        try:
            with trio.move_on_after(PATIENCE):
                setattr(found, name, await ask())
        except EdgevpnError:
            return

    async with trio.open_nursery() as nursery:
        for name, ask in (
            ("status", source.status),
            ("actors", source.actors),
            ("queues", source.queues),
            ("paths", source.paths),
            ("entries", source.entries),
            ("metered", source.metered),
        ):
            nursery.start_soon(get, name, ask)
    requests.node.found = found
    return generate_latest(requests.registry)


class _NodeCollector:
    """Families of the last scrape. A collector by what it does: where libp2p is, its base may not be imported yet."""

    def __init__(self) -> None:
        self.found = _Found()

    def collect(self) -> Iterator[Metric]:
        found = self.found
        yield from _node(found)
        yield from _actors(found.actors, found.queues)
        yield from _paths(found.paths)
        yield _gauge("edgevpn_connected_peers", "Peers with a connection", found.connected)
        yield _gauge("edgevpn_members", "Connected members of the network", found.members)
        yield _gauge("edgevpn_api_watchers", "Open streams of events", found.watchers)
        counts: dict[str, int] = {}
        for entry in found.entries:
            if not entry.deleted:
                counts[entry.bucket] = counts.get(entry.bucket, 0) + 1
        ledger = GaugeMetricFamily("edgevpn_ledger_entries", "Entries of the ledger", labels=["bucket"])
        for bucket, count in sorted(counts.items())[:MAX_BUCKETS]:
            ledger.add_metric([bucket], count)
        yield ledger
        if found.metered is not None:
            bytes_ = CounterMetricFamily("edgevpn_bytes", "Bytes by protocol", labels=["protocol", "direction"])
            for name, (received, sent) in sorted(found.metered.traffic.by_protocol.items()):
                bytes_.add_metric([name, "received"], received)
                bytes_.add_metric([name, "sent"], sent)
            yield bytes_


def _node(found: _Found) -> Iterator[Metric]:
    status = found.status
    if status is None:
        return
    info = InfoMetricFamily("edgevpn_node", "The node")
    info.add_metric([], {"peer_id": status.peer_id, "version": status.version, "interface": status.interface})
    yield info
    state = GaugeMetricFamily("edgevpn_node_state", "1 for the state the node is in", labels=["state"])
    for name in STATES:
        state.add_metric([name], float(name == status.state))
    yield state
    yield _gauge("edgevpn_uptime_seconds", "Since the node was started", status.uptime_s)


def _actors(actors: list[ActorStatus], queues: Mapping[str, list[QueueStatus]]) -> Iterator[Metric]:
    up = GaugeMetricFamily("edgevpn_actor_up", "1: the actor is ready", labels=["actor"])
    restarts = CounterMetricFamily("edgevpn_actor_restarts", "Times it was started again", labels=["actor"])
    memory = GaugeMetricFamily("edgevpn_actor_memory_bytes", "Its part of the memory (PSS)", labels=["actor"])
    for one in actors:
        up.add_metric([one.name], float(one.state == "ready"))
        restarts.add_metric([one.name], one.restarts)
        memory.add_metric([one.name], one.pss_bytes or one.rss_bytes)
    depth = GaugeMetricFamily("edgevpn_queue_depth", "What waits in a queue", labels=["actor", "queue"])
    dropped = CounterMetricFamily("edgevpn_queue_dropped", "What a queue lost", labels=["actor", "queue"])
    for actor, those in sorted(queues.items()):
        for queue in those:
            depth.add_metric([actor, queue.name], queue.depth)
            dropped.add_metric([actor, queue.name], queue.dropped)
    yield from (up, restarts, memory, depth, dropped)


def _paths(paths: list[PathState]) -> Iterator[Metric]:
    kind = GaugeMetricFamily("edgevpn_path_info", "1 for the path packets take to a peer", labels=["peer", "kind"])
    rtt = GaugeMetricFamily("edgevpn_path_rtt_seconds", "Round trip of datagrams", labels=["peer"])
    labels = ["peer", "direction"]
    sizes = CounterMetricFamily("edgevpn_path_bytes", "Packets' bytes", labels=labels)
    packets = CounterMetricFamily("edgevpn_path_packets", "Packets", labels=labels)
    dropped = CounterMetricFamily("edgevpn_path_dropped_packets", "Packets dropped before a peer", labels=["peer"])
    for path in paths:
        kind.add_metric([path.peer_id, path.kind], 1)
        if path.rtt_s:
            rtt.add_metric([path.peer_id], path.rtt_s)
        sizes.add_metric([path.peer_id, "received"], path.received_bytes)
        sizes.add_metric([path.peer_id, "sent"], path.sent_bytes)
        packets.add_metric([path.peer_id, "received"], path.received_packets)
        packets.add_metric([path.peer_id, "sent"], path.sent_packets)
        dropped.add_metric([path.peer_id], path.dropped)
    yield from (kind, rtt, sizes, packets, dropped)


def _gauge(name: str, help_: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(name, help_, value=value)
