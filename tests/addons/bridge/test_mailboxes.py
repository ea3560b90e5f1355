"""Letters between hosts: stored, pulled, settled, given out again, refused."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from eventbus_mp import UsageError
from eventbus_mp.addons.bridge.mailboxes import (
    Letter,
    LetterTooLarge,
    MailboxesClosed,
    MailboxFull,
    NatsMailboxes,
)
from tests.addons.bridge.nats_servers import NatsServer, eventually, run
from tests.addons.bridge.posts import numbered, opened, pull, store_all, stored

# --- what a letter goes through ---


def test_letters_come_in_their_order_and_each_box_to_its_own(any_server: NatsServer) -> None:
    async def work() -> None:
        async with opened(any_server, "A", "B") as (a, b):
            await asyncio.gather(store_all(a, "B", numbered(1_000)), a.store("back", "B", b"back"))
            await b.store("to", "A", b"for A")
            assert await pull(b, 1_000) == numbered(1_000)
            assert await pull(b, 1, "back") == [b"back"]
            assert await pull(a, 1) == [b"for A"]
            await eventually(lambda: stored(any_server) == 0)

    run(work)


def test_what_is_not_settled_in_time_comes_again(any_server: NatsServer) -> None:
    async def work() -> None:
        async with opened(any_server, "A", ack_wait_s=0.3) as (a,):
            await a.store("to", "A", b"x")
            (first,) = await a.pull("to")
            (again,) = await a.pull("to")
            assert (first.data, again.data) == (b"x", b"x")
            await a.settle(again, "done")
            await eventually(lambda: stored(any_server) == 0)

    run(work)


def test_who_is_working_keeps_the_letter(any_server: NatsServer) -> None:
    """One of two letters is prolonged: the other comes three times meanwhile."""

    async def work() -> None:
        async with opened(any_server, "A", ack_wait_s=0.6) as (a,):
            await store_all(a, "A", [b"kept", b"left"])
            first: list[Letter] = []
            while len(first) < 2:
                first += await a.pull("to")
            kept, seen = first[0], list[bytes]()
            while seen.count(b"left") < 3:
                await a.settle(kept, "working")
                seen += [letter.data for letter in await next_letters(a)]
            assert kept.data == b"kept"
            assert b"kept" not in seen

    async def next_letters(a: NatsMailboxes) -> list[Letter]:
        """What comes within a sixth of the time that a letter may be held."""
        pulling = asyncio.ensure_future(a.pull("to"))
        await asyncio.wait([pulling], timeout=0.1)
        if pulling.done():
            return pulling.result()
        pulling.cancel()
        return []

    run(work)


def test_what_is_broken_never_comes_again(any_server: NatsServer) -> None:
    async def work() -> None:
        async with opened(any_server, "A", ack_wait_s=0.3) as (a,):
            await store_all(a, "A", [b"broken", b"other"])
            assert await pull(a, 2, how="broken") == [b"broken", b"other"]
            await eventually(lambda: stored(any_server) == 0)

    run(work)


def test_a_full_mailbox_of_a_host_that_is_away_hinders_no_other(any_server: NatsServer) -> None:
    async def work() -> None:
        async with opened(any_server, "A", "live", letters_max=10) as (a, live):
            outcomes = await asyncio.gather(*(a.store("to", "dead", b"x") for _ in range(20)), return_exceptions=True)
            full = [error for error in outcomes if isinstance(error, MailboxFull)]
            assert (len(full), full[0].host) == (10, "dead")
            assert "mailbox of 'dead' is full" in str(full[0])
            for data in numbered(20):
                await a.store("to", "live", data)
                assert await pull(live, 1) == [data]
            async with opened(any_server, "dead", letters_max=10) as (dead,):
                assert await pull(dead, 10) == [b"x"] * 10
                await eventually(lambda: stored(any_server) == 0)
                await a.store("to", "dead", b"goes again")
                assert await pull(dead, 1) == [b"goes again"]

    run(work)


def test_the_next_one_of_this_host_gets_what_its_predecessor_had(any_server: NatsServer) -> None:
    """What was pulled comes after its time, and what was not at once."""

    async def work() -> None:
        async with opened(any_server, "A", ack_wait_s=0.5) as (a,):
            await store_all(a, "A", numbered(300))
            held = await a.pull("to")
            assert held[0].data == b"0"
        async with opened(any_server, "A", ack_wait_s=0.5) as (a,):
            assert sorted(set(await pull(a, 300))) == sorted(numbered(300))

    run(work)


def test_hosts_that_begin_at_once_make_the_same(any_server: NatsServer) -> None:
    async def work() -> None:
        hosts = [f"host-{number}" for number in range(8)]
        async with opened(any_server, *hosts) as boxes:
            await asyncio.gather(*(boxes[0].store("to", host, host.encode()) for host in hosts))
            assert await asyncio.gather(*(pull(one, 1) for one in boxes)) == [[host.encode()] for host in hosts]

    run(work)


# --- how large, how many ---


def test_a_letter_of_what_the_server_takes_and_one_of_a_byte_more(
    any_program: Path, start_server: Callable[..., NatsServer]
) -> None:
    server = start_server(any_program, config="max_payload: 65536")

    async def work() -> None:
        async with opened(server, "A") as (a,):
            assert a.part_bytes == 65_536 - 4_096
            await a.store("to", "A", bytes(65_536))
            with pytest.raises(LetterTooLarge, match="65537 bytes to 'A' is over 65536"):
                await a.store("to", "A", bytes(65_537))
            assert [len(data) for data in await pull(a, 1)] == [65_536]
            assert a.is_connected

    run(work)


def test_a_part_has_room_for_its_head_and_keeps_what_is_in_it_aligned(any_server: NatsServer) -> None:
    async def work() -> None:
        async with opened(any_server, "A", letter_bytes_max=100_001) as (a,):
            assert a.part_bytes == (100_001 - 4_096) // 64 * 64
            await a.store("to", "A", bytes(100_001))
            with pytest.raises(LetterTooLarge, match="over 100001"):
                await a.store("to", "A", bytes(100_002))

    run(work)


def test_a_host_that_does_not_pull_has_only_what_it_asked_for(any_server: NatsServer) -> None:
    """The rest waits at the server, whatever comes meanwhile: nothing is dropped, and it is in order."""
    count, size = 600, 100_000  # Nearly four times 16 MiB.

    async def work() -> None:
        async with opened(any_server, "A", "B") as (a, b):
            letters = [data.ljust(size, b".") for data in numbered(count)]
            await store_all(a, "B", letters)
            await eventually(lambda: b._session.inboxes["to"]._letters)
            got = await b.pull("to")
            assert 0 < len(got) * size <= 2 * (16 << 20)
            for letter in got:
                await b.settle(letter, "done")
            rest = await pull(b, count - len(got))
            assert [letter.data for letter in got] + rest == letters

    run(work)


# --- what is wrong ---


@pytest.mark.parametrize("name", ["", "a.b", "a b", "a>", "a*", "ü", "a" * 65, "a\n"])
def test_names_that_nothing_on_a_server_may_have(name: str) -> None:
    with pytest.raises(UsageError, match=r"the host .* is not 1 to 64 of the characters"):
        NatsMailboxes("nats://127.0.0.1:1", "shop", name)
    with pytest.raises(UsageError, match=r"the cluster .* is not 1 to 64 of the characters"):
        NatsMailboxes("nats://127.0.0.1:1", name, "A")


def test_a_box_that_there_is_not_and_a_host_whose_name_is_none(server: NatsServer) -> None:
    async def work() -> None:
        async with opened(server, "A") as (a,):
            with pytest.raises(UsageError, match="no mailbox 'two'"):
                await a.store("two", "A", b"x")
            with pytest.raises(UsageError, match=r"the host 'B\.\*'"):
                await a.store("to", "B.*", b"x")

    run(work)


def test_who_waits_when_they_are_closed_hears_of_it(server: NatsServer) -> None:
    async def work() -> None:
        async with opened(server, "A") as (a,):
            pulling = asyncio.ensure_future(a.pull("to"))
            await asyncio.wait([pulling], timeout=0)
            await a.close()
            for call in (pulling, a.pull("back"), a.store("to", "A", b"x"), a.shout(b"x")):
                with pytest.raises(MailboxesClosed, match="were closed"):
                    await call

    run(work)
