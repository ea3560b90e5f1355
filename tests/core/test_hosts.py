"""Subscribers of several hosts: who they are, and whose word counts."""

import pytest

from eventbus_mp import BusConfig
from eventbus_mp.core.bus import BusCore
from eventbus_mp.protocol import requests
from eventbus_mp.protocol.effects import CloseLink, Reply
from eventbus_mp.protocol.messages import LinkOpened
from tests.helpers import subscribe_fields, subscribe_request

LINK, PID = 1, 4711


@pytest.fixture
def core():
    core = BusCore(BusConfig(memory_bytes_max=1 << 20, check_invariants=True), 0)
    core.handle(LinkOpened(LINK, PID), 0)
    return core


def answer(core, kind, *fields):
    [reply] = [effect for effect in core.handle(kind(LINK, 1, *fields), 0) if isinstance(effect, Reply)]
    return reply.value


@pytest.mark.parametrize("more", [{"scope": "galaxy"}, {"scope": ""}, {"host": "B"}])
def test_nonsense_about_where_a_subscriber_is_closes_the_link(core, more):
    [closed] = core.handle(subscribe_request(LINK, 1, "s", ["a"], **more), 0)
    assert type(closed) is CloseLink


def test_the_newest_scope_holds(core):
    for scope in requests.SCOPES:
        answer(core, requests.Subscribe, *subscribe_fields("s", ["a"], scope=scope))
        [row] = answer(core, requests.ListSubscribers, None)
        assert (row["scope"], row["home_pids"]) == (scope, [PID])


def test_subscribers_of_several_hosts_are_several(core):
    here = answer(core, requests.Subscribe, *subscribe_fields("s", ["a"]))
    there = answer(core, requests.Subscribe, *subscribe_fields("s", ["a"], host="B", forwards=True))
    assert here != there
    assert answer(core, requests.Unsubscribe, "s", b"\xc0", "C") is False
    assert answer(core, requests.Unsubscribe, "s", b"\xc0", "B") is True
    [row] = answer(core, requests.ListSubscribers, None)
    assert row["host"] == ""
