"""The turns of threads that wait for one pipe: one reads for all, and no wake-up is lost."""

import random
import threading
from collections import deque
from contextlib import suppress

from eventbus_mp import BusClosed
from tests.client.pipes import Peer, in_thread
from tests.helpers import until


def test_a_thread_that_leads_and_waits_no_more_passes_the_reading_on(peer: Peer) -> None:
    turns = peer.transport._turns
    first = in_thread(lambda: peer.transport.wait(lambda: b"a" in peer.received, 60))
    until(lambda: turns.leader)
    second = in_thread(lambda: peer.transport.wait(lambda: b"b" in peer.received, 60))
    until(lambda: turns.followers)
    peer.say(b"a")
    first.join(20)
    peer.say(b"b")
    second.join(20)
    assert not second.is_alive()


class Tokens:
    """Threads that take tokens, which arrive as bytes: 0 to 3 for those with a mailbox of their own, 9 for a crew."""

    CREW = 9

    def __init__(self, peer: Peer, seed: int) -> None:
        self._transport = peer.transport
        self._dice = random.Random(seed)
        self._mail: dict[int, deque[int]] = {kind: deque() for kind in (0, 1, 2, 3, self.CREW)}
        self.taken = threading.Semaphore(0)
        self._may_be_busy, self._go_on = threading.Semaphore(3), threading.Event()
        self._threads: list[threading.Thread] = []
        peer.transport.on_data = self._sort

    def _sort(self, data: bytes) -> None:
        for kind in data:
            self._mail[kind].append(kind)

    def start(self, kind: int) -> None:
        dice = random.Random(self._dice.random())
        self._threads.append(in_thread(lambda: self._take(kind, dice)))

    def _take(self, kind: int, dice: random.Random) -> None:
        """Most waits have no end, for one that ends would hide a wake-up that was lost."""
        mail, crew = self._mail[kind], "crew" if kind == self.CREW else None
        with suppress(BusClosed):
            for _ in range(dice.randint(5, 200)):
                self._transport.wait(lambda: len(mail), dice.choice([None] * 98 + [0, 0.001]), crew)
                with suppress(IndexError):
                    mail.popleft()
                    self.taken.release()
                    if crew and dice.random() < 0.05 and self._may_be_busy.acquire(blocking=False):
                        assert self._go_on.wait(60)
                        self._may_be_busy.release()
            self.start(kind)

    def let_go_on(self) -> None:
        """End what some of the crew are busy with: all that was sent meanwhile is taken by others."""
        before, self._go_on = self._go_on, threading.Event()
        before.set()

    def join(self) -> None:
        self._go_on.set()
        for thread in self._threads:
            thread.join(20)
        assert not any(thread.is_alive() for thread in self._threads)


def test_no_wake_up_is_lost(peer: Peer) -> None:
    """Each time, all that was sent is taken before more is sent that might wake who was forgotten."""
    seed = random.randrange(1 << 32)
    print("seed", seed)
    dice, tokens = random.Random(seed), Tokens(peer, seed)
    for kind in (0, 1, 2, 3, *[Tokens.CREW] * 4):
        tokens.start(kind)
    for _ in range(1_000):
        pieces = [bytes(dice.choices([0, 1, 2, 3, 9, 9, 9], k=dice.randint(1, 6))) for _ in range(dice.randint(1, 3))]
        for piece in pieces:
            peer.say(piece)
            if dice.random() < 0.1:
                peer.transport.wake()
        for _ in b"".join(pieces):
            assert tokens.taken.acquire(timeout=60), "nobody takes what has come"
        if dice.random() < 0.3:
            tokens.let_go_on()
    peer.transport.close(BusClosed("the test is over"), b"")
    tokens.join()
