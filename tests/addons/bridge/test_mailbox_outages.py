"""Mailboxes while servers are killed, silent, or lose what they had: no letter is lost, and the order is kept."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress

import pytest

from eventbus_mp.addons.bridge import nats_inbox, nats_link, nats_session
from eventbus_mp.addons.bridge.mailboxes import Letter, NatsMailboxes
from tests.addons.bridge.nats_proxy import LossyWay
from tests.addons.bridge.nats_servers import NatsCluster, NatsServer, eventually, run
from tests.addons.bridge.posts import numbered, opened, pull, store_all, stored


def in_first_order(letters: list[bytes]) -> list[bytes]:
    """Each of them once, in the order in which they came first."""
    return list(dict.fromkeys(letters))


AHEAD_MAX = 2_000


class Stream:
    """Letters from A to B, one after the other, until `stop`; and what B got of them."""

    def __init__(self, a: NatsMailboxes, b: NatsMailboxes) -> None:
        self.got: list[bytes] = []
        self.stored = 0
        self._begun = 0
        self._a, self._b = a, b
        self._is_stopping = False
        self._storing = [asyncio.ensure_future(self._store()) for _ in range(8)]
        self._pulling = asyncio.ensure_future(self._pull())

    async def _store(self) -> None:
        while not self._is_stopping:
            await eventually(lambda: self._begun - len(self.got) < AHEAD_MAX)
            data, self._begun = b"%d" % self._begun, self._begun + 1
            await self._a.store("to", "B", data)
            self.stored += 1

    async def _pull(self) -> None:
        while True:
            self.got += await pull(self._b, 1)

    async def go_on_for(self, count: int) -> None:
        """Until so many more have been stored and pulled."""
        aim, got = self.stored + count, len(self.got) + count
        await eventually(lambda: self.stored >= aim and len(self.got) >= got)

    async def stop(self) -> None:
        """All letters that were stored have come."""
        self._is_stopping = True
        await asyncio.gather(*self._storing)
        await eventually(lambda: len(set(self.got)) == self._begun)
        self._pulling.cancel()
        with suppress(asyncio.CancelledError):
            await self._pulling
        assert set(self.got) == set(numbered(self._begun))


def test_a_server_that_is_killed_while_letters_come_and_go_loses_none(any_server: NatsServer) -> None:
    async def work() -> None:
        async with opened(any_server, "A", "B", ack_wait_s=1) as (a, b):
            stream = Stream(a, b)
            for _ in range(3):
                await stream.go_on_for(300)
                any_server.kill()
                await asyncio.to_thread(any_server.start)
            await stream.go_on_for(300)
            await stream.stop()

    run(work)


def test_storing_waits_while_no_server_is_there_and_goes_on_in_order(any_server: NatsServer) -> None:
    async def work() -> None:
        async with opened(any_server, "A", "B") as (a, b):
            any_server.kill()
            await eventually(lambda: not a.is_connected and not b.is_connected)
            storing = asyncio.ensure_future(store_all(a, "B", numbered(500)))
            await asyncio.wait([storing], timeout=0.3)
            assert not storing.done()
            await asyncio.to_thread(any_server.start)
            assert await pull(b, 500) == numbered(500)
            await storing

    run(work)


def test_a_server_that_has_lost_its_store_gets_it_anew(any_server: NatsServer) -> None:
    """What it had is gone, which is the bridges' business; what comes goes on, and who listens hears the states."""

    async def work() -> None:
        heard: list[tuple[str, bytes | None]] = []
        async with opened(any_server, "A", "B") as (a, b):
            b.hear(lambda host, state: heard.append((host, state)))
            await a.shout(b"of A")
            await eventually(lambda: heard)
            any_server.lose_store()
            await asyncio.to_thread(any_server.start)
            heard.clear()
            await store_all(a, "B", numbered(100))
            assert await pull(b, 100) == numbered(100)
            async with opened(any_server, "C") as (c,):
                c.hear(lambda host, state: heard.append((host, state)))
                await eventually(lambda: ("A", b"of A") in heard)

    run(work)


def test_a_letter_whose_confirmation_is_lost_is_sent_again(any_server: NatsServer) -> None:
    async def work() -> None:
        async with LossyWay(any_server) as way, opened(way, "A", ack_timeout_s=0.3) as (a,):
            way.lose_next(b".stored_to.")
            await store_all(a, "A", numbered(3))
            assert await pull(a, 4) == [b"0", b"1", b"2", b"0"]

    run(work)


def test_a_letter_that_is_lost_itself_is_sent_again(any_server: NatsServer) -> None:
    async def work() -> None:
        async with LossyWay(any_server) as way, opened(way, "A", ack_timeout_s=0.3) as (a,):
            way.lose_next(b"eb.shop.to.A")
            await store_all(a, "A", numbered(3))
            assert await pull(a, 3) == [b"1", b"2", b"0"]

    run(work)


def test_after_a_lost_connection_all_that_is_open_is_sent_again_in_order(any_server: NatsServer) -> None:
    """More than a window: what was never sent stays behind what was."""

    async def work() -> None:
        async with LossyWay(any_server) as way, opened(way, "A") as (a,):
            way.is_cut = True
            storing = asyncio.ensure_future(store_all(a, "A", numbered(300)))
            await asyncio.wait([storing], timeout=0.1)
            assert not storing.done()
            way.drop_connections()
            way.is_cut = False
            assert in_first_order(await pull(a, 300)) == numbered(300)
            await storing

    run(work)


def test_after_silence_letters_are_asked_for_anew(any_server: NatsServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nats_inbox, "HEARTBEAT_S", 0.1)
    monkeypatch.setattr(nats_inbox, "SILENCE_S", 0.4)
    monkeypatch.setattr(nats_session, "BEAT_S", 0.05)

    async def work() -> None:
        async with LossyWay(any_server) as way:
            way.lose_next(b"MSG.NEXT", count=2)  # Of both boxes.
            async with opened(way, "A") as (a,):
                await a.store("to", "A", b"x")
                assert await pull(a, 1) == [b"x"]

    run(work)


def test_a_silent_cut_is_seen_and_survived(server: NatsServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """As behind a firewall that forgets: nothing says that the connection is gone."""
    monkeypatch.setattr(nats_link, "PING_INTERVAL_S", 0.1)

    async def work() -> None:
        async with LossyWay(server) as way, opened(way, "A") as (a,):
            way.is_cut = True
            storing = asyncio.ensure_future(a.store("to", "A", b"x"))
            await eventually(lambda: not a.is_connected)
            way.is_cut = False
            await storing
            assert await pull(a, 1) == [b"x"]

    run(work)


def test_a_consumer_that_somebody_removes_is_made_again(any_server: NatsServer) -> None:
    async def work() -> None:
        async with opened(any_server, "A", "B") as (a, b):
            await b._session._api.ask("$JS.API.CONSUMER.DELETE.EB_shop.to_A", b"")
            await b.store("to", "A", b"x")
            assert await pull(a, 1) == [b"x"]

    run(work)


def test_a_leader_of_three_servers_is_killed(cluster: NatsCluster) -> None:
    async def work() -> None:
        how = {"urls": cluster.urls, "replicas": 3, "ack_wait_s": 1, "ack_timeout_s": 1, "connect_timeout_s": 30}
        async with opened(cluster, "A", "B", **how) as (a, b):
            stream = Stream(a, b)
            await stream.go_on_for(100)
            leader = await asyncio.to_thread(cluster.leader, "EB_shop")
            leader.kill()
            await stream.go_on_for(100)
            await asyncio.to_thread(cluster.start_one, leader)
            await stream.stop()

    run(work)


def test_a_stopped_server_keeps_what_is_not_settled(start_server: Callable[..., NatsServer]) -> None:
    """And a letter that was pulled before can be settled after."""
    server = start_server()

    async def work() -> None:
        async with opened(server, "A", ack_wait_s=30) as (a,):
            await a.store("to", "A", b"x")
            (letter,) = await a.pull("to")
            server.stop()
            await eventually(lambda: not a.is_connected)
            settling = asyncio.ensure_future(a.settle(letter, "done"))
            await asyncio.to_thread(server.start)
            await settling
            await eventually(lambda: stored(server) == 0)

    run(work)


def test_what_was_settled_never_comes_again(any_server: NatsServer) -> None:
    """Though a server that is killed may have forgotten it; and nobody waits for what it has lost altogether."""

    async def work() -> None:
        async with opened(any_server, "A", ack_wait_s=0.3) as (a,):
            await store_all(a, "A", numbered(3))
            first, second, third = await pull_letters(a, 3)
            await a.settle(first, "done")
            await a.settle(first, "done")
            any_server.kill()
            await asyncio.to_thread(any_server.start)
            await a.settle(second, "done")
            assert {letter.data for letter in await pull_letters(a, 3)} == {b"2"}
            any_server.lose_store()
            await asyncio.to_thread(any_server.start)
            await a.settle(third, "done")

    run(work)


def test_positions_grow_beyond_a_lost_store(any_server: NatsServer) -> None:
    async def work() -> None:
        async with opened(any_server, "A", "B") as (a, b):
            positions = [await a.store(box, "B", b"x") for box in ("to", "back", "to")]
            assert [letter.position for letter in await pull_letters(b, 2)] == positions[::2]
            any_server.lose_store()
            await asyncio.to_thread(any_server.start)
            positions += [await a.store("to", "B", b"y"), await b.store("to", "B", b"z")]
            assert positions == sorted(set(positions))
            assert [letter.position for letter in await pull_letters(b, 2)] == positions[3:]

    run(work)


async def pull_letters(mailboxes: NatsMailboxes, count: int) -> list[Letter]:
    found: list[Letter] = []
    while len(found) < count:
        found += await mailboxes.pull("to")
    return found
