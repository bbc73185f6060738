"""Glyphs: Omniglot-like characters drawn from the fonts that matplotlib ships; nothing to download.

A class is a Unicode character. A drawing is that character in one of eight faces, thinned to its
skeleton, bent by a random affine and elastic map and traced with a thin pen at 28 x 28. A
character's random numbers and its split come from its own code point, so that another version of
the fonts changes which characters there are, never how the others look or where they belong.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import tempfile
import unicodedata
import zipfile
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch

from priors_shared.datasets.base import SPLITS, ImageDataset, check_split, with_rotations
from priors_shared.datasets.glyph_drawing import (
    SIDE,
    DrawingStyle,
    Glyphs,
    draw_glyphs,
    font_files,
)
from priors_shared.errors import UserError

VERSION = 1  # of the drawing code; part of the cache's key
SPLIT_SHARES = (0.64, 0.11, 0.25)


def load_glyphs(
    split: str = "train",
    data_root: str | Path | None = None,
    rotations: bool = True,
    *,
    style: DrawingStyle | None = None,
    cache: bool = True,
) -> ImageDataset:
    """Drawn Unicode characters at 28 x 28, one channel, ink = 255; 20 drawings per character.

    split: "train", "val", "test" (64 / 11 / 25 % of the characters, by a hash of the code point of
    the letter without its accents, so that e, é and ê stay together) or "all".
    data_root: ignored; every loader takes it.
    rotations: quarter turns become classes of their own, except turns of a symmetric character
    (O, X, S) that draw the same thing again.
    style: how the characters are drawn; the default is Omniglot-like.
    cache: keep the drawings in `cache_folder()`. The result is the same without.
    """
    check_split(split)
    style = style or DrawingStyle()
    glyphs = _cached_glyphs(style) if cache else draw_glyphs(style)
    splits = np.array([split_of(int(code)) for code in glyphs.code_points])
    keep = np.flatnonzero((splits == split) | (split == "all"))
    if not len(keep):
        raise UserError(f"this style leaves no glyphs in split {split!r}: lower faces_at_least")
    dataset = ImageDataset(
        name="glyphs",
        images=torch.from_numpy(glyphs.images[keep].reshape(-1, 1, SIDE, SIDE)),
        targets=torch.arange(len(keep)).repeat_interleave(style.drawings),
        class_names=tuple(f"U+{code:04X}" for code in glyphs.code_points[keep]),
        split=split,
        source=f"characters of matplotlib's fonts, drawing version {VERSION}, seed {style.seed}",
    )
    if not rotations:
        return dataset
    distinct = np.flatnonzero(glyphs.new_turn[keep].T.ravel())  # class r * classes + c, as below
    return with_rotations(dataset).select_classes(distinct.tolist(), split=split)


def split_of(code_point: int) -> str:
    """The split of a character: fixed by a hash of its base letter, whatever else is drawn."""
    base = unicodedata.normalize("NFKD", chr(code_point)).casefold()[:1]
    # The number is chosen for shares close to the stated ones: letters have many accents or none.
    digest = hashlib.sha256(f"glyphs 7 {base}".encode()).digest()
    place = int.from_bytes(digest[:8], "big") / 2**64
    return SPLITS[int(np.searchsorted(np.cumsum(SPLIT_SHARES)[:-1], place, side="right"))]


def cache_folder() -> Path:
    """Where drawn glyphs are kept: $PRIORS_CACHE, else the platform's place for caches."""
    if chosen := os.environ.get("PRIORS_CACHE"):
        return Path(chosen)
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local") / "priors"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "priors"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "priors"


def _cached_glyphs(style: DrawingStyle) -> Glyphs:
    """Drawn once per style and set of fonts. A cache that fails only costs the drawing again."""
    path = cache_folder() / f"glyphs-{_digest(style)}.npz"
    try:
        with np.load(path, allow_pickle=False) as stored:
            return Glyphs(stored["code_points"], stored["images"], stored["new_turn"])
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        glyphs = draw_glyphs(style)
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # Written beside and renamed: two processes that start together never read half a file.
        with tempfile.NamedTemporaryFile(dir=path.parent, suffix=".tmp", delete=False) as file:
            temporary = Path(file.name)
            np.savez_compressed(file, **vars(glyphs))
        temporary.replace(path)
    except OSError:
        if temporary is not None:
            temporary.unlink(missing_ok=True)
    return glyphs


def _digest(style: DrawingStyle) -> str:
    import PIL

    digest = hashlib.sha256(json.dumps([VERSION, asdict(style)]).encode())
    digest.update(f"{unicodedata.unidata_version} {PIL.__version__}".encode())
    for path in font_files():
        digest.update(path.name.encode() + hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()[:16]
