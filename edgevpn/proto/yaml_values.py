"""Reading a few typed fields out of YAML with the rules of Go's yaml.v2.

Networks are made by Go programs and by hand, so a config must mean the same here as there. The rules, which are those
of YAML 1.1 with corners of yaml.v2's own:

  - only the first document counts; unknown keys are ignored, of duplicates the last wins, nested maps merge;
  - an integer field takes unquoted decimal, 0x, 0o, 0b and 0-octal numbers with underscores, and floats, cut towards
    zero; it refuses quoted numbers, words and booleans;
  - a text field takes any scalar as it is written (1e3 is "1e3");
  - null empties a field; aliases and merge keys (<<) work, a merge taking effect where it stands.

libyaml makes the events, this module the tree: bounded in depth and in work, so no text can exhaust the stack or, by
aliases of aliases, the day. Explicit tags other than !!str, !!int and !!float are refused.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

import yaml

from edgevpn.errors import UsageError

INTEGER = int
TEXT = str
Fields = Mapping[str, "type[int] | type[str] | Fields"]  # a field's type, or the fields of a map

MAX_SIZE = 1024 * 1024  # bytes of a config
MAX_UNKNOWN = 20
_MAX_DEPTH = 64
_MAX_STEPS = 10_000  # maps visited, aliases counted each time

_TAG = "tag:yaml.org,2002:"
_NULLS = {"", "~", "null", "Null", "NULL"}
_BOOLS = {
    *("y", "Y", "yes", "Yes", "YES", "true", "True", "TRUE", "on", "On", "ON"),
    *("n", "N", "no", "No", "NO", "false", "False", "FALSE", "off", "Off", "OFF"),
}
_INFINITIES = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")
_INTEGER = re.compile(r"([-+]?)(?:0[xX]([0-9a-fA-F]+)|0[bB]([01]+)|0[oO]?([0-7]+)|(0|[1-9][0-9]*))")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_TIMESTAMP = re.compile(r"[0-9]{4}-[0-9]{1,2}-[0-9]{1,2}([Tt ].*)?")
_BASE60 = re.compile(r"[-+]?[0-9][0-9_]*(?::[0-5]?[0-9])+(?:\.[0-9_]*)?")


@dataclass
class _Scalar:
    value: str
    plain: bool  # neither quoted nor in block style
    tag: str | None


@dataclass
class _Sequence:
    items: list[_Node] = field(default_factory=list)


@dataclass
class _Mapping:
    items: list[_Node] = field(default_factory=list)  # key, value, key, value ...


_Node = _Scalar | _Sequence | _Mapping


class Values:
    """What was read, by dotted path; a field that is not there is 0 or empty."""

    def __init__(self) -> None:
        self._values: dict[str, int | str] = {}
        self.unknown: list[str] = []  # paths of keys that were passed over, the first MAX_UNKNOWN

    def integer(self, path: str) -> int:
        return int(self._values.get(path, 0))

    def text(self, path: str) -> str:
        return str(self._values.get(path, ""))

    def put(self, path: str, value: int | str) -> None:
        self._values[path] = value

    def clear(self, path: str) -> None:
        """Forget the field at `path` and all fields under it."""
        for name in [name for name in self._values if name == path or not path or name.startswith(path + ".")]:
            del self._values[name]


def read_values(text: str | bytes, fields: Fields) -> Values:
    """Read the first document of `text` into `fields`. Raises UsageError, in one line, naming field and line."""
    if len(text) > MAX_SIZE:
        raise UsageError(f"the network config is larger than {MAX_SIZE} bytes")
    reader = _Reader()
    root = _compose(text)
    if root is not None:
        reader.read(root, fields, "")
    return reader.values


def is_plain_text(text: str) -> bool:
    """Whether `text` unquoted is read as text, and not as a number, a boolean, a date or nothing."""
    return not (
        text in _NULLS
        or text in _BOOLS
        or _INFINITIES.fullmatch(text)
        or _TIMESTAMP.fullmatch(text)
        or _BASE60.fullmatch(text)
        or _number(text) is not None
    )


def _compose(text: str | bytes) -> _Node | None:
    """The tree of the first document, None if there is none."""
    loader = getattr(yaml, "CBaseLoader", yaml.BaseLoader)
    anchors: dict[str, _Node] = {}
    open_nodes: list[_Sequence | _Mapping] = []
    root: _Node | None = None
    try:
        for event in yaml.parse(text, Loader=loader):
            if isinstance(event, yaml.ScalarEvent):
                node: _Node = _Scalar(event.value, bool(event.implicit[0]), event.tag)
            elif isinstance(event, yaml.SequenceStartEvent):
                node = _Sequence()
            elif isinstance(event, yaml.MappingStartEvent):
                node = _Mapping()
            elif isinstance(event, yaml.AliasEvent):
                if event.anchor not in anchors:
                    raise UsageError("the network config is not YAML: an alias has no anchor")
                node = anchors[event.anchor]
            elif isinstance(event, yaml.CollectionEndEvent):
                open_nodes.pop()
                continue
            elif isinstance(event, yaml.DocumentEndEvent):
                break
            else:
                continue
            if event.anchor and not isinstance(event, yaml.AliasEvent):
                anchors[event.anchor] = node
            if open_nodes:
                open_nodes[-1].items.append(node)
            else:
                root = node
            if isinstance(event, yaml.CollectionStartEvent) and not isinstance(node, _Scalar):
                if len(open_nodes) == _MAX_DEPTH:
                    raise UsageError(f"the network config is nested more than {_MAX_DEPTH} deep")
                open_nodes.append(node)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        line = f" in line {mark.line + 1}" if mark is not None else ""
        raise UsageError(f"the network config is not YAML: {error.problem}{line}") from None
    except (yaml.YAMLError, UnicodeError):
        raise UsageError("the network config is not YAML: it holds characters that are not text") from None
    return root


class _Reader:
    """Walks the tree along the wanted fields."""

    def __init__(self) -> None:
        self.values = Values()
        self._steps = 0
        self._depth = 0

    def read(self, node: _Node, wanted: type[int] | type[str] | Fields, path: str) -> None:
        if isinstance(wanted, Mapping):
            self._map(node, wanted, path)
        elif not isinstance(node, _Scalar):
            raise UsageError(f"{path} in the network config is a list or a map: it must be a single value")
        elif _is_null(node):
            self.values.clear(path)
        elif wanted is TEXT:
            self.values.put(path, _text(node, path))
        else:
            self.values.put(path, _integer(node, path))

    def _map(self, node: _Node, wanted: Fields, path: str) -> None:
        if isinstance(node, _Scalar) and _is_null(node):
            self.values.clear(path)
            return
        if not isinstance(node, _Mapping):
            raise UsageError(f"{path or 'the network config'} is not a map of keys and values")
        self._steps += 1
        if self._steps > _MAX_STEPS or self._depth == _MAX_DEPTH:  # a map inside itself gets there too
            raise UsageError("the network config repeats itself by aliases")
        self._depth += 1
        for key, value in zip(node.items[::2], node.items[1::2], strict=True):
            if not isinstance(key, _Scalar):
                raise UsageError("the network config has a list or a map for a key")
            if key.value == "<<" and key.plain:
                self._merge(value, wanted, path)
            elif key.value in wanted:
                self.read(value, wanted[key.value], f"{path}.{key.value}" if path else key.value)
            elif len(self.values.unknown) < MAX_UNKNOWN:
                self.values.unknown.append(f"{path}.{key.value}" if path else key.value)
        self._depth -= 1

    def _merge(self, node: _Node, wanted: Fields, path: str) -> None:
        sources = node.items[::-1] if isinstance(node, _Sequence) else [node]  # earlier ones take precedence
        for source in sources:
            if not isinstance(source, _Mapping):
                raise UsageError("the network config merges (<<) something that is not a map")
            self._map(source, wanted, path)


def _is_null(node: _Scalar) -> bool:
    return node.plain and node.tag is None and node.value in _NULLS


def _text(node: _Scalar, path: str) -> str:
    if node.tag not in (None, "!", _TAG + "str", _TAG + "int", _TAG + "float"):
        raise UsageError(f"{path} in the network config has a tag: write the value alone")
    _check_tag(node, path)
    if any("\ud800" <= character <= "\udfff" for character in node.value):  # only PyYAML's own parser lets them by
        raise UsageError("the network config is not YAML: it holds characters that are not text")
    return node.value


def _check_tag(node: _Scalar, path: str) -> None:
    """What says that it is a number must be one, for a text as well."""
    if node.tag not in (_TAG + "int", _TAG + "float"):
        return
    number = _number(node.value)
    whole = isinstance(number, int)
    if not whole and (node.tag == _TAG + "int" or (number is None and not _INFINITIES.fullmatch(node.value))):
        raise UsageError(f"{path} in the network config has the tag of a number, and is none")


def _integer(node: _Scalar, path: str) -> int:
    _check_tag(node, path)
    if node.tag in (_TAG + "int", _TAG + "float") or (node.tag is None and node.plain):
        number = _number(node.value)
        if number is not None and -(2**63) <= number < 2**63:
            return int(number)
    raise UsageError(f"{path} in the network config is not a number (a number has no quotes)")


def _number(text: str) -> int | float | None:
    """The number that an unquoted scalar is, or None."""
    plain = text.replace("_", "") if not text.startswith((".", "_")) else text
    match = _INTEGER.fullmatch(plain)
    if match and len(plain) <= 70:  # 64 binary digits and a prefix
        sign, hexadecimal, binary, octal, decimal = match.groups()
        digits, base = next((d, b) for d, b in ((hexadecimal, 16), (binary, 2), (octal, 8), (decimal, 10)) if d)
        number = int(digits, base)
        if -(2**63) <= number < 2**64:
            return -number if sign == "-" else number
    if _FLOAT.fullmatch(plain):
        value = float(plain)
        return value if abs(value) != float("inf") else None
    return None
