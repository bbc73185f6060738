"""The commands, as a user types them: what they print, what they leave, what they refuse."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
import torch
from PIL import Image

from hypernet_maml.cli import main
from hypernet_maml.config import InnerLoop, MetaConfig, NetworkConfig
from hypernet_maml.models.networks import build_network
from hypernet_maml.presets import DOMAIN, META, TRAIN
from hypernet_maml.training.metatraining import new_learner, save_learner
from priors_shared.runs import read_metrics
from priors_shared.testing import run_on_two_processes

SIDE = 16


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Six images each of three classes: light squares of three sizes, in noise."""
    generator = torch.Generator().manual_seed(0)
    root = tmp_path / "images"
    for split in ("train", "val", "test"):
        for c, size in enumerate((3, 7, 12)):
            folder = root / split / f"{split}{size}"
            folder.mkdir(parents=True)
            for i in range(8):
                pixels = 40 * torch.rand(SIDE, SIDE, 3, generator=generator)
                pixels[2 : 2 + size, 2 : 2 + size] += 150 + 20 * c
                grey = pixels.to(torch.uint8).numpy()
                Image.fromarray(grey).save(folder / f"{i}.png")
    return root


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    network = NetworkConfig(kind="conv4", width=4, image_size=SIDE)
    config = MetaConfig(ways=3, shots=2, inner=InnerLoop(steps=5, learning_rate=0.1))
    torch.manual_seed(0)
    learner = new_learner(build_network(network), network, config)
    save_learner(tmp_path / "learner", learner, network, config)
    return tmp_path / "learner"


def test_train_metatrain_eval_adapt_export_diagnose(
    images: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A user's own folder, from images to predictions, with every command in turn."""
    monkeypatch.chdir(tmp_path)
    network = ["--kind", "conv4", "--width", "4", "--image-size", str(SIDE)]
    quick = ["--epochs", "2", "--batch-size", "6", "--milestones", "1", "--per-class", "None"]
    data = ["--dataset", f"folder:{images}"]
    main(
        ["train", "cifar10_hyperwrn_16_1_cpu", *data, *network, *quick, "--out", "base", "--quiet"]
    )
    assert "next      hypernet-maml export base" in capsys.readouterr().out
    assert {p.name for p in Path("base/plots").iterdir()} == {"training.png", "ratios.png"}
    config = json.loads(Path("base/config.json").read_text())
    assert config["network"]["kind"] == "conv4"

    few = ["--ways", "3", "--shots", "2", "--queries", "2", "--steps", "2", "--tasks", "1"]
    few += ["--validate-every", "1", "--validation-tasks", "2", "--inner-steps", "1"]
    main(["metatrain", "glyphs_5way_cpu", "base", *data, *few, "--out", "meta", "--quiet"])
    assert Path("meta/plots/meta.png").is_file()
    assert json.loads(Path("meta/config.json").read_text())["inner"]["steps"] == 1
    both = ["metatrain", "glyphs_5way_cpu", "base", *data, *few, "--out", "two", "--quiet"]
    run_on_two_processes("hypernet-maml", *both)
    alone, two = (read_metrics(Path(name)) for name in ("meta", "two"))
    # The first process begins with the tasks that it would have alone; the other has tasks of its own.
    assert two[0]["accuracy"] == alone[0]["accuracy"]
    assert two[0]["loss"] != pytest.approx(alone[0]["loss"], rel=1e-5)
    assert two[1]["loss"] != pytest.approx(alone[1]["loss"], rel=1e-5)
    run_on_two_processes(
        *("hypernet-maml", "train", "cifar10_hyperwrn_16_1_cpu"),
        *(*data, *network, *quick, "--out", "base2", "--quiet"),
    )
    assert [line["step"] for line in read_metrics(Path("base2"))] == [1, 2]
    assert Path("base2/model/model.safetensors").is_file()
    main(["eval", "meta", "--episodes", "4", "--queries", "2", "--out", "eval.json"])
    result = json.loads(Path("eval.json").read_text())
    assert len(result["per_task"]) == 4
    assert result["accuracy"] == pytest.approx(sum(result["per_task"]) / 4, abs=1e-4)
    main(["export", "base", "--out", "plain"])
    assert "same logits to the bit" in capsys.readouterr().out
    main(["diagnose", "meta", "base", "--out", "seen", "--tasks", "2"])
    assert {p.name for p in Path("seen").iterdir()} == {
        "movement.png",
        "ratios-base.png",
        "diagnosis.json",
    }


def test_adapt_predicts_every_image_that_it_did_not_learn_from(
    images: Path, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "predictions.csv"
    (images / "test" / "test3" / "broken.png").write_bytes(b"no image")
    main(["adapt", str(checkpoint), str(images / "test"), "--shots", "3", "--out", str(out)])
    rows = list(csv.DictReader(out.open()))
    assert len(rows) == 3 * (8 - 3)
    assert len({row["path"] for row in rows}) == len(rows)
    assert all(Path(row["path"]).parent.name == row["class"] for row in rows)
    printed = capsys.readouterr()
    assert "broken.png" in printed.err
    right = sum(row["class"] == row["predicted"] for row in rows)
    assert f"{100 * right / len(rows):.1f} % right" in printed.out
    assert right > 0.6 * len(rows)  # sizes are easy, even for random features


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["trian"], "unknown command 'trian': did you mean train?"),
        (["train"], "train needs a preset first"),
        (["train", "cifar"], "unknown preset 'cifar'"),
        (["train", "cifar10_hyperwrn_28_4", "--depht", "3"], "did you mean --depth?"),
        (["train", "cifar10_hyperwrn_28_4", "--depth", "17"], "a WRN's depth is 6 n + 4"),
        (["train", "cifar10_hyperwrn_28_4", "--epochs", "0"], "--epochs must be at least 1, got 0"),
        (
            ["train", "cifar10_hyperwrn_28_4", "--data-root", "nowhere"],
            "CIFAR-10 not found under nowhere",
        ),
        (["eval", "nowhere"], "nowhere: neither a folder nor shipped weights"),
        (
            ["eval", "LEARNER", "--dataset", "folder:IMAGES", "--device", "foo"],
            "device foo: choose one of auto, cpu, cuda, mps",
        ),
        (
            [
                "eval",
                "LEARNER",
                "--dataset",
                "folder:IMAGES",
                "--shots",
                "3",
                "--queries",
                "2",
                "--seed",
                "-1",
            ],
            "seed -1: must be 0 or more",
        ),
        (["eval", "LEARNER", "--dataset", "nothing"], "unknown dataset 'nothing'"),
        (["adapt", "LEARNER", "nowhere"], "nowhere"),
        (
            ["adapt", "LEARNER", "IMAGES/test", "--shots", "8"],
            "none left to predict: lower shots",
        ),
        (["adapt", "LEARNER", "IMAGES/test", "--shots", "9"], "has 8 images, fewer than the 9"),
        (
            ["eval", "LEARNER", "--dataset", "folder:IMAGES", "--shots", "9"],
            "fewer than the 9 shots",
        ),
        (["eval", "LEARNER", "--shots", "0"], "--shots must be at least 1, got 0"),
        (["eval", "LEARNER", "--episodes", "1"], "--episodes: 1, but an interval needs 2"),
        (["diagnose", "LEARNER", "--tasks", "0"], "--tasks: 0 is less than 1"),
        (["adapt", "LEARNER", "IMAGES/test", "--shots", "0"], "--shots: 0 is less than 1"),
        *(
            ([verb, preset, "LEARNER", option, value], f"{option} must be")
            for verb, preset, option, value in (
                ("metatrain", "glyphs_5way_cpu", "--validate-every", "0"),
                ("metatrain", "glyphs_5way_cpu", "--checkpoint-every", "0"),
                ("metatrain", "glyphs_5way_cpu", "--halve-every", "0"),
                ("metatrain", "glyphs_5way_cpu", "--tasks", "0"),
                ("metatrain", "glyphs_5way_cpu", "--steps", "0"),
                ("metatrain", "glyphs_5way_cpu", "--ways", "1"),
                ("metatrain", "glyphs_5way_cpu", "--seed", "-1"),
                ("metatrain", "glyphs_5way_cpu", "--learning-rate", "nan"),
                ("metatrain", "glyphs_5way_cpu", "--inner-steps", "0"),
                ("metatrain", "glyphs_5way_cpu", "--inner-learning-rate", "-1"),
            )
        ),
        *(
            (["train", "cifar10_hyperwrn_16_1_cpu", option, value], f"{option} must be")
            for option, value in (
                ("--batch-size", "1"),
                ("--validate-every", "0"),
                ("--checkpoint-every", "0"),
                ("--learning-rate", "inf"),
                ("--output-l2", "nan"),
                ("--weight-decay", "-1"),
                ("--per-class", "0"),
                ("--image-size", "100000"),
                ("--seed", "99999999999999999999"),
            )
        ),
        (
            ["train", "cifar10_hyperwrn_16_1_cpu", "--workers", "2"],
            "--workers: cifar10 is held in memory",
        ),
        (
            ["metatrain", "glyphs_5way_cpu", "LEARNER", "--compile"],
            "--compile: meta-training is not compiled",
        ),
        (["metatrain", "glyphs_5way_cpu", "LEARNER", "--workers", "2"], "--workers"),
        (["metatrain", "glyphs_5way_cpu", "LEARNER"], "but the network is for 3 x 16 x 16"),
        (["export", "UNFINISHED"], "the training has not finished"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(
    argv: list[str],
    said: str,
    images: Path,
    checkpoint: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PRIORS_DATA", raising=False)
    unfinished = tmp_path / "unfinished"
    unfinished.mkdir()
    (unfinished / "metrics.jsonl").touch()
    names = {"LEARNER": checkpoint, "IMAGES": images, "UNFINISHED": unfinished}
    for name, path in names.items():
        argv = [argument.replace(name, str(path)) for argument in argv]
    before = sorted(p for p in tmp_path.rglob("*") if p.is_file())
    with pytest.raises(SystemExit) as stop:
        main(argv)
    assert stop.value.code == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: ")
    assert said in error
    after = sorted(p for p in tmp_path.rglob("*") if p.is_file())
    assert after == before  # nothing half begun is left


@pytest.mark.parametrize(
    "argv",
    [
        ["train", "cifar10_hyperwrn_16_1_cpu", "--epochs", "2", "--batch-size", "6"],
        [
            "metatrain",
            "glyphs_5way_cpu",
            "LEARNER",
            "--ways",
            "3",
            "--shots",
            "2",
            "--queries",
            "2",
        ],
    ],
)
def test_a_training_that_diverges_is_an_error_and_leaves_no_model(
    argv: list[str],
    images: Path,
    checkpoint: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    network = ["--kind", "conv4", "--width", "4", "--image-size", str(SIDE), "--per-class", "None"]
    argv = [str(checkpoint) if word == "LEARNER" else word for word in argv]
    argv += network if argv[0] == "train" else ["--tasks", "1", "--validation-tasks", "2"]
    out = tmp_path / "run"
    with pytest.raises(SystemExit) as stop:
        main(
            [
                *argv,
                *("--dataset", f"folder:{images}", "--learning-rate", "1e30"),
                *("--out", str(out), "--quiet"),
            ]
        )
    assert stop.value.code == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: --learning-rate: ")
    assert " after step" in error
    assert not (out / "model").exists()


def test_presets_are_listed_with_what_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    main(["presets"])
    printed = capsys.readouterr().out
    for name, preset in {**TRAIN, **META, **DOMAIN}.items():
        assert preset.__doc__  # type: ignore[attr-defined]
        assert name in printed


def test_presets_of_the_thesis() -> None:
    for name in ("cifar10_hyperwrn_28_4", "cifar100_hyperwrn_40_2", "cifar10_hyperresnet34"):
        config = TRAIN[name]()
        assert (config.epochs, config.batch_size, config.learning_rate) == (200, 128, 0.1)
        assert (config.milestones, config.decay) == ((60, 120, 160), 0.2)
        assert (config.weight_decay, config.output_l2) == (5e-4, 6.25e-5)
        assert config.network.sharing == "unshared"
        assert not config.network.hyper_bias
    for preset in (META["fc100_5way"], META["miniimagenet_5way"]):
        config = preset()
        assert (config.inner.learning_rate, config.learning_rate) == (0.01, 1e-3)
        assert (config.halve_every, config.tasks, config.queries, config.ways) == (1000, 4, 15, 5)


def test_help_does_not_import_torch() -> None:
    import subprocess
    import sys

    verbs = (["train", "--help"], ["metatrain", "--help"], ["domain", "--help"])
    for argv in (["--help"], *verbs, ["presets"]):
        code = (
            "import sys\nfrom hypernet_maml.cli import main\n"
            f"try: main({argv})\nexcept SystemExit: pass\n"
            "sys.exit('torch' in sys.modules)"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
        assert done.returncode == 0, argv


def test_a_learner_is_exported_with_a_card_of_measured_accuracies(
    checkpoint: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    measured = tmp_path / "eval.json"
    few = ["--dataset", f"folder:{images}", "--shots", "2", "--queries", "2", "--episodes", "4"]
    main(["eval", str(checkpoint), *few, "--out", str(measured)])
    out = tmp_path / "shipped"
    main(
        [
            "export",
            str(checkpoint),
            "--format",
            "learner",
            "--out",
            str(out),
            "--results",
            str(measured),
        ]
    )
    card = (out / "README.md").read_text()
    found = json.loads(measured.read_text())
    accuracy = f"{100 * found['accuracy']:.1f} ± {100 * found['half_width']:.1f}"
    assert f"| 3 | 2 | {accuracy} | 4 |" in card
    assert "float (items, 3, 16, 16)" in card
    main(["eval", str(out), *few, "--out", str(tmp_path / "again.json")])
    assert json.loads((tmp_path / "again.json").read_text())["per_task"] == found["per_task"]
    (tmp_path / "wrong.json").write_text("{}")
    capsys.readouterr()
    for extra, said in (
        (
            ["--format", "learner", "--results", str(tmp_path / "wrong.json")],
            "not what `hypernet-maml eval",
        ),
        (["--results", str(measured)], "--results: they belong to format learner"),
    ):
        with pytest.raises(SystemExit) as stopped:
            main(["export", str(checkpoint), "--out", str(tmp_path / "no"), *extra])
        assert stopped.value.code == 2
        assert said in capsys.readouterr().err
    assert not (tmp_path / "no").exists()
