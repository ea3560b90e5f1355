"""Clients that break the protocol: their link is closed with a reason in the log, and nobody else notices."""

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgpack
import pytest

from eventbus_mp import Event, EventBus
from eventbus_mp.errors import EventBusError
from eventbus_mp.memory.shm import SHARED_MEMORY, SHM_DIR
from eventbus_mp.protocol import records
from eventbus_mp.protocol.client_events import Replied, SpanGranted, pack_client_event
from eventbus_mp.protocol.decoders import encode_request
from eventbus_mp.protocol.messages import SPAN_CANCELLED, SPAN_NEEDED
from eventbus_mp.protocol.requests import (
    Drain,
    GetHistory,
    LeaseEvent,
    ListTopics,
    MarkEvents,
    NameReason,
    NameTopic,
    RegisterTopic,
    ReportState,
    StopHosting,
    Subscribe,
)
from eventbus_mp.runtime import handshake
from eventbus_mp.runtime.rundir import RunDir
from tests.faults.helpers import await_links, taken_from
from tests.faults.malformed import Mutator
from tests.faults.rogue import Rogue
from tests.helpers import subscribe_fields, subscribe_request

Make = Callable[..., EventBus]
Attack = Callable[[Rogue, Any], list[bytes]]


def notified(rogue: Rogue, segment: int, offset: int, length: int, *, topic: int = 1, sequence: int = 0) -> bytes:
    return records.pack_notified(topic, segment, offset, length, 0, sequence or rogue.first_sequence, False)


def request(kind: int, body: bytes) -> bytes:
    return records.pack_request(kind, 1, body)


def three_events_in_one_place(rogue: Rogue) -> list[bytes]:
    span, first = rogue.span(), rogue.first_sequence
    return [notified(rogue, span.segment, span.offset, 1 << 17, sequence=first + n) for n in range(3)]


BREACHES: dict[str, tuple[Attack, str]] = {
    "a segment that is not there": (lambda rogue, place: [notified(rogue, 99, 1 << 18, 64)], "may write"),
    "the table of a segment": (lambda rogue, place: [notified(rogue, 1, 0, 64)], "may write"),
    "another's span": (lambda rogue, place: [notified(rogue, place.segment, place.offset, 64)], "may write"),
    "more than the span": (
        lambda rogue, place: [notified(rogue, (own := rogue.span()).segment, own.offset + own.length - 64, 128)],
        "may write",
    ),
    "an event without a header": (
        lambda rogue, place: [notified(rogue, (own := rogue.span()).segment, own.offset, 8)],
        "8 bytes",
    ),
    "one place for many events": (lambda rogue, place: three_events_in_one_place(rogue), "than it has"),
    "a topic that was never there": (
        lambda rogue, place: [notified(rogue, (own := rogue.span()).segment, own.offset, 64, topic=77)],
        "never given out",
    ),
    "another's sequence": (
        lambda rogue, place: [
            notified(rogue, (own := rogue.span()).segment, own.offset, 64, sequence=place.sequence + 1)
        ],
        "does not follow",
    ),
    "a sequence twice": (
        lambda rogue, place: [notified(rogue, (own := rogue.span()).segment, own.offset + at, 64) for at in (0, 64)],
        "does not follow",
    ),
    "sealing another's span": (
        lambda rogue, place: [records.pack_span_sealed(place.segment, place.offset)],
        "not write",
    ),
    "sealing twice": (
        lambda rogue, place: [records.pack_span_sealed((own := rogue.span()).segment, own.offset)] * 2,
        "not write",
    ),
    "a span of nothing": (lambda rogue, place: [records.pack_span_wanted(0, SPAN_NEEDED)], "0 bytes"),
    "a lease of nothing": (lambda rogue, place: [records.pack_span_leased(1, 9, 0, 64, 5)], "where nothing is"),
    "a lease across spans": (
        lambda rogue, place: [records.pack_span_leased(1, place.segment, place.offset, 1 << 30, place.sequence)],
        "where nothing is",
    ),
    "a release of nothing": (lambda rogue, place: [records.pack_span_released(place.sequence)], "does not lease"),
    "an outcome of no kind": (lambda rogue, place: [records.pack_settled(1, 99, place.sequence, 1)], "outcome 99"),
    "nothing settled": (lambda rogue, place: [records.pack_settled(1, 1, place.sequence, 0)], "at once"),
    "a mark of no kind": (
        lambda rogue, place: [encode_request(MarkEvents(0, 1, "taker", msgpack.packb(None), "", 99, "", []))],
        "outcome 99",
    ),
    "a subscriber without a name": (
        lambda rogue, place: [encode_request(subscribe_request(0, 1, "", ["a"], 1))],
        "credit of 1",
    ),
    "a lease before its event": (
        lambda rogue, place: [encode_request(LeaseEvent(0, 1, place.topic, 0, 64, place.sequence))],
        "where that is not",
    ),
    "a lease of less than nothing": (
        lambda rogue, place: [encode_request(LeaseEvent(0, 1, place.topic, place.offset, -1, place.sequence))],
        "where that is not",
    ),
    "a request of no kind": (lambda rogue, place: [request(99, b"\x90")], "request 99"),
    "a request that is not msgpack": (lambda rogue, place: [request(0, b"\xc1")], "not msgpack"),
    "too many fields": (lambda rogue, place: [request(0, msgpack.packb(["a", "b"]))], "1 fields"),
    "a field of a wrong type": (lambda rogue, place: [request(0, msgpack.packb([1]))], "a int where"),
    "a request of a megabyte": (lambda rogue, place: [request(0, bytes(1 << 20) + b"x")], "is over"),
    "a kind of no kind": (lambda rogue, place: [records.RECORD.pack(99, 0, 0, 0, 0, 0, 0, 0)], "kind 99"),
    "the manager's words": (lambda rogue, place: [pack_client_event(SpanGranted(1, 0, 64, True))], "kind 20"),
}


@pytest.fixture
def shadow(bus: EventBus) -> Any:
    """Of an event that waits in another client's inbox."""
    bus.inbox("taker", ["a"], credit=1000)
    return bus.notify(Event("before", "a", b"before"))


def others_notice_nothing(bus: EventBus, run_dir: Path) -> None:
    with bus.inbox("taker", ["a"], credit=1000) as inbox:
        bus.notify(Event("after", "a", b"after"))
        assert taken_from(bus, inbox, until="after") == [("before", b"before"), ("after", b"after")]
    assert bus.statistics().events_unsettled == 0
    assert "goes on in its place" not in log_of(run_dir)


def log_of(run_dir: Path) -> str:
    return RunDir(run_dir, "test").log.read_text()


@pytest.mark.parametrize("name", BREACHES)
def test_a_breach_is_the_end_of_its_link(make_bus: Make, run_dir: Path, name: str) -> None:
    bus = make_bus(topics=["a", "b"], check_invariants=True)
    inbox = bus.inbox("taker", ["a"], credit=1000)
    place = bus.notify(Event("before", "a", b"before"))._place
    attack, reason = BREACHES[name]
    with Rogue(run_dir) as rogue:
        rogue.ask(Subscribe, *subscribe_fields("rogue", ["b"], 5))
        rogue.send(*attack(rogue, place))
        assert rogue.is_cut_off()
    await_links(bus, 1)
    assert reason in log_of(run_dir).partition("broke the protocol and is cut off: ")[2]
    bus.notify(Event("after", "a", b"after"))
    assert taken_from(bus, inbox, until="after") == [("before", b"before"), ("after", b"after")]
    assert bus.statistics().events_unsettled == 0
    assert "goes on in its place" not in log_of(run_dir)


NO_DELIVERIES: list[Any] = [["x"], 7]
NO_PATTERNS: list[Any] = [1, "("]
HARMLESS: dict[str, Callable[[Rogue, Any], bytes]] = {
    "settles what it does not have": lambda rogue, place: records.pack_settled(1, 1, place.sequence, 1),
    "settles a million": lambda rogue, place: records.pack_settled(1, 1, place.sequence & ~0xFF, 1 << 20) * 1000,
    "settles for nobody": lambda rogue, place: records.pack_settled(1 << 31, 1, place.sequence, 1),
    "wants it all": lambda rogue, place: records.pack_span_wanted((1 << 32) - 1, SPAN_NEEDED),
    "cancels what it did not ask": lambda rogue, place: records.pack_span_wanted(5, SPAN_CANCELLED),
    "a reason that is never given": lambda rogue, place: encode_request(NameReason(0, 1, 64, "y" * 9999)),
    "takes what it does not have": lambda rogue, place: records.pack_taken(1, place.sequence & ~0xFF, 1 << 20) * 1000,
    "stops what it does not host": lambda rogue, place: encode_request(StopHosting(0, 1, -5, False)),
    "compares without being asked": lambda rogue, place: encode_request(ReportState(0, 1, 1, NO_DELIVERIES, [[1]])),
    "asks for a strange topic": lambda rogue, place: encode_request(NameTopic(0, 1, -1)),
    "patterns that are none": lambda rogue, _: encode_request(subscribe_request(0, 1, "x", NO_PATTERNS, 1)),
    "drains a pattern that is none": lambda rogue, place: encode_request(Drain(0, 1, "(")),
    "a config that cannot be read": lambda rogue, _: encode_request(subscribe_request(0, 1, "x", [], config=b"\xc1")),
    "the story of no event": lambda rogue, place: encode_request(GetHistory(0, 1, -1, "", "", -1, -1, -1, [-1])),
}


@pytest.mark.parametrize("name", HARMLESS)
def test_nonsense_that_harms_nobody(make_bus: Make, run_dir: Path, name: str) -> None:
    bus = make_bus(topics=["a", "b"])
    inbox = bus.inbox("taker", ["a"], credit=1000)
    place = bus.notify(Event("before", "a", b"before"))._place
    with Rogue(run_dir) as rogue:
        rogue.send(HARMLESS[name](rogue, place), encode_request(ListTopics(0, 2)))
        rogue.hear(Replied)
        assert bus.statistics().links == 2
        bus.subscribers()
        bus.notify(Event("after", "a", b"after"))
        assert taken_from(bus, inbox, until="after") == [("before", b"before"), ("after", b"after")]


def test_half_a_frame_and_the_end(bus: EventBus, run_dir: Path, shadow: Any) -> None:
    frames = [
        records.pack_notified(1, 1, 1 << 18, 64, 0, 1, False),
        records.pack_settled(1, 1, 5, 1),
        request(0, msgpack.packb(["x" * 900])),
    ]
    for frame in frames:
        for length in (1, len(frame) // 2, len(frame) - 1):
            with Rogue(run_dir) as rogue:
                rogue.send(frame[:length])
    await_links(bus, 1)
    others_notice_nothing(bus, run_dir)


def test_garbage_of_every_kind(bus: EventBus, run_dir: Path, shadow: Any) -> None:
    print("seed", seed := int.from_bytes(os.urandom(4), "little"))
    mutator = Mutator(seed)
    for _ in range(60):
        with Rogue(run_dir) as rogue:
            rogue.send(*[mutator.frame(rogue.welcome.link) for _ in range(50)])
    await_links(bus, 1)
    bus.register_topic("a")  # Any client may unregister it, and now and then one of these has.
    assert log_of(run_dir).count("is cut off") > 30
    others_notice_nothing(bus, run_dir)


def test_one_that_never_reads_its_pipe(make_bus: Make, run_dir: Path) -> None:
    bus = make_bus(topics=[f"{n:0200d}" for n in range(2000)])
    bus.topics()
    with Rogue(run_dir) as rogue:
        for _ in range(20):
            rogue.send(encode_request(ListTopics(0, 2)) * 200)
        while bus.statistics().links > 1:
            rogue.send(encode_request(ListTopics(0, 2)) * 50)
    assert "it asks and does not read the answers" in log_of(run_dir)
    with open(f"/proc/{bus.statistics().manager_pid}/status") as status:
        peak = next(line for line in status if line.startswith("VmHWM"))
    assert int(peak.split()[1]) < 600_000


FLOODS: dict[str, Callable[[Rogue], list[bytes]]] = {
    "spans": lambda rogue: [records.pack_span_wanted(16 << 20, SPAN_NEEDED)] * 50_000,
    "drains": lambda rogue: [encode_request(Drain(0, n, "a")) for n in range(50_000)],
    "topics": lambda rogue: [encode_request(RegisterTopic(0, n, f"topic {n}")) for n in range(100_000)],
    "subscribers": lambda rogue: [encode_request(subscribe_request(0, n, f"s{n}", ["nothing"])) for n in range(20_000)],
}


@pytest.mark.parametrize("name", FLOODS)
def test_a_flood_is_bounded(bus: EventBus, run_dir: Path, shadow: Any, name: str) -> None:
    with Rogue(run_dir) as rogue:
        rogue.span()
        flood = FLOODS[name](rogue)
        for start in range(0, len(flood), 500):
            rogue.send(*flood[start : start + 500])
    await_links(bus, 1)
    assert bus.statistics().topics <= 1 << 16
    with bus.inbox("taker", ["a"], credit=1000) as inbox:
        bus.notify(Event("after", "a", b"after"))
        assert taken_from(bus, inbox, until="after")[0] == ("before", b"before")


def test_another_user_is_refused(bus: EventBus, run_dir: Path, shadow: Any, fork: Callable[..., Any]) -> None:
    if os.getuid():
        pytest.skip("only root can be somebody else")
    found = RunDir(run_dir, "test")
    segments = [SHM_DIR / name for name in SHARED_MEMORY.leftovers(found.segment_prefix)]
    assert segments

    def intrude(to_parent: Any) -> None:
        os.setgid(65534)
        os.setuid(65534)
        for path in segments:
            with pytest.raises(PermissionError):
                path.open("rb")
        to_parent.send("no way to the memory")
        to_parent.recv()
        with pytest.raises(EventBusError, match="cannot be reached"):
            EventBus("test", run_dir=str(run_dir), connect_timeout_s=1).topics()
        to_parent.send("no way to the bus")

    child = fork(intrude)
    assert child.hear() == "no way to the memory"
    child.tell()
    assert child.hear() == "no way to the bus"
    assert found.path.stat().st_mode & 0o077 == 0
    others_notice_nothing(bus, run_dir)


def test_another_user_who_gets_as_far_as_the_socket_is_refused(
    bus: EventBus, run_dir: Path, shadow: Any, fork: Callable[..., Any]
) -> None:
    if os.getuid():
        pytest.skip("only root can be somebody else")
    socket = RunDir(run_dir, "test").socket
    os.chmod(socket, 0o777)
    os.chmod(socket.parent, 0o711)
    here = os.open(socket.parent, os.O_PATH)

    def intrude(to_parent: Any) -> None:
        os.fchdir(here)
        os.setuid(65534)
        refused = pytest.raises(EventBusError, match="belongs to user 0, you are user 65534")
        with handshake.connect(Path("socket"), 10) as connection, refused:
            handshake.receive_welcome(connection)
        to_parent.send("refused")

    assert fork(intrude).hear() == "refused"
    os.close(here)
    assert "of user 65534 was refused" in log_of(run_dir)
    others_notice_nothing(bus, run_dir)


@pytest.mark.parametrize("count", [1, 2, 3, 5, 8, 13, 20])
def test_who_comes_as_others_die_is_not_taken_for_them(
    bus: EventBus, run_dir: Path, fork: Callable[..., Any], shadow: Any, count: int
) -> None:
    """In one round of the manager links end, others begin and get their descriptors' numbers, and then come the ends
    of the processes that had the first ones (chaos, seed 26)."""

    def die_in_two_steps(to_parent: Any) -> None:
        rogue = Rogue(run_dir)
        to_parent.send("connected")
        to_parent.recv()
        rogue.close()
        to_parent.send("closed")
        to_parent.recv()

    dying = [fork(die_in_two_steps) for _ in range(count)]
    assert {child.hear() for child in dying} == {"connected"}
    guests = [handshake.connect(RunDir(run_dir, "test").socket, 10.0) for _ in dying]
    pid = bus.statistics().manager_pid
    os.kill(pid, signal.SIGSTOP)
    for child in dying:
        child.tell()
        assert child.hear() == "closed"
    for guest in guests:
        guest.sendall(handshake.hello())
    for child in dying:
        child.kill()
    os.kill(pid, signal.SIGCONT)
    alive = []
    for guest in guests:
        with guest:
            _, incoming, outgoing = handshake.receive_welcome(guest)
        try:
            os.write(outgoing, encode_request(ListTopics(0, 2)))
            alive.append(bool(os.read(incoming, 1)))
        except BrokenPipeError:
            alive.append(False)
        os.close(incoming)
        os.close(outgoing)
    assert alive == [True] * len(guests)
