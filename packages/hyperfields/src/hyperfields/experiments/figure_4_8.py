"""Fig. 4.8: prompts out of distribution, fine-tuned or optimised alone by the same score distillation.

Claim (4.4.3): the trained hypernetwork converges about five times as fast as DreamFusion from scratch (S) and
DreamFusion that begins with the zero-shot scene (P). Unseen attribute and unseen shape are measured apart. PSNR
is against exact renders; the thesis has pictures only. All arms have the empirical guidance, batch, render size
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
from hyperfields.fields.rendering import over
from hyperfields.output.sheet import write_contact_sheet
from hyperfields.presets import FINETUNE, TEACH
from hyperfields.pretrained import HyperFields
from hyperfields.training.finetuning import finetune
from hyperfields.training.score_distillation import teach
from priors_shared.checkpoints import has_weights
from priors_shared.devices import hardware
from priors_shared.reports import Measured, write_result
from priors_shared.runs import Run, read_metrics, read_timing

SEEDS = (0, 1, 2)
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
class OodPreset:
    """Sizes of the comparison."""

    teach: str
    """preset of the baselines"""
    finetune: str
    """preset of ours"""
    model: str
    """what is fine-tuned; baselines have its field's sizes"""
    updates: Mapping[Arm, int]
    common: Mapping[str, Any]
    """fields of `ScoreConfig` that all arms share"""
    views: int = 3
    """cameras of an evaluation"""


PRESETS: Mapping[str, OodPreset] = {
    "cpu": OodPreset(
        teach="teacher_cpu",
        finetune="finetune_cpu",
        model=SHIPPED_MODEL,
        updates={"hyperfields": 120, "scratch": 320, "pretrained": 160},
        common={"batch": 1, "samples": 24, "views": 48, "log_every": 8, "checkpoint_every": 40},
    ),
    "paper": OodPreset(
        teach="teacher",
        finetune="finetune",
        model="runs/procedural/dynamic-0",
        updates={"hyperfields": 2000, "scratch": 10000, "pretrained": 10000},
        common={"log_every": 50},
        views=12,
    ),
}


def run(
    preset: str = "cpu",
    out: Path = Path("results"),
    quick: bool = False,
    runs: Path = Path("runs"),
    seeds: Sequence[int] = SEEDS,
) -> None:
    """Optimise what is missing (unless quick); write the JSON, the curves and the scenes.

    Nothing is written where quick finds no finished run.
    """
    sizes = PRESETS[preset]
    model = HyperFields.from_pretrained(sizes.model)
    curves: dict[tuple[str, Arm], dict[int, Curve]] = {}
    scenes: dict[tuple[str, Arm], Field] = {}
    configs: dict[str, Any] = {}
    # Seed by seed: what is there when it is stopped can be compared.
    for seed, (case, prompt), arm in product(seeds, CASES.items(), NAMES):
        config = config_of(sizes, arm, prompt, seed, model)
        folder = curve_folder(runs, preset, arm, prompt, seed)
        if not has_weights(folder / "model"):
            if quick:
                continue
            optimise(arm, config, model, folder, views=sizes.views)
        curves.setdefault((case, arm), {})[seed] = read_curve(folder)
        configs[arm] = asdict(replace(config, prompt="", seed=0))
        if (case, arm) not in scenes:
            scenes[case, arm] = scene_in(arm, folder, prompt)
    if not curves:
        return
    rows, extra = table(curves)
    title = f"figure-4.8-{preset}"
    figure = curves_figure(curves)
    out.mkdir(parents=True, exist_ok=True)
    figure.savefig(out / f"{title}-curves.png", dpi=150, bbox_inches="tight")
    shown = {f"{case}: {NAMES[arm]}": field for (case, arm), field in scenes.items()}
    for case, prompt in CASES.items():
        shown[f"{case}: zero-shot"] = model.generate(prompt)
    labels = sorted(shown)
    write_contact_sheet([shown[name] for name in labels], labels, out / f"{title}-scenes.png")
    write_result(
        out / f"{title}.json",
        experiment="figure-4.8",
        claim="a trained hypernetwork converges faster on prompts out of distribution than a single NeRF",
        rows=rows,
        config=configs | {"model": sizes.model, "cases": dict(CASES)},
        seeds=sorted({seed for by_seed in curves.values() for seed in by_seed}),
        data="exact renders of procedural scenes whose colour or shape was never trained",
        hardware=hardware(),
        command=f"hyperfields reproduce figure-4.8 --preset {preset}",
        thesis={},
        extra=extra,
    )


def curve_folder(runs: Path, preset: str, arm: Arm, prompt: str, seed: int) -> Path:
    """Where a run lives."""
    return runs / f"ood_{preset}" / f"{arm}-{prompt.replace(' ', '-')}-{seed}"


def config_of(
    sizes: OodPreset, arm: Arm, prompt: str, seed: int, model: HyperFields
) -> ScoreConfig:
    """The optimisation of an arm."""
    shared = {"prompt": prompt, "seed": seed, "iterations": sizes.updates[arm], **sizes.common}
    if arm == "hyperfields":
        return replace(FINETUNE[sizes.finetune](), **shared)
    return replace(TEACH[sizes.teach](), field=model.net.config.field, **shared)


def optimise(
    arm: Arm, config: ScoreConfig, model: HyperFields, folder: Path, *, views: int
) -> None:
    """One arm's run, or the rest of it: PSNR of the scene at each line of its metrics."""
    with Run.create(
        folder, asdict(config), command=f"hyperfields reproduce into {folder}", resume=True
    ) as run_:
        watch = Watch(config, views)
        where = LaunchConfig(accelerator="cpu" if model.device.type == "cpu" else "auto")
        if arm == "hyperfields":
            assert isinstance(config, FinetuneConfig)
            prompt = config.prompt
            finetune(config, model, where, run_, observe=lambda m: watch(m.generate(prompt)))
        else:
            assert isinstance(config, TeachConfig)
            start = model.generate(config.prompt) if arm == "pretrained" else None
            teach(config, where, run_, start=start, observe=watch)
        if watch.seconds:
            per_update = statistics.median(watch.seconds) / config.log_every
            run_.log_timing(config.iterations, cpu_seconds_per_update=per_update)


class Watch:
    """PSNR of a field against exact renders; and CPU seconds of the updates between, without its own."""

    def __init__(self, config: ScoreConfig, views: int) -> None:
        self.cameras = evaluation_views(views, config.image_size)
        exact = procedural_views([config.prompt], self.cameras)[config.prompt].images
        self.reference = over(exact)
        self.samples = config.samples
        self.seconds: list[float] = []
        self._left: float | None = None

    def __call__(self, field: Field) -> dict[str, float]:
        """PSNR in decibels, as a metric."""
        if self._left is not None:
            self.seconds.append(time.process_time() - self._left)
        found = psnr(over(field.render_all(self.cameras, self.samples)), self.reference)
        self._left = time.process_time()
        return {"psnr": found}


@dataclass(frozen=True)
class Curve:
    """A run: PSNR over updates."""

    updates: Sequence[int]
    psnr: Sequence[float]
    seconds_per_update: float
    """CPU seconds of training alone; NaN where it was not measured."""

    def reached(self, target: float) -> int | None:
        """Updates until the PSNR was first at the target; None: never."""
        return next((u for u, p in zip(self.updates, self.psnr, strict=True) if p >= target), None)


def read_curve(folder: Path) -> Curve:
    """What `optimise` logged."""
    lines = [line for line in read_metrics(folder) if "psnr" in line]
    name = "cpu_seconds_per_update"
    timed = [line[name] for line in read_timing(folder) if name in line]
    return Curve(
        [line["step"] for line in lines],
        [line["psnr"] for line in lines],
        timed[-1] if timed else math.nan,
    )


def scene_in(arm: Arm, folder: Path, prompt: str) -> Field:
    """What a finished run shows."""
    if arm == "hyperfields":
        return HyperFields.from_pretrained(folder).generate(prompt)
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
                    "updates": found[0][1].updates[-1],
                    "updates to the common PSNR": Measured.over_seeds(first) if first else None,
                    "CPU seconds per update": Measured.over_seeds(
                        [c.seconds_per_update for _, c in found]
                    ),
                }
            )
            runs += [
                {
                    "case": case,
                    "arm": arm,
                    "seed": seed,
                    "updates": list(c.updates),
                    "psnr": list(c.psnr),
                    "cpu_seconds_per_update": c.seconds_per_update,
                    "common_psnr": common.get(seed),
                    "updates_to_common_psnr": c.reached(common[seed]) if seed in shared else None,
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
    our_updates, found = ours.reached(target), theirs.reached(target)
    assert our_updates is not None, "the best was reached"
    return {
        "psnr": target,
        "our_updates": our_updates,
        "their_updates": theirs.updates[-1] if found is None else found,
        "lower_bound": found is None,
        "ratio": (theirs.updates[-1] if found is None else found) / max(1, our_updates),
    }


def curves_figure(curves: Mapping[tuple[str, Arm], Mapping[int, Curve]]) -> Any:
    """PSNR over updates, one panel for each case, the seeds thin and their mean thick."""
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
                axes.plot(curve.updates, curve.psnr, color=colour, alpha=0.3, linewidth=0.8)
            first = next(iter(by_seed.values()))
            mean = [
                statistics.fmean(at) for at in zip(*(c.psnr for c in by_seed.values()), strict=True)
            ]
            axes.plot(first.updates, mean, color=colour, label=NAMES[arm])
        axes.set(title=f"{case}: {CASES.get(case, '')}", xlabel="updates")
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("PSNR against exact renders (dB)")
    panels[-1].legend(frameon=False, fontsize="small", loc="lower right")
    return figure
