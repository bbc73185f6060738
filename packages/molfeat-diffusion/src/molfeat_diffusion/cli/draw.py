"""What `sample` and `eval` share: molecules drawn from a model, and their metrics."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from tyro.conf import arg

from molfeat_diffusion.cli.options import Quiet
from priors_shared.cli import Checkpoint, Device, Threads, command_line
from priors_shared.options import described, say
from priors_shared.ranges import require, require_positive

if TYPE_CHECKING:
    from rdkit import Chem

    from molfeat_diffusion.models.diffusion import MiDi


@dataclass(frozen=True, kw_only=True)
class Draw:
    """Options of drawing molecules."""

    checkpoint: Checkpoint
    count: Annotated[int, arg(aliases=["-n"])] = 100
    """molecules"""
    steps: Annotated[int | None, described("INT", "(default: the model's T)")] = None
    """reverse steps; fewer are faster, each spans several of the T"""
    temperature: float = 1.0
    """of the classes' probabilities: below 1, fewer and likelier molecules; 1: as published"""
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
        require_positive(self, "temperature")

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
            temperature=self.temperature,
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
            "temperature": self.temperature,
            "seed": self.seed,
            "hardware": hardware(),
            "command": command_line(),
        }


def write_metrics(path: Path, result: dict[str, Any]) -> None:
    """Write a result as JSON, and say its metrics."""
    from priors_shared.files import write_atomically

    write_atomically(path, json.dumps(result, indent=2) + "\n")
    for name, value in result["metrics"].items():
        say(f"{name:<16}{value:.4g}" if name.startswith("w1") else f"{name:<16}{100 * value:.1f} %")
    say(f"metrics         {path}")
