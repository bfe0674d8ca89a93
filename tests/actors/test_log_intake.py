"""What actors say, as the supervisor takes it in: log lines, last words, floods, and ends at any moment."""

from __future__ import annotations

import os
import subprocess
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import psutil
import pytest
import trio
import trio.testing

from edgevpn.actors.log_intake import BESIDE_STDERR, Intake
from edgevpn.proto.log_lines import MAX_LINE, LogLine, write_line

TRACEBACK = """Traceback (most recent call last):
  File "sealer.py", line 1, in main
    1 / 0
ZeroDivisionError: division by zero
"""


def line(number: int, actor: str = "ledger") -> LogLine:
    return LogLine(1_700_000_000.0 + number, "info", actor, f"event {number}", {"number": number})


@dataclass
class Heard:
    """An intake, and the end of its pipe that an actor would have."""

    intake: Intake
    lines: list[LogLine]
    writing: int = field(default=-1)

    def write(self, data: bytes) -> None:
        os.write(self.writing, data)

    def close(self) -> None:
        if self.writing >= 0:
            os.close(self.writing)
            self.writing = -1

    async def settle(self) -> None:
        await trio.testing.wait_all_tasks_blocked()


@pytest.fixture
async def heard() -> AsyncIterator[Heard]:
    before = psutil.Process().num_fds()
    lines: list[LogLine] = []
    intake = Intake("sealer", lines.append)
    ours, _ = intake.descriptor
    one = Heard(intake, lines, os.dup(ours))
    intake.handed_over()
    yield one
    one.close()
    intake.finish()
    assert psutil.Process().num_fds() == before


async def test_lines_are_passed_on_and_the_pipe_says_whose_they_are(heard: Heard, nursery: trio.Nursery) -> None:
    nursery.start_soon(heard.intake.run)
    heard.write(write_line(line(1, "host")) + write_line(line(2)))
    await heard.settle()
    assert heard.lines == [line(1, "sealer"), line(2, "sealer")]


async def test_a_line_that_comes_in_pieces_is_one(heard: Heard, nursery: trio.Nursery) -> None:
    nursery.start_soon(heard.intake.run)
    for piece in bytes(write_line(line(1))):
        heard.write(bytes([piece]))
        await heard.settle()
    assert heard.lines == [line(1, "sealer")]


async def test_what_an_interpreter_says_at_its_end_is_one_event(heard: Heard, nursery: trio.Nursery) -> None:
    nursery.start_soon(heard.intake.run)
    heard.write(TRACEBACK.encode())
    await heard.settle()
    heard.close()
    await heard.settle()
    heard.intake.finish()
    [said] = heard.lines
    assert (said.level, said.actor, said.event) == ("error", "sealer", "ZeroDivisionError: division by zero")
    assert said.facts["traceback"] == TRACEBACK.strip()


async def test_a_block_of_text_is_told_when_it_is_complete_though_the_actor_lives(
    heard: Heard, nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    nursery.start_soon(heard.intake.run)
    heard.write(b"a library\nprints this\n")
    await trio.sleep(1)
    heard.write(b"and later that\n")
    await trio.sleep(1)
    assert [(said.event, said.facts) for said in heard.lines] == [
        ("a library", {"traceback": "a library\nprints this"}),
        ("and later that", {}),
    ]


async def test_text_between_lines_keeps_its_place(heard: Heard, nursery: trio.Nursery) -> None:
    nursery.start_soon(heard.intake.run)
    heard.write(write_line(line(1)) + b"raw\n" + write_line(line(2)) + b'{"no": "line"}\n' + write_line(line(3)))
    await heard.settle()
    assert [said.event for said in heard.lines] == ["event 1", "raw", "event 2", '{"no": "line"}', "event 3"]


async def test_what_is_in_the_pipe_at_the_end_is_taken_without_anybody_reading(heard: Heard) -> None:
    heard.write(write_line(line(1)) + TRACEBACK.encode() + b"and no end of li")
    heard.close()
    heard.intake.finish()
    assert [said.event for said in heard.lines] == ["event 1", "and no end of li"]
    assert "ZeroDivisionError" in heard.lines[1].facts["traceback"]


async def test_finishing_twice_or_while_somebody_still_holds_the_pipe_is_no_harm(
    heard: Heard, nursery: trio.Nursery
) -> None:
    nursery.start_soon(heard.intake.run)
    await heard.settle()
    heard.write(write_line(line(1)))
    heard.intake.finish()  # a grandchild may live on with the pipe
    heard.intake.finish()
    await heard.settle()
    assert heard.lines == [line(1, "sealer")]
    with pytest.raises(BrokenPipeError):
        heard.write(b"nobody listens\n")


async def test_a_flood_is_cut_and_says_how_much_is_missing(heard: Heard, nursery: trio.Nursery) -> None:
    nursery.start_soon(heard.intake.run)
    for number in range(2000):
        heard.write(write_line(line(number)))
        if number % 100 == 0:
            await heard.settle()
    await heard.settle()
    assert 400 <= len(heard.lines) < 600
    heard.intake._budget._left = 2  # as after a pause
    heard.write(write_line(line(5000)))
    await heard.settle()
    assert [said.event for said in heard.lines[-2:]] == ["it logged too much at once", "event 5000"]
    left_out = sum(said.facts.get("lines_left_out", 0) for said in heard.lines)
    assert left_out + sum(said.event.startswith("event") for said in heard.lines) == 2001


async def test_a_line_without_end_takes_bounded_memory_and_the_next_is_whole(
    heard: Heard, nursery: trio.Nursery
) -> None:
    nursery.start_soon(heard.intake.run)
    for _ in range(300):
        heard.write(b"x" * 4000)
        await heard.settle()
        assert len(heard.intake._partial) <= MAX_LINE + 4000
    heard.write(b"\n" + write_line(line(1)))
    await heard.settle()
    assert [said.event[:7] for said in heard.lines] == ["xxxxxxx", "event 1"]
    assert len(heard.lines[0].event) <= MAX_LINE


async def test_a_process_that_never_stops_writing_is_not_read_for_ever(heard: Heard) -> None:
    os.set_blocking(heard.writing, True)
    with subprocess.Popen(["yes"], stdout=heard.writing, stderr=subprocess.DEVNULL) as writer:  # noqa: ASYNC220
        try:
            await trio.sleep(0.05)
            heard.intake.finish()
        finally:
            writer.kill()
    assert heard.lines
    assert all(said.level == "error" for said in heard.lines)


async def test_with_debug_stderr_stays_the_terminals() -> None:
    for keep, number in ((False, 2), (True, BESIDE_STDERR)):
        intake = Intake("sealer", [].append, keep_stderr=keep)
        assert intake.descriptor[1] == number
        assert intake.environment == {"EDGEVPNLOGFD": str(number)}
        intake.finish()
