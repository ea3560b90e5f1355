"""What a process reports to a manager that went on for another: only what both know of is taken back."""

from eventbus_mp import BusConfig
from eventbus_mp.core.bus import BusCore
from eventbus_mp.protocol.effects import CloseLink, GrantSpan
from eventbus_mp.protocol.messages import SPAN_NEEDED, LinkOpened, ManagerReplaced, SpanSealed, SpanWanted
from eventbus_mp.protocol.requests import ReportState

LINK, MANAGER = 1, 77


def test_a_place_that_was_given_back_and_granted_again_is_kept() -> None:
    """Found by chaos, seed 13: the process had not seen the second grant when it reported what it has."""
    core = BusCore(BusConfig(memory_bytes_max=1 << 20, check_invariants=True), 0)
    core.handle(LinkOpened(LINK, 4711), 0)

    def grant() -> tuple[int, int]:
        effects = core.handle(SpanWanted(LINK, 1 << 18, SPAN_NEEDED), 0)
        return next((item.segment, item.offset) for item in effects if isinstance(item, GrantSpan))

    place = grant()
    core.handle(ManagerReplaced(MANAGER), 0)
    core.handle(SpanSealed(LINK, *place), 0)
    assert grant() == place
    core.handle(ReportState(LINK, 0, MANAGER, [], []), 0)
    effects = core.handle(SpanSealed(LINK, *place), 0)
    assert not [item for item in effects if isinstance(item, CloseLink)]


def test_a_span_that_the_process_never_heard_of_is_taken_back() -> None:
    core = BusCore(BusConfig(memory_bytes_max=1 << 20, check_invariants=True), 0)
    core.handle(LinkOpened(LINK, 4711), 0)
    core.handle(SpanWanted(LINK, 1 << 18, SPAN_NEEDED), 0)
    core.handle(ManagerReplaced(MANAGER), 0)
    core.handle(ReportState(LINK, 0, MANAGER, [], []), 0)
    assert core.state.spans.used_bytes == 0
