"""One HTTP/1.1 exchange passed on, as a proxy does it (RFC 9110, section 7.6): h11 does the protocol on either side.

`HttpSide` is an h11 connection on a stream. `exchange` passes the request that was read on one side to the other, and
the response back; bodies stream, whichever comes first, and nothing is held but what is on its way. Headers that are
for one connection only go no further.
"""

from __future__ import annotations

from collections.abc import Iterable
from urllib.parse import urlsplit

import h11
import trio

from edgevpn.errors import UntrustedDataError

_READ = 64 * 1024
_MAX_HEAD = 64 * 1024
_ONE_HOP = frozenset(
    b"connection keep-alive proxy-connection proxy-authenticate proxy-authorization te trailer transfer-encoding "
    b"upgrade".split()
)

Headers = list[tuple[bytes, bytes]]


class HttpSide:
    """One side of an exchange; `role` is ours: h11.SERVER towards who asks, h11.CLIENT towards who answers."""

    def __init__(self, stream: trio.abc.HalfCloseableStream, role: type[h11.SERVER] | type[h11.CLIENT]) -> None:
        self.stream = stream
        self.h11 = h11.Connection(role, max_incomplete_event_size=_MAX_HEAD)

    async def next_event(self) -> h11.Event | type[h11.PAUSED]:
        """Raises UntrustedDataError when the other end does not speak HTTP, trio.BrokenResourceError."""
        while True:
            try:
                event = self.h11.next_event()
            except h11.RemoteProtocolError as exc:
                raise UntrustedDataError(f"not HTTP/1.1: {exc}") from exc
            if event is not h11.NEED_DATA:
                return event  # type: ignore[return-value]  # what is not NEED_DATA is an event or PAUSED
            if self.h11.they_are_waiting_for_100_continue and self.h11.our_role is h11.SERVER:
                await self.send(h11.InformationalResponse(status_code=100, headers=[]))
            data = await self.stream.receive_some(_READ)
            try:
                self.h11.receive_data(bytes(data))
            except (RuntimeError, h11.RemoteProtocolError) as exc:  # more after the end
                raise UntrustedDataError(f"not HTTP/1.1: {exc}") from exc

    async def send(self, event: h11.Event) -> None:
        try:
            data = self.h11.send(event)
        except h11.LocalProtocolError as exc:  # what the far side said can't be said to the near one
            raise UntrustedDataError(f"an HTTP exchange that does not fit: {exc}") from exc
        if data:
            await self.stream.send_all(data)

    async def refuse(self, status: int, text: str) -> None:
        """Answer with an error of our own, if there is still something to answer."""
        if self.h11.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
            return
        body = f"{text}\n".encode()
        headers = [("content-type", "text/plain; charset=utf-8"), ("content-length", str(len(body)))]
        await self.send(h11.Response(status_code=status, headers=[*headers, ("connection", "close")]))
        await self.send(h11.Data(data=body))
        await self.send(h11.EndOfMessage())

    async def read_request_untrusted(self) -> h11.Request | None:
        """The next request; None when the client has no more. Raises UntrustedDataError, trio.BrokenResourceError."""
        event = await self.next_event()
        if isinstance(event, h11.Request):
            return event
        if isinstance(event, h11.ConnectionClosed):
            return None
        raise UntrustedDataError("not an HTTP request")


def target_untrusted(request: h11.Request) -> tuple[str, int, bytes]:
    """(host, port, path with query) that a proxy's request is for, from its absolute form or its Host header.

    Raises UntrustedDataError.
    """
    raw = request.target.decode("latin-1")
    if raw.startswith("/") or raw == "*":
        hosts = [value for name, value in request.headers if name == b"host"]
        authority, path, scheme = (hosts[0].decode("latin-1") if len(hosts) == 1 else ""), raw, "http"
    else:
        try:
            parts = urlsplit(raw)
        except ValueError:
            raise UntrustedDataError("a request for an address that is none") from None
        scheme, authority = parts.scheme.lower(), parts.netloc.rpartition("@")[2]
        path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    if scheme != "http":
        raise UntrustedDataError(f"a request for {scheme[:10]!r}: a proxy takes http:// (https:// goes by CONNECT)")
    host, port = authority_untrusted(authority, 80)
    return host, port, path.encode("latin-1")


def authority_untrusted(text: str, default_port: int) -> tuple[str, int]:
    """(host, port) of HOST, HOST:PORT or [IPv6]:PORT. Raises UntrustedDataError."""
    host, colon, number = text.rpartition(":")
    if not colon or number.endswith("]"):
        host, number = text, str(default_port)
    host = host.removeprefix("[").removesuffix("]")
    if not host or len(host) > 253 or not host.isascii() or any(c in " /@\\#?" or not c.isprintable() for c in host):
        raise UntrustedDataError("a request for a host that is none")
    if not (number.isascii() and number.isdigit() and len(number) <= 5 and 0 < int(number) <= 65535):
        raise UntrustedDataError("a request for a port that is none")
    return host, int(number)


def passed_on(headers: Iterable[tuple[bytes, bytes]]) -> Headers:
    """The headers without those that are for one hop only, also those that Connection names."""
    listed = list(headers)
    named = {
        token.strip().lower() for name, value in listed if name.lower() == b"connection" for token in value.split(b",")
    }
    return [(name, value) for name, value in listed if name.lower() not in _ONE_HOP and name.lower() not in named]


def request_to_pass(request: h11.Request, host: str, port: int, path: bytes) -> h11.Request:
    """The request as the next hop gets it: in origin form, for one exchange."""
    headers = [(name, value) for name, value in passed_on(request.headers) if name != b"host"]
    shown = f"[{host}]" if ":" in host else host
    headers.insert(0, (b"host", (shown if port == 80 else f"{shown}:{port}").encode("latin-1")))
    headers.append((b"connection", b"close"))
    if any(name == b"transfer-encoding" for name, _ in request.headers):
        headers.append((b"transfer-encoding", b"chunked"))
    return h11.Request(method=request.method, target=path, headers=headers)


async def exchange(asking: HttpSide, request: h11.Request, answering: HttpSide) -> None:
    """Send `request` (as `request_to_pass` made it) to `answering`, its body after it, and the response to `asking`.

    Raises UntrustedDataError or trio.BrokenResourceError when the exchange broke; if the response had not begun,
    `asking.refuse` can still tell.
    """
    await answering.send(request)
    failure: Exception | None = None

    async def pass_body() -> None:
        nonlocal failure
        try:
            await _pass_body(asking, answering)
        except (UntrustedDataError, trio.BrokenResourceError, trio.ClosedResourceError) as exc:
            failure = exc
            nursery.cancel_scope.cancel()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(pass_body)
        try:
            await _pass_response(answering, asking)
        except (UntrustedDataError, trio.BrokenResourceError, trio.ClosedResourceError) as exc:
            failure = exc
        nursery.cancel_scope.cancel()  # an answer before the whole question: the rest is not needed
    if failure is not None:
        raise failure


async def _pass_body(asking: HttpSide, answering: HttpSide) -> None:
    while True:
        event = await asking.next_event()
        if isinstance(event, h11.Data):
            await answering.send(h11.Data(data=bytes(event.data)))
        elif isinstance(event, h11.EndOfMessage):
            await answering.send(h11.EndOfMessage())
            return
        else:
            raise trio.BrokenResourceError("the client left before its request was whole")


async def _pass_response(answering: HttpSide, asking: HttpSide) -> None:
    while True:
        event = await answering.next_event()
        if isinstance(event, h11.InformationalResponse):
            continue  # 100 is each hop's own affair (RFC 9110, section 10.1.1)
        if isinstance(event, h11.Response):
            headers = passed_on(event.headers)
            response = h11.Response(status_code=event.status_code, headers=headers, reason=event.reason)
            await asking.send(response)
        elif isinstance(event, h11.Data):
            await asking.send(h11.Data(data=bytes(event.data)))
        elif isinstance(event, h11.EndOfMessage):
            await asking.send(h11.EndOfMessage())
            return
        else:
            raise trio.BrokenResourceError("the answer ended before it was whole")
