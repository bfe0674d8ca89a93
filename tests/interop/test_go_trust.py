"""Who may write what, and who is let in, between Go nodes and ours: --ownership, --peerguard, --peergate."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable

import pytest

from edgevpn.proto import peerguard
from scripts.labkit import traffic
from scripts.labkit.go_nodes import GO
from scripts.labkit.nodes import Vpn
from scripts.labkit.traffic import first_answer, wait_for
from tests.interop.table import AnyNode, Table, address, every_pair_pings, ledger, same_ledger

MakeTable = Callable[..., Table]

pytestmark = pytest.mark.timeout(95)


def owners(vpn: Vpn, bucket: str) -> dict[str, str]:
    return {key: row["owner"] for key, row in vpn.json("ledger", bucket).items()}


def connected(vpn: Vpn) -> bool:
    return bool(json.loads(vpn.ask("peers", "--json", check=False).stdout or "[]"))


def written(node: AnyNode, bucket: str) -> set[str]:
    return set(ledger(node).get(bucket, {}))


@pytest.mark.parametrize("mode", ["enforce", "observe", "off"])
def test_each_takes_the_others_entries_and_deletions_in_all_modes(make_table: MakeTable, mode: str) -> None:
    """Signed ones under enforce and observe, bare ones under off."""
    table = make_table(4)
    flags = ("--dht=false", f"--ownership={mode}", "--aliveness-healthcheck-interval=10")
    one, two, three, four = (make(k, *flags) for k, make in enumerate((table.go, table.go, table.ours, table.ours), 1))
    table.wait_until_one(20)
    one.send("POST", "dns", json.dumps({"Regex": "go.lan.", "Records": {"A": "10.1.0.1"}}))  # an owned bucket
    two.send("PUT", "ledger/free/go/x")  # anybody's
    three.ask("dns-add", "ours.lan.", "A", "10.1.0.3")
    began = time.monotonic()
    for node in table.nodes:
        wait_for(lambda node=node: written(node, "dns") == {"go.lan.", "ours.lan."}, 15, what="both names")  # type: ignore[misc]
        wait_for(lambda node=node: written(node, "free") == {"go"}, 15, what="the other entry")  # type: ignore[misc]
    print(f"{mode}: entries are everywhere after {time.monotonic() - began:.1f} s")
    status = four.json("status")
    signed = {"10.1.0.1": one.peer_id, "10.1.0.2": two.peer_id, "10.1.0.4": status["peer_id"]}
    found = owners(four, "machines")
    assert {key: found[key] for key in signed} == (dict.fromkeys(signed, "") if mode == "off" else signed)
    three.ask("dns-remove", "ours.lan.")
    began = time.monotonic()
    for node in table.nodes:
        wait_for(lambda node=node: written(node, "dns") == {"go.lan."}, 15, what="the end of one name")  # type: ignore[misc]
    print(f"{mode}: a deletion is everywhere after {time.monotonic() - began:.1f} s")
    time.sleep(10)  # a round of heartbeats
    wait_for(lambda: same_ledger(table.nodes), 20, 0.1, "one ledger")
    assert written(four, "dns") == {"go.lan."}


@pytest.mark.parametrize(("go_mode", "our_mode"), [("off", "observe"), ("observe", "off")])
def test_who_observes_takes_bare_entries_from_who_does_not_sign(
    make_table: MakeTable, go_mode: str, our_mode: str
) -> None:
    table = make_table(2)
    go = table.go(1, "--dht=false", f"--ownership={go_mode}")
    ours = table.ours(2, "--dht=false", f"--ownership={our_mode}")
    for node in (go, ours):
        wait_for(lambda node=node: written(node, "machines") == {"10.1.0.1", "10.1.0.2"}, 30, what="both machines")  # type: ignore[misc]
    bare, signed = ("10.1.0.1", "10.1.0.2") if go_mode == "off" else ("10.1.0.2", "10.1.0.1")
    assert owners(ours, "machines")[bare] == ""
    assert owners(ours, "machines")[signed] != ""
    every_pair_pings(table.nodes, 20)


@pytest.mark.parametrize(("go_mode", "our_mode"), [("off", "enforce"), ("enforce", "off")])
def test_who_enforces_takes_bare_entries_for_what_nobody_owns_only(
    make_table: MakeTable, go_mode: str, our_mode: str
) -> None:
    table = make_table(2)
    flags = ("--dht=false", "--ledger-announce-interval=1", "--aliveness-healthcheck-interval=5")
    go = table.go(1, *flags, f"--ownership={go_mode}")
    ours = table.ours(2, *flags, f"--ownership={our_mode}", "--api", "--api-auth=off")
    strict, loose = (ours, go) if our_mode == "enforce" else (go, ours)
    wait_for(lambda: connected(ours), 20, what="a connection")
    go.wait_until_it_answers()
    loose.node.run(["curl", "-sf", "-X", "PUT", "http://127.0.0.1:8080/api/ledger/free/bare/x"])
    wait_for(lambda: written(strict, "free") == {"bare"}, 30, what="the entry that nobody owns")
    why = "value owner does not match signer" if strict is ours else "ownership violation (rejected)"
    wait_for(lambda: why in strict.log.read_text(), 15, what="the refusal of the others")
    assert written(strict, "machines") == {address(strict)}


GUARD = ("--dht=false", "--peerguard", "--peergate-interval=4")


def with_key(private: str) -> dict[str, str]:
    return {"PEERGATE_AUTH": json.dumps({"ecdsa": {"private_key": private}})}


def go_key_pair() -> tuple[str, str]:
    """A pair made by the Go program."""
    done = subprocess.run([GO, "peergater", "ecdsa-genkey"], capture_output=True, text=True, check=True, timeout=20)
    private, public = (line.partition(": ")[2] for line in done.stdout.splitlines())
    return private, public


def trusted(vpn: Vpn) -> dict[str, str]:
    found: dict[str, str] = json.loads(vpn.ask("peergater", "status", "--json").stdout)["trusted"]
    return found


def is_cut(here: AnyNode, there: AnyNode) -> bool:
    return traffic.ping(here.node, address(there), 2, 0.2, wait=1).received == 0


@pytest.mark.parametrize("maker", ["Go's key", "our key"])
def test_behind_their_gates_a_go_node_and_ours_let_each_other_in_and_nobody_without_the_key(
    make_table: MakeTable, maker: str
) -> None:
    table = make_table(4)
    private, public = go_key_pair() if maker == "Go's key" else peerguard.generate_key_pair()
    ours = table.ours(1, *GUARD, "--peergate", env=with_key(private))
    go = table.go(2, *GUARD, "--peergate", env=with_key(private))
    stranger, plain = table.go(3), table.ours(4)
    go.wait_until_it_answers()
    began = time.monotonic()
    go.send("PUT", f"ledger/trustzoneAuth/ecdsa_1/{public}")
    first_answer(ours.node, address(go), "edgevpn0", 30)
    first_answer(go.node, address(ours), "edgevpn0", 30)
    print(f"let in, both ways, {time.monotonic() - began:.1f} s after Go was told the public key")
    assert trusted(ours)[go.peer_id] == "message"
    wait_for(lambda: ours.json("status")["peer_id"] in go.ledger().get("trustzone", {}), 10, what="the zone's entry")
    time.sleep(10)  # whoever is to be let in by mistake has been by now
    assert set(trusted(ours)) == {go.peer_id, ours.json("status")["peer_id"]}
    for gated in (ours, go):
        assert written(gated, "machines") == {"10.1.0.1", "10.1.0.2"}
        for outside in (stranger, plain):
            assert is_cut(gated, outside)
            assert is_cut(outside, gated)


@pytest.mark.parametrize("gate", ["go", "ours"])
def test_a_node_with_another_key_stays_out(make_table: MakeTable, gate: str) -> None:
    table = make_table(2)
    (private, public), (other, _) = peerguard.generate_key_pair(), go_key_pair()
    inside, outside = with_key(private), with_key(other)
    go = table.go(1, *GUARD, *(("--peergate",) if gate == "go" else ()), env=inside if gate == "go" else outside)
    ours = table.ours(
        2, *GUARD, *(("--peergate",) if gate == "ours" else ()), env=inside if gate == "ours" else outside
    )
    go.wait_until_it_answers()
    if gate == "go":
        go.send("PUT", f"ledger/trustzoneAuth/ecdsa_1/{public}")
    wait_for(lambda: connected(ours), 20, what="a connection")
    time.sleep(12)  # three rounds of words
    gated, stranger = (go, ours) if gate == "go" else (ours, go)
    assert written(gated, "machines") == {address(gated)}
    assert set(ledger(gated).get("trustzone", {})) <= {go.peer_id if gate == "go" else ours.json("status")["peer_id"]}
    if gate == "ours":
        assert trusted(ours) == {}
    assert is_cut(gated, stranger)
    assert is_cut(stranger, gated)
