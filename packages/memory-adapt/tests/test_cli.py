"""The commands: what they write, and that bad input is one line and exit code 2."""

from __future__ import annotations

import csv
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from memory_adapt import OnlineLearner, StreamClassifier, cli
from memory_adapt.cli.train import Train
from memory_adapt.config import CLLSTMConfig, LaunchConfig
from memory_adapt.experiments import table_2_1
from memory_adapt.experiments.trained import TrainedRun
from memory_adapt.export import learner_card
from memory_adapt.models.registry import IMAGE_LEARNERS
from memory_adapt.presets import PRESETS
from priors_shared.datasets import ImageDataset
from priors_shared.episodes import OnlineEpisodeSampler
from priors_shared.runs import read_metrics
from priors_shared.testing import refused, run_on_two_processes

CLASSES, IMAGES = 12, 5


def make_folder(root: Path, classes: int = CLASSES, images: int = IMAGES) -> Path:
    """Classes of noisy 12 x 20 patterns, dark ink on white."""
    generator = np.random.default_rng(0)
    for target in range(classes):
        folder = root / f"class{target:02d}"
        folder.mkdir(parents=True)
        pattern = generator.integers(0, 2, (3, 5)) * 200
        for i in range(images):
            pixels = np.full((20, 28), 255)
            pixels[4:16, 4:24] = 255 - np.kron(pattern, np.ones((4, 4)))
            pixels -= generator.integers(0, 40, pixels.shape)
            Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / f"{i}.png")
    return root


TINY = (
    *("--model", "opn", "--ways", "2", "--shots", "3", "--width", "4", "--image-size", "16"),
    *("--stages.0.steps", "5", "--validate-every", "2", "--log-every", "1"),
    *("--validation-episodes", "4", "--threads", "1", "--quiet"),
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_folder(tmp_path_factory.mktemp("images") / "own")


@pytest.fixture(scope="module")
def run(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder, trained for a moment by the command line."""
    out = tmp_path_factory.mktemp("runs") / "opn"
    cli.main(
        ["train", "glyphs_5way_cpu", "--dataset", f"folder:{folder}", *TINY, "--out", str(out)]
    )
    return out


def fail(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    return refused(cli.main, capsys, *argv)


# --- help ---


def test_help_of_every_command_needs_no_torch() -> None:
    code = (
        "import contextlib, io, sys\n"
        "from memory_adapt.cli import PROGRAM, main\n"
        "for verb in PROGRAM.verbs:\n"
        "    out = io.StringIO()\n"
        "    with contextlib.redirect_stdout(out), contextlib.suppress(SystemExit):\n"
        "        main([verb, '--help'])\n"
        "    assert f'memory-adapt {verb}' in out.getvalue(), verb\n"
        "main([])\n"
        "main(['presets'])\n"
        "loaded = {'torch', 'matplotlib', 'scipy', 'lightning_fabric'} & set(sys.modules)\n"
        "sys.exit(f'imported {sorted(loaded)}' if loaded else 0)"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    for word in ("train", "eval", "adapt", "export", "presets", "cost", "reproduce", "cifar_fs"):
        assert word in ran.stdout


def test_the_help_says_what_several_devices_do(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["train", "glyphs_5way_cpu", "--help"])
    shown = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert "each draws whole batches of its own" in shown
    assert "share of every batch" not in shown


# --- the grammar of train ---


def parse_train(*argv: str) -> Train:
    return Train.parse("memory-adapt train", list(argv))


def test_train_without_options_is_the_preset() -> None:
    for name, preset in PRESETS.items():
        parsed = parse_train(name)
        assert parsed.config == preset("cl-lstm")
        assert parsed.folder() == Path("runs") / name / "cl-lstm-0"
        assert parsed.launch == LaunchConfig()
    for model, learner in IMAGE_LEARNERS.items():
        config = parse_train("glyphs_5way_cpu", "--model", model).config
        assert config == PRESETS["glyphs_5way_cpu"](model)
        assert type(config.model) is learner.config


def test_train_options_reach_the_configuration() -> None:
    parsed = parse_train(
        *("omniglot_5way", "--label-injection", "first", "--hidden", "7", "--seed", "3"),
        *("--stages.0.steps", "11", "--threads", "1", "--data-root", "here", "--resume"),
    )
    config = parsed.config
    assert isinstance(config.model, CLLSTMConfig)
    assert (config.model.label_injection, config.model.hidden) == ("first", 7)
    assert (config.seed, config.stages[0].steps) == (3, 11)
    assert parsed.launch == LaunchConfig(threads=1, data_root="here")
    assert parsed.resume is True
    assert parsed.folder().name == "cl-lstm-3"


def test_shots_reach_every_stage() -> None:
    parsed = parse_train("glyphs_5way_cpu", "--model=lstm", "--delay", "3", "--shots", "4")
    assert parsed.config.delay == 3
    assert {stage.shots for stage in parsed.config.stages} == {4}


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["fly"], ["'fly'", "train, eval"]),
        (["evl"], ["'evl'", "did you mean eval?"]),
        (["train"], ["preset", "omniglot_5way_cpu"]),
        (
            ["train", "omniglot_5wya"],
            ["'omniglot_5wya'", "did you mean omniglot_5way?", "cifar_fs"],
        ),
        (["train", "omniglot_5way", "--model", "opm"], ["'opm'", "did you mean opn?", "cl-lstm"]),
        (["train", "omniglot_5way", "--widht", "3"], ["--widht", "did you mean --width?"]),
        (["train", "omniglot_5way", "--width", "x"], ["--width", "'x'"]),
        (["train", "omniglot_5way", "--width", "0"], ["--width must be at least 1, got 0"]),
        (["train", "omniglot_5way", "--ways", "1"], ["--ways must be at least 2, got 1"]),
        (["train", "omniglot_5way", "--seed", "-1"], ["--seed must be in 0 .. ", "got -1"]),
        (["train", "omniglot_5way", "--log-every", "0"], ["--log-every must be at least 1"]),
        (["train", "omniglot_5way", "--shots", "0"], ["--shots must be at least 1, got 0"]),
        (["train", "omniglot_5way", "--stages.0.learning-rate", "nan"], ["learning-rate", "nan"]),
        (["eval", "x", "--shots", "-1"], ["--shots"]),
        (["eval", "x", "--ways", "1"], ["--ways 1"]),
        (["eval", "x", "--seed", "-1"], ["--seed"]),
        (["eval", "x", "--delay", "0"], ["--delay"]),
        (["eval", "omniglot-5way-cpu", "--threads", "0"], ["--threads 0"]),
        (["eval", "omniglot-5way-cpu", "--device", "foo"], ["--device foo"]),
        (["adapt", "omniglot-5way-cpu", "x", "--seed", "-1"], ["--seed"]),
        (["train", "omniglot_5way", "--model", "opn", "--label-injection", "first"], ["--label"]),
        (["eval"], ["CHECKPOINT"]),
        (["eval", "x", "--frobnicate"], ["--frobnicate"]),
        (["eval", "nowhere"], ["nowhere: neither a folder nor shipped weights"]),
        (["eval", "nowhere", "--episodes", "1"], ["--episodes 1"]),
        (["reproduce", "table-9"], ["'table-9'", "table-2.1"]),
    ],
)
def test_bad_command_is_one_line(
    capsys: pytest.CaptureFixture[str], argv: list[str], words: list[str]
) -> None:
    line = fail(capsys, *argv)
    for word in words:
        assert word in line


# --- train, eval, adapt, export: from a user's folder to a card ---


def test_train_writes_the_run_folder(run: Path) -> None:
    config = json.loads((run / "config.json").read_text())
    assert config["model"] | {"model": "opn", "ways": 2, "width": 4} == config["model"]
    assert json.loads((run / "environment.json").read_text())["command"].startswith(
        "memory-adapt train glyphs_5way_cpu --dataset folder:"
    )
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 3, 4, 5]
    assert "val_1_shot" in lines[-1]
    assert "val_8_shot" not in lines[-1]  # classes of 5 images have no 8th shot
    assert (run / "model" / "model.safetensors").is_file()
    with Image.open(run / "plots" / "learning_curve.png") as plot:
        assert plot.size[0] > 500


def test_two_processes_learn_from_streams_of_their_own(
    run: Path, folder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "two"
    own = ("train", "glyphs_5way_cpu", "--dataset", f"folder:{folder}")
    said = run_on_two_processes("memory-adapt", *own, *TINY[:-3], "--quiet", "--out", str(out))
    assert said.count("next") == 1
    alone, two = (read_metrics(folder) for folder in (run, out))
    assert [line["step"] for line in two] == [1, 2, 3, 4, 5]
    # The mean of both processes' losses: alike streams would give what the first gives alone.
    assert two[0]["loss"] != pytest.approx(alone[0]["loss"], rel=1e-5)
    assert two[-1]["loss"] != pytest.approx(alone[-1]["loss"], rel=1e-5)
    assert OnlineLearner.from_pretrained(out).ways == 2


def test_train_refuses_a_used_folder(
    run: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["train", "glyphs_5way_cpu", "--dataset", f"folder:{folder}", *TINY, "--out", str(run)]
    assert "resume it" in fail(capsys, *argv)
    cli.main([*argv, "--resume"])  # finished: writes the model again
    assert "seed" in fail(capsys, *argv, "--resume", "--seed", "1")


def test_training_that_cannot_begin_leaves_no_run(
    tmp_path: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = ["--out", str(tmp_path / "run")]
    line = fail(capsys, "train", "omniglot_5way_cpu", *TINY, *out, "--data-root", str(tmp_path))
    assert "Omniglot not found" in line
    assert "--dataset glyphs" in line
    own = ["train", "glyphs_5way_cpu", "--dataset", f"folder:{folder}", *TINY, *out]
    line = fail(capsys, *own, "--ways", "9")
    assert "8 classes in its train part, fewer than ways 9" in line
    assert "it needs 55 classes or more" in line
    assert "--shots" in fail(capsys, *own, "--shots", "6")
    assert "--image-channels must be at least 1" in fail(capsys, *own, "--image-channels", "0")
    assert not (tmp_path / "run").exists()


def test_eval_prints_and_writes(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, plot = tmp_path / "new" / "results.json", tmp_path / "shots.png"
    options = ["--shots", "1", "3", "--episodes", "6", "--out", str(out), "--plot", str(plot)]
    cli.main(["eval", str(run), *options])
    shown = capsys.readouterr().out
    for word in (
        "blind bound",
        "blank images",
        "null labels",
        "random labels",
        "±",
        "chance 50.0 %",
    ):
        assert word in shown
    results = json.loads(out.read_text())
    assert results["accuracy"]["episodes"] == 6
    assert len(results["accuracy"]["mean"]) == len(results["blind_bound"]) == IMAGES
    assert set(results["controls"]) == {"blank images", "null labels", "random labels"}
    # Without labels no slot is ever filled: each prediction is slot 0, right for one class in two.
    assert results["controls"]["null labels"]["mean"] == [0.5] * IMAGES
    assert results["model"]["model"] == "opn"
    assert plot.stat().st_size > 1000


def test_eval_is_repeatable(run: Path, tmp_path: Path) -> None:
    means = []
    for name, seed in (("a", "0"), ("b", "0"), ("c", "1")):
        options = ["--shots", "1", "--episodes", "20", "--no-controls", "--seed", seed]
        cli.main(["eval", str(run), *options, "--out", str(tmp_path / name)])
        means.append(json.loads((tmp_path / name).read_text())["accuracy"]["mean"])
    assert means[0] == means[1] != means[2]


def test_eval_names_what_is_missing(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = fail(capsys, "eval", str(run))
    assert "5 images, fewer than the 9" in line
    assert "--shots" in line
    line = fail(capsys, "eval", str(run), "--dataset", "omniglot", "--data-root", str(tmp_path))
    assert "--dataset glyphs" in line
    assert "--alphabets: the classes of own have none" in fail(
        capsys, "eval", str(run), "--shots", "1", "--alphabets"
    )
    assert "unknown dataset 'omniglott'" in fail(capsys, "eval", str(run), "--dataset", "omniglott")
    line = fail(capsys, "eval", str(run), "--shots", "1", "--ways", "3")
    assert "2 classes in its test part, fewer than ways 3" in line


def test_adapt_prints_and_writes(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = make_folder(tmp_path / "stream", classes=2, images=4)
    (images / "class00" / "broken.png").write_bytes(b"no image")
    out = tmp_path / "out"
    cli.main(["adapt", str(run), str(images), "--out", str(out), "--repeats", "2"])
    shown = capsys.readouterr()
    assert "broken.png" in shown.err
    assert "8 of 8 images resized to 16 x 16" in shown.err
    steps = [line for line in shown.out.splitlines() if " said " in line]
    assert len(steps) == 8
    assert "chance 50.0 %" in shown.out
    assert "95 % interval over 2 orders of these images, not over other images" in shown.out
    assert len((out / "predictions.csv").read_text().splitlines()) == 1 + 2 * 8
    for name in ("shots.png", "stream.png"):
        with Image.open(out / name) as picture:
            assert picture.size[0] > 300


def test_adapt_names_bad_folders(
    run: Path, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    two = ["--classes", "class00", "class01"]
    assert "fewer than the 6 per class" in fail(
        capsys, "adapt", str(run), str(folder), *two, "--shots", "6"
    )
    images = make_folder(tmp_path / "stream", classes=1)
    (images / "empty").mkdir()
    assert "empty has no images" in fail(capsys, "adapt", str(run), str(images))
    assert "does not exist" in fail(capsys, "adapt", str(run), str(tmp_path / "nowhere"))


def test_predict_names_unlabelled_images_with_what_adapt_learned(
    run: Path, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Twelve classes, though the learner was trained with two."""
    state, out = tmp_path / "new" / "state.safetensors", tmp_path / "out"
    cli.main(["adapt", str(run), str(folder), "--out", str(out), "--save-state", str(state)])
    assert f"predict {run} IMAGES --state {state}" in capsys.readouterr().out
    unlabelled = tmp_path / "unlabelled"
    for name in ("class03", "class07"):
        (unlabelled / name).mkdir(parents=True)
        shutil.copy(folder / name / "0.png", unlabelled / name)
    Image.new("RGB", (9, 9), "red").save(unlabelled / "other.png")
    (unlabelled / "broken.png").write_bytes(b"no image")
    kept = state.read_bytes()
    argv = ["predict", str(run), str(unlabelled), "--state", str(state)]
    cli.main([*argv, "--out", str(tmp_path / "predicted.csv"), "--invert", "yes"])
    shown = capsys.readouterr()
    assert "broken.png" in shown.err
    assert "3 images, 12 known classes" in shown.out
    with open(tmp_path / "predicted.csv", newline="") as file:
        rows = {Path(row["file"]).parent.name: row for row in csv.DictReader(file)}
    for name in ("class03", "class07"):
        assert rows[name]["nearest"] == name
        assert 0 <= float(rows[name]["unknown"]) <= 1
    assert state.read_bytes() == kept

    assert "a state of another learner" in fail(capsys, *argv[:1], "omniglot-5way-cpu", *argv[2:])
    assert "no such file" in fail(capsys, *argv[:3], "--state", str(tmp_path / "gone"))
    assert "not a state" in fail(capsys, *argv[:3], "--state", str(unlabelled / "other.png"))
    empty = tmp_path / "empty"
    empty.mkdir()
    StreamClassifier(OnlineLearner.from_pretrained(run)).save(tmp_path / "nothing")
    assert "knows no class" in fail(capsys, *argv[:3], "--state", str(tmp_path / "nothing"))
    assert "none that can be read" in fail(capsys, *argv[:2], str(empty), *argv[3:])


def test_export_stands_alone(
    run: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    results, out = tmp_path / "results.json", tmp_path / "card"
    cli.main(["eval", str(run), "--shots", "1", "--episodes", "4", "--out", str(results)])
    cli.main(["export", str(run), "--out", str(out), "--results", str(results)])
    assert {path.name for path in out.iterdir()} == {
        "config.json",
        "model.safetensors",
        "README.md",
    }
    card = (out / "README.md").read_text()
    assert "(opn) of any number of classes" in card
    assert "5 steps of 16 streams" in card
    assert card.count("\n| ") == 2 + IMAGES
    assert "2 ways, 4 streams of 5 images a class, labels 1 step(s) late" in card
    assert "| blank images | null labels | random labels |" in card
    measured = json.loads(results.read_text())
    mean, low = (100 * measured["accuracy"][part][1] for part in ("mean", "low"))
    assert f"\n| 1 | {mean:.1f} ({low:.1f} to " in card
    (line,) = (line for line in card.splitlines() if "from_pretrained" in line)
    known: dict[str, Any] = {"OnlineLearner": OnlineLearner}
    monkeypatch.chdir(tmp_path.parent)
    exec(line, known)  # from any folder
    assert known["learner"].ways == 2
    cli.main(["eval", str(out), "--shots", "1", "--episodes", "4"])
    capsys.readouterr()
    assert "not empty" in fail(capsys, "export", str(run), "--out", str(out))
    (tmp_path / "cut").mkdir()
    for path in out.iterdir():
        (tmp_path / "cut" / path.name).write_bytes(path.read_bytes()[:-50])
    assert "JSON" in fail(capsys, "eval", str(tmp_path / "cut"))


def test_a_data_sets_name_writes_no_heading_or_html_into_a_card(run: Path) -> None:
    learner = OnlineLearner.from_pretrained(run)
    learner.trained["dataset"] = "folder:x\n# Mine <script>"
    card = learner_card(Path("mine"), learner, None)
    assert "\n# Mine" not in card
    assert "<script" not in card


def test_export_takes_the_accuracies_beside_the_run(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = Path(shutil.copytree(run, tmp_path / "run"))
    cli.main(["export", str(run), "--out", str(tmp_path / "bare")])
    assert "no accuracies" in capsys.readouterr().err
    assert "| shots |" not in (tmp_path / "bare" / "README.md").read_text()

    images = torch.randint(0, 256, (40, 1, 16, 16), dtype=torch.uint8)
    dataset = ImageDataset("dots", images, torch.arange(40) // 10, tuple("abcd"))
    learner = OnlineLearner.from_pretrained(run).model
    kept = table_2_1._evaluated_once(
        TrainedRun(run, PRESETS["glyphs_5way_cpu"]("opn"), "", learner, 5),
        "dots",
        OnlineEpisodeSampler(dataset, ways=2, shots=10),
        table_2_1.Sizes(ways=2, episodes=4, control_episodes=2),
    )
    cli.main(["export", str(run), "--out", str(tmp_path / "card")])
    card = (tmp_path / "card" / "README.md").read_text()
    assert "on dots (test classes), 2 ways, 4 streams of 10 images a class" in card
    assert "controls (2 streams)" in card
    for k in (1, 5, 8):
        mean, half = kept["accuracy"][k], kept["half_width"][k]
        (row,) = (line for line in card.splitlines() if line.startswith(f"| {k} |"))
        assert f" {mean:.1f} ({mean - half:.1f} to {mean + half:.1f}) " in row
        assert row.endswith(f"| {kept['controls']['random labels'][k]:.1f} |")

    stale = json.loads((run / "test.json").read_text())
    stale["what"]["weights"] = "0"
    for text, word in ((json.dumps(stale), "other weights"), ("{}", "neither what")):
        (run / "test.json").write_text(text)
        assert word in fail(capsys, "export", str(run), "--out", str(tmp_path / "other"))
        assert not (tmp_path / "other").exists()


def test_cost_prints_its_rows(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    cli.main(["cost", "--no-measure", "--out", str(tmp_path / "cost.json")])
    rows = json.loads((tmp_path / "cost.json").read_text())["rows"]
    shown = capsys.readouterr().out
    for row in rows:
        assert row["model"].split(",")[0] in shown
        assert f"{row['forward_gflops']:.3g}" in shown
        assert f"{row['parameters']:,}" in shown
        assert row["ms_per_step"] is None


def test_reproduce_runs_what_is_chosen(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    ran: list[tuple[str, dict[str, Any]]] = []
    experiments = {
        name: lambda name=name, **options: ran.append((name, options)) for name in ("a", "b")
    }
    monkeypatch.setattr("memory_adapt.experiments.EXPERIMENTS", experiments)
    cli.main(["reproduce", "b", "--quick", "--out", str(tmp_path / "results")])
    cli.main(["reproduce", "--preset", "paper", "--out", str(tmp_path / "results")])
    assert [name for name, _ in ran] == ["b", "a", "b"]
    assert ran[0][1]["quick"] is True
    assert ran[1][1]["preset"] == "paper"
    assert (tmp_path / "results").is_dir()
