"""Mailboxes as a test uses them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from eventbus_mp.addons.bridge.mailboxes import NatsMailboxes
from tests.addons.bridge.nats_servers import NatsServer

__all__ = ["numbered", "opened", "pull", "store_all", "stored"]


@asynccontextmanager
async def opened(server: Any, *hosts: str, **how: Any) -> AsyncIterator[tuple[NatsMailboxes, ...]]:
    """Mailboxes of these hosts on one server, which has a `url`, or on several, opened at the same time."""
    urls = how.pop("urls", None) or server.url
    found = tuple(NatsMailboxes(urls, "shop", host, **how) for host in hosts)
    try:
        await asyncio.gather(*(one.open() for one in found))
        yield found
    finally:
        for one in found:
            await one.close()


async def store_all(mailboxes: NatsMailboxes, host: str, letters: list[bytes], box: str = "to") -> None:
    await asyncio.gather(*(mailboxes.store(box, host, data) for data in letters))


async def pull(mailboxes: NatsMailboxes, count: int, box: str = "to", how: str = "done") -> list[bytes]:
    """At least so many letters, settled as they come."""
    found: list[bytes] = []
    while len(found) < count:
        letters = await mailboxes.pull(box)
        found += [letter.data for letter in letters]
        await asyncio.gather(*(mailboxes.settle(letter, how) for letter in letters))
    return found


def numbered(count: int) -> list[bytes]:
    return [b"%d" % number for number in range(count)]


def stored(server: NatsServer, cluster: str = "shop") -> int:
    """How many letters the server has."""
    accounts = server.monitor("jsz?streams=true&accounts=true")["account_details"]
    details = (detail for account in accounts for detail in account["stream_detail"])
    return next(int(detail["state"]["messages"]) for detail in details if detail["name"] == f"EB_{cluster}")
