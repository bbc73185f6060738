"""Scenes of held-out combinations beside trained ones, from several ways to train: what four results share.

All arms share prompts and steps. The thesis has images and CLIP retrieval (Table 4.1), no numbers of these kinds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

from hyperfields.conditioning.vocabulary import file_name_of, procedural_prompts
from hyperfields.config import DistillConfig, LaunchConfig, TeachConfig
from hyperfields.data.teachers import read_teachers
from hyperfields.data.views import procedural_views
from hyperfields.evaluation import evaluate, exact_views, means, score_scenes
from hyperfields.fields.cameras import evaluation_views
from hyperfields.fields.field import Field
from hyperfields.output.sheet import write_contact_sheet
from hyperfields.presets import procedural, procedural_cpu_short, teacher, teacher_cpu
from hyperfields.pretrained import HyperFields
from hyperfields.training.distillation import distill, training_cameras
from hyperfields.training.score_distillation import teach
from priors_shared.checkpoints import has_weights
from priors_shared.experiments import Experiment, Lab, all_seeds, rows_over_seeds
from priors_shared.reports import Measured
from priors_shared.runs import Run

Arm = Literal["dynamic", "static", "grid", "taught"]


@dataclass(frozen=True, kw_only=True)
class HeldOut(Experiment):
    """Arms that learn the same combinations, each scored on those and on the held-out ones."""

    arms: Sequence[Arm]
    config: DistillConfig
    """of all arms but for their conditioning"""
    teaching: TeachConfig
    """stage 1 of the arm `taught`"""
    sheet_size: int = 96
    """pixels along each side of an image"""

    def run(self, lab: Lab) -> None:
        """Train what is missing, score, write the JSON and a contact sheet of each arm's held-out scenes."""
        scores: dict[str, dict[int, dict[str, dict[str, float]]]] = {}
        teachers: dict[str, float] | None = None
        configs: dict[str, Any] = {}
        for arm in self.arms:
            for seed in self.seeds:
                config = config_of(self.config, arm, seed)
                folder = folder_of(lab.runs, self.preset, arm, seed)
                taught = self._teacher_folders(lab)
                if not lab.has(folder, config, partial(self._train, lab, config, arm)):
                    continue
                model = HyperFields.from_pretrained(folder, text=config.model.text)
                size = config.image_size
                found = evaluate(model, views=6, size=size, samples=64)
                if arm not in scores:
                    held = list(model.trained["held_out"])
                    sheet, fields = self.path(lab, arm), model.generate_all(held)
                    write_contact_sheet(fields, held, sheet, size=self.sheet_size)
                scores.setdefault(arm, {})[seed] = found["means"]
                kept = all(has_weights(at / "model") for at in taught.values())
                if arm == "taught" and teachers is None and kept:
                    teachers = score_teachers(taught, size)
                configs[arm] = asdict(config)
        if not scores:
            return
        rows = rows_over_seeds(
            {
                f"{arm}, {group} scenes": {seed: means[group] for seed, means in by_seed.items()}
                for arm, by_seed in scores.items()
                for group in ("held out", "trained")
            }
        )
        if teachers is not None:
            rows.append({"model": "the teachers"} | {k: Measured(v) for k, v in teachers.items()})
        self.write(
            lab,
            rows,
            config=configs,
            seeds=all_seeds(scores),
            data="procedural scenes: 45 combinations trained, 27 held out",
            per_seed=scores,
        )

    def _teacher_folders(self, lab: Lab) -> dict[str, Path]:
        root = lab.runs / f"stages_{self.preset}"
        return {prompt: root / file_name_of(prompt) for prompt in self.config.prompts}

    def _train(self, lab: Lab, config: DistillConfig, arm: Arm, run: Run) -> None:
        if arm != "taught":
            distill_exact(config, run)
            return
        # Stage 1: a NeRF of each prompt by score distillation.
        for prompt, folder in self._teacher_folders(lab).items():
            one = replace(self.teaching, prompt=prompt)
            lab.has(folder, one, partial(teach, one, LaunchConfig()))
        cameras = training_cameras(config)
        distill(config, read_teachers(folder.parent, cameras), LaunchConfig(), run)


def config_of(config: DistillConfig, arm: str, seed: int) -> DistillConfig:
    """The training of an arm."""
    conditioning: Any = "dynamic" if arm == "taught" else arm
    return replace(config, seed=seed, model=replace(config.model, conditioning=conditioning))


def folder_of(runs: Path, preset: str, arm: Arm, seed: int) -> Path:
    """Where an arm's run lives: the preset's own is where `hyperfields train` writes it."""
    name = {"cpu": "procedural_cpu_short", "paper": "procedural"}[preset]
    return runs / name / (str(seed) if arm == "dynamic" else f"{arm}-{seed}")


def held_out_experiment(preset: str, id: str, claim: str, arms: Sequence[Arm]) -> HeldOut:
    """One of the four results, in a preset's sizes."""
    config, teaching = procedural(), teacher()
    if preset == "cpu":
        config = procedural_cpu_short()
        teaching = replace(teacher_cpu(), batch_size=1, samples=24, steps=120)
    return HeldOut(id=id, claim=claim, preset=preset, arms=arms, config=config, teaching=teaching)


def distill_exact(config: DistillConfig, run: Run) -> None:
    """Distil exact renders in the run's folder."""
    views = procedural_views(config.prompts, training_cameras(config))
    distill(config, views, LaunchConfig(), run)


def score_teachers(folders: Mapping[str, Path], size: int) -> dict[str, float]:
    """How well stage 1's NeRFs, by prompt, match exact renders, seen as the scenes of stage 2 are."""
    cameras = evaluation_views(6, size)
    fields = {prompt: Field.load(folder / "model") for prompt, folder in folders.items()}
    exact = exact_views(procedural_prompts(), cameras)
    return means(score_scenes(fields, cameras, exact, samples=64))
