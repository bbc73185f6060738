"""The whole-sequence ConvLSTM against the equations, one step at a time."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from memory_adapt.config import CLLSTMConfig
from memory_adapt.models import convlstm
from memory_adapt.models.cl_lstm import CLLSTM
from memory_adapt.models.convlstm import ConvLSTM, convlstm_step

TIME, BATCH, IN, CHANNELS, SIZE = 5, 3, 2, 4, 7


def layer_of(seed: int = 0, dtype: torch.dtype = torch.float64, **options: Any) -> ConvLSTM:
    torch.manual_seed(seed)
    layer = ConvLSTM(IN, CHANNELS, **options).to(dtype)
    with torch.no_grad():  # no parameter at zero or one, where a mistake would not show
        for parameter in layer.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return layer


def unrolled(
    layer: ConvLSTM, inputs: Tensor, state: tuple[Tensor, Tensor] | None
) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """`convlstm_step` at every step, with autograd's own backward."""
    if state is None:
        size = -(-inputs.shape[-1] // layer.input_conv.stride[0])
        state = (inputs.new_zeros(len(inputs[0]), layer.channels, size, size),) * 2
    hidden, cell = state
    hiddens = []
    for step in inputs.unbind(0):
        hidden, cell = convlstm_step(layer, step, hidden, cell)
        hiddens.append(hidden)
    return torch.stack(hiddens), (hidden, cell)


def run(
    forward: Any, layer: ConvLSTM, with_state: bool, uses: str
) -> tuple[list[Tensor], list[Tensor]]:
    """Outputs and the gradients of all inputs and parameters of a loss on the outputs that it uses."""
    generator = torch.Generator().manual_seed(1)
    size = -(-SIZE // layer.input_conv.stride[0])
    dtype = layer.hidden_conv.weight.dtype

    def drawn(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)

    inputs = drawn(TIME, BATCH, IN, SIZE, SIZE).requires_grad_()
    start = [drawn(BATCH, CHANNELS, size, size).requires_grad_() for _ in range(2)]
    hiddens, (hidden, cell) = forward(inputs, (start[0], start[1]) if with_state else None)
    outputs = {"hiddens": hiddens, "hidden": hidden, "cell": cell}
    loss = sum(
        (value * drawn(*value.shape)).sum() for name, value in outputs.items() if name in uses
    )
    wanted = [inputs, *layer.parameters(), *(start if with_state else [])]
    return [hiddens, hidden, cell], list(torch.autograd.grad(loss, wanted))


@pytest.mark.parametrize("uses", ["hiddens", "hiddens hidden cell", "cell", "hidden"])
@pytest.mark.parametrize("with_state", [False, True])
@pytest.mark.parametrize(
    "options",
    [{}, {"stride": 2}, {"gate_norm": True}, {"kernel_size": 5}, {"kernel_size": 1}],
    ids=str,
)
def test_outputs_and_gradients_are_those_of_the_equations(
    options: dict[str, Any], with_state: bool, uses: str
) -> None:
    layer = layer_of(**options)
    outputs, gradients = run(layer, layer, with_state, uses)
    expected, expected_gradients = run(
        lambda x, state: unrolled(layer, x, state), layer, with_state, uses
    )
    torch.testing.assert_close(outputs, expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(gradients, expected_gradients, rtol=1e-10, atol=1e-10)


def test_in_single_precision_outputs_agree() -> None:
    layer = layer_of(dtype=torch.float32)
    outputs, _ = run(layer, layer, True, "hiddens")
    expected, _ = run(lambda x, state: unrolled(layer, x, state), layer, True, "hiddens")
    torch.testing.assert_close(outputs, expected, rtol=0, atol=1e-5)


def test_a_single_step_and_a_single_image() -> None:
    layer = layer_of()
    inputs = torch.randn(1, 1, IN, SIZE, SIZE, dtype=torch.float64)
    for state in (None, (torch.randn(1, CHANNELS, SIZE, SIZE, dtype=torch.float64),) * 2):
        hiddens, (hidden, cell) = layer(inputs, state)
        expected = unrolled(layer, inputs, state)
        torch.testing.assert_close((hiddens, (hidden, cell)), expected)
        layer.zero_grad()
        hiddens.sum().backward()
        assert layer.hidden_conv.weight.grad is not None
        assert layer.hidden_conv.weight.grad.any() == (state is not None)


@pytest.mark.parametrize("options", [{}, {"gate_norm": True}], ids=str)
def test_under_bfloat16_autocast_it_stays_near_the_exact_result(options: dict[str, Any]) -> None:
    layer = layer_of(dtype=torch.float32, **options)
    exact, exact_gradients = run(layer, layer, True, "hiddens cell")
    with torch.autocast("cpu", torch.bfloat16):
        outputs, gradients = run(layer, layer, True, "hiddens cell")
    assert outputs[2].dtype == torch.float32  # the cell adds up over the stream
    for got, expected in zip(outputs + gradients, exact + exact_gradients, strict=True):
        assert (got - expected).norm() < 0.03 * expected.norm()


@pytest.mark.parametrize("kernel_size", [1, 3])
def test_on_a_single_pixel_it_is_an_lstm(kernel_size: int) -> None:
    layer = layer_of(kernel_size=kernel_size)
    lstm = nn.LSTM(IN, CHANNELS).double()
    centre = kernel_size // 2  # all that a padded kernel sees of a single pixel

    def torch_order(gates: Tensor) -> Tensor:
        i, f, o, g = gates.chunk(4)
        return torch.cat([i, f, g, o])

    with torch.no_grad():
        lstm.weight_ih_l0.copy_(torch_order(layer.input_conv.weight[:, :, centre, centre]))
        lstm.weight_hh_l0.copy_(torch_order(layer.hidden_conv.weight[:, :, centre, centre]))
        lstm.bias_ih_l0.copy_(torch_order(layer.gate_bias))
        lstm.bias_hh_l0.zero_()
    inputs = torch.randn(TIME, BATCH, IN, dtype=torch.float64)
    expected, (hidden, cell) = lstm(inputs)
    got, state = layer(inputs[..., None, None])
    torch.testing.assert_close(got[..., 0, 0], expected)
    torch.testing.assert_close([s[..., 0, 0] for s in state], [hidden[0], cell[0]])


def test_a_sequence_in_pieces_is_the_sequence() -> None:
    layer = layer_of()
    inputs = torch.randn(TIME, BATCH, IN, SIZE, SIZE, dtype=torch.float64)
    whole, last = layer(inputs)
    first, state = layer(inputs[:2])
    second, state = layer(inputs[2:], state)
    torch.testing.assert_close(torch.cat([first, second]), whole)
    torch.testing.assert_close(state, last)


@pytest.mark.parametrize("cache_bytes", [1, 2**13, 2**30])
def test_cutting_the_batch_to_the_cache_changes_nothing(
    cache_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    layer = layer_of()
    expected = run(layer, layer, True, "hiddens cell")
    monkeypatch.setattr(convlstm, "CACHE_BYTES", cache_bytes)
    got = run(layer, layer, True, "hiddens cell")
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-14)


def test_the_inputs_are_left_alone() -> None:
    layer = layer_of()
    inputs = torch.randn(TIME, BATCH, IN, SIZE, SIZE, dtype=torch.float64)
    state = tuple(torch.randn(BATCH, CHANNELS, SIZE, SIZE, dtype=torch.float64) for _ in range(2))
    copies = [x.clone() for x in (inputs, *state)]
    hiddens, _ = layer(inputs, state)
    hiddens.sum().backward()
    torch.testing.assert_close([inputs, *state], copies, rtol=0, atol=0)


def test_a_second_backward_is_refused() -> None:
    layer = layer_of()
    hiddens, _ = layer(torch.randn(TIME, BATCH, IN, SIZE, SIZE, dtype=torch.float64))
    loss = hiddens.sum()
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="only once"):
        loss.backward()


def test_autograd_knows_of_all_that_backward_needs() -> None:
    """Else recomputation (`checkpoint_steps`) would free nothing."""
    layer = layer_of()
    kept = []

    def pack(tensor: Tensor) -> Tensor:
        kept.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        layer(torch.randn(TIME, BATCH, IN, SIZE, SIZE, dtype=torch.float64))
    states = (TIME + 1) * BATCH * CHANNELS * SIZE**2
    assert kept.count(states) == 2
    assert kept.count(4 * TIME * BATCH * CHANNELS * SIZE**2) == 1  # the gates


def test_the_last_state_does_not_keep_all_states_alive() -> None:
    inputs = torch.randn(TIME, BATCH, IN, SIZE, SIZE, dtype=torch.float64)
    _, state = layer_of()(inputs)
    for part in state:
        assert part.untyped_storage().nbytes() == part.numel() * part.element_size()


def test_an_even_kernel_is_refused() -> None:
    with pytest.raises(ValueError, match="odd"):
        ConvLSTM(IN, CHANNELS, kernel_size=2)


@pytest.mark.parametrize("segment", [1, 2, 4, 20])
def test_recomputing_in_segments_gives_the_same_loss_and_gradients(segment: int) -> None:
    torch.manual_seed(0)
    model = CLLSTM(CLLSTMConfig(ways=3, image_size=16, width=4, hidden=6)).double()
    images = torch.rand(TIME, BATCH, 1, 16, 16, dtype=torch.float64)
    labels = torch.randint(3, (TIME, BATCH))
    feedback = torch.cat([torch.full_like(labels[:1], -1), labels[:-1]])

    def loss_and_gradients() -> tuple[Tensor, list[Tensor]]:
        loss, _ = model.episode_loss(images, labels, feedback)
        return loss, list(torch.autograd.grad(loss, list(model.parameters())))

    expected = loss_and_gradients()
    model.checkpoint_steps = segment
    torch.testing.assert_close(loss_and_gradients(), expected, rtol=1e-10, atol=1e-12)
