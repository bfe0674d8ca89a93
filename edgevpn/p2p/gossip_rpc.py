"""Pubsub's RPC frames, as far as they are ours to check: pure.

A frame is one protobuf message `RPC` (libp2p pubsub spec; py-libp2p's rpc_pb2). Parsing it takes many times its size in
memory if it consists of tiny parts, so the number and size of its parts is checked on the bytes first.

Our first RPC on a stream (the hello) carries one field that no other implementation knows and all skip: the instance,
random bytes made when the pubsub was. So a node of ours knows whether a new stream comes from the pubsub it already
speaks with, or from one that has forgotten it.
"""

from __future__ import annotations

from collections.abc import Iterator

from google.protobuf.message import DecodeError
from libp2p.pubsub.pb import rpc_pb2
from libp2p.utils.varint import encode_uvarint, encode_varint_prefixed

from edgevpn.errors import UntrustedDataError

MAX_SUBSCRIPTIONS = 256  # in one RPC
MAX_MESSAGES = 1024
MAX_CONTROLS = 1024
MAX_CONTROL_BYTES = 1 << 20
MAX_TOPIC = 256
INSTANCE_SIZE = 8

_MAX_FIELDS = MAX_SUBSCRIPTIONS + MAX_MESSAGES + 64
_SUBSCRIPTIONS, _PUBLISH, _CONTROL, _INSTANCE = 1, 2, 3, 11873
_MESSAGE_LIMITS = {1: 128, 3: 64, 4: MAX_TOPIC, 5: 1024, 6: 1024}  # from, seqno, topic, signature, key; 2 is data


def instance_field(instance: bytes) -> bytes:
    """What is appended to a hello to say which pubsub it comes from."""
    return encode_uvarint(_INSTANCE << 3 | 2) + encode_varint_prefixed(instance)


def decode_rpc_untrusted(data: bytes) -> tuple[rpc_pb2.RPC, bytes | None]:
    """An RPC within our limits, without its sender's record, and the instance if it names one.

    Each of its messages has exactly one topic. Raises UntrustedDataError.
    """
    counts = {_SUBSCRIPTIONS: 0, _PUBLISH: 0}
    instance = None
    for number, contents in _fields_untrusted(memoryview(data), _MAX_FIELDS):
        if number in counts:
            counts[number] += 1
        if number == _PUBLISH:
            _check_message_untrusted(contents)
        elif number == _CONTROL:
            if len(contents) > MAX_CONTROL_BYTES:
                raise UntrustedDataError("too long a control message")
            for _ in _fields_untrusted(contents, MAX_CONTROLS):
                pass
        elif number == _INSTANCE:
            instance = bytes(contents)[:INSTANCE_SIZE]
    if counts[_SUBSCRIPTIONS] > MAX_SUBSCRIPTIONS or counts[_PUBLISH] > MAX_MESSAGES:
        raise UntrustedDataError("too many parts in an RPC")
    rpc = rpc_pb2.RPC()
    try:
        rpc.ParseFromString(data)
    except DecodeError as exc:
        raise UntrustedDataError("not a pubsub RPC") from exc
    if any(len(change.topicid) > MAX_TOPIC for change in rpc.subscriptions):
        raise UntrustedDataError("too long a topic")
    rpc.ClearField("senderRecord")
    return rpc, instance


def _check_message_untrusted(contents: memoryview) -> None:
    topics = 0
    for number, value in _fields_untrusted(contents, 16):
        if len(value) > _MESSAGE_LIMITS.get(number, len(value)):
            raise UntrustedDataError(f"too long a field {number} in a message")
        topics += number == 4
    if topics != 1:
        raise UntrustedDataError(f"a message with {topics} topics")


def _fields_untrusted(data: memoryview, most: int) -> Iterator[tuple[int, memoryview]]:
    """The fields of a protobuf message: number, and the contents of those with a length (others are empty)."""
    position = 0
    while position < len(data):
        if most == 0:
            raise UntrustedDataError("too many parts in an RPC")
        most -= 1
        tag, position = _varint_untrusted(data, position)
        kind = tag & 7
        end = position
        if kind == 0:
            _, end = _varint_untrusted(data, position)
        elif kind == 1:
            end = position + 8
        elif kind == 5:
            end = position + 4
        elif kind == 2:
            length, position = _varint_untrusted(data, position)
            end = position + length
        else:
            raise UntrustedDataError(f"protobuf wire type {kind}")
        if end > len(data):
            raise UntrustedDataError("a protobuf field is cut off")
        yield tag >> 3, data[position:end] if kind == 2 else data[:0]
        position = end


def _varint_untrusted(data: memoryview, position: int) -> tuple[int, int]:
    number = 0
    for shift in range(0, 70, 7):
        if position >= len(data):
            raise UntrustedDataError("a protobuf field is cut off")
        byte = data[position]
        position += 1
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            return number, position
    raise UntrustedDataError("a varint without end")
