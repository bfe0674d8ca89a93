"""The application: operations and pages on Starlette's router, behind the guard."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from starlette.applications import Starlette
from starlette.exceptions import HTTPException

from edgevpn.proto.http_guard import Rules
from edgevpn.web import go_routes, openapi, own_routes
from edgevpn.web.guard import Guard
from edgevpn.web.metrics import Requests
from edgevpn.web.pages import Pages
from edgevpn.web.table import Operation, problem, routes

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

    from edgevpn.web.source import Source

OPERATIONS: tuple[Operation, ...] = (*own_routes.OPERATIONS, *go_routes.OPERATIONS)
_REASONS = {401: "credentials", 403: "host or origin"}


def make_app(source: Source, rules: Rules, refused: Callable[[str], None] = lambda _: None) -> Guard:
    """The ASGI application. `refused` is told why, of each request that the guard turned away."""
    requests = Requests()
    pages = Pages()
    app = Starlette(
        routes=[*routes(OPERATIONS, source, requests.count), *pages.routes()],
        exception_handlers={HTTPException: _http_error},
    )
    app.router.redirect_slashes = False
    app.state.requests = requests
    app.state.openapi = openapi.document(OPERATIONS)

    def count_refusal(status: int) -> None:
        reason = _REASONS.get(status, "path")
        requests.refused(reason)
        refused(reason)

    return Guard(app, rules, pages.is_public, count_refusal)


async def _http_error(_: Request, exc: Exception) -> Response:
    status = exc.status_code if isinstance(exc, HTTPException) else 500
    return problem(status, {404: "Not Found", 405: "Method Not Allowed"}.get(status, "Internal Server Error"))
