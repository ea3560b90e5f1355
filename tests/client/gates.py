"""What tests of several threads share: a handler that is held at a gate, and what there is to look at."""

import threading
from queue import SimpleQueue

from eventbus_mp import Event


class Gate:
    """A handler that says that it has begun, and returns when it is let through."""

    def __init__(self) -> None:
        self.begun: SimpleQueue[str] = SimpleQueue()
        self.ended: SimpleQueue[str] = SimpleQueue()
        self._open = threading.Event()

    def __call__(self, event: Event) -> None:
        self.begun.put(event.id)
        assert self._open.wait(30)
        self.ended.put(event.id)

    def await_begun(self, count: int) -> list[str]:
        return sorted(self.begun.get(timeout=20) for _ in range(count))

    def open(self) -> None:
        self._open.set()


def names_of_threads() -> list[str]:
    return sorted(thread.name for thread in threading.enumerate() if thread.name.startswith("eventbus_mp-test"))
