"""JSON as Go's encoding/json reads and writes it, where that differs from Python's.

Reading: field names of structs match in any case, the last of duplicates wins, null leaves a field as it was, lone
surrogates become U+FFFD, numbers keep their text until a field says what they are. Writing: no spaces, `<`, `>`, `&`,
U+2028 and U+2029 escaped, map keys sorted by their UTF-8 bytes.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from edgevpn.errors import UntrustedDataError

_SURROGATE = re.compile("[\ud800-\udfff]")
# Go folds case by Unicode: these two letters are the only ones outside ASCII that equal one inside.
_FOLD = str.maketrans({"\u017f": "s", "\u212a": "k"})
_ESCAPES = {ord(letter): f"\\u{ord(letter):04x}" for letter in "<>&\u2028\u2029"}


class Pairs(list[tuple[str, Any]]):
    """A JSON object with its duplicates, in the order they came."""


class Number(str):
    """The text of a JSON number."""

    __slots__ = ()


def _refuse(text: str) -> Any:
    raise ValueError(f"{text} is no JSON number")


def parse_untrusted(text: bytes | str) -> Any:
    """Pairs, lists, str, Number, bool, None. Raises UntrustedDataError."""
    try:
        decoded = text.decode("utf-8", "replace") if isinstance(text, bytes) else text
        return json.loads(
            decoded, object_pairs_hook=Pairs, parse_int=Number, parse_float=Number, parse_constant=_refuse
        )
    except (ValueError, RecursionError) as exc:
        raise UntrustedDataError(f"not valid JSON: {str(exc)[:100]}") from None


def fold(name: str) -> str:
    """A field's name for comparing."""
    return name.translate(_FOLD).lower()


def clean(text: str) -> str:
    """Text as Go holds it: lone surrogates are U+FFFD."""
    return _SURROGATE.sub("\ufffd", text)


def fields(value: Pairs) -> Iterator[tuple[str, Any]]:
    """The fields of a struct, names folded, null ones left out."""
    return ((fold(name), item) for name, item in value if item is not None)


def integer(value: Any, lowest: int, highest: int, what: str) -> int:
    """A Number that Go reads into an integer type of that range. Raises UntrustedDataError."""
    if isinstance(value, Number) and len(value) <= 20 and re.fullmatch(r"-?\d+", value):
        number = int(value)
        if lowest <= number <= highest and not (lowest == 0 and value.startswith("-")):
            return number
    raise UntrustedDataError(f"{what} is not a number in its range")


def text(value: Any, what: str) -> str:
    """A string. Raises UntrustedDataError."""
    if not isinstance(value, str) or isinstance(value, Number):
        raise UntrustedDataError(f"{what} is not text")
    return clean(value)


def quote(value: str) -> str:
    """A JSON string as Go writes it."""
    return json.dumps(clean(value), ensure_ascii=False).translate(_ESCAPES)


def dump_object(items: dict[str, str]) -> str:
    """A JSON object of keys and JSON texts, sorted as Go sorts maps."""
    ordered = sorted(items.items(), key=lambda item: item[0].encode("utf-8", "surrogatepass"))
    return "{" + ",".join(f"{quote(key)}:{value}" for key, value in ordered) + "}"


def dump_value(value: Any) -> str:
    """A plain value (dict, list, str, int, bool, None) as Go writes a map of it."""
    if isinstance(value, dict):
        return dump_object({str(key): dump_value(item) for key, item in value.items()})
    if isinstance(value, list):
        return "[" + ",".join(map(dump_value, value)) + "]"
    return quote(value) if isinstance(value, str) else json.dumps(value)
