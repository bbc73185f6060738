"""Loaders: damage of every kind is one line, and what a checkpoint names is not trusted."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from torch import nn

from hyperfields.conditioning.clip import Clip
from hyperfields.conditioning.text import TextEncoder
from hyperfields.config import (
    FIELD_KIND,
    MODEL_KIND,
    SEGMENT_KIND,
    FieldConfig,
    ModelConfig,
    UNetConfig,
)
from hyperfields.fields.field import Field
from hyperfields.guidance import procedural
from hyperfields.hypernetwork.network import HyperNetwork
from hyperfields.pretrained import HyperFields, load_field
from hyperfields.scenes.variations import PARTS
from hyperfields.segmentation.network import SegmentationNetwork
from hyperfields.segmentation.pretrained import HyperSegmentationFields
from priors_shared.checkpoints import save_weights
from priors_shared.errors import UserError

FIELD = FieldConfig(
    width=4, levels=1, level_features=2, log2_rows=6, coarsest=2, finest=2, frequencies=0
)
MODEL = ModelConfig(text="minilm", blocks=1, heads=1, head_dim=4, hidden=4, field=FIELD)
LABELLED = replace(MODEL, field=replace(FIELD, features=len(PARTS)))
UNET = UNetConfig(image_size=8, widths=(16, 16))
TRAINED = {"prompts": ["a red mug"]}


def loaders() -> dict[str, tuple[str, Callable[[], nn.Module], dict, dict, Callable]]:
    """By name: kind, module, config, further keys, loader."""
    return {
        "field": (FIELD_KIND, lambda: Field(FIELD), asdict(FIELD), {}, Field.load),
        "model": (
            MODEL_KIND,
            lambda: HyperNetwork(MODEL, 384),
            asdict(MODEL),
            {"text_dim": 384, "trained": TRAINED},
            HyperFields.from_pretrained,
        ),
        "segmentation": (
            SEGMENT_KIND,
            lambda: SegmentationNetwork(LABELLED),
            asdict(LABELLED),
            {"image_size": 32, "parts": list(PARTS), "trained": {}},
            HyperSegmentationFields.from_pretrained,
        ),
        "guidance": (
            procedural.KIND,
            lambda: procedural.build_unet(UNET, 384),
            asdict(UNET),
            {"trained": TRAINED},
            procedural.load_procedural,
        ),
    }


@pytest.mark.parametrize("name", ["field", "model", "segmentation", "guidance"])
def test_damage_of_every_kind_is_one_line(name: str, tmp_path: Path) -> None:
    if name == "guidance":
        pytest.importorskip("diffusers")
    kind, make, config, more, load = loaders()[name]
    folder = tmp_path / "checkpoint"

    def write(config: dict, module: nn.Module, **extra: object) -> None:
        save_weights(folder, module, kind=kind, config=config, extra={**more, **extra})

    def refused() -> str:
        with pytest.raises(UserError) as error:
            load(folder)
        assert "\n" not in str(error.value)
        return str(error.value)

    module = make()
    write(config, module)
    load(folder)
    write(config, nn.Linear(2, 3))
    assert "do not fit" in refused()
    size = "layers" if "layers" in config else "heads"
    for value in ("9", None, [[1]], 10**30, -5, {"a": 1}):
        write({**config, size: value}, module)
        refused()
    write({}, module)
    refused()
    if name != "field":
        for wrong in (3, [], "x"):
            write(config, module, trained=wrong)
            refused()
    if name == "model":
        for wrong in ({"prompts": 3}, {"prompts": [3]}, {"held_out": {"a": 1}}):
            write(config, module, trained=wrong)
            refused()
        write(config, module, text_dim=10**12)
        refused()
        write(config, module, text_dim="many")
        refused()
    if name == "segmentation":
        for wrong in ({"image_size": 0}, {"image_size": "32"}, {"parts": ["a"]}, {"parts": 3}):
            write(config, module, **wrong)
            refused()
    write(config, module)
    (folder / "config.json").write_text("[" * 5000 + "]" * 5000)
    refused()
    (folder / "config.json").unlink()
    refused()


def test_claimed_sizes_take_no_memory(tmp_path: Path) -> None:
    huge = replace(FIELD, levels=1000, log2_rows=28, level_features=1000)
    save_weights(tmp_path, Field(FIELD), kind=FIELD_KIND, config=asdict(huge))
    with pytest.raises(UserError, match="do not fit"):
        Field.load(tmp_path)


def test_one_scene_is_told_from_a_model_by_its_kind(tmp_path: Path) -> None:
    Field(FIELD, prompt="a red mug").save(tmp_path / "field")
    assert load_field(tmp_path / "field").prompt == "a red mug"
    with pytest.raises(UserError, match="leave out the prompt"):
        load_field(tmp_path / "field", "a mug")
    with pytest.raises(UserError, match="give the prompt"):
        load_field("procedural-cpu")


def test_an_encoder_that_a_checkpoint_names_is_loaded_only_if_its_user_gives_it(
    tiny_text: str, tiny_model: Callable[..., HyperFields], tmp_path: Path
) -> None:
    tiny_model("a red mug").save(tmp_path / "model")
    with pytest.raises(UserError, match=r"^text: .* none of minilm, bert, t5, clip"):
        HyperFields.from_pretrained(tmp_path / "model")
    model = HyperFields.from_pretrained(tmp_path / "model", text=tiny_text)
    assert model.text.name == tiny_text


CODE = """
from pathlib import Path
Path(__file__).with_name("ran").touch()
from transformers import BertConfig as Own
"""


@pytest.fixture
def with_code(tiny_text: str, tmp_path: Path) -> Path:
    """The tiny encoder, whose configuration asks for code that comes with it."""
    folder = tmp_path / "encoder"
    folder.mkdir()
    for file in Path(tiny_text).iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    record = json.loads((folder / "config.json").read_text())
    record |= {"model_type": "own", "auto_map": {"AutoConfig": "own.Own", "AutoModel": "own.Own"}}
    (folder / "config.json").write_text(json.dumps(record))
    (folder / "own.py").write_text(CODE)
    return folder


@pytest.mark.parametrize("load", [TextEncoder, Clip])
def test_code_that_comes_with_an_encoder_neither_runs_nor_asks(
    load: Callable[[str], object], with_code: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def asked(*_: object) -> str:
        raise AssertionError("it asks on standard input")

    monkeypatch.setattr("builtins.input", asked)
    with pytest.raises(UserError, match=r"^(text|clip): "):
        load(str(with_code))
    assert not list(with_code.parent.rglob("ran"))


@pytest.mark.parametrize("load", [TextEncoder, Clip])
def test_pickled_weights_are_refused_in_one_line(
    load: Callable[[str], object], tiny_text: str, tmp_path: Path
) -> None:
    class Payload:
        def __reduce__(self) -> tuple:
            return os.mkdir, (str(tmp_path / "ran"),)

    folder = tmp_path / "encoder"
    folder.mkdir()
    for file in Path(tiny_text).iterdir():
        if file.suffix != ".safetensors":
            (folder / file.name).write_bytes(file.read_bytes())
    torch.save(Payload(), folder / "pytorch_model.bin")
    with pytest.raises(UserError, match="pickled weights") as error:
        load(str(folder))
    assert "\n" not in str(error.value)
    assert not (tmp_path / "ran").exists()
