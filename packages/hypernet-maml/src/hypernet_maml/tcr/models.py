"""The hypernetwork: from an epitope's known binders to the weights of a small network that ranks receptors (6.1).

    pair features   phi(query, binder), less what the query is like to receptors in general
    kernels         K learned similarities of phi; over the binders: their soft maximum, maximum and mean
    genes           log odds of the query's V and J genes: among the binders against receptors in general
    x(query)        these 3 K + 4 numbers, and what the query is like to receptors in general
    hypernetwork    pair features among the binders themselves -> scales and shifts of a hidden layer, and weights on x
    score           W2 gelu((1 + scale) * (W1 x) + shift) + (w0 + w) x

It starts as the mean of K nearest-neighbour classifiers and the genes' log odds: what the hypernetwork adds is zero at
first.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from hypernet_maml.tcr.config import ModelConfig
from hypernet_maml.tcr.features import CDR_FEATURES, SAME

_GENES = [i for i, name in enumerate(CDR_FEATURES) if name.startswith("same ")]


class BindingHypernetwork(nn.Module):
    """Scores of queries, given an epitope's binders; higher is likelier to bind."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        c = config
        self.pair = nn.Sequential(
            nn.Linear(3 * c.features, c.pair_width), nn.GELU(), nn.Linear(c.pair_width, c.kernels)
        )
        self.linear = nn.Linear(c.features, c.kernels, bias=False)
        self.background = nn.Parameter(torch.full((c.features,), 0.5))
        self.log_sharpness = nn.Parameter(torch.ones(c.kernels))
        self.log_prior = nn.Parameter(torch.tensor(math.log(5.0)))
        inputs = 3 * c.kernels + len(_GENES) + c.features
        self.hidden = nn.Linear(inputs, c.width)
        self.output = nn.Linear(c.width, 1)
        self.skip = nn.Linear(inputs, 1)
        self.dropout = nn.Dropout(c.dropout)
        self.hypernetwork = nn.Sequential(
            nn.Linear(2 * c.features + 2, c.task_width),
            nn.GELU(),
            nn.Linear(c.task_width, 2 * c.width + inputs),
        )
        self._begin_as_nearest_neighbour()

    def _begin_as_nearest_neighbour(self) -> None:
        for layer in (self.pair[2], self.output, self.skip, self.hypernetwork[2]):
            assert isinstance(layer, nn.Linear)  # as they are made above
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)
        with torch.no_grad():
            noise = 0.02 * torch.randn_like(self.linear.weight)
            self.linear.weight.copy_(noise + 1 / self.config.features)
            kernels = self.config.kernels
            self.skip.weight[0, :kernels] = 1 / kernels
            self.skip.weight[0, 3 * kernels : 3 * kernels + len(_GENES)] = 0.1

    def forward(
        self,
        pairs: Float[Tensor, "queries binders features"],
        query_background: Float[Tensor, "queries features"],
        binder_background: Float[Tensor, "binders features"],
        among: Float[Tensor, "binders binders features"],
    ) -> Float[Tensor, " queries"]:
        """Scores. Backgrounds: mean pair features with receptors in general; among: the binders' own pairs."""
        return self.rank(
            pairs, query_background, binder_background, self.write(among, binder_background)
        )

    def write(
        self,
        among: Float[Tensor, "binders binders features"],
        background: Float[Tensor, "binders features"],
    ) -> Float[Tensor, " weights"]:
        """The weights that the hypernetwork writes for these binders; their order does not matter."""
        c, k = self.config, len(background)
        if not c.hypernetwork:
            return background.new_zeros(2 * c.width + self.hidden.in_features)
        alike = background.new_zeros(2, c.features)
        if k > 1:
            own = among - self.background * (background[:, None] + background[None])
            others = own[~torch.eye(k, dtype=torch.bool)].reshape(k, k - 1, c.features)
            alike = torch.stack([others.mean((0, 1)), others.amax(1).mean(0)])
        counts = background.new_tensor([math.log(k) / 2, float(k > 1)])
        return self.hypernetwork(torch.cat([alike.flatten(), counts]))

    def rank(
        self,
        pairs: Float[Tensor, "queries binders features"],
        query_background: Float[Tensor, "queries features"],
        binder_background: Float[Tensor, "binders features"],
        weights: Float[Tensor, " weights"],
    ) -> Float[Tensor, " queries"]:
        """Scores by the network of these weights."""
        x = self._describe(pairs, query_background, binder_background)
        width = self.config.width
        scale, shift, skip = weights.split([width, width, len(weights) - 2 * width])
        hidden = nn.functional.gelu(self.hidden(x) * (1 + scale) + shift)
        return (self.output(self.dropout(hidden)) + self.skip(x)).squeeze(-1) + x @ skip

    def _describe(
        self, pairs: Tensor, query_background: Tensor, binder_background: Tensor
    ) -> Tensor:
        """x: (queries, 3 kernels + features)."""
        centred = pairs - self.background * query_background[:, None]
        backgrounds = (
            query_background[:, None].expand_as(pairs),
            binder_background.expand_as(pairs),
        )
        kernels = self.linear(centred) + self.pair(
            self.dropout(torch.cat([pairs, *backgrounds], dim=-1))
        )
        sharpness = self.log_sharpness.exp()
        soft = torch.logsumexp(kernels * sharpness, dim=1) - math.log(pairs.shape[1])
        return torch.cat(
            [
                soft / sharpness,
                kernels.amax(1),
                kernels.mean(1),
                self._gene_log_odds(pairs, query_background),
                query_background,
            ],
            dim=-1,
        )

    def _gene_log_odds(self, pairs: Tensor, query_background: Tensor) -> Tensor:
        """(queries, 4): as a posterior whose prior counts for exp(log_prior) receptors of the background."""
        binders = pairs.shape[1]
        among = pairs[..., _GENES].sum(1) / SAME
        general = (query_background[..., _GENES] / SAME + 1 / 256) / (1 + 1 / 4)
        prior = self.log_prior.exp()
        return torch.log((among + prior * general) / ((binders + prior) * general))
