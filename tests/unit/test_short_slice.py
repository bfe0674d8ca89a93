"""How long the packet thread runs at a time: asked of the kernel itself."""

from __future__ import annotations

import ctypes
import os
import platform
import struct
import threading
from collections.abc import Callable
from typing import TypeVar

import pytest

from edgevpn.tun.short_slice import SLICE, shorten_slice

T = TypeVar("T")
GET = {"x86_64": 315, "aarch64": 275}


def slice_and_nice() -> tuple[int, int]:
    """Of this thread, sched_getattr(2): nanoseconds, nice."""
    room = ctypes.create_string_buffer(48)
    assert ctypes.CDLL(None).syscall(GET[platform.machine()], 0, room, 48, 0) == 0
    _, _, _, nice, _, runtime = struct.unpack_from("=IIQiIQ", room)
    return runtime, nice


def in_a_thread(function: Callable[[], T]) -> T:
    found: list[T] = []
    thread = threading.Thread(target=lambda: found.append(function()))
    thread.start()
    thread.join()
    return found[0]


@pytest.mark.skipif(platform.machine() not in GET, reason="no number of sched_getattr(2) for this machine")
def test_a_thread_gets_a_short_slice_and_keeps_its_priority() -> None:
    def one() -> tuple[bool, tuple[int, int], tuple[int, int]]:
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 3)
        before = slice_and_nice()
        return shorten_slice(), before, slice_and_nice()

    if in_a_thread(slice_and_nice)[0] == 0:
        pytest.skip("this kernel has no slices (Linux before 6.12)")
    done, before, after = in_a_thread(one)
    assert done
    assert before[0] > after[0] == round(SLICE * 1e9)
    assert before[1] == after[1] == 3
    assert slice_and_nice()[0] == before[0]  # other threads keep theirs


def test_a_thread_that_has_another_policy_keeps_it() -> None:
    def one() -> tuple[bool, int]:
        os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
        return shorten_slice(), os.sched_getscheduler(0)

    assert in_a_thread(one) == (False, os.SCHED_BATCH)
