"""What each host says of itself, as the others hear it."""

from __future__ import annotations

import asyncio

import pytest

from eventbus_mp.addons.bridge import nats_session, nats_states
from eventbus_mp.addons.bridge.mailboxes import LetterTooLarge, MailboxesClosed, NatsMailboxes
from tests.addons.bridge.nats_proxy import LossyWay
from tests.addons.bridge.nats_servers import NatsServer, eventually, run
from tests.addons.bridge.posts import opened


class Ear:
    """What one host has heard, in order, and what it knows by that."""

    def __init__(self, of: NatsMailboxes) -> None:
        self.heard: list[tuple[str, bytes | None]] = []
        of.hear(self._hear)

    def _hear(self, host: str, state: bytes | None) -> None:
        self.heard.append((host, state))

    @property
    def known(self) -> dict[str, bytes | None]:
        return dict(self.heard)


def test_a_late_host_hears_what_was_said_and_then_each_change(any_server: NatsServer) -> None:
    async def work() -> None:
        async with opened(any_server, "A", "B") as (a, b):
            await a.shout(b"former")
            await a.shout(b"of A")
            await b.shout(b"of B")
            async with opened(any_server, "late") as (late,):
                ear = Ear(late)
                await eventually(lambda: ear.known == {"A": b"of A", "B": b"of B"})
                assert ("A", b"former") not in ear.heard
                await a.shout(b"newer")
                await late.shout(b"late")
                await eventually(lambda: ear.heard[2:] == [("A", b"newer"), ("late", b"late")])

    run(work)


def test_it_can_be_asked_for_before_they_are_opened(server: NatsServer) -> None:
    async def work() -> None:
        a = NatsMailboxes(server.url, "shop", "A")
        ear = Ear(a)
        await a.open()
        await a.shout(b"x")
        await eventually(lambda: ear.heard == [("A", b"x")])
        await a.close()

    run(work)


def test_a_state_that_an_operator_removes(any_server: NatsServer) -> None:
    """As `nats kv del` does it, and as `nats stream purge` does, while somebody listens and while not."""

    async def work() -> None:
        async with opened(any_server, "A", "B") as (a, b):
            await a.shout(b"x")
            ear = Ear(b)
            await eventually(lambda: ear.heard == [("A", b"x")])
            await a._session.link._client.publish("$KV.EB_shop_hosts.A", b"", headers={"KV-Operation": "DEL"})
            await eventually(lambda: ear.heard[1:] == [("A", None)])
            await a.shout(b"y")
            await eventually(lambda: ear.known == {"A": b"y"})
            await b._session._api.ask("$JS.API.STREAM.PURGE.KV_EB_shop_hosts", b"")
            b._session._states.watch_anew()
            await eventually(lambda: ear.known == {"A": None})

    run(work)


def test_states_outlive_the_server_and_what_changed_meanwhile_is_heard(any_server: NatsServer) -> None:
    async def work() -> None:
        async with LossyWay(any_server) as way, opened(any_server, "A", "C") as (a, c), opened(way, "B") as (b,):
            await a.shout(b"1")
            await c.shout(b"stays")
            ear = Ear(b)
            await eventually(lambda: len(ear.heard) == 2)
            way.is_cut = True
            await a.shout(b"2")
            way.drop_connections()
            way.is_cut = False
            await eventually(lambda: ear.known["A"] == b"2")
            any_server.kill()
            await asyncio.to_thread(any_server.start)
            await a.shout(b"3")
            await eventually(lambda: ear.known["A"] == b"3")
            assert [state for host, state in ear.heard if host == "C"] == [b"stays"]

    run(work)


def test_who_is_missing_in_the_bucket_says_its_state_again(any_server: NatsServer) -> None:
    async def work() -> None:
        async with opened(any_server, "A") as (a,):
            ear = Ear(a)
            await a.shout(b"x")
            await eventually(lambda: ear.heard)
            await a._session._api.ask("$JS.API.STREAM.PURGE.KV_EB_shop_hosts", b"")
            a._session._states.watch_anew()
            await eventually(lambda: ear.heard[1:] == [("A", None), ("A", b"x")])

    run(work)


def test_a_watch_that_falls_silent_is_made_anew(server: NatsServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """As when the one server that had it is gone, and not ours."""
    monkeypatch.setattr(nats_states, "HEARTBEAT_S", 0.1)
    monkeypatch.setattr(nats_states, "SILENCE_S", 0.4)
    monkeypatch.setattr(nats_session, "BEAT_S", 0.05)

    async def work() -> None:
        async with opened(server, "A", "B") as (a, b):
            ear = Ear(b)
            await a.shout(b"1")
            await eventually(lambda: ear.heard)
            names = await b._session._api.ask("$JS.API.CONSUMER.NAMES.KV_EB_shop_hosts", b"")
            for name in names["consumers"]:
                await b._session._api.ask(f"$JS.API.CONSUMER.DELETE.KV_EB_shop_hosts.{name}", b"")
            await a.shout(b"2")
            await eventually(lambda: ear.heard[1:] == [("A", b"2")])

    run(work)


def test_a_change_that_is_lost_on_the_way_is_missed(server: NatsServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next heartbeat says that there was one."""
    monkeypatch.setattr(nats_states, "HEARTBEAT_S", 0.1)

    async def work() -> None:
        async with LossyWay(server) as way, opened(way, "B") as (b,), opened(server, "A") as (a,):
            ear = Ear(b)
            await a.shout(b"1")
            await eventually(lambda: ear.heard)
            way.lose_next(b"$KV.")
            await a.shout(b"2")
            await eventually(lambda: ear.heard[1:] == [("A", b"2")])

    run(work)


def test_a_state_over_the_limit_says_so(server: NatsServer) -> None:
    async def work() -> None:
        async with opened(server, "A", letter_bytes_max=1_000) as (a,):
            with pytest.raises(LetterTooLarge, match="too large: message size exceeds maximum allowed"):
                await a.shout(bytes(1_001))

    run(work)


def test_an_error_of_who_listens_ends_the_mailboxes(server: NatsServer) -> None:
    async def work() -> None:
        async with opened(server, "A") as (a,):
            a.hear(lambda host, state: dict[str, None]()[host])
            await a.shout(b"x")
            with pytest.raises(MailboxesClosed, match="KeyError") as caught:
                await a.pull("to")
            assert isinstance(caught.value.__cause__, KeyError)

    run(work)
