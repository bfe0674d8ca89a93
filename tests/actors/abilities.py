"""What this system allows: for tests that need it."""

from __future__ import annotations

import os

from edgevpn.actors import real_time


def _can_take_real_time() -> bool:
    """Whether the kernel lets us, asked without real_time.py: were that broken, tests must fail, not be skipped."""
    try:
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))
    except OSError:
        return False
    os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
    return real_time.may()


CAN_TAKE_REAL_TIME = _can_take_real_time()
