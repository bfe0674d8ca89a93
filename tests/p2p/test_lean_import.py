"""What the lean import leaves out, and that what we use is the real thing. Each import runs in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from edgevpn.p2p.lean_import import DEFERRED, LEFT_OUT

USED = [
    "libp2p.network.swarm",
    "libp2p.network.connection.swarm_connection",
    "libp2p.host.basic_host",
    "libp2p.host.ping",
    "libp2p.host.observed_addr_manager",
    "libp2p.identity.identify.identify",
    "libp2p.identity.identify.pb.identify_pb2",
    "libp2p.security.noise.transport",
    "libp2p.security.noise.patterns",
    "libp2p.transport.tcp.tcp",
    "libp2p.transport.upgrader",
    "libp2p.stream_muxer.yamux.yamux",
    "libp2p.peer.peerstore",
    "libp2p.crypto.ed25519",
    "libp2p.crypto.rsa",
    "libp2p.pubsub.pubsub",
    "libp2p.pubsub.gossipsub",
    "libp2p.kad_dht.kad_dht",
    "libp2p.discovery.random_walk.rt_refresh_manager",
    "libp2p.relay.circuit_v2.transport",
    "libp2p.relay.circuit_v2.protocol",
    "libp2p.relay.circuit_v2.dcutr",
]


def run(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_everything_we_use_comes_from_libp2ps_own_files() -> None:
    code = f"""
import edgevpn.p2p, importlib, inspect, json
from edgevpn.p2p.lean_import import LeftOut
found = {{}}
for name in {USED!r}:
    module = importlib.import_module(name)
    found[name] = module.__file__
    for base in [b for c in vars(module).values() if inspect.isclass(c) and c.__module__ == name for b in c.__mro__]:
        assert not issubclass(base, LeftOut), (name, base)
print(json.dumps(found))
"""
    for name, file in json.loads(run(code)).items():
        assert file.endswith((name.replace(".", "/") + ".py", name.replace(".", "/") + "/__init__.py"))


def test_the_whole_program_room_loads_nothing_that_is_left_out() -> None:
    code = """
import sys, edgevpn.p2p.host, libp2p.pubsub.gossipsub, libp2p.kad_dht.kad_dht, libp2p.relay.circuit_v2.dcutr
print([m for m in ("aioquic", "OpenSSL", "acme", "josepy", "httpx", "requests", "zeroconf", "miniupnpc",
    "trio_websocket", "service_identity", "aiortc") if m in sys.modules])
"""
    assert run(code).strip() == "[]"


def test_the_plain_import_loads_what_is_left_out() -> None:
    """The reason for the lean import; when this fails, libp2p has become lean by itself."""
    loaded = run("import sys, libp2p; print([m for m in ('aioquic', 'zeroconf', 'OpenSSL') if m in sys.modules])")
    assert loaded.strip() == "['aioquic', 'zeroconf', 'OpenSSL']"


def test_using_something_left_out_says_so() -> None:
    code = """
import edgevpn.p2p
from libp2p.transport.quic.transport import QUICTransport
from libp2p.discovery.mdns.mdns import MDNSDiscovery
from libp2p.transport.quic.exceptions import QUICStreamClosedError
assert issubclass(QUICStreamClosedError, Exception)
import libp2p
for use in (QUICTransport, MDNSDiscovery, lambda: libp2p.new_host):
    try:
        use()
    except RuntimeError as exc:
        print(exc)
"""
    lines = run(code).splitlines()
    assert len(lines) == 3
    assert all("is left out of this program (" in line for line in lines)


def test_foreign_keys_still_work() -> None:
    """Public bootstrap peers have RSA keys."""
    code = """
import edgevpn.p2p, sys
from libp2p.crypto.serialization import deserialize_public_key
from libp2p.crypto import rsa, secp256k1
assert "Crypto.Math" not in sys.modules
for pair in (rsa.create_new_key_pair(2048), secp256k1.create_new_key_pair()):
    public = deserialize_public_key(pair.public_key.serialize())
    assert public.verify(b"data", pair.private_key.sign(b"data"))
    print(type(public).__name__)
"""
    assert run(code).split() == ["RSAPublicKey", "Secp256k1PublicKey"]


def test_importing_libp2p_first_is_an_error() -> None:
    code = """
import libp2p
try:
    import edgevpn.p2p
except RuntimeError as exc:
    print(exc)
"""
    assert "import edgevpn.p2p first" in run(code)


def test_other_modules_are_left_alone() -> None:
    assert run("import edgevpn.p2p, json, cryptography, dns.resolver; print(json.__file__ and dns.resolver.__file__)")


@pytest.mark.parametrize("table", [LEFT_OUT, DEFERRED])
def test_every_entry_has_its_reason(table: dict[str, str]) -> None:
    assert all(len(reason) > 10 for reason in table.values())
