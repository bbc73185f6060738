"""The verbs `presets` and `reproduce`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from hypernet_maml.presets import DOMAIN, META, TRAIN
from priors_shared import cli


class Presets(cli.Presets):
    """List the presets."""

    @staticmethod
    def presets() -> Mapping[str, Mapping[str, Callable[[], Any]]]:
        """By the verbs that take them."""
        return {"train": TRAIN, "metatrain": META, "domain": DOMAIN}


class Reproduce(cli.Reproduce):
    """Run the experiments of the thesis, beside its numbers."""

    names: ClassVar = (
        *(f"table-3.{i}" for i in range(1, 9)),
        *(f"figure-3.{i}" for i in range(3, 7)),
        "tcr-few-shot",
        "small-claims",
    )

    @staticmethod
    def load() -> Mapping[str, Callable[..., None]]:
        """Import them."""
        from hypernet_maml.experiments import EXPERIMENTS

        return EXPERIMENTS
