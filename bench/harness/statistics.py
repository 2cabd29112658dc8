"""From samples of interleaved rounds to medians, spreads, ratios and goals."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from harness.load import Sample

OURS = "model_scorer"


@dataclass(frozen=True, slots=True)
class CellKey:
    """What was measured: which server in which configuration, what it was asked, by how many clients."""

    server: str
    workload: str
    dialect: str
    clients: int


@dataclass(frozen=True, slots=True)
class Goal:
    """A goal and whether it holds.

    Attributes:
        name: of the goal.
        value: measured; None: it was not, and `note` says why.
        goal: the bound.
        at_least: the bound is a lower one.
        note: what was compared with what.
    """

    name: str
    value: float | None
    goal: float | None
    at_least: bool = True
    note: str = ""

    @property
    def holds(self) -> bool | None:
        """None when nothing was measured or nothing is asked."""
        if self.value is None or self.goal is None:
            return None
        return self.value >= self.goal if self.at_least else self.value <= self.goal

    def as_json(self) -> dict[str, Any]:
        """For the last line."""
        sign = ">=" if self.at_least else "<="
        return {
            "name": self.name,
            "value": None if self.value is None else round(self.value, 4),
            "goal": None if self.goal is None else f"{sign} {self.goal:g}",
            "holds": self.holds,
            "note": self.note,
        }


class Samples:
    """All samples of a run, by cell and round."""

    def __init__(self) -> None:
        self._cells: dict[CellKey, dict[int, Sample]] = defaultdict(dict)

    def add(self, key: CellKey, round_number: int, sample: Sample) -> None:
        """Keep one."""
        self._cells[key][round_number] = sample

    def cells(self) -> list[CellKey]:
        """All cells that have a sample, in the order of their first."""
        return list(self._cells)

    def of(self, key: CellKey) -> list[Sample]:
        """A cell's samples, by round."""
        rounds = self._cells.get(key, {})
        return [rounds[number] for number in sorted(rounds)]

    def rate(self, key: CellKey) -> float | None:
        """The median rate, in requests a second."""
        samples = self.of(key)
        return statistics.median(s.rate for s in samples) if samples else None

    def spread(self, key: CellKey) -> float:
        """Largest less smallest rate, as a share of the median."""
        rates = [s.rate for s in self.of(key)]
        middle = statistics.median(rates) if rates else 0.0
        return (max(rates) - min(rates)) / middle if middle else 0.0

    def median(self, key: CellKey, attribute: str) -> float | None:
        """The median of another number of the samples."""
        values = [getattr(sample, attribute) for sample in self.of(key)]
        return statistics.median(values) if values else None

    def ratio(self, ours: CellKey, theirs: CellKey, attribute: str = "rate") -> float | None:
        """The median over the rounds that have both of ours / theirs: a drifting machine cancels out."""
        mine, other = self._cells.get(ours, {}), self._cells.get(theirs, {})
        ratios = [
            getattr(mine[n], attribute) / getattr(other[n], attribute)
            for n in mine
            if n in other and getattr(other[n], attribute)
        ]
        return statistics.median(ratios) if ratios else None

    def best(self, keys: Iterable[CellKey]) -> CellKey | None:
        """The cell with the highest median rate among those that answered without errors."""
        rated = [(self.rate(key), key) for key in keys]
        usable = [
            (rate, key)
            for rate, key in rated
            if rate and sum(s.errors for s in self.of(key)) <= 0.001 * rate * len(self.of(key))
        ]
        return max(usable, key=lambda pair: pair[0])[1] if usable else None
