# ruff: noqa: ASYNC240 - small files
"""Files between two processes: whole or not at all, resumed, and never outside their directory."""

from __future__ import annotations

import hashlib
import os
import random
from collections.abc import Callable
from pathlib import Path

import pytest
import trio

from edgevpn.errors import EdgevpnError, UntrustedDataError
from edgevpn.proto import file_wire
from edgevpn.proto.file_wire import PART_SUFFIX, Data, Item, Offer
from edgevpn.tunnels import file_receive, file_send, landing, tree as trees
from edgevpn.tunnels.file_receive import BrokeOffError, ContentChangedError, Progress, SenderRefusedError
from edgevpn.tunnels.landing import Landing, LandingError, WrongContentError
from edgevpn.tunnels.tree import Tree, TreeError


def nothing(_: int) -> None: ...


def scan(path: Path, name: str = "it") -> Tree:
    return trees.scan(path, name, nothing)


def left_over(directory: Path) -> list[Path]:
    return [path for path in directory.rglob(".*") if path.name.endswith(PART_SUFFIX.decode())]


class Cut:
    """A stream that breaks after so many bytes were read from it."""

    def __init__(self, stream: trio.SocketStream, after: int) -> None:
        self._stream = stream
        self._left = after

    async def receive_some(self, most: int | None = None) -> bytes:
        if self._left <= 0:
            raise trio.BrokenResourceError("cut")
        data = bytes(await self._stream.receive_some(min(most or 65536, self._left)))
        self._left -= len(data)
        return data

    async def send_all(self, data: bytes) -> None:
        await self._stream.send_all(data)

    async def send_eof(self) -> None:
        await self._stream.send_eof()


async def transfer(
    tree: Tree | Callable[[], Tree], target: Path, progress: Progress | None = None, *, cut: int = 1 << 60
) -> tuple[Progress, bool]:
    """One session: the receiver's progress, and whether the sender was told that all is there."""
    ours, theirs = map(trio.SocketStream, trio.socket.socketpair())
    progress = progress or Progress()
    told = False

    async def current() -> Tree:
        return tree() if callable(tree) else tree

    async def send() -> None:
        nonlocal told
        async with theirs:
            try:
                told = await file_send.serve(theirs, "it", current, nothing)
            except (trio.BrokenResourceError, EdgevpnError):
                return

    failure: Exception | None = None
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(send)
            async with ours:
                try:
                    await file_receive.receive(Cut(ours, cut), "it", target, progress)  # type: ignore[arg-type]
                except EdgevpnError as exc:
                    failure = exc
    if failure is not None:
        raise failure
    return progress, told


@pytest.fixture
def big(tmp_path: Path) -> Path:
    path = tmp_path / "big"
    path.write_bytes(random.Random(3).randbytes(9_000_000))
    return path


async def test_a_file_arrives_with_its_hash_checked(big: Path, tmp_path: Path) -> None:
    progress, told = await transfer(scan(big), tmp_path / "out")
    assert (tmp_path / "out").read_bytes() == big.read_bytes()
    assert told
    assert (progress.done, progress.resumed, progress.finished) == (9_000_000, 0, 1)
    assert progress.sha256 == hashlib.sha256(big.read_bytes()).hexdigest()
    assert left_over(tmp_path) == []


async def test_a_file_goes_into_a_directory_under_the_senders_name(big: Path, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    await transfer(scan(big), tmp_path / "in")
    assert (tmp_path / "in" / "big").read_bytes() == big.read_bytes()


async def test_an_empty_file_arrives(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    await transfer(scan(tmp_path / "empty"), tmp_path / "out")
    assert (tmp_path / "out").read_bytes() == b""


async def test_a_transfer_broken_off_five_times_goes_on_where_it_was(big: Path, tmp_path: Path) -> None:
    tree, target = scan(big), tmp_path / "out"
    cuts = [1_000_003, 7, 2_500_000, 1, 3_000_000]
    for cut in cuts:
        with pytest.raises(BrokeOffError):
            await transfer(tree, target, cut=cut)
        assert not target.exists()
    [part] = left_over(tmp_path)
    before = part.stat().st_size
    assert sum(cuts) - 2000 < before <= sum(cuts)
    progress, _ = await transfer(tree, target)
    assert progress.resumed == before
    assert target.read_bytes() == big.read_bytes()
    assert left_over(tmp_path) == []


async def test_a_part_that_was_spoilt_is_found_out_and_thrown_away(big: Path, tmp_path: Path) -> None:
    tree, target = scan(big), tmp_path / "out"
    with pytest.raises(BrokeOffError):
        await transfer(tree, target, cut=2_000_000)
    [part] = left_over(tmp_path)
    with part.open("r+b") as file:
        file.seek(1000)
        file.write(b"spoilt")
    with pytest.raises(WrongContentError):
        await transfer(tree, target)
    assert not target.exists()
    assert left_over(tmp_path) == []
    await transfer(tree, target)
    assert target.read_bytes() == big.read_bytes()


async def test_a_tree_arrives_with_its_empty_directories_and_modes(tmp_path: Path) -> None:
    source = tmp_path / "source"
    (source / "a" / "b").mkdir(parents=True)
    (source / "none").mkdir()
    chance = random.Random(4)
    for number in range(150):
        (source / "a" / "b" / f"file {number}").write_bytes(chance.randbytes(number * 100))
    (source / "run").write_bytes(b"#!/bin/sh\n")
    (source / "run").chmod(0o4755)
    (source / "link").symlink_to("/etc/passwd")
    os.mkfifo(source / "pipe")
    tree = scan(source)
    assert {path for path, _ in tree.left_out} == {b"link", b"pipe"}
    target = tmp_path / "out"
    for cut in (30_000, 500_000):
        with pytest.raises(BrokeOffError):
            await transfer(tree, target, cut=cut)
    progress, _ = await transfer(tree, target)
    assert progress.resumed > 300_000
    assert progress.finished == 151
    found = {path.relative_to(target): path for path in target.rglob("*")}
    wanted = {path.relative_to(source) for path in source.rglob("*") if path.name not in ("link", "pipe")}
    assert set(found) == wanted
    assert all(path.is_dir() or path.read_bytes() == (source / at).read_bytes() for at, path in found.items())
    assert (target / "run").stat().st_mode & 0o7777 in (0o755, 0o700, 0o750)
    assert left_over(target) == []


async def test_what_is_there_already_is_not_sent_again(big: Path, tmp_path: Path) -> None:
    await transfer(scan(big), tmp_path / "out")
    inode = (tmp_path / "out").stat().st_ino
    progress, told = await transfer(scan(big), tmp_path / "out")
    assert (progress.resumed, told) == (9_000_000, True)
    assert (tmp_path / "out").stat().st_ino == inode


async def test_a_file_that_changed_is_asked_for_anew(big: Path, tmp_path: Path) -> None:
    tree = scan(big)
    big.write_bytes(b"something else")
    with pytest.raises(ContentChangedError):
        await transfer(tree, tmp_path / "out")
    await transfer(lambda: trees.scan(big, "it", nothing, tree), tmp_path / "out")
    assert (tmp_path / "out").read_bytes() == b"something else"


async def test_another_name_is_refused(big: Path, tmp_path: Path) -> None:
    ours, theirs = map(trio.SocketStream, trio.socket.socketpair())

    async def current() -> Tree:
        return scan(big)

    async def serve() -> None:
        async with theirs:
            await file_send.serve(theirs, "another", current, nothing)

    async with trio.open_nursery() as nursery, ours:
        nursery.start_soon(serve)
        with pytest.raises(SenderRefusedError, match="no file of that name"):
            await file_receive.receive(ours, "it", tmp_path / "out", Progress())


# --- a sender that lies


async def lie(tmp_path: Path, messages: bytes, target: Path | None = None) -> None:
    """Receive from a sender that says `messages` whatever it is asked."""
    ours, theirs = map(trio.SocketStream, trio.socket.socketpair())
    async with ours, theirs:
        await theirs.send_all(messages)
        await theirs.send_eof()
        with trio.fail_after(10):
            await file_receive.receive(ours, "it", target or tmp_path / "out", Progress())


def said(*messages: file_wire.FromSender) -> bytes:
    return b"".join(map(file_wire.write, messages))


CONTENT = b"content"
HASH = hashlib.sha256(CONTENT).digest()


async def test_content_with_another_hash_is_never_under_the_final_name(tmp_path: Path) -> None:
    wrong = said(Offer("it", False, 1, 7), Item(b"x", 7, HASH), Data(0, 0, 7)) + b"contEnt"
    with pytest.raises(WrongContentError):
        await lie(tmp_path, wrong)
    assert list(tmp_path.iterdir()) == []


async def test_a_path_through_a_symbolic_link_is_not_gone(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    target = tmp_path / "target"
    target.mkdir()
    (target / "a").symlink_to(outside)
    words = said(Offer("it", True, 1, 7), Item(b"a/x", 7, HASH), Data(0, 0, 7)) + CONTENT
    with pytest.raises(LandingError, match="symbolic link"):
        await lie(tmp_path, words, target)
    assert list(outside.iterdir()) == []


async def test_a_symbolic_link_in_the_place_of_the_file_is_replaced_not_followed(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_bytes(b"untouched")
    (tmp_path / "out").symlink_to(victim)
    await lie(tmp_path, said(Offer("it", False, 1, 7), Item(b"x", 7, HASH), Data(0, 0, 7)) + CONTENT)
    assert victim.read_bytes() == b"untouched"
    assert (tmp_path / "out").read_bytes() == CONTENT


async def test_a_device_is_not_replaced(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "out")
    with pytest.raises(LandingError, match="not a file"):
        await lie(tmp_path, said(Offer("it", False, 1, 7), Item(b"x", 7, HASH), Data(0, 0, 7)) + CONTENT)


@pytest.mark.parametrize(
    "words",
    [
        b"\x00\x00\x00\x01\xc1",
        b"\xff\xff\xff\xff",
        said(Data(0, 0, 7)),
        said(Offer("it", False, 1, 7), Data(0, 0, 7)),
        said(Offer("it", False, 1, 8), Item(b"x", 7, HASH)),
        said(Offer("it", False, 1, 7), Item(b"x", 7, HASH), Data(0, 0, 9)) + CONTENT,
        said(Offer("it", False, 1, 7), Item(b"x", 7, HASH), Data(1, 0, 7)) + CONTENT,
        said(Offer("it", False, 1, 7), Item(b"x", 7, HASH), Item(b"x", 7, HASH)) + CONTENT,
    ],
)
async def test_a_sender_that_speaks_nonsense_ends_its_session_only(tmp_path: Path, words: bytes) -> None:
    with pytest.raises(UntrustedDataError):
        await lie(tmp_path, words)
    assert not (tmp_path / "out").exists()


async def test_a_file_that_does_not_fit_is_refused_before_it_is_sent(tmp_path: Path) -> None:
    huge = 1 << 50
    with pytest.raises(LandingError, match="don't fit"):
        await lie(tmp_path, said(Offer("it", False, 1, huge), Item(b"x", huge, HASH)))


def test_two_processes_do_not_write_one_file(tmp_path: Path) -> None:
    item = Item(b"x", 7, HASH)
    place = Landing(tmp_path / "out", directory=False, name="x")
    part = place.begin(item)
    with pytest.raises(LandingError, match="another process"):
        place.begin(item)
    part.write(CONTENT)
    part.finish()
    assert (tmp_path / "out").read_bytes() == CONTENT
    place.close()


def test_descriptors_do_not_leak(tmp_path: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    (tmp_path / "target").mkdir()
    (tmp_path / "target" / "file").touch()
    place = Landing(tmp_path / "target", directory=True, name="x")
    for path in (b"a/b/c", b"file/x", b"a"):
        try:
            part = place.begin(Item(path, 7, HASH))
        except LandingError:
            continue
        part.write(CONTENT[:3])
        part.keep()
    place.make_directory(Item(b"d", 0, b"", directory=True))
    with pytest.raises(LandingError):
        landing.check_replaceable(place._base, b"a")
    place.close()
    assert len(os.listdir("/proc/self/fd")) == before


# --- as the Go program


@pytest.mark.parametrize("clean", [True, False])
async def test_a_plain_stream_that_broke_leaves_nothing(big: Path, tmp_path: Path, clean: bool) -> None:
    ours, theirs = map(trio.SocketStream, trio.socket.socketpair())
    target = tmp_path / "out"

    async def ended_cleanly(_: object) -> bool:
        return clean

    async def send() -> None:
        async with theirs:
            await file_send.serve_plain(theirs, scan(big), nothing)

    async with trio.open_nursery() as nursery, ours:
        nursery.start_soon(send)
        if clean:
            await file_receive.receive_plain(ours, "it", target, Progress(), ended_cleanly)
            assert target.read_bytes() == big.read_bytes()
        else:
            with pytest.raises(BrokeOffError):
                await file_receive.receive_plain(ours, "it", target, Progress(), ended_cleanly)
            assert not target.exists()
        await ours.aclose()
    assert left_over(tmp_path) == []


def test_what_can_not_be_sent_says_why(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "nothing", tmp_path / "pipe"):
        with pytest.raises(TreeError):
            scan(path)
