"""Pipelines of any shape, larger than their memory, go on and lose nothing: simulated in one thread."""

import os
import random

import pytest

from eventbus_mp import Event, EventBus
from eventbus_mp.geometry import shared_span_bytes
from eventbus_mp.testing.inprocess import InProcessBus
from tests.pipelines import Pipeline, draw

GRAPHS = 150
PATIENCE_S = 3600.0
"""How long a producer waits for memory, by the simulation's clock: a pipeline that stands still does not go unseen."""


class Run:
    """One pipeline on a bus of its own, in this thread."""

    def __init__(self, pipeline: Pipeline, **settings: object) -> None:
        self.pipeline = pipeline
        self.runs: dict[str, int] = dict.fromkeys(pipeline.runs(), 0)
        self.world = InProcessBus(memory_bytes_max=pipeline.memory_bytes, notify_timeout_s=PATIENCE_S, **settings)
        topics = tuple(self.runs)
        self.workers = [self.world.handle(topics) for _ in pipeline.workers]
        for worker, stages in zip(self.workers, pipeline.workers, strict=True):
            for index in stages:
                self.host(worker, index)
        self.source = self.world.handle(topics)

    def host(self, worker: EventBus, index: int) -> None:
        """Have a worker run a stage."""
        stage = self.pipeline.stages[index]

        @worker.on(stage.topic, name=f"stage {index}")
        def handle(event: Event) -> None:
            self.runs[stage.topic] += 1
            if stage.cost_ns:
                self.world.clock.advance_to(self.world.clock.monotonic_ns() + stage.cost_ns)
            for topic, number in stage.outputs.items():
                for copy in range(number):
                    worker.notify(Event(f"{event.id}.{copy}", topic, bytes(stage.nbytes)))

    def feed(self) -> None:
        """Publish all, and go on until everything is settled."""
        for number in range(self.pipeline.fed):
            self.source.notify(Event(str(number), self.pipeline.stages[0].topic, bytes(self.pipeline.fed_bytes)))
        self.source.drain(timeout_s=PATIENCE_S)

    def end(self) -> None:
        """All leave; what listens is kept alive until then."""
        for handle in (*self.workers, self.source):
            handle.close()


def check(seed: int, **settings: object) -> None:
    pipeline = draw(seed)
    run = Run(pipeline, **settings)
    run.feed()
    assert run.runs == pipeline.runs(), f"seed {seed}: {pipeline}"
    assert not [item for item in run.source.statistics().subscribers if item.skipped], f"seed {seed}"
    # Each worker still writes one span.
    left_bytes = len(pipeline.workers) * shared_span_bytes(pipeline.memory_bytes)
    assert run.world.core.state.spans.spilled_bytes <= left_bytes, f"seed {seed}: more is left in files"
    assert not run.world.core.state.held, f"seed {seed}"
    run.end()


@pytest.mark.parametrize("part", range(5))
def test_any_pipeline_goes_on_with_the_memory_that_it_has(part: int) -> None:
    first = random.randrange(1 << 32) if part else 0
    print(f"seeds from {first}")
    for seed in range(first, first + GRAPHS // 5):
        check(seed, check_invariants=seed % 10 == 0)


@pytest.mark.soak
def test_ten_thousand_pipelines() -> None:
    first = int(os.environ.get("PIPELINES_FROM", "0"))
    for seed in range(first, first + 10_000):
        check(seed, check_invariants=False)
