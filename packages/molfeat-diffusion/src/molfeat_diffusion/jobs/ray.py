"""`featurize --engine ray`: shards of a table made by Ray Data, on one machine or a cluster.

Each worker makes whole shards, as one process would: the features are the same to the bit. What a killed run
leaves are finished shards, as `featurize` knows them; joining them, and the proof that no row is missing, stay
there. The checkpoint and the output's folder must be reachable, by the same paths, from every machine.
"""

from __future__ import annotations

import logging
import os
import pickle
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from sklearn.base import clone

from molfeat_diffusion.featurizers.midi import MiDiFeaturizer
from priors_shared.console import Progress
from priors_shared.devices import set_threads
from priors_shared.errors import UserError

if TYPE_CHECKING:
    from molfeat_diffusion.data.tables import Row

Shards = Callable[[], "Iterable[tuple[int, list[Row]]]"]
Make = Callable[[MiDiFeaturizer, int, "list[Row]"], object]
Block = dict[str, np.ndarray]
"""Of Ray Data; one row is one shard."""


def make_shards(
    featurizer: MiDiFeaturizer,
    shards: Shards,
    make: Make,
    total: int,
    *,
    workers: int,
    threads: int | None,
    quiet: bool = False,
) -> None:
    """Have Ray make the shards that are missing.

    Joins the cluster that is initialized or that RAY_ADDRESS names; else starts Ray on this machine, where nothing
    listens but on 127.0.0.1.

    Args:
        featurizer: sent to every worker, which loads its checkpoint.
        shards: reads first row and rows of each missing shard.
        make: `make(featurizer, start, rows)` writes one; called in the workers.
        total: rows of the table, for the progress.
        workers: processes; each has a GPU if the featurizer's device is cuda.
        threads: CPU threads of each; None: 1.

    Raises:
        UserError: Ray is not installed; with errors="raise", a molecule that fails.
    """
    missing = iter(shards())
    first = next(missing, None)
    if first is None:
        return
    checkpoint = featurizer.checkpoint
    if isinstance(checkpoint, str | Path) and Path(checkpoint).exists():
        # Workers may stand in another folder.
        featurizer = clone(featurizer).set_params(checkpoint=Path(checkpoint).resolve())
    with _started(workers) as ray:
        # Into Ray's store one by one, as the file is read: the table is never in this process as a whole.
        rows_missing = 0
        blocks: list[Any] = []
        for start, rows in chain([first], missing):
            blocks.append(ray.put(pa.table({"shard": [pickle.dumps((start, rows))]})))
            rows_missing += len(rows)
        done = ray.data.from_arrow_refs(blocks).map_batches(
            _Worker,
            fn_constructor_args=(featurizer, make, threads),
            batch_size=1,
            num_cpus=1,
            num_gpus=int(featurizer.device.startswith("cuda")),
            compute=ray.data.ActorPoolStrategy(size=workers),
        )
        with Progress(total, "featurize", start=total - rows_missing, quiet=quiet) as progress:
            for row in done.iter_rows():
                if row["error"]:
                    raise UserError(str(row["error"]))
                progress.advance(int(row["rows"]))


@contextmanager
def _started(workers: int) -> Iterator[Any]:
    """Ray, connected: the cluster that there is, else one of this process, which ends with it.

    Raises:
        UserError: Ray is not installed.
    """
    cluster = "RAY_ADDRESS" in os.environ
    for name, value in {
        "RAY_USAGE_STATS_ENABLED": "0",
        # Else workers run at niceness 15: beside any other program on the machine they all but stand still.
        "RAY_worker_niceness": "0",
        # By its name for others; it makes Ray listen on 127.0.0.1 alone, which no argument does.
        **({} if cluster else {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}),
    }.items():
        os.environ.setdefault(name, value)
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise UserError(
            f"--engine ray needs {error.name}: pip install 'molfeat-diffusion[ray]'"
        ) from None
    ours = not ray.is_initialized()
    # Ray's own default, below /tmp/ray, can be written by every user of the machine.
    private = tempfile.mkdtemp(prefix="r", dir=os.environ.get("RAY_TMPDIR"))
    if ours and cluster:
        ray.init(log_to_driver=False, logging_level=logging.ERROR)
    elif ours:
        ray.init(
            address="local",
            _temp_dir=private,
            num_cpus=workers,  # as the user says, however few the cores
            object_store_memory=2**28,  # shards are text; what does not fit goes to disk
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
        )
    ray.data.DataContext.get_current().enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    try:
        yield ray
    finally:
        if ours:
            ray.shutdown()
        shutil.rmtree(private, ignore_errors=True)


class _Worker:
    def __init__(self, featurizer: MiDiFeaturizer, make: Make, threads: int | None) -> None:
        set_threads(threads or 1)
        self.featurizer = featurizer
        self.make = make

    def __call__(self, block: Block) -> Block:
        start, rows = pickle.loads(block["shard"][0])  # of our own making
        error = ""
        try:
            self.make(self.featurizer, start, rows)
        except UserError as problem:
            error = str(problem)
        return {"rows": np.array([len(rows)]), "error": np.array([error])}
