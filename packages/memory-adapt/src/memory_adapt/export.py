"""The model card of an exported learner, with the accuracies that were measured."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from memory_adapt.evaluation import blind_bound
from memory_adapt.models.registry import config_to_json
from memory_adapt.pretrained import OnlineLearner
from priors_shared.cards import model_card, read_evaluation
from priors_shared.errors import UserError
from priors_shared.reports import Cell, Table


def read_results(path: Path) -> dict[str, Any]:
    """What `eval --out` wrote, or a run folder's test.json in the same form, with its `weights`.

    Raises:
        UserError: no such file, or neither of the two.
    """
    results = read_evaluation(path, program="memory-adapt")
    if {"what", "accuracy", "half_width", "controls"} <= set(results):
        return _of_table(results)
    if not {"accuracy", "controls", "dataset", "split", "ways", "samples", "delay"} <= set(results):
        raise UserError(
            f"{path}: neither what `memory-adapt eval --out` writes nor the test.json of a run folder"
        )
    return results


def _of_table(kept: Mapping[str, Any]) -> dict[str, Any]:
    """What Table 2.1 keeps of an evaluation, as `eval` writes one: fractions in place of percent."""
    what, mean, half = kept["what"], kept["accuracy"], kept["half_width"]
    ways = what.get("ways", 5)  # files of version 0.1 do not say
    accuracy = {
        "low": [(m - h) / 100 for m, h in zip(mean, half, strict=True)],
        "mean": [m / 100 for m in mean],
        "high": [(m + h) / 100 for m, h in zip(mean, half, strict=True)],
        "episodes": what["episodes"],
    }
    controls = {
        name: {"mean": [value / 100 for value in values], "episodes": what["control_episodes"]}
        for name, values in kept["controls"].items()
    }
    return {
        "weights": what["weights"],
        "dataset": what["dataset"],
        "split": "test",
        "ways": ways,
        "samples": len(mean),
        "delay": 1,
        "accuracy": accuracy,
        "blind_bound": blind_bound(ways, len(mean)),
        "controls": controls,
    }


def learner_card(folder: Path, learner: OnlineLearner, results: Mapping[str, Any] | None) -> str:
    """The model card of an exported learner: what it is, how to use it, what it reaches.

    folder: where it is, or will be: its name is the heading, and the example loads it from there.
    results: of `read_results`.
    """
    config, trained = config_to_json(learner.config), learner.trained
    channels, height, width = learner.image_shape
    classes = "any number of classes" if learner.any_ways else f"up to {learner.ways} classes"
    facts = {
        "Configuration": ", ".join(f"{k} {v}" for k, v in config.items() if k != "model"),
        "Trained on": f"{trained.get('dataset', 'not recorded')}, labels {trained.get('delay', 1)} step(s) late, "
        f"seed {trained.get('seed', 'not recorded')}",
    }
    if trained.get("stages"):
        facts["Training"] = "; ".join(
            f"{s['steps']} steps of {s['batch_size']} streams ({s['kind']})"
            for s in trained["stages"]
        )
    if channels == 1:
        facts["Images"] = "characters must be light ink on dark (ink = 1)"
    return model_card(
        folder.name,
        f"An online learner ({config['model']}) of {classes}: it predicts each image of a stream "
        "and learns from labels that arrive late, without gradients.",
        examples={
            "python": "from memory_adapt import OnlineLearner\n\n"
            f"learner = OnlineLearner.from_pretrained({str(folder.absolute())!r})  # where this folder is\n"
            "state, previous = learner.reset(), None\n"
            f"for image, label in stream:  # image: float ({channels}, {height}, {width}) in [0, 1]\n"
            "    logits, state = learner.step(image, previous, state)\n"
            "    previous = label"
        },
        facts=facts,
        parts=[] if results is None else [_accuracies(results)],
    )


def _accuracies(results: Mapping[str, Any]) -> Table:
    accuracy, controls = results["accuracy"], results["controls"]
    bound = results.get("blind_bound")
    alphabet = " of one alphabet" if results.get("alphabets") else ""
    caption = (
        f"Accuracy in percent on {results['dataset']} ({results['split']} classes), {results['ways']} ways{alphabet}, "
        f"{accuracy['episodes']} streams of {results['samples']} images a class, labels {results['delay']} step(s) "
        "late, with 95 % intervals over streams. Shots: earlier views of the class. Blind bound: the best accuracy "
        "without looking at an image."
    )
    if controls:
        streams = next(iter(controls.values()))["episodes"]
        caption += f" The last columns are controls ({streams} streams): this was taken away."
    rows: list[list[Cell]] = []
    for k in range(len(accuracy["mean"])):
        low, mean, high = (100 * accuracy[part][k] for part in ("low", "mean", "high"))
        rows.append(
            [
                k,
                f"{mean:.1f} ({low:.1f} to {high:.1f})",
                100 * bound[k] if bound else None,
                *(100 * control["mean"][k] for control in controls.values()),
            ]
        )
    return Table(["shots", "accuracy", "blind bound", *controls], rows, caption)
