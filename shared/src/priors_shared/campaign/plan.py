"""What is left to do: a job for each training, and one for each experiment's results."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from priors_shared.experiments import Runner  # it imports torch, which the help does not need


@dataclass(frozen=True)
class Job:
    """One process of a campaign."""

    name: str
    """of the job: a file name"""
    program: str
    experiment: str
    training: str | None
    """None: measures, and writes the results"""
    state: str
    core_hours: float | None
    after: tuple[str, ...] = ()
    """names of the jobs that come first"""

    def command(self, preset: str, runs: Path, out: Path) -> list[str]:
        """What does it."""
        options = {"preset": preset, "runs": str(runs), "out": str(out)}
        if self.training is not None:
            options["training"] = self.training
        pairs = (part for key, value in options.items() for part in (f"--{key}", value))
        return [self.program, "reproduce", self.experiment, *pairs]


def jobs_of(
    program: str, experiments: Mapping[str, Runner], *, preset: str, runs: Path, out: Path
) -> list[Job]:
    """The jobs of a package's experiments, in order; a training that several experiments share is one job.

    An experiment with a training that others build on, and that is not done, is measured in the next round.
    """
    jobs: dict[str, Job] = {}
    for name, runner in experiments.items():
        planned = runner.trainings(preset=preset, runs=runs)
        hours = runner.experiment(preset).core_hours
        for training, at in planned.items():
            job = Job(_file_name(program, training), program, name, training, at.state, hours)
            jobs.setdefault(job.name, job)
        open_ = {_file_name(program, t): at for t, at in planned.items() if at.state != "done"}
        if not any(at.base for at in open_.values()):
            state = "missing" if open_ or not _has_results(out, name, preset) else "done"
            result = _file_name(program, f"{name}-results")
            jobs[result] = Job(result, program, name, None, state, None, tuple(open_))
    return list(jobs.values())


def _has_results(out: Path, experiment: str, preset: str) -> bool:
    # One experiment may have several files: table-2.1-omniglot-cpu.json.
    return any(out.glob(f"{experiment}*-{preset}.json"))


def _file_name(program: str, training: str) -> str:
    return re.sub(r"[^\w.=-]+", "__", f"{program}/{training}")


def lines(jobs: Sequence[Job]) -> list[str]:
    """The jobs for people: a heading an experiment, then what is left."""
    shown: list[str] = []
    heading = ""
    for job in jobs:
        title = f"{job.program} {job.experiment}"
        if title != heading:
            heading = title
            hours = next((j.core_hours for j in jobs if j.experiment == job.experiment), None)
            shown.append(title + (f"  (about {hours:g} core-hours each)" if hours else ""))
        shown.append(f"  {job.state:<8} {job.training or '(results)'}")
    trainings = [job for job in jobs if job.training is not None]
    counts = ", ".join(
        f"{sum(job.state == state for job in trainings)} {state}"
        for state in ("done", "partial", "missing")
    )
    left = [job for job in trainings if job.state != "done"]
    known = sum(job.core_hours or 0.0 for job in left)
    unknown = sum(job.core_hours is None for job in left)
    rest = f", and {unknown} that were never measured" if unknown else ""
    shown.append(f"{len(trainings)} trainings: {counts}; {known:.1f} core-hours left{rest}")
    return shown
