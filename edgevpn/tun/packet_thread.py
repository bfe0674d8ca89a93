"""The thread that moves packets: one epoll(7) over the TUN device and all open streams.

A process that has been idle for a while needs some 200 us from a packet's arrival until trio runs the task that waits
for it, and 40 us until a thread that waits in a system call of its own goes on. A packet passes four such places on its
way to the other machine and back, so they are worth a thread. Everything that waits for other things, opens, closes and
retries is trio's, as everywhere.

Rules that make it safe: a handler runs in the thread, never waits for more than the moment of edgevpn/tun/pace.py, and
touches trio only through `in_trio`. `remove` returns only when the handler is not running and will not run again, so a
descriptor is removed before it is closed. A handler that raises ends `run`, and with it the actor: it is a bug of ours.
"""

from __future__ import annotations

import os
import select
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import trio

Handler = Callable[[], None]
Timer = Callable[[], "float | None"]  # does what is due; seconds until it wants to be called again, None: no wish


class PacketThread:
    """Calls handlers of readable descriptors, in a thread of its own while `run` runs."""

    def __init__(self) -> None:
        self._token = trio.lowlevel.current_trio_token()
        self._epoll = select.epoll()
        self._handlers: dict[int, Handler] = {}
        self._running = threading.Lock()  # held while handlers run
        self._timers: list[Timer] = []
        self._stop = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._epoll.register(self._stop, select.EPOLLIN)

    def add(self, descriptor: int, handler: Handler) -> None:
        """Call `handler` whenever there is something to read; it reads what there is, or is called again."""
        with self._running:
            self._handlers[descriptor] = handler
            self._epoll.register(descriptor, select.EPOLLIN)

    def add_timer(self, timer: Timer) -> None:
        """Call `timer` after each turn of handlers, and when the time is over that it asked for the last time."""
        with self._running:
            self._timers.append(timer)

    def remove(self, descriptor: int) -> None:
        """No call any more. Call it before closing the descriptor; a second call does nothing."""
        with self._running:
            if self._handlers.pop(descriptor, None) is not None:
                self._epoll.unregister(descriptor)

    def mute(self, descriptor: int) -> None:
        """For a handler itself: no call any more."""
        if self._handlers.pop(descriptor, None) is not None:
            self._epoll.unregister(descriptor)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """For trio: no handler runs inside the block. Keep it short."""
        with self._running:
            yield

    def in_trio(self, function: Callable[[], object]) -> None:
        """Have trio call `function` soon; several wishes for the same one before that are one."""
        try:
            self._token.run_sync_soon(function, idempotent=True)
        except trio.RunFinishedError:
            return  # the actor is ending

    async def run(self) -> None:
        """Until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.to_thread.run_sync, self._loop)
            try:
                await trio.sleep_forever()
            finally:
                os.eventfd_write(self._stop, 1)

    def _loop(self) -> None:
        poll, handlers, timers, running = self._epoll.poll, self._handlers, self._timers, self._running
        pause: float | None = 0.0
        while True:
            events = poll(pause)  # rounded up to milliseconds
            with running:
                for descriptor, _ in events:
                    handler = handlers.get(descriptor)
                    if handler is not None:
                        handler()
                    elif descriptor == self._stop:
                        return
                pause = None
                for timer in timers:
                    wish = timer()
                    if wish is not None:
                        pause = wish if pause is None else min(pause, wish)
