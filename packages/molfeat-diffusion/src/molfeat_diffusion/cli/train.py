"""The verb `train`: of diffusion models and of language models, by the preset."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from molfeat_diffusion.config import LanguageConfig, LaunchConfig, TrainConfig
from molfeat_diffusion.presets import LANGUAGE, TRAIN
from priors_shared.cli import TrainVerb
from priors_shared.options import say

if TYPE_CHECKING:
    from priors_shared.runs import Run


@dataclass(frozen=True, kw_only=True)
class TrainLanguage(TrainVerb):
    """Train a language model of SMILES."""

    presets: ClassVar[Any] = {**TRAIN, **LANGUAGE}
    config: LanguageConfig
    launch: LaunchConfig = field(default_factory=LaunchConfig)

    def train(self, run: Run) -> None:
        """Train the masked-language model."""
        from molfeat_diffusion.training.language import train_language

        train_language(self.config, self.launch, run)

    def report(self, run: Run) -> None:
        """Plot the training."""
        from molfeat_diffusion.plots import language_figure

        metrics = run.metrics()
        figure: Any = language_figure(metrics, title=self.preset)
        plot = run.save_figure("training", figure)
        accuracy = 100 * metrics[-1]["val_accuracy"]
        say(f"model     {run.out / 'model'}: {accuracy:.1f} % of hidden tokens right")
        say(f"plot      {plot}")
        say(f"left out  {run.out / 'left_out.tsv'}")


@dataclass(frozen=True, kw_only=True)
class Train(TrainVerb):
    """Train a diffusion model of molecules, or a language model of SMILES."""

    presets: ClassVar[Any] = {**TRAIN, **LANGUAGE}
    config: TrainConfig
    launch: LaunchConfig = field(default_factory=LaunchConfig)

    @classmethod
    def parse(cls, usage: str, args: list[str]) -> Any:
        """The preset says what is trained."""
        if args and args[0] in LANGUAGE:
            return TrainLanguage.parse(usage, args)
        return super().parse(usage, args)

    def train(self, run: Run) -> None:
        """Train the diffusion model."""
        from molfeat_diffusion.training.diffusion import train

        train(self.config, self.launch, run)

    def report(self, run: Run) -> None:
        """Plot the training."""
        from molfeat_diffusion.plots import training_figure

        metrics = run.metrics()
        figure: Any = training_figure(metrics, title=self.preset)
        plot = run.save_figure("training", figure)
        say(f"model     {run.out / 'model'}: validation loss {metrics[-1]['val_loss']:.4g}")
        say(f"plot      {plot}")
        say(f"left out  {run.out / 'left_out.tsv'}")
        say(
            f"next      molfeat-diffusion sample {run.out} or molfeat-diffusion featurize FILE --checkpoint {run.out}"
        )
