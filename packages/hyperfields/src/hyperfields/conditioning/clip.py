"""CLIP, asked which prompt a render shows (Table 4.1): any checkpoint of transformers' CLIPModel."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from hyperfields.conditioning.text import load_transformer
from priors_shared.errors import UserError


class Clip:
    """A frozen image-text model.

    Example:
        Clip("clip").cosines(images, ["a red chair", "a blue mug"])  # (images, 2)
    """

    def __init__(self, name: str, *, device: torch.device | str = "cpu") -> None:
        """Load it.

        Args:
            name: clip (ViT-B/32, as in the thesis), a Hugging Face id, or a folder with model and tokenizer.
            device: where to run.

        Raises:
            UserError: it is not here and cannot be had, or is another kind of model.
        """
        self._tokenizer, model = load_transformer(name, field="clip", model_class=_clip_model)
        self.name = name
        self._model = model.requires_grad_(False).eval().to(device)

    @torch.no_grad()
    def cosines(
        self, images: Float[Tensor, "images 3 height width"], prompts: Sequence[str]
    ) -> Float[Tensor, "images prompts"]:
        """How well each image, in [0, 1], matches each prompt; on the CPU."""
        device = self._model.device
        inputs = self._tokenizer(list(prompts), return_tensors="pt", padding=True, truncation=True)
        keys = {"input_ids", "attention_mask"}
        out = self._model(
            **{key: value.to(device) for key, value in inputs.items() if key in keys},
            pixel_values=self.pixels(images).to(device),
        )
        # Of unit length already.
        cosines: Tensor = out.image_embeds @ out.text_embeds.T
        return cosines.float().cpu()

    def pixels(
        self, images: Float[Tensor, "images 3 height width"]
    ) -> Float[Tensor, "images 3 size size"]:
        """Images in [0, 1] as the model wants them: its size, its colours' means and deviations."""
        from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

        size = self._model.config.vision_config.image_size
        resized = F.interpolate(images, (size, size), mode="bicubic", antialias=True).clamp(0, 1)
        mean, deviation = (
            images.new_tensor(v).view(3, 1, 1) for v in (OPENAI_CLIP_MEAN, OPENAI_CLIP_STD)
        )
        return (resized - mean) / deviation


def _clip_model(kind: str) -> Any:
    from transformers import CLIPModel

    if kind != "clip":
        raise UserError(f"clip: a model of type {kind}, not clip")
    return CLIPModel
