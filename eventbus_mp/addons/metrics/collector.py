"""What a scrape asks, and whom."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace

from prometheus_client import CollectorRegistry
from prometheus_client.core import Metric
from prometheus_client.exposition import choose_encoder

from eventbus_mp import BusConfig, EventBus, EventBusError, Snapshot, UsageError
from eventbus_mp.addons.checks import checked_texts
from eventbus_mp.addons.journal.figures import Figures, read_figures
from eventbus_mp.addons.metrics.families import TOPICS_MAX, families
from eventbus_mp.addons.metrics.journal import journal_families
from eventbus_mp.addons.observer import Observer

__all__ = ["BusCollector", "exposition"]

SCRAPE_TIMEOUT_S = 1.0
SHARE = 100
"""If there are more topics than have samples of their own, they are asked for again after so many times what it took:
some seconds at 10,000 topics, less than what lies between two scrapes of Prometheus."""


class BusCollector:
    """A collector for `CollectorRegistry.register`: the metrics of one or more buses.

    Making and registering it connects to nothing. A scrape asks each bus, which takes a second at most; a bus that does
    not run or does not answer in that time has the sample `eventbus_up 0` and no other, and no scrape fails. Give one
    collector all buses of a registry, which refuses a second one.

    Args:
        buses: Names, or handles, of which only the names and the settings are used.
        config: The settings; None: those of a handle, or from `EVENTBUS_MP_*` variables.
        journals: URLs of journals, as these were given to `Journal`. They are not opened: a scrape reads what the
            journal's process on this machine notes of itself, so it is there when the store is away.

    Raises:
        UsageError: No bus is given, or an argument is not of its kind.
    """

    def __init__(self, *buses: str | EventBus, config: BusConfig | None = None, journals: Sequence[str] = ()) -> None:
        if not buses:
            raise UsageError("BusCollector(): give the name of a bus, or several")
        self._journals = tuple(checked_texts("journals", journals))
        self._looks = [_Looks(Observer(bus, config=config, timeout_s=SCRAPE_TIMEOUT_S)) for bus in buses]

    def describe(self) -> Iterator[Metric]:
        """The families, without samples and without a question to any bus.

        By these a registry refuses (`ValueError`) a second collector, or another metric of such a name: no scraper
        takes a text that has one twice. And it finds the names that a scrape asks for (`name[]=`).
        """
        yield from families([(looks.observer.name, None) for looks in self._looks])
        yield from journal_families([Figures("", "", 0)] if self._journals else [])

    def collect(self) -> Iterator[Metric]:
        """The metrics of this moment. Blocks for one round trip for each bus, and never raises `EventBusError`."""
        yield from families([(looks.observer.name, looks.next()) for looks in self._looks])
        yield from journal_families(_noted(self._journals))

    def close(self) -> None:
        """Leave the buses; the next scrape connects again."""
        for looks in self._looks:
            looks.observer.close()


class _Looks:
    """The snapshots of one bus, which is not asked for thousands of topics at each of many scrapes."""

    def __init__(self, observer: Observer) -> None:
        self.observer = observer
        self._known: Snapshot | None = None
        self._fresh_until_s = 0.0

    def next(self) -> Snapshot | None:
        """A new one, perhaps with topics of some seconds ago; None: the bus cannot be asked."""
        try:
            known = self._known
            if known is not None and time.monotonic() < self._fresh_until_s:
                now = self.observer.ask(lambda bus: bus.snapshot(topics_max=0))
                if now.manager.incarnation == known.manager.incarnation:
                    return replace(now, topics=known.topics)
            return self._all()
        except EventBusError:
            return None  # `eventbus_up` says so.

    def _all(self) -> Snapshot:
        began_s = time.monotonic()
        now = self.observer.ask(EventBus.snapshot)
        if now.topics_total > TOPICS_MAX:
            self._known, ended_s = now, time.monotonic()
            self._fresh_until_s = ended_s + SHARE * (ended_s - began_s)
        else:
            self._known = None
        return now


def _noted(journals: Iterable[str]) -> list[Figures]:
    return [found for found in map(read_figures, journals) if found is not None]


def exposition(bus: str, now: Snapshot | None, accept: str = "", journals: Sequence[str] = ()) -> tuple[bytes, str]:
    """The metrics of one bus as text, and its content type.

    Args:
        bus: The bus's name.
        now: Its snapshot; None: it cannot be asked.
        accept: The header of this name that the scraper sent: it chooses between the two formats.
        journals: As of `BusCollector`.
    """

    def collect() -> Iterator[Metric]:
        yield from families([(bus, now)])
        yield from journal_families(_noted(journals))

    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Once(collect))  # type: ignore[arg-type, unused-ignore]
    encode, content_type = choose_encoder(accept)
    return encode(registry), content_type


class _Once:
    """A collector of what is known already."""

    def __init__(self, collect: Callable[[], Iterator[Metric]]) -> None:
        self.collect = collect

    def describe(self) -> list[Metric]:
        return []
