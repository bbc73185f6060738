"""The verbs `train` and `presets`."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Annotated, Any, ClassVar

from tyro.conf import Fixed, Suppress, arg

from memory_adapt.config import LaunchConfig, StageConfig, TrainConfig
from memory_adapt.models.registry import IMAGE_LEARNERS
from memory_adapt.presets import PRESETS
from priors_shared.cli import command_line
from priors_shared.console import print_table
from priors_shared.errors import UserError
from priors_shared.options import described, parse_options, preset_and_rest, say, unknown

DEFAULT_MODEL = "cl-lstm"


@dataclass(frozen=True, kw_only=True)
class Train:
    """Train a learner by a preset."""

    config_fields: ClassVar = frozenset(
        f.name
        for config in (
            TrainConfig,
            StageConfig,
            LaunchConfig,
            *(x.config for x in IMAGE_LEARNERS.values()),
        )
        for f in fields(config)
    )
    preset: Suppress[Fixed[str]] = ""
    model: Annotated[str, arg(metavar="|".join(IMAGE_LEARNERS))] = DEFAULT_MODEL
    """the learner; its own options are below"""
    out: Annotated[Path | None, described("DIR", "(default: runs/PRESET/MODEL-SEED)")] = None
    """run folder"""
    resume: bool = False
    """go on with the run in the folder, or begin it where there is none"""
    shots: Annotated[int | None, described("INT", "(default: the preset's)")] = None
    """samples of each class in a stream, in every stage"""
    config: Annotated[TrainConfig, arg(name="")]
    launch: Annotated[LaunchConfig, arg(name="")] = field(default_factory=LaunchConfig)

    @classmethod
    def parse(cls, program: str, args: list[str]) -> Train:
        """Preset and model choose the defaults of all options."""
        preset, rest, about = preset_and_rest("train", args, PRESETS)  # type: ignore[arg-type]
        model = _word_after("--model", rest) or DEFAULT_MODEL
        if model not in IMAGE_LEARNERS:
            raise UserError(unknown("model", model, list(IMAGE_LEARNERS)))
        default = cls(preset=preset, model=model, config=PRESETS[preset](model))
        prog = f"{program} {preset if args[0] == preset else 'PRESET'}"
        parsed = parse_options(cls, prog, rest, default=default, description=about)
        if parsed.shots is None:
            return parsed
        stages = tuple(replace(stage, shots=parsed.shots) for stage in parsed.config.stages)
        return replace(parsed, config=replace(parsed.config, stages=stages))

    def folder(self) -> Path:
        """The run folder."""
        return self.out or Path("runs") / self.preset / f"{self.model}-{self.config.seed}"

    def run(self) -> None:
        """Train in the run folder, and plot the learning curve there."""
        from memory_adapt.evaluation import cheap_blind_bound
        from memory_adapt.plots import learning_curve_figure
        from memory_adapt.training.online import VALIDATION_SHOTS, check, run_config, train
        from priors_shared.runs import Run

        check(self.config)
        record, out = run_config(self.config), self.folder()
        with Run.create(
            out, record, command=command_line(), resume=self.resume, quiet=self.launch.quiet
        ) as run:
            train(self.config, self.launch, run)
            metrics, ways = run.metrics(), self.config.model.ways
            reported = {int(k.split("_")[1]) for m in metrics for k in m if k.startswith("val_")}
            bound = cheap_blind_bound(ways, VALIDATION_SHOTS) or ()
            figure: Any = learning_curve_figure(
                metrics,
                ways=ways,
                blind={k: bound[k] for k in reported if k < len(bound)},
                title=f"{out.name}: {self.config.dataset}",
            )
            plot = run.save_figure("learning_curve", figure)
        say(f"learner         {out / 'model'}")
        say(f"learning curve  {plot}")
        say(f"next            memory-adapt eval {out}")


def _word_after(option: str, words: Sequence[str]) -> str | None:
    """What the command line gives for an option, before it is parsed; the last one counts."""
    found = None
    for here, following in itertools.pairwise([*words, ""]):
        if here == option:
            found = following
        elif here.startswith(f"{option}="):
            found = here.partition("=")[2]
    return found


@dataclass(frozen=True, kw_only=True)
class Presets:
    """List the settings that `train` knows."""

    def run(self) -> None:
        """Print a table."""
        rows = []
        for name, preset in PRESETS.items():
            config = preset(DEFAULT_MODEL)
            steps = sum(stage.steps for stage in config.stages)
            what = f"{name}\n{(preset.__doc__ or '').strip()}\n"
            rows.append([what, config.dataset, f"{steps:,}", _cost_of(name)])
        print_table("", ["preset", "dataset", "steps", "rough cost"], rows)
        say(f"steps: of {DEFAULT_MODEL}; each preset trains --model {' | '.join(IMAGE_LEARNERS)}")


def _cost_of(preset: str) -> str:
    if preset.endswith("scratch_cpu"):
        return "hours, 1 core"
    return "10-60 min, 1 core" if preset.endswith("_cpu") else "hours, GPU"
