"""The commands, as a user types them: what they leave, and what they refuse."""

from __future__ import annotations

import csv
import gzip
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from rdkit import Chem

from molfeat_diffusion.cli import main
from molfeat_diffusion.data.tables import count_rows, read_rows
from molfeat_diffusion.jobs import featurize
from molfeat_diffusion.models.diffusion import MiDi
from molfeat_diffusion.pretrained import save_model
from priors_shared.runs import read_metrics
from priors_shared.testing import refused, run_on_two_processes

SMILES = ["CCO", "", "CC", "nonsense", "CN.Cl", "CF", "C[Si](C)C"]


@pytest.fixture
def home(model: MiDi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a checkpoint and a table of seven rows, three of which have no features."""
    monkeypatch.chdir(tmp_path)
    save_model(tmp_path / "model", model.float())
    pd.DataFrame({"name": [f"m{i}" for i in range(7)], "mol": SMILES}).to_csv("in.csv", index=False)
    return tmp_path


def featurized(*options: str) -> None:
    common = ["--checkpoint", "model", "--timestep", "3", "--id-column", "name", "--quiet"]
    main(["featurize", *options, *common])


def failed(*argv: str, capsys: pytest.CaptureFixture[str]) -> str:
    return refused(main, capsys, *argv)


def test_every_row_of_a_table_comes_out_in_every_format(home: Path) -> None:
    for out in ("out.parquet", "out.csv", "out.npy"):
        featurized("in.csv", "-o", out, "--shard-rows", "3")
        assert not Path(f"{out}.parts").exists()
    table = pq.read_table("out.parquet").to_pandas()
    assert table["row"].tolist() == list(range(7))
    assert table["id"].tolist() == [f"m{i}" for i in range(7)]
    matrix = table.filter(like="midi_").to_numpy()
    assert np.isnan(matrix).all(1).tolist() == [False, True, False, True, False, False, True]
    np.testing.assert_array_equal(np.load("out.npy"), matrix)
    text = pd.read_csv("out.csv").filter(like="midi_").to_numpy()
    np.testing.assert_allclose(text, matrix, rtol=1e-5)
    with open("out.parquet.failures.csv") as file:
        rows = list(csv.DictReader(file))
    found = [(row["row"], row["id"], row["stage"], row["failed"]) for row in rows]
    assert found == [
        ("1", "m1", "parse", "yes"),
        ("3", "m3", "parse", "yes"),
        ("4", "m4", "fragment", "no"),
        ("6", "m6", "vocabulary", "yes"),
    ]


def test_skipped_rows_keep_the_others_numbers(home: Path) -> None:
    featurized("in.csv", "-o", "out.parquet", "--errors", "skip", "--shard-rows", "2")
    table = pq.read_table("out.parquet").to_pandas()
    assert table["row"].tolist() == [0, 2, 4, 5]
    assert not table.isna().any(axis=None)


def test_a_killed_run_resumes_without_doing_shards_again(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    featurized("in.csv", "-o", "straight.parquet", "--shard-rows", "2")
    run, done = featurize.run_shard, []

    def counted(featurizer: object, start: int, rows: list, **where: object) -> dict:
        if start == 4 and len(done) == 2:
            raise KeyboardInterrupt
        done.append(start)
        return run(featurizer, start, rows, **where)  # type: ignore[arg-type]

    monkeypatch.setattr(featurize, "run_shard", counted)
    with pytest.raises(SystemExit) as stop:
        featurized("in.csv", "-o", "out.parquet", "--shard-rows", "2")
    assert stop.value.code == 130
    capsys.readouterr()
    options = ("in.csv", "-o", "out.parquet", "--checkpoint", "model")
    assert "--resume: out.parquet.parts holds" in failed("featurize", *options, capsys=capsys)
    # A half-written shard: its record is not there yet.
    Path("out.parquet.parts/000000000004.parquet.next").write_bytes(b"half")
    done.append(-1)
    featurized("in.csv", "-o", "out.parquet", "--shard-rows", "2", "--resume")
    assert done == [0, 2, -1, 4, 6]
    assert Path("out.parquet").read_bytes() == Path("straight.parquet").read_bytes()


def test_inputs_of_all_kinds_have_the_same_rows(home: Path) -> None:
    frame = pd.read_csv("in.csv", keep_default_na=False)
    frame.to_parquet("in.parquet")
    Path("in.smi").write_text("".join(f"{s} m{i}\n" if s else "\n" for i, s in enumerate(SMILES)))
    with gzip.open("in.csv.gz", "wt") as file:
        file.write(Path("in.csv").read_text())
    for name in ("in.csv", "in.csv.gz", "in.parquet", "in.smi"):
        columns = {} if name == "in.smi" else {"id_column": "name"}
        rows = list(read_rows(Path(name), **columns))
        assert [row.molecule for row in rows] == SMILES, name
        assert [row.id for row in rows] == ["m0", "1" if name == "in.smi" else "m1"] + [
            f"m{i}" for i in range(2, 7)
        ]
        assert count_rows(Path(name)) == 7
    blocks = [Chem.MolToMolBlock(Chem.MolFromSmiles(s)) for s in ("CC", "CO")]
    Path("in.sdf").write_text(f"{blocks[0]}$$$$\nbroken\n$$$$\n{blocks[1]}$$$$\n")
    sdf = list(read_rows(Path("in.sdf")))
    assert [row.molecule is None for row in sdf] == [False, True, False]
    assert count_rows(Path("in.sdf")) == 3


def test_duplicate_ids_are_kept_and_told(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("twice.smi").write_text("CC a\nCO a\nCN b\n")
    main(
        [
            "featurize",
            "twice.smi",
            "-o",
            "t.csv",
            "--checkpoint",
            "model",
            "--quiet",
            "--timestep",
            "2",
        ]
    )
    assert "1 rows have the id of an earlier row" in capsys.readouterr().err
    assert pd.read_csv("t.csv")["id"].tolist() == ["a", "a", "b"]


@pytest.mark.parametrize("out", ["o.parquet", "o.csv", "o.npy"])
def test_resuming_what_is_finished_is_no_error(
    home: Path, out: str, capsys: pytest.CaptureFixture[str]
) -> None:
    featurized("in.csv", "-o", out, "--shard-rows", "2")
    before, said = Path(out).read_bytes(), capsys.readouterr().out
    featurized("in.csv", "-o", out, "--shard-rows", "2", "--resume")
    assert capsys.readouterr().out == said
    assert Path(out).read_bytes() == before
    assert not Path(f"{out}.parts").exists()
    argv = ("featurize", "in.csv", "-o", out, "--checkpoint", "model", "--resume", "--quiet")
    shorter = Path("in.csv").read_text().splitlines()[:4]
    Path("in.csv").write_text("\n".join(shorter) + "\n")
    assert f"--out: {out} has 7 rows, not the 3 of in.csv" in failed(*argv, capsys=capsys)
    Path(f"{out}.failures.csv").unlink()
    assert f"--out: {out} exists, without" in failed(*argv, capsys=capsys)
    assert Path(out).read_bytes() == before


def test_a_killed_run_goes_on_though_its_input_shrank(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    rows = Path("in.csv").read_text().splitlines()
    with monkeypatch.context() as patch:
        patch.setattr(featurize, "write_features", killed)
        with pytest.raises((KeyboardInterrupt, SystemExit)):
            featurized("in.csv", "-o", "o.csv", "--shard-rows", "2")
    Path("in.csv").write_text("\n".join(rows[:4]) + "\n")
    featurized("in.csv", "-o", "o.csv", "--shard-rows", "2", "--resume")
    featurized("in.csv", "-o", "fresh.csv", "--shard-rows", "2")
    assert Path("o.csv").read_bytes() == Path("fresh.csv").read_bytes()
    assert len(Path("o.csv").read_text().splitlines()) == 4


def test_two_processes_do_not_share_the_parts(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("fcntl")
    Path("o.csv.parts").mkdir()
    code = (
        "import sys; from pathlib import Path; from priors_shared.files import lock_folder\n"
        "lock = lock_folder(Path('o.csv.parts')); print('locked', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "locked\n"
        argv = ("featurize", "in.csv", "-o", "o.csv", "--checkpoint", "model", "--resume")
        assert "another process is at work there" in failed(
            *argv, "--timestep", "3", "--quiet", capsys=capsys
        )
        assert Path("o.csv.parts").is_dir()


def test_what_featurize_refuses(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("latin.csv").write_bytes("smiles,n\nCC,caf\xe9\n".encode("latin-1"))
    pd.DataFrame({"smiles": ["CC"] * 50}).to_parquet("whole.parquet")
    Path("half.parquet").write_bytes(Path("whole.parquet").read_bytes()[:200])
    Path("empty.csv").write_text("smiles\n")
    Path("in.xlsx").write_text("")
    Path("there.csv").write_text("")
    cases = {
        ("missing.csv", "o.csv"): "no such file",
        ("in.xlsx", "o.csv"): "its name must end in",
        ("in.csv", "o.txt"): "must end in .parquet, .csv, .npy",
        ("in.csv", "no/o.csv"): "the folder no does not exist",
        ("in.csv", "there.csv"): "there.csv exists",
        ("latin.csv", "o.csv"): "not UTF-8",
        ("half.parquet", "o.csv"): "truncated",
        ("empty.csv", "o.csv"): "it has no rows",
        ("in.csv", "o.csv", "--smiles-column", "moll"): "did you mean mol",
        ("in.csv", "o.csv", "--errors", "raise"): "row 1 (id m1): parse: empty SMILES",
        ("in.csv", "o.npy", "--errors", "skip"): "use --errors nan",
        ("in.csv", "o.csv", "--layer", "9"): "layer 9: must be in 1 .. 2",
        ("in.csv", "o.csv", "--shard-rows", "0"): "--shard-rows must be at least 1",
    }
    for (source, out, *options), message in cases.items():
        argv = ["featurize", source, "-o", out, "--checkpoint", "model", "--quiet", *options]
        if "--layer" not in options:
            argv += ["--timestep", "3"]
        assert message in failed(*argv, capsys=capsys), argv
    assert "no such checkpoint" in failed(
        "featurize", "in.csv", "-o", "o.csv", "--checkpoint", "./none", capsys=capsys
    )


def test_train_sample_and_featurize_in_turn(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("few.smi").write_text("CCO\nCN\nC=O\nCF\nCC\n")
    tiny = ["--layers", "1", "--width-atoms", "8", "--width-bonds", "4", "--width-global", "4"]
    tiny += ["--heads", "2", "--steps", "2", "--batch-size", "2", "--timesteps", "6", "--quiet"]
    main(["train", "qm9_no_h_cpu", "--data", "few.smi", *tiny, "--out", "run"])
    both = ["train", "qm9_no_h_cpu", "--data", "few.smi", *tiny, "--out", "two"]
    said = run_on_two_processes("molfeat-diffusion", *both)
    assert said.count("two/model") == 1
    alone, two = (read_metrics(Path(name)) for name in ("run", "two"))
    assert [line["step"] for line in two] == [line["step"] for line in alone]
    assert two[-1]["loss"] != alone[-1]["loss"]  # a process has but a part of each batch
    assert Path("run/plots/training.png").is_file()
    assert json.loads(Path("run/config.json").read_text())["model"]["vocabulary"] == "qm9_no_h"
    main(["sample", "run", "-n", "3", "-o", "made.sdf", "--steps", "2", "--quiet"])
    assert "valid" in capsys.readouterr().out
    assert count_rows(Path("made.sdf")) == 3
    found = json.loads(Path("made.sdf.json").read_text())
    assert 0 <= found["metrics"]["valid"] <= 1
    main(
        ["featurize", "few.smi", "-o", "f.npy", "--checkpoint", "run", "--timestep", "1", "--quiet"]
    )
    assert np.load("f.npy").shape == (5, 8)
    assert "steps 7: must be in 1 .. 6" in failed("sample", "run", "--steps", "7", capsys=capsys)


def test_an_imported_checkpoint_gives_features_and_no_samples(
    home: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["import-midi", str(data / "midi" / "lightning.ckpt"), "-o", "imported"])
    assert "no marginals" in capsys.readouterr().err
    Path("few.smi").write_text("CCO\nCBr\n")
    main(["featurize", "few.smi", "-o", "f.npy", "--checkpoint", "imported", "--quiet"])
    assert np.isfinite(np.load("f.npy")).all()
    assert "no distribution of molecule sizes" in failed("sample", "imported", capsys=capsys)
    assert "no marginals" in failed("sample", "imported", "--atoms", "4", capsys=capsys)
    Path("few2.smi").write_text("CCO\nCBr\n")
    again = ["import-midi", str(data / "midi" / "lightning.ckpt"), "-o", "whole"]
    main([*again, "--data", "few2.smi"])
    main(["sample", "whole", "-n", "2", "--steps", "2", "--quiet"])
    assert count_rows(Path("molecules.sdf")) == 2


def test_a_training_needs_a_preset_that_is_there(capsys: pytest.CaptureFixture[str]) -> None:
    assert "train needs a preset first" in failed("train", capsys=capsys)
    assert "did you mean midi_cpu?" in failed("train", "midi_cp", capsys=capsys)


def test_presets_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    main(["presets"])
    assert "midi_cpu" in capsys.readouterr().out


def test_prepare_and_eval_leave_data_metrics_and_a_picture(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("held.smi").write_text("CCN\n")
    Path("some.smi").write_text("CCO\nCC[NH3+]\nCF\nCCC\n")
    common = ["--vocabulary", "qm9", "--max-atoms", "11", "--quiet"]
    main(["prepare", "some.smi", "-o", "some.npz", "--exclude", "held.smi", *common])
    record = json.loads(Path("some.json").read_text())
    assert record["molecules"] == 3
    assert record["left_out"] == {"excluded: it is in an evaluation set": 1}
    main(
        [
            "eval",
            "model",
            "-n",
            "5",
            "--steps",
            "4",
            "--data",
            "some.npz",
            "-o",
            "m.json",
            "--quiet",
        ]
    )
    result = json.loads(Path("m.json").read_text())
    assert {"valid", "unique", "novel", "connected", "w1_bond_length"} <= set(result["metrics"])
    assert result["digest"] == json.loads(Path("model/config.json").read_text())["digest"]
    assert Path("m.png").read_bytes().startswith(b"\x89PNG")
    capsys.readouterr()
    assert "give a .npz file" in failed("prepare", "some.smi", "-o", "x.sdf", capsys=capsys)
    assert "--count must be at least 1" in failed("eval", "model", "-n", "0", capsys=capsys)
