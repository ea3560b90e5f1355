"""The demo's sums, and the record of one run.

A bus that redelivers may bring a result twice, and workers that race bring results in any order. `Totals` therefore
keeps members and not counts: the first outcome for each (step, path), from which every number is derived. The same
files give equal totals in whatever order they arrive, and ``eventbus-mp demo --check`` compares those of the bus with
those of a plain loop.
"""

import hashlib
import heapq
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

from eventbus_mp.demo.measure import Measurement

MEASURE = "measure"
TOKENS = "tokens"
STEPS = (MEASURE, TOKENS)

TOP_FUNCTIONS = 10
DIFFERENCES_MAX = 20


class FunctionRow(NamedTuple):
    """One function and its McCabe complexity."""

    path: str
    line: int
    name: str
    complexity: int


class SkippedRow(NamedTuple):
    """One step that could not be done for one file, and the reason."""

    path: str
    step: str
    reason: str


class Totals:
    """The sum over all files so far.

    Each `add_*` returns whether the outcome was new for its step and path; a repeated one changes nothing.
    """

    def __init__(self) -> None:
        self._measured: dict[str, Measurement] = {}
        self._tokens: dict[str, int] = {}
        self._skipped: dict[tuple[str, str], str] = {}

    def add_measured(self, result: Measurement) -> bool:
        """Add what `measure` found in one file."""
        path = result["path"]
        if self.has(MEASURE, path):
            return False
        self._measured[path] = result
        return True

    def add_tokens(self, path: str, count: int) -> bool:
        """Add the number of tokens of one file."""
        if self.has(TOKENS, path):
            return False
        self._tokens[path] = count
        return True

    def add_skipped(self, step: str, path: str, reason: str) -> bool:
        """Note that `step`, one of `STEPS`, cannot be done for this file."""
        if step not in STEPS:
            raise ValueError(f"unknown step {step!r}; the demo has {', '.join(STEPS)}")
        if self.has(step, path):
            return False
        self._skipped[step, path] = reason
        return True

    def has(self, step: str, path: str) -> bool:
        """Whether `step` was done or skipped for this file."""
        done = self._measured if step == MEASURE else self._tokens
        return path in done or (step, path) in self._skipped

    @property
    def outcomes(self) -> int:
        """Steps that were done or skipped: two for each file in the end."""
        return len(self._measured) + len(self._tokens) + len(self._skipped)

    @property
    def files(self) -> int:
        """Files that were measured."""
        return len(self._measured)

    @property
    def lines(self) -> int:
        return sum(result["lines"] for result in self._measured.values())

    @property
    def functions(self) -> int:
        return sum(result["functions"] for result in self._measured.values())

    @property
    def classes(self) -> int:
        return sum(result["classes"] for result in self._measured.values())

    @property
    def tokens(self) -> int:
        return sum(self._tokens.values())

    @property
    def complexity(self) -> int:
        """The sum over all functions."""
        return sum(row.complexity for row in self._functions())

    @property
    def skipped(self) -> list[SkippedRow]:
        """The steps that could not be done, sorted by path and step."""
        return sorted(SkippedRow(path, step, reason) for (step, path), reason in self._skipped.items())

    def top(self, count: int = TOP_FUNCTIONS) -> list[FunctionRow]:
        """The most complex functions, the worst first; equally complex ones are sorted by path and line."""
        return heapq.nsmallest(count, self._functions(), key=lambda row: (-row.complexity, row))

    def as_dict(self) -> dict[str, Any]:
        """All totals, for JSON.

        Two runs over the same files are equal here exactly if each step of each file had the same outcome: the sums
        alone could hide two errors that cancel out, but the digest of all outcomes cannot.
        """
        return {
            "files": self.files,
            "lines": self.lines,
            "functions": self.functions,
            "classes": self.classes,
            "tokens": self.tokens,
            "complexity": self.complexity,
            "top": [row._asdict() for row in self.top()],
            "skipped": [row._asdict() for row in self.skipped],
            "digest": self._digest(),
        }

    def differences(self, other: "Totals") -> list[str]:
        """The differences from `other`, each as a line for people; empty exactly if `as_dict` is equal.

        There are at most `DIFFERENCES_MAX` lines, and then one that says how many more there are.
        """
        mine, theirs = self._outcomes(), other._outcomes()
        lines = [
            f"{path}: {step}: {_difference(mine.get((path, step)), theirs.get((path, step)))}"
            for path, step in sorted(mine.keys() | theirs.keys())
            if mine.get((path, step)) != theirs.get((path, step))
        ]
        hidden = len(lines) - DIFFERENCES_MAX
        return [*lines[:DIFFERENCES_MAX], f"... and {hidden} more"] if hidden > 0 else lines

    def _functions(self) -> Iterator[FunctionRow]:
        for path, result in self._measured.items():
            for name, line, complexity in result["complexities"]:
                yield FunctionRow(path, line, name, complexity)

    def _outcomes(self) -> dict[tuple[str, str], Any]:
        """(path, step) -> its outcome: a measurement, a count, or the reason why it was skipped."""
        outcomes: dict[tuple[str, str], Any] = {(path, MEASURE): row for path, row in self._measured.items()}
        outcomes.update(((path, TOKENS), count) for path, count in self._tokens.items())
        outcomes.update(((path, step), reason) for (step, path), reason in self._skipped.items())
        return outcomes

    def _digest(self) -> str:
        outcomes = self._outcomes()
        rows = [[*key, outcomes[key]] for key in sorted(outcomes)]
        return hashlib.sha256(json.dumps(rows, sort_keys=True).encode()).hexdigest()[:16]


@dataclass(frozen=True, slots=True)
class SubscriberRow:
    """What one subscriber did in a run; `redelivered` counts the deliveries that were repeated after a worker died."""

    name: str
    completed: int
    skipped: int
    redelivered: int


@dataclass(frozen=True, slots=True)
class JournalCheck:
    """What the journal of a run holds, compared with what went over the bus."""

    url: str
    events: int
    duplicates: int
    """Results that a worker published and another one again, because the first was killed; they are stored once."""
    differences: tuple[str, ...] = ()
    """Empty: every event is there, and the totals of the stored ones are the run's."""


@dataclass(frozen=True, slots=True)
class DemoResult:
    """One run of the demo, for the screen and for machines."""

    path: str
    processes: int
    """Workers of the pool; 0 is the plain loop, without a bus."""
    seconds: float
    events: int
    events_per_s: float
    totals: Totals
    subscribers: tuple[SubscriberRow, ...] = ()
    killed_pid: int | None = None
    """The worker that was killed in mid-run; None: none was."""
    baseline_seconds: float | None = None
    """How long the plain loop took for the same files; None if it was not measured."""
    journal: JournalCheck | None = None
    """None: there was no journal."""

    @property
    def speed_up(self) -> float | None:
        """How many times as fast as the plain loop; None if that was not measured."""
        if self.baseline_seconds is None or self.seconds <= 0:
            return None
        return self.baseline_seconds / self.seconds

    def as_json(self) -> str:
        """Everything as one JSON object in ASCII, so that any file name can be written anywhere."""
        record: dict[str, Any] = {
            "path": self.path,
            "processes": self.processes,
            "seconds": round(self.seconds, 3),
            "baseline_seconds": _rounded(self.baseline_seconds),
            "speed_up": _rounded(self.speed_up),
            "events": self.events,
            "events_per_s": round(self.events_per_s, 1),
            "killed_pid": self.killed_pid,
            "subscribers": [asdict(row) for row in self.subscribers],
            "journal": asdict(self.journal) if self.journal is not None else None,
            "totals": self.totals.as_dict(),
        }
        return json.dumps(record, indent=2)


def _difference(mine: Any, theirs: Any) -> str:
    here, there = _shown(mine), _shown(theirs)
    if here == there:
        return f"{here} in both, but not of the same functions"
    return f"{here} here, {there} there"


def _shown(outcome: Any) -> str:
    """One outcome in short: a measurement without its list of functions, of which there may be hundreds."""
    if outcome is None:
        return "missing"
    if not isinstance(outcome, dict):
        return str(outcome)
    complexity = sum(row[2] for row in outcome["complexities"])
    counts = ", ".join(f"{outcome[name]} {name}" for name in ("lines", "functions", "classes"))
    return f"{counts}, complexity {complexity}"


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 3)
