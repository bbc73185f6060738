"""The verb `metatrain`."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import tyro
from tyro.conf import Fixed, Positional, Suppress, arg

from hypernet_maml.config import Algorithm, InnerLoop, LaunchConfig, MetaConfig, Statistics
from hypernet_maml.presets import META
from priors_shared.cli import TrainVerb
from priors_shared.options import described, say
from priors_shared.ranges import require, require_positive

if TYPE_CHECKING:
    from hypernet_maml.config import NetworkConfig
    from hypernet_maml.models.networks import Classifier
    from priors_shared.runs import Run


@dataclass(frozen=True, kw_only=True)
class _Outer(MetaConfig):
    inner: Suppress[Fixed[InnerLoop]] = field(default_factory=InnerLoop)


@dataclass(frozen=True, kw_only=True)
class Metatrain(TrainVerb):
    """Meta-train a pre-trained network on few-shot tasks."""

    presets: ClassVar[Any] = META
    config: _Outer
    launch: LaunchConfig = field(default_factory=LaunchConfig)
    out: Annotated[
        Path | None,
        arg(aliases=["-o"]),
        described("DIR", "(default: runs/PRESET/ALGORITHM-SEED)"),
    ] = None
    """run folder"""
    checkpoint: Annotated[Positional[str], arg(metavar="CHECKPOINT")] = tyro.MISSING
    """a trained network to begin from: run folder, checkpoint folder, or Hugging Face Hub id"""
    algorithm: Algorithm
    """maml, maml-precond (Algorithm 1), fomaml, anil or hyper-maml (Algorithm 2)"""
    inner_steps: int
    """gradient steps on the support set"""
    inner_learning_rate: float
    """of these steps"""
    first_order: bool
    """ignore second derivatives (fomaml always does)"""
    statistics: Statistics
    """what batch norm uses: the batch's own statistics (transductive) or the stored ones"""

    def __post_init__(self) -> None:
        require(self, 1, "inner_steps")
        require_positive(self, "inner_learning_rate")

    @classmethod
    def defaults(cls, preset: str) -> Metatrain:
        """The verb with a preset's settings."""
        config = META[preset]()
        inner = config.inner
        return cls(
            preset=preset,
            config=_Outer(**vars(config)),
            algorithm=inner.algorithm,
            inner_steps=inner.steps,
            inner_learning_rate=inner.learning_rate,
            first_order=inner.first_order,
            statistics=inner.statistics,
        )

    @property
    def setting(self) -> MetaConfig:
        """The configuration with the inner loop of the options."""
        inner = InnerLoop(
            algorithm=self.algorithm,
            steps=self.inner_steps,
            learning_rate=self.inner_learning_rate,
            first_order=self.first_order,
            statistics=self.statistics,
        )
        return MetaConfig(**vars(self.config) | {"inner": inner})

    @cached_property
    def pretrained(self) -> tuple[Classifier, NetworkConfig, dict[str, Any]]:
        """The network to begin from, its configuration, and how it was trained."""
        from hypernet_maml.pretrained import load_network

        return load_network(self.checkpoint)

    @property
    def run_name(self) -> str:
        """The algorithm and the seed."""
        return f"{self.algorithm}-{self.config.seed}"

    def record(self) -> dict[str, Any]:
        """The run's configuration, and what it begins from."""
        _, network, trained = self.pretrained
        return asdict(self.setting) | {"network": asdict(network), "pretrained": trained}

    def train(self, run: Run) -> None:
        """Meta-train."""
        from hypernet_maml.training.metatraining import metatrain

        net, network, _ = self.pretrained
        metatrain(self.setting, net, network, self.launch, run)

    def report(self, run: Run) -> None:
        """Plot the meta-training."""
        from hypernet_maml.plots import meta_figure

        config, metrics = self.config, run.metrics()
        title = f"{config.dataset}, {config.ways}-way {config.shots}-shot, {self.algorithm}"
        figure: Any = meta_figure(metrics, ways=config.ways, title=title)
        plot = run.save_figure("meta", figure)
        best = max(m["val_accuracy"] for m in metrics if "val_accuracy" in m)
        say(f"learner   {run.out / 'model'}: best validation accuracy {100 * best:.1f} %")
        say(f"plot      {plot}")
        say(f"next      hypernet-maml eval {run.out}")
