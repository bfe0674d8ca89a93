"""What commands print: tables for people, JSON for programs.

Anything that came from peers is cleaned of control characters before it reaches a terminal: a machine's name must
not move the cursor.
"""

from __future__ import annotations

import json
import shutil
import unicodedata
from collections.abc import Sequence
from typing import Any

from edgevpn.proto.log_lines import printable

_UNITS = (("d", 86400), ("h", 3600), ("m", 60))


def table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Rows under upper-case headings, columns two spaces apart, numbers flush right; ends with a newline.

    "-" stands for a number that is not known.
    """
    cells = [[clean(str(cell)) for cell in row] for row in rows]
    heads = [column.upper() for column in columns]
    widths = [max([_width(line[i]) for line in [heads, *cells]]) for i in range(len(heads))]
    right = [
        all(isinstance(row[i], int | float) or row[i] == "-" for row in rows)
        and any(isinstance(row[i], int | float) for row in rows)
        for i in range(len(heads))
    ]
    lines = []
    for line in [heads, *cells]:
        padded = []
        for text, width, flush_right in zip(line, widths, right, strict=True):
            space = " " * (width - _width(text))
            padded.append(space + text if flush_right else text + space)
        lines.append("  ".join(padded).rstrip())
    return "\n".join(lines) + "\n"


def facts(pairs: Sequence[tuple[str, object]]) -> str:
    """Names and values, one pair a line, values aligned; a list's items are on lines of their own."""
    width = max([len(name) for name, _ in pairs], default=0)
    lines = []
    for name, value in pairs:
        items = [str(item) for item in value] if isinstance(value, list | tuple) else [str(value)]
        for number, item in enumerate(items or ["-"]):
            lines.append(f"{name if number == 0 else '':<{width}}  {clean(item)}".rstrip())
    return "\n".join(lines) + "\n"


def as_json(value: Any) -> str:
    """`value` as indented JSON with a newline."""
    return json.dumps(value, indent=2, ensure_ascii=False, default=str) + "\n"


def age(seconds: float) -> str:
    """A span of time in its two largest units: "3s", "2m05s", "4h10m", "12d03h"."""
    whole = max(0, int(seconds))
    for number, (unit, size) in enumerate(_UNITS):
        if whole >= size:
            below, below_size = _UNITS[number + 1] if number + 1 < len(_UNITS) else ("s", 1)
            return f"{whole // size}{unit}{whole % size // below_size:02d}{below}"
    return f"{whole}s"


def size(number: float) -> str:
    """A number of bytes: "512 B", "1.5 KiB", "23 MiB"."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if number < 1024 or unit == "GiB":
            break
        number /= 1024
    return f"{number:.1f} {unit}" if unit != "B" and number < 10 else f"{number:.0f} {unit}"


def clean(text: str) -> str:
    """`text` without what a terminal would act on: control, format and line-breaking characters become "?"."""
    return printable(text)


def cut(text: str, width: int) -> str:
    """`text`, or what of it fits into `width` columns and an ellipsis."""
    if _width(text) <= width:
        return text
    while text and _width(text) > width - 1:
        text = text[:-1]
    return text.rstrip() + "\u2026"


def fit(lines: str, width: int, height: int | None = None) -> str:
    """Each of the lines cut to `width` columns, and not more than `height` of them."""
    return "".join(f"{cut(line, width)}\n" for line in lines.splitlines()[:height])


def terminal_width() -> int:
    """Columns of the terminal, within what reads well."""
    return min(max(shutil.get_terminal_size((100, 24)).columns, 60), 120)


def columns() -> int:
    """Columns of the terminal as it is."""
    return shutil.get_terminal_size((80, 24)).columns


def _width(text: str) -> int:
    return sum(
        0 if unicodedata.combining(letter) else 2 if unicodedata.east_asian_width(letter) in "WF" else 1
        for letter in text
    )
