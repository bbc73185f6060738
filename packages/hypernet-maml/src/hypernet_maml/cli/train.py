"""The verbs `train` and `pretrain`: one loop."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar

from hypernet_maml.config import NetworkConfig, StreamLaunchConfig, TrainConfig
from hypernet_maml.presets import TRAIN
from priors_shared.cli import TrainVerb
from priors_shared.errors import UserError
from priors_shared.options import say

if TYPE_CHECKING:
    from priors_shared.runs import Run


@dataclass(frozen=True, kw_only=True)
class Train(TrainVerb):
    """Train a network on images: classification, or pre-training."""

    presets: ClassVar[Any] = TRAIN
    config: TrainConfig
    launch: StreamLaunchConfig = field(default_factory=StreamLaunchConfig)

    def run(self) -> None:
        """Train in the run folder, then report."""
        check_network(self.config.network)
        super().run()

    def train(self, run: Run) -> None:
        """Train the classifier."""
        from hypernet_maml.training.supervised import train

        train(self.config, self.launch, run)

    def report(self, run: Run) -> None:
        """Plot the training, and the ratios of Figure 3.3 where there are embeddings."""
        from hypernet_maml.plots import ratio_figure, training_figure

        metrics = run.metrics()
        figure: Any = training_figure(metrics, title=run.out.parent.name)
        plot = run.save_figure("training", figure)
        if any(key.startswith("ratio/") for key in metrics[-1]):
            figure = ratio_figure(metrics, title="Embeddings and their gradients")
            run.save_figure("ratios", figure)
        accuracy = 100 * metrics[-1]["val_accuracy"]
        say(f"network   {run.out / 'model'}: validation accuracy {accuracy:.1f} %")
        say(f"plot      {plot}")
        say(f"next      hypernet-maml export {run.out} or hypernet-maml metatrain PRESET {run.out}")


@dataclass(frozen=True, kw_only=True)
class Pretrain(Train):
    """The same, for a network to meta-train."""


def check_network(config: NetworkConfig) -> None:
    """Raise UserError where the options make no network."""
    import torch

    from hypernet_maml.models.networks import build_network

    try:
        with torch.device("meta"):  # without its weights: are the options a network at all?
            build_network(replace(config, sharing="none"))
    except ValueError as error:
        raise UserError(f"these options make no network: {error}") from None
