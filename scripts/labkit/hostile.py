"""A member that plays foul among honest nodes: what of it is taken in, what it costs, and how much slower others hear.

The hostile node is one of ours whose ledger actor is made to say, on its links and on the topic, what the rules forbid:
it has the token and keys of its own, so all of it is sealed right. What it will say is made and signed first; then it
says it all as fast as its peers take it, while the honest nodes write and everybody's routes are watched; at last their
ledgers are looked through for anything that must not be there. The whole is done twice: with honest nodes that refuse a
peer which misbehaves, and with that switched off, so that the ledger's own rules and bounds stand alone.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from edgevpn.ledger.quota import Quota
from scripts.labkit import spread
from scripts.labkit.namespaces import Lab, LabError
from scripts.labkit.nodes import EDGEVPN, Vpn, environment, new_token
from scripts.labkit.traffic import wait_for

HONEST = 4
LONGEST = 200.0  # s of foul play
KEPT, GONE = "kept.lan.", "gone.lan."

# In the hostile node's ledger actor, before anything is measured: all it will say. VICTIM: peer ID; ADDRESS: its VPN
# address; ROUNDS, KEYS and LARGE: how much.
PREPARE = """
import builtins, gzip, json, time
from edgevpn.proto.block import Block, write_block
from edgevpn.proto.entry import Entry, sign_entry
from edgevpn.proto.gossip_message import compress
from edgevpn.proto.ledger_frames import Entries, pack_entries
from edgevpn.proto.values import Machine, Service, write_value

OLD, OLD_BEAT = builtins.evg_old
key = ledger._key
day = 86400 * 10**9
now = time.time_ns() + 600 * 10**9  # newer than what the honest nodes write meanwhile, and not too far ahead

def signed(bucket, name, value, version=now, deleted=False):
    return bucket, name, sign_entry(key, bucket, name, value, version, int(time.time()), deleted=deleted)

def frame(told):
    return Entries(0, True, True, True, b"", pack_entries(told))

def block(told):
    storage = {}
    for bucket, name, entry in told:
        storage.setdefault(bucket, {})[name] = entry
    return compress(write_block(Block(9, "t", storage, "h", "p")))

def prepare():
    said = []  # kind, how many entries, a frame, a block or None
    mine = write_value(Machine(key.peer_id, "thief", "linux", "amd64", ADDRESS, "0"))
    theirs = state.get("machines", ADDRESS)
    wall = int(time.time())
    for number in range(ROUNDS):
        later = now + number
        hijacks = [
            signed("machines", ADDRESS, mine, later),
            signed("machines", ADDRESS, theirs.value, later),
            signed("machines", ADDRESS, "", later, deleted=True),
            signed("healthcheck", VICTIM, "", later, deleted=True),
            signed("users", VICTIM, json.dumps({"PeerID": VICTIM, "Timestamp": "x"}), later),
        ]
        forged = [
            ("machines", ADDRESS, Entry(mine, VICTIM, later, wall, False, bytes(64))),
            ("machines", ADDRESS, Entry(mine, VICTIM, later, wall, False, theirs.sig)),
            ("healthcheck", VICTIM, Entry("", VICTIM, later, wall, True, bytes(64))),
            ("services", f"forged{number}", Entry(mine, VICTIM, later, wall, False, None)),
            ("machines", f"10.66.{number}.1", Entry(mine)),
        ]
        back = [("dns", name, entry) for name, entry in OLD.items()]
        back += [("healthcheck", VICTIM, OLD_BEAT)]
        for kind, told in (("hijacked", hijacks), ("forged", forged), ("replayed", back)):
            said.append((kind, len(told), frame(told), block(told)))
    for number in range(ROUNDS):
        ahead = [
            signed("services", f"ahead{number}", write_value(Service(key.peer_id, "x")), time.time_ns() + 2 * day),
            signed("services", f"last{number}", write_value(Service(key.peer_id, "x")), 2**64 - 1),
        ]
        said.append(("dated ahead", len(ahead), frame(ahead), None))
    value = write_value(Service(key.peer_id, "x" * 10))
    for start in range(0, KEYS, 500):
        told = [signed("services", f"k{number}", value) for number in range(start, start + 500)]
        said.append(("keys", len(told), frame(told), None))
    large = write_value(Service(key.peer_id, "x" * 1_000_000))
    for number in range(LARGE):
        said.append(("of 1 MB", 1, frame([signed("services", f"large{number}", large)]), None))
    return said

builtins.evg_said = await trio.to_thread.run_sync(prepare)
print(len(builtins.evg_said))
"""
# And then all of it, as fast as its peers take it.
FOUL = """
import builtins, json
from edgevpn.proto.messages import Publish, Published, Seal, Sealed

sent = {}
for kind, count, frame, block in builtins.evg_said:
    for peer in list(links._queues):
        links.send(peer, frame)
    sent[kind] = sent.get(kind, 0) + count
    while any(queue.frames for queue in list(links._queues.values())):
        await trio.sleep(0.005)
    if block is not None:
        sealed = (await actor.client("sealer").call(Seal(block), Sealed)).data
        await actor.client("gossip").call(Publish(sealed), Published)
print(json.dumps(sent))
"""
# What it takes for later: what the victim wrote before it wrote anew, or withdrew it.
TAKE = f"""
OLD = {{name: state.get("dns", name) for name in ({KEPT!r}, {GONE!r})}}
OLD_BEAT = state.get("healthcheck", VICTIM)
print(all(OLD.values()))
"""
# In an honest node's: what must not be there.
LOOK = """
import json, time
from edgevpn.ledger.policy import policy_of
from edgevpn.proto.entry import verify_entry
found = []
for bucket, entries in state.storage.items():
    for name, entry in entries.items():
        if policy_of(bucket).owned and not verify_entry(bucket, name, entry):
            found.append(f"{bucket}/{name} is signed wrongly")
        if entry.version > time.time_ns() + 86400 * 10**9:
            found.append(f"{bucket}/{name} is dated ahead")
        if name.startswith(("forged", "ahead", "last", "10.66.")):
            found.append(f"{bucket}/{name} is there")
for bucket, name in (("machines", ADDRESS), ("healthcheck", VICTIM), ("users", VICTIM), ("dns", KEPT)):
    entry = state.get(bucket, name)
    if entry is not None and (entry.owner != VICTIM or entry.deleted):
        found.append(f"{bucket}/{name} is {entry.owner}'s")
if '"10.1.0.8"' not in state.get("dns", KEPT).value:
    found.append("an old name is back")
entry = state.get("dns", GONE)
if entry is not None and not entry.deleted:
    found.append("a withdrawn name is back")
print(json.dumps(found))
"""
FORGIVE = "care._conduct.note = lambda *_: None"


def measure_hostile(tries: int, say: Callable[[str], None]) -> dict[str, Any]:
    """Twice: honest nodes that refuse a foul peer, and honest nodes that don't. `tries`: 20 is 10^5 keys, 40 MB."""
    return {
        "refusing": foul_play(tries, say, refusing=True),
        "not_refusing": foul_play(tries, say, refusing=False),
    }


def foul_play(tries: int, say: Callable[[str], None], *, refusing: bool) -> dict[str, Any]:
    """One run. Raises LabError."""
    with Lab(HONEST + 1) as lab:
        nodes = spread.up(lab, HONEST + 1, new_token())
        try:
            return _foul_play(nodes, tries, say, refusing=refusing)
        finally:
            for vpn in nodes:
                vpn.close()


def _foul_play(nodes: Sequence[Vpn], tries: int, say: Callable[[str], None], *, refusing: bool) -> dict[str, Any]:
    honest, hostile = nodes[:HONEST], nodes[HONEST]
    victim = honest[0]
    facts = (
        f"VICTIM, ADDRESS, KEPT, GONE = {victim.json('status')['peer_id']!r}, '10.1.0.1', {KEPT!r}, {GONE!r}\n"
        f"ROUNDS, KEYS, LARGE = {tries * 5}, {tries * 5000}, {tries * 2}\n"
    )
    if not refusing:
        for vpn in honest:
            vpn.ask("repl", "host", "-c", FORGIVE)
    for name in (KEPT, GONE):
        victim.ask("dns-add", name, "A", "10.1.0.7")
    wait_for(lambda: {KEPT, GONE} <= set(hostile.json("ledger", "dns")), 10, what="the old names")
    # The names live on in one prompt: what is taken in its first part is told in the second.
    written = f"import builtins\n{facts}{TAKE}\nbuiltins.evg_old = OLD, OLD_BEAT"
    if hostile.ask("repl", "ledger", "-c", written).stdout.strip() != "True":
        raise LabError("the hostile node has no old entries to tell")
    victim.ask("dns-add", KEPT, "A", "10.1.0.8")
    victim.ask("dns-remove", GONE)
    wait_for(lambda: set(hostile.json("ledger", "dns")) == {KEPT}, 10, what="the end of a name")
    prepared = hostile.ask("repl", "ledger", "-c", facts + PREPARE, timeout=120)
    if prepared.stderr or int(prepared.stdout or 0) < tries:
        raise LabError(f"the foul play can't be prepared: {prepared.stderr[-500:]}")
    seconds = max(4.0, tries * 1.0)
    calm = spread.changes(honest, seconds)
    before = [_memory(vpn) for vpn in honest]
    for one in hostile.json("actors"):  # what it takes to play foul is its own machine's business, and here is but one
        if one["pid"]:
            os.setpriority(os.PRIO_PROCESS, one["pid"], 19)
    before_it = [_processor(vpn) for vpn in honest]
    foul = hostile.node.popen(
        [EDGEVPN, "repl", f"--run-dir={hostile.run_dir}", "ledger", "-c", FOUL],
        log=hostile.home / "foul",
        env=environment(),
    )
    began = time.monotonic()
    meanwhile = spread.changes(honest, LONGEST, going=lambda: foul.poll() is None)
    took = time.monotonic() - began
    after_it = [_processor(vpn) for vpn in honest]
    spent = {
        name: round(sum(after[name] - then[name] for after, then in zip(after_it, before_it, strict=True)) / HONEST, 2)
        for name in before_it[0]
    }
    if foul.wait(200):
        raise LabError(f"the foul play ended with {foul.returncode}: {(hostile.home / 'foul').read_text()[-500:]}")
    grown = [after - then for after, then in zip([_memory(vpn) for vpn in honest], before, strict=True)]
    accepted = [one for vpn in honest for one in _look(vpn, facts)]
    most = max(len(vpn.json("ledger", "services")) for vpn in honest)
    if most > Quota().owned_entries:
        accepted.append(f"{most} entries of one owner")
    report = {
        "told": json.loads((hostile.home / "foul").read_text().strip().splitlines()[-1]),
        "accepted": accepted,
        "entries_of_its_own": most,
        "memory_grew_mb": round(max(grown) / 1e6, 1),
        "calm": _figures(calm),
        "meanwhile": _figures(meanwhile),
        "processor_s_of_a_node": {name: took for name, took in spent.items() if took > 0.05} | {"of": round(took)},
        "restarts": sum(one["restarts"] for vpn in honest for one in vpn.json("actors")),
    }
    say(f"hostile, {'refusing' if refusing else 'not refusing'}: {report}")
    return report


def _look(vpn: Vpn, facts: str) -> list[str]:
    done = vpn.ask("repl", "ledger", "-c", facts + LOOK, timeout=60)
    if done.stderr:
        raise LabError(f"the ledger can't be looked through: {done.stderr[-300:]}")
    found: list[str] = json.loads(done.stdout)
    return found


def _figures(found: Sequence[tuple[float, float | None]]) -> dict[str, Any]:
    known = [took for _, took in found if took is not None]
    return spread.milliseconds(known) | {"lost": len(found) - len(known)}


def _processor(vpn: Vpn) -> dict[str, float]:
    """Seconds of processor time that each of a node's actors took so far."""
    found = {}
    for one in vpn.json("actors"):
        if one["pid"]:
            fields = Path(f"/proc/{one['pid']}/stat").read_text().rpartition(")")[2].split()
            found[one["name"]] = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return found


def _memory(vpn: Vpn) -> int:
    """Bytes (PSS) of the actors that hear the hostile member."""
    return sum(int(one["pss_bytes"]) for one in vpn.json("actors") if one["name"] in ("ledger", "gossip", "host"))
