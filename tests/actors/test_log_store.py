"""The node's log on disk: bounded, whole lines whatever happened, readable while it is written."""

from __future__ import annotations

import random
import resource
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from edgevpn.actors.log_store import NEWEST, OLDER, LogReader, LogStore
from edgevpn.proto.log_lines import LogLine, write_line


def line(number: int, text: str = "") -> LogLine:
    return LogLine(1_700_000_000.0 + number, "info", "ledger", f"event {number}{text}")


def numbers(lines: Iterator[LogLine]) -> list[int]:
    return [int(one.event.split()[1]) for one in lines]


def test_what_is_written_is_read_and_what_comes_later_too(tmp_path: Path) -> None:
    store = LogStore(tmp_path)
    with LogReader(tmp_path) as reader:
        assert list(reader.read()) == []
        assert not reader.found
        for number in range(3):
            store.append(line(number))
        assert list(reader.read()) == [line(number) for number in range(3)]
        assert reader.found
        store.append(line(3))
        assert numbers(reader.read()) == [3]
        assert numbers(reader.read()) == []
    store.close()
    assert stat.S_IMODE((tmp_path / NEWEST).stat().st_mode) == 0o600


def test_it_takes_two_files_of_the_size_given_and_no_more(tmp_path: Path) -> None:
    half = 4000
    store = LogStore(tmp_path, half)
    for number in range(500):
        store.append(line(number))
        assert sum(file.stat().st_size for file in tmp_path.iterdir()) <= 2 * half
    store.close()
    assert {file.name for file in tmp_path.iterdir()} == {NEWEST, OLDER}
    with LogReader(tmp_path) as reader:
        kept = numbers(reader.read())
    assert kept == list(range(kept[0], 500))
    assert len(kept) > half / len(write_line(line(499)))  # more than one file holds


def test_a_reader_misses_nothing_while_files_change(tmp_path: Path) -> None:
    seed = random.randrange(10**6)
    print("seed", seed)
    chance = random.Random(seed)
    store = LogStore(tmp_path, 3000)
    seen: list[int] = []
    written = 0
    with LogReader(tmp_path) as reader:
        for _ in range(100):
            for _ in range(chance.randrange(12)):  # fewer than a file holds: a slower reader may miss some
                store.append(line(written, "x" * chance.randrange(60)))
                written += 1
            seen += [int(one.event.split()[1].rstrip("x")) for one in reader.read()]
    store.close()
    assert seen == list(range(written))


def test_what_is_written_between_two_looks_of_a_reader_is_not_missed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = LogStore(tmp_path, 1000)
    looks = LogReader._is_current

    def look(reader: LogReader) -> bool:
        monkeypatch.setattr(LogReader, "_is_current", looks)
        store.append(line(1))
        store._rotate()
        store.append(line(2))
        return looks(reader)

    store.append(line(0))
    with LogReader(tmp_path) as reader:
        monkeypatch.setattr(LogReader, "_is_current", look)
        assert numbers(reader.read()) == [0, 1, 2]
    store.close()


@pytest.mark.parametrize("torn", [b'{"time":"2023-11', b"no line at all\n", b"\xff\xfe\x00"])
def test_the_next_node_goes_on_behind_what_a_killed_one_left(tmp_path: Path, torn: bytes) -> None:
    (tmp_path / NEWEST).write_bytes(write_line(line(0)) + torn)
    store = LogStore(tmp_path)
    store.append(line(1))
    store.append(line(2))
    store.close()
    with LogReader(tmp_path) as reader:
        assert list(reader.read()) == [line(0), line(1), line(2)]


def test_a_full_file_of_an_earlier_node_is_put_aside(tmp_path: Path) -> None:
    (tmp_path / NEWEST).write_bytes(write_line(line(0)) * 100)
    store = LogStore(tmp_path, 1000)
    store.append(line(1))
    store.close()
    assert (tmp_path / OLDER).stat().st_size > 1000
    assert (tmp_path / NEWEST).read_bytes().strip() == write_line(line(1)).strip()


@pytest.fixture
def file_size() -> Iterator[Callable[[int], None]]:
    """Lets files of this process grow up to so many bytes: a write over that is done in part, the next fails (write(2);
    Python ignores SIGXFSZ)."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_without_room_lines_are_lost_and_counted_and_later_ones_are_whole(
    tmp_path: Path, file_size: Callable[[int], None]
) -> None:
    store = LogStore(tmp_path)
    size = len(write_line(line(0)))
    file_size(size * 5 // 2)
    for number in range(5):
        store.append(line(number))
    assert store.lost == 2  # and the third is torn
    file_size(1 << 20)
    store.append(line(5))
    store.close()
    with LogReader(tmp_path) as reader:
        assert numbers(reader.read()) == [0, 1, 5]


def test_a_log_that_is_a_link_to_elsewhere_is_not_written_to(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_text("precious\n")
    (tmp_path / NEWEST).symlink_to(elsewhere)
    store = LogStore(tmp_path)
    store.append(line(0))
    assert store.lost == 1
    assert elsewhere.read_text() == "precious\n"
