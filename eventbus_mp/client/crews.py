"""Crews: which threads a session has for handlers, and which handlers each of them runs.

    the shared crew        one thread, for every handler that asks for nothing else; in a worker its main thread
    the broadcast crew     one thread, for what broadcasts: a job that takes its time does not delay an invalidation
    a crew of its own      n threads, for one subscriber that asks for n (`threads=n`)

A crew's threads are started for its first handler. A crew of its own ends when its subscriber is unsubscribed, or
subscribed again.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from enum import Enum
from functools import partial
from time import monotonic

from eventbus_mp.background import BackgroundThread
from eventbus_mp.client.endpoint import ClientEndpoint
from eventbus_mp.client.handler_loop import HandlerLoop
from eventbus_mp.client.handlers import Handler, warn_replaced
from eventbus_mp.client.listeners import pack_config
from eventbus_mp.errors import EventBusError
from eventbus_mp.locking import NonReentrantLock
from eventbus_mp.statistics import SubscriberKey

__all__ = ["Crew", "Crews", "Threads"]

SHARED, BROADCAST = "shared", "broadcast"


class Threads(Enum):
    """Which crews of a session have threads."""

    ALL = "all"
    BUT_SHARED = "all but the shared one, which the main thread of a worker runs"
    NONE = "none: a bus in one thread runs all loops by itself"


class Crew:
    """Loops that run the same handlers, each in a thread of its own if there are threads.

    Args:
        label: What it is for. The crew of the same label in the session after this one goes on for it.
        loops: One or more.
    """

    def __init__(self, label: Hashable, loops: tuple[HandlerLoop, ...]) -> None:
        self.label = label
        self.loops = loops
        for loop in loops:
            loop.crew = self
        self.threads: tuple[BackgroundThread, ...] = ()
        """One for each loop, or none."""
        self._endpoint: ClientEndpoint | None = None
        """Of a subscriber's own: whose handler it ran last."""
        self._ended: deque[HandlerLoop] = deque()
        """The loops whose thread has ended."""

    @property
    def is_of_one(self) -> bool:
        """Whether it is one subscriber's own."""
        return self.label not in (SHARED, BROADCAST)

    def add(self, handler: Handler) -> None:
        """Run this handler."""
        if self.is_of_one:
            self._endpoint = handler.endpoint
        for loop in self.loops:
            loop.add(handler)

    def remove(self, number: int) -> None:
        """Stop running this subscriber's handler."""
        for loop in self.loops:
            loop.remove(number)

    def stop(self) -> None:
        """End the threads after what they run; safe in a signal handler."""
        _stop(self.loops)

    def note_end(self, loop: HandlerLoop) -> bool:
        """The thread of this loop ends; whether it is the last one."""
        if self._endpoint is not None:
            self._endpoint.slots.pop(loop, None)
        self._ended.append(loop)
        return len(self._ended) == len(self.loops)


class Crews:
    """All crews of a session.

    Args:
        make_loop: Makes a loop.
        run: Runs one until it ends, in its thread.
        bus: Its name.
        threads: Which crews have some.
    """

    def __init__(
        self, make_loop: Callable[[], HandlerLoop], run: Callable[[HandlerLoop], None], bus: str, threads: Threads
    ) -> None:
        self._make_loop = make_loop
        self._run = run
        self._bus = bus
        self._has_threads = threads is not Threads.NONE
        self.is_stopping = False
        self.after_each: Callable[[], None] | None = None
        """Called by each loop after every delivery; see `call_after_each`."""
        self._before: Crews | None = None
        self._crews: dict[int, Crew] = {}
        """By `id`: all that run something, or may."""
        self._of: dict[int, tuple[Handler, Crew]] = {}
        """Subscriber number -> its handler, and who runs it."""
        self._lock = NonReentrantLock()
        """Held while a handler gets another crew, or none."""
        self.shared = self._make(SHARED, 1, has_threads=threads is Threads.ALL)
        self._broadcast = self._make(BROADCAST, 1, has_threads=self._has_threads)

    def succeed(self, before: Crews) -> None:
        """Go on for the crews of a session whose bus was lost: a thread of theirs that still runs a handler is waited
        for by the one in its place, so no subscriber has more threads than it asked for."""
        self._before = before

    @property
    def loops(self) -> tuple[HandlerLoop, ...]:
        """All loops."""
        return tuple([loop for crew in tuple(self._crews.values()) for loop in crew.loops])

    @property
    def running(self) -> list[str]:
        """The subscribers whose handlers run at this moment, once for each thread that runs one."""
        endpoints = [loop.running for loop in self.loops]
        return sorted(endpoint.key.name for endpoint in endpoints if endpoint is not None)

    def call_after_each(self, call: Callable[[], None]) -> None:
        """Have each loop make this call after every delivery, and count these."""
        self.after_each = call
        for loop in self.loops:
            loop.after_each = call

    # --- who runs what ---

    @contextmanager
    def hired(self, key: SubscriberKey, threads: int, *, broadcast: bool) -> Iterator[Crew]:
        """The crew for a subscriber, started. In the `with` block it is hosted, and its handler assigned: were there no
        thread, its events would wait for nobody. If the block raises, a crew of its own ends again.

        Raises:
            EventBusError: The system has no thread for it; it can be tried again.
        """
        if threads > 1:
            crew = self._make((key.name, pack_config(key.config)), threads, has_threads=self._has_threads)
        else:
            crew = self._broadcast if broadcast else self.shared
        try:
            self.start(crew)
            yield crew
        except BaseException:
            self._dismiss(crew)
            raise

    def start(self, crew: Crew) -> None:
        """Start its threads, if they were not started before. Does not block.

        Raises:
            EventBusError: The system has no thread for it; it can be tried again.
        """
        try:
            for thread in crew.threads:
                thread.start()
        except RuntimeError as cause:
            raise EventBusError(
                f"this process cannot start the thread for the handlers of bus {self._bus!r}: {cause}; "
                "nothing was subscribed, and it can be tried again"
            ) from cause

    def _dismiss(self, crew: Crew) -> None:
        """If it is a subscriber's own, end it after what it runs."""
        if crew.is_of_one:
            crew.stop()
            if not crew.threads:
                self._crews.pop(id(crew), None)

    def assign(self, handler: Handler, crew: Crew) -> None:
        """Have the crew run this handler, in the place of the one that its subscriber had."""
        number = handler.endpoint.number
        before = self._of.get(number)
        if before is not None:
            warn_replaced(before[0], handler)
        with self._lock.held():
            self._remove(number)
            self._of[number] = handler, crew
            crew.add(handler)

    def remove(self, number: int) -> None:
        """Have nobody run this subscriber's handler. What is under way is not waited for."""
        with self._lock.held():
            self._remove(number)

    def _remove(self, number: int) -> None:
        before = self._of.pop(number, None)
        if before is not None:
            crew = before[1]
            crew.remove(number)
            self._dismiss(crew)

    # --- threads ---

    def _make(self, label: Hashable, count: int, *, has_threads: bool) -> Crew:
        crew = Crew(label, tuple(self._make_loop() for _ in range(count)))
        if has_threads:
            part = f"-{label}" if label == BROADCAST else "" if label == SHARED else "-own"
            crew.threads = tuple(
                BackgroundThread(partial(self._run_in_thread, crew, index), f"eventbus_mp-{self._bus}{part}")
                for index in range(count)
            )
        self._crews[id(crew)] = crew
        for loop in crew.loops:
            loop.after_each = self.after_each
        if self.is_stopping:
            crew.stop()  # A signal handler has stopped all others just before.
        return crew

    def _run_in_thread(self, crew: Crew, index: int) -> None:
        for before in self._before.threads_like(crew, index) if self._before is not None else ():
            before.join()
        try:
            self._run(crew.loops[index])
        finally:
            if crew.note_end(crew.loops[index]) and crew.is_of_one:
                self._crews.pop(id(crew), None)

    def threads_like(self, crew: Crew, index: int) -> list[BackgroundThread]:
        """Those of this session in whose place another session's crew has this one."""
        alike = [item for item in tuple(self._crews.values()) if item.label == crew.label]
        return [thread for item in alike for thread in item.threads[index : index + 1]]

    def stop(self) -> None:
        """End all threads after what they run; safe in a signal handler."""
        self.is_stopping = True
        _stop(self.loops)

    def join(self, patience_s: float | None = None) -> bool:
        """Block until all threads have ended, but for the calling one; for `patience_s` at most. Whether they have."""
        deadline = None if patience_s is None else monotonic() + patience_s
        have_ended = True
        for crew in tuple(self._crews.values()):
            for thread in crew.threads:
                left_s = None if deadline is None else max(0.0, deadline - monotonic())
                have_ended &= thread.is_mine or thread.join(left_s)
        return have_ended


def _stop(loops: tuple[HandlerLoop, ...]) -> None:
    """Stop all of them, and wake them then: a wake-up is a system call, during which the others would go on."""
    for loop in loops:
        loop.is_stopping = True
    loops[0].stop()
