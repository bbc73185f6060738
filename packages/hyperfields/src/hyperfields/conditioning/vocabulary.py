"""The procedural prompts: nine shapes in eight colours, 27 combinations held out. Imports no torch."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping

SHAPE_NAMES = ("chair", "table", "stool", "bench", "bowl", "vase", "mug", "plate", "lamp")
COLOURS: Mapping[str, tuple[float, float, float]] = {
    "red": (0.85, 0.10, 0.10),
    "orange": (0.96, 0.50, 0.08),
    "yellow": (0.95, 0.86, 0.12),
    "green": (0.12, 0.58, 0.18),
    "blue": (0.12, 0.28, 0.85),
    "purple": (0.48, 0.16, 0.70),
    "pink": (0.96, 0.55, 0.75),
    "mint": (0.58, 0.92, 0.75),
}
"""Red, green, blue in [0, 1], by name."""
NOVEL_COLOURS: Mapping[str, tuple[float, float, float]] = {"teal": (0.05, 0.42, 0.45)}
"""Of no prompt that is trained on or held out: out of distribution (4.4.3)."""


LONGEST_NAME = 120
"""Bytes of a file's name; file systems take 255, suffixes included."""


def prompt_of(attribute: str, shape: str) -> str:
    """One template for all prompts: an article that followed the attribute would give it away."""
    return f"a {attribute} {shape}"


def procedural_prompts() -> tuple[str, ...]:
    """The 72 prompts of nine shapes in eight colours, shape after shape."""
    return tuple(prompt_of(colour, shape) for shape in SHAPE_NAMES for colour in COLOURS)


def held_out_prompts() -> tuple[str, ...]:
    """27 of them, three colours of each shape (4.4.1); each colour is held out of three or four shapes."""
    colours = list(COLOURS)
    return tuple(
        prompt_of(colours[(i + k) % len(colours)], shape)
        for i, shape in enumerate(SHAPE_NAMES)
        for k in (0, 3, 5)
    )


MATERIAL_SHAPES = ("chair", "table", "stool", "bench", "bowl", "vase", "mug", "lamp")
STYLES = ("plaid", "terracotta", "tiger striped", "stained glass")
"""The 8 objects and 4 styles of B.2."""


def material_prompts() -> tuple[str, ...]:
    """The 32 prompts of eight shapes in four materials (B.2), shape after shape."""
    return tuple(prompt_of(style, shape) for shape in MATERIAL_SHAPES for style in STYLES)


def held_out_materials() -> tuple[str, ...]:
    """8 of them, one material of each shape; each material is held out of two shapes."""
    return tuple(prompt_of(STYLES[i % 4], shape) for i, shape in enumerate(MATERIAL_SHAPES))


def file_name_of(prompt: str) -> str:
    """The prompt as a file's name, without suffix; of a long one its beginning and a digest."""
    name = re.sub(r"\W+", "-", prompt.lower()).strip("-") or "scene"
    if len(name.encode()) > LONGEST_NAME:
        digest = hashlib.sha256(name.encode()).hexdigest()[:10]
        name = name.encode()[: LONGEST_NAME - 11].decode(errors="ignore") + "-" + digest
    return name
