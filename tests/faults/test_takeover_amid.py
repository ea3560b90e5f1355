"""The manager is killed in the middle of each thing that takes more than one step; what living processes get comes
exactly once, and nothing stays.

Either the test kills it, where the feature's function says so, or it kills itself with the first message of the kind
that the table names: before it decides, before it carries out what it has decided, or when it has written that.
"""

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from eventbus_mp import EventBus
from eventbus_mp.runtime.rundir import RunDir
from tests.faults.interrupted import (
    Stage,
    a_batch_being_filled,
    a_batch_in_a_handler,
    a_demand_that_is_unanswered,
    a_history_in_pages,
    a_letter_sent_again,
    a_list_of_letters,
    a_recall,
    a_required_subscriber,
    a_retry_that_waits,
    marks_that_are_half_written,
    questions,
    what_is_released_for_later,
)
from tests.faults.interrupted_waits import a_change_that_is_followed, a_producer_that_waits_for_room

DOOM = """
import os, signal, sys

def arm():  # In the manager, which what is started forks; and not in what that forks in its turn, its standby.
    if armed:
        return
    armed.append(True)
    from eventbus_mp.core.bus import BusCore
    from eventbus_mp.protocol.effects import Tell
    from eventbus_mp.runtime.pipe import PipeEnds
    pid, handle, flush, is_met = os.getpid(), BusCore.handle, PipeEnds.flush, []

    def die_if(moment):
        if moment == {moment!r} and os.getpid() == pid:
            os.kill(pid, signal.SIGKILL)

    def handle_or_die(core, message, now_ns):
        names = [type(message).__name__]
        if names[0] == {kind!r}:
            die_if("before it is decided")
        effects = handle(core, message, now_ns)
        told = [effect.event if isinstance(effect, Tell) else effect for effect in effects]
        names += [type(effect).__name__ for effect in told]
        if {kind!r} in names:
            die_if("before it is carried out")
            is_met.append(True)
        return effects

    def flush_or_die(ends):
        result = flush(ends)
        if is_met:
            die_if("when it is carried out")
        return result

    BusCore.handle, PipeEnds.flush = handle_or_die, flush_or_die

armed = []
if "-m" in sys.argv:
    os.register_at_fork(after_in_child=arm)
"""
MOMENTS = ("in the middle", "before it is decided", "before it is carried out", "when it is carried out")


class Feature(NamedTuple):
    run: Callable[[Stage], None]
    kind: str
    """The message, or what follows from one (an effect, or the event that a process is told), at the first of which the
    manager kills itself."""


FEATURES = (
    Feature(a_batch_being_filled, "EventsNotified"),
    Feature(a_batch_in_a_handler, "DeliveriesSettled"),
    Feature(a_demand_that_is_unanswered, "Demand"),
    Feature(a_retry_that_waits, "DeliveriesSettled"),
    Feature(a_retry_that_waits, "TimePassed"),
    Feature(what_is_released_for_later, "DeliveriesSettled"),
    Feature(what_is_released_for_later, "DeliveriesTaken"),
    Feature(a_recall, "Recalled"),
    Feature(marks_that_are_half_written, "MarkEvents"),
    Feature(a_letter_sent_again, "ReportFailure"),
    Feature(a_letter_sent_again, "Redeliver"),
    Feature(a_list_of_letters, "ListDeadLetters"),
    Feature(a_history_in_pages, "GetHistory"),
    Feature(questions, "ExplainEvent"),
    Feature(questions, "GetSnapshot"),
    Feature(questions, "ListStuck"),
    Feature(a_required_subscriber, "RequireSubscribers"),
    Feature(a_producer_that_waits_for_room, "AwaitRoom"),
    Feature(a_producer_that_waits_for_room, "ResolveTopic"),
    Feature(a_change_that_is_followed, "FollowChanges"),
    Feature(a_change_that_is_followed, "Subscribe"),
)


@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("feature", FEATURES, ids=lambda feature: f"{feature.run.__name__}-{feature.kind}")
def test_it_is_as_if_nothing_had_happened(
    make_bus: Callable[..., EventBus],
    fork: Callable[..., Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    feature: Feature,
    moment: str,
) -> None:
    by_hand = moment == MOMENTS[0]
    if feature.kind == "Recalled" and moment == "before it is decided":
        pytest.skip("it is not a message, but what follows from one")
    if by_hand and feature.run in [other.run for other in FEATURES[: FEATURES.index(feature)]]:
        pytest.skip("the same as with another kind")
    (tmp_path / "sitecustomize.py").write_text(DOOM.format(kind=feature.kind, moment=moment))
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{Path(__file__).parents[2]}")

    def kill(pid: int = 0) -> None:
        if by_hand:
            os.kill(pid or stage.bus.statistics().manager_pid, signal.SIGKILL)

    stage = Stage(make_bus, fork, kill)
    feature.run(stage)
    now = stage.bus.snapshot()
    assert now.manager.takeovers >= 1, "the manager did not come to the point"
    assert now.events.unsettled == 0
    assert now.memory.bytes_leased == 0
    assert [item.in_flight for item in now.subscribers] == [0] * len(now.subscribers)
    assert [item.in_flight for item in now.processes] == [0] * len(now.processes)
    assert "Traceback" not in RunDir(tmp_path / "run", "test").log.read_text()
