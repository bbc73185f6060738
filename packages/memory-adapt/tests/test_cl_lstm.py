"""CL+LSTM against its equations written out, pixel by pixel, and what its docstrings promise."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from memory_adapt.config import CLLSTMConfig, LabelInjection
from memory_adapt.models.cl_lstm import CLLSTM
from memory_adapt.models.convlstm import ConvLSTM
from memory_adapt.training.staged import encoder_parameters, image_features, start_encoder

WAYS, TIME, BATCH, SIZE, WIDTH = 3, 7, 2, 16, 4
NULL = -1
INJECTIONS: tuple[LabelInjection, ...] = ("first", "every", "lstm")
# Which layers see the label (4 is the LSTM): thesis 2.3.3, Fig. 2.2.
SITES = {"first": [0], "every": [0, 1, 2, 3, 4], "lstm": [4]}
VARIANTS = [
    pytest.param({"label_injection": injection, "skip": skip}, id=f"{injection}-skip-{skip}")
    for injection in INJECTIONS
    for skip in (True, False)
] + [
    pytest.param({"first_width": 2, "gate_norm": True}, id="narrow"),  # as the CPU presets
    pytest.param(
        {"strides": (2, 1, 1, 1), "pools": (True, True, False, True), "gate_norm": True},
        id="strided",
    ),
]


def build(dtype: torch.dtype = torch.float64, **config: object) -> CLLSTM:
    """A network whose weights are far from their initial values, so that every path matters."""
    torch.manual_seed(0)
    small = {"ways": WAYS, "width": WIDTH, "image_size": SIZE, "hidden": 6}
    model = CLLSTM(CLLSTMConfig(**{**small, **config}))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape))
    return model.to(dtype)


def stream(
    dtype: torch.dtype = torch.float64, delay: int = 1, size: int = SIZE
) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    images = torch.rand(TIME, BATCH, 1, size, size, generator=generator, dtype=dtype)
    labels = torch.randint(WAYS, (TIME, BATCH), generator=generator)
    return images, labels, feedback_of(labels, delay)


def feedback_of(labels: Tensor, delay: int = 1) -> Tensor:
    return torch.cat([torch.full_like(labels[:delay], NULL), labels[:-delay]])


def close(a: Tensor, b: Tensor, tolerance: float) -> None:
    torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


# --- the equations, written out ---


def convolve_by_hand(x: Tensor, weight: Tensor, stride: int = 1) -> Tensor:
    """A 3x3 convolution under a border of zeros: every output pixel a sum over nine shifts."""
    height, width = x.shape[2:]
    framed = x.new_zeros(*x.shape[:2], height + 2, width + 2)
    framed[:, :, 1:-1, 1:-1] = x
    total = x.new_zeros(())
    for dy in range(3):
        for dx in range(3):
            shifted = framed[:, :, dy : dy + height : stride, dx : dx + width : stride]
            total = total + torch.einsum("oi,bihw->bohw", weight[:, :, dy, dx], shifted)
    return total


def planes_by_hand(labels: Tensor, size: int) -> Tensor:
    """One plane per class: ones where it is the label (thesis 2.3.3, Label Encoding)."""
    planes = torch.zeros(len(labels), WAYS, size, size, dtype=torch.float64)
    for b, label in enumerate(labels.tolist()):
        if label != NULL:
            planes[b, label] = 1
    return planes


def normalise_by_hand(gates: Tensor, layer: ConvLSTM) -> Tensor:
    assert layer.norm is not None
    groups = []
    for gate in gates.chunk(4, 1):
        mean = gate.mean((1, 2, 3), keepdim=True)
        variance = ((gate - mean) ** 2).mean((1, 2, 3), keepdim=True)
        groups.append((gate - mean) / (variance + 1e-5).sqrt())
    return torch.cat(groups, 1) * layer.norm.weight[:, None, None]


def pool_by_hand(x: Tensor, size: int) -> Tensor:
    """The maxima of size x size windows that cover the whole map, overlapping where they must."""
    windows = [(k * x.shape[-1] // size, -(-(k + 1) * x.shape[-1] // size)) for k in range(size)]
    rows = [[x[..., a:b, c:d].amax((2, 3)) for c, d in windows] for a, b in windows]
    return torch.stack([torch.stack(row, -1) for row in rows], -2)


def run_by_hand(model: CLLSTM, images: Tensor, feedback: Tensor) -> Tensor:
    """Step by step, image by image, Eq. 2.1 to 2.5 and Fig. 2.2."""
    config = model.config
    sites = SITES[config.label_injection]
    states: list[tuple[Tensor, Tensor] | None] = [None] * 4
    lstm_state = None
    logits = []
    for image, label in zip(images, feedback, strict=True):
        x, second = image, None
        for n, layer in enumerate(model.encoder):
            if n in sites:
                x = torch.cat([x, planes_by_hand(label, x.shape[-1])], 1)
            gates = convolve_by_hand(x, layer.input_conv.weight, config.strides[n])
            if config.gate_norm:
                gates = normalise_by_hand(gates, layer)
            gates = gates + layer.gate_bias[:, None, None]
            before = states[n]
            if before is not None:
                gates = gates + convolve_by_hand(before[0], layer.hidden_conv.weight)
            i, f, o, g = gates.chunk(4, 1)
            c = i.sigmoid() * g.tanh()
            if before is not None:
                c = c + f.sigmoid() * before[1]
            h = o.sigmoid() * c.tanh()
            states[n] = (h, c)
            x = h
            if n == 3 and config.skip:
                assert second is not None
                x = x + pool_by_hand(second, x.shape[-1])
            if config.pools[n]:
                x = F.max_pool2d(x, 2)
            if n == 1:
                second = x
        x = x.flatten(1)
        if 4 in sites:
            x = torch.cat([x, planes_by_hand(label, 1).flatten(1)], 1)
        out, lstm_state = model.lstm(x[None], lstm_state)
        logits.append(model.classifier(out[0]))
    return torch.stack(logits)


@torch.no_grad()
@pytest.mark.parametrize("config", VARIANTS)
def test_the_network_is_its_equations(config: dict[str, object]) -> None:
    """Label planes are concatenated channels, border pixels included; so is everything else."""
    model = build(**config)
    images, _, feedback = stream()
    close(model(images, feedback)[0], run_by_hand(model, images, feedback), 1e-10)


@torch.no_grad()
def test_the_network_of_the_thesis_is_its_equations() -> None:
    """28 -> 14 -> 7 -> 3: the residual from layer 2 (7 x 7 after pooling) meets a 3 x 3 map."""
    model = build(image_size=28)
    images, _, feedback = stream(size=28)
    close(model(images, feedback)[0], run_by_hand(model, images, feedback), 1e-10)


@torch.no_grad()
def test_at_a_border_a_label_plane_is_less_than_inside() -> None:
    """Zero padding cuts the plane of ones: a label is no bias of the channel."""
    layer = build(label_injection="first").encoder[0]
    blank = torch.zeros(1, 1, SIZE, SIZE, dtype=torch.float64)
    null = torch.zeros(1, WAYS, SIZE, SIZE, dtype=torch.float64)
    for c in range(WAYS):
        plane = planes_by_hand(torch.tensor([c]), SIZE)
        gates = layer.input_gates(torch.cat([blank, plane], 1))
        label_part = (gates - layer.input_gates(torch.cat([blank, null], 1)))[0]
        taps = layer.input_conv.weight[:, 1 + c]  # (gates, 3, 3)
        close(label_part[:, 5, 5], taps.sum((1, 2)), 1e-12)
        close(label_part[:, 0, 5], taps[:, 1:].sum((1, 2)), 1e-12)  # top row
        close(label_part[:, 5, -1], taps[:, :, :2].sum((1, 2)), 1e-12)  # right column
        close(label_part[:, 0, 0], taps[:, 1:, 1:].sum((1, 2)), 1e-12)
        close(label_part[:, -1, 0], taps[:, :2, 1:].sum((1, 2)), 1e-12)


# --- where labels go ---


def label_weights(model: CLLSTM) -> dict[int, Tensor]:
    """The weights that read a label, by site; found by their size, not by the configuration."""
    found: dict[int, Tensor] = {}
    inputs = [model.config.image_channels, *(layer.channels for layer in model.layers)]
    for n, (layer, channels) in enumerate(zip(model.layers, inputs[:-1], strict=True)):
        if layer.input_conv.in_channels > channels:
            found[n] = layer.input_conv.weight[:, channels:]
    if model.lstm.input_size > model.features:
        found[4] = model.lstm.weight_ih_l0[:, model.features :]
    return found


@torch.no_grad()
@pytest.mark.parametrize("injection", INJECTIONS)
def test_a_null_label_adds_nothing(injection: LabelInjection) -> None:
    model = build(label_injection=injection)
    images, _, feedback = stream()
    null = torch.full_like(feedback, NULL)
    logits, state = model(images, null)
    for weight in label_weights(model).values():
        assert weight.shape[1] == WAYS
        weight.zero_()
    without, after = model(images, null)
    assert torch.equal(logits, without)
    assert all(torch.equal(state[name], after[name]) for name in state)
    close(model(images, feedback)[0], without, 1e-12)  # and those were all the labels' weights


@torch.no_grad()
@pytest.mark.parametrize("injection", INJECTIONS)
def test_labels_enter_the_layers_that_the_injection_names_and_no_other(
    injection: LabelInjection,
) -> None:
    """With the other sites silent, a label changes its own layer and what follows, nothing before."""
    images, _, feedback = stream()
    other = torch.where(feedback == NULL, NULL, (feedback + 1) % WAYS)
    assert list(label_weights(build(label_injection=injection))) == SITES[injection]
    for site in SITES[injection]:
        model = build(label_injection=injection)
        for n, weight in label_weights(model).items():
            if n != site:
                weight.zero_()
        changed = [
            [not torch.allclose(a[t], b[t], atol=1e-9) for t in range(TIME)]
            for a, b in zip(
                layer_outputs(model, images, feedback),
                layer_outputs(model, images, other),
                strict=True,
            )
        ]
        for n, steps in enumerate(changed):
            # From the step on at which the first label arrives: at the first there is none.
            expected = [False] + [True] * (TIME - 1) if n >= site else [False] * TIME
            assert steps == expected, f"layer {n + 1}, label at {site + 1}"


def layer_outputs(model: CLLSTM, images: Tensor, feedback: Tensor) -> list[Tensor]:
    """What each ConvLSTM, and the LSTM, returns."""
    outputs: list[Tensor] = []
    hooks = [
        layer.register_forward_hook(lambda _module, _inputs, out: outputs.append(out[0].clone()))
        for layer in (*model.encoder, model.lstm)
    ]
    model(images, feedback)
    for hook in hooks:
        hook.remove()
    return outputs


# --- the residual connection ---


@torch.no_grad()
def test_layer_2_is_added_to_layer_4() -> None:
    """With layers 3 and 4 silent, the features are layer 2's, pooled to the same size."""
    images, _, feedback = stream()
    model = build()
    silence(model.encoder[2:])
    features, _ = model.encode(images, feedback)
    second = layer_outputs(model, images, feedback)[1].flatten(0, 1)
    pooled = F.max_pool2d(F.max_pool2d(F.max_pool2d(second, 2), 2), 2)
    assert torch.equal(features.flatten(0, 1), pooled.flatten(1))
    without = build(skip=False)
    without.load_state_dict(model.state_dict())
    assert not without.encode(images, feedback)[0].any()


@pytest.mark.parametrize("skip", [True, False])
def test_the_residual_carries_a_gradient_past_layers_3_and_4(skip: bool) -> None:
    model = build(skip=skip)
    silence(model.encoder[2:])
    images, labels, feedback = stream()
    model.episode_loss(images, labels, feedback)[0].backward()
    for layer in model.encoder[:2]:
        for parameter in layer.parameters():
            assert parameter.grad is not None
            assert parameter.grad.any().item() is skip


def silence(layers: Iterator[ConvLSTM]) -> None:
    """A ConvLSTM of zeros puts out zeros: sigmoid(0) tanh(0)."""
    with torch.no_grad():
        for layer in layers:
            for parameter in layer.parameters():
                parameter.zero_()


# --- streams ---


@pytest.mark.parametrize("config", VARIANTS)
def test_streaming_steps_give_the_gradients_of_the_whole_stream(config: dict[str, object]) -> None:
    model = build(**config)
    images, labels, feedback = stream()
    model.episode_loss(images, labels, feedback)[0].backward()
    whole = gradients_of(model)
    state, logits = model.initial_state(BATCH), []
    for image, label in zip(images, feedback, strict=True):
        out, state = model.step(image, label, state)
        logits.append(out)
    F.cross_entropy(torch.cat(logits), labels.flatten()).backward()
    for name, gradient in gradients_of(model).items():
        assert gradient.any(), name
        close(gradient, whole[name], 1e-10)


@pytest.mark.parametrize("steps", [1, 3, TIME, 100])
@pytest.mark.parametrize("config", [VARIANTS[2], VARIANTS[-1]])
def test_recomputing_segments_changes_no_number(steps: int, config: dict[str, object]) -> None:
    model = build(**config)
    images, labels, feedback = stream()
    loss, logits = model.episode_loss(images, labels, feedback)
    loss.backward()
    plain = gradients_of(model)
    model.checkpoint_steps = steps
    loss, again = model.episode_loss(images, labels, feedback)
    loss.backward()
    close(again, logits, 1e-12)
    for name, gradient in gradients_of(model).items():
        close(gradient, plain[name], 1e-10)


def gradients_of(model: CLLSTM) -> dict[str, Tensor]:
    """Takes the gradients away from the parameters."""
    gradients = {}
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        gradients[name] = parameter.grad
        parameter.grad = None
    return gradients


# --- the start of the staged recipe ---


@torch.no_grad()
@pytest.mark.parametrize("config", VARIANTS)
def test_image_features_see_each_image_from_the_zero_state_without_a_label(
    config: dict[str, object],
) -> None:
    model = build(**config)
    images, _, feedback = stream()
    features = image_features(model, images)
    for t in range(TIME):
        alone, _ = model.encode(images[t : t + 1], torch.full_like(feedback[:1], NULL))
        close(features[t], alone[0], 1e-12)


@torch.no_grad()
@pytest.mark.parametrize("config", VARIANTS)
def test_starting_the_encoder_silences_labels_and_hidden_states(config: dict[str, object]) -> None:
    model = build(**config)
    start_encoder(model)
    images, _, feedback = stream()
    features, _ = model.encode(images, feedback)
    relabelled, _ = model.encode(images, torch.randint(WAYS, feedback.shape))
    assert torch.equal(features, relabelled)
    _, state = model.encode(images, feedback)
    other_hidden = {n: torch.rand_like(s) if "hidden" in n else s for n, s in state.items()}
    continued, _ = model.encode(images, feedback, state)
    assert torch.equal(continued, model.encode(images, feedback, other_hidden)[0])
    assert torch.equal(features[0], image_features(model, images)[0])


@torch.no_grad()
@pytest.mark.parametrize("config", VARIANTS)
def test_starting_the_encoder_leaves_a_cell_that_forgets_fast(config: dict[str, object]) -> None:
    """Cells still carry over: features are `image_features` at every step only if nothing of them
    is kept, and near them as it is (a share of about sigmoid(-2) = 0.12 a step)."""
    model = build(**config)
    start_encoder(model)
    images, _, feedback = stream()
    features, _ = model.encode(images, feedback)
    alone = image_features(model, images)
    assert not torch.allclose(features[1:], alone[1:], atol=1e-4)
    for layer in model.encoder:
        input_bias, forget_bias, *_ = layer.gate_bias.chunk(4)
        assert (input_bias == 1).all()
        assert (forget_bias == -2).all()
        forget_bias.fill_(-1000.0)  # forget all
    assert torch.equal(model.encode(images, feedback)[0], alone)


@torch.no_grad()
def test_starting_the_encoder_fades_what_it_saw() -> None:
    """The same image over and over after different pasts: the past shrinks at every step."""
    torch.manual_seed(0)
    model = CLLSTM(CLLSTMConfig(ways=WAYS, width=WIDTH, image_size=SIZE, hidden=6)).double()
    start_encoder(model)
    images, _, feedback = stream()
    same = images[:1].expand_as(images)
    pasts = [model.encode(past, feedback)[1] for past in (images, 1 - images)]
    a, b = (model.encode(same, feedback, past)[0] for past in pasts)
    gap = (a - b).abs().amax((1, 2))
    assert (gap[1:] < 0.5 * gap[:-1]).all()
    assert gap[-1] < 1e-3 * gap[0]


def test_encoder_parameters_are_those_that_image_features_depend_on() -> None:
    model = build()
    images, _, _ = stream()
    image_features(model, images).square().sum().backward()
    moved = {p for p in model.parameters() if p.grad is not None and p.grad.any()}
    assert moved == set(encoder_parameters(model))


# --- the thesis' size ---


def test_parameter_count_of_the_thesis() -> None:
    """Four ConvLSTMs of 64 channels, LSTM 400, 5 ways, labels everywhere (A.1.4)."""
    with torch.device("meta"):
        model = CLLSTM(CLLSTMConfig())
    gates = 4 * 64
    layers = sum(gates * (9 * (inputs + 5) + 9 * 64 + 1) for inputs in (1, 64, 64, 64))
    lstm = 4 * 400 * ((64 + 5) + 400 + 2)  # torch.nn.LSTM has two biases
    assert sum(p.numel() for p in model.parameters()) == layers + lstm + 5 * (400 + 1)


@pytest.mark.parametrize(("injection", "gflops"), [("first", 0.40), ("every", 0.41)])
def test_floating_point_operations_of_the_thesis(injection: LabelInjection, gflops: float) -> None:
    """0.40 GFLOPs per forward pass (2.4.2), two for each multiply-add; a profiler's count."""
    model = CLLSTM(CLLSTMConfig(label_injection=injection))
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model.step(torch.rand(1, 1, 28, 28), torch.tensor([1]), model.initial_state(1))
    assert counter.get_total_flops() / 1e9 == pytest.approx(gflops, abs=0.004)


def test_images_too_small_to_pool_are_refused() -> None:
    with pytest.raises(ValueError, match="8 pixels are too few for pooling"):
        CLLSTM(CLLSTMConfig(image_size=8))
