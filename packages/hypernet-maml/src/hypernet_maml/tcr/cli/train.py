"""The verbs `train` and `presets`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from hypernet_maml.tcr.config import PRESETS, TrainConfig
from priors_shared import cli
from priors_shared.cli import DataRoot
from priors_shared.options import say

if TYPE_CHECKING:
    from priors_shared.runs import Run


@dataclass(frozen=True, kw_only=True)
class Train(cli.TrainVerb):
    """Train a hypernetwork over epitopes."""

    presets: ClassVar = PRESETS
    config: TrainConfig
    data_root: DataRoot = None

    def train(self, run: Run) -> None:
        """Train, and write the weights to the run's `model`."""
        from dataclasses import asdict

        from hypernet_maml.tcr.datasets import load_binders
        from hypernet_maml.tcr.pretrained import TcrHypernetwork
        from hypernet_maml.tcr.protocol import make_folds
        from hypernet_maml.tcr.ranker import describe
        from hypernet_maml.tcr.training import train

        config = self.config
        binders = load_binders(config.source, self.data_root)
        fold = make_folds(binders, folds=config.folds, seed=config.split_seed)[config.fold]
        described = describe(binders.receptors, config.encoder)
        ranker = train(config, binders, described, fold, run)
        held_out = sorted({binders.epitopes[i] for i in fold.test})
        trained = {"config": asdict(config), "receptors": len(fold.train), "held_out": held_out}
        TcrHypernetwork(ranker, trained=trained).save_pretrained(run.out / "model")

    def report(self, run: Run) -> None:
        """Where the weights are."""
        say(f"weights   {run.out / 'model'}")


class Presets(cli.Presets):
    """List the presets."""

    @staticmethod
    def presets() -> Mapping[str, Mapping[str, Callable[[], Any]]]:
        """Of `train`."""
        return {"tcr train": PRESETS}
