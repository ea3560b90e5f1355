"""Letters between hosts: stored, pulled, settled, given out again, refused."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from eventbus_mp.addons.bridge.mailboxes import (
    NatsMailboxes,
)
from tests.addons.bridge.nats_servers import NatsServer, eventually, run


@asynccontextmanager
async def opened(server: NatsServer, *hosts: str, **how: Any) -> AsyncIterator[tuple[NatsMailboxes, ...]]:
    """Mailboxes of these hosts on one server, opened at the same time."""
    found = tuple(NatsMailboxes(server.url, "shop", host, **how) for host in hosts)
    try:
        await asyncio.gather(*(one.open() for one in found))
        yield found
    finally:
        for one in found:
            await one.close()


async def pull(mailboxes: NatsMailboxes, count: int, box: str = "to", how: str = "done") -> list[bytes]:
    """So many letters, settled as they come."""
    found: list[bytes] = []
    while len(found) < count:
        for letter in await mailboxes.pull(box):
            found.append(letter.data)
            await mailboxes.settle(letter, how)
    return found


def numbered(count: int) -> list[bytes]:
    return [b"%d" % number for number in range(count)]


# --- what a letter goes through ---


def test_letters_come_in_their_order_and_each_box_to_its_own(any_server: NatsServer) -> None:
    async def work() -> None:
        async with opened(any_server, "A", "B") as (a, b):
            await asyncio.gather(*(a.store("to", "B", data) for data in numbered(1_000)), a.store("back", "B", b"back"))
            await b.store("to", "A", b"for A")
            assert await pull(b, 1_000) == numbered(1_000)
            assert await pull(b, 1, "back") == [b"back"]
            assert await pull(a, 1) == [b"for A"]
            await eventually(lambda: stored(any_server) == 0)

    run(work)


def test_what_is_not_settled_in_time_comes_again(any_server: NatsServer) -> None:
    async def work() -> None:
        async with opened(any_server, "A", ack_wait_s=0.5) as (a,):
            await a.store("to", "A", b"x")
            (first,) = await a.pull("to")
            (again,) = await a.pull("to")
            assert (first.data, again.data) == (b"x", b"x")
            await a.settle(again, "done")
            await eventually(lambda: stored(any_server) == 0)

    run(work)


def stored(server: NatsServer, cluster: str = "shop") -> int:
    """How many letters the server has."""
    accounts = server.monitor("jsz?streams=true&accounts=true")["account_details"]
    details = (detail for account in accounts for detail in account["stream_detail"])
    return next(int(detail["state"]["messages"]) for detail in details if detail["name"] == f"EB_{cluster}")
