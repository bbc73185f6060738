"""The verb `domain`."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from tyro.conf import Positional, arg

from hypernet_maml.cli.train import check_network
from hypernet_maml.config import DomainConfig, LaunchConfig
from hypernet_maml.presets import DOMAIN
from priors_shared.cli import TrainVerb
from priors_shared.errors import UserError
from priors_shared.options import described, say

if TYPE_CHECKING:
    from hypernet_maml.models.networks import Classifier
    from priors_shared.runs import Run


@dataclass(frozen=True, kw_only=True)
class TrainDomains(TrainVerb):
    """Train on three domains of PACS, test on the fourth."""

    presets: ClassVar[Any] = DOMAIN
    config: DomainConfig
    launch: LaunchConfig = field(default_factory=LaunchConfig)
    out: Annotated[
        Path | None,
        arg(aliases=["-o"]),
        described("DIR", "(default: runs/PRESET/DOMAIN-METHOD-SEED)"),
    ] = None
    """run folder"""
    checkpoint: Annotated[Positional[str | None], arg(metavar="[CHECKPOINT]")] = None
    """a trained network to begin from: run folder, checkpoint folder, or Hugging Face Hub id (default:
    initial weights)"""

    @cached_property
    def begun(self) -> tuple[DomainConfig, Classifier | None, dict[str, Any] | None]:
        """The setting with the network to begin from, that network, and how it was trained.

        Raises:
            UserError: options of a network, where a checkpoint brings its own.
        """
        config = self.config
        if self.checkpoint is None:
            check_network(config.network)
            return config, None, None
        size = config.network.image_size
        if config.network != replace(DOMAIN[self.preset]().network, image_size=size):
            raise UserError(
                "the network is the checkpoint's: leave out its options, but for --image-size"
            )
        from hypernet_maml.pretrained import load_network

        net, network, trained = load_network(self.checkpoint)
        return replace(config, network=replace(network, image_size=size)), net, trained

    @property
    def method(self) -> str:
        """With Representation Self-Challenging, or without."""
        return "rsc" if self.config.rsc else "no-rsc"

    @property
    def run_name(self) -> str:
        """The domain held out, the method and the seed."""
        return f"{self.config.held_out}-{self.method}-{self.config.seed}"

    def record(self) -> dict[str, Any]:
        """The run's configuration, and what it begins from."""
        config, _, trained = self.begun
        return asdict(config) | {"pretrained": trained}

    def train(self, run: Run) -> None:
        """Train, and test on the domain held out."""
        from hypernet_maml.training.domain import train_domains

        config, net, _ = self.begun
        train_domains(config, net, self.launch, run)

    def report(self, run: Run) -> None:
        """Plot the training beside the test."""
        from hypernet_maml.plots import domain_figure

        held_out = self.config.held_out
        found = json.loads((run.out / "test.json").read_text())
        figure: Any = domain_figure(
            run.metrics(),
            held_out=held_out,
            accuracy=found["accuracy"],
            title=f"PACS without {held_out}, {self.method}",
        )
        plot = run.save_figure("domain", figure)
        accuracy = 100 * found["val_accuracy"]
        say(f"network   {run.out / 'model'}: crossval accuracy {accuracy:.1f} %")
        say(
            f"held out  {held_out}: {100 * found['accuracy']:.1f} % of its {found['images']} images"
        )
        say(f"plot      {plot}")
