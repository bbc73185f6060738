"""The diffusion model: corrupt, predict, loss, sample (Vignac et al. 2023, Sec. 3)."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from molfeat_diffusion.config import LossConfig, ModelConfig
from molfeat_diffusion.data.molecules import VOCABULARIES, DenseMolecules, Marginals
from molfeat_diffusion.models.layers import Prediction
from molfeat_diffusion.models.network import Compat, Denoiser
from molfeat_diffusion.models.noise import (
    ATOMS,
    BONDS,
    CHARGES,
    POSITIONS,
    Randomness,
    Schedule,
    centred,
    draw_classes,
    noised_probabilities,
    reverse_probabilities,
)
from priors_shared.errors import UserError

DISTORTED = 0.2
"""Fraction of the molecules whose positions `TrainConfig.distortion` moves (FlowMol3)."""


class LossTerms(NamedTuple):
    """The loss' terms, not weighted."""

    positions: Float[Tensor, ""]
    atoms: Float[Tensor, ""]
    charges: Float[Tensor, ""]
    bonds: Float[Tensor, ""]

    def total(self, weights: LossConfig) -> Float[Tensor, ""]:
        """The weighted sum."""
        return (
            weights.weight_positions * self.positions
            + weights.weight_atoms * self.atoms
            + weights.weight_charges * self.charges
            + weights.weight_bonds * self.bonds
        )


def loss_terms(prediction: Prediction, clean: DenseMolecules) -> LossTerms:
    """Mean squared error of positions; cross-entropies over atoms, and over ordered pairs of them."""
    atoms, pairs = clean.mask, clean.pair_mask
    squares = ((prediction.positions - clean.positions) ** 2)[atoms]
    # A batch of single atoms has no pair: no loss, and not the NaN of an empty mean.
    bonds = F.cross_entropy(prediction.bonds[pairs], clean.bonds[pairs], reduction="sum")
    return LossTerms(
        positions=squares.mean(),
        atoms=F.cross_entropy(prediction.atoms[atoms], clean.atoms[atoms]),
        charges=F.cross_entropy(prediction.charges[atoms], clean.charges[atoms]),
        bonds=bonds / pairs.sum().clamp(min=1),
    )


class MiDi(nn.Module):
    """A diffusion model of molecules: noise, denoiser, and the marginals that the noise draws from.

    Args:
        config: vocabulary, network, noise.
        marginals: of the training data; None where they are not known (some published checkpoints): then
            features can be had, of noise that draws classes uniformly, but no samples.
        sizes: how many training molecules have 0, 1, 2, ... atoms; None where that is not known.
        compat: see `network.Denoiser`.
    """

    def __init__(
        self,
        config: ModelConfig,
        *,
        marginals: Marginals | None = None,
        sizes: Int[Tensor, " sizes"] | None = None,
        compat: Compat = "none",
    ) -> None:
        super().__init__()
        self.config = config
        self.vocabulary = VOCABULARIES[config.vocabulary]
        counts = {
            "elements": len(self.vocabulary.elements),
            "charges": len(self.vocabulary.charges),
        }
        self.denoiser = Denoiser(config.network, **counts, compat=compat)
        self.schedule = Schedule(config.noise)
        self.knows_marginals = marginals is not None
        self.marginals = marginals or Marginals.uniform(**counts)
        self.sizes = sizes

    @property
    def timesteps(self) -> int:
        """T."""
        return self.config.noise.timesteps

    @property
    def device(self) -> torch.device:
        """Where the network is."""
        return next(self.parameters()).device

    def corrupt(
        self, clean: DenseMolecules, t: Int[Tensor, " batch"], randomness: Randomness
    ) -> DenseMolecules:
        """z_t given the clean molecules; `t` in 0 .. T for each of them (Eq. 5.1 to 5.3)."""
        schedule = self.schedule
        sigma = schedule.sigma(t)[:, None, None]
        kept = schedule.abar(t, POSITIONS)[:, None, None]
        noise = centred(randomness.positions, clean.mask)
        positions = kept * clean.positions.to(kept.dtype) + sigma * noise
        types, charges, bonds = (
            draw_classes(noised_probabilities(classes, schedule.abar(t, column), marginal), uniform)
            for classes, column, marginal, uniform in (
                (clean.atoms, ATOMS, self._marginal("atoms"), randomness.atoms),
                (clean.charges, CHARGES, self._marginal("charges"), randomness.charges),
                (clean.bonds, BONDS, self._marginal("bonds"), randomness.bonds),
            )
        )
        return _masked(positions.to(clean.positions.dtype), types, charges, bonds, clean.mask)

    def predict(
        self, noisy: DenseMolecules, t: Int[Tensor, " batch"], last: Prediction | None = None
    ) -> Prediction:
        """The network's belief about the clean molecules; `last` is the one before, for self-conditioning."""
        return self.denoiser(*self.network_input(noisy, t), last)

    def network_input(
        self, noisy: DenseMolecules, t: Int[Tensor, " batch"]
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
        """The denoiser's arguments, in the dtype of its weights."""
        dtype = next(self.parameters()).dtype
        time = (t[:, None] / self.timesteps).to(dtype)
        one_hot = noisy.one_hot(self.vocabulary, dtype)
        return (*one_hot, noisy.positions.to(dtype), time, noisy.mask)

    def loss(
        self, clean: DenseMolecules, generator: torch.Generator, *, distortion: float = 0.0
    ) -> LossTerms:
        """The loss at one random step 1 .. T per molecule; `generator` draws step and noise.

        With self-conditioning, half of the batches (which, `generator` draws) see a prediction of the same
        noisy molecules, through which no gradient flows; the others see none.

        Args:
            clean: molecules.
            generator: a CPU generator.
            distortion: see `TrainConfig`, in angstrom.
        """
        size, atoms = clean.mask.shape
        t = torch.randint(1, self.timesteps + 1, (size,), generator=generator).to(self.device)
        randomness = Randomness.draw(size, atoms, generator, self.device)
        noisy = self.corrupt(clean, t, randomness)
        if distortion > 0:
            noisy = self._distorted(noisy, t, distortion, generator)
        last = None
        if self.config.network.self_conditioning and torch.rand((), generator=generator) < 0.5:
            with torch.no_grad():
                last = self.predict(noisy, t)
        return loss_terms(self.predict(noisy, t, last), clean)

    def _distorted(
        self,
        noisy: DenseMolecules,
        t: Int[Tensor, " batch"],
        distortion: float,
        generator: torch.Generator,
    ) -> DenseMolecules:
        chosen = torch.rand(len(t), generator=generator) < DISTORTED
        noise = torch.randn(noisy.positions.shape, generator=generator)
        where = chosen.to(t.device) & (2 * t <= self.timesteps)
        moved = noisy.positions + distortion * where[:, None, None] * noise.to(noisy.positions)
        return noisy._replace(positions=centred(moved, noisy.mask))

    def reverse_step(
        self,
        noisy: DenseMolecules,
        prediction: Prediction,
        s: Int[Tensor, " batch"],
        t: Int[Tensor, " batch"],
        randomness: Randomness,
        *,
        temperature: float = 1.0,
    ) -> DenseMolecules:
        """z_s given z_t and the network's belief, for any s < t.

        Positions: the Gaussian posterior with the predicted clean positions. Classes: the sum over the clean
        class of the network's probability times Bayes' posterior. Both use the transition from s to t, of
        however many steps (the published code uses that of a single step). `temperature` divides the
        classes' logits: below 1, likely classes become likelier.
        """
        between = self.schedule.abar_between(s, t, POSITIONS)[:, None, None]
        kept_s = self.schedule.abar(s, POSITIONS)[:, None, None]
        var_s = self.schedule.sigma(s)[:, None, None] ** 2
        var_t = self.schedule.sigma(t)[:, None, None] ** 2
        var_between = var_t - between**2 * var_s
        mean = (between * var_s / var_t) * noisy.positions
        mean = mean + (kept_s * var_between / var_t) * prediction.positions
        spread = (var_between * var_s / var_t).sqrt()
        positions = mean + spread * centred(randomness.positions, noisy.mask)
        types, charges, bonds = (
            draw_classes(
                reverse_probabilities(
                    current,
                    (logits.double() / temperature).softmax(-1),
                    self.schedule.abar(s, column),
                    self.schedule.abar(t, column),
                    marginal,
                ),
                uniform,
            )
            for current, logits, column, marginal, uniform in (
                (noisy.atoms, prediction.atoms, ATOMS, self._marginal("atoms"), randomness.atoms),
                (
                    noisy.charges,
                    prediction.charges,
                    CHARGES,
                    self._marginal("charges"),
                    randomness.charges,
                ),
                (noisy.bonds, prediction.bonds, BONDS, self._marginal("bonds"), randomness.bonds),
            )
        )
        return _masked(positions.to(noisy.positions.dtype), types, charges, bonds, noisy.mask)

    @torch.no_grad()
    def sample(
        self,
        sizes: Int[Tensor, " batch"],
        generator: torch.Generator,
        *,
        steps: int | None = None,
        temperature: float = 1.0,
        each: Callable[[], object] = lambda: None,
    ) -> DenseMolecules:
        """Molecules of the given numbers of atoms.

        Args:
            sizes: atoms of each molecule.
            generator: a CPU generator.
            steps: reverse steps; None: T (ancestral). With fewer, each spans several of the T.
            temperature: of the classes' probabilities; 1: as published.
            each: called after each step.

        Raises:
            UserError: the marginals are not known, or `steps` is not in 1 .. T.
        """
        steps = self.check_sampling(steps)
        device = self.device
        mask = (torch.arange(int(sizes.max()))[None] < sizes[:, None]).to(device)
        shape = (len(sizes), mask.shape[1])
        randomness = Randomness.draw(*shape, generator, device)
        types, charges, bonds = (
            draw_classes(marginal.to(uniform).expand(*uniform.shape, -1), uniform)
            for marginal, uniform in (
                (self._marginal("atoms"), randomness.atoms),
                (self._marginal("charges"), randomness.charges),
                (self._marginal("bonds"), randomness.bonds),
            )
        )
        dtype = next(self.parameters()).dtype
        positions = centred(randomness.positions, mask).to(dtype)
        z = _masked(positions, types, charges, bonds, mask)
        times = torch.linspace(self.timesteps, 0, steps + 1).round().long().tolist()
        last = None
        for now, then in pairwise(times):
            t, s = (torch.full((len(sizes),), step, device=device) for step in (now, then))
            randomness = Randomness.draw(*shape, generator, device)
            last = self.predict(z, t, last)
            z = self.reverse_step(z, last, s, t, randomness, temperature=temperature)
            each()
        return z

    def check_sampling(self, steps: int | None) -> int:
        """The number of reverse steps, where sampling is possible.

        Raises:
            UserError: the marginals are not known, or `steps` is not in 1 .. T.
        """
        if not self.knows_marginals:
            raise UserError(
                "this checkpoint holds no marginals, and sampling starts from them: import it again with "
                "molfeat-diffusion import-midi ... --data, or train a model"
            )
        steps = self.timesteps if steps is None else steps
        if not 1 <= steps <= self.timesteps:
            raise UserError(f"--steps {steps}: must be in 1 .. {self.timesteps}")
        return steps

    def draw_sizes(self, count: int, generator: torch.Generator) -> Int[Tensor, " batch"]:
        """Numbers of atoms, as frequent as in the training data.

        Raises:
            UserError: the checkpoint does not say how large its training molecules were.
        """
        if self.sizes is None:
            raise UserError(
                "this checkpoint holds no distribution of molecule sizes: give --atoms, or import it again "
                "with molfeat-diffusion import-midi ... --data"
            )
        return torch.multinomial(self.sizes.double(), count, replacement=True, generator=generator)

    def _marginal(self, name: str) -> Tensor:
        return getattr(self.marginals, name).to(self.device)


def _masked(
    positions: Float[Tensor, "batch atoms 3"],
    atoms: Int[Tensor, "batch atoms"],
    charges: Int[Tensor, "batch atoms"],
    bonds: Int[Tensor, "batch atoms atoms"],
    mask: Bool[Tensor, "batch atoms"],
) -> DenseMolecules:
    """A batch with zero padding and diagonal, and one draw for both directions of a pair."""
    found = DenseMolecules(
        positions=centred(positions, mask),
        atoms=atoms * mask,
        charges=charges * mask,
        bonds=bonds,
        mask=mask,
    )
    upper = bonds.triu(1)
    return found._replace(bonds=(upper + upper.transpose(1, 2)) * found.pair_mask)
