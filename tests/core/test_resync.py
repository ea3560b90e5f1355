"""What a process tells a manager that went on for another: only what both mean is taken back."""

from eventbus_mp import BusConfig
from eventbus_mp import messages as m
from eventbus_mp.core.bus import BusCore
from eventbus_mp.effects import CloseLink, GrantSpan

LINK, MANAGER = 1, 77


def test_a_place_that_was_given_back_and_granted_again_is_kept() -> None:
    """Found by chaos, seed 13: the process had not seen the second grant when it told what it has."""
    core = BusCore(BusConfig(memory_bytes_max=1 << 20, check_invariants=True), 0)
    core.handle(m.LinkOpened(LINK, 4711), 0)

    def grant() -> tuple[int, int]:
        effects = core.handle(m.SpanWanted(LINK, 1 << 18, m.SPAN_NEEDED), 0)
        return next((item.segment, item.offset) for item in effects if isinstance(item, GrantSpan))

    place = grant()
    core.handle(m.ManagerReplaced(MANAGER), 0)
    core.handle(m.SpanSealed(LINK, *place), 0)
    assert grant() == place
    core.handle(m.ReportState(LINK, 0, MANAGER, [], []), 0)
    effects = core.handle(m.SpanSealed(LINK, *place), 0)
    assert not [item for item in effects if isinstance(item, CloseLink)]


def test_a_span_that_the_process_never_heard_of_is_taken_back() -> None:
    core = BusCore(BusConfig(memory_bytes_max=1 << 20, check_invariants=True), 0)
    core.handle(m.LinkOpened(LINK, 4711), 0)
    core.handle(m.SpanWanted(LINK, 1 << 18, m.SPAN_NEEDED), 0)
    core.handle(m.ManagerReplaced(MANAGER), 0)
    core.handle(m.ReportState(LINK, 0, MANAGER, [], []), 0)
    assert core.state.spans.used_bytes == 0
