"""Nodes of a lab behind routers that masquerade, as most homes are: reached from nowhere, unless a hole is made.

    lab = Lab(5)
    behind(lab.node(2), lab.node(3))       # node 2 is the router of node 3; node 1, 4, 5 are the Internet

A router lets out all, and in only what answers that. It drops the rest without a word, as home routers do.
"""

from __future__ import annotations

from scripts.labkit.namespaces import Lab, Node

_RULES = """
flush ruleset
add table ip nat
add chain ip nat post { type nat hook postrouting priority 100; }
add rule ip nat post oifname eth0 masquerade
add table inet wall
add chain inet wall in { type filter hook input priority 0; }
add rule inet wall in iifname eth0 ct state new drop
add chain inet wall on { type filter hook forward priority 0; }
add rule inet wall on iifname eth0 ct state new drop
"""

_WALL = """
flush ruleset
add table inet wall
add chain inet wall in { type filter hook input priority 0; }
add rule inet wall in iifname eth0 ct state new drop
"""


def behind(router: Node, inside: Node, number: int = 7) -> None:
    """Put `inside` behind `router`, in 192.168.NUMBER.0/24; IPv4 only."""
    for node in (router, inside):
        node.run(["ip", "-6", "addr", "flush", "dev", "eth0"])
    router.run(["sysctl", "-qw", "net.ipv4.ip_forward=1"])
    router.run(["ip", "link", "add", "in0", "type", "veth", "peer", "name", "eth1", "netns", inside.netns])
    router.run(["ip", "addr", "add", f"192.168.{number}.1/24", "dev", "in0"])
    router.run(["ip", "link", "set", "in0", "up"])
    inside.run(["ip", "link", "set", "eth0", "down"])
    inside.run(["ip", "addr", "add", f"192.168.{number}.2/24", "dev", "eth1"])
    inside.run(["ip", "link", "set", "eth1", "up"])
    inside.run(["ip", "route", "replace", "default", "via", f"192.168.{number}.1"])
    router.run(["sh", "-c", f"nft -f - <<'E'\n{_RULES}\nE"])


def only_to(router: Node, *allowed: str) -> None:
    """Have a router let through what goes to these addresses and comes from them, and nothing else: no hole helps."""
    names = ", ".join(allowed)
    router.run(["nft", "add chain inet wall only { type filter hook forward priority 10; }"])
    router.run(["nft", f"add rule inet wall only oifname eth0 ip daddr != {{ {names} }} drop"])
    router.run(["nft", f"add rule inet wall only iifname eth0 ip saddr != {{ {names} }} drop"])


def wall(node: Node) -> None:
    """A firewall at a node itself, which translates nothing: it drops what is new from outside without a word."""
    node.run(["ip", "-6", "addr", "flush", "dev", "eth0"])
    node.run(["sh", "-c", f"nft -f - <<'E'\n{_WALL}\nE"])


def open_up(router: Node) -> None:
    """Take back `only_to`."""
    router.run(["nft", "flush chain inet wall only"])


def publish(lab: Lab) -> None:
    """Give the lab's nodes addresses that look like the Internet's, 5.6.7.K: Go nodes serve as relays at such only."""
    for k, node in enumerate(lab.nodes, 1):
        node.address = f"5.6.7.{k}"
        for version in ("-4", "-6"):
            node.run(["ip", version, "addr", "flush", "dev", "eth0"])
        node.run(["ip", "addr", "add", f"{node.address}/24", "dev", "eth0"])
        node.run(["ip", "route", "replace", "default", "dev", "eth0"])
