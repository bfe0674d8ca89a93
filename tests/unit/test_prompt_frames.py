"""The frames between `edgevpn repl` and a prompt."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from edgevpn.errors import UntrustedDataError
from edgevpn.proto.messages import LENGTH
from edgevpn.proto.prompt_frames import (
    MAX_FRAME,
    Complete,
    Completions,
    Finished,
    Greeting,
    Interrupt,
    Output,
    Run,
    Splitter,
    encode,
    sendable,
)

FRAMES = [
    Greeting("hi", 3),
    Run("x", 80),
    Interrupt(),
    Complete(1, "ab"),
    Output("ü\n", True),
    Completions(1, ["abc"]),
    Finished(False, True, False),
]


@given(st.lists(st.integers(1, 50)))
def test_frames_come_whole_however_the_bytes_are_cut(cuts: list[int]) -> None:
    data = b"".join(map(encode, FRAMES))
    splitter = Splitter()
    found = []
    for cut in [*cuts, len(data)]:
        found += splitter.feed_untrusted(data[:cut])
        data = data[cut:]
    found += splitter.feed_untrusted(data)
    assert found == FRAMES


@given(st.binary(max_size=200))
def test_any_bytes_are_frames_or_refused(data: bytes) -> None:
    splitter = Splitter()
    try:
        splitter.feed_untrusted(data)
        splitter.feed_untrusted(LENGTH.pack(len(data)) + data)
    except UntrustedDataError:
        pass


def test_a_frame_over_the_limit_is_refused_before_it_is_there() -> None:
    with pytest.raises(UntrustedDataError, match="over the limit"):
        Splitter().feed_untrusted(LENGTH.pack(MAX_FRAME + 1))
    with pytest.raises(ValueError, match="over the limit"):
        encode(Output("x" * (MAX_FRAME + 1)))


def test_text_that_is_no_utf_8_can_be_sent() -> None:
    encode(Output(sendable("a\udcffb")))
