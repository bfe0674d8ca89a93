"""Who is let in: real nodes with and without keys, and lists of peers."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from edgevpn.identity import load_or_create
from edgevpn.proto import peerguard
from edgevpn.proto.peer_key import PrivateKey
from scripts.labkit import traffic
from scripts.labkit.namespaces import Lab
from scripts.labkit.nodes import Vpn, new_token
from scripts.labkit.traffic import wait_for

MakeLab = Callable[..., Lab]
MakeNode = Callable[..., Vpn]

pytestmark = pytest.mark.timeout(180)
GUARD = ("--peerguard", "--peergate", "--peergate-interval=4")


@pytest.fixture
def start(start: Callable[..., Vpn]) -> MakeNode:
    """Nodes that have the key `key`, or none."""

    def make(lab: Lab, k: int, token: str, *flags: str, key: str = "") -> Vpn:
        env = {"PEERGATE_AUTH": json.dumps({"ecdsa": {"private_key": key}})} if key else {}
        return start(lab.node(k), token, f"10.1.0.{k}/24", "--dht=false", *flags, env=env)

    return make


def machines(vpn: Vpn) -> set[str]:
    return set(json.loads(vpn.ask("ledger", "machines", "--json", check=False).stdout or "{}"))


def gate(vpn: Vpn, *words: str) -> dict[str, object]:
    found = json.loads(vpn.ask("peergater", *(words or ("status",)), "--json").stdout)
    assert isinstance(found, dict)
    return found


def trusted(vpn: Vpn) -> object:
    return gate(vpn)["trusted"]


def counter(vpn: Vpn, actor: str, name: str) -> int:
    return int(vpn.ask("repl", actor, "-c", f"actor.stats().get({name!r}, 0)").stdout)


def connected(vpn: Vpn) -> list[str]:
    return [peer["peer_id"] for peer in vpn.json("peers")]


def is_cut(vpn: Vpn, address: str) -> bool:
    return traffic.ping(vpn.node, address, 2, 0.2, "edgevpn0").received == 0


def test_a_member_without_the_key_is_kept_out_and_one_with_it_is_in(make_lab: MakeLab, start: MakeNode) -> None:
    lab, token = make_lab(4), new_token()
    key, _ = peerguard.generate_key_pair()
    stranger_key, _ = peerguard.generate_key_pair()
    one, two = start(lab, 1, token, *GUARD, key=key), start(lab, 2, token, *GUARD, key=key)
    plain = start(lab, 3, token)
    stranger = start(lab, 4, token, *GUARD, key=stranger_key)
    traffic.first_answer(lab.node(2), "10.1.0.1", "edgevpn0", 20)
    peers = {vpn: vpn.wait_for_state(state)["peer_id"] for vpn, state in ((one, "up"), (two, "up"), (plain, "up"))}
    wait_for(lambda: len(one.json("peers")) == 3, 15, what="three connections")
    time.sleep(5)  # whoever is to be let in by mistake has been by now
    assert trusted(one) == {peers[two]: "challenge"}
    assert trusted(two) == {peers[one]: "challenge"}
    assert trusted(stranger) == {}
    assert one.status()["peers"] == [peers[two]]  # type: ignore[index]
    assert machines(one) == machines(two) == {"10.1.0.1", "10.1.0.2"}
    assert machines(stranger) == {"10.1.0.4"}
    # The plain node has the token: it is connected, and hears nothing, for the ledger goes on streams to trusted peers.
    assert machines(plain) == {"10.1.0.3"}
    assert is_cut(plain, "10.1.0.1")
    assert is_cut(one, "10.1.0.3")
    assert counter(one, "host", "streams_of_untrusted_peers_refused") > 0
    wait_for(lambda: counter(one, "gossip", "messages_not_accepted") > 0, 15, what="a message that is dropped")
    assert all(found["path"] == "none" for found in one.json("peers") if found["peer_id"] != peers[two])


def test_a_key_is_accepted_and_revoked_while_the_network_runs(make_lab: MakeLab, start: MakeNode) -> None:
    lab, token = make_lab(3), new_token()
    (ours, our_public), (theirs, their_public) = peerguard.generate_key_pair(), peerguard.generate_key_pair()
    one, two = start(lab, 1, token, *GUARD, key=ours), start(lab, 2, token, *GUARD, key=ours)
    guest = start(lab, 3, token, "--peerguard", "--peergate-interval=4", key=theirs)
    traffic.first_answer(lab.node(2), "10.1.0.1", "edgevpn0", 20)
    assert is_cut(guest, "10.1.0.1")
    gate(one, "accept", "guest", their_public)
    gate(one, "accept", "staff", our_public)
    for k in (1, 2):
        traffic.first_answer(lab.node(3), f"10.1.0.{k}", "edgevpn0", 15)
    assert len(trusted(two)) == 2  # type: ignore[arg-type]
    gate(two, "revoke", "guest")
    for vpn in (one, two):
        wait_for(lambda vpn=vpn: len(trusted(vpn)) == 1, 10, what="the guest to be out")  # type: ignore[misc, arg-type]
    assert is_cut(guest, "10.1.0.1")
    assert is_cut(guest, "10.1.0.2")
    assert traffic.ping(lab.node(1), "10.1.0.2", 2, 0.2, "edgevpn0").received == 2
    # What it had open ends with its connections; it may come back to prove itself anew.
    wait_for(lambda: counter(one, "host", "untrusted_peers_disconnected") == 1, 10, what="the connection's end")


def test_relaxed_all_are_in_until_the_first_key_is_told(make_lab: MakeLab, start: MakeNode) -> None:
    lab, token = make_lab(3), new_token()
    key, public = peerguard.generate_key_pair()
    one = start(lab, 1, token, *GUARD, "--peergate-relaxed", key=key)
    two = start(lab, 2, token, *GUARD, "--peergate-relaxed", key=key)
    plain = start(lab, 3, token)
    for k in (1, 2):
        traffic.first_answer(lab.node(3), f"10.1.0.{k}", "edgevpn0", 20)
    assert gate(one)["gate"] == "open"
    gate(one, "accept", "all", public)
    wait_for(lambda: gate(two)["gate"] == "closed", 10, what="the gate to close")
    wait_for(lambda: is_cut(plain, "10.1.0.1") and is_cut(plain, "10.1.0.2"), 10, what="the plain node to be out")
    assert traffic.ping(lab.node(1), "10.1.0.2", 2, 0.2, "edgevpn0").received == 2


def test_go_s_word_on_the_public_topic_lets_its_author_in_unless_only_fresh_proofs_count(
    make_lab: MakeLab, start: MakeNode
) -> None:
    lab, token = make_lab(3), new_token()
    key, _ = peerguard.generate_key_pair()
    one = start(lab, 1, token, *GUARD, key=key)
    strict = start(lab, 2, token, *GUARD, "--peergate-fresh", key=key)
    go = start(lab, 3, token)  # as a Go node it can't be challenged
    for vpn in (one, strict):
        vpn.wait_for_state("up")
    wait_for(lambda: len(trusted(one)) == 1, 20, what="the two to trust each other")  # type: ignore[arg-type]
    me = go.wait_for_state("up")["peer_id"]
    wait_for(lambda: len(go.json("peers")) == 2, 15, what="two connections")
    seal = f"""
from edgevpn.proto.messages import Seal, Sealed
async with actor.client("sealer").watch("windows") as updates:
    topic = (await anext(updates)).items["current"].public_topic

word = Seal(b"challenge", annotations={{"sigs": {peerguard.sign(key)!r}}})
sealed = await actor.client("sealer").call(word, Sealed)
print(topic, sealed.data.hex())
"""
    topic, data = go.ask("repl", "ledger", "-c", seal).stdout.split()
    say = f"""
await gossip.join({topic!r})
await trio.sleep(1.5)
await gossip.publish({topic!r}, bytes.fromhex({data!r}))
"""
    go.ask("repl", "gossip", "-c", say)
    wait_for(lambda: trusted(one).get(me) in ("message", "zone"), 10, what="the word to be heard")  # type: ignore[attr-defined]
    traffic.first_answer(lab.node(3), "10.1.0.1", "edgevpn0", 15)
    assert set(one.json("ledger", "trustzone")) >= {me}
    assert me not in trusted(strict)  # type: ignore[operator]
    assert is_cut(go, "10.1.0.2")
    # Words are no blocks: whoever says them is not taken for a peer that spoils blocks.
    assert counter(go, "gossip", "messages_of_other_topics") > 0
    assert counter(go, "ledger", "blocks_refused") == 0


def test_one_of_the_nodes_that_clean_up_takes_out_of_the_zone_who_left(make_lab: MakeLab, start: MakeNode) -> None:
    lab, token = make_lab(2), new_token()
    key, _ = peerguard.generate_key_pair()
    guard = ("--peerguard", "--peergate", "--peergate-interval=1", "--peergate-autoclean")
    one, two = (start(lab, k, token, *guard, key=key) for k in (1, 2))
    peers = {vpn.wait_for_state("up")["peer_id"] for vpn in (one, two)}
    wait_for(lambda: len(trusted(one)) == 1, 20, what="the two to trust each other")  # type: ignore[arg-type]
    left = PrivateKey.generate().peer_id
    for peer in (left, *peers):
        announce = f"""
from edgevpn.proto.messages import Announce, Done
from edgevpn.proto.values import TRUSTZONE_VALUE
await actor.client("ledger").call(Announce("trustzone", {peer!r}, TRUSTZONE_VALUE), Done)
"""
        one.ask("repl", "trust", "-c", announce)
    wait_for(lambda: set(two.json("ledger", "trustzone")) == {left, *peers}, 10, what="the zone to be known")
    for vpn in (one, two):
        wait_for(lambda vpn=vpn: set(vpn.json("ledger", "trustzone")) == peers, 15, what="the clean-up")  # type: ignore[misc]


def test_peers_and_networks_on_the_blacklist_are_not_connected_with_in_either_direction(
    make_lab: MakeLab, start: MakeNode, tmp_path: Path
) -> None:
    lab, token = make_lab(4), new_token()
    bad = load_or_create(tmp_path).peer_id
    keep = ("--privkey-cache", f"--privkey-cache-dir={tmp_path}")
    one = start(lab, 1, token, f"--blacklist={bad},{lab.node(4).address},{lab.node(4).address6}")
    good, listed, elsewhere = start(lab, 2, token), start(lab, 3, token, *keep), start(lab, 4, token)
    traffic.first_answer(lab.node(2), "10.1.0.1", "edgevpn0", 20)
    for vpn in (listed, elsewhere):
        traffic.first_answer(vpn.node, "10.1.0.2", "edgevpn0", 20)
    me, them = (vpn.wait_for_state("up")["peer_id"] for vpn in (one, good))
    time.sleep(3)  # both sides have tried: they found each other by mDNS
    assert [peer["peer_id"] for peer in one.json("peers")] == [them]
    for vpn in (listed, elsewhere):
        # Who dials knows of the refusal only when the connection is closed again.
        wait_for(lambda vpn=vpn: me not in connected(vpn), 5, what="the refused connection's end")  # type: ignore[misc]


def test_with_a_whitelist_nobody_else_is_connected_with(make_lab: MakeLab, start: MakeNode, tmp_path: Path) -> None:
    lab, token = make_lab(3), new_token()
    good = load_or_create(tmp_path).peer_id
    one = start(lab, 1, token, f"--whitelist={good}")
    start(lab, 2, token, "--privkey-cache", f"--privkey-cache-dir={tmp_path}")
    other = start(lab, 3, token)
    traffic.first_answer(lab.node(2), "10.1.0.1", "edgevpn0", 20)
    traffic.first_answer(lab.node(3), "10.1.0.2", "edgevpn0", 20)
    other.wait_for_state("up")
    time.sleep(3)
    assert [peer["peer_id"] for peer in one.json("peers")] == [good]
    wait_for(lambda: connected(other) == [good], 5, what="the refused connection's end")
    assert is_cut(other, "10.1.0.1")
