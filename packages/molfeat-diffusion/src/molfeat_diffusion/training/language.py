"""Training of a masked-language model of SMILES, resumable at any checkpoint to the same numbers.

Every random draw depends only on (seed, update), as in `training`.
"""

from __future__ import annotations

import shutil
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from joblib import Parallel, delayed
from torch import Tensor, nn

from molfeat_diffusion.config import LanguageConfig, LaunchConfig
from molfeat_diffusion.data.exclusion import connectivities, connectivity
from molfeat_diffusion.data.sources import read_smiles_source
from molfeat_diffusion.featurizers.smiles import build_tokenizer, padded
from priors_shared.datasets.base import resolve_data_root
from priors_shared.devices import end_followers, launch, set_threads, share
from priors_shared.episodes import generator_for
from priors_shared.errors import UserError
from priors_shared.files import write_atomically
from priors_shared.launching import follows
from priors_shared.runs import Run
from priors_shared.training import TrainingLoop

INITIAL_WEIGHTS, MASK, DROPOUT, ORDER, VALIDATION = range(5)
"""Paths of generators."""
SMILES = "smiles.txt"
_NOTHING = -100  # label of a token that is not to be predicted
_WINDOW = 20  # batches among which SMILES are sorted by length, so that little is padded
_WARM_UP = 0.05


def train_language(config: LanguageConfig, where: LaunchConfig, run: Run) -> None:
    """Train, or go on from the run's last checkpoint; writes OUT/model, as transformers stores models.

    OUT/smiles.txt holds the SMILES as prepared, OUT/left_out.tsv how many were not used.

    Raises:
        UserError: data or device that is not to be had; a loss that is not finite.
    """
    set_threads(where.threads)
    # Other processes begin with the launch, or wait there: they find the SMILES prepared.
    smiles = None if follows() else _prepared(config, where, run)
    fabric = launch(where.accelerator, where.devices, where.precision, compile=where.compile)
    if smiles is None:
        smiles = _prepared(config, where, run)
    tokenizer = build_tokenizer(smiles)
    tokens = [row[: config.max_length] for row in tokenizer(smiles)["input_ids"]]
    order = np.random.default_rng(config.seed).permutation(len(tokens))
    held_out = max(1, round(config.validation_fraction * len(tokens)))
    val_set = [tokens[i] for i in sorted(order[:held_out])]
    train_set = [tokens[i] for i in sorted(order[held_out:])]
    torch.manual_seed(generator_for(config.seed, INITIAL_WEIGHTS).initial_seed())
    model = build_network(config, tokenizer).to(fabric.device)
    optimizer: Any = torch.optim.AdamW(
        model.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay
    )
    loop = TrainingLoop(
        run,
        model=model,
        optimizer=optimizer,
        steps=config.steps,
        checkpoint_every=config.checkpoint_every,
        log_every=config.log_every,
        validate_every=config.validate_every,
        validate=lambda: evaluate(model, val_set, tokenizer, config),
    )
    objective, optimizer = fabric.setup(model, optimizer)
    objective.train()
    rank = (fabric.global_rank,) if fabric.global_rank else ()
    lengths = tuple(map(len, train_set))
    for step in loop:
        for group in optimizer.param_groups:
            group["lr"] = config.learning_rate * _rate(step, config.steps)
        chosen = [train_set[i] for i in share(_batch(lengths, config, step).tolist(), fabric)]
        generator = generator_for(config.seed, MASK, step, *rank)
        ids, mask, labels = masked(chosen, tokenizer, config.mask_fraction, generator)
        torch.manual_seed(generator_for(config.seed, DROPOUT, step, *rank).initial_seed())
        loss, _ = _loss(objective, ids, mask, labels, fabric.device)
        optimizer.zero_grad()
        fabric.backward(loss)
        fabric.clip_gradients(
            objective, optimizer, max_norm=config.clip_norm, error_if_nonfinite=False
        )
        optimizer.step()
        loop.step(loss)
    end_followers(fabric)
    save_language(run.out / "model", model, tokenizer)


def build_network(config: LanguageConfig, tokenizer: Any) -> nn.Module:
    """A RoBERTa for masked tokens, as ChemBERTa is one."""
    from transformers import RobertaConfig, RobertaForMaskedLM

    return RobertaForMaskedLM(
        RobertaConfig(
            vocab_size=len(tokenizer),
            hidden_size=config.width,
            num_hidden_layers=config.layers,
            num_attention_heads=config.heads,
            intermediate_size=config.feed_forward,
            hidden_dropout_prob=config.dropout,
            attention_probs_dropout_prob=config.dropout,
            max_position_embeddings=config.max_length + tokenizer.pad_token_id + 1,
            type_vocab_size=1,
            pad_token_id=tokenizer.pad_token_id,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
        )
    )


def masked(
    tokens: list[list[int]], tokenizer: Any, share: float, generator: torch.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """(batch, length) tokens with some hidden, the mask of the real ones, and labels of those to predict.

    Of the chosen tokens (never the special ones) 80 % are hidden, 10 % are replaced, 10 % stay.
    """
    ids, mask = padded(tokens, tokenizer.pad_token_id)
    special = torch.tensor(sorted(tokenizer.all_special_ids))
    ordinary = ~torch.isin(ids, special)
    chosen = ordinary & (torch.rand(ids.shape, generator=generator) < share)
    labels = torch.where(chosen, ids, _NOTHING)
    kind = torch.rand(ids.shape, generator=generator)
    others = torch.randint(len(special), len(tokenizer), ids.shape, generator=generator)
    ids = torch.where(chosen & (kind < 0.8), tokenizer.mask_token_id, ids)
    ids = torch.where(chosen & (kind >= 0.8) & (kind < 0.9), others, ids)
    return ids, mask, labels


@torch.no_grad()
def evaluate(
    model: nn.Module, tokens: list[list[int]], tokenizer: Any, config: LanguageConfig
) -> dict[str, float]:
    """Cross-entropy and accuracy on hidden tokens of all SMILES, with masks that the seed draws."""
    training, device = model.training, next(model.parameters()).device
    model.eval()
    order = sorted(range(len(tokens)), key=lambda i: len(tokens[i]))
    loss = hits = total = 0.0
    for number, start in enumerate(range(0, len(order), config.batch_size)):
        some = [tokens[i] for i in order[start : start + config.batch_size]]
        generator = generator_for(config.seed, VALIDATION, number)
        ids, mask, labels = masked(some, tokenizer, config.mask_fraction, generator)
        count = int((labels != _NOTHING).sum())
        if count:
            mean, right = _loss(model, ids, mask, labels, device)
            loss, hits, total = loss + count * float(mean), hits + float(right), total + count
    model.train(training)
    return {"val_loss": loss / max(total, 1), "val_accuracy": hits / max(total, 1)}


def _loss(
    model: Any, ids: Tensor, mask: Tensor, labels: Tensor, device: Any
) -> tuple[Tensor, Tensor]:
    """Mean cross-entropy of the tokens to predict, 0 of none; and how many are right."""
    logits = model(input_ids=ids.to(device), attention_mask=mask.to(device)).logits
    wanted = labels.to(device)
    loss = nn.functional.cross_entropy(
        logits.flatten(0, 1), wanted.flatten(), ignore_index=_NOTHING, reduction="sum"
    ) / (wanted != _NOTHING).sum().clamp(min=1)
    return loss, (logits.argmax(-1) == wanted).sum()


def _rate(step: int, updates: int) -> float:
    warm = max(1, round(_WARM_UP * updates))
    return min((step + 1) / warm, (updates - step) / max(updates - warm, 1))


def _batch(lengths: tuple[int, ...], config: LanguageConfig, step: int) -> np.ndarray:
    """Indices of an update's SMILES: each once an epoch, among SMILES of much the same length."""
    epoch, number = divmod(step, max(1, len(lengths) // config.batch_size))
    return _epoch(lengths, config.batch_size, config.seed, epoch)[number]


@lru_cache(maxsize=1)
def _epoch(lengths: tuple[int, ...], batch: int, seed: int, epoch: int) -> list[np.ndarray]:
    rng = np.random.default_rng([seed, ORDER, epoch])
    sizes = np.array(lengths)
    count = max(1, len(sizes) // batch)
    shuffled = rng.permutation(len(sizes))[: count * batch]
    found = []
    for start in range(0, len(shuffled), _WINDOW * batch):
        some = shuffled[start : start + _WINDOW * batch]
        some = some[np.argsort(sizes[some], kind="stable")]
        found += [some[i : i + batch] for i in range(0, len(some), batch)]
    return [found[i] for i in rng.permutation(len(found))]


def _prepared(config: LanguageConfig, where: LaunchConfig, run: Run) -> list[str]:
    path = run.out / SMILES
    if path.is_file():
        return path.read_text().split()
    root = resolve_data_root(where.data_root)
    smiles = list(
        dict.fromkeys(
            text for source in config.data for text in read_smiles_source(source, root) if text
        )
    )
    total, excluded = len(smiles), 0
    if config.max_smiles is not None:
        chosen = np.random.default_rng(config.seed).permutation(total)[: config.max_smiles]
        smiles = [smiles[i] for i in sorted(chosen)]
    drawn = len(smiles)
    if config.exclude:
        banned = connectivities(
            [_below(root, name) for name in config.exclude],
            data_root=root,
            jobs=where.jobs,
            quiet=where.quiet,
        )
        parts = [smiles[i : i + 1000] for i in range(0, drawn, 1000)]
        kept = Parallel(n_jobs=where.jobs)(delayed(_allowed)(part, banned) for part in parts)
        smiles = [text for part in kept for text in part]
        excluded = drawn - len(smiles)
    if len(smiles) < 2:
        raise UserError(
            f"{', '.join(config.data)}: {len(smiles)} usable SMILES, a training needs 2"
        )
    rows = [
        f"{excluded}\tof {drawn} left out: unreadable, or in a table of {', '.join(config.exclude)}",
        f"{len(smiles)}\tkept, of {total} different SMILES in {', '.join(config.data)}",
    ]
    write_atomically(run.out / "left_out.tsv", "\n".join(["smiles\twhat", *rows]) + "\n")
    write_atomically(path, "\n".join(smiles) + "\n")
    return smiles


def _allowed(smiles: list[str], banned: set[str]) -> list[str]:
    keys = map(connectivity, smiles)
    pairs = zip(smiles, keys, strict=True)
    return [text for text, key in pairs if key is not None and key not in banned]


def _below(root: Path | None, name: str) -> str:
    """A table's file, by its name below the data root or its path."""
    path = None if root is None else root / "molecules" / f"{name}.csv.gz"
    return str(path) if path is not None and path.is_file() else name


def save_language(folder: Path, model: Any, tokenizer: Any) -> None:
    """Write network and tokenizer as transformers does, whole or not at all."""
    pending = folder.with_name(f"{folder.name}.next")
    shutil.rmtree(pending, ignore_errors=True)
    model.save_pretrained(pending)
    tokenizer.save_pretrained(pending)
    shutil.rmtree(folder, ignore_errors=True)
    pending.rename(folder)
