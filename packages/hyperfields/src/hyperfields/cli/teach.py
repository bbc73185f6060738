"""`hyperfields teach` and `hyperfields finetune`: score distillation of one prompt."""

from __future__ import annotations

import shlex
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import tyro
from tyro.conf import Positional, arg

from hyperfields.cli.options import Model, Prompts, Text
from hyperfields.cli.scenes import load_model, read_prompts
from hyperfields.conditioning.vocabulary import file_name_of
from hyperfields.config import FinetuneConfig, TeachConfig
from hyperfields.presets import FINETUNE, TEACH
from priors_shared.cli import TrainVerb
from priors_shared.errors import UserError
from priors_shared.options import described, say

if TYPE_CHECKING:
    from priors_shared.runs import Run


@dataclass(frozen=True, kw_only=True)
class Teach(TrainVerb):
    """Optimise a NeRF of one prompt by score distillation (stage 1), or one of each prompt in a file."""

    presets: ClassVar[Any] = TEACH
    config: TeachConfig
    prompt: Annotated[Positional[str | None], arg(metavar="[PROMPT]")] = None
    """what to show; leave it out with --prompts"""
    prompts: Prompts = None
    out: Annotated[
        Path | None, arg(metavar="DIR", aliases=["-o"]), described("DIR", "(default: teachers)")
    ] = None
    """folder of teachers: each gets a run folder of its own below it"""

    def run(self) -> None:
        """Optimise each prompt's field in a run of its own."""
        prompts = read_prompts(self.prompt, self.prompts)
        names = [file_name_of(prompt) for prompt in prompts]
        for i, name in enumerate(names):
            if name in names[:i]:
                raise UserError(
                    f"{prompts[i]!r} and {prompts[names.index(name)]!r} would share the folder {name}: leave one out"
                )
        folder = self.out or Path("teachers")
        for prompt, name in zip(prompts, names, strict=True):
            one = replace(self, config=replace(self.config, prompt=prompt), out=folder / name)
            one.run_in(folder / name)
        say(f"next      hyperfields distill PRESET {folder}")

    def train(self, run: Run) -> None:
        """Optimise the field."""
        from hyperfields.training.score_distillation import teach

        teach(self.config, self.launch, run)

    def report(self, run: Run) -> None:
        """Write an image of the scene."""
        from hyperfields.fields.field import Field
        from hyperfields.output.sheet import write_contact_sheet

        sheet = run.plots / "scene.png"
        fields = [Field.load(run.out / "model")]
        write_contact_sheet(fields, [self.config.prompt], sheet, size=96, samples=64)
        say(f"teacher   {run.out / 'model'}")
        say(f"scene     {sheet}")


@dataclass(frozen=True, kw_only=True)
class Finetune(TrainVerb):
    """Tune a whole model to one prompt that is out of distribution, by score distillation."""

    presets: ClassVar[Any] = FINETUNE
    config: FinetuneConfig
    model: Model = tyro.MISSING
    prompt: Annotated[Positional[str], arg(metavar="PROMPT")] = tyro.MISSING
    """what to show"""
    text: Text = None
    out: Annotated[
        Path | None,
        arg(metavar="DIR", aliases=["-o"]),
        described("DIR", "(default: finetuned/PROMPT)"),
    ] = None
    """run folder; the tuned model is written below it"""

    def run(self) -> None:
        """Tune in a run folder named after the prompt."""
        (prompt,) = read_prompts(self.prompt, None)
        one = replace(self, config=replace(self.config, prompt=prompt))
        one.run_in(self.out or Path("finetuned") / file_name_of(prompt))

    def record(self) -> dict[str, Any]:
        """The run's configuration, and what it began with."""
        return asdict(self.config) | {"model": self.model}

    def train(self, run: Run) -> None:
        """Tune the model."""
        from hyperfields.training.finetuning import finetune

        model = load_model(self.model, text=self.text)
        finetune(self.config, model, self.launch, run)

    def report(self, run: Run) -> None:
        """Write an image of the scene before and after."""
        from hyperfields.output.sheet import write_contact_sheet

        sheet, prompt = run.plots / "scene.png", self.config.prompt
        before = load_model(self.model, text=self.text)
        after = load_model(str(run.out), text=before.text.name)
        scenes = [model.generate(prompt) for model in (before, after)]
        write_contact_sheet(scenes, ["before", "after"], sheet, size=96, samples=64)
        say(f"model     {run.out / 'model'}")
        say(f"scene     {sheet}")
        say(f"next      hyperfields generate {shlex.quote(prompt)} --model {run.out}")
