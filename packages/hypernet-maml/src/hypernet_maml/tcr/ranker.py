"""A hypernetwork with what it needs at hand: receptors that stand for receptors in general."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from hypernet_maml.tcr.config import ModelConfig
from hypernet_maml.tcr.encoders import load_sceptr, sceptr_vectors
from hypernet_maml.tcr.features import Described, pair_features
from hypernet_maml.tcr.models import BindingHypernetwork
from hypernet_maml.tcr.receptors import LOOP_COLUMNS, MAX_CDR3, Encoded, Receptor, encode

Encoder = Literal["cdr", "sceptr"]


def describe(receptors: Sequence[Receptor], encoder: Encoder) -> Described:
    """Receptors as features are made of them.

    Raises:
        UserError: encoder sceptr without its wheel.
    """
    encoded = encode(receptors)
    if encoder == "cdr":
        return Described(encoded)
    net = load_sceptr()
    alpha = [Receptor(r.alpha, None) if r.alpha else r for r in receptors]
    beta = [Receptor(None, r.beta) if r.beta else r for r in receptors]
    vectors = torch.stack([sceptr_vectors(net, some) for some in (receptors, alpha, beta)], dim=1)
    # A cosine of chains that are not there is no similarity: zero vectors.
    vectors[encoded.length[:, 0] == 0, 1] = 0
    vectors[encoded.length[:, 1] == 0, 2] = 0
    return Described(encoded, vectors.numpy())


class Ranker(nn.Module):
    """A hypernetwork, and the receptors (buffers) that its features are centred on."""

    def __init__(
        self, config: ModelConfig, *, encoder: Encoder, background: int, calibration: int
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.net = BindingHypernetwork(config)
        self.background = _Store(background, encoder)
        """Receptors in general, of the training part."""
        self.calibration = _Store(calibration, encoder)
        """Receptors in general that no training saw: what a score is measured against."""

    @torch.no_grad()
    def score(self, support: Described, queries: Described) -> Float[Tensor, " queries"]:
        """Scores of the queries, higher is likelier to bind; the order of the support does not matter."""
        return self.rank(support, *self.write(support), queries)

    @torch.no_grad()
    def write(self, support: Described) -> tuple[Tensor, Tensor]:
        """The weights that the hypernetwork writes for a support, and the support's background features."""
        binders = self.background_of(support)
        return self.net.write(pair_features(support, support), binders), binders

    @torch.no_grad()
    def rank(
        self, support: Described, weights: Tensor, binders: Tensor, queries: Described
    ) -> Float[Tensor, " queries"]:
        """Scores by weights that are written already."""
        pairs = pair_features(queries, support)
        return self.net.rank(pairs, self.background_of(queries), binders, weights)

    def background_of(self, receptors: Described) -> Float[Tensor, "receptors features"]:
        """Mean pair features with receptors in general."""
        return pair_features(receptors, self.background.receptors()).mean(1)


class _Store(nn.Module):
    """Receptors as tensors of a checkpoint."""

    vectors: Tensor

    def __init__(self, n: int, encoder: Encoder) -> None:
        super().__init__()
        columns = sum(LOOP_COLUMNS.values())
        shapes = {"loops": (n, 2, columns), "cdr3": (n, 2, MAX_CDR3), "length": (n, 2), "j": (n, 2)}
        for name, shape in shapes.items():
            dtype = torch.int8 if name in ("loops", "cdr3") else torch.int64
            self.register_buffer(name, torch.zeros(shape, dtype=dtype))
        vectors = (n, 3, 64) if encoder == "sceptr" else (0,)
        self.register_buffer("vectors", torch.zeros(vectors))

    def fill(self, receptors: Described) -> None:
        """Take these receptors."""
        for name in ("loops", "cdr3", "length", "j"):
            getattr(self, name).copy_(torch.from_numpy(getattr(receptors.encoded, name)))
        if receptors.vectors is not None and self.vectors.ndim == 3:
            self.vectors.copy_(torch.from_numpy(receptors.vectors))

    def __len__(self) -> int:
        return len(self.vectors) if self.vectors.ndim == 3 else len(self.get_buffer("length"))

    def receptors(self) -> Described:
        """The receptors."""
        arrays = {name: getattr(self, name).numpy() for name in ("loops", "cdr3", "length", "j")}
        vectors = self.vectors.numpy().astype(np.float32) if self.vectors.ndim == 3 else None
        return Described(Encoded(**arrays), vectors)
