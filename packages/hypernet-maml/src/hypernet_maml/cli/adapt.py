"""The verb `adapt`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from priors_shared.cli import Checkpoint, Device, Seed, Threads
from priors_shared.options import note, say


@dataclass(frozen=True, kw_only=True)
class Adapt:
    """Learn a folder's classes from a few images each, and predict the others."""

    checkpoint: Checkpoint
    folder: Annotated[Positional[Path], arg(metavar="FOLDER")]
    """images: one subfolder per class"""
    shots: int = 5
    """images of each class to learn from; the others are predicted"""
    seed: Seed = 0
    out: Annotated[Path, arg(metavar="FILE.csv")] = Path("predictions.csv")
    """predictions: path, class, predicted, probability"""
    device: Device = "cpu"
    threads: Threads = None

    def __post_init__(self) -> None:
        if self.shots < 1:
            raise ValueError(f"shots: {self.shots} is less than 1")

    def run(self) -> None:
        """Adapt, predict, write the predictions."""
        from hypernet_maml.prediction import adapt_to_folder
        from hypernet_maml.pretrained import FewShotLearner
        from priors_shared.devices import set_threads

        set_threads(self.threads)
        learner = FewShotLearner.from_pretrained(self.checkpoint, self.device)
        result = adapt_to_folder(learner, self.folder, shots=self.shots, seed=self.seed)
        for path, reason in result.skipped:
            note(f"skipped {path}: {reason}")
        result.write(self.out)
        say(f"learned   {len(result.class_names)} classes from {self.shots} images each")
        say(f"predicted {len(result.rows)} images: {100 * result.accuracy:.1f} % right")
        say(f"rows      {self.out}")
