"""What ends a ledger stream, and whose fault it is."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from edgevpn.actors.ledger_links import _Reader


@pytest.mark.parametrize("sent", [b"", b"ab", b"abcdefg"])
async def test_a_stream_whose_writer_died_at_any_place_is_broken_and_not_spoiled(sent: bytes) -> None:
    """A peer that spoils a stream is refused for a minute; one whose actor was killed is not."""
    theirs, ours = trio.testing.memory_stream_one_way_pair()
    await theirs.send_all(sent)
    await theirs.aclose()
    reader = _Reader(ours)
    for _ in range(len(sent) // 4):
        assert len(await reader.exactly(4)) == 4
    with pytest.raises(trio.BrokenResourceError):
        await reader.exactly(4)
