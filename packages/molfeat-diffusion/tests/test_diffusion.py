"""The diffusion model: steps and loss against the published numbers, and what sampling keeps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from molfeat_diffusion.config import LossConfig, ModelConfig, NoiseConfig
from molfeat_diffusion.data.molecules import DenseMolecules, Marginals
from molfeat_diffusion.models.diffusion import MiDi, loss_terms
from molfeat_diffusion.models.layers import Prediction
from molfeat_diffusion.models.noise import Randomness
from priors_shared.errors import UserError

Reference = Callable[[str], dict[str, Tensor]]
Molecules = Callable[..., DenseMolecules]


def molecules_of(arrays: dict[str, Tensor], kind: str) -> DenseMolecules:
    mask = arrays["fwd/mask"]
    pairs = mask[:, :, None] & mask[:, None] & ~torch.eye(mask.shape[1], dtype=torch.bool)
    return DenseMolecules(
        positions=arrays[f"{kind}/pos"].double(),
        atoms=arrays[f"{kind}/X"].argmax(-1) * mask,
        charges=arrays[f"{kind}/charges"].argmax(-1) * mask,
        bonds=arrays[f"{kind}/E"].argmax(-1) * pairs,
        mask=mask,
    )


def prediction_of(arrays: dict[str, Tensor]) -> Prediction:
    names = {"atoms": "X", "charges": "charges", "bonds": "E", "positions": "pos"}
    return Prediction(**{ours: arrays[f"rev/pred/{its}"].double() for ours, its in names.items()})


def no_randomness(batch: DenseMolecules, positions: Tensor | None = None) -> Randomness:
    shape = batch.mask.shape
    return Randomness(
        positions=torch.zeros(*shape, 3).double() if positions is None else positions.double(),
        atoms=torch.zeros(shape).double(),
        charges=torch.zeros(shape).double(),
        bonds=torch.zeros(*shape, shape[1]).double(),
    )


@pytest.fixture
def published(reference: Reference, small: ModelConfig) -> tuple[MiDi, dict[str, Tensor]]:
    """A model with the parity file's marginals and schedule; its network is not used."""
    arrays = reference("noise")
    marginals = Marginals(
        atoms=arrays["marg/x"].double(),
        charges=arrays["marg/c"].double(),
        bonds=arrays["marg/e"].double(),
    )
    return MiDi(replace(small, noise=NoiseConfig()), marginals=marginals), arrays


def test_the_forward_step_is_the_published_one(published: tuple[MiDi, dict[str, Tensor]]) -> None:
    model, arrays = published
    clean = molecules_of(arrays, "fwd/clean")
    randomness = no_randomness(clean, arrays["fwd/noise_raw"])
    noisy = model.corrupt(clean, arrays["fwd/t_int"][:, 0], randomness)
    assert (noisy.positions - arrays["fwd/zt/pos"]).abs().max() < 1e-6


def test_the_reverse_step_is_the_published_one(published: tuple[MiDi, dict[str, Tensor]]) -> None:
    model, arrays = published
    noisy = molecules_of(arrays, "fwd/zt")
    t = arrays["fwd/t_int"][:, 0]
    for noise, expected in (
        (None, "rev/pos_mean"),
        (arrays["fwd/noise_raw"], "rev/pos_with_noise"),
    ):
        step = no_randomness(noisy, noise)
        found = model.reverse_step(noisy, prediction_of(arrays), t - 1, t, step)
        assert (found.positions - arrays[expected])[noisy.mask].abs().max() < 1e-6


@pytest.mark.parametrize(("name", "weight"), [("geom_adapt", 5.0), ("default", 3.0)])
def test_the_loss_is_the_published_one(reference: Reference, name: str, weight: float) -> None:
    arrays = reference("noise")
    found = loss_terms(prediction_of(arrays), molecules_of(arrays, "fwd/clean"))
    weights = LossConfig(weight_positions=weight)
    terms = (weight * found.positions, 0.4 * found.atoms, found.charges, 2.0 * found.bonds)
    expected = arrays[f"loss/{name}"].tolist()
    assert [float(found.total(weights)), *map(float, terms)] == pytest.approx(expected, abs=1e-5)


def test_a_stride_is_as_good_as_its_steps_for_positions(model: MiDi, molecules: Molecules) -> None:
    """The posterior's mean at s given t: the same through the steps between, given the clean positions.

    z_s given z_t and r_0 is a Gaussian, so means (without noise) need not compose; its variance must be that
    of q(z_s | r_0) less what z_t tells: checked against the joint Gaussian's formula.
    """
    batch = molecules(4)
    t, s = torch.tensor([18]), torch.tensor([5])
    classes = {
        f: torch.zeros(1, 4, 5 if f == "atoms" else 3).double() for f in ("atoms", "charges")
    }
    bonds = torch.zeros(1, 4, 4, 5).double()
    prediction = Prediction(**classes, bonds=bonds, positions=batch.positions)
    noisy = model.corrupt(batch, t, no_randomness(batch, torch.randn(1, 4, 3)))
    unit = torch.tensor([[[1.0, 0, 0], [-1.0, 0, 0], [0, 0, 0], [0, 0, 0]]])
    mean = model.reverse_step(noisy, prediction, s, t, no_randomness(batch)).positions
    moved = model.reverse_step(noisy, prediction, s, t, no_randomness(batch, unit)).positions
    abar_t, abar_s = model.schedule.abar(t, 0), model.schedule.abar(s, 0)
    var_t, var_s = model.schedule.sigma(t) ** 2, model.schedule.sigma(s) ** 2
    covariance = abar_t / abar_s * var_s
    gain = covariance / var_t
    expected = abar_s * batch.positions + gain * (noisy.positions - abar_t * batch.positions)
    assert (mean - expected).abs().max() < 1e-10
    spread = (var_s - covariance**2 / var_t).sqrt()
    assert (moved - mean - spread * unit).abs().max() < 1e-10


def test_corruption_keeps_the_centre_symmetry_and_padding(
    model: MiDi, molecules: Molecules
) -> None:
    batch = molecules(2, 5, 9, padded_to=11)
    randomness = Randomness.draw(3, 11, torch.Generator().manual_seed(0))
    for step in (0, 1, 10, 20):
        noisy = model.corrupt(batch, torch.full((3,), step), randomness)
        assert noisy.positions.sum(1).abs().max() < 1e-12
        assert torch.equal(noisy.bonds, noisy.bonds.transpose(1, 2))
        assert (noisy.bonds[~batch.pair_mask] == 0).all()
        for name in ("positions", "atoms", "charges"):
            assert (getattr(noisy, name)[~batch.mask] == 0).all()


def test_corruption_redraws_as_many_classes_as_the_schedule_says(
    model: MiDi, molecules: Molecules
) -> None:
    batch = molecules(*[30] * 60)
    t = torch.full((60,), 10)
    noisy = model.corrupt(batch, t, Randomness.draw(60, 30, torch.Generator().manual_seed(0)))
    kept = float(model.schedule.abar(t[:1], 1)) * 1.0
    stayed = kept + (1 - kept) * model.marginals.atoms[batch.atoms].mean()
    assert float((noisy.atoms == batch.atoms).double().mean()) == pytest.approx(
        float(stayed), abs=0.03
    )


def test_bond_loss_of_single_atoms_is_zero_and_not_nan(model: MiDi, molecules: Molecules) -> None:
    with torch.no_grad():
        found = model.loss(molecules(1, 1), torch.Generator().manual_seed(0))
    assert float(found.bonds) == 0
    assert all(term.isfinite() for term in found)


@pytest.mark.parametrize("steps", [None, 5, 1])
def test_samples_are_centred_symmetric_and_repeatable(model: MiDi, steps: int | None) -> None:
    sizes = torch.tensor([1, 3, 6])
    found = model.sample(sizes, torch.Generator().manual_seed(4), steps=steps)
    again = model.sample(sizes, torch.Generator().manual_seed(4), steps=steps)
    assert found.mask.sum(1).tolist() == [1, 3, 6]
    assert found.positions.sum(1).abs().max() < 1e-9
    assert torch.equal(found.bonds, found.bonds.transpose(1, 2))
    assert (found.bonds[~found.pair_mask] == 0).all()
    assert torch.equal(found.positions, again.positions)
    assert torch.equal(found.bonds, again.bonds)


@pytest.mark.parametrize("steps", [None, 4])
def test_with_a_perfect_network_sampling_ends_at_the_molecule(
    model: MiDi, molecules: Molecules, steps: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the stride: with Q of one step for several, classes would not arrive."""
    clean = molecules(6)
    certain = 50.0
    prediction = Prediction(
        **{
            name: certain * value
            for name, value in zip(
                ("atoms", "charges", "bonds"),
                clean.one_hot(model.vocabulary, torch.float64),
                strict=True,
            )
        },
        positions=clean.positions,
    )
    monkeypatch.setattr(model, "predict", lambda noisy, t, last: prediction)
    found = model.sample(torch.tensor([6]), torch.Generator().manual_seed(0), steps=steps)
    # Step 0 is not exactly free of noise.
    sigma = float(model.schedule.sigma(torch.tensor([0])))
    assert (found.positions - clean.positions).abs().max() < 6 * sigma
    assert torch.equal(found.atoms, clean.atoms)
    assert torch.equal(found.bonds, clean.bonds)


def test_without_marginals_or_sizes_there_is_no_sampling(small: ModelConfig) -> None:
    model = MiDi(small)
    generator = torch.Generator().manual_seed(0)
    with pytest.raises(UserError, match="no marginals"):
        model.sample(torch.tensor([3]), generator)
    with pytest.raises(UserError, match="give --atoms"):
        model.draw_sizes(3, generator)


def test_sizes_are_those_of_the_training_data(model: MiDi) -> None:
    drawn = model.draw_sizes(4000, torch.Generator().manual_seed(0)).bincount(minlength=6) / 4000
    assert drawn.tolist() == pytest.approx([0, 0, 0, 0.2, 0.5, 0.3], abs=0.03)


def test_one_molecule_is_memorised(small: ModelConfig, molecules: Molecules) -> None:
    """From little noise, the trained network gives back the molecule; the untrained one does not."""
    clean = molecules(5)
    copies = DenseMolecules(*(value.expand(8, *value.shape[1:]) for value in clean))
    torch.manual_seed(0)
    network = replace(small.network, dropout=0.0)
    model = MiDi(replace(small, network=network), marginals=Marginals.uniform(5, 3)).double()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    generator = torch.Generator().manual_seed(0)
    noisy = model.corrupt(clean, torch.tensor([2]), Randomness.draw(1, 5, generator))

    def wrong() -> int:
        with torch.no_grad():
            found = model.predict(noisy, torch.tensor([2]))
        bonds = found.bonds.argmax(-1) * clean.pair_mask != clean.bonds
        return int((found.atoms.argmax(-1) != clean.atoms).sum() + bonds.sum())

    assert wrong() > 0
    for _ in range(200):
        loss = model.loss(copies, generator).total(LossConfig())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert wrong() == 0


@pytest.fixture
def conditioned(small: ModelConfig, model: MiDi) -> MiDi:
    """A model with self-conditioning."""
    torch.manual_seed(0)
    config = replace(small, network=replace(small.network, self_conditioning=True, dropout=0.0))
    return MiDi(config, marginals=model.marginals, sizes=model.sizes).double()


def test_self_conditioning_reads_the_last_prediction_and_stays_equivariant(
    conditioned: MiDi, molecules: Molecules
) -> None:
    noisy, t = molecules(5, 3), torch.tensor([7, 7])
    last = conditioned.predict(noisy, t)
    found = conditioned.predict(noisy, t, last)
    assert not torch.allclose(found.bonds, last.bonds)
    turn = torch.linalg.qr(torch.randn(3, 3, dtype=torch.float64))[0]
    turned = conditioned.predict(
        noisy._replace(positions=noisy.positions @ turn),
        t,
        last._replace(positions=last.positions @ turn),
    )
    assert torch.allclose(turned.bonds, found.bonds, atol=1e-9)
    assert torch.allclose(turned.positions, found.positions @ turn, atol=1e-9)


def test_no_gradient_flows_through_the_last_prediction(
    conditioned: MiDi, molecules: Molecules, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    predict = conditioned.predict

    def watched(noisy: DenseMolecules, t: Tensor, last: Prediction | None = None) -> Prediction:
        seen.append(last)
        return predict(noisy, t, last)

    monkeypatch.setattr(conditioned, "predict", watched)
    for seed in range(12):
        conditioned.loss(molecules(4), torch.Generator().manual_seed(seed))
    given = [last for last in seen if last is not None]
    # Of 12 batches about half; each of these predicts twice.
    assert 2 <= len(given) <= 10
    assert len(seen) == 12 + len(given)
    assert not any(last.positions.requires_grad for last in given)


def test_distortion_moves_some_molecules_of_the_last_half_and_keeps_their_centres(
    model: MiDi, molecules: Molecules
) -> None:
    noisy, t = molecules(*[5] * 400), torch.tensor([3, 18] * 200)
    found = model._distorted(noisy, t, 0.5, torch.Generator().manual_seed(0))
    moved = (found.positions - noisy.positions).abs().amax((1, 2)) > 1e-6
    assert not moved[1::2].any()
    assert float(moved[::2].double().mean()) == pytest.approx(0.2, abs=0.08)
    assert found.positions.sum(1).abs().max() < 1e-9
    spread = (found.positions - noisy.positions)[moved].std()
    assert float(spread) == pytest.approx(0.5 * 0.8**0.5, rel=0.1)


def test_low_temperature_takes_the_likeliest_class(model: MiDi, molecules: Molecules) -> None:
    """One step from T to 0: at temperature 1 classes are drawn, near 0 they are the network's first choice."""
    noisy = molecules(*[6] * 30)
    s, t = torch.zeros(30, dtype=torch.long), torch.full((30,), model.timesteps)
    prediction = model.predict(noisy, t)
    drawn = Randomness.draw(30, 6, torch.Generator().manual_seed(0))
    agree = []
    for temperature in (1.0, 0.01):
        found = model.reverse_step(noisy, prediction, s, t, drawn, temperature=temperature)
        agree.append(float((found.atoms == prediction.atoms.argmax(-1)).double().mean()))
    assert agree[0] < 0.9 < agree[1]
