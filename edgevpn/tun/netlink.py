"""Addresses, MTU and state of the interface, by rtnetlink(7) through pyroute2.

The addresses' networks become routes by the kernel's own doing, and go with the device.
"""

from __future__ import annotations

import errno
import ipaddress
from collections.abc import Iterable
from contextlib import suppress

from pyroute2 import IPRoute  # type: ignore[import-untyped]
from pyroute2.netlink.exceptions import NetlinkError  # type: ignore[import-untyped]

from edgevpn.errors import SetupError

_GSO_MAX_SIZE = 59_000  # bytes of a super-packet, so that sealed it is one UDP_SEGMENT send: 64 datagrams, 65,507 bytes
_NO_DAD = 0x02  # IFA_F_NODAD: no one else is on the link, and a second's wait would be one


def configure(name: str, addresses: Iterable[str], mtu: int) -> None:
    """Give the interface its MTU and addresses (CIDRs) and bring it up. Raises SetupError."""
    try:
        with IPRoute() as netlink:
            index = netlink.link_lookup(ifname=name)[0]
            netlink.link("set", index=index, mtu=mtu, txqlen=1000)
            with suppress(NetlinkError):  # an old kernel: trains of two sends then
                netlink.link("set", index=index, gso_max_size=_GSO_MAX_SIZE)
            netlink.link("set", index=index, state="up")
            for text in addresses:
                _add(netlink, index, text)
    except (NetlinkError, IndexError, OSError) as exc:
        raise SetupError(f"can't set up the interface {name} with {', '.join(addresses)}: {exc}") from exc


def change_addresses(name: str, wanted: Iterable[str], unwanted: Iterable[str]) -> None:
    """Take addresses (CIDRs) from the interface, and give it others that it may have already. Raises SetupError."""
    wanted = list(wanted)
    try:
        with IPRoute() as netlink:
            index = netlink.link_lookup(ifname=name)[0]
            for text in unwanted:
                interface = ipaddress.ip_interface(text)
                with suppress(NetlinkError):  # somebody took it away already
                    netlink.addr("del", index=index, address=str(interface.ip), prefixlen=interface.network.prefixlen)
            for text in wanted:
                try:
                    _add(netlink, index, text)
                except NetlinkError as exc:
                    if exc.code != errno.EEXIST:
                        raise
    except (NetlinkError, IndexError, OSError) as exc:
        raise SetupError(f"can't give the interface {name} {', '.join(wanted)}: {exc}") from exc


def _add(netlink: IPRoute, index: int, text: str) -> None:
    interface = ipaddress.ip_interface(text)
    extra = {"flags": _NO_DAD} if interface.version == 6 else {}
    netlink.addr("add", index=index, address=str(interface.ip), prefixlen=interface.network.prefixlen, **extra)
