"""Training of the diffusion model, resumable at any checkpoint to the same numbers.

Every random draw depends only on (seed, update), so that a resumed run needs no sampler state.
"""

from __future__ import annotations

import math
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from molfeat_diffusion.config import LaunchConfig, LossConfig, TrainConfig
from molfeat_diffusion.data.molecules import VOCABULARIES, DenseMolecules
from molfeat_diffusion.data.sets import MoleculeSet, load_molecules, load_packed, split
from molfeat_diffusion.models.diffusion import LossTerms, MiDi
from molfeat_diffusion.pretrained import load_model, save_model
from priors_shared.checkpoints import (
    has_training_state,
    load_training_state,
)
from priors_shared.datasets.base import resolve_data_root
from priors_shared.devices import end_followers, launch, set_threads, share
from priors_shared.episodes import generator_for
from priors_shared.errors import UserError
from priors_shared.files import write_atomically
from priors_shared.launching import follows
from priors_shared.runs import Run
from priors_shared.training import TrainingLoop

INITIAL_WEIGHTS, NOISE, DROPOUT, ORDER, VALIDATION = range(5)
"""Paths of generators."""

_TERMS = ("loss", *(f"loss_{name}" for name in LossTerms._fields))


class Objective(nn.Module):
    """The weighted loss, and its terms."""

    def __init__(self, model: MiDi, weights: LossConfig, distortion: float = 0.0) -> None:
        super().__init__()
        self.model = model
        self.weights = weights
        self.distortion = distortion

    def forward(
        self, batch: DenseMolecules, generator: torch.Generator
    ) -> tuple[Tensor, LossTerms]:
        terms = self.model.loss(batch, generator, distortion=self.distortion)
        return terms.total(self.weights), terms


def train(config: TrainConfig, where: LaunchConfig, run: Run) -> MiDi:
    """Train, or go on from the run's last checkpoint; writes OUT/model and returns it.

    OUT/molecules.npz holds the molecules as prepared: a resumed or later run can take them from there.

    Raises:
        UserError: data or device that is not to be had; a loss that is not finite.
    """
    set_threads(where.threads)
    # Other processes begin with the launch, or wait there: they find the molecules prepared.
    molecules = None if follows() else _prepared(config, where, run)
    fabric = launch(
        where.accelerator,
        where.devices,
        where.precision,
        compile=where.compile,
        unused_parameters=True,  # the last layer updates bonds, and a global vector, that nothing reads
    )
    if molecules is None:
        molecules = _prepared(config, where, run)
    train_set, val_set = split(molecules, config.validation_fraction, config.seed)
    torch.manual_seed(generator_for(config.seed, INITIAL_WEIGHTS).initial_seed())
    model = MiDi(
        config.model, marginals=train_set.marginals(), sizes=train_set.size_histogram()
    ).to(fabric.device)
    optimizer: Any = torch.optim.AdamW(
        model.parameters(),
        lr=config.learning_rate,
        weight_decay=config.weight_decay,
        amsgrad=True,
    )
    average: Any = None
    if config.ema is not None:
        average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(config.ema))
    kept = model if average is None else average.module
    loop = TrainingLoop(
        run,
        model=model,
        optimizer=optimizer,
        steps=config.steps,
        checkpoint_every=config.checkpoint_every,
        log_every=config.log_every,
        validate_every=config.validate_every,
        validate=lambda: evaluate(kept, val_set, config),
        means=_TERMS,
        modules={} if average is None else {"average": average},
        advice="lower it, or give clip_norm",
    )
    objective, optimizer = fabric.setup(Objective(model, config.loss, config.distortion), optimizer)
    objective.train()
    rank = (fabric.global_rank,) if fabric.global_rank else ()
    for step in loop:
        mine = share(_batch(train_set, config, step).tolist(), fabric)
        batch = train_set.batch(mine)
        torch.manual_seed(generator_for(config.seed, DROPOUT, step, *rank).initial_seed())
        generator = generator_for(config.seed, NOISE, step, *rank)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(config, step)
        loss, terms = objective(batch.to(fabric.device), generator)
        optimizer.zero_grad()
        fabric.backward(loss)
        if config.clip_norm is not None:
            fabric.clip_gradients(
                objective, optimizer, max_norm=config.clip_norm, error_if_nonfinite=False
            )
        optimizer.step()
        if average is not None:
            average.update_parameters(model)
        loop.step(loss, **dict(zip(_TERMS[1:], (t.detach() for t in terms), strict=True)))
    end_followers(fabric)
    trained = asdict(config) | {"molecules": len(train_set)}
    save_model(run.out / "model", kept, trained=trained, metrics=run.metrics()[-1])
    return kept.eval()


def trained_model(config: TrainConfig, run: Path) -> tuple[MiDi, int]:
    """The model of a run folder, and its updates; of a run that goes on: of its last checkpoint.

    Raises:
        UserError: there is no checkpoint yet.
    """
    if (run / "model").is_dir():
        return load_model(run / "model")[0], config.steps
    if not has_training_state(run / "checkpoints"):
        raise UserError(f"{run}: no checkpoint yet")
    state = load_training_state(run / "checkpoints")
    molecules = load_packed(run / "molecules.npz", VOCABULARIES[config.model.vocabulary])
    train_set, _ = split(molecules, config.validation_fraction, config.seed)
    model = MiDi(config.model, marginals=train_set.marginals(), sizes=train_set.size_histogram())
    weights = state.model_state
    if config.ema is not None:
        weights = state.tensors_below("average/module.")
    model.load_state_dict(weights)
    return model.eval(), state.step


@torch.no_grad()
def evaluate(model: MiDi, molecules: MoleculeSet, config: TrainConfig) -> dict[str, float]:
    """The loss and its terms on all molecules, each at one step that the seed draws."""
    training = model.training
    model.eval()
    order = np.argsort(molecules.sizes, kind="stable")
    sums, total = np.zeros(5), 0
    for number, start in enumerate(range(0, len(order), config.batch_size)):
        chosen = order[start : start + config.batch_size]
        batch = molecules.batch(chosen).to(model.device)
        terms = model.loss(batch, generator_for(config.seed, VALIDATION, number))
        values = [float(v) for v in (terms.total(config.loss), *terms)]
        sums += len(chosen) * np.array(values)
        total += len(chosen)
    model.train(training)
    return {f"val_{name}": float(v) for name, v in zip(_TERMS, sums / total, strict=True)}


def learning_rate(config: TrainConfig, step: int) -> float:
    """Of `step` = 0 .. steps - 1: linear warm-up, then constant or falling as a half cosine."""
    rate = config.learning_rate * min(1.0, (step + 1) / (config.warmup_steps + 1))
    if config.decay == "cosine" and step >= config.warmup_steps:
        share = (step - config.warmup_steps) / (config.steps - config.warmup_steps)
        rate *= (1 + math.cos(math.pi * share)) / 2
    return rate


def _prepared(config: TrainConfig, where: LaunchConfig, run: Run) -> MoleculeSet:
    vocabulary = VOCABULARIES[config.model.vocabulary]
    path = run.out / "molecules.npz"
    if path.is_file():
        return load_packed(path, vocabulary)
    molecules, left_out = load_molecules(
        config.data,
        vocabulary,
        data_root=resolve_data_root(where.data_root),
        max_atoms=config.max_atoms,
        max_molecules=config.max_molecules,
        seed=config.seed,
        kekulize=config.model.kekulized,
        jobs=where.jobs,
        quiet=where.quiet,
    )
    rows = "".join(f"{count}\t{reason}\n" for reason, count in left_out.most_common())
    write_atomically(run.out / "left_out.tsv", "molecules\treason\n" + rows)
    molecules.save(path)
    return molecules


def _batch(molecules: MoleculeSet, config: TrainConfig, step: int) -> np.ndarray:
    """Indices of a step's molecules, of one size or nearly: each once an epoch."""
    epoch, number = divmod(step, len(_epoch(molecules, config.batch_size, config.seed, 0)))
    return _epoch(molecules, config.batch_size, config.seed, epoch)[number]


@lru_cache(maxsize=2)
def _epoch(molecules: MoleculeSet, batch: int, seed: int, epoch: int) -> list[np.ndarray]:
    rng = np.random.default_rng([seed, ORDER, epoch])
    shuffled = rng.permutation(len(molecules))
    found, few = [], np.empty(0, dtype=np.int64)
    for size in np.unique(molecules.sizes):
        some = np.concatenate((few, shuffled[molecules.sizes[shuffled] == size]))
        few = np.empty(0, dtype=np.int64)
        if 2 * len(some) < batch:
            # Too few: padded, with those of the next size. A step of its own would count as much as a full one.
            few = some
        else:
            found += np.array_split(some, -(-len(some) // batch))
    if len(few):
        found.append(few)
    return [found[i] for i in rng.permutation(len(found))]
