"""The verbs `export` and `import-midi`."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from molfeat_diffusion.cli.options import Jobs
from molfeat_diffusion.config import UNIFORM, NoiseConfig
from priors_shared.cli import DataRoot
from priors_shared.errors import UserError
from priors_shared.options import described, note, say
from priors_shared.ranges import require


@dataclass(frozen=True, kw_only=True)
class Export:
    """Write a training's weights to give away, with model card and training curve."""

    folder: Annotated[Positional[Path], arg(name="run", metavar="RUN")]
    """run folder of train; of a training that goes on, its last checkpoint is taken"""
    out: Annotated[Path, arg(aliases=["-o"], metavar="DIR")]
    """folder for weights, model card (README.md) and training curve; its name is the weights'"""
    results: Annotated[tuple[Path, ...], arg(metavar="[FILE.json ...]")] = ()
    """what eval --out wrote of these weights, for the card"""
    half: bool = False
    """store them in float16: half the size"""

    def run(self) -> None:
        """Export the run's weights, whichever kind of model it trained."""
        from molfeat_diffusion.export import export_language, export_run, is_language_run

        if is_language_run(self.folder):
            if self.results:
                raise UserError("results: of diffusion models alone")
            if self.half:
                raise UserError("half: of diffusion models alone")
            step = export_language(self.folder, self.out)
        else:
            step = export_run(self.folder, self.out, self.results, half=self.half)
        say(f"weights   {self.out}: after {step:,} steps")


@dataclass(frozen=True, kw_only=True)
class ImportMidi:
    """Import a published MiDi checkpoint, without running any of its code."""

    source: Annotated[Positional[Path], arg(metavar="FILE.ckpt")]
    """a Lightning checkpoint of the public MiDi code"""
    out: Annotated[Path, arg(aliases=["-o"], metavar="DIR")]
    """folder for the checkpoint"""
    schedule: Annotated[
        Literal["adaptive", "uniform"] | None, described("{adaptive,uniform}", "(default: its own)")
    ] = None
    """noise schedule, where the file does not say which"""
    data: Annotated[tuple[str, ...], arg(metavar="[SOURCE ...]")] = ()
    """its training molecules (as train --data): for marginals and sizes, which the file lacks and sampling
    needs; features need neither"""
    data_root: DataRoot = None
    jobs: Jobs = 1

    def __post_init__(self) -> None:
        require(self, 1, "jobs")

    def run(self) -> None:
        """Read the file's tensors alone, and write them as a checkpoint of ours."""
        if self.out.exists() and any(self.out.iterdir()):
            raise UserError(f"out: {self.out} is not empty, use another folder")

        from molfeat_diffusion.pretrained import import_midi, save_model

        schedules = {None: None, "adaptive": NoiseConfig(), "uniform": UNIFORM}
        model = import_midi(self.source, noise=schedules[self.schedule])
        if self.data:
            from molfeat_diffusion.data.sets import load_molecules
            from priors_shared.datasets.base import resolve_data_root

            molecules, _ = load_molecules(
                self.data,
                model.vocabulary,
                data_root=resolve_data_root(self.data_root),
                max_atoms=10_000,
                jobs=self.jobs,
            )
            model.marginals, model.knows_marginals = molecules.marginals(), True
            model.sizes = molecules.size_histogram()
        save_model(self.out, model, imported=self.source.name)
        parameters = sum(p.numel() for p in model.parameters())
        say(f"model     {self.out}: {parameters:,} parameters, vocabulary {model.vocabulary.name}")
        say(f"schedule  {dataclasses.asdict(model.config.noise)}")
        if not self.data:
            note(
                "no marginals: it gives features (their noise draws classes uniformly), but no samples; "
                "--data adds them"
            )
