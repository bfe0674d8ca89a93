"""What strangers and a hostile member can do to two honest nodes: cost them counters, nothing else."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from scripts.labkit import traffic
from scripts.labkit.namespaces import Lab
from scripts.labkit.nodes import Vpn, new_token
from tests.netns.test_node import ACTORS, MakeNode, machines, start

__all__ = ["start"]  # a fixture
MakeLab = Callable[..., Lab]
pytestmark = pytest.mark.timeout(180)

# Garbage, floods and half-open connections at one port, from one machine.
STRANGER = """
import random, socket, sys, time
target, port, seed = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
chance = random.Random(seed)
held = []
for _ in range(500):
    s = socket.socket(); s.setblocking(False)
    try: s.connect((target, port))
    except BlockingIOError: pass
    held.append(s)
until = time.monotonic() + 6
hello = b"\\x13/multistream/1.0.0\\n"
openings = [b"", hello, b"GET / HTTP/1.1\\r\\n\\r\\n", hello + b"\\x07/noise\\n"]
while time.monotonic() < until:
    try:
        s = socket.create_connection((target, port), 0.5)
        s.send(chance.choice(openings) + chance.randbytes(chance.randrange(4000)))
        if chance.random() < 0.3: s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, bytes([1,0,0,0,0,0,0,0]))
        s.close()
    except OSError: pass
print("done", len(held))
"""

# Run inside the hostile node's own ledger actor: it has the token, so its messages are sealed right.
MEMBER = """
import gzip, json, os, time
from edgevpn.proto.messages import Publish, Published, Seal, Sealed
from edgevpn.proto import peer_key, entry, values

async def publish(data):
    await actor.client("gossip").call(Publish(data), Published)

async def tell(plaintext):
    await publish((await actor.client("sealer").call(Seal(plaintext), Sealed)).data)

async def tell_block(storage):
    await tell(gzip.compress(json.dumps({"Index": 9, "Storage": storage}).encode()))

for data in (b"", b"\\xff\\xfe\\x00", b"{", b"[]", b'{"Message":"zz"}', b'{"Message":"00"}', os.urandom(5000)):
    await publish(data)
await tell(b"not gzip")
await tell(await trio.to_thread.run_sync(gzip.compress, bytes(300_000_000), 9))  # else our own node ends it for hanging
await tell(gzip.compress(b'{"Storage":' + b"[" * 100_000))
await tell(gzip.compress(b'{"Storage":{"machines":{"10.1.0.9":{"Value":"\\xff\\xfe"}}}}'))
await tell(gzip.compress(b'{"Index":"x"}'))
me = ledger._key
forged = {"Value": json.dumps({"PeerID": VICTIM}), "Owner": VICTIM, "Version": 2**63, "UpdatedAt": int(time.time()),
          "Deleted": False, "Sig": "AAAA"}
await tell_block({"machines": {"10.1.0.1": forged}})
value = json.dumps({"PeerID": me.peer_id})
stolen = entry.sign_entry(me, "machines", "10.1.0.1", value, time.time_ns(), int(time.time()))
await tell_block({"machines": {"10.1.0.1": entry.entry_to_json(stolen)}})
await tell_block({"junk": {str(n): "x" * 100 for n in range(20_000)}})
"told"
"""


def restarts(vpn: Vpn) -> dict[str, int]:
    return {one["name"]: one["restarts"] for one in vpn.json("actors") if one["name"] in ACTORS}


def two_honest(lab: Lab, start: MakeNode, token: str) -> tuple[Vpn, Vpn]:
    one = start(lab.node(1), token, "10.1.0.1/24", "--dht=false", "--listen-maddrs=/ip4/0.0.0.0/tcp/4001")
    two = start(lab.node(2), token, "10.1.0.2/24", "--dht=false")
    traffic.first_answer(lab.node(2), "10.1.0.1", "edgevpn0", 20)
    return one, two


def test_garbage_floods_and_half_open_connections_do_not_touch_honest_nodes(make_lab: MakeLab, start: MakeNode) -> None:
    seed = random.randrange(10**6)
    print("seed", seed)
    lab = make_lab(3)
    one, _ = two_honest(lab, start, new_token())
    pinging = traffic.Pinging(lab.node(2), "10.1.0.1", 0.05, "edgevpn0")
    done = lab.node(3).run(["python3", "-c", STRANGER, lab.node(1).address, "4001", str(seed)], timeout=60)
    result = pinging.finish()
    assert done.stdout == "done 500\n"
    assert result.longest_gap_s < 2
    assert result.received > 0.95 * result.sent
    assert restarts(one) == dict.fromkeys(ACTORS, 0)
    lines = one.log.read_text().splitlines()
    assert len(lines) < 20, "a stranger can fill the log"


def test_a_hostile_member_spoils_nothing(make_lab: MakeLab, start: MakeNode) -> None:
    lab = make_lab(3)
    token = new_token()
    one, two = two_honest(lab, start, token)
    bad = start(lab.node(3), token, "10.1.0.66/24", "--dht=false")
    traffic.first_answer(lab.node(3), "10.1.0.1", "edgevpn0", 20)
    before = one.json("ledger", "machines")["10.1.0.1"]
    victim = one.json("status")["peer_id"]
    told = bad.ask("repl", "ledger", "-c", MEMBER.replace("VICTIM", repr(victim)), timeout=60)
    assert told.stdout == "'told'\n", told.stderr

    def seen() -> bool:
        return all(len(vpn.json("ledger", "junk")) == 20_000 for vpn in (one, two))  # its last word: all came before

    traffic.wait_for(seen, 30, what="the end of the hostile member's messages")
    assert one.json("ledger", "machines")["10.1.0.1"] == before
    assert two.json("ledger", "machines")["10.1.0.1"] == before
    assert traffic.ping(lab.node(2), "10.1.0.1", 20, 0.05, "edgevpn0").received == 20
    for vpn in (one, two):
        assert restarts(vpn) == dict.fromkeys(ACTORS, 0)
        counters = vpn.ask("repl", "ledger", "-c", "print(*sorted(actor.counters.items()), sep='\\n')").stdout
        for name in ("messages_not_opened", "blocks_refused", "entries_refused"):
            assert name in counters
        said = [line for line in vpn.log.read_text().splitlines() if '"actor": "ledger"' in line]
        assert len(said) <= 4, "a member can fill the log"
    assert machines(one) == {"10.1.0.1", "10.1.0.2", "10.1.0.66"}
