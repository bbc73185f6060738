"""The noise model: the published schedules, and probabilities that agree with brute force."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from molfeat_diffusion.config import UNIFORM, NoiseConfig
from molfeat_diffusion.models.noise import (
    ATOMS,
    BONDS,
    CHARGES,
    POSITIONS,
    Randomness,
    Schedule,
    centred,
    cosine_betas,
    draw_classes,
    noised_probabilities,
    reverse_probabilities,
    transition,
)

Reference = Callable[[str], dict[str, Tensor]]
ADAPTIVE = NoiseConfig()
COLUMNS = [POSITIONS, ATOMS, CHARGES, BONDS]
MARGINAL = torch.tensor([0.51, 0.3, 0.12, 0.07], dtype=torch.float64)


@pytest.mark.parametrize(
    ("name", "config"),
    [
        ("adaptive500", ADAPTIVE),
        ("uniform500", UNIFORM),
        ("adaptive110", NoiseConfig(timesteps=110)),
    ],
)
def test_schedules_are_the_published_ones(
    reference: Reference, name: str, config: NoiseConfig
) -> None:
    arrays = reference("noise")
    nu = (config.nu_positions, config.nu_atoms, config.nu_charges, config.nu_bonds)
    betas = cosine_betas(config.timesteps, nu)
    schedule = Schedule(config)
    steps = torch.arange(config.timesteps + 1)
    assert (betas - arrays[f"sched/{name}/betas"][:, :4]).abs().max() < 1e-12
    for column in COLUMNS:
        expected = arrays[f"sched/{name}/alphas_bar"][:, column]
        assert (schedule.abar(steps, column) - expected).abs().max() < 1e-12
    sigma = arrays[f"sched/{name}/sigma_bar"][:, POSITIONS]
    assert (schedule.sigma(steps) - sigma).abs().max() < 1e-12


def test_low_noise_levels_are_those_of_the_design() -> None:
    """The level at which features are taken: sigma in angstrom, share of atoms drawn anew."""
    t = torch.tensor([10, 50, 100])
    schedule = Schedule(ADAPTIVE)
    assert schedule.sigma(t).tolist() == pytest.approx([0.0024, 0.0176, 0.0551], abs=5e-5)
    redrawn = 1 - schedule.abar(t, ATOMS)
    assert redrawn.tolist() == pytest.approx([0.002, 0.029, 0.103], abs=5e-4)
    assert Schedule(UNIFORM).sigma(t[:2]).tolist() == pytest.approx([0.064, 0.238], abs=5e-3)


def test_transitions_are_the_published_ones(reference: Reference) -> None:
    arrays = reference("noise")
    t = arrays["Q/t"][:, 0]
    schedule = Schedule(ADAPTIVE)
    for name, column, key in (("X", ATOMS, "x"), ("charges", CHARGES, "c"), ("E", BONDS, "e")):
        marginal = arrays[f"marg/{key}"].double()
        step = transition(schedule.abar_between(t - 1, t, column), marginal)
        whole = transition(schedule.abar(t, column), marginal)
        # The reference clamps beta at the last step for abar, not for the one step's matrix.
        last = t == schedule.timesteps
        assert (step - arrays[f"Q/Qt/{name}"])[~last].abs().max() < 1e-6
        assert (step - arrays[f"Q/Qt/{name}"])[last].abs().max() < 2e-4
        assert (whole - arrays[f"Q/Qtb/{name}"]).abs().max() < 1e-6


@pytest.mark.parametrize("column", [ATOMS, CHARGES, BONDS])
def test_transitions_compose_and_their_rows_sum_to_one(column: int) -> None:
    schedule = Schedule(NoiseConfig(timesteps=40))
    product = transition(schedule.abar(torch.tensor([0]), column), MARGINAL)[0]
    for t in range(1, 41):
        now = torch.tensor([t])
        product = product @ transition(schedule.abar_between(now - 1, now, column), MARGINAL)[0]
        whole = transition(schedule.abar(now, column), MARGINAL)[0]
        assert (whole - product).abs().max() < 1e-12
        assert (whole.sum(-1) - 1).abs().max() < 1e-12


@pytest.mark.parametrize("stride", [1, 7, 30])
def test_reverse_probabilities_are_bayes_by_brute_force(stride: int) -> None:
    """For every step, every current class and a soft belief; a stride's transition is composed of steps."""
    schedule = Schedule(NoiseConfig(timesteps=30))
    belief = torch.tensor([0.6, 0.05, 0.3, 0.05], dtype=torch.float64)
    for last in range(stride, 31):
        s, t = torch.tensor([last - stride]), torch.tensor([last])
        q_s = transition(schedule.abar(s, BONDS), MARGINAL)[0]
        between = torch.eye(4).double()
        for step in range(last - stride + 1, last + 1):
            now = torch.tensor([step])
            between = between @ transition(schedule.abar_between(now - 1, now, BONDS), MARGINAL)[0]
        for current in range(4):
            expected = torch.zeros(4).double()
            for clean in range(4):
                joint = q_s[clean] * between[:, current]
                expected += belief[clean] * joint / joint.sum()
            found = reverse_probabilities(
                torch.tensor([[current]]),
                belief[None, None],
                schedule.abar(s, BONDS),
                schedule.abar(t, BONDS),
                MARGINAL,
            )
            assert (found[0, 0] - expected).abs().max() < 1e-10


def test_forward_and_reverse_probabilities_are_the_published_ones(reference: Reference) -> None:
    arrays = reference("noise")
    schedule, t = Schedule(ADAPTIVE), arrays["fwd/t_int"][:, 0]
    mask = arrays["fwd/mask"]
    pairs = mask[:, :, None] & mask[:, None] & ~torch.eye(mask.shape[1], dtype=torch.bool)
    for name, key, column, real in (
        ("X", "X", ATOMS, mask),
        ("charges", "c", CHARGES, mask),
        ("E", "E", BONDS, pairs),
    ):
        marginal = arrays[f"marg/{key.lower()}"].double()
        clean = arrays[f"fwd/clean/{name}"]
        kept = schedule.abar(t, column)
        forward = noised_probabilities(clean.argmax(-1), kept, marginal)
        assert (forward - arrays[f"fwd/prob_{key}"])[real].abs().max() < 1e-6
        noisy = arrays[f"fwd/zt/{name}"].argmax(-1)
        before = schedule.abar(t - 1, column)
        beliefs = {
            "val/post_true": clean,
            "rev/prob": arrays[f"rev/pred/{name}"].double().softmax(-1),
        }
        for prefix, belief in beliefs.items():
            found = reverse_probabilities(noisy, belief, before, kept, marginal)
            assert (found - arrays[f"{prefix}_{key}"])[real].abs().max() < 1e-6


def test_a_class_that_the_marginal_lacks_is_never_arrived_at() -> None:
    marginal = torch.tensor([0.7, 0.3, 0.0]).double()
    abar = torch.tensor([0.5]).double()
    found = reverse_probabilities(
        torch.tensor([[0]]), torch.tensor([[[0.0, 0.2, 0.8]]]).double(), abar, abar * 0.5, marginal
    )
    assert found.isfinite().all()
    assert found.sum() == pytest.approx(1)


def test_drawn_classes_have_their_probabilities() -> None:
    probabilities = torch.tensor([0.2, 0.0, 0.5, 0.3]).double()
    uniform = (torch.arange(10_000).double() + 0.5) / 10_000
    drawn = draw_classes(probabilities.expand(10_000, 4), uniform)
    assert (F.one_hot(drawn, 4).double().mean(0) - probabilities).abs().max() < 2e-4
    # The ends: an impossible class is not drawn by rounding.
    last = torch.tensor([0.0, 1 - 1e-9], dtype=torch.float64)
    ends = draw_classes(torch.tensor([0.0, 1.0, 0.0]).double().expand(2, 3), last)
    assert ends.tolist() == [1, 1]


def test_noise_of_zero_centre_has_the_variance_of_that() -> None:
    """sigma^2 (1 - 1/n) per coordinate."""
    mask = torch.ones(20_000, 4, dtype=torch.bool)
    mask[:, 3] = False
    randomness = Randomness.draw(20_000, 4, torch.Generator().manual_seed(0))
    noise = centred(randomness.positions, mask)
    assert noise.sum(1).abs().max() < 1e-12
    assert (noise[:, 3] == 0).all()
    assert float(noise[:, :3].var()) == pytest.approx(1 - 1 / 3, rel=0.02)
    assert torch.equal(randomness.bonds, randomness.bonds.transpose(1, 2))


def test_a_cast_network_keeps_its_schedule_in_float64() -> None:
    schedule = Schedule(ADAPTIVE).to(torch.float16)
    assert schedule.log_abar.dtype == torch.float64
