"""An experiment: what it claims, its sizes and seeds, the runs that it needs, and the result that it writes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from hyperfields.records import Config
from priors_shared.checkpoints import has_weights
from priors_shared.devices import hardware
from priors_shared.reports import Measured, write_result
from priors_shared.runs import Run
from priors_shared.statistics import compare_paired

Scores = Mapping[str, float]
"""Values of measures, by their names."""


@dataclass(frozen=True, kw_only=True)
class Lab:
    """Where experiments find trainings and leave results."""

    out: Path = Path("results")
    """folder of results"""
    runs: Path = Path("runs")
    """folder of trainings: those that it holds are used again, or gone on with"""
    quick: bool = False
    """train nothing"""

    def has(self, folder: Path, config: Config, train: Callable[[Run], object]) -> bool:
        """Whether a training has its model; unless quick, what is missing is trained first.

        Args:
            folder: of the run.
            config: of the run.
            train: trains, or goes on, in the run's folder, and writes the model there.
        """
        if has_weights(folder / "model"):
            return True
        if not self.quick:
            command = f"hyperfields reproduce into {folder.name}"
            with Run.create(folder, asdict(config), command=command, resume=True) as run:
                train(run)
        return not self.quick


@dataclass(frozen=True, kw_only=True)
class Experiment(ABC):
    """One result of the thesis; its fields are its sizes."""

    id: str
    """such as figure-4.8"""
    claim: str
    """what the thesis says, in a sentence"""
    preset: str
    """cpu, or paper: the thesis' setting"""
    seeds: Sequence[int] = (0, 1, 2)

    @abstractmethod
    def run(self, lab: Lab) -> None:
        """Train what is missing, measure, write; nothing is written where a quick lab finds no training."""

    def path(self, lab: Lab, name: str = "", suffix: str = "png") -> Path:
        """A file of the result."""
        lab.out.mkdir(parents=True, exist_ok=True)
        return lab.out / f"{self.id}-{self.preset}{f'-{name}' if name else ''}.{suffix}"

    def write(
        self,
        lab: Lab,
        rows: Sequence[Mapping[str, Any]],
        *,
        config: Mapping[str, Any],
        seeds: Sequence[int],
        data: str,
        thesis: Mapping[str, Any] | None = None,
        **extra: Any,
    ) -> None:
        """Write the JSON; see `write_result`."""
        write_result(
            self.path(lab, suffix="json"),
            experiment=self.id,
            claim=self.claim,
            rows=rows,
            config=config,
            seeds=seeds,
            data=data,
            hardware=hardware(),
            command=f"hyperfields reproduce {self.id} --preset {self.preset}",
            thesis=thesis or {},
            extra=extra,
        )


def rows_over_seeds(scores: Mapping[str, Mapping[Any, Scores]]) -> list[dict[str, Any]]:
    """A row for each name, with each measure's mean and spread over what it was repeated by."""
    return [
        {"model": name}
        | {m: Measured.over_seeds([one[m] for one in repeats.values()]) for m in first_of(repeats)}
        for name, repeats in scores.items()
    ]


def compared(one: Mapping[Any, Scores], other: Mapping[Any, Scores]) -> dict[str, dict[str, Any]]:
    """Each measure of one less the other, paired by seed or scene; empty for fewer than two pairs."""
    shared = [key for key in one if key in other]
    if len(shared) < 2:
        return {}
    return {
        measure: asdict(
            compare_paired([one[k][measure] for k in shared], [other[k][measure] for k in shared])
        )
        for measure in first_of(one)
    }


def first_of(repeats: Mapping[Any, Scores]) -> Scores:
    """The scores of the first repeat."""
    return next(iter(repeats.values()))


def all_seeds(scores: Mapping[str, Mapping[int, Any]]) -> list[int]:
    """The seeds that any row has."""
    return sorted({seed for repeats in scores.values() for seed in repeats})
