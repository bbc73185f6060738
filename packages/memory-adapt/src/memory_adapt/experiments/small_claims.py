"""Small claims: the shipped CL+LSTM on Glyphs, its controls, delays, and the cost of adaptation."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch

from memory_adapt.cost import cost_table
from memory_adapt.evaluation import CONTROLS, blind_bound, evaluate
from memory_adapt.pretrained import OnlineLearner
from priors_shared.datasets import load_dataset
from priors_shared.episodes import OnlineEpisodeSampler, generator_for
from priors_shared.experiments import Scores, SmallClaims

SHIPPED = "omniglot-5way-cpu"
WAYS, SAMPLES, EPISODES = 5, 10, 24


def experiment(preset: str = "cpu") -> SmallClaims:
    """The same in every preset."""
    return SmallClaims(
        preset=preset,
        system="memory-adapt",
        measures={
            "cost of adaptation": cost,
            "shipped CL+LSTM on Glyphs": accuracies,
            "controls on Glyphs": controls,
            "delays on Glyphs": delays,
            "steps against streams": steps_against_streams,
        },
        data=f"Glyphs, held-out characters, {EPISODES} streams of {WAYS} x {SAMPLES} a seed",
    )


def cost(seed: int) -> Scores:
    """A step of adaptation in that of a like CNN; counted, the same for every seed."""
    step = {row["model"]: row["step_gflops"] for row in cost_table(measure=False)}
    return {"CL+LSTM to CNN": step["CL+LSTM, label at layer 1"] / step["4-layer CNN"]}


def accuracies(seed: int) -> Scores:
    """Percent at 1 and 5 shots."""
    mean = _accuracy(seed)
    return {f"{k}-shot": mean[k] for k in (1, 5)}


def controls(seed: int) -> Scores:
    """Percent at 5 shots without images, without labels, with random labels; and the blind bound."""
    bound = {"blind bound": 100 * float(blind_bound(WAYS, SAMPLES)[5])}
    return bound | {control: _accuracy(seed, control=control)[5] for control in CONTROLS}


def delays(seed: int) -> Scores:
    """Percent at 5 shots by the delay of labels; the shipped weights know 1 step."""
    return {
        "1 step late": _accuracy(seed)[5],
        "3 steps late": _accuracy(seed, delay=3)[5],
    }


def steps_against_streams(seed: int) -> Scores:
    """Logits of a stream given image by image less those of the whole."""
    model = OnlineLearner.from_pretrained(SHIPPED).model
    streams = _sampler(1).sample(2, generator_for(seed))
    state, logits = model.initial_state(2), []
    with torch.inference_mode():
        whole, _ = model(streams.images, streams.feedback)
        for image, label in zip(streams.images, streams.feedback, strict=True):
            one, state = model.step(image, label, state)
            logits.append(one)
    return {"largest difference": float((torch.stack(logits) - whole).abs().max())}


@cache  # several claims look at the same streams
def _accuracy(seed: int, *, delay: int = 1, control: Any = "none") -> list[float]:
    model = OnlineLearner.from_pretrained(SHIPPED).model
    scores = evaluate(model, _sampler(delay), episodes=EPISODES, seed=seed, control=control)
    return [100 * float(share) for share in scores.mean]


def _sampler(delay: int) -> OnlineEpisodeSampler:
    glyphs = load_dataset("glyphs", "test")
    return OnlineEpisodeSampler(glyphs, ways=WAYS, shots=SAMPLES, delay=delay)
