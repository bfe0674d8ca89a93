"""How a dotted name typed at a prompt may go on. Pure, and without side effects: no property is ever run for it."""

from __future__ import annotations

import builtins
import inspect
import keyword
import re
import types
from collections.abc import Iterable, Mapping
from typing import Any

MAX_NAMES = 300
_DOTTED = re.compile(r"(?:[^\W\d]\w*\.)*(?:[^\W\d]\w*)?\Z")
_ABSENT = object()
_FIELDS = (types.MemberDescriptorType, types.GetSetDescriptorType)  # slots and the like: reading them is harmless


def completions(text: str, namespace: Mapping[str, Any]) -> list[str]:
    """Whole dotted names that begin with `text`, sorted, at most MAX_NAMES. Private names only when asked for."""
    if not _DOTTED.match(text):
        return []
    *path, prefix = text.split(".")
    if not path:
        found: Iterable[str] = {*namespace, *dir(builtins), *keyword.kwlist, *keyword.softkwlist}
        return _fitting(prefix, found, "")
    held = namespace.get(path[0], getattr(builtins, path[0], _ABSENT))
    for name in path[1:]:
        held = _attribute(held, name)
    if held is _ABSENT:
        return []
    return _fitting(prefix, _names(held), ".".join(path) + ".")


def _fitting(prefix: str, names: Iterable[str], before: str) -> list[str]:
    fit = sorted(name for name in names if name.startswith(prefix) and (prefix or not name.startswith("_")))
    return [before + name for name in fit[:MAX_NAMES]]


def _names(held: object) -> set[str]:
    """What dir() says, but never by the object's own word for it."""
    names: set[str] = set()
    if isinstance(held, type | types.ModuleType):
        return set(dir(held))
    for kind in type(held).__mro__:
        names.update(kind.__dict__)
    fields = _fields_of(held)
    names.update(name for name in fields if isinstance(name, str))
    return names


def _attribute(held: object, name: str) -> object:
    """The attribute's value, or _ABSENT when only running code would tell it."""
    if held is _ABSENT:
        return _ABSENT
    found = inspect.getattr_static(held, name, _ABSENT)
    if isinstance(found, _FIELDS):
        return found.__get__(held) if not isinstance(held, type) and _has(found, held) else _ABSENT
    if isinstance(found, property) or (hasattr(type(found), "__get__") and hasattr(type(found), "__set__")):
        return _ABSENT
    return found


def _has(field: Any, held: object) -> bool:
    try:
        field.__get__(held)
    except AttributeError:  # a slot without a value
        return False
    return True


def _fields_of(held: object) -> dict[str, Any]:
    try:
        found = object.__getattribute__(held, "__dict__")
    except AttributeError:
        return {}
    return found if isinstance(found, dict) else {}
