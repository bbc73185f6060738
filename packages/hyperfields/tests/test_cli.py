"""The commands, as a user types them: what they print, what they leave, what they refuse."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import trimesh
from PIL import Image

from hyperfields.cli import main
from hyperfields.config import FieldConfig, ModelConfig
from hyperfields.data.teachers import read_teachers
from hyperfields.data.views import procedural_views
from hyperfields.fields.cameras import orbit
from hyperfields.fields.field import Field
from hyperfields.hypernetwork.network import HyperNetwork
from hyperfields.pretrained import HyperFields, save_model
from priors_shared import testing
from priors_shared.runs import read_metrics
from priors_shared.testing import run_on_two_processes

FIELD = FieldConfig(
    width=8,
    levels=2,
    level_features=2,
    log2_rows=8,
    coarsest=4,
    finest=8,
    frequencies=1,
    blob_height=4.0,
)


@pytest.fixture
def model(tiny_text: str, tmp_path: Path) -> Path:
    torch.manual_seed(0)
    config = ModelConfig(text=tiny_text, blocks=1, heads=2, head_dim=4, hidden=8, field=FIELD)
    trained = {"prompts": ["a red mug", "a blue mug"], "held_out": ["a red plate"]}
    save_model(tmp_path / "model", HyperNetwork(config, 16), 16, trained)
    return tmp_path / "model"


def refused(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    return testing.refused(main, capsys, *argv)


def test_distill_generate_eval_from_a_folder_of_renders(
    tiny_text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch
) -> None:
    monkeypatch.chdir(tmp_path)
    cameras = [orbit(a, 20, 8) for a in (0, 120, 240)]
    for i, views in enumerate(procedural_views(["a red mug", "a blue plate"], cameras).values()):
        views.write(Path("teachers", str(i)))
    small = ["--text", tiny_text, "--blocks", "1", "--heads", "2", "--head-dim", "4"]
    small += ["--hidden", "8", "--width", "8", "--levels", "2", "--log2-rows", "8"]
    small += ["--finest", "16", "--rays", "16", "--samples", "8", "--log-every", "1"]
    main(
        [
            "distill",
            "procedural_cpu",
            "teachers",
            *small,
            "--steps",
            "2",
            "-o",
            "run",
            "--quiet",
        ]
    )
    out = capsys.readouterr().out
    assert "next      hyperfields generate 'a blue plate' --model run" in out
    assert {p.name for p in Path("run/plots").iterdir()} == {"training.png", "scenes.png"}
    assert json.loads(Path("run/config.json").read_text())["held_out"] == []
    assert HyperFields.from_pretrained("run", text=tiny_text).prompts == (
        "a blue plate",
        "a red mug",
    )
    assert "already holds a run" in refused(
        capsys, "distill", "procedural_cpu", "teachers", *small, "--steps", "2", "-o", "run"
    )

    main(["eval", "run", "teachers", "--text", tiny_text, "--samples", "8", "--out", "eval.json"])
    result = json.loads(Path("eval.json").read_text())
    assert {scene["prompt"] for scene in result["scenes"]} == {"a red mug", "a blue plate"}
    assert result["means"]["teachers"]["psnr"] == pytest.approx(
        sum(s["psnr"] for s in result["scenes"]) / 2
    )


def test_two_processes_share_an_update_out_and_train_as_one(
    tiny_text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch
) -> None:
    monkeypatch.chdir(tmp_path)
    cameras = [orbit(a, 20, 8) for a in (0, 120, 240)]
    prompts = ["a red mug", "a blue plate", "a red plate"]
    for i, views in enumerate(procedural_views(prompts, cameras).values()):
        views.write(Path("teachers", str(i)))
    small = ["--text", tiny_text, "--blocks", "1", "--heads", "2", "--head-dim", "4"]
    small += ["--hidden", "8", "--width", "8", "--levels", "2", "--log2-rows", "8"]
    small += ["--finest", "16", "--rays", "16", "--samples", "8", "--log-every", "1"]
    small += ["--steps", "3", "--quiet"]
    main(["distill", "procedural_cpu", "teachers", *small, "-o", "one", "--accelerator", "cpu"])
    capsys.readouterr()
    said = run_on_two_processes(
        "hyperfields", "distill", "procedural_cpu", "teachers", *small, "-o", "two"
    )
    assert said.count("next      hyperfields generate") == 1
    one, two = (read_metrics(Path(name)) for name in ("one", "two"))
    assert [line["step"] for line in two] == [1, 2, 3]
    assert [line["psnr"] for line in two] == pytest.approx([line["psnr"] for line in one], abs=0.02)
    assert one[0]["psnr"] != pytest.approx(one[2]["psnr"], abs=0.1)
    one, two = (HyperFields.from_pretrained(run, text=tiny_text) for run in ("one", "two"))
    assert one.prompts == two.prompts
    assert "runs on one device" in refused(
        capsys, "teach", "teacher_cpu", "a red mug", "--devices", "2"
    )


def test_generate_writes_meshes_and_a_contact_sheet(
    model: Path, tiny_text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prompts = tmp_path / "prompts.txt"
    prompts.write_bytes("\ufeffa red mug\r\n\r\n a golden mug \r\na red mug\r\n".encode())
    quick = [
        "--model",
        str(model),
        "--text",
        tiny_text,
        "--resolution",
        "12",
        "--size",
        "8",
        "--samples",
        "8",
    ]
    main(["generate", "--prompts", str(prompts), "-o", str(tmp_path / "out"), *quick])
    said = capsys.readouterr()
    assert "'a golden mug' is out of distribution: no training prompt has golden" in said.err
    assert "'a red mug' is out" not in said.err
    assert "1 blank lines left out" in said.err
    names = {p.name for p in (tmp_path / "out").iterdir()}
    assert names == {"a-red-mug.glb", "a-red-mug-2.glb", "a-golden-mug.glb", "contact_sheet.png"}
    assert len(trimesh.load(tmp_path / "out/a-red-mug.glb", force="mesh").faces) > 10
    with Image.open(tmp_path / "out/contact_sheet.png") as sheet:
        assert sheet.size == (4 * 8, 3 * (8 + 14))
    video = tmp_path / "turn.gif"
    main(
        ["generate", "a red mug", "-o", str(tmp_path / "m.ply"), "--turntable", str(video), *quick]
    )
    assert (tmp_path / "m.ply").is_file()
    assert video.is_file()


def test_generate_refuses_what_it_cannot_do(
    model: Path, tiny_text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def no(*arguments: str) -> str:
        return refused(capsys, "generate", *arguments, "--model", str(model), "--text", tiny_text)

    assert "the prompt is empty" in no("  ")
    assert "give a prompt" in no()
    assert "unknown format .stl: use one of .glb" in no("a mug", "-o", "a.stl")
    assert "use one of .mp4, .gif" in no("a mug", "--turntable", "a.avi")
    file = tmp_path / "p.txt"
    file.write_bytes("a mug\nein gr\u00fcner Stuhl\n".encode("latin-1"))
    assert "line 2: not UTF-8: save the file as UTF-8" in no("--prompts", str(file))
    file.write_text("\n \n")
    assert "holds no prompt" in no("--prompts", str(file))
    assert "No such file" in no("--prompts", str(tmp_path / "gone.txt"))
    file.write_text("a mug\na vase\n")
    assert "2 prompts need a folder" in no("--prompts", str(file), "-o", "a.glb")
    if not torch.cuda.is_available():
        assert "--accelerator cuda: none is visible" in no("a mug", "--device", "cuda")
    assert "no such checkpoint" in refused(capsys, "generate", "x", "--model", str(tmp_path / "no"))


def test_finetune_writes_a_model_that_knows_the_prompt(
    model: Path, tiny_text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch
) -> None:
    monkeypatch.chdir(tmp_path)
    small = ["--image-size", "8", "--samples", "8", "--views", "3", "--steps", "2"]
    small += ["--text", tiny_text]
    main(["finetune", "finetune_cpu", str(model), "a stained glass mug", *small, "--quiet"])
    out = "finetuned/a-stained-glass-mug"
    assert f"next      hyperfields generate 'a stained glass mug' --model {out}" in (
        capsys.readouterr().out
    )
    assert Path(out, "plots/scene.png").is_file()
    assert (
        HyperFields.from_pretrained(out, text=tiny_text).unknown_words("a stained glass mug") == []
    )
    assert "prompt is empty" in refused(capsys, "finetune", "finetune_cpu", str(model), " ")
    said = refused(capsys, "finetune", "finetune_cpu", str(model), "a red toaster", *small)
    assert "is no procedural scene" in said
    assert "neither a folder nor shipped" in refused(
        capsys, "finetune", "finetune_cpu", "gone", "a red mug"
    )


def test_a_model_is_exported_with_its_card_and_scores(
    model: Path, tiny_text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, scores, own = tmp_path / "mine", tmp_path / "scores.json", ["--text", tiny_text]
    few = ["--views", "1", "--size", "8", "--samples", "4"]
    main(["eval", str(model), *few, "--out", str(scores), *own])
    main(["export", str(model), "-o", str(out), "--results", str(scores), *own])
    assert {path.name for path in out.iterdir()} == {
        "config.json",
        "model.safetensors",
        "README.md",
    }
    whole = HyperFields.from_pretrained(model, text=tiny_text)
    again = HyperFields.from_pretrained(out, text=tiny_text)
    assert again.trained == whole.trained
    assert all(map(torch.equal, again.net.parameters(), whole.net.parameters()))
    card = (out / "README.md").read_text()
    assert f"{len(whole.prompts)} prompts: {whole.prompts[0]}" in card
    psnr = json.loads(scores.read_text())["means"]["trained"]["psnr"]
    assert f"| trained | {psnr:.3f} |" in card
    assert "not empty" in refused(capsys, "export", str(model), "-o", str(out), *own)

    other = ["export", str(model), "-o", str(tmp_path / "other"), "--results", str(scores), *own]
    assert "of a whole model" in refused(capsys, *other[:2], "a blue mug", *other[2:])
    scores.write_text(json.dumps(json.loads(scores.read_text()) | {"trained": {}}))
    assert "trained otherwise" in refused(capsys, *other)
    scores.write_text("{}")
    assert "not what `hyperfields eval --out` writes" in refused(capsys, *other)
    assert not (tmp_path / "other").exists()


def test_teach_then_export_and_distill(
    model: Path, tiny_text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch
) -> None:
    monkeypatch.chdir(tmp_path)
    small = [
        "--width",
        "8",
        "--levels",
        "2",
        "--log2-rows",
        "8",
        "--finest",
        "16",
        "--batch-size",
        "1",
    ]
    small += ["--image-size", "8", "--samples", "8", "--views", "3", "--steps", "2"]
    own = ["--text", tiny_text]
    main(["teach", "teacher_cpu", "A red mug", *small, "-o", "teachers", "--quiet"])
    assert "next      hyperfields distill PRESET teachers" in capsys.readouterr().out
    assert Path("teachers/a-red-mug/plots/scene.png").is_file()
    main(["export", "teachers/a-red-mug", "-o", "field"])
    assert Field.load("field").prompt == "a red mug"
    main(["export", str(model), "a blue mug", "-o", "mug.obj", "--resolution", "12", *own])
    assert len(trimesh.load("mug.obj", force="mesh").faces) > 10
    main(["export", str(model), "a blue mug", "-o", "own", *own])
    points = torch.rand(20, 3) - 0.5
    generated = HyperFields.from_pretrained(model, text=tiny_text).generate("a blue mug")
    assert torch.equal(Field.load("own")(points)[0], generated(points)[0])
    Path("prompts.txt").write_text("A red mug\n\na blue bowl\n")
    again = ["teach", "teacher_cpu", "--prompts", "prompts.txt", *small, "-o", "teachers"]
    assert "resume it" in refused(capsys, *again)
    main([*again, "--resume", "--quiet"])
    assert set(read_teachers(Path("teachers"), [orbit(0, 0, 8)])) == {"a red mug", "a blue bowl"}
    Path("prompts.txt").write_text("a red mug\na  red mug\n")
    assert "would share the folder a-red-mug" in refused(capsys, *again, "--resume")
    assert "give a prompt" in refused(capsys, "teach", "teacher_cpu", *small)

    assert "leave out the prompt" in refused(capsys, "export", "field", "a mug")
    assert "give the prompt of the scene" in refused(capsys, "export", str(model), "-o", "a.glb")
    assert "unknown format .stl" in refused(capsys, "export", "field", "-o", "a.stl")
    said = refused(capsys, "teach", "teacher_cpu", "a red toaster", *small, "-o", "no")
    assert "is no procedural scene" in said
    assert not Path("no/a-red-toaster").exists()
    assert "prompt is empty" in refused(capsys, "teach", "teacher_cpu", " ")
    said = refused(capsys, "teach", "teacher", "a mug", "--guidance", str(tmp_path / "field"))
    assert "no pipeline" in said or "pip install 'hyperfields[guidance]'" in said


def test_checkpoints_of_another_kind_are_refused(
    model: Path, tiny_text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    HyperFields.from_pretrained(model, text=tiny_text).generate("a red mug").save(
        tmp_path / "field"
    )
    said = refused(capsys, "generate", "a mug", "--model", str(tmp_path / "field"))
    assert "holds a radiance-field, not a hyperfields" in said
    record = json.loads((model / "config.json").read_text())
    record["config"]["field"]["width"] = 9
    del record["record_digest"]
    (model / "config.json").write_text(json.dumps(record))
    assert "do not fit the model" in refused(
        capsys, "generate", "a mug", "--model", str(model), "--text", tiny_text
    )


def test_eval_scores_held_out_and_trained_scenes_apart(
    model: Path, tiny_text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "eval.json"
    main(
        [
            "eval",
            str(model),
            "--text",
            tiny_text,
            "--views",
            "1",
            "--size",
            "8",
            "--samples",
            "8",
            "--out",
            str(out),
        ]
    )
    result = json.loads(out.read_text())
    assert set(result["means"]) == {"held out", "trained"}
    assert [s["group"] for s in result["scenes"]] == ["held out", "trained", "trained"]
    assert "trained" in capsys.readouterr().out


def test_wrong_options_are_one_line(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert "did you mean procedural_cpu" in refused(capsys, "train", "procedural_gpu")
    assert "needs a preset first" in refused(capsys, "train")
    assert "did you mean --rays" in refused(capsys, "train", "procedural_cpu", "--ray", "3")
    assert "rays must be at least 1" in refused(capsys, "train", "procedural_cpu", "--rays", "0")
    out = str(tmp_path / "run")
    said = refused(capsys, "distill", "procedural_cpu", str(tmp_path / "no"), "--out", out)
    assert "no such folder of teachers" in said
    assert not Path(out).exists(), "what was refused leaves no run"


def test_presets_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    main(["presets"])
    assert "procedural_cpu" in capsys.readouterr().out
