"""Connections from an address that the machine has no more are told from those that live."""

from __future__ import annotations

import trio

from edgevpn.p2p.tcp import TcpStream, stranded


async def test_a_connection_is_stranded_when_its_address_is_gone() -> None:
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    stream = TcpStream(await trio.open_tcp_stream("127.0.0.1", listeners[0].socket.getsockname()[1]))
    assert stream.local == "127.0.0.1"
    assert stream not in stranded()
    stream._local = "192.0.2.77"
    assert stream in stranded()
    await stream.close()
    assert stream not in stranded()
    for listener in listeners:
        await listener.aclose()
