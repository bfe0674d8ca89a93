"""What stands before the application: judges every request (proto/http_guard.py), and dresses every answer.

The path is taken apart as the Go program does, before anything routes on it. Answers carry a Content-Security-Policy
that lets the dashboard load its own files and nothing else, no inline script or style, and no frame around it.
HTTP/2 and WebSockets are not spoken: nothing here needs them, and their streams would have to be bounded, too.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from edgevpn.errors import UntrustedDataError
from edgevpn.proto.go_path import go_path_untrusted
from edgevpn.proto.http_guard import Refusal, Rules, judge

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
)
HEADERS = [
    (b"content-security-policy", POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"cache-control", b"no-store"),
]
BAD_PATH = Refusal(400, "Bad Request")


class Guard:
    """ASGI middleware. `is_public`: whether a path is a file of the dashboard's; `refused`: told each refusal."""

    def __init__(
        self, app: ASGIApp, rules: Rules, is_public: Callable[[str], bool], refused: Callable[[int], None]
    ) -> None:
        self._app = app
        self._rules = rules
        self._is_public = is_public
        self._refused = refused

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.close", "code": 1008})
            return
        if scope["type"] != "http":
            return
        if scope["http_version"] not in ("1.0", "1.1"):
            await send({"type": "http.response.start", "status": 505, "headers": []})
            await send({"type": "http.response.body", "body": b""})
            return

        async def send_dressed(message: Message) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message.get("headers", ()), *HEADERS]}
            await send(message)

        refusal = self._judge(scope)
        if refusal is None:
            await self._app(scope, receive, send_dressed)
            return
        self._refused(refusal.status)
        headers: list[tuple[bytes, bytes]] = [(b"content-type", b"application/json")]
        if refusal.status == 401:
            headers.append((b"www-authenticate", b'Bearer realm="edgevpn"'))
        text = b"" if scope["method"] == "HEAD" else json.dumps({"message": refusal.message}).encode() + b"\n"
        await send_dressed({"type": "http.response.start", "status": refusal.status, "headers": headers})
        await send_dressed({"type": "http.response.body", "body": text})

    def _judge(self, scope: Any) -> Refusal | None:
        try:
            path = go_path_untrusted(scope.get("raw_path") or scope["path"].encode())
        except UntrustedDataError:
            path = ""
        public = scope["method"] == "GET" and self._is_public(path)
        known_peer = bool(scope.get("state", {}).get("known_peer"))
        refusal = judge(scope["headers"], self._rules, public=public, known_peer=known_peer)
        if refusal is None and not path:
            return BAD_PATH
        scope["path"] = path
        return refusal
