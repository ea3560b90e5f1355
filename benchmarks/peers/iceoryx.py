"""iceoryx2: publish-subscribe over shared memory, through its Python package; payloads are slices of bytes.

Small events travel as msgpack, copied into a loaned sample. An array is copied into the sample, behind its head, and
read in place by every subscriber. Nothing is dropped: a full subscriber makes the publisher retry. Competing for one
subscriber's events is not a thing it has.

Variants: in `iceoryx2` a subscriber that finds nothing sleeps for 0.1 ms, as the package's own examples do with
longer cycles: no system call an event, but no idle process either. In `iceoryx2-events` the publisher notifies a
listener after each sample, and nobody polls. `iceoryx2-loan` writes only the ends of each array while the clock runs,
as `bus-loan` does.

It does less than the bus: no acknowledgement (each consumer process counts what it has handled), and what a dead
consumer had is lost.
"""

from __future__ import annotations

import ctypes
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.counters import Counter, Counters, CountingRig
from benchmarks.peers.encoding import ALIGNMENT, head_of, join, pack, unpack
from eventbus_mp.bench.inplace import fill, read
from eventbus_mp.bench.interface import ConsumerTicket, Data, Layout, Peer, ProducerTicket, Rig, Source, Take
from eventbus_mp.bench.payloads import MIB

__all__ = ["IceoryxConsumer", "IceoryxPeer", "IceoryxProducer", "IceoryxRig", "IceoryxSource", "Services"]

SMALL_BYTES_MAX = 512
HEAD_BYTES = 4 * ALIGNMENT
"""In front of an array: the length of its head, and the head."""
SAMPLES, BUFFERED_BYTES_MAX = 1024, 64 * MIB
"""What a subscriber buffers: samples, or bytes if the samples are large."""
BORROWED = 4
POLL_INTERVAL_S = 0.0001
LOOK_INTERVAL_MS = 50
PREFIX = "ebmp-bench-iox-"


class IceoryxPeer(Peer):
    """Args:
    events: Whether a notification follows each sample; else subscribers poll.
    loans: Whether arrays are filled in place.
    """

    requires = ("iceoryx2",)

    def __init__(self, name: str, events: bool = False, loans: bool = False) -> None:
        self.name = name
        self._events = events
        self._loans = loans

    def supports(self, layout: Layout, paced: bool) -> bool:
        if self._loans and not layout.array_bytes:
            return False
        return super().supports(layout, paced) and layout.processes_each == 1

    @contextmanager
    def open(self, layout: Layout, directory: Path) -> Iterator[Rig]:
        prefix = f"{PREFIX}{os.getpid()}-"
        services = Services(layout, directory, prefix, self._events, self._loans)
        node = services.node()
        kept = [services.open(node, stage) for stage in range(layout.stages)]
        try:
            yield IceoryxRig(services)
        finally:
            del kept, node
            for left in Path("/dev/shm").glob(f"{prefix}*"):  # What a killed consumer could not remove.
                left.unlink(missing_ok=True)


class Services:
    """What every process needs to open the services of a run; it can be pickled."""

    def __init__(self, layout: Layout, directory: Path, prefix: str, events: bool, loans: bool) -> None:
        self.layout = layout
        self.directory = directory
        self.events = events
        self.loans = loans
        self._prefix = prefix
        self.slice_bytes = HEAD_BYTES + layout.array_bytes if layout.array_bytes else SMALL_BYTES_MAX
        self._buffered = max(BORROWED, min(SAMPLES, BUFFERED_BYTES_MAX // self.slice_bytes))

    def node(self) -> Any:
        import iceoryx2 as iox2

        iox2.set_log_level(iox2.LogLevel.Error)
        config = iox2.config.default()
        config.global_cfg.root_path = iox2.Path.new(f"{self.directory}/")
        config.global_cfg.prefix = iox2.FileName.new(self._prefix)
        handling = iox2.SignalHandlingMode.Disabled
        return iox2.NodeBuilder.new().config(config).signal_handling_mode(handling).create(iox2.ServiceType.Ipc)

    def open(self, node: Any, stage: int) -> tuple[Any, Any]:
        """(the samples' service, the notifications')."""
        import iceoryx2 as iox2

        layout = self.layout
        name = iox2.ServiceName.new(f"stage-{stage}")
        samples = (
            node.service_builder(name)
            .publish_subscribe(iox2.Slice[ctypes.c_uint8])
            .payload_alignment(iox2.Alignment.new(ALIGNMENT))
            .enable_safe_overflow(False)
            .history_size(0)
            .subscriber_max_buffer_size(self._buffered)
            .subscriber_max_borrowed_samples(BORROWED)
            .max_publishers(layout.producers)
            .max_subscribers(layout.subscribers)
            .open_or_create()
        )
        notifications = node.service_builder(name).event().open_or_create()
        return samples, notifications


class IceoryxRig(CountingRig):
    def __init__(self, services: Services) -> None:
        self.counters = Counters(services.directory)
        self._services = services

    def consumer(self, stage: int, subscriber: int, process: int) -> ConsumerTicket:
        return IceoryxConsumer(self._services, stage)

    def producer(self) -> ProducerTicket:
        return IceoryxProducer(self._services)


class IceoryxSource(Source):
    def __init__(self, services: Services, node: Any, stage: int) -> None:
        import iceoryx2 as iox2

        self._services = services
        samples, notifications = services.open(node, stage)
        self._publisher = (
            samples.publisher_builder()
            .initial_max_slice_len(services.slice_bytes)
            .max_loaned_samples(2)
            .backpressure_strategy(iox2.BackpressureStrategy.RetryUntilDelivered)
            .create()
        )
        self._notify = notifications.notifier_builder().create().notify if services.events else None
        self._filled = 0

    def publish(self, items: Iterable[Data]) -> None:
        send = self._send_small
        if self._services.layout.array_bytes:
            send = self._send_loan if self._services.loans else self._send_array
        notify = self._notify
        for data in items:
            send(data)
            if notify is not None:
                notify()

    def _send_small(self, data: Data) -> None:
        packed = pack(data)
        sample = self._publisher.loan_slice_uninit(len(packed))
        ctypes.memmove(sample.payload_ptr, packed, len(packed))
        sample.assume_init().send()

    def _send_array(self, data: Data) -> None:
        head, array = head_of(data), data["array"]
        sample = self._publisher.loan_slice_uninit(HEAD_BYTES + array.nbytes)
        place = sample.payload_ptr
        ctypes.memmove(place, bytes((len(head),)) + head, 1 + len(head))
        ctypes.memmove(place + HEAD_BYTES, array.ctypes.data, array.nbytes)
        sample.assume_init().send()

    def _send_loan(self, data: Data) -> None:
        array = data["array"]
        sample = self._publisher.loan_slice_uninit(array.nbytes)
        self._filled = fill(_as_array(sample.payload_ptr, array.nbytes), data, self._filled)
        sample.assume_init().send()


class IceoryxProducer(ProducerTicket):
    def __init__(self, services: Services) -> None:
        self._services = services

    @contextmanager
    def open(self) -> Iterator[Source]:
        yield IceoryxSource(self._services, self._services.node(), 0)


class IceoryxConsumer(ConsumerTicket):
    def __init__(self, services: Services, stage: int) -> None:
        self._services = services
        self._stage = stage

    def consume(self, take: Take, ready: Callable[[], None], stopping: threading.Event) -> None:
        services = self._services
        node = services.node()
        samples, notifications = services.open(node, self._stage)
        subscriber = samples.subscriber_builder().buffer_size(samples.static_config.subscriber_max_buffer_size).create()
        wait = self._wait(notifications)
        following = None
        if self._stage + 1 < services.layout.stages:
            following = IceoryxSource(services, node, self._stage + 1)
        decode = self._decoder()
        acknowledge, receive = Counter(services.directory).add, subscriber.receive
        ready()
        while not stopping.is_set():
            while (sample := receive()) is not None:
                data = decode(sample)
                take(data)
                if following is not None:
                    following.publish((data,))
                del data, sample  # Or the publisher would wait for them.
                acknowledge()
            wait()

    def _wait(self, notifications: Any) -> Callable[[], Any]:
        if not self._services.events:
            return lambda: time.sleep(POLL_INTERVAL_S)
        import iceoryx2 as iox2

        listener = notifications.listener_builder().create()
        timeout = iox2.Duration.from_millis(LOOK_INTERVAL_MS)
        return lambda: listener.timed_wait(timeout)

    def _decoder(self) -> Callable[[Any], Data]:
        size = self._services.layout.array_bytes
        if not size:
            return lambda sample: unpack(sample.payload().as_memory_view())
        if self._services.loans:
            return lambda sample: read(_as_array(sample.payload_ptr, size))
        return _array_event


def _array_event(sample: Any) -> Data:
    view = sample.payload().as_memory_view().cast("B")
    return join(view[1 : 1 + view[0]], view[HEAD_BYTES:])


def _as_array(address: int, size: int) -> Any:
    import numpy

    return numpy.frombuffer(memoryview((ctypes.c_uint8 * size).from_address(address)), numpy.int64)
