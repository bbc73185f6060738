"""The verbs `sample` and `eval`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from tyro.conf import arg

from molfeat_diffusion.cli.options import Quiet
from priors_shared.cli import Checkpoint, DataRoot, Device, Threads, command_line
from priors_shared.errors import UserError
from priors_shared.options import described, say
from priors_shared.ranges import require

if TYPE_CHECKING:
    from rdkit import Chem

    from molfeat_diffusion.models.diffusion import MiDi


@dataclass(frozen=True, kw_only=True)
class _Draw:
    checkpoint: Checkpoint
    count: Annotated[int, arg(aliases=["-n"])] = 100
    """molecules"""
    steps: Annotated[int | None, described("INT", "(default: the model's T)")] = None
    """reverse steps; fewer are faster, each spans several of the T"""
    metrics: Literal["fixed", "midi"] = "fixed"
    """midi: as MiDi's code counts (an aromatic bond as 1, the largest fragment valid)"""
    batch_size: int = 50
    """molecules at a time"""
    seed: int = 0
    """of all draws"""
    device: Device = "cpu"
    threads: Threads = None
    quiet: Quiet = False

    def __post_init__(self) -> None:
        require(self, 1, "count", "steps", "batch_size", "atoms")
        require(self, 0, "seed")

    def load(self) -> tuple[MiDi, dict[str, Any]]:
        """The model on its device, and its record."""
        from molfeat_diffusion.pretrained import load_model
        from priors_shared.devices import choose_device, set_threads

        set_threads(self.threads)
        device = choose_device(self.device)
        model, record = load_model(self.checkpoint)
        return model.to(device), record

    def drawn(
        self, model: MiDi, digest: str, reference: Sequence[Chem.Mol] | None, atoms: int | None
    ) -> tuple[list[Chem.Mol], dict[str, Any]]:
        """Molecules, and what is stored of them."""
        from molfeat_diffusion.evaluation import sampling_metrics
        from molfeat_diffusion.sampling import sample_molecules
        from priors_shared.devices import hardware

        molecules = sample_molecules(
            model,
            self.count,
            steps=self.steps,
            atoms=atoms,
            batch=self.batch_size,
            seed=self.seed,
            quiet=self.quiet,
        )
        found = sampling_metrics(
            molecules,
            hydrogens=model.vocabulary.hydrogens,
            reference=reference,
            variant=self.metrics,
        )
        return molecules, {
            "metrics": found,
            "variant": self.metrics,
            "digest": digest,
            "molecules": self.count,
            "steps": self.steps or model.timesteps,
            "seed": self.seed,
            "hardware": hardware(),
            "command": command_line(),
        }


def _write(path: Path, result: dict[str, Any]) -> None:
    from priors_shared.files import write_atomically

    write_atomically(path, json.dumps(result, indent=2) + "\n")
    for name, value in result["metrics"].items():
        say(f"{name:<16}{value:.4g}" if name.startswith("w1") else f"{name:<16}{100 * value:.1f} %")
    say(f"metrics         {path}")


@dataclass(frozen=True, kw_only=True)
class Sample(_Draw):
    """Draw molecules from a diffusion model, and measure how good they are."""

    out: Annotated[Path, arg(aliases=["-o"], metavar="FILE.sdf")] = Path("molecules.sdf")
    """the molecules, valid or not; metrics go to FILE.json"""
    atoms: Annotated[int | None, described("INT", "(default: as the training data)")] = None
    """atoms of every molecule"""
    reference: Annotated[Path | None, described("FILE.sdf", "")] = None
    """training molecules: also measure novelty and distances of distributions"""

    def run(self) -> None:
        """Draw, and write molecules and metrics."""
        if not self.out.parent.is_dir():
            raise UserError(f"{self.out}: the folder {self.out.parent} does not exist")
        from molfeat_diffusion.sampling import read_reference, write_sdf

        model, record = self.load()
        reference = None if self.reference is None else read_reference(self.reference)
        molecules, result = self.drawn(model, record["digest"], reference, self.atoms)
        write_sdf(self.out, molecules)
        result["checkpoint"] = self.checkpoint
        _write(self.out.with_name(f"{self.out.name}.json"), result)
        say(f"molecules       {self.out}")


@dataclass(frozen=True, kw_only=True)
class Eval(_Draw):
    """Measure how good a diffusion model's molecules are, and draw some of them."""

    out: Annotated[Path, arg(aliases=["-o"], metavar="FILE.json")] = Path("sampling.json")
    """metrics; FILE.png shows some of the molecules"""
    data: Annotated[tuple[str, ...], arg(metavar="[SOURCE ...]")] = ()
    """training molecules (as train --data): also measure novelty and distances of distributions"""
    data_root: DataRoot = None

    def run(self) -> None:
        """Draw, and write metrics and a picture."""
        if self.out.suffix != ".json" or not self.out.parent.is_dir():
            raise UserError(f"{self.out}: give a .json file in a folder that exists")
        from molfeat_diffusion.data.sets import load_mols
        from molfeat_diffusion.plots import save_molecules
        from priors_shared.datasets.base import resolve_data_root

        model, record = self.load()
        reference = None
        if self.data:
            root = resolve_data_root(self.data_root)
            reference = load_mols(self.data, model.vocabulary, root, quiet=self.quiet)
        molecules, result = self.drawn(model, record["digest"], reference, None)
        trained = record.get("trained", {})
        result |= {
            "checkpoint": Path(self.checkpoint).name,
            "trained_steps": trained.get("step", trained.get("steps", trained.get("updates"))),
            "reference": [Path(source).name for source in self.data],
        }
        _write(self.out, result)
        picture = self.out.with_suffix(".png")
        save_molecules(picture, molecules[:24])
        say(f"picture         {picture}")
