"""JSON as Go's encoding/json reads and writes it: for blocks, entries and the values inside them.

Reading: names match in any case, of duplicates the last wins, null leaves a field as it was, a lone surrogate becomes
U+FFFD, numbers keep their text (versions have 64 bits: no floats), NaN and trailing text are refused. So an object is
read as its pairs in the order they came, not as a dict. Stricter than Go: nesting only as deep as Python's stack takes
(Go: 10000).

Writing: no spaces, and in texts < > & U+2028 U+2029 are escaped.
"""

from __future__ import annotations

import json
import re
from typing import Any, Final, NoReturn

from edgevpn.errors import UntrustedDataError

_LONE_SURROGATE: Final = re.compile("[\ud800-\udfff]")
_ESCAPED_SURROGATE: Final = re.compile(r"\\u[dD][89a-fA-F]")
# Go folds case by Unicode: these two letters are the only ones outside ASCII that equal one inside.
_FOLD: Final = str.maketrans({"\u017f": "s", "\u212a": "k"})
_INTEGER: Final = re.compile(r"-?[0-9]{1,20}")


class Object(list[tuple[str, Any]]):
    """A JSON object: its pairs, duplicates and all, in the order they came."""

    __slots__ = ()


class Number:
    """A JSON number, by its text."""

    __slots__ = ("text",)

    def __init__(self, text: str) -> None:
        self.text = text


def _refuse_constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is not JSON")


_DECODER: Final = json.JSONDecoder(
    object_pairs_hook=Object, parse_int=Number, parse_float=Number, parse_constant=_refuse_constant
)


def parse_untrusted(text: str) -> Any:
    """Objects as Object, numbers as Number; else str, list, bool, None. Raises UntrustedDataError."""
    try:
        value = _DECODER.decode(text)
        return _without_surrogates(value) if _ESCAPED_SURROGATE.search(text) else value
    except (ValueError, RecursionError):
        raise UntrustedDataError("not valid JSON") from None


def _without_surrogates(value: Any) -> Any:
    if isinstance(value, str):
        return _LONE_SURROGATE.sub("\ufffd", value)
    if isinstance(value, Object):
        return Object((_without_surrogates(name), _without_surrogates(item)) for name, item in value)
    if isinstance(value, list):
        return [_without_surrogates(item) for item in value]
    return value


def field_name(name: str) -> str:
    """A name as Go compares it with that of a struct's field, in lower case."""
    return (name if name.isascii() else name.translate(_FOLD)).lower()


def integer_untrusted(value: Any, low: int, high: int, what: str) -> int:
    """A number written as an integer (1.0 and 1e3 are not), within [low, high]. Raises UntrustedDataError."""
    if isinstance(value, Number) and _INTEGER.fullmatch(value.text) and (low < 0 or value.text[0] != "-"):
        number = int(value.text)
        if low <= number <= high:
            return number
    raise UntrustedDataError(f"{what} is not a whole number in its range")


def text_untrusted(value: Any, what: str) -> str:
    """A text. Raises UntrustedDataError."""
    if not isinstance(value, str):
        raise UntrustedDataError(f"{what} is not a text")
    return value


def write(value: Any) -> str:
    """The JSON of dicts (in their order), lists, texts, whole numbers, bools and None, as Go writes it."""
    text = json.dumps(value, separators=(",", ":"), ensure_ascii=False)
    for character in "<>&\u2028\u2029":
        if character in text:
            text = text.replace(character, f"\\u{ord(character):04x}")
    return text
