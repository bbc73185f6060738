"""Weights to give away: a checkpoint folder with a model card and the curve of its training."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from molfeat_diffusion.checkpoint import save_model
from molfeat_diffusion.config import (
    LossConfig,
    ModelConfig,
    NetworkConfig,
    NoiseConfig,
    TrainConfig,
)
from molfeat_diffusion.plots import training_figure
from molfeat_diffusion.training import trained_model
from priors_shared.errors import UserError
from priors_shared.runs import read_metrics, training_seconds, write_atomically

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
        model = held["model"]
        held["model"] = ModelConfig(
            vocabulary=model["vocabulary"],
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
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: {error}; `molfeat-diffusion eval --out` writes it") from None
    if not isinstance(found, dict) or not set(found) >= _RESULT:
        raise UserError(f"{path}: not what `molfeat-diffusion eval --out` writes")
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
    step, updates = trained["step"], config.updates
    weights = "an average over updates" if config.ema else "of the last update"
    state = (
        "" if step == updates else f" (of {updates:,} planned: a checkpoint of a running training)"
    )
    lines = [
        f"# {name}",
        "",
        "A diffusion model of molecules and their 3D structures (MiDi, Vignac et al. 2023), small and trained "
        "on a CPU core. Its activations are features of molecules; its samples are not good molecules.",
        "",
        "```python",
        "from molfeat_diffusion import MiDiFeaturizer",
        "",
        f'X = MiDiFeaturizer.from_pretrained("{name}").transform(["CCO", "c1ccccc1"])'
        f"  # (2, {network.width_atoms})",
        "```",
        "",
        f"- Network: {network.layers} layers, {network.width_atoms} features of an atom, "
        f"{network.width_bonds} of a pair; {parameters:,} parameters, stored as {trained['stored_as']}, {weights}.",
        f"- Vocabulary: {config.model.vocabulary}; molecules of up to {config.max_atoms} atoms.",
        f"- Noise: T = {noise.timesteps}, nu {noise.nu_positions} / {noise.nu_atoms} / {noise.nu_charges} / "
        f"{noise.nu_bonds} for positions / atoms / charges / bonds.",
        f"- Training: {step:,} updates{state} of up to {config.batch} molecules of one size, learning rate "
        f"{config.learning_rate:g} (decay: {config.decay}), seed {config.seed}; "
        f"{trained['minutes']:.0f} minutes on one thread, of cores that other work shared.",
        f"- Data: {trained['molecules']:,} molecules, and the {config.validation_share:.0%} for validation.",
    ]
    for record in prepared:
        lines.append(f"  - {record['name']}")
        if "left_out" in record:
            chosen = record["config"]
            sources = ", ".join(Path(source).name for source in chosen["sources"])
            lines[-1] += f": {record['molecules']:,} molecules of {sources}, up to "
            lines[-1] += f"{chosen['max_atoms']} atoms"
            if chosen["exclude"]:
                count = sum(n for why, n in record["left_out"].items() if why.startswith("excl"))
                lines[-1] += f"; {count:,} more were removed because an evaluation set has them"
                names = ", ".join(Path(p).name.split(".")[0] for p in chosen["exclude"])
                lines[-1] += f" (equal first block of the InChIKey; sets: {names})"
    if metrics:  # none yet where no validation came before the checkpoint
        terms = ", ".join(
            f"{term} {metrics[f'val_loss_{term}']:.3f}"
            for term in ("positions", "atoms", "charges", "bonds")
        )
        lines += [f"- Validation loss at update {metrics['step']:,}: {terms}."]
    lines += ["", "![training](training.png)", ""]
    for result in results:
        lines += [
            f"{result['molecules']} samples of {result['steps']} steps, seed {result['seed']} "
            f"(`{result['command']}`):",
            "",
            "| metric | value |",
            "| --- | ---: |",
            *(
                f"| {key} | {value:.3g} |" if key.startswith("w1") else f"| {key} | {value:.1%} |"
                for key, value in result["metrics"].items()
            ),
            "",
        ]
    return "\n".join(lines).rstrip() + "\n"
