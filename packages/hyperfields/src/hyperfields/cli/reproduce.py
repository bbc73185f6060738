"""The verbs `presets` and `reproduce`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from hyperfields.presets import DISTILL, FINETUNE, GUIDANCE, SEGMENT, TEACH
from priors_shared import cli


class Presets(cli.Presets):
    """List the presets."""

    @staticmethod
    def presets() -> Mapping[str, Mapping[str, Callable[[], Any]]]:
        """By the verbs that take them."""
        return {
            "train, distill": DISTILL,
            "train-guidance": GUIDANCE,
            "train-segmentation": SEGMENT,
            "teach": TEACH,
            "finetune": FINETUNE,
        }


class Reproduce(cli.Reproduce):
    """Run the experiments of the thesis, beside its numbers."""

    names: ClassVar = (
        "figure-4.4",
        "figure-4.9",
        "att3d",
        "stages",
        "table-4.1",
        "figure-4.8",
        "table-4.3",
        "figure-4.10",
        "figure-4.11",
        "amortization",
        "figure-b.2",
        "figure-4.9-materials",
        "small-claims",
    )

    @staticmethod
    def load() -> Mapping[str, Callable[..., None]]:
        """Import them."""
        from hyperfields.experiments import EXPERIMENTS

        return EXPERIMENTS
