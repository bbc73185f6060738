"""The verbs `presets` and `reproduce`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from molfeat_diffusion.presets import LANGUAGE, TRAIN
from priors_shared import cli


class Presets(cli.Presets):
    """List the presets."""

    @staticmethod
    def presets() -> Mapping[str, Mapping[str, Callable[[], Any]]]:
        """By the verbs that take them."""
        return {"train": {**TRAIN, **LANGUAGE}}


class Reproduce(cli.Reproduce):
    """Run the experiments of the thesis, beside its numbers."""

    names: ClassVar = ("table-5.1", "small-claims")

    @staticmethod
    def load() -> Mapping[str, Callable[..., None]]:
        """Import them."""
        from molfeat_diffusion.experiments import EXPERIMENTS

        return EXPERIMENTS
