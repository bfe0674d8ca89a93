"""The path of a request as the Go program's router (Echo on net/http) takes it apart. Pure.

net/url keeps the raw path beside the decoded one when it holds an escape that Go would not have written itself (such
as %2F, %26 or a bare "!"); Echo then routes on the raw path and decodes no parameter. Else all is decoded. Scripts
that write ledger keys by hand depend on it: `PUT /api/ledger/b/k/a%2Fb` stores the text `a%2Fb`.
"""

from __future__ import annotations

from urllib.parse import quote, unquote_to_bytes

from edgevpn.errors import UntrustedDataError

_KEPT = "$&+,/:;=@-_.~"  # what Go leaves bare in a path, besides letters and digits
_HEX = frozenset(b"0123456789abcdefABCDEF")


def go_path_untrusted(raw: bytes) -> str:
    """The path to route on. Raises UntrustedDataError for a broken escape or what is no UTF-8."""
    for place, octet in enumerate(raw):
        if octet == 0x25 and not (len(raw[place + 1 : place + 3]) == 2 and _HEX.issuperset(raw[place + 1 : place + 3])):
            raise UntrustedDataError("the path holds a % that begins no escape")
    decoded = unquote_to_bytes(raw)
    try:
        path = decoded.decode()
        as_it_came = raw.decode()
    except UnicodeDecodeError:
        raise UntrustedDataError("the path is not UTF-8") from None
    return path if quote(decoded, safe=_KEPT) == as_it_came else as_it_came
