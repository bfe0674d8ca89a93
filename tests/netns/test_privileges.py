"""What an actor that was taken over can do: nothing to the machine, and little to the other actors.

The attacks run with an actor's own user and group, where its own process would make them.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from edgevpn.proto import messages
from edgevpn.proto.messages import Failure, Hello, Open, OpenPipe, OpenRepl, Request, RestartActor, Seal, Stop
from scripts.labkit.namespaces import Lab
from scripts.labkit.nodes import Vpn, new_token

ACTORS = ("sealer", "host", "discovery", "gossip", "ledger", "tun")

pytestmark = pytest.mark.timeout(120)


@pytest.fixture(scope="module")
def node() -> Iterator[Vpn]:
    """A node that is up, with its token at `token`."""
    with Lab(1) as lab:
        token = new_token()
        vpn = Vpn(lab.node(1), token, "10.1.0.1/24", "--dht=false")
        vpn.token = token  # type: ignore[attr-defined]
        try:
            vpn.wait_for_state("joining")
            yield vpn
        finally:
            vpn.close()


def status(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def as_actor(node: Vpn, actor: str, program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run Python with the user and group of `actor`, in the run directory, as its process would."""
    facts = status(node.pid_of(actor))
    uid, gid = int(facts["Uid"].split()[0]), int(facts["Gid"].split()[0])
    become = f"import ctypes, os, socket, sys; os.chdir({os.fspath(node.run_dir)!r}); os.setgroups([])\n"
    become += f"os.setresgid({gid}, {gid}, {gid}); os.setresuid({uid}, {uid}, {uid})\n"
    return subprocess.run(
        [sys.executable, "-c", become + program, *arguments], capture_output=True, text=True, timeout=30, check=False
    )


def say(node: Vpn, actor: str, target: str, frame: Any) -> Any:
    """What `target` answers to `frame` when a process with the user of `actor` sends it; None for nothing."""
    program = """
frames = bytes.fromhex(sys.argv[2])
with socket.socket(socket.AF_UNIX) as sock:
    sock.settimeout(5)
    sock.connect(f"./{sys.argv[1]}.sock")
    sock.sendall(frames)
    answer = b""
    try:
        while chunk := sock.recv(65536):
            answer += chunk
    except TimeoutError:
        pass
print(answer.hex())
"""
    frames = messages.encode(Hello(messages.VERSION, actor)) + messages.encode(frame)
    done = as_actor(node, actor, program, target, frames.hex())
    assert done.returncode == 0, done.stderr
    answer, found = bytes.fromhex(done.stdout.strip()), []
    while answer:
        end = messages.LENGTH.size + messages.length_untrusted(answer[: messages.LENGTH.size])
        found.append(messages.decode_untrusted(answer[messages.LENGTH.size : end]))
        answer = answer[end:]
    return found[1] if len(found) > 1 else None


def test_only_the_supervisor_and_the_template_are_root(node: Vpn) -> None:
    users = set()
    for row in node.json("actors"):
        facts = status(row["pid"])
        if row["name"] == "supervisor":
            continue
        if row["name"] == "template":  # it may make its children other users, or of real time, and nothing else
            ours = int(status(os.getpid())["CapPrm"], 16)  # who may not set priorities cannot pass that on
            wanted = (1 << 6 | 1 << 7 | 1 << 23) & ours
            assert {int(facts[kind], 16) for kind in ("CapEff", "CapPrm")} == {wanted}
            continue
        uids = set(facts["Uid"].split())
        assert len(uids) == 1
        assert uids != {"0"}
        users |= uids
        assert facts["Groups"] == ""
        for kind in ("CapInh", "CapPrm", "CapEff", "CapAmb"):
            assert int(facts[kind], 16) == 0, (row["name"], kind)
        assert facts["NoNewPrivs"] == "1"
        assert facts["Seccomp"] == "2"
    assert len(users) == len(ACTORS)


@pytest.mark.parametrize("attacker", [actor for actor in ACTORS if actor != "sealer"])
def test_the_sealers_memory_is_closed_to_every_other_actor(node: Vpn, attacker: str) -> None:
    program = """
pid = int(sys.argv[1])
for name in ("mem", "environ", "maps", "auxv", "stack", "fd/0", "fd", "cwd", "root", "map_files"):
    path = f"/proc/{pid}/{name}"
    try:
        os.listdir(path) if os.path.isdir(path) else open(path, "rb").read(1)
    except OSError:
        continue
    print("opened", name)
libc = ctypes.CDLL(None, use_errno=True)
for request in (16, 0x4206):  # PTRACE_ATTACH, PTRACE_SEIZE
    if libc.ptrace(request, pid, None, None) == 0:
        print("traced", request)
buffer = ctypes.create_string_buffer(8)
vector = (ctypes.c_void_p * 2)(ctypes.addressof(buffer), 8)
if libc.process_vm_readv(pid, vector, 1, vector, 1, 0) >= 0:
    print("read by process_vm_readv")
try:
    os.kill(pid, 0)
    print("may send it signals")
except PermissionError:
    pass
"""
    done = as_actor(node, attacker, program, str(node.pid_of("sealer")))
    assert (done.stdout, done.returncode) == ("", 0), done.stderr


def test_an_actor_reads_none_of_the_nodes_files_and_can_not_take_anothers_place(node: Vpn) -> None:
    program = """
for root, directories, files in os.walk("."):
    for name in files:
        path = os.path.join(root, name)
        try:
            open(path, "rb").read(1)
            print("read", path)
        except OSError:
            pass
for path in ("sealer.sock", "supervisor.sock", "lock", "node.log", "state/ledger", "tractor"):
    for change in (os.unlink, os.rmdir, lambda path: os.rename(path, "x"), lambda path: os.chmod(path, 0o777)):
        try:
            change(path)
            print("changed", path)
        except OSError:
            pass
for path in ("evil.sock", "state/evil.sock", "state/ledger/evil.sock"):
    try:
        socket.socket(socket.AF_UNIX).bind(path)
        print("bound", path)
    except OSError:
        pass
"""
    done = as_actor(node, "tun", program)
    assert (done.stdout, done.returncode) == ("", 0), done.stderr


def test_an_actor_can_not_call_another_actors_process_through_tractor(node: Vpn) -> None:
    program = """
for name in sys.argv[1:]:
    try:
        socket.socket(socket.AF_UNIX).connect(f"./tractor/{name}")
        print("connected", name)
    except OSError:
        pass
"""
    others = [str(node.pid_of(actor)) for actor in ACTORS if actor != "tun"]
    done = as_actor(node, "tun", program, *others)
    assert (done.stdout, done.returncode) == ("", 0), done.stderr


def test_only_the_ledger_has_messages_sealed_and_opened(node: Vpn) -> None:
    for attacker in ACTORS:
        for body in (Seal(b"forged"), Open(b"overheard")):
            answer = say(node, attacker, "sealer", Request(body))
            if attacker == "ledger":
                assert not isinstance(answer, Failure) or answer.kind != "refused"
            elif attacker != "sealer":
                assert isinstance(answer, Failure)
                assert answer.kind == "refused"


def test_no_actor_opens_a_prompt_in_another_or_commands_the_supervisor(node: Vpn) -> None:
    for attacker in ("tun", "host"):
        for target, frame in (
            ("sealer", OpenPipe(OpenRepl())),
            ("ledger", OpenPipe(OpenRepl())),
            ("supervisor", Request(Stop())),
            ("supervisor", Request(RestartActor("sealer"))),
        ):
            answer = say(node, attacker, target, frame)
            assert isinstance(answer, Failure), (attacker, target, answer)
            assert answer.kind == "refused"
    assert node.status() is not None


def test_a_secret_is_not_granted_for_a_ticket_that_is_anothers(node: Vpn) -> None:
    answer = say(node, "tun", "supervisor", Request(messages.Grant("a guess", "token")))
    assert isinstance(answer, Failure)
    assert answer.kind == "refused"


def test_a_user_of_the_machine_can_not_speak_with_the_node(node: Vpn) -> None:
    node.home.chmod(0o755)  # the directory above is the test's own
    program = f"""
import os, socket
os.setgroups([]); os.setresgid(65534, 65534, 65534); os.setresuid(65534, 65534, 65534)
for name in {[*ACTORS, "supervisor"]!r}:
    try:
        socket.socket(socket.AF_UNIX).connect(f"{node.run_dir}/{{name}}.sock")
        print("connected", name)
    except PermissionError:
        pass
try:
    print(os.listdir("{node.run_dir}"))
except PermissionError:
    pass
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=30, check=False)
    assert (done.stdout, done.returncode) == ("", 0), done.stderr


def test_an_actor_starts_no_program_and_makes_no_namespace(node: Vpn) -> None:
    code = """
import os, socket, ctypes
found = []
for attempt in (
    lambda: os.execv("/bin/true", ["true"]),
    lambda: os.posix_spawn("/bin/true", ["true"], {}),
    lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW),
    lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM),
    lambda: os.open("planted", os.O_CREAT | os.O_WRONLY),
    lambda: os.setuid(0),
):
    try:
        attempt()
        found.append("allowed")
    except OSError as error:
        found.append(error.errno)
libc = ctypes.CDLL(None, use_errno=True)
found.append(libc.unshare(0x10000000))
found
"""
    for actor in ("sealer", "ledger", "gossip"):
        done = node.ask("repl", actor, "-c", code.strip())
        assert json.loads(done.stdout.strip().splitlines()[-1]) == [1, 1, 1, 1, 13, 1, -1], done.stdout
    assert node.ask("repl", "tun", "-c", "import socket; socket.socket(socket.AF_INET, socket.SOCK_DGRAM).close()")


def test_the_token_is_in_no_other_process(node: Vpn) -> None:
    """In memory, environment and arguments of every process but the sealer's; the supervisor holds it unread."""
    secret = node.token.encode()  # type: ignore[attr-defined]
    for row in node.json("actors"):
        if row["name"] == "sealer":
            continue
        for kind in ("environ", "cmdline"):
            assert secret not in Path(f"/proc/{row['pid']}/{kind}").read_bytes()


def test_a_late_import_works_for_a_user_who_may_not_see_where_python_lies(node: Vpn) -> None:
    done = node.ask("repl", "ledger", "-c", "import wave, email.mime.text; wave.__name__ + str(len(wave.__doc__) > 0)")
    assert "waveTrue" in done.stdout


def test_an_actor_that_starts_without_the_template_is_as_confined(node: Vpn) -> None:
    template = next(row["pid"] for row in node.json("actors") if row["name"] == "template")
    before = node.pid_of("gossip")
    os.kill(template, 19)  # SIGSTOP: it will not answer, and the actor is spawned the plain way
    try:
        os.kill(before, 9)
        import time

        deadline = time.monotonic() + 25
        while time.monotonic() < deadline:
            row = next(row for row in node.json("actors") if row["name"] == "gossip")
            if row["state"] == "ready" and row["pid"] not in (0, before):
                break
            time.sleep(0.2)
        facts = status(row["pid"])
        assert row["pid"] != before
        assert facts["Uid"].split()[0] != "0"
        assert (facts["Seccomp"], facts["NoNewPrivs"], int(facts["CapEff"], 16)) == ("2", "1", 0)
    finally:
        with suppress(ProcessLookupError):
            os.kill(template, 18)
