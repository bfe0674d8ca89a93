"""What scripts/measure makes of what the kernel and the log say."""

from __future__ import annotations

import json
import os

from scripts.labkit.idle import Page, Parts, read_pages, take_apart
from scripts.labkit.restarts import ready_at, spread

PAGE = 4096


def test_a_pss_is_taken_apart_into_template_copied_and_own() -> None:
    library, kept, written, new = 1, 2, 3, 4
    pages = {
        "template": {0: Page(library, True), PAGE: Page(kept, False), 2 * PAGE: Page(10, False)},
        "actor": {
            0: Page(library, True),
            PAGE: Page(kept, False),
            2 * PAGE: Page(written, False),
            3 * PAGE: Page(new, False),
        },
    }
    parts = take_apart(pages)
    assert parts["actor"] == Parts(template=PAGE // 2, copied=PAGE, own=PAGE)
    assert parts["template"] == Parts(template=PAGE // 2, copied=0, own=PAGE)


def test_a_process_that_was_not_forked_has_copied_nothing() -> None:
    assert take_apart({"supervisor": {0: Page(7, False)}, "template": {PAGE: Page(8, False)}})["supervisor"].own == PAGE


def test_a_page_that_two_children_share_is_of_the_template_though_the_template_has_written_to_its_own() -> None:
    pages = {"template": {0: Page(9, False)}, "one": {0: Page(8, False)}, "two": {0: Page(8, False)}}
    assert take_apart(pages)["one"] == Parts(template=PAGE // 2, copied=0, own=0)


def test_the_pages_of_this_process_are_found_where_the_kernel_tells_them() -> None:
    if os.geteuid():
        return  # frames are root's alone to see
    pages = read_pages(os.getpid())
    anonymous = sum(not page.of_a_file for page in pages.values()) * PAGE
    assert 1 << 20 < anonymous < 1 << 30
    assert any(page.of_a_file for page in pages.values())


def test_the_spread_of_times_names_the_worst() -> None:
    found = spread([0.010] * 99 + [0.500])
    assert found == {"n": 100, "median_ms": 10.0, "p99_ms": 10.0, "max_ms": 500.0}
    assert spread([0.02, 0.01]) == {"n": 2, "median_ms": 15.0, "p99_ms": 20.0, "max_ms": 20.0}
    assert spread([]) == {"n": 0}


def line(actor: str, event: str, time: str, pid: int = 5) -> str:
    return json.dumps({"time": time, "level": "debug", "actor": actor, "event": event, "pid": pid})


def test_ready_is_what_the_log_says_of_this_actor_after_the_kill() -> None:
    lines = "\n".join(
        [
            line("host", "is ready", "2026-01-01T00:00:01.000Z", 1),
            line("tun", "is ready", "2026-01-01T00:00:02.000Z", 2),
            line("host", "ended and is started again", "2026-01-01T00:00:02.100Z"),
            line("host", "is ready", "2026-01-01T00:00:02.250Z", 3),
            '{"time":"2026-01-01T00:00:0',
        ]
    )
    killed = 1767225602.0
    assert ready_at(lines, "host", killed) == (killed + 0.25, 3)
    assert ready_at(lines, "ledger", killed) is None
