"""Makes the pictures of the dashboard in docs/images, of a real network of six nodes in namespaces, under traffic.

python -m scripts.labkit.screenshots docs/images
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from scripts.labkit.browser import Browser, inside
from scripts.labkit.namespaces import Lab
from scripts.labkit.nodes import Vpn, new_token
from scripts.labkit.traffic import wait_for

PORT = 8080
HOSTS = ("berlin", "lisbon", "office-nas", "laptop", "garage-pi", "build-01")
SERVICES = ((2, "wiki"), (3, "backup"), (1, "git"))
NAMES = ((1, "git.home.", '{"1":"10.1.0.1"}'), (3, "nas.home.", '{"1":"10.1.0.3"}'))


@contextmanager
def network(lab: Lab) -> Iterator[list[Vpn]]:
    """Six nodes, the first with the API; one of them speaks by streams only. Each has a host name of its own."""
    token = new_token()
    with ExitStack() as stack:
        nodes = []
        for k, host in enumerate(HOSTS, 1):
            flags = ["--dht=false", *(["--api"] if k == 1 else []), *(["--path=stream"] if k == 4 else [])]
            vpn = Vpn(lab.node(k), token, f"10.1.0.{k}/24", *flags, hostname=host)
            stack.callback(vpn.close)
            nodes.append(vpn)
        for vpn in nodes:
            vpn.wait_for_state("up", 60)
        wait_for(lambda: len(nodes[0].json("ledger", "machines")) == len(HOSTS), 40, what="all machines")
        for k, name in SERVICES:
            peer = nodes[k - 1].json("status")["peer_id"]
            announce(nodes[k - 1], "services", name, f'{{"PeerID":"{peer}","Name":"{name}"}}')
        peer = nodes[5].json("status")["peer_id"]
        announce(nodes[5], "files", "release.tar.zst", f'{{"PeerID":"{peer}","Name":"release.tar.zst"}}')
        for k, pattern, value in NAMES:
            announce(nodes[k - 1], "dns", pattern, value)
        yield nodes


def announce(vpn: Vpn, bucket: str, key: str, value: str) -> None:
    code = (
        f"from edgevpn.proto.messages import Announce\nawait ledger._announce(Announce({bucket!r}, {key!r}, {value!r}))"
    )
    vpn.ask("repl", "ledger", "-c", code)


def main(directory: Path, seconds: float = 60) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    with Lab(len(HOSTS), delay_ms=4) as lab, network(lab) as nodes:
        for k in (2, 3, 5):  # traffic of different kinds
            lab.node(k).popen(["iperf3", "-s", "-B", f"10.1.0.{k}"])
        time.sleep(1)
        for k, rate in ((2, "30M"), (3, "9M"), (5, "1M")):
            reverse = ["-R"] if k == 2 else []
            lab.node(1).popen(["iperf3", "-c", f"10.1.0.{k}", "-u", "-b", rate, "-t", "600", *reverse])
        lab.node(4).popen(["ping", "-i", "0.2", "-s", "1000", "10.1.0.1"])
        url = nodes[0].ask("api-url").stdout.strip()
        inside(lab.node(1).netns, lambda: take(url, directory, seconds))


def take(url: str, directory: Path, seconds: float) -> None:
    with Browser(width=1280, height=1400) as browser:
        browser.open(url)
        time.sleep(seconds)
        browser.picture(directory / "dashboard-light.png")
        browser.prefer(dark=True)
        time.sleep(0.5)
        browser.picture(directory / "dashboard-dark.png")
    with Browser(width=390, height=844, phone=True, dark=True) as browser:
        browser.open(url)
        time.sleep(3)
        browser.picture(directory / "dashboard-phone.png")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "docs/images"))
