"""The script for a CUDA machine, rehearsed on the CPU."""

import json
import os
import subprocess
import sys
from argparse import Namespace
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path
from types import ModuleType

import pytest


def rehearse(root: Path, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    script = root / "benchmarks" / "gpu" / "run"
    where = ("--tiny", "--out", str(folder / "out"), "--work", str(folder / "work"))
    return subprocess.run(
        [sys.executable, str(script), *where, *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def test_rehearsal_measures_and_trains_within_what_may_come_back(
    root: Path, tmp_path: Path
) -> None:
    common = ("--minutes", "5", "--commit", "abc")
    ran = rehearse(root, tmp_path, "--only", "throughput", *common)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    record = json.loads((tmp_path / "out" / "throughput.json").read_text())
    assert record["commit"] == "abc"
    assert record["hardware"]["cpu"]
    assert [row["step"] for row in record["rows"]] == ["cl-lstm"]

    ran = rehearse(root, tmp_path, "--only", "train", *common)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    report = json.loads((tmp_path / "out" / "trainings.json").read_text())
    assert report["cl-lstm"]["state"] == "finished"
    assert report["cl-lstm"]["packed"] == "all"
    files = list((tmp_path / "out").iterdir())
    assert len(files) <= 8
    assert all(f.stat().st_size <= 16 * 10**6 for f in files)


@pytest.fixture(scope="module")
def script() -> ModuleType:
    return load("run")


def load(name: str) -> ModuleType:
    path = str(Path(__file__).parents[1] / "benchmarks" / "gpu" / name)
    loader = SourceFileLoader(f"gpu_{Path(name).stem}", path)
    spec = spec_from_loader(loader.name, loader)
    assert spec is not None
    module = module_from_spec(spec)
    sys.modules[loader.name] = module  # where a dataclass looks its module up
    loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", ["hyperwrn-shared", "hyperfields", "midi"])
def test_each_step_is_measured(name: str) -> None:
    row = load("steps.py").measure(name, "fp32", 0.01, tiny=True, device="cpu")
    assert row["samples_per_second"] > 0 < row["counted_gflop"]


@pytest.mark.parametrize("room", ["for all", "for records"])
def test_run_folders_come_back_as_they_were(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, room: str
) -> None:
    monkeypatch.setattr(script, "MAX_BYTES", 10**6 if room == "for all" else 10**5)
    options = Namespace(out=tmp_path / "out", work=tmp_path / "work")
    options.out.mkdir()
    contents = {"midi": os.urandom(2 * 10**6), "cl-lstm": os.urandom(100)}
    for name, content in contents.items():
        (options.work / name).mkdir(parents=True)
        (options.work / name / "weights").write_bytes(content)
        (options.work / name / "metrics.jsonl").write_text("{}")
    report: dict[str, dict[str, str]] = {name: {} for name in contents}
    script.pack(list(contents), options, report)
    assert all(path.stat().st_size <= script.MAX_BYTES for path in options.out.iterdir())
    assert len(list(options.out.iterdir())) <= script.MAX_FILES - 3

    script.unpack(options.out, tmp_path / "other")
    for name, content in contents.items():
        folder = tmp_path / "other" / name
        assert (folder / "metrics.jsonl").read_text() == "{}"
        whole = report[name]["packed"] == "all"
        assert whole == (room == "for all" or name == "cl-lstm")
        assert (folder / "weights").exists() == whole
        assert not whole or (folder / "weights").read_bytes() == content


def test_what_does_not_end_is_stopped_at_its_time(script: ModuleType) -> None:
    endless = [sys.executable, "-c", "print('begun', flush=True)\nwhile True: pass"]
    code, text = script.ran(endless, dict(os.environ), 6)
    assert code is None
    assert text == "begun\n"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--minutes", "0"), "--minutes 0: must be more than 0"),
        (("--data", "nowhere"), "--data nowhere: no such folder"),
        (("--train", "midi"), "--train midi: give NAME=COMMAND"),
    ],
)
def test_what_does_not_fit_is_refused(
    root: Path, tmp_path: Path, arguments: tuple[str, ...], said: str
) -> None:
    ran = rehearse(root, tmp_path, *arguments)
    assert ran.returncode == 2
    assert said in ran.stderr
