"""What the core answers to requests about receipts, and what it does not take."""

import pytest

from eventbus_mp import BusConfig
from eventbus_mp.core.bus import BusCore
from eventbus_mp.protocol import requests
from eventbus_mp.protocol.effects import CloseLink, Reply
from eventbus_mp.protocol.messages import DeliveriesSettled, LinkLost, LinkOpened, Outcome
from tests.core.test_requests import LINK, PID, answer, notified
from tests.helpers import subscribe_fields


@pytest.fixture
def core():
    core = BusCore(BusConfig(memory_bytes_max=1 << 20, check_invariants=True, receipts_max=20), 0)
    core.handle(LinkOpened(LINK, PID), 0)
    return core


def tagged(core, first, *tags, dropped=0):
    fields = (LINK << 40) + first, bytes(map(len, tags)), b"".join(tags), dropped
    return core.handle(requests.Tag(LINK, 0, 1, *fields), 0)


def test_receipts_are_told_when_their_events_are_settled(core):
    answer(core, requests.Subscribe, *subscribe_fields("s", ["a"], 2, config=b""))
    assert answer(core, requests.OpenReceipts, "orders") == [1, 20, 0]
    assert answer(core, requests.ListReceipts, 1, 0) == []
    assert tagged(core, 1, b"x", b"yy", b"zzz", dropped=1) == []
    notified(core, "a", "ab")
    first = (LINK << 40) + 1
    assert answer(core, requests.ListReceipts, 1, 0) == [[[first, 3], [first, 2], b"\1\2\3", b"xyyzzz"]]
    assert answer(core, requests.ListReceipts, 1, 1) == []
    assert answer(core, requests.TakeReceipts, 1, 9, True) == [[[], [], [first + 2, 1]]]
    assert core.handle(requests.TakeReceipts(LINK, 8, 1, 9, True), 0) == []
    assert answer(core, requests.TakeReceipts, 1, 9, False) == []
    effects = core.handle(DeliveriesSettled(LINK, 1, Outcome.COMPLETED, [(first + 1, 1)]), 0)
    assert effects == [Reply(LINK, 8, [[[["s", b"", ""]], [0], [first + 1, 1]]])]
    assert core.handle(requests.ConfirmReceipts(LINK, 0, 1, [first, 3]), 0) == []
    assert answer(core, requests.ListReceipts, 1, 0) == [[[first, 1], [first, 1], b"\1", b"x"]], "unsettled: it stays"


@pytest.mark.parametrize(
    "message",
    [
        requests.Tag(LINK, 0, 2, (LINK << 40) + 9, b"\1", b"x", 0),
        requests.Tag(LINK, 0, 1, (LINK << 40) + 9, b"", b"", 0),
        requests.Tag(LINK, 0, 1, (LINK << 40) + 9, b"\0", b"", 0),
        requests.Tag(LINK, 0, 1, (LINK << 40) + 9, b"\1\1", b"x", 0),
        requests.Tag(LINK, 0, 1, (LINK << 40) + 9, b"\x41", b"x" * 65, 0),
        requests.Tag(LINK, 0, 1, (LINK << 40) + 9, b"\1" * 257, b"x" * 257, 0),
        requests.Tag(LINK, 0, 1, (LINK << 40) + 9, b"\1", b"x", 2),
        requests.Tag(LINK, 0, 1, (LINK << 40) + 9, b"\1", b"x", -1),
        requests.Tag(LINK, 0, 1, (LINK << 40) + 1, b"\1", b"x", 0),
        requests.Tag(LINK, 0, 1, (LINK << 40) + 3, b"\1", b"x", 0),
        requests.Tag(LINK, 0, 1, (LINK + 1 << 40) + 9, b"\1", b"x", 0),
        requests.Tag(LINK, 0, 1, -9, b"\1", b"x", 0),
        requests.Tag(LINK, 0, 1, (LINK << 40) + 9, b"\1" * 19, b"x" * 19, 0),
        requests.ListReceipts(LINK, 1, 2, 0),
        requests.ListReceipts(LINK, 1, 1, -1),
        requests.TakeReceipts(LINK, 1, 1, 0, True),
        requests.TakeReceipts(LINK, 1, 1, 1 << 40, False),
        requests.ConfirmReceipts(LINK, 0, 1, [1]),
        requests.ConfirmReceipts(LINK, 0, 1, [1, -1]),
        requests.ConfirmReceipts(LINK, 0, 1, [1, 1 << 40]),
        requests.CloseReceipts(LINK, 0, 2),
    ],
    ids=str,
)
def test_what_no_client_says_of_receipts_closes_its_link(core, message):
    answer(core, requests.OpenReceipts, "orders")
    notified(core, "a")
    assert tagged(core, 2, b"x", b"y") == []
    assert [type(effect) for effect in core.handle(message, 0)] == [CloseLink]


def test_a_name_that_nobody_has_and_under_which_nothing_is_kept_is_forgotten(core, monkeypatch):
    monkeypatch.setattr("eventbus_mp.core.requests.receipts.BOXES_MAX", 2)
    answer(core, requests.OpenReceipts, "a")
    answer(core, requests.OpenReceipts, "b")
    [refusal] = core.handle(requests.OpenReceipts(LINK, 1, "c"), 0)
    assert "takes no more" in refusal.text
    assert core.handle(requests.CloseReceipts(LINK, 0, 1), 0) == []
    assert answer(core, requests.OpenReceipts, "c")[0] == 3
    core.handle(requests.Tag(LINK, 0, 3, (LINK << 40) + 1, b"\1", b"x", 0), 0)
    core.handle(LinkLost(LINK, crashed=True), 0)
    assert not core.state.boxes.by_name, "its record never came"


@pytest.mark.parametrize("end", ["another event follows", "link lost"])
def test_a_closed_name_is_forgotten_as_soon_as_none_of_its_tags_can_get_an_event(core, end):
    answer(core, requests.OpenReceipts, "closed")
    answer(core, requests.OpenReceipts, "open")
    assert tagged(core, 1, b"x", b"y") == []
    core.handle(requests.Tag(LINK, 0, 2, (LINK << 40) + 3, b"\1", b"z", 0), 0)
    assert core.handle(requests.CloseReceipts(LINK, 0, 1), 0) == []
    assert list(core.state.boxes.by_name) == ["closed", "open"], "the records of its tags may be in the pipe"
    if end == "link lost":
        core.handle(LinkLost(LINK, crashed=True), 0)
        assert not core.state.boxes.by_name
    else:
        notified(core, "a", first=4)
        assert list(core.state.boxes.by_name) == ["open"], "a process has it open, so it stays, empty as it is"
        assert answer(core, requests.OpenReceipts, "closed") == [3, 20, 0]
