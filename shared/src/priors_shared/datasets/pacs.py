"""PACS (Li et al. 2017): 7 classes in 4 domains, to train on some and test on another."""

from __future__ import annotations

import io
from pathlib import Path, PurePosixPath

import numpy as np
import torch

from priors_shared.datasets.base import (
    ImageDataset,
    check_image_size,
    check_split,
    resolve_data_root,
)
from priors_shared.datasets.packed import channels_first, read_packed, read_rgb
from priors_shared.errors import UserError

PACKED = Path("pacs") / "pacs_112.npz"
FOLDER = Path("pacs")
DOMAINS = ("photo", "art_painting", "cartoon", "sketch")
CLASSES = ("dog", "elephant", "giraffe", "guitar", "horse", "house", "person")
PARTS = ("train", "crossval")
HOW_TO_GET = (
    "PACS not found under {root}. Download its images (kfold) and lists (Train val splits) from "
    "sketchx.eecs.qmul.ac.uk/downloads, put them at ROOT/pacs/kfold/DOMAIN/CLASS/*.jpg and "
    "ROOT/pacs/DOMAIN_train_kfold.txt, ROOT/pacs/DOMAIN_crossval_kfold.txt, and give --data-root "
    "ROOT (or set PRIORS_DATA); ROOT/pacs/pacs_112.npz is read too. --dataset glyphs needs no "
    "download."
)


def load_pacs(
    domain: str,
    split: str = "train",
    data_root: str | Path | None = None,
    image_size: int = 112,
) -> ImageDataset:
    """One domain of PACS, RGB, 7 classes; `load_dataset` knows it as "pacs-photo" and so on.

    domain: "photo" (1670 images), "art_painting" (2048), "cartoon" (2344) or "sketch" (3929).
    split: "train", "crossval" (the official lists, about 9 : 1) or "all", the official test list:
    a domain is tested on whole, by a learner of the other domains. The classes are the same in each.
    data_root: the folder that holds pacs/pacs_112.npz, or the official pacs/kfold/DOMAIN/CLASS with
    pacs/DOMAIN_{train,crossval}_kfold.txt beside kfold; None means PRIORS_DATA.
    image_size: pixels; the originals have 227, the packed file 112. Bicubic resize, antialiased.
    Raises UserError for another domain, when neither is there, or when a list or image is bad.
    """
    if domain not in DOMAINS:
        raise UserError(f"unknown PACS domain {domain!r}: choose {', '.join(DOMAINS)}")
    check_split(split, (*PARTS, "all"))
    check_image_size(image_size)
    root = resolve_data_root(data_root)
    files: list[Path] | list[io.BytesIO]
    if root is not None and (root / PACKED).is_file():
        files, targets = _find_packed(root / PACKED, domain, split)
        source = "packed JPEGs of 112x112 (quality 80)"
    elif root is not None and (root / FOLDER / "kfold").is_dir():
        files, targets = _find_listed(root / FOLDER, domain, split)
        source = "the original images of 227x227"
    else:
        raise UserError(HOW_TO_GET.format(root=root or "PRIORS_DATA, which is not set"))
    pixels = np.stack([read_rgb(file, image_size, "download PACS again") for file in files])
    return ImageDataset(
        name=f"pacs-{domain}",
        images=channels_first(pixels),
        targets=torch.tensor(targets),
        class_names=CLASSES,
        split=split,
        source=source,
        paths=tuple(str(file) for file in files if isinstance(file, Path)),
    )


def _find_packed(path: Path, domain: str, split: str) -> tuple[list[io.BytesIO], list[int]]:
    packed = read_packed(path, ("jpeg_bytes", "offset", "domain", "label", "split"))
    stored, offset = packed["jpeg_bytes"], packed["offset"]
    in_split = split == "all" or packed["split"] == PARTS.index(split)
    chosen = np.flatnonzero((packed["domain"] == DOMAINS.index(domain)) & in_split)
    files = [io.BytesIO(stored[offset[i] : offset[i + 1]].tobytes()) for i in chosen]
    return files, packed["label"][chosen].tolist()


def _find_listed(folder: Path, domain: str, split: str) -> tuple[list[Path], list[int]]:
    """The listed images. A line is "DOMAIN/CLASS/FILE NUMBER", and the folder names the class:
    the numbers of the first published lists are wrong in places.
    """
    files: list[Path] = []
    targets: list[int] = []
    for part in PARTS if split == "all" else (split,):
        path = folder / f"{domain}_{part}_kfold.txt"
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except (OSError, ValueError) as error:
            raise UserError(
                f"cannot read {path} ({error}): download PACS' lists (Train val splits) from "
                f"sketchx.eecs.qmul.ac.uk/downloads into {folder}"
            ) from error
        for line in filter(str.strip, lines):
            place = PurePosixPath(line.rpartition(" ")[0]).parts[-3:]
            if len(place) != 3 or place[0] != domain or place[1] not in CLASSES:
                raise UserError(f"{path} has the line {line!r}: not {domain}/CLASS/FILE NUMBER")
            files.append(folder.joinpath("kfold", *place))
            targets.append(CLASSES.index(place[1]))
    if not files:
        raise UserError(f"{folder} lists no image of {domain}: download PACS' lists again")
    return files, targets
