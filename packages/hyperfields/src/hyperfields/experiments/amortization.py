"""4.4.7: when does training the hypernetwork pay, against optimising each new scene alone?

Seconds of a new combination in one forward pass against score distillation of the same prompt (the runs of Fig. 4.8's
arm S), and after how many new prompts the training is paid back: stage 2 alone, as the thesis counts (teachers would
be made anyway), and with one optimisation for each teacher. Equal quality is the generated scene's PSNR; where an
optimisation never gets there, its seconds to half a decibel below its own best stand for it, which favours it.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hyperfields.config import ScoreConfig
from hyperfields.experiments.figure_4_8 import (
    PRESETS,
    Curve,
    Watch,
    config_of,
    curve_folder,
    optimise,
    read_curve,
)
from hyperfields.pretrained import HyperFields
from priors_shared.checkpoints import has_weights
from priors_shared.devices import hardware
from priors_shared.errors import UserError
from priors_shared.reports import Curve as Line
from priors_shared.reports import Measured, line_figure, write_result
from priors_shared.runs import training_seconds

STAGE_2 = {"cpu": "procedural_cpu", "paper": "procedural"}
"""Training preset of the model of `ood.PRESETS`, whose seconds have to be paid back."""
SCENES = 3
"""Held-out prompts that are optimised alone."""


def run(
    preset: str = "cpu",
    out: Path = Path("results"),
    quick: bool = False,
    runs: Path = Path("runs"),
    seeds: Sequence[int] = (0,),
) -> None:
    """Optimise a few held-out scenes (unless quick); write the JSON and the figure.

    Nothing is written where quick finds no finished run.

    Raises:
        UserError: no finished training of the hypernetwork in `runs`.
    """
    sizes = PRESETS[preset]
    model = HyperFields.from_pretrained(sizes.model)
    trained = runs / STAGE_2[preset] / "dynamic-0"
    curves: list[tuple[ScoreConfig, Curve]] = []
    held = model.trained["held_out"]
    for prompt in held[:: max(1, len(held) // SCENES)][:SCENES]:
        for seed in seeds:
            folder = curve_folder(runs, preset, "scratch", prompt, seed)
            config = config_of(sizes, "scratch", prompt, seed, model)
            if not has_weights(folder / "model"):
                if quick:
                    continue
                optimise("scratch", config, model, folder, views=sizes.views)
            curves.append((config, read_curve(folder)))
    if not curves:
        return
    stage2 = training_seconds(trained) if has_weights(trained / "model") else None
    if stage2 is None:
        raise UserError(
            f"{trained}: no finished training, whose seconds are needed; "
            f"run hyperfields train {STAGE_2[preset]} --out {trained}"
        )
    latency = generation_seconds(model)
    scenes: list[dict[str, Any]] = [
        {
            "prompt": config.prompt,
            "seed": config.seed,
            "generated_psnr": Watch(config, sizes.views)(model.generate(config.prompt))["psnr"],
            "optimised_psnr": max(curve.psnr),
            "updates": list(curve.updates),
            "psnr": list(curve.psnr),
            "cpu_seconds_per_update": curve.seconds_per_update,
        }
        for config, curve in curves
    ]
    for scene, (_, curve) in zip(scenes, curves, strict=True):
        scene |= seconds_to_equal(curve, scene["generated_psnr"])
    alone = statistics.fmean(scene["seconds"] for scene in scenes)
    teachers = len(model.prompts)
    counts = {
        "stage 2 alone": break_even(stage2, alone, latency),
        "with a teacher for each trained prompt": break_even(
            stage2 + teachers * alone, alone, latency
        ),
    }
    rows = [
        {
            "model": "generated in one forward pass",
            "seconds per scene": Measured(latency),
            "PSNR": Measured.over_seeds([s["generated_psnr"] for s in scenes]),
        },
        {
            "model": "optimised alone (S)",
            "seconds per scene": Measured.over_seeds([s["seconds"] for s in scenes]),
            "PSNR": Measured.over_seeds([s["optimised_psnr"] for s in scenes]),
        },
    ]
    prompts = [1, 3, 10, 30, 100, 300, 1000]
    lines = {
        "each scene optimised alone": [alone * n for n in prompts],
        "HyperFields, stage 2 alone": [stage2 + latency * n for n in prompts],
        f"HyperFields, with {teachers} teachers": [
            stage2 + teachers * alone + latency * n for n in prompts
        ],
    }
    figure: Any = line_figure(
        {name: Line(prompts, [s / 60 for s in seconds]) for name, seconds in lines.items()},
        x="new prompts",
        y="minutes in all",
        log_x=True,
    )
    figure.axes[0].set_yscale("log")
    out.mkdir(parents=True, exist_ok=True)
    figure.savefig(out / f"amortization-{preset}-break-even.png", dpi=150, bbox_inches="tight")
    write_result(
        out / f"amortization-{preset}.json",
        experiment="amortization",
        claim="training costs are paid back by feed-forward generation of new scenes",
        rows=rows,
        config={"model": sizes.model, "training": str(trained.relative_to(runs)), "scenes": SCENES},
        seeds=list(seeds),
        data="held-out combinations; PSNR against exact renders",
        hardware=hardware(),
        command=f"hyperfields reproduce amortization --preset {preset}",
        thesis={},
        extra={
            "break_even_prompts": counts,
            "stage_2_seconds": stage2,
            "seconds_alone": alone,
            "scenes": scenes,
            "note": "stage 2: wall clock, machine shared with other work; scenes: CPU seconds",
        },
    )


def generation_seconds(model: HyperFields) -> float:
    """CPU seconds of a new prompt's weights: the median over the held-out ones, each new to the text encoder."""
    model.generate("a scene")  # what torch loads at the first use is not counted
    found = []
    for prompt in model.trained["held_out"]:
        began = time.process_time()
        model.generate(prompt)
        found.append(time.process_time() - began)
    return statistics.median(found)


def seconds_to_equal(curve: Curve, psnr: float) -> dict[str, Any]:
    """CPU seconds until an optimisation is as good; where it never is, until near its own best."""
    updates = curve.reached(psnr)
    equal = updates is not None
    if updates is None:
        updates = curve.reached(max(curve.psnr) - 0.5)
    assert updates is not None, "its best was reached"
    return {"reaches_generated": equal, "seconds": updates * curve.seconds_per_update}


def break_even(training: float, alone: float, generated: float) -> float | None:
    """New prompts after which `training` seconds are paid back; None: never."""
    saved = alone - generated
    return training / saved if saved > 0 else None
