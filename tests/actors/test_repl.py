"""The prompt inside an actor: what runs in it, what it shows, and that leaving leaves nothing."""

from __future__ import annotations

import contextlib
import gc
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
import trio.testing

from edgevpn.actors.prompt_run import HOLD_LIMIT
from edgevpn.actors.repl import Conversation
from edgevpn.actors.show import Secrets
from edgevpn.actors.tap import Taps
from edgevpn.errors import UntrustedDataError
from edgevpn.proto.messages import Heartbeat, Request
from edgevpn.proto.peer_key import PrivateKey
from edgevpn.proto.prompt_frames import (
    Complete,
    Completions,
    Finished,
    Greeting,
    Interrupt,
    Output,
    PromptFrame,
    Run,
    Splitter,
    encode,
)

SEED = bytes(range(100, 132))


class Terminal:
    """The other side of a prompt."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self.stream = stream
        self._splitter = Splitter()
        self._frames: list[PromptFrame] = []

    async def send(self, frame: PromptFrame) -> None:
        await self.stream.send_all(encode(frame))

    async def receive(self) -> PromptFrame:
        while not self._frames:
            data = await self.stream.receive_some()
            if not data:
                raise EOFError
            self._frames = self._splitter.feed_untrusted(bytes(data))
        return self._frames.pop(0)

    async def until_finished(self) -> tuple[str, str, Finished]:
        """What was said, what was complained of, and how it ended."""
        said = {False: "", True: ""}
        with trio.fail_after(5):
            while not isinstance(frame := await self.receive(), Finished):
                assert isinstance(frame, Output)
                said[frame.error] += frame.text
        return said[False], said[True], frame

    async def run(self, source: str) -> tuple[str, str, Finished]:
        await self.send(Run(source))
        return await self.until_finished()

    async def complete(self, text: str) -> list[str]:
        await self.send(Complete(7, text))
        frame = await self.receive()
        assert isinstance(frame, Completions)
        assert frame.number == 7
        return frame.names


@asynccontextmanager
async def prompt(namespace: dict[str, Any], **options: Any) -> AsyncIterator[Terminal]:
    """A conversation whose actor has these names; it must end by itself once the terminal is gone."""
    ours, theirs = trio.socket.socketpair()
    conversation = Conversation(namespace, **options)
    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:

            async def serve() -> None:
                async with trio.SocketStream(theirs) as stream:
                    await conversation.serve(stream, Greeting("hello\n", 4))

            nursery.start_soon(serve)
            terminal = Terminal(trio.SocketStream(ours))
            assert await terminal.receive() == Greeting("hello\n", 4)
            async with terminal.stream:
                yield terminal


async def test_code_awaits_at_the_top_level_and_the_last_expression_is_shown() -> None:
    async with prompt({"trio": trio, "answer": 40}) as terminal:
        source = "import math\nawait trio.sleep(0)\nanswer += 2\nprint('hi')\nanswer"
        assert await terminal.run(source) == ("hi\n42\n", "", Finished(False, False, False))
        assert (await terminal.run("_ + 1"))[0] == "43\n"


async def test_an_exception_is_reported_without_the_prompts_own_frames() -> None:
    async with prompt({}) as terminal:
        said, complaint, finished = await terminal.run("def f():\n    return 1 / 0\nprint('before')\nf()")
        assert said == "before\n"
        assert complaint.startswith("Traceback")
        assert complaint.rstrip().endswith("ZeroDivisionError: division by zero")
        assert "prompt_run.py" not in complaint
        assert finished.failed
        assert "SyntaxError" in (await terminal.run("1 +"))[1]


async def test_an_exit_of_the_code_does_not_end_the_actor_and_exit_leaves() -> None:
    async with prompt({}) as terminal:
        assert "SystemExit" in (await terminal.run("raise SystemExit(3)"))[1]
        assert (await terminal.run("exit()"))[2] == Finished(False, False, True)
        with pytest.raises(EOFError):
            await terminal.receive()
    assert not sys.stdin.closed


async def test_output_comes_while_the_code_runs_and_an_interrupt_ends_only_the_code() -> None:
    async with prompt({"trio": trio}) as terminal:
        await terminal.send(Run("x = 1\nprint('begun')\nawait trio.sleep_forever()"))
        assert await terminal.receive() == Output("begun\n")
        await terminal.send(Interrupt())
        said, complaint, finished = await terminal.until_finished()
        assert (said, complaint, finished.failed) == ("", "interrupted\n", True)
        assert (await terminal.run("x"))[0] == "1\n"
        await terminal.send(Interrupt())  # nothing runs: nothing happens
        assert (await terminal.run("x"))[0] == "1\n"


async def test_an_interrupt_also_ends_code_that_waits_in_a_nursery_of_its_own() -> None:
    async with prompt({"trio": trio}) as terminal:
        source = "async with trio.open_nursery() as n:\n    n.start_soon(trio.sleep_forever)\n    await trio.sleep(99)"
        await terminal.send(Run(source))
        await trio.testing.wait_all_tasks_blocked()
        await terminal.send(Interrupt())
        assert (await terminal.until_finished())[1] == "interrupted\n"


@pytest.mark.parametrize("code", ["await tap()", "while True: await trio.sleep(1)", "async for m in tap(): print(m)"])
async def test_a_terminal_that_is_gone_leaves_no_task_no_tap_and_no_name(code: str) -> None:
    taps = Taps()
    namespace = {"trio": trio, "state": [1]}
    before = dict(namespace)
    out = sys.stdout
    async with prompt(namespace, taps=taps) as terminal:
        await terminal.run("more = 5; kept = tap(); kept.open(); state = 7")
        await terminal.send(Run(code))
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert taps.watchers
        assert sys.stdout is not out
    # `prompt` has waited for the conversation's tasks
    assert not taps.watchers
    assert namespace == before
    assert sys.stdout is out


async def test_a_tap_that_nobody_reads_any_more_is_gone_without_being_closed() -> None:
    taps = Taps()
    async with prompt({}, taps=taps) as terminal:
        await terminal.run("t = tap(); t.open()")
        assert len(taps.watchers) == 1
        await terminal.run("del t")
        gc.collect()
        assert not taps.watchers


async def test_names_that_the_actor_binds_later_are_there_too_and_ours_stay_ours() -> None:
    namespace: dict[str, Any] = {"value": 1, "mine": 1, "going": 1}
    async with prompt(namespace) as terminal:
        await terminal.run("mine = 'mine'")
        namespace |= {"value": 2, "mine": 2, "dht": 3}
        del namespace["going"]
        assert (await terminal.run("value, mine, dht"))[0] == "(2, 'mine', 3)\n"
        assert "NameError" in (await terminal.run("going"))[1]
        assert await terminal.complete("dh") == ["dht"]


async def test_two_prompts_have_their_own_output_and_names_while_one_is_busy() -> None:
    namespace = {"trio": trio}
    async with prompt(namespace) as one, prompt(namespace) as two:
        await one.send(Run("name = 'one'\nawait trio.sleep_forever()"))
        await trio.testing.wait_all_tasks_blocked()
        said, complaint, _ = await two.run("print('two')\nname")
        assert said == "two\n"
        assert "NameError" in complaint
        await one.send(Interrupt())
        assert (await one.until_finished())[:2] == ("", "interrupted\n")


async def test_what_other_tasks_print_does_not_come_to_a_prompt(capsys: pytest.CaptureFixture[str]) -> None:
    async with prompt({}) as terminal:
        print("from elsewhere")
        assert (await terminal.run("print('here')"))[0] == "here\n"
    assert capsys.readouterr().out == "from elsewhere\n"


async def test_code_that_keeps_the_loop_to_itself_is_stopped_before_the_actor_counts_as_hung() -> None:
    async with prompt({"trio": trio}) as terminal:
        for code in ("while True: pass", "await trio.sleep(0)\nwhile True: pass"):
            began = trio.current_time()
            complaint = (await terminal.run(code))[1]
            assert "HeldTooLongError" in complaint
            assert trio.current_time() - began < HOLD_LIMIT + 0.2
        # The limit is on steps, not on the whole.
        steps = "import time\nfor _ in range(4):\n    time.sleep(0.25); await trio.sleep(0)\n'done'"
        assert (await terminal.run(steps))[0] == "'done'\n"


async def test_output_that_the_terminal_is_too_slow_for_is_dropped_and_said() -> None:
    async with prompt({}) as terminal:
        said, complaint, _ = await terminal.run("for _ in range(3): print('x' * 700_000)")
        assert said == "x" * 700_000 + "\n"
        assert "characters were dropped here" in complaint
        assert (await terminal.run("1"))[0] == "1\n"


async def test_secrets_are_struck_out_of_all_that_is_shown_unless_they_are_asked_for() -> None:
    key = PrivateKey(SEED)
    secrets = Secrets()
    secrets.add(SEED)
    namespace = {"key": key, "held": {"k": [key]}}
    async with prompt(namespace, secrets=secrets) as terminal:
        for code in ("key", "held", "key.seed", "key.marshal()", "key.seed.hex()", "print(key.seed)", "str(key.seed)"):
            said = (await terminal.run(code))[0]
            assert "defghij" not in said, code
            assert SEED.hex() not in said, code
            assert ("<secret>" in said) != (code in ("key", "held")), code
        assert "<secret>" in (await terminal.run("raise ValueError(key.seed)"))[1]
        assert repr(SEED) in (await terminal.run("reveal(key)"))[0]
        assert (await terminal.run("reveal(key.seed)"))[0] == f"{SEED!r}\n"
        assert (await terminal.run("[reveal(key)]"))[0] == "[<secret>]\n"  # only what was asked for itself


async def test_a_line_that_holds_a_secret_is_reported_as_such() -> None:
    secrets = Secrets()
    secrets.add("the-room-of-all")
    async with prompt({}, secrets=secrets) as terminal:
        assert (await terminal.run("x = 'the-room-of-all'"))[2].secret
        assert not (await terminal.run("x = 'another room'"))[2].secret


async def test_a_tap_prints_messages_live() -> None:
    taps = Taps()
    async with prompt({}, taps=taps) as terminal:
        await terminal.send(Run("await tap(peer='host')"))
        await trio.testing.wait_all_tasks_blocked()
        taps.show(Request(Heartbeat()), 33, "gossip", False, "")
        taps.show(Request(Heartbeat()), 33, "host", False, "")
        frame = await terminal.receive()
        assert isinstance(frame, Output)
        assert frame.text.split()[1:] == ["from", "host", "Request", "Heartbeat", "33", "B"]


async def test_tasks_shows_who_waits_where() -> None:
    async def sleeper() -> None:
        await trio.sleep_forever()

    async with prompt({}) as terminal, trio.open_nursery() as nursery:
        nursery.start_soon(sleeper)
        await trio.testing.wait_all_tasks_blocked()
        said = (await terminal.run("tasks()"))[0]
        [line] = [line for line in said.splitlines() if ".sleeper  " in line]
        assert "sleep_forever" in line
        [own] = [line for line in said.splitlines() if "(this prompt)" in line]
        assert "what runs at the prompt" in own
        assert own.index("─") > said.splitlines()[0].index("<init>")
        nursery.cancel_scope.cancel()


async def test_stats_are_the_actors_counters() -> None:
    async with prompt({}, stats=lambda: {"blocks": 3}) as terminal:
        assert (await terminal.run("stats()"))[0] == "{'blocks': 3}\n"


async def test_nonsense_ends_the_conversation_alone() -> None:
    ours, theirs = trio.socket.socketpair()
    with contextlib.closing(ours), contextlib.closing(theirs):
        await ours.send(b"\0\0\0\4ABCD")
        with pytest.raises(UntrustedDataError), trio.fail_after(5):
            await Conversation({}).serve(trio.SocketStream(theirs), Greeting("", 0))
