"""The verb `featurize`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import arg

from molfeat_diffusion.cli.options import (
    Cache,
    Diffusion,
    IdColumn,
    Jobs,
    Layer,
    Molecules,
    Quiet,
    SmilesColumn,
    Timestep,
)
from molfeat_diffusion.config import SHIPPED_MIDI
from priors_shared.cli import Device, Threads
from priors_shared.options import note, say
from priors_shared.ranges import require


@dataclass(frozen=True, kw_only=True)
class Featurize:
    """Features of every molecule of a file, by a diffusion model; every row is accounted for."""

    source: Molecules
    checkpoint: Diffusion = SHIPPED_MIDI
    out: Annotated[Path, arg(aliases=["-o"], metavar="FILE")]
    """features: .parquet, .csv (columns row, id, midi_0, ...) or .npy; failed rows are listed in
    FILE.failures.csv"""
    smiles_column: SmilesColumn = None
    id_column: IdColumn = None
    layer: Layer = None
    timestep: Timestep = 50
    samples: int = 1
    """average over as many draws of the noise"""
    pooling: Literal["mean", "sum", "max"] = "mean"
    """over a molecule's atoms"""
    seed: int = 0
    """of noise and conformers"""
    errors: Literal["nan", "skip", "raise"] = "nan"
    """a molecule that fails: a row of NaN, no row, or stop"""
    max_atoms: int = 200
    """larger molecules fail"""
    fragment: Literal["largest", "all"] = "largest"
    """of salts"""
    timeout: int = 30
    """seconds for one conformer"""
    jobs: Jobs = 1
    engine: Literal["local", "ray"] = "local"
    """ray: shards are made by Ray Data, on the cluster of RAY_ADDRESS or on this machine; the output is the
    same"""
    workers: int | None = None
    """of the engine ray, each with its own jobs and threads, on CUDA with a GPU of its own; None: 1"""
    device: Device = "cpu"
    cache: Cache = None
    shard_rows: int = 512
    """rows that are done, and stored, at a time"""
    resume: bool = False
    """go on where a killed run stood"""
    threads: Threads = None
    quiet: Quiet = False

    def __post_init__(self) -> None:
        require(self, 1, "samples", "max_atoms", "timeout", "jobs", "workers", "shard_rows")
        require(self, 0, "timestep", "seed")
        if self.workers is not None and self.engine == "local":
            raise ValueError("workers: they belong to engine ray, leave the option out")

    def run(self) -> None:
        """Featurize, and say what failed."""
        from molfeat_diffusion.featurizers.midi import MiDiFeaturizer
        from molfeat_diffusion.jobs.featurize import featurize_file
        from priors_shared.devices import set_threads

        set_threads(self.threads)
        featurizer = MiDiFeaturizer(
            self.checkpoint,
            layer=self.layer,
            timestep=self.timestep,
            seed=self.seed,
            n_samples=self.samples,
            pooling=self.pooling,
            errors=self.errors,
            max_atoms=self.max_atoms,
            fragment=self.fragment,
            timeout=self.timeout,
            n_jobs=self.jobs,
            device=self.device,
            cache=self.cache,
        )
        summary = featurize_file(
            featurizer,
            self.source,
            self.out,
            smiles_column=self.smiles_column,
            id_column=self.id_column,
            shard_rows=self.shard_rows,
            resume=self.resume,
            engine=self.engine,
            workers=self.workers or 1,
            threads=self.threads,
            quiet=self.quiet,
        )
        if summary.duplicates:
            note(
                f"{summary.duplicates} rows have the id of an earlier row; all were kept, in order"
            )
        say(f"features  {self.out}: {summary.rows - summary.failed} of {summary.rows} rows")
        say(f"failures  {summary.report}: {summary.failed} rows failed, {summary.notes} noted")
