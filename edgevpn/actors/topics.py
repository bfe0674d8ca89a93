"""What an actor lets others subscribe to.

A `State` is a map from text to messages. A subscriber gets the whole of it first and changes after; changes coalesce
by key, so a slow reader costs one set of dirty keys, never a queue, and always ends with the newest values. So any
actor may die and come back at any moment: nobody has to replay anything.

A `Feed` is a sequence of events without a present value. Each subscriber has a bounded queue: when it is full the
oldest event goes and is counted. While nobody is subscribed the newest `retain` events wait for whoever comes next.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping

import trio

from edgevpn.proto.messages import Body, Change, Event, Snapshot
from edgevpn.proto.queue_state import QueueState, fullest


class StateSubscription:
    """One reader of a State; `next` waits for something to tell."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._dirty: set[str] = set()
        self._wake = trio.Event()
        self._fresh = True

    def mark(self, key: str) -> None:
        self._dirty.add(key)
        self._wake.set()

    async def next(self) -> Snapshot | Change:
        if self._fresh:
            self._fresh = False
            self._dirty.clear()
            return Snapshot(dict(self._state.items))
        while not self._dirty:
            self._wake = trio.Event()
            await self._wake.wait()
        items = self._state.items
        put = {key: items[key] for key in self._dirty if key in items}
        gone = sorted(key for key in self._dirty if key not in items)
        self._dirty.clear()
        return Change(put, gone)

    def close(self) -> None:
        self._state.subscriptions.discard(self)


class State:
    """A map whose changes subscribers are told."""

    def __init__(self) -> None:
        self.items: dict[str, Body] = {}
        self.subscriptions: set[StateSubscription] = set()

    def subscribe(self) -> StateSubscription:
        subscription = StateSubscription(self)
        self.subscriptions.add(subscription)
        return subscription

    def put(self, key: str, value: Body) -> None:
        if self.items.get(key) != value:
            self.items[key] = value
            self._mark(key)

    def remove(self, key: str) -> None:
        if self.items.pop(key, None) is not None:
            self._mark(key)

    def replace(self, items: Mapping[str, Body]) -> None:
        """Make the state exactly `items`, telling only what differs."""
        for key in [key for key in self.items if key not in items]:
            self.remove(key)
        for key, value in items.items():
            self.put(key, value)

    def _mark(self, key: str) -> None:
        for subscription in self.subscriptions:
            subscription.mark(key)


class FeedSubscription:
    """One reader of a Feed."""

    def __init__(self, feed: Feed, backlog: deque[Body]) -> None:
        self._feed = feed
        self._queue = backlog
        self._dropped = 0
        self._wake = trio.Event()

    def offer(self, body: Body) -> None:
        if len(self._queue) == self._queue.maxlen:
            self._dropped += 1
            self._feed.dropped += 1
        self._queue.append(body)
        self._wake.set()

    async def next(self) -> Event:
        while not self._queue:
            self._wake = trio.Event()
            await self._wake.wait()
        event = Event(self._queue.popleft(), self._dropped)
        self._dropped = 0
        return event

    def __len__(self) -> int:
        return len(self._queue)

    def close(self) -> None:
        self._feed.subscriptions.discard(self)
        self._feed.keep(self._queue)


class Feed:
    """Events for whoever is subscribed; at most `size` wait for each."""

    def __init__(self, *, size: int, retain: int = 0) -> None:
        self._size = size
        self._retained: deque[Body] = deque(maxlen=retain)
        self.subscriptions: set[FeedSubscription] = set()
        self.dropped = 0

    def subscribe(self) -> FeedSubscription:
        subscription = FeedSubscription(self, deque(self._retained, maxlen=self._size))
        self._retained.clear()
        self.subscriptions.add(subscription)
        return subscription

    def put(self, body: Body) -> None:
        for subscription in self.subscriptions:
            subscription.offer(body)
        if not self.subscriptions and self._retained.maxlen:
            self._retained.append(body)

    def queue_state(self) -> QueueState:
        if not self.subscriptions:
            return QueueState(len(self._retained), self._retained.maxlen or self._size, self.dropped)
        return fullest(map(len, self.subscriptions), self._size, self.dropped)

    def keep(self, unread: deque[Body]) -> None:
        """What the last subscriber left unread waits for the next one."""
        if not self.subscriptions and self._retained.maxlen:
            self._retained.extend(unread)
