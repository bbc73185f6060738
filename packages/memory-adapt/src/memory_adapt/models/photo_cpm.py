"""CPM on the features of a frozen encoder (Ren et al. 2021; see `cpm.py`), for photos.

    c_t = LSTM(z_1 .. z_t)                               images only, never labels
    h, s, beta', gamma' = readout(c_t)                   all 0 at the start
    x' = z + h
    logit_k = tau cos(e^s x', e^s p_k)                   p_k: running mean of x'

Deviations from `cpm.py`: the fused feature adds to z where there two gates mix, and the metric is the cosine, so
that the learner begins as the whitened centroid classifier.
"""

from __future__ import annotations

from jaxtyping import Float, Int
from torch import Tensor, nn

from memory_adapt.config import PhotoCPMConfig
from memory_adapt.models.flops import linear_flops, lstm_flops
from memory_adapt.models.interface import State
from memory_adapt.models.opn import running_prototypes, scores_from_distances
from memory_adapt.models.photo_opn import CountedCosine
from memory_adapt.models.photos import PhotoLearner


class PhotoCPM(PhotoLearner):
    """Contextual prototypical memory on projected features.

    state: that of `PhotoLearner`, and the context's "hidden", "cell" (batch, hidden).
    """

    config: PhotoCPMConfig

    def __init__(self, config: PhotoCPMConfig) -> None:
        super().__init__(config)
        self.context = nn.LSTM(config.width, config.hidden)
        self.sizes = (config.width, config.width, 1, 1)
        self.readout = nn.Linear(config.hidden, sum(self.sizes))
        nn.init.zeros_(self.readout.weight)
        nn.init.zeros_(self.readout.bias)
        self.cosine = CountedCosine()

    def initial_state(self, batch: int) -> State:
        """No context, no prototypes, nothing pending."""
        zeros = self.readout.bias.new_zeros(batch, self.config.hidden)
        return {**super().initial_state(batch), "hidden": zeros, "cell": zeros.clone()}

    def step_flops(self) -> int:
        return super().step_flops() + lstm_flops(self.context) + linear_flops(self.readout)

    def scores(
        self,
        features: Float[Tensor, "time batch features"],
        feedback: Int[Tensor, "time batch"],
        state: State | None = None,
    ) -> tuple[Float[Tensor, "time batch ways"], Float[Tensor, "time batch"], State]:
        """Logits of the slots, logit of "a class not seen before", and the last state."""
        state = self.initial_state(features.shape[1]) if state is None else state
        z = self.project(features)
        before = (state["hidden"].unsqueeze(0), state["cell"].unsqueeze(0))
        context, (hidden, cell) = self.context(z, before)
        h, s, beta, gamma = self.readout(context).split(self.sizes, dim=-1)
        fused, scale = z + h, s.exp()
        prototypes, counts, last = running_prototypes(fused, feedback, state)
        logits = self.cosine(
            scale * fused, scale.unsqueeze(2) * prototypes, counts, self.log_tau.exp()
        )
        logits, unknown = scores_from_distances(
            -logits, counts > 0, self.beta + beta.squeeze(-1), self.gamma + gamma.squeeze(-1).exp()
        )
        return logits, unknown, {**last, "hidden": hidden.squeeze(0), "cell": cell.squeeze(0)}
