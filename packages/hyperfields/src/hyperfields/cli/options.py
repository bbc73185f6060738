"""Options that several verbs share, with their help."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

CHECKPOINT = "run folder, checkpoint folder, name of shipped weights or Hugging Face Hub id"
POINTS = "points along an edge of the grid that meshes are made on"
SCALE = "what camera positions are multiplied by, to bring the object into [-1, 1]^3"
ENCODER = (
    "text encoder, where MODEL was trained with one of your own: a Hugging Face id or a folder"
)

Model = Annotated[Positional[str], arg(metavar="MODEL", help=CHECKPOINT)]
Text = Annotated[
    str | None,
    arg(metavar="NAME", help=ENCODER, help_behavior_hint="(default: the one that MODEL names)"),
]
Resolution = Annotated[int, arg(help=POINTS)]
ImageSize = Annotated[int, arg(help="pixels along each side of images and videos")]
Samples = Annotated[int, arg(help="points along a ray")]
PoseScale = Annotated[float, arg(help=SCALE)]
Prompts = Annotated[
    Path | None,
    arg(
        metavar="FILE",
        help="text file in UTF-8, one prompt a line",
        help_behavior_hint="(default: PROMPT alone)",
    ),
]
Result = Annotated[
    Path | None,
    arg(metavar="FILE.json", help="result", help_behavior_hint="(default: not written)"),
]
