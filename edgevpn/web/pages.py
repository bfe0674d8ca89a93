"""The files of the dashboard (edgevpn/web/static), read once: they are given to whoever comes by the right name.

As in the Go program `/` leads to `/app`, and everything below `/app` is the page.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

if TYPE_CHECKING:
    from starlette.requests import Request

STATIC = Path(__file__).parent / "static"
_TYPES = {
    ".html": "text/html; charset=UTF-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
}


class Pages:
    """All files, by the path they are asked for."""

    def __init__(self) -> None:
        self._files = {
            path.name: (path.read_bytes(), _TYPES[path.suffix])
            for path in sorted(STATIC.iterdir())
            if path.suffix in _TYPES
        }

    def find(self, path: str) -> tuple[bytes, str] | None:
        """(content, type) of what a path names."""
        if path == "/app" or path.startswith("/app/"):
            return self._files["index.html"]
        if path == "/docs":
            return self._files["docs.html"]
        if path.startswith("/assets/"):
            return self._files.get(path.removeprefix("/assets/"))
        return None

    def is_public(self, path: str) -> bool:
        return path == "/" or self.find(path) is not None

    def routes(self) -> list[Route]:
        async def root(_: Request) -> Response:
            return RedirectResponse("/app", 301)

        async def page(request: Request) -> Response:
            found = self.find(request.scope["path"])
            if found is None:
                return Response(status_code=404)
            return Response(found[0], headers={"content-type": found[1]})

        below = [Route(path, page) for path in ("/app", "/app/{rest:path}", "/docs", "/assets/{name}")]
        return [Route("/", root), *below]
