"""The ledger on disk: whole after every kill, set aside when it is not ours, and no reason to stop."""

from __future__ import annotations

import contextlib
import errno
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import trio

from edgevpn.actors import ledger_store
from edgevpn.actors.kept_directory import KEPT, KeptFiles, open_kept
from edgevpn.actors.ledger_store import FILE, LedgerStore
from edgevpn.actors.mailbox import RequestError
from edgevpn.actors.secret_store import SecretStore
from edgevpn.errors import SetupError
from edgevpn.ledger.snapshot import MAX_SIZE, read_snapshot_untrusted, write_snapshot
from edgevpn.proto.block import Block
from edgevpn.proto.entry import Entry
from edgevpn.proto.messages import Grant
from scripts.labkit.disk import kill_writers
from tests.unit.ledger_samples import ALICE, BOB, NOW, TTL, heartbeats, machine

TAG = b"this network tag"
BLOCK = Block(3, "t", {"custom": {"k": Entry("1", "o", 1, 1, sig=b"s")}})
FLAG = "--ledger-state"


class Log(list[tuple[str, str]]):
    """What was said: (level, text)."""

    def error(self, text: str) -> None:
        self.append(("error", text))

    def warning(self, text: str) -> None:
        self.append(("warning", text))

    def info(self, text: str) -> None:
        self.append(("info", text))


class Store(LedgerStore):
    """The store of an actor whose supervisor and sealer are at hand."""

    def __init__(self, parent: Path, run_dir: Path) -> None:
        self.log = Log()
        self.block = BLOCK
        self.parent = parent
        config = SimpleNamespace(ledger_state=str(parent))
        shell = SimpleNamespace(config=config, state_dir=run_dir, log=self.log, count=lambda _: None)
        super().__init__(shell, lambda: self.block)  # type: ignore[arg-type]

    async def _network_tag(self) -> bytes:
        return TAG

    async def _open_disk(self) -> None:
        try:
            self._disk = KeptFiles(open_kept(self.parent, "edgevpn-ledger", FLAG))
        except OSError as exc:
            self._note_failure(self._where, exc.strerror or "")

    async def kept(self) -> Block | None:
        return await self.load(NOW, TTL, ALICE.peer_id)


@pytest.fixture
def places(tmp_path: Path) -> tuple[Path, Path]:
    run_dir = tmp_path / "run"
    run_dir.mkdir()
    return tmp_path / "state", run_dir


def file_in(parent: Path) -> Path:
    return parent / "edgevpn-ledger" / FILE


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 64 KiB of its own."""
    path = tmp_path / "disk"
    path.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "none", str(path)]
    if os.geteuid() != 0 or subprocess.run(mount, check=False).returncode:
        pytest.skip("no right to mount a file system")
    try:
        yield path
    finally:
        subprocess.run(["umount", "-l", str(path)], check=True)


# --- the files


def test_what_replaces_a_file_is_on_the_disk_before_it_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    for name in ("fsync", "rename"):
        real = getattr(os, name)
        monkeypatch.setattr(os, name, lambda *a, _r=real, _n=name, **k: (calls.append(_n), _r(*a, **k))[1])
    descriptor = open_kept(tmp_path, "d", FLAG)
    KeptFiles(descriptor).replace("f", b"data", durable=True)
    assert calls == ["fsync", "rename", "fsync"]
    assert (tmp_path / "d" / "f").read_bytes() == b"data"
    assert (tmp_path / "d" / "f").stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "d").stat().st_mode & 0o777 == 0o700
    os.close(descriptor)


def test_two_nodes_can_t_keep_their_ledger_in_one_place(tmp_path: Path) -> None:
    descriptor = open_kept(tmp_path, "d", FLAG)
    with pytest.raises(SetupError, match=r"another node .* choose another --ledger-state"):
        open_kept(tmp_path, "d", FLAG)
    os.close(descriptor)
    os.close(open_kept(tmp_path, "d", FLAG))


def test_a_link_in_place_of_the_directory_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "d").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(SetupError, match="choose another"):
        open_kept(tmp_path, "d", FLAG, owner=(12345, 12345))
    assert (tmp_path / "elsewhere").stat().st_uid == os.geteuid()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives a directory away")
def test_a_user_without_rights_on_the_parents_writes_through_the_descriptor(tmp_path: Path) -> None:
    parent = tmp_path / "closed"
    descriptor = open_kept(parent, "d", FLAG, owner=(65534, 65534))
    assert parent.stat().st_uid == 0
    pid = os.fork()
    if not pid:
        try:
            os.setgroups([])
            os.setresgid(65534, 65534, 65534)
            os.setresuid(65534, 65534, 65534)
            KeptFiles(descriptor).replace("f", b"data", durable=True)
            os._exit(0 if KeptFiles(descriptor).read("f", 10) == b"data" else 1)
        finally:
            os._exit(2)
    assert os.waitpid(pid, 0)[1] == 0
    assert (parent / "d" / "f").stat().st_uid == 65534
    os.close(descriptor)


def test_only_the_newest_files_set_aside_stay(tmp_path: Path) -> None:
    descriptor = open_kept(tmp_path, "d", FLAG)
    files = KeptFiles(descriptor)
    for now in range(7, 7 + KEPT + 4):
        files.replace("f", b"bad", durable=False)
        files.set_aside("f", now)
    assert sorted(os.listdir(tmp_path / "d")) == sorted(f"f.set-aside-{n}" for n in range(11, 11 + KEPT))
    os.close(descriptor)


def test_a_directory_that_could_not_be_opened_is_tried_again_when_it_is_asked_for(tmp_path: Path) -> None:
    def opener() -> int:
        if not (tmp_path / "mended").exists():
            raise OSError(errno.EROFS, "Read-only file system")
        return os.open(tmp_path, os.O_RDONLY)

    store = SecretStore({"ledger-state": opener})
    ticket = store.issue("ledger")
    with pytest.raises(RequestError, match="Read-only"):
        store.grant(Grant(ticket, "ledger-state"))
    with pytest.raises(RequestError, match="no ledger-state for that ticket"):
        store.grant(Grant(store.issue("host"), "ledger-state"))
    (tmp_path / "mended").touch()
    first, second = (store.grant(Grant(ticket, "ledger-state"))[1] for _ in range(2))
    assert first == second
    os.close(first[0])


# --- loading


@pytest.mark.trio
async def test_a_ledger_comes_back_to_the_next_node_of_the_network_alone(places: tuple[Path, Path]) -> None:
    parent, run_dir = places
    first = Store(parent, run_dir)
    assert await first.kept() is None
    first.note_change()
    first.save_now()
    assert first.log == []
    os.close(first._disk._directory)  # type: ignore[union-attr]
    (run_dir / FILE).unlink()  # the supervisor does
    second = Store(parent, run_dir)
    assert await second.kept() == read_snapshot_untrusted(write_snapshot(BLOCK))
    os.close(second._disk._directory)  # type: ignore[union-attr]
    file_in(parent).write_bytes(write_snapshot(BLOCK, b"another network!"))
    third = Store(parent, run_dir)
    assert await third.kept() is None
    [(level, text)] = third.log
    assert level == "warning"
    assert "it is another network's: it is kept as ledger.snapshot.set-aside-" in text


@pytest.mark.trio
@pytest.mark.parametrize(
    ("content", "why"),
    [
        (write_snapshot(BLOCK, TAG)[:-3], "cut short"),
        (b"edgevpn ledger 1\n" + write_snapshot(BLOCK, TAG)[17:], "another version"),
        (write_snapshot(BLOCK, TAG) + b"x" * MAX_SIZE, "behind its end"),
        (b"", "empty"),
    ],
)
async def test_a_bad_file_is_set_aside_with_one_line(places: tuple[Path, Path], content: bytes, why: str) -> None:
    parent, run_dir = places
    (parent / "edgevpn-ledger").mkdir(parents=True)
    file_in(parent).write_bytes(content)
    store = Store(parent, run_dir)
    assert await store.kept() is None
    assert len(store.log) == 1
    assert why in store.log[0][1]
    [aside] = (parent / "edgevpn-ledger").iterdir()
    assert aside.read_bytes() == content


@pytest.mark.trio
async def test_what_expired_while_the_node_was_away_is_left_out(places: tuple[Path, Path]) -> None:
    parent, run_dir = places
    ours = {"10.1.0.2": machine(ALICE, key="10.1.0.2")}
    theirs = {"10.1.0.1": machine(BOB)}
    store = Store(parent, run_dir)
    store.block = Block(4, "t", {"machines": ours | theirs, "healthcheck": heartbeats(ALICE, BOB, at=NOW - TTL - 1)})
    assert await store.kept() is None
    store.note_change()
    store.save_now()
    (run_dir / FILE).unlink()
    os.close(store._disk._directory)  # type: ignore[union-attr]
    kept = await Store(parent, run_dir).kept()
    assert kept is not None
    assert kept.storage["machines"] == ours


@pytest.mark.trio
async def test_of_the_two_places_the_newer_one_counts(places: tuple[Path, Path]) -> None:
    parent, run_dir = places
    (parent / "edgevpn-ledger").mkdir(parents=True)
    for disk_index in (2, 4):
        (run_dir / FILE).write_bytes(write_snapshot(Block(3)))
        file_in(parent).write_bytes(write_snapshot(Block(disk_index), TAG))
        store = Store(parent, run_dir)
        kept = await store.kept()
        assert kept is not None
        assert kept.index == max(3, disk_index)
        os.close(store._disk._directory)  # type: ignore[union-attr]


# --- disks that do not take it


def fill_up(disk: Path) -> None:
    with (disk / "filler").open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(4096))


def remount(disk: Path, how: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{how}", str(disk)], check=True)


async def until(true: Callable[[], bool]) -> None:
    with trio.fail_after(5):
        while not true():  # noqa: ASYNC110 - a file system tells nobody
            await trio.sleep(0.01)


@pytest.mark.trio
async def test_a_full_disk_is_said_once_and_tried_again(
    small_disk: Path, places: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledger_store, "RETRY", 0.05)
    store = Store(small_disk, places[1])
    assert await store.kept() is None
    fill_up(small_disk)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(store.run)
        for _ in range(3):
            store.note_change()
            with trio.fail_after(1):  # nobody who asks is held up
                await store.settled()
        assert [(level, "No space left" in text) for level, text in store.log] == [("error", True)]
        assert os.listdir(small_disk / "edgevpn-ledger") == []
        (small_disk / "filler").unlink()
        await until(lambda: file_in(small_disk).exists() and len(store.log) == 2)
        assert store.log[1] == ("info", f"the ledger is kept in {small_disk} again")
        nursery.cancel_scope.cancel()


@pytest.mark.trio
async def test_a_read_only_disk_is_said_once_and_tried_again(
    small_disk: Path, places: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledger_store, "RETRY", 0.05)
    remount(small_disk, "ro")
    store = Store(small_disk, places[1])
    assert await store.kept() is None  # not even the directory can be made
    async with trio.open_nursery() as nursery:
        nursery.start_soon(store.run)
        store.note_change()
        await trio.sleep(0.5)
        assert [(level, "Read-only" in text) for level, text in store.log] == [("error", True)]
        remount(small_disk, "rw")
        await until(file_in(small_disk).exists)
        nursery.cancel_scope.cancel()
    assert read_snapshot_untrusted(file_in(small_disk).read_bytes(), TAG).index == BLOCK.index


# --- killed


@pytest.mark.timeout(120)
def test_a_writer_that_is_killed_leaves_a_whole_file_with_all_it_answered_for() -> None:
    seed = int.from_bytes(os.urandom(4), "big")
    print("seed", seed)
    found = kill_writers(20, seed, print)
    assert (found["torn"], found["lost"]) == (0, 0)
    assert found["answered"] >= 20
