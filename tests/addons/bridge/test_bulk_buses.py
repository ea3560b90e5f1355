"""A large event from the memory of one bus into that of another, with one copy on each side."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from eventbus_mp import Event, EventBus, SubscriberKey
from eventbus_mp.addons.bridge.bulk import BulkClient
from tests.addons.bridge.bulk import LIFE, TOKEN, address_of, serving


def test_an_array_goes_from_bus_to_bus(
    make_bus: Callable[..., EventBus], bulk_client: BulkClient, tmp_path: Path
) -> None:
    here, there = make_bus("test", topics=["image"]), make_bus("other", topics=["image"])
    inbox, receipts = there.inbox("show", ["image"]), there.receipts("bridge")
    with here.forwarder(SubscriberKey("show", None, "there"), ["image"]) as forwarder:
        here.notify_many(Event(str(n), "image", np.full(200_000, n), occurred_at=n, source="here") for n in range(3))
        raws: dict[int, bytes | memoryview] = {}
        while len(raws) < 3:
            raws |= {raw.sequence: raw.payload for raw in forwarder.take(10, 20)}
        with serving(lambda life, sequence: memoryview(raws[sequence])) as server:
            for sequence, payload in raws.items():
                with receipts.loan_raw("image", len(payload), tag=b"%d" % sequence) as loan:
                    bulk_client.fetch(address_of(server), TOKEN, LIFE, sequence, len(payload), loan.buffer)
        for payload in raws.values():
            assert isinstance(payload, memoryview)
            payload.release()
        forwarder.settle([(sequence, 1) for sequence in raws])
        here.drain(timeout_s=20)
    for n in range(3):
        shadow = inbox.get(20)
        assert shadow is not None
        event = there.fetch_event(shadow)
        assert (event.id, event.source, event.occurred_at) == (str(n), "here", n)
        assert (event.data == n).all()
        assert event.data.ctypes.data % 64 == 0
        inbox.complete(shadow)
        del event
    assert sum(len(receipt.tags) for receipt in receipts.get(timeout_s=20)) == 3
