"""Where a training runs, as its user chooses, and which of its processes this is. Imports no torch."""

import os
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class LaunchConfig:
    """Where and how it runs; a resumed run may change all of it."""

    accelerator: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """where to run"""
    devices: int = 1
    """number of accelerators, or of processes on the CPU; each has its share of every batch"""
    precision: Literal["32-true", "bf16-mixed"] = "32-true"
    """arithmetic"""
    compile: bool = False
    """torch.compile the training step"""
    threads: int | None = None
    """CPU threads; give 1 when other work shares the cores"""
    quiet: bool = False
    """no progress on stderr"""


def follows() -> bool:
    """Whether this is a process of a training on several devices, and not the first of them.

    The first one alone writes files and says something. Known from the environment, before anything is
    launched: Lightning Fabric and torchrun tell each process its rank there.
    """
    return any(int(os.environ.get(name) or 0) > 0 for name in ("RANK", "LOCAL_RANK"))
