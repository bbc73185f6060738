"""Options that many verbs share, with their help."""

from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

Count = int
Seed = Annotated[int, arg(help="seed of what is drawn")]
Device = Annotated[str, arg(help="where to run: auto, cpu, cuda, cuda:N, mps")]
Threads = Annotated[int | None, arg(metavar="INT", help="CPU threads", help_behavior_hint="")]
DataRoot = Annotated[
    str | None,
    arg(
        metavar="DIR",
        help="folder with the datasets",
        help_behavior_hint="(default: the environment variable PRIORS_DATA)",
    ),
]
OutFile = Annotated[
    Path | None,
    arg(metavar="FILE.json", help="write the results here", help_behavior_hint=""),
]
Checkpoint = Annotated[
    Positional[str],
    arg(
        metavar="CHECKPOINT",
        help="run folder, checkpoint folder, name of shipped weights, or Hugging Face Hub id",
    ),
]
