"""The TUN device: made by the supervisor, used by the tun actor through the descriptor it is handed.

It is opened with a virtio_net_hdr before each packet and all offloads the kernel has, so that one read or write moves
a TCP super-packet of up to 64 KiB. The device is not persistent: it goes with its last descriptor, however the
processes end, and stays while any of them, here the supervisor, holds it.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct
from pathlib import Path
from typing import Any

import pytun  # type: ignore[import-not-found]  # a C extension

from edgevpn.errors import SetupError
from edgevpn.proto.packet_stream import VIRTIO_HEADER

IFF_VNET_HDR = 0x4000
_TUNSETOFFLOAD, _TUNSETVNETHDRSZ, _TUNSETVNETLE = 0x400454D0, 0x400454D8, 0x400454DC
_CSUM, _TSO4, _TSO6, _ECN, _USO4, _USO6 = 0x01, 0x02, 0x04, 0x08, 0x20, 0x40
_TCP_OFFLOAD = _CSUM | _TSO4 | _TSO6 | _ECN
_UDP_OFFLOAD = _USO4 | _USO6  # together or not at all, since Linux 6.2


class Device:
    """An open TUN device. `takes_tcp` and `takes_udp`: whether the kernel deals in super-packets of that kind."""

    def __init__(self, tun: Any, name: str, takes_tcp: bool, takes_udp: bool) -> None:
        self._tun = tun
        self.name = name
        self.takes_tcp = takes_tcp
        self.takes_udp = takes_udp

    def fileno(self) -> int:
        return int(self._tun.fileno())

    def close(self) -> None:
        self._tun.close()


def open_device(name: str) -> Device:
    """Make the device `name`. Raises SetupError with what to do."""
    if not Path("/dev/net/tun").exists():
        raise SetupError(
            "this machine has no /dev/net/tun: load the module (modprobe tun), or pass the device to the container"
        )
    if Path("/sys/class/net", name).exists():
        raise SetupError(f"a network interface {name} exists already: stop what uses it, or choose another --interface")
    try:
        tun = pytun.TunTapDevice(name=name, flags=pytun.IFF_TUN | pytun.IFF_NO_PI | IFF_VNET_HDR)
    except (pytun.Error, OSError) as exc:
        number = exc.args[0] if exc.args else 0
        if number in (errno.EPERM, errno.EACCES):
            raise SetupError(
                f"no right to make the interface {name}: run as root or with CAP_NET_ADMIN, or use `edgevpn start`"
            ) from exc
        if number == errno.EBUSY:
            raise SetupError(f"the interface {name} is in use: choose another --interface") from exc
        raise SetupError(f"can't make the interface {name}: {exc.args[-1] if exc.args else exc}") from exc
    descriptor = tun.fileno()
    os.set_inheritable(descriptor, False)
    os.set_blocking(descriptor, False)
    takes_tcp, takes_udp = enable_offloads(descriptor)
    return Device(tun, name, takes_tcp, takes_udp)


def enable_offloads(descriptor: int) -> tuple[bool, bool]:
    """Turn on what the kernel has; whether it takes TCP and UDP super-packets."""
    fcntl.ioctl(descriptor, _TUNSETVNETHDRSZ, struct.pack("i", VIRTIO_HEADER))
    fcntl.ioctl(descriptor, _TUNSETVNETLE, struct.pack("i", 1))
    for offloads, result in (
        (_TCP_OFFLOAD | _UDP_OFFLOAD, (True, True)),
        (_TCP_OFFLOAD, (True, False)),
        (0, (False, False)),
    ):
        try:
            fcntl.ioctl(descriptor, _TUNSETOFFLOAD, offloads)
        except OSError:
            continue
        return result
    return False, False
