"""The verb `reproduce`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from priors_shared.options import run_experiments


@dataclass(frozen=True)
class Reproduce:
    """Run the experiments of the thesis, beside its numbers."""

    args: list[str]

    @classmethod
    def parse(cls, program: str, args: list[str]) -> Reproduce:
        """Parsed when it runs."""
        return cls(args)

    def run(self) -> None:
        """Run them."""
        run_experiments("memory-adapt", self.args, ("table-2.1", "delayed-labels"), _load)


def _load() -> Mapping[str, Callable[..., None]]:
    from memory_adapt.experiments import EXPERIMENTS

    return EXPERIMENTS
