"""Omniglot (Lake et al. 2015) with the class-disjoint split of Vinyals et al. 2016 (1028 / 172 / 423)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from priors_shared.datasets.base import SPLITS, ImageDataset, resolve_data_root, with_rotations
from priors_shared.errors import UserError

PACKED = Path("omniglot") / "omniglot_28.npz"
HOW_TO_GET = (
    "Omniglot not found at {path}. Give --data-root (or set PRIORS_DATA) to a folder that holds "
    "omniglot/omniglot_28.npz, or use --dataset glyphs, which needs no download."
)


def load_omniglot(
    split: str = "train", data_root: str | Path | None = None, rotations: bool = True
) -> ImageDataset:
    """Omniglot at 28 x 28, one channel, ink = 255; 20 drawers per character.

    split: "train", "val", "test" (Vinyals' lists, as in Snell et al. 2017) or "all".
    rotations: turns by 90 degrees become classes of their own, after the split (thesis A.1.1).
    Raises UserError when the packed file is missing.
    """
    if split not in (*SPLITS, "all"):
        raise UserError(f"unknown split {split!r}: choose train, val, test or all")
    root = resolve_data_root(data_root)
    path = (root or Path()) / PACKED
    if root is None or not path.is_file():
        raise UserError(HOW_TO_GET.format(path=path))
    with np.load(path, allow_pickle=False) as packed:
        images, split_of = packed["images"], packed["vinyals_split"]
        alphabets, alphabet = packed["alphabet_names"], packed["alphabet_id"]
        character = packed["character_in_alphabet"]
    keep = np.arange(len(images)) if split == "all" else np.flatnonzero(split_of == SPLITS.index(split))
    drawers = images.shape[1]
    dataset = ImageDataset(
        name="omniglot",
        images=torch.from_numpy(images[keep].reshape(-1, 1, *images.shape[2:])),
        targets=torch.arange(len(keep)).repeat_interleave(drawers),
        class_names=tuple(f"{alphabets[alphabet[c]]}/{character[c]:02d}" for c in keep),
        split=split,
        source="packed 28x28 area average of the 105x105 originals",
    )
    return with_rotations(dataset) if rotations else dataset
