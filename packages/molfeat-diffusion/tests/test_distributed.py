"""Ray makes the same file as one process, and a run that is killed loses and doubles no row.

A real Ray on this machine, in processes of its own: what is killed is the driver with all that it started.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import psutil
import pyarrow.parquet as pq
import pytest

from molfeat_diffusion.cli import main
from molfeat_diffusion.data.tables import read_rows
from molfeat_diffusion.featurizers.midi import MiDiFeaturizer
from molfeat_diffusion.jobs import ray as distributed
from molfeat_diffusion.jobs.featurize import run_shard
from molfeat_diffusion.models.diffusion import MiDi
from molfeat_diffusion.pretrained import save_model

ROWS = 40
OPTIONS = ("--checkpoint", "model", "--timestep", "3", "--shard-rows", "1", "--threads", "1")
RAY = ("--engine", "ray", "--workers", "2")


@pytest.fixture
def home(model: MiDi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a checkpoint, rows of which every eighth cannot be read, and one process's features."""
    monkeypatch.chdir(tmp_path)
    save_model(tmp_path / "model", model.float())
    smiles = [
        "C" * (1 + i % 5) + "ON"[i % 2] if i % 8 != 3 else f"nonsense {i}" for i in range(ROWS)
    ]
    pd.DataFrame({"name": [f"m{i}" for i in range(ROWS)], "smiles": smiles}).to_csv("in.csv")
    main(["featurize", "in.csv", "-o", "one.parquet", *OPTIONS, "--id-column", "name", "--quiet"])
    return tmp_path


def test_a_worker_reports_a_row_that_fails_and_goes_on(home: Path) -> None:
    """What runs in Ray's actors, in this process."""
    featurizer = MiDiFeaturizer("model", timestep=3)
    parts = home / "parts"
    parts.mkdir()
    worker = distributed._Worker(featurizer, partial(run_shard, parts=parts, key="k"), None)
    rows = list(read_rows(Path("in.csv"), id_column="name"))
    done = [
        worker({"shard": np.array([pickle.dumps((i, rows[i : i + 1]))], dtype=object)})
        for i in (2, 3, 4)
    ]
    assert [int(block["rows"][0]) for block in done] == [1, 1, 1]
    errors = [str(block["error"][0]) for block in done]
    assert errors[0] == errors[2] == ""
    assert "row 3 (id m3): parse" in errors[1]
    assert sorted(path.stem for path in parts.glob("*.json")) == [f"{i:012d}" for i in (2, 4)]


def test_ray_is_not_started_for_what_is_done_or_wrong(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)  # not installed
    featurizer = MiDiFeaturizer("model", timestep=3)
    options = {"workers": 1, "threads": None, "quiet": True}
    distributed.make_shards(featurizer, lambda: iter(()), print, 0, **options)
    for arguments, message in (
        ([], "needs ray: pip install"),
        (["--cache", "c.sqlite"], "--cache: it is one process's"),
        (["--workers", "0"], "--workers must be at least 1"),
    ):
        with pytest.raises(SystemExit) as stop:
            main(["featurize", "in.csv", "-o", "x.parquet", *OPTIONS, *RAY, *arguments])
        assert stop.value.code == 2
        assert message in capsys.readouterr().err
        assert not (home / "x.parquet.parts").exists()


@pytest.fixture
def start() -> Iterator[Callable[[], subprocess.Popen[bytes]]]:
    """Starts the command with Ray; at the end nothing of it is left."""
    pytest.importorskip("ray")  # the extra `ray`
    runs = []
    # Not in pytest's folder: Ray's sockets lie there, and their paths must be short.
    temporary = tempfile.mkdtemp(prefix="ray-")

    def begin() -> subprocess.Popen[bytes]:
        argv = [sys.executable, "-c", "from molfeat_diffusion.cli import main; main()", "featurize"]
        argv += ["in.csv", "-o", "out.parquet", *OPTIONS, *RAY, "--id-column", "name"]
        environment = {k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"}
        environment["RAY_TMPDIR"] = temporary
        runs.append(
            subprocess.Popen(
                [*argv, "--resume", "--quiet"], start_new_session=True, env=environment
            )
        )
        return runs[-1]

    yield begin
    for run in runs:
        kill(run)
    shutil.rmtree(temporary, ignore_errors=True)


def kill(run: subprocess.Popen[bytes]) -> None:
    """SIGKILL the run and all that it started."""
    with contextlib.suppress(psutil.NoSuchProcess):
        for process in [*psutil.Process(run.pid).children(recursive=True), psutil.Process(run.pid)]:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.send_signal(signal.SIGKILL)
    run.wait()


def test_ray_gives_the_same_bytes_though_killed_five_times(
    home: Path, start: Callable[[], subprocess.Popen[bytes]]
) -> None:
    parts = home / "out.parquet.parts"

    def finished() -> dict[str, int]:
        return {path.name: path.stat().st_mtime_ns for path in parts.glob("*.json")}

    kept: dict[str, int] = {}
    for kills in range(5):
        run = start()
        deadline = time.monotonic() + 600
        # The first before any shard is done, each other one when there are more than before.
        while not parts.exists() or (kills > 0 and len(finished()) <= len(kept)):
            assert run.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.01)
        kill(run)
        assert kept.items() <= finished().items()  # none was made again
        kept = finished()
    assert 4 <= len(kept) < ROWS
    assert start().wait(600) == 0
    assert (home / "out.parquet").read_bytes() == (home / "one.parquet").read_bytes()
    failures = [(home / f"{name}.parquet.failures.csv").read_text() for name in ("out", "one")]
    assert failures[0] == failures[1]
    assert failures[0].count("nonsense") == ROWS // 8
    assert pq.read_table("out.parquet")["id"].to_pylist() == [f"m{i}" for i in range(ROWS)]
    assert not parts.exists()
