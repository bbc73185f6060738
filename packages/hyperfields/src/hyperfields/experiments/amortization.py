"""4.4.7: when does training the hypernetwork pay, against optimising each new scene alone?

Seconds of a new combination in one forward pass against score distillation of the same prompt (the runs of Fig. 4.8's
arm S), and after how many new prompts the training is paid back: stage 2 alone, as the thesis counts (teachers would
be made anyway), and with one optimisation for each teacher. Equal quality is the generated scene's PSNR; where an
optimisation never gets there, its seconds to half a decibel below its own best stand for it, which favours it.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hyperfields.experiments.figure_4_8 import (
    Curve,
    Optimisations,
    Watch,
    optimisations,
    read_curve,
)
from hyperfields.pretrained import HyperFields
from priors_shared.checkpoints import has_weights
from priors_shared.errors import UserError
from priors_shared.experiments import Experiment, Lab
from priors_shared.reports import Curve as Line
from priors_shared.reports import Measured, line_figure
from priors_shared.runs import training_seconds


@dataclass(frozen=True, kw_only=True)
class Amortization(Experiment):
    """A few held-out scenes optimised alone, against the training of the hypernetwork."""

    id: str = "amortization"
    claim: str = "training costs are paid back by feed-forward generation of new scenes"
    seeds: Sequence[int] = (0,)
    sizes: Optimisations
    training: str
    """preset whose run trained the model of `sizes`: its seconds have to be paid back"""
    scenes: int = 3
    """held-out prompts that are optimised alone"""

    def run(self, lab: Lab) -> None:
        """Optimise what is missing; write the JSON and the figure.

        Raises:
            UserError: no finished training of the hypernetwork.
        """
        model = self.sizes.load()
        scenes: list[dict[str, Any]] = []
        held = model.trained["held_out"]
        for prompt in held[:: max(1, len(held) // self.scenes)][: self.scenes]:
            for seed in self.seeds:
                if self.sizes.finished(lab, "scratch", prompt, seed, model):
                    folder = self.sizes.folder(lab.runs, "scratch", prompt, seed)
                    scenes.append(self._scene(model, prompt, seed, read_curve(folder)))
        if not scenes:
            return
        trained = lab.runs / self.training / "0"
        stage2 = training_seconds(trained) if has_weights(trained / "model") else None
        if stage2 is None:
            raise UserError(
                f"{trained}: no finished training, whose seconds are needed; run hyperfields train {self.training} "
                f"--out {trained}"
            )
        latency = generation_seconds(model)
        alone = statistics.fmean(scene["seconds"] for scene in scenes)
        training = {
            "stage 2 alone": stage2,
            "with a teacher for each trained prompt": stage2 + len(model.prompts) * alone,
        }
        self._write_figure(lab, training, alone, latency)
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
        self.write(
            lab,
            rows,
            config={"model": self.sizes.model, "training": self.training, "scenes": self.scenes},
            seeds=self.seeds,
            data="held-out combinations; PSNR against exact renders",
            break_even_prompts={
                name: break_even(seconds, alone, latency) for name, seconds in training.items()
            },
            stage_2_seconds=stage2,
            seconds_alone=alone,
            scenes=scenes,
            note="stage 2: wall clock, machine shared with other work; scenes: CPU seconds",
        )

    def _scene(self, model: HyperFields, prompt: str, seed: int, curve: Curve) -> dict[str, Any]:
        """One optimisation, and the seconds until it is as good as the generated scene."""
        config = self.sizes.config("scratch", prompt, seed, model)
        generated = Watch(config, self.sizes.views)(model.generate(prompt))["psnr"]
        return {
            "prompt": prompt,
            "seed": seed,
            "generated_psnr": generated,
            "optimised_psnr": max(curve.psnr),
            "steps": list(curve.steps),
            "psnr": list(curve.psnr),
            "cpu_seconds_per_step": curve.seconds_per_step,
        } | seconds_to_equal(curve, generated)

    def _write_figure(
        self, lab: Lab, training: Mapping[str, float], alone: float, latency: float
    ) -> None:
        prompts = [1, 3, 10, 30, 100, 300, 1000]
        minutes = {"each scene optimised alone": [alone * n / 60 for n in prompts]}
        minutes |= {
            f"HyperFields, {name}": [(seconds + latency * n) / 60 for n in prompts]
            for name, seconds in training.items()
        }
        lines = {name: Line(prompts, of) for name, of in minutes.items()}
        figure: Any = line_figure(lines, x="new prompts", y="minutes in all", log_x=True)
        figure.axes[0].set_yscale("log")
        figure.savefig(self.path(lab, "break-even"), dpi=150, bbox_inches="tight")


def experiment(preset: str = "cpu") -> Amortization:
    """In a preset's sizes."""
    training = {"cpu": "procedural_cpu", "paper": "procedural"}[preset]
    return Amortization(preset=preset, sizes=optimisations(preset), training=training)


def generation_seconds(model: HyperFields) -> float:
    """CPU seconds of a new prompt's weights: the median over the held-out ones, each new to the text encoder."""
    model.generate("a scene")  # what torch loads at the first use is not counted
    seconds = []
    for prompt in model.trained["held_out"]:
        began = time.process_time()
        model.generate(prompt)
        seconds.append(time.process_time() - began)
    return statistics.median(seconds)


def seconds_to_equal(curve: Curve, psnr: float) -> dict[str, Any]:
    """CPU seconds until an optimisation is as good; where it never is, until near its own best."""
    steps = curve.reached(psnr)
    equal = steps is not None
    if steps is None:
        steps = curve.reached(max(curve.psnr) - 0.5)
    assert steps is not None, "its best was reached"
    return {"reaches_generated": equal, "seconds": steps * curve.seconds_per_step}


def break_even(training: float, alone: float, generated: float) -> float | None:
    """New prompts after which `training` seconds are paid back; None: never."""
    saved = alone - generated
    return training / saved if saved > 0 else None
