"""The text of resolv.conf(5) that makes a machine ask us first, and how it is told from other people's.

The servers there were stay behind ours, so that a node that was killed leaves a machine whose names go on, slowly;
glibc takes three. Our file begins with a line that says whose it is:

    # edgevpn /run/edgevpn/edgevpn0 made this; what was there is in resolv.conf.before-edgevpn
"""

from __future__ import annotations

from typing import Final

MARK: Final = "# edgevpn "
MAX_SERVERS: Final = 3
MAX_SEARCH: Final = 256  # characters; glibc before 2.26
BACKUP: Final = "resolv.conf.before-edgevpn"


def with_us(before: str, server: str, domain: str, run_dir: str) -> str:
    """`before` with our server and domain in front."""
    servers, search, rest = [server], [domain], []
    for line in before.splitlines():
        words = line.split()
        if not words or words[0][0] in "#;":
            continue
        if words[0] == "nameserver" and len(words) > 1:
            servers += [word for word in words[1:2] if word not in servers]
        elif words[0] in ("search", "domain"):
            search = [domain, *(word for word in words[1:] if word != domain)]
        else:
            rest.append(line.strip())
    while len(search) > 1 and len(" ".join(search)) > MAX_SEARCH:
        search.pop()
    lines = [f"{MARK}{run_dir} made this; what was there is in {BACKUP}"]
    lines += [f"nameserver {one}" for one in servers[:MAX_SERVERS]]
    lines += [f"search {' '.join(search)}", *rest]
    return "\n".join(lines) + "\n"


def maker(text: str) -> str:
    """The run directory of the node that made the file; "" if none of ours did."""
    if not text.startswith(MARK):
        return ""
    return text.splitlines()[0].removeprefix(MARK).partition(" made this")[0]
