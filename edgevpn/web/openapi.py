"""The OpenAPI document (https://spec.openapis.org/oas/v3.1.0), made from the table of operations."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from edgevpn import __version__
from edgevpn.web.schemas import ERROR
from edgevpn.web.table import Operation

_PARAMETER = re.compile(r"\{(\w+)(?::\w+)?\}")
_REFUSALS = {"401": "No token, or a wrong one", "403": "Wrong Host or Origin, or the node refused"}


def document(operations: Sequence[Operation]) -> dict[str, Any]:
    paths: dict[str, dict[str, Any]] = {}
    for operation in operations:
        path = _PARAMETER.sub(r"{\1}", operation.path)
        paths.setdefault(path, {})[operation.method.lower()] = _operation(operation)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "edgevpn",
            "version": __version__,
            "description": "A node's ledger, peers and processes. Values of the ledger are JSON texts.",
        },
        "security": [{"token": []}],
        "paths": paths,
        "components": {
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
            "schemas": {"Error": ERROR},
        },
    }


def _operation(operation: Operation) -> dict[str, Any]:
    found: dict[str, Any] = {
        "summary": operation.summary,
        "operationId": operation.handler.__name__,
        "tags": [operation.tag],
        "responses": {
            "200": {"description": "Done", "content": {operation.media: {"schema": operation.answer}}},
            **{status: _error(text) for status, text in _REFUSALS.items()},
            "503": _error("An actor of the node is away"),
        },
    }
    names = _PARAMETER.findall(operation.path)
    if names:
        found["parameters"] = [
            {"name": name, "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}
            for name in names
        ]
    if operation.body is not None:
        found["requestBody"] = {"content": {"application/json": {"schema": operation.body}}}
    return found


def _error(description: str) -> dict[str, Any]:
    return {
        "description": description,
        "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}},
    }
