"""Training over epitopes: each task shows a few binders of one, and asks to rank its others above the rest."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from hypernet_maml.tcr.config import SHOTS, TrainConfig
from hypernet_maml.tcr.datasets import Binders
from hypernet_maml.tcr.features import CDR_FEATURES, SCEPTR_FEATURES, Described, pair_features
from hypernet_maml.tcr.models import BindingHypernetwork
from hypernet_maml.tcr.protocol import Fold, clonotypes, epitope_clusters
from hypernet_maml.tcr.ranker import Ranker
from priors_shared.errors import UserError
from priors_shared.runs import Run
from priors_shared.training import TrainingLoop

MIN_BINDERS = 6
"""Receptors of an epitope that is trained on."""
_MARGIN = 2.0
"""Factor of scores in the losses, which sharpens them."""


@dataclass(frozen=True)
class _Rows:
    """The training part: what tasks are drawn from."""

    table: Tensor
    rows: np.ndarray
    background: Tensor
    by_epitope: list[np.ndarray]
    cluster: np.ndarray
    cluster_of: list[int]
    clonotype: np.ndarray
    rarity: np.ndarray
    """How likely a receptor is drawn as a negative: epitopes count by the root of their receptors."""


def train(
    config: TrainConfig,
    binders: Binders,
    described: Described,
    fold: Fold,
    run: Run,
    table: Tensor | None = None,
) -> Ranker:
    """Train on a fold's training part of a set of binders, in a run folder.

    Args:
        config: the settings.
        binders: receptors and what they bind.
        described: the same receptors.
        fold: its test part gives receptors to calibrate by, and nothing else is taken from it.
        run: where metrics and checkpoints go.
        table: pair features of all of `described`, where they are made already: (receptors, receptors, features).

    Raises:
        UserError: too few epitopes with enough receptors.
    """
    rows = fold.train
    epitopes = np.array(binders.epitopes)[rows]
    chosen = rows[_drawn(config.background, epitopes, config.seed, 2)]
    background = described[chosen]
    if table is None:
        table = pair_features(described, described)
    data = _prepare(binders, table, rows, epitopes, chosen)
    torch.manual_seed(config.seed)
    features = len(CDR_FEATURES) + (len(SCEPTR_FEATURES) if config.encoder == "sceptr" else 0)
    held_out = np.array(binders.epitopes)[fold.test]
    calibration = described[fold.test[_drawn(config.calibration, held_out, config.seed, 5)]]
    ranker = Ranker(
        replace(config.model, features=features),
        encoder=config.encoder,
        background=len(background),
        calibration=len(calibration),
    )
    ranker.background.fill(background)
    ranker.calibration.fill(calibration)
    net = ranker.net.train()
    optimizer = torch.optim.AdamW(
        net.parameters(), config.learning_rate, weight_decay=config.weight_decay
    )
    loop = TrainingLoop(
        run, model=net, optimizer=optimizer, steps=config.steps, checkpoint_every=100, log_every=20
    )
    for step in loop:
        torch.manual_seed(1_000_003 * config.seed + step)  # dropout: the same in a resumed run
        for group in optimizer.param_groups:
            group["lr"] = config.learning_rate * _one_cycle(step / config.steps)
        rng = np.random.default_rng([config.seed, 4, step])
        losses = [_loss(net, data, task) for task in _tasks(config, data, rng)]
        loss = torch.stack(losses).mean()
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(net.parameters(), config.clip_norm)
        optimizer.step()
        loop.step(loss)
    return ranker.eval()


def background_features(
    table: Tensor, background: np.ndarray
) -> Float[Tensor, "receptors features"]:
    """Mean pair features of each row of a table with some of its columns."""
    chosen = torch.from_numpy(background)
    return torch.stack([row[chosen].mean(0) for row in table])


def scores_of_rows(
    net: BindingHypernetwork,
    table: Tensor,
    background: Tensor,
    support: np.ndarray,
    queries: np.ndarray,
) -> Float[Tensor, " queries"]:
    """Scores of rows of a table of pair features."""
    return net(
        table[queries[:, None], support],
        background[queries],
        background[support],
        table[support[:, None], support],
    )


def _drawn(count: int, epitopes: np.ndarray, seed: int, stream: int) -> np.ndarray:
    """Positions of receptors that stand for receptors in general: no epitope is most of them."""
    rarity = _rarity(epitopes)
    rng = np.random.default_rng([seed, stream])
    return rng.choice(len(rarity), min(count, len(rarity)), replace=False, p=rarity / rarity.sum())


def _prepare(
    binders: Binders, table: Tensor, rows: np.ndarray, epitopes: np.ndarray, background: np.ndarray
) -> _Rows:
    names = [
        str(e)
        for e, n in zip(*np.unique(epitopes, return_counts=True), strict=True)
        if n >= MIN_BINDERS
    ]
    if len(names) < 2:
        raise UserError(
            f"{len(names)} epitopes have {MIN_BINDERS} receptors or more: a training needs 2 at least"
        )
    cluster_of = epitope_clusters(binders.epitopes)
    return _Rows(
        table=table,
        rows=rows,
        background=background_features(table, background),
        by_epitope=[np.flatnonzero(epitopes == name) for name in names],
        cluster=np.array([cluster_of[str(e)] for e in epitopes]),
        cluster_of=[cluster_of[name] for name in names],
        clonotype=clonotypes([binders.receptors[i] for i in rows]),
        rarity=_rarity(epitopes),
    )


def _rarity(epitopes: np.ndarray) -> np.ndarray:
    _, which, counts = np.unique(epitopes, return_inverse=True, return_counts=True)
    return 1 / np.sqrt(counts[which])


def _one_cycle(done: float) -> float:
    """Up over the first tenth, then down along a cosine."""
    return done / 0.1 if done < 0.1 else 0.5 * (1 + math.cos(math.pi * (done - 0.1) / 0.9))


def _tasks(
    config: TrainConfig, data: _Rows, rng: np.random.Generator
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Supports, binders to rank and negatives, drawn anew."""
    weight = np.array([min(len(rows), 100) ** 0.5 for rows in data.by_epitope])
    drawn = 0
    while drawn < config.batch_size:
        epitope = int(rng.choice(len(weight), p=weight / weight.sum()))
        own = data.by_epitope[epitope]
        shots = min(int(rng.choice(SHOTS)), len(own) - 3)
        support = rng.choice(own, shots, replace=False)
        positives = own[~np.isin(data.clonotype[own], data.clonotype[support])]
        drawn += 1  # an epitope of a single clonotype must not keep the loop from ending
        if not len(positives):
            continue
        odds = data.rarity * (data.cluster != data.cluster_of[epitope])
        odds = odds * ~np.isin(data.clonotype, data.clonotype[own])
        count = min(config.negatives, int((odds > 0).sum()))
        if count:
            negatives = rng.choice(len(odds), count, replace=False, p=odds / odds.sum())
            yield support, rng.permutation(positives)[: config.positives], negatives


def _loss(
    net: BindingHypernetwork, data: _Rows, task: tuple[np.ndarray, np.ndarray, np.ndarray]
) -> Tensor:
    """How often a negative is ranked above a binder; and each binder against all negatives at once, which weighs the
    top of the ranking.
    """
    support, positives, negatives = (data.rows[part] for part in task)
    queries = np.concatenate([positives, negatives])
    scores = _MARGIN * scores_of_rows(net, data.table, data.background, support, queries)
    binding, others = scores[: len(positives)], scores[len(positives) :]
    pairwise = nn.functional.softplus(others[None] - binding[:, None]).mean()
    top = torch.logaddexp(torch.logsumexp(others, 0).expand_as(binding), binding) - binding
    return pairwise + 0.5 * (top.mean() - math.log(len(others) + 1))
