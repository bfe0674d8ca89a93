"""HTTP passed on by a proxy: what goes further, what does not, and bodies of every framing."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import h11
import pytest
import trio
from hypothesis import given, strategies as st

from edgevpn.errors import UntrustedDataError
from edgevpn.tunnels.http_relay import (
    HttpSide,
    authority_untrusted,
    exchange,
    passed_on,
    request_to_pass,
    target_untrusted,
)


def request(target: str, *headers: tuple[str, str], method: str = "GET") -> h11.Request:
    return h11.Request(method=method, target=target, headers=[("Host", "example.com:81"), *headers])


@pytest.mark.parametrize(
    ("target", "found"),
    [
        ("http://other.example/a?b", ("other.example", 80, b"/a?b")),
        ("http://other.example:8080", ("other.example", 8080, b"/")),
        ("http://user:secret@[::1]:8080/x", ("::1", 8080, b"/x")),
        ("/path", ("example.com", 81, b"/path")),
    ],
)
def test_the_target_is_that_of_the_absolute_form_or_the_host_header(target: str, found: object) -> None:
    assert target_untrusted(request(target)) == found


@pytest.mark.parametrize("target", ["https://x/", "ftp://x/", "http://", "http://a:0/", "http://a:99999/"])
def test_a_target_that_is_none_is_refused(target: str) -> None:
    with pytest.raises(UntrustedDataError):
        target_untrusted(h11.Request(method="GET", target=target, headers=[("Host", "h")]))


@given(st.text(max_size=30))
def test_an_authority_is_read_or_refused(text: str) -> None:
    try:
        host, port = authority_untrusted(text, 443)
    except UntrustedDataError:
        return
    assert host
    assert 0 < port < 65536


def test_headers_of_one_connection_go_no_further() -> None:
    headers = [
        (b"Connection", b"close, X-Private"),
        (b"X-Private", b"1"),
        (b"Proxy-Authorization", b"secret"),
        (b"Upgrade", b"websocket"),
        (b"Accept", b"*/*"),
    ]
    assert passed_on(headers) == [(b"Accept", b"*/*")]


async def pass_one(
    said: bytes, answer: Callable[[bytes], bytes], *, then_close: bool = True
) -> tuple[bytes, bytes, Exception | None]:
    """What the server got, what the client got, and how the exchange failed."""
    client, near = map(trio.SocketStream, trio.socket.socketpair())
    far, server = map(trio.SocketStream, trio.socket.socketpair())
    got = b""
    failure: Exception | None = None

    async def serve() -> None:
        nonlocal got
        while True:
            with trio.move_on_after(0.2) as quiet:
                data = await server.receive_some(65536)
                got += data
            if quiet.cancelled_caught or not data:
                break
        await server.send_all(answer(got))
        if then_close:
            await server.aclose()

    async with client, near, far, server:
        with trio.fail_after(10):
            await client.send_all(said)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(serve)
                asking = HttpSide(near, h11.SERVER)
                first = await asking.read_request_untrusted()
                assert first is not None
                host, port, path = target_untrusted(first)
                try:
                    await exchange(asking, request_to_pass(first, host, port, path), HttpSide(far, h11.CLIENT))
                except (UntrustedDataError, trio.BrokenResourceError) as exc:
                    failure = exc
                await near.aclose()
            back = b"".join([bytes(data) async for data in client])
    return got, back, failure


async def test_a_request_is_passed_in_origin_form_and_its_response_back() -> None:
    got, back, failure = await pass_one(
        b"GET http://a.example/x?y HTTP/1.1\r\nHost: a.example\r\nProxy-Connection: keep-alive\r\nA: 1\r\n\r\n",
        lambda _: b"HTTP/1.1 404 Gone Away\r\nContent-Length: 4\r\nConnection: close\r\nB: 2\r\n\r\nbody",
    )
    assert failure is None
    assert got.lower() == b"get /x?y http/1.1\r\nhost: a.example\r\na: 1\r\nconnection: close\r\n\r\n"
    assert back.startswith(b"HTTP/1.1 404 Gone Away\r\n")
    assert b"B: 2" in back or b"b: 2" in back
    assert back.endswith(b"\r\n\r\nbody")


@pytest.mark.parametrize(
    "body",
    [
        b"Content-Length: 5\r\n\r\nhello",
        b"Transfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n",
    ],
)
async def test_bodies_go_through_whatever_their_framing(body: bytes) -> None:
    got, back, failure = await pass_one(
        b"POST http://a/ HTTP/1.1\r\nHost: a\r\n" + body,
        lambda _: b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nyes\r\n0\r\n\r\n",
    )
    assert failure is None
    assert b"he" in got
    assert b"llo" in got
    assert b"yes" in back


async def test_an_answer_without_a_length_ends_with_its_connection() -> None:
    _, back, failure = await pass_one(
        b"GET http://a/ HTTP/1.1\r\nHost: a\r\n\r\n", lambda _: b"HTTP/1.0 200 OK\r\n\r\nuntil the end"
    )
    assert failure is None
    assert b"until the end" in back


async def test_half_an_answer_is_not_told_as_a_whole_one() -> None:
    _, back, failure = await pass_one(
        b"GET http://a/ HTTP/1.1\r\nHost: a\r\n\r\n", lambda _: b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf"
    )
    assert failure is not None
    assert back.endswith(b"half")


async def test_an_answer_that_is_no_http_is_an_error_that_the_client_can_be_told() -> None:
    _, back, failure = await pass_one(b"GET http://a/ HTTP/1.1\r\nHost: a\r\n\r\n", lambda _: b"SSH-2.0-x\r\n\r\n")
    assert isinstance(failure, UntrustedDataError)
    assert back == b""


Refuse = Callable[[HttpSide], Awaitable[None]]


async def test_a_refusal_is_a_whole_response() -> None:
    client, near = map(trio.SocketStream, trio.socket.socketpair())
    async with client, near:
        await client.send_all(b"GET http://a/ HTTP/1.1\r\nHost: a\r\n\r\n")
        side = HttpSide(near, h11.SERVER)
        await side.read_request_untrusted()
        await side.refuse(403, "not there")
        await near.send_eof()
        back = b"".join([bytes(data) async for data in client])
    assert back.startswith(b"HTTP/1.1 403 ")
    assert back.endswith(b"not there\n")
