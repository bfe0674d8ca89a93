"""Real-time priority for the actor that moves packets: it runs as soon as one has come, whatever else the machine does.

The kernel forwards packets before it runs any program. A VPN in a program has to wait its turn: on a busy machine some
milliseconds for each, in which packets queue, and be put off in the middle of its work. So the tun actor gets the
lowest real-time priority (sched(7), SCHED_RR): it goes before programs of no such priority, behind all that have one.

It computes on one processor at a time, so others stay free for all else; a machine with one only is not for it. What
the kernel leaves to other programs in any case: sched_rt_runtime_us, 5 % of each processor.

It takes CAP_SYS_NICE, which actors have not: `take` is for the child's time before it gives up root's rights
(child_entry.py); threads that it starts inherit the priority.
"""

from __future__ import annotations

import os
from contextlib import suppress

LOWEST = 1  # of the real-time priorities
_ENOUGH = 2  # processors


def may() -> bool:
    """Whether this machine has another processor for all else."""
    return len(os.sched_getaffinity(0)) >= _ENOUGH


def take() -> None:
    """Give it to this process, if it may have it and the system allows it. Who was given a higher one keeps that."""
    if may() and os.sched_getscheduler(0) == os.SCHED_OTHER:
        with suppress(OSError):  # no such right, or a control group without a share of it: `why_not` says so
            os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(LOWEST))


def why_not_here() -> str:
    """Why no process like this one would get it, by trying; "" when it would. This one is as before then."""
    had = not why_not()
    take()
    why = why_not()
    if not why and not had:
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
    return why


def why_not() -> str:
    """Why the calling thread has no such priority; "" when it has."""
    if os.sched_getscheduler(0) in (os.SCHED_RR, os.SCHED_FIFO):
        return ""
    return "the system does not allow it (CAP_SYS_NICE)" if may() else "there is only one processor"
