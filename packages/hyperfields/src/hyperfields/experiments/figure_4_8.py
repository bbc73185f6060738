"""Fig. 4.8: prompts out of distribution, fine-tuned or optimised alone by the same score distillation.

Claim (4.4.3): the trained hypernetwork converges about five times as fast as DreamFusion from scratch (S) and
DreamFusion that begins with the zero-shot scene (P). Unseen attribute and unseen shape are measured apart. PSNR
is against exact renders; the thesis has images only. All arms have the empirical guidance, batch, render size
and samples; each has the learning rates of its own preset. As in the figure the baselines may go on for longer.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any, Literal

from hyperfields.conditioning.vocabulary import file_name_of
from hyperfields.config import (
    SHIPPED_MODEL,
    FinetuneConfig,
    LaunchConfig,
    ScoreConfig,
    TeachConfig,
)
from hyperfields.data.views import procedural_views
from hyperfields.evaluation import psnr
from hyperfields.fields.cameras import evaluation_views
from hyperfields.fields.field import Field
from hyperfields.fields.rendering import composite_over
from hyperfields.output.sheet import write_contact_sheet
from hyperfields.presets import finetune as finetune_preset
from hyperfields.presets import finetune_cpu, teacher, teacher_cpu
from hyperfields.pretrained import HyperFields
from hyperfields.training.finetuning import finetune
from hyperfields.training.score_distillation import teach
from priors_shared.experiments import Experiment, Lab
from priors_shared.reports import Measured
from priors_shared.runs import Run, read_metrics, read_timing

Arm = Literal["hyperfields", "scratch", "pretrained"]
NAMES: Mapping[Arm, str] = {
    "hyperfields": "HyperFields, fine-tuned",
    "scratch": "DreamFusion (S), from scratch",
    "pretrained": "DreamFusion (P), from the zero-shot scene",
}
CASES: Mapping[str, str] = {
    "unseen attribute": "a teal chair",
    "unseen shape": "a red teapot",
}
"""Prompts; their colour, or shape, is in none that was trained."""


@dataclass(frozen=True, kw_only=True)
class Optimisations:
    """Sizes of optimisations of one prompt, which several results share."""

    preset: str
    """cpu or paper"""
    model: str
    """what is fine-tuned; baselines have its field's sizes"""
    teaching: TeachConfig
    """of the baselines"""
    tuning: FinetuneConfig
    """of ours"""
    steps: Mapping[Arm, int]
    """of each arm"""
    views: int = 3
    """cameras of an evaluation"""
    text: str | None = None
    """text encoder of the model, where it is none of the known ones"""

    def load(self) -> HyperFields:
        """What is fine-tuned."""
        return HyperFields.from_pretrained(self.model, text=self.text)

    def config(self, arm: Arm, prompt: str, seed: int, model: HyperFields) -> ScoreConfig:
        """The optimisation of an arm."""
        own: dict[str, Any] = {"prompt": prompt, "seed": seed, "steps": self.steps[arm]}
        if arm == "hyperfields":
            return replace(self.tuning, **own)
        return replace(self.teaching, field=model.net.config.field, **own)

    def folder(self, runs: Path, arm: Arm, prompt: str, seed: int) -> Path:
        """Where a run lives."""
        return runs / f"ood_{self.preset}" / f"{arm}-{file_name_of(prompt)}-{seed}"

    def finished(self, lab: Lab, arm: Arm, prompt: str, seed: int, model: HyperFields) -> bool:
        """Whether a run is there; unless the lab is quick, what is missing is optimised."""
        config = self.config(arm, prompt, seed, model)
        folder = self.folder(lab.runs, arm, prompt, seed)
        return lab.has(folder, config, lambda run: optimise(arm, config, model, run, self.views))


def optimisations(preset: str) -> Optimisations:
    """In a preset's sizes."""
    if preset == "paper":
        own: dict[str, Any] = {"log_every": 50}
        return Optimisations(
            preset=preset,
            model="runs/procedural/0",
            teaching=replace(teacher(), **own),
            tuning=replace(finetune_preset(), **own),
            steps={"hyperfields": 2000, "scratch": 10000, "pretrained": 10000},
            views=12,
        )
    own = {"batch_size": 1, "samples": 24, "views": 48, "log_every": 8, "checkpoint_every": 40}
    return Optimisations(
        preset=preset,
        model=SHIPPED_MODEL,
        teaching=replace(teacher_cpu(), **own),
        tuning=replace(finetune_cpu(), **own),
        steps={"hyperfields": 120, "scratch": 320, "pretrained": 160},
    )


@dataclass(frozen=True, kw_only=True)
class Figure48(Experiment):
    """Three ways to a prompt out of distribution, over steps."""

    id: str = "figure-4.8"
    claim: str = (
        "a trained hypernetwork converges faster on prompts out of distribution than a single NeRF"
    )
    sizes: Optimisations
    sheet_size: int = 96
    """pixels along each side of an image"""

    def run(self, lab: Lab) -> None:
        """Optimise what is missing; write the JSON, the curves and the scenes."""
        model = self.sizes.load()
        curves: dict[tuple[str, Arm], dict[int, Curve]] = {}
        shown: dict[str, Field] = {}
        configs: dict[str, Any] = {}
        # Seed by seed: what is there when it is stopped can be compared.
        for seed, (case, prompt), arm in product(self.seeds, CASES.items(), NAMES):
            if not self.sizes.finished(lab, arm, prompt, seed, model):
                continue
            folder = self.sizes.folder(lab.runs, arm, prompt, seed)
            curves.setdefault((case, arm), {})[seed] = read_curve(folder)
            configs[arm] = asdict(self.sizes.config(arm, "", 0, model))
            label = f"{case}: {NAMES[arm]}"
            if label not in shown:
                shown[label] = scene_in(arm, folder, prompt, model)
        if not curves:
            return
        shown |= {f"{case}: zero-shot": model.generate(at) for case, at in CASES.items()}
        figure = curves_figure(curves)
        figure.savefig(self.path(lab, "curves"), dpi=150, bbox_inches="tight")
        labels = sorted(shown)
        sheet, fields = self.path(lab, "scenes"), [shown[label] for label in labels]
        write_contact_sheet(fields, labels, sheet, size=self.sheet_size)
        rows, extra = table(curves)
        self.write(
            lab,
            rows,
            config=configs | {"model": self.sizes.model, "cases": dict(CASES)},
            seeds=sorted({seed for by_seed in curves.values() for seed in by_seed}),
            data="exact renders of procedural scenes whose colour or shape was never trained",
            **extra,
        )


def experiment(preset: str = "cpu") -> Figure48:
    """In a preset's sizes."""
    return Figure48(preset=preset, sizes=optimisations(preset))


def optimise(arm: Arm, config: ScoreConfig, model: HyperFields, run: Run, views: int) -> None:
    """One arm's run, or the rest of it: PSNR of the scene at each line of its metrics."""
    watch = Watch(config, views)
    launch = LaunchConfig(accelerator="cpu" if model.device.type == "cpu" else "auto")
    if isinstance(config, FinetuneConfig):
        prompt = config.prompt
        finetune(config, model, launch, run, observe=lambda m: watch(m.generate(prompt)))
    else:
        assert isinstance(config, TeachConfig)
        start = model.generate(config.prompt) if arm == "pretrained" else None
        teach(config, launch, run, start=start, observe=watch)
    if watch.seconds:
        per_step = statistics.median(watch.seconds) / config.log_every
        run.log_timing(config.steps, cpu_seconds_per_step=per_step)


class Watch:
    """PSNR of a field against exact renders; and CPU seconds of the steps between, without its own."""

    def __init__(self, config: ScoreConfig, views: int) -> None:
        self.cameras = evaluation_views(views, config.image_size)
        exact = procedural_views([config.prompt], self.cameras)[config.prompt].images
        self.reference = composite_over(exact)
        self.samples = config.samples
        self.seconds: list[float] = []
        self._left: float | None = None

    def __call__(self, field: Field) -> dict[str, float]:
        """PSNR in decibels, as a metric."""
        if self._left is not None:
            self.seconds.append(time.process_time() - self._left)
        value = psnr(composite_over(field.render_all(self.cameras, self.samples)), self.reference)
        self._left = time.process_time()
        return {"psnr": value}


@dataclass(frozen=True)
class Curve:
    """A run: PSNR over steps."""

    steps: Sequence[int]
    psnr: Sequence[float]
    seconds_per_step: float
    """CPU seconds of training alone; NaN where it was not measured."""

    def reached(self, target: float) -> int | None:
        """Updates until the PSNR was first at the target; None: never."""
        return next((u for u, p in zip(self.steps, self.psnr, strict=True) if p >= target), None)


def read_curve(folder: Path) -> Curve:
    """What `optimise` logged."""
    lines = [line for line in read_metrics(folder) if "psnr" in line]
    name = "cpu_seconds_per_step"
    timed = [line[name] for line in read_timing(folder) if name in line]
    return Curve(
        [line["step"] for line in lines],
        [line["psnr"] for line in lines],
        timed[-1] if timed else math.nan,
    )


def scene_in(arm: Arm, folder: Path, prompt: str, model: HyperFields) -> Field:
    """What a finished run shows."""
    if arm == "hyperfields":
        return HyperFields.from_pretrained(folder, text=model.text.name).generate(prompt)
    return Field.load(folder / "model")


def table(
    curves: Mapping[tuple[str, Arm], Mapping[int, Curve]],
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """One row for each case and arm, and what lies behind them.

    The common PSNR of a case and seed is what each arm reaches at some time: the least of their best. Where it
    is the baseline that falls short, ours reaches it at once and the ratio says little; so ours' own best is a
    second target, and a baseline that never gets there counts as longer than it was given.
    """
    rows, runs, ratios = [], [], []
    cases = dict.fromkeys(case for case, _ in curves)
    for case in cases:
        of_case = {arm: by_seed for (c, arm), by_seed in curves.items() if c == case}
        shared = set.intersection(*(set(by_seed) for by_seed in of_case.values()))
        common = {
            seed: min(max(by_seed[seed].psnr) for by_seed in of_case.values()) for seed in shared
        }
        for arm, by_seed in of_case.items():
            found = list(by_seed.items())
            first = [c.reached(common[seed]) or 0 for seed, c in found if seed in shared]
            rows.append(
                {
                    "model": f"{case}: {NAMES[arm]}",
                    "PSNR at the start": Measured.over_seeds([c.psnr[0] for _, c in found]),
                    "PSNR, best": Measured.over_seeds([max(c.psnr) for _, c in found]),
                    "PSNR at the end": Measured.over_seeds([c.psnr[-1] for _, c in found]),
                    "steps": found[0][1].steps[-1],
                    "steps to the common PSNR": Measured.over_seeds(first) if first else None,
                    "CPU seconds per step": Measured.over_seeds(
                        [c.seconds_per_step for _, c in found]
                    ),
                }
            )
            runs += [
                {
                    "case": case,
                    "arm": arm,
                    "seed": seed,
                    "steps": list(c.steps),
                    "psnr": list(c.psnr),
                    "cpu_seconds_per_step": c.seconds_per_step,
                    "common_psnr": common.get(seed),
                    "steps_to_common_psnr": c.reached(common[seed]) if seed in shared else None,
                }
                for seed, c in found
            ]
        ours = of_case.get("hyperfields", {})
        for arm in ("scratch", "pretrained"):
            for seed, theirs in of_case.get(arm, {}).items():
                if seed in ours:
                    ratios.append({"case": case, "against": arm, "seed": seed})
                    ratios[-1] |= speed_up(ours[seed], theirs)
    return rows, {"runs": runs, "speed_up_to_our_best": ratios}


def speed_up(ours: Curve, theirs: Curve) -> dict[str, Any]:
    """Updates that the other needs to our best PSNR, over ours; a lower bound where it never gets there.

    The best but for half a decibel: a maximum over noisy evaluations comes late.
    """
    target = max(ours.psnr) - 0.5
    our_steps, found = ours.reached(target), theirs.reached(target)
    assert our_steps is not None, "the best was reached"
    return {
        "psnr": target,
        "our_steps": our_steps,
        "their_steps": theirs.steps[-1] if found is None else found,
        "lower_bound": found is None,
        "ratio": (theirs.steps[-1] if found is None else found) / max(1, our_steps),
    }


def curves_figure(curves: Mapping[tuple[str, Arm], Mapping[int, Curve]]) -> Any:
    """PSNR over steps, one panel for each case, the seeds thin and their mean thick."""
    from matplotlib.figure import Figure

    cases = list(dict.fromkeys(case for case, _ in curves))
    figure = Figure(figsize=(5.2 * len(cases), 3.8), layout="constrained")
    panels = figure.subplots(1, len(cases), squeeze=False, sharey=True)[0]
    for axes, case in zip(panels, cases, strict=True):
        for (c, arm), by_seed in curves.items():
            if c != case:
                continue
            colour = f"C{list(NAMES).index(arm)}"
            for curve in by_seed.values():
                axes.plot(curve.steps, curve.psnr, color=colour, alpha=0.3, linewidth=0.8)
            first = next(iter(by_seed.values()))
            mean = [
                statistics.fmean(at) for at in zip(*(c.psnr for c in by_seed.values()), strict=True)
            ]
            axes.plot(first.steps, mean, color=colour, label=NAMES[arm])
        axes.set(title=f"{case}: {CASES.get(case, '')}", xlabel="steps")
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("PSNR against exact renders (dB)")
    panels[-1].legend(frameon=False, fontsize="small", loc="lower right")
    return figure
