"""The prompt inside an actor."""

from __future__ import annotations

import trio
import trio.testing

from edgevpn.actors.repl import PROMPT_MARK, converse, run_code


async def test_code_awaits_at_the_top_level_and_the_last_expression_is_shown() -> None:
    namespace = {"trio": trio, "answer": 40}
    result = await run_code("import math\nawait trio.sleep(0)\nanswer += 2\nprint('hi')\nanswer", namespace)
    assert result.output == "hi\n42\n"
    assert result.error == ""
    assert namespace["answer"] == 42


async def test_an_exception_is_reported_without_the_prompts_own_frames() -> None:
    result = await run_code("def f():\n    return 1 / 0\nf()", {})
    assert result.error.startswith("Traceback")
    assert result.error.rstrip().endswith("ZeroDivisionError: division by zero")
    assert "repl.py" not in result.error


async def test_exit_at_the_prompt_does_not_end_the_actor() -> None:
    assert "SystemExit" in (await run_code("raise SystemExit(3)", {})).error


async def test_a_syntax_error_is_an_answer() -> None:
    assert "SyntaxError" in (await run_code("1 +", {})).error


async def test_a_conversation_prompts_for_the_rest_of_a_block(nursery: trio.Nursery) -> None:
    ours, theirs = trio.socket.socketpair()
    stream = trio.SocketStream(ours)

    async def serve() -> None:
        async with trio.SocketStream(theirs) as end:
            await converse(end, {}, "hello\n")

    nursery.start_soon(serve)

    async def until_prompt() -> tuple[str, str]:
        text = b""
        while text.count(PROMPT_MARK) < 2:
            text += await stream.receive_some()
        said, prompt, _ = text.split(PROMPT_MARK)
        return said.decode(), prompt.decode()

    with trio.fail_after(5):
        assert await until_prompt() == ("hello\n", ">>> ")
        await stream.send_all(b"for n in range(2):\n")
        assert await until_prompt() == ("", "... ")
        await stream.send_all(b"    print(n)\n")
        assert await until_prompt() == ("", "... ")
        await stream.send_all(b"\n")
        assert await until_prompt() == ("0\n1\n", ">>> ")
    await stream.aclose()
    await trio.testing.wait_all_tasks_blocked()
