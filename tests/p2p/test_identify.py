"""Identify messages."""

from __future__ import annotations

import contextlib

import hypothesis
import hypothesis.strategies as st
from libp2p.identity.identify.pb.identify_pb2 import Identify

from edgevpn.errors import UntrustedDataError
from edgevpn.p2p import identify


def test_a_message_says_what_was_put_in() -> None:
    protocols, addrs = {"/b/1", "/a/1"}, ["/ip4/192.0.2.1/tcp/1", "/ip6/2001:db8::1/tcp/2"]
    message = identify.build(b"key", "edgevpn", protocols, addrs, "/ip4/198.51.100.1/tcp/3")
    size = message[0] if message[0] < 128 else None
    body = message[1:] if size is not None else message[2:]
    assert identify.parse_untrusted(body) == identify.Identity(
        "edgevpn", frozenset(protocols), tuple(addrs), "/ip4/198.51.100.1/tcp/3"
    )


@hypothesis.given(st.binary(max_size=300))
def test_any_bytes_are_an_identity_or_untrusted_data(raw: bytes) -> None:
    with contextlib.suppress(UntrustedDataError):
        identify.parse_untrusted(raw)


def test_what_a_peer_claims_is_bounded() -> None:
    message = Identify(
        agent_version="a" * 10_000 + "\x1b[2J",
        protocols=[f"/p/{n}" for n in range(5000)] + ["x" * 5000],
        listen_addrs=[b"\x04\x7f\x00\x00\x01\x06\x00\x01"] * 5000,
    )
    found = identify.parse_untrusted(message.SerializeToString())
    assert len(found.agent) <= 256
    assert len(found.protocols) == identify.MAX_PROTOCOLS
    assert len(found.listen_addrs) == identify.MAX_ADDRS


def test_addresses_that_are_none_are_skipped() -> None:
    message = Identify(
        listen_addrs=[b"", b"\xff\xff", b"\x04\x7f\x00\x00\x01\x06\x00\x01"], agent_version="\x1b[31mred"
    )
    found = identify.parse_untrusted(message.SerializeToString())
    assert found.listen_addrs == ("/ip4/127.0.0.1/tcp/1",)
    assert found.agent == "[31mred"
