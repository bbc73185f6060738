"""The verb `reproduce`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import ClassVar

from priors_shared import cli


class Reproduce(cli.Reproduce):
    """Run the experiments of the thesis, beside its numbers."""

    names: ClassVar = ("table-2.1", "delayed-labels", "photos", "small-claims")

    @staticmethod
    def load() -> Mapping[str, Callable[..., None]]:
        """Import them."""
        from memory_adapt.experiments import EXPERIMENTS

        return EXPERIMENTS
