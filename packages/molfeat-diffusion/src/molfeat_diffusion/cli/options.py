"""Options that several verbs share, with their help."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

SmilesColumn = Annotated[
    str | None,
    arg(
        metavar="NAME",
        help="column of SMILES in a csv or parquet",
        help_behavior_hint="(default: smiles, mol or canonical_smiles)",
    ),
]
IdColumn = Annotated[
    str | None,
    arg(
        metavar="NAME",
        help="column of names in a csv or parquet",
        help_behavior_hint="(default: one called id or name, else the row's number)",
    ),
]
Molecules = Annotated[
    Positional[Path],
    arg(metavar="FILE", help="molecules: .csv, .tsv, .smi, .sdf (each also .gz) or .parquet"),
]
Diffusion = Annotated[
    str,
    arg(
        metavar="CHECKPOINT",
        help="diffusion model, for midi's features: shipped weights, run folder, checkpoint folder or Hugging Face "
        "Hub id",
    ),
]
Layer = Annotated[
    int | None,
    arg(
        metavar="INT",
        help="midi's features are what leaves this layer",
        help_behavior_hint="(default: the middle one)",
    ),
]
Timestep = Annotated[int, arg(help="midi's noise level: 0 (none) .. the model's T")]
Cache = Annotated[
    Path | None,
    arg(metavar="FILE", help="keep midi's features here between calls", help_behavior_hint=""),
]
Jobs = Annotated[int, arg(help="processes that make conformers")]
Quiet = Annotated[bool, arg(help="no progress on stderr")]
