"""The little of IP that a VPN has to read (RFC 791, RFC 8200): versions, lengths, addresses, checksums.

Checksums are RFC 1071's: the ones' complement sum of 16-bit words. Since 2^16 is 1 modulo 65535, that sum is the
number that the bytes spell, modulo 65535, which Python's integers give faster than any loop.
"""

from __future__ import annotations

from edgevpn.errors import UntrustedDataError

IPV4_HEADER = 20
IPV6_HEADER = 40
MAX_PACKET = 65575  # an IPv6 header and the largest payload
TCP = 6
UDP = 17


def packet_length_untrusted(packet: bytes | memoryview, at: int = 0) -> int:
    """The length an IP packet, from `at` on, states of itself; needs 8 bytes at least. Raises UntrustedDataError."""
    if len(packet) < at + 8:
        raise UntrustedDataError("a packet is shorter than any IP header")
    version = packet[at] >> 4
    if version == 4:
        length = packet[at + 2] << 8 | packet[at + 3]
        header = (packet[at] & 15) * 4
        if header < IPV4_HEADER or length < header:
            raise UntrustedDataError("an IPv4 packet states a wrong length")
        return length
    if version == 6:
        return IPV6_HEADER + (packet[at + 4] << 8 | packet[at + 5])
    raise UntrustedDataError("a packet is neither IPv4 nor IPv6")


def split_packets_untrusted(data: bytes) -> tuple[list[bytes], bytes]:
    """Whole packets that stand back to back in `data`, and the unfinished rest. Raises UntrustedDataError."""
    packets = []
    start = 0
    while len(data) - start >= 8:
        length = packet_length_untrusted(data[start : start + 8])
        if len(data) - start < length:
            break
        packets.append(data[start : start + length])
        start += length
    return packets, data[start:]


def addresses_untrusted(packet: bytes | memoryview) -> tuple[bytes, bytes]:
    """Source and destination, 4 or 16 bytes each. Raises UntrustedDataError."""
    version = packet[0] >> 4 if len(packet) else 0
    if version == 4 and len(packet) >= IPV4_HEADER:
        return bytes(packet[12:16]), bytes(packet[16:20])
    if version == 6 and len(packet) >= IPV6_HEADER:
        return bytes(packet[8:24]), bytes(packet[24:40])
    raise UntrustedDataError("a packet is neither IPv4 nor IPv6")


def ones_complement_sum(data: bytes | memoryview, start: int = 0) -> int:
    """The sum of `data` as 16-bit words (an odd last byte is padded), added to `start`, folded to 16 bits."""
    number = int.from_bytes(data, "big")
    if len(data) % 2:
        number <<= 8
    number += start
    folded = number % 65535
    return 65535 if folded == 0 and number else folded


def checksum(data: bytes | memoryview, start: int = 0) -> int:
    """The checksum over `data`, on top of `start`."""
    return 65535 - ones_complement_sum(data, start)
