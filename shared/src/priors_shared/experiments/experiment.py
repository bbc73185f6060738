"""An experiment: one result of the thesis; its sizes and seeds, its trainings, the rows that it writes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from priors_shared.checkpoints import has_weights
from priors_shared.devices import hardware
from priors_shared.errors import UserError
from priors_shared.reports import write_result
from priors_shared.runs import Run

State = Literal["missing", "partial", "done"]


@dataclass(frozen=True)
class Planned:
    """How far a training is, and whether others build on it."""

    state: State
    base: bool


class Stop(Exception):
    """Ends an experiment that was run for one of its trainings alone."""


@dataclass(frozen=True, kw_only=True)
class Lab:
    """Where experiments find trainings and leave results."""

    out: Path
    """folder of results"""
    runs: Path
    """folder of trainings: those that it holds are used again, or gone on with"""
    quick: bool = False
    """train nothing"""
    only: str | None = None
    """the one training to do, by its name; then the experiment stops"""
    planned: dict[str, Planned] | None = field(default=None, compare=False)
    """filled with the trainings, by name, in place of training them"""

    def has(
        self,
        folder: Path,
        config: Any,
        train: Callable[[Run], object],
        *,
        base: bool = False,
    ) -> bool:
        """Whether a training has its model; unless quick, what is missing is trained first, or to its end.

        Args:
            folder: of the run, in `runs`; what lies below names the training.
            config: of the run: a dataclass or a mapping.
            train: trains, or goes on, in the run's folder, and writes the model there.
            base: whether other trainings build on it.

        Raises:
            Stop: this was the only training that was asked for.
        """
        name = folder.relative_to(self.runs).as_posix()
        done = has_weights(folder / "model")
        if self.planned is not None:
            begun = (folder / "config.json").is_file()
            state: State = "done" if done else "partial" if begun else "missing"
            self.planned[name] = Planned(state, base)
            return done and base  # of the others nothing is measured while planning
        if not done and not self.quick and self.only in (None, name):
            record = config if isinstance(config, Mapping) else asdict(config)
            with Run.create(folder, record, command=f"training {name}", resume=True) as run:
                train(run)
            done = True
        if self.only == name:
            raise Stop
        return done


@dataclass(frozen=True, kw_only=True)
class Experiment(ABC):
    """One result; its fields are its sizes. A package's experiments are functions of a preset that return one."""

    id: str
    """such as figure-4.8"""
    claim: str
    """what the thesis says, in a sentence"""
    preset: str
    """cpu, or paper: the thesis' setting"""
    seeds: Sequence[int] = (0, 1, 2)
    core_hours: float | None = None
    """of a training, about, on one core; None: never measured"""

    @abstractmethod
    def run(self, lab: Lab) -> None:
        """Train what is missing, measure, write; nothing is written where a quick lab finds no training."""

    @property
    def program(self) -> str:
        """Of the package that the experiment is of."""
        return type(self).__module__.partition(".")[0].replace("_", "-")

    @property
    def command(self) -> str:
        """Repeats it."""
        return f"{self.program} reproduce {self.id} --preset {self.preset}"

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
        data: str | Mapping[str, Any],
        thesis: Mapping[str, Any] | None = None,
        path: Path | None = None,
        **extra: Any,
    ) -> None:
        """Write the JSON; see `write_result`.

        path: of one of several; None: `self.path`.
        """
        write_result(
            path or self.path(lab, suffix="json"),
            experiment=self.id,
            claim=self.claim,
            rows=rows,
            config=config,
            seeds=seeds,
            data=data,
            hardware=hardware(),
            command=self.command,
            thesis=thesis or {},
            extra=extra,
        )


@dataclass(frozen=True)
class Runner:
    """Runs an experiment by its settings; what a package registers by the experiment's name."""

    experiment: Callable[[str], Experiment]
    """in the sizes of a preset"""

    def __call__(self, *, preset: str, out: Path, runs: Path, quick: bool) -> None:
        """Run it: train what is missing unless `quick`, measure, write to `out`."""
        self.experiment(preset).run(Lab(out=out, runs=runs, quick=quick))

    def train_only(self, name: str, *, preset: str, out: Path, runs: Path) -> None:
        """Do one training, or go on with it.

        Raises:
            UserError: the experiment has no training of this name, or others must be done first.
        """
        try:
            self.experiment(preset).run(Lab(out=out, runs=runs, only=name))
        except Stop:
            return
        known = ", ".join(self.trainings(preset=preset, runs=runs))
        raise UserError(f"training: {name!r} is none of those that can be done now: {known}")

    def trainings(self, *, preset: str, runs: Path) -> dict[str, Planned]:
        """The trainings that can be done now or are, by name: those that build on others follow when these are done."""
        planned: dict[str, Planned] = {}
        self.experiment(preset).run(Lab(out=Path(), runs=runs, quick=True, planned=planned))
        return planned
