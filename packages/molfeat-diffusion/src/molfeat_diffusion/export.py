"""Weights to give away: a checkpoint folder with a model card and the curve of its training."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from molfeat_diffusion.config import (
    LanguageConfig,
    LossConfig,
    ModelConfig,
    NetworkConfig,
    NoiseConfig,
    TrainConfig,
)
from molfeat_diffusion.featurizers.smiles import build_tokenizer
from molfeat_diffusion.plots import language_figure, training_figure
from molfeat_diffusion.pretrained import save_model
from molfeat_diffusion.training.diffusion import trained_model
from molfeat_diffusion.training.language import SMILES, build_network, save_language
from priors_shared.cards import model_card, read_evaluation
from priors_shared.checkpoints import load_training_state
from priors_shared.errors import UserError
from priors_shared.files import write_atomically
from priors_shared.reports import Cell, Code, Table
from priors_shared.runs import read_metrics, training_seconds

_RENAMED = {
    "updates": "steps",
    "batch": "batch_size",
    "warmup": "warmup_steps",
    "validation_share": "validation_fraction",
    "mask_share": "mask_fraction",
}
"""What settings of a training were called in version 0.1's first runs."""
_RESULT = {"metrics", "molecules", "steps", "seed", "digest"}


def export_run(run: Path, folder: Path, results: Sequence[Path] = (), *, half: bool = False) -> int:
    """Write a training run's weights, with README.md and training.png; returns the updates they had.

    A run that has not finished gives the weights of its last checkpoint.

    Args:
        run: folder of `molfeat-diffusion train`.
        folder: where to; its last part is the weights' name.
        results: what `molfeat-diffusion eval --out` wrote of these weights, for the card.
        half: store in float16 (rounded; they are computed with in float32), half the size.

    Raises:
        UserError: no such run, no checkpoint in it, or a result of another checkpoint.
    """
    config = read_train_config(run)
    model, step = trained_model(config, run)
    if half:
        model = model.half()
    metrics = [line for line in read_metrics(run) if line["step"] <= step]
    trained = asdict(config) | {
        "data": [Path(source).name for source in config.data],
        "step": step,
        "minutes": round((training_seconds(run, step) or 0) / 60, 1),
        "stored_as": "float16" if half else "float32",
        "molecules": None if model.sizes is None else int(model.sizes.sum()),
    }
    prepared = [_prepared(Path(source)) for source in config.data]
    last: dict[str, Any] = next((m for m in reversed(metrics) if "val_loss" in m), {})
    digest = save_model(folder, model, trained=trained, metrics=last)
    found = [_result(path, digest) for path in results]
    training_figure(metrics, title=folder.name).savefig(folder / "training.png", dpi=110)
    parameters = sum(p.numel() for p in model.parameters())
    card = _card(folder.name, config, trained, parameters, last, prepared, found)
    write_atomically(folder / "README.md", card)
    return step


def read_train_config(run: Path) -> TrainConfig:
    """The configuration of a run folder.

    Raises:
        UserError: it is not one of `molfeat-diffusion train`.
    """
    try:
        held = json.loads((run / "config.json").read_text(encoding="utf-8"))
        held = {_RENAMED.get(name, name): value for name, value in held.items()}
        model = held["model"]
        held["model"] = ModelConfig(
            vocabulary=model["vocabulary"],
            kekulized=model.get("kekulized", False),
            network=NetworkConfig(**model["network"]),
            noise=NoiseConfig(**model["noise"]),
        )
        held |= {"loss": LossConfig(**held["loss"]), "data": tuple(held["data"])}
        return TrainConfig(**held)
    except (OSError, ValueError, KeyError, TypeError) as error:
        why = str(error).splitlines()[0]
        raise UserError(f"{run}: not a run folder of molfeat-diffusion train ({why})") from None


def _prepared(source: Path) -> dict[str, Any]:
    """The record that `prepare` wrote beside a file of molecules, if it did."""
    path = source.with_suffix(".json")
    if source.suffix != ".npz" or not path.is_file():
        return {"name": source.name}
    return {"name": source.name} | json.loads(path.read_text(encoding="utf-8"))


def _result(path: Path, digest: str) -> dict[str, Any]:
    found = read_evaluation(path, *_RESULT, program="molfeat-diffusion")
    if found["digest"] != digest:
        raise UserError(f"{path}: measured on other weights than these: run eval again")
    return found


def _card(
    name: str,
    config: TrainConfig,
    trained: Mapping[str, Any],
    parameters: int,
    metrics: Mapping[str, Any],
    prepared: Sequence[Mapping[str, Any]],
    results: Sequence[Mapping[str, Any]],
) -> str:
    network, noise = config.model.network, config.model.noise
    step, steps = trained["step"], config.steps
    weights = "an average over steps" if config.ema else "of the last step"
    state = "" if step == steps else f" (of {steps:,} planned: a checkpoint of a running training)"
    facts: dict[str, str | Sequence[str]] = {
        "Network": f"{network.layers} layers, {network.width_atoms} features of an atom, "
        f"{network.width_bonds} of a pair; {parameters:,} parameters, stored as {trained['stored_as']}, {weights}",
        "Vocabulary": f"{config.model.vocabulary}; molecules of up to {config.max_atoms} atoms",
        "Noise": f"T = {noise.timesteps}, nu {noise.nu_positions} / {noise.nu_atoms} / {noise.nu_charges} / "
        f"{noise.nu_bonds} for positions / atoms / charges / bonds",
        "Training": f"{step:,} steps{state} of up to {config.batch_size} molecules of one size, learning rate "
        f"{config.learning_rate:g} (decay: {config.decay}), seed {config.seed}; {trained['minutes']:.0f} minutes "
        "on one thread, of cores that other work shared",
        "Data": [
            f"{trained['molecules']:,} molecules, and the {config.validation_fraction:.0%} for validation",
            *map(_source, prepared),
        ],
    }
    if metrics:  # none yet where no validation came before the checkpoint
        terms = ("positions", "atoms", "charges", "bonds")
        losses = ", ".join(f"{term} {metrics[f'val_loss_{term}']:.3f}" for term in terms)
        facts[f"Validation loss at step {metrics['step']:,}"] = losses
    parts: list[str | Table | Code] = []
    for result in results:
        rows: list[list[Cell]] = [
            [key, f"{value:.3g}" if key.startswith("w1") else f"{value:.1%}"]
            for key, value in result["metrics"].items()
        ]
        parts += [
            f"{result['molecules']} samples of {result['steps']} steps, seed {result['seed']}:",
            Code(result["command"]),
            Table(["metric", "value"], rows),
        ]
    return model_card(
        name,
        "A diffusion model of molecules and their 3D structures (MiDi, Vignac et al. 2023), small and trained on a "
        "CPU core. Its activations are features of molecules; its samples are not good molecules.",
        examples={
            "python": "from molfeat_diffusion import MiDiFeaturizer\n\n"
            f'X = MiDiFeaturizer.from_pretrained({name!r}).transform(["CCO", "c1ccccc1"])'
            f"  # (2, {network.width_atoms})"
        },
        facts=facts,
        parts=parts,
        picture="training.png",
    )


def _source(record: Mapping[str, Any]) -> str:
    """What `prepare` wrote of a file of molecules, in a line."""
    if "left_out" not in record:
        return str(record["name"])
    chosen = record["config"]
    sources = ", ".join(Path(source).name for source in chosen["sources"])
    line = f"{record['name']}: {record['molecules']:,} molecules of {sources}, up to {chosen['max_atoms']} atoms"
    if chosen["exclude"]:
        count = sum(n for why, n in record["left_out"].items() if why.startswith("excl"))
        names = ", ".join(Path(path).name.split(".")[0] for path in chosen["exclude"])
        line += (
            f"; {count:,} more were removed because an evaluation set has them (equal first block of the "
            f"InChIKey; sets: {names})"
        )
    return line


def is_language_run(run: Path) -> bool:
    """Whether a folder is a run of `train_language`."""
    try:
        config = json.loads((run / "config.json").read_text(encoding="utf-8"))
        return "mask_fraction" in config or "mask_share" in config  # the older word
    except (OSError, ValueError):
        return False


def export_language(run: Path, folder: Path) -> int:
    """Write a language model's last weights with README.md and training.png; returns the steps that they had.

    Raises:
        UserError: no checkpoint in the run yet; the folder is not empty.
    """
    if folder.exists() and any(folder.iterdir()):
        raise UserError(f"out: {folder} is not empty, use another folder")
    held = json.loads((run / "config.json").read_text(encoding="utf-8"))
    held = {_RENAMED.get(name, name): value for name, value in held.items()}
    config = LanguageConfig(**held | {name: tuple(held[name]) for name in ("data", "exclude")})
    state = load_training_state(run / "checkpoints")
    tokenizer = build_tokenizer((run / SMILES).read_text().split())
    model = build_network(config, tokenizer)
    model.load_state_dict(state.model_state)
    save_language(folder, model, tokenizer)
    metrics = [line for line in read_metrics(run) if line["step"] <= state.step]
    language_figure(metrics, title=folder.name).savefig(folder / "training.png", dpi=110)
    left_out = (run / "left_out.tsv").read_text().splitlines()[1:]
    unfinished = "" if state.step == config.steps else f" of {config.steps:,} planned"
    facts: dict[str, str | Sequence[str]] = {
        "Network": f"{config.layers} layers of width {config.width}, {config.heads} heads, "
        f"{sum(p.numel() for p in model.parameters()):,} parameters, float32; {len(tokenizer)} tokens (atoms, bonds, "
        f"ring numbers), up to {config.max_length}",
        "Training": f"{state.step:,} steps{unfinished} of {config.batch_size} SMILES, {config.mask_fraction:.0%} of "
        f"the tokens to predict, learning rate up to {config.learning_rate:g}, seed {config.seed}",
        "Data": [
            f"{', '.join(config.data)}; molecules by the first block of the InChIKey",
            *(" ".join(line.split("\t")) for line in left_out),
        ],
    }
    last = next((line for line in reversed(metrics) if "val_loss" in line), None)
    if last is not None:
        facts[f"Validation at step {last['step']:,}"] = (
            f"cross-entropy {last['val_loss']:.3f}, {last['val_accuracy']:.1%} of the hidden tokens right"
        )
    card = model_card(
        folder.name,
        "A small masked-language model of SMILES (RoBERTa, as ChemBERTa is one; it is not ChemBERTa), trained on a CPU "
        "core. The mean of its last layer over the tokens is a molecule's features.",
        examples={
            "python": "from molfeat_diffusion import SmilesFeaturizer\n\n"
            f'X = SmilesFeaturizer({folder.name!r}).transform(["CCO", "c1ccccc1"])  # (2, {config.width})'
        },
        facts=facts,
        picture="training.png",
    )
    write_atomically(folder / "README.md", card)
    return state.step
