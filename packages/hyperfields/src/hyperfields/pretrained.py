"""`HyperFields`: a trained hypernetwork with its text encoder; prompts in, radiance fields out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from hyperfields.conditioning.text import TextEncoder, named_encoder, normalise
from hyperfields.config import FIELD_KIND, MODEL_KIND, SHIPPED, ModelConfig
from hyperfields.fields.field import Field
from hyperfields.hypernetwork.network import HyperNetwork
from hyperfields.records import config_from, with_present_names
from priors_shared.checkpoints import (
    checkpoint_kind,
    find_weights,
    load_module,
    load_weights,
    save_weights,
)
from priors_shared.errors import UserError

TRAIN_COMMAND = "hyperfields distill"


class HyperFields:
    """A hypernetwork that generates scenes from prompts.

    Example:
        model = HyperFields.from_pretrained("runs/model")
        field = model.generate("an orange mug")  # a NeRF with weights of its own
        image = field.render(orbit(azimuth=30, elevation=20, size=128))
    """

    def __init__(
        self, net: HyperNetwork, text: TextEncoder, *, trained: dict[str, Any] | None = None
    ) -> None:
        self.net = net.eval()
        self.text = text
        self.trained = dict(trained or {})
        """How it was trained: `prompts` above all."""

    @classmethod
    def from_pretrained(
        cls,
        name: str | Path,
        device: str | torch.device = "cpu",
        *,
        text: str | None = None,
        revision: str | None = None,
    ) -> HyperFields:
        """The model of that name.

        Args:
            name: shipped weights, a run folder, a checkpoint folder, or a Hugging Face Hub id `org/name`.
            device: where it runs.
            text: the text encoder, where the checkpoint names none of the known ones; see `TextEncoder`.
            revision: branch, tag or commit, for a Hub id.

        Raises:
            UserError: nothing there, a checkpoint of something else, damaged files, no text encoder.
        """
        source = find_weights(name, shipped=SHIPPED, command=TRAIN_COMMAND)
        record, weights = load_weights(source, kind=MODEL_KIND, revision=revision)
        net = load_module(
            source,
            lambda: HyperNetwork(
                config_from(ModelConfig, record["config"]), int(record["text_dim"])
            ),
            weights,
        )
        encoder = TextEncoder(named_encoder(net.config.text, text, name))
        if encoder.dim != int(record["text_dim"]):
            raise UserError(
                f"text: {encoder.name} has other embeddings than {source} was trained on"
            )
        return cls(net.to(device), encoder, trained=_trained(record, source))

    @property
    def prompts(self) -> tuple[str, ...]:
        """What it was trained on."""
        return tuple(self.trained.get("prompts", ()))

    def unknown_words(self, prompt: str) -> list[str]:
        """Words of a prompt that no training prompt has: with any, the prompt is out of distribution."""
        known = {word for trained in self.prompts for word in normalise(trained).split()}
        return [word for word in normalise(prompt).split() if word not in known]

    def generate(self, prompt: str) -> Field:
        """The scene of a prompt, in one forward pass.

        Raises:
            UserError: the prompt is empty.
        """
        return self.generate_all([prompt])[0]

    def generate_all(self, prompts: Sequence[str]) -> list[Field]:
        """The scenes of prompts, in one forward pass; they share the position encoding."""
        return self.net.materialize(self._condition(prompts), list(prompts))

    def interpolate(self, one: str, other: str, fraction: float | int) -> Field:
        """The scene between those of two prompts: their conditioning tokens are mixed.

        Args:
            one: its scene at fraction 0.
            other: its scene at fraction 1.
            fraction: of the other.

        Raises:
            UserError: a prompt is empty.
        """
        first, second = self._condition([one, other])
        mixed = torch.lerp(first, second, fraction)[None]
        return self.net.materialize(mixed, [f"{1 - fraction:.0%} {one}, {fraction:.0%} {other}"])[0]

    @property
    def device(self) -> torch.device:
        """Where the model runs."""
        return next(self.net.parameters()).device

    @torch.no_grad()
    def _condition(self, prompts: Sequence[str]) -> Float[Tensor, "prompts dim"]:
        tokens, mask = self.text.encode(prompts)
        token: Tensor = self.net.transformer(tokens.to(self.device), mask.to(self.device))
        return token

    def save(self, folder: Path, *, half: bool = False) -> None:
        """Write the model, in half precision where asked for; the text encoder by its name only."""
        save_model(folder, self.net, self.text.dim, self.trained, half=half)


def is_field(name: str | Path) -> bool:
    """Whether it names a trained NeRF, one scene."""
    source = find_weights(name, shipped=SHIPPED, command=TRAIN_COMMAND)
    return checkpoint_kind(Path(source)) == FIELD_KIND


def load_field(name: str | Path, prompt: str | None = None, *, text: str | None = None) -> Field:
    """One scene: of a model, the prompt's; else the trained NeRF of that name.

    Args:
        name: of a model or a NeRF.
        prompt: which scene of a model.
        text: see `HyperFields.from_pretrained`.

    Raises:
        UserError: as `HyperFields.from_pretrained`; a model without a prompt, a NeRF with one.
    """
    if is_field(name):
        field = Field.load(find_weights(name, shipped=SHIPPED, command=TRAIN_COMMAND))
        if prompt is not None:
            raise UserError(f"{name} is one scene, {field.prompt!r}: leave out the prompt")
        return field
    if prompt is None:
        raise UserError(f"{name} is a model: give the prompt of the scene, such as 'a red chair'")
    return HyperFields.from_pretrained(name, text=text).generate(prompt)


def save_model(
    folder: Path, net: nn.Module, text_dim: int, trained: dict[str, Any], *, half: bool = False
) -> None:
    """Write a hypernetwork that `HyperFields.from_pretrained` reads."""
    assert isinstance(net, HyperNetwork)
    save_weights(
        folder,
        net,
        kind=MODEL_KIND,
        config=asdict(net.config),
        extra={"text_dim": text_dim, "trained": trained},
        half=half,
    )


def _trained(record: Mapping[str, Any], source: object) -> dict[str, Any]:
    """How a checkpoint says that it was trained."""
    trained = record.get("trained", {})
    if isinstance(trained, Mapping):
        lists = [trained.get(key, []) for key in ("prompts", "held_out", "finetuned")]
        if all(isinstance(v, list) and all(isinstance(p, str) for p in v) for v in lists):
            return with_present_names(trained)
    raise UserError(f"{source}: what the checkpoint says of its training is no record of prompts")
