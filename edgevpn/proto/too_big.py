"""What a router does with a packet that is too large for the way: fragments it, or tells its sender. Pure.

    IPv4 without "don't fragment"    fragments (RFC 791, 3.2)
    IPv4 with it                     ICMP type 3, code 4, with the next hop's MTU (RFC 1191)
    IPv6                             ICMPv6 type 2, with the MTU (RFC 8201, RFC 4443)

The answer comes from the packet's destination: an address that the sender knows to be beyond this interface, so neither
its reverse path filter nor its check of local addresses refuses it, and it fits what the packet quotes.
"""

from __future__ import annotations

import struct

from edgevpn.proto.ip import IPV4_HEADER, IPV6_HEADER, checksum

ICMP, ICMPV6 = 1, 58
MIN_IPV6: int = 1280  # RFC 8200: no IPv6 sender goes below
_FRAGMENT = 44
_EXTENSIONS = (0, 43, 60)  # hop-by-hop, routing, destination options (RFC 8200, 4)
_ERRORS_V4 = frozenset((3, 4, 5, 11, 12))
_DONT, _MORE, _OFFSET = 0x4000, 0x2000, 0x1FFF
_QUOTED_V4 = 576 - IPV4_HEADER - 8  # RFC 1812, 4.3.2.3
_QUOTED_V6 = MIN_IPV6 - IPV6_HEADER - 8


def may_fragment(packet: bytes | bytearray | memoryview) -> bool:
    """Whether a router may cut this packet."""
    return packet[0] >> 4 == 4 and not int.from_bytes(packet[6:8], "big") & _DONT


def too_big_answer(packet: bytes, mtu: int) -> bytes | None:
    """The ICMP packet for the sender of `packet`; None where there must be none (RFC 1122, 3.2.2; RFC 4443, 2.4).

    `packet`: whole, from its IP header on. `mtu`: what the next hop carries; an IPv6 sender is told no less than 1280.
    """
    return _answer_v4(packet, mtu) if packet[0] >> 4 == 4 else _answer_v6(packet, max(mtu, MIN_IPV6))


def _answer_v4(packet: bytes, mtu: int) -> bytes | None:
    header = (packet[0] & 15) * 4
    source, destination = packet[12:16], packet[16:20]
    if int.from_bytes(packet[6:8], "big") & _OFFSET or not _is_one_host_v4(source) or not _is_one_host_v4(destination):
        return None
    if packet[9] == ICMP and (len(packet) <= header or packet[header] in _ERRORS_V4):
        return None
    message = struct.pack(">BBHHH", 3, 4, 0, 0, min(mtu, 0xFFFF)) + packet[:_QUOTED_V4]
    message = message[:2] + checksum(message).to_bytes(2, "big") + message[4:]
    head = struct.pack(">BBHHHBBH", 0x45, 0xC0, IPV4_HEADER + len(message), 0, 0, 64, ICMP, 0) + destination + source
    return head[:10] + checksum(head).to_bytes(2, "big") + head[12:] + message


def _is_one_host_v4(address: bytes) -> bool:
    return address[0] not in (0, 127) and address[0] < 224


def _answer_v6(packet: bytes, mtu: int) -> bytes | None:
    source, destination = packet[8:24], packet[24:40]
    if 0xFF in (source[0], destination[0]) or not any(source[:15]):  # multicast, unspecified, loopback
        return None
    protocol, at = packet[6], IPV6_HEADER
    while protocol in (*_EXTENSIONS, _FRAGMENT):
        if at + 8 > len(packet):
            return None
        if protocol == _FRAGMENT:
            if int.from_bytes(packet[at + 2 : at + 4], "big") & 0xFFF8:
                return None
            protocol, at = packet[at], at + 8
        else:
            protocol, at = packet[at], at + 8 + packet[at + 1] * 8
    if protocol == ICMPV6 and (at >= len(packet) or packet[at] < 128 or packet[at] == 137):  # errors, redirects
        return None
    message = struct.pack(">BBHI", 2, 0, 0, mtu) + packet[:_QUOTED_V6]
    pseudo = destination + source + struct.pack(">II", len(message), ICMPV6)
    message = message[:2] + checksum(pseudo + message).to_bytes(2, "big") + message[4:]
    return struct.pack(">IHBB", 6 << 28, len(message), ICMPV6, 64) + destination + source + message


def fragment(packet: bytes, mtu: int) -> list[bytes]:
    """An IPv4 packet, or a fragment, that may be cut, as fragments of at most `mtu` bytes. [] where none fits."""
    header = (packet[0] & 15) * 4
    if not IPV4_HEADER <= header < len(packet):
        return []
    field = int.from_bytes(packet[6:8], "big")
    offset, more = field & _OFFSET, field & _MORE
    first = packet[:header]
    rest = packet[:IPV4_HEADER] + _copied_options(packet[IPV4_HEADER:header])
    rest = bytes((0x40 | len(rest) // 4,)) + rest[1:]
    step = (mtu - header) // 8 * 8
    if step <= 0:
        return []
    out = []
    for at in range(header, len(packet), step):
        head = bytearray(first if at == header else rest)
        piece = packet[at : at + step]
        is_last = at + step >= len(packet)
        struct.pack_into(">H", head, 2, len(head) + len(piece))
        struct.pack_into(">H", head, 6, offset + (at - header) // 8 | (more if is_last else _MORE))
        head[10:12] = b"\0\0"
        struct.pack_into(">H", head, 10, checksum(bytes(head)))
        out.append(bytes(head) + piece)
    return out


def _copied_options(options: bytes) -> bytes:
    """Those that each fragment has (RFC 791, 3.1: the copied flag), padded."""
    kept = b""
    at = 0
    while at < len(options) and options[at]:
        length = 1 if options[at] == 1 else options[at + 1] if at + 1 < len(options) else 0
        if not length or (length < 2 and options[at] != 1):
            break
        if options[at] & 0x80:
            kept += options[at : at + length]
        at += length
    return kept.ljust(-(-len(kept) // 4) * 4, b"\0")
