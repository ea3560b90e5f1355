"""Random pipelines for tests: what they are made of, and how often each stage has to run."""

import random
from dataclasses import dataclass, field

__all__ = ["Pipeline", "Stage", "draw"]


@dataclass
class Stage:
    """Handles the events of its own topic, and publishes to topics of later stages."""

    topic: str
    outputs: dict[str, int] = field(default_factory=dict)
    """Topic -> how many events come of one."""
    nbytes: int = 0
    """Of the data of each event that it publishes."""
    cost_ns: int = 0
    """How long it works on one event."""


@dataclass
class Pipeline:
    """Stages without a circle, and the workers that host them."""

    stages: list[Stage]
    workers: list[list[int]]
    """The stages that each worker hosts."""
    memory_bytes: int
    fed: int
    """How many events the source publishes to the first topic."""
    fed_bytes: int

    def runs(self) -> dict[str, int]:
        """How often each stage has to run, by its topic."""
        counts = dict.fromkeys([stage.topic for stage in self.stages], 0)
        counts[self.stages[0].topic] = self.fed
        for stage in self.stages:
            for topic, number in stage.outputs.items():
                counts[topic] += number * counts[stage.topic]
        return counts


def draw(seed: int, *, runs_max: int = 1_500) -> Pipeline:
    """The pipeline of this seed: of any shape, larger than its memory more often than not.

    Args:
        seed: Whatever is drawn comes of it.
        runs_max: How many handler calls it takes in all, at most.
    """
    dice = random.Random(seed)
    while True:
        count = dice.randint(2, 6)
        stages = [Stage(f"t{index}") for index in range(count)]
        for index, stage in enumerate(stages[:-1]):
            stage.nbytes = dice.choice((0, 2_000, 20_000, 60_000, 150_000))
            stage.cost_ns = dice.choice((0, 0, 100_000, 20_000_000))
            for later in dice.sample(stages[index + 1 :], dice.randint(1, min(3, count - index - 1))):
                stage.outputs[later.topic] = dice.choice((1, 1, 1, 2, 3, 20))
        stages[-1].cost_ns = dice.choice((0, 100_000, 20_000_000))
        pipeline = Pipeline(
            stages,
            _workers(dice, count),
            memory_bytes=dice.choice((2, 4, 8)) << 20,
            fed=dice.choice((1, 5, 50, 200)),
            fed_bytes=dice.choice((0, 2_000, 60_000)),
        )
        if sum(pipeline.runs().values()) <= runs_max:
            return pipeline


def _workers(dice: random.Random, stages: int) -> list[list[int]]:
    """One pool for all, one for each stage, or any other division; each pool of one to three workers."""
    pools: list[list[int]] = []
    division = dice.choice(("one", "each", "any"))
    for stage in range(stages):
        if not pools or division == "each" or (division == "any" and dice.random() < 0.5):
            pools.append([])
        pools[-1 if division != "any" else dice.randrange(len(pools))].append(stage)
    return [stages for pool in pools if pool for stages in [pool] * dice.randint(1, 3)]
