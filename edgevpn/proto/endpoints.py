"""Where a tunnel begins or ends, as a person writes it: `HOST:PORT`, `:PORT`, `[IPv6]:PORT`.

Before it tcp:// or udp:// may stand; without, it is TCP. A name and an endpoint together are `NAME=ENDPOINT`. Names
are keys of the ledger, so peers see them; they are bounded and printable.
"""

from __future__ import annotations

from dataclasses import dataclass

from edgevpn.errors import UsageError

TCP, UDP = "tcp", "udp"
MAX_SERVICE_NAME = 128  # bytes of UTF-8
MAX_HOST = 253  # RFC 1035, without the last dot


@dataclass(frozen=True, slots=True)
class Endpoint:
    """`kind`: tcp or udp. `host`: a name or an address without brackets; "" for every address of this machine."""

    kind: str
    host: str
    port: int

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.kind}://{host}:{self.port}"


def parse_endpoint(text: str, *, listening: bool = False) -> Endpoint:
    """Raises UsageError. `listening`: an empty host and port 0 (any free one) are allowed."""
    scheme, found, rest = text.strip().partition("://")
    kind, place = (scheme.lower(), rest) if found else (TCP, text.strip())
    if kind not in (TCP, UDP):
        raise UsageError(f"{text!r} is neither tcp:// nor udp://")
    host, colon, number = place.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    host = host[1:-1] if bracketed else host
    example = ":8080 or 127.0.0.1:8080" if listening else "127.0.0.1:22"
    if not colon or not (number.isascii() and number.isdigit()) or len(number) > 5 or int(number) > 65535:
        raise UsageError(f"{text!r} has no port: write it like {example}")
    if ":" in host and not bracketed:
        raise UsageError(f"{text!r} is not clear: an IPv6 address stands in brackets, like [::1]:{number}")
    if not listening and (not host or int(number) == 0):
        raise UsageError(f"{text!r} leads nowhere: write it like {example}")
    if len(host) > MAX_HOST or any(not letter.isprintable() or letter in " /@\\" for letter in host):
        raise UsageError(f"{text!r} has no host that could be one: write it like {example}")
    return Endpoint(kind, host, int(number))


def check_service_name(name: str) -> None:
    """Raise UsageError unless `name` can stand in the ledger as a service's or a file's."""
    if not name:
        raise UsageError("a service or file needs a name: it is what others ask for")
    if len(name.encode(errors="replace")) > MAX_SERVICE_NAME:
        raise UsageError(f"the name {name[:20]!r}... is too long: at most {MAX_SERVICE_NAME} bytes")
    if not name.isprintable():
        raise UsageError(f"the name {name!r} has characters that can't be seen: leave them out")


def parse_named_endpoint(text: str, *, listening: bool = False) -> tuple[str, Endpoint]:
    """(name, endpoint) of "NAME=ENDPOINT". Raises UsageError."""
    name, equals, place = text.partition("=")
    if not equals:
        raise UsageError(f"{text!r} is no service: write it like {'web=:8080' if listening else 'web=127.0.0.1:80'}")
    check_service_name(name.strip())
    return name.strip(), parse_endpoint(place, listening=listening)
