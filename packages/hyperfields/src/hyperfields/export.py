"""A whole model to give away: weights, configuration and a card."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hyperfields.conditioning.text import KNOWN
from hyperfields.pretrained import HyperFields
from priors_shared.cards import model_card, read_evaluation
from priors_shared.errors import UserError
from priors_shared.files import fresh_folder, write_atomically
from priors_shared.reports import Cell, Table


def export_model(model: HyperFields, folder: Path, results: Mapping[str, Any] | None) -> None:
    """Write config.json, model.safetensors and README.md, a card with the scores of `read_results`.

    Raises:
        UserError: the folder is not empty.
    """
    with fresh_folder(folder):
        model.save(folder)
        write_atomically(folder / "README.md", _card(folder.name, model, results))


def read_results(path: Path, model: HyperFields) -> dict[str, Any]:
    """What `hyperfields eval --out` wrote of a model.

    Raises:
        UserError: no such file, no such result, or of a model that was trained otherwise.
    """
    found = read_evaluation(path, "means", "trained", "views", "size", program="hyperfields")
    if found["trained"] != model.trained:
        raise UserError(f"results {path}: of a model that was trained otherwise; measure this one")
    return found


def _card(name: str, model: HyperFields, results: Mapping[str, Any] | None) -> str:
    config, trained = model.net.config, model.trained
    field = config.field
    weights = sum(p.numel() for p in model.net.parameters())
    prompt = model.prompts[0] if model.prompts else "a red chair"
    encoder = config.text if config.text in KNOWN else "one of its own, which `--text` names"
    facts = {
        "Model": f"text encoder {encoder}; {config.blocks} blocks, {config.conditioning} conditioning, "
        f"{config.weights} weights; {weights:,} parameters",
        "Scenes": f"radiance fields of {field.layers} layers of {field.width}, hash grid of {field.levels} levels",
        "Training": f"{trained.get('steps', 'unknown')} steps, seed {trained.get('seed', 'unknown')}",
        "Trained on": f"{len(model.prompts)} prompts: {', '.join(model.prompts)}",
    }
    if trained.get("held_out"):
        facts["Held out"] = ", ".join(trained["held_out"])
    if trained.get("finetuned"):
        facts["Tuned to"] = ", ".join(trained["finetuned"])
    return model_card(
        name,
        "Text to 3D in one forward pass. It recombines the words that it was trained on; a prompt with others gets the "
        "nearest scene.",
        examples={
            "": f"hyperfields generate {shlex.quote(prompt)} --model {shlex.quote(name)} -o scene.glb",
            "python": "from hyperfields import HyperFields\n\n"
            f"field = HyperFields.from_pretrained({name!r}).generate({prompt!r})  # this folder",
        },
        facts=facts,
        parts=[] if results is None else [_scores(results)],
    )


def _scores(results: Mapping[str, Any]) -> Table:
    means = results["means"]
    columns = list(next(iter(means.values()), {}))
    rows: list[list[Cell]] = [
        [group, *(row.get(c) for c in columns)] for group, row in means.items()
    ]
    caption = f"Means over scenes, {results['views']} views of {results['size']} pixels; psnr in dB, else fractions."
    return Table(["scenes", *columns], rows, caption, digits=3)
