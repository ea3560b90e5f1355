"""A call that is made later, also when a signal handler raised while it was asked for."""

import threading
from collections.abc import Iterator

import pytest

from eventbus_mp.client.late_call import LateCall


class Interrupted(Exception):
    pass


@pytest.fixture
def called() -> threading.Event:
    return threading.Event()


@pytest.fixture
def late(called: threading.Event) -> Iterator[LateCall]:
    late = LateCall(called.set, 0.001)
    yield late
    late.close()


def interrupted(*_: object) -> None:
    raise Interrupted


def test_it_is_made_once_for_each_time_that_it_was_armed(late: LateCall, called: threading.Event) -> None:
    for _ in range(3):
        called.clear()
        late.arm()
        late.arm()
        assert called.wait(20)


@pytest.mark.parametrize("step", ["threading.Thread.start", "os.eventfd_write", "os.eventfd"])
def test_an_interrupted_arm_can_be_repeated(
    late: LateCall, called: threading.Event, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(step, interrupted)
        with pytest.raises(Interrupted):
            late.arm()
    assert not late.is_armed
    late.arm()
    assert called.wait(20)


def test_an_interrupted_arm_can_be_followed_by_the_end(late: LateCall, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", interrupted)
        with pytest.raises(Interrupted):
            late.arm()
    late.close()
    late.close()
    assert not [thread for thread in threading.enumerate() if thread.name == "eventbus_mp-late"]
