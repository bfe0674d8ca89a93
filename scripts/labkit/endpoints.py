"""What stands at the ends of tunnels in labs: servers and clients, as `python scripts/labkit/endpoints.py WHAT ...`.

echo HOST PORT            TCP and UDP: everything comes back, an end of file too
digest HOST PORT          TCP: reads to the end of file, then answers with size and SHA-256
http HOST PORT            HTTP: answers with what was asked, as JSON
reset HOST PORT           TCP: sends 1000 bytes, reads one, and breaks the connection off
many HOST PORT N          N TCP connections at once, each is echoed a line; prints a JSON line, waits for a line of
                          its own stdin, uses all of them once more, prints a second one
"""

from __future__ import annotations

import contextlib
import hashlib
import http.server
import json
import resource
import socket
import struct
import sys
import time

import trio


async def echo(host: str, port: int) -> None:
    async def one(stream: trio.SocketStream) -> None:
        async with stream:
            while data := await stream.receive_some(65536):
                await stream.send_all(data)
            await stream.send_eof()

    async def datagrams() -> None:
        sock = trio.socket.socket(type=socket.SOCK_DGRAM)
        await sock.bind((host, port))
        while True:
            data, address = await sock.recvfrom(65536)
            await sock.sendto(data, address)

    async def guarded(stream: trio.SocketStream) -> None:
        with contextlib.suppress(trio.BrokenResourceError):
            await one(stream)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(datagrams)
        await trio.serve_tcp(guarded, port, host=host, backlog=1024)


async def digest(host: str, port: int) -> None:
    async def one(stream: trio.SocketStream) -> None:
        hashed, size = hashlib.sha256(), 0
        try:
            async for data in stream:
                hashed.update(data)
                size += len(data)
            await stream.send_all(f"{size} {hashed.hexdigest()}\n".encode())
        except trio.BrokenResourceError:
            print("broken", size, flush=True)
        else:
            print("whole", size, flush=True)

    await trio.serve_tcp(one, port, host=host)


async def reset(host: str, port: int) -> None:
    async def one(stream: trio.SocketStream) -> None:
        await stream.send_all(b"x" * 1000)
        await stream.receive_some(1)
        stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        await stream.aclose()

    await trio.serve_tcp(one, port, host=host)


async def many(host: str, port: int, count: int) -> None:
    streams: list[trio.SocketStream] = []
    failures: list[str] = []
    times: list[float] = []

    async def say(stream: trio.SocketStream, text: bytes) -> None:
        await stream.send_all(text)
        received = b""
        while len(received) < len(text):
            more = await stream.receive_some(1000)
            if not more:
                raise trio.BrokenResourceError("ended")
            received += more
        if received != text:
            raise ValueError("another's answer")

    async def open_one(number: int) -> None:
        began = time.monotonic()
        try:
            with trio.fail_after(60):
                stream = await trio.open_tcp_stream(host, port)
                await say(stream, b"hello %d\n" % number)
        except (OSError, trio.TooSlowError, trio.BrokenResourceError, ValueError) as exc:
            failures.append(repr(exc))
        else:
            streams.append(stream)
            times.append(time.monotonic() - began)

    async def use(number: int, stream: trio.SocketStream) -> None:
        try:
            with trio.fail_after(60):
                await say(stream, b"again %d\n" % number)
        except (trio.TooSlowError, trio.BrokenResourceError, ValueError) as exc:
            failures.append(repr(exc))

    def tell() -> None:
        found = {"open": len(streams), "failed": len(failures), "why": failures[:3]}
        print(json.dumps({**found, "slowest_s": round(max(times, default=0), 3)}), flush=True)

    async with trio.open_nursery() as nursery:
        for number in range(count):
            nursery.start_soon(open_one, number)
    tell()
    await trio.to_thread.run_sync(sys.stdin.readline)
    async with trio.open_nursery() as nursery:
        for number, stream in enumerate(streams):
            nursery.start_soon(use, number, stream)
    tell()
    for stream in streams:
        await stream.aclose()


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        if self.headers.get("Transfer-Encoding") == "chunked":
            body = b""
            while size := int(self.rfile.readline(), 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
        else:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        found = {"method": self.command, "path": self.path, "headers": dict(self.headers), "body": len(body)}
        answer = json.dumps(found).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(answer)))
        self.send_header("X-Answered", "yes")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(answer)

    do_POST = do_HEAD = do_GET  # noqa: N815 - http.server's names

    def log_message(self, *args: object) -> None: ...


def main(words: list[str]) -> None:
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    what, host, port = words[0], words[1], int(words[2])
    if what == "http":
        http.server.ThreadingHTTPServer((host, port), _Handler).serve_forever()
    elif what == "many":
        trio.run(many, host, port, int(words[3]))
    else:
        trio.run({"echo": echo, "digest": digest, "reset": reset}[what], host, port)


if __name__ == "__main__":
    main(sys.argv[1:])
