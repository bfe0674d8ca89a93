"""`edgevpn repl` in a real terminal, against a running node."""

from __future__ import annotations

import contextlib
import os
import signal
import statistics
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from scripts.labkit.namespaces import Lab
from scripts.labkit.nodes import EDGEVPN, Vpn, environment, new_token
from scripts.labkit.terminal import Terminal
from scripts.labkit.traffic import wait_for

pytestmark = pytest.mark.timeout(120)
ATTACH_LIMIT = 0.3  # seconds


@pytest.fixture(scope="module")
def vpn() -> Iterator[Vpn]:
    """One node for all tests here. Only discovery may die in them."""
    with Lab(1) as lab:
        vpn = Vpn(lab.node(1), new_token(), "10.1.0.1/24", "--dht=false")
        try:
            vpn.wait_for_state("joining")
            yield vpn
            assert not [one for one in vpn.json("actors") if one["restarts"] and one["name"] != "discovery"]
        finally:
            print(f"--- {vpn.tail(40)}")
            vpn.close()


@pytest.fixture
def terminal(tmp_path: Path) -> Iterator[Terminal]:
    with Terminal(tmp_path) as terminal:
        terminal.wait_for("$ ".rstrip())
        yield terminal


def attach(terminal: Terminal, vpn: Vpn, actor: str = "ledger") -> float:
    """Open a prompt; seconds from Enter to the prompt."""
    terminal.write(f"clear; {EDGEVPN} repl --run-dir={vpn.run_dir} {actor}")
    terminal.wait_for(f"repl --run-dir={vpn.run_dir} {actor}")
    began = time.monotonic()
    terminal.press("Enter")
    terminal.wait_for(lambda screen: screen.endswith(f"\n{actor}>"))
    return time.monotonic() - began


def leave(terminal: Terminal) -> None:
    terminal.press("C-d")
    terminal.wait_for(lambda screen: screen.endswith("\n$"))


def traces(vpn: Vpn, actor: str = "ledger") -> tuple[str, str, str]:
    """What prompts leave in an actor, asked through a prompt of its own: tasks, taps, names."""
    tasks = vpn.ask("repl", actor, "-c", "print(str(tasks()).count('what runs at the prompt'))").stdout
    taps = vpn.ask("repl", actor, "-c", "len(actor.mailbox.taps.watchers)").stdout
    names = vpn.ask("repl", actor, "-c", "sorted(actor.namespace)").stdout
    return tasks, taps, names


def test_a_prompt_is_there_within_300_ms_and_can_be_used(terminal: Terminal, vpn: Vpn) -> None:
    took = []
    for turn in range(7):
        took.append(attach(terminal, vpn))
        terminal.type(f"{turn} + 1000")
        terminal.wait_for(f"\n{turn + 1000}\n")
        leave(terminal)
    print("attach:", [round(one, 3) for one in took])
    assert statistics.median(took) <= ATTACH_LIMIT


def test_tab_completes_names_and_attributes_of_the_actor(terminal: Terminal, vpn: Vpn) -> None:
    attach(terminal, vpn)
    terminal.write("sta")
    terminal.press("Tab")
    terminal.wait_for("state         staticmethod  stats")
    terminal.wait_for(lambda screen: screen.endswith("ledger> stat"))
    terminal.write("e.entr")
    terminal.press("Tab")
    terminal.wait_for(lambda screen: screen.endswith("ledger> state.entries"))
    terminal.write("('machines').keys()")
    terminal.press("Enter")
    terminal.wait_for("dict_keys(['10.1.0.1'])")
    terminal.write("fresh = 1")
    terminal.press("Enter")
    terminal.write("fre")
    terminal.press("Tab")
    terminal.wait_for(lambda screen: screen.endswith("ledger> fresh"))
    terminal.press("C-c")


def test_up_brings_back_lines_also_of_another_day_but_no_secrets(terminal: Terminal, vpn: Vpn, tmp_path: Path) -> None:
    attach(terminal, vpn, "sealer")
    terminal.type("'an ordinary', 'line'")
    terminal.wait_for("('an ordinary', 'line')")
    key = vpn.ask("repl", "sealer", "-c", "reveal(network.room)").stdout.strip().strip("'")
    assert len(key) > 20
    terminal.type(f"room = '{key}'")
    terminal.type(f"len('{key[:12]}')")  # too short to look like one: but not the actor's secret either
    terminal.wait_for("\n12\n")
    terminal.type(" 'after a space'")
    terminal.wait_for("'after a space'\n")
    leave(terminal)
    file = tmp_path / "state" / "edgevpn" / "repl_history"
    assert file.stat().st_mode & 0o777 == 0o600
    assert file.read_text().splitlines() == ["'an ordinary', 'line'", f"len('{key[:12]}')"]
    attach(terminal, vpn, "sealer")
    terminal.press("Up", "Up")
    terminal.wait_for(lambda screen: screen.endswith("sealer> 'an ordinary', 'line'"))
    terminal.press("Enter")
    terminal.wait_for("('an ordinary', 'line')")
    leave(terminal)


def test_await_works_at_the_top_level_and_in_blocks(terminal: Terminal, vpn: Vpn) -> None:
    attach(terminal, vpn)
    terminal.type("await trio.sleep(0.01)")
    terminal.type("for n in range(2):")
    terminal.wait_for("\n...")
    terminal.type("    await trio.sleep(0); print('line', n)")
    terminal.type("")
    terminal.wait_for("\nline 0\nline 1\nledger>")


def test_tap_shows_a_message_as_it_passes(terminal: Terminal, vpn: Vpn) -> None:
    attach(terminal, vpn)
    terminal.type("await tap()")
    wait_for(lambda: traces(vpn)[1] == "1\n", 5, what="a tap")
    vpn.ask("ledger", "machines")
    screen = terminal.wait_for("LedgerReply")
    [asked] = [line.split() for line in screen.splitlines() if "LedgerRequest" in line]
    assert asked[1:5] == ["from", "command", "Request", "LedgerRequest"]
    assert asked[7:] == ["bucket='machines'"]
    terminal.press("C-c")
    terminal.wait_for("interrupted\nledger>")
    assert traces(vpn)[1] == "0\n"


def test_ctrl_c_ends_what_runs_or_drops_the_line_and_the_names_stay(terminal: Terminal, vpn: Vpn) -> None:
    attach(terminal, vpn)
    terminal.type("kept = 17")
    terminal.type("while True: await trio.sleep(1)")
    terminal.press("Enter")
    wait_for(lambda: traces(vpn)[0] == "2\n", 5, what="the loop")
    terminal.press("C-c")
    terminal.wait_for("interrupted\nledger>")
    terminal.write("never to be run")
    terminal.press("C-c")
    terminal.type("kept")
    terminal.wait_for("\n17\n")
    terminal.write("for n in range(3):")
    terminal.press("Enter")
    terminal.wait_for("\n...")
    terminal.press("C-c")
    terminal.type("kept + 1")
    terminal.wait_for("\n18\n")


@pytest.mark.parametrize("code", ["await tap()", "while True: await trio.sleep(1)\n"])
@pytest.mark.parametrize("way", ["leave", "hang up", "kill"])
def test_leaving_in_the_middle_leaves_the_actor_as_it_was(terminal: Terminal, vpn: Vpn, code: str, way: str) -> None:
    before = traces(vpn)
    attach(terminal, vpn)
    terminal.type("x = state; state = 5")
    terminal.type(code)
    wait_for(lambda: traces(vpn)[0] == "2\n", 5, what="the running code")
    if way == "leave":
        terminal.press("C-c")
        terminal.press("C-d")
    elif way == "hang up":
        terminal.close()
    else:
        [pid] = terminal.processes()
        os.kill(pid, signal.SIGKILL)
    wait_for(lambda: traces(vpn) == before, 2, what="the actor as it was")
    assert vpn.ask("repl", "ledger", "-c", "state.index > 0").stdout == "True\n"


def test_it_works_while_the_actor_is_busy(terminal: Terminal, vpn: Vpn) -> None:
    attach(terminal, vpn)
    terminal.type("await trio.sleep(60)")
    wait_for(lambda: traces(vpn)[0] == "2\n", 5, what="the long work")
    assert vpn.ask("repl", "ledger", "-c", "1 + 1").stdout == "2\n"
    screen = vpn.ask("repl", "ledger", "-c", "tasks()").stdout
    assert "LedgerActor.speak" in screen
    assert screen.count("what runs at the prompt") == 2


def test_tasks_and_stats_tell_what_the_actor_does(terminal: Terminal, vpn: Vpn) -> None:
    attach(terminal, vpn)
    terminal.type("tasks()")
    screen = terminal.wait_for("(this prompt)")
    [line] = [line for line in screen.splitlines() if "LedgerActor.watch_clock" in line]
    assert "actors/ledger.py:" in line
    terminal.type("stats()['entries']")
    terminal.wait_for("\n2\n")


def test_secrets_are_hidden_until_they_are_asked_for(terminal: Terminal, vpn: Vpn) -> None:
    attach(terminal, vpn, "sealer")
    for code in ("network", "network.otp_crypto.key", "actor._ticket", "sealer._windows.current.seal_key"):
        before = terminal.screen().count("<secret>")
        terminal.type(code)
        terminal.wait_for(lambda screen, before=before: screen.count("<secret>") > before and screen[-1] == ">")
    leave(terminal)
    shown = terminal.screen()
    assert shown.count("<secret>") == 8
    asked = vpn.ask("repl", "sealer", "-c", "reveal([network, sealer._windows.current, actor._ticket])").stdout
    assert "<secret>" not in asked
    secrets = [part for part in asked.split("'") if len(part) > 20]
    assert len(secrets) >= 6
    public = vpn.ask("repl", "sealer", "-c", "w = sealer._windows.current; [w.topic, w.public_topic, w.rendezvous]")
    assert not [one for one in secrets if one in shown and one not in public.stdout]


def test_an_actor_that_dies_under_a_prompt_is_told_with_its_reason(terminal: Terminal, vpn: Vpn) -> None:
    attach(terminal, vpn, "discovery")
    terminal.type("import os; os.kill(os.getpid(), 9)")
    terminal.wait_for("edgevpn: the discovery actor went away: ")
    terminal.wait_for("SIGKILL")
    terminal.type("echo code $?")
    terminal.wait_for("code 3")
    wait_for(lambda: vpn.ask("repl", "discovery", "-c", "1", check=False).returncode == 0, 5, what="a new discovery")


def test_an_actor_in_back_off_has_no_prompt_and_it_is_said_why(vpn: Vpn) -> None:
    """Killed again and again it comes to be in back-off; then the command says so in one line."""
    deadline = time.monotonic() + 30
    refused = None
    while refused is None and time.monotonic() < deadline:
        pid = vpn.pid_of("discovery")
        if pid:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        done = vpn.ask("repl", "discovery", "-c", "1", check=False)
        if "back-off" in done.stderr:
            refused = done
    assert refused is not None
    assert refused.returncode == 3
    assert refused.stderr.startswith("edgevpn: no prompt: the discovery actor is in back-off")
    assert "SIGKILL" in refused.stderr
    assert refused.stderr.count("\n") == 1


def test_a_name_that_no_actor_has_is_answered_with_those_there_are(vpn: Vpn) -> None:
    done = vpn.ask("repl", "legder", "-c", "1", check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("edgevpn: there is no actor 'legder': there are sealer, host,")
    done = vpn.ask("repl", "supervisor", check=False)
    assert done.returncode == 2
    assert "the supervisor has no prompt" in done.stderr
    done = subprocess.run(
        [EDGEVPN, "repl", "--run-dir=/tmp/no-such-node", "ledger"], capture_output=True, text=True, env=environment()
    )
    assert done.returncode == 3
    assert "no node answers" in done.stderr
