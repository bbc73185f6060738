"""The verb `diagnose`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from priors_shared.cli import DataRoot
from priors_shared.options import described, say


@dataclass(frozen=True, kw_only=True)
class Diagnose:
    """Plot embedding-to-gradient ratios (Fig. 3.3) and inner-loop movement (Fig. 3.5)."""

    checkpoints: Annotated[Positional[tuple[str, ...]], arg(metavar="CHECKPOINT [CHECKPOINT ...]")]
    """run folders: of train, for |E| / |grad E|; of metatrain, to compare how far inner loops move"""
    dataset: Annotated[
        str | None, described("NAME", "(default: what the first was trained on)")
    ] = None
    """tasks for the inner loops"""
    tasks: int = 20
    """tasks to average over"""
    data_root: DataRoot = None
    out: Annotated[Path, arg(metavar="DIR")] = Path("diagnosis")
    """folder for the plots and numbers"""

    def __post_init__(self) -> None:
        if self.tasks < 1:
            raise ValueError(f"tasks: {self.tasks} is less than 1")

    def run(self) -> None:
        """Write the plots and numbers."""
        from hypernet_maml.diagnosis import diagnose

        for line in diagnose(self.checkpoints, self.out, self.dataset, self.data_root, self.tasks):
            say(line)
