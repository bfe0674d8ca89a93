"""Values as text for people: laid out, bounded, and without secrets. Pure.

`pretty` lays a value out over lines, `brief` puts it on one short line. Containers, dataclasses, messages and plain
objects are looked into, a few levels deep and a bounded number of items wide, so that no state is too big to show.

Secrets are kept out twice. A class names the attributes that hold secrets in `__secrets__`, and so do attributes called
seed, ticket, token and the like: they show as `<secret>`. And `Secrets` knows the values themselves and strikes them
out of finished text, however they got there: as they are, escaped, in hex or in base64.
"""

from __future__ import annotations

import base64
import dataclasses
import re
import types
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import NamedTuple

import msgspec

SECRET = "<secret>"  # noqa: S105 - what is shown in a secret's place
_SECRET_NAME = re.compile(r"seed|secret|private|passw|ticket|token|psk|signing|seal_key", re.IGNORECASE)
_SHORTEST_SECRET = 6  # characters; what is shorter would strike out innocent text


class Limits(NamedTuple):
    """How much of a value is shown: levels, items of a container, characters of a text, bytes, and parts in all."""

    depth: int
    items: int
    text: int
    data: int
    parts: int


PRETTY = Limits(depth=5, items=100, text=2000, data=32, parts=4000)
BRIEF = Limits(depth=3, items=4, text=40, data=0, parts=40)
KEY = Limits(depth=2, items=4, text=120, data=64, parts=10)
MAX_PRETTY = 100_000  # characters
MAX_DATA = 4096  # bytes, of what was asked for itself
_CALLED = (type, types.FunctionType, types.MethodType, types.BuiltinFunctionType, types.ModuleType)
_CONTAINERS = (
    (list, "[", "]"),
    (tuple, "(", ")"),
    (set, "{", "}"),
    (frozenset, "frozenset({", "})"),
    (deque, "deque([", "])"),
)


class _Group(NamedTuple):
    """Something with parts; each part has a label ("name=", "'key': ") or an empty one."""

    opening: str
    parts: list[tuple[str, _Group | str]]
    closing: str


class _Shown(str):
    """Text that is shown as it is."""


def pretty(value: object, width: int = 100, *, reveal: bool = False) -> str:
    """`value` over as many lines as it takes, for people. `reveal`: with the secrets that it holds."""
    if isinstance(value, str) and "\n" in value:
        text = value
    elif isinstance(value, bytes | bytearray) and len(value) <= MAX_DATA:
        text = repr(value)
    else:
        text = _lay_out(_Look(PRETTY, reveal).node(value, 0), 0, max(width, 20))
    return text if len(text) <= MAX_PRETTY else text[:MAX_PRETTY] + f"\n... {len(text) - MAX_PRETTY} characters more"


def brief(value: object, length: int = 100) -> str:
    """`value` on one line of at most `length` characters; bytes are only counted."""
    text = _one_line(_Look(BRIEF, False).node(value, 0))
    return text if len(text) <= length else text[: length - 3] + "..."


class _Look:
    """One look at a value, which ends when `limits.parts` were seen."""

    def __init__(self, limits: Limits, reveal: bool) -> None:
        self._limits = limits
        self._reveal = reveal
        self._left = limits.parts

    def node(self, value: object, level: int) -> _Group | str:
        self._left -= 1
        limits = self._limits
        kind = type(value)
        if isinstance(value, _Shown):
            return str(value)
        if isinstance(value, str) and kind.__repr__ is str.__repr__:
            return _long_text(value, limits.text)
        if isinstance(value, bytes | bytearray | memoryview):
            size = value.nbytes if isinstance(value, memoryview) else len(value)
            return repr(bytes(value)) if size <= (MAX_DATA if self._reveal else limits.data) else f"<{size} bytes>"
        if isinstance(value, _CALLED):
            return _safe_repr(value, 200)
        if isinstance(value, dict) and kind.__repr__ is dict.__repr__:
            pairs = ((f"{_one_line(_Look(KEY, self._reveal).node(k, 0))}: ", v) for k, v in value.items())
            return self._group("{", pairs, "}", len(value), level)
        for base, opening, closing in _CONTAINERS:
            if isinstance(value, base) and kind.__repr__ is base.__repr__:
                return self._group(opening, (("", item) for item in value), closing, len(value), level)
        return self._object(value, level)

    def _object(self, value: object, level: int) -> _Group | str:
        """Something of a class: by its fields, its own repr, or its attributes."""
        kind = type(value)
        secret = getattr(kind, "__secrets__", ())
        names: tuple[str, ...]
        if isinstance(value, msgspec.Struct):
            names = value.__struct_fields__
        elif dataclasses.is_dataclass(value) and (secret or self._reveal or kind.__dataclass_params__.repr):  # type: ignore[attr-defined]
            fields = dataclasses.fields(value)
            names = tuple(f.name for f in fields if f.repr or self._reveal or f.name in secret)
        elif self._reveal and secret:
            names = (*_attribute_names(value, private=False), *secret)
        elif kind.__repr__ is object.__repr__:
            if level > 0:
                return f"<{kind.__name__}>"
            names = _attribute_names(value, private=True)
        else:
            return _safe_repr(value, self._limits.text)

        def parts() -> Iterator[tuple[str, object]]:
            for name in names:
                try:
                    held = getattr(value, name)
                except Exception as exc:  # noqa: BLE001 - a slot without a value, or a property that fails
                    held = _Shown(f"<{type(exc).__name__}>")
                hidden = name in secret or (_SECRET_NAME.search(name) and isinstance(held, str | bytes | bytearray))
                yield f"{name}=", _Shown(SECRET) if hidden and held and not self._reveal else held

        return self._group(f"{kind.__name__}(", parts(), ")", len(names), level, most=1000)

    def _group(
        self,
        opening: str,
        parts: Iterable[tuple[str, object]],
        closing: str,
        count: int,
        level: int,
        most: int | None = None,
    ) -> _Group | str:
        if count and level >= self._limits.depth:
            return f"{opening}...{closing}"
        nodes: list[tuple[str, _Group | str]] = []
        try:
            for label, part in islice(parts, self._limits.items if most is None else most):
                if self._left <= 0:
                    break
                nodes.append((label, self.node(part, level + 1)))
        except RuntimeError:  # it changed under our eyes: what was seen so far is worth showing
            pass
        if count > len(nodes):
            nodes.append(("", f"... {count - len(nodes)} more"))
        return _Group(opening, nodes, closing)


def _attribute_names(value: object, *, private: bool) -> tuple[str, ...]:
    names = list(getattr(value, "__dict__", ()))
    for kind in type(value).__mro__:
        slots = kind.__dict__.get("__slots__", ())
        names += [slots] if isinstance(slots, str) else list(slots)
    return tuple(n for n in dict.fromkeys(names) if not n.startswith("__") and (private or not n.startswith("_")))


def _long_text(text: str, most: int) -> str:
    return repr(text) if len(text) <= most else f"{text[:most]!r}... ({len(text)} characters)"


def _safe_repr(value: object, most: int) -> str:
    try:
        text = repr(value)
    except Exception as exc:  # noqa: BLE001 - anybody's __repr__
        return f"<{type(value).__name__}, whose repr fails: {type(exc).__name__}>"
    return text if len(text) <= most else text[:most] + f"... ({len(text)} characters)"


def _one_line(node: _Group | str) -> str:
    if isinstance(node, str):
        return node
    comma = "," if node.opening == "(" and len(node.parts) == 1 else ""
    return node.opening + ", ".join(label + _one_line(part) for label, part in node.parts) + comma + node.closing


def _lay_out(node: _Group | str, indent: int, width: int) -> str:
    line = _one_line(node)
    if isinstance(node, str) or indent + len(line) <= width or not node.parts:
        return line
    inner = " " * (indent + 4)
    if all(isinstance(part, str) and not label for label, part in node.parts):  # short things: as many as fit
        lines = [inner]
        for _, part in node.parts:
            if len(lines[-1]) + len(part) + 1 > width and lines[-1] != inner:
                lines.append(inner)
            lines[-1] += f"{part}, "
        lines = [line.rstrip() for line in lines]
    else:
        lines = [inner + label + _lay_out(part, indent + 4, width - len(label)) + "," for label, part in node.parts]
    return "\n".join([node.opening, *lines, " " * indent + node.closing])


class Revealed:
    """A value whose secrets are asked for: shown in full as the result of an expression, and nowhere else."""

    __slots__ = ("value",)

    def __init__(self, value: object) -> None:
        self.value = value

    def __repr__(self) -> str:
        return SECRET


class Secrets:
    """The secret values of a process, to be struck out of what it shows."""

    def __init__(self) -> None:
        self._sources: list[Callable[[], Iterable[str | bytes]]] = []
        self._fixed: set[str | bytes] = set()
        self._known: frozenset[str | bytes] = frozenset()
        self._pattern: re.Pattern[str] | None = None

    def add(self, value: str | bytes) -> None:
        """A secret that stays one. Not for what comes again and again: nothing is ever forgotten."""
        self._fixed.add(value)

    def add_source(self, source: Callable[[], Iterable[str | bytes]]) -> None:
        """Secrets that change: `source` says what they are now."""
        self._sources.append(source)

    def hide(self, text: str) -> str:
        """`text` with SECRET in the place of every secret."""
        known = frozenset(self._fixed.union(*(source() for source in self._sources)))
        if known != self._known:
            self._known = known
            forms = {form for value in known for form in _forms(value) if len(form) >= _SHORTEST_SECRET}
            forms |= {form.replace("\\", "\\\\") for form in forms}  # the repr of a text that holds a repr
            longest_first = sorted(forms, key=lambda form: (-len(form), form))
            self._pattern = re.compile("|".join(map(re.escape, longest_first))) if forms else None
        return text if self._pattern is None else self._pattern.sub(SECRET, text)


def _forms(value: str | bytes) -> Iterator[str]:
    """How a secret may look in text."""
    if len(value) < _SHORTEST_SECRET:
        return
    data = value.encode() if isinstance(value, str) else value
    try:
        plain = data.decode()
    except UnicodeDecodeError:
        pass
    else:
        yield plain
        yield repr(plain)[1:-1]
    escaped = repr(data)[2:-1]
    yield escaped
    # Which quote is escaped depends on what else is in the bytes around it.
    yield escaped.replace("\\'", "'")
    yield re.sub(r"(?<!\\)'", r"\\'", escaped)
    yield data.hex()
    yield data.hex().upper()
    # Within longer data base64 has three forms, by where the secret begins; its edges mix with what is beside it.
    for shift in range(3):
        whole = base64.b64encode(b"\0" * shift + data).decode().rstrip("=")
        inner = whole[(0, 2, 3)[shift] : len(whole) - ((len(data) + shift) % 3 > 0)]
        yield inner
        yield inner.replace("+", "-").replace("/", "_")
