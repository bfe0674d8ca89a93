"""The routes that the Go program does not have: state and events for the dashboard, health, metrics, this API's page.

`/api/v1/events` is a stream of server-sent events (WHATWG HTML, 9.2): each section whole at first, then those that
change; a comment every 15 s shows that both ends are there. `/api/v1/overview` is the same once.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import trio
from starlette.requests import Request
from starlette.responses import Response

from edgevpn.errors import UntrustedDataError
from edgevpn.proto import go_api
from edgevpn.web.hub import Watcher
from edgevpn.web.metrics import CONTENT_TYPE, scrape
from edgevpn.web.schemas import ANYTHING, STATE, TEXT, WHOLE, list_of, map_of, struct
from edgevpn.web.source import Source
from edgevpn.web.table import ApiError, Operation, answer, read_body

if TYPE_CHECKING:
    from starlette.types import Message, Receive, Scope, Send

_TAG = "edgevpn"
KEEP_ALIVE = 15.0  # seconds between comments on a stream without events
_NOT_READY = ("starting", "stopping")

NODE = struct(
    peer_id=TEXT,
    hostname=TEXT,
    version=TEXT,
    state=TEXT,
    waiting_for=TEXT,
    interface=TEXT,
    address=list_of(TEXT),
    listen=list_of(TEXT),
    ownership=TEXT,
    started=WHOLE,
)
OVERVIEW = struct(
    node=NODE, peers=list_of(ANYTHING), actors=list_of(ANYTHING), ledger=map_of(list_of(ANYTHING)), history=ANYTHING
)


async def overview(source: Source, _: Request) -> Response:
    await source.freshen()
    watcher = source.hub.watch()
    try:
        told = await watcher.next(0)
    finally:
        watcher.close()
    found: dict[str, object] = {}
    ledger: dict[str, object] = {}
    for event, text in told:
        value = json.loads(text)
        if event == "ledger":
            ledger[value["bucket"]] = value["entries"]
        else:
            found[event] = value
    return answer({**found, "ledger": ledger})


async def events(source: Source, _: Request) -> Response:
    return EventStream(source.hub.watch())


class EventStream(Response):
    """Tells what a watcher gets, until the client leaves."""

    media_type = "text/event-stream"

    def __init__(self, watcher: Watcher) -> None:
        super().__init__()
        del self.headers["content-length"]
        self._watcher = watcher

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_until_gone, receive, nursery.cancel_scope)
                await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
                await send(_chunk(b"retry: 1000\n\n"))
                while True:
                    told = await self._watcher.next(KEEP_ALIVE)
                    await send(_chunk(b"".join(map(_event, told)) or b":\n\n"))
        finally:
            self._watcher.close()


async def _until_gone(receive: Receive, scope: trio.CancelScope) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    scope.cancel()


def _event(told: tuple[str, str]) -> bytes:
    return f"event: {told[0]}\ndata: {told[1]}\n\n".encode()


def _chunk(data: bytes) -> Message:
    return {"type": "http.response.body", "body": data, "more_body": True}


async def write(source: Source, request: Request) -> Response:
    """The body is the entry's value: any JSON, kept as it is written."""
    data = await read_body(request)
    try:
        text = data.decode()
        json.loads(text)
    except (ValueError, RecursionError) as exc:
        raise UntrustedDataError("the body is not JSON") from exc
    await source.announce(request.path_params["bucket"], request.path_params["key"], text.strip())
    return answer(go_api.ANNOUNCING)


async def remove(source: Source, request: Request) -> Response:
    if not await source.withdraw(request.path_params["bucket"], request.path_params["key"]):
        raise ApiError(404, "there is no such entry")
    return answer(go_api.ANNOUNCING)


async def health(_source: Source, _: Request) -> Response:
    """This process answers."""
    return answer({"status": "ok"})


async def ready(source: Source, _: Request) -> Response:
    """All actors of the node are there."""
    status = await source.status()
    is_ready = status.state not in _NOT_READY
    return answer(
        {"ready": is_ready, "state": status.state, "waiting_for": status.waiting_for}, 200 if is_ready else 503
    )


async def prometheus(source: Source, request: Request) -> Response:
    text = await scrape(source, request.app.state.requests)
    return Response(text, headers={"content-type": CONTENT_TYPE})


async def openapi(_source: Source, request: Request) -> Response:
    return answer(request.app.state.openapi)


OPERATIONS: tuple[Operation, ...] = (
    Operation("GET", "/api/v1/overview", overview, "Everything the dashboard shows, once", _TAG, OVERVIEW),
    Operation(
        "GET",
        "/api/v1/events",
        events,
        "The same as server-sent events, then what changes",
        _TAG,
        TEXT,
        media="text/event-stream",
    ),
    Operation("PUT", "/api/v1/ledger/{bucket}/{key}", write, "Write any JSON as an entry", _TAG, STATE, ANYTHING),
    Operation("DELETE", "/api/v1/ledger/{bucket}/{key}", remove, "Delete an entry that is there", _TAG, STATE),
    Operation("GET", "/health", health, "Whether the API answers", _TAG, struct(status=TEXT)),
    Operation(
        "GET",
        "/ready",
        ready,
        "Whether all of the node's actors are there; 503 if not",
        _TAG,
        struct(ready={"type": "boolean"}, state=TEXT, waiting_for=TEXT),
    ),
    Operation("GET", "/metrics", prometheus, "Metrics for Prometheus", _TAG, TEXT, media="text/plain"),
    Operation("GET", "/api/openapi.json", openapi, "This document", _TAG, ANYTHING),
)
