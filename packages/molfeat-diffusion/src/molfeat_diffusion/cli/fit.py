"""The verb `fit`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from molfeat_diffusion.cli.options import (
    Cache,
    Diffusion,
    IdColumn,
    Jobs,
    Layer,
    SmilesColumn,
    Timestep,
)
from molfeat_diffusion.config import SHIPPED_MIDI, SHIPPED_SMILES
from priors_shared.cli import Threads
from priors_shared.options import say
from priors_shared.ranges import require


@dataclass(frozen=True, kw_only=True)
class Fit:
    """Fit a predictor on labelled molecules, and measure it on scaffolds held out."""

    source: Annotated[Positional[Path], arg(metavar="FILE")]
    """labelled molecules: .csv, .sdf (each also .gz) or .parquet"""
    target: Annotated[str, arg(metavar="NAME")]
    """column (of an sdf: property) to predict; rows without a number are left out, and listed"""
    out: Annotated[Path, arg(aliases=["-o"], metavar="DIR")]
    """folder for the predictor"""
    smiles_column: SmilesColumn = None
    id_column: IdColumn = None
    features: Annotated[str, arg(metavar="NAME[+NAME ...]")] = "midi+smiles"
    """of midi, smiles, chemberta, ecfp4, rdkit2d, usrcat"""
    checkpoint: Diffusion = SHIPPED_MIDI
    layer: Layer = None
    timestep: Timestep = 50
    language: Annotated[str, arg(metavar="MODEL")] = SHIPPED_SMILES
    """language model, for smiles: shipped weights, run folder, transformers' folder or Hub id"""
    task: Literal["auto", "classification", "regression"] = "auto"
    """auto: classification where the target has two values"""
    jobs: Jobs = 1
    cache: Cache = None
    seed: int = 0
    """of the head, noise and conformers"""
    threads: Threads = None

    def __post_init__(self) -> None:
        require(self, 1, "jobs")
        require(self, 0, "timestep", "seed")

    def run(self) -> None:
        """Fit, and say how good it is on scaffolds held out."""
        from molfeat_diffusion.featurizers.blocks import FeatureBlocks
        from molfeat_diffusion.prediction.library import fit_file
        from priors_shared.devices import set_threads

        set_threads(self.threads)
        blocks = FeatureBlocks(
            self.features,
            checkpoint=self.checkpoint,
            layer=self.layer,
            timestep=self.timestep,
            language=self.language,
            seed=self.seed,
            n_jobs=self.jobs,
            cache=None if self.cache is None else str(self.cache),
        )
        predictor = fit_file(
            blocks,
            self.source,
            self.target,
            self.out,
            task=self.task,
            smiles_column=self.smiles_column,
            id_column=self.id_column,
            seed=self.seed,
        )
        record = predictor.record
        say(f"predictor  {self.out}: {predictor.task}, {record['rows']} molecules")
        for name, value in record["metrics"].items():
            say(
                f"{name:<10} {value:.3f}" + ("" if name == "positives" else " (scaffolds held out)")
            )
        say(f"failures   {self.out / 'failures.csv'}")
