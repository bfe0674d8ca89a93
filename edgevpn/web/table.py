"""The table of operations: what the API answers, from which the routes and the OpenAPI page are made.

A path has a parameter as `{name}`, one path segment, or `{name:rest}`, all that is left of it and at least a character.
Methods that a path does not have are answered as the Go program does: OPTIONS by 204, others by 405, both with Allow.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from contextlib import aclosing
from typing import TYPE_CHECKING, Any, NamedTuple

import trio
from starlette.convertors import Convertor, register_url_convertor
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from edgevpn.errors import EdgevpnError, NodeUnreachableError, UntrustedDataError
from edgevpn.proto import go_api
from edgevpn.web.hub import TooManyWatchersError

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send

    from edgevpn.web.source import Source

MAX_BODY = 1 << 20  # bytes: an entry's value may have so many
BODY_PATIENCE = 10.0  # seconds for a whole body
PATIENCE = 20.0  # seconds for the node's answer

Handler = Callable[["Source", Request], Awaitable[Response]]
Count = Callable[[str, str, int], None]
_STATUS_OF_KIND = {"unknown": 404, "failed": 403, "refused": 403, "timeout": 503}


class Operation(NamedTuple):
    """`answer`, `body`: JSON Schema; `media`: the answer's type."""

    method: str
    path: str
    handler: Handler
    summary: str
    tag: str
    answer: dict[str, Any]
    body: dict[str, Any] | None = None
    media: str = "application/json"


class ApiError(EdgevpnError):
    """What ends a request: an HTTP status, and the text of its message."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class Endpoint:
    """All operations of one path."""

    def __init__(self, path: str, operations: Sequence[Operation], source: Source, count: Count) -> None:
        self._path = path
        self._by_method = {operation.method: operation for operation in operations}
        self._allow = ", ".join(["OPTIONS", *sorted(self._by_method)])
        self._source = source
        self._count = count

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive, send)
        operation = self._by_method.get(request.method)
        if operation is not None:
            response = await self._run(operation, request)
        elif request.method == "OPTIONS":
            response = Response(status_code=204, headers={"allow": self._allow})
        elif request.method == "HEAD":
            response = Response(status_code=405, headers={"allow": self._allow})
        else:
            response = problem(405, "Method Not Allowed")
            response.headers["allow"] = self._allow
        self._count(self._path, request.method if operation else "other", response.status_code)
        await response(scope, receive, send)

    async def _run(self, operation: Operation, request: Request) -> Response:
        try:
            with trio.fail_after(PATIENCE):
                return await operation.handler(self._source, request)
        except ApiError as exc:
            return problem(exc.status, str(exc))
        except UntrustedDataError as exc:
            return problem(400, str(exc))
        except (NodeUnreachableError, TooManyWatchersError, trio.TooSlowError) as exc:
            return problem(503, str(exc) or "the node did not answer in time")
        except ClientDisconnect:
            return problem(400, "the body did not come")
        except EdgevpnError as exc:
            return problem(_STATUS_OF_KIND.get(getattr(exc, "kind", ""), 500), str(exc))


class _Rest(Convertor[str]):
    regex = "(?s:.+)"

    def convert(self, value: str) -> str:
        return value

    def to_string(self, value: str) -> str:
        return value


def routes(operations: Sequence[Operation], source: Source, count: Count) -> list[Route]:
    """A route for each path, in the order of their first operations."""
    register_url_convertor("rest", _Rest())
    by_path: dict[str, list[Operation]] = {}
    for operation in operations:
        by_path.setdefault(operation.path, []).append(operation)
    return [Route(path, Endpoint(path, those, source, count)) for path, those in by_path.items()]


def answer(value: Any, status: int = 200) -> Response:
    """JSON as the Go program writes it."""
    return Response(go_api.body(value), status, media_type="application/json")


def problem(status: int, message: str) -> Response:
    return answer(go_api.error(message), status)


async def read_body(request: Request) -> bytes:
    """The whole body. Raises ApiError when it is too long, or too long in coming."""
    data = bytearray()
    with trio.move_on_after(BODY_PATIENCE):
        async with aclosing(request.stream()) as chunks:
            async for chunk in chunks:
                data += chunk
                if len(data) > MAX_BODY:
                    raise ApiError(413, f"the body has more than {MAX_BODY} bytes")
        return bytes(data)
    raise ApiError(408, f"the body did not come within {BODY_PATIENCE:g} s")
