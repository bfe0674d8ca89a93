"""What a ledger on disk is worth: processes that write it are killed, and what they had answered for is looked for.

`kill_writers` kills a process that runs the node's own store (edgevpn/actors/ledger_store.py) at random moments;
`kill_nodes` kills whole nodes. After each kill the file must be whole, and must hold every entry that was answered for.
"""

from __future__ import annotations

import os
import random
import signal
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn

import trio

from edgevpn.actors.kept_directory import KeptFiles, open_kept
from edgevpn.actors.ledger_store import FILE, LedgerStore
from edgevpn.cli.direct import ask
from edgevpn.errors import EdgevpnError, UntrustedDataError
from edgevpn.ledger.snapshot import MAX_SIZE, read_snapshot_untrusted
from edgevpn.ledger.state import LedgerState
from edgevpn.proto.messages import Announce, Done, LedgerReply, LedgerRequest
from edgevpn.proto.peer_key import PrivateKey
from scripts.labkit.namespaces import Lab, is_running
from scripts.labkit.nodes import Vpn, new_token
from scripts.labkit.traffic import wait_for

TAG = b"a lab's network."
BUCKET = "custom"


class _Store(LedgerStore):
    """The store with a directory at hand instead of a supervisor and a sealer."""

    def __init__(self, directory: Path, block: Callable[[], Any]) -> None:
        silent = SimpleNamespace(error=print, warning=print, info=print)
        config = SimpleNamespace(ledger_state=os.fspath(directory))
        shell = SimpleNamespace(config=config, state_dir=directory, log=silent, count=lambda _: None)
        super().__init__(shell, block)  # type: ignore[arg-type]

    async def _network_tag(self) -> bytes:
        return TAG

    async def _open_disk(self) -> None:
        where = Path(self._where)
        self._disk = KeptFiles(open_kept(where, "edgevpn-ledger", "--ledger-state", patience=5))


def _write_until_killed(directory: Path, key: PrivateKey, answered: int) -> NoReturn:
    """Write entries k0, k1, ...; a byte into `answered` for each that the store says is kept."""

    async def write() -> None:
        state = LedgerState(key, time.time())
        store = _Store(directory, lambda: state.block)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(store.run)
            kept = await store.load(time.time(), state.ttl, key.peer_id)
            if kept is not None:
                state.restore(kept)
            while True:
                state.announce(BUCKET, f"k{len(state.entries(BUCKET))}", '"value"', time.time())
                store.note_change()
                await store.settled()
                os.write(answered, b".")

    try:
        trio.run(write)
    finally:
        os._exit(1)


def kill_writers(kills: int, seed: int, say: Callable[[str], None]) -> dict[str, Any]:
    """`torn`: files that could not be read; `lost`: entries that had been answered for and were not there."""
    chance = random.Random(seed)
    key = PrivateKey.generate()
    torn = lost = sum_answered = 0
    with tempfile.TemporaryDirectory(prefix="evd-") as name:
        directory = Path(name)
        held = 0
        for number in range(1, kills + 1):
            reading, writing = os.pipe()
            pid = os.fork()
            if not pid:
                os.close(reading)
                _write_until_killed(directory, key, writing)
            os.close(writing)
            answered = len(os.read(reading, 1))  # it writes now
            time.sleep(chance.uniform(0, 0.06))
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            while more := os.read(reading, 65536):
                answered += len(more)
            os.close(reading)
            sum_answered += answered
            data = (directory / "edgevpn-ledger" / FILE).read_bytes()
            try:
                block = read_snapshot_untrusted(data[: MAX_SIZE + 1], TAG)
            except UntrustedDataError:
                torn += 1
                continue
            found = len(block.storage.get(BUCKET, {}))
            lost += max(0, held + answered - found)
            held = found
            if number % 50 == 0:
                say(f"kill -9 {number}: {torn} torn, {lost} lost of {sum_answered} answered for, {found} entries")
    return {"kills": kills, "seed": seed, "torn": torn, "lost": lost, "answered": sum_answered}


def _start(lab: Lab, token: str, directory: Path) -> Vpn:
    flags = ("--dht=false", f"--ledger-state={directory}/state", "--privkey-cache", f"--privkey-cache-dir={directory}")
    return Vpn(lab.node(1), token, None, *flags)


def kill_nodes(kills: int, seed: int, say: Callable[[str], None]) -> dict[str, Any]:
    """The same with `edgevpn start --ledger-state`, killed right after it answered."""
    chance = random.Random(seed)
    lost = answered = 0
    expected: set[str] = set()
    with Lab(1) as lab, tempfile.TemporaryDirectory(prefix="evd-") as name:
        token = new_token()
        for number in range(1, kills + 2):
            vpn = _start(lab, token, Path(name))
            found: set[str] = set()

            def look(vpn: Vpn = vpn, found: set[str] = found) -> bool:
                with suppress(EdgevpnError):
                    reply = ask(vpn.run_dir, "ledger", LedgerRequest(BUCKET), LedgerReply)
                    found |= {entry.key for entry in reply.entries}
                    return True
                return False

            wait_for(look, 20, what="the ledger to answer")
            lost += len(expected - found)
            if number > kills:
                vpn.close()
                break
            for _ in range(chance.randint(1, 5)):
                key = f"k{answered}"
                ask(vpn.run_dir, "ledger", Announce(BUCKET, key, '"value"'), Done)
                expected.add(key)
                answered += 1
            pids = [one["pid"] for one in vpn.json("actors") if one["pid"]] if number % 5 == 1 else []
            vpn.process.kill()
            vpn.process.wait()
            wait_for(lambda pids=pids: not any(map(is_running, pids)), 5, what="the actors' end")
            vpn.close()
            if number % 10 == 0:
                say(f"node kill -9 {number}: {lost} lost of {answered} answered for")
    return {"kills": kills, "seed": seed, "lost": lost, "answered": answered}


def measure_disk(tries: int, say: Callable[[str], None]) -> dict[str, Any]:
    """Kill ten times `tries` writers, and `tries` nodes."""
    seed = random.SystemRandom().randrange(2**32)
    say(f"disk: seed {seed}")
    return {"writers": kill_writers(10 * tries, seed, say), "nodes": kill_nodes(tries, seed, say)}
