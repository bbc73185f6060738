"""Small claims: what seconds on one core show, measured anew by every run of the tests."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from priors_shared.experiments.experiment import Experiment, Lab
from priors_shared.experiments.rows import Scores, rows_over_seeds

Measure = Callable[[int], Scores]
"""Numbers by name, for a seed."""


@dataclass(frozen=True, kw_only=True)
class SmallClaims(Experiment):
    """Measures that need no training; the rows of each package have a file of their own."""

    id: str = "small-claims"
    claim: str = "what seconds on one core show"
    seeds: Sequence[int] = (0, 1, 2)
    system: str
    """the package that it is of"""
    measures: Mapping[str, Measure]
    data: str

    @property
    def program(self) -> str:
        """Of the package."""
        return self.system

    def run(self, lab: Lab) -> None:
        """Measure each with every seed and write small-claims-SYSTEM-PRESET.json."""
        if lab.planned is not None:
            return
        per_seed = {
            name: {seed: dict(measure(seed)) for seed in self.seeds}
            for name, measure in self.measures.items()
        }
        self.write(
            lab,
            rows_over_seeds(per_seed),
            path=lab.out / f"{self.id}-{self.system}-{self.preset}.json",
            config={},
            seeds=self.seeds,
            data=self.data,
            per_seed=per_seed,
        )
