"""The denoiser: equal to the published code's numbers, equivariant, and independent of padding."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from molfeat_diffusion.config import NetworkConfig
from molfeat_diffusion.data.molecules import VOCABULARIES, DenseMolecules
from molfeat_diffusion.models.diffusion import MiDi
from molfeat_diffusion.models.layers import Prediction
from molfeat_diffusion.models.network import Compat, Denoiser

Reference = Callable[[str], dict[str, Tensor]]
Molecules = Callable[..., DenseMolecules]

TINY = NetworkConfig(
    layers=2,
    mlp_atoms=17,
    mlp_bonds=18,
    mlp_global=19,
    mlp_positions=16,
    width_atoms=20,
    width_bonds=21,
    width_global=22,
    heads=5,
    feed_forward_atoms=23,
    feed_forward_bonds=24,
)
INPUTS = ("X", "charges", "E", "pos", "y", "node_mask")


def tiny_network(arrays: dict[str, Tensor], compat: Compat, dtype: torch.dtype) -> Denoiser:
    net = Denoiser(TINY, elements=4, charges=3, compat=compat).eval()
    weights = {key[3:]: value for key, value in arrays.items() if key.startswith("sd/")}
    net.load_state_dict(weights, strict=True)
    return net.to(dtype)


def largest_error(
    prediction: Prediction, arrays: dict[str, Tensor], prefix: str, mask: Tensor
) -> float:
    pairs = mask[:, :, None] & mask[:, None] & ~torch.eye(mask.shape[1], dtype=torch.bool)
    return max(
        float((ours - arrays[f"{prefix}/out.{name}"])[real].abs().max())
        for ours, name, real in (
            (prediction.atoms, "X", mask),
            (prediction.charges, "charges", mask),
            (prediction.bonds, "E", pairs),
            (prediction.positions, "pos", mask),
        )
    )


@pytest.mark.parametrize(
    ("compat", "batch"), [("midi", "A"), ("midi", "B"), ("midi", "C"), ("none", "B")]
)
@pytest.mark.parametrize(
    ("precision", "dtype", "limit"), [("f64", torch.float64, 1e-9), ("f32", torch.float32, 1e-5)]
)
def test_outputs_are_the_published_codes(
    reference: Reference,
    compat: Compat,
    batch: str,
    precision: str,
    dtype: torch.dtype,
    limit: float,
) -> None:
    arrays = reference("tiny")
    net = tiny_network(arrays, compat, dtype)
    values = [arrays[f"{batch}/input/{name}"] for name in INPUTS]
    values = [v.to(dtype) if v.is_floating_point() else v for v in values]
    with torch.no_grad():
        prediction = net(*values)
    error = largest_error(prediction, arrays, f"{batch}/{precision}", values[-1])
    assert error < limit


@pytest.mark.parametrize("layer", [0, 1, 2])
def test_every_layers_features_are_the_published_codes(reference: Reference, layer: int) -> None:
    arrays = reference("tiny")
    net = tiny_network(arrays, "midi", torch.float64)
    values = [arrays[f"A/input/{name}"] for name in INPUTS]
    with torch.no_grad():
        found = net.features(*values, layer=layer)
    prefix = "A/f64/in" if layer == 0 else f"A/f64/layer{layer - 1}"
    mask = values[-1]
    pairs = mask[:, :, None] & mask[:, None]
    assert (found.atoms - arrays[f"{prefix}.X"])[mask].abs().max() < 1e-9
    assert (found.pairs - arrays[f"{prefix}.E"])[pairs].abs().max() < 1e-9
    assert (found.globals - arrays[f"{prefix}.y"]).abs().max() < 1e-9
    assert (found.positions - arrays[f"{prefix}.pos"])[mask].abs().max() < 1e-9


def test_the_published_code_depends_on_padding_and_ours_does_not(reference: Reference) -> None:
    """Batch C is batch B with padding."""
    arrays = reference("tiny")
    padded = [arrays[f"C/input/{name}"] for name in INPUTS]
    real = padded[-1].shape[1]
    with torch.no_grad():
        ours = tiny_network(arrays, "none", torch.float64)(*padded)
        theirs = tiny_network(arrays, "midi", torch.float64)(*padded)
    n = arrays["B/input/X"].shape[1]
    assert n < real
    assert (ours.atoms[:, :n] - arrays["B/f64/out.X"]).abs().max() < 1e-9
    assert (ours.positions[:, :n] - arrays["B/f64/out.pos"]).abs().max() < 1e-9
    assert (theirs.positions[:, :n] - arrays["B/f64/out.pos"]).abs().max() > 1e-3


@pytest.mark.parametrize(
    ("vocabulary", "layers", "parameters"),
    [
        ("qm9_no_h", 10, 20_082_424),
        ("qm9", 12, 24_063_771),
        ("geom_no_h", 12, 24_070_440),
        ("geom", 12, 24_070_953),
    ],
)
def test_parameter_counts_are_the_published_ones(
    vocabulary: str, layers: int, parameters: int
) -> None:
    words = VOCABULARIES[vocabulary]
    with torch.device("meta"):
        net = Denoiser(
            NetworkConfig(layers=layers), elements=len(words.elements), charges=len(words.charges)
        )
    assert sum(p.numel() for p in net.parameters()) == parameters


def predict(model: MiDi, batch: DenseMolecules) -> Prediction:
    with torch.no_grad():
        return model.predict(batch, torch.full((len(batch.mask),), 7))


def test_a_molecule_is_the_same_alone_padded_and_in_a_batch(
    model: MiDi, molecules: Molecules
) -> None:
    together = molecules(2, 5, 9, padded_to=12)
    all_of_them = predict(model, together)
    for index, n in enumerate((2, 5, 9)):
        alone = DenseMolecules(
            positions=together.positions[index : index + 1, :n],
            atoms=together.atoms[index : index + 1, :n],
            charges=together.charges[index : index + 1, :n],
            bonds=together.bonds[index : index + 1, :n, :n],
            mask=together.mask[index : index + 1, :n],
        )
        one = predict(model, alone)
        assert (one.atoms[0] - all_of_them.atoms[index, :n]).abs().max() < 1e-9
        assert (one.bonds[0] - all_of_them.bonds[index, :n, :n]).abs().max() < 1e-9
        assert (one.positions[0] - all_of_them.positions[index, :n]).abs().max() < 1e-9


def test_permuting_the_atoms_permutes_the_outputs(model: MiDi, molecules: Molecules) -> None:
    batch = molecules(7, 7)
    order = torch.randperm(7, generator=torch.Generator().manual_seed(1))
    permuted = DenseMolecules(
        positions=batch.positions[:, order],
        atoms=batch.atoms[:, order],
        charges=batch.charges[:, order],
        bonds=batch.bonds[:, order][:, :, order],
        mask=batch.mask,
    )
    before, after = predict(model, batch), predict(model, permuted)
    assert (after.atoms - before.atoms[:, order]).abs().max() < 1e-10
    assert (after.bonds - before.bonds[:, order][:, :, order]).abs().max() < 1e-10
    assert (after.positions - before.positions[:, order]).abs().max() < 1e-10


@pytest.mark.parametrize("mirrored", [False, True])
def test_rotating_or_mirroring_does_so_to_the_positions_and_nothing_else(
    model: MiDi, molecules: Molecules, mirrored: bool
) -> None:
    batch = molecules(4, 9)
    turn, _ = torch.linalg.qr(
        torch.randn(3, 3, generator=torch.Generator().manual_seed(2)).double()
    )
    if (torch.linalg.det(turn) < 0) != mirrored:
        turn = -turn
    before = predict(model, batch)
    after = predict(model, batch._replace(positions=batch.positions @ turn))
    assert (after.positions - before.positions @ turn).abs().max() < 1e-10
    for name in ("atoms", "charges", "bonds"):
        assert (getattr(after, name) - getattr(before, name)).abs().max() < 1e-10
    assert (before.positions - after.positions).abs().max() > 1e-2  # it did turn


def test_outputs_are_centred_symmetric_and_zero_where_there_is_nothing(
    model: MiDi, molecules: Molecules
) -> None:
    batch = molecules(1, 3, 6, padded_to=8)
    found = predict(model, batch)
    assert found.positions.sum(1).abs().max() < 1e-12
    assert torch.equal(found.bonds, found.bonds.transpose(1, 2))
    assert (found.bonds[~batch.pair_mask] == 0).all()
    for value in found:
        assert (value[~batch.mask] == 0).all()
        assert value.isfinite().all()


def test_features_stop_after_the_layer_asked_for(model: MiDi, molecules: Molecules) -> None:
    """The layers behind it are not run: they may hold anything."""
    batch = molecules(4)
    values = model.network_input(batch, torch.tensor([3]))
    with torch.no_grad():
        before = model.denoiser.features(*values, layer=1)
        for parameter in model.denoiser.tf_layers[1].parameters():
            parameter.fill_(torch.nan)
        after = model.denoiser.features(*values, layer=1)
    assert torch.equal(before.atoms, after.atoms)


def test_gradients_are_finite_where_distances_are_zero(model: MiDi, molecules: Molecules) -> None:
    """Two atoms at one place, and one at the centre."""
    batch = molecules(3)
    positions = torch.zeros(1, 3, 3).double().requires_grad_()
    values = list(model.network_input(batch, torch.tensor([3])))
    values[3] = positions
    sum(value.sum() for value in model.denoiser(*values)).backward()
    assert positions.grad is not None
    assert positions.grad.isfinite().all()
