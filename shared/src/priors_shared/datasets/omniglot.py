"""Omniglot (Lake et al. 2015), split by class as Vinyals et al. 2016 (1028 / 172 / 423)."""

from __future__ import annotations

import json
from importlib import resources
from pathlib import Path

import numpy as np
import torch

from priors_shared.datasets.base import (
    SPLITS,
    ImageDataset,
    check_split,
    resolve_data_root,
    with_rotations,
)
from priors_shared.errors import UserError

PACKED = Path("omniglot") / "omniglot_28.npz"
TORCHVISION = Path("omniglot-py")  # what torchvision.datasets.Omniglot(root) keeps under its root
PARTS = ("background", "evaluation")
HOW_TO_GET = (
    "Omniglot not found under {root}. Download images_background.zip and images_evaluation.zip "
    "from github.com/brendenlake/omniglot (python folder), unpack both into ROOT/omniglot-py and "
    "give --data-root ROOT (or set PRIORS_DATA); torchvision.datasets.Omniglot(ROOT, "
    "download=True) fills the same folder, and ROOT/omniglot/omniglot_28.npz is read too. "
    "--dataset glyphs needs no download."
)


def load_omniglot(
    split: str = "train", data_root: str | Path | None = None, rotations: bool = True
) -> ImageDataset:
    """Omniglot at 28 x 28, one channel, ink = 255; 20 drawers per character.

    split: "train", "val", "test" (Vinyals' lists, as in Snell et al. 2017) or "all".
    data_root: the folder that holds omniglot/omniglot_28.npz, or torchvision's omniglot-py with
    images_background and images_evaluation unpacked; None means PRIORS_DATA.
    rotations: turns by 90 degrees become classes of their own, after the split (thesis A.1.1).
    Raises UserError when neither is there, or an image cannot be read.
    """
    check_split(split)
    root = resolve_data_root(data_root)
    if root is not None and (root / PACKED).is_file():
        dataset = _load_packed(root / PACKED, split)
    elif root is not None and any((root / TORCHVISION / f"images_{p}").is_dir() for p in PARTS):
        dataset = _load_folders(root / TORCHVISION, split)
    else:
        raise UserError(HOW_TO_GET.format(root=root or "PRIORS_DATA, which is not set"))
    return with_rotations(dataset) if rotations else dataset


def _load_packed(path: Path, split: str) -> ImageDataset:
    with np.load(path, allow_pickle=False) as packed:
        images, split_of = packed["images"], packed["vinyals_split"]
        alphabets, alphabet = packed["alphabet_names"], packed["alphabet_id"]
        character = packed["character_in_alphabet"]
    chosen = np.full(len(images), True) if split == "all" else split_of == SPLITS.index(split)
    keep = np.flatnonzero(chosen)
    return _as_dataset(
        images[keep],
        tuple(f"{alphabets[alphabet[c]]}/{character[c]:02d}" for c in keep),
        split,
        "packed 28x28 area average of the 105x105 originals",
    )


def _load_folders(folder: Path, split: str) -> ImageDataset:
    """The 105 x 105 PNGs of the original archives, reduced as the packed file's were."""
    images, names = [], []
    for part, alphabet, character in _characters(split):
        drawings = folder / f"images_{part}" / alphabet / f"character{character:02d}"
        files = sorted(drawings.glob("*.png"))
        if len(files) != 20:
            raise UserError(
                f"{drawings} holds {len(files)} of its 20 drawings: unpack images_{part}.zip "
                f"into {folder} again"
            )
        images.append(np.stack([_read_drawing(file) for file in files]))
        names.append(f"{alphabet}/{character:02d}")
    return _as_dataset(
        np.stack(images), tuple(names), split, "28x28 area average of the 105x105 originals"
    )


def _characters(split: str) -> list[tuple[str, str, int]]:
    """(part, alphabet, character) of a split, in the originals' order of files.

    The package's list has one digit a character: 0 train, 1 val, 2 test.
    """
    listed = resources.files(__package__) / "omniglot_vinyals_split.json"
    split_of = json.loads(listed.read_text(encoding="utf-8"))
    return [
        (part, alphabet, number)
        for part, alphabets in split_of.items()
        for alphabet, digits in alphabets.items()
        for number, digit in enumerate(digits, start=1)
        if split in ("all", SPLITS[int(digit)])
    ]


def _read_drawing(file: Path) -> np.ndarray:
    from PIL import Image

    try:
        with Image.open(file) as image:
            ink = image.convert("L").point(lambda level: 255 - level)  # the originals' ink is black
    except OSError as error:
        raise UserError(f"cannot read {file} ({error}): unpack its archive again") from error
    return np.asarray(ink.resize((28, 28), Image.Resampling.BOX))


def _as_dataset(
    images: np.ndarray, names: tuple[str, ...], split: str, source: str
) -> ImageDataset:
    drawers = images.shape[1]
    return ImageDataset(
        name="omniglot",
        images=torch.from_numpy(images.reshape(-1, 1, 28, 28)),
        targets=torch.arange(len(images)).repeat_interleave(drawers),
        class_names=names,
        split=split,
        source=source,
    )
